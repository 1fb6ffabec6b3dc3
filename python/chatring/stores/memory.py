"""`MemoryStore`: sessions in this process, gone with it."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from chatring._core import MessageRing
from chatring.stores.appended import load
from chatring.stores.record import Record, acheck_records, check_key, check_records
from chatring.stores.store import Store, check_limits, place_of

_T = TypeVar("_T")


class MemoryStore(Store):
    """A store of rings, for tests and for what need not outlive the process. Arguments and errors as in `Store`."""

    def __init__(self, counter: Any = "cl100k_base", counter_name: str | None = None) -> None:
        super().__init__(counter, counter_name)
        self._rings: dict[str, MessageRing[Record]] = {}
        # Held by whatever changes a session, so that nothing is put into one that has just left.
        self._lock = threading.RLock()

    @property
    def is_in_memory(self) -> bool:
        """As in `Store`."""
        return True

    def append(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`."""
        check_key(key)
        if checked := check_records(records):
            with self._lock:
                self._open(key).put_messages(checked)

    def window(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As in `Store`."""
        check_limits(token_limit, initial_token_count)
        ring = self._ring(key)
        # Records never change, so there is nothing to verify.
        return (
            []
            if ring is None
            else ring.get(token_limit=token_limit, initial_token_count=initial_token_count, verify=False)
        )

    def all(self, key: str) -> list[Record]:
        """As in `Store`."""
        ring = self._ring(key)
        return [] if ring is None else ring.get_all()

    def replace(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`."""
        check_key(key)
        checked = check_records(records)
        with self._lock:
            self._open(key).set(checked)

    def delete(self, key: str) -> bool:
        """As in `Store`."""
        with self._lock:
            return self._rings.pop(check_key(key), None) is not None

    def pop(self, key: str, index: int = -1) -> Record:
        """As in `Store`."""
        index = operator.index(index)
        with self._lock:
            ring = self._ring(key) or MessageRing[Record]()
            return ring.delete(place_of(index, len(ring)))

    def keys(self) -> list[str]:
        """As in `Store`."""
        return list(self._rings)

    def length(self, key: str) -> int:
        """As in `Store`."""
        return len(self._ring(key) or ())

    def token_count(self, key: str) -> int:
        """As in `Store`."""
        ring = self._ring(key)
        return 0 if ring is None else ring.token_count()

    def recount(self, key: str) -> None:
        """As in `Store`."""
        if (ring := self._ring(key)) is not None:
            ring.recount()

    def close(self) -> None:
        """Do nothing: there is no connection."""

    # Nothing here waits for anything but counting, which may take long.

    async def aappend(self, key: str, records: Iterable[Record]) -> None:
        """As `append`."""
        self.append(check_key(key), await acheck_records(records))

    async def awindow(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As `window`."""
        return await self._in_thread(self.window, key, token_limit, initial_token_count)

    async def aall(self, key: str) -> list[Record]:
        """As `all`."""
        return self.all(key)

    async def areplace(self, key: str, records: Iterable[Record]) -> None:
        """As `replace`."""
        self.replace(check_key(key), await acheck_records(records))

    async def adelete(self, key: str) -> bool:
        """As `delete`."""
        return self.delete(key)

    async def apop(self, key: str, index: int = -1) -> Record:
        """As `pop`."""
        return self.pop(key, index)

    async def akeys(self) -> list[str]:
        """As `keys`."""
        return self.keys()

    async def alength(self, key: str) -> int:
        """As `length`."""
        return self.length(key)

    async def atoken_count(self, key: str) -> int:
        """As `token_count`."""
        return await self._in_thread(self.token_count, key)

    async def arecount(self, key: str) -> None:
        """As `recount`."""
        await self._in_thread(self.recount, key)

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""

    async def _in_thread(self, method: Callable[..., _T], *arguments: Any) -> _T:
        def work() -> _T:
            load(self.counter)
            return method(*arguments)

        return await asyncio.to_thread(work)

    def _ring(self, key: str) -> MessageRing[Record] | None:
        return self._rings.get(check_key(key))

    def _open(self, key: str) -> MessageRing[Record]:
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = MessageRing(counter=self.counter)
        return ring
