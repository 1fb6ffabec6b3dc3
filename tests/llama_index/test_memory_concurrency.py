"""`Memory` under concurrency: nothing acknowledged is lost, and memory blocks get what is archived exactly once.

As a program this file forks writers, for the tests of several processes: see `nursery`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import copy
import faulthandler
import functools
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar
from unittest.mock import Mock

import pytest
import tiktoken
from chatring.llama_index import Memory, RedisChatStore, RingMemoryStore, SQLChatStore
from chatring.llama_index.background_loop import BLOCKS, STORES
from chatring.llama_index.store_chat_store import StoreChatStore
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemoryBlock, StaticMemoryBlock
from llama_index.core.schema import ImageDocument
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from profiles import LONG, slow
from pydantic import Field, PrivateAttr
from stores.conftest import postgres_server, postgres_url, sqlite_url, valkey_server, valkey_url
from timing import wait_until

T = TypeVar("T")

FIXTURES = (postgres_server, postgres_url, sqlite_url, valkey_server, valkey_url)

# How much more is done in the long profile.
TIMES = 10 if LONG else 1
LIMIT, RATIO, SIZE = 100, 0.7, 20
HIGH = LIMIT * RATIO
ROLES = ("user", "assistant", "tool")
# After so many seconds a child counts as deadlocked.
PATIENCE = 60
ARCHIVED, ACTIVE = MessageStatus.ARCHIVED, MessageStatus.ACTIVE

OURS = ("ring", "sqlite", "postgresql", "valkey")
DATABASES = ("sqlite", "postgresql", "valkey")
THEIRS = ("list", "sqlalchemy in memory", "sqlalchemy on a file")

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
# The warning of Python 3.12 and later about a fork beside threads.
FORK_WARNING = "ignore:This process .* is multi-threaded:DeprecationWarning"


class ListStore(AsyncDBChatStore):
    """A store of LlamaIndex's interface, on lists. Each method is one step; others go on before and after it."""

    _rows: dict[str, list[tuple[MessageStatus, ChatMessage]]] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        async with self._step():
            found = [message for state, message in self._rows.get(key, []) if status in (None, state)]
            return [message.model_copy(deep=True) for message in found]

    async def count_messages(self, key: str, status: MessageStatus | None = ACTIVE) -> int:
        return len(await self.get_messages(key, status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = ACTIVE) -> None:
        await self.add_messages(key, [message], status)

    async def add_messages(self, key: str, messages: list[ChatMessage], status: MessageStatus = ACTIVE) -> None:
        async with self._step():
            self._rows.setdefault(key, []).extend((status, message) for message in messages)

    async def set_messages(self, key: str, messages: list[ChatMessage], status: MessageStatus = ACTIVE) -> None:
        async with self._step():
            self._rows[key] = [(status, message) for message in messages]

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        raise NotImplementedError

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        async with self._step():
            kept = [row for row in self._rows.pop(key, []) if status not in (None, row[0])]
            if kept:
                self._rows[key] = kept

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        raise NotImplementedError

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        async with self._step():
            rows = self._rows.get(key, [])
            places = [place for place, (status, _) in enumerate(rows) if status == ACTIVE][:n]
            for place in places:
                rows[place] = (ARCHIVED, rows[place][1])
            return [rows[place][1] for place in places]

    async def get_keys(self) -> list[str]:
        return list(self._rows)

    @contextlib.asynccontextmanager
    async def _step(self) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        with self._lock:
            yield
        await asyncio.sleep(0)


class Noting(BaseMemoryBlock[str]):
    """Notes what it is given, and lets others go on before and after that."""

    name: str = "noting"
    batches: list[list[str]] = Field(default_factory=list)

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        await asyncio.sleep(0)
        return ""

    async def _aput(self, messages: list[ChatMessage]) -> None:
        await asyncio.sleep(0)
        self.batches.append(texts(messages))
        await asyncio.sleep(0)


class Calling(Noting):
    """Calls something whenever it is given messages, or asked."""

    name: str = "calling"
    on_put: Callable[[list[ChatMessage]], Coroutine[Any, Any, None]] | None = None
    on_get: Callable[[], Coroutine[Any, Any, str]] | None = None

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        return "" if self.on_get is None else await self.on_get()

    async def _aput(self, messages: list[ChatMessage]) -> None:
        await super()._aput(messages)
        if self.on_put is not None:
            await self.on_put(messages)


def static_block(content: Any = "known", **fields: Any) -> StaticMemoryBlock:
    return StaticMemoryBlock(**{"name": "static", "static_content": content, **fields})


# --- what is put, and what becomes of it by LlamaIndex's rule ---------------------------------------------------------


def texts(messages: list[ChatMessage]) -> list[str]:
    return [str(message.content) for message in messages]


def calls_of(writer: str, count: int) -> Iterator[list[ChatMessage]]:
    """Yield what a writer puts: in each call one message, in every fifth three. The text is writer, number, call."""
    numbers = itertools.count()
    for call in range(count):
        yield [
            ChatMessage(f"{writer} {number} {call}" + " and more" * (number % 7), role=ROLES[number % 3])
            for number in itertools.islice(numbers, 3 if call % 5 == 4 else 1)
        ]


def put(memory: Memory, messages: list[ChatMessage]) -> list[str]:
    """Put messages, and return their texts: they are acknowledged."""
    if len(messages) == 1:
        memory.put(messages[0])
    else:
        memory.put_messages(messages)
    return texts(messages)


async def aput(memory: Memory, messages: list[ChatMessage]) -> list[str]:
    if len(messages) == 1:
        await memory.aput(messages[0])
    else:
        await memory.aput_messages(messages)
    return texts(messages)


@functools.cache
def tokens(text: str) -> int:
    return len(tiktoken.get_encoding("cl100k_base").encode(text))


def flushed(queue: list[ChatMessage]) -> list[list[str]]:
    """Take the oldest messages out of a queue by LlamaIndex's rule, read literally; return them, a list a round."""
    rounds = []
    while len(queue) > 1 and sum(tokens(text) for text in texts(queue)) > HIGH:
        last, count, spent = len(queue) - 1, 0, 0
        while spent < SIZE and count < last:
            spent += tokens(str(queue[count].content))
            count += 1
        while count < last and queue[count].role != "user":
            count += 1
        if count == last and queue[last].role != "user" and count:
            count = next((place for place in range(last, -1, -1) if queue[place].role == "user"), len(queue))
        if not count:
            break
        rounds.append(texts(queue[:count]))
        del queue[:count]
    return rounds


def replayed(history: list[ChatMessage]) -> tuple[list[list[list[str]]], list[str]]:
    """Return what is archived in each call, in rounds, when a history is put call by call, and what stays."""
    queue: list[ChatMessage] = []
    calls = []
    for _, messages in itertools.groupby(history, lambda message: str(message.content).split()[:3:2]):
        queue += messages
        calls.append(flushed(queue))
    return calls, texts(queue)


class Found(NamedTuple):
    """What a session has."""

    history: list[ChatMessage]
    archived: list[str]
    active: list[str]
    delivered: list[list[str]]


def found(memory: Memory, delivered: list[list[str]]) -> Found:
    return Found(memory.get_all(), texts(memory.get_all(ARCHIVED)), texts(memory.get_all(ACTIVE)), delivered)


def check(session: Found, acknowledged: dict[str, list[str]]) -> None:
    """Every acknowledged message is there once, in its writer's order, and was archived and delivered by the rule.

    A call is one step, so the order in which they are stored says what has left, in which batches.
    """
    assert texts(session.history) == session.archived + session.active
    by_writer: dict[str, list[str]] = defaultdict(list)
    for text in texts(session.history):
        by_writer[text.split()[0]].append(text)
    assert by_writer == {writer: put for writer, put in acknowledged.items() if put}
    assert Counter(itertools.chain(*session.delivered)) == Counter(session.archived)
    calls, stays = replayed(session.history)
    assert session.active == stays
    assert Counter(map(tuple, session.delivered)) == Counter(tuple(batch) for rounds in calls for batch in rounds)


# --- the stores -------------------------------------------------------------------------------------------------------


def opened(url: str, **options: Any) -> StoreChatStore:
    return RedisChatStore(url, **options) if url.startswith("redis") else SQLChatStore(url, **options)


def new_memory(store: Any, *blocks: BaseMemoryBlock[Any], **fields: Any) -> Memory:
    values: dict[str, Any] = {
        "token_limit": LIMIT,
        "chat_history_token_ratio": RATIO,
        "token_flush_size": SIZE,
        "session_id": "ada",
    }
    return Memory(sql_store=store, memory_blocks=list(blocks), **(values | fields))


@contextlib.contextmanager
def new_store(kind: str, url_of: Callable[[str], str], folder: Path, **options: Any) -> Iterator[Any]:
    """Return an empty store; afterwards close its connections, also those of the sync calls' loop."""
    if kind == "ring":
        yield RingMemoryStore()
    elif kind == "list":
        yield ListStore()
    elif kind.startswith("sqlalchemy"):
        uri = f"sqlite+aiosqlite:///{folder / 'theirs.db'}" if kind.endswith("file") else None
        chat_store = SQLAlchemyChatStore("messages", uri)
        try:
            yield chat_store
        finally:
            if chat_store._async_engine is not None:
                STORES.run(chat_store._async_engine.dispose())
    else:
        store = opened(url_of(kind), **options)
        try:
            yield store
        finally:
            BLOCKS.run(store.store.aclose())
            store.store.close()


@pytest.fixture
def url_of(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """The URL of an empty database of a kind."""
    names = {"sqlite": "sqlite_url", "postgresql": "postgres_url", "valkey": "valkey_url"}
    # These tests are not about power cuts, and would mostly wait for the disk.
    options = {"sqlite": "?synchronous=OFF"}
    return lambda kind: str(request.getfixturevalue(names[kind])) + options.get(kind, "")


@pytest.fixture
def store(request: pytest.FixtureRequest, url_of: Callable[[str], str], tmp_path: Path) -> Iterator[Any]:
    with new_store(request.param, url_of, tmp_path) as store:
        yield store


on_ours = pytest.mark.parametrize("store", OURS, indirect=True)
on_all = pytest.mark.parametrize("store", [*OURS, *THEIRS], indirect=True)


# Without a block a put is not the same code; it is where a database is only written to.
with_and_without_a_block = pytest.mark.parametrize(
    ("store", "blocks"),
    [*((kind, 1) for kind in (*OURS, *THEIRS)), ("ring", 0), ("postgresql", 0), ("list", 0)],
    indirect=["store"],
)


def awaited(store: Any, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own, and close the connections that belong to it."""

    async def run() -> T:
        try:
            return await work
        finally:
            if isinstance(store, StoreChatStore):
                await store.store.aclose()

    return asyncio.run(run())


async def of_all_tasks() -> None:
    """Wait for the tasks that go on although nobody waits for them."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


def in_threads(*works: Callable[[], Any]) -> None:
    """Run all of them at the same time, and raise the first error."""
    errors: list[BaseException] = []
    begin = threading.Barrier(len(works))

    def guarded(work: Callable[[], Any]) -> None:
        try:
            begin.wait(PATIENCE)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600 * TIMES)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a deadlock"


# --- nothing is lost --------------------------------------------------------------------------------------------------


@slow
@on_all
def test_one_writer_and_one_reader(store: Any) -> None:
    block = Noting()
    memory, reading = new_memory(store, block), new_memory(store, block)
    acknowledged: dict[str, list[str]] = {"ann": []}
    windows: list[list[str]] = []

    async def write() -> None:
        for messages in calls_of("ann", 120 * TIMES):
            acknowledged["ann"] += await aput(memory, messages)
            await asyncio.sleep(0)

    async def read(writer: asyncio.Task[None]) -> None:
        while not writer.done() or len(windows) < 30:
            windows.append(texts(await reading.aget()))
            await asyncio.sleep(0)

    async def both() -> None:
        writer = asyncio.create_task(write())
        await read(writer)
        await writer

    awaited(store, both())
    check(found(memory, block.batches), acknowledged)
    assert len(windows) > 20
    places = [[acknowledged["ann"].index(text) for text in window] for window in windows]
    # Every window is of one moment, and none is older than the one before.
    assert all(place == list(range(place[0], place[0] + len(place))) for place in places if place)
    ends = [place[-1] for place in places if place]
    assert ends == sorted(ends)
    print(f"{len(acknowledged['ann'])} messages put, {len(windows)} windows read, none lost")


@slow
@with_and_without_a_block
def test_twenty_puts_at_a_time(store: Any, blocks: int) -> None:
    noting = [Noting() for _ in range(blocks)]
    memory = new_memory(store, *noting)
    writers = {f"writer{number}": calls_of(f"writer{number}", 6 * TIMES) for number in range(20)}
    acknowledged: dict[str, list[str]] = {writer: [] for writer in writers}

    async def write() -> None:
        for calls in zip(*writers.values(), strict=True):
            for writer, done in zip(
                writers, await asyncio.gather(*(aput(memory, call) for call in calls)), strict=True
            ):
                acknowledged[writer] += done

    awaited(store, write())
    # Without a block nobody notes what has left: the rule says what it was.
    delivered = noting[0].batches if noting else [b for rounds in replayed(memory.get_all())[0] for b in rounds]
    check(found(memory, delivered), acknowledged)
    print(f"{len(memory.get_all())} messages put, 20 at a time, none lost")


@slow
@on_all
@pytest.mark.usefixtures("hectic")
def test_eight_threads(store: Any) -> None:
    """Each with a memory of its own, as of a request, and a block that all share; and a ninth one with a loop."""
    block = Noting()
    acknowledged: dict[str, list[str]] = {f"writer{number}": [] for number in range(9)}

    def write(writer: str) -> None:
        memory = new_memory(store, block)
        for messages in calls_of(writer, 20 * TIMES):
            acknowledged[writer] += put(memory, messages)

    async def write_in_a_loop(writer: str) -> None:
        memory = new_memory(store, block)
        for messages in calls_of(writer, 20 * TIMES):
            acknowledged[writer] += await aput(memory, messages)

    *writers, last = acknowledged
    in_threads(*(functools.partial(write, writer) for writer in writers), lambda: awaited(store, write_in_a_loop(last)))
    memory = new_memory(store)
    check(found(memory, block.batches), acknowledged)
    print(f"{len(memory.get_all())} messages put by nine threads, none lost")


@pytest.mark.parametrize("store", ["ring", "list"], indirect=True)
def test_no_source_is_parsed(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 does so wrongly, now and then, in several threads: https://github.com/python/cpython/issues/106905."""
    parse = Mock(wraps=ast.parse)
    with monkeypatch.context() as patch:
        patch.setattr(ast, "parse", parse)
        memory = new_memory(store, Noting(), tokenizer_fn=lambda text: text.split())
        memory.put(ChatMessage("words"))
        window = memory.get()
    assert texts(window) == ["words"]
    parse.assert_not_called()


@slow
@pytest.mark.parametrize("store", ["list"], indirect=True)
@pytest.mark.usefixtures("hectic")
def test_threads_that_use_a_store_of_somebody_elses_first(store: Any) -> None:
    """All of them find the same turns, although nothing is known of the store yet."""
    for run in range(60 * TIMES):
        block = Noting()
        memories = [new_memory(store, block, session_id=str(run)) for _ in range(4)]
        calls = [next(calls_of(f"writer{number}", 1)) for number in range(4)]
        in_threads(*(functools.partial(put, memory, call) for memory, call in zip(memories, calls, strict=True)))
        check(found(memories[0], block.batches), {f"writer{n}": texts(call) for n, call in enumerate(calls)})


@slow
@pytest.mark.parametrize("store", ["sqlalchemy in memory", "sqlalchemy on a file"], indirect=True)
def test_sessions_that_begin_at_the_same_time_in_a_store_of_somebody_elses(store: Any) -> None:
    """LlamaIndex's store makes its table at the first use."""
    memories = [new_memory(store, session_id=str(number)) for number in range(10)]
    acknowledged: list[list[str]] = [[] for _ in memories]

    async def write(number: int) -> None:
        for messages in calls_of("ann", 5):
            acknowledged[number] += await aput(memories[number], messages)
            await memories[number].aget()

    async def all_of_them() -> None:
        await asyncio.gather(*map(write, range(len(memories))), *(memory.aget() for memory in memories))

    asyncio.run(all_of_them())
    assert [texts(memory.get_all()) for memory in memories] == acknowledged


# --- several processes ------------------------------------------------------------------------------------------------


class Logging(BaseMemoryBlock[str]):
    """Writes what it is given to a file: a line of JSON a batch."""

    name: str = "logging"
    file: int

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        return ""

    async def _aput(self, messages: list[ChatMessage]) -> None:
        os.write(self.file, json.dumps(texts(messages)).encode() + b"\n")


def write_and_log(writer: str, url: str, log: str, count: int, pause: float) -> None:
    """Put what a writer puts, with a pause after each call.

    The log has what was acknowledged, as a str each, and what was delivered, as lists.
    """
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    store = opened(url)
    memory = new_memory(store, Logging(file=file))
    for messages in calls_of(writer, count):
        for text in put(memory, messages):
            os.write(file, json.dumps(text).encode() + b"\n")
        time.sleep(pause)
    BLOCKS.run(store.store.aclose())
    store.store.close()


def nursery() -> None:
    """Start writers by forking, which takes less than importing LlamaIndex for each of them.

    A line of the input is JSON: the arguments of `write_and_log` start a writer, and its process is printed; the number
    of a process waits for its end, and its status is printed. When the input ends, all of them end.
    """
    running: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(order, 0)[1])
            running.remove(order)
        elif answer := os.fork():
            running.add(answer)
        else:
            try:
                write_and_log(*order)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
                os._exit(1)
            os._exit(0)
        print(answer, flush=True)
    for process in running:
        os.kill(process, signal.SIGKILL)


class Writers:
    """Processes that write, with their logs in a folder."""

    def __init__(self, nursery: subprocess.Popen[str], url: str, folder: Path) -> None:
        self._nursery, self._url, self._folder = nursery, url, folder
        self.names: list[str] = []
        self.running: dict[str, int] = {}

    def start(self, count: int, pause: float = 0) -> None:
        name = f"process{len(self.names)}"
        self.names.append(name)
        self.running[name] = self._asked([name, self._url, str(self._folder / name), count, pause])

    def wait(self, name: str) -> int:
        """Wait for a process's end, and return its status."""
        return self._asked(self.running.pop(name))

    def kill(self, name: str) -> None:
        """Kill a process that has put something."""
        deadline = time.monotonic() + 5 * PATIENCE
        while not self.log(name):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(self.running[name], signal.SIGKILL)
        assert self.wait(name) == -signal.SIGKILL

    def log(self, name: str) -> list[Any]:
        log = self._folder / name
        lines = log.read_text(encoding="utf-8") if log.exists() else ""
        return [json.loads(line) for line in lines.splitlines()]

    def acknowledged(self) -> dict[str, list[str]]:
        return {name: [line for line in self.log(name) if isinstance(line, str)] for name in self.names}

    def delivered(self) -> list[list[str]]:
        return [line for name in self.names for line in self.log(name) if isinstance(line, list)]

    def _asked(self, order: Any) -> int:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())


@pytest.fixture(scope="module")
def nursery_process() -> Iterator[subprocess.Popen[str]]:
    found = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(found)}
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


@pytest.fixture(params=DATABASES)
def writers(
    request: pytest.FixtureRequest,
    url_of: Callable[[str], str],
    nursery_process: subprocess.Popen[str],
    tmp_path: Path,
) -> Iterator[tuple[Writers, StoreChatStore]]:
    url = url_of(request.param)
    store = opened(url)
    yield Writers(nursery_process, url, tmp_path), store
    store.store.close()


@slow
@forks
def test_three_processes(writers: tuple[Writers, StoreChatStore]) -> None:
    processes, store = writers
    for _ in range(3):
        processes.start(60 * TIMES)
    assert [processes.wait(name) for name in processes.names] == [0, 0, 0]
    memory = new_memory(store)
    check(found(memory, processes.delivered()), processes.acknowledged())
    print(f"{len(memory.get_all())} messages put by three processes, none lost")


@slow
@forks
def test_processes_that_are_killed(writers: tuple[Writers, StoreChatStore]) -> None:
    """What a killed writer has archived may never be delivered: at most one call's, and nothing twice."""
    processes, store = writers
    random = Random(str(writers))  # addresses are in it: other moments in every run
    kills = 4 * TIMES
    for _ in range(3):
        processes.start(10**6, 0.002)
    for _ in range(kills):
        time.sleep(random.uniform(0, 0.03))
        processes.kill(random.choice(list(processes.running)))
        processes.start(10**6, 0.002)
    for name in list(processes.running):
        processes.kill(name)
        kills += 1
    memory = new_memory(store)
    last = ChatMessage("the last one")
    memory.put(last)  # a change of a process that was killed may be under way; this one comes after it
    session = found(memory, processes.delivered())
    history = session.history[:-1]
    assert texts(session.history) == session.archived + session.active
    calls, _ = replayed(session.history)
    acknowledged, unknown = processes.acknowledged(), 0
    for writer, done in acknowledged.items():
        there = [text for text in texts(history) if text.split()[0] == writer]
        assert there[: len(done)] == done
        assert len({text.split()[2] for text in there[len(done) :]}) <= 1  # of the call that was killed, as a whole
        unknown += len(there) - len(done)
    delivered = Counter(map(tuple, session.delivered))
    archived = Counter(tuple(batch) for rounds in calls for batch in rounds)
    assert delivered <= archived
    assert [text for rounds in calls for batch in rounds for text in batch] == session.archived
    missing = [rounds for rounds in calls[:-1] if any(tuple(batch) not in delivered for batch in rounds)]
    assert len(missing) <= kills
    print(
        f"{kills} processes killed; {sum(map(len, acknowledged.values()))} messages acknowledged, none lost; {unknown} "
        f"more stored; {len(session.archived)} archived, the batches of {len(missing)} calls not delivered, none twice"
    )


# --- cancelled, and failing -------------------------------------------------------------------------------------------


@slow
@with_and_without_a_block
def test_puts_that_are_cancelled(store: Any, blocks: int) -> None:
    """A cancelled put has stored all or nothing, and what it archives is delivered all the same."""
    noting = [Noting() for _ in range(blocks)]
    memory = new_memory(store, *noting)
    random = Random(0)
    acknowledged: list[str] = []
    cancelled: set[str] = set()

    async def write() -> None:
        took = [0.0]
        for number, messages in enumerate(calls_of("ann", 100 * TIMES)):
            begun = time.perf_counter()
            task = asyncio.create_task(aput(memory, messages))
            if number < 10:
                await task
                took.append(time.perf_counter() - begun)
            elif random.random() < 0.5:
                for _ in range(random.randrange(7)):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(random.uniform(0, 2 * sorted(took)[len(took) // 2]))
            task.cancel()
            try:
                acknowledged.extend(await task)
            except asyncio.CancelledError:
                cancelled.update(texts(messages))
        await of_all_tasks()

    awaited(store, write())
    history = texts(memory.get_all())
    assert len(set(history)) == len(history)
    assert [text for text in history if text not in cancelled] == acknowledged
    delivered = noting[0].batches if noting else [b for rounds in replayed(memory.get_all())[0] for b in rounds]
    check(found(memory, delivered), {"ann": history})
    assert cancelled
    print(f"{len(acknowledged)} messages acknowledged, {len(cancelled)} cancelled, {len(history)} stored, none lost")


def test_a_loop_that_ends_while_a_put_goes_on() -> None:
    """What it had to deliver is lost. The message is stored, and later puts deliver what they archive."""
    begun: list[asyncio.Event] = []

    async def on_put(messages: list[ChatMessage]) -> None:
        if begun:
            block.batches.clear()
            begun.pop().set()
            await asyncio.Event().wait()

    block = Calling(on_put=on_put)
    memory = small_memory(RingMemoryStore(), block)
    messages = [ChatMessage(f"{number} is of some tokens") for number in range(5)]

    async def main() -> None:
        begun.append(event := asyncio.Event())
        await memory.aput_messages(messages[:2])
        task = asyncio.create_task(memory.aput(messages[2]))
        await event.wait()
        task.cancel()

    asyncio.run(main())
    assert texts(memory.get_all(ARCHIVED)) == texts(messages[:1])
    assert block.batches == []
    memory.put(messages[3])
    asyncio.run(memory.aput(messages[4]))
    assert texts(memory.get_all()) == texts(messages)
    assert block.batches == [[text] for text in texts(messages[1:3])]


class Failing(Noting):
    error: type[Exception]

    async def _aput(self, messages: list[ChatMessage]) -> None:
        await super()._aput(messages)
        raise self.error(f"{self.name} got {len(self.batches)}")


@on_all
@pytest.mark.parametrize("is_async", [False, True])
def test_a_memory_block_that_raises(store: Any, is_async: bool) -> None:
    blocks = [
        Noting(name="one"),
        Failing(name="two", error=LookupError),
        Noting(name="three"),
        Failing(name="four", error=ZeroDivisionError),
    ]
    memory = new_memory(store, *blocks)
    messages = [message for call in calls_of("ann", 30) for message in call]
    with pytest.raises(LookupError, match=r"^two got 1$"):
        awaited(store, memory.aput_messages(messages)) if is_async else memory.put_messages(messages)
    assert texts(memory.get_all()) == texts(messages)
    queue = list(messages)
    batches = flushed(queue)
    assert len(batches) > 2
    assert texts(memory.get_all(ACTIVE)) == texts(queue)
    for block in blocks:
        assert block.batches == batches
    memory.memory_blocks = [blocks[0]]
    put(memory, [ChatMessage("a last one " * 20)])
    assert len(memory.get_all()) == len(messages) + 1
    assert list(itertools.chain(*blocks[0].batches)) == texts(memory.get_all(ARCHIVED))


def boom(text: str) -> list[str]:
    if "boom" in text:
        raise LookupError(text)
    return text.split()


BAD = {
    "tokenizer": (ChatMessage("boom"), LookupError, "boom"),
    "kwargs of the tokenizer": (ChatMessage("a", additional_kwargs={"k": "boom"}), LookupError, "boom"),
    "no JSON": (ChatMessage("a", additional_kwargs={"k": object()}), ValueError, "no JSON form"),
    "images": (
        ChatMessage("a", additional_kwargs={"images": [ImageDocument(image="aGk=")]}),
        ValueError,
        "additional_kwargs\\['images'\\]",
    ),
    "not a message": ("a", TypeError, "must be a ChatMessage, got 'a'"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
@pytest.mark.parametrize("kind", [*OURS, "list", "sqlalchemy in memory"])
def test_what_raises_has_stored_nothing(
    kind: str,
    bad: tuple[Any, type[Exception], str],
    url_of: Callable[[str], str],
    tmp_path: Path,
) -> None:
    message, error, pattern = bad
    options = {"counter": boom, "counter_name": "boom"} if kind in DATABASES else {}
    with new_store(kind, url_of, tmp_path, **options) as store:
        block = Noting()
        memory = new_memory(store, block, tokenizer_fn=boom)

        async def keys() -> list[str]:
            found: list[str] = await memory.sql_store.get_keys()
            return found

        async def putting() -> None:
            for messages in ([message], [ChatMessage("a"), message, ChatMessage("b")]):
                with pytest.raises(error, match=pattern):
                    await memory.aput_messages(messages)
            with pytest.raises(error, match=pattern):
                await memory.aput(message)
            with pytest.raises(error, match=pattern):
                await memory.aset([ChatMessage("a"), message])

        def attempts() -> None:
            for messages in ([message], [ChatMessage("a"), message, ChatMessage("b")]):
                with pytest.raises(error, match=pattern):
                    memory.put_messages(messages)
            with pytest.raises(error, match=pattern):
                memory.put(message)
            with pytest.raises(error, match=pattern):
                memory.set([ChatMessage("a"), message])
            awaited(store, putting())

        attempts()
        assert awaited(store, keys()) == []
        assert memory.get() == memory.get_all() == []
        messages = [message for call in calls_of("ann", 60) for message in call]
        memory.put_messages(messages)
        before = texts(memory.get_all(ARCHIVED)), texts(memory.get())
        assert all(before)
        attempts()
        assert (texts(memory.get_all(ARCHIVED)), texts(memory.get())) == before
        assert before[0] + before[1] == texts(messages)
        assert list(itertools.chain(*block.batches)) == before[0]
        memory.put(ChatMessage("c"))
        assert texts(memory.get_all())[-1] == "c"


# --- deadlocks --------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a forked process, through JSON. If it takes too long, that is a deadlock."""
    receiving, sending = os.pipe()
    process = os.fork()
    if not process:
        status = 1
        try:
            faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sending)
            gc.freeze()  # what the parent has, such as connections, is the parent's
            os.write(sending, json.dumps(work()).encode())
            status = 0
        except BaseException:
            os.write(sending, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(sending)
    with open(receiving, encoding="utf-8") as answer:
        text = answer.read()
    if os.waitpid(process, 0)[1]:
        pytest.fail(text, pytrace=False)
    return json.loads(text)


def small_memory(store: Any, *blocks: BaseMemoryBlock[Any], **fields: Any) -> Memory:
    """Return a memory whose queue has room for ten words; one word or more leaves at a time."""
    fields = {"tokenizer_fn": str.split, **fields}
    return new_memory(store, *blocks, token_limit=10, chat_history_token_ratio=1.0, token_flush_size=1, **fields)


def words(count: int) -> ChatMessage:
    return ChatMessage("word " * count)


def delivered_once(memory: Memory, block: Noting) -> bool:
    return Counter(itertools.chain(*block.batches)) == Counter(texts(memory.get_all(ARCHIVED)))


# A way to run what calls a sync method.
Way = Callable[[Callable[[], Any]], Any]


def in_a_loop(work: Callable[[], Any]) -> None:
    async def run() -> None:
        await asyncio.sleep(0)
        work()
        await asyncio.sleep(0)

    asyncio.run(run())


WAYS: dict[str, Way] = {
    "plain": lambda work: work(),
    "in a loop": in_a_loop,
    "in a thread": lambda work: in_threads(work),
    "in the loop of sync calls": lambda work: BLOCKS.run(asyncio.to_thread(work)),
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
on_ring_and_list = pytest.mark.parametrize("new", [RingMemoryStore, ListStore])


@forks
@pytest.mark.filterwarnings(FORK_WARNING)
@on_ring_and_list
@pytest.mark.parametrize("way", [WAYS["plain"], WAYS["in a loop"]], ids=["plain", "in a loop"])
@pytest.mark.parametrize("with_block", [False, True])
@pytest.mark.parametrize("call", ["get", "get_all", "put", "set", "reset", "aget"])
def test_a_tokenizer_that_uses_its_memory(new: Callable[[], Any], way: Way, with_block: bool, call: str) -> None:
    block = Noting()
    called = 0

    def tokenize(text: str) -> list[str]:
        nonlocal called
        if text.startswith("go"):
            called += 1
            if called <= 3:
                works: dict[str, Callable[[], Any]] = {
                    "get": memory.get,
                    "get_all": memory.get_all,
                    "put": lambda: memory.put(ChatMessage("again")),
                    "set": lambda: memory.set([ChatMessage("again")]),
                    "reset": memory.reset,
                    "aget": lambda: BLOCKS.run(memory.aget()),
                }
                works[call]()
        return text.split()

    memory = small_memory(new(), *[block] * with_block, tokenizer_fn=tokenize)

    def work() -> None:
        memory.put(ChatMessage("before"))
        memory.put(ChatMessage("go"))
        memory.put(words(11))

    def run() -> list[str]:
        way(work)
        assert called
        assert not with_block or call in ("set", "reset") or delivered_once(memory, block)
        return texts(memory.get_all())

    history = in_child(run)
    assert history[-1] == words(11).content
    assert ("again" in history) == (call in ("put", "set"))
    if new is RingMemoryStore:  # another store is read, and counted, when the message is there
        assert history[-2] == "go"


@forks
@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("max_sessions", [None, 5])
@pytest.mark.parametrize("call", ["get", "put"])
@pytest.mark.parametrize("in_thread", [False, True])
def test_another_tokenizer_that_uses_its_memory(max_sessions: int | None, call: str, in_thread: bool) -> None:
    """The next put counts what is in the memory again, with it."""

    called: list[str] = []

    def tokenize(text: str) -> list[str]:
        if text == "before" and not called:
            called.append(text)
            works: dict[str, Callable[[], Any]] = {"get": memory.get, "put": lambda: other.put(ChatMessage("x"))}
            in_threads(works[call]) if in_thread else works[call]()
        return text.split()

    store = RingMemoryStore(max_sessions=max_sessions)
    memory = small_memory(store, static_block("static"))
    other = small_memory(store, session_id="other")

    def run() -> list[str]:
        memory.put(ChatMessage("before"))
        memory.tokenizer_fn = tokenize
        memory.put(ChatMessage("after"))
        return texts(memory.get_all())

    assert in_child(run) == ["before", "after"]


@forks
@pytest.mark.filterwarnings(FORK_WARNING)
@on_ring_and_list
@ways
@pytest.mark.parametrize("is_sync", [True, False])
@pytest.mark.parametrize("depth", [1, 4])
def test_a_block_that_puts_into_its_memory(new: Callable[[], Any], way: Way, is_sync: bool, depth: int) -> None:
    """Whenever it is given messages: they make others leave, and so on."""
    left = depth

    async def on_put(messages: list[ChatMessage]) -> None:
        nonlocal left
        if left:
            left -= 1
            if is_sync:
                memory.put(words(6))
            else:
                await memory.aput(words(6))

    block = Calling(on_put=on_put)
    memory = small_memory(new(), block)

    def work() -> None:
        for _ in range(3):
            memory.put(words(4))

    def run() -> tuple[int, bool]:
        way(work)
        return len(memory.get_all()), delivered_once(memory, block)

    assert in_child(run) == [3 + depth, True]


@forks
@pytest.mark.filterwarnings(FORK_WARNING)
@on_ring_and_list
@ways
@pytest.mark.parametrize("is_sync", [True, False])
@pytest.mark.parametrize("depth", [1, 4])
def test_a_block_that_asks_its_memory(new: Callable[[], Any], way: Way, is_sync: bool, depth: int) -> None:
    left = depth

    async def on_get() -> str:
        nonlocal left
        if not left:
            return "the end"
        left -= 1
        messages = memory.get() if is_sync else await memory.aget()
        return f"{len(memory.get_all())} messages, and {messages[0].content}"

    memory = small_memory(new(), Calling(on_get=on_get))
    got: list[str] = []

    def work() -> None:
        memory.put(words(1))
        got.append(str(memory.get()[0].content))

    def run() -> list[str]:
        way(work)
        return got

    (text,) = in_child(run)
    assert text.count("1 messages, and") == depth
    assert text.count("the end") == 1


@forks
@pytest.mark.filterwarnings(FORK_WARNING)
@on_ring_and_list
def test_threads_with_a_block_that_puts_into_its_memory(new: Callable[[], Any]) -> None:
    async def on_put(messages: list[ChatMessage]) -> None:
        if any(len(text.split()) > 3 for text in texts(messages)):
            memory.put(words(1))

    block = Calling(on_put=on_put)
    memory = small_memory(new(), block)

    def write() -> None:
        for _ in range(25):
            memory.put(words(4))

    def run() -> tuple[int, bool]:
        in_threads(*[write] * 4)
        return len(memory.get_all()) >= 100 + 50, delivered_once(memory, block)

    assert in_child(run) == [True, True]


@forks
@pytest.mark.filterwarnings(FORK_WARNING)
@on_ring_and_list
@pytest.mark.parametrize("with_block", [False, True])
def test_sync_calls_in_a_loop_whose_tasks_put(new: Callable[[], Any], with_block: bool) -> None:
    """The loop cannot go on meanwhile, whatever the other tasks are doing."""
    block = Noting()
    memory = small_memory(new(), *[block] * with_block)

    async def main() -> None:
        for steps in range(12):
            task = asyncio.create_task(memory.aput(words(4)))
            for _ in range(steps):
                await asyncio.sleep(0)
            memory.put(words(5))
            memory.get()
            await task

    def run() -> tuple[int, bool]:
        asyncio.run(main())
        return len(memory.get_all()), not with_block or delivered_once(memory, block)

    assert in_child(run) == [24, True]


@forks
@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@ways
def test_a_block_that_ends_the_program(way: Way, error: type[BaseException]) -> None:
    async def on_put(messages: list[ChatMessage]) -> None:
        if len(block.batches) == 1:
            raise error

    block = Calling(on_put=on_put)
    memory = small_memory(RingMemoryStore(), block)
    raised: list[bool] = []

    def work() -> None:
        memory.put(words(6))
        try:
            memory.put(words(6))
        except BaseException as caught:
            raised.append(isinstance(caught, error))
        memory.put(words(6))
        memory.get()

    def run() -> tuple[list[bool], int, bool]:
        way(work)
        return raised, len(memory.get_all()), delivered_once(memory, block)

    assert in_child(run) == [[True], 3, True]


@forks
@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("with_block", [False, True])
def test_a_fork(with_block: bool) -> None:
    """The child has what was put before, and goes on for itself."""
    block = Noting()
    memory = small_memory(RingMemoryStore(), *[block] * with_block)
    for _ in range(3):
        memory.put(words(4))
    memory.get()

    def go_on() -> tuple[int, int, bool]:
        for _ in range(3):
            memory.put(words(5))
        asyncio.run(memory.aput(words(6)))
        return len(memory.get_all()), len(memory.get()), not with_block or delivered_once(memory, block)

    assert in_child(go_on) == [7, 1, True]
    memory.put(words(7))
    assert len(memory.get_all()) == 4
    assert not with_block or delivered_once(memory, block)


@slow
@forks
@pytest.mark.filterwarnings(FORK_WARNING)
def test_forks_while_threads_put() -> None:
    """Each child goes on with what was there, whatever the parent's other threads were doing."""
    for _ in range(2 * TIMES):
        block = Noting()
        memory = small_memory(RingMemoryStore(), block)
        stop = threading.Event()

        def write(memory: Memory = memory, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                memory.put(words(4))

        def go_on(memory: Memory = memory) -> int:
            before = len(memory.get_all())
            for _ in range(3):
                memory.put(words(5))
            memory.get()
            return len(memory.get_all()) - before

        threads = [threading.Thread(target=write, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            assert [in_child(go_on) for _ in range(6)] == [3] * 6
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert delivered_once(memory, block)


# --- sync calls from anywhere -----------------------------------------------------------------------------------------


def all_sync_calls(memory: Memory) -> list[list[str]]:
    seen = []
    memory.put(ChatMessage("one", role="system"))
    memory.put_messages([ChatMessage("two"), ChatMessage("three", role="assistant")])
    seen.append(texts(memory.get("what?")))
    memory.put(ChatMessage("four " * 40))
    memory.put(ChatMessage("five " * 40))
    seen += [texts(memory.get_all()), texts(memory.get_all(ARCHIVED)), texts(memory.get())]
    memory.set([ChatMessage("six"), ChatMessage("seven", role="assistant")])
    seen += [texts(memory.get()), texts(memory.get_all())]
    memory.reset()
    seen += [texts(memory.get_all()), texts(memory.get())]
    return seen


@pytest.mark.parametrize(
    ("store", "way"),
    [(kind, way) for kind in (*OURS, *THEIRS) for way in WAYS if kind == "ring" or way in ("plain", "in a loop")],
    indirect=["store"],
)
@pytest.mark.parametrize("with_block", [False, True])
def test_sync_calls(store: Any, way: str, with_block: bool) -> None:
    static = static_block("known")
    memory = new_memory(store, *[static] * with_block)
    seen: list[list[str]] = []
    WAYS[way](lambda: seen.extend(all_sync_calls(memory)))
    known = "<memory>\n<static>\nknown\n</static>\n</memory>"
    four, five = "four " * 40, "five " * 40

    def window(*contents: str, system: str = "") -> list[str]:
        if not with_block:
            return [*([system] if system else []), *contents]
        return [f"{known}\n{system}" if system else known, *contents]

    assert [[text.strip() for text in messages] for messages in seen] == [
        [text.strip() for text in messages]
        for messages in (
            window("two", "three", system="one"),
            ["one", "two", "three", four, five],
            ["one", "two", "three", four],
            window(five),
            window("six", "seven"),
            ["six", "seven"],
            [],
            window(),
        )
    ]


@slow
@on_all
def test_sync_calls_of_several_threads_with_blocks(store: Any) -> None:
    """Each has a session of its own, and all are what they are alone."""
    expected = all_sync_calls(new_memory(RingMemoryStore(), static_block("known")))
    seen: dict[int, list[list[list[str]]]] = defaultdict(list)

    def work(number: int) -> None:
        block = static_block("known")
        for _ in range(2 * TIMES):
            seen[number].append(all_sync_calls(new_memory(store, block, session_id=str(number))))

    in_threads(*(functools.partial(work, number) for number in range(4)))
    assert seen == {number: [expected] * 2 * TIMES for number in range(4)}


# --- order, and bounds ------------------------------------------------------------------------------------------------


@on_ours
def test_a_clock_that_is_set_back(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(2_000_000_000, -1)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
    memory = new_memory(store)
    expected = []
    for messages in calls_of("ann", 20):
        expected += put(memory, messages)
        memory = new_memory(store)
    history, window = texts(memory.get_all()), texts(memory.get())
    monkeypatch.undo()
    assert history == expected
    assert window == expected[-len(window) :]
    check(Found(memory.get_all(), history[: -len(window)], window, flushed_of(memory)), {"ann": expected})


def flushed_of(memory: Memory) -> list[list[str]]:
    return [batch for rounds in replayed(memory.get_all())[0] for batch in rounds]


@slow
@pytest.mark.usefixtures("hectic")
def test_bounded_sessions_report_what_leaves() -> None:
    """Threads write to more sessions than there may be: what is not there was reported, whole and once."""
    evicted: dict[str, list[list[str]]] = defaultdict(list)
    store = RingMemoryStore(max_sessions=4, on_evict=lambda key, messages: evicted[key].append(texts(messages)))
    block = Noting()
    acknowledged: dict[str, list[str]] = {f"writer{number}-{n}": [] for number in range(4) for n in range(3)}

    def write(number: int) -> None:
        random = Random(number)
        calls = {key: calls_of(key, 400 * TIMES) for key in acknowledged if key.startswith(f"writer{number}")}
        for _ in range(400 * TIMES):
            key = random.choice(list(calls))
            acknowledged[key] += put(new_memory(store, block, session_id=key), next(calls[key]))

    in_threads(*(functools.partial(write, number) for number in range(4)))
    keys = asyncio.run(store.get_keys())
    assert len(keys) == 4
    reports = sum(map(len, evicted.values()))
    assert reports > 100 * TIMES
    delivered = Counter(itertools.chain(*block.batches))
    assert max(delivered.values()) == 1
    for key, expected in acknowledged.items():
        held = new_memory(store, session_id=key).get_all() if key in keys else []
        place = {text: number for number, text in enumerate(expected)}
        # Two threads may report in another order than the sessions left in.
        sessions = sorted([*evicted[key], *([texts(held)] if held else [])], key=lambda session: place[session[0]])
        assert list(itertools.chain(*sessions)) == expected
        for session in sessions:
            archived = [text for text in session if text in delivered]
            assert archived == session[: len(archived)]
    print(f"{sum(map(len, acknowledged.values()))} messages put into 12 sessions, {reports} sessions left, none lost")


def test_an_eviction_that_raises() -> None:
    """The session has left, and nothing is put or archived; the next put works."""

    def on_evict(key: str, messages: list[ChatMessage]) -> None:
        raise LookupError(key)

    block = Noting()
    store = RingMemoryStore(max_sessions=1, on_evict=on_evict)
    small_memory(store, session_id="other").put(words(1))
    memory = small_memory(store, block)
    with pytest.raises(LookupError, match="other"):
        memory.put_messages([words(4) for _ in range(5)])
    assert memory.get_all() == []
    assert block.batches == []
    memory.put_messages([words(4) for _ in range(5)])
    assert len(memory.get_all()) == 5
    assert len(memory.get_all(ARCHIVED)) == 3
    assert delivered_once(memory, block)


# --- garbage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_automatic_collection() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def tokenizer_cycle() -> Memory:
    memory: Memory = small_memory(RingMemoryStore(), tokenizer_fn=lambda text: memory.session_id.split())
    return memory


def block_cycle() -> Memory:
    async def on_put(messages: list[ChatMessage]) -> None:
        memory.get_all()

    memory = small_memory(RingMemoryStore(), Calling(on_put=on_put))
    return memory


def eviction_cycle() -> Memory:
    memory: Memory = small_memory(RingMemoryStore(max_sessions=1, on_evict=lambda key, messages: memory.reset()))
    return memory


def policy_cycle() -> Memory:
    """The memory is reachable only through the tokenizer that the store's session was counted with."""
    memory = tokenizer_cycle()
    memory.put(words(3))
    memory.tokenizer_fn = str.split
    return memory


def copy_cycle() -> Memory:
    memory = policy_cycle()
    store: Any = memory.sql_store
    store._sessions.held["ada"] = copy.copy(store._sessions.get("ada"))
    return memory


def wait_until_gone(*references: weakref.ref[Any]) -> None:
    """Wait, since the loop in which sync calls run, in its thread, may be about to let go of the last one."""

    def is_gone() -> bool:
        gc.collect()
        return not any(reference() for reference in references)

    wait_until(is_gone)


@pytest.mark.usefixtures("no_automatic_collection")
@pytest.mark.parametrize("make", [tokenizer_cycle, block_cycle, eviction_cycle, policy_cycle, copy_cycle])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_cycle_through_a_memory_is_collected(make: Callable[[], Memory], is_used: bool) -> None:
    memory = make()
    if is_used:
        for _ in range(3):
            memory.put(words(6))
            asyncio.run(memory.aput(words(6)))
        memory.get()
        memory.get_all()
    gone = weakref.ref(memory), weakref.ref(memory.sql_store)
    del memory
    # Alive until it is collected, or there would be no cycle to test. Two have none once all is counted again.
    is_cycle = not is_used or make not in (policy_cycle, copy_cycle)
    assert [reference() is not None for reference in gone] == [is_cycle] * 2
    gc.collect()
    wait_until_gone(*gone)


@pytest.mark.usefixtures("no_automatic_collection")
def test_a_cycle_through_a_queue_is_collected() -> None:
    class Message:
        queue: Any

    store = RingMemoryStore()
    memory = small_memory(store)
    memory.put(words(1))
    queue: Any = store._sessions.get("ada")
    core = memory._policy().core
    batch = core.read([words(1)])
    core.count(batch)
    held = Message()
    held.queue = queue
    queue.put(core, [held], batch)
    assert held in gc.get_referents(queue)
    assert gc.is_tracked(queue)
    memory.reset()
    gone = weakref.ref(held)
    del queue, held, batch
    assert gone() is not None
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("no_automatic_collection")
def test_a_memory_that_sync_calls_used_is_given_back() -> None:
    """The loop in which they ran keeps nothing of the last one."""
    memory = small_memory(RingMemoryStore(), static_block("a"), Noting())
    for _ in range(3):
        memory.put(words(6))
        memory.get()
    gone = weakref.ref(memory)
    del memory
    wait_until_gone(gone)


if __name__ == "__main__":
    nursery()
