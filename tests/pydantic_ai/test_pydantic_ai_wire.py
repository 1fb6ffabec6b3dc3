"""What Pydantic AI and the providers' own clients send, to a transport that answers here: it passes the validators."""

import asyncio
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_ai.messages", reason="Pydantic AI is not installed: pip install pydantic-ai-slim")
pytest.importorskip("openai", reason="OpenAI's client is not installed")
pytest.importorskip("anthropic", reason="Anthropic's client is not installed")
pytest.importorskip("httpx2", reason="the clients are older than their httpx2")

import httpx2 as httpx
from anthropic import AsyncAnthropic
from chatring.pydantic_ai import ModelMessageFormat, StoredHistory, TrimMessages
from chatring.stores import open_store
from openai import AsyncOpenAI
from providers import validate_anthropic, validate_mistral, validate_openai_chat, validate_openai_responses
from pydantic import BaseModel
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai_agents import INSTRUCTIONS, SYSTEM, make_agent

LIMIT = 600
STEPS = 4

# What each answers: calls with these ids, or a text if there are none.


def chat_reply(ids: list[str], name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": '{"number": 1}'}
    calls = [{"id": each, "type": "function", "function": function} for each in ids]
    message = {"role": "assistant", "content": None if ids else "It is on its way.", "tool_calls": calls or None}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if ids else "stop"}
    return {"id": "r", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}


def responses_reply(ids: list[str], name: str) -> dict[str, Any]:
    text = {"type": "output_text", "text": "It is on its way.", "annotations": []}
    call = {"type": "function_call", "name": name, "arguments": '{"number": 1}', "status": "completed"}
    output: list[dict[str, Any]] = [{"type": "reasoning", "id": f"rs_{ids}", "summary": [], "encrypted_content": "x"}]
    output += [{**call, "id": f"fc_{each}", "call_id": each} for each in ids]
    if not ids:
        output.append({"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]})
    made = {"id": "r", "object": "response", "created_at": 1, "model": "gpt-5", "output": output}
    return {**made, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "status": "completed"}


def anthropic_reply(ids: list[str], name: str) -> dict[str, Any]:
    calls: list[dict[str, Any]] = [
        {"type": "tool_use", "id": each, "name": name, "input": {"number": 1}} for each in ids
    ]
    content = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, *calls]
    content += [] if ids else [{"type": "text", "text": "It is on its way."}]
    usage = {"input_tokens": 1, "output_tokens": 1}
    made = {"id": "m", "type": "message", "role": "assistant", "model": "claude-test", "usage": usage}
    return {**made, "content": content, "stop_reason": "tool_use" if ids else "end_turn", "stop_sequence": None}


class Provider:
    """A provider behind a client's transport: answers each question after some steps, and keeps what it was sent."""

    def __init__(self, reply: Callable[[list[str], str], dict[str, Any]]) -> None:
        self.sent: list[dict[str, Any]] = []
        self.calls = 0
        self.step = 0
        self.last = ""  # the tool that a run ends with, if its output is structured
        self._reply = reply
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: Any) -> Any:
        self.sent.append(json.loads(request.content))
        self.step += 1
        is_last = self.step > STEPS
        count = (1 if self.last else 0) if is_last else 2
        ids = [f"c{self.calls + number:08}" for number in range(count)]
        self.calls += count
        return httpx.Response(200, json=self._reply(ids, self.last if is_last else "find_order"))


def openai_chat(provider: Provider) -> Any:
    client = AsyncOpenAI(api_key="none", http_client=provider.client)
    return OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client))


def openai_responses(provider: Provider) -> Any:
    client = AsyncOpenAI(api_key="none", http_client=provider.client)
    return OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(openai_client=client))


def anthropic(provider: Provider) -> Any:
    client = AsyncAnthropic(api_key="none", http_client=provider.client)
    return AnthropicModel("claude-test", provider=AnthropicProvider(anthropic_client=client))


def check_chat(sent: dict[str, Any], asked: str) -> None:
    validate_openai_chat(sent["messages"])
    if importlib.util.find_spec("mistral_common"):  # Mistral's own validator
        validate_mistral([{"content": "", **message} for message in sent["messages"]])
    head = [message["content"] for message in sent["messages"] if message["role"] == "system"]
    assert sorted(head) == sorted([SYSTEM, INSTRUCTIONS])
    assert asked in str([message for message in sent["messages"] if message["role"] == "user"])
    assert sent["messages"][len(head)]["role"] == "user"


def check_responses(sent: dict[str, Any], asked: str) -> None:
    validate_openai_responses(sent["input"])
    assert (sent["instructions"], sent["input"][0]["content"]) == (INSTRUCTIONS, SYSTEM)
    assert sent["input"][1]["role"] == "user"
    assert asked in str([item for item in sent["input"] if item.get("role") == "user"])


def check_anthropic(sent: dict[str, Any], asked: str) -> None:
    validate_anthropic(sent["messages"])
    assert SYSTEM in str(sent["system"])
    assert INSTRUCTIONS in str(sent["system"])
    assert asked in str([message for message in sent["messages"] if message["role"] == "user"])


PROVIDERS = {
    "openai-chat": (chat_reply, openai_chat, check_chat),
    "openai-responses": (responses_reply, openai_responses, check_responses),
    "anthropic": (anthropic_reply, anthropic, check_anthropic),
}


class Answer(BaseModel):
    """The answer."""

    number: int


@pytest.mark.parametrize("output", [str, Answer])
@pytest.mark.parametrize("name", PROVIDERS)
def test_every_request_is_accepted(name: str, output: type[Any], tmp_path: Path) -> None:
    reply, model, check = PROVIDERS[name]
    provider = Provider(reply)
    provider.last = "" if output is str else "final_result"
    store = open_store(f"sqlite:///{tmp_path}/chat.db?synchronous=OFF", format=ModelMessageFormat())
    capabilities = [StoredHistory(store, LIMIT), TrimMessages(LIMIT, retention_ratio=0.7)]
    agent = make_agent(model(provider), *capabilities, output_type=output)

    async def run() -> None:
        for number in range(5):
            provider.step = 0
            provider.sent.clear()
            asked = f"Where is my order number {number}?"
            await agent.run(asked, conversation_id="ada")
            assert len(provider.sent) == STEPS + 1
            for sent in provider.sent:
                check(sent, asked)

    asyncio.run(run())
    store.close()
    assert "number 0?" not in json.dumps(provider.sent)  # it is beyond the limit
