"""`PostgreSQLConnection`: a connection of psycopg while an operation has it, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8BinaryDumper

from chatring.stores.errors import SchemaVersionError, StoreError
from chatring.stores.sql import schema
from chatring.stores.sql.errors import store_error
from chatring.stores.sql.fork import ForkedError
from chatring.stores.sql.statement import Statement

if TYPE_CHECKING:
    from chatring.stores.sql.postgresql import PostgreSQLBackend

# SQLSTATEs that do not harm a connection: another writer was faster, or took too long.
_HARMLESS = ("40001", "40P01", "55P03", "57014")
# Statements that may wait for another writer outside a transaction; they take `patience`, in milliseconds.
_WAITING = ("append", "append_one", "delete")
# Errors that are thrown into the generator.
_EXPECTED = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
)
# A text and its values. Without values it may be several statements.
_Call = tuple[str, Any]


class _Lent:
    """A connection while an operation has it: the common part of both kinds."""

    def __init__(self, backend: PostgreSQLBackend, connection: Any, deadline: float) -> None:
        self.is_in_transaction = False
        self._backend = backend
        self._connection = connection
        self._deadline = deadline
        self._process = os.getpid()

    def _calls(self, statement: Statement) -> Generator[_Call, Any, Any]:
        """Yield what the driver must run, receive its answers, and return the statement's answer."""
        if os.getpid() != self._process:  # a counter called within a transaction has forked
            raise ForkedError(self._process)
        name, values, _ = statement
        text = self._backend.texts[name]
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
            patience = None if self.is_in_transaction else self._backend.patience(self._deadline)
            values = {**values, "patience": None if patience is None else str(patience)}
        try:
            return (yield text, values)
        except psycopg.errors.SerializationFailure:
            if self.is_in_transaction:
                raise
        except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
            yield from self._explain(error)
            raise
        # Again, without the strict isolation that somebody set as default.
        yield self._begin(), None
        answer = yield text, values
        yield "COMMIT", None
        return answer

    def _explain(self, error: Exception) -> Generator[_Call, Any, None]:
        """Raise SchemaVersionError if the tables are newer than they were at the first look."""
        yield "ROLLBACK", None
        rows = yield self._backend.texts["version"], None
        try:
            schema.check_version(self._backend.url, rows)
        except SchemaVersionError as newer:
            raise newer from error

    def _begin(self) -> str:
        begin, patience = self._backend.texts["begin"], self._backend.patience(self._deadline)
        return begin if patience is None else f"{begin}; SET LOCAL lock_timeout = {patience}"

    def _cursor(self, values: object) -> Any:
        """Return a cursor. With values, answers are binary, which halves the time for texts; a script has no values."""
        cursor = self._connection.cursor(binary=bool(values), row_factory=tuple_row)
        if self._backend.has_given_pool:
            cursor.adapters.register_dumper(int, Int8BinaryDumper)
        return cursor

    def _is_prepared(self, values: object) -> bool | None:
        return None if values and not self._backend.is_pooled else False

    def _failed(self, error: psycopg.Error) -> StoreError:
        """Learn from a driver's error, and return the error to raise."""
        state = error.sqlstate or ""
        if state not in _HARMLESS:
            self._connection.pgconn.finish()  # a new one is safer
        if state.startswith(("42", "3F")):
            self._backend.is_ready = False  # the tables may be gone, or newer
        return store_error(error, self._backend.url)

    def _must_roll_back(self) -> bool:
        status = self._connection.pgconn.transaction_status
        return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR) and self._process == os.getpid()


class PostgreSQLConnection(_Lent):
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
                self._connection.pgconn.finish()

    def _execute(self, text: str, values: Any) -> Any:
        cursor = self._cursor(values)
        try:
            cursor.execute(text, values, prepare=self._is_prepared(values))
        except _EXPECTED as error:
            return error
        return cursor.fetchall() if _has_rows(cursor) else cursor.rowcount


class AsyncPostgreSQLConnection(_Lent):
    """One of psycopg's `AsyncConnection`."""

    async def execute(self, statement: Statement) -> Any:
        """Return the rows of a statement, or the number of rows that it changed."""
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
        """Roll back what was not committed."""
        if self._must_roll_back():
            try:
                await self._execute("ROLLBACK", None)
            except psycopg.Error:
                self._connection.pgconn.finish()

    async def _execute(self, text: str, values: Any) -> Any:
        cursor = self._cursor(values)
        try:
            await cursor.execute(text, values, prepare=self._is_prepared(values))
        except _EXPECTED as error:
            return error
        return (await cursor.fetchall()) if _has_rows(cursor) else cursor.rowcount


def _has_rows(cursor: Any) -> bool:
    return cursor.pgresult is not None and bool(cursor.pgresult.status == ExecStatus.TUPLES_OK)
