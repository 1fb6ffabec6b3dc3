"""`RedisServer`: the connections of a `RedisStore`."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import redis as sync_redis
from redis import asyncio as async_redis
from redis.asyncio.connection import parse_url as parse_async_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.connection import parse_url
from redis.retry import Retry

from chatring.stores.redaction import check_url, redacted
from chatring.stores.redis import patience
from chatring.stores.redis.cluster import AsyncCluster, Cluster
from chatring.stores.redis.connection import AsyncRedisConnection, RedisConnection
from chatring.stores.redis.url import CREDENTIALS, SECONDS, defaults, parsed
from chatring.stores.turns import Turns

# Seconds that a call may have waited for its turn before its connection's time would be too long for it; and what it
# has at least, for an answer that is under way.
_SOON = 0.05
_LEAST = 0.2


class RedisServer:
    """A server, or a cluster of them, at the URL of a store, or behind clients that others made.

    A change is sent once: its answer may be lost after it was made. So redis-py must not retry. Its pools see most
    connections that were lost since their last use before they send anything; those of an async client of a cluster do
    not. What only reads is sent once more on a new connection.

    Args:
        url: of the server. Only to be shown, if there is a client.
        client: used as it is, and never closed here.
        async_client: as `client`, for the async methods.
        password: returns the password of each new connection.
        pool_size: connections at most, for each process and event loop.
        timeout: seconds to wait for a connection and for an answer.

    Raises:
        TypeError: if the URL is not a str.
        ValueError: if it is no such URL.
    """

    def __init__(
        self,
        url: str | None,
        *,
        client: Any = None,
        async_client: Any = None,
        password: Callable[[], str] | None = None,
        pool_size: int | None = None,
        timeout: float | None = None,
    ) -> None:
        self._given, self._async_given = client, async_client
        self._has_given = client is not None or async_client is not None
        self.timeout = SECONDS if timeout is None else timeout
        self._new_client = self._new_async_client = _no_client
        if self._has_given:
            self._is_cluster = False
            self.url = "redis://" if url is None else redacted(url, CREDENTIALS)
        else:
            check_url(url)
            assert url is not None
            given = defaults(timeout, pool_size)
            options, self._is_cluster = parsed(url, parse_url, sync_redis.Connection, Retry, given, password)
            async_options, _ = parsed(url, parse_async_url, async_redis.Connection, AsyncRetry, given, password)
            if timeout is None:
                self.timeout = float(options["timeout"])
            # Functions, as the options have the password, which tools that show the values of attributes must not see.
            self._new_client = lambda: _pooled(sync_redis, options)
            self._new_async_client = lambda: _pooled(async_redis, async_options)
            if self._is_cluster:
                self._new_client = lambda: Cluster(**_of_cluster(options))
                self._new_async_client = lambda: AsyncCluster(**_of_cluster(async_options))
            self.url = redacted(url, CREDENTIALS)
        self.turns = Turns()
        # Clients are safe to use from many threads. By process, as one may be made just while the process forks.
        self._clients: dict[int, Any] = {}
        # An async connection belongs to the loop that opened it. With each, what closes it when the loop ends.
        self._async_clients: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None, None]]] = {}
        self._connection, self._async_connection = RedisConnection(self), AsyncRedisConnection(self)
        _servers.add(self)

    @contextmanager
    def lend(self, waited: float = 0.0) -> Iterator[RedisConnection]:
        """Lend the client, which many use at once, to a call that has waited for so many seconds."""
        yield self._connection if waited < _SOON else RedisConnection(self, max(self.timeout - waited, _LEAST))

    @asynccontextmanager
    async def alend(self, waited: float = 0.0) -> AsyncIterator[AsyncRedisConnection]:
        """As `lend`."""
        yield (
            self._async_connection if waited < _SOON else AsyncRedisConnection(self, max(self.timeout - waited, _LEAST))
        )

    def client(self) -> Any:
        """Return the client of redis-py, which connects when it is used. Its errors are redis-py's own."""
        if self._given is not None:
            return self._given
        process = os.getpid()
        client = self._clients.get(process)
        if client is None:
            made = self._new_client()
            client = self._clients.setdefault(process, made)
            if client is not made:  # another thread was quicker
                made.close()
        return client

    async def async_client(self) -> Any:
        """As `client`, of this event loop."""
        if self._async_given is not None:
            return self._async_given
        loop = asyncio.get_running_loop()
        found = self._async_clients.get(loop)
        if found is None:
            for other in list(self._async_clients):
                if other.is_closed():
                    self._async_clients.pop(other, None)  # another thread's loop may have done it
            client = self._new_async_client()
            keeper = self._kept(loop, client)
            self._async_clients[loop] = client, keeper
            # Now the loop knows of it, and ends it with itself, as asyncio.run does: `loop.shutdown_asyncgens`.
            await anext(keeper)
            return client
        return found[0]

    def close(self) -> None:
        """Close the connections of the sync methods."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the connections that async methods opened in this event loop."""
        found = self._async_clients.get(asyncio.get_running_loop())
        if found is not None:
            await found[1].aclose()

    def drop_client(self) -> None:
        """Let the next call connect anew."""
        self._clients.pop(os.getpid(), None)

    def renew(self) -> None:
        """Begin anew in a forked process: inherited clients are the parent's, which may have held their locks."""
        _inherited.append((self._clients, self._async_clients))
        self._clients, self._async_clients = {}, {}
        self.turns.renew()

    async def _kept(self, loop: asyncio.AbstractEventLoop, client: Any) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._async_clients.pop(loop, None)
            await client.aclose()


# All of this process, to be renewed in one that it forks.
_servers: weakref.WeakSet[RedisServer] = weakref.WeakSet()
# What a child does not use, but must not close either.
_inherited: list[Any] = []


def _renew_all() -> None:
    for server in list(_servers):
        server.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


def _no_client() -> Any:
    raise TypeError(
        "the store was given a client for the other kind of its methods only; give it client and async_client"
    )


def _pooled(library: Any, options: dict[str, Any]) -> Any:
    """Return a client of `library`, which is redis or redis.asyncio."""
    # Who says how long an answer may take has it so.
    is_given = options["socket_timeout"] != options["timeout"]
    return library.Redis.from_pool(
        library.BlockingConnectionPool(**options) if is_given else patience.pool(library, options)
    )


def _of_cluster(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as a cluster's client takes them, whose pools know no timeout."""
    taken = {name: value for name, value in options.items() if name not in ("timeout", "connection_class")}
    return {**taken, "ssl": True} if "connection_class" in options else taken
