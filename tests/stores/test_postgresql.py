"""What is special about PostgreSQL: URLs and connections, statements, schemas and migrations, many processes."""

import asyncio
import gc
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import psycopg_pool
import pytest
from chatring import MessageRing
from chatring.stores import (
    SchemaVersionError,
    Store,
    StoreError,
    StoreTimeoutError,
    open_store,
)
from chatring.stores.session import Limits, Session
from chatring.stores.sql import SQLStore, postgresql, schema
from psycopg.types.numeric import Int8BinaryDumper
from threads import run_numbered
from timing import least_seconds, wait_until

from stores.servers import PASSWORD, wait_until_blocked

ONE, TWO = {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}


class Connected:
    """What psycopg's connections are opened with, and the connections."""

    def __init__(self) -> None:
        self.arguments: list[dict[str, Any]] = []
        self.connections: list[Any] = []


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Connected:
    seen = Connected()
    connect, aconnect = psycopg.Connection.connect, psycopg.AsyncConnection.connect

    def spy(*arguments: Any, **named: Any) -> Any:
        seen.arguments.append(named)
        seen.connections.append(connect(*arguments, **named))
        return seen.connections[-1]

    async def aspy(*arguments: Any, **named: Any) -> Any:
        seen.arguments.append(named)
        seen.connections.append(await aconnect(*arguments, **named))
        return seen.connections[-1]

    monkeypatch.setattr(psycopg.Connection, "connect", spy)
    monkeypatch.setattr(psycopg.AsyncConnection, "connect", aspy)
    return seen


@pytest.fixture
def store(postgres_url: str) -> Iterator[SQLStore[Any]]:
    opened: SQLStore[Any] = SQLStore(postgres_url)
    yield opened
    opened.close()


def run_on(url: str, *scripts: str) -> list[tuple[Any, ...]]:
    """Run statements as another program does, and return the rows of the last."""
    with psycopg.connect(url, autocommit=True) as connection:
        for script in scripts:
            cursor = connection.execute(script.encode())
        return cursor.fetchall() if cursor.description else []


async def use_once(store: Store[Any]) -> int:
    await store.aappend("ada", [ONE])
    return await store.alength("ada")


async def length(store: Store[Any]) -> int:
    found = await store.alength("ada")
    await store.aclose()
    return found


# URLs.


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:s3cret@db/chat", "postgresql://ada:***@db/chat"),
        ("postgres://ada:s3cret@db/chat", "postgres://ada:***@db/chat"),
        (
            "postgresql+psycopg://ada:s3@db:5/chat?sslmode=require",
            "postgresql+psycopg://ada:***@db:5/chat?sslmode=require",
        ),
        ("postgresql://db/chat?user=ada&password=s3cret", "postgresql://db/chat?user=ada&password=***"),
        ("postgresql://a:s3%40cret@h/d?sslpassword=s3", "postgresql://a:***@h/d?sslpassword=***"),
        ("postgresql://ada@corp:s3cret@h/d", "postgresql://ada@corp:***@h/d"),
        ("postgresql://a:s3cret@h/one?application_name=w@1", "postgresql://a:***@h/one?application_name=w@1"),
        ("postgresql://a:s3:/?#@h:5/d", "postgresql://a:***@h:5/d"),
        ("postgresql://h/d?p%61ssword=s3#x&user=b:c@d", "postgresql://h/d?p%61ssword=***&user=b:c@d"),
        ("postgresql://a:s3@h:1,i:2/d?timeout=3", "postgresql://a:***@h:1,i:2/d?timeout=3"),
    ],
)
def test_a_store_shows_its_url_without_secrets(url: str, shown: str) -> None:
    store = open_store(url)
    assert store.url == shown
    assert repr(store) == f"SQLStore({shown!r}, 'o200k_base, message, user')"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://a:s3:/?#%25@h:5/d",
            {"user": "a", "password": "s3:/?#%", "host": "h", "port": "5", "dbname": "d"},
        ),
        ("postgres://ada%40corp@h/d", {"user": "ada@corp", "host": "h", "dbname": "d"}),
        ("postgresql+psycopg://ada@corp:p@h/d", {"user": "ada@corp", "password": "p", "host": "h", "dbname": "d"}),
        ("postgresql://h1:1,h2/d", {"host": "h1,h2", "port": "1,", "dbname": "d"}),
        ("postgresql://%2Frun%2Fpg/d?timeout=5&pool_size=2&schema=a%20b", {"host": "/run/pg", "dbname": "d"}),
        ("postgresql://?service=chat", {"service": "chat"}),
    ],
)
def test_what_libpq_gets_of_a_url(url: str, expected: dict[str, str]) -> None:
    from chatring.stores.sql.postgresql_url import PostgreSQLUrl

    assert PostgreSQLUrl.parse(url).parameters == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+asyncpg://a:s3cret@h/d", "'postgresql+asyncpg://a:***@h/d' names neither SQLite nor PostgreSQL"),
        ("postgresql+psycopg_async://h/d", "'postgresql+psycopg_async://h/d' names neither SQLite nor PostgreSQL"),
        ("postgresql://a:s3cret@h:port/d", "'postgresql://a:***@h:port/d' is not a URL of PostgreSQL: its port must"),
        ("postgresql://a:s3cret@h:1,i:x/d", "'postgresql://a:***@h:1,i:x/d' is not a URL of PostgreSQL: its port must"),
        ("postgresql://a/b?c=d:s3cret@h/d", "'postgresql://a/b?c=d:***@h/d' is not a URL of PostgreSQL: invalid URI"),
        ("postgresql://h/d?sslmode=a&=s3", "'postgresql://h/d?sslmode=a&=s3' is not a URL of PostgreSQL"),
        ("postgresql://a:s3@cret@h/d", "'postgresql://a:***@h/d' has a password with an @; write %40 instead"),
        ("postgresql://a:s3@cret/d@h/d", "'postgresql://a:***@h/d' has a password with an @"),
        ("postgresql://a:s3@cret?x@h/d", "'postgresql://a:***@h/d' has a password with an @"),
        ("postgresql:/a:s3cret@h/d", "'postgresql:/a:***@h/d' is not a store's URL"),
        ("postgresql://h/d?prepare_threshold=soon", "prepare_threshold must be none or a number of uses, got 'soon'"),
        ("postgresql://h/d?prepare_threshold=-1", "prepare_threshold must be none or a number of uses, got '-1'"),
        ("postgresql://h/d?startup_options=all", "startup_options can only be none, got 'all'"),
        ("postgresql://h/d?timeout=0", "timeout must be a number above 0, got '0'"),
        ("postgresql://h/d?pool_size=2.5", "pool_size must be a number above 0, got '2.5'"),
        ("postgresql://h/d?schema=a%25b", "schema must be a name without %, backslashes and NUL characters, got 'a%b'"),
        *(
            (
                f"postgresql://a:s3cret@h/d?{name}=1",
                f"'postgresql://a:***@h/d?{name}=1' is not a URL of PostgreSQL: invalid URI query parameter: ",
            )
            for name in ("row_factory", "cursor_factory", "autocommit", "context", "synchronous")
        ),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        open_store(url)
    assert str(raised.value).startswith(message)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_size": 0}, "pool_size must be a number of connections, at least 1, got 0"),
        ({"timeout": -1}, "timeout must be a number of seconds above 0, got -1"),
        ({"schema": ""}, "schema must be a name without"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SQLStore("postgresql://h/d", **options)


def test_a_url_of_several_servers(postgres_url: str) -> None:
    """As libpq takes it."""
    server = postgres_url.partition("@")[2].partition("/")[0]
    store = open_store(postgres_url.replace(server, f"127.0.0.1:1,{server}"))
    store.append("ada", [ONE])
    assert asyncio.run(length(store)) == 1
    store.close()


def test_nothing_is_opened_before_the_first_call() -> None:
    open_store("postgresql://127.0.0.1:1/nowhere")


# Settings.

# Of the server, for clients whose machine is gone.
KEEPALIVES = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}


@pytest.mark.parametrize(
    ("query", "lock_timeout"),
    [("", "10s"), ("&timeout=30", "30s"), ("&timeout=0.5", "500ms"), ("%20-c%20lock_timeout%3D3s", "3s")],
)
def test_settings_of_a_url_come_after_the_stores(
    postgres_url: str, connected: Connected, query: str, lock_timeout: str
) -> None:
    store = open_store(f"{postgres_url}?options=-c%20work_mem%3D8MB{query}")
    store.append("ada", [ONE])
    (connection,) = connected.connections
    expected = {
        "lock_timeout": lock_timeout,
        "work_mem": "8MB",
        "default_transaction_isolation": "read committed",
        "plan_cache_mode": "force_generic_plan",
        **KEEPALIVES,
    }
    assert {name: connection.execute(f"SHOW {name}").fetchall()[0][0] for name in expected} == expected
    store.close()


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", "-c lock_timeout=10000 .* -c tcp_keepalives_count=3"),
        ("?options=-c%20work_mem%3D8MB", "-c lock_timeout=10000 .* -c tcp_keepalives_count=3 -c work_mem=8MB"),
        ("?startup_options=none", ""),
        ("?startup_options=none&options=-c%20work_mem%3D8MB", "-c work_mem=8MB"),
    ],
)
def test_what_is_sent_when_connecting(postgres_url: str, connected: Connected, query: str, options: str) -> None:
    store = open_store(postgres_url + query)
    store.append("ada", [ONE])
    assert asyncio.run(length(store)) == 1
    assert len(connected.arguments) == 2
    for named in connected.arguments:
        assert re.fullmatch(options, named["options"])
        assert "prepare_threshold" not in named
        assert named["connect_timeout"] == 10
    store.close()


@pytest.mark.parametrize(("given", "threshold"), [("none", None), ("0", 0), ("7", 7)])
def test_when_statements_are_prepared(
    postgres_url: str, connected: Connected, given: str, threshold: int | None
) -> None:
    store = open_store(f"{postgres_url}?prepare_threshold={given}")
    for _ in range(10):
        store.append("ada", [ONE])
    assert asyncio.run(length(store)) == 10
    assert [named["prepare_threshold"] for named in connected.arguments] == [threshold] * 2
    store.close()


def test_few_statements_are_prepared(postgres_url: str, connected: Connected) -> None:
    """Whatever numbers and NULLs there are: another type for each magnitude would be another statement."""
    store = open_store(postgres_url)
    for size in (1, 1, 1, 200, 200, 40_000, 40_000):
        for messages in ([ONE], [TWO, ONE], [{"role": "user", "content": "a " * size}]):
            for _ in range(7):
                store.append("ada", messages)
                store.window("ada", size)
                store.window("ada", 10**9)
    (connection,) = connected.connections
    names = [text.split()[0] for (text,) in connection.execute("SELECT statement FROM pg_prepared_statements")]
    assert 3 <= len(names) <= 12
    store.close()


@pytest.mark.parametrize("name", ["Connection", "AsyncConnection"])
def test_instrumentation_that_derives_its_cursors(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As opentelemetry-instrumentation-psycopg does."""
    traced: list[str] = []
    owner = getattr(psycopg, name)
    connect = owner.connect

    def wrapped(*arguments: Any, **named: Any) -> Any:
        default = psycopg.Cursor if name == "Connection" else psycopg.AsyncCursor

        class Traced(named.pop("cursor_factory", default)):  # type: ignore[misc]
            def execute(self, query: Any, *arguments: Any, **named: Any) -> Any:
                traced.append(query)
                return super().execute(query, *arguments, **named)

        return connect(*arguments, cursor_factory=Traced, **named)

    monkeypatch.setattr(owner, "connect", wrapped)
    store = open_store(postgres_url)

    async def use() -> None:
        await store.aappend("ada", [ONE])
        assert await store.awindow("ada", 10) == [ONE]
        await store.aclose()

    if name == "AsyncConnection":
        asyncio.run(use())
    else:
        store.append("ada", [ONE])
        assert store.window("ada", 10) == [ONE]
    assert any("chatring_message" in query for query in traced)
    store.close()


# Statements.


def messages_of(connection: Any, call: Callable[[], object]) -> list[str]:
    """Return the statements that reach PostgreSQL: the kinds of the messages of its protocol that run one."""
    with tempfile.TemporaryFile("w+") as trace:
        connection.pgconn.trace(trace.fileno())
        call()
        connection.pgconn.untrace()
        trace.seek(0)
        return re.findall(r"^[^\t\n]*\tF\t\d+\t(Execute|Query)\t", trace.read(), re.MULTILINE)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="libpq's trace is of Linux")


@on_linux
def test_how_many_statements_reach_postgresql(store: Store[Any], connected: Connected) -> None:
    store.append("ada", [ONE, TWO, ONE])
    (connection,) = connected.connections
    calls: list[tuple[Callable[[], object], int]] = [
        (lambda: store.window("ada", 2), 1),
        (lambda: store.window("ada", 10**9), 1),
        (lambda: store.window("nobody", 2), 1),
        (lambda: store.length("ada"), 1),
        (lambda: store.token_count("ada"), 1),
        (lambda: store.last("ada", 2), 1),
        (lambda: store.append("ada", [TWO]), 1),
        (lambda: store.append("ada", [ONE] * 3), 1),
        (lambda: store.delete("ada"), 1),
    ]
    for call, statements in calls:
        assert len(messages_of(connection, call)) == statements


@pytest.mark.parametrize("is_analyzed", [False, True])
def test_a_window_reads_ranges_of_indexes(postgres_url: str, connected: Connected, is_analyzed: bool) -> None:
    """With statistics and without: no table of messages is read through, and nothing sorted."""
    store: SQLStore[Any] = SQLStore(postgres_url)
    for key in range(300):
        store.append(f"{key}", [ONE])
    store.append("ada", [{"role": "system", "content": "x"}, *[ONE, TWO, {"role": "tool", "content": "3"}] * 7_000])
    if is_analyzed:
        run_on(postgres_url, "VACUUM ANALYZE")
    backend: Any = store._backend
    for room in (1_000, 10**9):
        for with_head in (True, False):
            limits = backend._limits(Limits(room, with_head, [100, -(2**63)], [300, 1]))
            values = {"key": "ada", "falls_to_last": False, **limits}
            text = f"EXPLAIN (ANALYZE) {backend.texts['window']}"
            plan = "\n".join(line for (line,) in connected.connections[0].execute(text, values, prepare=True))
            assert not re.search(r"Seq Scan on chatring_message|Sort|Hash|Merge", plan), plan
            read = [int(number) for number in re.findall(r"actual time=\S+ rows=(\d+)", plan)]
            assert (max(read) < 1_000) == (room == 1_000), plan
    store.close()


@pytest.mark.parametrize("is_analyzed", [False, True])
def test_a_page_of_keys_reads_a_range_of_the_index(postgres_url: str, connected: Connected, is_analyzed: bool) -> None:
    store: SQLStore[Any] = SQLStore(postgres_url)
    store.append("", [ONE])
    columns = ", ".join(Session._fields).replace("end", '"end"')
    run_on(
        postgres_url,
        f"INSERT INTO chatring_session (key, updated_at, {columns}) SELECT to_char(number, 'FM00000'), 0, {columns} "
        "FROM chatring_session, generate_series(1, 20000) AS number",
    )
    if is_analyzed:
        run_on(postgres_url, "VACUUM ANALYZE")
    backend: Any = store._backend
    for prefix, after in (("", None), ("", "10000"), ("07", None), ("07", "07500"), ("", "20000"), ("é", None)):
        statement = next(backend.keys(prefix, after, 10))
        (connection, *_) = connected.connections
        text = f"EXPLAIN (ANALYZE) {backend.texts[statement.name]}"
        plan = "\n".join(line for (line,) in connection.execute(text, statement.values, prepare=True))
        assert "Index Only Scan" in plan, plan
        assert "Sort" not in plan, plan
        assert max(int(number) for number in re.findall(r"actual time=\S+ rows=(\d+)", plan)) <= 10, plan
    assert store.keys(limit=2) == ["", "00001"]
    assert store.keys("07", "07998") == ["07999"]
    assert len(store.keys("07")) == 1000
    store.close()


@pytest.mark.parametrize("prefix", ["", "a", "a\x7f", "~", "\x7f", "aé", "é", "\U0010ffff", "b", "a%", "a_"])
def test_keys_by_prefix(store: Store[Any], prefix: str) -> None:
    keys = [
        "",
        "a",
        "a\x7f",
        "a\x7fb",
        "a~",
        "aé",
        "aéz",
        "aê",
        "a\U0010ffff\U0010ffff",
        "b",
        "~",
        "~~",
        "\x7f",
        "é",
        "\U0010ffff",
    ]
    keys.sort(key=str.encode)
    for key in keys:
        store.append(key, [ONE])
    some = [key for key in keys if key.startswith(prefix)]
    assert store.keys(prefix) == some
    assert store.keys(prefix, "aé") == [key for key in some if key.encode() > "aé".encode()]
    store.close()


def test_many_messages_go_to_postgresql_in_parts(
    store: Store[Any], connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_PART_BYTES", 700)
    sizes = (10, 400, 900, 0, 0, 1_000, *[100] * 7)
    messages = [{"role": ("user", "assistant")[size % 3 % 2], "content": "word " * (size // 5)} for size in sizes]
    store.append("ada", messages)
    changes: list[Callable[[], object]] = [
        lambda: store.append("ada", messages[::-1]),
        lambda: store.recount("ada"),
        lambda: store.replace("ada", messages[::-1]),
        lambda: store.pop("ada", 3),
    ]
    for change in changes:
        change()
        assert_as_a_ring(store, store.all("ada"))
    del messages[-4]
    assert store.all("ada") == messages[::-1]
    assert len(connected.connections) == 1


def assert_as_a_ring(store: Store[Any], messages: list[Any], **options: Any) -> None:
    ring: MessageRing[Any] = MessageRing(counter="o200k_base", **options)
    ring.put_messages(messages)
    assert store.token_count("ada") == ring.token_count()
    for limit in range(1, ring.token_count() + 2, 7):
        ours = outcome(partial(store.window, "ada", limit))
        assert ours == outcome(partial(ring.window, token_limit=limit))


def outcome(window: Callable[[], Any]) -> object:
    """Return what a call finds, or says."""
    try:
        found = window()
    except ValueError as error:
        return str(error)
    return list(found), found.tokens, found.question is None, found.head


@pytest.mark.parametrize("measure", ["message", "text"])
@pytest.mark.parametrize("seed", range(6))
def test_windows_of_random_histories(postgres_url: str, measure: str, seed: int) -> None:
    source = random.Random(seed)
    store = open_store(postgres_url, measure=measure)
    roles = ("user", "assistant", "tool") if measure == "text" else ("system", "user", "assistant", "tool")
    messages: list[Any] = []
    for _ in range(12):
        more = [
            {"role": source.choice(roles), "content": source.choice(("", " ", "one", "two words\n", "three " * 9))}
            for _ in range(source.randrange(1, 5))
        ]
        store.append("ada", more)
        messages += more
        if source.random() < 0.3:
            place = source.randrange(len(messages))
            assert store.pop("ada", place) == messages.pop(place)
    assert store.all("ada") == messages
    options: dict[str, Any] = {"measure": measure, "start_on": None if measure == "text" else "user"}
    ring: MessageRing[Any] = MessageRing(counter="o200k_base", **options)
    ring.put_messages(messages)
    for limit in range(1, ring.token_count() + 2):
        for ratio in (1.0, 0.5):
            ours = outcome(partial(store.window, "ada", limit, retention_ratio=ratio))
            theirs = outcome(partial(ring.window, token_limit=limit, retention_ratio=ratio))
            assert ours == theirs
    store.close()


# Schemas.


def test_tables_of_a_schema_of_ones_own(postgres_url: str) -> None:
    run_on(postgres_url, 'DROP SCHEMA IF EXISTS "tenant Two" CASCADE')
    public = open_store(postgres_url)
    two = open_store(f"{postgres_url}?schema=tenant%20Two")
    with pytest.raises(StoreError, match='has no such schema; make it with CREATE SCHEMA: schema "tenant Two" does'):
        two.append("ada", [TWO])
    run_on(postgres_url, 'CREATE SCHEMA "tenant Two"')
    public.append("ada", [ONE])
    two.append("ada", [TWO])
    assert public.all("ada") == [ONE]
    assert two.all("ada") == [TWO]
    assert two.window("ada", 100) == [TWO]
    two.append("ada", [ONE, TWO])
    assert two.pop("ada") == TWO
    assert two.delete("ada")
    assert public.all("ada") == [ONE]
    again: SQLStore[Any] = SQLStore(f"{postgres_url}?schema=public", schema="tenant Two")
    again.append("bob", [ONE])
    assert two.keys() == ["bob"]
    for store in (public, two, again):
        store.close()
    run_on(postgres_url, 'DROP SCHEMA "tenant Two" CASCADE')


def test_a_schema_without_tables_does_not_use_anothers(postgres_url: str) -> None:
    run_on(postgres_url, "DROP SCHEMA IF EXISTS two CASCADE", "CREATE SCHEMA two")
    public = open_store(postgres_url)
    public.append("ada", [ONE])
    both = open_store(f"{postgres_url}?options=-c%20search_path=two,public")
    for _ in range(2):
        with pytest.raises(StoreError, match="has chatring's tables in schema 'public', but the first schema of its"):
            both.append("ada", [TWO])
    two = open_store(f"{postgres_url}?options=-c%20search_path=two")
    two.append("ada", [TWO])
    assert both.all("ada") == [TWO]
    assert public.all("ada") == [ONE]
    for store in (public, both, two):
        store.close()
    run_on(postgres_url, "DROP SCHEMA two CASCADE")


# Migrations.

# As a next version might have them.
NEXT = "ALTER TABLE chatring_session RENAME COLUMN epoch TO epoch3; ALTER TABLE chatring_session ADD COLUMN note TEXT"


def newer_store(url: str, monkeypatch: pytest.MonkeyPatch) -> SQLStore[Any]:
    """Return a store of a chatring that has one version more."""
    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(schema, "MIGRATIONS", {2: "migrate_2_to_3"})
    store: SQLStore[Any] = SQLStore(url)
    texts = store._backend.texts  # type: ignore[attr-defined]
    for name, text in texts.items():
        texts[name] = re.sub(r"(?<!%\()\bepoch\b", "epoch3", text)  # the column, not the value
    texts["migrate_2_to_3"] = NEXT
    return store


def test_a_migration_while_older_processes_are_connected(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    older = {
        name: open_store(postgres_url) for name in ("append", "append of two", "begin", "replace", "pop", "window")
    }
    for store in older.values():
        store.append("ada", [ONE, TWO])
    changes: dict[str, Callable[[Store[Any]], object]] = {
        "append": lambda store: store.append("ada", [ONE]),
        "append of two": lambda store: store.append("ada", [ONE, TWO]),
        "begin": lambda store: store.append("new", [ONE]),
        "replace": lambda store: store.replace("ada", [ONE]),
        "pop": lambda store: store.pop("ada"),
        "window": lambda store: store.window("ada", 100),
    }
    messages = older["append"].all("ada")
    with monkeypatch.context() as patch:
        newer = newer_store(postgres_url, patch)
        newer.append("ada", [ONE])
        assert newer.window("ada", 10**6) == [*messages, ONE]
    for name, store in older.items():
        for _ in range(2):
            with pytest.raises(SchemaVersionError) as raised:
                changes[name](store)
            assert "has tables of version 3, this chatring knows version 2" in str(raised.value)
            assert PASSWORD not in str(raised.value)
        store.close()
    with monkeypatch.context() as patch:
        again = newer_store(postgres_url, patch)
        assert again.all("ada") == [*messages, ONE]
        assert again.keys() == ["ada"]
        again.close()
    assert run_on(postgres_url, "SELECT * FROM chatring_schema") == [(3,)]
    newer.close()


def test_a_migration_that_fails_changes_nothing(store: Store[Any], postgres_url: str) -> None:
    store.append("ada", [ONE])
    with pytest.MonkeyPatch.context() as patch:
        newer = newer_store(postgres_url, patch)
        newer._backend.texts["migrate_2_to_3"] = f"{NEXT}; SELECT 1 / 0"  # type: ignore[attr-defined]
        for _ in range(2):
            with pytest.raises(StoreError, match="division by zero"):
                newer.append("ada", [ONE])
        newer.close()
    store.append("ada", [TWO])
    assert store.all("ada") == [ONE, TWO]


def test_many_processes_migrate_at_once(store: Store[Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append("ada", [ONE])
    newer = [newer_store(postgres_url, monkeypatch) for _ in range(8)]
    run_numbered(lambda number: newer[number].append("ada", [TWO]), len(newer))
    assert newer[0].length("ada") == 9
    for one in newer:
        one.close()


def test_tables_of_the_unreleased_version(postgres_url: str) -> None:
    run_on(postgres_url, "CREATE TABLE chatring_schema (version integer)", "INSERT INTO chatring_schema VALUES (1)")
    store = open_store(postgres_url)
    with pytest.raises(SchemaVersionError, match=r"tables of the unreleased version 1, .* choose another schema"):
        store.append("ada", [ONE])
    store.close()


# Connections.


def connections_of(url: str) -> int:
    """Return how many there are, without the one that asks."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return int(run_on(url, query)[0][0])


def wait_for_connections(url: str, most: int) -> None:
    """Wait for the server's end of connections that are closed, which takes a moment more."""
    wait_until(lambda: connections_of(url) <= most)


def test_connections_are_kept(postgres_url: str, connected: Connected) -> None:
    store: SQLStore[Any] = SQLStore(postgres_url, pool_size=4)

    def use(number: int) -> None:
        for _ in range(10):
            store.append(f"{number}", [ONE])
            store.window(f"{number}", 100)

    run_numbered(use, 20)
    assert len(connected.connections) <= 4

    async def ause() -> None:
        await asyncio.gather(*(store.aappend(f"{number}", [ONE]) for number in range(100)))

    before = len(connected.connections)
    asyncio.run(ause())
    assert len(connected.connections) <= before + 4
    assert sum(store.length(f"{number}") for number in range(100)) == 300
    store.close()


@pytest.mark.parametrize("is_async", [False, True])
def test_who_waits_for_a_connection_longer_than_the_timeout(postgres_url: str, is_async: bool) -> None:
    store: SQLStore[Any] = SQLStore(postgres_url, pool_size=2, timeout=1)
    store.append("ada", [ONE])

    async def fill_and_wait() -> list[Any]:
        calls = [asyncio.create_task(store.aappend(f"{number}", [ONE])) for number in range(3)]
        return await asyncio.gather(*calls, return_exceptions=True)

    with psycopg.connect(postgres_url) as holder:
        holder.execute("LOCK TABLE chatring_session IN EXCLUSIVE MODE")
        results: list[Any] = []

        def call(number: int) -> None:
            try:
                store.append(f"{number}", [ONE])
            except StoreTimeoutError as error:
                results.append(error)

        def wait() -> None:
            results[:] = asyncio.run(fill_and_wait()) if is_async else []
            if not is_async:
                run_numbered(call, 3)
            assert [type(error) for error in results] == [StoreTimeoutError] * 3

        assert 0.9 < least_seconds(wait, 1.9) < 1.9  # not for a connection and then for the table
        holder.rollback()
    assert store.keys() == ["ada"]
    store.close()


@pytest.mark.parametrize("query", ["?timeout=1", "?timeout=1&startup_options=none"])
def test_the_timeout_is_that_of_the_whole_call(postgres_url: str, query: str) -> None:
    """A writer that has its turn late waits for other processes only as long as is left."""
    store: SQLStore[Any] = SQLStore(postgres_url + query)
    for key in ("ada", "bob"):
        store.append(key, [ONE])
    calls: dict[str, Callable[[], object]] = {
        "first": lambda: store.append("ada", [ONE]),
        "second": lambda: store.append("ada", [TWO]),
        "two": lambda: store.append("ada", [ONE, TWO]),
        "replace": lambda: store.replace("bob", [TWO]),
        "delete": lambda: store.delete("bob"),
    }

    def call(number: int) -> None:
        with pytest.raises(StoreTimeoutError):
            list(calls.values())[number]()

    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT * FROM chatring_session FOR UPDATE")
        assert least_seconds(lambda: run_numbered(call, len(calls)), 1.8) < 1.8
        holder.rollback()
    assert store.all("ada") == store.all("bob") == [ONE]
    store.close()


def test_writers_that_wait_hold_no_connections(postgres_url: str) -> None:
    store: SQLStore[Any] = SQLStore(postgres_url, pool_size=3, timeout=60)
    for key in ("held", "free"):
        store.append(key, [ONE])
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT * FROM chatring_session WHERE key = 'held' FOR UPDATE")
        threads = [threading.Thread(target=store.append, args=("held", [ONE])) for _ in range(20)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            store.append("free", [ONE])
            assert store.window("free", 10) != []
        assert all(thread.is_alive() for thread in threads)  # it did not wait for them
        holder.rollback()
    for thread in threads:
        thread.join()
    assert store.length("held") == store.length("free") == 21
    store.close()


def test_a_pool_that_is_handed_in(postgres_url: str, connected: Connected) -> None:
    async def use() -> None:
        async with psycopg_pool.AsyncConnectionPool(postgres_url, min_size=1, max_size=2, open=False) as pool:
            store: SQLStore[Any] = SQLStore(postgres_url, async_pool=pool, pool=given)
            await asyncio.gather(*(store.aappend("ada", [ONE]) for _ in range(10)))
            await store.aappend("ada", [ONE, TWO])
            assert await store.apop("ada") == TWO
            assert await store.alength("ada") == 11
            await store.aclose()
            async with pool.connection() as connection:
                assert not connection.autocommit
                assert await (await connection.execute("SELECT 1")).fetchall() == [(1,)]

    with psycopg_pool.ConnectionPool(
        postgres_url, min_size=1, max_size=2, kwargs={"row_factory": psycopg.rows.dict_row}, open=True
    ) as given:
        store: SQLStore[Any] = SQLStore(postgres_url, pool=given)
        run_numbered(lambda number: store.append(f"{number}", [ONE, TWO] * 5), 8)
        assert store.window("3", 100)[:2] == [ONE, TWO]
        assert store.pop("3") == TWO
        with pytest.raises(IndexError):
            store.pop("nobody")
        asyncio.run(use())
        assert store.length("ada") == 11
        store.close()
        with given.connection() as connection:  # unchanged, and open
            assert not connection.autocommit
            rows: list[Any] = connection.execute("SELECT 1 AS one").fetchall()
            assert rows == [{"one": 1}]
            connection.execute("SET plan_cache_mode = auto")
            assert connection.adapters.get_dumper(int, psycopg.adapt.PyFormat.BINARY) is not Int8BinaryDumper
    impatient: SQLStore[Any] = SQLStore(postgres_url, pool=given, timeout=0.5)
    with pytest.raises(StoreError, match="is already closed"):
        impatient.keys()
    assert len(connected.connections) <= 4


def test_a_full_pool_that_is_handed_in(postgres_url: str) -> None:
    with psycopg_pool.ConnectionPool(postgres_url, min_size=1, max_size=1, open=True) as pool, pool.connection():
        store: SQLStore[Any] = SQLStore(postgres_url, pool=pool, timeout=0.3)
        with pytest.raises(StoreTimeoutError):
            store.keys()
        store.close()


def test_a_lock_that_a_pool_that_is_handed_in_knows_nothing_of(postgres_url: str) -> None:
    with psycopg_pool.ConnectionPool(postgres_url, min_size=2, max_size=2, open=True) as pool:
        pool.wait()
        store: SQLStore[Any] = SQLStore(postgres_url, pool=pool, timeout=0.5)
        store.append("ada", [ONE])
        with psycopg.connect(postgres_url) as holder:
            holder.execute("SELECT * FROM chatring_session FOR UPDATE")
            for messages in ([ONE], [ONE, TWO]):
                with pytest.raises(StoreTimeoutError):
                    store.append("ada", messages)
            with pytest.raises(StoreTimeoutError):
                store.replace("ada", [ONE])
        assert store.all("ada") == [ONE]
        with pool.connection() as connection:
            assert connection.execute("SHOW lock_timeout").fetchall() == [("0",)]


def test_passwords_that_rotate(postgres_url: str, connected: Connected) -> None:
    passwords = iter(["old", PASSWORD, PASSWORD])
    without = postgres_url.replace(f":{PASSWORD}@", "@")
    store: SQLStore[Any] = SQLStore(without, password=lambda: next(passwords))
    with pytest.raises(StoreError, match="password authentication failed"):
        store.keys()
    store.append("ada", [ONE])
    store.append("ada", [ONE])
    assert asyncio.run(length(store)) == 2
    assert [named["password"] for named in connected.arguments] == ["old", PASSWORD, PASSWORD]

    def fail() -> str:
        raise KeyError("no token")

    failing: SQLStore[Any] = SQLStore(without, password=fail, pool_size=1)
    for _ in range(3):
        with pytest.raises(KeyError, match="no token"):
            failing.keys()
    store.close()


def test_a_connection_that_was_closed_is_noticed(store: Store[Any], postgres_url: str, connected: Connected) -> None:
    async def use() -> None:
        await store.aappend("ada", [ONE])
        terminate_others(postgres_url)
        await store.aappend("ada", [ONE])

    store.append("ada", [ONE])
    terminate_others(postgres_url)
    store.append("ada", [ONE])
    asyncio.run(use())
    assert store.length("ada") == 4
    assert len(connected.connections) == 5


def terminate_others(url: str) -> None:
    """End all other connections, and wait until they are gone."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    run_on(url, f"SELECT pg_terminate_backend(pid, 5000) {others}")


def test_a_connection_in_use_while_its_store_is_closed(postgres_url: str) -> None:
    store: SQLStore[Any] = SQLStore(postgres_url)
    store.append("ada", [ONE])
    before = connections_of(postgres_url)
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT * FROM chatring_session FOR UPDATE")
        thread = threading.Thread(target=store.append, args=("ada", [ONE]))
        thread.start()
        wait_until_blocked(postgres_url)
        store.close()
        holder.rollback()
    thread.join()
    wait_for_connections(postgres_url, before - 1)
    assert store.length("ada") == 2
    store.close()


# Processes.

FIRST_USE = """
import sys
from chatring.stores import open_store
one = {"role": "user", "content": "one"}
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.append("ada", [one])
store.append("ada", [one, one])
store.close()
"""


def test_many_processes_make_the_tables(postgres_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", FIRST_USE, postgres_url]
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
    store = open_store(postgres_url)
    assert store.length("ada") == 18
    store.close()


FORK = """
import asyncio, gc, os, sys
from chatring.stores import open_store
store = open_store(sys.argv[1])
def say(text): return [{"role": "user", "content": text}]
store.append("ada", say("before"))
loop = asyncio.new_event_loop()
loop.run_until_complete(store.aappend("ada", say("before")))
children = []
for child in range(3):
    process = os.fork()
    if process == 0:
        for index in range(10):
            store.append("ada", say(f"{child} {index}"))
            assert store.window("ada", 100)
            asyncio.run(store.alength("ada"))
        if child == 1:
            store.close()
        if child == 2:
            del store
            gc.collect()
            sys.exit()  # not os._exit: whatever Python does at the end
        os._exit(0)
    children.append(process)
for index in range(10):
    store.append("ada", say(f"parent {index}"))
assert [os.waitpid(process, 0)[1] for process in children] == [0, 0, 0]
store.append("ada", say("after"))
loop.run_until_complete(store.aappend("ada", say("after")))
assert store.length("ada") == 44, store.length("ada")
loop.run_until_complete(store.aclose())
loop.close()
store.close()
"""


def test_processes_that_fork(postgres_url: str) -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, postgres_url], check=True, timeout=300
    )
    store = open_store(postgres_url)
    texts = [message["content"] for message in store.all("ada")]
    for by in ("0", "1", "2", "parent"):
        assert [text for text in texts if text.startswith(f"{by} ")] == [f"{by} {index}" for index in range(10)]
    assert (texts[0], texts[-1]) == ("before", "after")
    store.close()


NOT_CLOSED = """
import asyncio, logging, sys
from chatring.stores import open_store
logging.getLogger("asyncio").setLevel(logging.ERROR)  # that a busy machine is slow is a warning
store = open_store(sys.argv[1])
store.append("ada", [{"role": "user", "content": "one"}])
asyncio.run(store.aappend("ada", [{"role": "user", "content": "one"}]))
"""


def test_a_process_that_closes_nothing_warns_of_nothing(postgres_url: str) -> None:
    command = [sys.executable, "-X", "dev", "-W", "always", "-c", NOT_CLOSED, postgres_url]
    done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
    assert done.stderr == ""


def test_writers_of_many_processes(postgres_url: str) -> None:
    """They do not wait for each other's turns: after some tries a writer locks the session."""
    stores = [open_store(postgres_url) for _ in range(6)]

    def write(number: int) -> None:
        for index in range(30):
            stores[number].append("ada", [{"role": "user", "content": f"{number} {index}"}] * (index % 2 + 1))

    run_numbered(write, len(stores))
    texts = [message["content"] for message in stores[0].all("ada")]
    assert len(texts) == 6 * 45
    for number in range(6):
        theirs = [f"{number} {index}" for index in range(30) for _ in range(index % 2 + 1)]
        assert [text for text in texts if text.startswith(f"{number} ")] == theirs
    assert_as_a_ring(stores[0], stores[0].all("ada"))
    for store in stores:
        store.close()


# Event loops.


def test_a_loop_for_each_call_leaves_nothing_behind(postgres_url: str) -> None:
    """`asyncio.run` ends with what closes the loop's connections."""
    store: SQLStore[Any] = SQLStore(postgres_url)
    before = connections_of(postgres_url)

    def use(_: int) -> None:
        for _ in range(5):
            asyncio.run(use_once(store))

    run_numbered(use, 16)
    assert store._backend._pools._loops == {}  # type: ignore[attr-defined]
    wait_for_connections(postgres_url, before)
    gc.collect()
    assert store.length("ada") == 80
    store.close()


def test_a_loop_that_ends_while_calls_are_made_leaves_nothing_behind(postgres_url: str) -> None:
    store: SQLStore[Any] = SQLStore(postgres_url, pool_size=2)
    before = connections_of(postgres_url)

    async def leave() -> None:
        tasks = [asyncio.ensure_future(store.aappend(f"{number % 3}", [ONE, TWO])) for number in range(20)]
        await asyncio.wait(tasks, timeout=0.02)

    for _ in range(10):
        asyncio.run(leave())
    wait_for_connections(postgres_url, before)
    gc.collect()
    keys = store.keys()
    for key in keys:
        assert store.all(key) == [ONE, TWO] * (store.length(key) // 2)
    store.close()


def test_a_loop_that_is_closed_without_an_end(postgres_url: str) -> None:
    """Its connections are closed when the next loop begins, or with the store."""
    store: SQLStore[Any] = SQLStore(postgres_url)
    before = connections_of(postgres_url)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use_once(store))
        loop.close()
        wait_for_connections(postgres_url, before + 1)
    store.close()
    del store, loop
    gc.collect()
    wait_for_connections(postgres_url, before)


def test_the_first_sync_and_the_first_async_call_at_once(postgres_url: str) -> None:
    store = open_store(postgres_url)

    def use(number: int) -> None:
        if number % 2:
            asyncio.run(use_once(store))
        else:
            store.append("ada", [ONE])

    run_numbered(use, 8)
    assert store.length("ada") == 8
    store.close()


IMPORTED_WITH_THE_STORE = """
import asyncio, sys
from chatring.stores import StoreError, open_store
store = open_store("postgresql://127.0.0.1:1/nowhere")
assert not {"sqlalchemy", "psycopg_pool", "redis"} & set(sys.modules)
before = {name for name in sys.modules if name.startswith(("psycopg", "chatring"))}
for call in (store.keys, lambda: asyncio.run(store.akeys())):
    try:
        call()
    except StoreError:
        pass
assert {name for name in sys.modules if name.startswith(("psycopg", "chatring"))} == before
"""


def test_the_first_call_imports_nothing() -> None:
    subprocess.run([sys.executable, "-c", IMPORTED_WITH_THE_STORE], check=True)
