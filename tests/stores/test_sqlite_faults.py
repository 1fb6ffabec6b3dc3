"""What can go wrong with SQLite: each is a named error with its cause, and nothing is half written."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
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

import pytest
from chatring.stores import (
    ForeignDataError,
    SchemaVersionError,
    Store,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
    open_store,
)
from chatring.stores.sql.errors import store_error

from stores.histories import assert_is, assistant, system, user

ONE, TWO = user("one"), assistant("two")
CHANGES: dict[str, Callable[[Store[Any]], object]] = {
    "append one": lambda store: store.append("ada", [ONE]),
    "append two": lambda store: store.append("ada", [ONE, TWO]),
    "begin": lambda store: store.append("new", [ONE]),
    "replace": lambda store: store.replace("ada", [TWO]),
    "pop": lambda store: store.pop("ada", 1),
    "set_head": lambda store: store.set_head("ada", [system("Be brief.")]),
    "trim": lambda store: store.trim("ada", 2),
    "recount": lambda store: store.recount("ada"),
    "delete": lambda store: store.delete("ada"),
}
READS: dict[str, Callable[[Store[Any]], object]] = {
    "window": lambda store: store.window("ada", 100),
    "all": lambda store: store.all("ada"),
    "last": lambda store: store.last("ada", 2),
    "slice": lambda store: store.slice("ada", 0, 2),
    "exists": lambda store: store.exists("ada"),
    "length": lambda store: store.length("ada"),
    "token_count": lambda store: store.token_count("ada"),
    "updated_at": lambda store: store.updated_at("ada"),
    "keys": lambda store: store.keys(),
}
SESSIONS = {"ada": [ONE, TWO, ONE, TWO], "bob": [ONE, user("two\n")]}


def fill(store: Store[Any]) -> None:
    for key, messages in SESSIONS.items():
        store.replace(key, messages)


def assert_unchanged(store: Store[Any], sessions: dict[str, list[Any]] = SESSIONS) -> None:
    """Assert that the store has these sessions and no other, with the right sums, and that it goes on."""
    assert store.keys() == sorted(sessions)
    for key, messages in sessions.items():
        assert_is(store, key, messages)
    store.append("later", [ONE])
    assert store.pop("later") == ONE
    assert store.delete("later")


def assert_error(error: BaseException, kind: type[StoreError], cause: type[BaseException], words: str) -> None:
    """Assert that an error is of a kind, says what is the matter in a line, and has its cause."""
    assert type(error) is kind, repr(error)
    assert words in str(error)
    assert "\n" not in str(error)
    assert isinstance(error.__cause__, cause)


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store[Any]]:
    with_sessions = open_store(sqlite_url)
    fill(with_sessions)
    yield with_sessions
    with_sessions.close()


@pytest.fixture
def run(sqlite_url: str) -> Callable[[str], None]:
    """Run statements on the file, as another program does."""

    def run_script(script: str) -> None:
        file = sqlite_url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.executescript(script)

    return run_script


# A file that cannot be opened.


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/later/chat.db")
    with pytest.raises(StoreError) as raised:
        store.append("ada", [ONE])
    why = f"cannot be opened, there is no folder '{tmp_path}/later'; create it first: unable to open database file"
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
        ("gone.db?mode=ro", "it does not exist, and cannot be created in '{}'"),
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
from chatring.stores import StoreError, open_store
ONE = {"role": "user", "content": "one"}
if os.geteuid() == 0:
    open_store("sqlite://").append("ada", [ONE])  # imports the rest, which nobody may not read
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
store = open_store(sys.argv[1])
for call in (lambda: store.window("ada", 10), lambda: store.append("ada", [ONE])):
    try:
        call()
    except StoreError as error:
        assert type(error) is StoreError, repr(error)
        print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
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
    resource = pytest.importorskip("resource", reason="limits of POSIX")
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


def test_a_file_whose_schema_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE chatring_schema (version INTEGER NOT NULL)")
    path.write_bytes(path.read_bytes().replace(b"version INTEGER", b"version\xff\xfe ,,,,,"))
    store = open_store(f"sqlite:///{path}")
    with pytest.raises(ForeignDataError, match="malformed"):  # what SQLite says of it is not UTF-8 either
        store.all("ada")
    store.close()


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.write_text("Dear diary, " * 1_000)
    store = open_store(f"sqlite:///{path}")
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(ForeignDataError) as raised:
            call(store)
        assert_error(raised.value, ForeignDataError, sqlite3.DatabaseError, "file is not a database")
    assert path.read_text() == "Dear diary, " * 1_000
    store.close()


def test_a_file_that_is_removed_and_made_anew(sqlite_url: str, store: Store[Any]) -> None:
    store.close()
    os.remove(sqlite_url.removeprefix("sqlite:///"))
    assert store.keys() == []
    fill(store)
    assert_unchanged(store)


def test_a_database_to_read_only(sqlite_url: str) -> None:
    writer = open_store(sqlite_url)
    fill(writer)
    path = sqlite_url.removeprefix("sqlite:///")
    reader = open_store(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert reader.all("ada") == SESSIONS["ada"]
    for name, change in CHANGES.items():
        with pytest.raises(StoreError) as raised:
            change(reader)
        words = "refused: attempt to write a readonly database"
        assert_error(raised.value, StoreError, sqlite3.OperationalError, words)
        assert name
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


# A file that is held.


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_another_program_holds(sqlite_url: str, store: Store[Any], name: str) -> None:
    impatient = open_store(f"{sqlite_url}?timeout=0.1")
    holder = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreTimeoutError) as raised:
        CHANGES[name](impatient)
    assert isinstance(raised.value, TimeoutError)
    words = "did not answer in time, or another writer holds the session; try again: database is locked"
    assert_error(raised.value, StoreTimeoutError, sqlite3.OperationalError, words)
    for read in READS.values():
        read(impatient)  # does not wait for a writer
    holder.rollback()
    holder.close()
    assert_unchanged(impatient)
    impatient.close()


def test_the_first_use_waits_no_longer_than_the_url_says(sqlite_url: str) -> None:
    holder = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("CREATE TABLE others (id)")
    holder.execute("BEGIN EXCLUSIVE")
    store = open_store(f"{sqlite_url}?timeout=0.3")
    for call in (store.keys, lambda: store.append("ada", [ONE]), lambda: asyncio.run(store.aall("ada"))):
        began = time.monotonic()
        with pytest.raises(StoreTimeoutError) as raised:
            call()
        assert 0.2 < time.monotonic() - began < 4  # SQLite's own patience is 5 seconds
        assert_error(raised.value, StoreTimeoutError, sqlite3.OperationalError, "database is locked")
    holder.close()
    assert store.keys() == []
    store.close()


def test_one_writer_waits_for_another(sqlite_url: str, store: Store[Any]) -> None:
    holder = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    is_released = threading.Event()

    def release() -> None:
        is_released.set()
        holder.rollback()

    threading.Timer(0.3, release).start()
    store.append("ada", [ONE])
    assert is_released.is_set()
    assert_unchanged(store, {**SESSIONS, "ada": [*SESSIONS["ada"], ONE]})
    holder.close()


# A disk that is full.


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many pages a file may have, of new connections."""
    limits = {"pages": 1_000_000}
    from chatring.stores.sql import fork

    class Limited(fork.FileConnection):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.execute(f"PRAGMA max_page_count = {limits['pages']}")

    monkeypatch.setattr("chatring.stores.sql.sqlite.FileConnection", Limited)
    return limits


def repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def test_a_full_disk(sqlite_url: str, pages: dict[str, int]) -> None:
    store = open_store(sqlite_url)
    fill(store)
    store.close()
    pages["pages"] = 30
    big = [user("big " * 10_000)]
    changes: list[Callable[[], object]] = [
        lambda: store.append("ada", big),
        lambda: store.append("ada", [ONE, *big * 8]),
        lambda: store.append("new", big * 8),
        lambda: store.replace("ada", big * 8),
        lambda: store.set_head("ada", [system("big " * 10_000)] * 8),
        lambda: asyncio.run(store.aappend("ada", big * 8)),
    ]
    for change in changes:
        with pytest.raises(StoreFullError) as raised:
            repeat(change, 100)
        assert isinstance(raised.value, OSError)
        assert_error(raised.value, StoreFullError, sqlite3.OperationalError, "is full; nothing was stored: database")
        while store.all("ada")[-1] == big[0]:
            store.pop("ada")
        assert store.keys() == ["ada", "bob"]
        assert store.all("ada") == SESSIONS["ada"]
    store.close()
    pages["pages"] = 1_000_000
    assert_unchanged(store)
    store.close()


def test_a_disk_that_is_full_before_a_file_is_opened() -> None:
    reported: Any = sqlite3.OperationalError("disk I/O error")
    if sys.version_info < (3, 11):
        pytest.skip("sqlite3 has no result codes")
    reported.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    error = store_error(reported, "sqlite:///chat.db")
    assert type(error) is StoreFullError
    assert str(error) == "sqlite:///chat.db is full; nothing was stored: disk I/O error"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("database is locked", StoreTimeoutError),
        ("database or disk is full", StoreFullError),
        ("attempt to write a readonly database", StoreError),
        ("database disk image is malformed", ForeignDataError),
        ("something new", StoreError),
    ],
)
def test_errors_without_codes(text: str, kind: type[StoreError]) -> None:
    """As before Python 3.11."""
    assert type(store_error(sqlite3.OperationalError(text), "sqlite:///chat.db")) is kind


# Data that are not ours.


@pytest.mark.parametrize("table", ["chatring_session", "chatring_message"])
def test_a_table_that_is_not_ours(sqlite_url: str, run: Callable[[str], None], table: str) -> None:
    run(f"CREATE TABLE {table} (id integer, text text); INSERT INTO {table} VALUES (1, 'mine')")
    store = open_store(sqlite_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(ForeignDataError) as raised:
            call(store)
        words = f"has tables or rows that were not written by chatring: table {table} already exists"
        assert_error(raised.value, ForeignDataError, sqlite3.Error, words)
    run(f"DROP TABLE {table}")
    fill(store)
    assert_unchanged(store)
    store.close()


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE chatring_schema (owner text)",
        "CREATE TABLE chatring_schema (version integer)",
        "CREATE TABLE chatring_schema (version text); INSERT INTO chatring_schema VALUES ('one')",
        "CREATE TABLE chatring_schema (version); INSERT INTO chatring_schema VALUES (2), (2)",
        "CREATE TABLE chatring_schema (version); INSERT INTO chatring_schema VALUES (NULL)",
        "CREATE TABLE chatring_schema (version); INSERT INTO chatring_schema VALUES (2.5)",
        "CREATE TABLE chatring_schema (version integer); INSERT INTO chatring_schema VALUES (0)",
        "CREATE TABLE chatring_schema (version integer); INSERT INTO chatring_schema VALUES (-5)",
    ],
)
def test_a_version_that_is_not_ours(sqlite_url: str, run: Callable[[str], None], script: str) -> None:
    run(script)
    store = open_store(sqlite_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(ForeignDataError, match="not written by chatring"):
            call(store)
    store.close()


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (1, "has tables of the unreleased version 1, which this chatring does not read; remove them ("),
        (3, "has tables of version 3, this chatring knows version 2; use the chatring that wrote them, or a newer one"),
    ],
)
def test_tables_of_another_version(
    sqlite_url: str, store: Store[Any], run: Callable[[str], None], version: int, words: str
) -> None:
    run(f"UPDATE chatring_schema SET version = {version}")
    other = open_store(sqlite_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(SchemaVersionError) as raised:
            call(other)
        assert str(raised.value).startswith(f"{other.url} {words}")
    run("UPDATE chatring_schema SET version = 2")
    assert_unchanged(other)
    other.close()


def test_tables_that_are_dropped(store: Store[Any], run: Callable[[str], None]) -> None:
    run("DROP TABLE chatring_message; DROP TABLE chatring_session; DROP TABLE chatring_schema")
    with pytest.raises(ForeignDataError):
        store.append("ada", [ONE])
    fill(store)
    assert_unchanged(store)


def test_a_row_that_is_not_ours(store: Store[Any], run: Callable[[str], None]) -> None:
    """It is where the next message of the session belongs."""
    run(
        "INSERT INTO chatring_message (session_id, seq, kind, tokens, before, question, body) "
        "SELECT id, 4, 1, 1, NULL, NULL, '{}' FROM chatring_session WHERE key = 'ada'"
    )
    for name in ("append one", "append two"):
        with pytest.raises(ForeignDataError) as raised:
            CHANGES[name](store)
        words = "has tables or rows that were not written by chatring: UNIQUE constraint failed"
        assert_error(raised.value, ForeignDataError, sqlite3.IntegrityError, words)
    run("DELETE FROM chatring_message WHERE seq = 4")
    assert_unchanged(store)


@pytest.mark.parametrize("missing", ["seq = 0", "seq = 1", "seq = 3", "seq >= 0", "seq = 1 OR seq = 2"])
def test_messages_that_are_missing(store: Store[Any], run: Callable[[str], None], missing: str) -> None:
    run(
        f"DELETE FROM chatring_message WHERE ({missing}) "
        "AND session_id = (SELECT id FROM chatring_session WHERE key = 'ada')"
    )
    reads: list[Callable[[], object]] = [
        lambda: store.all("ada"),
        lambda: store.window("ada", 10**6),
        lambda: store.slice("ada", 0, 4),
        lambda: store.pop("ada", 0),
        lambda: store.recount("ada"),
    ]
    words = rf"^session 'ada' at {re.escape(store.url)} lacks messages that chatring wrote, or has others$"
    for read in reads:
        with pytest.raises(ForeignDataError, match=words):
            read()
    assert store.length("ada") == 4
    store.replace("ada", SESSIONS["ada"])
    assert_unchanged(store)


def test_sqlite_refuses_values_that_are_not_ours(store: Store[Any], run: Callable[[str], None]) -> None:
    for column in ("kind", "tokens", "before", "question", "seq"):
        with pytest.raises(sqlite3.IntegrityError, match="constraint failed"):
            run(f"UPDATE chatring_message SET {column} = 'many'")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
        run("UPDATE chatring_message SET body = X'00'")
    for column in ("head", "head_tokens", "first", "base", "lead", "lead_total", '"end"', "total", "epoch"):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
            run(f"UPDATE chatring_session SET {column} = 'many'")
    for column in ("key", "policy"):
        with pytest.raises(sqlite3.IntegrityError, match="constraint failed"):
            run(f"UPDATE chatring_session SET {column} = X'00'")
    assert_unchanged(store)


@pytest.mark.parametrize("body", ["not json", "", "[", '["a"]', '["a", "b", "c", "d"]'])
def test_a_body_that_is_not_ours(store: Store[Any], run: Callable[[str], None], body: str) -> None:
    run(f"UPDATE chatring_message SET body = '{body}' WHERE seq = 3")
    for name in ("all", "window", "last"):
        with pytest.raises((ValueError, TypeError)):  # of the format
            READS[name](store)
    store.replace("ada", SESSIONS["ada"])
    assert_unchanged(store)


@pytest.mark.parametrize(
    ("column", "value"),
    [("question_tokens", "'many'"), ("last", "99"), ("word", "-5"), ("is_closed", "7"), ("behind", "12")],
)
def test_numbers_that_are_not_ours(store: Store[Any], run: Callable[[str], None], column: str, value: str) -> None:
    """They are an error of this store, and nothing is changed; what is damaged can be removed."""
    run(f"UPDATE chatring_session SET {column} = {value} WHERE key = 'ada'")
    other = open_store(store.url)
    with pytest.raises(ValueError):  # noqa: PT011 (two kinds)
        other.append("ada", [ONE])
    assert other.delete("ada")
    other.append("ada", SESSIONS["ada"])
    assert_unchanged(other)
    other.close()


def test_an_error_shows_no_message(store: Store[Any], run: Callable[[str], None]) -> None:
    run("CREATE TRIGGER refuse BEFORE INSERT ON chatring_message BEGIN SELECT RAISE(ABORT, 'no more'); END")
    messages = [user("s3cret")]
    with pytest.raises(ForeignDataError) as raised:
        store.append("ada", messages)
    assert "s3cret" not in "".join(traceback.format_exception(raised.value))
    run("DROP TRIGGER refuse")
    assert_unchanged(store)


def test_a_permit_that_nobody_gives_back(tmp_path: Path) -> None:
    """A signal's handler may raise just when a call has taken it. The next call has it."""
    store = open_store(f"sqlite:///{tmp_path / 'chat.db'}", timeout=30, pool_size=1)
    store.append("ada", [ONE])
    backend: Any = store._backend
    (pool,) = backend._pools.values()
    for _ in range(3):
        pool._free.get(timeout=0)  # and lose it
        store.append("ada", [ONE])
        cycle: list[Any] = [pool._free.get(timeout=0)]
        cycle.append(cycle)
        del cycle
        gc.collect()
        store.append("ada", [ONE])
    assert store.length("ada") == 7
    assert len(pool._issued) == 1
    assert pool._free.qsize() == 1
    store.close()
