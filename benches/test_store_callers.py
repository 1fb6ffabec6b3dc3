"""Many callers of one store at once, against the same statements on a bare pool; and a session that is locked.

The statements are the backend's own, with values that were computed before: counting, and whatever else a store does
beside its statements, is what the bare pool does not do. Each caller appends to a session of its own, one message after
the other. PostgreSQL and Valkey as in `test_stores.py`.
"""

import asyncio
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import psycopg_pool
import pytest
import redis
import redis.asyncio
from chatring.stores import Store
from chatring.stores.backend import Backend as StoreBackend
from chatring.stores.redis.backend import RedisBackend
from chatring.stores.redis.server import RedisServer
from chatring.stores.session import Change, Row, Session
from chatring.stores.sql.postgresql import PostgreSQLBackend
from chatring.stores.sql.statement import read_statements
from psycopg.types.numeric import Int8BinaryDumper
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.store_backends import Backend, Backends, all_backends, in_turns
from benches.store_names import BARE_POOLS, OUR_STORES, POSTGRESQL, SQLITE, VALKEY

# As many connections as a store's pool has by default.
POOL = {POSTGRESQL: 15, VALKEY: 50}
CALLERS = [("tasks", 1), ("tasks", 8), ("tasks", 15), ("tasks", 64), ("threads", 40)]
# Appends of all callers in a round: a lone one waits for the disk each time, where many wait together.
APPENDS, ROUNDS = {1: 120, 8: 320, 15: 480, 40: 960, 64: 960}, 7

WRITERS, WINDOWS = 40, 20
MESSAGE = {"role": "user", "content": "The receipts are attached. Is the shop's VAT number on all three of them?"}

Prepared = list[list[Any]]  # by caller: statements


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with all_backends(tmp_path_factory.mktemp("stores")) as backends:
        yield backends


class BarePool(ABC):
    """A pool of connections, and sessions that grow by a row with each statement.

    Args:
        url: of the store.
        keys: of the sessions, which the store has begun with messages that are `MESSAGE`.
    """

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self._backend = self._backend_of(url)
        self._sessions: dict[str, tuple[Session, Row]] = {}
        for key in keys:
            session = self.session(key)
            ((_, row),) = self._run(self._backend.rows(key, session, session.end - 1, session.end))
            self._sessions[key] = session, row

    def session(self, key: str) -> Session:
        session: Session | None = self._run(self._backend.read(key))
        assert session is not None
        return session

    def prepared(self, key: str, count: int) -> list[Any]:
        """Return the next statements of a session, with all their values."""
        session, row = self._sessions[key]
        statements = []
        for _ in range(count):
            total, end = session.total + row.tokens, session.end + 1
            row = row._replace(before=session.total)
            after = session._replace(total=total, end=end, question=session.end, word=end)
            writing = self._backend.write(key, session, Change(after, session.end, [row]))
            statements.append(self._of(next(writing)))
            with pytest.raises(StopIteration, match="True"):  # it was the only one
                writing.send(1)
            session = after
        self._sessions[key] = session, row
        return statements

    @abstractmethod
    def execute(self, statement: Any) -> bool:
        """Run a statement on a connection of the pool, and return whether it changed something."""

    @abstractmethod
    async def aexecute(self, statement: Any) -> bool:
        """As `execute`."""

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    async def aopen(self) -> None: ...

    def close(self) -> None:
        """Close the pool of `open`."""
        self._backend.close()

    @abstractmethod
    async def aclose(self) -> None:
        """Close the pool of `aopen`."""

    @abstractmethod
    def _backend_of(self, url: str) -> StoreBackend: ...

    @abstractmethod
    def _of(self, statement: Any) -> Any:
        """Return what the driver takes of a backend's statement."""

    def _run(self, operation: Any) -> Any:
        return self._backend.run(operation, time.monotonic() + 10)


class PsycopgPool(BarePool):
    """psycopg_pool. As the store, it sends numbers and texts in binary, each as one type."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        texts = read_statements("queries.sql", "postgresql.sql", value=r"%(\1)b")
        self._texts = {name: " ".join(text.split()) for name, text in texts.items()}
        size = POOL[POSTGRESQL]
        self._options: dict[str, Any] = {"min_size": size, "max_size": size, "kwargs": {"autocommit": True}}
        self._url = url
        super().__init__(url, keys)

    def _backend_of(self, url: str) -> StoreBackend:
        return PostgreSQLBackend(url)

    def _of(self, statement: Any) -> Any:
        return self._texts[statement.name], {**statement.values, "patience": None}

    def open(self) -> None:
        def configure(connection: Any) -> None:
            connection.adapters.register_dumper(int, Int8BinaryDumper)

        self._pool = psycopg_pool.ConnectionPool(self._url, configure=configure, open=False, **self._options)
        self._pool.open(wait=True)

    async def aopen(self) -> None:
        async def configure(connection: Any) -> None:
            connection.adapters.register_dumper(int, Int8BinaryDumper)

        self._async_pool = psycopg_pool.AsyncConnectionPool(self._url, configure=configure, open=False, **self._options)
        await self._async_pool.open(wait=True)

    def execute(self, statement: Any) -> bool:
        with self._pool.connection() as connection:
            return bool(connection.execute(*statement, binary=True).rowcount == 1)

    async def aexecute(self, statement: Any) -> bool:
        async with self._async_pool.connection() as connection:
            return bool((await connection.execute(*statement, binary=True)).rowcount == 1)

    def close(self) -> None:
        self._pool.close()
        super().close()

    async def aclose(self) -> None:
        await self._async_pool.close()


class RedisPool(BarePool):
    """redis-py with a pool that blocks when all its connections are in use."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self._url = url
        super().__init__(url, keys)

    def _backend_of(self, url: str) -> StoreBackend:
        return RedisBackend(RedisServer(url))

    def _of(self, statement: Any) -> Any:
        script, keys, arguments = statement
        return "EVALSHA", script.sha, len(keys), *keys, *arguments

    def open(self) -> None:
        pool = redis.BlockingConnectionPool.from_url(self._url, max_connections=POOL[VALKEY])
        self._client: Any = redis.Redis.from_pool(pool)

    async def aopen(self) -> None:
        pool: Any = redis.asyncio.BlockingConnectionPool.from_url(self._url, max_connections=POOL[VALKEY])
        self._async_client: Any = redis.asyncio.Redis.from_pool(pool)

    def execute(self, statement: Any) -> bool:
        return bool(self._client.execute_command(*statement) == 1)

    async def aexecute(self, statement: Any) -> bool:
        return bool(await self._async_client.execute_command(*statement) == 1)

    def close(self) -> None:
        self._client.close()
        super().close()

    async def aclose(self) -> None:
        await self._async_client.aclose()


POOLS: dict[str, type[BarePool]] = {POSTGRESQL: PsycopgPool, VALKEY: RedisPool}


class Tasks:
    """Callers that are tasks of one event loop."""

    def __init__(self, store: Store[Any], pool: BarePool) -> None:
        self._store, self._pool = store, pool
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(pool.aopen())

    def append(self, keys: Sequence[str], each: int) -> None:
        async def caller(key: str) -> None:
            for _ in range(each):
                await self._store.aappend(key, [MESSAGE])

        self._run([caller(key) for key in keys])

    def execute(self, prepared: Prepared) -> None:
        async def caller(statements: list[Any]) -> None:
            for statement in statements:
                assert await self._pool.aexecute(statement)

        self._run([caller(statements) for statements in prepared])

    def close(self) -> None:
        self._run([self._pool.aclose()])
        self._run([self._store.aclose()])
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _run(self, calls: Sequence[Awaitable[Any]]) -> None:
        async def run() -> None:
            await asyncio.gather(*calls)

        self._loop.run_until_complete(run())


class Threads:
    """Callers that are threads."""

    def __init__(self, store: Store[Any], pool: BarePool) -> None:
        self._store, self._pool = store, pool
        self._threads = ThreadPoolExecutor(max(count for kind, count in CALLERS if kind == "threads"))
        pool.open()

    def append(self, keys: Sequence[str], each: int) -> None:
        def caller(key: str) -> None:
            for _ in range(each):
                self._store.append(key, [MESSAGE])

        list(self._threads.map(caller, keys))

    def execute(self, prepared: Prepared) -> None:
        def caller(statements: list[Any]) -> None:
            for statement in statements:
                assert self._pool.execute(statement)

        list(self._threads.map(caller, prepared))

    def close(self) -> None:
        self._threads.shutdown()
        self._pool.close()


@pytest.mark.parametrize(("kind", "count"), CALLERS)
@pytest.mark.parametrize("name", POOLS)
def test_appends(
    benchmark: BenchmarkFixture, backends: Backends, label: Label, name: str, kind: str, count: int
) -> None:
    backend, store = backends(name), backends(name).store
    ours, theirs = ([f"{whose} {kind} {count} {number}" for number in range(count)] for whose in ("ours", "theirs"))
    for key in (*ours, *theirs):
        for _ in range(2):
            store.append(key, [MESSAGE])
    pool, each = POOLS[name](backend.url, theirs), APPENDS[count] // count
    begun = backend.opened
    callers = (Tasks if kind == "tasks" else Threads)(store, pool)
    prepared: Prepared = []

    def prepare() -> None:
        prepared[:] = [pool.prepared(key, each) for key in theirs]

    try:
        prepare()
        callers.execute(prepared)
        callers.append(ours, each)
        opened = backend.opened
        label(f"{name}: append, one of {count} {kind}", OUR_STORES[name])
        others = {BARE_POOLS[name]: lambda: callers.execute(prepared)}
        rounds = in_turns(benchmark, lambda: callers.append(ours, each), others, ROUNDS, prepare, calls=each * count)
        if name == POSTGRESQL:
            assert backend.opened == opened
        else:  # redis-py's pools open more until all have called at once; Valkey counts who asks, too
            assert backend.opened - begun <= 2 * min(count, POOL[name]) + 2
        for one, other in zip(ours, theirs, strict=True):
            assert store.length(one) == 2 + each * (rounds + 1)
            assert pool.session(one)._replace(epoch=0) == pool.session(other)._replace(epoch=0)
            assert store.window(one, 1_000) == store.window(other, 1_000)
    finally:
        callers.close()


@contextmanager
def _held(backend: Backend, key: str) -> Iterator[None]:
    """Hold a session, as a transaction does that takes long: on SQLite with all others of the file."""
    connection: Any
    if backend.name == SQLITE:
        connection = sqlite3.connect(backend.url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
    else:
        connection = psycopg.connect(backend.url)
        connection.execute("SELECT FROM chatring_session WHERE key = %s FOR UPDATE", (key,))
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize("name", [SQLITE, POSTGRESQL])
def test_window_beside_a_held_session(
    benchmark: BenchmarkFixture, backends: Backends, label: Label, name: str, kind: str
) -> None:
    backend, store = backends(name), backends(name).store
    held, other = f"held {kind}", f"other {kind}"
    store.append(held, [MESSAGE])
    store.append(other, [MESSAGE] * 100)
    label(f"{name}: window while 40 {kind} wait for another session, the slowest of {WINDOWS}", OUR_STORES[name])
    benchmark.extra_info["slowest"] = True
    test = _beside_threads if kind == "threads" else _beside_tasks
    assert test(benchmark, backend, held, other) == [MESSAGE] * 100
    assert store.length(held) == 1 + WRITERS


def _beside_threads(benchmark: BenchmarkFixture, backend: Backend, held: str, other: str) -> list[Any]:
    store = backend.store
    writers = [threading.Thread(target=store.append, args=(held, [MESSAGE])) for _ in range(WRITERS)]
    with _held(backend, held):
        for writer in writers:
            writer.start()
        time.sleep(0.2)
        window: list[Any] = benchmark.pedantic(store.window, (other, 40_000), rounds=WINDOWS)
        assert store.length(held) == 1
    for writer in writers:
        writer.join()
    return window


def _beside_tasks(benchmark: BenchmarkFixture, backend: Backend, held: str, other: str) -> list[Any]:
    store, loop = backend.store, asyncio.new_event_loop()

    def ask() -> list[Any]:
        return loop.run_until_complete(store.awindow(other, 40_000))

    async def start() -> list[asyncio.Task[None]]:
        tasks = [asyncio.ensure_future(store.aappend(held, [MESSAGE])) for _ in range(WRITERS)]
        await asyncio.sleep(0.2)
        return tasks

    async def end(tasks: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*tasks)
        await store.aclose()

    try:
        with _held(backend, held):
            tasks = loop.run_until_complete(start())
            window: list[Any] = benchmark.pedantic(ask, rounds=WINDOWS)
            assert loop.run_until_complete(store.alength(held)) == 1
        loop.run_until_complete(end(tasks))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    return window
