"""What can go wrong with PostgreSQL: each is a named error with its cause, and nothing is half written."""

import asyncio
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from chatring import MessageRing
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
from chatring.stores.sql import SQLStore
from threads import run_numbered
from timing import least

from stores.servers import PASSWORD, PostgresServer, wait_until_blocked

Message = dict[str, str]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


ONE, TWO = user("one"), {"role": "assistant", "content": "two"}
CHANGES: dict[str, Callable[[Store[Any]], object]] = {
    "append one": lambda store: store.append("ada", [ONE]),
    "append two": lambda store: store.append("ada", [ONE, TWO]),
    "append after whitespace": lambda store: store.append("open", [ONE]),
    "begin": lambda store: store.append("new", [ONE]),
    "set_head": lambda store: store.set_head("ada", [{"role": "system", "content": "head"}]),
    "trim": lambda store: store.trim("ada", 2),
    "replace": lambda store: store.replace("ada", [TWO]),
    "pop": lambda store: store.pop("ada", 1),
    "recount": lambda store: store.recount("ada"),
    "delete": lambda store: store.delete("ada"),
}
READS: dict[str, Callable[[Store[Any]], object]] = {
    "window": lambda store: store.window("ada", 100),
    "all": lambda store: store.all("ada"),
    "last": lambda store: store.last("ada", 1),
    "slice": lambda store: store.slice("ada", 1, 3),
    "length": lambda store: store.length("ada"),
    "token_count": lambda store: store.token_count("ada"),
    "updated_at": lambda store: store.updated_at("ada"),
    "keys": lambda store: store.keys(),
}
SESSIONS = {"ada": [ONE, TWO, ONE, TWO], "open": [ONE, user("two\n")]}


def fill(store: Store[Any]) -> None:
    for key, messages in SESSIONS.items():
        store.append(key, messages)


def assert_unchanged(store: Store[Any], sessions: dict[str, list[Message]] = SESSIONS) -> None:
    """Assert that the store has these sessions and no other, with the right sums, and that it goes on."""
    assert sorted(store.keys()) == sorted(sessions)
    for key, messages in sessions.items():
        ring: MessageRing[Message] = MessageRing(counter="o200k_base")
        ring.put_messages(messages)
        assert store.all(key) == messages
        assert store.token_count(key) == ring.token_count()
        for limit in range(1, ring.token_count() + 2):
            assert store.window(key, limit) == ring.window(token_limit=limit)
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


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store[Any]]:
    with_sessions = open_store(postgres_url)
    fill(with_sessions)
    yield with_sessions
    with_sessions.close()


@pytest.fixture
def run(postgres_url: str) -> Callable[[str], None]:
    """Run statements as another program does."""

    def run_script(script: str) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(script.encode())

    return run_script


# A server that is not there.


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync="off") as server:
        yield server


@pytest.fixture
def restarted(own_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server to stop, with empty tables."""
    own_server.start()
    with psycopg.connect(own_server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    yield own_server
    own_server.start()


def test_a_server_that_is_down_and_comes_back(restarted: PostgresServer) -> None:
    store = open_store(restarted.url)
    restarted.stop()
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(StoreUnavailableError) as raised:
            call(store)
        assert isinstance(raised.value, ConnectionError)
        assert_error(raised.value, StoreUnavailableError, psycopg.OperationalError, "cannot be reached; check that it")
    restarted.start()
    fill(store)
    assert_unchanged(store)
    store.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("calls_meanwhile", [True, False])
def test_a_server_that_restarts(restarted: PostgresServer, how: str, calls_meanwhile: bool) -> None:
    store = open_store(restarted.url)
    fill(store)
    # Several connections in the pool.
    threads = [threading.Thread(target=store.window, args=("ada", 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for call in (READS["window"], CHANGES["append one"], CHANGES["append two"]):
        restarted.kill() if how == "kill" else restarted.stop()
        if calls_meanwhile:
            with pytest.raises(StoreUnavailableError) as raised:
                call(store)
            assert_error(raised.value, StoreUnavailableError, psycopg.OperationalError, "cannot be reached")
        restarted.start()
        call(store)  # the first one that is made when the server is back
    assert store.all("ada") == [*SESSIONS["ada"], ONE, ONE, TWO]
    store.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_async_methods_when_the_server_restarts(restarted: PostgresServer, how: str) -> None:
    async def work() -> None:
        store = open_store(restarted.url)
        await store.aappend("ada", [ONE])
        await asyncio.gather(*(store.awindow("ada", 10) for _ in range(4)))
        for more in ([ONE], [ONE, TWO]):
            restarted.kill() if how == "kill" else restarted.stop()
            with pytest.raises(StoreUnavailableError) as raised:
                await store.aappend("ada", more)
            assert_error(raised.value, StoreUnavailableError, psycopg.OperationalError, "cannot be reached")
            restarted.start()
            await store.aappend("ada", more)
            restarted.kill() if how == "kill" else restarted.stop()
            restarted.start()
            assert await store.awindow("ada", 100)
        assert await store.aall("ada") == [ONE, ONE, ONE, TWO]
        await store.aclose()

    asyncio.run(work())


def test_a_password_that_is_wrong(postgres_url: str) -> None:
    store = open_store(postgres_url.replace(PASSWORD, "wr0ng:/%40word"))
    with pytest.raises(StoreUnavailableError) as raised:
        store.keys()
    assert_error(raised.value, StoreUnavailableError, psycopg.OperationalError, "password authentication failed")
    assert "refused the connection: " in str(raised.value)
    assert "wr0ng" not in "".join(traceback.format_exception(raised.value))


def test_a_database_that_is_not_there(postgres_server: PostgresServer) -> None:
    store = open_store(postgres_server.database_url("nowhere"))
    with pytest.raises(StoreUnavailableError) as raised:
        store.keys()
    assert_error(raised.value, StoreUnavailableError, psycopg.OperationalError, 'database "nowhere" does not exist')
    assert "refused the connection: " in str(raised.value)


# A server that accepts connections and says nothing.


@pytest.fixture
def silent_url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://ada:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}/d?connect_timeout=2"


def test_a_server_that_is_silent(silent_url: str) -> None:
    store = open_store(silent_url)
    calls: list[Callable[[], object]] = [lambda: store.append("ada", [ONE]), lambda: asyncio.run(append_once(store))]
    for call in calls:
        with pytest.raises(StoreUnavailableError) as raised:
            call()
        assert_error(raised.value, StoreUnavailableError, psycopg.OperationalError, "cannot be reached; check that it")


# A server that takes no changes.


def test_a_server_that_is_read_only(postgres_url: str) -> None:
    writer = open_store(postgres_url)
    fill(writer)
    store = open_store(f"{postgres_url}?options=-c%20default_transaction_read_only=on")
    for read in READS.values():
        read(store)
    for change in CHANGES.values():
        with pytest.raises(StoreUnavailableError) as raised:
            change(store)
        words = "takes no changes now: it is a standby, or set to read only: cannot execute"
        assert_error(raised.value, StoreUnavailableError, psycopg.errors.ReadOnlySqlTransaction, words)
    assert_unchanged(writer)
    store.close()
    writer.close()


# A connection that is lost.


def terminate_others(url: str) -> None:
    """End all other connections, and wait until they are gone."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}".encode())


@pytest.mark.parametrize("name", ["append one", "append two", "replace", "delete"])
def test_a_connection_lost_within_a_statement(postgres_url: str, name: str) -> None:
    store = open_store(postgres_url)
    fill(store)
    errors: list[BaseException] = []

    def change() -> None:
        try:
            CHANGES[name](store)
        except BaseException as error:
            errors.append(error)

    with psycopg.connect(postgres_url) as holder:
        holder.execute("LOCK TABLE chatring_session")
        thread = threading.Thread(target=change)
        thread.start()
        wait_until_blocked(postgres_url)
        waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        holder.execute(waiting)
        thread.join()
    (error,) = errors
    assert_error(error, StoreUnavailableError, psycopg.OperationalError, "terminating connection due to administrator")
    assert_unchanged(store)
    store.close()


def test_a_cancelled_task_changes_nothing(postgres_url: str) -> None:
    sync = open_store(postgres_url)
    fill(sync)

    async def cancel(change: Callable[[Store[Any]], Any], store: Store[Any]) -> None:
        task = asyncio.create_task(change(store))
        await asyncio.to_thread(wait_until_blocked, postgres_url)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def work() -> None:
        store = open_store(postgres_url)
        assert await store.alength("ada") == 4
        with psycopg.connect(postgres_url) as holder:
            holder.execute("LOCK TABLE chatring_session")
            await cancel(lambda store: store.aappend("ada", [ONE]), store)
            await cancel(lambda store: store.aappend("ada", [ONE, TWO]), store)
            await cancel(lambda store: store.apop("ada"), store)
            await cancel(lambda store: store.awindow("ada", 10), store)
        assert await store.aall("ada") == SESSIONS["ada"]
        await store.aclose()

    asyncio.run(work())
    assert_unchanged(sync)
    sync.close()


# Another writer that holds the session.


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("query", ["?timeout=0.2", "?options=-c%20lock_timeout%3D100ms"])
def test_a_lock_timeout(postgres_url: str, store: Store[Any], name: str, query: str) -> None:
    impatient = open_store(postgres_url + query)
    with psycopg.connect(postgres_url) as holder:
        holder.execute("LOCK TABLE chatring_session IN EXCLUSIVE MODE")
        with pytest.raises(StoreTimeoutError) as raised:
            CHANGES[name](impatient)
        assert isinstance(raised.value, TimeoutError)
        words = "another writer holds the session; try again"
        assert_error(raised.value, StoreTimeoutError, psycopg.errors.LockNotAvailable, words)
        for read in READS.values():
            read(impatient)  # does not wait for a writer
        holder.rollback()
    assert_unchanged(impatient)
    impatient.close()


def test_a_lock_timeout_keeps_the_connection(postgres_url: str, store: Store[Any]) -> None:
    impatient = open_store(f"{postgres_url}?timeout=0.1")
    process = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() ORDER BY pid"
    with psycopg.connect(postgres_url) as holder:
        impatient.keys()
        before = holder.execute(process).fetchall()
        holder.execute("LOCK TABLE chatring_session IN EXCLUSIVE MODE")
        for change in CHANGES.values():
            with pytest.raises(StoreTimeoutError):
                change(impatient)
        holder.rollback()
        assert holder.execute(process).fetchall() == before
    impatient.close()


@pytest.mark.parametrize("name", ["append one", "append two", "delete", "pop"])
@pytest.mark.parametrize("later", [0.3, 0.7])
def test_who_waits_for_a_turn_waits_no_longer_for_the_session(
    postgres_url: str, store: Store[Any], name: str, later: float
) -> None:
    impatient = open_store(f"{postgres_url}?timeout=1.2")
    impatient.length("ada")
    waited: list[float] = []

    def wait(number: int) -> None:
        time.sleep(number * later)
        begun = time.monotonic()
        with pytest.raises(StoreTimeoutError):
            CHANGES[name](impatient)
        waited.append(time.monotonic() - begun)

    def longest() -> float:
        run_numbered(wait, 2)
        return max(waited.pop(), waited.pop())

    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT * FROM chatring_session FOR UPDATE")
        assert 1.1 < least(longest, 1.5) < 1.5
    assert_unchanged(impatient)
    impatient.close()


def test_a_timeout_that_is_longer_than_any(postgres_url: str, store: Store[Any]) -> None:
    patient: SQLStore[Any] = SQLStore(postgres_url, timeout=1e6)
    assert patient.timeout == 1e6
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT * FROM chatring_session FOR UPDATE")
        threads = [threading.Thread(target=patient.append, args=("ada", [ONE])) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until_blocked(postgres_url)
        holder.rollback()
    for thread in threads:
        thread.join()
    assert patient.length("ada") == len(SESSIONS["ada"]) + 2
    assert asyncio.run(patient.alength("ada")) == len(SESSIONS["ada"]) + 2
    patient.close()


def test_one_writer_waits_for_another(postgres_url: str, store: Store[Any]) -> None:
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT * FROM chatring_session FOR UPDATE")
        thread = threading.Thread(target=store.replace, args=("ada", [ONE]))
        thread.start()
        wait_until_blocked(postgres_url)
        assert store.all("ada") == SESSIONS["ada"]
        holder.rollback()
    thread.join()
    assert_unchanged(store, {**SESSIONS, "ada": [ONE]})


REPORTED = {
    "53100": StoreFullError,  # disk full
    "53200": StoreFullError,  # out of memory
    "53300": StoreUnavailableError,
    "28P01": StoreUnavailableError,  # as a pooler reports it
    "3D000": StoreUnavailableError,
    "57P01": StoreUnavailableError,
    "57P03": StoreUnavailableError,
    "08006": StoreUnavailableError,
    "40001": StoreTimeoutError,
    "40P01": StoreTimeoutError,
    "57014": StoreTimeoutError,
    "23514": ForeignDataError,
    "42703": ForeignDataError,
    "42501": StoreError,
    "25006": StoreUnavailableError,
    "42P05": StoreError,  # another client's prepared statement, behind a pooler
    "26000": StoreError,
    "P0001": StoreError,
}


@pytest.mark.parametrize("state", REPORTED)
def test_what_postgresql_reports(postgres_url: str, state: str) -> None:
    store = open_store(postgres_url)
    fill(store)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        body = f"BEGIN RAISE EXCEPTION 'as reported' USING ERRCODE = '{state}'; END"
        connection.execute(
            f"CREATE FUNCTION report() RETURNS trigger LANGUAGE plpgsql AS $${body}$$;"
            "CREATE TRIGGER report AFTER INSERT OR DELETE ON chatring_message EXECUTE FUNCTION report()".encode()
        )
        for name in ("append one", "append two", "begin", "replace", "pop", "delete"):
            with pytest.raises(StoreError) as raised:
                CHANGES[name](store)
            assert_error(raised.value, REPORTED[state], psycopg.Error, "as reported")
        connection.execute("DROP TRIGGER report ON chatring_message")
    assert_unchanged(store)
    store.close()


@pytest.mark.parametrize("isolation", ["serializable", "repeatable\\ read"])
def test_writers_under_a_strict_isolation(postgres_url: str, isolation: str) -> None:
    """Their transactions have another one, and a statement that lost against another writer is run again."""
    store = open_store(f"{postgres_url}?options=-c%20default_transaction_isolation={isolation.replace(' ', '%20')}")
    fill(store)

    def write(writer: int) -> None:
        for number in range(20):
            store.append("ada", [user(f"{writer} {number}")])
            store.append("ada", [user(f"{writer} {number}\n"), ONE])
            store.window("ada", 50)

    run_numbered(write, 6)
    assert_unchanged(store, {**SESSIONS, "ada": store.all("ada")})
    assert store.length("ada") == 4 + 6 * 20 * 3
    store.close()


def test_an_error_shows_no_row(postgres_url: str) -> None:
    store = open_store(postgres_url)
    fill(store)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE chatring_message ADD CHECK (body NOT LIKE '%s3cret%')")
    for records in ([user("s3cret")], [ONE, user("s3cret")]):
        with pytest.raises(ForeignDataError) as raised:
            store.append("ada", records)
        assert "s3cret" in str(raised.value.__cause__)  # PostgreSQL tells of the row
        assert "s3cret" not in str(raised.value)
        assert "violates check constraint" in str(raised.value)
    store.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding(postgres_server: PostgresServer, encoding: str) -> None:
    name = f"in_{encoding.lower()}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        options = f"ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(f"CREATE DATABASE {name} {options}".encode())
    store = open_store(postgres_server.database_url(name))
    fill(store)
    assert_unchanged(store)
    asyncio.run(append_once(store))
    store.append("caf\xe9", [user("caf\xe9")])
    assert store.all("caf\xe9") == [user("caf\xe9")]
    if encoding == "SQL_ASCII":  # holds any bytes
        store.append("世界", [user("世界")])
        assert store.all("世界") == [user("世界")]
        assert sorted(store.keys()) == ["ada", "caf\xe9", "new", "open", "世界"]
    else:
        calls: list[Callable[[], object]] = [
            lambda: store.append("世界", [ONE]),
            lambda: store.append("ada", [user("世界")]),
            lambda: store.append("ada", [ONE, user("世界")]),
            lambda: store.window("世界", 10),
        ]
        for call in calls:
            with pytest.raises(StoreError) as raised:
                call()
            assert_error(raised.value, StoreError, psycopg.DataError, "make a database with ENCODING 'UTF8': character")
    store.close()


async def append_once(store: Store[Any]) -> None:
    await store.aappend("new", [ONE])
    assert await store.aall("new") == [ONE]
    await store.aclose()


# Data that are not ours.


@pytest.mark.parametrize("table", ["chatring_session", "chatring_message"])
def test_a_table_that_is_not_ours(postgres_url: str, run: Callable[[str], None], table: str) -> None:
    run(f"CREATE TABLE {table} (id integer, text text); INSERT INTO {table} VALUES (1, 'mine')")
    store = open_store(postgres_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(ForeignDataError) as raised:
            call(store)
        assert_error(
            raised.value, ForeignDataError, Exception, f'not written by chatring: relation "{table}" already exists'
        )
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
        "CREATE TABLE chatring_schema (version integer); INSERT INTO chatring_schema VALUES (0)",
        "CREATE TABLE chatring_schema (version integer); INSERT INTO chatring_schema VALUES (-5)",
    ],
)
def test_a_version_that_is_not_ours(postgres_url: str, run: Callable[[str], None], script: str) -> None:
    run(script)
    store = open_store(postgres_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(ForeignDataError, match="not written by chatring"):
            call(store)
    store.close()


def test_tables_of_a_newer_chatring(postgres_url: str, store: Store[Any], run: Callable[[str], None]) -> None:
    run("UPDATE chatring_schema SET version = 3")
    older = open_store(postgres_url)
    for call in (*READS.values(), *CHANGES.values()):
        with pytest.raises(SchemaVersionError) as raised:
            call(older)
        assert str(raised.value).endswith(
            "has tables of version 3, this chatring knows version 2; use the chatring that wrote them, or a newer one"
        )
        assert PASSWORD not in str(raised.value)
    run("UPDATE chatring_schema SET version = 2")
    assert_unchanged(older)
    older.close()


def test_tables_that_are_dropped(store: Store[Any], run: Callable[[str], None]) -> None:
    run("DROP TABLE chatring_message; DROP TABLE chatring_session; DROP TABLE chatring_schema")
    with pytest.raises(ForeignDataError):
        store.append("ada", [ONE])
    fill(store)
    assert_unchanged(store)


def test_a_row_that_is_not_ours(store: Store[Any], run: Callable[[str], None]) -> None:
    """It is where the next message of the session belongs."""
    row = "id, 4, 1, 99, 0, NULL, '{}' FROM chatring_session WHERE key = 'ada'"
    run(f"INSERT INTO chatring_message (session_id, seq, kind, tokens, before, question, body) SELECT {row}")
    for name in ("append one", "append two"):
        with pytest.raises(ForeignDataError) as raised:
            CHANGES[name](store)
        assert_error(raised.value, ForeignDataError, Exception, "has tables or rows that were not written by chatring")
    run("DELETE FROM chatring_message WHERE tokens = 99")
    assert_unchanged(store)


@pytest.mark.parametrize("missing", ["seq = 0", "seq = 1", "seq = 3", "seq >= 0"])
def test_messages_that_are_missing(store: Store[Any], run: Callable[[str], None], missing: str) -> None:
    where = "session_id = (SELECT id FROM chatring_session WHERE key = 'ada')"
    run(f"DELETE FROM chatring_message WHERE {missing} AND {where}")
    calls: list[Callable[[Store[Any]], object]] = [READS["window"], READS["all"], CHANGES["recount"]]
    calls.append(lambda store: store.pop("ada", 0))
    for call in calls:
        with pytest.raises(ForeignDataError, match=r"^session 'ada' at .* lacks messages that chatring wrote, or has"):
            call(store)
    store.replace("ada", SESSIONS["ada"])
    assert_unchanged(store)
