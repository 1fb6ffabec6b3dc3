"""`SQLStore`: sessions in SQLite or PostgreSQL, of which a window is read with one statement."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from chatring._core import _is_blank, _start_among_blank
from chatring.stores import sql_statements as sql
from chatring.stores.appended import Appended, depends_on_word, load, takes_long
from chatring.stores.errors import counter_mismatch
from chatring.stores.record import Record, acheck_records, check_key, check_records
from chatring.stores.sql_database import Access, Cursor, Database
from chatring.stores.sql_session import Session, check_whole, encoded, records_of
from chatring.stores.sql_steps import Count, Counting, Run, Steps, UncountedError, ado, do
from chatring.stores.store import Store, check_limits, place_of

_T = TypeVar("_T")
_Change = Callable[[Cursor, Counting], _T]

# Tokens. No session has so many, and sums less this are still numbers of 64 bits.
_LARGEST_ALLOWANCE = 2**62


class SQLStore(Store):
    """Sessions in SQLite (3.35 or newer) or PostgreSQL.

    The tables are made at the first call. Any number of processes may append to one session: a writer holds its session
    (on SQLite: the database) from the first statement to the commit. A change whose async call is cancelled is made as
    a whole or not at all; on SQLite perhaps a moment later.

    Args:
        url: `sqlite:///chat.db` (a file; four slashes for an absolute path), `sqlite://` (in memory), or
            `postgresql://user:password@host/database`. A relative path is bound now, wherever the process goes. SQLite
            takes `?synchronous=NORMAL`: faster, but the last appends before a power cut may be lost. PostgreSQL takes
            `?startup_options=none`, which sends no settings when connecting, and `?prepare_threshold=none`, which
            prepares no statements; a number prepares them after so many uses, also through a pooler.
        counter: as in `Store`.
        counter_name: as in `Store`.

    Raises:
        TypeError: if the URL is not a str.
        ValueError: if the URL is not one of these, or a counter that needs a name has none.
        ModuleNotFoundError: if the database's driver is not installed.
    """

    def __init__(self, url: str, *, counter: Any = "cl100k_base", counter_name: str | None = None) -> None:
        super().__init__(counter, counter_name)
        self._database = Database(url)

    def __repr__(self) -> str:
        if "_database" not in vars(self):  # a tool shows the locals of an __init__ that raised
            return "SQLStore(...)"
        return f"SQLStore({self.url!r}, counter={self.counter_name!r})"

    @property
    def url(self) -> str:
        """The URL, without its secrets, and with an absolute path."""
        return self._database.url

    @property
    def is_in_memory(self) -> bool:
        """As in `Store`."""
        return self._database.is_in_memory

    def append(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`."""
        self._do(self._append(check_key(key), check_records(records)))

    def window(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As in `Store`. One statement."""
        return self._do(self._window(key, token_limit, initial_token_count))

    def all(self, key: str) -> list[Record]:
        """As in `Store`."""
        return self._do(self._all(key))

    def replace(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`."""
        self._do(self._replace(check_key(key), check_records(records)))

    def delete(self, key: str) -> bool:
        """As in `Store`."""
        return self._do(self._delete(key))

    def pop(self, key: str, index: int = -1) -> Record:
        """As in `Store`."""
        return self._do(self._pop(key, index))

    def keys(self) -> list[str]:
        """As in `Store`."""
        return self._do(self._keys())

    def length(self, key: str) -> int:
        """As in `Store`."""
        return self._do(self._length(key))

    def token_count(self, key: str) -> int:
        """As in `Store`."""
        return self._do(self._token_count(key))

    def recount(self, key: str) -> None:
        """As in `Store`."""
        self._do(self._recount(key))

    def close(self) -> None:
        """As in `Store`. What is in memory is gone."""
        self._database.close()

    async def aappend(self, key: str, records: Iterable[Record]) -> None:
        """As `append`."""
        await self._ado(self._append(check_key(key), await acheck_records(records)))

    async def awindow(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As `window`."""
        return await self._ado(self._window(key, token_limit, initial_token_count))

    async def aall(self, key: str) -> list[Record]:
        """As `all`."""
        return await self._ado(self._all(key))

    async def areplace(self, key: str, records: Iterable[Record]) -> None:
        """As `replace`."""
        await self._ado(self._replace(check_key(key), await acheck_records(records)))

    async def adelete(self, key: str) -> bool:
        """As `delete`."""
        return await self._ado(self._delete(key))

    async def apop(self, key: str, index: int = -1) -> Record:
        """As `pop`."""
        return await self._ado(self._pop(key, index))

    async def akeys(self) -> list[str]:
        """As `keys`."""
        return await self._ado(self._keys())

    async def alength(self, key: str) -> int:
        """As `length`."""
        return await self._ado(self._length(key))

    async def atoken_count(self, key: str) -> int:
        """As `token_count`."""
        return await self._ado(self._token_count(key))

    async def arecount(self, key: str) -> None:
        """As `recount`."""
        await self._ado(self._recount(key))

    async def aclose(self) -> None:
        """Close the connections that async methods opened in this event loop; on SQLite, as `close`.

        What is in memory stays.
        """
        await self._database.aclose()

    # What each method does: the same for sync and async ones.

    def _append(self, key: str, records: list[Record]) -> Steps[None]:
        if not records:
            return
        measured: Appended = yield Count(
            takes_long(self.counter, records), lambda: Appended.after_word(self.counter, records)
        )
        if len(records) == 1 and (yield self._append_one(key, records[0], measured)):
            return
        appended = None if depends_on_word(self.counter, records) else measured

        def change(cursor: Cursor, counting: Counting) -> None:
            session = self._begun(cursor, key)
            self._check_counter(key, session.counter)
            session.extend(cursor, counting, records, appended)

        yield from self._change(change)

    def _append_one(self, key: str, record: Record, appended: Appended) -> Run:
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
            return Run(Access.TRANSACTION, change)
        return Run(Access.STATEMENTS, lambda cursor: bool(cursor.fetch(sql.APPEND_ONE, **values, **columns)))

    def _window(self, key: str, token_limit: int, initial_token_count: int) -> Steps[list[Record]]:
        check_key(key)
        allowance = min(check_limits(token_limit, initial_token_count), _LARGEST_ALLOWANCE)
        values = {"key": key, "counter": self.counter_name, "allowance": allowance}

        def read(cursor: Cursor) -> tuple[list[Record], bool]:
            records = records_of(cursor.fetch(sql.WINDOW, **values))
            if not all(_is_blank(record.text) for record in records):
                return records, False
            # Why there is nothing; or, as no start before the blank messages at the end fits, whether the first of them
            # is the history's first. Read always, it would make every window slower. Read again with the messages, as
            # somebody may have changed the session.
            rows = cursor.fetch(sql.EXPLAINED_WINDOW, **values)
            for counter, is_whole, *_ in rows[:1]:
                self._check_counter(key, counter)
                check_whole(key, is_whole)
            rows = [row[2:] for row in rows if row[2] is not None]
            return records_of([row[:3] for row in rows]), bool(rows) and rows[0][3] == 0

        records: list[Record]
        records, from_first = yield Run(Access.STATEMENTS, read)
        if not records or not all(_is_blank(record.text) for record in records):
            return records
        start = yield Count(
            takes_long(self.counter, records), lambda: _start_among_blank(self.counter, records, from_first, allowance)
        )
        return records[start:]

    def _all(self, key: str) -> Steps[list[Record]]:
        check_key(key)
        records: list[Record] = yield Run(Access.STATEMENTS, lambda cursor: _all_records(cursor, key))
        return records

    def _replace(self, key: str, records: list[Record]) -> Steps[None]:
        counting = Counting(self.counter)
        yield Count(takes_long(self.counter, records), lambda: counting.count([], records, True))

        def change(cursor: Cursor, counting: Counting) -> None:
            session = self._begun(cursor, key)
            session.cut(cursor, 0)
            session.counter = self.counter_name
            session.extend(cursor, counting, records)

        yield from self._change(change, counting)

    def _delete(self, key: str) -> Steps[bool]:
        check_key(key)

        def change(cursor: Cursor, _: Counting) -> bool:
            session = Session.lock(cursor, key)
            if session is not None:
                cursor.run(sql.DELETE_MESSAGES, id=session.id, first=0)
                cursor.run(sql.DELETE_SESSION, id=session.id)
            return session is not None

        return (yield from self._change(change))

    def _pop(self, key: str, index: int) -> Steps[Record]:
        check_key(key)
        index = operator.index(index)

        def change(cursor: Cursor, counting: Counting) -> Record:
            session = Session.lock(cursor, key)
            place = place_of(index, session.length if session is not None else 0)
            assert session is not None  # or it would have no place
            self._check_counter(key, session.counter)
            popped, *rest = session.records_from(cursor, place)
            session.cut(cursor, place)
            session.extend(cursor, counting, rest)
            return popped

        return (yield from self._change(change))

    def _keys(self) -> Steps[list[str]]:
        keys: list[str] = yield Run(Access.STATEMENTS, lambda cursor: [key for (key,) in cursor.fetch(sql.KEYS)])
        return keys

    def _length(self, key: str) -> Steps[int]:
        check_key(key)

        def read(cursor: Cursor) -> int:
            rows = cursor.fetch(sql.COUNTER_AND_LENGTH, key=key)
            return rows[0][1] if rows else 0

        length: int = yield Run(Access.STATEMENTS, read)
        return length

    def _token_count(self, key: str) -> Steps[int]:
        check_key(key)

        def read(cursor: Cursor) -> tuple[int | None, list[Record]]:
            for counter, length, tokens in cursor.fetch(sql.COUNTER_LENGTH_AND_TOKENS, key=key):
                self._check_counter(key, counter)
                # Without a number, all messages are blank.
                return tokens, _all_records(cursor, key) if tokens is None and length else []
            return 0, []

        tokens, blank = yield Run(Access.STATEMENTS, read)
        if blank:
            tokens = yield Count(takes_long(self.counter, blank), lambda: self._count_joined(blank))
        return tokens or 0

    def _recount(self, key: str) -> Steps[None]:
        check_key(key)

        def change(cursor: Cursor, counting: Counting) -> None:
            session = Session.lock(cursor, key)
            if session is not None:
                records = session.records_from(cursor, 0)
                appended = counting.after([], records, from_first=True)
                session.cut(cursor, 0)
                session.counter = self.counter_name
                session.extend(cursor, counting, records, appended)

        yield from self._change(change)

    def _change(self, change: _Change[_T], counting: Counting | None = None) -> Steps[_T]:
        """Make a change in a transaction; again, if it finds something to count first."""
        counting = counting or Counting(self.counter)
        while True:
            done = yield Run(Access.TRANSACTION, lambda cursor: change(cursor, counting))
            if not isinstance(done, UncountedError):
                result: _T = done
                return result
            yield Count(True, done.count)

    def _count_joined(self, records: list[Record]) -> int:
        load(self.counter)
        return self.counter.count(" ".join(record.text for record in records))

    def _begun(self, cursor: Cursor, key: str) -> Session:
        return Session.begin(cursor, key, self.counter_name)

    def _check_counter(self, key: str, counter: str) -> None:
        if counter != self.counter_name:
            raise counter_mismatch(key, counter, self.counter_name)

    def _do(self, steps: Steps[_T]) -> _T:
        return do(self._database, steps)

    async def _ado(self, steps: Steps[_T]) -> _T:
        return await ado(self._database, steps)


def _all_records(cursor: Cursor, key: str) -> list[Record]:
    rows = cursor.fetch(sql.ALL, key=key)
    if rows:
        check_whole(key, rows[0][3] == len(rows))
    else:
        for _, ends in cursor.fetch(sql.COUNTER_AND_END, key=key):
            check_whole(key, ends)
    return records_of([row[:3] for row in rows])
