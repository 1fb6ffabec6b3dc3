"""`Pool`: so many connections at most, first come, first served; each is opened by the one who needs it, and kept.

Not `psycopg_pool`'s, which opens connections in threads or tasks of its own: while the server is away its callers wait
for the whole timeout and are not told why, and when it is back they wait for its next try, at doubling intervals.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

_C = TypeVar("_C")

# Connections of the processes that this one was forked from: to be freed would close them.
_inherited: list[object] = []


class Place(Protocol[_C]):
    """Somebody who wants a connection."""

    connection: _C | None  # None: to open

    def wake(self) -> None:
        """Say that the connection is there, or may be opened."""


class ThreadPlace(Generic[_C]):
    """A thread that wants one."""

    def __init__(self) -> None:
        self.connection: _C | None = None
        self._asleep = threading.Lock()

    def wake(self) -> None:
        """See `Place`."""
        self._asleep.release()

    def wait(self, pool: Pool[_C], seconds: float) -> bool:
        """Take a connection of `pool`, in `connection`. Return whether there was one in time."""
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


class TaskPlace(Generic[_C]):
    """A task that wants one."""

    def __init__(self) -> None:
        self.connection: _C | None = None
        self._came: asyncio.Future[bool] | None = None

    def wake(self) -> None:
        """See `Place`."""
        self._set(True)

    async def wait(self, pool: Pool[_C], seconds: float) -> bool:
        """As that of `ThreadPlace`."""
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
    """Connections that are not in use, and who waits for one. It opens none itself.

    A process that was forked from the one that made it closes none either: they are the parent's, which goes on.

    Args:
        size: how many there may be.
        close: closes one.
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
        """Whether another process made it."""
        return self._process != os.getpid()

    def take(self, place: Place[_C]) -> bool:
        """Give `place` a connection, the last used first, or None to open one; if there is neither, have it wait."""
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
        """Wait no longer."""
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                return
        self.give_back(place.connection)  # it came in the last moment

    def give_back(self, connection: _C | None) -> None:
        """Take a connection back, or with None the place of one that is closed: the next who waits has it."""
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
        """Close the connections; those that are in use when they are given back."""
        if self.is_inherited:
            _inherited.append(self._idle)
            return
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            self._unopened += len(idle)
        for connection in idle:
            self._close(connection)
