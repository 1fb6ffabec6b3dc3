"""The tables' version: made at the first use, refused if it is another chatring's, migrated if it is an older one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from chatring.stores.errors import ForeignDataError, SchemaVersionError

VERSION = 2

Execute = Callable[[str, Mapping[str, Any]], list[tuple[Any, ...]]]


def prepare(url: str, texts: Mapping[str, str], execute: Execute) -> None:
    """Make the tables of a SQLite database if there are none, and check their version."""
    found = "SELECT 1 FROM sqlite_master WHERE name = 'chatring_schema'"
    if not execute(found, {}):
        execute(texts["begin"], {})
        if not execute(found, {}):
            for statement in texts["schema"].split(";"):
                execute(statement, {})
            execute("INSERT INTO chatring_schema (version) VALUES (:version)", {"version": VERSION})
        execute(texts["commit"], {})
    rows = execute(texts["version"], {})
    check_version(url, rows[0][0] if len(rows) == 1 else None)


def check_version(url: str, version: Any) -> None:
    """Refuse tables of another version.

    Raises:
        ForeignDataError: if they are not chatring's.
        SchemaVersionError: if another chatring made them.
    """
    if not isinstance(version, int) or version < 1:
        raise ForeignDataError(f"{url} has a table chatring_schema that was not written by chatring")
    if version > VERSION:
        raise SchemaVersionError(
            f"{url} has tables of version {version}, this chatring knows version {VERSION}; use the chatring that wrote "
            "them, or a newer one"
        )
    if version == 1:
        raise SchemaVersionError(
            f"{url} has tables of version 1, which was never released; remove the tables chatring_schema, "
            "chatring_session and chatring_message, or use another database"
        )
