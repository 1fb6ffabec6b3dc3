"""A model that needs no network: it answers by a script, and refuses what OpenAI refuses."""

import copy
import json
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.metadata import version
from typing import Any, TypeAlias

from agents import Agent, ModelResponse, RunConfig, Usage, function_tool, set_tracing_disabled
from agents.models.interface import Model
from chatring import MessageRing
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningItem,
)
from openai.types.responses.response_reasoning_item import Summary
from providers import validate_openai_responses

set_tracing_disabled(True)

VERSION = tuple(map(int, version("openai-agents").split(".")[:2]))

Item: TypeAlias = dict[str, Any]
Script: TypeAlias = Callable[[list[Item]], list[Any]]

PROMPT = "You are the support of a shop."


class Numbers:
    """Ids that nothing else has."""

    last = 0

    @classmethod
    def next(cls, prefix: str) -> str:
        cls.last += 1
        return f"{prefix}_{cls.last}"


def said(text: str) -> ResponseOutputMessage:
    part = ResponseOutputText(text=text, type="output_text", annotations=[])
    return ResponseOutputMessage(
        id=Numbers.next("msg"), content=[part], role="assistant", status="completed", type="message"
    )


def called(name: str, call_id: str | None = None, **arguments: Any) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        id=Numbers.next("fc"),
        call_id=call_id or Numbers.next("call"),
        name=name,
        arguments=json.dumps(arguments),
        type="function_call",
    )


def thought(text: str = "Which order is it?") -> ResponseReasoningItem:
    return ResponseReasoningItem(
        id=Numbers.next("rs"), summary=[Summary(text=text, type="summary_text")], type="reasoning"
    )


class ScriptedModel(Model):
    """Answers with what `script` returns of the request's input. `requests` are the inputs that it accepted.

    It takes what any version of the SDK gives a model.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[list[Item]] = []
        self.instructions: list[str | None] = []

    def _answer(self, instructions: str | None, given: Any) -> list[Any]:
        assert isinstance(given, list)
        validate_openai_responses(given)
        self.requests.append(copy.deepcopy(given))
        self.instructions.append(instructions)
        return self.script(given)

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        instructions, given = _asked(args, kwargs)
        return ModelResponse(
            output=self._answer(instructions, given), usage=Usage(requests=1), response_id=Numbers.next("resp")
        )

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        output = self._answer(*_asked(args, kwargs))
        response = Response(
            id=Numbers.next("resp"),
            created_at=0,
            model="scripted",
            object="response",
            output=output,
            tool_choice="auto",
            tools=[],
            parallel_tool_calls=True,
        )
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=0)


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str | None, Any]:
    return (args[0], args[1]) if args else (kwargs["system_instructions"], kwargs["input"])


@function_tool
def find_order(number: int) -> str:
    """Find an order."""
    return f"Order {number} left the warehouse this morning. " * 5


def turns(count: int, *, thinks: bool = True) -> Script:
    """Return a script that looks for orders, one or two a turn, and answers in the last of so many turns."""

    def script(given: list[Item]) -> list[Any]:
        last = max(place for place, item in enumerate(given) if item.get("role") == "user")
        done[given[last]["content"]] = turn = done.get(given[last]["content"], 0) + 1
        if turn >= count:
            return [said(f"They left: {given[last]['content']}")]
        calls = [called("find_order", number=turn) for _ in range(1 + turn % 2)]
        return [thought(), *calls] if thinks else calls

    done: dict[str, int] = {}
    return script


def agent_of(model: Model, tools: Sequence[Any] = (find_order,), **options: Any) -> Agent[Any]:
    return Agent(name="support", instructions=PROMPT, model=model, tools=list(tools), **options)


def config(**options: Any) -> RunConfig:
    return RunConfig(tracing_disabled=True, **options)


def tokens_of(request: Sequence[Any], instructions: str | None = None) -> int:
    """Return what a request costs, counted one by one."""
    ring = MessageRing[Any]()
    beside = [{"role": "system", "content": instructions}] if instructions else []
    return sum(map(ring.count, [*beside, *request]))
