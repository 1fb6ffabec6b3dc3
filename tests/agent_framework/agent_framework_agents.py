"""Agents over OpenAI's real clients, with a transport that is a model told what to do and refuses what OpenAI refuses.

A question is `steps=n, ...`: the model answers it after n steps with two calls each.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from agent_framework import Agent, Message
from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient
from chatring import MessageRing
from chatring.agent_framework.step import answers_of, calls_of
from openai import AsyncOpenAI
from providers import validate_openai_chat, validate_openai_responses

try:
    import httpx2 as httpx
except ImportError:  # before openai 3
    import httpx  # type: ignore[no-redef]

Sent: TypeAlias = dict[str, Any]

INSTRUCTIONS = "You are the support of a shop. Answer in one sentence."
FOUND = "It left the warehouse on Monday, and the next day it was in the depot. " * 2

_IDS = itertools.count()
_RING: MessageRing[Any] = MessageRing()
BESIDE = _RING.count({"role": "system", "content": INSTRUCTIONS})


def question(number: int, steps: int = 2) -> str:
    return f"steps={steps}, where is my order number {number}?"


def answer(asked: str, last_call: int | None) -> list[int] | str:
    """Return what the model says: the numbers of two calls, as long as the question asks for more steps."""
    steps = re.match(r"steps=(\d+)", asked)
    done = 0 if last_call is None else last_call // 2 + 1
    if steps is None or done >= int(steps[1]):
        return f"Answer to: {asked}"
    return [2 * done, 2 * done + 1]


class Model:
    """Answers requests of OpenAI's chat completions and Responses; `requests` has the messages or items of each."""

    def __init__(self, says: Callable[[str, int | None], list[int] | str] = answer) -> None:
        self.says = says
        self.requests: list[list[Sent]] = []

    @property
    def chat(self) -> Any:
        return OpenAIChatCompletionClient(model="gpt-4o", async_client=self._client())

    @property
    def responses(self) -> Any:
        return OpenAIChatClient(model="gpt-4o", async_client=self._client())

    def _client(self) -> AsyncOpenAI:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._respond))
        return AsyncOpenAI(api_key="none", http_client=http, max_retries=0)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        is_chat = request.url.path.endswith("/chat/completions")
        sent = body["messages"] if is_chat else body["input"]
        self.requests.append(sent)
        (validate_openai_chat if is_chat else validate_openai_responses)(sent)
        instructions = body["instructions"] if "instructions" in body else text_of(sent[0]["content"])
        assert instructions == INSTRUCTIONS
        asked = questions(sent)[-1]
        behind = sent[max(place for place, each in enumerate(sent) if each.get("role") == "user") :]
        calls = [int(json.loads(call["arguments"])["number"]) for each in behind for call in _calls(each)]
        said = self.says(asked, calls[-1] if calls else None)
        number = next(_IDS)
        if not is_chat:
            return httpx.Response(200, json=_response(number, said))
        if body.get("stream"):
            return httpx.Response(200, text=_stream(number, said), headers={"content-type": "text/event-stream"})
        return httpx.Response(200, json=_completion(number, said))


def _calls(sent: Sent) -> list[Sent]:
    if sent.get("type") == "function_call":
        return [sent]
    return [call["function"] for call in sent.get("tool_calls", ())]


def _tool_calls(number: int, said: list[int]) -> list[Sent]:
    return [
        {
            "id": f"call_{number}_{each}",
            "type": "function",
            "function": {"name": "find_order", "arguments": json.dumps({"number": each})},
        }
        for each in said
    ]


def _completion(number: int, said: list[int] | str) -> Sent:
    message: Sent = {"role": "assistant", "content": said if isinstance(said, str) else None}
    if not isinstance(said, str):
        message["tool_calls"] = _tool_calls(number, said)
    choice = {"index": 0, "message": message, "finish_reason": "stop" if isinstance(said, str) else "tool_calls"}
    return {"id": f"c{number}", "object": "chat.completion", "created": 0, "model": "gpt-4o", "choices": [choice]}


def _stream(number: int, said: list[int] | str) -> str:
    deltas: list[Sent]
    if isinstance(said, str):
        deltas = [{"content": f"{word} "} for word in said.split(" ")]
    else:
        deltas = [{"tool_calls": [{**call, "index": index}]} for index, call in enumerate(_tool_calls(number, said))]
    chunk = {"id": f"c{number}", "object": "chat.completion.chunk", "created": 0, "model": "gpt-4o"}
    chunks = [
        {**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}]}
        for delta in deltas
    ]
    return "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"


def _response(number: int, said: list[int] | str) -> Sent:
    if isinstance(said, str):
        part = {"type": "output_text", "text": said, "annotations": []}
        output: list[Sent] = [
            {"id": f"m{number}", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        ]
    else:
        summary = [{"type": "summary_text", "text": "I had better look."}]
        output = [{"id": f"r{number}", "type": "reasoning", "summary": summary, "encrypted_content": "x"}]
        output += [
            {
                "id": f"f{number}_{each}",
                "type": "function_call",
                "call_id": f"call_{number}_{each}",
                "name": "find_order",
                "arguments": json.dumps({"number": each}),
                "status": "completed",
            }
            for each in said
        ]
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 0,
        "model": "gpt-4o",
        "status": "completed",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def find_order(number: int) -> str:
    """Find an order."""
    return f"{number}: {FOUND}"


def make_agent(client: Any, *providers: Any, tools: Any = find_order, **options: Any) -> Agent[Any]:
    """Return an agent with instructions and a tool, whose history the provider does not keep."""
    return Agent(
        client,
        INSTRUCTIONS,
        tools=tools,
        context_providers=list(providers),
        default_options={"store": False},
        **options,
    )


async def run(agent: Agent[Any], messages: Any, session_id: str | None = None) -> Any:
    """Run the agent, with a session of its own as a server has it."""
    return await agent.run(messages, session=agent.create_session(session_id=session_id))


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def questions(sent: Sequence[Sent]) -> list[str]:
    return [text_of(each["content"]) for each in sent if each.get("role") == "user"]


def tokens(sent: Sequence[Sent]) -> int:
    """Return the tokens of a request."""
    return sum(map(_RING.count, sent))


def check_request(sent: Sequence[Sent], asked: str, limit: int) -> None:
    """The transport has checked that OpenAI takes it, and the instructions."""
    assert questions(sent)[-1] == asked
    assert tokens(sent) <= limit


def check_session(messages: Sequence[Message]) -> None:
    """Each call is followed by its results, and nothing is there that another request is about."""
    waiting: Counter[str] = Counter()
    for message in messages:
        answers = answers_of(message)
        assert answers <= waiting, "result without its call"
        assert answers or not waiting, "call without its result"
        waiting = waiting - answers + calls_of(message)
        assert not [key for key in message.additional_properties if key in ("_excluded", "_group", "_exclude_reason")]
        assert all("approval" not in content.type for content in message.contents)
    assert not waiting


def asked_in(messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages if message.role == "user"]
