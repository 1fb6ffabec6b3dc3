"""What can go wrong with SQLite and PostgreSQL: each is a named error with its cause, and nothing is half written."""

import asyncio
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chatring import MessageRing
from chatring.migration.location import open_source
from chatring.stores import (
    ForeignDataError,
    Record,
    SchemaVersionError,
    Store,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
    open_store,
)
from chatring.stores.sql_errors import store_error
from chatring.stores.sql_url import lost_connection
from sqlalchemy import Engine, event, make_url
from threads import run_numbered

from stores.servers import PASSWORD, PostgresServer

ONE, TWO = Record("user", "one"), Record("assistant", "two")
CHANGES: dict[str, Callable[[Store], object]] = {
    "append one": lambda store: store.append("ada", [ONE]),
    "append two": lambda store: store.append("ada", [ONE, TWO]),
    "append after whitespace": lambda store: store.append("open", [ONE]),
    "begin": lambda store: store.append("new", [ONE]),
    "replace": lambda store: store.replace("ada", [TWO]),
    "pop": lambda store: store.pop("ada", 1),
    "recount": lambda store: store.recount("ada"),
    "delete": lambda store: store.delete("ada"),
}
READS: dict[str, Callable[[Store], object]] = {
    "window": lambda store: store.window("ada", 100),
    "all": lambda store: store.all("ada"),
    "length": lambda store: store.length("ada"),
    "token_count": lambda store: store.token_count("ada"),
    "keys": lambda store: store.keys(),
}
SESSIONS = {"ada": [ONE, TWO, ONE, TWO], "open": [ONE, Record("user", "two\n")]}


def fill(store: Store) -> None:
    for key, records in SESSIONS.items():
        store.append(key, records)


def assert_unchanged(store: Store, sessions: dict[str, list[Record]] = SESSIONS) -> None:
    """Assert that the store has these sessions and no other, with the right sums, and that it goes on."""
    assert sorted(store.keys()) == sorted(sessions)
    for key, records in sessions.items():
        ring: MessageRing[Record] = MessageRing(counter="cl100k_base", measure="text")
        ring.put_messages(records)
        assert store.all(key) == records
        assert store.token_count(key) == ring.token_count()
        for limit in range(1, ring.token_count() + 2):
            assert store.window(key, limit) == ring.get(token_limit=limit)
    store.append("later", [ONE])
    assert store.pop("later") == ONE
    assert store.delete("later")


def assert_error(error: BaseException, kind: type[StoreError], cause: type[BaseException], words: str) -> None:
    """Assert that an error is of a kind, says what is the matter, has its cause, and shows no secret."""
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)
    assert isinstance(error.__cause__, cause)
    assert PASSWORD not in "".join(traceback.format_exception(error))


@pytest.fixture(params=["sqlite"])
def sql_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    return url


@pytest.fixture
def store(sql_url: str) -> Iterator[Store]:
    with_sessions = open_store(sql_url)
    fill(with_sessions)
    yield with_sessions
    with_sessions.close()


@pytest.fixture
def run(sql_url: str) -> Callable[[str], None]:
    """Run statements on the database of `sql_url`, as another program does."""

    def run_on_sqlite(script: str) -> None:
        connection = sqlite3.connect(sql_url.removeprefix("sqlite:///"), isolation_level=None)
        connection.executescript(script)
        connection.close()

    def run_on_postgresql(script: str) -> None:
        with psycopg.connect(sql_url, autocommit=True) as connection:
            connection.execute(script.encode())

    return run_on_sqlite if sql_url.startswith("sqlite") else run_on_postgresql


# A server that is not there.


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/later/chat.db")
    with pytest.raises(StoreError) as raised:
        store.append("ada", [ONE])
    why = f"cannot be opened, there is no folder '{tmp_path}/later', make it first: unable to open database file"
    assert_error(raised.value, StoreError, sqlite3.OperationalError, why)
    (tmp_path / "later").mkdir()
    fill(store)
    assert_unchanged(store)
    store.close()


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("folder", "'{}/folder' is a folder"),
        ("file/chat.db", "'{}/file' is not a folder"),
        ("gone.db?mode=ro", "it is not there, and cannot be made in '{}'"),
    ],
)
def test_a_path_that_cannot_be_opened(tmp_path: Path, file: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    url = f"sqlite:///file:{tmp_path}/{file}&uri=true" if "?" in file else f"sqlite:///{tmp_path}/{file}"
    with pytest.raises(StoreError) as raised:
        open_store(url).append("ada", [ONE])
    assert_error(raised.value, StoreError, sqlite3.OperationalError, f"cannot be opened, {why.format(tmp_path)}: ")


NOT_ALLOWED = """
import os, sys
from chatring.stores import Record, StoreError, open_store
if os.geteuid() == 0:
    open_store("sqlite://").keys()  # imports the rest, which nobody may not read
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
store = open_store(sys.argv[1])
for call in (lambda: store.window("ada", 10), lambda: store.append("ada", [Record("user", "one")])):
    try:
        call()
    except StoreError as error:
        assert type(error) is StoreError, repr(error)
        print(error)
"""


def test_a_folder_that_nobody_may_write_to() -> None:
    # Not in pytest's folder, which only its user may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/chat.db"
        store = open_store(url)
        fill(store)
        store.close()
        for mode, file, words in (
            (0o555, 0o666, f"cannot be used, this user may not write to its folder '{folder}', where SQLite keeps a"),
            (0o777, 0o000, "cannot be opened, this user may not read it"),
        ):
            folder.chmod(mode)
            (folder / "chat.db").chmod(file)
            command = [sys.executable, "-c", NOT_ALLOWED, url]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            assert [words in line for line in result.stdout.splitlines()] == [True, True], result.stdout
        folder.chmod(0o700)


def test_a_file_that_cannot_be_opened_for_now(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    fill(store)
    store.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened[0] + 1, hard))
    try:
        with pytest.raises(StoreUnavailableError) as raised:
            store.keys()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(opened[0])
    words = "cannot be read or written now; check the disk and try again: unable to open database file"
    assert_error(raised.value, StoreUnavailableError, sqlite3.OperationalError, words)
    assert_unchanged(store)
    store.close()


# A server that accepts connections and says nothing.


# A server that takes no changes.


# A connection that is lost.


# Another writer that holds the session.


@pytest.mark.parametrize("name", CHANGES)
def test_a_lock_timeout(sql_url: str, store: Store, name: str) -> None:
    is_sqlite = sql_url.startswith("sqlite")
    impatient = open_store(sql_url + ("?timeout=0.1" if is_sqlite else "?options=-c%20lock_timeout%3D100ms"))
    if is_sqlite:
        cause: type[BaseException] = sqlite3.OperationalError
        holder: Any = sqlite3.connect(sql_url.removeprefix("sqlite:///"), isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
    else:
        cause = psycopg.errors.LockNotAvailable
        holder = psycopg.connect(sql_url)
        holder.execute("LOCK TABLE chatring_session IN EXCLUSIVE MODE")
    with pytest.raises(StoreTimeoutError) as raised:
        CHANGES[name](impatient)
    assert isinstance(raised.value, TimeoutError)
    assert_error(raised.value, StoreTimeoutError, cause, "another writer holds the session; try again")
    for read in READS.values():
        read(impatient)  # does not wait for a writer
    holder.rollback()
    holder.close()
    assert_unchanged(impatient)
    impatient.close()


def test_one_writer_waits_for_another(sql_url: str, store: Store) -> None:
    with_lock, released = threading.Event(), threading.Event()

    def slow(text: str) -> list[str]:
        with_lock.set()
        released.wait(30)
        return text.split()

    second = open_store(sql_url, counter=slow, counter_name="words")
    thread = threading.Thread(target=second.recount, args=("ada",))
    thread.start()
    assert with_lock.wait(30)
    third = threading.Thread(target=store.replace, args=("ada", [ONE]))
    third.start()
    assert store.all("ada") == SESSIONS["ada"]
    released.set()
    thread.join()
    third.join()
    assert_unchanged(store, {**SESSIONS, "ada": [ONE]})
    second.close()


# A disk that is full.


def repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def test_a_full_disk_of_sqlite(sqlite_url: str) -> None:
    pages = 1_000_000

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(Engine, "connect", limit)
    try:
        store = open_store(sqlite_url)
        fill(store)
        store.close()
        pages = 30
        big = [Record("user", "big " * 10_000)]
        for change in (
            lambda: store.append("ada", big),
            lambda: store.append("ada", [ONE, *big * 8]),
            lambda: store.append("new", big * 8),
            lambda: store.replace("ada", big * 8),
        ):
            with pytest.raises(StoreFullError) as raised:
                repeat(change, 100)
            assert isinstance(raised.value, OSError)
            assert_error(
                raised.value, StoreFullError, sqlite3.OperationalError, "is full; nothing was stored: database"
            )
            while store.all("ada")[-1] == big[0]:
                store.pop("ada")
            assert sorted(store.keys()) == ["ada", "open"]
            assert store.all("ada") == SESSIONS["ada"]
        store.close()
        pages = 1_000_000
        assert_unchanged(store)
        store.close()
    finally:
        event.remove(Engine, "connect", limit)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 has no result codes")
def test_a_disk_that_is_full_before_a_file_is_opened() -> None:
    reported: Any = sqlite3.OperationalError("disk I/O error")
    reported.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    error = store_error(reported, "sqlite:///chat.db")
    assert type(error) is StoreFullError
    assert str(error) == "sqlite:///chat.db is full; nothing was stored: disk I/O error"


# Data that are not ours.


@pytest.mark.parametrize("table", ["chatring_session", "chatring_message"])
def test_a_table_that_is_not_ours(sql_url: str, run: Callable[[str], None], table: str) -> None:
    run(f"CREATE TABLE {table} (id integer, text text); INSERT INTO {table} VALUES (1, 'mine')")
    store = open_store(sql_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(ForeignDataError) as raised:
            call(store)
        assert_error(raised.value, ForeignDataError, Exception, f"not written by chatring: {error_of(sql_url, table)}")
    run(f"DROP TABLE {table}")
    fill(store)
    assert_unchanged(store)
    store.close()


def error_of(url: str, table: str) -> str:
    return f"table {table} already exists" if url.startswith("sqlite") else f'relation "{table}" already exists'


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE chatring_schema (owner text)",
        "CREATE TABLE chatring_schema (version integer)",
        "CREATE TABLE chatring_schema (version text); INSERT INTO chatring_schema VALUES ('one')",
        "CREATE TABLE chatring_schema (version integer); INSERT INTO chatring_schema VALUES (0)",
        "CREATE TABLE chatring_schema (version integer); INSERT INTO chatring_schema VALUES (-5)",
    ],
)
def test_a_version_that_is_not_ours(sql_url: str, run: Callable[[str], None], script: str) -> None:
    run(script)
    store = open_store(sql_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(ForeignDataError, match="not written by chatring"):
            call(store)
    store.close()


def test_tables_of_a_newer_chatring(sql_url: str, store: Store, run: Callable[[str], None]) -> None:
    run("UPDATE chatring_schema SET version = 2")
    older = open_store(sql_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(SchemaVersionError) as raised:
            call(older)
        assert str(raised.value).endswith(
            "has tables of version 2, this chatring knows version 1; use the chatring that wrote them, or a newer one"
        )
        assert PASSWORD not in str(raised.value)
    run("UPDATE chatring_schema SET version = 1")
    assert_unchanged(older)
    older.close()


def test_tables_that_are_dropped(store: Store, run: Callable[[str], None]) -> None:
    run("DROP TABLE chatring_message; DROP TABLE chatring_session; DROP TABLE chatring_schema")
    with pytest.raises(ForeignDataError):
        store.append("ada", [ONE])
    fill(store)
    assert_unchanged(store)


def test_a_row_that_is_not_ours(store: Store, run: Callable[[str], None]) -> None:
    """It stands where the next message of the session belongs."""
    row = "(SELECT id FROM chatring_session WHERE key = 'ada'), 4, 'user', {}, NULL, 99, 99"
    text = "X'6d696e65'" if "sqlite" in repr(store) else "'mine'"
    run(f"INSERT INTO chatring_message (session_id, seq, role, text, payload, total, before) SELECT {row.format(text)}")
    for name in ("append one", "append two"):
        with pytest.raises(ForeignDataError) as raised:
            CHANGES[name](store)
        assert_error(raised.value, ForeignDataError, Exception, "has tables or rows that were not written by chatring")
    assert store.all("ada") == SESSIONS["ada"]
    run("DELETE FROM chatring_message WHERE total = 99")
    assert_unchanged(store)


def test_a_text_that_is_not_ours(store: Store, run: Callable[[str], None]) -> None:
    text = "X'ff'" if "sqlite" in repr(store) else "'\\xff'"
    run(f"UPDATE chatring_message SET text = {text} WHERE seq = 3")
    for call in (READS["window"], READS["all"], CHANGES["pop"], CHANGES["recount"]):
        with pytest.raises(ForeignDataError, match="a row of chatring_message was not written by chatring: its"):
            call(store)
    store.replace("ada", SESSIONS["ada"])
    assert_unchanged(store)


def test_messages_that_are_missing(store: Store, run: Callable[[str], None]) -> None:
    run("DELETE FROM chatring_message WHERE seq < 3")
    for call in (CHANGES["pop"], CHANGES["append after whitespace"], CHANGES["recount"]):
        with pytest.raises(ForeignDataError, match=r"^session '\w+' lacks messages that chatring wrote"):
            call(store)
    for key, records in SESSIONS.items():
        store.replace(key, records)
    assert_unchanged(store)


@pytest.mark.parametrize("missing", ["seq = 0", "seq = 1", "seq = 3", "seq >= 0"])
def test_reads_of_messages_that_are_missing(store: Store, run: Callable[[str], None], missing: str) -> None:
    run(
        f"DELETE FROM chatring_message WHERE {missing} "
        "AND session_id = (SELECT id FROM chatring_session WHERE key = 'ada')"
    )
    reads: list[Callable[[], object]] = [lambda: store.all("ada")]
    if missing == "seq = 3":
        reads.append(lambda: store.window("ada", 1))
    if missing == "seq >= 0":
        reads += [lambda: store.window("ada", 1), lambda: store.window("ada", 100), lambda: store.token_count("ada")]
    for read in reads:
        with pytest.raises(
            ForeignDataError, match=r"^session 'ada' lacks messages that chatring wrote, or has others$"
        ):
            read()
    store.replace("ada", SESSIONS["ada"])
    assert_unchanged(store)


def test_sqlite_refuses_values_that_are_not_ours(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    fill(store)
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    for change in (
        "text = 'mine'",
        "role = X'00'",
        "payload = 'mine'",
        "total = 'many'",
        "before = 'many'",
        "text = 5",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
            connection.execute(f"UPDATE chatring_message SET {change}")
    for change in (
        "key = X'00'",
        "counter = X'00'",
        "length = 'many'",
        "length = -1",
        "total = 'many'",
        "reach = 1.5",
        "blank_tail = -1",
        "blank_tail = 5",
        "closed = 'yes'",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
            connection.execute(f"UPDATE chatring_session SET {change}")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("UPDATE chatring_message SET text = 'mine'")
    connection.close()
    with pytest.raises(ForeignDataError, match="a row of chatring_message was not written by chatring"):
        store.all("ada")
    store.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.write_text("Dear diary, " * 1_000)
    store = open_store(f"sqlite:///{path}")
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(ForeignDataError) as raised:
            call(store)
        assert_error(raised.value, ForeignDataError, sqlite3.DatabaseError, "file is not a database")
    assert path.read_text() == "Dear diary, " * 1_000
    store.close()


def test_a_database_to_read_only(sqlite_url: str) -> None:
    writer = open_store(sqlite_url)
    fill(writer)
    path = sqlite_url.removeprefix("sqlite:///")
    reader = open_store(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert reader.all("ada") == SESSIONS["ada"]
    for change in CHANGES.values():
        with pytest.raises(StoreError) as raised:
            change(reader)
        assert_error(
            raised.value, StoreError, sqlite3.OperationalError, "refused: attempt to write a readonly database"
        )
    assert_unchanged(writer)
    reader.close()
    writer.close()


def test_a_file_to_read_only_that_has_no_write_ahead_log(sqlite_url: str) -> None:
    writer = open_store(sqlite_url)
    fill(writer)
    writer.close()
    path = sqlite_url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode = DELETE").fetchall() == [("delete",)]
    connection.close()
    reader = open_store(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert {key: reader.all(key) for key in SESSIONS} == SESSIONS
    reader.close()


def test_the_first_use_waits_no_longer_than_the_url_says(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE others (id)")
    holder.execute("BEGIN EXCLUSIVE")
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    store = open_store(f"{sqlite_url}?timeout=0")
    with pytest.raises(StoreTimeoutError) as raised:
        store.keys()
    assert_error(raised.value, StoreTimeoutError, sqlite3.OperationalError, "database is locked")
    assert waits == []
    holder.close()
    store.close()
