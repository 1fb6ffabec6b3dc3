"""`Sessions`: what each method of a `Store` does, once for sync and async, and for every backend."""

from __future__ import annotations

import itertools
import operator
import random
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from chatring._core import MessageRing, _Batch
from chatring.stores.backend import Backend
from chatring.stores.errors import ForeignDataError, StoreTimeoutError, counter_mismatch
from chatring.stores.measuring import Measured, Measuring, is_much
from chatring.stores.names import check_key
from chatring.stores.operation import Pause, Steps, Work
from chatring.stores.session import Change, Found, Info, Limits, Pruned, Row, RowLike, Session
from chatring.window import Window

# How often a change is tried beside other writers before the session is locked, where the database can do that.
_TRIES = 3
# Seconds between two tries, at most.
_LONGEST_PAUSE = 0.05
# Messages that are combined with the numbers of a session in about a millisecond; bytes that are counted in that.
_MANY, _QUICK = 1_000, 8_192
# Sessions whose numbers are remembered, so that an append need not read them first.
_REMEMBERED = 4_096
# No session has so many messages or tokens, and nobody is so old in seconds.
_MOST = 10**12
# Messages that are looked at first to find one with which a session may end.
_LOOK_BACK = 8
# The total of joined texts may fall by so many tokens when messages are put in front: `SLACK` in `src/core/joined.rs`.
_SLACK = 8

Pruning = Generator[tuple[str | None, Steps[Any]], Any, Pruned]
"""Yields operations, with the key of the session that each changes; is sent what they return, or a ForeignDataError."""

Plan = Callable[[Session | None], Steps[tuple[Change | None, Any]]]
"""What to make of a session, None if there is none; None if nothing; and the method's result."""


class Sessions:
    """The sessions of a backend under one policy.

    Args:
        backend: has them.
        measuring: the policy.
        timeout: how long a change is tried beside other writers, in seconds.
    """

    def __init__(self, backend: Backend, measuring: Measuring, timeout: float) -> None:
        self._backend = backend
        self._measuring = measuring
        self._core = measuring.core
        self._timeout = timeout
        # What was last known of sessions. Others may have changed them; a change finds out.
        self._known: dict[str, Session] = {}

    def append(self, key: str, messages: list[Any]) -> Steps[None]:
        """See `Store.append`."""
        if not messages:
            return
        measured = yield from self._measuring.measured(messages)

        def plan(session: Session | None) -> Steps[tuple[Change, None]]:
            return (yield from self._appending(key, session, measured)), None

        yield from self._make(key, plan)

    def replace(self, key: str, messages: list[Any]) -> Steps[None]:
        """See `Store.replace`."""
        measured = yield from self._measuring.measured(messages)

        def plan(_: Session | None) -> Steps[tuple[Change, None]]:
            change = yield from self._appending(key, None, measured)
            return change._replace(head=change.head or []), None

        yield from self._make(key, plan, any_policy=True)

    def set_head(self, key: str, messages: list[Any]) -> Steps[None]:
        """See `Store.set_head`."""
        measured = yield from self._measuring.measured(messages)
        fresh = yield from self._appending(key, None, measured)
        if self._core.is_joined or fresh.rows:
            # As a ring says it.
            MessageRing[Any](measure=self._measuring.measure).set_head(
                [self._measuring.format.read(message) for message in messages]
            )

        def plan(session: Session | None) -> Steps[tuple[Change, None]]:
            yield from ()
            if session is None:
                return fresh._replace(head=fresh.head or []), None
            head = fresh.head or []
            numbers = session._replace(head=len(head), head_tokens=fresh.session.head_tokens, epoch=_new_epoch())
            return Change(numbers, session.end, [], head), None

        yield from self._make(key, plan)

    def pop(self, key: str, index: int) -> Steps[Any]:
        """See `Store.pop`."""
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
                return Change(numbers, session.end, [], self._measuring.head(head)), popped.body
            return (yield from self._cutting(key, session, session.first + number - session.head))

        body = yield from self._make(key, plan)
        (popped,) = yield from self._measuring.messages([body])
        return popped

    def trim(self, key: str, before: int) -> Steps[int]:
        """See `Store.trim`."""
        before = _position("before", before)

        def plan(session: Session | None) -> Steps[tuple[Change | None, int]]:
            if session is None:
                return None, 0
            stop, step = min(before + 1, session.end), _LOOK_BACK
            while stop > session.first:
                start = max(stop - step, session.first)
                for position, row in reversed((yield from self._backend.rows(key, session, start, stop))):
                    if position > session.first and row.before is not None and row.question is None:
                        numbers = self._core.trimmed(session, position, row.before)
                        trimmed = self._session(numbers, _new_epoch())
                        return Change(trimmed, session.end, []), position - session.first
                stop, step = start, step * 2
            return None, 0

        trimmed: int = yield from self._make(key, plan)
        return trimmed

    def recount(self, key: str) -> Steps[None]:
        """See `Store.recount`."""
        counted: Session | None = None  # when so much was counted
        done = Change(self._new_session(), 0, [])

        def plan(session: Session | None) -> Steps[tuple[Change | None, None]]:
            nonlocal counted, done
            if session is None:
                return None, None
            is_longer = counted is not None and counted.epoch == session.epoch and counted.end <= session.end
            if counted is None or not is_longer or counted.head != session.head:
                head = [row for _, row in (yield from self._backend.rows(key, session, -session.head, 0))]
                done = yield from self._recounted_head(key, session, head)
                rows = yield from self._backend.rows(key, session, session.first, session.end)
            else:  # what others have appended since
                rows = yield from self._backend.rows(key, session, counted.end, session.end)
            measured = yield from self._measured_again([row.body for _, row in rows])
            more = yield from self._appending(key, done.session, measured, (done.head or [], done.rows))
            counted, done = session, _joined(done, more)
            return done._replace(keep=min(done.keep, session.first)), None

        yield from self._make(key, plan, any_policy=True)

    def delete(self, key: str, unused_since: float | None = None) -> Steps[bool]:
        """See `Store.delete`."""
        self._known.pop(key, None)
        return (yield from self._backend.delete(key, unused_since))

    def window(
        self, key: str, token_limit: int, initial: int, include_system: bool | None, retention_ratio: float
    ) -> Steps[Window[Any]]:
        """See `Store.window`."""
        check_key(key)
        limits = Limits(*self._core.limits(token_limit, initial, include_system, retention_ratio))
        found: Found | None = yield from self._backend.window(key, limits, self._measuring.start_on is None)
        if found is None:
            return _window_of([], 0, 0, None, 0)
        session = found.session
        self._check_policy(key, session)
        if found.tokens < 0:
            raise self._core.head_too_long(session.head_tokens, initial, token_limit)
        is_last = found.start == session.end - 1  # which costs less alone than joined, if no window may begin with it
        if self._core.is_joined and (session.has_runs or session.word < session.end or is_last):
            return (yield from self._window_by_ring(key, token_limit, initial))
        self._remember(key, session)
        messages = yield from self._measuring.messages(found.bodies)
        return _window_of(messages, found.tokens, max(found.start, session.first), found.question, found.head)

    def _window_by_ring(self, key: str, token_limit: int, initial: int) -> Steps[Window[Any]]:
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
            if not (yield from self._is_still(key, session)):
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

    def all(self, key: str) -> Steps[list[Any]]:
        """See `Store.all`."""
        bodies = yield from self._backend.newest(key, None)
        return (yield from self._measuring.messages(bodies))

    def last(self, key: str, n: int) -> Steps[list[Any]]:
        """See `Store.last`."""
        n = _position("n", n)
        if not n:
            return []
        bodies = yield from self._backend.newest(key, n)
        return (yield from self._measuring.messages(bodies))

    def slice(self, key: str, start: int, stop: int) -> Steps[list[Any]]:
        """See `Store.slice`."""
        start, stop = _position("start", start), _position("stop", stop)
        while start < stop and (session := (yield from self._backend.read(key))) is not None:
            end = min(stop, session.end)
            if start < session.first and end > session.behind and session.first > session.behind:
                raise IndexError(
                    f"the message at position {max(start, session.behind)} was trimmed; the oldest left is at "
                    f"{session.first}"
                )
            rows: list[tuple[int, Row]] = []
            if start < session.behind:
                numbers = max(start - session.behind, -session.head), min(end - session.behind, 0)
                rows += yield from self._backend.rows(key, session, *numbers)
            if end > session.first:
                rows += yield from self._backend.rows(key, session, max(start, session.first), end)
            if (yield from self._is_still(key, session)):
                return (yield from self._measuring.messages([row.body for _, row in rows]))
        return []

    def info(self, key: str) -> Steps[Info | None]:
        """See `Store.info`."""
        session = yield from self._backend.read(key)
        updated_at = yield from self._backend.updated_at(key)
        if session is None or updated_at is None:
            return None
        tokens = session.head_tokens + session.total - session.base
        return Info(session.length, tokens, session.policy, updated_at)

    def exists(self, key: str) -> Steps[bool]:
        """See `Store.exists`."""
        return (yield from self._backend.read(key)) is not None

    def length(self, key: str) -> Steps[int]:
        """See `Store.length`."""
        session = yield from self._backend.read(key)
        return 0 if session is None else session.length

    def token_count(self, key: str) -> Steps[int]:
        """See `Store.token_count`."""
        while (session := (yield from self._backend.read(key))) is not None:
            self._check_policy(key, session)
            tokens = session.head_tokens + session.total - session.base
            earlier = yield from self._unread(key, session)
            if earlier is None or session.word == session.end:
                return tokens
            if (yield from self._is_still(key, session)):
                tail: int = yield Work(partial(self._core.tail, session, earlier), True)
                return tokens + tail
        return 0

    def keys(self, prefix: str, after: str | None, limit: int | None) -> Steps[list[str]]:
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

    def _trim_to(self, key: str, max_messages: int | None, max_tokens: int | None) -> Steps[int]:
        session = yield from self._backend.read(key)
        if session is None or session.policy != self._measuring.name:
            return 0
        before = 0 if max_messages is None else session.end - max_messages
        if max_tokens is not None:
            room = max_tokens + (0 if self._core.is_joined else session.head_tokens)
            before = max(before, (yield from self.window(key, room, 0, None, 1.0)).start)
        return (yield from self.trim(key, before)) if before > session.first else 0

    # What these are made of.

    def _make(self, key: str, plan: Plan, *, any_policy: bool = False) -> Steps[Any]:
        """Make the change that `plan` makes of a session; again, if another writer was quicker.

        The first try trusts what was last known of the session. From the fourth on the session is locked meanwhile,
        where the database can do that. `plan` returns the change, None if there is none to make, and the result.
        """
        begun = time.monotonic()
        session = self._known.pop(key, None)
        is_remembered = session is not None
        for attempt in itertools.count():
            is_locked = attempt >= _TRIES
            if session is None or attempt:
                session = yield from self._backend.read(key, lock=is_locked)
            if session is not None and not any_policy:
                self._check_policy(key, session)
            try:
                change, result = yield from plan(session)
            except (IndexError, ValueError):
                # Perhaps of a session that others have changed, of which some rows are gone.
                if session is None or (yield from self._backend.read(key)) == session:
                    raise
                continue
            if change is None:
                if is_remembered and not attempt:
                    continue
                if is_locked:
                    yield from self._backend.unlock()
                return result
            if (yield from self._backend.write(key, session, change, is_locked=is_locked)):
                self._remember(key, change.session)
                return result
            if attempt:
                if time.monotonic() > begun + self._timeout:
                    raise StoreTimeoutError(
                        f"session {key!r} at {self._backend.url} was changed by other writers again and again, for "
                        f"{self._timeout:g} seconds; nothing was done, try again"
                    )
                # Not in step with the others.
                yield Pause(random.uniform(0, min(0.001 * 2 ** min(attempt, 10), _LONGEST_PAUSE)))
        raise AssertionError("there is always another try")

    def _appending(
        self,
        key: str,
        session: Session | None,
        measured: Measured,
        before: tuple[list[Row], Sequence[RowLike]] | None = None,
    ) -> Steps[Change]:
        """Return the change that appends messages.

        `before` is the head, and rows at the end, of a session that is not stored yet.
        """
        numbers = session or self._new_session()
        bodies, batch = measured
        earlier = None
        if session is not None and self._core.is_joined:
            if before is None:
                earlier = yield from self._unread(key, session)
            elif (start := self._core.unread_from(session)) < session.end:
                rows = before[1][start - session.end :]
                earlier = self._core.read(self._measuring.readable([body for *_, body in rows]))

        def add() -> tuple[Any, int, list[RowLike], list[tuple[int, int]], bool]:
            ending, heads, rows, settled, forgets = self._core.append(numbers, earlier, batch)
            stored = [(*row, body) for row, body in zip(rows, bodies[heads:], strict=True)]
            return ending, heads, stored, settled, forgets

        takes_long = len(bodies) > _MANY
        if self._core.is_joined:  # and counted only now
            to_count = batch.bytes_to_count + (earlier.bytes_to_count if earlier else 0)
            takes_long = takes_long or to_count > _QUICK or self._core.calls_python
        ending, heads, stored, settled, forgets = yield Work(add, takes_long, calls_others=takes_long)
        head = None
        if heads:
            if before is not None:
                head = before[0]
            elif session is not None and session.head:
                head = [row for _, row in (yield from self._backend.rows(key, session, -session.head, 0))]
            kinds = zip(batch.kinds[:heads], batch.tokens[:heads], bodies[:heads], strict=True)
            head = self._measuring.head(
                [*(head or []), *(Row(kind, tokens, None, None, body) for kind, tokens, body in kinds)]
            )
        new = self._session(ending, numbers.epoch)
        return Change(new, numbers.first if session is None else session.end, stored, head, settled, forgets)

    def _cutting(self, key: str, session: Session, position: int) -> Steps[tuple[Change, str]]:
        """Return the change that removes the message at `position`, and its body.

        What follows is appended anew to what is left before it, which ends with a message that may be the last: the
        messages between that one and `position` are appended anew as well.
        """
        kept = None
        last: list[Row] = []
        between: list[Row] = []
        stop, step = position, _LOOK_BACK
        while kept is None and stop > session.first:
            start = max(stop - step, session.first)
            rows = yield from self._backend.rows(key, session, start, stop)
            for at in range(len(rows) - 1, -1, -1):
                place, row = rows[at]
                text = (yield from self._read([row.body])) if self._core.is_joined else None
                if self._core.may_be_last(row.kind, row.before, text):
                    kept, last = (place, tuple(row[:4]), text), [row]
                    rows = rows[at + 1 :]
                    break
            between = [row for _, row in rows] + between
            stop, step = start, step * 2
        (_, popped), *behind = yield from self._backend.rows(key, session, position, session.end)
        rest = [*between, *(row for _, row in behind)]
        removed = sum(row.tokens for row in rest) + popped.tokens
        numbers = self._session(self._core.cut(session, kept, removed), _new_epoch())
        bodies = [row.body for row in rest]
        if self._core.is_joined:
            measured = yield from self._measured_again(bodies)
        else:
            measured = Measured(bodies, self._core.known([row[:2] for row in rest]))
        known = [row for _, row in (yield from self._backend.rows(key, session, -session.head, 0))]
        change = yield from self._appending(key, numbers, measured, (known, last))
        if kept is not None and not self._core.is_joined:
            # Those between are what they were.
            change = change._replace(keep=position, rows=change.rows[len(between) :])
        else:
            change = change._replace(keep=numbers.end)
        return change, popped.body

    def _measured_again(self, bodies: list[str]) -> Steps[Measured]:
        """Read and count messages that are stored."""
        takes_long = self._core.calls_python or is_much(bodies, _QUICK)
        measured: Measured = yield Work(
            lambda: self._measuring.measure_now(self._measuring.loaded(bodies), bodies), takes_long
        )
        return measured

    def _recounted_head(self, key: str, session: Session, head: list[Row]) -> Steps[Change]:
        """Return the change that leaves a session its head alone, counted anew. Positions stay, if a head can."""
        measured = yield from self._measured_again([row.body for row in head])
        change = yield from self._appending(key, self._new_session(), measured, ([], []))
        begin = session.first
        if change.rows:  # where texts are joined, messages of the head are like others
            begin = max(session.first - len(change.rows), 0)
        numbers = self._new_session()._replace(behind=begin, first=begin, lead=begin, end=begin, word=begin)
        if change.rows:
            return (yield from self._appending(key, numbers, measured, ([], [])))._replace(keep=begin)
        numbers = numbers._replace(
            head=change.session.head, head_tokens=change.session.head_tokens, behind=min(session.behind, begin)
        )
        return Change(numbers, begin, [], change.head or [])

    def _is_still(self, key: str, session: Session) -> Steps[bool]:
        """Return whether a session has only grown meanwhile: then what was read is of one moment."""
        now = yield from self._backend.read(key)
        return now is not None and now.epoch == session.epoch

    def _unread(self, key: str, session: Session) -> Steps[_Batch | None]:
        """Read the messages at the end whose texts must be known, where texts are joined."""
        start = self._core.unread_from(session)
        if start >= session.end:
            return None
        rows = yield from self._backend.rows(key, session, start, session.end)
        return (yield from self._read([row.body for _, row in rows]))

    def _read(self, bodies: list[str]) -> Steps[_Batch]:
        batch: _Batch = yield Work(lambda: self._core.read(self._measuring.readable(bodies)), is_much(bodies))
        return batch

    def _new_session(self) -> Session:
        return self._session(self._core.empty(), _new_epoch())

    def _session(self, numbers: list[int | None], epoch: int) -> Session:
        return Session._make((*numbers, epoch, self._measuring.name))

    def _remember(self, key: str, session: Session) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = session

    def _check_policy(self, key: str, session: Session) -> None:
        if session.policy != self._measuring.name:
            raise counter_mismatch(key, session.policy, self._measuring.name)


def _window_of(messages: list[Any], tokens: int, start: int, question: int | None, head: int) -> Window[Any]:
    window = Window(messages)
    window.tokens, window.start, window.question, window.head = tokens, start, question, head
    return window


def _joined(first: Change, more: Change) -> Change:
    """Return the change that stores the rows of both, of which the first ones are not stored yet."""
    rows: list[Row] = [Row._make(row) for row in first.rows]
    if more.forgets:
        rows = [row._replace(before=None, question=None) for row in rows]
    begin = first.session.end - len(rows)
    for position, before in more.settled:
        rows[position - begin] = rows[position - begin]._replace(before=before)
    return more._replace(head=more.head or first.head, rows=[*rows, *more.rows], settled=[], forgets=False)


def _new_epoch() -> int:
    return secrets.randbits(52)


def _position(name: str, value: Any) -> int:
    position = operator.index(value)
    if position < 0:
        raise ValueError(f"{name} must be at least 0, got {position}")
    return min(position, 2**53)
