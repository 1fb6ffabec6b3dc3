"""Whole runs of Agent Framework's agents over OpenAI's clients: what is sent, and what is stored."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agent_framework_openai", reason="Agent Framework is not installed: agent-framework-openai")

from agent_framework import Agent, Message
from agent_framework_agents import (
    BESIDE,
    Model,
    asked_in,
    check_request,
    check_session,
    make_agent,
    question,
    run,
    tokens,
)
from chatring import MessageRing
from chatring.agent_framework import ChatringHistoryProvider, MessageFormat, RingStrategy
from chatring.stores import Store, open_store

LIMIT = 700
TURNS = 30


def strategy(**options: Any) -> RingStrategy:
    return RingStrategy(LIMIT, initial_token_count=BESIDE, **options)


def provider(store: Store[Message], limit: int = LIMIT - 200, **options: Any) -> ChatringHistoryProvider:
    return ChatringHistoryProvider(store, limit, initial_token_count=BESIDE, **options)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store[Message]]:
    store = open_store(f"sqlite:///{tmp_path}/chat.db?synchronous=OFF", format=MessageFormat())
    yield store
    store.close()


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_30_turns_in_one_run_beyond_the_limit(api: str) -> None:
    model = Model()
    agent = make_agent(getattr(model, api), compaction_strategy=strategy())
    asked = question(0, steps=TURNS)
    result = asyncio.run(run(agent, asked))
    assert len(model.requests) == TURNS + 1
    for request in model.requests:
        check_request(request, asked, LIMIT)
    assert tokens(model.requests[-1]) > LIMIT / 2
    # The run's result keeps everything: calls with their results, an answer.
    assert result.text == f"Answer to: {asked}"
    assert sum(content.type == "function_result" for each in result.messages for content in each.contents) == 2 * TURNS


@pytest.mark.parametrize("per_call", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_30_runs_of_one_session(store: Store[Message], ratio: float, api: str, per_call: bool) -> None:
    model = Model()
    agent = make_agent(
        getattr(model, api),
        provider(store, retention_ratio=ratio),
        compaction_strategy=strategy(retention_ratio=ratio),
        require_per_service_call_history_persistence=per_call,
    )

    async def all_runs() -> None:
        for number in range(TURNS):
            model.requests.clear()
            # A session for each run, as a server has it.
            await run(agent, question(number), "ada")
            assert len(model.requests) == 3
            for request in model.requests:
                check_request(request, question(number), LIMIT)

    asyncio.run(all_runs())
    messages = store.all("ada")
    check_session(messages)
    assert asked_in(messages) == [question(number) for number in range(TURNS)]
    assert len(messages) == 6 * TURNS
    assert store.token_count("ada") > 10 * LIMIT


@pytest.mark.parametrize("per_call", [False, True])
def test_the_beginning_stays_put_with_a_ratio(store: Store[Message], per_call: bool) -> None:
    def moves(ratio: float) -> int:
        """Return how often a request did not begin as the one before it."""
        model = Model()
        agent = make_agent(
            model.chat,
            ChatringHistoryProvider(store, 2_500, retention_ratio=ratio),
            compaction_strategy=RingStrategy(3_500, retention_ratio=ratio),
            require_per_service_call_history_persistence=per_call,
        )

        async def all_runs() -> None:
            for number in range(TURNS):
                await run(agent, question(number), f"ratio {ratio}")

        asyncio.run(all_runs())
        return sum(before[1:3] != after[1:3] for before, after in itertools.pairwise(model.requests))

    assert moves(0.5) * 2 < moves(1.0)


def test_the_beginning_stays_put_in_one_run() -> None:
    beginnings = {}
    for ratio in (1.0, 0.6):
        model = Model()
        agent = make_agent(model.chat, compaction_strategy=strategy(retention_ratio=ratio))
        asyncio.run(run(agent, question(0, steps=TURNS)))
        beginnings[ratio] = len({str(request[2]) for request in model.requests[1:]})
    assert beginnings[0.6] * 1.5 <= beginnings[1.0]


def test_what_is_counted_is_what_is_sent() -> None:
    """A call is at its limit to the token: the strategy counts messages as the wire has them."""
    model = Model()
    result = asyncio.run(run(make_agent(model.chat), question(0, steps=5)))
    ring: MessageRing[Any] = MessageRing(format=MessageFormat())
    counted = sum(map(ring.count, [Message("user", [question(0, steps=5)]), *result.messages[:-1]]))
    assert counted + BESIDE == tokens(model.requests[-1])


def test_streams_are_trimmed_and_stored_too(store: Store[Message]) -> None:
    model = Model()
    agent = make_agent(model.chat, provider(store), compaction_strategy=strategy())

    async def all_runs() -> None:
        for number in range(8):
            stream = agent.run(question(number), session=agent.create_session(session_id="ada"), stream=True)
            assert "".join([update.text async for update in stream]).strip() == f"Answer to: {question(number)}"
            check_request(model.requests[-1], question(number), LIMIT)

    asyncio.run(all_runs())
    check_session(store.all("ada"))
    assert asked_in(store.all("ada")) == [question(number) for number in range(8)]
    assert store.length("ada") == 6 * 8


PROGRAM = """
import asyncio, os, sys
sys.path[:0] = sys.argv[1:3]
from agent_framework_agents import Model, make_agent, questions, run
from chatring.agent_framework import ChatringHistoryProvider, MessageFormat
from chatring.stores import open_store
model = Model()
provider = ChatringHistoryProvider(open_store("sqlite:///chat.db", format=MessageFormat()), 3000)
def find_order(number: int) -> str:
    if sys.argv[4] == "killed" and len(model.requests) == 2:
        os._exit(1)
    return "found"
agent = make_agent(model.chat, provider, tools=find_order, require_per_service_call_history_persistence=True)
result = asyncio.run(run(agent, sys.argv[3], "ada"))
print(result.text)
print(questions(model.requests[0]), flush=True)
os._exit(1)  # nothing is tidied up
"""


def run_program(folder: Path, asked: str, how: str) -> list[str]:
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tests), str(tests.parent), asked, how],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_a_session_survives_a_restart(tmp_path: Path) -> None:
    asked = [question(number, steps=1) for number in range(2)]
    for number, text in enumerate(asked):
        assert run_program(tmp_path, text, "lives") == [f"Answer to: {text}", str(asked[: number + 1])]


def test_a_process_that_dies_between_a_call_and_its_result_leaves_a_valid_session(tmp_path: Path) -> None:
    assert run_program(tmp_path, question(0), "killed") == []
    store = open_store(f"sqlite:///{tmp_path}/chat.db", format=MessageFormat())
    messages = store.all("ada")
    store.close()
    check_session(messages)
    assert [message.role for message in messages] == ["user", "assistant", "tool"]  # the first step, whole
    assert run_program(tmp_path, question(1), "lives") == [
        f"Answer to: {question(1)}", str([question(0), question(1)])
    ]  # fmt: skip


@pytest.mark.parametrize("per_call", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_runs_at_once_lose_nothing(store: Store[Message], tmp_path: Path, shared: bool, per_call: bool) -> None:
    other = open_store(f"sqlite:///{tmp_path}/chat.db?synchronous=OFF", format=MessageFormat())

    async def find_order(number: int) -> str:
        await asyncio.sleep(0.001 * number)
        return "found"

    agents = [
        make_agent(
            Model().chat,
            provider(each),
            tools=find_order,
            require_per_service_call_history_persistence=per_call,
        )
        for each in (store, other)
    ]

    async def all_runs() -> None:
        session = agents[0].create_session(session_id="ada")
        runs = [
            agents[number % 2].run(
                question(number),
                session=session if shared else agents[0].create_session(session_id="ada"),
            )
            for number in range(10)
        ]
        for number, result in enumerate(await asyncio.gather(*runs)):
            assert result.text.startswith("Answer to:") or per_call, number

    asyncio.run(all_runs())
    other.close()
    messages = store.all("ada")
    check_session(messages)
    assert sorted(asked_in(messages)) == sorted(question(number) for number in range(10))
    if not per_call:  # each run's stand together
        assert [message.role for message in messages] == 10 * [
            "user", "assistant", "tool", "assistant", "tool", "assistant"
        ]  # fmt: skip


@pytest.mark.parametrize("per_call", [False, True])
@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_run_that_ends_in_the_middle_leaves_a_valid_session(store: Store[Message], how: str, per_call: bool) -> None:
    entered = asyncio.Event()

    async def find_order(number: int) -> str:
        entered.set()
        await asyncio.sleep(60 if number else 0)  # one call is answered, the other never is
        return "found"

    model = Model()
    broken = Model()
    ours = provider(store)

    def fails(asked: str, last: int | None) -> list[int] | str:
        if last is not None and how == "failed":
            raise ZeroDivisionError
        return [0] if how == "failed" else [0, 1]

    broken.says = fails
    persistence: Any = {"require_per_service_call_history_persistence": per_call}
    agent: Agent[Any] = make_agent(model.chat, ours, **persistence)
    other: Agent[Any] = make_agent(broken.chat, ours, tools=find_order, **persistence)

    async def all_runs() -> None:
        session = agent.create_session(session_id="ada")
        await agent.run(question(0), session=session)
        task = asyncio.ensure_future(other.run(question(1), session=session))
        if how == "cancelled":
            await entered.wait()
            task.cancel()
        with pytest.raises(BaseException):  # noqa: B017, PT011
            await task
        check_session(store.all("ada"))
        await agent.run(question(2), session=session)

    asyncio.run(all_runs())
    check_session(store.all("ada"))
    check_request(model.requests[-1], question(2), LIMIT)
    asked = asked_in(store.all("ada"))
    assert asked == [question(number) for number in ([0, 1, 2] if per_call else [0, 2])]
