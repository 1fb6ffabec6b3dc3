"""A chat server with a tool, on Anthropic's SDK.

    pip install anthropic
    python examples/anthropic_messages.py 8000
    curl --data 'Where is order 17?' http://127.0.0.1:8000/ada

Without ANTHROPIC_API_KEY in the environment, `fake_provider.py` answers.
"""

from threading import Lock
from typing import Any

import fake_provider  # noqa: F401  # the fake: delete this line
from anthropic import Anthropic
from chat_http import serve
from chatring.stores import open_store

LIMIT = 8000  # tokens of a request
SYSTEM = {"role": "system", "content": "You are the support of a shop."}
NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
TOOL, CACHE = {"name": "find_order", "input_schema": NUMBER}, {"type": "ephemeral"}
REQUEST: Any = {"model": "claude-sonnet-5-5", "max_tokens": 4000, "tools": [TOOL], "cache_control": CACHE}
client, store = Anthropic(), open_store("sqlite:///anthropic-messages.db")
locks: dict[str, Lock] = {}  # of each session; for several processes see docs/sdks.md
extra: dict[str, int] = {}  # tokens that a session was billed beyond its window: the tools, the count's own error


def find_order(number: int) -> str:
    """Return where an order is."""
    return f"Order {number} has left the warehouse."


def run(call: Any) -> dict[str, Any]:
    """Return the result of a call. An error is one too: the model reads it."""
    try:
        content = {"find_order": find_order}[call.name](**call.input)
    except Exception as error:
        content = f"error: {error!r}"
    return {"type": "tool_result", "tool_use_id": call.id, "content": content}


def answer(session: str, text: str) -> str:
    """Return the answer to what the user of a session says."""
    question = {"role": "user", "content": text}
    with locks.setdefault(session, Lock()):  # one turn of a session after the other
        store.set_head(session, [SYSTEM])
        store.append(session, [question])
        try:
            for _ in range(10):
                window = store.window(session, LIMIT, min(extra.get(session, 0), LIMIT // 2), retention_ratio=0.7)
                message = client.messages.create(system=window[0]["content"], messages=window[window.head :], **REQUEST)
                usage = message.usage
                cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
                extra[session] = max(extra.get(session, 0), usage.input_tokens + cached - window.tokens)
                if message.stop_reason not in ("end_turn", "tool_use") or not message.content:
                    raise RuntimeError(f"no answer: {message.stop_reason}")  # would be refused the next time
                reply = message.model_dump(include={"role", "content"}, exclude_none=True)
                results = [run(block) for block in message.content if block.type == "tool_use"]
                # A call and its results are one append: a process that is killed leaves both or none.
                store.append(session, [reply, {"role": "user", "content": results}] if results else [reply])
                if not results:
                    return "".join(block.text for block in message.content if block.type == "text")
            raise RuntimeError("no answer after ten model calls")
        except Exception:
            # A provider that refuses it would refuse what follows.
            store.update(session, -1, lambda last: [] if last == [question] else last)
            raise


serve(answer)
