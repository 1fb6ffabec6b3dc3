"""LlamaIndex's `Memory`, ours, and pure Python that does the same: puts, gets, `aset`, and the turn of an agent.

All are awaited on one event loop, one call after the other: LlamaIndex's in-memory store loses messages otherwise.
Within each test they take turns, as a disk, or a shared machine, is ten times as fast in one second as in another. What
they hold is compared before they are timed and afterwards.

Messages have 39 tokens. SQLite is in files, with each side's own settings: of LlamaIndex those of the driver, a
rollback journal; of ours WAL with `synchronous=FULL`. Both wait for the disk at each put. PostgreSQL and Valkey have
the settings that `test_stores.py` names.
"""

import asyncio
import gc
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from chatring.llama_index import Memory, RedisChatStore, SQLChatStore
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory as LlamaIndexMemory
from llama_index.core.storage.chat_store.base_db import MessageStatus
from pytest_benchmark.fixture import BenchmarkFixture
from stores.servers import has_valkey

from benches import store_names
from benches.conftest import Label
from benches.contenders import ENCODE
from benches.memory_names import (
    GET,
    LLAMA_INDEX,
    LLAMA_INDEX_FILE,
    POSTGRESQL,
    PUT,
    RING,
    SET,
    SQLITE,
    SQLITE_SYNC,
    STEADY_PUT,
    TURN,
    TWIN,
    VALKEY,
)
from benches.memory_twin import MemoryTwin
from benches.store_backends import Backend, started

TOKENS = 39
# LlamaIndex's own; what a session has at that limit; and puts, and turns, from one flush to the next.
LIMIT, FLUSH = 30_000, 3_000
FULL, CYCLE, TURNS = 540, 78, 24
# Puts of a round where nothing leaves.
PUTS = 50
# A limit and a flush size with which `aset` and one put are many rounds.
SMALL_LIMIT, SMALL_FLUSH, SET_MESSAGES = 3_000, 300, 5_000
NO_LIMIT = 1_000_000_000

SLOW = (LLAMA_INDEX, LLAMA_INDEX_FILE)
# Rounds of the others, and the number of them in which LlamaIndex's are timed too.
ROUNDS, SLOW_ROUNDS = 21, 3

# Texts are made of these words, as long as they are in prose.
PROSE = """
The parcel that you asked about left our warehouse in Turin on May 7 and should reach the address by Friday, if it is
not held at the border. I have opened a claim with the carrier, who will answer within two working days; until then
nothing is charged. Could you please tell me whether the invoice of 48.50 EUR from June was paid, and which of the three
accounts we may close? We found a second order, no. 60271, placed 11 minutes after the first one, so it may be that the
form was sent twice. Attached is a photograph of the damaged corner: the label is still readable, and the seal looks
intact.
"""

Messages = list[ChatMessage]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class AnyMemory(Protocol):
    """What is timed."""

    async def aput(self, message: ChatMessage) -> None: ...

    async def aput_messages(self, messages: Messages) -> None: ...

    async def aset(self, messages: Messages) -> None: ...

    async def aget(self) -> Messages: ...

    async def aget_all(self, status: MessageStatus) -> Messages: ...


class SyncMemory:
    """A memory by its sync methods."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def aput(self, message: ChatMessage) -> None:
        self._memory.put(message)

    async def aput_messages(self, messages: Messages) -> None:
        self._memory.put_messages(messages)

    async def aset(self, messages: Messages) -> None:
        self._memory.set(messages)

    async def aget(self) -> Messages:
        return self._memory.get()

    async def aget_all(self, status: MessageStatus) -> Messages:
        return self._memory.get_all(status)


class Contenders:
    """Makes memories of all contenders, each with a session of its own, and closes what they were made of."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run, self._folder = run, folder
        self._theirs: list[LlamaIndexMemory] = []
        self._backends: list[Backend] = []
        self._stores: dict[str, Any] = {SQLITE: SQLChatStore(f"sqlite:///{folder / 'ours.db'}")}
        for name, server, store in (
            (POSTGRESQL, store_names.POSTGRESQL, SQLChatStore),
            (VALKEY, store_names.VALKEY, RedisChatStore),
        ):
            if name != VALKEY or has_valkey():
                self._backends.append(started(server, folder))
                self._stores[name] = store(self._backends[-1].url)

    def all(self, limit: int = NO_LIMIT, flush: int = FLUSH) -> dict[str, AnyMemory]:
        """Return a memory of each. The first is ours in this process: the others are compared with it."""
        limits: dict[str, Any] = {"token_limit": limit, "token_flush_size": flush, "tokenizer_fn": ENCODE}
        ours = {name: Memory.from_defaults(chat_store=store, **limits) for name, store in self._stores.items()}
        return {
            RING: Memory.from_defaults(**limits),
            TWIN: MemoryTwin(limit, flush, ENCODE),
            **ours,
            SQLITE_SYNC: SyncMemory(Memory.from_defaults(chat_store=self._stores[SQLITE], **limits)),
            **{name: self.theirs(name, limit, flush) for name in SLOW},
        }

    def theirs(self, name: str, limit: int, flush: int) -> AnyMemory:
        """Return one of LlamaIndex's, in a database of its own: other sessions in the same one make it slower."""
        path = self._folder / f"theirs {len(self._theirs)}.db"
        memory = LlamaIndexMemory.from_defaults(
            token_limit=limit,
            token_flush_size=flush,
            tokenizer_fn=ENCODE,
            async_database_uri=f"sqlite+aiosqlite:///{path}" if name == LLAMA_INDEX_FILE else None,
        )
        self._theirs.append(memory)
        return memory

    def close(self) -> None:
        for memory in self._theirs:
            store: Any = memory.sql_store
            if store._async_engine is not None:
                self._run(store._async_engine.dispose())
        for store in self._stores.values():
            self._run(store.store.aclose())
        for backend in self._backends:
            backend.close()


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="module")
def contenders(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contenders]:
    contenders = Contenders(run, tmp_path_factory.mktemp("memory"))
    yield contenders
    contenders.close()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of 39 tokens."""
    number = random.Random(0)
    texts: list[str] = []
    while len(texts) < SET_MESSAGES:
        words = number.choices(PROSE.split(), k=TOKENS)
        while len(ENCODE(text := " ".join(words))) > TOKENS:
            words.pop()
        if len(ENCODE(text)) == TOKENS:
            texts.append(text)
    assert 160 < sum(map(len, texts)) / len(texts) < 180
    return texts


class Conversation:
    """Messages without end, the same at every time, and each an object with a text of its own."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = (text[:1] + text[1:] for text in itertools.cycle(texts))
        self._roles = itertools.cycle(("user", "assistant"))

    def next(self, count: int) -> Messages:
        """Return the next messages: questions and answers."""
        return [ChatMessage(role=next(self._roles), content=next(self._texts)) for _ in range(count)]

    def turn(self) -> Messages:
        """Return a question, a call, its result, and an answer."""
        asked, result, answer = (next(self._texts) for _ in range(3))
        call = ToolCallBlock(tool_call_id="call_1", tool_name="find_order", tool_kwargs={"number": 60271})
        return [
            ChatMessage(role="user", content=asked),
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", content=result, additional_kwargs={"tool_call_id": "call_1"}),
            ChatMessage(role="assistant", content=answer),
        ]


Prepare = Callable[[str, AnyMemory, int], Awaitable[list[Any]]]
Act = Callable[[AnyMemory, Any], Awaitable[object]]


def in_turns(
    benchmark: BenchmarkFixture, run: Run, memories: dict[str, AnyMemory], prepare: Prepare, act: Act, calls: int
) -> int:
    """Time contenders in turns, the first one by `benchmark`.

    Args:
        benchmark: times the first.
        run: runs coroutines. Entering the event loop is timed, so a round is many calls.
        memories: by the contenders' names.
        prepare: is given a contender and a number of calls before each round, and returns their arguments.
        act: what is timed.
        calls: how many there are in a round.

    Returns:
        How many rounds there were: one if the benchmark is disabled.
    """
    (first, memory), *others = memories.items()
    timer, order = benchmark._timer, random.Random(0)  # the timer of --benchmark-timer
    seconds: dict[str, list[float]] = {name: [] for name, _ in others}
    rounds = itertools.count()

    def time_others() -> tuple[tuple[Any, ...], dict[str, Any]]:
        is_slow_round = next(rounds) % (ROUNDS // SLOW_ROUNDS) == 0
        order.shuffle(others)  # when the next one's turn comes, the disk may still be busy with what this one wrote
        for name, other in others:
            if name in SLOW and not is_slow_round:
                continue
            arguments = run(_list(prepare(name, other, calls)))
            gc.disable()  # as pytest-benchmark does for the first
            begun = timer()
            run(_all(act, other, arguments))
            seconds[name].append((timer() - begun) / len(arguments))
            gc.enable()
        return (act, memory, run(_list(prepare(first, memory, calls)))), {}

    benchmark.pedantic(lambda *arguments: run(_all(*arguments)), setup=time_others, rounds=ROUNDS)
    benchmark.extra_info.update(in_turns_with=seconds, calls=calls)
    return ROUNDS if benchmark.enabled else 1


async def _list(arguments: Awaitable[list[Any]]) -> list[Any]:
    return await arguments


async def _all(act: Act, memory: AnyMemory, arguments: list[Any]) -> None:
    for argument in arguments:
        await act(memory, argument)


async def put(memory: AnyMemory, message: ChatMessage) -> None:
    await memory.aput(message)


async def get(memory: AnyMemory, _: object) -> Messages:
    return await memory.aget()


async def take_turn(memory: AnyMemory, turn: Messages) -> Messages:
    """Do what LlamaIndex's FunctionAgent does with its memory for an answer that takes one call of a tool."""
    await memory.aput(turn[0])
    await memory.aget()
    await memory.aget()  # after the call
    await memory.aput_messages(turn[1:])
    return await memory.aget()


async def check_same(memories: dict[str, AnyMemory]) -> None:
    """Fail unless all have the same active and archived messages."""
    (_, first), *others = memories.items()
    for status in MessageStatus:
        expected = await first.aget_all(status)
        for name, other in others:
            assert await other.aget_all(status) == expected, (name, status)


async def check_same_after(memories: dict[str, AnyMemory]) -> None:
    """As `check_same`, among those that were timed equally often."""
    await check_same({name: memory for name, memory in memories.items() if name not in SLOW})
    await check_same({name: memories[name] for name in SLOW})


@pytest.mark.parametrize("size", [1_000, 5_000])
def test_put(
    benchmark: BenchmarkFixture, contenders: Contenders, run: Run, texts: list[str], label: Label, size: int
) -> None:
    """A limit so large that nothing leaves."""
    memories = contenders.all()
    history = Conversation(texts).next(size)
    new = {name: Conversation(texts) for name in memories}
    for name, memory in memories.items():
        run(memory.aput_messages(history))
        run(memory.aput(new[name].next(1)[0]))
    run(check_same(memories))

    async def prepare(name: str, memory: AnyMemory, calls: int) -> Messages:
        if name in SLOW:  # it grows by three messages a round
            return new[name].next(3)
        await memory.aset(history)
        return new[name].next(calls)

    label(PUT, RING, messages=size)
    in_turns(benchmark, run, memories, prepare, put, PUTS)
    run(check_same_after(memories))


def test_put_at_the_limit(
    benchmark: BenchmarkFixture, contenders: Contenders, run: Run, texts: list[str], label: Label
) -> None:
    """Puts from one flush to the next, at LlamaIndex's own limit."""
    memories = contenders.all(LIMIT)
    new = {name: Conversation(texts) for name in memories}
    for name, memory in memories.items():
        run(memory.aput_messages(new[name].next(FULL)))
        run(_all(put, memory, new[name].next(CYCLE)))
    run(check_same(memories))
    archived = len(run(memories[RING].aget_all(MessageStatus.ARCHIVED)))

    async def prepare(name: str, _: AnyMemory, calls: int) -> Messages:
        return new[name].next(calls)

    label(STEADY_PUT, RING, limit=LIMIT)
    rounds = in_turns(benchmark, run, memories, prepare, put, CYCLE)
    run(check_same_after(memories))
    assert len(run(memories[RING].aget_all(MessageStatus.ARCHIVED))) == archived + CYCLE * rounds


def test_get(benchmark: BenchmarkFixture, contenders: Contenders, run: Run, texts: list[str], label: Label) -> None:
    """Everything that the default limit holds."""
    memories = contenders.all(LIMIT)
    history = Conversation(texts).next(FULL)
    for memory in memories.values():
        run(memory.aset(history))
        assert run(memory.aget()) == history
    run(check_same(memories))

    async def prepare(name: str, _: AnyMemory, calls: int) -> list[None]:
        return [None] * (1 if name in SLOW else calls)

    label(GET, RING, messages=FULL)
    in_turns(benchmark, run, memories, prepare, get, 10)


# What LlamaIndex's have after the one time that each is timed: active and archived messages. They come first.
answers: list[tuple[Messages, Messages]] = []


@pytest.mark.parametrize("name", [LLAMA_INDEX, pytest.param(LLAMA_INDEX_FILE, marks=pytest.mark.full)])
def test_set_of_llama_index(
    benchmark: BenchmarkFixture, contenders: Contenders, run: Run, texts: list[str], label: Label, name: str
) -> None:
    """Half a minute: once."""
    memory = contenders.theirs(name, SMALL_LIMIT, SMALL_FLUSH)
    label(SET, name, messages=SET_MESSAGES)
    history = Conversation(texts).next(SET_MESSAGES + 1)
    benchmark.pedantic(lambda: run(set_and_put(memory, history)))  # once
    answers.append((run(memory.aget()), run(memory.aget_all(MessageStatus.ARCHIVED))))


def test_set(benchmark: BenchmarkFixture, contenders: Contenders, run: Run, texts: list[str], label: Label) -> None:
    memories = {name: memory for name, memory in contenders.all(SMALL_LIMIT, SMALL_FLUSH).items() if name not in SLOW}
    history = Conversation(texts).next(SET_MESSAGES + 1)
    for name, memory in memories.items():
        run(set_and_put(memory, history))
        for active, archived in answers:
            assert run(memory.aget()) == active, name
            assert run(memory.aget_all(MessageStatus.ARCHIVED)) == archived, name
    run(check_same(memories))

    async def prepare(*_: object) -> list[Messages]:
        return [history]

    label(SET, RING, messages=SET_MESSAGES)
    in_turns(benchmark, run, memories, prepare, set_and_put, 1)
    run(check_same(memories))


async def set_and_put(memory: AnyMemory, history: Messages) -> None:
    await memory.aset(history[:-1])
    await memory.aput(history[-1])


def test_turn(benchmark: BenchmarkFixture, contenders: Contenders, run: Run, texts: list[str], label: Label) -> None:
    """The turn of an agent, at LlamaIndex's own limit: turns from one flush to the next."""
    memories = contenders.all(LIMIT)
    new = {name: Conversation(texts) for name in memories}
    for name, memory in memories.items():
        run(memory.aput_messages([message for _ in range(FULL // 3) for message in new[name].turn()]))
        run(take_turn(memory, new[name].turn()))
    run(check_same(memories))

    async def prepare(name: str, _: AnyMemory, calls: int) -> list[Messages]:
        return [new[name].turn() for _ in range(calls)]

    label(TURN, RING, limit=LIMIT)
    in_turns(benchmark, run, memories, prepare, take_turn, TURNS)
    run(check_same_after(memories))
