"""`Pool`: a limited number of connections, first come, first served. Who needs a new one opens it; the pool keeps it.

`psycopg_pool` opens connections in its own threads or tasks. While the server is away, its callers wait for the whole
timeout and do not learn why. When the server is back, they wait for the pool's next try, at doubling intervals.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from chatring.overriding import override

_C = TypeVar("_C")

# Connections of the processes that this one was forked from. Freeing them would close them.
_inherited: list[object] = []


class Place(Protocol[_C]):
    """A waiting place: someone who wants a connection."""

    connection: _C | None  # None: to open

    def wake(self) -> None:
        """Say that a connection is there, or may be opened."""


class ThreadPlace(Place[_C]):
    """A thread that wants a connection."""

    def __init__(self) -> None:
        self.connection: _C | None = None
        self._asleep = threading.Lock()

    @override
    def wake(self) -> None:
        self._asleep.release()

    def wait(self, pool: Pool[_C], seconds: float) -> bool:
        """Take a connection of `pool` as `connection`. Return whether there was one in time."""
        self._asleep.acquire()
        if pool.take(self):
            return True
        try:
            came = self._asleep.acquire(timeout=max(seconds, 0))
        except BaseException:
            pool.leave(self)
            raise
        if not came:
            pool.leave(self)
        return came


class TaskPlace(Place[_C]):
    """A task that wants a connection."""

    def __init__(self) -> None:
        self.connection: _C | None = None
        self._came: asyncio.Future[bool] | None = None

    @override
    def wake(self) -> None:
        self._set(True)

    async def wait(self, pool: Pool[_C], seconds: float) -> bool:
        """Take a connection of `pool`, in `connection`. Return whether there was one in time."""
        loop = asyncio.get_running_loop()
        self._came = loop.create_future()
        if pool.take(self):
            return True
        timer = loop.call_later(max(seconds, 0), self._set, False)
        try:
            came = await self._came
        except BaseException:
            pool.leave(self)
            raise
        finally:
            timer.cancel()
        if not came:
            pool.leave(self)
        return came

    def _set(self, came: bool) -> None:
        if self._came is not None and not self._came.done():
            self._came.set_result(came)


class Pool(Generic[_C]):
    """Idle connections, and who waits for one. The pool itself opens none.

    After a fork, the child does not close them either: they belong to the parent, which goes on using them.

    Args:
        size: the most connections.
        close: closes a connection.
    """

    def __init__(self, size: int, close: Callable[[_C], object]) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[_C] = []
        self._unopened = size
        self._close = close
        self._waiting: deque[Place[_C]] = deque()
        self._is_closed = False

    @property
    def is_inherited(self) -> bool:
        """Whether another process made this pool."""
        return self._process != os.getpid()

    def take(self, place: Place[_C]) -> bool:
        """Give `place` the connection that was used last, or None to open one. If there is neither, make it wait."""
        with self._lock:
            if self._idle:
                place.connection = self._idle.pop()
            elif self._unopened:
                self._unopened -= 1
            else:
                self._waiting.append(place)
                return False
            return True

    def leave(self, place: Place[_C]) -> None:
        """Stop waiting."""
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                return
        self.give_back(place.connection)  # one that came at the last moment

    def give_back(self, connection: _C | None) -> None:
        """Take a connection back; None if it was closed. Whoever waits next gets it, or may open a new one."""
        if self.is_inherited:
            _inherited.append(connection)
            return
        with self._lock:
            if self._waiting:
                place = self._waiting.popleft()
                place.connection = connection
                place.wake()
                return
            if connection is not None and not self._is_closed:
                self._idle.append(connection)
                return
            self._unopened += 1
        if connection is not None:
            self._close(connection)

    def close(self) -> None:
        """Close all idle connections. Those in use are closed when they are given back."""
        if self.is_inherited:
            _inherited.append(self._idle)
            return
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            self._unopened += len(idle)
        for connection in idle:
            self._close(connection)
