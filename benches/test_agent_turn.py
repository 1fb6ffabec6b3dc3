"""One turn of an agent: put the user's message, get, put the replies and the tools' results, get."""

import itertools
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import (
    ALL_THAT_IS_SENT,
    BUFFER,
    CONTENDERS,
    LANGCHAIN,
    LLAMA_INDEX,
    RING,
    RING_LI,
    RING_MESSAGE,
    TWIN,
    TWIN_LI,
    TWIN_MESSAGE,
    Memory,
)
from benches.conversation import Histories

LIMIT = 3_000
ROUNDS = 200
SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SLOW = (LLAMA_INDEX, LANGCHAIN)
CASES = [
    *itertools.product(SLOW, (10, 100)),  # at 1,000 messages a turn of theirs takes seconds: two steady gets
    *(
        pytest.param(name, size, marks=pytest.mark.full if size > 1_000_000 else ())
        for name, size in itertools.product((TWIN, TWIN_LI, TWIN_MESSAGE, RING, RING_LI, RING_MESSAGE, BUFFER), SIZES)
    ),
]


def turn(memory: Memory, messages: list[Any]) -> tuple[list[Any], list[Any]]:
    memory.put(messages[0])
    asked = memory.get()
    for message in messages[1:]:
        memory.put(message)
    return asked, memory.get()


@pytest.mark.parametrize(("name", "size"), CASES)
def test_agent_turn(benchmark: BenchmarkFixture, histories: Histories, label: Label, name: str, size: int) -> None:
    contender = CONTENDERS[name]
    history = histories.last(size, contender.message)
    if name != LANGCHAIN:
        _same_windows(histories, (name, _compared(name)), size)
    memory = contender.load(LIMIT, history)
    memory.get()
    turns = histories.turns()
    label("agent turn", name, messages=size, limit=LIMIT)

    def arrive() -> tuple[tuple[Memory, list[Any]], dict[str, Any]]:
        return (memory, [contender.message(line) for line in next(turns)]), {}

    benchmark.pedantic(turn, setup=arrive, rounds=10 if name in SLOW else ROUNDS)


@pytest.mark.parametrize(("name", "size"), list(itertools.product(ALL_THAT_IS_SENT, (1_000, 1_000_000))))
def test_turn_with_tools(benchmark: BenchmarkFixture, histories: Histories, label: Label, name: str, size: int) -> None:
    """Put a call, put its result, get."""
    contender = CONTENDERS[name]
    _same_windows(histories, ALL_THAT_IS_SENT, size)
    memory = contender.load(LIMIT, histories.last(size, contender.message))
    memory.get()
    lines = itertools.chain.from_iterable(histories.turns())
    label("agent turn with tools", name, messages=size, limit=LIMIT)

    def arrive() -> tuple[tuple[Memory, Any, Any], dict[str, Any]]:
        call = next(line for line in lines if line.calls)
        call, result = call._replace(calls=call.calls[:1]), next(line for line in lines if line.role == "tool")
        return (memory, contender.message(call), contender.message(result)), {}

    benchmark.pedantic(_tool_turn, setup=arrive, rounds=ROUNDS)


def _tool_turn(memory: Memory, call: Any, result: Any) -> list[Any]:
    memory.put(call)
    memory.put(result)
    return memory.get()


def _compared(name: str) -> str:
    if name in ALL_THAT_IS_SENT:
        return TWIN_MESSAGE if name == RING_MESSAGE else RING_MESSAGE
    return RING if name == TWIN else TWIN


def _same_windows(histories: Histories, names: tuple[str, str], size: int) -> None:
    """Fail unless both get windows of the same lengths in a few turns: both end with the newest message."""
    memories = [CONTENDERS[name].load(LIMIT, histories.last(size, CONTENDERS[name].message)) for name in names]
    for lines in itertools.islice(histories.turns(), 3 if LLAMA_INDEX in names else 20):
        windows = []
        for memory, name in zip(memories, names, strict=True):
            messages = [CONTENDERS[name].message(line) for line in lines]
            asked, answered = turn(memory, messages)
            assert asked[-1] is messages[0]
            assert answered[-1] is messages[-1]
            windows.append((len(asked), len(answered)))
        assert windows[0] == windows[1]
