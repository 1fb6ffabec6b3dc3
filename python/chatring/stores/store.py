"""`Store`: sessions of messages in a database, whose windows are read without the rest. All public methods."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, Literal, TypeVar

from chatring.formats.format import Format
from chatring.stores.backend import Backend
from chatring.stores.errors import ForeignDataError
from chatring.stores.measuring import Measuring, listed
from chatring.stores.names import check_key
from chatring.stores.operation import Operation
from chatring.stores.session import Info, Pruned
from chatring.stores.sessions import Sessions
from chatring.window import Window

_M = TypeVar("_M")
_T = TypeVar("_T")

# What is given for each window, and not to the store.
_OF_WINDOW = ("token_limit", "initial_token_count", "include_system", "retention_ratio")
# The most seconds that a call can wait.
_LONGEST = 1_000_000


class Store(Generic[_M]):
    """Sessions of messages under keys. `open_store` makes one from a URL.

    The async methods are the sync ones with an `a` in front. A store is safe to use from many threads and event loops.
    Any number of stores, in any number of processes, may work on the same data. A change is made as a whole or not at
    all, even if its async call is cancelled.

    A key is a str of at most 1,024 bytes of UTF-8. In addition to what its docstring says, each method raises TypeError
    or ValueError for an invalid key, and StoreError if the database fails.

    Args:
        backend: the database.
        counter: counts the texts: an encoding's name, or whatever else `TokenCounter` takes.
        measure: what a message's tokens are: `"message"`, `"text"` or a callable; see `MessageRing`.
        start_on: what a window may begin with: `"user"` or None; see `MessageRing`. The default is None with
            `measure="text"`, which allows nothing else.
        format: how messages are stored and read. None: any JSON message, by its shape. A provider's name: the same, but
            a plain role and content costs what this provider adds. Or a `chatring.formats.Format`.
        counter_name: identifies a callable counter. It is stored with each session.
        measure_name: identifies a callable measure.
        timeout: how long a call waits for other writers and for a connection, in seconds.

    Raises:
        TypeError, ValueError: whenever `MessageRing` raises them. Also for a callable without a name, for an invalid
            name, and for an unknown option.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        counter: Any = "o200k_base",
        measure: Any = "message",
        start_on: Literal["user"] | ellipsis | None = ...,  # noqa: F821
        format: Any = None,  # noqa: A002 (the word for it)
        counter_name: str | None = None,
        measure_name: str | None = None,
        timeout: float = 10.0,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            hint = ": it is an argument of `window`" if name in _OF_WINDOW else ""
            raise TypeError(f"a {type(self).__name__} has no option {name!r}{hint}")
        measuring = Measuring(counter, measure, start_on, format, counter_name, measure_name)
        self.counter = measuring.counter
        self.measure = measuring.measure
        self.start_on = measuring.start_on
        self.format = format
        self.policy_name = measuring.name
        self.timeout = check_timeout(timeout)
        self._measuring = measuring
        self._backend = backend
        self._sessions = Sessions(backend, measuring, self.timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self.policy_name!r})"

    @property
    def url(self) -> str:
        """The database's URL, without its secrets."""
        return self._backend.url

    @property
    def _message_format(self) -> Format[_M]:
        """The format that reads, dumps and loads the messages: the one that was given, or the one for JSON."""
        return self._measuring.format

    @property
    def is_in_memory(self) -> bool:
        """Whether the sessions are in this process's memory and are lost when it ends."""
        return self._backend.is_in_memory

    # Every method, and its async version.

    def append(self, key: str, messages: Iterable[_M]) -> None:
        """Add messages to the end of a session: all of them or none. If there is no such session, it begins now.

        Raises:
            TypeError, ValueError: for a message that cannot be read or stored. Then nothing is stored.
            CounterMismatchError: if the session was counted by another policy.
            Exception: whatever a callable counter, measure or format raises, unchanged.
        """
        self._run(self._sessions.append(check_key(key), listed(messages)), key)

    async def aappend(self, key: str, messages: Iterable[_M]) -> None:
        """Async version of `append`."""
        await self._arun(self._sessions.append(check_key(key), listed(messages)), key)

    def window(
        self,
        key: str,
        token_limit: int,
        initial_token_count: int = 0,
        *,
        include_system: bool | None = None,
        retention_ratio: float = 1.0,
    ) -> Window[_M]:
        """Return the messages that go into the next call: what `MessageRing.window` returns for the same history.

        One statement reads it, and nothing else is read. Empty if there is no such session.

        Args:
            key: the session.
            token_limit: the most tokens that the window and what is sent beside it may have; at least 1.
            initial_token_count: tokens of what is sent beside the window, such as tools. A negative number is room
                beyond the limit.
            include_system: whether the leading system messages are in it. By default they are, except with
                `measure="text"`.
            retention_ratio: from 0 to 1: when something must be left out, the share of the limit that is kept.

        Raises:
            ValueError: see `MessageRing.window`.
            CounterMismatchError: if the session was counted by another policy.
        """
        return self._run(self._sessions.window(key, token_limit, initial_token_count, include_system, retention_ratio))

    async def awindow(
        self,
        key: str,
        token_limit: int,
        initial_token_count: int = 0,
        *,
        include_system: bool | None = None,
        retention_ratio: float = 1.0,
    ) -> Window[_M]:
        """Async version of `window`."""
        return await self._arun(
            self._sessions.window(key, token_limit, initial_token_count, include_system, retention_ratio)
        )

    def all(self, key: str) -> list[_M]:
        """Return all messages of a session, oldest first; empty if there is no such session."""
        return self._run(self._sessions.all(check_key(key)))

    async def aall(self, key: str) -> list[_M]:
        """Async version of `all`."""
        return await self._arun(self._sessions.all(check_key(key)))

    def last(self, key: str, n: int) -> list[_M]:
        """Return the last `n` messages of a session, oldest first; all if it has fewer. Only these are read.

        Raises:
            ValueError: if `n` is negative.
        """
        return self._run(self._sessions.last(check_key(key), n))

    async def alast(self, key: str, n: int) -> list[_M]:
        """Async version of `last`."""
        return await self._arun(self._sessions.last(check_key(key), n))

    def slice(self, key: str, start: int, stop: int) -> list[_M]:
        """Return the messages at the positions from `start` to the one before `stop`, as far as they exist.

        Positions are counted from the first message ever put, like those of a `Window`. If `done` is the `start` of an
        earlier window, `store.slice(key, done, window.start)` is what has left the window since.

        Raises:
            IndexError: if one of them was trimmed.
            ValueError: if a position is negative.
        """
        return self._run(self._sessions.slice(check_key(key), start, stop))

    async def aslice(self, key: str, start: int, stop: int) -> list[_M]:
        """Async version of `slice`."""
        return await self._arun(self._sessions.slice(check_key(key), start, stop))

    def replace(self, key: str, messages: Iterable[_M]) -> None:
        """Replace all messages of a session, and count them by this store's policy: all of it happens, or nothing."""
        self._run(self._sessions.replace(check_key(key), listed(messages)), key)

    async def areplace(self, key: str, messages: Iterable[_M]) -> None:
        """Async version of `replace`."""
        await self._arun(self._sessions.replace(check_key(key), listed(messages)), key)

    def update(self, key: str, start: int, change: Callable[[list[_M]], Iterable[_M]]) -> list[_M]:
        """Replace the end of a session by what a function makes of it, in one change.

        Between the reading and the change no other writer can change the session. So this is how to append something
        unless it is there already, or to edit the newest messages:

            store.update(key, -20, lambda last: last if answer in last else [*last, answer])

        Messages that the function returns as it got them, the same objects from the first one on, stay as they are; the
        others are removed, and what it returns in their place is counted and appended. If that is nothing, nothing is
        changed. If a message of the head is among the others, positions begin anew, as after `replace`.

        Args:
            key: the session.
            start: which messages to hand to the function: those from this position on, see `slice`. A negative number:
                so many of the last messages, or all if there are fewer.
            change: is called with a list of these messages, oldest first, and returns those to have in their place. It
                may be called again if another writer was faster, so all that it may do is compute: it must not
                change the messages themselves, nor use the store. The last call counts.

        Returns:
            What the function returned.

        Raises:
            IndexError: if a message from the position on was trimmed.
            TypeError, ValueError: for a message that cannot be read or stored. Then nothing is changed.
            CounterMismatchError: if the session was counted by another policy.
            StoreTimeoutError: if other writers were faster all the time.
            Exception: whatever the function raises, unchanged. Then nothing is changed.
        """
        updated: list[_M] = self._run(self._sessions.update(check_key(key), start, change), key)
        return updated

    async def aupdate(self, key: str, start: int, change: Callable[[list[_M]], Iterable[_M]]) -> list[_M]:
        """Async version of `update`. The function is not awaited; it may be called in another thread."""
        updated: list[_M] = await self._arun(self._sessions.update(check_key(key), start, change), key)
        return updated

    def set_head(self, key: str, messages: Iterable[_M]) -> None:
        """Replace the leading system messages of a session, in one change, and leave the others alone.

        Raises:
            ValueError: if one is not a system or developer message, or with `measure="text"`; nothing is changed then.
            TypeError, CounterMismatchError: see `append`.
        """
        self._run(self._sessions.set_head(check_key(key), listed(messages)), key)

    async def aset_head(self, key: str, messages: Iterable[_M]) -> None:
        """Async version of `set_head`."""
        await self._arun(self._sessions.set_head(check_key(key), listed(messages)), key)

    def pop(self, key: str, index: int = -1) -> _M:
        """Remove a message and return it. If you remove a call, remove its results too.

        What follows it is stored again, which takes time in proportion. The positions behind it are one less.

        Args:
            key: the session.
            index: the message's number in the session, counted from the newest if negative.

        Raises:
            IndexError: if there is no such message, or no such session.
            CounterMismatchError: if the session was counted by another policy.
        """
        popped: _M = self._run(self._sessions.pop(check_key(key), index), key)
        return popped

    async def apop(self, key: str, index: int = -1) -> _M:
        """Async version of `pop`."""
        return await self._arun(self._sessions.pop(check_key(key), index), key)

    def trim(self, key: str, before: int) -> int:
        """Remove the oldest messages, and return how many.

        Windows stay the same as far as their messages are left. For that, only whole turns go: what stays begins with
        the newest start, at or before the position `before`, that carries no question, such as a user message. The
        leading system messages stay.

        Args:
            key: the session.
            before: a position; see `slice`.

        Raises:
            ValueError: if the position is negative.
            CounterMismatchError: if the session was counted by another policy.
        """
        return self._run(self._sessions.trim(check_key(key), before), key)

    async def atrim(self, key: str, before: int) -> int:
        """Async version of `trim`."""
        return await self._arun(self._sessions.trim(check_key(key), before), key)

    def delete(self, key: str) -> bool:
        """Remove a session. Return whether there was one."""
        return self._run(self._sessions.delete(check_key(key)), key)

    async def adelete(self, key: str) -> bool:
        """Async version of `delete`."""
        return await self._arun(self._sessions.delete(check_key(key)), key)

    def recount(self, key: str) -> None:
        """Count a session again by this store's policy, whatever policy counted it."""
        self._run(self._sessions.recount(check_key(key)), key)

    async def arecount(self, key: str) -> None:
        """Async version of `recount`."""
        await self._arun(self._sessions.recount(check_key(key)), key)

    def info(self, key: str) -> Info | None:
        """Return what is known of a session without its messages, whatever its policy; None if it does not exist."""
        return self._run(self._sessions.info(check_key(key)))

    async def ainfo(self, key: str) -> Info | None:
        """Async version of `info`."""
        return await self._arun(self._sessions.info(check_key(key)))

    def exists(self, key: str) -> bool:
        """Return whether a session exists."""
        return self._run(self._sessions.exists(check_key(key)))

    async def aexists(self, key: str) -> bool:
        """Async version of `exists`."""
        return await self._arun(self._sessions.exists(check_key(key)))

    def length(self, key: str) -> int:
        """Return the number of messages of a session; 0 if there is no such session."""
        return self._run(self._sessions.length(check_key(key)))

    async def alength(self, key: str) -> int:
        """Async version of `length`."""
        return await self._arun(self._sessions.length(check_key(key)))

    def token_count(self, key: str) -> int:
        """Return the tokens of all messages of a session; 0 if there is no such session.

        Raises:
            CounterMismatchError: if the session was counted by another policy.
        """
        return self._run(self._sessions.token_count(check_key(key)))

    async def atoken_count(self, key: str) -> int:
        """Async version of `token_count`."""
        return await self._arun(self._sessions.token_count(check_key(key)))

    def updated_at(self, key: str) -> float | None:
        """Return when a session was last changed: seconds since 1970, by its writer's clock. None if there is none."""
        return self._run(self._backend.updated_at(check_key(key)))

    async def aupdated_at(self, key: str) -> float | None:
        """Async version of `updated_at`."""
        return await self._arun(self._backend.updated_at(check_key(key)))

    def keys(self, prefix: str = "", after: str | None = None, limit: int | None = None) -> list[str]:
        """Return keys of sessions, in the order of their UTF-8.

        Args:
            prefix: what the keys begin with.
            after: the last key of the previous page; None for the first page.
            limit: the most keys to return; None for all.

        Raises:
            ValueError: if `limit` is below 1.
        """
        return self._run(self._sessions.keys(prefix, after, limit))

    async def akeys(self, prefix: str = "", after: str | None = None, limit: int | None = None) -> list[str]:
        """Async version of `keys`."""
        return await self._arun(self._sessions.keys(prefix, after, limit))

    def prune(
        self,
        *,
        unused_for: float | None = None,
        max_messages: int | None = None,
        max_tokens: int | None = None,
        prefix: str = "",
    ) -> Pruned:
        """Remove sessions that are no longer used, and the oldest messages of sessions that have become too long.

        Each session takes one change of its own, and no session is removed that changed meanwhile. So it can run now
        and then beside servers. Sessions of another policy are not trimmed. Damaged ones are left alone, and counted.

        Args:
            unused_for: remove sessions that have not changed for this many seconds.
            max_messages: trim sessions to this many messages behind the head, and what `trim` keeps with them.
            max_tokens: trim sessions to the window of this many tokens.
            prefix: look only at sessions whose keys begin with it.

        Raises:
            ValueError: if one of the numbers is below 1 or too large, or none is given.
        """
        pruning = self._sessions.prune(unused_for, max_messages, max_tokens, prefix)
        answer: Any = None
        while True:
            try:
                key, operation = pruning.send(answer)
            except StopIteration as end:
                pruned: Pruned = end.value
                return pruned
            try:
                answer = self._run(operation, key)
            except ForeignDataError as error:
                if key is None:
                    raise
                answer = error

    async def aprune(
        self,
        *,
        unused_for: float | None = None,
        max_messages: int | None = None,
        max_tokens: int | None = None,
        prefix: str = "",
    ) -> Pruned:
        """Async version of `prune`."""
        pruning = self._sessions.prune(unused_for, max_messages, max_tokens, prefix)
        answer: Any = None
        while True:
            try:
                key, operation = pruning.send(answer)
            except StopIteration as end:
                pruned: Pruned = end.value
                return pruned
            try:
                answer = await self._arun(operation, key)
            except ForeignDataError as error:
                if key is None:
                    raise
                answer = error

    def close(self) -> None:
        """Close connections. The next call opens new ones. What was in memory is lost."""
        self._backend.close()

    async def aclose(self) -> None:
        """Close the connections that async methods opened in this event loop."""
        await self._backend.aclose()

    # How they run. `changes` is the session that an operation changes.

    def _run(self, operation: Operation[_T], changes: str | None = None) -> _T:
        turn = None if changes is None else self._backend.turn_of(changes)
        return self._backend.run(operation, time.monotonic() + self.timeout, turn)

    def _arun(self, operation: Operation[_T], changes: str | None = None) -> Awaitable[_T]:
        turn = None if changes is None else self._backend.turn_of(changes)
        return self._backend.arun(operation, time.monotonic() + self.timeout, turn)


def check_timeout(timeout: Any) -> float:
    """Return `timeout`, if it is a number of seconds.

    Raises:
        ValueError: if it is not one, or not above 0.
    """
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds above 0, got {timeout!r}")
    if timeout > _LONGEST:
        raise ValueError(f"timeout must be at most {_LONGEST:,} seconds, got {timeout!r}")
    return float(timeout)
