"""Whole runs of Pydantic AI's agents, with a model that is scripted: what it is sent, and what is stored."""

import asyncio
import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_ai.messages", reason="Pydantic AI is not installed: pip install pydantic-ai-slim")

from chatring.pydantic_ai import ModelMessageFormat, StoredHistory, TrimMessages
from chatring.stores import Store, open_store
from pydantic_ai import RunContext, Tool
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, SystemPromptPart, ToolCallPart, ToolReturnPart
from pydantic_ai.usage import UsageLimits
from pydantic_ai_agents import (
    INSTRUCTIONS,
    SYSTEM,
    Model,
    as_openai,
    check_request,
    check_session,
    make_agent,
    parts_of,
    question,
    questions,
    tokens,
)

LIMIT = 700
TURNS = 30


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store[ModelMessage]]:
    store = open_store(f"sqlite:///{tmp_path}/chat.db?synchronous=OFF", format=ModelMessageFormat())
    yield store
    store.close()


def test_30_turns_in_one_run_beyond_the_limit() -> None:
    model = Model()
    agent = make_agent(model.function_model, TrimMessages(LIMIT))
    result = asyncio.run(agent.run(question(0, steps=TURNS)))
    assert len(model.requests) == TURNS + 1
    for request in model.requests:
        check_request(request, question(0, steps=TURNS), LIMIT)
    assert len(model.requests[-1]) < 12
    assert set(model.instructions) == {INSTRUCTIONS}
    # Everything is kept beside the requests: a question, calls with their results, an answer.
    assert len(result.all_messages()) == 2 * TURNS + 2
    assert len(parts_of(result.new_messages(), ToolReturnPart)) == 2 * TURNS


@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_30_runs_of_one_conversation(store: Store[ModelMessage], ratio: float) -> None:
    model = Model()
    stored = StoredHistory(store, LIMIT - 100, retention_ratio=ratio)
    agent = make_agent(model.function_model, stored, TrimMessages(LIMIT, retention_ratio=ratio))
    for number in range(TURNS):
        model.requests.clear()
        asyncio.run(agent.run(question(number), conversation_id="ada"))
        assert len(model.requests) == 3
        for request in model.requests:
            check_request(request, question(number), LIMIT)
    messages = store.all("ada")
    check_session(messages)
    assert questions(messages) == [question(number) for number in range(TURNS)]
    assert len(messages) == 1 + 6 * TURNS
    assert tokens(messages) > 10 * LIMIT


def test_the_beginning_stays_put_with_a_ratio(store: Store[ModelMessage]) -> None:
    def moves(ratio: float) -> int:
        """Return how often a request did not begin as the one before it."""
        model = Model()
        stored = StoredHistory(store, 2_500, retention_ratio=ratio)
        agent = make_agent(model.function_model, stored, TrimMessages(3_500, retention_ratio=ratio))
        for number in range(TURNS):
            asyncio.run(agent.run(question(number), conversation_id=f"ratio {ratio}"))
        return sum(
            [part for message in after[:2] for part in message.parts]
            != [part for message in before[:2] for part in message.parts]
            for before, after in itertools.pairwise(model.requests)
        )

    assert moves(0.5) * 3 <= moves(1.0)


def test_the_beginning_stays_put_in_one_run() -> None:
    beginnings = {}
    for ratio in (1.0, 0.6):
        model = Model()
        agent = make_agent(model.function_model, TrimMessages(LIMIT, retention_ratio=ratio))
        asyncio.run(agent.run(question(0, steps=TURNS)))
        beginnings[ratio] = len({str(request[1].parts) for request in model.requests[1:]})
    assert beginnings[0.6] * 1.5 <= beginnings[1.0]


@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_what_was_counted_for_the_requests_before_changes_nothing(ratio: float) -> None:
    """One capability goes from request to request and one is new: both trim alike."""

    class Compared(TrimMessages[Any]):
        async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
            new = TrimMessages[Any](self.token_limit, retention_ratio=self.retention_ratio)
            same = dataclasses.replace(request_context, messages=list(request_context.messages))
            expected = await new.before_model_request(ctx, same)
            trimmed = await super().before_model_request(ctx, request_context)
            assert trimmed.messages == expected.messages
            lengths.append(len(trimmed.messages))
            return trimmed

    lengths: list[int] = []
    agent = make_agent(Model().function_model, Compared(LIMIT, retention_ratio=ratio))
    result = asyncio.run(agent.run(question(0, steps=10)))
    asyncio.run(agent.run(question(1, steps=5), message_history=result.all_messages()))
    assert len(lengths) == 17
    assert max(lengths) < 14


def test_what_is_within_the_limit_is_sent_as_it_is() -> None:
    model = Model()
    result = asyncio.run(make_agent(model.function_model, TrimMessages(100_000)).run(question(0)))
    assert model.requests[-1] == result.all_messages()[:-1]
    assert all(one is other for one, other in zip(model.requests[-1], result.all_messages(), strict=False))


PROGRAM = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from chatring.pydantic_ai import ModelMessageFormat, StoredHistory
from chatring.stores import open_store
from pydantic_ai_agents import Model, make_agent, questions
model = Model()
store = open_store("sqlite:///chat.db", format=ModelMessageFormat())
agent = make_agent(model.function_model, StoredHistory(store, 3000))
print(asyncio.run(agent.run(sys.argv[1], conversation_id="ada")).output)
print(questions(model.requests[0]), flush=True)
import os; os._exit(1)  # nothing is tidied up
"""


def test_a_conversation_survives_a_restart(tmp_path: Path) -> None:
    asked = [question(number, steps=1) for number in range(2)]
    for number, text in enumerate(asked):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, text, *map(str, Path(__file__).parents[:2])],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.stdout.splitlines() == [f"Answer to: {text}", str(asked[: number + 1])], done.stderr


def test_runs_at_once_lose_nothing(store: Store[ModelMessage], tmp_path: Path) -> None:
    other = open_store(f"sqlite:///{tmp_path}/chat.db?synchronous=OFF", format=ModelMessageFormat())
    agents = [make_agent(Model().function_model, StoredHistory(each, LIMIT)) for each in (store, other)]

    async def run() -> None:
        runs = [agents[number % 2].run(question(number), conversation_id="ada") for number in range(10)]
        await asyncio.gather(*runs)

    asyncio.run(run())
    other.close()
    messages = [message for message in store.all("ada") if not isinstance(message.parts[0], SystemPromptPart)]
    assert sorted(questions(messages)) == sorted(question(number) for number in range(10))
    validated = as_openai(messages)
    assert [message["role"] for message in validated] == 10 * [
        "user", *2 * ["assistant", "tool", "tool"], "assistant"
    ]  # fmt: skip
    for first in range(0, 60, 6):  # each run's are together
        assert len({message.run_id for message in messages[first : first + 6]}) == 1


@pytest.mark.parametrize("how", ["task", "context", "error", "limit"])
def test_a_run_that_ends_in_the_middle_leaves_a_valid_session(store: Store[ModelMessage], how: str) -> None:
    entered = asyncio.Event()

    async def find_order(ctx: RunContext[Any], number: int) -> str:
        entered.set()
        if number and how == "error":
            raise ZeroDivisionError
        if number and how == "context":
            ctx.cancel()
        await asyncio.sleep(60 if number and how != "limit" else 0)  # one call is answered, the other never is
        return "found"

    model = Model()
    agent = make_agent(model.function_model, StoredHistory(store, LIMIT))
    broken = make_agent(model.function_model, StoredHistory(store, LIMIT), tool=Tool(find_order, name="find_order"))

    async def run() -> None:
        await agent.run(question(0), conversation_id="ada")
        limits = UsageLimits(request_limit=1) if how == "limit" else None
        task = asyncio.create_task(broken.run(question(1), conversation_id="ada", usage_limits=limits))
        if how == "task":
            await entered.wait()
            task.cancel()
        error = {"error": ZeroDivisionError, "limit": UsageLimitExceeded}.get(how, BaseException)
        with pytest.raises(error):
            await task
        assert questions(store.all("ada")) == [question(0)]
        await agent.run(question(2), conversation_id="ada")

    asyncio.run(run())
    check_session(store.all("ada"))
    check_request(model.requests[-1], question(2))
    assert questions(store.all("ada")) == [question(0), question(2)]


def test_a_run_that_is_cancelled_while_it_is_stored_is_stored_whole(
    store: Store[ModelMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = store.aappend
    agent = make_agent(Model().function_model, StoredHistory(store, LIMIT))

    async def run() -> None:
        began = asyncio.Event()

        async def append_slowly(key: str, messages: Any) -> None:
            began.set()
            await asyncio.sleep(0.01)
            await append(key, messages)

        monkeypatch.setattr(store, "aappend", append_slowly)
        task = asyncio.create_task(agent.run(question(0), conversation_id="ada"))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # When the cancellation is passed on, it is there.
        assert questions(store.all("ada")) == [question(0)]

    asyncio.run(run())
    check_session(store.all("ada"))
    assert len(parts_of(store.all("ada"), ToolCallPart)) == 4


def test_streams_and_iterations_are_stored_too(store: Store[ModelMessage]) -> None:
    model = Model()
    agent = make_agent(model.function_model, StoredHistory(store, LIMIT), TrimMessages(LIMIT))

    async def run() -> None:
        async with agent.run_stream(question(0), conversation_id="ada") as stream:
            assert (await stream.get_output()).startswith("Answer")
        async with agent.iter(question(1), conversation_id="ada") as nodes:
            async for _ in nodes:
                pass
        async with agent.iter(question(2), conversation_id="ada") as nodes:
            async for _ in nodes:
                break  # given up: nothing is stored

    asyncio.run(run())
    assert questions(store.all("ada")) == [question(0), question(1)]
    check_session(store.all("ada"))


def test_one_agent_serves_many_conversations_at_once(store: Store[ModelMessage]) -> None:
    agent = make_agent(Model().function_model, StoredHistory(store, LIMIT), TrimMessages(LIMIT))

    async def run() -> None:
        for turn in range(3):
            await asyncio.gather(*(agent.run(f"{key} {turn}", conversation_id=key) for key in ("ada", "ben", "cem")))

    asyncio.run(run())
    for key in ("ada", "ben", "cem"):
        assert questions(store.all(key)) == [f"{key} {turn}" for turn in range(3)]
        assert [part.content for part in store.all(key)[0].parts if isinstance(part, SystemPromptPart)] == [SYSTEM]
