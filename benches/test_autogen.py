"""AutoGen: what a model context costs before each model call, and after a restart.

Histories are the conversation's as AutoGen's messages. `TokenLimitedChatCompletionContext` deletes from the middle and
counts all of it again each time: its time is quadratic, so it is run once, on short histories. It counts with AutoGen's
client of OpenAI, by tiktoken. The pure Python is what one would write instead.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import tiktoken

pytest.importorskip("autogen_ext.models.openai", reason="AutoGen is not installed: pip install autogen-ext[openai]")

from autogen_core import FunctionCall
from autogen_core.model_context import ChatCompletionContext, TokenLimitedChatCompletionContext
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    UserMessage,
)
from autogen_ext.models.openai import OpenAIChatCompletionClient
from chatring.autogen import RingChatCompletionContext
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.conversation import Histories, Line
from benches.framework_names import AUTOGEN_GET
from benches.plain_session import window_of

SHORT, LENGTHS, LIMIT = (400, 800), (1_000, 5_000), 3_000

THEIRS, PLAIN = AUTOGEN_GET.theirs, "pure Python, sums kept"
OURS, OURS_RATIO = AUTOGEN_GET.ours, f"{AUTOGEN_GET.ours}, retention_ratio=0.7"

ENCODE = tiktoken.get_encoding("o200k_base").encode_ordinary


def as_messages(lines: list[Line]) -> list[LLMMessage]:
    """Return messages as AutoGen's: results that follow each other are one."""
    messages: list[LLMMessage] = []
    calls: list[FunctionCall] = []
    for place, line in enumerate(lines):
        if line.role == "tool":
            call = calls.pop(0)
            result = FunctionExecutionResult(content=line.text or "", name=call.name, call_id=call.id)
            if isinstance(messages[-1], FunctionExecutionResultMessage):
                messages[-1].content.append(result)
            else:
                messages.append(FunctionExecutionResultMessage(content=[result]))
        elif line.role == "user":
            messages.append(UserMessage(content=line.text or "", source="user"))
        elif line.calls:
            made = [FunctionCall(id=f"{place}-{name}", name=name, arguments=given) for name, given in line.calls]
            calls += made
            messages.append(AssistantMessage(content=made, source="support", thought=line.text or None))
        else:
            messages.append(AssistantMessage(content=line.text or "", source="support"))
    return messages


def kind_of(message: LLMMessage) -> str:
    match message:
        case FunctionExecutionResultMessage():
            return "function_call_output"
        case AssistantMessage(content=list()):
            return "function_call"
    return "user" if isinstance(message, UserMessage) else "assistant"


def tokens_of(message: LLMMessage) -> int:
    match message:
        case UserMessage(content=str(text)):
            return 5 + len(ENCODE(message.source)) + len(ENCODE(text))
        case FunctionExecutionResultMessage():
            return sum(8 + len(ENCODE(result.content)) for result in message.content)
        case AssistantMessage(content=list(calls)):
            several = 19 if len(calls) > 1 else 0
            texts = [message.thought or "", *(text for call in calls for text in (call.name, call.arguments))]
            return 4 + several + 4 * len(calls) + sum(len(ENCODE(text)) for text in texts)
    return 4 + len(ENCODE(str(message.content)))


class PlainContext(ChatCompletionContext):
    """Counts a message when it is added, and looks for the window from the newest one backwards."""

    component_config_schema = None

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[tuple[str, int, LLMMessage]] = []

    async def add_message(self, message: LLMMessage) -> None:
        self._rows.append((kind_of(message), tokens_of(message), message))

    async def get_messages(self) -> list[LLMMessage]:
        return window_of(reversed(self._rows), LIMIT)

    async def load_state(self, state: Any) -> None:
        await super().load_state(state)
        self._rows = [(kind_of(message), tokens_of(message), message) for message in self._messages]


def theirs() -> ChatCompletionContext:
    client = OpenAIChatCompletionClient(model="gpt-4o-2024-08-06", api_key="none")
    return TokenLimitedChatCompletionContext(client, token_limit=LIMIT)


CONTEXTS: dict[str, Callable[[], ChatCompletionContext]] = {
    THEIRS: theirs,
    PLAIN: PlainContext,
    OURS: lambda: RingChatCompletionContext(LIMIT),
    OURS_RATIO: lambda: RingChatCompletionContext(LIMIT, retention_ratio=0.7),
}


@pytest.fixture(scope="module")
def history(histories: Histories) -> Callable[[int], list[LLMMessage]]:
    """Return the function that returns a history of at least so many messages, from a question to an answer."""
    lines = [line for line in histories.newest(8_000) if line.role != "system"]
    first = next(place for place, line in enumerate(lines) if line.role == "user")
    messages = as_messages(lines[first:])
    starts = [place for place, message in enumerate(messages) if isinstance(message, UserMessage)]

    def last(length: int) -> list[LLMMessage]:
        return messages[max(place for place in starts if place <= len(messages) - length) :]

    return last


def fill(context: ChatCompletionContext, messages: list[LLMMessage], loop: asyncio.AbstractEventLoop) -> None:
    async def add() -> None:
        for message in messages:
            await context.add_message(message)

    loop.run_until_complete(add())


def check(name: str, got: list[LLMMessage], messages: list[LLMMessage], loop: asyncio.AbstractEventLoop) -> None:
    """Fail unless it is what the contender promises."""
    plain, ours = PlainContext(), RingChatCompletionContext(LIMIT)
    fill(plain, messages, loop)
    fill(ours, messages, loop)
    window = loop.run_until_complete(plain.get_messages())
    assert [*map(tokens_of, messages)] == [ours._ring.count(message) for message in messages]
    assert 10 < len(window) < len(messages)
    if name == THEIRS:
        assert got[0] is messages[0]  # the beginning and the end
        assert got[-1] is messages[-1]
    elif name == OURS_RATIO:
        assert got[1:] == messages[1 - len(got) :]  # behind its question
        assert len(got) <= len(window)
    else:
        assert got == window


CASES = [(name, length) for length in (*SHORT, *LENGTHS) for name in CONTEXTS if name != THEIRS or length in SHORT]


@pytest.mark.parametrize(("name", "length"), CASES)
def test_get(
    benchmark: BenchmarkFixture,
    history: Callable[[int], list[LLMMessage]],
    loop: Any,
    label: Label,
    name: str,
    length: int,
) -> None:
    """What a model call waits for: a context that has been asked before."""
    messages = history(length)
    context = CONTEXTS[name]()
    fill(context, messages, loop)
    got: list[LLMMessage] = []

    async def get() -> None:
        got[:] = await context.get_messages()

    label(AUTOGEN_GET.name, name, messages=length, limit=LIMIT)
    if name == THEIRS:
        benchmark.pedantic(lambda: loop.run_until_complete(get()), rounds=1)
    else:
        loop.run_until_complete(get())
        # Entering an event loop takes longer than a call.
        benchmark.pedantic(lambda: drive(context.get_messages()), rounds=200, iterations=20)
    check(name, got, messages, loop)


def drive(coroutine: Any) -> Any:
    """Return what a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


@pytest.mark.parametrize("name", [PLAIN, OURS, OURS_RATIO])
@pytest.mark.parametrize("length", LENGTHS)
def test_step(
    benchmark: BenchmarkFixture,
    history: Callable[[int], list[LLMMessage]],
    loop: Any,
    label: Label,
    name: str,
    length: int,
) -> None:
    """A call and its result are added, and the messages for the next model call taken: with what is counted for it."""
    messages = history(length)
    context = CONTEXTS[name]()
    fill(context, messages, loop)
    drive(context.get_messages())
    step = as_messages([Line("assistant", None, (("find_order", '{"number": 7}'),)), Line("tool", "It left. " * 40)])

    def work() -> Any:
        for message in step:
            drive(context.add_message(message))
        return drive(context.get_messages())

    check(name, work(), [*messages, *step], loop)
    label("autogen: a step is added, and the messages taken", name, messages=length, limit=LIMIT)
    benchmark.pedantic(work, rounds=30)


@pytest.mark.parametrize("name", [PLAIN, OURS, OURS_RATIO])
@pytest.mark.parametrize("length", LENGTHS)
def test_first_get(
    benchmark: BenchmarkFixture,
    history: Callable[[int], list[LLMMessage]],
    loop: Any,
    label: Label,
    name: str,
    length: int,
) -> None:
    """After a restart: the state is loaded, and the first model call is due."""
    messages = history(length)
    saved = RingChatCompletionContext(LIMIT)
    fill(saved, messages, loop)
    state = drive(saved.save_state())

    def restart() -> Any:
        context = CONTEXTS[name]()
        drive(context.load_state(state))
        return drive(context.get_messages())

    check(name, restart(), messages, loop)
    label("autogen: load a state, and the first messages", name, messages=length, limit=LIMIT)
    benchmark(restart)
