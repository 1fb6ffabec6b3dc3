"""`Database`: connections to SQLite or PostgreSQL, the transactions on them, and the tables they need."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, ClauseElement, Connection, Engine, create_engine, event, exc, inspect, make_url, select
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from chatring.stores import sql_schema
from chatring.stores.errors import ForeignDataError, SchemaVersionError
from chatring.stores.sql_errors import store_error
from chatring.stores.url import redacted, without_secrets

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_T = TypeVar("_T")

# How long a writer waits for another one.
_LOCK_SECONDS = 10
# When libpq takes a connection, or the attempt to make one, for lost; the system's own answer may take hours. Seconds,
# except for the last: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_LOST_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgres", "postgresql", "postgresql+psycopg")
# As SQLAlchemy finds them: the user ends at the first colon, the password at the next @.
_CREDENTIALS = re.compile(r"(?<=://)([^:/]*)(:[^@]*)?@")
# Values of PRAGMA synchronous: https://www.sqlite.org/pragma.html#pragma_synchronous
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
# Of the URL: those of the driver, and those of a file's URI, `sqlite:///file:chat.db?mode=ro&uri=true`.
_SQLITE_PARAMETERS = {"timeout", "cached_statements"}
_FILE_PARAMETERS = {"mode", "cache", "immutable", "nolock", "psow", "vfs"}
_POSTGRESQL_SETTINGS = (
    f"-c lock_timeout={_LOCK_SECONDS}s",
    # Each statement sees what was committed before it, whatever the database's default is.
    "-c default_transaction_isolation=read\\ committed",
    # The best plan is the same for all values, and making one takes as long as following it.
    "-c plan_cache_mode=force_generic_plan",
    # The session of a writer whose machine is gone is free in half a minute; the system's own keepalives take hours.
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
)


class Access(Enum):
    """What is done with a connection."""

    STATEMENTS = auto()
    """Each statement is a transaction by itself: one round trip in the place of three."""
    TRANSACTION = auto()
    """All statements are one transaction, which changes something."""


class Cursor:
    """Runs statements. It is the driver's own, because SQLAlchemy's takes longer than many a statement."""

    def __init__(
        self, cursor: Any, dialect: str, text_of: Callable[[ClauseElement], tuple[str, dict[str, Any]]]
    ) -> None:
        self.dialect = dialect
        self._cursor = cursor
        self._text_of = text_of

    def fetch(self, statement: ClauseElement, **values: Any) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        self.run(statement, **values)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def run(self, statement: ClauseElement, **values: Any) -> None:
        """Run a statement."""
        text, constants = self._text_of(statement)
        self._cursor.execute(text, {**constants, **values})

    def run_many(self, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement without constants of its own, with each of `rows`."""
        text, _ = self._text_of(statement)
        self._cursor.executemany(text, rows)

    def control(self, text: str) -> None:
        """Run a statement that controls the transaction."""
        self._cursor.execute(text)

    def close(self) -> None:
        """Free what it holds."""
        self._cursor.close()


class Database:
    """A database, by its URL, whose tables are made at the first use.

    Args:
        url: as in `SQLStore`.

    Raises:
        ValueError: if the URL is not one of these.
        ModuleNotFoundError: if the driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._url, self._synchronous, self.url = _parsed(url)
        self.dialect = self._url.get_backend_name()
        self._is_sqlite = self.dialect == "sqlite"
        self.is_in_memory = self._is_sqlite and _is_in_memory(self._url)
        compiler: Callable[..., Dialect] = self._url.get_dialect()
        self._compiler = compiler(paramstyle="named" if self._is_sqlite else "pyformat")
        self._driver: Any = self._url.get_dialect().import_dbapi()
        self._texts: dict[ClauseElement, tuple[str, dict[str, Any]]] = {}
        # By process: a connection that a fork inherited is the parent's, which goes on using it. No lock, which might
        # be held when the process forks.
        self._engines: dict[int, Engine] = {}
        # A connection belongs to the loop that opened it.
        self._async_engines: dict[asyncio.AbstractEventLoop, AsyncEngine] = {}
        self._with_tables: weakref.WeakSet[Engine] = weakref.WeakSet()

    def run(self, access: Access, work: Callable[[Cursor], _T]) -> _T:
        """Return what `work` returns.

        Raises:
            StoreError: for an error of the database.
            Exception: whatever `work` raises, unchanged; a transaction is rolled back.
        """
        engine = self._engine()
        try:
            with engine.connect() as connection:
                return self._run_on(connection, access, work)
        except (exc.SQLAlchemyError, self._driver.Error) as error:
            raise store_error(error, self.url) from (getattr(error, "orig", None) or error)
        finally:
            if self._engines.get(os.getpid()) is not engine:  # closed in the meantime, but not this connection
                engine.pool.dispose()

    async def arun(self, access: Access, work: Callable[[Cursor], _T]) -> _T:
        """As `run`. A transaction that is cancelled is done as a whole or not at all; on SQLite perhaps afterwards."""
        if self._is_sqlite:  # whose async driver is a thread as well
            return await asyncio.to_thread(self.run, access, work)
        try:
            async with self._async_engine().connect() as connection:
                return await connection.run_sync(self._run_on, access, work)
        except (exc.SQLAlchemyError, self._driver.Error) as error:
            raise store_error(error, self.url) from (getattr(error, "orig", None) or error)

    def close(self) -> None:
        """Close the connections of `run` in this process. The next call opens new ones; what was in memory is gone."""
        engine = self._engines.pop(os.getpid(), None)
        if engine is not None:
            engine.pool.dispose()

    async def aclose(self) -> None:
        """Close the connections of `arun` in this event loop; of SQLite those of `run`, which `arun` uses."""
        if self._is_sqlite and not self.is_in_memory:
            await asyncio.to_thread(self.close)
        engine = self._async_engines.pop(asyncio.get_running_loop(), None)
        if engine is not None:
            await engine.dispose()

    def _run_on(self, connection: Connection, access: Access, work: Callable[[Cursor], _T]) -> _T:
        try:
            if connection.engine not in self._with_tables:
                self._make_tables(connection)
                self._with_tables.add(connection.engine)
            cursor = Cursor(connection.connection.cursor(), self.dialect, self._text_of)
            if access is Access.TRANSACTION:
                cursor.control(self._begin)
            result = work(cursor)
            if access is Access.TRANSACTION:
                cursor.control("COMMIT")
            cursor.close()
            return result
        except BaseException as error:
            # The pool rolls back what is left of a transaction. After an error of the database, or something like
            # KeyboardInterrupt, a new connection is safer, and the tables may be gone.
            if isinstance(error, (exc.SQLAlchemyError, self._driver.Error)) or not isinstance(error, Exception):
                self._with_tables.discard(connection.engine)
                self._give_up(connection)
            raise

    def _give_up(self, connection: Connection) -> None:
        if self._is_sqlite:
            with contextlib.suppress(self._driver.Error):
                connection.connection.rollback()  # closed within a transaction, it would keep its locks for a while
        if not self.is_in_memory:
            connection.invalidate()

    @property
    def _begin(self) -> str:
        # On SQLite at once for writing: a transaction that reads first may find that another one wrote in between.
        return "BEGIN IMMEDIATE" if self._is_sqlite else "BEGIN"

    def _text_of(self, statement: ClauseElement) -> tuple[str, dict[str, Any]]:
        """Return a statement as the driver takes it, and the constants in it."""
        text = self._texts.get(statement)
        if text is None:
            compiled = statement.compile(dialect=self._compiler)
            constants = {name: value for name, value in compiled.params.items() if value is not None}
            # psycopg: values in binary.
            text = self._texts[statement] = (re.sub(r"%\((\w+)\)s", r"%(\1)b", str(compiled)), constants)
        return text

    def _make_tables(self, connection: Connection) -> None:
        """Make the tables if there are none.

        Raises:
            ForeignDataError: if tables with these names are not chatring's.
            SchemaVersionError: if a newer chatring made them.
        """
        if not inspect(connection).has_table(sql_schema.schema.name):
            connection.exec_driver_sql(self._begin)
            if not self._is_sqlite:
                # Two transactions that make the same table at once would fail.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('chatring_schema'))")
            if not inspect(connection).has_table(sql_schema.schema.name):
                sql_schema.TABLES.create_all(connection, checkfirst=False)
                connection.execute(sql_schema.schema.insert(), {"version": sql_schema.VERSION})
            connection.exec_driver_sql("COMMIT")
        version = connection.execute(select(sql_schema.schema.c.version)).scalar()
        if not isinstance(version, int):
            raise ForeignDataError(f"{self.url} has a table chatring_schema that was not written by chatring")
        if version > sql_schema.VERSION:
            raise SchemaVersionError(
                f"{self.url} has tables of version {version}, this chatring knows version {sql_schema.VERSION}; "
                "use the chatring that wrote them, or a newer one"
            )

    def _engine(self) -> Engine:
        process = os.getpid()
        engine = self._engines.get(process)
        if engine is None:
            engine = create_engine(self._url, **self._settings(is_async=False))
            self._listen(engine)
            engine = self._engines.setdefault(process, engine)
        return engine

    def _async_engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        engine = self._async_engines.get(loop)
        if engine is None:
            # Here, because it needs greenlet, which SQLite does without.
            from sqlalchemy.ext.asyncio import create_async_engine

            for other in list(self._async_engines):
                if other.is_closed():  # without aclose: its connections close when they are collected
                    self._async_engines.pop(other, None)
            engine = self._async_engines[loop] = create_async_engine(self._url, **self._settings(is_async=True))
            self._listen(engine.sync_engine)
        return engine

    def _listen(self, engine: Engine) -> None:
        if self._is_sqlite:
            event.listen(engine, "connect", self._configure_sqlite)
        else:
            event.listen(engine, "checkout", self._check_connected)

    def _settings(self, is_async: bool) -> dict[str, Any]:
        given = self._url.query
        arguments: dict[str, Any] = {}
        settings: dict[str, Any] = {
            "connect_args": arguments,
            "isolation_level": "AUTOCOMMIT",
            "pool_timeout": _LOCK_SECONDS,
            # Values are messages, which do not belong into logs and tracebacks.
            "hide_parameters": True,
        }
        if not self._is_sqlite:
            arguments.update({name: value for name, value in _LOST_CONNECTION.items() if name not in given})
            arguments["client_encoding"] = "utf8"  # the driver's own would be the database's
            arguments["options"] = " ".join((*_POSTGRESQL_SETTINGS, str(given.get("options", ""))))
            arguments["cursor_factory"] = _binary(self._driver.AsyncCursor if is_async else self._driver.Cursor)
        else:
            if "timeout" not in given:
                arguments["timeout"] = _LOCK_SECONDS
            if self.is_in_memory:
                # One connection, for one thread at a time: another connection would have a database of its own.
                arguments["check_same_thread"] = False
                settings.update(poolclass=QueuePool, pool_size=1, max_overflow=0)
        return settings

    def _configure_sqlite(self, connection: sqlite3.Connection, _: object) -> None:
        deadline = time.monotonic() + float(str(self._url.query.get("timeout", _LOCK_SECONDS)))
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "readonly" in str(error):  # what is there can be read
                    break
                # Of several that change it at once, SQLite lets all but one fail without waiting.
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    def _check_connected(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        """Look, without a round trip, whether the server has closed a connection since its last use."""
        connection: Any = record.driver_connection
        try:
            # The first reads what the server last said, if it did, and only the second that nothing follows.
            connection.pgconn.consume_input()
            connection.pgconn.consume_input()
        except self._driver.Error as error:
            raise exc.DisconnectionError from error


def _binary(cursor: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes cursors of psycopg that get values in binary: texts and payloads in half the time."""

    def make(*arguments: Any, **named: Any) -> Any:
        made = cursor(*arguments, **named)
        made.format = 1  # psycopg.pq.Format.BINARY
        return made

    return make


def _parsed(url: str) -> tuple[URL, str, str]:
    """Return the URL for SQLAlchemy, SQLite's `synchronous`, and the URL to show."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        # Without the cause, which may show the password.
        raise ValueError(f"{without_secrets(url)!r} is no URL of a database") from None
    if parsed.drivername not in _DRIVERS:
        raise ValueError(
            f"{without_secrets(url)!r} names neither SQLite nor PostgreSQL with psycopg; "
            "it must begin with sqlite:// or postgresql://"
        )
    if not parsed.drivername.startswith("sqlite"):
        return parsed.set(drivername="postgresql+psycopg"), "", redacted(url, _CREDENTIALS)
    shown = without_secrets(url)
    if parsed.host or parsed.port is not None or parsed.username is not None:
        raise ValueError(f"{shown!r} has a host, which SQLite has not; a file follows three slashes: sqlite:///chat.db")
    known = {"synchronous", "uri", *_SQLITE_PARAMETERS}
    if parsed.query.get("uri"):
        known |= _FILE_PARAMETERS
    if unknown := sorted(parsed.query.keys() - known):
        raise ValueError(f"{shown!r} has parameters that SQLite has not: {', '.join(unknown)}")
    synchronous = str(parsed.query.get("synchronous", "FULL")).upper()
    if synchronous not in _SYNCHRONOUS:
        raise ValueError(f"synchronous must be one of {', '.join(_SYNCHRONOUS)}, got {synchronous!r}")
    parsed = parsed.difference_update_query(["synchronous"])
    try:
        parsed.get_dialect()().create_connect_args(parsed)
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{shown!r} is no URL of SQLite: {error}") from None
    return parsed, synchronous, url


def _is_in_memory(url: URL) -> bool:
    file = url.database or ""
    in_memory = url.query.get("mode") == "memory" or url.query.get("vfs") == "memdb"
    return in_memory or file in ("", "file:") or ":memory:" in file
