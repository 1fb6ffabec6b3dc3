"""A window of a history that has not changed since the last one: what every call but the first costs."""

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import CheckWindow, Label
from benches.contenders import (
    ALL_THAT_IS_SENT,
    BUFFER,
    CONTENDERS,
    LANGCHAIN,
    LLAMA_INDEX,
    RING,
    RING_LI,
    RING_LI_UNVERIFIED,
    RING_MESSAGE,
    RING_UNVERIFIED,
    SLICE,
    TWIN,
    TWIN_LI,
    TWIN_MESSAGE,
    Slice,
)
from benches.conversation import Histories, as_dict

WORKLOAD = "steady get"
SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
FAST = (TWIN, TWIN_LI, TWIN_MESSAGE, RING, RING_UNVERIFIED, RING_MESSAGE, RING_LI, RING_LI_UNVERIFIED, BUFFER)

# The longest history where one call takes at most seconds.
LONGEST_QUICK = {LLAMA_INDEX: 1_000, LANGCHAIN: 1_000}
LONGEST_FULL = {LLAMA_INDEX: 1_000, LANGCHAIN: 10_000}


def _cases() -> Iterator[object]:
    for limit in (3_000, 40_000):
        for name in (LLAMA_INDEX, LANGCHAIN, *FAST, SLICE):
            for size in SIZES:
                longest = LONGEST_FULL.get(name, SIZES[-1])
                if size > longest:
                    continue
                quick = size <= LONGEST_QUICK.get(name, 1_000_000)
                if limit == 40_000:
                    # Windows of hundreds of messages: one size shows them, the others are for the full mode.
                    quick = size == 10_000 and name not in LONGEST_QUICK
                marks = () if quick else (pytest.mark.full,)
                yield pytest.param(name, size, limit, marks=marks, id=f"{name}-{size}-{limit}")


@pytest.mark.parametrize(("name", "size", "limit"), list(_cases()))
def test_steady_get(
    benchmark: BenchmarkFixture,
    histories: Histories,
    label: Label,
    check_window: CheckWindow,
    name: str,
    size: int,
    limit: int,
) -> None:
    twin = CONTENDERS[TWIN_MESSAGE if name in ALL_THAT_IS_SENT else TWIN]
    window = twin.load(limit, histories.last(size, twin.message)).get()
    label(WORKLOAD, name, messages=size, limit=limit, window=len(window))
    if name == SLICE:
        floor = Slice(len(window))
        floor.put_messages(histories.last(size, as_dict))
        assert floor.get() == window
        benchmark(floor.get)
        return
    contender = CONTENDERS[name]
    history = histories.last(size, contender.message)
    memory = contender.load(limit, history)
    if name in ALL_THAT_IS_SENT:
        assert [id(message) for message in memory.get()] == [id(message) for message in window]
        benchmark(memory.get)
        return
    if name in LONGEST_QUICK and size > 100:
        # A call takes seconds: one is timed, and what it returned is checked.
        check_window(contender, history, limit, benchmark.pedantic(memory.get))
        return
    check_window(contender, history, limit, memory.get())
    check_window(contender, history, limit, benchmark(memory.get, **contender.options))
