"""One turn of an agent: put the user's message, get, put the replies and the tools' results, get."""

import itertools
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import BUFFER, CONTENDERS, LANGCHAIN, LLAMA_INDEX, RING, RING_LI, TWIN, TWIN_LI, Memory
from benches.conversation import Histories

LIMIT = 3_000
ROUNDS = 200
SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SLOW = (LLAMA_INDEX, LANGCHAIN)
CASES = [
    *itertools.product(SLOW, (10, 100)),  # at 1,000 messages a turn of theirs takes seconds: two steady gets
    *(
        pytest.param(name, size, marks=pytest.mark.full if size > 1_000_000 else ())
        for name, size in itertools.product((TWIN, TWIN_LI, RING, RING_LI, BUFFER), SIZES)
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
        _same_windows(histories, (name, RING if name == TWIN else TWIN), size)
    memory = contender.load(LIMIT, history)
    memory.get()
    turns = histories.turns()
    label("agent turn", name, messages=size, limit=LIMIT)

    def arrive() -> tuple[tuple[Memory, list[Any]], dict[str, Any]]:
        return (memory, [contender.message(line) for line in next(turns)]), {}

    benchmark.pedantic(turn, setup=arrive, rounds=10 if name in SLOW else ROUNDS)


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
