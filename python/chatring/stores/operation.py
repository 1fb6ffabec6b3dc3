"""How an operation runs: a generator that yields what it waits for and is sent the answers, for sync and async.

It yields statements of its backend, `Work` or a `Pause`. The runner borrows a connection for successive statements. It
returns the connection before anything that may wait, except within a transaction.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

_T = TypeVar("_T")
_logger = logging.getLogger("chatring")

Steps = Generator[Any, Any, _T]
"""An operation: yields statements, `Work` and `Pause`, is sent rows and results, and returns the method's result."""


class Work(NamedTuple):
    """Something to compute."""

    do: Callable[[], Any]
    takes_long: bool  # more than a millisecond or two: not in an event loop's thread
    calls_others: bool = True  # calls the user's code, which may use the same store: not while a connection is held


class Pause(NamedTuple):
    """Time for others to go on."""

    seconds: float

    def do(self) -> None:
        """Wait."""
        time.sleep(self.seconds)


class Connection(Protocol):
    """A connection that one operation has for itself, or a client that many share."""

    is_in_transaction: bool

    def execute(self, statement: Any) -> Any:
        """Return what the database answers. A statement has a `name`."""


class AsyncConnection(Protocol):
    """The async `Connection`."""

    is_in_transaction: bool

    async def execute(self, statement: Any) -> Any:
        """Return what the database answers. A statement has a `name`."""


def run(steps: Steps[_T], lend: Callable[[], AbstractContextManager[Connection]]) -> _T:
    """Take all steps, and return what they return. An error ends them and closes the connection's context."""
    step = _next(steps.send, None)
    while not isinstance(step, _End):
        step = _worked(steps, step) if isinstance(step, (Work, Pause)) else _with_connection(steps, step, lend)
    result: _T = step.value
    return result


async def arun(steps: Steps[_T], lend: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> _T:
    """Async version of `run`. What takes long runs in one of asyncio's threads."""
    step = _next(steps.send, None)
    while not isinstance(step, _End):
        if isinstance(step, (Work, Pause)):
            step = await _aworked(steps, step)
            continue
        async with lend() as connection:
            while not isinstance(step, _End) and (connection.is_in_transaction or not _must_wait(step)):
                if isinstance(step, (Work, Pause)):
                    step = await _aworked(steps, step)
                    continue
                begun = time.perf_counter()
                answer = await connection.execute(step)
                _log(step, begun)
                step = _next(steps.send, answer)
    result: _T = step.value
    return result


async def arun_in_threads(
    steps: Steps[_T],
    lend: Callable[[], AbstractContextManager[Connection]],
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> _T:
    """Like `arun`, for a driver that blocks: `in_thread` runs successive statements, or a transaction."""
    step = _next(steps.send, None)
    while not isinstance(step, _End):
        if isinstance(step, (Work, Pause)):
            step = await _aworked(steps, step)
        else:
            step = await in_thread(partial(_with_connection, steps, step, lend))
    result: _T = step.value
    return result


class _End(NamedTuple):
    """The result of an operation."""

    value: Any


def _next(advance: Callable[[Any], Any], value: Any) -> Any:
    try:
        return advance(value)
    except StopIteration as end:
        return _End(end.value)


def _worked(steps: Steps[Any], step: Work | Pause) -> Any:
    """Do a step that is work, and return the next one. The operation may catch what the work raises."""
    try:
        answer = step.do()
    except Exception as error:
        return _next(steps.throw, error)
    return _next(steps.send, answer)


async def _aworked(steps: Steps[Any], step: Work | Pause) -> Any:
    """Async version of `_worked`."""
    try:
        answer = await _done(step)
    except Exception as error:
        return _next(steps.throw, error)
    return _next(steps.send, answer)


def _must_wait(step: Any) -> bool:
    """Return whether no connection may be held during a step."""
    return isinstance(step, Pause) or (isinstance(step, Work) and (step.takes_long or step.calls_others))


def _with_connection(steps: Steps[Any], step: Any, lend: Callable[[], AbstractContextManager[Connection]]) -> Any:
    """Run the statements from `step` on, and what is done between them. Return the step before which to wait."""
    with lend() as connection:
        while not isinstance(step, _End) and (connection.is_in_transaction or not _must_wait(step)):
            if isinstance(step, (Work, Pause)):
                step = _worked(steps, step)
                continue
            begun = time.perf_counter()
            answer = connection.execute(step)
            _log(step, begun)
            step = _next(steps.send, answer)
    return step


async def _done(step: Work | Pause) -> Any:
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
        return None
    return await asyncio.to_thread(step.do) if step.takes_long else step.do()


def _log(statement: Any, begun: float) -> None:
    # Without values, because they are messages.
    if _logger.isEnabledFor(logging.DEBUG):
        _logger.debug("%s took %.1f ms", statement.name, (time.perf_counter() - begun) * 1000)
