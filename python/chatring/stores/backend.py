"""`Backend`: what a database must be able to do for a `Store`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from chatring.stores.operation import Operation
from chatring.stores.session import Change, Found, Limits, Row, Session
from chatring.stores.turns import Turns

_T = TypeVar("_T")


class Backend(ABC):
    """A database. Its methods are operations: generators that yield the database's statements; see `operation`.

    It stores numbers and bodies, and knows no rules. Which messages may begin a window, and what they cost, is computed
    by the core, the same for all backends.
    """

    url: str
    """The database's, without secrets."""
    is_in_memory: bool = False
    """Whether the sessions are in this process's memory and are lost when it ends."""

    turns: Turns
    """The turns of this process's writers; a forked process gets new ones."""

    @abstractmethod
    def run(self, operation: Operation[_T], deadline: float, turn: str | None = None) -> _T:
        """Run an operation, and return what it returns.

        Args:
            operation: with this backend's statements.
            deadline: until when to wait for the turn, and then for a connection, by `time.monotonic`.
            turn: for a change, what `turn_of` returns.

        Raises:
            StoreError: if the database fails. The driver's error is its cause.
        """

    @abstractmethod
    async def arun(self, operation: Operation[_T], deadline: float, turn: str | None = None) -> _T:
        """Like `run`, without blocking the event loop."""

    @abstractmethod
    def turn_of(self, key: str) -> str:
        """Return what this process's writers take turns for: the session, or the whole file."""

    @abstractmethod
    def read(self, key: str, *, lock: bool = False) -> Operation[Session | None]:
        """Read a session; None if there is none.

        With `lock`, no other writer can change it until `write` or `unlock`, if the database can do that.
        """

    @abstractmethod
    def unlock(self) -> Operation[None]:
        """End a `read` with `lock` without a change."""

    @abstractmethod
    def rows(self, key: str, session: Session, start: int, stop: int) -> Operation[list[tuple[int, Row]]]:
        """Read the messages from the position `start` to the one before `stop`, with their positions, oldest first.

        Negative positions belong to the head. A concurrent change may leave fewer messages; then `write` finds the
        session changed.

        Raises:
            ForeignDataError: if a row was not written by chatring, or some are missing.
        """

    @abstractmethod
    def newest(self, key: str, count: int | None) -> Operation[list[str]]:
        """Read the bodies of the last `count` messages, oldest first, with the head's. None: of all."""

    @abstractmethod
    def write(self, key: str, session: Session | None, change: Change, *, is_locked: bool = False) -> Operation[bool]:
        """Make a change, if the session still has the epoch and the end of `session` (None: if there is none).

        Return whether it was made; if not, nothing was. `is_locked` tells whether `read` has locked the session.
        """

    @abstractmethod
    def window(self, key: str, limits: Limits, falls_to_last: bool) -> Operation[Found | None]:
        """Find a window with one statement. None if there is no such session.

        Args:
            key: the session.
            limits: the limits of the window.
            falls_to_last: what to return if no start is far enough: the last message (LlamaIndex's rule), or the window
                that begins with the newest start.
        """

    @abstractmethod
    def delete(self, key: str, unused_since: float | None = None) -> Operation[bool]:
        """Remove a session, and return whether there was one.

        With `unused_since`, in seconds since 1970, only if it has not changed since.
        """

    @abstractmethod
    def keys(self, prefix: str, after: str | None, limit: int | None) -> Operation[list[str]]:
        """Return at most `limit` keys with `prefix` that come after the key `after`, in the order of their UTF-8."""

    @abstractmethod
    def updated_at(self, key: str) -> Operation[float | None]:
        """Return when a session was last changed, in seconds since 1970; None if there is none."""

    @abstractmethod
    def unused(self, before: float, prefix: str) -> Operation[list[str]]:
        """Return the keys with this prefix whose sessions last changed before a time, in seconds since 1970."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections of `run`. The next call opens new ones."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections that `arun` opened in this event loop."""
