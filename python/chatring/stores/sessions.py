"""`Sessions`: the methods of a `Store`, once for sync and async, and for every backend."""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from chatring._core import MessageRing
from chatring.stores.backend import Backend
from chatring.stores.changes import LOOK_BACK, Changes, joined, new_epoch
from chatring.stores.errors import ForeignDataError
from chatring.stores.measuring import Measuring, listed
from chatring.stores.names import check_key
from chatring.stores.operation import Operation, Work
from chatring.stores.session import Change, Found, Info, Limits, Pruned, Row, Session
from chatring.window import Window

# More messages or tokens than any session has, and more seconds than anybody lives.
_MOST = 10**12
# How far the total of joined texts may fall when messages are put in front: `SLACK` in `src/core/joined.rs`.
_SLACK = 8

Pruning = Generator[tuple[str | None, Operation[Any]], Any, Pruned]
"""Yields operations with the key of the session that each changes; is sent their results, or a ForeignDataError."""


class Sessions:
    """The sessions of a backend under one policy.

    Args:
        backend: has the sessions.
        measuring: the policy.
        timeout: how long to retry a change that concurrent writers keep invalidating, in seconds.
    """

    def __init__(self, backend: Backend, measuring: Measuring, timeout: float) -> None:
        self._backend = backend
        self._measuring = measuring
        self._core = measuring.core
        self._changes = Changes(backend, measuring, timeout)

    def append(self, key: str, messages: list[Any]) -> Operation[None]:
        """See `Store.append`."""
        if not messages:
            return
        measured = yield from self._measuring.measured(messages)

        def plan(session: Session | None) -> Operation[tuple[Change, None]]:
            return (yield from self._changes.appending(key, session, measured)), None

        yield from self._changes.make(key, plan)

    def replace(self, key: str, messages: list[Any]) -> Operation[None]:
        """See `Store.replace`."""
        measured = yield from self._measuring.measured(messages)

        def plan(session: Session | None) -> Operation[tuple[Change, None]]:
            self._changes.check_kind(key, session)
            change = yield from self._changes.appending(key, None, measured)
            return change._replace(head=change.head or []), None

        yield from self._changes.make(key, plan, any_policy=True)

    def set_head(self, key: str, messages: list[Any]) -> Operation[None]:
        """See `Store.set_head`."""
        measured = yield from self._measuring.measured(messages)
        fresh = yield from self._changes.appending(key, None, measured)
        if self._core.is_joined or fresh.rows:
            # A ring raises the error.
            MessageRing[Any](measure=self._measuring.measure).set_head(
                [self._measuring.format.read(message) for message in messages]
            )

        def plan(session: Session | None) -> Operation[tuple[Change, None]]:
            yield from ()
            if session is None:
                return fresh._replace(head=fresh.head or []), None
            head = fresh.head or []
            numbers = session._replace(head=len(head), head_tokens=fresh.session.head_tokens, epoch=new_epoch())
            return Change(numbers, session.end, [], head), None

        yield from self._changes.make(key, plan)

    def pop(self, key: str, index: int) -> Operation[Any]:
        """See `Store.pop`."""
        index = operator.index(index)

        def plan(session: Session | None) -> Operation[tuple[Change, str]]:
            length = 0 if session is None else session.length
            number = index + length if index < 0 else index
            if session is None or not 0 <= number < length:
                raise IndexError(f"index {index} is out of range for a session of {length} messages")
            if number < session.head:
                head = yield from self._changes.head(key, session)
                popped = head.pop(number)
                tokens = session.head_tokens - popped.tokens
                numbers = session._replace(head=len(head), head_tokens=tokens, epoch=new_epoch())
                return Change(numbers, session.end, [], self._measuring.head(head)), popped.body
            position = session.first + number - session.head
            removed = [row for _, row in (yield from self._backend.rows(key, session, position, session.end))]
            popped, *behind = removed
            again = self._measuring.stored(behind)
            return (yield from self._changes.cutting(key, session, position, removed, again)), popped.body

        body = yield from self._changes.make(key, plan)
        (popped,) = yield from self._measuring.messages([body])
        return popped

    def update(self, key: str, start: int, change: Callable[[list[Any]], Any]) -> Operation[list[Any]]:
        """See `Store.update`."""
        start = max(operator.index(start), -_MOST)
        if not callable(change):
            raise TypeError(f"change must be a function of a list of messages, got {change!r}")

        def plan(session: Session | None) -> Operation[tuple[Change | None, list[Any]]]:
            rows: list[tuple[int, Row]] = []
            if session is not None:
                if start >= 0:
                    _check_left(session, start, session.end)
                begin = session.number(start) if start >= 0 else max(session.length + start, 0)
                rows = yield from self._rows(key, session, begin, session.length)
            before = yield from self._measuring.messages([row.body for _, row in rows])
            if session is not None and (yield from self._backend.read(key)) != session:
                raise IndexError("the session has changed since")  # it is read again: see `make`
            after: list[Any] = yield Work(lambda: listed(change(list(before)), "change must return"), False)
            same = sum(
                1 for _ in itertools.takewhile(lambda pair: pair[0] is pair[1], zip(before, after, strict=False))
            )
            if same == len(before) == len(after):
                return None, after
            measured = yield from self._measuring.measured(after[same:])
            if session is None or same == len(before):
                return (yield from self._changes.appending(key, session, measured)), after
            position, _ = rows[same]
            if position >= session.first:
                removed = [row for _, row in rows[same:]]
                return (yield from self._changes.cutting(key, session, position, removed, measured)), after
            # The head ends before: all that is left is new.
            head = yield from self._backend.rows(key, session, -session.head, position)
            again = yield from self._changes.measured_again([*(row.body for _, row in head), *measured.bodies])
            replaced = yield from self._changes.appending(key, None, again)
            return replaced._replace(head=replaced.head or []), after

        updated: list[Any] = yield from self._changes.make(key, plan)
        return updated

    def trim(self, key: str, before: int) -> Operation[int]:
        """See `Store.trim`."""
        before = _position("before", before)

        def plan(session: Session | None) -> Operation[tuple[Change | None, int]]:
            if session is None:
                return None, 0
            stop, step = min(before + 1, session.end), LOOK_BACK
            while stop > session.first:
                start = max(stop - step, session.first)
                for position, row in reversed((yield from self._backend.rows(key, session, start, stop))):
                    if position > session.first and row.before is not None and row.question is None:
                        numbers = self._core.trimmed(session, position, row.before)
                        trimmed = self._changes.session(numbers, new_epoch())
                        return Change(trimmed, session.end, []), position - session.first
                stop, step = start, step * 2
            return None, 0

        trimmed: int = yield from self._changes.make(key, plan)
        return trimmed

    def recount(self, key: str) -> Operation[None]:
        """See `Store.recount`."""
        counted: Session | None = None  # the session as of the last count
        done = Change(self._changes.new_session(), 0, [])

        def plan(session: Session | None) -> Operation[tuple[Change | None, None]]:
            nonlocal counted, done
            self._changes.check_kind(key, session)
            if session is None:
                return None, None
            is_longer = counted is not None and counted.epoch == session.epoch and counted.end <= session.end
            if counted is None or not is_longer or counted.head != session.head:
                head = yield from self._changes.head(key, session)
                done = yield from self._changes.recounted_head(key, session, head)
                rows = yield from self._backend.rows(key, session, session.first, session.end)
            else:  # messages that others have appended since
                rows = yield from self._backend.rows(key, session, counted.end, session.end)
            measured = yield from self._changes.measured_again([row.body for _, row in rows])
            more = yield from self._changes.appending(key, done.session, measured, (done.head or [], done.rows))
            counted, done = session, joined(done, more)
            return done._replace(keep=min(done.keep, session.first)), None

        yield from self._changes.make(key, plan, any_policy=True)

    def delete(self, key: str, unused_since: float | None = None) -> Operation[bool]:
        """See `Store.delete`."""
        self._changes.forget(key)
        return (yield from self._backend.delete(key, unused_since))

    def window(
        self, key: str, token_limit: int, initial: int, include_system: bool | None, retention_ratio: float
    ) -> Operation[Window[Any]]:
        """See `Store.window`."""
        check_key(key)
        limits = Limits(*self._core.limits(token_limit, initial, include_system, retention_ratio))
        found: Found | None = yield from self._backend.window(key, limits, self._measuring.start_on is None)
        if found is None:
            return _window_of([], 0, 0, None, 0)
        session = found.session
        self._changes.check_policy(key, session)
        if found.tokens < 0:
            raise self._core.head_too_long(session.head_tokens, initial, token_limit)
        is_last = found.start == session.end - 1  # it costs less alone than joined, if no window may begin with it
        if self._core.is_joined and (session.has_runs or session.word < session.end or is_last):
            return (yield from self._window_by_ring(key, token_limit, initial))
        self._changes.remember(key, session)
        messages = yield from self._measuring.messages(found.bodies)
        return _window_of(messages, found.tokens, max(found.start, session.first), found.question, found.head)

    def _window_by_ring(self, key: str, token_limit: int, initial: int) -> Operation[Window[Any]]:
        """Find a window among joined texts that may be blank: ask a ring of everything that it may reach."""
        step, tries = 64, 0
        while (session := (yield from self._backend.read(key))) is not None:
            self._changes.check_policy(key, session)
            start = max(session.end - step, session.first)
            rows = yield from self._backend.rows(key, session, start, session.end)
            # The first segment may be cut, and its first message may not be one that a window may begin with.
            counted = itertools.dropwhile(lambda row: not row[1].tokens, rows)
            tokens = sum(row.tokens for _, row in itertools.islice(counted, 1, None))
            if start > session.first and tokens <= token_limit - initial + _SLACK:
                step *= 2
                continue
            if not (yield from self._changes.is_still(key, session)):
                tries = self._changes.outrun(key, tries)
                continue
            messages = yield from self._measuring.messages([row.body for _, row in rows])

            def ask(messages: list[Any] = messages) -> Window[Any]:
                ring = MessageRing[Any](token_limit, self._measuring.counter, measure="text")
                ring.put_messages(self._measuring.format.read(message) for message in messages)
                return ring.window(initial_token_count=initial)

            window = yield Work(ask, True)
            kept = messages[window.start :]
            return _window_of(kept, window.tokens, start + window.start, None, 0)
        return _window_of([], 0, 0, None, 0)

    def all(self, key: str) -> Operation[list[Any]]:
        """See `Store.all`."""
        bodies = yield from self._backend.newest(key, None)
        return (yield from self._measuring.messages(bodies))

    def last(self, key: str, n: int) -> Operation[list[Any]]:
        """See `Store.last`."""
        n = _position("n", n)
        if not n:
            return []
        bodies = yield from self._backend.newest(key, n)
        return (yield from self._measuring.messages(bodies))

    def slice(self, key: str, start: int, stop: int) -> Operation[list[Any]]:
        """See `Store.slice`."""
        start, stop = _position("start", start), _position("stop", stop)
        tries = 0
        while start < stop and (session := (yield from self._backend.read(key))) is not None:
            end = min(stop, session.end)
            _check_left(session, start, end)
            rows = yield from self._rows(key, session, session.number(start), session.number(end))
            if (yield from self._changes.is_still(key, session)):
                return (yield from self._measuring.messages([row.body for _, row in rows]))
            tries = self._changes.outrun(key, tries)
        return []

    def _rows(self, key: str, session: Session, start: int, stop: int) -> Operation[list[tuple[int, Row]]]:
        """Read the messages from the number `start` to the one before `stop`, with the positions of `Backend.rows`."""
        rows: list[tuple[int, Row]] = []
        begin, end = start - session.head, stop - session.head
        if begin < min(end, 0):
            rows += yield from self._backend.rows(key, session, begin, min(end, 0))
        if end > max(begin, 0):
            rows += yield from self._backend.rows(key, session, session.first + max(begin, 0), session.first + end)
        return rows

    def info(self, key: str) -> Operation[Info | None]:
        """See `Store.info`."""
        session = yield from self._backend.read(key)
        updated_at = yield from self._backend.updated_at(key)
        if session is None or updated_at is None:
            return None
        tokens = session.head_tokens + session.total - session.base
        return Info(session.length, tokens, session.policy, updated_at)

    def exists(self, key: str) -> Operation[bool]:
        """See `Store.exists`."""
        return (yield from self._backend.read(key)) is not None

    def length(self, key: str) -> Operation[int]:
        """See `Store.length`."""
        session = yield from self._backend.read(key)
        return 0 if session is None else session.length

    def token_count(self, key: str) -> Operation[int]:
        """See `Store.token_count`."""
        tries = 0
        while (session := (yield from self._backend.read(key))) is not None:
            self._changes.check_policy(key, session)
            tokens = session.head_tokens + session.total - session.base
            earlier = yield from self._changes.unread(key, session)
            if earlier is None or session.word == session.end:
                return tokens
            if (yield from self._changes.is_still(key, session)):
                tail: int = yield Work(partial(self._core.tail, session, earlier), True)
                return tokens + tail
            tries = self._changes.outrun(key, tries)
        return 0

    def keys(self, prefix: str, after: str | None, limit: int | None) -> Operation[list[str]]:
        """See `Store.keys`."""
        check_key(prefix)
        if after is not None:
            check_key(after)
        if limit is not None:
            if isinstance(limit, bool):
                raise TypeError(f"limit must be an integer, got {limit!r} (bool)")
            if operator.index(limit) < 1:
                raise ValueError(f"limit must be at least 1, got {limit}")
            limit = min(limit, 2**53)
        return (yield from self._backend.keys(prefix, after, limit))

    def prune(self, unused_for: float | None, max_messages: int | None, max_tokens: int | None, prefix: str) -> Pruning:
        """See `Store.prune`."""
        bounds = {"unused_for": unused_for, "max_messages": max_messages, "max_tokens": max_tokens}
        for name, bound in bounds.items():
            if bound is not None and not bound >= 1:
                raise ValueError(f"{name} must be at least 1, got {bound}")
            if bound is not None and bound > _MOST:
                raise ValueError(f"{name} must be at most {_MOST:,}, got {bound}")
        if all(bound is None for bound in bounds.values()):
            raise ValueError("say what to prune: unused_for, max_messages or max_tokens")
        check_key(prefix)
        removed = trimmed = messages = damaged = 0
        if unused_for is not None:
            since = time.time() - unused_for
            for key in (yield None, self._backend.unused(since, prefix)):
                done = yield key, self.delete(key, since)
                removed += done is True
                damaged += isinstance(done, ForeignDataError)
        if max_messages is not None or max_tokens is not None:
            for key in (yield None, self.keys(prefix, None, None)):
                done = yield key, self._trim_to(key, max_messages, max_tokens)
                if isinstance(done, ForeignDataError):
                    damaged += 1
                elif done:
                    trimmed, messages = trimmed + 1, messages + done
        return Pruned(removed, trimmed, messages, damaged)

    def _trim_to(self, key: str, max_messages: int | None, max_tokens: int | None) -> Operation[int]:
        session = yield from self._backend.read(key)
        if session is None or session.policy != self._measuring.name:
            return 0
        before = 0 if max_messages is None else session.end - max_messages
        if max_tokens is not None:
            room = max_tokens + (0 if self._core.is_joined else session.head_tokens)
            before = max(before, (yield from self.window(key, room, 0, None, 1.0)).start)
        return (yield from self.trim(key, before)) if before > session.first else 0


def _check_left(session: Session, start: int, stop: int) -> None:
    if start < session.first and stop > session.behind and session.first > session.behind:
        raise IndexError(
            f"the message at position {max(start, session.behind)} was trimmed; the oldest left is at {session.first}"
        )


def _window_of(messages: list[Any], tokens: int, start: int, question: int | None, head: int) -> Window[Any]:
    window = Window(messages)
    window.tokens, window.start, window.question, window.head = tokens, start, question, head
    return window


def _position(name: str, value: Any) -> int:
    position = operator.index(value)
    if position < 0:
        raise ValueError(f"{name} must be at least 0, got {position}")
    return min(position, 2**53)
