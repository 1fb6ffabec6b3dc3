"""What each method of `RedisStore` does with a session: once, for sync and async ones."""

from __future__ import annotations

import json
import operator
import os
import time
from collections.abc import Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar

from chatring._core import TokenCounter, _start_among_blank
from chatring.stores import redis_scripts as scripts
from chatring.stores.appended import Appended, blanks_at_end, depends_on_word, takes_long
from chatring.stores.errors import (
    CounterMismatchError,
    ForeignDataError,
    SchemaVersionError,
    StoreError,
    StoreTimeoutError,
    counter_mismatch,
)
from chatring.stores.record import Record
from chatring.stores.redis_layout import keys_of, packed, unpacked
from chatring.stores.store import place_of

_T = TypeVar("_T")

# How long a change is tried that other writers make futile again and again.
_SECONDS = 10
# Records read at first to find the last one that is not blank.
_FIRST_LOOK_BACK = 4
# Rows, and their bytes, that are unpacked in half a millisecond.
_MANY_ROWS, _MANY_BYTES = 1_000, 2**20
# Tokens that are more than any session has, and exact in Lua.
_FAR = 2**53


class Call(NamedTuple):
    """A script to be run with these values; if there is none, the range of a session's rows to be read."""

    script: scripts.Script | None
    keys: tuple[bytes, bytes, bytes]
    arguments: tuple[bytes, ...]


Work: TypeAlias = Generator[Call | None, Any, _T]
"""Yields what the server is to do, is sent its answers, and returns the method's result.

Yields None where what comes next takes so long that an event loop must not wait for it.
"""


class _Race:
    """How long other writers have been quicker, so that a change had to be tried again."""

    def __init__(self, key: str, url: str) -> None:
        self._key, self._url = key, url
        self._lost_first: float | None = None

    def lose(self) -> None:
        """Note that another writer was quicker.

        Raises:
            StoreTimeoutError: if that has been so for `_SECONDS`.
        """
        now = time.monotonic()
        if self._lost_first is None:
            self._lost_first = now
        elif now > self._lost_first + _SECONDS:
            raise StoreTimeoutError(
                f"session {self._key!r} at {self._url} was changed by other writers all the while, for {_SECONDS} "
                "seconds; nothing was done, try again"
            )


class _Session(NamedTuple):
    """What `READ` answers. If there is no session, the counter is empty."""

    stamp: bytes
    counter: bytes
    length: int
    total: int
    before: bytes


class RedisSessions:
    """The sessions of a store.

    A change that depends on what is stored is made for a session of one stamp. If the session has another one by now,
    another writer was quicker, and it is tried again.
    """

    def __init__(self, url: str, counter: TokenCounter, counter_name: str) -> None:
        self._url = url
        self._counter = counter
        self._counter_name = counter_name

    def append(self, key: str, records: list[Record]) -> Work[None]:
        """See `Store.append`."""
        if takes_long(self._counter, records):
            yield None
        stamp, rows, race = _stamp(), packed(records), _Race(key, self._url)
        appended, measured_for = Appended.after_word(self._counter, records), ""
        suits_word = not depends_on_word(self._counter, records)
        suits_empty = suits_word and appended.suits_first
        while True:
            head = self._head(measured_for, suits_word, suits_empty, stamp, self._added(appended))
            refused = yield from self._done(key, scripts.APPEND, head, *rows)
            if not refused:
                return
            if measured_for:  # or it was not measured for a certain state yet
                race.lose()
            read_stamp, first, count, rows_before = refused
            measured_for, suits_word, suits_empty = read_stamp.decode(), False, False
            earlier = yield from self._unpacked(count, rows_before)
            if takes_long(self._counter, earlier, records):
                yield None
            appended = Appended.after(self._counter, earlier, records, first == 0)

    def window(self, key: str, allowance: int) -> Work[list[Record]]:
        """See `Store.window`."""
        allowance = min(allowance, _FAR)
        arguments = (self._counter_name.encode(), b"%d" % allowance)
        first, is_open, count, rows = yield from self._done(key, scripts.WINDOW, *arguments)
        records = yield from self._unpacked(count, rows)
        if is_open and takes_long(self._counter, records):
            yield None
        return records[_start_among_blank(self._counter, records, first == 0, allowance) :] if is_open else records

    def all(self, key: str) -> Work[list[Record]]:
        """See `Store.all`."""
        yield from self._read(key)
        return (yield from self._rows(key, 0))

    def replace(self, key: str, records: list[Record]) -> Work[None]:
        """See `Store.replace`."""
        if takes_long(self._counter, records):
            yield None
        appended = Appended.after(self._counter, [], records, True)
        head = self._head(_stamp(), self._added(appended))
        yield from self._done(key, scripts.REPLACE, head, *packed(records))

    def delete(self, key: str) -> Work[bool]:
        """See `Store.delete`."""
        (existed,) = yield from self._done(key, scripts.DELETE)
        return bool(existed)

    def pop(self, key: str, index: int) -> Work[Record]:
        """See `Store.pop`."""
        index = operator.index(index)
        look_back, race = _FIRST_LOOK_BACK, _Race(key, self._url)
        while True:
            session = yield from self._read(key)
            place = place_of(index, session.length)
            self._check_counter(key, session)
            first = max(place - look_back, 0)
            # If the session is not the one of the stamp by now, nothing will come of them.
            records = yield from self._rows(key, first - session.length)
            at = place - first
            blank_tail = blanks_at_end(records[:at])
            if blank_tail == at < place:
                look_back *= 4
                continue
            if len(records) == session.length - first:
                if takes_long(self._counter, records):
                    yield None
                earlier = records[max(at - blank_tail - 1, 0) : at]
                removed = Appended.after(self._counter, earlier, records[at:], place == len(earlier))
                total = session.total - removed.total
                if (yield from self._count_anew(key, session, place, total, earlier, records[at + 1 :])):
                    return records[at]
            race.lose()

    def length(self, key: str) -> Work[int]:
        """See `Store.length`."""
        return (yield from self._read(key)).length

    def token_count(self, key: str) -> Work[int]:
        """See `Store.token_count`."""
        session = yield from self._read(key)
        if not session.counter:
            return 0
        self._check_counter(key, session)
        if session.before:
            return session.total - int(float(session.before))
        records = yield from self._rows(key, 0)  # all of them blank
        if takes_long(self._counter, records):
            yield None
        return self._counter.count(" ".join(record.text for record in records)) if records else 0

    def recount(self, key: str) -> Work[None]:
        """See `Store.recount`."""
        race = _Race(key, self._url)
        while (session := (yield from self._read(key))).counter:
            records = yield from self._rows(key, 0)
            if takes_long(self._counter, records):
                yield None
            if len(records) == session.length and (yield from self._count_anew(key, session, 0, 0, [], records)):
                return
            race.lose()

    # What these are made of.

    def _done(self, key: str, script: scripts.Script, *arguments: bytes) -> Work[list[Any]]:
        """Return a script's answer without its first word; empty if it has nothing to say but that it is done.

        Raises:
            StoreError: if the word says so.
        """
        answer = yield Call(script, keys_of(key), arguments)
        if answer == 1:
            return []
        match answer:
            case [b"ok" | b"tail", *rest]:
                return rest
            case [b"changed"]:
                return [True]
            case [b"counter", bytes() as name]:
                raise self._counter_mismatch(key, name)
            case [b"version", bytes() as version]:
                raise SchemaVersionError(
                    f"session {key!r} at {self._url} has layout {version.decode()}, this chatring knows layout "
                    f"{scripts.VERSION}; use the chatring that wrote it, or a newer one"
                )
            case [b"tokens"]:
                raise _too_many_tokens()
        raise ForeignDataError(
            f"session {key!r} at {self._url} was not written by chatring, or the server evicted a part of it "
            "(maxmemory-policy must be noeviction); delete its keys to begin it anew"
        )

    def _read(self, key: str) -> Work[_Session]:
        return _Session._make((yield from self._done(key, scripts.READ)))

    def _rows(self, key: str, first: int) -> Work[list[Record]]:
        """Return a session's records from the place `first` on, negative from the end.

        Not by a script, which would take many times the memory.
        """
        rows = yield Call(None, keys_of(key), (b"%d" % first, b"-1"))
        return (yield from self._unpacked(len(rows), b"".join(rows)))

    def _unpacked(self, count: int, rows: bytes) -> Work[list[Record]]:
        if count > _MANY_ROWS or len(rows) > _MANY_BYTES:
            yield None
        return unpacked(count, rows)

    def _count_anew(
        self, key: str, session: _Session, place: int, total: int, earlier: list[Record], rest: list[Record]
    ) -> Work[bool]:
        """Count a session's last records anew, perhaps without the one before them. Return whether it still was so.

        Args:
            key: the session.
            session: as it was read.
            place: how many records stay as they are; if one comes between them and `rest`, it is removed.
            total: the tokens of these.
            earlier: the last of these, from the nearest one on that is not blank, or from the first.
            rest: the session's last records.
        """
        appended = Appended.after(self._counter, earlier, rest, place == len(earlier))
        if abs(total + appended.total) > scripts.MOST_TOKENS:
            raise _too_many_tokens()
        kept = [place, place + len(rest) < session.length, total, blanks_at_end(earlier)]
        head = self._head(session.stamp.decode(), _stamp(), self._added(appended), *kept)
        return not (yield from self._done(key, scripts.RECOUNT, head))

    def _head(self, *values: object) -> bytes:
        return json.dumps([self._counter_name, *values]).encode()

    def _added(self, appended: Appended) -> list[object]:
        # An encoding's tokens are never more than the bytes. A callable may say 2**40 of each text.
        if not self._counter.is_native and any(abs(total) > scripts.MOST_TOKENS for total in appended.sums):
            raise _too_many_tokens()
        starts = [number for start in appended.starts for number in start]
        return [appended.total, appended.blank_tail, appended.closed, starts]

    def _check_counter(self, key: str, session: _Session) -> None:
        if session.counter != self._counter_name.encode():
            raise self._counter_mismatch(key, session.counter)

    def _counter_mismatch(self, key: str, name: bytes) -> CounterMismatchError:
        return counter_mismatch(key, name.decode(errors="replace"), self._counter_name)


def _too_many_tokens() -> StoreError:
    return StoreError(f"a session must have at most 2**52 tokens ({scripts.MOST_TOKENS:,}) here; nothing was stored")


def _stamp() -> str:
    """Return what tells one state of a session from every other."""
    return os.urandom(8).hex()
