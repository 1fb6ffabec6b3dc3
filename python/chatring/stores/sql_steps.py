"""What a method of `SQLStore` does, step by step: one code for the sync method and the async one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from chatring._core import TokenCounter
from chatring.stores.appended import Appended, takes_long
from chatring.stores.record import Record
from chatring.stores.sql_database import Access, Cursor, Database

_T = TypeVar("_T")

# How often a change is counted anew, because of other writers, before it is counted within its transaction.
_TRIES = 3


class Run(NamedTuple):
    """A step on the database."""

    access: Access
    work: Callable[[Cursor], Any]

    def do(self, database: Database) -> Any:
        """Return what `work` returns, or the `UncountedError` that it raises."""
        try:
            return database.run(self.access, self.work)
        except UncountedError as uncounted:
            return uncounted

    async def ado(self, database: Database) -> Any:
        """As `do`."""
        try:
            return await database.arun(self.access, self.work)
        except UncountedError as uncounted:
            return uncounted


class Count(NamedTuple):
    """A step that counts."""

    takes_long: bool
    work: Callable[[], Any]

    def do(self, _: Database) -> Any:
        """Return what is counted."""
        return self.work()

    async def ado(self, _: Database) -> Any:
        """As `do`, but in a thread if it takes long."""
        return await asyncio.to_thread(self.work) if self.takes_long else self.work()


Steps = Generator[Run | Count, Any, _T]


def do(database: Database, steps: Steps[_T]) -> _T:
    """Do all steps, and return what they return."""
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result
        answer = step.do(database)


async def ado(database: Database, steps: Steps[_T]) -> _T:
    """As `do`. The event loop waits for none of the steps."""
    if database.dialect == "sqlite":  # whose async driver is a thread as well
        return await asyncio.to_thread(do, database, steps)
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result
        answer = await step.ado(database)


class UncountedError(Exception):
    """A transaction is given up, because what it would count takes long, and others would wait for it.

    Args:
        count: counts it, for the next try.
    """

    def __init__(self, count: Callable[[], object]) -> None:
        super().__init__(count)
        self.count = count


class Counting:
    """Counts what one change appends: what takes long before the transaction, which then finds it counted.

    Args:
        counter: counts the texts.
    """

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._counted: tuple[object, Appended] | None = None
        self._tries = 0

    def after(self, earlier: list[Record], records: list[Record], from_first: bool) -> Appended:
        """Return what records add, as `Appended.after`. Called within the transaction.

        Raises:
            UncountedError: if that must be counted first. Nothing of the transaction will have been done.
        """
        if self._counted is not None and self._counted[0] == (earlier, records, from_first):
            return self._counted[1]
        if self._tries < _TRIES and takes_long(self._counter, earlier, records):
            raise UncountedError(lambda: self.count(earlier, records, from_first))
        return self.count(earlier, records, from_first)

    def count(self, earlier: list[Record], records: list[Record], from_first: bool) -> Appended:
        """Count what the transaction will ask for, unless somebody changes the session before it."""
        self._tries += 1
        appended = Appended.after(self._counter, earlier, records, from_first)
        self._counted = (earlier, records, from_first), appended
        return appended
