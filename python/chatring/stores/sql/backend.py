"""`SQLBackend`: what `Store` needs, as statements of SQLite and PostgreSQL."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from chatring.overriding import override
from chatring.stores.backend import Backend
from chatring.stores.errors import ForeignDataError
from chatring.stores.operation import Operation, Work
from chatring.stores.session import Change, Found, Limits, Row, RowLike, Session
from chatring.stores.session_numbers import session_of
from chatring.stores.sql.statement import Statement

# Rows that are made in about a millisecond.
_MANY = 2_000
# More than any count or time.
ALL = 2**62


class SQLBackend(Backend):
    """The common part of SQLite and PostgreSQL."""

    @override
    def read(self, key: str, *, lock: bool = False) -> Operation[Session | None]:
        if lock:
            yield Statement("begin")
        rows = yield Statement("session_locked" if lock else "session", {"key": key})
        return self._session(key, rows[0]) if rows else None

    @override
    def unlock(self) -> Operation[None]:
        yield Statement("rollback")

    @override
    def rows(self, key: str, session: Session, start: int, stop: int) -> Operation[list[tuple[int, Row]]]:
        if start >= stop:
            return []
        rows = yield Statement("rows", {"key": key, "start": start, "stop": stop})
        try:
            found: list[tuple[int, Row]] = yield Work(partial(_found, rows), len(rows) > _MANY, False)
        except (TypeError, ValueError) as error:
            raise self._foreign(key) from error
        if len(found) != stop - start:
            now = yield from self.read(key)
            if now is not None and now.epoch == session.epoch:
                raise self._foreign(key)
        return found

    @override
    def newest(self, key: str, count: int | None) -> Operation[list[str]]:
        if count is None:
            rows = yield Statement("bodies", {"key": key})
            yield from self._check_whole(key, len(rows))
        else:
            rows = (yield Statement("newest", {"key": key, "count": count}))[::-1]
        return [body for (body,) in rows]

    @override
    def write(self, key: str, session: Session | None, change: Change, *, is_locked: bool = False) -> Operation[bool]:
        numbers = self._numbers(key, session, change)
        first = change.session.end - len(change.rows)
        can_append = not is_locked and session is not None and change.rows and change.only_appends(session)
        if can_append and self._fits(change.rows):
            return (yield from self._append(numbers, first, change.rows))
        yield Statement("begin")
        saved = yield Statement("begin_session" if session is None else "save", numbers)
        if not saved:
            yield Statement("rollback")
            return False
        ((session_id,),) = saved
        if session is not None:
            if change.keep < session.end:
                yield Statement("cut", {"id": session_id, "keep": change.keep})
            if change.session.first > session.first:
                yield Statement("trim", {"id": session_id, "first": change.session.first})
            if change.forgets:
                yield Statement("forget_starts", {"id": session_id})
            if change.head is not None:
                yield Statement("cut_head", {"id": session_id})
        for position, before in change.settled:
            yield Statement("settle_start", {"id": session_id, "seq": position, "before": before})
        if change.head:
            yield from self._add(session_id, -len(change.head), change.head)
        if change.rows:
            yield from self._add(session_id, first, change.rows)
        yield Statement("commit")
        return True

    @override
    def window(self, key: str, limits: Limits, falls_to_last: bool) -> Operation[Found | None]:
        rows = yield Statement("window", {"key": key, "falls_to_last": falls_to_last, **self._limits(limits)})
        if not rows:
            return None
        try:
            rows.sort(key=_position)
            *numbers, start, question, tokens = json.loads(rows[0][1])
            session = self._session(key, numbers)
            bodies = [body for _, body in rows[1:]]
            if start is None:
                return Found(session, 0, None, -1, 0, [])
            head = sum(seq < 0 for seq, _ in rows[1 : session.head + 1])
            inside = head if limits.includes_head else 0
            wanted = inside + (question is not None) + session.end - max(start, session.first) + max(-start, 0)
            if len(bodies) != wanted or (limits.includes_head and head != session.head):
                raise self._foreign(key)
        except (TypeError, ValueError) as error:
            raise self._foreign(key) from error
        return Found(session, start, question, tokens, head, bodies)

    @override
    def delete(self, key: str, unused_since: float | None = None) -> Operation[bool]:
        before = ALL if unused_since is None else round(unused_since * 1000)
        return bool((yield Statement("delete", {"key": key, "before": before})))

    @override
    def keys(self, prefix: str, after: str | None, limit: int | None) -> Operation[list[str]]:
        count = ALL if limit is None else limit
        rows = yield Statement("keys", {"prefix": prefix, "after": after, "count": count})
        return [key for (key,) in rows]

    @override
    def updated_at(self, key: str) -> Operation[float | None]:
        rows = yield Statement("updated_at", {"key": key})
        return rows[0][0] / 1000 if rows else None

    @override
    def unused(self, before: float, prefix: str) -> Operation[list[str]]:
        rows = yield Statement("unused", {"before": round(before * 1000)})
        return [key for (key,) in rows if key.startswith(prefix)]

    def _limits(self, limits: Limits) -> dict[str, Any]:
        """Return the values of `window` for its limits."""
        raise NotImplementedError

    def _numbers(self, key: str, session: Session | None, change: Change) -> dict[str, Any]:
        known = change.session if session is None else session
        return {
            **change.session._asdict(),
            "key": key,
            "now": round(time.time() * 1000),
            "known_epoch": known.epoch,
            "known_end": known.end,
        }

    def _fits(self, rows: Sequence[RowLike]) -> bool:
        """Return whether `_append` can send rows at once."""
        return True

    def _append(self, numbers: dict[str, Any], first: int, rows: Sequence[RowLike]) -> Operation[bool]:
        """Save a session that only grows, with rows from the position `first` on; see `write`."""
        raise NotImplementedError

    def _add(self, session_id: int, first: int, rows: Sequence[RowLike]) -> Operation[None]:
        """Add rows from the position `first` on."""
        raise NotImplementedError

    def _check_whole(self, key: str, length: int) -> Operation[None]:
        before = yield from self.read(key)
        if before is not None and before.length > length:
            again = yield Statement("bodies", {"key": key})
            after = yield from self.read(key)
            if after == before and len(again) < before.length:
                raise self._foreign(key)

    def _session(self, key: str, numbers: Any) -> Session:
        try:
            return session_of(numbers)
        except (TypeError, ValueError) as error:
            raise self._foreign(key) from error

    def _foreign(self, key: str) -> ForeignDataError:
        return ForeignDataError(f"session {key!r} at {self.url} lacks messages that chatring wrote, or has others")


def _found(rows: list[tuple[Any, ...]]) -> list[tuple[int, Row]]:
    return [(seq, Row(kind, tokens, *rest)) for seq, kind, tokens, *rest in rows]


def _position(row: tuple[Any, ...]) -> int:
    return -ALL if row[0] is None else row[0]
