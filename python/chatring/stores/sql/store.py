"""`SQLStore`: sessions in SQLite or PostgreSQL."""

from __future__ import annotations

from typing import Any, TypeVar

from chatring.stores.store import Store

_M = TypeVar("_M")


class SQLStore(Store[_M]):
    """Sessions in SQLite or PostgreSQL."""

    def __init__(self, url: str, **options: Any) -> None:
        from chatring.stores.sql.sqlite import SQLiteBackend

        super().__init__(SQLiteBackend(url), **options)
