"""Options, fixtures and the checks that come before every timing."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.contenders import ENCODE, LANGCHAIN, Contender, count_messages
from benches.conversation import SHIPPED, Histories

Label: TypeAlias = Callable[..., None]
CheckWindow: TypeAlias = Callable[[Contender, list[Any], int, list[Any]], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conversation", type=Path, default=SHIPPED, help="JSON Lines to make histories of")
    parser.addoption("--full", action="store_true", help="also what takes minutes and many gigabytes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: only with --full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # Without the collector, whose runs grow with all the messages alive here and hit contenders at random.
        item.add_marker(pytest.mark.benchmark(disable_gc=True, max_time=0.2, min_rounds=5, warmup=False))
    if not config.getoption("--full"):
        skipped = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=skipped)


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    path: Path = config.getoption("--conversation")
    output_json["conversation"] = f"examples/{path.name}" if path == SHIPPED else path.name
    output_json["mode"] = "full" if config.getoption("--full") else "quick"
    output_json["build"] = os.environ.get("BUILD", "unknown")
    output_json["load_average"] = os.getloadavg()[1] if hasattr(os, "getloadavg") else None


@pytest.fixture(scope="session")
def histories(pytestconfig: pytest.Config) -> Histories:
    return Histories(pytestconfig.getoption("--conversation"))


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def label(benchmark: BenchmarkFixture) -> Label:
    """Say what is timed: the workload, who does it, and numbers that tell workloads apart or explain a result."""

    def set_label(workload: str, contender: str, **numbers: int) -> None:
        cases = [f"{numbers[name]:,} {unit}" for name, unit in _UNITS.items() if name in numbers]
        benchmark.group = ", ".join([workload, *cases])
        benchmark.extra_info.update(workload=workload, contender=contender, **numbers)

    return set_label


_UNITS = {"messages": "messages", "limit": "tokens"}


@pytest.fixture(scope="session")
def check_window(histories: Histories) -> CheckWindow:
    """Fail unless a window is what the window rule, over joined counts, says of this history."""
    lengths: dict[int, int] = {}

    def expected(limit: int) -> int:
        if limit not in lengths:
            lengths[limit] = _window_length(histories, limit)
        return lengths[limit]

    def check(contender: Contender, history: list[Any], limit: int, window: list[Any]) -> None:
        # A window that is the whole history begins at the first message, which may be of any role.
        length = min(len(history), expected(limit))
        if contender.name == LANGCHAIN:
            length = _trimmed_length(history, limit)
        assert [id(message) for message in window] == [id(message) for message in history[-length:]]

    return check


def _trimmed_length(history: list[Any], limit: int) -> int:
    """Return the length of LangChain's window: its messages' counts fit in sum, and it begins with a legal start."""
    tokens, length = 0, 0
    for position, message in enumerate(reversed(history), 1):
        tokens += count_messages([message])
        if tokens > limit:
            break
        if message.type in ("human", "system"):
            length = position
    return length


def _window_length(histories: Histories, limit: int) -> int:
    """Return the number of messages of a long history's window, found by counting joined texts only."""
    fitting = 1
    lines = histories.newest(20_000)
    for length in range(1, len(lines)):
        if lines[-length].role in ("assistant", "tool"):
            continue
        tokens = len(ENCODE(" ".join(str(line.text) for line in lines[-length:])))
        if tokens > limit + 100:
            return fitting
        if tokens <= limit:
            fitting = length
    raise ValueError(f"the conversation has no window of {limit} tokens")
