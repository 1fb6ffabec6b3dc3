"""Four tiny messages: the fixed cost of a call, plain and awaited."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import BUFFER, CONTENDERS, LANGCHAIN, LLAMA_INDEX, RING, RING_LI, TWIN, TWIN_LI
from benches.conversation import Line

LIMIT = 3_000
# Awaited calls in one run of an event loop, so that entering the loop does not count.
CALLS = 100

LINES = [Line("user", "Hi!"), Line("assistant", "Hello."), Line("user", "Is it late?"), Line("assistant", "Yes.")]


@pytest.mark.parametrize("name", [LLAMA_INDEX, LANGCHAIN, TWIN, TWIN_LI, RING, RING_LI, BUFFER])
def test_get(benchmark: BenchmarkFixture, label: Label, name: str) -> None:
    contender = CONTENDERS[name]
    history: list[Any] = [contender.message(line) for line in LINES]
    memory = contender.load(LIMIT, history)
    assert memory.get() == history
    label("get of four tiny messages", name)
    assert benchmark(memory.get) == history


@pytest.mark.parametrize("name", [LLAMA_INDEX, BUFFER])
def test_aget(benchmark: BenchmarkFixture, label: Label, loop: asyncio.AbstractEventLoop, name: str) -> None:
    history = [CONTENDERS[name].message(line) for line in LINES]
    memory: Any = CONTENDERS[name].load(LIMIT, history)
    assert loop.run_until_complete(memory.aget()) == history
    label("aget of four tiny messages", name, calls=CALLS)
    benchmark(_run, loop, memory.aget)


@pytest.mark.parametrize("name", [LLAMA_INDEX, BUFFER])
def test_aput(benchmark: BenchmarkFixture, label: Label, loop: asyncio.AbstractEventLoop, name: str) -> None:
    contender = CONTENDERS[name]
    message: ChatMessage = contender.message(LINES[0])
    label("aput of a tiny message", name, calls=CALLS)
    memory: Any = contender.load(LIMIT, [])
    _run(loop, memory.aput, message)
    assert memory.get_all() == [message] * CALLS

    def load() -> tuple[tuple[Any, ...], dict[str, Any]]:
        loaded: Any = contender.load(LIMIT, [contender.message(line) for line in LINES])
        return (loop, loaded.aput, message), {}

    benchmark.pedantic(_run, setup=load, rounds=30)


def _run(loop: asyncio.AbstractEventLoop, call: Callable[..., Awaitable[object]], *arguments: object) -> None:
    async def run() -> None:
        for _ in range(CALLS):
            await call(*arguments)

    loop.run_until_complete(run())
