"""Databases with stores on them, started for a benchmark: real servers, on this machine."""

import functools
import gc
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from chatring.stores import Store, open_store
from chatring.stores.sql.fork import FileConnection
from pytest_benchmark.fixture import BenchmarkFixture
from stores.servers import PostgresServer, Server, ValkeyServer

from benches.round_trips import counted
from benches.store_names import POSTGRESQL, SQLITE, SQLITE_NORMAL, VALKEY


@dataclass
class Backend:
    """A database with a store on it."""

    name: str
    url: str
    store: Store[dict[str, Any]]
    server: Server | None = None
    known: dict[str, Any] = field(default_factory=dict)  # what a benchmark has put there

    def close(self) -> None:
        self.store.close()
        if self.server is not None:
            self.server.remove()

    @property
    def opened(self) -> int:
        """How many connections the server has ever accepted."""
        if isinstance(self.server, PostgresServer):
            return self.server.log().count("connection received")
        assert isinstance(self.server, ValkeyServer)
        with self.server.client() as client:
            info: Any = client.info("stats")
        return int(info["total_connections_received"])


Backends = Callable[[str], Backend]


@contextmanager
def all_backends(folder: Path) -> Iterator[Backends]:
    """Return the backend of a name, started when it is first asked for. All are closed at the end."""
    running: list[Backend] = []

    @functools.cache
    def backend(name: str) -> Backend:
        own = folder / str(len(running))
        own.mkdir()
        running.append(started(name, own))
        return running[-1]

    try:
        yield backend
    finally:
        for each in running:
            each.close()


def started(name: str, folder: Path) -> Backend:
    """Start a database, with the settings that `test_stores.py` names."""
    server: Server | None = None
    match name:
        case _ if name == POSTGRESQL:
            server = PostgresServer(log_connections="receipt")
        case _ if name == VALKEY:
            server = ValkeyServer(appendonly="no")
    if server is None:
        setting = {SQLITE: "", SQLITE_NORMAL: "?synchronous=NORMAL"}[name]
        url = f"sqlite:///{folder / 'chat.db'}{setting}"
    else:
        url = server.__enter__().url
    return Backend(name, url, open_store(url), server)


@contextmanager
def waits(backend: Backend) -> Iterator[tuple[Store[dict[str, Any]], Callable[[], int]]]:
    """Return another store, and how often it has waited for its database: statements on SQLite, else round trips."""
    if backend.server is None:
        statements: list[str] = []

        class Traced(FileConnection):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                sqlite3.Connection.set_trace_callback(self, statements.append)

        with mock.patch("chatring.stores.sql.sqlite.FileConnection", Traced):
            store = open_store(backend.url)
            try:
                yield store, lambda: len(statements)
            finally:
                store.close()
        return
    with counted(backend.server.port) as proxy:
        store = open_store(backend.url.replace(f":{backend.server.port}/", f":{proxy.port}/"))
        try:
            yield store, lambda: proxy.count
        finally:
            store.close()


def in_turns(
    benchmark: BenchmarkFixture,
    ours: Callable[[], object],
    others: Mapping[str, Callable[[], object]],
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
    calls: int = 1,
) -> int:
    """Time contenders in turns: a disk, or a shared machine, is ten times as fast in one second as in another.

    Args:
        benchmark: times `ours`.
        ours: the first contender.
        others: the others, by name.
        rounds: how often each is timed.
        prepare: called before each round, untimed.
        calls: how many calls each makes in a round.

    Returns:
        How many rounds there were: one if the benchmark is disabled.
    """
    seconds: dict[str, list[float]] = {name: [] for name in others}

    def time_others() -> None:
        prepare()
        for name, other in others.items():
            gc.disable()  # as pytest-benchmark does for ours
            begun = time.perf_counter()
            other()
            seconds[name].append((time.perf_counter() - begun) / calls)
            gc.enable()

    benchmark.pedantic(ours, setup=time_others, rounds=rounds)
    benchmark.extra_info.update(in_turns_with=seconds, calls=calls)
    return rounds if benchmark.enabled else 1
