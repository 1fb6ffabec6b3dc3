"""Store URLs: which store one names, and how to show it without its secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatring.stores.store import Store

# A password may have any character that its writer forgot to escape: it ends at the last @.
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):.*@", re.DOTALL)
_QUERY_SECRET = re.compile(r"(?<=[?&])([^=&#]*(?:pass|secret|token)[^=&#]*)=[^&#]*", re.IGNORECASE)


def open_store(url: str, *, counter: Any = "cl100k_base", counter_name: str | None = None) -> Store:
    """Return the store at a URL. Nothing is opened before the first call.

    Args:
        url: `sqlite:///chat.db` (a file; four slashes for an absolute path), `postgresql://user:password@host/database`,
            `redis://host:6379/0` (`rediss://` with TLS; also `valkey://` and `valkeys://`), or `memory://`.
        counter: as in `Store`.
        counter_name: as in `Store`.

    Raises:
        ValueError: for any other URL; it is shown without its secrets.
        ModuleNotFoundError: if the database's driver is not installed.
    """
    scheme, separator, _ = url.partition("://")
    match scheme.partition("+")[0] if separator else None:
        case "memory":
            from chatring.stores.memory import MemoryStore

            return MemoryStore(counter, counter_name)
        case "sqlite" | "postgresql" | "postgres":
            from chatring.stores.sql import SQLStore

            return SQLStore(url, counter=counter, counter_name=counter_name)
        case "redis" | "rediss" | "valkey" | "valkeys":
            from chatring.stores.redis import RedisStore

            return RedisStore(url, counter=counter, counter_name=counter_name)
    raise ValueError(
        f"{without_secrets(url)!r} is no store's URL; one begins with sqlite://, postgresql://, redis:// or memory://"
    )


def without_secrets(url: str) -> str:
    """Return a URL to show: with `***` in the place of its password, wherever that stands."""
    return _QUERY_SECRET.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", url))
