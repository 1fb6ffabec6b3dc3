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
    Queue,
    Source,
    SourceError,
    listed,
)
from chatring.overriding import override


class TableSource(Source, ABC):
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
        """Return whether a table's columns are those of this layout. Its name can be chosen, so it does not tell."""

    @abstractmethod
    @override
    def keys(self) -> list[str]: ...

    @abstractmethod
    @override
    def messages(self, key: str) -> list[Any]: ...

    @override
    def left_out(self) -> list[str]:
        return []

    @override
    def close(self) -> None:
        self._database.close()


class _Rows(TableSource):
    """A row for each message."""

    _key: str
    _message: str
    _order: tuple[str, ...] = ("id",)

    @override
    def keys(self) -> list[str]:
        key = quoted(self._key)
        rows = self._database.rows(
            f"SELECT DISTINCT CAST({key} AS text) FROM {self.table.quoted} WHERE {key} IS NOT NULL ORDER BY 1"
        )
        return [key for (key,) in rows]

    @override
    def messages(self, key: str) -> list[Any]:
        return self._read(item for (item,) in self._rows(key, self._message))

    def _rows(self, key: str, *columns: str) -> list[tuple[Any, ...]]:
        values = ", ".join(f"CAST({quoted(column)} AS text)" for column in columns)
        order = ", ".join(map(quoted, self._order))
        return self._database.rows(
            f"SELECT {values} FROM {self.table.quoted} WHERE {quoted(self._key)} = ? ORDER BY {order}", key
        )

    def _read(self, items: Iterable[str | None]) -> list[Any]:
        return json_messages(items)


class OpenAIAgentsTable(_Rows):
    """`SQLiteSession` and `SQLAlchemySession` of OpenAI Agents (0.24); `agent_messages` by default."""

    layout = OPENAI_AGENTS
    _key, _message = "session_id", "message_data"

    @staticmethod
    @override
    def is_in(table: Table) -> bool:
        return {"id", "session_id", "message_data"} <= table.columns.keys()


class LangChainTable(_Rows):
    """`SQLChatMessageHistory` and `PostgresChatMessageHistory` of LangChain; `message_store` by default.

    Messages stay as LangChain wrote them, for its `messages_from_dict`.
    """

    layout = LANGCHAIN
    _key, _message = "session_id", "message"

    @staticmethod
    @override
    def is_in(table: Table) -> bool:
        return {"id", "session_id", "message"} <= table.columns.keys()


class LlamaIndexTable(_Rows):
    """`SQLAlchemyChatStore` of LlamaIndex's `Memory`; `llama_index_memory` by default.

    As histories, its sessions have all their messages, archived or not, in the order of time.
    """

    layout = LLAMA_INDEX
    policy = OF_LLAMA_INDEX
    has_histories = False
    _key, _message, _order = "key", "data", ("timestamp", "id")

    @staticmethod
    @override
    def is_in(table: Table) -> bool:
        return {"id", "key", "timestamp", "role", "status", "data"} <= table.columns.keys()

    def queue(self, key: str) -> Queue:
        """Return a session of `Memory`: see `QueueSource`.

        If several processes archived at once, or a clock was set back, there are archived rows between active ones.
        `Memory` shows the two apart, each in its own order. That is kept.
        """
        rows = self._rows(key, "data", "status")
        messages = self._read(item for item, _ in rows)
        parts: dict[str, list[Any]] = {"archived": [], "active": []}
        behind = 0
        for number, (message, (_, status)) in enumerate(zip(messages, rows, strict=True)):
            if status not in parts:
                raise ValueError(f"message {number}: its status is neither archived nor active, but {status!r:.40}")
            behind += status == "archived" and bool(parts["active"])
            parts[status].append(message)
        remark = f"archived messages that stood behind active ones are in front of them now: {behind:,}"
        return Queue(parts["archived"] + parts["active"], len(parts["archived"]), remark if behind else None)

    def _read(self, items: Iterable[str | None]) -> list[Any]:
        return chat_messages(items)


class LlamaIndexArrays(TableSource):
    """`PostgresChatStore` of LlamaIndex (0.5.0): a row for each session, with an array of messages in JSON.

    The table has the store's name, `chatstore` by default. Earlier versions put `data_` in front of it.
    """

    layout = LLAMA_INDEX
    policy = OF_LLAMA_INDEX

    @staticmethod
    @override
    def is_in(table: Table) -> bool:
        return "key" in table.columns and table.columns.get("value") in ("_json", "_jsonb")

    @override
    def keys(self) -> list[str]:
        return [key for (key,) in self._database.rows(f"SELECT key FROM {self.table.quoted} ORDER BY 1")]

    @override
    def messages(self, key: str) -> list[Any]:
        text = f"SELECT CAST(value AS text[]) FROM {self.table.quoted} WHERE key = ?"
        rows = self._database.rows(text, key)
        return chat_messages((rows[0][0] if rows else None) or [])


_KINDS: tuple[type[TableSource], ...] = (LlamaIndexTable, LlamaIndexArrays, OpenAIAgentsTable, LangChainTable)


def find_tables(database: Database, layouts: Iterable[str], chosen: str | None) -> list[TableSource]:
    """Return one source for each layout that a database has.

    Args:
        database: where to look.
        layouts: which layouts to look for.
        chosen: the table's name, or schema and name; None if there is only one.

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
