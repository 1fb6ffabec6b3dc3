"""`Database`: SQLite or PostgreSQL with tables that may not be ours. It is only read; nothing is created there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from chatring.migration.source import SourceError
from chatring.stores.redaction import without_secrets

_SQLITE_COLUMNS = """
    SELECT '', tables.name, columns.name, columns.type
    FROM sqlite_master tables JOIN pragma_table_info(tables.name) columns
    WHERE tables.type = 'table' ORDER BY tables.name
"""
_POSTGRESQL_COLUMNS = """
    SELECT table_schema, table_name, column_name, udt_name FROM information_schema.columns
    WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2
"""
# Seconds to wait for a writer of SQLite that holds the file, and for a lock of PostgreSQL.
_PATIENCE = 10.0


class Table(NamedTuple):
    """A table. `schema` is empty in SQLite; `columns` have their types."""

    schema: str
    name: str
    columns: dict[str, str]

    @property
    def shown(self) -> str:
        """Its name, with the schema's."""
        return f"{self.schema}.{self.name}" if self.schema else self.name

    @property
    def quoted(self) -> str:
        """The same, for a statement."""
        return ".".join(quoted(part) for part in (self.schema, self.name) if part)


class Database:
    """A database at the URL of a `SQLStore`. `name` is the URL without secrets.

    Raises:
        SourceError: if there is no such file.
        ValueError, ModuleNotFoundError: see `SQLStore`.
    """

    def __init__(self, url: str) -> None:
        self.name = without_secrets(url)
        self._connection: Any = None
        self._connect: Callable[[], Any]
        self._is_sqlite = url.startswith("sqlite")
        self._schema: str | None = None
        self._file: str | None = None
        if self._is_sqlite:
            from chatring.stores.sql.sqlite_url import SQLiteUrl

            parsed = SQLiteUrl.parse(url)
            self._file = parsed.file
            if parsed.file is None or not os.path.exists(parsed.file):
                raise SourceError(f"{self.name}: no such file")
            self._connect = lambda: sqlite3.connect(parsed.database, timeout=_PATIENCE, uri=parsed.is_uri)
        else:
            import psycopg

            from chatring.stores.sql.postgresql_url import PostgreSQLUrl

            address = PostgreSQLUrl.parse(url)
            self._schema = address.schema
            self._connect = lambda: psycopg.connect(**address.arguments(_PATIENCE))

    def rows(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, which has a `?` for each value.

        Raises:
            StoreError: if the database fails.
        """
        with self._errors():
            if self._connection is None:
                self._connection = self._connect()
            if not self._is_sqlite and values:
                text = text.replace("%", "%%").replace("?", "%s")
            arguments = (values,) if values else ()
            return self._connection.execute(text, *arguments).fetchall()  # type: ignore[no-any-return]

    def tables(self) -> list[Table]:
        """Return all readable tables, sorted by name."""
        tables: dict[tuple[str, str], dict[str, str]] = {}
        for schema, name, column, kind in self.rows(_SQLITE_COLUMNS if self._is_sqlite else _POSTGRESQL_COLUMNS):
            tables.setdefault((schema, name), {})[column] = kind
        return [Table(*name, columns) for name, columns in tables.items()]

    def has_our_tables(self) -> bool:
        """Whether a `SQLStore` has been used here."""
        if self._is_sqlite:
            return bool(self.rows("SELECT 1 FROM sqlite_master WHERE name = 'chatring_schema'"))
        name = "chatring_schema" if self._schema is None else f"{quoted(self._schema)}.chatring_schema"
        ((found,),) = self.rows("SELECT CAST(to_regclass(?) AS text)", name)
        return found is not None

    def close(self) -> None:
        """Close the connection. The next statement opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not isinstance(error, sqlite3.Error) and not hasattr(error, "sqlstate"):
                raise
            from chatring.stores.sql.errors import store_error

            raise store_error(error, self.name, self._file) from error


def quoted(name: str) -> str:
    """Return a name for a statement."""
    return '"' + name.replace('"', '""') + '"'
