"""Reads the URL of a Redis or Valkey store as redis-py takes it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from chatring.stores.redaction import without_secrets

# The default timeout.
SECONDS = 10.0
_MOST_CONNECTIONS = 50
# The longest wait, a day, in seconds. The system does not take much more.
LONGEST = 86_400.0
CREDENTIALS = re.compile(r"(?<=://)([^:/?#]*)(:[^/?#]*)?@")
"""As urllib finds them: the user ends at the first colon, the password at the last @ before the path."""
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")


def defaults(timeout: float | None, pool_size: int | None) -> dict[str, Any]:
    """Return the options of redis-py that are given beside the URL; None for those that are not given."""
    if pool_size is not None and (not isinstance(pool_size, int) or isinstance(pool_size, bool) or pool_size < 1):
        raise ValueError(f"pool_size must be a number of connections of at least 1, got {pool_size!r}")
    return {"timeout": timeout, "max_connections": pool_size}


def parsed(
    url: str, parse: Any, connection: Any, retry: Any, given: dict[str, Any], password: Callable[[], str] | None
) -> tuple[dict[str, Any], bool]:
    """Return the options that redis-py connects with, and whether to a cluster."""
    scheme, _, rest = url.partition("://")
    try:
        options = parse(f"{scheme.replace('valkey', 'redis')}://{rest}")
        database = "" if scheme == "unix" else urlsplit(url).path.strip("/")
        is_cluster = _FLAGS[str(options.pop("cluster", "false")).lower()]
        if scheme not in _SCHEMES or (database and not database.isdecimal()) or (scheme == "unix" and is_cluster):
            raise ValueError
        if is_cluster and options.pop("db", 0) != 0:
            raise TypeError("a cluster has only database 0")
        options |= {name: value for name, value in given.items() if value is not None}
        seconds = float(options.setdefault("timeout", SECONDS))
        options = {
            **({} if scheme == "unix" else {"host": "localhost", "port": 6379}),
            "max_connections": _MOST_CONNECTIONS,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            **options,
            "decode_responses": False,
            # With RESP3 come notifications that keep redis-py from seeing that an idle connection was closed.
            "protocol": 2,
            "retry": retry(NoBackoff(), 0),
        }
        for name in ("timeout", "socket_timeout", "socket_connect_timeout"):
            if options[name] is not None:
                options[name] = min(options[name], LONGEST)
        if password is not None:
            options.pop("password", None)
            options["credential_provider"] = _Password(options.pop("username", None), password)
        of_pool = ("connection_class", "max_connections", "timeout")
        of_connection = {name: value for name, value in options.items() if name not in of_pool}
        # A connection checks all its parameters now, and connects later.
        options.get("connection_class", connection)(**of_connection)
    except (ValueError, KeyError, TypeError) as error:
        # Without the cause, which may show the password.
        reason = f": {_reason(error)}" if isinstance(error, TypeError) else ""
        raise ValueError(
            f"{without_secrets(url)!r} is not the URL of a Redis or Valkey server, such as redis://host:6379/0{reason}"
        ) from None
    return options, is_cluster


def _reason(error: TypeError) -> str:
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return str(error)
    name = unknown[1]
    return f"redis-py has no parameter {name!r}" + ("; give it to open_store" if name in ("prefix", "ttl") else "")


class _Password(CredentialProvider):
    """The user of a URL, with a function that returns the password for each new connection."""

    def __init__(self, user: str | None, password: Callable[[], str]) -> None:
        self._user, self._password = user, password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the user, if there is one, and the password."""
        password = self._password()
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Async version of `get_credentials`: the function runs in a thread."""
        return await asyncio.to_thread(self.get_credentials)
