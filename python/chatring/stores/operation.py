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

Operation = Generator[Any, Any, _T]
"""Yields statements, `Work` and `Pause`, is sent rows and results, and returns the method's result."""


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


def run(operation: Operation[_T], lend: Callable[[], AbstractContextManager[Connection]]) -> _T:
    """Run an operation, and return what it returns. An error ends it and closes the connection's context."""
    wanted = _next(operation.send, None)
    while not isinstance(wanted, _End):
        if isinstance(wanted, (Work, Pause)):
            wanted = _worked(operation, wanted)
        else:
            wanted = _with_connection(operation, wanted, lend)
    result: _T = wanted.value
    return result


async def arun(operation: Operation[_T], lend: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> _T:
    """Async version of `run`. What takes long runs in one of asyncio's threads."""
    wanted = _next(operation.send, None)
    while not isinstance(wanted, _End):
        if isinstance(wanted, (Work, Pause)):
            wanted = await _aworked(operation, wanted)
            continue
        async with lend() as connection:
            while not isinstance(wanted, _End) and (connection.is_in_transaction or not _must_wait(wanted)):
                if isinstance(wanted, (Work, Pause)):
                    wanted = await _aworked(operation, wanted)
                    continue
                begun = time.perf_counter()
                answer = await connection.execute(wanted)
                _log(wanted, begun)
                wanted = _next(operation.send, answer)
    result: _T = wanted.value
    return result


async def arun_in_threads(
    operation: Operation[_T],
    lend: Callable[[], AbstractContextManager[Connection]],
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> _T:
    """Like `arun`, for a driver that blocks: `in_thread` runs successive statements, or a transaction."""
    wanted = _next(operation.send, None)
    while not isinstance(wanted, _End):
        if isinstance(wanted, (Work, Pause)):
            wanted = await _aworked(operation, wanted)
        else:
            wanted = await in_thread(partial(_with_connection, operation, wanted, lend))
    result: _T = wanted.value
    return result


class _End(NamedTuple):
    """The result of an operation."""

    value: Any


def _next(advance: Callable[[Any], Any], value: Any) -> Any:
    try:
        return advance(value)
    except StopIteration as end:
        return _End(end.value)


def _worked(operation: Operation[Any], wanted: Work | Pause) -> Any:
    """Do work, and return what is wanted next. The operation may catch what the work raises."""
    try:
        answer = wanted.do()
    except Exception as error:
        return _next(operation.throw, error)
    return _next(operation.send, answer)


async def _aworked(operation: Operation[Any], wanted: Work | Pause) -> Any:
    """Async version of `_worked`."""
    try:
        answer = await _done(wanted)
    except Exception as error:
        return _next(operation.throw, error)
    return _next(operation.send, answer)


def _must_wait(wanted: Any) -> bool:
    """Return whether no connection may be held meanwhile."""
    return isinstance(wanted, Pause) or (isinstance(wanted, Work) and (wanted.takes_long or wanted.calls_others))


def _with_connection(
    operation: Operation[Any], wanted: Any, lend: Callable[[], AbstractContextManager[Connection]]
) -> Any:
    """Run the statements from `wanted` on, and what is done between them. Return what no connection may be held for."""
    with lend() as connection:
        while not isinstance(wanted, _End) and (connection.is_in_transaction or not _must_wait(wanted)):
            if isinstance(wanted, (Work, Pause)):
                wanted = _worked(operation, wanted)
                continue
            begun = time.perf_counter()
            answer = connection.execute(wanted)
            _log(wanted, begun)
            wanted = _next(operation.send, answer)
    return wanted


async def _done(wanted: Work | Pause) -> Any:
    if isinstance(wanted, Pause):
        await asyncio.sleep(wanted.seconds)
        return None
    return await asyncio.to_thread(wanted.do) if wanted.takes_long else wanted.do()


def _log(statement: Any, begun: float) -> None:
    # Without values, because they are messages.
    if _logger.isEnabledFor(logging.DEBUG):
        _logger.debug("%s took %.1f ms", statement.name, (time.perf_counter() - begun) * 1000)
