"""`PostgreSQLPools`: where a `PostgreSQLBackend` gets its connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper

from chatring.stores.errors import StoreTimeoutError
from chatring.stores.sql.errors import store_error
from chatring.stores.sql.pool import Pool, TaskPlace, ThreadPlace


class PostgreSQLPools:
    """One pool for each process, and one for each event loop, which is closed when the loop ends; or the user's pools.

    Args:
        url: without secrets.
        arguments: of psycopg's `connect`.
        size: the most connections of a pool.
        pool: see `PostgreSQLBackend`.
        async_pool: see `PostgreSQLBackend`.
        password: see `PostgreSQLBackend`.
    """

    def __init__(
        self,
        url: str,
        arguments: dict[str, Any],
        size: int,
        pool: Any,
        async_pool: Any,
        password: Callable[[], str] | None,
    ) -> None:
        self._url, self._arguments, self._size, self._password = url, arguments, size, password
        self._given, self._given_async = pool, async_pool
        # By process: an inherited connection is the parent's, which goes on using it. The child closes none.
        self._pools: dict[int, Pool[Any]] = {}
        # A connection belongs to the loop that opened it. With each pool, the generator that closes it when the loop
        # ends.
        self._loops: dict[asyncio.AbstractEventLoop, tuple[Pool[Any], AsyncGenerator[None, None]]] = {}
        weakref.finalize(self, _close_all, self._pools, self._loops)

    def lend(self, deadline: float) -> AbstractContextManager[Any]:
        """Lend a connection of psycopg to this thread. Wait for one until `deadline`, by `time.monotonic`."""
        return self._own(deadline) if self._given is None else self._borrowed(deadline)

    def alend(self, deadline: float) -> AbstractAsyncContextManager[Any]:
        """Lend a connection to this task; see `lend`."""
        return self._aown(deadline) if self._given_async is None else self._aborrowed(deadline)

    def close(self) -> None:
        """Close the connections of this process's threads."""
        if (pool := self._pools.pop(os.getpid(), None)) is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        if (found := self._loops.pop(asyncio.get_running_loop(), None)) is not None:
            await found[1].aclose()

    def close_loops(self) -> None:
        """Close the pools of another process, and of loops that ended without what `asyncio.run` does at its end."""
        for loop, (pool, _) in list(self._loops.items()):
            if loop.is_closed() or pool.is_inherited:
                self._loops.pop(loop, None)
                pool.close()

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
            raise store_error(error, self._url) from error
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
            raise store_error(error, self._url) from error
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
            raise store_error(error, self._url) from error

    async def _aconnect(self, deadline: float) -> Any:
        arguments = self._connect_arguments(deadline)
        if self._password is not None:
            arguments["password"] = await asyncio.to_thread(self._password)
        try:
            return _configured(await psycopg.AsyncConnection.connect(**arguments))
        except psycopg.Error as error:
            raise store_error(error, self._url) from error

    def _too_late(self) -> StoreTimeoutError:
        return StoreTimeoutError(f"{self._url}: all {self._size} connections were in use for too long; try again")

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
        self.close_loops()
        pool: Pool[Any] = Pool(self._size, _finish)
        guard = _until_the_loop_ends(self._loops, pool)
        self._loops[loop] = pool, guard
        await guard.__anext__()
        return pool


def _is_lost(connection: Any) -> bool:
    """Return, without a round trip, whether the server has closed a connection since its last use."""
    try:
        # The first call reads the server's last words, if any. Only the second sees that nothing follows.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.Error:
        return True
    return False


def _is_idle(connection: Any) -> bool:
    return bool(connection.pgconn.transaction_status == TransactionStatus.IDLE)


def _configured(connection: Any) -> Any:
    # Otherwise numbers of each magnitude would have another type, and with it another prepared statement.
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
