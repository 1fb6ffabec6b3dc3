"""`PostgreSQLBackend`: a server, through psycopg 3."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.sql import Identifier
from psycopg.types.numeric import Int8BinaryDumper

from chatring.stores.errors import SchemaVersionError, StoreError, StoreTimeoutError
from chatring.stores.operation import Steps, arun, run
from chatring.stores.session import Limits, Row
from chatring.stores.sql import schema
from chatring.stores.sql.backend import SQLBackend
from chatring.stores.sql.errors import store_error
from chatring.stores.sql.fork import ForkedError, inherited_error
from chatring.stores.sql.pool import Pool, TaskPlace, ThreadPlace
from chatring.stores.sql.postgresql_url import PostgreSQLUrl
from chatring.stores.sql.statement import Statement, read_statements
from chatring.stores.turns import Turns

_T = TypeVar("_T")

_POOL_SIZE = 15
_TIMEOUT = 10.0
# More tokens than any session has; and sums with it are still numbers of 64 bits.
_LARGEST_ROOM = 2**60
# SQLSTATEs after which a connection is as good as before: another writer was faster, or took too long.
_HARMLESS = ("40001", "40P01", "55P03", "57014")
# Statements that may wait for another writer outside of a transaction; they take `patience`, in milliseconds.
_WAITING = ("append", "append_one", "delete")
_LINES = re.compile(r"\s*\n\s*")

# Errors that are thrown into what was to run.
_EXPECTED = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
)
# A text and its values; without values it may be several statements.
_Call = tuple[str, Any]


class PostgreSQLBackend(SQLBackend):
    """A database of PostgreSQL, or of what speaks its language.

    Connections are opened when they are needed, and kept: one pool for each process, and one for each event loop, which
    is closed when the loop ends.

    Args:
        url: as in `SQLStore`.
        timeout: how long a call waits for other writers and for a connection, in seconds, if the URL does not say.
        pool_size: how many connections a pool has at most, if the URL does not say.
        schema: in which the tables are; None for the URL's, or the first of the search path.
        pool: connections of `run`, to use instead: a `psycopg_pool.ConnectionPool`, which is never closed.
        async_pool: those of `arun`: a `psycopg_pool.AsyncConnectionPool`.
        password: called for the password of each new connection.

    Raises:
        TypeError, ValueError: if the URL is not one of PostgreSQL.
    """

    adds_many = True

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None = None,
        pool_size: int | None = None,
        schema: str | None = None,
        pool: Any = None,
        async_pool: Any = None,
        password: Callable[[], str] | None = None,
    ) -> None:
        self._parsed = PostgreSQLUrl.parse(url)
        self.url = self._parsed.shown
        self.timeout = timeout or self._parsed.timeout or _TIMEOUT
        self.turns = Turns()
        self._arguments = self._parsed.arguments(self.timeout)
        self._password = password
        self._schema = self._parsed.schema if schema is None else schema
        if self._schema is not None and (not self._schema or set(self._schema) & set("%\\\0")):
            raise ValueError(f"schema must be a name without %, backslashes and NUL characters, got {self._schema!r}")
        quoted = None if self._schema is None else Identifier(self._schema).as_string(None)
        self.tables = f"{quoted}.chatring_schema" if quoted else "chatring_schema"
        texts = read_statements("queries.sql", "postgresql.sql", value=r"%(\1)b", schema=quoted)
        # On one line each: psycopg remembers how it takes those of less than 4,096 characters.
        self._texts = {name: _LINES.sub(" ", text) for name, text in texts.items()}
        self._size = pool_size or self._parsed.pool_size or _POOL_SIZE
        self._given, self._given_async = pool, async_pool
        self.has_given_pool = pool is not None or async_pool is not None
        self._process = os.getpid()
        # By process: a connection that a fork inherited is the parent's, which goes on using it. The child closes none.
        self._pools: dict[int, Pool[Any]] = {}
        # A connection belongs to the loop that opened it. With what closes the pool when the loop ends.
        self._loops: dict[asyncio.AbstractEventLoop, tuple[Pool[Any], AsyncGenerator[None, None]]] = {}
        # Whether the tables are known to be there.
        self.is_ready = False
        # Whether a pooler passes what it gets to whichever connection of PostgreSQL is free.
        self.is_pooled = False
        weakref.finalize(self, _close_all, self._pools, self._loops)

    def run(self, steps: Steps[_T], deadline: float, turn: str | None = None) -> _T:
        """See `Backend`."""
        self._check_process()
        try:
            return run(steps, lambda: self._lend(deadline, turn))
        except ForkedError as error:
            raise inherited_error(self.url, *error.args) from None

    async def arun(self, steps: Steps[_T], deadline: float, turn: str | None = None) -> _T:
        """See `Backend`."""
        self._check_process()
        try:
            return await arun(steps, lambda: self._alend(deadline, turn))
        except ForkedError as error:
            raise inherited_error(self.url, *error.args) from None

    def turn_of(self, key: str) -> str:
        """See `Backend`."""
        return key

    def close(self) -> None:
        """See `Backend`."""
        _close(self._pools)

    async def aclose(self) -> None:
        """See `Backend`."""
        if (found := self._loops.pop(asyncio.get_running_loop(), None)) is not None:
            await found[1].aclose()

    def _limits(self, limits: Limits) -> dict[str, Any]:
        # No block is larger than the room, but for rounding.
        return {
            "room": min(limits.room, _LARGEST_ROOM),
            "with_head": limits.includes_head,
            "least": [min(least, _LARGEST_ROOM) for least in limits.least],
            "blocks": [min(block, _LARGEST_ROOM) for block in limits.blocks],
        }

    def _append(self, numbers: dict[str, Any], part: list[tuple[int, Row]]) -> Steps[bool]:
        if len(part) > 1:
            return (yield from super()._append(numbers, part))
        ((seq, row),) = part
        values = {"seq": seq, "kind": row.kind, "tokens": row.tokens, "before": row.before, "asks": row.question}
        added: int = yield Statement("append_one", {**numbers, **values, "body": row.body})
        return added > 0

    def _prepare(self, connection: Any) -> Steps[None]:
        """Look for the tables, and for a pooler.

        Raises:
            StoreError: if the tables are in another schema than where new ones would be made.
        """
        ((found, current, process),) = yield Statement("where", {"name": self.tables})
        # The pooler's number of a connection is not the server's.
        if process != connection.pgconn.backend_pid and not self._parsed.prepare:
            self.is_pooled = True
        if self._schema is None and found not in (None, current):
            raise StoreError(
                f"{self.url} has chatring's tables in schema {found!r}, but the first schema of its search_path is "
                f"{current!r}; add ?schema={found} to use these, or ?schema={current} to have others there"
            )
        yield from schema.made(self.url)
        self.is_ready = True

    def _patience(self, deadline: float) -> int | None:
        """Return how long a statement may wait for another writer, in milliseconds; None if its connection knows."""
        left = deadline - time.monotonic()
        is_told = self._parsed.startup_options and not self.has_given_pool
        return None if is_told and left >= self.timeout / 2 else max(round(left * 1000), 1)

    @contextlib.contextmanager
    def _lend(self, deadline: float, turn: str | None) -> Iterator[_Connection]:
        with (
            # Only from the first statement on: who counts holds no turn.
            nullcontext() if turn is None else self.turns.of(turn, deadline, self.url),
            self._own(deadline) if self._given is None else self._borrowed(deadline) as connection,
        ):
            lent = _Connection(self, connection, deadline)
            try:
                if not self.is_ready:
                    run(self._prepare(connection), lambda: nullcontext(lent))
                yield lent
            finally:
                lent.end()

    @contextlib.asynccontextmanager
    async def _alend(self, deadline: float, turn: str | None) -> AsyncIterator[_AsyncConnection]:
        async with (
            nullcontext() if turn is None else self.turns.of(turn, deadline, self.url),
            self._aown(deadline) if self._given_async is None else self._aborrowed(deadline) as connection,
        ):
            lent = _AsyncConnection(self, connection, deadline)
            try:
                if not self.is_ready:
                    await arun(self._prepare(connection), lambda: nullcontext(lent))
                yield lent
            finally:
                await lent.end()

    @contextlib.contextmanager
    def _own(self, deadline: float) -> Iterator[Any]:
        pool, place = self._pool(), ThreadPlace[Any]()
        if not place.wait(pool, deadline - time.monotonic()):
            raise self._too_late()
        connection = place.connection
        try:
            if connection is not None and _is_lost(connection):
                _finish(connection)
                connection = None
            if connection is None:
                connection = self._connect(deadline)
            yield connection
        finally:
            self._give_back(pool, connection)

    @contextlib.asynccontextmanager
    async def _aown(self, deadline: float) -> AsyncIterator[Any]:
        pool, place = await self._async_pool(), TaskPlace[Any]()
        if not await place.wait(pool, deadline - time.monotonic()):
            raise self._too_late()
        connection = place.connection
        try:
            if connection is not None and _is_lost(connection):
                _finish(connection)
                connection = None
            if connection is None:
                connection = await self._aconnect(deadline)
            yield connection
        finally:
            self._give_back(pool, connection)

    @contextlib.contextmanager
    def _borrowed(self, deadline: float) -> Iterator[Any]:
        process = os.getpid()
        try:
            connection = self._given.getconn(timeout=max(deadline - time.monotonic(), 0))
        except psycopg.Error as error:
            raise store_error(error, self.url) from error
        was_autocommit = connection.autocommit
        try:
            if not was_autocommit:
                connection.autocommit = True
            yield connection
        finally:
            if process == os.getpid():
                if not was_autocommit and _is_idle(connection):
                    connection.autocommit = False
                self._given.putconn(connection)

    @contextlib.asynccontextmanager
    async def _aborrowed(self, deadline: float) -> AsyncIterator[Any]:
        process = os.getpid()
        try:
            connection = await self._given_async.getconn(timeout=max(deadline - time.monotonic(), 0))
        except psycopg.Error as error:
            raise store_error(error, self.url) from error
        was_autocommit = connection.autocommit
        try:
            if not was_autocommit:
                await connection.set_autocommit(True)
            yield connection
        finally:
            if process == os.getpid():
                if not was_autocommit and _is_idle(connection):
                    await connection.set_autocommit(False)
                await self._given_async.putconn(connection)

    def _give_back(self, pool: Pool[Any], connection: Any) -> None:
        if connection is not None and not pool.is_inherited and not _is_idle(connection):
            _finish(connection)
            connection = None
        pool.give_back(connection)

    def _connect(self, deadline: float) -> Any:
        arguments = self._connect_arguments(deadline)
        if self._password is not None:
            arguments["password"] = self._password()
        try:
            return _configured(psycopg.Connection.connect(**arguments))
        except psycopg.Error as error:
            raise store_error(error, self.url) from error

    async def _aconnect(self, deadline: float) -> Any:
        arguments = self._connect_arguments(deadline)
        if self._password is not None:
            arguments["password"] = await asyncio.to_thread(self._password)
        try:
            return _configured(await psycopg.AsyncConnection.connect(**arguments))
        except psycopg.Error as error:
            raise store_error(error, self.url) from error

    def _too_late(self) -> StoreTimeoutError:
        return StoreTimeoutError(f"{self.url}: all {self._size} connections were in use for too long; try again")

    def _connect_arguments(self, deadline: float) -> dict[str, Any]:
        left = max(round(deadline - time.monotonic()), 2)  # libpq's least
        return {**self._arguments, "connect_timeout": min(int(self._arguments["connect_timeout"]) or left, left)}

    def _pool(self) -> Pool[Any]:
        process = os.getpid()
        pool = self._pools.get(process)
        return pool or self._pools.setdefault(process, Pool(self._size, _finish))

    async def _async_pool(self) -> Pool[Any]:
        loop = asyncio.get_running_loop()
        if (found := self._loops.get(loop)) is not None:
            return found[0]
        self._close_loops()
        pool: Pool[Any] = Pool(self._size, _finish)
        guard = _until_the_loop_ends(self._loops, pool)
        self._loops[loop] = pool, guard
        await guard.__anext__()
        return pool

    def _close_loops(self) -> None:
        """Close the pools of loops that have ended without the end that `asyncio.run` has, or are another process's."""
        for loop, (pool, _) in list(self._loops.items()):
            if loop.is_closed() or pool.is_inherited:
                self._loops.pop(loop, None)
                pool.close()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            self.turns.renew()
            self._close_loops()


class _Lent:
    """A connection while an operation has it: what is alike in both kinds."""

    def __init__(self, backend: PostgreSQLBackend, connection: Any, deadline: float) -> None:
        self.is_in_transaction = False
        self._backend = backend
        self._connection = connection
        self._deadline = deadline
        self._process = os.getpid()

    def _calls(self, statement: Statement) -> Generator[_Call, Any, Any]:
        """Yield what the driver is to run, be sent what it answers, and return the statement's answer."""
        if os.getpid() != self._process:  # a counter that is called within a transaction forked
            raise ForkedError(self._process)
        name, values, _ = statement
        text = self._backend._texts[name]
        if name == "begin":
            if not self.is_in_transaction:
                yield self._begin(), None
                self.is_in_transaction = True
            return 0
        if name in ("commit", "rollback"):
            yield text, None
            self.is_in_transaction = False
            return 0
        if name == "has_tables":
            values = {"name": self._backend.tables}
        if name in _WAITING:
            patience = None if self.is_in_transaction else self._backend._patience(self._deadline)
            values = {**values, "patience": None if patience is None else str(patience)}
        try:
            return (yield text, values)
        except psycopg.errors.SerializationFailure:
            if self.is_in_transaction:
                raise
        except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
            yield from self._explain(error)
            raise
        # Again, without the strict isolation that is somebody's default.
        yield self._begin(), None
        answer = yield text, values
        yield "COMMIT", None
        return answer

    def _explain(self, error: Exception) -> Generator[_Call, Any, None]:
        """Raise SchemaVersionError if the tables are newer than when they were first looked at."""
        yield "ROLLBACK", None
        rows = yield self._backend._texts["version"], None
        try:
            schema.check_version(self._backend.url, rows)
        except SchemaVersionError as newer:
            raise newer from error

    def _begin(self) -> str:
        begin, patience = self._backend._texts["begin"], self._backend._patience(self._deadline)
        return begin if patience is None else f"{begin}; SET LOCAL lock_timeout = {patience}"

    def _cursor(self, values: object) -> Any:
        """Return a cursor that gets values in binary, texts in half the time; a script's answers are none."""
        cursor = self._connection.cursor(binary=bool(values), row_factory=tuple_row)
        if self._backend.has_given_pool:
            cursor.adapters.register_dumper(int, Int8BinaryDumper)
        return cursor

    def _is_prepared(self, values: object) -> bool | None:
        return None if values and not self._backend.is_pooled else False

    def _failed(self, error: psycopg.Error) -> StoreError:
        """Note what an error of the driver means, and return the one to raise."""
        state = error.sqlstate or ""
        if state not in _HARMLESS:
            _finish(self._connection)  # a new one is safer
        if state.startswith(("42", "3F")):
            self._backend.is_ready = False  # the tables may be gone, or newer
        return store_error(error, self._backend.url)

    def _must_roll_back(self) -> bool:
        status = self._connection.pgconn.transaction_status
        return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR) and self._process == os.getpid()


class _Connection(_Lent):
    """One of psycopg's `Connection`."""

    def execute(self, statement: Statement) -> Any:
        """Return the rows of a statement, or the number of rows that it changed."""
        calls = self._calls(statement)
        try:
            call = next(calls)
            while True:
                answer = self._execute(*call)
                call = calls.throw(answer) if isinstance(answer, psycopg.Error) else calls.send(answer)
        except StopIteration as end:
            return end.value
        except psycopg.Error as error:
            raise self._failed(error) from error

    def end(self) -> None:
        """Roll back what was not committed."""
        if self._must_roll_back():
            try:
                self._execute("ROLLBACK", None)
            except psycopg.Error:
                _finish(self._connection)

    def _execute(self, text: str, values: Any) -> Any:
        cursor = self._cursor(values)
        try:
            cursor.execute(text, values, prepare=self._is_prepared(values))
        except _EXPECTED as error:
            return error
        return cursor.fetchall() if _has_rows(cursor) else cursor.rowcount


class _AsyncConnection(_Lent):
    """One of psycopg's `AsyncConnection`."""

    async def execute(self, statement: Statement) -> Any:
        """As that of `_Connection`."""
        calls = self._calls(statement)
        try:
            call = next(calls)
            while True:
                answer = await self._execute(*call)
                call = calls.throw(answer) if isinstance(answer, psycopg.Error) else calls.send(answer)
        except StopIteration as end:
            return end.value
        except psycopg.Error as error:
            raise self._failed(error) from error

    async def end(self) -> None:
        """As that of `_Connection`."""
        if self._must_roll_back():
            try:
                await self._execute("ROLLBACK", None)
            except psycopg.Error:
                _finish(self._connection)

    async def _execute(self, text: str, values: Any) -> Any:
        cursor = self._cursor(values)
        try:
            await cursor.execute(text, values, prepare=self._is_prepared(values))
        except _EXPECTED as error:
            return error
        return (await cursor.fetchall()) if _has_rows(cursor) else cursor.rowcount


def _has_rows(cursor: Any) -> bool:
    return cursor.pgresult is not None and bool(cursor.pgresult.status == ExecStatus.TUPLES_OK)


def _is_lost(connection: Any) -> bool:
    """Look, without a round trip, whether the server has closed a connection since its last use."""
    try:
        # The first reads what the server last said, if it did, and only the second that nothing follows.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.Error:
        return True
    return False


def _is_idle(connection: Any) -> bool:
    return bool(connection.pgconn.transaction_status == TransactionStatus.IDLE)


def _configured(connection: Any) -> Any:
    # Else the types of numbers, and with them the prepared statements, would be others for each magnitude.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    return connection


def _finish(connection: Any) -> None:
    """Close a connection of either kind."""
    connection.pgconn.finish()


async def _until_the_loop_ends(
    loops: dict[asyncio.AbstractEventLoop, Any], pool: Pool[Any]
) -> AsyncGenerator[None, None]:
    """Close a pool when this generator is closed: by `aclose`, or by what `asyncio.run` does at its end."""
    try:
        yield
    finally:
        loop = asyncio.get_running_loop()
        if (found := loops.get(loop)) is not None and found[0] is pool:
            del loops[loop]
        pool.close()


def _close_all(pools: dict[int, Pool[Any]], loops: dict[asyncio.AbstractEventLoop, Any]) -> None:
    """Close what nobody can use any more."""
    for pool in (*pools.values(), *(pool for pool, _ in loops.values())):
        pool.close()


def _close(pools: dict[int, Pool[Any]]) -> None:
    if (pool := pools.pop(os.getpid(), None)) is not None:
        pool.close()
