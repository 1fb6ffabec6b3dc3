"""A chat model that calls a tool so many times before it answers, and what providers say to its requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

from chatring import MessageRing
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from providers import validate_anthropic, validate_openai_chat
from pydantic import Field, PrivateAttr

PROMPT = "You are the support of a shop."
RING: MessageRing[Any] = MessageRing()


@tool
def find_order(number: int) -> str:
    """Find an order by its number."""
    return f"Order {number} left the warehouse. " * 5


def fail_after_a_tool(messages: list[BaseMessage]) -> None:
    """For `before_call`: fail when a result is sent."""
    if messages[-1].type == "tool":
        raise ConnectionError("no route to the provider")


class ScriptedModel(BaseChatModel):
    """Calls `find_order` in `steps` requests after each question, `parallel` times in each, and then answers.

    `requests` has what was sent. `before_call` is called at each request, with what is sent.
    """

    steps: int = 0
    parallel: int = 1
    requests: list[list[BaseMessage]] = Field(default_factory=list)
    before_call: Callable[[list[BaseMessage]], None] | None = None
    _ids: int = PrivateAttr(0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.before_call is not None:
            self.before_call(messages)
        with self._lock:
            self.requests.append(list(messages))
            self._ids += 1
            number = self._ids
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, number))])

    def _reply(self, messages: list[BaseMessage], number: int) -> AIMessage:
        question = max(i for i, message in enumerate(messages) if isinstance(message, HumanMessage))
        done = self._steps_of(messages[question])
        if done >= self.steps:
            return AIMessage(f"It is on its way: {number}.")
        names = [f"{id(self)}-{number}-{index}" for index in range(self.parallel)]
        return AIMessage(
            "", tool_calls=[{"name": "find_order", "args": {"number": number}, "id": name} for name in names]
        )

    def _steps_of(self, question: BaseMessage) -> int:
        # Of the requests, as the steps themselves may have left the window.
        with self._lock:
            return sum(any(message.id == question.id for message in sent) for sent in self.requests) - 1


def tokens(messages: Sequence[BaseMessage]) -> int:
    return sum(map(RING.count, messages))


def tool_tokens() -> int:
    return RING.counter.count(json.dumps(convert_to_openai_tool(find_order), separators=(",", ":")))


def validate(messages: Sequence[BaseMessage]) -> None:
    """Raise RefusedError if OpenAI or Anthropic refuse a request."""
    openai: Any = convert_to_openai_messages(list(messages))
    validate_openai_chat(openai)
    validate_anthropic(as_anthropic(messages))


def as_anthropic(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the messages as LangChain sends them to Anthropic: results become the blocks of a user's message."""
    sent: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        text = {"type": "text", "text": message.text if isinstance(message.text, str) else str(message.text)}
        blocks: list[dict[str, Any]] = [text] if message.content else []
        if isinstance(message, AIMessage):
            blocks += [
                {"type": "tool_use", "id": call["id"], "name": call["name"], "input": call["args"]}
                for call in message.tool_calls
            ]
        elif message.type == "tool":
            blocks = [{"type": "tool_result", "tool_use_id": getattr(message, "tool_call_id", ""), "content": blocks}]
        role = "assistant" if message.type == "ai" else "user"
        if sent and sent[-1]["role"] == role == "user":
            sent[-1]["content"] += blocks
        else:
            sent.append({"role": role, "content": blocks})
    return sent


def check_request(sent: Sequence[BaseMessage], question: str, token_limit: int) -> None:
    """Fail unless a request is valid, holds the system prompt and the question, and is within the limit."""
    validate(sent)
    assert isinstance(sent[0], SystemMessage)
    assert sent[0].content == PROMPT
    assert [message.content for message in sent if isinstance(message, HumanMessage)][-1] == question
    assert tokens(sent) + tool_tokens() <= token_limit
