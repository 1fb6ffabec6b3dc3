"""`SQLUrl`: what the URL of a `SQLStore` says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy import URL, exc, make_url

from chatring.stores.redaction import check_url, redacted, without_secrets

# How long a writer waits for another one.
LOCK_SECONDS = 10
# When libpq takes a connection, or the attempt to make one, for lost; the system's own answer may take hours. Seconds,
# except for the last: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_LOST_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_POSTGRESQL_OPTIONS = (
    f"-c lock_timeout={LOCK_SECONDS}s",
    # Each statement sees what was committed before it, whatever the database's default is.
    "-c default_transaction_isolation=read\\ committed",
    # The best plan is the same for all values, and making one takes as long as following it.
    "-c plan_cache_mode=force_generic_plan",
    # The session of a writer whose machine is gone is free in half a minute; the system's own keepalives take hours.
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
)
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgres", "postgresql", "postgresql+psycopg")
# As SQLAlchemy finds them: the user ends at the first colon, the password at the next @.
_CREDENTIALS = re.compile(r"(?<=://)([^:/]*)(:[^@]*)?@")
_HOST = re.compile(r"[^/?]*")
# Values of PRAGMA synchronous: https://www.sqlite.org/pragma.html#pragma_synchronous
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
# Of the URL: those of the driver, and those of a file's URI, `sqlite:///file:chat.db?mode=ro&uri=true`.
_SQLITE_PARAMETERS = {"timeout", "cached_statements"}
_FILE_PARAMETERS = {"mode", "cache", "immutable", "nolock", "psow", "vfs"}
# What no driver finds in a URL.
_OURS = ("synchronous", "startup_options", "prepare_threshold")


@dataclass(frozen=True)
class SQLUrl:
    """A URL, taken apart.

    Args:
        url: for SQLAlchemy, without the parameters that are ours.
        shown: without secrets. A relative path is absolute.
        file: the path of SQLite's file; None in memory, and of PostgreSQL.
        synchronous: of SQLite.
        startup_options: whether to send PostgreSQL settings when connecting.
        prepare: `prepare_threshold` of psycopg, if the URL has it: the uses after which a statement is prepared, None
            for never.
    """

    url: URL
    shown: str
    file: str | None = None
    synchronous: str = ""
    startup_options: bool = True
    prepare: Mapping[str, int | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> SQLUrl:
        """Take a URL apart.

        Raises:
            TypeError: if it is not a str.
            ValueError: if it is not one of SQLite or PostgreSQL, or has parameters that these do not know.
        """
        check_url(url)
        try:
            parsed = sqlalchemy_url(url)
        except (exc.ArgumentError, ValueError):
            # Without the cause, which may show the password.
            raise ValueError(f"{without_secrets(url)!r} is no URL of a database") from None
        if parsed.drivername not in _DRIVERS:
            raise ValueError(
                f"{without_secrets(url)!r} names neither SQLite nor PostgreSQL with psycopg; "
                "it must begin with sqlite:// or postgresql://"
            )
        ours = {name: str(parsed.query[name]) for name in _OURS if name in parsed.query}
        if parsed.drivername.startswith("sqlite"):
            return _of_sqlite(url, parsed, ours)
        return _of_postgresql(url, parsed, ours)

    @property
    def timeout(self) -> float:
        """How long SQLite waits for another writer. Seconds."""
        return float(str(self.url.query.get("timeout", LOCK_SECONDS)))

    def postgresql_arguments(self) -> dict[str, Any]:
        """Return arguments of psycopg that the URL does not have, or has not all of."""
        arguments = lost_connection(self.url)
        arguments["client_encoding"] = "utf8"  # the driver's own would be the database's
        options = [*(_POSTGRESQL_OPTIONS if self.startup_options else ()), str(self.url.query.get("options", ""))]
        # PgBouncer refuses a blank at the end.
        arguments["options"] = " ".join(options).strip()
        return {**arguments, **self.prepare}


def sqlalchemy_url(url: str) -> URL:
    """Return a URL for SQLAlchemy.

    Raises:
        sqlalchemy.exc.ArgumentError, ValueError: if it is none.
    """
    credentials = _CREDENTIALS.search(url)
    hosts = _HOST.match(url, credentials.end() if credentials else url.find("://") + len("://"))
    if hosts is None or "," not in hosts[0] or not url.startswith("postgres"):
        return make_url(url)
    # Several servers, as libpq takes them.
    parsed = make_url(url[: hosts.start()] + url[hosts.end() :])
    return parsed.update_query_pairs([("host", host) for host in hosts[0].split(",")])


def without_ours(url: URL) -> URL:
    """Return a URL without the parameters that only chatring knows."""
    return url.difference_update_query(_OURS)


def lost_connection(url: URL) -> dict[str, Any]:
    """Return arguments of psycopg with which a server that is silent, or gone, is an error after a while."""
    return {name: value for name, value in _LOST_CONNECTION.items() if name not in url.query}


def _of_postgresql(url: str, parsed: URL, ours: dict[str, str]) -> SQLUrl:
    shown = redacted(url, _CREDENTIALS)
    if ours.get("startup_options", "none") != "none":
        raise ValueError(f"startup_options can only be none, got {ours['startup_options']!r}")
    given = ours.get("prepare_threshold", "none")
    if given != "none" and not (given.isascii() and given.isdigit()):
        raise ValueError(f"prepare_threshold must be none or a number of uses, got {given!r}")
    prepare = {"prepare_threshold": None if given == "none" else int(given)} if "prepare_threshold" in ours else {}
    parsed = parsed.difference_update_query(_OURS[1:]).set(drivername="postgresql+psycopg")
    try:
        _, named = parsed.get_dialect()().create_connect_args(parsed)
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{shown!r} is no URL of PostgreSQL: {error}") from None
    _check_parameters(shown, named)
    return SQLUrl(parsed, shown, startup_options="startup_options" not in ours, prepare=prepare)


def _check_parameters(shown: str, named: Mapping[str, Any]) -> None:
    """Refuse what libpq does not know, such as arguments of psycopg that are no text."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo

    try:
        make_conninfo(**named)
    except (ProgrammingError, TypeError) as error:
        raise ValueError(f"{shown!r} is no URL of PostgreSQL: {' '.join(str(error).split())}") from None


def _of_sqlite(url: str, parsed: URL, ours: dict[str, str]) -> SQLUrl:
    shown = without_secrets(url)
    if parsed.host or parsed.port is not None or parsed.username is not None:
        raise ValueError(f"{shown!r} has a host, which SQLite has not; a file follows three slashes: sqlite:///chat.db")
    known = {"synchronous", "uri", *_SQLITE_PARAMETERS}
    if parsed.query.get("uri"):
        known |= _FILE_PARAMETERS
    if unknown := sorted(parsed.query.keys() - known):
        raise ValueError(f"{shown!r} has parameters that SQLite has not: {', '.join(unknown)}")
    synchronous = ours.get("synchronous", "FULL").upper()
    if synchronous not in _SYNCHRONOUS:
        raise ValueError(f"synchronous must be one of {', '.join(_SYNCHRONOUS)}, got {synchronous!r}")
    parsed = without_ours(parsed)
    try:
        _, named = parsed.get_dialect()().create_connect_args(parsed)
        if _is_in_memory(parsed):
            return SQLUrl(parsed, url, None, synchronous)
        database, file = _bound(parsed.database or "", is_uri=bool(named.get("uri")))
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{shown!r} is no URL of SQLite: {error}") from None
    except OSError:
        raise ValueError(f"{shown!r} is relative to the current folder, which is gone; use an absolute path") from None
    if database != parsed.database:
        parsed = parsed.set(database=database)
        scheme, query = url.partition("://")[0], "".join(url.partition("?")[1:])
        url = f"{scheme}:///{database.replace('%', '%25').replace('?', '%3F')}{query}"
    return SQLUrl(parsed, url, file, synchronous)


def _bound(database: str, is_uri: bool) -> tuple[str, str]:
    """Return the database of a URL with an absolute path, and that path: the process may change its folder."""
    if not (is_uri and database.startswith("file:")):
        file = os.path.abspath(database)
        return file, file
    # https://www.sqlite.org/uri.html
    path = database.removeprefix("file:").partition("?")[0].partition("#")[0]
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    elif not path.startswith("/"):
        folder = quote(os.getcwd())
        database = f"file:{folder.rstrip('/')}/{database.removeprefix('file:')}"
        path = f"{folder.rstrip('/')}/{path}"
    return database, os.path.abspath(unquote(path))


def _is_in_memory(url: URL) -> bool:
    file = url.database or ""
    in_memory = url.query.get("mode") == "memory" or url.query.get("vfs") == "memdb"
    return in_memory or file in ("", "file:") or ":memory:" in file
