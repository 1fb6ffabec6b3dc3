"""`StoredItems`: the end of a session that others change meanwhile."""

from __future__ import annotations

from typing import Any, NamedTuple

from chatring.openai_agents.step import Item
from chatring.stores import Store

# More items than others append between two changes of one writer.
_APPENDED_MEANWHILE = 200


class Tail(NamedTuple):
    """The last items of a session, as of one moment."""

    items: list[Item]
    end: int  # the position behind the last one
    length: int  # how many items the session had

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
        """Return the last items, at most so many, without those that others append meanwhile."""
        begun = end = await self.end()
        while True:
            length = await self._store.alength(self._key)
            items = await self._store.alast(self._key, count + max(end - begun, 0))
            end, before = await self.end(), end
            if end == before:
                break
        appended = max(end - begun, 0)
        return Tail(items[: len(items) - appended], end - appended, length - appended)

    async def has(self, items: list[Item], position: int) -> bool:
        """Return whether items are there that one append put at a position, or behind what others appended just then.

        The last of them may have been popped.
        """
        try:
            there = await self._store.aslice(self._key, position, position + len(items) + _APPENDED_MEANWHILE)
        except IndexError:  # they were pruned, so they have been there
            return True
        if there and there == items[: len(there)]:
            return True
        return any(there[index : index + len(items)] == items for index in range(len(there)))
