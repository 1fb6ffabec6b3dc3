"""Sessions in tables of SQLite or PostgreSQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from chatring.migration.database import Database, Table, quoted
from chatring.migration.layouts.messages import chat_messages, json_messages
from chatring.migration.policy import StorePolicy
from chatring.migration.source import (
    LANGCHAIN,
    LAYOUTS,
    LLAMA_INDEX,
    OF_LLAMA_INDEX,
    OPENAI_AGENTS,
    SourceError,
    listed,
)


class TableSource(ABC):
    """The sessions of a table."""

    layout: str
    policy = StorePolicy()

    def __init__(self, database: Database, table: Table) -> None:
        self.name = database.name
        self.table = table
        self._database = database

    @staticmethod
    @abstractmethod
    def is_in(table: Table) -> bool:
        """Whether a table has this layout, by its columns: its name can be chosen."""

    @abstractmethod
    def keys(self) -> list[str]:
        """See `Source`."""

    @abstractmethod
    def messages(self, key: str) -> list[Any]:
        """See `Source`."""

    def left_out(self) -> list[str]:
        """See `Source`."""
        return []

    def close(self) -> None:
        """See `Source`."""
        self._database.close()


class _Rows(TableSource):
    """A row for each message."""

    _key: str
    _message: str
    _order: tuple[str, ...] = ("id",)

    def keys(self) -> list[str]:
        """See `Source`."""
        key = quoted(self._key)
        rows = self._database.rows(
            f"SELECT DISTINCT CAST({key} AS text) FROM {self.table.quoted} WHERE {key} IS NOT NULL ORDER BY 1"
        )
        return [key for (key,) in rows]

    def messages(self, key: str) -> list[Any]:
        """See `Source`."""
        rows = self._database.rows(
            f"SELECT CAST({quoted(self._message)} AS text) FROM {self.table.quoted} WHERE {quoted(self._key)} = ? "
            f"ORDER BY {', '.join(map(quoted, self._order))}",
            key,
        )
        return self._read(item for (item,) in rows)

    def _read(self, items: Iterable[str | None]) -> list[Any]:
        return json_messages(items)


class OpenAIAgentsTable(_Rows):
    """`SQLiteSession` and `SQLAlchemySession` of OpenAI Agents (0.24); `agent_messages` by default."""

    layout = OPENAI_AGENTS
    _key, _message = "session_id", "message_data"

    @staticmethod
    def is_in(table: Table) -> bool:
        """See `TableSource`."""
        return {"id", "session_id", "message_data"} <= table.columns.keys()


class LangChainTable(_Rows):
    """`SQLChatMessageHistory` and `PostgresChatMessageHistory` of LangChain; `message_store` by default.

    Messages stay as LangChain has written them, for its `messages_from_dict`.
    """

    layout = LANGCHAIN
    _key, _message = "session_id", "message"

    @staticmethod
    def is_in(table: Table) -> bool:
        """See `TableSource`."""
        return {"id", "session_id", "message"} <= table.columns.keys()


class LlamaIndexTable(_Rows):
    """`SQLAlchemyChatStore` of LlamaIndex's `Memory`, archived messages too; `llama_index_memory` by default."""

    layout = LLAMA_INDEX
    policy = OF_LLAMA_INDEX
    _key, _message, _order = "key", "data", ("timestamp", "id")

    @staticmethod
    def is_in(table: Table) -> bool:
        """See `TableSource`."""
        return {"id", "key", "timestamp", "role", "status", "data"} <= table.columns.keys()

    def _read(self, items: Iterable[str | None]) -> list[Any]:
        return chat_messages(items)


class LlamaIndexArrays(TableSource):
    """`PostgresChatStore` of LlamaIndex (0.5.0): a row for each session, with an array of messages in JSON.

    The table has the store's name, `chatstore` by default, and in databases of earlier versions `data_` before it.
    """

    layout = LLAMA_INDEX
    policy = OF_LLAMA_INDEX

    @staticmethod
    def is_in(table: Table) -> bool:
        """See `TableSource`."""
        return "key" in table.columns and table.columns.get("value") in ("_json", "_jsonb")

    def keys(self) -> list[str]:
        """See `Source`."""
        return [key for (key,) in self._database.rows(f"SELECT key FROM {self.table.quoted} ORDER BY 1")]

    def messages(self, key: str) -> list[Any]:
        """See `Source`."""
        text = f"SELECT CAST(value AS text[]) FROM {self.table.quoted} WHERE key = ?"
        rows = self._database.rows(text, key)
        return chat_messages((rows[0][0] if rows else None) or [])


_KINDS: tuple[type[TableSource], ...] = (LlamaIndexTable, LlamaIndexArrays, OpenAIAgentsTable, LangChainTable)


def find_tables(database: Database, layouts: Iterable[str], chosen: str | None) -> list[TableSource]:
    """Return the source of each layout that a database has, one for each.

    Args:
        database: where to look.
        layouts: those to look for.
        chosen: the table's name, or schema and name; None finds the only one.

    Raises:
        SourceError: if a layout has several tables and none is chosen, or if no layout has the chosen one.
        StoreError: if the database fails.
    """
    there = database.tables()
    kinds = [kind for kind in _KINDS if kind.layout in layouts]
    found = [kind(database, table) for table in there for kind in kinds if kind.is_in(table)]
    sources = [source for source in found if chosen in (None, source.table.name, source.table.shown)]
    if chosen is not None and not sources:
        of = listed(dict.fromkeys(LAYOUTS[kind.layout] for kind in kinds), "or")
        has = ", ".join(source.table.shown for source in found) or "none"
        raise SourceError(f"{database.name} has no table {chosen} of {of}; it has: {has}")
    for layout in dict.fromkeys(source.layout for source in sources):
        names = [source.table.shown for source in sources if source.layout == layout]
        if len(names) > 1:
            raise SourceError(
                f"{database.name} has several tables of {LAYOUTS[layout]}: say which with --table, one of: "
                f"{', '.join(names)}"
            )
    return sources
