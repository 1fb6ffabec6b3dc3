"""The first window of a history that was just loaded: nothing is counted yet."""

import itertools

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import CheckWindow, Label
from benches.contenders import BUFFER, CONTENDERS, LANGCHAIN, LLAMA_INDEX, RING, RING_LI, TWIN, TWIN_LI, Memory
from benches.conversation import Histories

LIMIT = 3_000
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
KEEP_COUNTS = (TWIN, TWIN_LI, RING, RING_LI, BUFFER)
CASES = [
    *(
        (name, 100, False) for name in (LLAMA_INDEX, LANGCHAIN)
    ),  # each of their calls is a first one: see the steady get
    *(
        pytest.param(name, size, warm, marks=pytest.mark.full if size > 1_000_000 else ())
        for warm, name, size in itertools.product((False, True), KEEP_COUNTS, SIZES)
    ),
]


@pytest.mark.parametrize(("name", "size", "warm"), CASES)
def test_first_get(
    benchmark: BenchmarkFixture,
    histories: Histories,
    label: Label,
    check_window: CheckWindow,
    name: str,
    size: int,
    warm: bool,
) -> None:
    contender = CONTENDERS[name]
    history = histories.last(size, contender.message)
    # Loading a long history drives the vocabulary out of the processor's caches. Counting other messages with the same
    # words brings it back: what is left is what the length of a history costs.
    others = histories.last(100 + len(histories.lines), contender.message)[:100]
    memory = contender.load(LIMIT, history)
    check_window(contender, history, LIMIT, memory.get())
    workload = "first get after loading, tokenizer in use" if warm else "first get after loading"
    label(workload, name, messages=size, limit=LIMIT)

    loaded: list[Memory] = []

    def load() -> None:
        loaded.clear()  # before warming: dropping a million references also drives out the vocabulary
        loaded.append(contender.load(LIMIT, history))
        for _ in range(5 if warm else 0):
            contender.load(LIMIT, others).get()

    benchmark.pedantic(lambda: loaded[0].get(), setup=load, rounds=7 if size >= 1_000_000 else 30)
