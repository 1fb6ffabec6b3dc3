"""The sessions that LlamaIndex's chat stores leave behind. Messages become what our chat stores would have kept.

Drivers and LlamaIndex are imported by whoever needs them, so that the command starts without.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chatring.migration.database import engine_of, sql_errors
from chatring.migration.source import LLAMA_INDEX, SourceError
from chatring.stores import Record
from chatring.stores.redaction import without_secrets

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

# Keys that are looked at in one round trip.
_AT_ONCE = 1000
# What the keys of `RedisStore` begin with.
_OURS = b"chatring:{"
# The tables with the columns of a PostgresChatStore.
_TABLES = """
    SELECT messages.table_schema, messages.table_name
    FROM information_schema.columns messages JOIN information_schema.columns keys USING (table_schema, table_name)
    WHERE messages.column_name = 'value' AND messages.udt_name IN ('_json', '_jsonb') AND keys.column_name = 'key'
    ORDER BY 1, 2
"""


class ChatStoreFile:
    """A file that `SimpleChatStore.persist` or `RingChatStore.persist` has written. It is read as a whole."""

    layout = LLAMA_INDEX

    def __init__(self, path: str) -> None:
        from chatring.llama_index import RingChatStore

        if not os.path.exists(path):
            raise SourceError(f"{without_secrets(path)}: no such file")
        self.name = path
        self._store = RingChatStore.from_persist_path(path)

    def lengths(self) -> dict[str, int]:
        """As in `Source`."""
        return {key: len(self._store.get_messages(key)) for key in self._store.get_keys()}

    def records(self, key: str) -> list[Record]:
        """As in `Source`."""
        from chatring.llama_index.message_record import to_record

        return [to_record(message) for message in self._store.get_messages(key)]

    def left_out(self) -> list[str]:
        """As in `Source`."""
        return []

    def close(self) -> None:
        """As in `Source`."""


class RedisLists:
    """The sessions of LlamaIndex's `RedisChatStore` (0.8.0): under each key a list of messages in JSON.

    Lists whose first item is no message are somebody else's.
    """

    layout = LLAMA_INDEX

    def __init__(self, url: str) -> None:
        from chatring.stores.redis_server import RedisServer

        self._server = RedisServer(url)
        self.name = self._server.url
        self._left_out: set[str] = set()

    def lengths(self) -> dict[str, int]:
        """As in `Source`."""
        lengths: dict[str, int] = {}
        self._left_out.clear()
        with self._client() as client:
            keys = (key for key in client.scan_iter(count=_AT_ONCE, _type="list") if not key.startswith(_OURS))
            for some in iter(lambda: list(itertools.islice(keys, _AT_ONCE)), []):
                pipeline = client.pipeline(transaction=False)
                for key in some:
                    pipeline.llen(key)
                    pipeline.lindex(key, 0)
                answers = pipeline.execute()
                for key, length, first in zip(some, answers[::2], answers[1::2], strict=True):
                    name = key.decode("utf-8", "backslashreplace")
                    if _is_message(first) and name.encode() == key:
                        lengths[name] = length
                    else:
                        self._left_out.add(name)
        return dict(sorted(lengths.items()))

    def records(self, key: str) -> list[Record]:
        """As in `Source`."""
        with self._client() as client:
            items = client.lrange(key, 0, -1)
        return _records_of_json(items)

    def left_out(self) -> list[str]:
        """As in `Source`."""
        return sorted(self._left_out)

    def close(self) -> None:
        """As in `Source`."""
        self._server.close()

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from redis.exceptions import RedisClusterException, RedisError

        from chatring.stores.redis_errors import store_error

        try:
            yield self._server.client()
        except (RedisError, RedisClusterException, OSError) as error:
            raise store_error(error, self.name, may_have_changed=False) from error


class PostgresArrays:
    """The sessions of LlamaIndex's `PostgresChatStore` (0.5.0): a row for each, with an array of messages in JSON.

    The table has the store's name, `chatstore` by default, and in databases of earlier versions `data_` before it.
    """

    layout = LLAMA_INDEX

    def __init__(self, url: str, table: str | None) -> None:
        """Find the table.

        Args:
            url: of the database.
            table: the table's name, or schema and name; None finds the only one.

        Raises:
            SourceError: if the database has several tables, and none is chosen, or not the chosen one.
            StoreError: if the database fails.
        """
        self.name = without_secrets(url)
        self._engine = engine_of(url)
        try:
            with sql_errors(self.name), self._engine.connect() as connection:
                self._table = self._found(connection, table)
        except BaseException:
            self._engine.dispose()
            raise

    def lengths(self) -> dict[str, int]:
        """As in `Source`."""
        from sqlalchemy import func, select

        if self._table is None:
            return {}
        columns = self._table.c
        length = func.coalesce(func.cardinality(columns.value), 0).label("length")
        lengths = select(columns.key, length).order_by(columns.key)
        with sql_errors(self.name), self._engine.connect() as connection:
            return {row.key: row.length for row in connection.execute(lengths)}

    def records(self, key: str) -> list[Record]:
        """As in `Source`."""
        from sqlalchemy import ARRAY, Text, cast, select

        if self._table is None:
            return []
        columns = self._table.c
        messages = select(cast(columns.value, ARRAY(Text))).where(columns.key == key)
        with sql_errors(self.name), self._engine.connect() as connection:
            items = connection.execute(messages).scalar()
        return _records_of_json(items or [])

    def left_out(self) -> list[str]:
        """As in `Source`."""
        return []

    def close(self) -> None:
        """As in `Source`."""
        self._engine.dispose()

    def _found(self, connection: Connection, table: str | None) -> Table | None:
        from sqlalchemy import Column, MetaData, Table, Text, text

        named = {f"{schema}.{name}": (schema, name) for schema, name in connection.execute(text(_TABLES))}
        chosen = {place: parts for place, parts in named.items() if table in (None, place, parts[1])}
        if table is not None and not chosen:
            raise SourceError(f"{self.name} has no table {table} of LlamaIndex; it has: {', '.join(named) or 'none'}")
        if len(chosen) > 1:
            raise SourceError(
                f"{self.name} has several tables of LlamaIndex: say which with --table, one of: {', '.join(chosen)}"
            )
        for schema, name in chosen.values():
            return Table(name, MetaData(), Column("key", Text), Column("value", Text), schema=schema)
        return None


def _is_message(item: bytes | None) -> bool:
    try:
        return item is not None and "role" in json.loads(item)
    except (ValueError, TypeError, RecursionError):
        return False


def _records_of_json(items: Iterable[bytes | str | None]) -> list[Record]:
    from chatring.llama_index.message_record import message_of_json, to_record

    records: list[Record] = []
    try:
        for item in items:
            record = to_record(message_of_json("null" if item is None else item))
            records.append(record)
    except ValueError as error:
        raise ValueError(f"message {len(records)}: {error}") from error
    return records
