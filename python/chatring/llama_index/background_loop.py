"""`BackgroundLoop`: an event loop in a thread of its own, for sync calls of async code; and `shielded`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class BackgroundLoop:
    """An event loop that starts at the first call and runs as long as the process.

    All calls run in the same loop. So what a memory block or a store keeps for its loop, such as an HTTP client or a
    connection, still works at the next call, from any thread.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._forget()
        # Set within every call of this loop, including nested threads.
        self._is_inside: contextvars.ContextVar[bool] = contextvars.ContextVar(name, default=False)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Begin without a loop. A forked child does not have the thread that runs it."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def is_inside(self) -> bool:
        """Return whether this code runs within a call of this loop, so that the loop waits for it."""
        return self._is_inside.get() or self._thread is threading.current_thread()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end and return its result. Works from any thread, even one whose own loop runs.

        The coroutine sees the caller's context variables. A call within another one, such as a memory block that calls
        a sync method of its memory, runs in a thread and a loop of its own, because this loop cannot wait for itself.

        Raises:
            BaseException: whatever the coroutine raises, unchanged.
        """
        return self.begin(coroutine).result()

    def begin(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Like `run`, but return at once."""
        done: Future[_T] = Future()
        is_nested = self.is_inside()
        context = contextvars.copy_context()
        context.run(self._is_inside.set, True)
        work = _settle(coroutine, done)
        if is_nested:
            thread = threading.Thread(target=context.run, args=(asyncio.run, work), name=f"{self._name}-nested")
            thread.start()
        else:
            loop = self._running()
            loop.call_soon_threadsafe(_begun, loop, work, context=context)
        return done

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop. SystemExit and KeyboardInterrupt of a task end the call, not the loop."""
    while True:
        with contextlib.suppress(BaseException):
            loop.run_forever()


# One for memory blocks, which are anybody's code; and one for other people's stores, which then never wait for a block.
BLOCKS = BackgroundLoop("memory-blocks")
STORES = BackgroundLoop("memory-stores")

# A loop has only weak references to its tasks.
_GOING_ON: set[asyncio.Task[Any]] = set()


async def shielded(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Await a coroutine that goes on if its caller is cancelled. The cancellation is passed on at once."""
    return await asyncio.shield(_begun(asyncio.get_running_loop(), coroutine))


def _begun(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    task = loop.create_task(coroutine)
    _GOING_ON.add(task)
    task.add_done_callback(_GOING_ON.discard)
    return task


async def _settle(coroutine: Coroutine[Any, Any, _T], done: Future[_T]) -> None:
    """Await a coroutine, and report its result."""
    try:
        done.set_result(await coroutine)
    except BaseException as error:
        done.set_exception(error)
