"""`Turns`: writers of one process to one session wait for each other here, not in the database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

from chatring.stores.errors import StoreTimeoutError


class _Waiter(Protocol):
    def wake(self) -> None: ...


_W = TypeVar("_W", bound=_Waiter)


class _Thread:
    def __init__(self) -> None:
        self.event = threading.Event()

    def wake(self) -> None:
        self.event.set()


class _Task:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> None:
        def wake() -> None:
            if not self.future.done():
                self.future.set_result(None)

        # If the loop has been closed, `Turns` has nobody to wake: whoever waits in it is gone.
        self.loop.call_soon_threadsafe(wake)


class Turns:
    """First come, first served: one writer at a time for each name; threads and tasks of any loop in one queue.

    A writer that waits holds no connection and no thread of an executor, so it is in nobody's way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By name: who waits. A name that is here is taken.
        self._queues: dict[str, deque[_Waiter]] = {}

    def renew(self) -> None:
        """Begin anew in a forked process, in which nobody has a turn."""
        self._lock = threading.Lock()
        self._queues = {}

    @contextmanager
    def of(self, name: str, deadline: float, url: str) -> Iterator[None]:
        """Wait for the turn, and have it meanwhile.

        Args:
            name: what the turn is about.
            deadline: until when to wait, by `time.monotonic`.
            url: for the error.

        Raises:
            StoreTimeoutError: if it does not come until then.
        """
        if (thread := self._waiting(name, _Thread)) is not None:
            try:
                came = thread.event.wait(max(deadline - time.monotonic(), 0))
            except BaseException:
                self._leave(name, thread)
                raise
            if not came:
                self._leave(name, thread)
                raise _too_late(url)
        try:
            yield
        finally:
            self._pass_on(name)

    @asynccontextmanager
    async def aof(self, name: str, deadline: float, url: str) -> AsyncIterator[None]:
        """As `of`, for a task."""
        if (task := self._waiting(name, _Task)) is not None:
            try:
                await asyncio.wait_for(task.future, max(deadline - time.monotonic(), 0))
            except BaseException as error:
                self._leave(name, task)
                if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
                    raise _too_late(url) from None
                raise
        try:
            yield
        finally:
            self._pass_on(name)

    def _waiting(self, name: str, kind: Callable[[], _W]) -> _W | None:
        """Take the turn if nobody has it; otherwise return who waits for it now."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                self._queues[name] = deque()
                return None
            waiter = kind()
            queue.append(waiter)
            return waiter

    def _leave(self, name: str, waiter: _Waiter) -> None:
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None and waiter in queue:
                queue.remove(waiter)
                return
        self._pass_on(name)  # the turn came in the last moment

    def _pass_on(self, name: str) -> None:
        while True:
            with self._lock:
                queue = self._queues.get(name)
                if queue is None:
                    return
                if not queue:
                    del self._queues[name]
                    return
                waiter = queue.popleft()
            try:
                waiter.wake()
            except RuntimeError:  # its loop is closed
                continue
            return


def _too_late(url: str) -> StoreTimeoutError:
    return StoreTimeoutError(f"{url}: other writers of this process held the session for too long; try again")
