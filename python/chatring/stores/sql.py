"""`SQLStore`: sessions in SQLite or PostgreSQL, of which a window is read with one statement."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from chatring._core import _is_blank, _start_among_blank
from chatring.stores import sql_statements as sql
from chatring.stores.appended import Appended, depends_on_word
from chatring.stores.errors import CounterMismatchError
from chatring.stores.record import Record, check_key, check_records
from chatring.stores.sql_database import Access, Cursor, Database
from chatring.stores.sql_session import Session, check_whole, encoded, records_of
from chatring.stores.store import Store, check_limits, place_of

_T = TypeVar("_T")
_Work = Callable[[Cursor], _T]

# Tokens. No session has so many, and sums less this are still numbers of 64 bits.
_LARGEST_ALLOWANCE = 2**62


class SQLStore(Store):
    """Sessions in SQLite (3.35 or newer) or PostgreSQL.

    The tables are made at the first call. Any number of processes may append to one session: a writer holds its session
    (on SQLite: the database) from the first statement to the commit. A change whose async call is cancelled is made as
    a whole or not at all; on SQLite perhaps a moment later.

    Args:
        url: `sqlite:///chat.db` (a file; four slashes for an absolute path), `sqlite://` (in memory), or
            `postgresql://user:password@host/database`. SQLite takes `?synchronous=NORMAL`: faster, but the last appends
            before a power cut may be lost.
        counter: as in `Store`.
        counter_name: as in `Store`.

    Raises:
        ValueError: if the URL is not one of these, or a counter that needs a name has none.
        ModuleNotFoundError: if the database's driver is not installed.
    """

    def __init__(self, url: str, *, counter: Any = "cl100k_base", counter_name: str | None = None) -> None:
        super().__init__(counter, counter_name)
        self._database = Database(url)

    def __repr__(self) -> str:
        return f"SQLStore({self.url!r}, counter={self.counter_name!r})"

    @property
    def url(self) -> str:
        """The URL, without its secrets."""
        return self._database.url

    @property
    def is_in_memory(self) -> bool:
        """As in `Store`."""
        return self._database.is_in_memory

    def append(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`."""
        checked = _checked(key, records)
        appended = Appended.after_word(self.counter, checked)
        if len(checked) == 1 and self._database.run(*self._append_one(key, checked[0], appended)):
            return
        if checked:
            self._change(self._append(key, checked, appended))

    def window(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As in `Store`. One statement."""
        return self._read(self._window(key, token_limit, initial_token_count))

    def all(self, key: str) -> list[Record]:
        """As in `Store`."""
        return self._read(self._all(key))

    def replace(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`."""
        self._change(self._replace(key, records))

    def delete(self, key: str) -> bool:
        """As in `Store`."""
        return self._change(self._delete(key))

    def pop(self, key: str, index: int = -1) -> Record:
        """As in `Store`."""
        return self._change(self._pop(key, index))

    def keys(self) -> list[str]:
        """As in `Store`."""
        return self._read(self._keys)

    def length(self, key: str) -> int:
        """As in `Store`."""
        return self._read(self._length(key))

    def token_count(self, key: str) -> int:
        """As in `Store`."""
        return self._read(self._token_count(key))

    def recount(self, key: str) -> None:
        """As in `Store`."""
        self._change(self._recount(key))

    def close(self) -> None:
        """As in `Store`. What is in memory is gone."""
        self._database.close()

    async def aappend(self, key: str, records: Iterable[Record]) -> None:
        """As `append`."""
        checked = _checked(key, records)
        appended = Appended.after_word(self.counter, checked)
        if len(checked) == 1 and await self._database.arun(*self._append_one(key, checked[0], appended)):
            return
        if checked:
            await self._achange(self._append(key, checked, appended))

    async def awindow(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As `window`."""
        return await self._aread(self._window(key, token_limit, initial_token_count))

    async def aall(self, key: str) -> list[Record]:
        """As `all`."""
        return await self._aread(self._all(key))

    async def areplace(self, key: str, records: Iterable[Record]) -> None:
        """As `replace`."""
        await self._achange(self._replace(key, records))

    async def adelete(self, key: str) -> bool:
        """As `delete`."""
        return await self._achange(self._delete(key))

    async def apop(self, key: str, index: int = -1) -> Record:
        """As `pop`."""
        return await self._achange(self._pop(key, index))

    async def akeys(self) -> list[str]:
        """As `keys`."""
        return await self._aread(self._keys)

    async def alength(self, key: str) -> int:
        """As `length`."""
        return await self._aread(self._length(key))

    async def atoken_count(self, key: str) -> int:
        """As `token_count`."""
        return await self._aread(self._token_count(key))

    async def arecount(self, key: str) -> None:
        """As `recount`."""
        await self._achange(self._recount(key))

    async def aclose(self) -> None:
        """Close the connections that async methods opened in this event loop; on SQLite, as `close`.

        What is in memory stays.
        """
        await self._database.aclose()

    # What each method does, once it has a connection: the same for sync and async ones.

    def _append(self, key: str, records: list[Record], measured: Appended) -> _Work[None]:
        appended = None if depends_on_word(self.counter, records) else measured

        def change(cursor: Cursor) -> None:
            session = self._begun(cursor, key)
            self._check_counter(key, session.counter)
            session.extend(cursor, self.counter, records, appended)

        return change

    def _append_one(self, key: str, record: Record, appended: Appended) -> tuple[Access, _Work[bool]]:
        """Return the short way to append. It does nothing, and says so, if the session does not end in a word.

        PostgreSQL: one round trip instead of five. SQLite: a third less time.
        """
        values = {
            "session_key": key,
            "session_counter": self.counter_name,
            "step": appended.total,
            "start": appended.starts[0][1] if appended.starts else None,
            "blanks": appended.blank_tail,
            "ends_closed": appended.closed,
        }
        columns = {"role": record.role, "text": encoded(record.text), "payload": record.payload}

        def change(cursor: Cursor) -> bool:
            counted = cursor.fetch(sql.COUNT_ONE, **values)
            for session_id, seq, total, before in counted:
                cursor.run(sql.ADD_MESSAGE, session_id=session_id, seq=seq, total=total, before=before, **columns)
            return bool(counted)

        if self._database.dialect == "sqlite":
            return Access.TRANSACTION, change
        return Access.STATEMENTS, lambda cursor: bool(cursor.fetch(sql.APPEND_ONE, **values, **columns))

    def _window(self, key: str, token_limit: int, initial_token_count: int) -> _Work[list[Record]]:
        check_key(key)
        allowance = min(check_limits(token_limit, initial_token_count), _LARGEST_ALLOWANCE)
        values = {"key": key, "counter": self.counter_name, "allowance": allowance}

        def read(cursor: Cursor) -> list[Record]:
            records = records_of(cursor.fetch(sql.WINDOW, **values))
            if not records:
                for counter, ends in cursor.fetch(sql.COUNTER_AND_END, key=key):
                    self._check_counter(key, counter)
                    check_whole(key, ends)
                return []
            if not all(_is_blank(record.text) for record in records):
                return records
            # No start before the blank messages at the end fits. Whether the first of them is the history's first must
            # be read with them; read always, it would make every window slower.
            rows = cursor.fetch(sql.NUMBERED_WINDOW, **values)
            records = records_of([row[:3] for row in rows])
            if not all(_is_blank(record.text) for record in records):  # another writer's work
                return records
            from_first = bool(rows) and rows[0][3] == 0
            return records[_start_among_blank(self.counter, records, from_first, allowance) :]

        return read

    def _all(self, key: str) -> _Work[list[Record]]:
        check_key(key)
        return lambda cursor: _all_records(cursor, key)

    def _replace(self, key: str, records: Iterable[Record]) -> _Work[None]:
        checked = _checked(key, records)
        appended = Appended.after_word(self.counter, checked)

        def change(cursor: Cursor) -> None:
            session = self._begun(cursor, key)
            session.cut(cursor, 0)
            session.counter = self.counter_name
            session.extend(cursor, self.counter, checked, appended)

        return change

    def _delete(self, key: str) -> _Work[bool]:
        check_key(key)

        def change(cursor: Cursor) -> bool:
            session = Session.lock(cursor, key)
            if session is not None:
                cursor.run(sql.DELETE_MESSAGES, id=session.id, first=0)
                cursor.run(sql.DELETE_SESSION, id=session.id)
            return session is not None

        return change

    def _pop(self, key: str, index: int) -> _Work[Record]:
        check_key(key)
        index = operator.index(index)

        def change(cursor: Cursor) -> Record:
            session = Session.lock(cursor, key)
            place = place_of(index, session.length if session is not None else 0)
            assert session is not None  # or it would have no place
            self._check_counter(key, session.counter)
            popped, *rest = session.records_from(cursor, place)
            session.cut(cursor, place)
            session.extend(cursor, self.counter, rest)
            return popped

        return change

    def _keys(self, cursor: Cursor) -> list[str]:
        return [key for (key,) in cursor.fetch(sql.KEYS)]

    def _length(self, key: str) -> _Work[int]:
        check_key(key)

        def read(cursor: Cursor) -> int:
            rows = cursor.fetch(sql.COUNTER_AND_LENGTH, key=key)
            return rows[0][1] if rows else 0

        return read

    def _token_count(self, key: str) -> _Work[int]:
        check_key(key)

        def read(cursor: Cursor) -> int:
            rows = cursor.fetch(sql.COUNTER_LENGTH_AND_TOKENS, key=key)
            if not rows:
                return 0
            counter, length, tokens = rows[0]
            self._check_counter(key, counter)
            if tokens is None and length:  # all messages are blank
                records = _all_records(cursor, key)
                tokens = self.counter.count(" ".join(record.text for record in records))
            return tokens or 0

        return read

    def _recount(self, key: str) -> _Work[None]:
        check_key(key)

        def change(cursor: Cursor) -> None:
            session = Session.lock(cursor, key)
            if session is not None:
                records = session.records_from(cursor, 0)
                session.cut(cursor, 0)
                session.counter = self.counter_name
                session.extend(cursor, self.counter, records)

        return change

    def _begun(self, cursor: Cursor, key: str) -> Session:
        return Session.begin(cursor, key, self.counter_name)

    def _check_counter(self, key: str, counter: str) -> None:
        if counter != self.counter_name:
            raise CounterMismatchError(
                f"session {key!r} was counted with {counter!r}, this store counts with {self.counter_name!r}; "
                f"open it with that counter, or call recount({key!r})"
            )

    def _read(self, work: _Work[_T]) -> _T:
        return self._database.run(Access.STATEMENTS, work)

    def _change(self, work: _Work[_T]) -> _T:
        return self._database.run(Access.TRANSACTION, work)

    async def _aread(self, work: _Work[_T]) -> _T:
        return await self._database.arun(Access.STATEMENTS, work)

    async def _achange(self, work: _Work[_T]) -> _T:
        return await self._database.arun(Access.TRANSACTION, work)


def _checked(key: str, records: Iterable[Record]) -> list[Record]:
    check_key(key)
    return check_records(records)


def _all_records(cursor: Cursor, key: str) -> list[Record]:
    rows = cursor.fetch(sql.ALL, key=key)
    if rows:
        check_whole(key, rows[0][3] == len(rows))
    else:
        for _, ends in cursor.fetch(sql.COUNTER_AND_END, key=key):
            check_whole(key, ends)
    return records_of([row[:3] for row in rows])
