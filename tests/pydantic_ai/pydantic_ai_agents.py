"""An agent whose model is told what to do and keeps what it is sent, and the checks of that.

A question is `steps=n, ...`: the model answers it after n steps with two calls each.
"""

import itertools
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from chatring import MessageRing
from chatring.pydantic_ai import ModelMessageFormat
from providers import validate_openai_chat
from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

SYSTEM = "You are the support of a shop."
INSTRUCTIONS = "Answer in one sentence."
FOUND = "It left the warehouse on Monday, and the next day it was in the depot. " * 2

_RING: MessageRing[ModelMessage] = MessageRing(format=ModelMessageFormat())


def question(number: int, steps: int = 2) -> str:
    return f"steps={steps}, where is my order number {number}?"


def answer(messages: Sequence[ModelMessage]) -> list[ToolCallPart] | str:
    """Return what the model says: calls as long as the last question asks for more steps."""
    asked = questions(messages)[-1]
    steps = re.match(r"steps=(\d+)", asked)
    done = 0
    for message in reversed(messages):  # the newest call says how far it is: older ones may have left the request
        if questions([message]):
            break
        if calls := parts_of([message], ToolCallPart):
            done = calls[-1].args_as_dict()["number"] // 2 + 1
            break
    if steps is None or done >= int(steps[1]):
        return f"Answer to: {asked}"
    return [ToolCallPart("find_order", {"number": 2 * done + number}) for number in range(2)]


class Model:
    """A model that answers as `answer` says; `requests` has what it was sent, `instructions` with what."""

    def __init__(self, says: Callable[[Sequence[ModelMessage]], list[ToolCallPart] | str] = answer) -> None:
        self.says = says
        self.requests: list[list[ModelMessage]] = []
        self.instructions: list[str | None] = []
        self.function_model = FunctionModel(self._respond, stream_function=self._stream)

    def _respond(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.requests.append(list(messages))
        self.instructions.append(info.instructions)
        said = self.says(messages)
        return ModelResponse(parts=[TextPart(said)] if isinstance(said, str) else said)

    async def _stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        for index, part in enumerate(self._respond(messages, info).parts):
            if isinstance(part, ToolCallPart):
                args = part.args_as_json_str()
                yield {index: DeltaToolCall(part.tool_name, args, tool_call_id=part.tool_call_id)}
            else:
                assert isinstance(part, TextPart)
                for word in part.content.split(" "):
                    yield f"{word} "


async def find_order(number: int) -> str:
    return f"{number}: {FOUND}"


def make_agent(model: Any, *capabilities: Any, tool: Any = find_order, **options: Any) -> Agent[Any, Any]:
    """Return an agent with a tool, a system prompt and instructions."""
    options = {"system_prompt": SYSTEM, "instructions": INSTRUCTIONS, "tools": [tool], **options}
    return Agent(model, capabilities=capabilities, **options)


def parts_of(messages: Sequence[ModelMessage], kind: type[Any]) -> list[Any]:
    return [part for message in messages for part in message.parts if isinstance(part, kind)]


def questions(messages: Sequence[ModelMessage]) -> list[str]:
    return [str(part.content) for part in parts_of(messages, UserPromptPart)]


def tokens(messages: Sequence[ModelMessage], instructions: str | None = None) -> int:
    """Return the tokens of a request, with its instructions."""
    beside = [ModelRequest(parts=[SystemPromptPart(instructions)])] if instructions else []
    return sum(map(_RING.count, [*beside, *messages]))


def as_openai(messages: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    """Return messages as OpenAI's chat has them."""
    sent: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, ModelResponse):
            calls = [{"id": part.tool_call_id} for part in message.parts if isinstance(part, ToolCallPart)]
            sent.append({"role": "assistant", **({"tool_calls": calls} if calls else {})})
            continue
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                sent.append({"role": "tool", "tool_call_id": part.tool_call_id})
            elif isinstance(part, (SystemPromptPart, UserPromptPart)):
                sent.append({"role": "system" if isinstance(part, SystemPromptPart) else "user"})
    return sent


def check_request(messages: Sequence[ModelMessage], asked: str, limit: int | None = None, system: str = SYSTEM) -> None:
    """Fail unless a provider takes the request, and it has system prompt, question and at most `limit` tokens."""
    validate_openai_chat(as_openai(messages))
    first = messages[0].parts
    assert isinstance(first[0], SystemPromptPart)
    assert first[0].content == system
    assert isinstance(first[1], UserPromptPart), "a user's message comes first"
    assert asked in questions(messages)
    assert isinstance(messages[-1], ModelRequest)
    assert all(type(one) is not type(other) for one, other in itertools.pairwise(messages)), "merged"
    if limit is not None:
        assert tokens(messages, INSTRUCTIONS) <= limit


def check_session(messages: Sequence[ModelMessage]) -> None:
    """Fail unless a provider takes what is stored, less the newest message: every call has its results."""
    validate_openai_chat(as_openai(messages))
    for message in messages[1:]:
        assert not any(isinstance(part, SystemPromptPart) for part in message.parts)
