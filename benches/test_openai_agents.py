"""The OpenAI Agents SDK: what a session reads for one run, a whole run, and what trimming a model call's input costs.

Histories are the conversation's as Responses items. The SDK's own session reads everything, or so many items as our
window has: then its results may have lost their calls. It has no trimming by tokens; the pure Python is what one would
write.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiktoken

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents import Agent, ModelResponse, RunConfig, Runner, Usage, set_tracing_disabled
from agents.memory import SQLiteSession
from agents.models.interface import Model
from agents.run import ModelInputData
from chatring import MessageRing, trim_messages
from chatring.openai_agents import ChatringSession, trim_input
from chatring.stores import open_store
from openai.types.responses import ResponseOutputMessage, ResponseOutputText
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.conversation import Histories, Line
from benches.framework_names import OPENAI_READ
from benches.plain_session import PlainSession, tokens_of, trim

LENGTHS, LIMIT = (1_000, 5_000), 3_000
INSTRUCTIONS = "You are the support of a shop."

SDK, SDK_ITEMS = OPENAI_READ.theirs, f"{OPENAI_READ.theirs}, as many items as the window has"
PLAIN, OURS = "pure Python over sqlite3", OPENAI_READ.ours
PLAIN_TRIM, OUR_TRIM = "pure Python, counting", "chatring trim_input"

ENCODE = tiktoken.get_encoding("o200k_base").encode_ordinary
set_tracing_disabled(True)


def as_items(lines: list[Line]) -> list[dict[str, Any]]:
    """Return messages as Responses items: calls and results are items of their own."""
    items: list[dict[str, Any]] = []
    calls: list[str] = []
    for line in lines:
        if line.role == "tool":
            items.append({"type": "function_call_output", "call_id": calls.pop(0), "output": line.text or ""})
            continue
        if line.text:
            role = "user" if line.role == "system" else line.role
            items.append({"type": "message", "role": role, "content": line.text})
        for name, arguments in line.calls:
            calls.append(f"call_{len(items)}")
            items.append({"type": "function_call", "call_id": calls[-1], "name": name, "arguments": arguments})
    return items


@pytest.fixture(scope="module")
def history(histories: Histories) -> Callable[[int], list[dict[str, Any]]]:
    """Return the function that returns a history of so many items: it begins with a user's message."""
    lines = histories.newest(6_000)
    first = next(place for place, line in enumerate(lines) if line.role == "user")
    items = as_items(lines[first:])
    starts = [place for place, item in enumerate(items) if item.get("role") == "user"]

    def last(length: int) -> list[dict[str, Any]]:
        return items[max(place for place in starts if place <= len(items) - length) :]

    return last


class Answering(Model):
    """Says one word."""

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        part = ResponseOutputText(text="Yes.", type="output_text", annotations=[])
        said = ResponseOutputMessage(id="m", content=[part], role="assistant", status="completed", type="message")
        return ModelResponse(output=[said], usage=Usage(), response_id="r")

    def stream_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class Sessions:
    """The history in each contender's file."""

    def __init__(self, folder: Path, items: list[dict[str, Any]], loop: asyncio.AbstractEventLoop) -> None:
        self.window = trim_messages(items, LIMIT)
        self.store = open_store(f"sqlite:///{folder / 'ours.db'}?synchronous=NORMAL")
        self.all: dict[str, Any] = {
            SDK: SQLiteSession("ada", folder / "theirs.db"),
            PLAIN: PlainSession("ada", str(folder / "plain.db"), LIMIT, ENCODE),
            OURS: ChatringSession("ada", self.store, LIMIT),
        }
        for session in self.all.values():
            loop.run_until_complete(session.add_items(items))

    def close(self) -> None:
        self.store.close()
        for name in (SDK, PLAIN):
            self.all[name].close()


@pytest.fixture(scope="module", params=LENGTHS)
def sessions(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    history: Callable[[int], list[dict[str, Any]]],
    loop: asyncio.AbstractEventLoop,
) -> Iterator[tuple[int, list[dict[str, Any]], Sessions]]:
    items = history(request.param)
    made = Sessions(tmp_path_factory.mktemp("agents"), items, loop)
    yield request.param, items, made
    made.close()


@pytest.mark.parametrize("name", [SDK, SDK_ITEMS, PLAIN, OURS])
def test_read(benchmark: BenchmarkFixture, sessions: Any, loop: Any, label: Label, name: str) -> None:
    length, items, made = sessions
    assert MessageRing[Any]().count(items[0]) == tokens_of(items[0], ENCODE)
    session = made.all[SDK if name == SDK_ITEMS else name]
    limit = len(made.window) if name == SDK_ITEMS else None
    expected = {SDK: items, SDK_ITEMS: items[-len(made.window) :]}.get(name, made.window)
    assert loop.run_until_complete(session.get_items(limit)) == expected
    label(OPENAI_READ.name, name, messages=length, limit=LIMIT)
    benchmark(lambda: loop.run_until_complete(session.get_items(limit)))


@pytest.mark.parametrize("name", [SDK, PLAIN, OURS])
def test_run(benchmark: BenchmarkFixture, sessions: Any, loop: Any, label: Label, name: str) -> None:
    """One question and one answer, the SDK's own work included. Each adds two items to the history."""
    length, _, made = sessions
    agent = Agent(name="support", instructions=INSTRUCTIONS, model=Answering())
    config = RunConfig(tracing_disabled=True)

    def run() -> Any:
        return loop.run_until_complete(Runner.run(agent, "Is it?", session=made.all[name], run_config=config))

    assert run().final_output == "Yes."
    label("openai-agents: a run of one model call", name, messages=length, limit=LIMIT)
    benchmark.pedantic(run, rounds=15)


@pytest.mark.parametrize("name", [PLAIN_TRIM, OUR_TRIM])
@pytest.mark.parametrize("length", LENGTHS)
def test_trim(
    benchmark: BenchmarkFixture,
    history: Callable[[int], list[dict[str, Any]]],
    label: Label,
    name: str,
    length: int,
) -> None:
    items = history(length)
    ours: Any = trim_input(LIMIT)
    given: list[Any] = [*items]
    data: Any = SimpleNamespace(model_data=ModelInputData(input=given, instructions=INSTRUCTIONS))
    plain = trim(items, LIMIT, INSTRUCTIONS, ENCODE)
    assert 10 < len(plain) < length
    assert ours(data).input == plain
    label("openai-agents: trimming a model call", name, messages=length, limit=LIMIT)
    if name == OUR_TRIM:
        benchmark(lambda: ours(data))
    else:
        benchmark(lambda: trim(items, LIMIT, INSTRUCTIONS, ENCODE))
