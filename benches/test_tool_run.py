"""One user message followed by 100,000 tool messages: no start for a long way."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import BUFFER, CONTENDERS, RING, RING_LI, TWIN, TWIN_LI
from benches.conversation import Line

LIMIT = 3_000


@functools.cache
def _history(message: Callable[[Line], Any]) -> list[Any]:
    lines = [Line("user", "Check every shelf."), *(Line("tool", f"shelf {i}: 12 pieces") for i in range(100_000))]
    return [message(line) for line in lines]


@pytest.mark.parametrize("everything", [False, True], ids=["last-message", "everything"])
@pytest.mark.parametrize("name", [TWIN, TWIN_LI, RING, RING_LI, BUFFER])
def test_tool_run(benchmark: BenchmarkFixture, label: Label, name: str, everything: bool) -> None:
    # With a limit that fits all, all is counted once; then only the search is left, and the list of 100,001 messages.
    limit = 100_000_000 if everything else LIMIT
    contender = CONTENDERS[name]
    history = _history(contender.message)
    memory = contender.load(limit, history)
    label("100,000 tool messages, all fit" if everything else "100,000 tool messages, none fit", name, limit=limit)
    window = memory.get()
    assert [id(message) for message in window] == [id(message) for message in (history if everything else history[-1:])]
    if everything:
        benchmark.pedantic(memory.get, rounds=10)
    else:
        benchmark(memory.get)
