"""`Changes`: how a session is changed beside other writers, and what appending and cutting change."""

from __future__ import annotations

import itertools
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from chatring._core import _Batch
from chatring.stores.backend import Backend
from chatring.stores.errors import StoreTimeoutError, counter_mismatch, kind_mismatch
from chatring.stores.measuring import Measured, Measuring, is_much
from chatring.stores.operation import Operation, Pause, Work
from chatring.stores.policy_name import is_queue
from chatring.stores.session import Change, Row, RowLike, Session

# How often to try a change beside other writers before locking the session, where the database can do that.
_TRIES = 3
# The longest pause between two tries, in seconds.
_LONGEST_PAUSE = 0.05
# How often to read a session in parts, when changes keep interrupting the reads, before giving up.
_MOST_READS = 100
# Messages that are combined with a session's numbers in about a millisecond; bytes that are counted in that time.
_MANY, _QUICK = 1_000, 8_192
# Sessions whose numbers are remembered, so that an append need not read them first.
_REMEMBERED = 4_096
# Messages to look at first when searching for one that a session may end with.
LOOK_BACK = 8

Plan = Callable[[Session | None], Operation[tuple[Change | None, Any]]]
"""From a session, or None if there is none: the change, or None for no change; and the method's result."""


class Changes:
    """Changes the sessions of a backend under one policy.

    Args:
        backend: has the sessions.
        measuring: the policy.
        timeout: how long to retry a change that concurrent writers keep invalidating, in seconds.
    """

    def __init__(self, backend: Backend, measuring: Measuring, timeout: float) -> None:
        self._backend = backend
        self._measuring = measuring
        self._core = measuring.core
        self._timeout = timeout
        # The last known state of sessions. Others may have changed them since; a change finds out.
        self._known: dict[str, Session] = {}

    def make(self, key: str, plan: Plan, *, any_policy: bool = False) -> Operation[Any]:
        """Make the change that `plan` makes of a session. Try again if another writer was faster.

        The first try trusts the last known state of the session. From the fourth on, the session is locked meanwhile,
        where the database can do that. `plan` returns the change (None for no change) and the result.
        """
        begun = time.monotonic()
        session = self._known.pop(key, None)
        is_remembered = session is not None
        for attempt in itertools.count():
            is_locked = attempt >= _TRIES
            if session is None or attempt:
                session = yield from self._backend.read(key, lock=is_locked)
            if session is not None and not any_policy:
                self.check_policy(key, session)
            try:
                change, result = yield from plan(session)
            except (IndexError, ValueError):
                # Perhaps the session was changed by others, and some rows are gone.
                if session is None or (yield from self._backend.read(key)) == session:
                    raise
            else:
                if change is None:
                    if is_remembered and not attempt:
                        continue
                    if is_locked:
                        yield from self._backend.unlock()
                    return result
                if (yield from self._backend.write(key, session, change, is_locked=is_locked)):
                    self.remember(key, change.session)
                    return result
            if attempt:
                if time.monotonic() > begun + self._timeout:
                    raise StoreTimeoutError(
                        f"other writers kept changing session {key!r} at {self._backend.url} for {self._timeout:g} "
                        "seconds; nothing was done, try again"
                    )
                # A random pause, so that writers do not retry in step.
                yield Pause(random.uniform(0, min(0.001 * 2 ** min(attempt, 10), _LONGEST_PAUSE)))
        raise AssertionError("there is always another try")

    def appending(
        self,
        key: str,
        session: Session | None,
        measured: Measured,
        before: tuple[list[Row], Sequence[RowLike]] | None = None,
    ) -> Operation[Change]:
        """Return the change that appends messages.

        `before` is the head and the last rows of a session that is not stored yet.
        """
        numbers = session or self.new_session()
        bodies, batch = measured
        earlier = None
        if session is not None and self._core.is_joined:
            if before is None:
                earlier = yield from self.unread(key, session)
            elif (start := self._core.unread_from(session)) < session.end:
                rows = before[1][start - session.end :]
                earlier = self._core.read(self._measuring.readable([body for *_, body in rows]))

        def add() -> tuple[Any, int, list[RowLike], list[tuple[int, int]], bool]:
            ending, heads, rows, settled, forgets = self._core.append(numbers, earlier, batch)
            stored = [(*row, body) for row, body in zip(rows, bodies[heads:], strict=True)]
            return ending, heads, stored, settled, forgets

        takes_long = len(bodies) > _MANY
        if self._core.is_joined:  # which are counted only now
            to_count = batch.bytes_to_count + (earlier.bytes_to_count if earlier else 0)
            takes_long = takes_long or to_count > _QUICK or self._core.calls_python
        ending, heads, stored, settled, forgets = yield Work(add, takes_long, calls_others=takes_long)
        head = None
        if heads:
            if before is not None:
                head = before[0]
            elif session is not None and session.head:
                head = yield from self.head(key, session)
            kinds = zip(batch.kinds[:heads], batch.tokens[:heads], bodies[:heads], strict=True)
            head = self._measuring.head(
                [*(head or []), *(Row(kind, tokens, None, None, body) for kind, tokens, body in kinds)]
            )
        new = self.session(ending, numbers.epoch)
        return Change(new, numbers.first if session is None else session.end, stored, head, settled, forgets)

    def cutting(
        self, key: str, session: Session, position: int, removed: list[Row], measured: Measured
    ) -> Operation[Change]:
        """Return the change that removes the messages from `position` on, and appends others.

        What is left before it must end with a message that may be the last. So the messages between that one and
        `position` are appended again too.

        Args:
            key: the session.
            session: its state before.
            position: a position behind the head.
            removed: the rows from there to the end.
            measured: the messages to append.
        """
        kept = None
        last: list[Row] = []
        between: list[Row] = []
        stop, step = position, LOOK_BACK
        while kept is None and stop > session.first:
            start = max(stop - step, session.first)
            rows = yield from self._backend.rows(key, session, start, stop)
            for at in range(len(rows) - 1, -1, -1):
                place, row = rows[at]
                text = (yield from self.read([row.body])) if self._core.is_joined else None
                if self._core.may_be_last(row.kind, row.before, text):
                    kept, last = (place, tuple(row[:4]), text), [row]
                    rows = rows[at + 1 :]
                    break
            between = [row for _, row in rows] + between
            stop, step = start, step * 2
        tokens = sum(row.tokens for row in between) + sum(row.tokens for row in removed)
        numbers = self.session(self._core.cut(session, kept, tokens), new_epoch())
        bodies = [*(row.body for row in between), *measured.bodies]
        if self._core.is_joined:
            again = yield from self.measured_again(bodies)
        else:
            batch = measured.batch
            items = [*(row[:2] for row in between), *zip(batch.kinds, batch.tokens, strict=True)]
            again = Measured(bodies, self._core.known(items))
        head = yield from self.head(key, session)
        change = yield from self.appending(key, numbers, again, (head, last))
        if kept is not None and not self._core.is_joined:
            # The messages between them are unchanged.
            return change._replace(keep=position, rows=change.rows[len(between) :])
        return change._replace(keep=numbers.end)

    def measured_again(self, bodies: list[str]) -> Operation[Measured]:
        """Read and count messages that are stored."""
        takes_long = self._core.calls_python or is_much(bodies, _QUICK)
        measured: Measured = yield Work(
            lambda: self._measuring.measure_now(self._measuring.loaded(bodies), bodies), takes_long
        )
        return measured

    def recounted_head(self, key: str, session: Session, head: list[Row]) -> Operation[Change]:
        """Return the change that leaves a session only its head, counted again. Positions stay, if the head allows."""
        measured = yield from self.measured_again([row.body for row in head])
        change = yield from self.appending(key, self.new_session(), measured, ([], []))
        begin = session.first
        if change.rows:  # where texts are joined, the head's messages are like any others
            begin = max(session.first - len(change.rows), 0)
        numbers = self.new_session()._replace(behind=begin, first=begin, lead=begin, end=begin, word=begin)
        if change.rows:
            return (yield from self.appending(key, numbers, measured, ([], [])))._replace(keep=begin, head=[])
        numbers = numbers._replace(
            head=change.session.head, head_tokens=change.session.head_tokens, behind=min(session.behind, begin)
        )
        return Change(numbers, begin, [], change.head or [])

    def outrun(self, key: str, tries: int) -> int:
        """Return one more than `tries`.

        Raises:
            StoreTimeoutError: if that is too many.
        """
        if tries == _MOST_READS:
            raise StoreTimeoutError(
                f"other writers kept replacing session {key!r} at {self._backend.url} while it was read; try again"
            )
        return tries + 1

    def is_still(self, key: str, session: Session) -> Operation[bool]:
        """Return whether a session has only grown since: then everything that was read belongs to one moment."""
        now = yield from self._backend.read(key)
        return now is not None and now.epoch == session.epoch

    def head(self, key: str, session: Session) -> Operation[list[Row]]:
        """Read the messages of the head."""
        return [row for _, row in (yield from self._backend.rows(key, session, -session.head, 0))]

    def unread(self, key: str, session: Session) -> Operation[_Batch | None]:
        """Read the messages at the end whose texts are needed, where texts are joined."""
        start = self._core.unread_from(session)
        if start >= session.end:
            return None
        rows = yield from self._backend.rows(key, session, start, session.end)
        return (yield from self.read([row.body for _, row in rows]))

    def read(self, bodies: list[str]) -> Operation[_Batch]:
        """Read messages that are stored, without counting them."""
        batch: _Batch = yield Work(lambda: self._core.read(self._measuring.readable(bodies)), is_much(bodies))
        return batch

    def new_session(self) -> Session:
        """Return the numbers of a session without messages."""
        return self.session(self._core.empty(), new_epoch())

    def session(self, numbers: list[int | None], epoch: int) -> Session:
        """Return a session of this policy with these numbers of the core."""
        return Session._make((*numbers, epoch, self._measuring.name))

    def remember(self, key: str, session: Session) -> None:
        """Remember the current state of a session."""
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = session

    def forget(self, key: str) -> None:
        """Forget the state of a session."""
        self._known.pop(key, None)

    def check_kind(self, key: str, session: Session | None) -> None:
        """Refuse a session of LlamaIndex's `Memory` unless this policy is for these, and any other if it is.

        Raises:
            CounterMismatchError: if the session is of the other kind.
        """
        if session is not None and is_queue(session.policy) != is_queue(self._measuring.name):
            raise kind_mismatch(key, is_queue(session.policy))

    def check_policy(self, key: str, session: Session) -> None:
        """Refuse a session of another policy.

        Raises:
            CounterMismatchError: if it has another policy.
        """
        self.check_kind(key, session)
        if session.policy != self._measuring.name:
            raise counter_mismatch(key, session.policy, self._measuring.name)


def joined(first: Change, more: Change) -> Change:
    """Return one change that stores the rows of both, where `first` is not stored yet."""
    rows: list[Row] = [Row._make(row) for row in first.rows]
    if more.forgets:
        rows = [row._replace(before=None, question=None) for row in rows]
    begin = first.session.end - len(rows)
    for position, before in more.settled:
        rows[position - begin] = rows[position - begin]._replace(before=before)
    return more._replace(head=more.head or first.head, rows=[*rows, *more.rows], settled=[], forgets=False)


def new_epoch() -> int:
    """Return a number that tells a session from its states before a change."""
    return secrets.randbits(52)
