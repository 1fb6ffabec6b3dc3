"""Forks of a process that uses SQLite files: none of its connections may be open meanwhile.

SQLite keeps track of its locks on a file in the memory of the process. A child inherits that memory, but not the
system's locks. So over an inherited open connection it would write unprotected, and the next process that closes the
file would delete what it wrote: https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Protocol

from chatring.stores.errors import StoreError

# How long a fork waits for running calls: as long as such a call waits for another writer, unless its URL says more.
_WAIT_SECONDS = 10


class _Closable(Protocol):
    def close(self) -> None: ...


class _Calls:
    """The calls that use SQLite files, as a context. A fork waits for running calls; other calls wait for the fork."""

    def __init__(self) -> None:
        self._databases: weakref.WeakSet[_Closable] = weakref.WeakSet()
        self._running: dict[int, int] = {}
        self._renew()

    def _renew(self) -> None:
        # Both may be entered twice: a signal handler or a finaliser can interrupt the thread that holds them.
        self._changed = threading.Condition(threading.RLock())
        self._one_fork = threading.RLock()
        self._forker: int | None = None
        self._forks = 0

    def add(self, database: _Closable) -> None:
        """Register a database whose connections are to be closed before each fork."""
        with self._changed:
            self._databases.add(database)

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            # A nested call does not wait, because the fork waits for the outer one.
            while self._forker not in (None, thread) and thread not in self._running:
                self._changed.wait()
            self._running[thread] = self._running.get(thread, 0) + 1

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._running[thread] -= 1
            if not self._running[thread]:
                del self._running[thread]
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait a while for the calls of other threads, and close all connections that are then idle."""
        self._one_fork.acquire()
        deadline = time.monotonic() + _WAIT_SECONDS
        with self._changed:
            self._forker = thread = threading.get_ident()
            self._forks += 1
            while self._running.keys() - {thread} and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            databases = list(self._databases)
        for database in databases:
            database.close()

    def after_fork_in_parent(self) -> None:
        """Let all calls go on."""
        if self._forker == threading.get_ident():  # or the wait for another fork was interrupted
            with self._changed:
                self._forks -= 1
                if not self._forks:  # not within another fork that a signal interrupted
                    self._forker = None
                    self._changed.notify_all()
            self._one_fork.release()

    def after_fork_in_child(self) -> None:
        """Start over. The child has no other threads, and must not close what is still open."""
        thread = threading.get_ident()
        self._running = {thread: self._running[thread]} if thread in self._running else {}
        self._renew()
        for connection in _inherited():
            connection.keep()


CALLS = _Calls()

# All open connections. The references are strong: each is closed before it is forgotten.
_open: dict[int, FileConnection] = {}


def _inherited() -> list[FileConnection]:
    process = os.getpid()
    return [connection for connection in list(_open.values()) if connection.process != process]


class ForkedError(Exception):
    """A forked process continues a transaction of its parent; the argument is the parent's id."""


class FileConnection(sqlite3.Connection):
    """A connection to a file, for the process that opened it.

    Args:
        arguments: of `sqlite3.Connection`.
        file: the path of the file.
        url: of the store, for errors.
        named: of `sqlite3.Connection`.

    Raises:
        StoreError: if this process inherited a connection to the file.
    """

    def __init__(self, *arguments: Any, file: str, url: str, **named: Any) -> None:
        self.file = file
        self.process = os.getpid()
        self._is_kept = False
        for connection in _inherited():
            connection.keep()
            if _are_same(connection.file, file):
                raise inherited_error(url, connection.process)
        _open[id(self)] = self
        try:
            super().__init__(*arguments, **named)
        except BaseException:
            del _open[id(self)]
            raise

    def close(self) -> None:
        """Close the connection, if it is this process's."""
        if self.process == os.getpid():
            super().close()
            _open.pop(id(self), None)

    def rollback(self) -> None:
        """Roll back, if the connection is this process's: otherwise that would change what all processes share."""
        if self.process == os.getpid():
            super().rollback()

    def keep(self) -> None:
        """Never free this connection, which another process opened: freeing it would close it."""
        if not self._is_kept:
            import ctypes

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
            self._is_kept = True


def inherited_error(url: str, parent: int) -> StoreError:
    """Return the error for a process that inherited an open connection."""
    return StoreError(
        f"{url} was in use when process {parent} forked into this one, {os.getpid()}, which therefore cannot use it: "
        "fork while no call is under way, or start processes with 'spawn' or 'forkserver'"
    )


def _are_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is gone, so a new file is not the same one
        return False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=CALLS.before_fork,
        after_in_parent=CALLS.after_fork_in_parent,
        after_in_child=CALLS.after_fork_in_child,
    )
