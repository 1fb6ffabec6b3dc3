"""`SQLiteUrl`: the settings in the URL of a SQLite store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from chatring.stores.redaction import check_url, without_secrets

# Values of PRAGMA synchronous: https://www.sqlite.org/pragma.html#pragma_synchronous
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
# Parameters of a file's URI, `sqlite:///file:chat.db?mode=ro&uri=true`: https://www.sqlite.org/uri.html
_FILE_PARAMETERS = {"mode", "cache", "immutable", "nolock", "psow", "vfs"}
_OURS = {"synchronous", "timeout", "pool_size"}


@dataclass(frozen=True)
class SQLiteUrl:
    """A URL in parts.

    Args:
        shown: the URL, with an absolute path.
        database: for `sqlite3.connect`.
        is_uri: whether `database` is a URI.
        file: the path of the file; None in memory.
        synchronous: for SQLite's pragma.
        timeout: how long to wait for other writers, in seconds; None if the URL does not say.
        pool_size: how many connections read at once; None if the URL does not say.
    """

    shown: str
    database: str
    is_uri: bool
    file: str | None
    synchronous: str
    timeout: float | None
    pool_size: int | None

    @classmethod
    def parse(cls, url: str) -> SQLiteUrl:
        """Take a URL apart.

        Raises:
            TypeError: if it is not a str.
            ValueError: if it is not one of SQLite, or has unknown parameters.
        """
        check_url(url)
        name = without_secrets(url)
        parts = urlsplit(url.replace("#", "%23"))  # a file's name may contain one
        if parts.netloc:
            raise ValueError(
                f"{name!r} has a host, but SQLite has none; a file follows three slashes: sqlite:///chat.db"
            )
        if parts.scheme not in ("sqlite", "sqlite+pysqlite"):
            raise ValueError(f"{name!r} is not a URL of SQLite; one begins with sqlite://")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        is_uri = _flag(query.pop("uri", "false"), name)
        ours = {name: query.pop(name) for name in list(query) if name in _OURS}
        if unknown := sorted(query.keys() - (_FILE_PARAMETERS if is_uri else set())):
            raise ValueError(f"{name!r} has parameters that SQLite does not take: {', '.join(unknown)}")
        synchronous = ours.get("synchronous", "FULL").upper()
        if synchronous not in _SYNCHRONOUS:
            raise ValueError(f"synchronous must be one of {', '.join(_SYNCHRONOUS)}, got {synchronous!r}")
        timeout = _number(ours, "timeout", float)
        pool_size = int(size) if (size := _number(ours, "pool_size", int)) is not None else None
        path = unquote(parts.path.removeprefix("/"))
        in_memory = query.get("mode") == "memory" or query.get("vfs") == "memdb"
        if in_memory or path in ("", "file:") or ":memory:" in path:
            database = f"{path or ':memory:'}?{urlencode(query)}" if query else path or ":memory:"
            return cls(url, database, is_uri, None, synchronous, timeout, pool_size)
        try:
            database, file = _bound(path, is_uri and path.startswith("file:"))
        except OSError:
            raise ValueError(
                f"{url!r} is relative to the current folder, which is gone; use an absolute path"
            ) from None
        shown = url
        if database != path:
            shown = f"{parts.scheme}:///{database.replace('%', '%25').replace('?', '%3F')}"
            shown += f"?{parts.query}" if parts.query else ""
        if query:
            database += f"?{urlencode(query)}"
        return cls(shown, database, is_uri, file, synchronous, timeout, pool_size)


def _bound(path: str, is_uri: bool) -> tuple[str, str]:
    """Return the path of a URL and the path of the file, both absolute: the process may change its folder."""
    if not is_uri:
        file = os.path.abspath(path)
        return file, file
    inside = path.removeprefix("file:").partition("?")[0].partition("#")[0]
    if inside.startswith("//"):
        inside = "/" + inside[2:].partition("/")[2]
    elif not inside.startswith("/"):
        folder = quote(os.getcwd()).rstrip("/")
        path, inside = f"file:{folder}/{path.removeprefix('file:')}", f"{folder}/{inside}"
    return path, os.path.abspath(unquote(inside))


def _flag(value: str, url: str) -> bool:
    flag = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(value.lower())
    if flag is None:
        raise ValueError(f"{url!r}: uri must be true or false, got {value!r}")
    return flag


def _number(values: dict[str, str], name: str, kind: type[int] | type[float]) -> int | float | None:
    if name not in values:
        return None
    try:
        number = kind(values[name])
    except ValueError:
        number = kind(0)
    if not 0 < number < 2**31:
        raise ValueError(f"{name} must be a number above 0, got {values[name]!r}")
    return number
