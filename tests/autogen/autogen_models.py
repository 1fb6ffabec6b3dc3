"""AutoGen's client of OpenAI, over a transport that says what a script tells it, and refuses what OpenAI refuses."""

import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

from autogen_agentchat.agents import AssistantAgent
from autogen_core.model_context import ChatCompletionContext
from autogen_ext.models.openai import OpenAIChatCompletionClient
from chatring import MessageRing
from providers import validate_openai_chat

# What openai uses since its version 3, and before.
httpx: Any = import_module("httpx2" if find_spec("httpx2") else "httpx")

MODEL = "gpt-4o-2024-08-06"
PROMPT = "You are the support of a shop."

Message: TypeAlias = dict[str, Any]
Script: TypeAlias = Callable[[list[Message]], Message]


class ScriptedOpenAI:
    """Answers with the message that `script` returns of a request's messages. `requests` are those it accepted."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[list[Message]] = []

    def client(self) -> OpenAIChatCompletionClient:
        http_client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        options: Any = {"http_client": http_client}
        return OpenAIChatCompletionClient(model=MODEL, api_key="none", max_retries=0, **options)

    def _answer(self, request: Any) -> Any:
        messages = json.loads(request.content)["messages"]
        validate_openai_chat(messages)
        self.requests.append(messages)
        message = self.script(messages)
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        body = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [{"index": 0, "finish_reason": reason, "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        return httpx.Response(200, json=body)


class Numbers:
    """Ids that nothing else has."""

    last = 0

    @classmethod
    def next(cls) -> str:
        cls.last += 1
        return f"call_{cls.last}"


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def called(*calls: tuple[str, dict[str, Any]], thought: str | None = None) -> Message:
    tool_calls = [
        {"id": Numbers.next(), "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for name, arguments in calls
    ]
    return {"role": "assistant", "content": thought, "tool_calls": tool_calls}


async def find_order(number: int) -> str:
    """Find an order."""
    return f"Order {number} left the warehouse this morning. " * 5


def turns(count: int, thought: str | None = None) -> Script:
    """Return a script that looks for orders, one or two a turn, and answers in the last of so many turns."""
    done = 0

    def script(messages: list[Message]) -> Message:
        nonlocal done
        done += 1
        if done % count == 0:
            return said("They left.")
        return called(*[("find_order", {"number": done})] * (1 + done % 2), thought=thought)

    return script


def agent_of(
    model: ScriptedOpenAI, context: ChatCompletionContext, name: str = "support", **options: Any
) -> AssistantAgent:
    options = {"tools": [find_order], "max_tool_iterations": 50, **options}
    client = model.client()
    return AssistantAgent(name, client, model_context=context, system_message=PROMPT, **options)


def questions(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]


def tokens_of(messages: list[Message]) -> int:
    """Return what messages cost, counted one by one as they are sent."""
    return sum(map(MessageRing[Any]().count, messages))
