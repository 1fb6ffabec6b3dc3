"""Stores that outlive the process, against the bare drivers and LlamaIndex's stores. Real servers, on this machine.

Both sides have the same settings: SQLite in WAL with `synchronous=FULL`, PostgreSQL as it comes, Valkey as it comes,
which is without an append-only file, and without its snapshots: those would fall into some timings and not into others.
"""

import asyncio
import functools
import gc
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from chatring import MessageRing
from chatring.llama_index import ChatMemoryBuffer, RedisChatStore, SQLChatStore
from chatring.stores import Record, Store, open_store
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexBuffer
from llama_index.storage.chat_store.postgres import PostgresChatStore
from llama_index.storage.chat_store.redis import RedisChatStore as LlamaIndexRedis
from pytest_benchmark.fixture import BenchmarkFixture
from sqlalchemy import Engine, event
from stores.servers import PostgresServer, Server, ValkeyServer

from benches.bare_drivers import BareDriver, BarePsycopg, BareRedis, BareSQLite
from benches.conftest import Label
from benches.contenders import ENCODE
from benches.conversation import Histories, Line, as_chat_message
from benches.round_trips import counted
from benches.store_names import (
    BACKENDS,
    BARE_DRIVERS,
    OUR_ADAPTERS,
    OUR_STORES,
    POSTGRESQL,
    SQLITE,
    THEIR_STORES,
    VALKEY,
)

WINDOW_TOKENS = 40_000
SHORT = 1_000
# What is loaded in the quick mode; the full one has a million.
LONG_QUICK, LONG_FULL = 100_000, 1_000_000
LOADED_AT_ONCE = 100_000
APPENDS = 500

# LlamaIndex's case.
MESSAGES, LIMIT = 2_000, 3_000

BARE: dict[str, type[BareDriver]] = {SQLITE: BareSQLite, POSTGRESQL: BarePsycopg, VALKEY: BareRedis}


def as_record(line: Line) -> Record:
    return Record(line.role, "None" if line.text is None else line.text)


@dataclass
class Backend:
    """A database with a store on it, and a long and a short session in that."""

    name: str
    url: str
    store: Store
    long: int
    server: Server | None = None
    window: list[Record] = field(default_factory=list)


@pytest.fixture(scope="module")
def backends(
    pytestconfig: pytest.Config, histories: Histories, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Backend]]:
    """Return the backend of a name, started and filled when it is first asked for."""
    long = LONG_FULL if pytestconfig.getoption("--full") else LONG_QUICK
    started: list[Backend] = []

    @functools.cache
    def backend(name: str) -> Backend:
        server: Server | None = None
        if name == SQLITE:
            url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'chat.db'}"
        else:
            server = PostgresServer() if name == POSTGRESQL else ValkeyServer(appendonly="no")
            url = server.__enter__().url
        made = Backend(name, url, open_store(url), long, server)
        started.append(made)
        _load(made.store, "short", histories.last(SHORT, as_record))
        _load(made.store, "long", histories.last(long, as_record))
        ring = MessageRing[Record](WINDOW_TOKENS, counter="cl100k_base", measure="text")
        ring.put_messages(histories.last(SHORT, as_record))
        made.window = ring.get()
        assert 100 < len(made.window) < SHORT
        return made

    try:
        yield backend
    finally:
        for each in started:
            each.store.close()
            if each.server is not None:
                each.server.remove()


def _load(store: Store, key: str, records: list[Record]) -> None:
    for first in range(0, len(records), LOADED_AT_ONCE):
        store.append(key, records[first : first + LOADED_AT_ONCE])


def _in_turns(
    benchmark: BenchmarkFixture, ours: Callable[[], object], name: str, theirs: Callable[[], object], rounds: int
) -> None:
    """Time two contenders in turns: a disk, or a shared machine, is ten times as fast in one second as in another."""
    seconds: list[float] = []

    def time_theirs() -> None:
        gc.disable()  # as pytest-benchmark does for ours
        started = time.perf_counter()
        theirs()
        seconds.append(time.perf_counter() - started)
        gc.enable()

    benchmark.pedantic(ours, setup=time_theirs, rounds=rounds)
    benchmark.extra_info["in_turns_with"] = {name: seconds}


@contextmanager
def _waits(backend: Backend) -> Iterator[tuple[Store, Callable[[], int]]]:
    """Return another store, and how often it has waited for its database: statements on SQLite, else round trips."""
    if backend.server is None:
        statements: list[str] = []

        def trace(connection: sqlite3.Connection, _: object) -> None:
            connection.set_trace_callback(statements.append)

        event.listen(Engine, "connect", trace)
        store = open_store(backend.url)
        try:
            yield store, lambda: len(statements)
        finally:
            store.close()
            event.remove(Engine, "connect", trace)
        return
    with counted(backend.server.port) as proxy:
        store = open_store(backend.url.replace(f":{backend.server.port}/", f":{proxy.port}/"))
        try:
            yield store, lambda: proxy.count
        finally:
            store.close()


@contextmanager
def _bare(backend: Backend, key: str) -> Iterator[BareDriver]:
    driver = BARE[backend.name](backend.url, key, backend.window)
    try:
        yield driver
    finally:
        driver.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_bulk_load(
    benchmark: BenchmarkFixture, backends: Callable[[str], Backend], histories: Histories, label: Label, name: str
) -> None:
    store = backends(name).store
    records = histories.last(LOADED_AT_ONCE, as_record)

    def unload() -> None:
        store.delete("loaded")

    label(f"{name}: bulk load", OUR_STORES[name], messages=len(records))
    benchmark.pedantic(store.append, ("loaded", records), setup=unload, rounds=3)
    assert store.length("loaded") == len(records)
    assert store.window("loaded", WINDOW_TOKENS) == backends(name).window
    assert store.delete("loaded")


@pytest.mark.parametrize("key", ["short", "long"])
@pytest.mark.parametrize("name", BACKENDS)
def test_window(
    benchmark: BenchmarkFixture, backends: Callable[[str], Backend], label: Label, name: str, key: str
) -> None:
    backend = backends(name)
    store = backend.store
    assert store.window(key, WINDOW_TOKENS) == backend.window
    assert store.length(key) == (SHORT if key == "short" else backend.long)
    label(
        f"{name}: window", OUR_STORES[name], messages=store.length(key), limit=WINDOW_TOKENS, window=len(backend.window)
    )
    with _bare(backend, key) as driver:
        assert driver.window() == [tuple(record) for record in backend.window]
        _in_turns(
            benchmark, functools.partial(store.window, key, WINDOW_TOKENS), BARE_DRIVERS[name], driver.window, 300
        )


@pytest.mark.parametrize("name", BACKENDS)
def test_append(
    benchmark: BenchmarkFixture, backends: Callable[[str], Backend], histories: Histories, label: Label, name: str
) -> None:
    backend = backends(name)
    for key in ("appended", "inserted"):
        _load(backend.store, key, histories.last(SHORT, as_record))
    record = histories.last(1, as_record)
    label(f"{name}: append of one", OUR_STORES[name])
    with _bare(backend, "inserted") as driver:
        append = functools.partial(backend.store.append, "appended", record)
        _in_turns(benchmark, append, BARE_DRIVERS[name], driver.append, APPENDS)
        assert driver.window()[-1] == record[0]
    assert backend.store.all("appended")[SHORT:] == record * APPENDS


# Half a minute each: one is enough for the quick mode.
LLAMA_INDEX_CASES = [VALKEY, pytest.param(POSTGRESQL, marks=pytest.mark.full)]

# What the slow one returned; it comes first, and ours must return the same.
windows: dict[str, list[ChatMessage]] = {}


@pytest.mark.parametrize("name", LLAMA_INDEX_CASES)
def test_get_of_llama_index(
    benchmark: BenchmarkFixture, backends: Callable[[str], Backend], histories: Histories, label: Label, name: str
) -> None:
    store: Any = (PostgresChatStore.from_uri if name == POSTGRESQL else LlamaIndexRedis)(backends(name).url)
    store.set_messages("theirs", histories.last(MESSAGES, as_chat_message))
    memory = LlamaIndexBuffer.from_defaults(
        token_limit=LIMIT, chat_store=store, chat_store_key="theirs", tokenizer_fn=ENCODE
    )
    label(f"{name}: get through LlamaIndex", THEIR_STORES[name], messages=MESSAGES, limit=LIMIT)
    windows[name] = benchmark.pedantic(memory.get)  # once
    assert len(windows[name]) > 1
    if name == POSTGRESQL:
        store._session.kw["bind"].dispose()
    else:
        store._redis_client.close()
        asyncio.run(store._aredis_client.aclose())


@pytest.mark.parametrize("name", LLAMA_INDEX_CASES)
def test_get(
    benchmark: BenchmarkFixture, backends: Callable[[str], Backend], histories: Histories, label: Label, name: str
) -> None:
    store = (SQLChatStore if name == POSTGRESQL else RedisChatStore)(backends(name).url)
    store.set_messages("ours", histories.last(MESSAGES, as_chat_message))
    memory = ChatMemoryBuffer.from_defaults(
        token_limit=LIMIT, chat_store=store, chat_store_key="ours", tokenizer_fn=ENCODE
    )
    label(f"{name}: get through LlamaIndex", OUR_ADAPTERS[name], messages=MESSAGES, limit=LIMIT)
    assert benchmark(memory.get) == windows[name]
    store.store.close()
