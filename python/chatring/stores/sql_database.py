"""`Database`: connections to SQLite or PostgreSQL, the transactions on them, and the tables they need."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import sqlite3
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ClauseElement, Connection, Engine, create_engine, event, exc, select
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from chatring.stores import sql_schema
from chatring.stores.errors import ForeignDataError, SchemaVersionError, StoreError
from chatring.stores.sql_errors import is_conflict, store_error
from chatring.stores.sql_fork import CALLS, FileConnection, inherited_error
from chatring.stores.sql_url import LOCK_SECONDS, SQLUrl

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_T = TypeVar("_T")

# Bytes that SQLite's write-ahead log keeps once its changes are in the file: twice what it has before that happens.
_LOG_BYTES = 2**23

# In which schema the table is that statements find, in which a new one would be made, and which process of the server
# answers.
_WHERE = """
SELECT namespace.nspname::text, current_schema()::text, pg_backend_pid()
FROM (SELECT to_regclass('chatring_schema') AS found) AS one
LEFT JOIN pg_class ON pg_class.oid = found LEFT JOIN pg_namespace AS namespace ON namespace.oid = relnamespace
"""


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
        self._process = os.getpid()
        self._cursor = cursor
        self._text_of = text_of

    def fetch(self, statement: ClauseElement, **values: Any) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        self.run(statement, **values)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def run(self, statement: ClauseElement, **values: Any) -> None:
        """Run a statement."""
        self._check_process()
        text, constants = self._text_of(statement)
        self._cursor.execute(text, {**constants, **values})

    def run_many(self, statement: ClauseElement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement without constants of its own, with each of `rows`."""
        self._check_process()
        text, _ = self._text_of(statement)
        self._cursor.executemany(text, rows)

    def control(self, text: str) -> None:
        """Run a statement that controls the transaction."""
        self._check_process()
        self._cursor.execute(text)

    def close(self) -> None:
        """Free what it holds."""
        self._cursor.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # a counter that is called within a transaction forked
            raise ForkedError(self._process)


class ForkedError(Exception):
    """A forked process goes on with a transaction of its parent, the argument."""


class Database:
    """A database, by its URL, whose tables are made at the first use.

    Args:
        url: as in `SQLStore`.

    Raises:
        TypeError, ValueError: if the URL is not one of these.
        ModuleNotFoundError: if the driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._parsed = SQLUrl.parse(url)
        self.url = self._parsed.shown
        self.dialect = self._parsed.url.get_backend_name()
        self._is_sqlite = self.dialect == "sqlite"
        self.is_in_memory = self._is_sqlite and self._parsed.file is None
        compiler: Callable[..., Dialect] = self._parsed.url.get_dialect()
        self._compiler = compiler(paramstyle="named" if self._is_sqlite else "pyformat")
        self._driver: Any = self._parsed.url.get_dialect().import_dbapi()
        self._texts: dict[ClauseElement, tuple[str, dict[str, Any]]] = {}
        # By process: a connection that a fork inherited is the parent's, which goes on using it. No lock, which might
        # be held when the process forks.
        self._engines: dict[int, Engine] = {}
        # A connection belongs to the loop that opened it.
        self._async_engines: dict[asyncio.AbstractEventLoop, AsyncEngine] = {}
        self._with_tables: weakref.WeakSet[Engine] = weakref.WeakSet()
        # Whether a pooler passes what it gets to whichever connection of PostgreSQL is free.
        self._is_pooled = False
        self._calls: AbstractContextManager[None] = nullcontext()
        if self._parsed.file is not None:
            self._calls = CALLS
            CALLS.add(self)
            # One that is collected without having been closed would still be open during a fork.
            weakref.finalize(self, _close, self._engines, CALLS).atexit = False
        elif not self._is_sqlite:
            # Not at the first async call: while SQLAlchemy imports it, other threads that use SQLAlchemy fail. SQLite
            # does without it, and so without greenlet.
            import sqlalchemy.ext.asyncio  # noqa: F401

    def run(self, access: Access, work: Callable[[Cursor], _T]) -> _T:
        """Return what `work` returns.

        Raises:
            StoreError: for an error of the database.
            Exception: whatever `work` raises, unchanged; a transaction is rolled back.
        """
        try:
            return self._run_once(access, work)
        except (exc.SQLAlchemyError, self._driver.Error) as error:
            if access is Access.STATEMENTS and is_conflict(error):
                return self.run(Access.TRANSACTION, work)  # whose isolation has no conflicts
            raise self._store_error(error) from (getattr(error, "orig", None) or error)
        except ForkedError as error:
            raise inherited_error(self.url, *error.args) from None

    async def arun(self, access: Access, work: Callable[[Cursor], _T]) -> _T:
        """As `run`, on PostgreSQL. A transaction that is cancelled is done as a whole or not at all."""
        try:
            async with self._async_engine().connect() as connection:
                return await connection.run_sync(self._run_on, access, work)
        except (exc.SQLAlchemyError, self._driver.Error) as error:
            if access is Access.STATEMENTS and is_conflict(error):
                return await self.arun(Access.TRANSACTION, work)
            raise self._store_error(error) from (getattr(error, "orig", None) or error)
        except ForkedError as error:
            raise inherited_error(self.url, *error.args) from None

    def close(self) -> None:
        """Close the connections of `run` in this process. The next call opens new ones; what was in memory is gone."""
        _close(self._engines, self._calls)

    async def aclose(self) -> None:
        """Close the connections of `arun` in this event loop; of SQLite those of `run`, which `arun` uses."""
        if self._is_sqlite and not self.is_in_memory:
            await asyncio.to_thread(self.close)
        engine = self._async_engines.pop(asyncio.get_running_loop(), None)
        if engine is not None:
            await engine.dispose()

    def _run_once(self, access: Access, work: Callable[[Cursor], _T]) -> _T:
        with self._calls:
            engine = self._engine()
            try:
                with engine.connect() as connection:
                    return self._run_on(connection, access, work)
            finally:
                if self._engines.get(os.getpid()) is not engine:  # closed in the meantime, but not this connection
                    engine.pool.dispose()

    def _run_on(self, connection: Connection, access: Access, work: Callable[[Cursor], _T]) -> _T:
        try:
            if connection.engine not in self._with_tables:
                self._make_tables(connection)
                self._with_tables.add(connection.engine)
            if self._is_pooled:
                driver_connection: Any = connection.connection.driver_connection
                driver_connection.prepare_threshold = None
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
            is_error = isinstance(error, (exc.SQLAlchemyError, self._driver.Error)) and not is_conflict(error)
            if is_error or not isinstance(error, Exception):
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
        # On PostgreSQL each statement sees what was committed before it, whatever the default is.
        return "BEGIN IMMEDIATE" if self._is_sqlite else "BEGIN ISOLATION LEVEL READ COMMITTED"

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
        if not self._has_tables(connection):
            connection.exec_driver_sql(self._begin)
            if not self._is_sqlite:
                # Two transactions that make the same table at once would fail.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('chatring_schema'))")
            if not self._has_tables(connection):
                sql_schema.TABLES.create_all(connection, checkfirst=False)
                connection.execute(sql_schema.schema.insert(), {"version": sql_schema.VERSION})
            connection.exec_driver_sql("COMMIT")
        version = connection.execute(select(sql_schema.schema.c.version)).scalar()
        if not isinstance(version, int) or version < 1:
            raise ForeignDataError(f"{self.url} has a table chatring_schema that was not written by chatring")
        if version > sql_schema.VERSION:
            raise SchemaVersionError(
                f"{self.url} has tables of version {version}, this chatring knows version {sql_schema.VERSION}; "
                "use the chatring that wrote them, or a newer one"
            )

    def _has_tables(self, connection: Connection) -> bool:
        """Return whether the tables are there. On PostgreSQL, note whether there is a pooler in between.

        Raises:
            StoreError: if PostgreSQL has them in another schema than where it would make them.
        """
        if self._is_sqlite:
            found = "SELECT 1 FROM sqlite_master WHERE name = 'chatring_schema'"
            return connection.exec_driver_sql(found).first() is not None
        schema, current, backend = connection.exec_driver_sql(_WHERE).one()
        driver_connection: Any = connection.connection.driver_connection
        # The pooler's number of a connection is not the server's.
        if backend != driver_connection.pgconn.backend_pid and not self._parsed.prepare:
            self._is_pooled = True
        if schema not in (None, current):
            raise StoreError(
                f"{self.url} has chatring's tables in schema {schema!r}, but the first schema of its search_path is "
                f"{current!r}; add ?options=-c%20search_path={schema} to use these, or ={current} to have others there"
            )
        return schema is not None

    def _engine(self) -> Engine:
        process = os.getpid()
        engine = self._engines.get(process)
        if engine is None:
            engine = create_engine(self._parsed.url, **self._settings(is_async=False))
            self._listen(engine)
            engine = self._engines.setdefault(process, engine)
        return engine

    def _async_engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        engine = self._async_engines.get(loop)
        if engine is None:
            from sqlalchemy.ext.asyncio import create_async_engine

            for other in list(self._async_engines):
                if other.is_closed():  # without aclose: its connections close when they are collected
                    self._async_engines.pop(other, None)
            engine = self._async_engines[loop] = create_async_engine(self._parsed.url, **self._settings(is_async=True))
            self._listen(engine.sync_engine)
        return engine

    def _listen(self, engine: Engine) -> None:
        if self._is_sqlite:
            event.listen(engine, "connect", self._configure_sqlite)
        else:
            event.listen(engine, "checkout", self._check_connected)

    def _settings(self, is_async: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        settings: dict[str, Any] = {
            "connect_args": arguments,
            "isolation_level": "AUTOCOMMIT",
            "pool_timeout": LOCK_SECONDS,
            # Values are messages, which do not belong into logs and tracebacks.
            "hide_parameters": True,
        }
        if not self._is_sqlite:
            arguments.update(self._parsed.postgresql_arguments())
            arguments["cursor_factory"] = _binary(self._driver.AsyncCursor if is_async else self._driver.Cursor)
        else:
            arguments["timeout"] = self._parsed.timeout
            if self.is_in_memory:
                # One connection, for one thread at a time: another connection would have a database of its own.
                arguments["check_same_thread"] = False
                settings.update(poolclass=QueuePool, pool_size=1, max_overflow=0)
            else:
                arguments["factory"] = functools.partial(FileConnection, file=self._parsed.file or "", url=self.url)
        return settings

    def _configure_sqlite(self, connection: sqlite3.Connection, _: object) -> None:
        deadline = time.monotonic() + self._parsed.timeout
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
        connection.execute(f"PRAGMA synchronous = {self._parsed.synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")

    def _check_connected(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        """Look, without a round trip, whether the server has closed a connection since its last use."""
        connection: Any = record.driver_connection
        try:
            # The first reads what the server last said, if it did, and only the second that nothing follows.
            connection.pgconn.consume_input()
            connection.pgconn.consume_input()
        except self._driver.Error as error:
            raise exc.DisconnectionError from error

    def _store_error(self, error: Exception) -> StoreError:
        return store_error(error, self.url, self._parsed.file)


def _close(engines: dict[int, Engine], calls: AbstractContextManager[None]) -> None:
    with calls:
        engine = engines.pop(os.getpid(), None)
        if engine is not None:
            engine.pool.dispose()


def _binary(cursor: type[Any]) -> type[Any]:
    """Return a class of psycopg's cursors that get values in binary: texts and payloads in half the time.

    A class, because instrumentation derives its own from it.
    """

    class BinaryCursor(cursor):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.format = 1  # psycopg.pq.Format.BINARY

    return BinaryCursor
