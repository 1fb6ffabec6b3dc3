"""`SQLStore`: sessions in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from chatring.stores.redaction import check_url
from chatring.stores.sql.backend import SQLBackend
from chatring.stores.store import Store, check_timeout

_M = TypeVar("_M")


class SQLStore(Store[_M]):
    """Sessions in SQLite (3.35 or newer) or PostgreSQL.

    The tables are created at the first call.

    Args:
        url: `sqlite:///chat.db` (a file; four slashes for an absolute path), `sqlite://` (in memory), or
            `postgresql://user:password@host/database`; several hosts as libpq takes them, `h1:5432,h2:5432`. A relative
            path is resolved now, even if the process later changes its folder. Both take `?timeout=` and `?pool_size=`.
            SQLite takes `?synchronous=NORMAL`: faster, but the last appends before a power cut may be lost. PostgreSQL
            takes `?schema=`; `?startup_options=none`, which sends no settings when connecting;
            `?prepare_threshold=none`, which prepares no statements (a number prepares them after that many uses, even
            through a pooler); and what libpq takes.
        schema: for PostgreSQL: the schema with the tables, which must exist. The default is the first of the search
            path.
        pool_size: the most connections of a process and of each event loop. PostgreSQL's default is 15.
        pool: for PostgreSQL: a `psycopg_pool.ConnectionPool` for the sync methods. It is never closed.
        async_pool: for PostgreSQL: a `psycopg_pool.AsyncConnectionPool` for the async methods.
        password: for PostgreSQL: a function that returns the password for each new connection, instead of the URL's.
        timeout: see `Store`. The default is the URL's, or 10 seconds.
        options: of `Store`.

    Raises:
        TypeError: if the URL is not a str, or this database does not have an option.
        ValueError: if the URL is not one of these. Also whenever `Store` raises it.
        ModuleNotFoundError: if the database's driver is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        pool_size: int | None = None,
        pool: Any = None,
        async_pool: Any = None,
        password: Callable[[], str] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        check_url(url)
        if pool_size is not None and (not isinstance(pool_size, int) or isinstance(pool_size, bool) or pool_size < 1):
            raise ValueError(f"pool_size must be a number of connections, at least 1, got {pool_size!r}")
        if timeout is not None:
            options["timeout"] = timeout = check_timeout(timeout)
        backend: Any
        if url.startswith("sqlite"):
            given = {"schema": schema, "pool": pool, "async_pool": async_pool, "password": password}
            for name, value in given.items():
                if value is not None:
                    raise TypeError(f"{name} is an option of PostgreSQL; SQLite has none")
            from chatring.stores.sql.sqlite import SQLiteBackend

            backend = SQLiteBackend(url, timeout=timeout, pool_size=pool_size)
        else:
            backend = _postgresql(
                url,
                schema=schema,
                pool_size=pool_size,
                pool=pool,
                async_pool=async_pool,
                password=password,
                timeout=timeout,
            )
        if backend.timeout is not None:
            options.setdefault("timeout", backend.timeout)
        super().__init__(backend, **options)

    def backup(self, target: str) -> None:
        """Copy SQLite's database, as it is at one moment, to a new file, while others go on to read and write.

        Copying the file itself would miss what is in the log beside it.

        Args:
            target: the path of a file that does not exist yet. It appears when the copy is complete.

        Raises:
            FileExistsError: if it exists.
            TypeError: with PostgreSQL, which has `pg_dump`.
            StoreError, OSError: if reading or writing fails.
        """
        copy = getattr(self._backend, "backup", None)
        if copy is None:
            raise TypeError(f"{self.url} is not a SQLite database; pg_dump copies PostgreSQL's")
        copy(target)


def _postgresql(url: str, **options: Any) -> SQLBackend:
    from chatring.stores.sql.postgresql_url import PostgreSQLUrl

    PostgreSQLUrl.check_scheme(url)
    from chatring.stores.sql.postgresql import PostgreSQLBackend

    return PostgreSQLBackend(url, **options)
