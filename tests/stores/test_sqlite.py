"""What is special about SQLite: its URLs and connections, its statements, its writers in turn, and many processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chatring.formats.json_format import JsonFormat
from chatring.stores import Store, StoreTimeoutError, open_store
from chatring.stores.sql import SQLStore
from chatring.stores.sql.sqlite import SQLiteBackend
from profiles import FAST, slow
from threads import run_numbered
from timing import least_seconds, wait_until

from stores.histories import assert_is, assistant, conversation, result, user

ONE = user("one")


def append(store: Store[Any], count: int) -> None:
    for _ in range(count):
        store.append("ada", [ONE])


def assert_waits(seconds: float, call: Callable[[], object]) -> None:
    """Assert that a call waits for so long, and then says so. SQLite's own patience is 5 seconds, and ours is 10."""

    def timed_out() -> None:
        with pytest.raises(StoreTimeoutError):
            call()

    assert 0.9 * seconds < least_seconds(timed_out, 2 * seconds) < 2 * seconds


def path_of(url: str) -> str:
    return url.partition("?")[0].removeprefix("sqlite:///")


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The connections that stores open, and do not close."""
    opened: list[sqlite3.Connection] = []

    from chatring.stores.sql import fork

    class Seen(fork.FileConnection):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            opened.append(self)

    monkeypatch.setattr("chatring.stores.sql.sqlite.FileConnection", Seen)
    return opened


# URLs.


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "sqlite:///chat.db?timeout=3&foo=1&bar=",
            "'sqlite:///chat.db?timeout=3&foo=1&bar=' has parameters that SQLite does not take: bar, foo",
        ),
        ("sqlite:///chat.db?mode=ro", "'sqlite:///chat.db?mode=ro' has parameters that SQLite does not take: mode"),
        (
            "sqlite://chat.db",
            "'sqlite://chat.db' has a host, but SQLite has none; a file follows three slashes: sqlite:///chat.db",
        ),
        (
            "sqlite://:5/chat.db",
            "'sqlite://:5/chat.db' has a host, but SQLite has none; a file follows three slashes: sqlite:///chat.db",
        ),
        (
            "sqlite+aiosqlite:///chat.db",
            "'sqlite+aiosqlite:///chat.db' is not a URL of SQLite; one begins with sqlite://",
        ),
        ("sqlite:///chat.db?timeout=soon", "timeout must be a number above 0, got 'soon'"),
        ("sqlite:///chat.db?timeout=0", "timeout must be a number above 0, got '0'"),
        ("sqlite:///chat.db?timeout=-1", "timeout must be a number above 0, got '-1'"),
        ("sqlite:///chat.db?timeout=nan", "timeout must be a number above 0, got 'nan'"),
        ("sqlite:///chat.db?pool_size=1.5", "pool_size must be a number above 0, got '1.5'"),
        ("sqlite:///chat.db?pool_size=0", "pool_size must be a number above 0, got '0'"),
        ("sqlite:///chat.db?synchronous=maybe", "synchronous must be one of OFF, NORMAL, FULL, EXTRA, got 'MAYBE'"),
        ("sqlite:///file:c?uri=maybe", "'sqlite:///file:c?uri=maybe': uri must be true or false, got 'maybe'"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        open_store(url)
    assert str(raised.value) == message
    assert raised.value.__cause__ is None


def test_options_that_are_refused() -> None:
    for options, kind in (
        ({"pool_size": 0}, ValueError),
        ({"pool_size": True}, ValueError),
        ({"schema": "two"}, TypeError),
        ({"password": str}, TypeError),
    ):
        with pytest.raises(kind):
            open_store("sqlite:///chat.db", **options)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///chat.db",
        "sqlite:///./chat.db?synchronous=NORMAL",
        "sqlite+pysqlite:///chat.db?timeout=3",
        "sqlite:///file:chat.db?uri=true",
        "sqlite:///file:chat.db?mode=rwc&uri=true",
    ],
)
def test_a_relative_path_is_that_of_where_the_url_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    # Characters that URLs have a meaning for.
    here, there = tmp_path / "here %20 ü?#", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    store = open_store(url)
    monkeypatch.chdir(there)
    store.append("ada", [ONE])
    store.close()
    assert store.all("ada") == [ONE]
    assert [path.name for path in here.iterdir() if not path.name.startswith("chat.db-")] == ["chat.db"]
    again = open_store(store.url)
    assert again.all("ada") == [ONE]
    assert again.url == store.url
    assert list(there.iterdir()) == []
    store.close()
    again.close()


def test_a_relative_path_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ValueError, match="is relative to the current folder, which is gone; use an absolute path"):
        open_store("sqlite:///chat.db")
    open_store("sqlite://").close()


def test_nothing_is_opened_before_the_first_call(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/chat.db")
    assert list(tmp_path.iterdir()) == []
    assert store.keys() == []
    assert (tmp_path / "chat.db").exists()
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["chat.db"]


@pytest.mark.parametrize(("query", "level"), [("", 2), ("?synchronous=NORMAL", 1), ("?synchronous=extra", 3)])
def test_sqlite_writes_ahead_and_syncs(
    sqlite_url: str, connections: list[sqlite3.Connection], query: str, level: int
) -> None:
    store = open_store(sqlite_url + query)
    store.append("ada", [ONE])
    (connection,) = connections
    assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert connection.execute("PRAGMA synchronous").fetchall() == [(level,)]
    assert connection.execute("PRAGMA journal_size_limit").fetchall() == [(8 * 2**20,)]
    assert connection.execute("PRAGMA foreign_keys").fetchall() == [(1,)]
    store.close()


def test_the_write_ahead_log_does_not_stay_at_its_highest(sqlite_url: str) -> None:
    store = open_store(f"{sqlite_url}?synchronous=OFF", measure=len, measure_name="nothing")
    store.append("ada", [ONE])
    reader = sqlite3.connect(path_of(sqlite_url), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM chatring_message").fetchall()
    big = user("word " * 100_000)
    for _ in range(34):
        store.append("ada", [big])
    log = Path(path_of(sqlite_url) + "-wal")
    assert log.stat().st_size > 15_000_000  # as long as somebody reads what was before
    reader.execute("COMMIT")
    reader.close()
    for _ in range(4):
        store.append("bob", [ONE])
    assert log.stat().st_size <= 8 * 2**20 + 5_000
    store.close()


# Statements.


def statements_of(connections: list[sqlite3.Connection], call: Callable[[], object]) -> list[str]:
    seen: list[str] = []
    for connection in connections:
        connection.set_trace_callback(seen.append)
    call()
    for connection in connections:
        connection.set_trace_callback(None)
    return [statement.split()[0] for statement in seen if not statement.startswith("PRAGMA busy_timeout")]


def test_how_many_statements_there_are(sqlite_url: str, connections: list[sqlite3.Connection]) -> None:
    store = open_store(sqlite_url)
    store.append("ada", [ONE, result("two"), ONE])
    for limit in (10**6, 12, 1):
        assert statements_of(connections, lambda: store.window("ada", limit)) == ["WITH"]  # noqa: B023
    assert statements_of(connections, lambda: store.window("ada", 12, retention_ratio=0.3)) == ["WITH"]
    assert statements_of(connections, lambda: store.all("ada")) == ["SELECT"] * 2  # and whether that is all of it
    for read in (store.length, store.token_count, store.exists, store.updated_at):
        assert statements_of(connections, lambda: read("ada")) == ["SELECT"]  # noqa: B023
    assert statements_of(connections, lambda: store.last("ada", 2)) == ["SELECT"]
    assert statements_of(connections, lambda: store.slice("ada", 0, 2)) == ["SELECT"] * 3  # before and after
    append = ["BEGIN", "UPDATE", "INSERT", "COMMIT"]
    assert statements_of(connections, lambda: store.append("ada", [ONE])) == append
    batch = ["BEGIN", "UPDATE", *["INSERT"] * 3, "COMMIT"]
    assert statements_of(connections, lambda: store.append("ada", [ONE] * 3)) == batch
    store.close()
    connections.clear()
    other = open_store(sqlite_url)
    other.length("ada")
    assert statements_of(connections, lambda: other.append("ada", [ONE])) == ["SELECT", *append]
    assert len(connections) == 1
    other.close()


def test_a_start_is_found_in_the_index(sqlite_url: str, connections: list[sqlite3.Connection]) -> None:
    store = open_store(sqlite_url)
    store.append("ada", [ONE] * 100)
    seen: list[str] = []
    connections[0].set_trace_callback(seen.append)
    store.window("ada", 50)
    connections[0].set_trace_callback(None)
    (window,) = [statement for statement in seen if not statement.startswith("PRAGMA")]
    plan = [detail for _, _, _, detail in connections[0].execute(f"EXPLAIN QUERY PLAN {window}")]
    assert any("USING COVERING INDEX chatring_message_start (session_id=? AND before>?)" in detail for detail in plan)
    assert any("USING INDEX sqlite_autoindex_chatring_message_1 (session_id=? AND seq>? AND seq<?)" in d for d in plan)
    assert not any(detail.startswith("SCAN chatring") or "TEMP B-TREE" in detail for detail in plan), plan
    store.close()


@pytest.mark.parametrize("policy", [{}, {"start_on": None}, {"measure": "text"}])
@pytest.mark.parametrize("method", ["window", "last", "append", "pop", "slice", "exists", "trim"])
def test_what_a_call_costs_does_not_depend_on_the_length(
    sqlite_url: str, connections: list[sqlite3.Connection], policy: dict[str, Any], method: str
) -> None:
    """In instructions of SQLite's machine."""
    store = open_store(f"{sqlite_url}?synchronous=OFF", **policy)
    calls: dict[str, Callable[[int], object]] = {
        "window": lambda _: store.window("ada", 200),
        "last": lambda _: store.last("ada", 5),
        "append": lambda _: store.append("ada", [ONE]),
        "pop": lambda _: store.pop("ada"),
        "slice": lambda length: store.slice("ada", length - 7, length - 3),
        "exists": lambda _: store.exists("ada"),
        "trim": lambda _: store.trim("ada", 5),
    }
    counts: list[int] = []
    for length in (100, 10_000):
        store.replace("ada", [(user, assistant)[index % 2](f"{index % 10}") for index in range(length)])
        (connection,) = connections
        counts.append(0)

        def step() -> None:
            counts[-1] += 1

        connection.set_progress_handler(step, 1)
        calls[method](length)
        connection.set_progress_handler(None, 1)
    assert 0 < counts[1] < 1.3 * counts[0]
    store.close()


# Writers in turn.


@pytest.fixture
def held(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """Another program that holds the file."""
    store = open_store(sqlite_url)
    store.append("ada", [ONE])
    store.append("bob", [ONE] * 100)
    store.close()
    connection = sqlite3.connect(path_of(sqlite_url), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


async def test_counting_may_take_longer_than_the_timeout(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that nobody keeps waiting does not time out."""

    def count(text: str) -> int:
        time.sleep(0.02)
        return len(text)

    monkeypatch.setattr("chatring.stores.sql.sqlite._SOON", 60)
    store = open_store(sqlite_url, counter=count, counter_name="slow", timeout=0.01)
    store.append("ada", [ONE])
    for _ in range(20):
        await store.aappend("ada", [ONE])
        await store.aupdate("ada", -1, lambda last: [*last, ONE])
    assert await store.alength("ada") == 41
    await store.aclose()


def test_a_held_file_is_in_no_readers_way(sqlite_url: str, held: sqlite3.Connection) -> None:
    """40 threads wait to write; meanwhile another session's window is read at once, and then all of them write."""
    store = open_store(sqlite_url, timeout=60)
    writers = [threading.Thread(target=store.append, args=("ada", [ONE])) for _ in range(40)]
    for writer in writers:
        writer.start()
    time.sleep(0.1)
    for _ in range(20):
        assert store.window("bob", 50)
    assert all(writer.is_alive() for writer in writers)  # reading did not wait for them
    held.rollback()
    for writer in writers:
        writer.join()
    assert store.length("ada") == 41
    store.close()


def test_a_held_file_is_in_nobodys_way_in_an_event_loop(sqlite_url: str, held: sqlite3.Connection) -> None:
    """Also not in the turn of the application's other work in threads."""

    async def run() -> None:
        store = open_store(sqlite_url, timeout=60)
        loop = asyncio.get_running_loop()
        writers = [asyncio.create_task(store.aappend("ada", [ONE])) for _ in range(40)]
        await asyncio.sleep(0.1)
        for _ in range(5):
            assert await store.awindow("bob", 50)
            await loop.getaddrinfo("127.0.0.1", 80, proto=socket.IPPROTO_TCP)
            await asyncio.to_thread(lambda: None)
        assert not any(writer.done() for writer in writers)  # nothing waited for them
        held.rollback()
        await asyncio.gather(*writers)
        assert await store.alength("ada") == 41
        await store.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("how", ["timeout", "URL"])
def test_the_timeout_is_the_timeout(sqlite_url: str, held: sqlite3.Connection, how: str) -> None:
    """For each of many that wait, from its call on: threads and tasks."""
    if how == "URL":
        store: Store[Any] = open_store(f"{sqlite_url}?timeout=0.5")
    else:
        store = open_store(sqlite_url, timeout=0.5)
    assert store.timeout == 0.5
    waited: list[float] = []
    errors: list[str] = []

    def write(_: int) -> None:
        began = time.monotonic()
        with pytest.raises(StoreTimeoutError) as raised:
            store.append("ada", [ONE])
        waited.append(time.monotonic() - began)
        errors.append(str(raised.value))

    async def task() -> None:
        began = time.monotonic()
        with pytest.raises(StoreTimeoutError) as raised:
            await store.aappend("ada", [ONE])
        waited.append(time.monotonic() - began)
        errors.append(str(raised.value))

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(40)))

    # One after the other they would wait for seconds.
    for wait, count in ((lambda: run_numbered(write, 8), 8), (lambda: asyncio.run(tasks()), 40)):
        assert least_seconds(wait, 0.9) < 0.9
        assert len(waited) % count == 0
        assert min(waited) > 0.45
        waited.clear()
    assert all(error.startswith(f"{store.url}") and "; try again" in error for error in errors)
    held.rollback()
    store.append("ada", [ONE])
    assert store.length("ada") == 2
    store.close()


@pytest.mark.parametrize("how", ["append", "delete", "prune", "replace"])
@pytest.mark.parametrize("is_first", [True, False])
def test_whatever_writes_waits_until_the_timeout(
    sqlite_url: str, held: sqlite3.Connection, how: str, is_first: bool
) -> None:
    calls: dict[str, Callable[[Store[Any]], object]] = {
        "append": lambda store: store.append("ada", [ONE]),
        "delete": lambda store: store.delete("ada"),
        "prune": lambda store: store.prune(max_messages=10),
        "replace": lambda store: store.replace("ada", [ONE]),
    }

    def call() -> None:
        with contextlib.closing(open_store(sqlite_url, timeout=0.5)) as store:
            if not is_first:
                assert store.length("ada") == 1
            calls[how](store)

    assert_waits(0.5, call)
    held.rollback()
    call()


@pytest.mark.parametrize("how", ["timeout", "URL", "backend"])
@pytest.mark.parametrize("is_wal", [True, False])
def test_the_first_call_of_all_waits_until_the_timeout(sqlite_url: str, how: str, is_wal: bool) -> None:
    """It makes the log and the tables."""
    connection = sqlite3.connect(path_of(sqlite_url), isolation_level=None)
    if is_wal:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE" if is_wal else "BEGIN EXCLUSIVE")
    stores: dict[str, Callable[[], Store[Any]]] = {
        "timeout": lambda: open_store(f"{sqlite_url}?timeout=7", timeout=0.5),
        "URL": lambda: open_store(f"{sqlite_url}?timeout=0.5"),
        "backend": lambda: Store(SQLiteBackend(sqlite_url), timeout=0.5),
    }

    def call() -> None:
        with contextlib.closing(stores[how]()) as store:
            store.length("ada")

    assert_waits(0.5, call)
    connection.rollback()
    connection.close()
    call()


def test_the_longest_timeout_is_one(sqlite_url: str) -> None:
    """SQLite counts in milliseconds of 32 bits."""
    store = open_store(sqlite_url, timeout=1_000_000)
    store.append("ada", [ONE])
    other = sqlite3.connect(path_of(sqlite_url), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, other.rollback).start()
    store.append("ada", [ONE])
    assert store.length("ada") == 2
    store.close()
    other.close()


def test_a_task_that_is_cancelled_while_it_waits(sqlite_url: str, held: sqlite3.Connection) -> None:
    async def run() -> None:
        store = open_store(sqlite_url, timeout=60)
        tasks = [asyncio.create_task(store.aappend("ada", [user(f"{number}")])) for number in range(10)]
        await asyncio.sleep(0.05)
        for task in tasks[1:]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 9
        assert not tasks[0].done()  # they did not wait for the file
        held.rollback()
        await tasks[0]
        # Those that had not begun are not made at all.
        assert await store.aall("ada") == [ONE, user("0")]
        await store.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_writers_of_one_process_do_not_starve_each_other(sqlite_url: str, kind: str) -> None:
    writers, each = 32, 4 if FAST else 12
    store = open_store(f"{sqlite_url}?synchronous=OFF")
    done = 0
    meanwhile: list[int] = []

    def write(number: int) -> None:
        nonlocal done
        for _ in range(each):
            before = done
            store.append(f"{number % 5}", [ONE])
            meanwhile.append(done - before)
            done += 1

    async def awrite(number: int) -> None:
        nonlocal done
        for _ in range(each):
            before = done
            await store.aappend(f"{number % 5}", [ONE])
            meanwhile.append(done - before)
            done += 1

    async def all_tasks() -> None:
        await asyncio.gather(*(awrite(number) for number in range(writers)))

    if kind == "threads":
        run_numbered(write, writers)
    else:
        asyncio.run(all_tasks())
    assert sum(store.length(f"{number}") for number in range(5)) == writers * each
    # Each waits for those before it, at most.
    assert max(meanwhile) < 4 * writers
    store.close()


def test_a_counter_that_sleeps_is_in_no_writers_way(sqlite_url: str) -> None:
    sleeping, awake = threading.Event(), threading.Event()

    def count(text: str) -> list[str]:
        if text == "slow":
            sleeping.set()
            assert awake.wait(60)
        return text.split()

    store = open_store(sqlite_url, counter=count, counter_name="words")
    store.append("ada", [ONE])
    thread = threading.Thread(target=store.append, args=("ada", [user("slow")]))
    thread.start()
    assert sleeping.wait(60)
    store.append("ada", [user("quick")])
    awake.set()
    thread.join()
    assert store.all("ada") == [ONE, user("quick"), user("slow")]
    store.close()


def test_a_counter_that_sleeps_is_in_no_tasks_way(sqlite_url: str) -> None:
    """As long as they would wait, and in the threads of asyncio alone."""
    sleeping: list[str] = []
    awake = threading.Event()

    def count(text: str) -> list[str]:
        if text == "slow":
            sleeping.append(threading.current_thread().name)
            assert awake.wait(60)
        return text.split()

    store = open_store(sqlite_url, counter=count, counter_name="words")

    async def run() -> None:
        await store.aappend("bob", [ONE])
        slow = asyncio.create_task(store.aappend("ada", [user("slow")]))
        while not sleeping:
            await asyncio.sleep(0.01)
        for _ in range(5):
            await store.aappend("bob", [ONE])
            assert await store.alength("bob")
        assert not slow.done()
        slow.cancel()
        awake.set()
        await asyncio.gather(slow, return_exceptions=True)
        assert await store.alength("bob") == 6
        assert await store.alength("ada") == 0
        await store.aclose()

    asyncio.run(run())
    assert not any(name.startswith("chatring") for name in sleeping)


def test_a_counter_that_runs_a_loop_of_its_own(sqlite_url: str) -> None:
    def count(text: str) -> list[str]:
        if text == "outer":
            asyncio.run(store.aappend("ada", [user("inner")]))
        return text.split()

    store = open_store(sqlite_url, counter=count, counter_name="words", timeout=30)

    async def run() -> None:
        await store.aappend("ada", [user("outer")])
        assert await store.aall("ada") == [user("inner"), user("outer")]
        await store.aclose()

    asyncio.run(run())
    store.append("ada", [user("outer")])
    assert store.all("ada") == [user("inner"), user("outer")] * 2
    store.close()


@pytest.mark.parametrize("url", ["memory://", "file"])
@pytest.mark.parametrize("kind", ["sync", "async", "loops"])
def test_a_format_that_uses_its_store(url: str, sqlite_url: str, kind: str) -> None:
    """Also another one of the file."""
    busy = False
    calls: dict[str, int] = {}

    def use(what: str) -> None:
        nonlocal busy
        calls[what] = calls.get(what, 0) + 1
        if not busy:
            busy = True
            for each in stores:
                if kind == "loops":
                    asyncio.run(each.aappend("log", [ONE]))
                    assert asyncio.run(each.alength("log"))
                else:
                    each.append("log", [ONE])
                    assert each.length("log")
                assert each.window("ada", 100) is not None
            busy = False

    class Using(JsonFormat):
        name = "using"

        def read(self, message: Any) -> Any:
            use("read")
            return super().read(message)

        def load(self, body: str) -> Any:
            use("load")
            return super().load(body)

    options: dict[str, Any] = {"format": Using(), "timeout": 30}
    stores = [open_store(sqlite_url if url == "file" else url, **options)]
    if url == "file":
        stores.append(open_store(sqlite_url, counter="o200k_base", timeout=30, format=Using()))
    store = stores[0]

    def work() -> None:
        store.append("ada", [ONE, user("two")])
        assert store.window("ada", 100) == [ONE, user("two")]
        store.recount("ada")
        assert store.all("ada") == [ONE, user("two")]
        assert store.last("ada", 1) == [user("two")]
        store.replace("ada", [ONE])

    async def awork() -> None:
        await store.aappend("ada", [ONE, user("two")])
        assert await store.awindow("ada", 100) == [ONE, user("two")]
        await store.arecount("ada")
        assert await store.aall("ada") == [ONE, user("two")]
        assert await store.alast("ada", 1) == [user("two")]
        await store.areplace("ada", [ONE])

    began = time.monotonic()
    if kind == "async":
        asyncio.run(awork())
    else:
        work()
    assert time.monotonic() - began < 25
    assert min(calls["read"], calls["load"]) > 2
    assert store.length("log") > 4
    for each in stores:
        each.close()


def test_a_task_that_is_cancelled_at_any_time(sqlite_url: str) -> None:
    """Its change is made as a whole or not at all, and nothing stays locked."""
    store = open_store(f"{sqlite_url}?synchronous=OFF", timeout=30)
    batch = [ONE] * 50

    async def run() -> None:
        await store.aappend("ada", [ONE])
        for number in range(60 if FAST else 300):
            calls = [store.aappend("ada", batch), store.areplace("bob", batch), store.aappend(f"{number}", batch)]
            tasks = [asyncio.create_task(call) for call in calls]
            await asyncio.sleep(random.uniform(0, 0.003))
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
        await store.aappend("ada", [ONE])  # after those whose transactions had begun
        assert await store.alength("ada") % 50 == 2
        assert await store.alength("bob") in (0, 50)
        for key in await store.akeys():
            assert key in ("ada", "bob") or await store.alength(key) == 50
            assert len(await store.awindow(key, 10**6)) == await store.alength(key)
        other = sqlite3.connect(path_of(sqlite_url), isolation_level=None, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.close()
        assert store._backend.turns._queues == {}
        await store.aclose()

    asyncio.run(run())


@slow
def test_a_change_that_others_always_outrun_is_made(sqlite_url: str) -> None:
    """After a few tries it is counted within the transaction, when nobody else can change the session."""
    other = open_store(f"{sqlite_url}?timeout=2", counter=str.split, counter_name="words", measure="text")
    outrun: list[bool] = []

    def count(text: str) -> list[str]:
        if text.endswith(" change"):
            try:
                other.append("ada", [user("quicker\n")])
                outrun.append(True)
            except StoreTimeoutError:
                outrun.append(False)
        return text.split()

    store = open_store(sqlite_url, counter=count, counter_name="words", measure="text")
    store.append("ada", [user("one\n")])
    store.append("ada", [user("change")])
    assert outrun[0] is True
    assert outrun[-1] is False
    texts = [message["content"] for message in store.all("ada")]
    assert texts == ["one\n", *["quicker\n"] * outrun.count(True), "change"]
    assert_is(other, "ada", store.all("ada"), {"counter": str.split, "counter_name": "words", "measure": "text"})
    store.close()
    other.close()


# Many processes.

FIRST_USE = """
import sys
from chatring.stores import open_store
store = open_store(sys.argv[1])
user = lambda text: {"role": "user", "content": text}
print("ready", flush=True)
sys.stdin.readline()
store.append("ada", [user("one")])
store.append("ada", [user("two"), user("three")])
store.close()
"""


@slow
def test_many_processes_make_the_tables(sqlite_url: str) -> None:
    command = [sys.executable, "-c", FIRST_USE, sqlite_url]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == [""] * 6
    store = open_store(sqlite_url)
    assert store.length("ada") == 18
    assert store.all("ada").count(user("two")) == 6
    store.close()


# Backups.


def test_a_backup_beside_writers(sqlite_url: str, tmp_path: Path) -> None:
    store = open_store(f"{sqlite_url}?synchronous=OFF")
    assert isinstance(store, SQLStore)
    store.append("ada", [user("0")])
    ended = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            number = 1
            while not ended.is_set():
                store.append("ada", [user(f"{number}")])
                number += 1
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            least = store.length("ada")
            target = tmp_path / f"backup {number}.db"
            store.backup(str(target))
            copy = open_store(f"sqlite:///{target}")
            messages = copy.all("ada")
            assert len(messages) >= least
            assert messages == [user(f"{index}") for index in range(len(messages))]
            assert_is(copy, "ada", messages)
            copy.append("ada", [ONE])
            copy.close()
            assert sorted(path.name for path in tmp_path.glob("backup*")) == [
                f"backup {i}.db" for i in range(number + 1)
            ]
    finally:
        ended.set()
        writer.join()
    assert failures == []
    with pytest.raises(FileExistsError):
        store.backup(str(tmp_path / "backup 0.db"))
    store.close()


# In memory.


def test_a_database_in_memory_is_one() -> None:
    store = open_store("sqlite://")
    run_numbered(lambda _: append(store, 20), 8)
    assert store.length("ada") == 160
    assert asyncio.run(store.alength("ada")) == 160
    assert open_store("sqlite://").keys() == []
    store.close()
    assert store.keys() == []
    store.close()
    gc.collect()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("url", ["sqlite://", "file"])
def test_an_interrupt_leaves_everything_as_it_was(url: str, sqlite_url: str) -> None:
    interrupt = False

    def count(text: str) -> list[str]:
        if interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        return text.split()

    store = open_store(sqlite_url if url == "file" else url, counter=count, counter_name="words", measure="text")
    history = [ONE, user("two\n")]
    store.append("ada", history)
    interrupt = True
    for change in (lambda: store.pop("ada", 0), lambda: store.append("ada", [ONE]), lambda: store.recount("ada")):
        with pytest.raises(KeyboardInterrupt):
            change()
    interrupt = False
    assert store.all("ada") == history
    store.append("ada", [ONE])
    assert store.all("ada") == [*history, ONE]
    store.close()


# Event loops, threads and closing.


def chatring_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("chatring")]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_a_loop_for_each_request_leaves_nothing_behind(sqlite_url: str) -> None:
    """As in a server with 16 threads that run a loop for each request."""
    before = chatring_threads()
    store = open_store(f"{sqlite_url}?synchronous=OFF")
    folder = Path(path_of(sqlite_url)).parent

    def opened() -> list[Path]:
        return [Path(os.readlink(link)) for link in Path("/proc/self/fd").iterdir() if is_inside(link)]

    def is_inside(link: Path) -> bool:
        with contextlib.suppress(OSError):
            return Path(os.readlink(link)).parent == folder
        return False

    async def request(number: int) -> None:
        await store.aappend("ada", [user(f"{number}")])
        assert await store.awindow("ada", 50)
        if number % 2:
            await store.aclose()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_numbered(lambda number: [asyncio.run(request(number)) for _ in range(6)], 16)
        assert store.length("ada") == 96
        assert_is(store, "ada", store.all("ada"))
        store.close()
        gc.collect()
    wait_until(lambda: chatring_threads() == before)
    assert opened() == []
    assert sorted(path.name for path in folder.iterdir()) == ["chat.db"]


def test_a_store_that_is_closed_while_others_use_it(sqlite_url: str) -> None:
    """Calls under way end as they would; the next ones open it again."""
    store = open_store(f"{sqlite_url}?synchronous=OFF")
    ended = threading.Event()

    def close() -> None:
        while not ended.wait(0.001):
            store.close()

    closer = threading.Thread(target=close)
    closer.start()

    async def tasks() -> None:
        for _ in range(10):
            await asyncio.gather(*(store.aappend("ada", [ONE]) for _ in range(5)), store.awindow("ada", 20))

    try:
        with concurrent.futures.ThreadPoolExecutor(4) as executor:
            futures: list[concurrent.futures.Future[Any]] = [
                executor.submit(append, store, 50),
                executor.submit(lambda: [None for _ in range(50) if not store.window("ada", 20)] and None),
                executor.submit(lambda: asyncio.run(tasks())),
                executor.submit(lambda: asyncio.run(tasks())),
            ]
            for future in futures:
                future.result(300)
    finally:
        ended.set()
        closer.join()
    assert store.length("ada") == 150
    store.close()


def test_a_store_that_is_closed_by_its_counter(sqlite_url: str, connections: list[sqlite3.Connection]) -> None:
    def count(text: str) -> list[str]:
        if "two" in text:
            store.close()  # as another thread does
        return text.split()

    store = open_store(sqlite_url, counter=count, counter_name="words", measure="text")
    store.append("ada", [user("one"), user("three\n")])
    store.append("ada", [user("two")])
    store.pop("ada", 0)
    assert store.length("ada") == 2
    store.close()
    for connection in connections:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_aclose_closes_a_file(sqlite_url: str) -> None:
    def opened() -> list[Path]:
        folder = Path(path_of(sqlite_url)).parent
        return [file for file in (file.resolve() for file in Path("/proc/self/fd").iterdir()) if file.parent == folder]

    async def use() -> None:
        store = open_store(sqlite_url)
        await asyncio.gather(*(store.aappend("ada", [ONE]) for _ in range(4)))
        assert opened() != []
        await store.aclose()
        assert opened() == []
        assert await store.alength("ada") == 4
        await store.aclose()
        assert opened() == []

    asyncio.run(use())


def test_a_store_that_nobody_closes_is_collected(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    store.append("ada", [ONE])
    asyncio.run(store.alength("ada"))
    del store
    gc.collect()
    wait_until(lambda: not chatring_threads())


def test_big_batches_and_a_small_pool(sqlite_url: str) -> None:
    store = open_store(f"{sqlite_url}?synchronous=OFF&pool_size=1")
    messages = conversation(300)

    def work(number: int) -> None:
        for _ in range(5):
            store.append(f"{number}", messages)
            assert store.window(f"{number}", 200)

    run_numbered(work, 6)
    assert store.length("3") == 1_500
    store.close()
