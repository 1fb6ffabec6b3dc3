"""`PostgreSQLBackend`: a server, through psycopg 3."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from psycopg.sql import Identifier

from chatring.overriding import override
from chatring.stores.errors import StoreError
from chatring.stores.operation import Operation, arun, run
from chatring.stores.session import Limits, RowLike
from chatring.stores.sql import schema
from chatring.stores.sql.backend import ALL, SQLBackend
from chatring.stores.sql.fork import ForkedError, inherited_error
from chatring.stores.sql.postgresql_connection import AsyncPostgreSQLConnection, PostgreSQLConnection
from chatring.stores.sql.postgresql_pools import PostgreSQLPools
from chatring.stores.sql.postgresql_url import LONGEST, PostgreSQLUrl
from chatring.stores.sql.statement import Statement, read_statements
from chatring.stores.turns import Turns

_T = TypeVar("_T")

# Bytes of messages that go to the server at once; it takes 1 GiB at most. And bytes of a message apart from its body.
_PART_BYTES = 2**26
_ROW_BYTES = 64
_POOL_SIZE = 15
_TIMEOUT = 10.0
# More tokens than any session has, and few enough that sums with it fit into 64 bits.
_LARGEST_ROOM = 2**60
# Seconds that a call may have waited before its connection's own `lock_timeout` is too long for it.
_SOON = 0.1
# The last ASCII character of a prefix, DEL excepted.
_LAST_ASCII = re.compile(r"[\x00-\x7e](?=[^\x00-\x7e]*\Z)")
_LINES = re.compile(r"\s*\n\s*")


class PostgreSQLBackend(SQLBackend):
    """A PostgreSQL database, or one that speaks its protocol.

    Connections are opened when they are needed, and kept: one pool for each process, and one for each event loop, which
    is closed when the loop ends.

    Args:
        url: see `SQLStore`.
        timeout: how long a call waits for other writers and for a connection, in seconds, unless the URL says.
        pool_size: the most connections of a pool, unless the URL says.
        schema: the schema with the tables; None for the URL's, or the first of the search path.
        pool: a `psycopg_pool.ConnectionPool` for `run` to use instead. It is never closed.
        async_pool: a `psycopg_pool.AsyncConnectionPool` for `arun`.
        password: returns the password for each new connection.

    Raises:
        TypeError, ValueError: if the URL is not one of PostgreSQL.
    """

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
        self._schema = self._parsed.schema if schema is None else schema
        if self._schema is not None and (not self._schema or set(self._schema) & set("%\\\0")):
            raise ValueError(f"schema must be a name without %, backslashes and NUL characters, got {self._schema!r}")
        quoted = None if self._schema is None else Identifier(self._schema).as_string(None)
        self.tables = f"{quoted}.chatring_schema" if quoted else "chatring_schema"
        texts = read_statements("queries.sql", "postgresql.sql", value=r"%(\1)b", schema=quoted)
        # On one line each: psycopg caches its parse of texts below 4,096 characters.
        self.texts = {name: _LINES.sub(" ", text) for name, text in texts.items()}
        self.has_given_pool = pool is not None or async_pool is not None
        size = pool_size or self._parsed.pool_size or _POOL_SIZE
        arguments = self._parsed.arguments(self.timeout)
        self._pools = PostgreSQLPools(self.url, arguments, size, pool, async_pool, password)
        self._process = os.getpid()
        # Whether the tables are known to exist.
        self.is_ready = False
        # Whether a pooler passes each transaction to any free connection of PostgreSQL.
        self.is_pooled = False

    @override
    def run(self, operation: Operation[_T], deadline: float, turn: str | None = None) -> _T:
        self._check_process()
        deadline = min(deadline, time.monotonic() + LONGEST)
        try:
            return run(operation, lambda: self._lend(deadline, turn))
        except ForkedError as error:
            raise inherited_error(self.url, *error.args) from None

    @override
    async def arun(self, operation: Operation[_T], deadline: float, turn: str | None = None) -> _T:
        self._check_process()
        deadline = min(deadline, time.monotonic() + LONGEST)
        try:
            return await arun(operation, lambda: self._alend(deadline, turn))
        except ForkedError as error:
            raise inherited_error(self.url, *error.args) from None

    @override
    def turn_of(self, key: str) -> str:
        return key

    @override
    def close(self) -> None:
        self._pools.close()

    @override
    async def aclose(self) -> None:
        await self._pools.aclose()

    def patience(self, deadline: float) -> int | None:
        """Return how long a statement may wait for another writer, in milliseconds; None if its connection knows."""
        left = deadline - time.monotonic()
        is_told = self._parsed.startup_options and not self.has_given_pool
        if is_told and (left >= self.timeout - _SOON or self._parsed.has_lock_timeout):
            return None
        return max(round(min(left, LONGEST) * 1000), 1)

    @override
    def keys(self, prefix: str, after: str | None, limit: int | None) -> Operation[list[str]]:
        # A range of the index.
        values = {"prefix": prefix, "after": after, "count": ALL if limit is None else limit}
        # In any encoding of a database, ASCII characters are in this order and come before all others.
        last = _LAST_ASCII.search(prefix)
        if last is None:
            rows = yield Statement("keys", values)
        else:
            until = prefix[: last.start()] + chr(ord(last[0]) + 1)
            rows = yield Statement("keys_until", {**values, "until": until})
        return [key for (key,) in rows]

    def _limits(self, limits: Limits) -> dict[str, Any]:
        # No block is larger than the room, except for rounding.
        return {
            "room": min(limits.room, _LARGEST_ROOM),
            "with_head": limits.includes_head,
            "least": [min(least, _LARGEST_ROOM) for least in limits.least],
            "blocks": [min(block, _LARGEST_ROOM) for block in limits.blocks],
        }

    def _append(self, numbers: dict[str, Any], first: int, rows: Sequence[RowLike]) -> Operation[bool]:
        if len(rows) == 1:
            kind, tokens, before, question, body = rows[0]
            row = {"seq": first, "kind": kind, "tokens": tokens, "before": before, "asks": question, "body": body}
            added: int = yield Statement("append_one", {**numbers, **row})
            return added > 0
        added = yield Statement("append", {**numbers, **_columns(first, rows)})
        return added > 0

    def _fits(self, rows: Sequence[RowLike]) -> bool:
        return len(_parts(rows)) == 1

    def _add(self, session_id: int, first: int, rows: Sequence[RowLike]) -> Operation[None]:
        for part in _parts(rows):
            yield Statement("add_many", {"id": session_id, **_columns(first, part)})
            first += len(part)

    def _prepare(self, connection: Any) -> Operation[None]:
        """Look for the tables, and for a pooler.

        Raises:
            StoreError: if the tables are in another schema than the one where new tables would go.
        """
        ((found, current, process),) = yield Statement("where", {"name": self.tables})
        # The pooler's process number is not the server's.
        if process != connection.pgconn.backend_pid and not self._parsed.prepare:
            self.is_pooled = True
        if self._schema is None and found not in (None, current):
            raise StoreError(
                f"{self.url} has chatring's tables in schema {found!r}, but the first schema of its search_path is "
                f"{current!r}; add ?schema={found} to use these, or ?schema={current} to have others there"
            )
        yield from schema.made(self.url)
        self.is_ready = True

    @contextlib.contextmanager
    def _lend(self, deadline: float, turn: str | None) -> Iterator[PostgreSQLConnection]:
        with (
            # Measured from the first statement on: time spent counting holds no turn.
            nullcontext() if turn is None else self.turns.of(turn, deadline, self.url),
            self._pools.lend(deadline) as connection,
        ):
            lent = PostgreSQLConnection(self, connection, deadline)
            try:
                if not self.is_ready:
                    run(self._prepare(connection), lambda: nullcontext(lent))
                yield lent
            finally:
                lent.end()

    @contextlib.asynccontextmanager
    async def _alend(self, deadline: float, turn: str | None) -> AsyncIterator[AsyncPostgreSQLConnection]:
        async with (
            nullcontext() if turn is None else self.turns.of(turn, deadline, self.url),
            self._pools.alend(deadline) as connection,
        ):
            lent = AsyncPostgreSQLConnection(self, connection, deadline)
            try:
                if not self.is_ready:
                    await arun(self._prepare(connection), lambda: nullcontext(lent))
                yield lent
            finally:
                await lent.end()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            self.turns.renew()
            self._pools.close_loops()


def _parts(rows: Sequence[RowLike]) -> list[Sequence[RowLike]]:
    """Return rows in parts of about `_PART_BYTES`; a larger row is a part of its own."""
    if sum([len(row[-1]) for row in rows]) + _ROW_BYTES * len(rows) <= _PART_BYTES:
        return [rows]
    parts: list[Sequence[RowLike]] = []
    first = size = 0
    for at, row in enumerate(rows):
        added = _ROW_BYTES + len(row[-1])
        if size and size + added > _PART_BYTES:
            parts.append(rows[first:at])
            first, size = at, 0
        size += added
    return [*parts, rows[first:]]


def _columns(first: int, rows: Sequence[RowLike]) -> dict[str, list[Any]]:
    columns = zip(("kinds", "tokens", "befores", "questions", "bodies"), zip(*rows, strict=True), strict=True)
    return {"seqs": list(range(first, first + len(rows))), **{name: list(values) for name, values in columns}}
