"""What is particular to `SQLStore`: its URLs and connections, its statements, and many processes at once."""

import asyncio
import gc
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chatring import MessageRing
from chatring.stores import (
    CounterMismatchError,
    Record,
    Store,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    open_store,
    sql_session,
    sql_statements,
)
from chatring.stores.redis import RedisStore
from chatring.stores.sql import SQLStore
from chatring.stores.sql_database import Cursor
from chatring.stores.sql_errors import store_error
from profiles import slow
from sqlalchemy import Engine, event

ONE = Record("user", "one")


@pytest.fixture(params=["sqlite"])
def sql_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    return url


@pytest.fixture
def on_connect() -> Iterator[Callable[[Callable[[Any], None]], None]]:
    """Have something done with every new connection of any store."""
    listeners: list[Callable[[Any, object], None]] = []

    def listen(work: Callable[[Any], None]) -> None:
        def listener(connection: Any, _: object) -> None:
            work(connection)

        event.listen(Engine, "connect", listener)
        listeners.append(listener)

    yield listen
    for listener in listeners:
        event.remove(Engine, "connect", listener)


# URLs.


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:s3cret@db.example/chat",
        "postgres://ada:s3cret@db.example/chat",
        "postgresql+psycopg://ada:s3cret@db.example:5432/chat?sslmode=require",
        "postgresql://db.example/chat?user=ada&password=s3cret",
        "postgresql://ada:s3%40cret@db.example/chat?sslpassword=s3cret",
    ],
)
def test_a_store_shows_its_url_without_secrets(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, SQLStore)
    for shown in (store.url, repr(store), str(store)):
        assert "s3" not in shown
        assert "db.example" in shown
        assert "***" in shown
    assert repr(store) == f"SQLStore({store.url!r}, counter='cl100k_base')"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada@corp:s3cret@h/d", "postgresql://ada@corp:***@h/d"),
        ("postgresql://a:s3cret@h/one?application_name=w@1", "postgresql://a:***@h/one?application_name=w@1"),
        ("postgresql://a:s3:/?#@h:5/d", "postgresql://a:***@h:5/d"),
        ("postgresql://h/d?p%61ssword=s3#x&user=b:c@d", "postgresql://h/d?p%61ssword=***&user=b:c@d"),
        ("postgresql://a@h@db/d", "postgresql://a@h@db/d"),
        ("sqlite:////home/a:b@c/%20 ü.db?timeout=3", "sqlite:////home/a:b@c/%20 ü.db?timeout=3"),
        ("redis://ada@corp:s3cret@h:1/0", "redis://ada@corp:***@h:1/0"),
        ("redis://:s3@cret@h/0?client_name=w:x@1", "redis://:***@h/0?client_name=w:x@1"),
        ("redis://h/2?password=s3&username=b", "redis://h/2?password=***&username=b"),
    ],
)
def test_a_url_is_shown_as_it_is_but_for_its_secrets(url: str, shown: str) -> None:
    store = open_store(url)
    assert isinstance(store, (SQLStore, RedisStore))
    assert store.url == shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "sqlite+aiosqlite:///chat.db",
            "'sqlite+aiosqlite:///chat.db' names neither SQLite nor PostgreSQL with psycopg",
        ),
        ("postgresql+asyncpg://a:s3cret@h/d", "'postgresql+asyncpg://a:***@h/d' names neither SQLite nor PostgreSQL"),
        ("postgresql+psycopg_async://h/d", "'postgresql+psycopg_async://h/d' names neither SQLite nor PostgreSQL"),
        ("postgresql://a:s3cret@h:port/d", "'postgresql://a:***@h:port/d' is no URL of a database"),
        ("postgresql://a:s3@cret@h/d", "'postgresql://a:***@h/d' has a password with an @; write %40 in its place"),
        ("postgresql://a:s3@cret/d@h/d", "'postgresql://a:***@h/d' has a password with an @"),
        ("postgresql://a:s3@cret?x@h/d", "'postgresql://a:***@h/d' has a password with an @"),
        ("postgresql:/a:s3cret@h/d", "'postgresql:/a:***@h/d' is no store's URL"),
        ("postgresql://h:port/d?pwd=s3cret", "'postgresql://h:port/d?pwd=***' is no URL of a database"),
        (
            "sqlite:///chat.db?timeout=3&foo=1&bar=",
            "'sqlite:///chat.db?timeout=3&foo=1&bar=' has parameters that SQLite ",
        ),
        ("sqlite:///chat.db?mode=ro", "'sqlite:///chat.db?mode=ro' has parameters that SQLite has not: mode"),
        ("sqlite://chat.db", "'sqlite://chat.db' has a host, which SQLite has not; a file follows three slashes"),
        ("sqlite://:5/chat.db", "'sqlite://:5/chat.db' has a host, which SQLite has not"),
        ("sqlite:///chat.db?timeout=soon", "'sqlite:///chat.db?timeout=soon' is no URL of SQLite: could not convert"),
        ("sqlite:///chat.db?timeout=1&timeout=2", "'sqlite:///chat.db?timeout=1&timeout=2' is no URL of SQLite: float"),
        ("sqlite://a:s3cret@/chat.db", "'sqlite://a:***@/chat.db' has a host, which SQLite has not"),
        ("sqlite:///chat.db?synchronous=maybe", "synchronous must be one of OFF, NORMAL, FULL, EXTRA, got 'MAYBE'"),
        ("postgresql://h/d?prepare_threshold=soon", "prepare_threshold must be none or a number of uses, got 'soon'"),
        ("postgresql://h/d?prepare_threshold=-1", "prepare_threshold must be none or a number of uses, got '-1'"),
        ("postgresql://h/d?startup_options=all", "startup_options can only be none, got 'all'"),
        *(
            (
                f"postgresql://a:s3cret@h/d?{name}=1",
                f"'postgresql://a:***@h/d?{name}=1' is no URL of PostgreSQL: invalid connection option \"{name}\"",
            )
            for name in ("row_factory", "cursor_factory", "autocommit", "context", "pool_size", "synchronous")
        ),
        ("postgresql://a:s3cret@h:1,i:x/d", "'postgresql://a:***@h:1,i:x/d' is no URL of PostgreSQL: Received non-int"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        open_store(url)
    assert str(raised.value).startswith(message)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("url", [None, 5, Path("chat.db"), b"sqlite://"])
def test_a_url_that_is_no_text(url: Any) -> None:
    for opened in (open_store, SQLStore):
        with pytest.raises(TypeError, match=f"^a store's URL must be a str, got {type(url).__name__}$"):
            opened(url)


def test_a_store_that_could_not_be_made_can_be_shown() -> None:
    """By tools that show the variables of a traceback."""
    with pytest.raises(ValueError, match="is no URL of a database") as raised:
        SQLStore("postgresql://h:port/d")
    stores = [frame.locals.get("self") for frame in raised.traceback if isinstance(frame.locals.get("self"), SQLStore)]
    assert [repr(store) for store in stores] == ["SQLStore(...)"]


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
    assert isinstance(store, SQLStore)
    monkeypatch.chdir(there)
    store.append("ada", [ONE])
    store.close()
    assert store.all("ada") == [ONE]
    assert [path.name for path in here.iterdir() if not path.name.startswith("chat.db-")] == ["chat.db"]
    again = open_store(store.url)
    assert isinstance(again, SQLStore)
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
    open_store("postgresql://127.0.0.1:1/nowhere")
    assert list(tmp_path.iterdir()) == []
    assert store.keys() == []
    assert (tmp_path / "chat.db").exists()
    store.close()


@pytest.mark.parametrize(("query", "level"), [("", 2), ("?synchronous=NORMAL", 1), ("?synchronous=extra", 3)])
def test_sqlite_writes_ahead_and_syncs(
    sqlite_url: str, on_connect: Callable[[Callable[[Any], None]], None], query: str, level: int
) -> None:
    connections: list[sqlite3.Connection] = []
    on_connect(connections.append)
    store = open_store(sqlite_url + query)
    store.append("ada", [ONE])
    (connection,) = connections
    assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert connection.execute("PRAGMA synchronous").fetchall() == [(level,)]
    assert connection.execute("PRAGMA busy_timeout").fetchall() == [(10_000,)]
    assert connection.execute("PRAGMA journal_size_limit").fetchall() == [(8 * 2**20,)]
    store.close()


# Of the server, for clients whose machine is gone.


# Statements.


def statements_of(connections: list[sqlite3.Connection], call: Callable[[], object]) -> list[str]:
    seen: list[str] = []
    for connection in connections:
        connection.set_trace_callback(seen.append)
    call()
    for connection in connections:
        connection.set_trace_callback(None)
    return [statement.split()[0] for statement in seen]


def test_a_window_is_one_statement(sqlite_url: str, on_connect: Callable[[Callable[[Any], None]], None]) -> None:
    connections: list[sqlite3.Connection] = []
    on_connect(connections.append)
    store = open_store(sqlite_url)
    store.append("ada", [ONE, Record("tool", "two"), ONE])
    assert statements_of(connections, lambda: store.window("ada", 2)) == ["WITH"]
    assert statements_of(connections, lambda: store.window("ada", 1)) == ["WITH"]
    assert statements_of(connections, lambda: store.all("ada")) == ["SELECT"]
    assert statements_of(connections, lambda: store.length("ada")) == ["SELECT"]
    assert statements_of(connections, lambda: store.token_count("ada")) == ["SELECT"]
    assert statements_of(connections, lambda: store.append("ada", [ONE])) == ["BEGIN", "UPDATE", "INSERT", "COMMIT"]
    batch = ["BEGIN", "SELECT", *["INSERT"] * 3, "UPDATE", "COMMIT"]
    assert statements_of(connections, lambda: store.append("ada", [ONE] * 3)) == batch
    store.close()


def test_a_start_is_found_in_the_index(sqlite_url: str, on_connect: Callable[[Callable[[Any], None]], None]) -> None:
    connections: list[sqlite3.Connection] = []
    on_connect(connections.append)
    store = open_store(sqlite_url)
    store.append("ada", [ONE] * 100)
    seen: list[str] = []
    connections[0].set_trace_callback(seen.append)
    store.window("ada", 10)
    connections[0].set_trace_callback(None)
    (window,) = seen
    plan = [detail for _, _, _, detail in connections[0].execute(f"EXPLAIN QUERY PLAN {window}")]
    assert any("USING COVERING INDEX chatring_message_start (session_id=? AND before>?)" in detail for detail in plan)
    assert any("USING INDEX sqlite_autoindex_chatring_message_1 (session_id=? AND seq>? AND seq<?)" in d for d in plan)
    assert not any(detail.startswith("SCAN chatring") or "TEMP B-TREE" in detail for detail in plan)
    store.close()


def test_the_last_message_is_popped_without_reading_the_session(
    sqlite_url: str, on_connect: Callable[[Callable[[Any], None]], None]
) -> None:
    connections: list[sqlite3.Connection] = []
    on_connect(connections.append)
    store = open_store(sqlite_url)
    steps: list[int] = []
    for length in (100, 20_000):
        store.replace("ada", [Record(("user", "assistant")[index % 2], f"{index}") for index in range(length)])
        (connection,) = connections
        steps.append(0)

        def step() -> None:
            steps[-1] += 1

        connection.set_progress_handler(step, 1)
        store.pop("ada")
        connection.set_progress_handler(None, 1)
    # Instructions of SQLite's machine: as many, whatever the length.
    assert 0 < steps[1] < 1.2 * steps[0]
    store.close()


def test_a_window_while_others_change_the_session(sql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another writer does between the two statements of a window, it is that of one moment."""
    ours, others = open_store(sql_url), open_store(sql_url, counter="o200k_base")
    blank = Record("user", " ")
    fetch = Cursor.fetch

    def window_with(change: Callable[[], object]) -> list[Record]:
        def meanwhile(cursor: Cursor, statement: Any, **values: Any) -> Any:
            if statement is sql_statements.EXPLAINED_WINDOW:
                monkeypatch.setattr(Cursor, "fetch", fetch)
                change()
            return fetch(cursor, statement, **values)

        monkeypatch.setattr(Cursor, "fetch", meanwhile)
        try:
            return ours.window("ada", 100)
        finally:
            assert Cursor.fetch is fetch, "the change was not made"

    others.append("ada", [ONE] * 3)
    assert window_with(lambda: ours.recount("ada")) == [ONE] * 3
    ours.delete("ada")
    assert window_with(lambda: ours.append("ada", [ONE])) == [ONE]
    ours.replace("ada", [blank] * 2)
    assert window_with(lambda: ours.append("ada", [ONE])) == [blank, blank, ONE]
    ours.replace("ada", [blank] * 2)
    with pytest.raises(CounterMismatchError):
        window_with(lambda: others.recount("ada"))
    ours.replace("ada", [blank])
    assert window_with(lambda: ours.delete("ada")) == []
    ours.replace("ada", [])
    assert window_with(lambda: None) == []
    ours.close()
    others.close()


LONG_TEXT = "word " * 4_000
CHANGES: dict[str, tuple[list[str], Callable[[Store], object]]] = {
    "append one": (["one"], lambda store: store.append("ada", [Record("user", LONG_TEXT)])),
    "append two": (["one"], lambda store: store.append("ada", [Record("user", LONG_TEXT), ONE])),
    "append to a long text": (["one", LONG_TEXT], lambda store: store.append("ada", [ONE])),
    "append to blanks": (["one", *[" "] * 300], lambda store: store.append("ada", [ONE])),
    "replace": (["one"], lambda store: store.replace("ada", [Record("user", LONG_TEXT)])),
    "pop": (["one", "two", LONG_TEXT], lambda store: store.pop("ada", 1)),
    "recount": (["one", LONG_TEXT], lambda store: store.recount("ada")),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("key", ["ada", "bob"])
def test_nobody_waits_while_much_is_counted(sql_url: str, name: str, key: str) -> None:
    """Another writer goes on, also in the same session; what was counted is then counted anew."""
    impatient = "?timeout=0.1" if sql_url.startswith("sqlite") else "?options=-c%20lock_timeout%3D100ms"
    other = open_store(sql_url + impatient, counter=str.split, counter_name="words")
    changes: list[str] = []
    changing = False

    def count(text: str) -> list[str]:
        if changing and len(text) >= 300 and not changes:
            changes.append(text)
            other.append(key, [Record("user", "meanwhile")])
        return text.split()

    history, change = CHANGES[name]
    store = open_store(sql_url, counter=count, counter_name="words")
    store.append("ada", [Record("user", text) for text in history])
    changing = True
    change(store)
    assert changes != []
    records = store.all("ada")
    assert (Record("user", "meanwhile") in records) == (key == "ada" and name != "replace")
    ring: MessageRing[Record] = MessageRing(counter=str.split, measure="text")
    ring.put_messages(records)
    assert store.token_count("ada") == ring.token_count()
    for limit in (1, 2, 3, 10, 3_990, 4_000, 4_001, 4_002, 4_010):
        assert store.window("ada", limit) == ring.get(token_limit=limit)
    store.close()
    other.close()


def test_a_change_that_others_always_outrun_is_made(sqlite_url: str) -> None:
    """After a few tries it is counted within the transaction, when nobody else can change the session."""
    other = open_store(f"{sqlite_url}?timeout=0", counter=str.split, counter_name="words")
    outrun: list[bool] = []
    changing = False

    def count(text: str) -> list[str]:
        if changing and text == LONG_TEXT:
            try:
                other.append("ada", [ONE])
                outrun.append(True)
            except StoreTimeoutError:
                outrun.append(False)
        return text.split()

    store = open_store(sqlite_url, counter=count, counter_name="words")
    store.append("ada", [ONE, Record("user", LONG_TEXT)])
    changing = True
    store.recount("ada")
    changing = False
    assert outrun[0] is True
    assert outrun[-1] is False
    assert store.length("ada") == 2 + outrun.count(True)
    store.close()
    other.close()


# Many processes.

FIRST_USE = """
import sys
from chatring.stores import Record, open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.append("ada", [Record("user", "one")])
store.append("ada", [Record("user", "two"), Record("user", "three")])
store.close()
"""


@slow
def test_many_processes_make_the_tables(sql_url: str) -> None:
    command = [sys.executable, "-c", FIRST_USE, sql_url]
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
    store = open_store(sql_url)
    assert store.length("ada") == 18
    assert [record.text for record in store.all("ada")].count("two") == 6
    store.close()


FORK = """
import os, sys, threading
from chatring.stores import Record, open_store
store = open_store(sys.argv[1])
store.append("ada", [Record("user", "before")])
children = []
for child in range(3):
    process = os.fork()
    if process == 0:
        for index in range(10):
            store.append("ada", [Record("user", f"{child} {index}")])
            assert store.window("ada", 100)
        store.close()
        os._exit(0)
    children.append(process)
for index in range(10):
    store.append("ada", [Record("user", f"parent {index}")])
assert [os.waitpid(process, 0)[1] for process in children] == [0, 0, 0]
store.append("ada", [Record("user", "after")])
assert store.length("ada") == 42, store.length("ada")
store.close()
"""


@slow
def test_processes_that_fork(sql_url: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", FORK, sql_url], check=True, timeout=60)
    store = open_store(sql_url)
    texts = [record.text for record in store.all("ada")]
    for by in ("0", "1", "2", "parent"):
        assert [text for text in texts if text.startswith(f"{by} ")] == [f"{by} {index}" for index in range(10)]
    assert (texts[0], texts[-1]) == ("before", "after")
    store.close()


# In memory.


def test_a_database_in_memory_is_one(on_connect: Callable[[Callable[[Any], None]], None]) -> None:
    connections: list[sqlite3.Connection] = []
    on_connect(connections.append)
    store = open_store("sqlite://")
    threads = [
        threading.Thread(target=lambda: [store.append("ada", [ONE]) for _ in range(20)], daemon=True) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.length("ada") == 160
    assert asyncio.run(store.alength("ada")) == 160
    assert len(connections) == 1
    assert open_store("sqlite://").keys() == []
    store.close()
    assert store.keys() == []
    store.close()
    gc.collect()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_a_database_in_memory_as_it_was() -> None:
    interrupt = False

    def count(text: str) -> list[str]:
        if interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        return text.split()

    store = open_store("sqlite://", counter=count, counter_name="words")
    history = [ONE, Record("user", "two\n")]
    store.append("ada", history)
    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        store.pop("ada", 0)
    interrupt = False
    assert store.all("ada") == history
    store.append("ada", [ONE])
    assert store.all("ada") == [*history, ONE]
    store.close()


# Event loops.


def test_a_store_is_used_in_one_loop_after_the_other(sql_url: str) -> None:
    store = open_store(sql_url)

    async def use() -> None:
        await asyncio.gather(*(store.aappend("ada", [ONE]) for _ in range(3)))
        await store.aclose()

    for _ in range(3):
        asyncio.run(use())
    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.length("ada") == 18
    store.close()


def test_a_connection_that_was_in_use_when_its_store_was_closed(
    sql_url: str, on_connect: Callable[[Callable[[Any], None]], None]
) -> None:
    connections: list[Any] = []
    on_connect(connections.append)
    counts: list[str] = []

    def count(text: str) -> list[str]:
        if text == "two":
            counts.append(text)
            store.close()  # as another thread does
        return text.split()

    store = open_store(sql_url, counter=count, counter_name="words")
    store.append("ada", [Record("user", "one"), Record("user", "two\n")])
    counts.clear()
    store.append("ada", [Record("user", "two")])  # is counted within the transaction
    assert counts != []
    for connection in connections:
        with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError), match="closed"):
            connection.cursor().execute("SELECT 1")
    assert store.length("ada") == 3
    store.close()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_aclose_closes_a_file(sqlite_url: str) -> None:
    def opened() -> list[Path]:
        folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
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


def test_aclose_keeps_a_database_in_memory() -> None:
    async def use() -> None:
        store = open_store("sqlite://")
        await store.aappend("ada", [ONE])
        await store.aclose()
        assert await store.aall("ada") == [ONE]
        store.close()

    asyncio.run(use())


# Errors.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("database is locked", StoreTimeoutError),
        ("database or disk is full", StoreFullError),
        ("something new", StoreError),
    ],
)
def test_errors_of_sqlite_without_codes(text: str, kind: type[StoreError]) -> None:
    """As before Python 3.11."""
    assert type(store_error(sqlite3.OperationalError(text), "sqlite:///chat.db")) is kind


def test_sums_of_a_long_session(sql_url: str) -> None:
    """Windows begin at the same message whether it was appended alone or in a batch of thousands."""
    records = [
        Record(("user", "assistant", "tool", "assistant")[index % 4], f"message {index}") for index in range(3_000)
    ]
    store: Store = open_store(sql_url)
    store.append("ada", records[:1_000])
    for record in records[1_000:1_100]:
        store.append("ada", [record])
    store.append("ada", records[1_100:])
    ring: MessageRing[Record] = MessageRing(counter="cl100k_base", measure="text")
    ring.put_messages(records)
    for limit in (1, 2, 3, 5, 17, 100, 999, 5_000, 8_000):
        assert store.window("ada", limit) == ring.get(token_limit=limit)
    store.close()


IMPORTS = """
import sys
import chatring.stores
drivers = ("sqlalchemy", "psycopg", "redis")
assert not set(drivers) & set(sys.modules)
store = chatring.stores.open_store("sqlite://")
store.append("ada", [chatring.stores.Record("user", "one")])
assert not {"psycopg", "redis"} & set(sys.modules)
store.close()
"""


def test_a_driver_is_imported_when_it_is_needed() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)


WITHOUT_GREENLET = """
import asyncio
import sys
sys.modules["greenlet"] = None
from chatring.stores import Record, open_store
store = open_store(sys.argv[1])
store.append("ada", [Record("user", "one")])
assert store.window("ada", 100) == asyncio.run(store.awindow("ada", 100)) == [Record("user", "one")]
store.close()
"""


def test_sqlite_does_without_greenlet(sqlite_url: str) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_GREENLET, sqlite_url], check=True)
