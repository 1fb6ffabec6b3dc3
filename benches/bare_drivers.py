"""What stores are compared with: bare drivers that are told which rows to fetch, and given rows with their counts.

Nothing is searched, counted or checked. Each has one connection, sends one command for a call, and works on what the
store wrote: its tables, or its keys. Messages are decoded by `json.loads`, one by one.
"""

import json
import sqlite3
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypeAlias

import psycopg
import redis
from chatring.stores.redis.layout import Names

Rows: TypeAlias = list[tuple[Any, ...]]

_WINDOW = " UNION ALL ".join(
    f"SELECT {{1}} FROM chatring_message WHERE session_id = {{0}} AND {which}"
    for which in ("seq < 0", "seq = {0}", "seq BETWEEN {0} AND {0}")
)
_COLUMNS = "seq, kind, tokens, before, question, body"
_INSERT = f"INSERT INTO chatring_message (session_id, {_COLUMNS}) VALUES "
_SESSION = 'SELECT id, "end" FROM chatring_session WHERE key = {0}'
_LAST_ROWS = f"SELECT {_COLUMNS} FROM chatring_message WHERE session_id = {{0}} ORDER BY seq DESC LIMIT {{0}}"
_UNLOAD = "DELETE FROM chatring_message WHERE session_id = {0}"


class Place(NamedTuple):
    """Where a session's window is: positions. It has the head, this question, and all from the start on."""

    question: int | None
    start: int


class BareDriver(ABC):
    """A connection, and a session.

    Args:
        url: of the store.
        key: the session.
        rows: how many of the session's last rows `append` and `load` insert.
        place: of the window.
    """

    @abstractmethod
    def __init__(self, url: str, key: str, rows: int = 1, place: Place | None = None) -> None: ...

    @abstractmethod
    def window(self) -> list[Any]:
        """Fetch and decode the window: one command."""

    @abstractmethod
    def append(self) -> None:
        """Insert the rows once more, at the end: one commit."""

    @abstractmethod
    def unload(self) -> None:
        """Remove the session's rows."""

    @abstractmethod
    def load(self) -> None:
        """Insert the rows, which `unload` removed, where they were: one commit."""

    @abstractmethod
    def close(self) -> None: ...


class _BareSQL(BareDriver):
    """Both databases have the same statements, except for the placeholder of a value."""

    mark: str
    columns: str  # of a window
    _connection: Any

    def _find(self, key: str, rows: int, place: Place | None) -> None:
        execute = self._connection.execute
        self._id, self._end = execute(_SESSION.format(self.mark), (key,)).fetchone()
        self._rows: Rows = execute(_LAST_ROWS.format(self.mark), (self._id, rows)).fetchall()[::-1]
        if place is not None:
            self._window = _WINDOW.format(self.mark, self.columns)
            self._range = (self._id, self._id, place.question, self._id, place.start, self._end - 1)

    def _next_rows(self) -> Rows:
        """Return the rows, as they are inserted the next time."""
        rows = [(self._id, self._end + number, *row[1:]) for number, row in enumerate(self._rows)]
        self._end += len(rows)
        return rows

    def unload(self) -> None:
        self._connection.execute(_UNLOAD.format(self.mark), (self._id,))

    def close(self) -> None:
        self._connection.close()


class BareSQLite(_BareSQL):
    """sqlite3, with the settings that the store has."""

    mark = "?"
    columns = "body"
    _one_row = _INSERT + "(?, ?, ?, ?, ?, ?, ?)"

    def __init__(self, url: str, key: str, rows: int = 1, place: Place | None = None) -> None:
        path, _, setting = url.removeprefix("sqlite:///").partition("?synchronous=")
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(f"PRAGMA synchronous = {setting or 'FULL'}")
        assert self._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        self._find(key, rows, place)

    def window(self) -> list[Any]:
        return [json.loads(body) for (body,) in self._connection.execute(self._window, self._range)]

    def append(self) -> None:
        rows = self._next_rows()
        if len(rows) == 1:
            self._connection.execute(self._one_row, rows[0])
        else:
            self._insert(rows)

    def load(self) -> None:
        self._insert([(self._id, *row) for row in self._rows])

    def _insert(self, rows: Rows) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany(self._one_row, rows)
        self._connection.execute("COMMIT")


class BarePsycopg(_BareSQL):
    """psycopg 3, which prepares statements that are repeated; values in binary. `COPY` for many rows."""

    mark = "%s"
    columns = "seq, body"  # it may answer in another order

    def __init__(self, url: str, key: str, rows: int = 1, place: Place | None = None) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._find(key, rows, place)

    def window(self) -> list[Any]:
        rows = self._connection.execute(self._window, self._range, binary=True).fetchall()
        rows.sort()
        return [json.loads(body) for _, body in rows]

    def append(self) -> None:
        rows = self._next_rows()
        text = _INSERT + ", ".join(["(%s, %s, %s, %s, %s, %s, %s)"] * len(rows))
        self._connection.execute(text, [value for row in rows for value in row], binary=True)

    def load(self) -> None:
        text = f"COPY chatring_message (session_id, {_COLUMNS}) FROM STDIN"
        with self._connection.cursor() as cursor, cursor.copy(text) as copy:
            for row in self._rows:
                copy.write_row((self._id, *row))


class BareRedis(BareDriver):
    """redis-py: ranges of the store's own list; pushes to a list beside it, without what the store needs to search."""

    def __init__(self, url: str, key: str, rows: int = 1, place: Place | None = None) -> None:
        self._client = redis.Redis.from_url(url)
        self._keys = Names("chatring").of(key)
        self._beside = f"bare:{key}"
        numbers: Any = self._client.hget(self._keys.session.decode(), "session")
        _, _, _, self._first, *_ = json.loads(numbers)
        self._place = place
        self._rows: list[bytes] = self._range(-rows, -1)

    def window(self) -> list[Any]:
        assert self._place is not None
        question, start = self._place
        # The list has an element before the first message.
        before = 1 - self._first
        with self._client.pipeline(transaction=False) as commands:
            commands.hget(self._keys.session.decode(), "head")
            if question is not None:
                commands.lindex(self._keys.messages.decode(), question + before)
            commands.lrange(self._keys.messages.decode(), start + before, -1)
            head, *asked, rest = commands.execute()
        rows = [*((head or b"") + b"".join(asked)).split(b"\0")[:-1:2], *(row.partition(b"\0")[0] for row in rest)]
        return [json.loads(row) for row in rows]

    def append(self) -> None:
        self._client.rpush(self._beside, *self._rows)

    def unload(self) -> None:
        self._client.delete(self._beside)

    def load(self) -> None:
        self._client.rpush(self._beside, *self._rows)

    def close(self) -> None:
        self._client.close()

    def _range(self, start: int, stop: int) -> Any:
        return self._client.lrange(self._keys.messages.decode(), start, stop)
