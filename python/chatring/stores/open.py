"""`open_store`: the store at a URL."""

from __future__ import annotations

from typing import Any

from chatring.stores.redaction import check_url, without_secrets
from chatring.stores.store import Store


def open_store(url: str, **options: Any) -> Store[Any]:
    """Return the store at a URL. Nothing is opened before the first call.

    Args:
        url: `sqlite:///chat.db` (a file; four slashes for an absolute path), `redis://host:6379/0` (`rediss://` with
            TLS; also `valkey://` and `valkeys://`; `unix:///path`), `postgresql://user:password@host/database`, or
            `memory://`.
        options: of `Store`: counter, measure, start_on, format, counter_name, measure_name, timeout; and of
            `chatring.stores.sql.SQLStore` or `chatring.stores.redis.RedisStore`.

    Raises:
        TypeError: if the URL is not a str, or this store does not have an option.
        ValueError: for any other URL, which is shown without its secrets. Also whenever `Store` raises it.
        ModuleNotFoundError: if the database's driver is not installed.
    """
    check_url(url)
    scheme, separator, _ = url.partition("://")
    match scheme.partition("+")[0] if separator else None:
        case "memory":
            from chatring.stores.sql import SQLStore

            return SQLStore("sqlite://", **options)
        case "sqlite" | "postgresql" | "postgres":
            from chatring.stores.sql import SQLStore

            return SQLStore(url, **options)
        case "redis" | "rediss" | "valkey" | "valkeys" | "unix":
            from chatring.stores.redis import RedisStore

            return RedisStore(url, **options)
    raise ValueError(
        f"{without_secrets(url)!r} is not a store's URL; one begins with sqlite:// (a file: sqlite:///chat.db), "
        "postgresql://, redis:// or memory://"
    )
