"""A chat server with a tool, on Google's SDK for Gemini.

    pip install google-genai
    python examples/google_genai.py 8000
    curl --data 'Where is order 17?' http://127.0.0.1:8000/ada

Without GEMINI_API_KEY in the environment, `fake_provider.py` answers.
"""

from threading import Lock
from typing import Any

import fake_provider  # noqa: F401  # the fake: delete this line
from chat_http import serve
from chatring.stores import open_store
from google.genai import Client

LIMIT = 8000  # tokens of a request
SYSTEM = {"role": "system", "content": "You are the support of a shop."}
NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
TOOLS = [{"function_declarations": [{"name": "find_order", "parameters_json_schema": NUMBER}]}]
client: Any = Client()
store = open_store("sqlite:///google-genai.db")
locks: dict[str, Lock] = {}  # of each session; for several processes see docs/sdks.md
extra: dict[str, int] = {}  # tokens that a session was billed beyond its window: the tools, the count's own error


def find_order(number: int) -> str:
    """Return where an order is."""
    return f"Order {number} has left the warehouse."


def run(call: Any) -> dict[str, Any]:
    """Return the result of a call. An error is one too: the model reads it."""
    try:
        content = {"find_order": find_order}[call.name](**call.args)
    except Exception as error:
        content = f"error: {error!r}"
    return {"function_response": {"name": call.name, "response": {"result": content}}}


def answer(session: str, text: str) -> str:
    """Return the answer to what the user of a session says."""
    question = {"role": "user", "parts": [{"text": text}]}
    with locks.setdefault(session, Lock()):  # one turn of a session after the other
        store.set_head(session, [SYSTEM])
        store.append(session, [question])
        try:
            for _ in range(10):
                window = store.window(session, LIMIT, min(extra.get(session, 0), LIMIT // 2), retention_ratio=0.7)
                config, contents = {"system_instruction": window[0]["content"], "tools": TOOLS}, window[window.head :]
                response = client.models.generate_content(model="gemini-3.8-flash", contents=contents, config=config)
                extra[session] = max(extra.get(session, 0), response.usage_metadata.prompt_token_count - window.tokens)
                if not response.parts:  # would be refused the next time
                    raise RuntimeError(f"no answer: {response.prompt_feedback or response.candidates}")
                reply = response.candidates[0].content.model_dump(mode="json", exclude_none=True)
                results = [run(call) for call in response.function_calls or ()]
                # A call and its results are one append: a process that is killed leaves both or none.
                store.append(session, [reply, {"role": "user", "parts": results}] if results else [reply])
                if not results:
                    return str(response.text or "")
            raise RuntimeError("no answer after ten model calls")
        except Exception:
            # A provider that refuses it would refuse what follows.
            store.update(session, -1, lambda last: [] if last == [question] else last)
            raise


serve(answer)
