"""`SQLiteBackend`: a file, through the standard library."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import math
import os
import secrets
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from chatring.overriding import override
from chatring.stores.errors import StoreTimeoutError
from chatring.stores.operation import Operation, arun_in_threads, run
from chatring.stores.session import Limits, RowLike
from chatring.stores.sql import schema
from chatring.stores.sql.backend import SQLBackend
from chatring.stores.sql.errors import store_error
from chatring.stores.sql.fork import CALLS, FileConnection, ForkedError, inherited_error
from chatring.stores.sql.sqlite_url import SQLiteUrl
from chatring.stores.sql.statement import Statement, read_statements
from chatring.stores.turns import Turns

_T = TypeVar("_T")

# Bytes that SQLite's write-ahead log keeps after its changes are in the file: twice what it has before that happens.
_LOG_BYTES = 2**23
# Connections that read at the same time.
_READERS = 8
_TIMEOUT = 10.0
# Seconds in which an idle thread begins a call. It must be able to: counting may have taken longer than the timeout.
_SOON = 0.1
_TEXTS = read_statements("queries.sql", "sqlite.sql")
# Texts of several statements, which the driver takes one by one.
_SCRIPTS = {name: text.split(";") for name, text in _TEXTS.items() if ";" in text}


class _Connection:
    """A connection that runs one operation after another.

    Attributes:
        deadline: how long a statement waits for other writers, by `time.monotonic`.
    """

    def __init__(self, driver: sqlite3.Connection, deadline: float) -> None:
        self.driver = driver
        self.deadline = deadline
        self.is_in_transaction = False
        self._process = os.getpid()
        self._waits = -1  # for other writers, in tenths of a second

    def execute(self, statement: Statement) -> Any:
        """Return the rows of a statement, or the number of rows that it changed."""
        try:
            return self._execute(statement)
        except UnicodeDecodeError as error:
            raise _damaged(error) from error

    def _execute(self, statement: Statement) -> Any:
        if os.getpid() != self._process:  # a counter called within a transaction has forked
            raise ForkedError(self._process)
        name, values, many = statement
        if name == "append":
            return self._append(values, many or ())
        if not self.is_in_transaction:
            self.wait_until_deadline()
        elif name == "begin":
            return 0
        elif name in _SCRIPTS:
            for text in _SCRIPTS[name]:
                self.driver.execute(text)
            return 0
        if many is not None:
            return self.driver.executemany(_TEXTS[name], many).rowcount
        cursor = self.driver.execute(_TEXTS[name], values)
        self.is_in_transaction = self.driver.in_transaction
        return cursor.rowcount if cursor.description is None else cursor.fetchall()

    def _append(self, numbers: Mapping[str, Any], rows: Iterable[tuple[Any, ...]]) -> int:
        """Save a session and add rows to it, in a transaction. Return how many rows; 0 if the session has changed."""
        self.execute(Statement("begin"))
        saved = self.execute(Statement("save", numbers))
        if not saved:
            self.execute(Statement("rollback"))
            return 0
        added: int = self.execute(Statement("add", many=[(saved[0][0], *row) for row in rows]))
        self.execute(Statement("commit"))
        return added

    def wait_until_deadline(self) -> None:
        """Make the next statement wait for other writers until the deadline."""
        tenths = max(math.ceil((self.deadline - time.monotonic()) * 10), 0)
        if tenths != self._waits:
            self.driver.execute(f"PRAGMA busy_timeout = {tenths * 100}")
            self._waits = tenths


def _damaged(error: UnicodeDecodeError) -> sqlite3.DatabaseError:
    """Return SQLite's error for a file that says why it is damaged in bytes that Python's driver cannot decode."""
    return sqlite3.DatabaseError(f"database disk image is malformed: {error}")


class _Permit:
    """What a call must have to use a connection."""


class _Pool:
    """A process's connections to a file: a limited number, opened when they are needed and kept."""

    # A signal's handler may raise just when a permit was taken. When nobody holds it anymore, the queue gets its weak
    # reference, which is then as good. A semaphore, which is written in Python, may stay locked for ever.

    def __init__(self, size: int, may_close: bool) -> None:
        self._may_close = may_close  # a database in memory would be lost
        self._idle: deque[_Connection] = deque()
        self._free: SimpleQueue[_Permit | weakref.ref[_Permit]] = SimpleQueue()
        self._issued: set[weakref.ref[_Permit]] = set()
        for _ in range(size):
            self._free.put(self._new_permit())
        self.is_closed = False

    @contextlib.contextmanager
    def connection(self, connect: Callable[[float], _Connection], deadline: float, url: str) -> Iterator[_Connection]:
        try:
            permit = self._free.get(timeout=max(deadline - time.monotonic(), 0))
        except Empty:
            raise StoreTimeoutError(f"{url}: all connections were in use for too long; try again") from None
        if isinstance(permit, weakref.ref):
            self._issued.discard(permit)
            permit = self._new_permit()
        connection = None
        try:
            try:
                connection = self._idle.pop()
                connection.deadline = deadline
            except IndexError:
                connection = connect(deadline)
            yield connection
        except BaseException as error:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.driver.rollback()
                connection.is_in_transaction = False
                # After an error of the database, or something like KeyboardInterrupt, a new connection is safer.
                if self._may_close and (isinstance(error, sqlite3.Error) or not isinstance(error, Exception)):
                    connection.driver.close()
                    connection = None
            raise
        finally:
            if connection is not None:
                if self.is_closed:
                    connection.driver.close()
                else:
                    self._idle.append(connection)
            self._free.put(permit)

    def _new_permit(self) -> _Permit:
        permit = _Permit()
        self._issued.add(weakref.ref(permit, self._free.put))
        return permit

    def close(self) -> None:
        self.is_closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().driver.close()


class SQLiteBackend(SQLBackend):
    """A file of SQLite (3.35 or newer), or a database in memory, `sqlite://`.

    The process has one writer at a time, first come, first served. Reading needs no turn. The statements of async
    methods run in threads of their own, and changes have one thread, so only writers wait for a writer.

    Args:
        url: see `SQLStore`.
        timeout: how long a call waits for other writers and for a connection, in seconds, instead of the URL's.
        pool_size: how many connections read at once, unless the URL says.

    Raises:
        TypeError, ValueError: if the URL is not one of SQLite.
    """

    def __init__(self, url: str, *, timeout: float | None = None, pool_size: int | None = None) -> None:
        self._parsed = SQLiteUrl.parse(url)
        self.url = self._parsed.shown
        self.timeout = timeout or self._parsed.timeout or _TIMEOUT
        self.is_in_memory = self._parsed.file is None
        self._size = 1 if self.is_in_memory else self._parsed.pool_size or pool_size or _READERS
        self.turns = Turns()
        self._process = os.getpid()
        self._pools: dict[int, _Pool] = {}
        self._executors: dict[tuple[int, bool], ThreadPoolExecutor] = {}
        self._calls: Any = contextlib.nullcontext()
        if not self.is_in_memory:
            self._calls = CALLS
            CALLS.add(self)
        # A file that is collected without having been closed would still be open during a fork. And from 3.13 on Python
        # warns of connections that nobody has closed.
        weakref.finalize(self, _close, self._pools, self._calls).atexit = False

    @override
    def run(self, operation: Operation[_T], deadline: float, turn: str | None = None) -> _T:
        return run(operation, lambda: self._lend(deadline, turn))

    @override
    async def arun(self, operation: Operation[_T], deadline: float, turn: str | None = None) -> _T:
        # A change whose call is cancelled may be made a moment later.
        async def in_thread(call: Callable[[], Any]) -> Any:
            # Once it has begun, it runs to its end, whatever happens to its caller; a transaction runs to the
            # transaction's end.
            work = self._submit(turn is not None, call)
            is_late = False

            def give_up() -> None:
                nonlocal is_late
                is_late = work.cancel()  # succeeds if it has not begun

            late = asyncio.get_running_loop().call_later(max(deadline - time.monotonic(), _SOON), give_up)
            try:
                return await asyncio.wrap_future(work)
            except asyncio.CancelledError:
                if is_late:
                    raise StoreTimeoutError(
                        f"{self.url}: other calls of this process took too long; try again"
                    ) from None
                raise
            finally:
                late.cancel()

        return await arun_in_threads(operation, lambda: self._lend(deadline, turn), in_thread)

    @override
    def turn_of(self, key: str) -> str:
        # SQLite makes one change at a time in the whole file.
        return ""

    @override
    def close(self) -> None:
        _close(self._pools, self._calls)
        for changes in (False, True):
            executor = self._executors.pop((os.getpid(), changes), None)
            if executor is not None:
                executor.shutdown(wait=False)

    @override
    async def aclose(self) -> None:
        # The connections of async methods are those of the process; what is in memory stays.
        if not self.is_in_memory:
            await asyncio.to_thread(self.close)

    def backup(self, target: str) -> None:
        """Copy the database to a new file: see `SQLStore`."""
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        # The target's name never has part of a copy.
        part = f"{target}.{secrets.token_hex(4)}.part"
        try:
            with self._lend(time.monotonic() + self.timeout) as lent:
                os.close(os.open(part, os.O_CREAT | os.O_EXCL, 0o600))
                with contextlib.closing(sqlite3.connect(part)) as copy:
                    lent.driver.backup(copy)
            _name(part, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)

    def _append(self, numbers: dict[str, Any], first: int, rows: Sequence[RowLike]) -> Operation[bool]:
        added: int = yield Statement("append", numbers, [(seq, *row) for seq, row in enumerate(rows, first)])
        return added > 0

    def _add(self, session_id: int, first: int, rows: Sequence[RowLike]) -> Operation[None]:
        yield Statement("add", many=[(session_id, seq, *row) for seq, row in enumerate(rows, first)])

    def _limits(self, limits: Limits) -> dict[str, Any]:
        one = limits.blocks[0] if len(limits.blocks) == 1 else None
        blocks = None if one else json.dumps(list(zip(limits.least, limits.blocks, strict=True)))
        return {"room": limits.room, "with_head": limits.includes_head, "block": one, "blocks": blocks}

    @contextlib.contextmanager
    def _lend(self, deadline: float, turn: str | None = None) -> Iterator[_Connection]:
        """Wait for the turn and for a connection."""
        try:
            with self._calls:
                process = os.getpid()
                if self._process != process:
                    self._process = process
                    self.turns.renew()
                pool = self._pools.get(process)
                if pool is None:
                    pool = self._pools.setdefault(process, _Pool(self._size, not self.is_in_memory))
                has_turn = contextlib.nullcontext() if turn is None else self.turns.of(turn, deadline, self.url)
                with has_turn, pool.connection(self._connect, deadline, self.url) as connection:
                    yield connection
        except sqlite3.Error as error:
            if "no such column" in str(error):
                with self._calls, contextlib.suppress(sqlite3.Error):
                    self._connect(deadline).driver.close()  # this raises if the tables are newer by now
            raise store_error(error, self.url, self._parsed.file) from error
        except ForkedError as error:
            raise inherited_error(self.url, *error.args) from None

    def _executor(self, changes: bool) -> ThreadPoolExecutor:
        name = os.getpid(), changes
        executor = self._executors.get(name)
        if executor is None:
            kind = "write" if changes else "read"
            made = ThreadPoolExecutor(1 if changes else self._size, thread_name_prefix=f"chatring-{kind}")
            executor = self._executors.setdefault(name, made)
        return executor

    def _submit(self, changes: bool, call: Callable[[], Any]) -> Future[Any]:
        while True:
            executor = self._executor(changes)
            try:
                return executor.submit(call)
            except RuntimeError:
                if executor is self._executors.get((os.getpid(), changes)):  # the interpreter ends
                    raise
                # Otherwise another thread has closed the store meanwhile.

    def _connect(self, deadline: float) -> _Connection:
        options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "uri": self._parsed.is_uri}
        if self._parsed.file is not None:
            options["factory"] = functools.partial(FileConnection, file=self._parsed.file, url=self.url)
        driver = sqlite3.connect(self._parsed.database, **options)
        connection = _Connection(driver, deadline)
        try:
            self._configure(connection)
            run(schema.made(self.url), lambda: contextlib.nullcontext(connection))
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                driver.rollback()
            driver.close()
            if isinstance(error, UnicodeDecodeError):
                raise _damaged(error) from error
            raise
        return connection

    def _configure(self, connection: _Connection) -> None:
        driver = connection.driver
        while True:
            connection.wait_until_deadline()
            try:
                driver.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "readonly" in str(error):  # the file can still be read
                    break
                # If several connections change it at once, SQLite fails all but one without waiting.
                if "locked" not in str(error) or time.monotonic() >= connection.deadline:
                    raise
                time.sleep(0.01)
        driver.execute(f"PRAGMA synchronous = {self._parsed.synchronous}")
        driver.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        driver.execute("PRAGMA foreign_keys = ON")


def _name(part: str, target: str) -> None:
    """Give a file its name without replacing another file."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise
        os.rename(part, target)


def _close(pools: dict[int, _Pool], calls: Any) -> None:
    with calls:
        pool = pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()
