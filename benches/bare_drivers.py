"""What stores are held against: bare drivers, told which rows to fetch, and given rows that are counted already.

Nothing is searched, counted or checked. Each has one connection that commits each statement by itself, and sends one
command for a call. Those of SQL work on the store's own tables.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import psycopg
import redis

Message: TypeAlias = tuple[str, str, bytes | None]  # role, text, payload

_WINDOW = (
    "SELECT role, text, payload FROM chatring_message WHERE session_id = {0} AND seq BETWEEN {0} AND {0} ORDER BY seq"
)
_INSERT = (
    "INSERT INTO chatring_message (session_id, seq, role, text, payload, total, before)"
    " VALUES ({0}, {0}, {0}, {0}, {0}, {0}, {0})"
)
_PLACE = "SELECT id, length FROM chatring_session WHERE key = {0}"
_LAST_ROW = (
    "SELECT session_id, seq, role, text, payload, total, before FROM chatring_message"
    " WHERE session_id = {0} ORDER BY seq DESC LIMIT 1"
)


class BareDriver(ABC):
    """One connection, and the window of a session that it will fetch again and again.

    Args:
        url: of the store.
        key: the session.
        window: the session's last messages.
    """

    @abstractmethod
    def __init__(self, url: str, key: str, window: Sequence[Message]) -> None: ...

    @abstractmethod
    def window(self) -> list[Message]:
        """Fetch and decode the window."""

    @abstractmethod
    def append(self) -> None:
        """Insert the session's last row once more, under the next number."""

    @abstractmethod
    def close(self) -> None: ...


class _BareSQL(BareDriver):
    """Both databases have the same statements, but for the mark of a value."""

    mark: str
    _connection: Any

    def _find(self, key: str, length: int) -> None:
        self._window, self._insert = _WINDOW.format(self.mark), _INSERT.format(self.mark)
        self._id, self._next = self._connection.execute(_PLACE.format(self.mark), (key,)).fetchone()
        self._range = (self._id, self._next - length, self._next - 1)
        row = self._connection.execute(_LAST_ROW.format(self.mark), (self._id,)).fetchone()
        self._row: Sequence[Any] = row[2:]

    def window(self) -> list[Message]:
        rows = self._rows()
        return [(role, text.decode(), payload) for role, text, payload in rows]

    def _rows(self) -> list[Any]:
        rows: list[Any] = self._connection.execute(self._window, self._range).fetchall()
        return rows

    def append(self) -> None:
        self._connection.execute(self._insert, (self._id, self._next, *self._row))
        self._next += 1

    def close(self) -> None:
        self._connection.close()


class BareSQLite(_BareSQL):
    """sqlite3, with the settings that the store has."""

    mark = "?"

    def __init__(self, url: str, key: str, window: Sequence[Message]) -> None:
        self._connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        self._connection.execute("PRAGMA synchronous = FULL")
        assert self._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        self._find(key, len(window))


class BarePsycopg(_BareSQL):
    """psycopg 3, which prepares statements that come again. Bytes come as they are, and not as hexadecimal text."""

    mark = "%s"

    def __init__(self, url: str, key: str, window: Sequence[Message]) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._find(key, len(window))

    def _rows(self) -> list[Any]:
        rows: list[Any] = self._connection.execute(self._window, self._range, binary=True).fetchall()
        return rows


class BareRedis(BareDriver):
    """redis-py: a range at the end of a list, and a push to it, of the plainest rows that will do."""

    def __init__(self, url: str, key: str, window: Sequence[Message]) -> None:
        self._client = redis.Redis.from_url(url)
        self._key = f"bare:{key}"
        rows = [f"{role}\0{text}".encode() for role, text, _ in window]
        self._client.delete(self._key)
        self._client.rpush(self._key, *rows)
        self._length, self._last = len(rows), rows[-1]

    def window(self) -> list[Message]:
        rows: Any = self._client.lrange(self._key, -self._length, -1)
        parts = [row.partition(b"\0") for row in rows]
        return [(role.decode(), text.decode(), None) for role, _, text in parts]

    def append(self) -> None:
        self._client.rpush(self._key, self._last)

    def close(self) -> None:
        self._client.close()
