"""How an operation runs: a generator that yields what it waits for and is sent the answers, once for sync and async.

What it yields is a statement of its backend's, `Work`, or a `Pause`. The runner has a connection from the first
statement on, and gives it back at the end, or before it waits for anything else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from typing import Any, NamedTuple, Protocol, TypeVar

_T = TypeVar("_T")
_logger = logging.getLogger("chatring")

Steps = Generator[Any, Any, _T]
"""An operation: yields statements, `Work` and `Pause`, is sent rows and results, and returns what the method
returns."""


class Work(NamedTuple):
    """Something to compute."""

    do: Callable[[], Any]
    takes_long: bool  # more than a millisecond or two: not in an event loop's thread


class Pause(NamedTuple):
    """Time to let others go on."""

    seconds: float

    def do(self) -> None:
        """Wait."""
        time.sleep(self.seconds)


class Connection(Protocol):
    """A connection that an operation has for itself, or a client that many use at once."""

    is_in_transaction: bool

    def execute(self, statement: Any) -> Any:
        """Return what the database answers. A statement has a `name`."""


class AsyncConnection(Protocol):
    """As `Connection`."""

    is_in_transaction: bool

    async def execute(self, statement: Any) -> Any:
        """As in `Connection`."""


def run(steps: Steps[_T], lend: Callable[[], AbstractContextManager[Connection]]) -> _T:
    """Take all steps, and return what they return. An error ends them, and the connection's context."""
    answer: Any = None
    with ExitStack() as lent:
        connection: Connection | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if isinstance(step, (Work, Pause)):
                if connection is not None and not connection.is_in_transaction:
                    lent.close()
                    connection = None
                answer = step.do()
            else:
                if connection is None:
                    connection = lent.enter_context(lend())
                begun = time.perf_counter()
                answer = connection.execute(step)
                _log(step, begun)


async def arun(steps: Steps[_T], lend: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> _T:
    """As `run`; what takes long is done in a thread of asyncio's."""
    answer: Any = None
    async with AsyncExitStack() as lent:
        connection: AsyncConnection | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if isinstance(step, Work) and not step.takes_long:
                answer = step.do()
            elif isinstance(step, (Work, Pause)):
                if connection is not None and not connection.is_in_transaction:
                    await lent.aclose()
                    connection = None
                if isinstance(step, Work):
                    answer = await asyncio.to_thread(step.do)
                else:
                    await asyncio.sleep(step.seconds)
            else:
                if connection is None:
                    connection = await lent.enter_async_context(lend())
                begun = time.perf_counter()
                answer = await connection.execute(step)
                _log(step, begun)


def _log(statement: Any, begun: float) -> None:
    # No values: they are messages.
    if _logger.isEnabledFor(logging.DEBUG):
        _logger.debug("%s took %.1f ms", statement.name, (time.perf_counter() - begun) * 1000)
