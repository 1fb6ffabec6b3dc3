"""`RedisStore`: sessions in Redis or Valkey, of which a window is read with one command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from chatring.stores.redis.backend import RedisBackend
from chatring.stores.redis.server import RedisServer
from chatring.stores.store import Store, check_timeout

_M = TypeVar("_M")


class RedisStore(Store[_M]):
    """Sessions in Redis or Valkey, each change and each window one script that the server runs as one step.

    A change is never sent twice: a connection that broke while it was under way is a `StoreUnavailableError`. The
    server must not evict keys (`maxmemory-policy noeviction`); a session of which a part is gone is a
    `ForeignDataError`.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://...` with TLS, the same with `valkey` and `valkeys`, or
            `unix:///path?db=0`. `?cluster=true` for a cluster. Other parameters are those of redis-py, such as
            `socket_timeout` (seconds), `max_connections` and `timeout` (see below); but `protocol` is always 2. With a
            client it is only shown, and may be None.
        client: of redis-py, for the sync methods; used as it is, and never closed here: one of a cluster, of Sentinel
            (`Sentinel.master_for`), or with a `credential_provider`. If it sends again what was not answered, it finds
            its change made, unless another writer has changed the session meanwhile: then an append is there twice.
        async_client: as `client`, of redis.asyncio, for the async methods.
        password: a function that is asked for the password of each new connection, for those that change.
        prefix: what all keys begin with: `prefix:{session}:...`. Two prefixes are two stores.
        ttl: seconds after which a session that was not changed is gone. None: it stays. If somebody lets its keys
            expire, a change lets them expire together, at the latest of their times.
        pool_size: connections at most, for each process and event loop. 50 by default, or the URL's `max_connections`.
            A cluster's client has so many for each server.
        timeout: how long a call waits for other writers, for a connection, and for the server's answer, in seconds. 10
            by default, or the URL's `timeout`; `socket_timeout` is about the answer alone.
        options: of `Store`: counter, measure, start_on, format, counter_name, measure_name.

    Raises:
        TypeError, ValueError: if the URL is not one of these; for any other option that cannot be one; as `Store`.
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
