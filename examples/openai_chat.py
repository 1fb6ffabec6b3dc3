"""A chat server with a tool, on OpenAI's SDK and chat completions.

    pip install openai
    python examples/openai_chat.py 8000
    curl --data 'Where is order 17?' http://127.0.0.1:8000/ada

Without OPENAI_API_KEY in the environment, `fake_provider.py` answers.
"""

import json
from threading import Lock
from typing import Any

import fake_provider  # noqa: F401  # the fake: delete this line
from chat_http import serve
from chatring.stores import open_store
from openai import OpenAI

LIMIT = 8000  # tokens of a request
SYSTEM = {"role": "system", "content": "You are the support of a shop."}
NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
TOOL: Any = {"type": "function", "function": {"name": "find_order", "parameters": NUMBER}}
client, store = OpenAI(), open_store("sqlite:///openai-chat.db")
locks: dict[str, Lock] = {}  # of each session; for several processes see docs/sdks.md
extra: dict[str, int] = {}  # tokens that a session was billed beyond its window: the tools, the count's own error


def find_order(number: int) -> str:
    """Return where an order is."""
    return f"Order {number} has left the warehouse."


def run(call: Any) -> dict[str, Any]:
    """Return the result of a call. An error is one too: the model reads it."""
    try:
        content = {"find_order": find_order}[call.function.name](**json.loads(call.function.arguments))
    except Exception as error:
        content = f"error: {error!r}"
    return {"role": "tool", "tool_call_id": call.id, "content": content}


def answer(session: str, text: str) -> str:
    """Return the answer to what the user of a session says."""
    question = {"role": "user", "content": text}
    with locks.setdefault(session, Lock()):  # one turn of a session after the other
        store.set_head(session, [SYSTEM])
        store.append(session, [question])
        try:
            for _ in range(10):
                window = store.window(session, LIMIT, min(extra.get(session, 0), LIMIT // 2), retention_ratio=0.7)
                response = client.chat.completions.create(model="gpt-5.5", messages=window, tools=[TOOL])
                billed = response.usage.prompt_tokens if response.usage else 0
                extra[session] = max(extra.get(session, 0), billed - window.tokens)
                message = response.choices[0].message
                if not (message.content or message.tool_calls):  # would be refused the next time
                    raise RuntimeError(f"no answer: {message.refusal or response.choices[0].finish_reason}")
                results = [run(call) for call in message.tool_calls or ()]
                # A call and its results are one append: a process that is killed leaves both or none.
                store.append(session, [message.model_dump(exclude_none=True), *results])
                if not results:
                    return str(message.content)
            raise RuntimeError("no answer after ten model calls")
        except Exception:
            # A provider that refuses it would refuse what follows.
            store.update(session, -1, lambda last: [] if last == [question] else last)
            raise


serve(answer)
