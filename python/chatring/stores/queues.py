"""`Queues`: the sessions of LlamaIndex's `Memory` on a backend: archived messages, and a queue behind them.

The cut between the two is a session's `lead`: the position where the window that has everything begins. The core
decides which messages leave the queue (`src/core/flush.rs`), within the change that appends. So only the writer that
moves the cut learns what has left.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, NamedTuple

from chatring.stores.backend import Backend
from chatring.stores.changes import Changes, Plan, new_epoch
from chatring.stores.errors import CounterMismatchError, kind_mismatch
from chatring.stores.measuring import Measuring
from chatring.stores.names import check_key
from chatring.stores.operation import Operation
from chatring.stores.policy_name import is_queue
from chatring.stores.session import Change, Limits, RowLike, Session

# Rows to look at first for the end of a round.
_FIRST_ROWS = 128
# How often to recount a session while writers of another policy do the same.
_RECOUNTS = 100
# The limits of a window of everything.
_ALL = Limits(2**52, False, [-(2**52)], [1])

Part = Literal["archived", "active"]
"""A part of a session: what has left the queue, or the queue; None is both."""


class Flush(NamedTuple):
    """When messages leave a queue."""

    high: int  # the most tokens that it may have
    size: int  # the fewest tokens that leave in a round


class Queues:
    """The queues of a backend under one policy, whose measure is a `_BlockMeasure`.

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

    def append(
        self, key: str, messages: list[Any], flush: Flush | None, *, wants: bool = True
    ) -> Operation[list[list[Any]]]:
        """Add messages, and archive the oldest if the queue has too many tokens.

        Args:
            key: the session.
            messages: to add; if there are none, the oldest may still leave.
            flush: when they leave; None for never.
            wants: whether to return what was archived.

        Returns:
            If wanted, what was archived: a list for each round, oldest first.

        Raises:
            CounterMismatchError: if the session is not `Memory`'s. A session that another policy counted is recounted.
        """
        check_key(key)
        measured = yield from self._measuring.measured(messages)

        def plan(session: Session | None) -> Operation[tuple[Change | None, list[list[str]]]]:
            change = yield from self._changes.appending(key, session, measured)
            rounds: list[list[str]] = []
            if flush is not None:
                change, rounds = yield from self._flushed(key, session, change, flush, wants)
            if messages:
                return change, rounds
            # If the end is the same, only another epoch tells others that the cut has moved.
            moved = change._replace(session=change.session._replace(epoch=new_epoch()))
            return (moved if rounds else None), rounds

        left: list[list[str]] = yield from self._make(key, plan)
        flushed: list[list[Any]] = []
        for bodies in left if wants else []:
            batch = yield from self._measuring.messages(bodies)
            flushed.append(batch)
        return flushed

    def replace(self, key: str, messages: list[Any], archived: int = 0) -> Operation[None]:
        """Replace all messages. The first `archived` of them are archived."""
        check_key(key)
        measured = yield from self._measuring.measured(messages)

        def plan(session: Session | None) -> Operation[tuple[Change, None]]:
            self._check(key, session)
            change = yield from self._changes.appending(key, None, measured)
            numbers = self._with_cut(change.session, archived, sum(row[1] for row in change.rows[:archived]))
            return change._replace(session=numbers), None

        yield from self._changes.make(key, plan, any_policy=True)

    def all(self, key: str, part: Part | None) -> Operation[list[Any]]:
        """Return the messages of a session, or of a part of it."""
        check_key(key)
        if part == "active":
            return (yield from self._active(key))
        tries = 0
        while (session := (yield from self._backend.read(key))) is not None:
            self._check(key, session)
            stop = session.end if part is None else session.lead
            rows = yield from self._backend.rows(key, session, session.first, stop)
            if (yield from self._changes.is_still(key, session)):
                return (yield from self._measuring.messages([row.body for _, row in rows]))
            tries = self._changes.outrun(key, tries)
        return []

    def count(self, key: str, part: Part | None) -> Operation[int]:
        """Return how many messages a session has, or a part of it."""
        check_key(key)
        session = yield from self._backend.read(key)
        if session is None:
            return 0
        self._check(key, session)
        start = session.lead if part == "active" else session.first
        return (session.lead if part == "archived" else session.end) - start

    def archive(self, key: str, count: int) -> Operation[list[Any]]:
        """Archive `count` of the queue's oldest messages, or all if it has fewer, and return them."""
        check_key(key)

        def plan(session: Session | None) -> Operation[tuple[Change | None, list[str]]]:
            stop = 0 if session is None else min(session.lead + count, session.end)
            if session is None or stop <= session.lead:
                return None, []
            rows = [row for _, row in (yield from self._backend.rows(key, session, session.lead, stop))]
            numbers = self._with_cut(session, stop, session.lead_total + sum(row.tokens for row in rows))
            return Change(numbers._replace(epoch=new_epoch()), session.end, []), [row.body for row in rows]

        bodies = yield from self._make_uncounted(key, plan)
        return (yield from self._measuring.messages(bodies))

    def append_archived(self, key: str, messages: list[Any]) -> Operation[None]:
        """Add archived messages.

        Raises:
            ValueError: if the queue has messages.
        """
        check_key(key)
        measured = yield from self._measuring.measured(messages)

        def plan(session: Session | None) -> Operation[tuple[Change, None]]:
            refuse_active(key, 0 if session is None else session.end - session.lead)
            change = yield from self._changes.appending(key, session, measured)
            return change._replace(
                session=self._with_cut(change.session, change.session.end, change.session.total)
            ), None

        yield from self._make(key, plan)

    def remove_oldest(self, key: str, count: int) -> Operation[list[Any]]:
        """Remove `count` of the queue's oldest messages, or all, and return them. The others are stored again."""
        check_key(key)

        def plan(session: Session | None) -> Operation[tuple[Change | None, list[str]]]:
            if session is None or count < 1 or session.lead == session.end:
                return None, []
            rows = [row for _, row in (yield from self._backend.rows(key, session, session.first, session.end))]
            archived = session.lead - session.first
            removed = rows[archived : archived + count]
            kept = rows[:archived] + rows[archived + count :]
            known = self._measuring.stored(kept)
            change = yield from self._changes.appending(key, None, known)
            numbers = self._with_cut(change.session, archived, sum(row.tokens for row in kept[:archived]))
            return change._replace(session=numbers), [row.body for row in removed]

        bodies = yield from self._make_uncounted(key, plan)
        return (yield from self._measuring.messages(bodies))

    def remove(self, key: str, part: Part | None) -> Operation[None]:
        """Remove a session, or a part of it."""
        check_key(key)
        if part is None:
            self._changes.forget(key)
            yield from self._backend.delete(key)
            return

        def plan(session: Session | None) -> Operation[tuple[Change | None, None]]:
            yield from ()
            if session is None:
                return None, None
            if part == "archived":
                numbers = self._core.trimmed(session, session.lead, session.lead_total)
                return Change(self._changes.session(numbers, new_epoch()), session.end, []), None
            numbers = self._core.without_queue(session)
            return Change(self._changes.session(numbers, new_epoch()), session.lead, []), None

        yield from self._make_uncounted(key, plan)

    def _active(self, key: str) -> Operation[list[Any]]:
        """Return the queue's messages with one statement."""
        found = yield from self._backend.window(key, _ALL, False)
        if found is None:
            return []
        self._check(key, found.session)
        return (yield from self._measuring.messages(found.bodies))

    def _flushed(
        self, key: str, session: Session | None, change: Change, flush: Flush, wants: bool
    ) -> Operation[tuple[Change, list[list[str]]]]:
        """Return a change that also archives, and the bodies of each round."""
        numbers = change.session
        stored_end = numbers.lead if session is None else session.end
        rows: list[RowLike] = []  # from the cut on, as far as they have been read
        step = _FIRST_ROWS
        if numbers.lead == stored_end:
            rows = [*change.rows]
        while True:
            known_to = numbers.lead + len(rows)
            users = [
                (position, before)
                for position, (_, _, before, *_) in enumerate(rows, numbers.lead)
                if before is not None
            ]
            cuts = self._core.rounds(numbers, users, known_to, *flush)
            if cuts is None or (wants and cuts and cuts[-1][0] > known_to):
                stop = min(known_to + step, stored_end)
                if session is not None and known_to < stored_end:
                    more = yield from self._backend.rows(key, session, known_to, stop)
                    if len(more) < stop - known_to:
                        return change, []  # another writer has changed the session, so this change will not be made
                    rows += [row for _, row in more]
                if numbers.lead + len(rows) == stored_end:
                    rows += change.rows
                step *= 4
                continue
            if not cuts:
                return change, []
            starts = [numbers.lead, *(position for position, _ in cuts)]
            rounds = [
                [body for *_, body in rows[start - numbers.lead : stop - numbers.lead]]
                for start, stop in pairwise(starts)
            ]
            return change._replace(session=self._with_cut(numbers, *cuts[-1])), rounds

    def _with_cut(self, session: Session, position: int, before: int) -> Session:
        return self._changes.session(self._core.with_cut(session, position, before), session.epoch)

    def _make(self, key: str, plan: Plan) -> Operation[Any]:
        """Make a change. A session that another policy counted is recounted first."""
        for _ in range(_RECOUNTS):
            try:
                return (yield from self._changes.make(key, plan))
            except CounterMismatchError:
                self._check(key, (yield from self._backend.read(key)))
            yield from self._recount(key)
        return (yield from self._changes.make(key, plan))

    def _make_uncounted(self, key: str, plan: Plan) -> Operation[Any]:
        """Make a change that counts nothing. The session keeps its policy."""

        def with_its_policy(session: Session | None) -> Operation[tuple[Change | None, Any]]:
            self._check(key, session)
            change, result = yield from plan(session)
            if change is not None and session is not None:
                change = change._replace(session=change.session._replace(policy=session.policy))
            return change, result

        return (yield from self._changes.make(key, with_its_policy, any_policy=True))

    def _recount(self, key: str) -> Operation[None]:
        """Count a queue again by this policy. The cut stays where it is."""

        def plan(session: Session | None) -> Operation[tuple[Change | None, None]]:
            self._check(key, session)
            if session is None:
                return None, None
            rows = yield from self._backend.rows(key, session, session.first, session.end)
            measured = yield from self._changes.measured_again([row.body for _, row in rows])
            change = yield from self._changes.appending(key, None, measured)
            archived = session.lead - session.first
            numbers = self._with_cut(change.session, archived, sum(row[1] for row in change.rows[:archived]))
            return change._replace(session=numbers), None

        yield from self._changes.make(key, plan, any_policy=True)

    def _check(self, key: str, session: Session | None) -> None:
        """Refuse a session that is not `Memory`'s. It does not matter here which policy counted it.

        Raises:
            CounterMismatchError: if it is not one.
        """
        if session is not None and not is_queue(session.policy):
            raise kind_mismatch(key, False)


def refuse_active(key: str, active: int) -> None:
    """Refuse to add archived messages behind active ones.

    Raises:
        ValueError: if the queue has active messages.
    """
    if active:
        raise ValueError(f"session {key!r} has {active} active messages, and archived ones cannot follow them")
