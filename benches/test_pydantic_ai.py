"""Pydantic AI: what a run reads of its conversation, what trimming one request costs, and a whole run."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pydantic_ai.messages", reason="Pydantic AI is not installed: pip install pydantic-ai-slim")

from chatring import MessageRing
from chatring.pydantic_ai import ModelMessageFormat, StoredHistory, TrimMessages
from chatring.pydantic_ai.requests import Pieces
from pydantic_ai import Agent
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart
from pydantic_ai.models.test import TestModel
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.conversation import Histories
from benches.pydantic_ai_contenders import (
    KEY,
    CachingTrim,
    OneBlob,
    Rows,
    count,
    counting_trim,
    history,
    our_store,
    their_store,
)

LIMIT = 8_000
SIZES = (1_000, 5_000)
BLOB = "pydantic-ai, all messages as one JSON"
THEIR_STORE = "pydantic-ai InMemoryConversationStore"
ROWS = "honest twin, rows in SQLite"
COUNTING = "pydantic-ai ProcessHistory, tiktoken"
CACHING = "honest twin"
OURS = "chatring"
OURS_RATIO = "chatring, retention_ratio=0.7"


def _parts(messages: list[ModelMessage]) -> list[Any]:
    return [part for message in messages for part in message.parts]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [BLOB, THEIR_STORE, ROWS, OURS])
def test_read_of_a_run(
    benchmark: BenchmarkFixture, histories: Histories, label: Label, loop: Any, tmp_path: Path, name: str, size: int
) -> None:
    messages = history(histories, size)
    window = _window(messages)
    ours, blob, rows = our_store(tmp_path, messages), OneBlob(tmp_path, messages), Rows(tmp_path, messages)
    theirs = loop.run_until_complete(their_store(messages))
    loads: dict[str, Callable[[], Any]] = {
        BLOB: blob.load,
        THEIR_STORE: lambda: loop.run_until_complete(theirs.load(KEY)).messages,
        ROWS: lambda: rows.load(LIMIT),
        OURS: lambda: loop.run_until_complete(ours.awindow(KEY, LIMIT)),
    }
    assert _parts(loads[name]()) == _parts(messages if name in (BLOB, THEIR_STORE) else window)
    label("pydantic-ai: read of a run", name, messages=size, limit=LIMIT)
    benchmark(loads[name])
    loop.run_until_complete(ours.aclose())
    ours.close()


def _window(messages: list[ModelMessage], ratio: float = 1.0) -> list[ModelMessage]:
    """Return the window as the rule has it, and fail unless both count and search alike."""
    ring: MessageRing[ModelMessage] = MessageRing(LIMIT, format=ModelMessageFormat())
    ring.put_messages(Pieces(messages).all)
    assert all(ring.count(message) == count(message) for message in ring)
    assert _parts(CachingTrim(LIMIT)(messages)) == _parts(ring.get())
    return ring.get(retention_ratio=ratio)


CAPABILITIES: dict[str, Callable[[], Any]] = {
    COUNTING: lambda: ProcessHistory(counting_trim(LIMIT)),
    CACHING: lambda: ProcessHistory(CachingTrim(LIMIT)),
    OURS: lambda: TrimMessages(LIMIT),
    OURS_RATIO: lambda: TrimMessages(LIMIT, retention_ratio=0.7),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CAPABILITIES)
@pytest.mark.parametrize("which", ["first", "next"])
def test_trim_of_a_request(
    benchmark: BenchmarkFixture, histories: Histories, label: Label, loop: Any, which: str, name: str, size: int
) -> None:
    """The first request of a run, and the next one, which has a response and its results more."""
    messages = [*history(histories, size)[:-1], ModelRequest(parts=[UserPromptPart("Is it solved?")])]

    def trim(capability: Any, messages: list[ModelMessage]) -> list[ModelMessage]:
        parameters = SimpleNamespace(instruction_parts=None)
        request: Any = SimpleNamespace(messages=messages, model_request_parameters=parameters)
        context: Any = SimpleNamespace(messages=list(messages), prompt=None)
        trimmed: list[ModelMessage] = loop.run_until_complete(
            capability.before_model_request(context, request)
        ).messages
        return trimmed

    def arrive() -> tuple[tuple[Any, list[ModelMessage]], dict[str, Any]]:
        capability = CAPABILITIES[name]()
        if which == "next":
            trim(capability, messages[:-2])
        return (capability, messages), {}

    window = _window(messages, 0.7 if name == OURS_RATIO else 1.0)
    assert _parts(trim(*arrive()[0])) == _parts(window)
    label(f"pydantic-ai: trim of the {which} request", name, messages=size, limit=LIMIT)
    benchmark.pedantic(trim, setup=arrive, rounds=9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [BLOB, OURS])
def test_a_run(
    benchmark: BenchmarkFixture, histories: Histories, label: Label, loop: Any, tmp_path: Path, name: str, size: int
) -> None:
    """One question, answered by a model that takes no time; read before, and written after."""
    messages = history(histories, size)
    model = TestModel(custom_output_text="Yes.")
    if name == BLOB:
        blob = OneBlob(tmp_path, messages)
        agent: Agent[Any, str] = Agent(model, capabilities=[ProcessHistory(CachingTrim(LIMIT))])

        async def run() -> str:
            before = blob.load()
            result = await agent.run("Is it solved?", message_history=before)
            blob.save([*before, *result.new_messages()])
            return result.output

    else:
        store = our_store(tmp_path, messages)
        agent = Agent(model, capabilities=[StoredHistory(store, LIMIT), TrimMessages(LIMIT)])

        async def run() -> str:
            return (await agent.run("Is it solved?", conversation_id=KEY)).output

    assert loop.run_until_complete(run()) == "Yes."
    stored = blob.load() if name == BLOB else store.last(KEY, 2)
    assert [type(part).__name__ for part in _parts(stored[-2:])] == ["UserPromptPart", "TextPart"]
    label("pydantic-ai: a run", name, messages=size, limit=LIMIT)
    benchmark.pedantic(lambda: loop.run_until_complete(run()), rounds=15)
    if name == OURS:
        loop.run_until_complete(store.aclose())
        store.close()
