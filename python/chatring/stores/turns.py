"""`Turns`: writers of one process to one session wait for each other here, not in the database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
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
        self._came: asyncio.Future[bool] = self.loop.create_future()

    def wake(self) -> None:
        # If the loop has been closed, `Turns` has nobody to wake: whoever waits in it is gone.
        self.loop.call_soon_threadsafe(self._set, True)

    async def wait(self, seconds: float) -> bool:
        timer = self.loop.call_later(seconds, self._set, False)
        try:
            return await self._came
        finally:
            timer.cancel()

    def _set(self, came: bool) -> None:
        if not self._came.done():
            self._came.set_result(came)


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

    def of(self, name: str, deadline: float, url: str) -> _Turn:
        """Return a context, sync or async, that has the turn meanwhile.

        Args:
            name: what the turn is about.
            deadline: until when to wait for it, by `time.monotonic`.
            url: for the error.

        Raises:
            StoreTimeoutError: when it is entered, if the turn does not come until then.
        """
        return _Turn(self, name, deadline, url)

    def take(self, name: str, kind: Callable[[], _W]) -> _W | None:
        """Take the turn if nobody has it; otherwise return the one who waits for it now."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                self._queues[name] = deque()
                return None
            waiter = kind()
            queue.append(waiter)
            return waiter

    def leave(self, name: str, waiter: _Waiter) -> None:
        """Wait no longer."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is not None and waiter in queue:
                queue.remove(waiter)
                return
        self.pass_on(name)  # the turn came in the last moment

    def pass_on(self, name: str) -> None:
        """Give the turn to the next."""
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


class _Turn:
    def __init__(self, turns: Turns, name: str, deadline: float, url: str) -> None:
        self._turns, self._name, self._deadline, self._url = turns, name, deadline, url

    def __enter__(self) -> None:
        if (thread := self._turns.take(self._name, _Thread)) is not None:
            try:
                came = thread.event.wait(max(self._deadline - time.monotonic(), 0))
            except BaseException:
                self._turns.leave(self._name, thread)
                raise
            if not came:
                self._turns.leave(self._name, thread)
                raise _too_late(self._url)

    def __exit__(self, *_: object) -> None:
        self._turns.pass_on(self._name)

    async def __aenter__(self) -> None:
        if (task := self._turns.take(self._name, _Task)) is not None:
            try:
                came = await task.wait(max(self._deadline - time.monotonic(), 0))
            except BaseException:
                self._turns.leave(self._name, task)
                raise
            if not came:
                self._turns.leave(self._name, task)
                raise _too_late(self._url)

    async def __aexit__(self, *_: object) -> None:
        self._turns.pass_on(self._name)


def _too_late(url: str) -> StoreTimeoutError:
    return StoreTimeoutError(f"{url}: other writers of this process held the session for too long; try again")
