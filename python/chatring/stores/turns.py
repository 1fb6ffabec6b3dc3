"""`Turns`: writers of one process to one session wait for each other here, not in the database.

Turns only spare writers futile tries: a change is right without one. So a turn that its holder cannot end is not waited
for: one of a task whose loop does not run any more, or is blocked by the very call that wants it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque

from chatring.stores.errors import StoreTimeoutError


class Turns:
    """First come, first served: one writer at a time for each name; threads and tasks of any loop in one queue.

    A writer that waits holds no connection and no thread of an executor, so it is in nobody's way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By name: who has the turn, and behind it who waits.
        self._queues: dict[str, deque[Turn]] = {}

    def renew(self) -> None:
        """Begin anew in a forked process, in which nobody has a turn."""
        self._lock = threading.Lock()
        self._queues = {}

    def of(self, name: str, deadline: float, url: str) -> Turn:
        """Return a context, sync or async, that has the turn meanwhile.

        Args:
            name: what the turn is about.
            deadline: until when to wait for it, by `time.monotonic`.
            url: for the error.

        Raises:
            StoreTimeoutError: when it is entered, if the turn does not come until then.
        """
        return Turn(self, name, deadline, url)

    def join(self, turn: Turn, blocked: asyncio.AbstractEventLoop | None) -> bool:
        """Put a turn into its queue. Return whether it has come, as nobody is before it who can end his own.

        `blocked` is the loop that does not go on meanwhile, if there is one: nobody in it can.
        """
        with self._lock:
            queue = self._queues.setdefault(turn.name, deque())
            while queue and not queue[0].can_end():
                queue.popleft()
            if blocked is not None and any(other.loop is blocked for other in queue):
                return True  # without a place in the queue
            queue.append(turn)
            return queue[0] is turn

    def leave(self, turn: Turn) -> None:
        """End a turn, or wait for it no longer: the next one comes."""
        while True:
            with self._lock:
                queue = self._queues.get(turn.name)
                if queue is None or turn not in queue:
                    return
                was_first = queue[0] is turn
                queue.remove(turn)
                if not queue:
                    del self._queues[turn.name]
                    return
                following = queue[0]
            if not was_first:
                return
            try:
                following.wake()
            except RuntimeError:  # its loop is closed
                turn = following
                continue
            return


class Turn:
    """A writer's turn. See `Turns.of`."""

    def __init__(self, turns: Turns, name: str, deadline: float, url: str) -> None:
        self.name = name
        self.loop: asyncio.AbstractEventLoop | None = None  # of the task that it is of
        self._turns, self._deadline, self._url = turns, deadline, url
        self._came: threading.Event | asyncio.Future[bool] | None = None

    def can_end(self) -> bool:
        """Return whether whoever has it goes on."""
        return self.loop is None or self.loop.is_running()

    def wake(self) -> None:
        """Say that it has come."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._set, True)
        elif isinstance(self._came, threading.Event):
            self._came.set()

    def __enter__(self) -> None:
        came = self._came = threading.Event()
        if self._turns.join(self, _running_loop()):
            return
        try:
            has_come = came.wait(max(self._deadline - time.monotonic(), 0))
        except BaseException:
            self._turns.leave(self)
            raise
        if not has_come:
            self._give_up()

    def __exit__(self, *_: object) -> None:
        self._turns.leave(self)

    async def __aenter__(self) -> None:
        self.loop = asyncio.get_running_loop()
        came = self._came = self.loop.create_future()
        if self._turns.join(self, None):
            return
        timer = self.loop.call_later(max(self._deadline - time.monotonic(), 0), self._set, False)
        try:
            has_come = await came
        except BaseException:
            self._turns.leave(self)
            raise
        finally:
            timer.cancel()
        if not has_come:
            self._give_up()

    async def __aexit__(self, *_: object) -> None:
        self._turns.leave(self)

    def _set(self, came: bool) -> None:
        if isinstance(self._came, asyncio.Future) and not self._came.done():
            self._came.set_result(came)

    def _give_up(self) -> None:
        self._turns.leave(self)
        raise StoreTimeoutError(f"{self._url}: other writers of this process held the session for too long; try again")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, which a sync call blocks."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
