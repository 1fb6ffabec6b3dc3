"""`Store`: sessions of messages in a database, of which a window is read without the rest. Every public method is here."""

from __future__ import annotations

import asyncio
import itertools
import operator
import random
import secrets
import time
from collections.abc import Awaitable, Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from chatring._core import MessageRing, TokenCounter, _Batch, _StorePolicy
from chatring.formats.format import Format
from chatring.formats.json_format import JsonFormat
from chatring.stores.backend import Backend
from chatring.stores.errors import StoreTimeoutError, counter_mismatch
from chatring.stores.operation import Pause, Steps, Work
from chatring.stores.record import check_key, check_name
from chatring.stores.session import Change, Found, Limits, Row, Session
from chatring.stores.turns import Turns
from chatring.window import Window

_M = TypeVar("_M")
_T = TypeVar("_T")

# How often a change is tried beside other writers before the session is locked, where the database can do that.
_TRIES = 3
# Seconds between two tries, at most.
_LONGEST_PAUSE = 0.05
# Characters that are dumped, read and counted in about a millisecond; and messages.
_LITTLE, _FEW = 4_096, 32
# Bytes that are counted in about a millisecond.
_QUICK = 8_192
# Sessions whose numbers are remembered, so that an append need not read them first.
_REMEMBERED = 4_096
# Keys that are asked for at once, to prune.
_PAGE = 1_000
# Messages that are looked at first to find one with which a session may end.
_LOOK_BACK = 8
# The total of joined texts may fall by so many tokens when messages are put in front: `SLACK` in `src/core/joined.rs`.
_SLACK = 8


class Pruned(NamedTuple):
    """What `Store.prune` has done."""

    removed: int  # sessions
    trimmed: int  # sessions
    messages: int  # of those that were trimmed


class Measured(NamedTuple):
    """Messages that were dumped and read, and counted where tokens add up."""

    bodies: list[str]
    batch: _Batch


class Store(Generic[_M]):
    """Sessions of messages under keys. `open_store` makes one from a URL.

    The async methods are the sync ones with an `a` in front. Safe to use from many threads and event loops; any number of
    stores, in any number of processes, may work on the same data. A change is made as a whole or not at all, also if its
    async call is cancelled. Each method raises, besides what it says, TypeError or ValueError for a key that cannot be one
    (a str of at most 1,024 bytes of UTF-8), and StoreError if the database fails.

    Args:
        backend: the database.
        counter: counts the texts: an encoding's name, or whatever else `TokenCounter` takes.
        measure: what a message's tokens are, as in `MessageRing`: `"message"`, `"text"` or a callable.
        start_on: what a window may begin with, as in `MessageRing`: `"user"` or None. The default is None with
            `measure="text"`, which goes with nothing else.
        format: how messages are stored and read. None: any JSON message, by its shape. A provider's name: the same, but a
            plain role and content costs what this provider adds. Or a `chatring.formats.Format`.
        counter_name: by which a callable counter is known again. It is stored with each session.
        measure_name: by which a callable measure is known again.
        timeout: how long a call waits for other writers and for a connection, in seconds.

    Raises:
        TypeError, ValueError: as `MessageRing`; for a callable without a name, and for a name that cannot be one.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        counter: Any = "o200k_base",
        measure: Any = "message",
        start_on: Literal["user"] | None | ellipsis = ...,  # noqa: F821
        format: Any = None,  # noqa: A002 (as in MessageRing)
        counter_name: str | None = None,
        measure_name: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.counter = TokenCounter(counter)
        self.measure = measure
        self.start_on = (None if measure == "text" else "user") if start_on is ... else start_on
        self.format = format
        is_known = format is None or isinstance(format, str)
        self._format: Format[Any] = JsonFormat() if is_known else format
        self._policy = _StorePolicy(self.counter, measure, self.start_on, format if is_known else None)
        names = [
            _name_of("counter", self.counter.name if self.counter.is_native else None, counter_name),
            _name_of("measure", measure if isinstance(measure, str) else None, measure_name),
            self.start_on or "any",
        ]
        if format_name := format if isinstance(format, str) else self._format.name:
            names.append(check_name(format_name, "a format's name"))
        self.policy_name = ", ".join(names)
        if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, got {timeout!r}")
        self.timeout = float(timeout)
        self._backend = backend
        self._turns = backend.turns
        # What was last known of sessions. Others may have changed them; a change finds out.
        self._known: dict[str, Session] = {}
        self._is_warm = not self.counter.is_native

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self.policy_name!r})"

    @property
    def url(self) -> str:
        """The database's URL, without its secrets."""
        return self._backend.url

    @property
    def is_in_memory(self) -> bool:
        """Whether the sessions are in this process's memory, and gone when it ends."""
        return self._backend.is_in_memory

    # Every method, and its async twin.

    def append(self, key: str, messages: Iterable[_M]) -> None:
        """Add messages to the end of a session, which begins now if there is none: all of them or none.

        Raises:
            TypeError, ValueError: for a message that cannot be read or stored; nothing is.
            CounterMismatchError: if the session was counted by another policy.
            Exception: whatever a callable counter, measure or format raises, unchanged.
        """
        self._change(key, self._append(check_key(key), _listed(messages)))

    async def aappend(self, key: str, messages: Iterable[_M]) -> None:
        """As `append`."""
        await self._achange(key, self._append(check_key(key), _listed(messages)))

    def window(
        self,
        key: str,
        token_limit: int,
        initial_token_count: int = 0,
        *,
        include_system: bool | None = None,
        retention_ratio: float = 1.0,
    ) -> Window[_M]:
        """Return the messages that go into the next call: what `MessageRing.window` returns of the same history.

        One statement, and nothing else is read. Empty if there is no such session.

        Args:
            key: the session.
            token_limit: tokens that the window and what is sent beside it may have, at least 1.
            initial_token_count: tokens of what is sent beside the window, such as tools.
            include_system: whether the leading system messages are in it; by default they are, unless with
                `measure="text"`.
            retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to.

        Raises:
            ValueError: as `MessageRing.window`.
            CounterMismatchError: if the session was counted by another policy.
        """
        return self._run(self._window(key, token_limit, initial_token_count, include_system, retention_ratio))

    async def awindow(
        self,
        key: str,
        token_limit: int,
        initial_token_count: int = 0,
        *,
        include_system: bool | None = None,
        retention_ratio: float = 1.0,
    ) -> Window[_M]:
        """As `window`."""
        return await self._arun(self._window(key, token_limit, initial_token_count, include_system, retention_ratio))

    def all(self, key: str) -> list[_M]:
        """Return all messages of a session, oldest first; empty if there is no such session."""
        return self._run(self._all(check_key(key)))

    async def aall(self, key: str) -> list[_M]:
        """As `all`."""
        return await self._arun(self._all(check_key(key)))

    def last(self, key: str, n: int) -> list[_M]:
        """Return the last `n` messages of a session, or all if it has fewer, oldest first. One range is read.

        Raises:
            ValueError: if `n` is negative.
        """
        return self._run(self._last(check_key(key), n))

    async def alast(self, key: str, n: int) -> list[_M]:
        """As `last`."""
        return await self._arun(self._last(check_key(key), n))

    def slice(self, key: str, start: int, stop: int) -> list[_M]:
        """Return the messages at the positions from `start` to the one before `stop`, as far as there are any.

        Positions are counted from the first message ever put, as those of a `Window`: `store.slice(key, done,
        window.start)` is what has left the window since `done`.

        Raises:
            IndexError: if one of them was trimmed.
            ValueError: if a position is negative.
        """
        return self._run(self._slice(check_key(key), start, stop))

    async def aslice(self, key: str, start: int, stop: int) -> list[_M]:
        """As `slice`."""
        return await self._arun(self._slice(check_key(key), start, stop))

    def replace(self, key: str, messages: Iterable[_M]) -> None:
        """Replace all messages of a session, counted by this store's policy: all or no change."""
        self._change(key, self._replace(check_key(key), _listed(messages)))

    async def areplace(self, key: str, messages: Iterable[_M]) -> None:
        """As `replace`."""
        await self._achange(key, self._replace(check_key(key), _listed(messages)))

    def set_head(self, key: str, messages: Iterable[_M]) -> None:
        """Replace the leading system messages of a session, and leave the others alone: one change.

        Raises:
            ValueError: if one is not a system or developer message, or with `measure="text"`; nothing is changed then.
            TypeError, CounterMismatchError: as `append`.
        """
        self._change(key, self._set_head(check_key(key), _listed(messages)))

    async def aset_head(self, key: str, messages: Iterable[_M]) -> None:
        """As `set_head`."""
        await self._achange(key, self._set_head(check_key(key), _listed(messages)))

    def pop(self, key: str, index: int = -1) -> _M:
        """Remove a message and return it. Who removes a call removes its results.

        What follows it is stored anew, which takes time in proportion; positions behind it are one less.

        Args:
            key: the session.
            index: the message's number in the session, counted from the newest if negative.

        Raises:
            IndexError: if there is no such message; also if there is no such session.
            CounterMismatchError: if the session was counted by another policy.
        """
        return self._change(key, self._pop(check_key(key), index))

    async def apop(self, key: str, index: int = -1) -> _M:
        """As `pop`."""
        return await self._achange(key, self._pop(check_key(key), index))

    def trim(self, key: str, before: int) -> int:
        """Remove the oldest messages, and return how many.

        Windows stay what they were, as far as their messages are left. So that they do, it is whole turns that go: what
        stays begins with the newest start at or before the position `before` that carries no question, such as a user
        message. The leading system messages stay.

        Args:
            key: the session.
            before: a position, as of `slice`.

        Raises:
            ValueError: if the position is negative.
            CounterMismatchError: if the session was counted by another policy.
        """
        return self._change(key, self._trim(check_key(key), before))

    async def atrim(self, key: str, before: int) -> int:
        """As `trim`."""
        return await self._achange(key, self._trim(check_key(key), before))

    def delete(self, key: str) -> bool:
        """Remove a session. Return whether there was one."""
        return self._change(key, self._delete(check_key(key)))

    async def adelete(self, key: str) -> bool:
        """As `delete`."""
        return await self._achange(key, self._delete(check_key(key)))

    def recount(self, key: str) -> None:
        """Count a session anew by this store's policy, whatever it was counted by."""
        self._change(key, self._recount(check_key(key)))

    async def arecount(self, key: str) -> None:
        """As `recount`."""
        await self._achange(key, self._recount(check_key(key)))

    def exists(self, key: str) -> bool:
        """Return whether there is such a session."""
        return self._run(self._exists(check_key(key)))

    async def aexists(self, key: str) -> bool:
        """As `exists`."""
        return await self._arun(self._exists(check_key(key)))

    def length(self, key: str) -> int:
        """Return the number of messages of a session; 0 if there is no such session."""
        return self._run(self._length(check_key(key)))

    async def alength(self, key: str) -> int:
        """As `length`."""
        return await self._arun(self._length(check_key(key)))

    def token_count(self, key: str) -> int:
        """Return the tokens of all messages of a session; 0 if there is no such session.

        Raises:
            CounterMismatchError: if the session was counted by another policy.
        """
        return self._run(self._token_count(check_key(key)))

    async def atoken_count(self, key: str) -> int:
        """As `token_count`."""
        return await self._arun(self._token_count(check_key(key)))

    def updated_at(self, key: str) -> float | None:
        """Return when a session was last changed, in seconds since 1970 by its writer's clock; None if there is none."""
        return self._run(self._backend.updated_at(check_key(key)))

    async def aupdated_at(self, key: str) -> float | None:
        """As `updated_at`."""
        return await self._arun(self._backend.updated_at(check_key(key)))

    def keys(self, prefix: str = "", after: str | None = None, limit: int | None = None) -> list[str]:
        """Return keys of sessions, in the order of their UTF-8.

        Args:
            prefix: what they begin with.
            after: the last key of the page before; None for the first page.
            limit: how many at most; None for all.

        Raises:
            ValueError: if `limit` is below 1.
        """
        return self._run(self._keys(prefix, after, limit))

    async def akeys(self, prefix: str = "", after: str | None = None, limit: int | None = None) -> list[str]:
        """As `keys`."""
        return await self._arun(self._keys(prefix, after, limit))

    def prune(
        self,
        *,
        unused_for: float | None = None,
        max_messages: int | None = None,
        max_tokens: int | None = None,
        prefix: str = "",
    ) -> Pruned:
        """Remove sessions that are no longer used, and the oldest messages of those that have become too long.

        Session by session, each in one change, and none that was changed meanwhile is removed: to be run beside servers,
        now and then. Sessions of another policy than this store's are not trimmed.

        Args:
            unused_for: remove sessions that were not changed for so many seconds.
            max_messages: trim sessions to so many messages behind the head, and what `trim` keeps with them.
            max_tokens: trim sessions to the window of so many tokens.
            prefix: of the keys of the sessions that are looked at.

        Raises:
            ValueError: if one of the numbers is below 1, or there is none.
        """
        bounds = {"unused_for": unused_for, "max_messages": max_messages, "max_tokens": max_tokens}
        for name, bound in bounds.items():
            if bound is not None and not bound >= 1:
                raise ValueError(f"{name} must be at least 1, got {bound}")
        if all(bound is None for bound in bounds.values()):
            raise ValueError("say what to prune: unused_for, max_messages or max_tokens")
        since = None if unused_for is None else time.time() - unused_for
        removed, trimmed, messages, after = 0, 0, 0, None
        while keys := self.keys(prefix, after, _PAGE):
            for key in keys:
                if since is not None and self._change(key, self._delete(key, since)):
                    removed += 1
                elif (gone := self._trim_to(key, max_messages, max_tokens)) > 0:
                    trimmed, messages = trimmed + 1, messages + gone
            after = keys[-1]
        return Pruned(removed, trimmed, messages)

    async def aprune(self, **bounds: Any) -> Pruned:
        """As `prune`, in a thread."""
        return await asyncio.to_thread(self.prune, **bounds)

    def close(self) -> None:
        """Close connections. The next call opens new ones; what was in memory is gone."""
        self._backend.close()

    async def aclose(self) -> None:
        """Close the connections that async methods opened in this event loop."""
        await self._backend.aclose()

    def _trim_to(self, key: str, max_messages: int | None, max_tokens: int | None) -> int:
        if max_messages is None and max_tokens is None:
            return 0
        session = self._run(self._backend.read(key))
        if session is None or session.policy != self.policy_name:
            return 0
        before = 0 if max_messages is None else session.end - max_messages
        if max_tokens is not None:
            include_system = False if self._policy.is_joined else None
            room = max_tokens + (0 if include_system is False else session.head_tokens)
            before = max(before, self.window(key, room, include_system=include_system).start)
        return self.trim(key, max(before, 0))

    # How they run.

    def _run(self, steps: Steps[_T]) -> _T:
        return self._backend.run(steps, time.monotonic() + self.timeout)

    async def _arun(self, steps: Steps[_T]) -> _T:
        return await self._backend.arun(steps, time.monotonic() + self.timeout)

    def _change(self, key: str, steps: Steps[_T]) -> _T:
        return self._backend.run(steps, time.monotonic() + self.timeout, self._backend.turn_of(key))

    def _achange(self, key: str, steps: Steps[_T]) -> Awaitable[_T]:
        return self._backend.arun(steps, time.monotonic() + self.timeout, self._backend.turn_of(key))

    # What they do.

    def _append(self, key: str, messages: list[_M]) -> Steps[None]:
        if not messages:
            return
        measured = yield from self._measured(messages)

        def plan(session: Session | None) -> Steps[tuple[Change, None]]:
            return (yield from self._appending(key, session, measured)), None

        yield from self._make(key, plan)

    def _replace(self, key: str, messages: list[_M]) -> Steps[None]:
        measured = yield from self._measured(messages)

        def plan(_: Session | None) -> Steps[tuple[Change, None]]:
            change = yield from self._appending(key, None, measured)
            return change._replace(head=change.head or []), None

        yield from self._make(key, plan, any_policy=True)

    def _set_head(self, key: str, messages: list[_M]) -> Steps[None]:
        measured = yield from self._measured(messages)
        fresh = yield from self._appending(key, None, measured)
        if self._policy.is_joined or fresh.rows:
            # As a ring says it.
            MessageRing[Any](measure=self.measure).set_head([self._format.read(message) for message in messages])

        def plan(session: Session | None) -> Steps[tuple[Change, None]]:
            yield from ()
            if session is None:
                return fresh._replace(head=fresh.head or []), None
            head = fresh.head or []
            numbers = session._replace(head=len(head), head_tokens=fresh.session.head_tokens, epoch=_new_epoch())
            return Change(numbers, session.end, [], head), None

        yield from self._make(key, plan)

    def _pop(self, key: str, index: int) -> Steps[_M]:
        index = operator.index(index)

        def plan(session: Session | None) -> Steps[tuple[Change, str]]:
            length = 0 if session is None else session.length
            number = index + length if index < 0 else index
            if session is None or not 0 <= number < length:
                raise IndexError(f"index {index} is out of range for a session of {length} messages")
            if number < session.head:
                head = [row for _, row in (yield from self._backend.rows(key, session, -session.head, 0))]
                popped = head.pop(number)
                tokens = session.head_tokens - popped.tokens
                numbers = session._replace(head=len(head), head_tokens=tokens, epoch=_new_epoch())
                return Change(numbers, session.end, [], self._head(head)), popped.body
            return (yield from self._cutting(key, session, session.first + number - session.head))

        body = yield from self._make(key, plan)
        return self._format.load(body)

    def _trim(self, key: str, before: int) -> Steps[int]:
        before = _position("before", before)

        def plan(session: Session | None) -> Steps[tuple[Change | None, int]]:
            if session is None:
                return None, 0
            stop, step = min(before + 1, session.end), _LOOK_BACK
            while stop > session.first:
                start = max(stop - step, session.first)
                for position, row in reversed((yield from self._backend.rows(key, session, start, stop))):
                    if position > session.first and row.before is not None and row.question is None:
                        numbers = self._policy.trimmed(session, position, row.before)
                        trimmed = Session(*numbers, _new_epoch(), self.policy_name)
                        return Change(trimmed, session.end, []), position - session.first
                stop, step = start, step * 2
            return None, 0

        return (yield from self._make(key, plan))

    def _recount(self, key: str) -> Steps[None]:
        counted: Session | None = None  # when so much was counted
        done = Change(self._new_session(), 0, [])

        def plan(session: Session | None) -> Steps[tuple[Change | None, None]]:
            nonlocal counted, done
            if session is None:
                return None, None
            if counted is None or counted.epoch != session.epoch or counted.end > session.end:
                head = yield from self._backend.rows(key, session, -session.head, 0)
                rows = [*head, *(yield from self._backend.rows(key, session, session.first, session.end))]
                begin = max(session.first - session.head, 0)
                numbers = self._new_session()._replace(
                    behind=begin, first=begin, lead=begin, end=begin, word=begin, epoch=_new_epoch()
                )
                done = Change(numbers, begin, [], [])
            else:  # what others have appended since
                rows = yield from self._backend.rows(key, session, counted.end, session.end)
            bodies = [row.body for _, row in rows]
            measured = yield Work(lambda: self._measure(self._loaded(bodies), bodies), len(bodies) > _FEW)
            more = yield from self._appending(key, done.session, measured, (done.head or [], done.rows))
            counted, done = session, more._replace(head=more.head or done.head, rows=[*done.rows, *more.rows])
            return done._replace(keep=min(done.keep, session.first)), None

        yield from self._make(key, plan, any_policy=True)

    def _delete(self, key: str, unused_since: float | None = None) -> Steps[bool]:
        self._known.pop(key, None)
        return (yield from self._backend.delete(key, unused_since))

    def _window(
        self, key: str, token_limit: int, initial: int, include_system: bool | None, retention_ratio: float
    ) -> Steps[Window[_M]]:
        check_key(key)
        limits = Limits(*self._policy.limits(token_limit, initial, include_system, retention_ratio))
        found: Found | None = yield from self._backend.window(key, limits, self.start_on is None)
        if found is None:
            return _window_of([], 0, 0, None, 0)
        session = found.session
        self._check_policy(key, session)
        if found.tokens < 0:
            raise self._policy.head_too_long(session.head_tokens, initial, token_limit)
        is_last = found.start == session.end - 1  # which costs less alone than joined, if no window may begin with it
        if self._policy.is_joined and (session.has_runs or session.word < session.end or is_last):
            return (yield from self._window_by_ring(key, token_limit, initial))
        self._remember(key, session)
        messages = self._loaded(found.bodies)
        return _window_of(messages, found.tokens, max(found.start, session.first), found.question, found.head)

    def _window_by_ring(self, key: str, token_limit: int, initial: int) -> Steps[Window[_M]]:
        """Find a window among joined texts of which some are blank: ask a ring of all that it may reach."""
        step = 64
        while (session := (yield from self._backend.read(key))) is not None:
            self._check_policy(key, session)
            start = max(session.end - step, session.first)
            rows = yield from self._backend.rows(key, session, start, session.end)
            # The first segment may be cut, and the first message be none with which a window may begin.
            counted = itertools.dropwhile(lambda row: not row[1].tokens, rows)
            tokens = sum(row.tokens for _, row in itertools.islice(counted, 1, None))
            if start > session.first and tokens <= token_limit - initial + _SLACK:
                step *= 2
                continue
            messages = self._loaded([row.body for _, row in rows])

            def ask(messages: list[Any] = messages) -> Window[Any]:
                ring = MessageRing[Any](token_limit, self.counter, measure="text")
                ring.put_messages(self._format.read(message) for message in messages)
                return ring.window(initial_token_count=initial)

            window = yield Work(ask, True)
            kept = messages[window.start :]
            return _window_of(kept, window.tokens, start + window.start, None, 0)
        return _window_of([], 0, 0, None, 0)

    def _all(self, key: str) -> Steps[list[_M]]:
        bodies = yield from self._backend.newest(key, None)
        return (yield Work(lambda: self._loaded(bodies), len(bodies) > _FEW))  # type: ignore[no-any-return]

    def _last(self, key: str, n: int) -> Steps[list[_M]]:
        n = _position("n", n)
        if not n:
            return []
        bodies = yield from self._backend.newest(key, n)
        return (yield Work(lambda: self._loaded(bodies), len(bodies) > _FEW))  # type: ignore[no-any-return]

    def _slice(self, key: str, start: int, stop: int) -> Steps[list[_M]]:
        start, stop = _position("start", start), _position("stop", stop)
        session = yield from self._backend.read(key)
        if session is None or start >= stop:
            return []
        stop = min(stop, session.end)
        if start < session.first and stop > session.behind and session.first > session.behind:
            position = max(start, session.behind)
            raise IndexError(f"the message at position {position} was trimmed; the oldest left is at {session.first}")
        rows: list[tuple[int, Row]] = []
        if start < session.behind:
            numbers = max(start - session.behind, -session.head), min(stop - session.behind, 0)
            rows += yield from self._backend.rows(key, session, *numbers)
        if stop > session.first:
            rows += yield from self._backend.rows(key, session, max(start, session.first), stop)
        bodies = [row.body for _, row in rows]
        return (yield Work(lambda: self._loaded(bodies), len(bodies) > _FEW))  # type: ignore[no-any-return]

    def _exists(self, key: str) -> Steps[bool]:
        return (yield from self._backend.read(key)) is not None

    def _length(self, key: str) -> Steps[int]:
        session = yield from self._backend.read(key)
        return 0 if session is None else session.length

    def _token_count(self, key: str) -> Steps[int]:
        session = yield from self._backend.read(key)
        if session is None:
            return 0
        self._check_policy(key, session)
        tokens = session.head_tokens + session.total - session.base
        earlier = yield from self._unread(key, session)
        if earlier is not None and session.word < session.end:
            tokens += yield Work(lambda: self._policy.tail(session, earlier), True)
        return tokens

    def _keys(self, prefix: str, after: str | None, limit: int | None) -> Steps[list[str]]:
        check_key(prefix)
        if after is not None:
            check_key(after)
        if limit is not None and operator.index(limit) < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        return (yield from self._backend.keys(prefix, after, limit))

    # What these are made of.

    def _make(self, key: str, plan: Any, *, any_policy: bool = False) -> Steps[Any]:
        """Make the change that `plan` makes of a session; again, if another writer was quicker.

        The first try trusts what was last known of the session. From the fourth on the session is locked meanwhile, where
        the database can do that. `plan` returns the change, None if there is none to make, and the result.
        """
        begun = time.monotonic()
        session = self._known.pop(key, None)
        for attempt in itertools.count():
            is_locked = attempt >= _TRIES
            if session is None or attempt:
                session = yield from self._backend.read(key, lock=is_locked)
            if session is not None and not any_policy:
                self._check_policy(key, session)
            change, result = yield from plan(session)
            if change is None:
                if is_locked:
                    yield from self._backend.unlock()
                return result
            if (yield from self._backend.write(key, session, change)):
                self._remember(key, change.session)
                return result
            if attempt:
                if time.monotonic() > begun + self.timeout:
                    raise StoreTimeoutError(
                        f"session {key!r} at {self.url} was changed by other writers again and again, for "
                        f"{self.timeout:g} seconds; nothing was done, try again"
                    )
                # Not in step with the others.
                yield Pause(random.uniform(0, min(0.001 * 2 ** min(attempt, 10), _LONGEST_PAUSE)))
        raise AssertionError("there is always another try")

    def _appending(
        self,
        key: str,
        session: Session | None,
        measured: Measured,
        before: tuple[list[Row], list[Row]] | None = None,
    ) -> Steps[Change]:
        """Return the change that appends messages. `before` is the head, and rows at the end, of a session not stored yet."""
        numbers = session or self._new_session()
        bodies, batch = measured
        earlier = None
        if session is not None and self._policy.is_joined:
            if before is None:
                earlier = yield from self._unread(key, session)
            elif (start := self._policy.unread_from(session)) < session.end:
                rows = before[1][start - session.end :]
                earlier = self._policy.read(self._readable([row.body for row in rows]))
        if self._policy.is_joined:
            takes_long = batch.bytes_to_count + (earlier.bytes_to_count if earlier else 0) > _QUICK
            work = Work(lambda: self._policy.append(numbers, earlier, batch), takes_long or self._policy.calls_python)
            added = yield work
        else:
            added = self._policy.append(numbers, None, batch)
        ending, heads, rows, settled, forgets = added
        head = None
        if heads:
            if before is not None:
                head = before[0]
            elif session is not None and session.head:
                head = [row for _, row in (yield from self._backend.rows(key, session, -session.head, 0))]
            kinds = zip(batch.kinds, batch.tokens, bodies[:heads])
            head = self._head([*(head or []), *(Row(kind, tokens, None, None, body) for kind, tokens, body in kinds)])
        new = Session(*ending, numbers.epoch, self.policy_name)
        stored = [Row(*row, body) for row, body in zip(rows, bodies[heads:], strict=True)]
        return Change(new, numbers.first if session is None else session.end, stored, head, settled, forgets)

    def _cutting(self, key: str, session: Session, position: int) -> Steps[tuple[Change, str]]:
        """Return the change that removes the message at `position`, and its body.

        What follows is appended anew to what is left before it, which ends with a message that may be the last: the
        messages between that one and `position` are appended anew as well.
        """
        kept, last, between = None, [], []
        stop, step = position, _LOOK_BACK
        while kept is None and stop > session.first:
            start = max(stop - step, session.first)
            rows = yield from self._backend.rows(key, session, start, stop)
            for at in range(len(rows) - 1, -1, -1):
                place, row = rows[at]
                text = self._policy.read(self._readable([row.body])) if self._policy.is_joined else None
                if self._policy.may_be_last(row.kind, row.before, text):
                    kept, last = (place, tuple(row[:4]), text), [row]
                    rows = rows[at + 1 :]
                    break
            between = [row for _, row in rows] + between
            stop, step = start, step * 2
        (_, popped), *behind = yield from self._backend.rows(key, session, position, session.end)
        rest = [*between, *(row for _, row in behind)]
        removed = sum(row.tokens for row in rest) + popped.tokens
        numbers = Session(*self._policy.cut(session, kept, removed), _new_epoch(), self.policy_name)
        bodies = [row.body for row in rest]
        if self._policy.is_joined:
            measured = yield Work(lambda: self._measure(self._loaded(bodies), bodies), len(bodies) > _FEW)
        else:
            measured = Measured(bodies, self._policy.known([row[:2] for row in rest]))
        known = [row for _, row in (yield from self._backend.rows(key, session, -session.head, 0))]
        change = yield from self._appending(key, numbers, measured, (known, last))
        if kept is not None and not self._policy.is_joined:
            # Those between are what they were.
            change = change._replace(keep=position, rows=change.rows[len(between) :])
        else:
            change = change._replace(keep=numbers.end)
        return change, popped.body

    def _unread(self, key: str, session: Session) -> Steps[_Batch | None]:
        """Read the messages at the end whose texts must be known, where texts are joined."""
        start = self._policy.unread_from(session)
        if start >= session.end:
            return None
        rows = yield from self._backend.rows(key, session, start, session.end)
        return self._policy.read(self._readable([row.body for _, row in rows]))

    def _measured(self, messages: list[_M]) -> Steps[Measured]:
        takes_long = not self._is_warm or self._policy.calls_python or not _is_little(messages)
        measured = yield Work(lambda: self._measure(messages), takes_long)
        self._is_warm = True
        return measured  # type: ignore[no-any-return]

    def _measure(self, messages: list[Any], bodies: list[str] | None = None) -> Measured:
        readable = [self._format.read(message) for message in messages]
        if bodies is None:
            bodies = self._dumped(messages, readable)
        batch = self._policy.read(readable)
        self._policy.count(batch)
        return Measured(bodies, batch)

    def _dumped(self, messages: list[Any], readable: list[Any]) -> list[str]:
        # What the format of JSON reads is what it dumps.
        dumped = readable if isinstance(self._format, JsonFormat) else messages
        bodies = [self._format.dump(message) for message in dumped]
        for body in bodies:
            if not isinstance(body, str) or "\0" in body:
                raise TypeError(f"a format's dump must return a str without NUL characters, got {type(body).__name__}")
        return bodies

    def _loaded(self, bodies: list[str]) -> list[Any]:
        if isinstance(self._format, JsonFormat):
            return self._format.load_all(bodies)
        return [self._format.load(body) for body in bodies]

    def _readable(self, bodies: list[str]) -> list[Any]:
        return [self._format.read(message) for message in self._loaded(bodies)]

    def _head(self, rows: list[Row]) -> list[Row]:
        starts = self._policy.head_starts([row[:2] for row in rows])
        return [row._replace(before=before) for row, before in zip(rows, starts, strict=True)]

    def _new_session(self) -> Session:
        return Session(*self._policy.empty(), _new_epoch(), self.policy_name)

    def _remember(self, key: str, session: Session) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = session

    def _check_policy(self, key: str, session: Session) -> None:
        if session.policy != self.policy_name:
            raise counter_mismatch(key, session.policy, self.policy_name)


def _window_of(messages: list[Any], tokens: int, start: int, question: int | None, head: int) -> Window[Any]:
    window = Window(messages)
    window.tokens, window.start, window.question, window.head = tokens, start, question, head
    return window


def _name_of(what: str, known: str | None, given: str | None) -> str:
    if known is not None:
        if given not in (None, known):
            raise ValueError(f"{what}_name is for callables; this {what} is known as {known!r}")
        return known
    if given is None:
        raise ValueError(f"a callable {what} needs a {what}_name, by which its sessions are known again")
    check_name(given, f"{what}_name")
    if given in (*TokenCounter.encodings(), "message", "text"):
        raise ValueError(f"{what}_name {given!r} is the name of another {what}, which counts otherwise")
    return given


def _new_epoch() -> int:
    return secrets.randbits(52)


def _position(name: str, value: Any) -> int:
    position = operator.index(value)
    if position < 0:
        raise ValueError(f"{name} must be at least 0, got {position}")
    return min(position, 2**53)


def _listed(messages: Any) -> list[Any]:
    if isinstance(messages, (str, bytes, dict)) or hasattr(messages, "_fields"):
        raise TypeError(f"messages must be an iterable of messages, got one {type(messages).__name__}")
    return list(messages)


def _is_little(messages: list[Any]) -> bool:
    """Return whether messages are dumped, read and counted in a millisecond or two, as far as can be seen at once."""
    if len(messages) > _FEW:
        return False
    size = 0
    for message in messages:
        values = message.values() if type(message) is dict else message if isinstance(message, tuple) else (None,) * 100
        for value in values:
            if type(value) is str:
                size += len(value)
            elif value is not None and not isinstance(value, (bool, int)):
                return False
        if len(values) > 99:
            return False
    return size <= _LITTLE
