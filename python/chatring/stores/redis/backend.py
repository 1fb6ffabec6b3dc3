"""`RedisBackend`: what `Store` needs, as calls of scripts."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

from chatring.overriding import override
from chatring.stores.backend import Backend
from chatring.stores.errors import ForeignDataError, SchemaVersionError, StoreError
from chatring.stores.operation import AsyncConnection, Connection, Operation, arun, run
from chatring.stores.redis.connection import Call, Scan, Times
from chatring.stores.redis.layout import MOST_BYTES, Names, bodies_of, member_of, packed, starts_of, unpacked
from chatring.stores.redis.scripts import Script, Scripts
from chatring.stores.redis.server import RedisServer
from chatring.stores.redis.url import LONGEST
from chatring.stores.session import Change, Found, Limits, Row, Session
from chatring.stores.session_numbers import session_of

_T = TypeVar("_T")

# The largest sum of tokens: scores and Lua's numbers are doubles, exact up to 2**53.
_MOST_TOKENS = 2**52
# More than any sum, and exact in Lua.
_FAR = 2**53
# Rows to read at once: a script puts its whole answer into memory before the server sends it.
_ROWS_AT_ONCE = 5_000
# How often to read a session in parts, when changes keep interrupting the reads, before reading it at once.
_TRIES = 3
# Milliseconds for which a writer that others have outrun has a session for itself.
_CLAIMED = 3_000
# Sessions to ask for their times at once.
_TIMES_AT_ONCE = 500


class _Part(NamedTuple):
    """The answer of `rows.lua`."""

    session: Session
    forgotten: int
    head: bytes
    start: int
    position: int
    length: int
    rows: bytes


class RedisBackend(Backend):
    """Redis or Valkey.

    Args:
        server: the connections.
        prefix: what all keys begin with.
        ttl: seconds after which an unchanged session expires; None: never.
        scripts: those of another version of the layout.

    Raises:
        TypeError, ValueError: for an invalid prefix, or a `ttl` that is not a number above 0.
    """

    def __init__(
        self, server: RedisServer, *, prefix: str = "chatring", ttl: float | None = None, scripts: Scripts | None = None
    ) -> None:
        if ttl is not None and (
            not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or not 0.001 <= ttl < _FAR / 1000
        ):
            raise ValueError(f"ttl must be a number of seconds above 0, got {ttl!r}")
        self._server = server
        self._names = Names(prefix)
        self._lifetime = "" if ttl is None else str(round(ttl * 1000))
        self._scripts = Scripts() if scripts is None else scripts
        self._id = secrets.token_hex(8)
        self.url = server.url
        self.turns = server.turns

    @override
    def run(self, operation: Operation[_T], deadline: float, turn: str | None = None) -> _T:
        return run(operation, lambda: self._lend(deadline, turn))

    @override
    async def arun(self, operation: Operation[_T], deadline: float, turn: str | None = None) -> _T:
        return await arun(operation, lambda: self._alend(deadline, turn))

    @override
    def turn_of(self, key: str) -> str:
        return key

    @override
    def read(self, key: str, *, lock: bool = False) -> Operation[Session | None]:
        # Other writers wait for `_CLAIMED` at most.
        if lock:
            answer = yield from self._call(key, self._scripts.claim, self._writer(), _CLAIMED)
        else:
            answer = yield from self._call(key, self._scripts.read)
        return None if answer is None else self._session(key, answer[0])

    @override
    def unlock(self) -> Operation[None]:
        # Others go on when the time is over.
        return
        yield

    @override
    def rows(self, key: str, session: Session, start: int, stop: int) -> Operation[list[tuple[int, Row]]]:
        found: list[tuple[int, Row]] = []
        if start >= stop:
            return found
        now = session
        for part in (yield from self._parts(key, start, stop)):
            now = part.session
            try:
                if part.start < 0:
                    head = [*enumerate(unpacked(part.head), -now.head)]
                    if len(head) != now.head:
                        raise self._foreign(key)
                    found += [row for row in head if start <= row[0] < stop]
                for position, row in enumerate(unpacked(part.rows), part.position):
                    is_forgotten = position < part.forgotten
                    found.append((position, row._replace(before=None, question=None) if is_forgotten else row))
            except ValueError as error:
                raise self._foreign(key) from error
        if len(found) != stop - start and now.epoch == session.epoch and (yield from self.read(key)) is not None:
            raise self._foreign(key)
        return found

    @override
    def newest(self, key: str, count: int | None) -> Operation[list[str]]:
        bodies: list[str] = []
        parts = yield from self._parts(key, count=_FAR if count is None else min(count, _FAR))
        try:
            for part in parts:
                if part.start < 0:
                    bodies += bodies_of(part.head, part.session.head)[part.start :]
                bodies += bodies_of(part.rows, part.length)
        except ValueError as error:
            raise self._foreign(key) from error
        return bodies

    @override
    def write(self, key: str, session: Session | None, change: Change, *, is_locked: bool = False) -> Operation[bool]:
        new = change.session
        if max(map(abs, (new.head_tokens, new.base, new.total, new.reach or 0))) > _MOST_TOKENS:
            raise StoreError(f"a session must have at most 2**52 tokens ({_MOST_TOKENS:,}) here; nothing was stored")
        rows, head = packed(change.rows), b"".join(packed(change.head or []))
        if (size := sum(map(len, rows)) + len(head)) > MOST_BYTES:
            raise ValueError(
                f"messages must have at most {MOST_BYTES:,} bytes at once, got {size:,}; append them in parts"
            )
        starts = starts_of(change.rows, new.end - len(change.rows))
        if change.head:
            starts += starts_of(change.head, -len(change.head))
        answer: int = yield from self._call(
            key,
            self._scripts.write,
            "" if session is None else json.dumps(session),
            0 if session is None else 1 + session.end - session.first,
            json.dumps(new),
            secrets.token_hex(8),
            round(time.time() * 1000),
            self._lifetime,
            len(starts),
            self._writer(),
            head,
            "" if session is not None and change.only_appends(session) else _plan(session, change),
            *starts,
            *rows,
        )
        return answer == 1

    @override
    def window(self, key: str, limits: Limits, falls_to_last: bool) -> Operation[Found | None]:
        room, includes_head, least, blocks = limits
        pairs = [max(-_FAR, min(number, _FAR)) for pair in zip(least, blocks, strict=True) for number in pair]
        answer = yield from self._call(
            key, self._scripts.window, min(room, _FAR), int(includes_head), int(falls_to_last), json.dumps(pairs)
        )
        if answer is None:
            return None
        session = self._session(key, answer[0])
        if not answer[1]:
            return Found(session, 0, None, -1, 0, [])
        start, tokens = int(answer[1]), int(answer[3])
        question = int(answer[2]) if answer[2] else None
        head = session.head if includes_head else max(-start, 0)
        try:
            bodies = bodies_of(
                b"".join(answer[4]), head + (question is not None) + session.end - max(start, session.first)
            )
        except ValueError as error:
            raise self._foreign(key) from error
        return Found(session, start, question, tokens, head, bodies)

    @override
    def delete(self, key: str, unused_since: float | None = None) -> Operation[bool]:
        # Also of layout 1.
        before = "" if unused_since is None else round(unused_since * 1000)
        try:
            (existed,) = yield from self._call(key, self._scripts.delete, before)
        except SchemaVersionError as error:
            if unused_since is not None:
                raise
            _, existed = yield Call(self._scripts.delete_layout_1, self._names.of_layout_1(key), ())
            if not existed:
                raise error from None
        return bool(existed)

    @override
    def keys(self, prefix: str, after: str | None, limit: int | None) -> Operation[list[str]]:
        # The server looks at all its keys, of whatever kind, so its time grows with their number. A set of the sessions
        # would be faster but wrong: a cluster cannot change it and a session in one step, and a writer may be killed
        # between two steps.
        names = yield Scan(self._names.pattern(prefix))
        keys = sorted(self._names.session_of(name) for name in names)  # as UTF-8 sorts them
        if after is not None:
            keys = [key for key in keys if key > after]
        return keys if limit is None else keys[:limit]

    @override
    def updated_at(self, key: str) -> Operation[float | None]:
        answer = yield from self._call(key, self._scripts.read)
        return None if answer is None else int(answer[1]) / 1000

    @override
    def unused(self, before: float, prefix: str) -> Operation[list[str]]:
        names = sorted((yield Scan(self._names.pattern(prefix))))
        unused = []
        for at in range(0, len(names), _TIMES_AT_ONCE):
            some = names[at : at + _TIMES_AT_ONCE]
            times = yield Times(some)
            unused += [
                self._names.session_of(name)
                for name, changed in zip(some, times, strict=True)
                if changed is not None and changed < before * 1000
            ]
        return unused

    @override
    def close(self) -> None:
        self._server.close()

    @override
    async def aclose(self) -> None:
        await self._server.aclose()

    @contextmanager
    def _lend(self, deadline: float, turn: str | None) -> Iterator[Connection]:
        # Measured from the first call on: time spent counting holds no turn.
        begun = time.monotonic()
        deadline = min(deadline, begun + LONGEST)
        with (
            nullcontext() if turn is None else self.turns.of(turn, deadline, self.url),
            self._server.lend(time.monotonic() - begun) as lent,
        ):
            yield lent

    @asynccontextmanager
    async def _alend(self, deadline: float, turn: str | None) -> AsyncIterator[AsyncConnection]:
        begun = time.monotonic()
        deadline = min(deadline, begun + LONGEST)
        async with (
            nullcontext() if turn is None else self.turns.of(turn, deadline, self.url),
            self._server.alend(time.monotonic() - begun) as lent,
        ):
            yield lent

    def _call(self, key: str, script: Script, *arguments: Any) -> Operation[Any]:
        """Return the answer of a script: everything behind `ok`; None if there is no such session; or a number."""
        while True:
            answer = yield Call(script, self._names.of(key), arguments)
            if not isinstance(answer, list):
                return answer
            match answer:
                case [b"ok", *rest]:
                    return rest
                case [b"none"]:
                    return None
                case [b"changed"]:
                    return answer
                case [b"version", bytes() as version] if int(version) in self._scripts.upgrades:
                    yield Call(self._scripts.upgrade, self._names.of(key), ())
                    continue
                case [b"version", bytes() as version]:
                    raise self._other_version(key, int(version))
            raise self._foreign(key)

    def _parts(self, key: str, start: int = 0, stop: int = 0, count: int | None = None) -> Operation[list[_Part]]:
        """Read rows. All are from one state of a session, except for messages appended meanwhile."""
        for attempt in range(_TRIES + 1):
            most = _ROWS_AT_ONCE if attempt < _TRIES else _FAR
            parts: list[_Part] = []
            epoch: Any = ""
            begin, last, number = start, stop, "" if count is None else count
            while True:
                answer = yield from self._call(key, self._scripts.rows, epoch, begin, last, number, most)
                if answer == [b"changed"] or (answer is None and parts):
                    break
                if answer is None:
                    return []
                session = self._session(key, answer[0])
                if number != "":
                    last, number = session.end, ""
                position = int(answer[4])
                until = max(position, min(last, session.end, position + most))
                head_from = 0 if parts else int(answer[3])
                parts.append(
                    _Part(
                        session,
                        int(answer[1] or 0),
                        answer[2],
                        head_from,
                        position,
                        until - position,
                        b"".join(answer[5]),
                    )
                )
                begin, epoch = until, session.epoch
                if begin >= min(last, session.end):
                    return parts
        return parts

    def _writer(self) -> str:
        # Within a process, the writers of a session wait for each other.
        return f"{self._id}.{os.getpid()}"

    def _session(self, key: str, numbers: bytes) -> Session:
        try:
            return session_of(json.loads(numbers))
        except (TypeError, ValueError) as error:
            raise self._foreign(key) from error

    def _foreign(self, key: str) -> ForeignDataError:
        return ForeignDataError(
            f"session {key!r} at {self.url} was not written by chatring, or the server evicted part of it "
            "(maxmemory-policy must be noeviction); delete its keys to begin again"
        )

    def _other_version(self, key: str, version: int) -> SchemaVersionError:
        if version < self._scripts.version:
            return SchemaVersionError(
                f"session {key!r} at {self.url} was written by chatring's unreleased layout {version}, which this one "
                f"cannot read; delete({key!r}) removes it"
            )
        return SchemaVersionError(
            f"session {key!r} at {self.url} has layout {version}, this chatring knows layout {self._scripts.version}; "
            "use the chatring that wrote it, or a newer one"
        )


def _plan(session: Session | None, change: Change) -> str:
    """Return what there is to do apart from appending, as `write.lua` takes it."""
    new = change.session
    plan: dict[str, Any] = {"grows": True, "settled": [], "has_head": change.head is not None}
    if session is not None:
        plan["grows"] = new.length > session.length
        if change.keep < session.end:
            plan["cut"], plan["kept"] = change.keep, max(change.keep - session.first, 0)
        if new.first > session.first:
            plan["first"], plan["trims"] = new.first, new.first - session.first
        if change.forgets:
            plan["forgets"] = change.keep
        for position, before in change.settled:
            plan["settled"].append([position - change.keep, str(before), member_of(position, None)])
    return json.dumps(plan)
