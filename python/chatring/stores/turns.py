"""`Turns`: the writers of one process to one session wait for each other here, not in the database.

Turns only spare writers futile tries; changes are correct without them. So nobody waits for a turn that cannot end:

- of a task whose loop does not run;
- of a task whose loop is blocked by the very call that wants the turn;
- of a call that is gone, because a signal's handler raised just when it took its turn or gave it back.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from typing import NoReturn

from chatring.stores.errors import StoreTimeoutError

# Seconds after which a waiting call looks whether the one ahead of it is gone, which wakes nobody.
_CHECK = 1.0


class Turns:
    """First come, first served: one writer at a time for each name. Threads and tasks of any loop share one queue.

    A waiting writer holds no connection and no thread of an executor, so it is in nobody's way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By name: who has the turn, and behind it, who waits. The calls themselves hold their turns.
        self._queues: dict[str, deque[weakref.ref[Turn]]] = {}

    def renew(self) -> None:
        """Start over in a forked process, where nobody has a turn."""
        self._lock = threading.Lock()
        self._queues = {}

    def of(self, name: str, deadline: float, url: str) -> Turn:
        """Return a context, sync or async, that has the turn meanwhile.

        Args:
            name: what the turn is for.
            deadline: how long to wait for it, by `time.monotonic`.
            url: for the error.

        Raises:
            StoreTimeoutError: on entering, if the turn does not come before the deadline.
        """
        return Turn(self, name, deadline, url)

    def join(self, turn: Turn, blocked: asyncio.AbstractEventLoop | None) -> bool:
        """Add a turn to its queue. Return whether it has come, because nobody ahead of it can still end theirs.

        `blocked` is the loop that stands still meanwhile, if there is one: none of its tasks can.
        """
        with self._lock:
            queue = self._queues.setdefault(turn.name, deque())
            _who_can_end(queue)
            if blocked is not None and any(other.loop is blocked for ref in queue if (other := ref()) is not None):
                return True  # without joining the queue
            queue.append(weakref.ref(turn))
            return queue[0]() is turn

    def has_come(self, turn: Turn) -> bool:
        """Return whether a turn that waits has come, because nobody ahead of it can still end theirs.

        It has also come if somebody else did not wait for it, as its loop did not run for a while.
        """
        with self._lock:
            queue = self._queues.get(turn.name, deque())
            return _who_can_end(queue) is turn or weakref.ref(turn) not in queue

    def leave(self, turn: Turn) -> None:
        """End a turn, or stop waiting for it. The next one comes."""
        while True:
            with self._lock:
                queue = self._queues.get(turn.name)
                place = weakref.ref(turn)
                if queue is None or place not in queue:
                    return
                was_first = queue[0]() is turn
                queue.remove(place)
                following = _first(queue) if was_first else None
                if not queue:
                    del self._queues[turn.name]
            if following is None:
                return
            try:
                following.wake()
            except RuntimeError:  # its loop is closed
                turn = following
                continue
            return


def _first(queue: deque[weakref.ref[Turn]]) -> Turn | None:
    """Remove calls that are gone from the front. Return the first of the others."""
    while queue:
        first = queue[0]()
        if first is not None:
            return first
        queue.popleft()
    return None


def _who_can_end(queue: deque[weakref.ref[Turn]]) -> Turn | None:
    """Remove turns that cannot end from the front. Return the first of the others."""
    while (first := _first(queue)) is not None and not first.can_end():
        queue.popleft()
    return first


class Turn:
    """A writer's turn. See `Turns.of`."""

    def __init__(self, turns: Turns, name: str, deadline: float, url: str) -> None:
        self.name = name
        self.loop: asyncio.AbstractEventLoop | None = None  # of the task that has the turn
        self._turns, self._deadline, self._url = turns, deadline, url
        self._came: threading.Event | asyncio.Future[None] | None = None

    def can_end(self) -> bool:
        """Return whether the holder of the turn still runs."""
        return self.loop is None or self.loop.is_running()

    def wake(self) -> None:
        """Say that the turn has come."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._set)
        elif isinstance(self._came, threading.Event):
            self._came.set()

    def __enter__(self) -> None:
        came = self._came = threading.Event()
        try:
            if self._turns.join(self, _running_loop()):
                return
            while not came.wait(min(max(left := self._deadline - time.monotonic(), 0), _CHECK)):
                if self._turns.has_come(self):
                    return
                if left <= 0:
                    self._give_up()
        except BaseException:
            self._turns.leave(self)
            raise

    def __exit__(self, *_: object) -> None:
        self._turns.leave(self)

    async def __aenter__(self) -> None:
        self.loop = asyncio.get_running_loop()
        try:
            if self._turns.join(self, None):
                return
            while True:
                came = self._came = self.loop.create_future()
                left = self._deadline - time.monotonic()
                timer = self.loop.call_later(min(max(left, 0), _CHECK), self._set)
                try:
                    if self._turns.has_come(self):  # before there was this future
                        return
                    await came
                finally:
                    timer.cancel()
                if self._turns.has_come(self):
                    return
                if left <= 0:
                    self._give_up()
        except BaseException:
            self._turns.leave(self)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._turns.leave(self)

    def _set(self) -> None:
        if isinstance(self._came, asyncio.Future) and not self._came.done():
            self._came.set_result(None)

    def _give_up(self) -> NoReturn:
        raise StoreTimeoutError(f"{self._url}: other writers of this process held the session for too long; try again")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread. A sync call blocks it."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
