"""`StoredItems`: the end of a session that others change meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from chatring.openai_agents.step import Item
from chatring.stores import Store, StoreTimeoutError

# More items than others append between two changes of one writer.
_APPENDED_MEANWHILE = 200
# How often to read the end while others append, before giving up.
_MOST_READS = 100
# More items than any session has.
_ALL = 2**53


class Tail(NamedTuple):
    """The last items of a session, as of one moment."""

    items: list[Item]
    end: int  # the position behind the last one

    @property
    def begin(self) -> int:
        """The position of the first one."""
        return self.end - len(self.items)


class StoredItems:
    """The items of a session, without those that wait: whole steps only.

    Args:
        store: has the session.
        key: the session's.
    """

    def __init__(self, store: Store[Any], key: str) -> None:
        self._store = store
        self._key = key

    async def end(self) -> int:
        """Return the position behind the last item. Unlike the length, it stays when old items are pruned."""
        window = await self._store.awindow(self._key, 1, include_system=False)
        return window.start + len(window) - (window.question is not None)

    async def tail(self, count: int) -> Tail:
        """Return the last items, at most so many.

        Raises:
            StoreTimeoutError: if others append all the time.
        """
        end = await self.end()
        for _ in range(_MOST_READS):
            items = await self._store.alast(self._key, count)
            before, end = end, await self.end()
            if end == before:
                return Tail(items, end)
        raise StoreTimeoutError(f"other writers kept appending to session {self._key!r} while it was read; try again")

    async def update(self, position: int, change: Callable[[list[Item]], list[Item]], last: int = _ALL) -> None:
        """Replace what follows a position, as `Store.update` does; if some of it was pruned, the `last` items."""
        try:
            await self._store.aupdate(self._key, position, change)
        except IndexError:
            await self._store.aupdate(self._key, -last, change)

    async def has(self, items: list[Item], position: int) -> bool:
        """Return whether items are there that one append put at a position, or behind what others appended just then.

        The last of them may have been popped.
        """
        try:
            there = await self._store.aslice(self._key, position, position + len(items) + _APPENDED_MEANWHILE)
        except IndexError:  # they were pruned, so they have been there
            return True
        return has_items(there, items) or (bool(there) and there == items[: len(there)])


def has_items(there: list[Item], items: list[Item]) -> bool:
    """Return whether `there` has these items, one behind the other."""
    return any(there[index : index + len(items)] == items for index in range(len(there)))
