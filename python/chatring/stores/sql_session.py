"""`Session`: the row of a session, and the changes that keep it and its messages together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chatring._core import _is_blank
from chatring.stores import sql_statements as sql
from chatring.stores.appended import Appended, blanks_at_end
from chatring.stores.errors import ForeignDataError
from chatring.stores.record import Record
from chatring.stores.sql_database import Cursor
from chatring.stores.sql_steps import Counting

# Records read at first to find the last one that is not blank.
_FIRST_LOOK_BACK = 4
# Bytes of messages that go to PostgreSQL at once, which takes 1 GiB at most. Those of a message besides its contents.
_PART_BYTES = 2**26
_ROW_BYTES = 64


@dataclass
class Session:
    """A session that its transaction has locked until it ends. The columns are those of the table."""

    id: int
    key: str
    counter: str
    length: int
    total: int
    reach: int | None
    blank_tail: int
    closed: bool

    @classmethod
    def lock(cls, cursor: Cursor, key: str) -> Session | None:
        """Return a session; None if there is none."""
        rows = cursor.fetch(sql.LOCK_SESSION, key=key)
        return cls(*rows[0]) if rows else None

    @classmethod
    def begin(cls, cursor: Cursor, key: str, counter: str) -> Session:
        """Return a session, which begins now if there is none."""
        while (session := cls.lock(cursor, key)) is None:
            cursor.run(sql.BEGIN_SESSION[cursor.dialect], key=key, counter=counter)
        return session

    def records_from(self, cursor: Cursor, first: int) -> list[Record]:
        """Return the records from the one at `first` on."""
        return self._whole(records_of(cursor.fetch(sql.RECORDS_FROM, id=self.id, first=first)), self.length - first)

    def cut(self, cursor: Cursor, length: int) -> None:
        """Keep the first `length` records. The row is changed only by `extend`."""
        cursor.run(sql.DELETE_MESSAGES, id=self.id, first=length)
        self.length, self.total, self.blank_tail, self.closed = length, 0, 0, True
        count = _FIRST_LOOK_BACK
        while length:
            rows = cursor.fetch(sql.NEWEST, id=self.id, length=length, count=count)[::-1]
            records = self._whole(records_of([row[:3] for row in rows]), min(count, length))
            self.total, self.blank_tail = rows[-1][3], blanks_at_end(records)
            self.closed = not _is_blank(records[-1].text[-1:])
            if self.blank_tail < len(records) or len(records) < count:
                break
            count *= 2
        # The first word after these blank messages is gone, and with it what is known of windows that begin with them.
        cursor.run(sql.FORGET_STARTS, id=self.id, first=length - self.blank_tail)
        self.reach = cursor.fetch(sql.REACH, id=self.id)[0][0]

    def extend(
        self, cursor: Cursor, counting: Counting, records: list[Record], appended: Appended | None = None
    ) -> None:
        """Add records to the end, and change the row.

        Args:
            cursor: of the transaction.
            counting: counts them.
            records: what is added.
            appended: them, measured `Appended.after_word`, if that is the same after any word.

        Raises:
            UncountedError: if they must be counted before the transaction.
        """
        if records:
            self._add(cursor, counting, records, appended)
        cursor.run(
            sql.SAVE_SESSION,
            id=self.id,
            counter=self.counter,
            length=self.length,
            total=self.total,
            reach=self.reach,
            blank_tail=self.blank_tail,
            closed=self.closed,
        )

    def _add(self, cursor: Cursor, counting: Counting, records: list[Record], appended: Appended | None) -> None:
        earlier: list[Record] = []
        from_first = self.length == 0
        if not (from_first or (self.closed and appended is not None)):
            first = max(self.length - self.blank_tail - 1, 0)
            from_first = first == 0
            earlier = self.records_from(cursor, first)
        if appended is None or earlier or (from_first and not appended.suits_first):
            appended = counting.after(earlier, records, from_first)
        # `before` of the messages that a window may begin with, by place, less those that are hidden.
        before: dict[int, int] = {}
        for place, relative in appended.starts:
            if self.reach is None or self.total + relative >= self.reach:
                self.reach = before[place] = self.total + relative
        settled = [
            {"id": self.id, "seq": self.length + place, "start": start} for place, start in before.items() if place < 0
        ]
        if settled:
            cursor.run_many(sql.SETTLE_START, settled)
        _add_messages(
            cursor,
            self.id,
            seq=list(range(self.length, self.length + len(records))),
            role=[record.role for record in records],
            text=[encoded(record.text) for record in records],
            payload=[record.payload for record in records],
            total=[self.total + sum_ for sum_ in appended.sums],
            before=[before.get(place) for place in range(len(records))],
        )
        self.length += len(records)
        self.total += appended.total
        self.blank_tail, self.closed = appended.blank_tail, appended.closed

    def _whole(self, records: list[Record], length: int) -> list[Record]:
        check_whole(self.key, len(records) == length)
        return records


def check_whole(key: str, is_whole: bool) -> None:
    """Refuse a session that somebody else took messages from, or gave some.

    Raises:
        ForeignDataError: if it is not whole.
    """
    if not is_whole:
        raise ForeignDataError(f"session {key!r} lacks messages that chatring wrote, or has others")


def records_of(rows: list[tuple[Any, ...]]) -> list[Record]:
    """Return the records of rows that have the columns role, text and payload.

    Raises:
        ForeignDataError: if one is not as chatring writes them.
    """
    make = tuple.__new__  # half the time of Record()
    try:
        try:
            return [make(Record, (role, text.decode(), payload)) for role, text, payload in rows]
        except UnicodeDecodeError:  # a surrogate without a partner
            return [Record(role, text.decode("utf-8", "surrogatepass"), payload) for role, text, payload in rows]
    except (AttributeError, UnicodeDecodeError) as error:
        raise ForeignDataError("a row of chatring_message was not written by chatring: its text is no UTF-8") from error


def encoded(text: str) -> bytes:
    """Return what the column of a text has."""
    return text.encode("utf-8", "surrogatepass")


def _add_messages(cursor: Cursor, session_id: int, **columns: list[Any]) -> None:
    if cursor.dialect == "postgresql":
        for part in _parts(*(columns[name] for name in ("role", "text", "payload"))):
            lists = {name: values[part] for name, values in columns.items()}
            # PostgreSQL cannot tell of which type a list of nothing but None is.
            typed = {name: None if all(value is None for value in values) else values for name, values in lists.items()}
            cursor.run(sql.ADD_MESSAGES, session_id=session_id, **typed)
    else:
        rows = zip(*columns.values(), strict=True)
        cursor.run_many(
            sql.ADD_MESSAGE, [{"session_id": session_id, **dict(zip(columns, row, strict=True))} for row in rows]
        )


def _parts(*contents: list[Any]) -> Iterator[slice]:
    """Return the places of rows with these contents in parts of some `_PART_BYTES`, or of one larger row."""
    first = size = 0
    for place, row in enumerate(zip(*contents, strict=True)):
        added = _ROW_BYTES + sum(len(value) for value in row if value is not None)
        if size and size + added > _PART_BYTES:
            yield slice(first, place)
            first, size = place, 0
        size += added
    yield slice(first, None)
