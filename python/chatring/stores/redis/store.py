"""`RedisStore`: sessions in Redis or Valkey. One command reads a window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from chatring.stores.redis.backend import RedisBackend
from chatring.stores.redis.server import RedisServer
from chatring.stores.store import Store, check_timeout

_M = TypeVar("_M")


class RedisStore(Store[_M]):
    """Sessions in Redis or Valkey. Each change and each window is one script, which the server runs as one step.

    A change is never sent twice: if the connection breaks while it is under way, that is a `StoreUnavailableError`. The
    server must not evict keys (`maxmemory-policy noeviction`); a session with missing parts is a `ForeignDataError`.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://...` with TLS, the same with `valkey` and `valkeys`, or
            `unix:///path?db=0`. `?cluster=true` for a cluster. Other parameters are redis-py's, such as
            `socket_timeout` (seconds), `max_connections` and `timeout` (see below); but `protocol` is always 2. With a
            client the URL is only shown, and may be None.
        client: a client of redis-py for the sync methods, used as it is and never closed here. It may be a cluster's,
            Sentinel's (`Sentinel.master_for`), or one with a `credential_provider`. If it sends a change again because
            there was no answer, the change is found to be made. But if another writer has changed the session
            meanwhile, an append is stored twice.
        async_client: like `client`, from redis.asyncio, for the async methods.
        password: a function that returns the password for each new connection, for passwords that change.
        prefix: what all keys begin with: `prefix:{session}:...`. Two prefixes are two stores.
        ttl: seconds after which an unchanged session expires. None: never. If somebody else sets its keys to expire, a
            change makes them expire together, at the latest of their times.
        pool_size: the most connections, for each process and event loop. The default is 50, or the URL's
            `max_connections`. For a cluster it applies to each server.
        timeout: how long a call waits for other writers, for a connection, and for the server's answer, in seconds. The
            default is 10, or the URL's `timeout`; `socket_timeout` limits only the answer.
        options: of `Store`: counter, measure, start_on, format, counter_name, measure_name.

    Raises:
        TypeError, ValueError: if the URL is not one of these, or another option is invalid. Also whenever `Store`
            raises them.
    """

    def __init__(
        self,
        url: str | None,
        *,
        client: Any = None,
        async_client: Any = None,
        password: Callable[[], str] | None = None,
        prefix: str = "chatring",
        ttl: float | None = None,
        pool_size: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        if timeout is not None:
            timeout = check_timeout(timeout)
        server = RedisServer(
            url, client=client, async_client=async_client, password=password, pool_size=pool_size, timeout=timeout
        )
        super().__init__(RedisBackend(server, prefix=prefix, ttl=ttl), timeout=server.timeout, **options)
