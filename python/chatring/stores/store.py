"""`Store`: what every store of sessions does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from chatring._core import MessageRing, TokenCounter
from chatring.stores.record import Record, check_counter_name


class Store(ABC):
    """Sessions of records under keys, of which the last ones that fit a token limit can be read alone.

    The async methods are the sync ones with an `a` in front, as in LlamaIndex. Safe to use from many threads; any
    number of stores, in any number of processes, may work on the same data.

    Args:
        counter: counts the texts: an encoding's name, or whatever else `TokenCounter` takes. The async methods call a
            callable in other threads for long texts, so that the event loop goes on.
        counter_name: what a counter that is not one of `TokenCounter.encodings()` is known by. It is stored with each
            session, to tell whether a session was counted with this counter.

    Raises:
        TypeError: if the name is not a str.
        ValueError: if a counter that needs a name has none, or the name is an encoding's, has more than 1,024 bytes of
            UTF-8, a NUL character or a surrogate without a partner.
    """

    def __init__(self, counter: Any = "cl100k_base", counter_name: str | None = None) -> None:
        self.counter = TokenCounter(counter)
        if self.counter.is_native:
            if counter_name not in (None, self.counter.name):
                raise ValueError(f"counter_name is for callables; this counter is known as {self.counter.name!r}")
            counter_name = self.counter.name
        elif counter_name is None or counter_name == "":
            raise ValueError(f"{self.counter!r} needs a counter_name, by which its sessions are known again")
        elif check_counter_name(counter_name) in TokenCounter.encodings():
            raise ValueError(f"counter_name {counter_name!r} is the name of an encoding, which counts otherwise")
        self.counter_name = counter_name

    @property
    def is_in_memory(self) -> bool:
        """Whether the sessions are in this process's memory, and gone when it ends."""
        return False

    @abstractmethod
    def append(self, key: str, records: Iterable[Record]) -> None:
        """Add records to the end of a session, which begins now if there is none: all of them or none.

        Raises:
            TypeError, ValueError: for a key or a record that cannot be stored; nothing is.
            CounterMismatchError: if the session was counted with another counter.
            StoreError: if the store fails.
            Exception: whatever a callable counter raises, unchanged.
        """

    @abstractmethod
    def window(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """Return the last records that fit the token limit, oldest first; empty if there is no such session.

        The same window as `MessageRing.get` of the same history: it begins with the first record, or one whose role is
        neither assistant nor tool; if none of these fits, it is the last record alone. Nothing else is read.

        Args:
            key: the session.
            token_limit: tokens that the window may have, at least 1.
            initial_token_count: tokens spent before the window.

        Raises:
            ValueError: if token_limit is below 1, or initial_token_count exceeds it.
            CounterMismatchError: if the session was counted with another counter.
            StoreError: if the store fails.
        """

    @abstractmethod
    def all(self, key: str) -> list[Record]:
        """Return all records of a session, oldest first; empty if there is no such session."""

    @abstractmethod
    def replace(self, key: str, records: Iterable[Record]) -> None:
        """Put records in the place of all of a session, counted with this store's counter: all or no change."""

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Remove a session. Return whether there was one."""

    @abstractmethod
    def pop(self, key: str, index: int = -1) -> Record:
        """Remove a record and return it. What follows it is counted anew, which takes time in proportion.

        Args:
            key: the session.
            index: the record's place, counted from the newest if negative.

        Raises:
            IndexError: if there is no such record; also if there is no such session.
        """

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the keys of all sessions, in no particular order."""

    @abstractmethod
    def length(self, key: str) -> int:
        """Return the number of records of a session; 0 if there is no such session."""

    @abstractmethod
    def token_count(self, key: str) -> int:
        """Return the tokens of a session: of all texts joined by one space. 0 if there is no such session."""

    @abstractmethod
    def recount(self, key: str) -> None:
        """Count a session anew, with this store's counter, whatever it was counted with."""

    @abstractmethod
    def close(self) -> None:
        """Close connections. The next call opens new ones."""

    @abstractmethod
    async def aappend(self, key: str, records: Iterable[Record]) -> None:
        """As `append`."""

    @abstractmethod
    async def awindow(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As `window`."""

    @abstractmethod
    async def aall(self, key: str) -> list[Record]:
        """As `all`."""

    @abstractmethod
    async def areplace(self, key: str, records: Iterable[Record]) -> None:
        """As `replace`."""

    @abstractmethod
    async def adelete(self, key: str) -> bool:
        """As `delete`."""

    @abstractmethod
    async def apop(self, key: str, index: int = -1) -> Record:
        """As `pop`."""

    @abstractmethod
    async def akeys(self) -> list[str]:
        """As `keys`."""

    @abstractmethod
    async def alength(self, key: str) -> int:
        """As `length`."""

    @abstractmethod
    async def atoken_count(self, key: str) -> int:
        """As `token_count`."""

    @abstractmethod
    async def arecount(self, key: str) -> None:
        """As `recount`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections of the async methods."""


def place_of(index: int, length: int) -> int:
    """Return the place of the record at an index, which counts from the newest if negative.

    Raises:
        IndexError: if a session of this length has no such record.
    """
    place = index + length if index < 0 else index
    if not 0 <= place < length:
        raise IndexError(f"index {index} is out of range for a session of {length} messages")
    return place


def check_limits(token_limit: int, initial_token_count: int) -> int:
    """Return the tokens that a window may have.

    Raises:
        TypeError, ValueError: as `MessageRing.get`, which knows what limits are; but there must be one.
    """
    if token_limit is None or initial_token_count is None:
        name = "token_limit" if token_limit is None else "initial_token_count"
        raise TypeError(f"{name} must be an integer, got None (NoneType)")
    MessageRing[Any](token_limit).get(initial_token_count=initial_token_count)
    return token_limit - initial_token_count
