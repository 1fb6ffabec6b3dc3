"""`RedisServer`: the connections of a `RedisStore`."""

from __future__ import annotations

import asyncio
import os
import threading
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

# Seconds that a call may have waited for its turn before its connection's own timeout is too long for it. A call always
# keeps that much time, for an answer that is under way.
_SOON = 0.05
_LEAST = 0.2


class RedisServer:
    """A server or cluster at a store's URL, or behind clients that others made.

    A change is sent once, because its answer may be lost after it was made. So redis-py must not retry. Before its
    pools send anything, they notice most connections that were lost since their last use; the pools of an async cluster
    client do not. A call that only reads is sent once more on a new connection.

    Args:
        url: of the server. With a client it is only shown.
        client: used as it is, and never closed here.
        async_client: like `client`, for the async methods.
        password: returns the password for each new connection.
        pool_size: the most connections, for each process and event loop.
        timeout: seconds to wait for a connection and for an answer.

    Raises:
        TypeError: if the URL is not a str.
        ValueError: if it is not a URL of such a server.
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
            # Functions, because the options contain the password. Tools that show the values of attributes must not see
            # it.
            self._new_client = lambda: _pooled(sync_redis, options)
            self._new_async_client = lambda: _pooled(async_redis, async_options)
            if self._is_cluster:
                self._new_client = lambda: Cluster(**_of_cluster(options))
                self._new_async_client = lambda: AsyncCluster(**_of_cluster(async_options))
            self.url = redacted(url, CREDENTIALS)
        self.turns = Turns()
        # Many threads may share a client. By process, because a client may be made just while the process forks.
        self._clients: dict[int, _Shared] = {}
        # An async connection belongs to the loop that opened it. With each client, the generator that closes it when
        # the loop ends.
        self._async_clients: dict[asyncio.AbstractEventLoop, tuple[_Shared, AsyncGenerator[None, None]]] = {}
        self._connection, self._async_connection = RedisConnection(self), AsyncRedisConnection(self)
        _servers.add(self)

    @contextmanager
    def lend(self, waited: float = 0.0) -> Iterator[RedisConnection]:
        """Lend the shared client to a call that has waited for `waited` seconds."""
        yield self._connection if waited < _SOON else RedisConnection(self, max(self.timeout - waited, _LEAST))

    @asynccontextmanager
    async def alend(self, waited: float = 0.0) -> AsyncIterator[AsyncRedisConnection]:
        """Async version of `lend`."""
        yield (
            self._async_connection if waited < _SOON else AsyncRedisConnection(self, max(self.timeout - waited, _LEAST))
        )

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Lend redis-py's client, which connects when it is used and raises redis-py's own errors."""
        if self._given is not None:
            yield self._given
            return
        process = os.getpid()
        shared = self._clients.get(process)
        if shared is None:
            made = _Shared(self._new_client())
            shared = self._clients.setdefault(process, made)
            if shared is not made:  # another thread was faster
                made.client.close()
        shared.begin()
        try:
            yield shared.client
        finally:
            if shared.end():
                shared.client.close()

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[Any]:
        """Lend the async client of this event loop; see `client`."""
        if self._async_given is not None:
            yield self._async_given
            return
        shared = await self._async_shared()
        shared.begin()
        try:
            yield shared.client
        finally:
            if shared.end():
                await shared.client.aclose()

    async def _async_shared(self) -> _Shared:
        loop = asyncio.get_running_loop()
        found = self._async_clients.get(loop)
        if found is None:
            for other in list(self._async_clients):
                if other.is_closed():
                    self._async_clients.pop(other, None)  # another thread's loop may have done it
            shared = _Shared(self._new_async_client())
            keeper = self._kept(loop, shared)
            self._async_clients[loop] = shared, keeper
            # From now on the loop knows the generator and closes it at its own end, as asyncio.run does:
            # `loop.shutdown_asyncgens`.
            await anext(keeper)
            return shared
        return found[0]

    def close(self) -> None:
        """Close the connections of the sync methods, after the calls that use them. The next call connects again."""
        shared = self._clients.pop(os.getpid(), None)
        if shared is not None and shared.close():
            shared.client.close()

    async def aclose(self) -> None:
        """Like `close`, for the connections that async methods opened in this event loop."""
        found = self._async_clients.get(asyncio.get_running_loop())
        if found is not None:
            await found[1].aclose()

    def renew(self) -> None:
        """Start over in a forked process. Inherited clients belong to the parent, which may have held their locks."""
        _inherited.append((self._clients, self._async_clients))
        self._clients, self._async_clients = {}, {}
        self.turns.renew()

    async def _kept(self, loop: asyncio.AbstractEventLoop, shared: _Shared) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._async_clients.pop(loop, None)
            if shared.close():
                await shared.client.aclose()


class _Shared:
    """A client that calls share. If it should be closed, that waits for the last of them.

    redis-py would close the connections that they use too.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._calls = 0
        self._is_closing = False

    def begin(self) -> None:
        """Begin a call."""
        with self._lock:
            self._calls += 1

    def end(self) -> bool:
        """End a call. Return whether to close the client now."""
        with self._lock:
            self._calls -= 1
            return self._is_closing and not self._calls

    def close(self) -> bool:
        """Say that the client should be closed. Return whether to do so now."""
        with self._lock:
            self._is_closing = True
            return not self._calls


# All servers of this process, to be renewed in a forked one.
_servers: weakref.WeakSet[RedisServer] = weakref.WeakSet()
# Inherited clients: the child must neither use nor close them.
_inherited: list[Any] = []


def _renew_all() -> None:
    for server in list(_servers):
        server.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


def _no_client() -> Any:
    raise TypeError("the store has a client for the other kind of methods only; give it client and async_client")


def _pooled(library: Any, options: dict[str, Any]) -> Any:
    """Return a client of `library`, which is redis or redis.asyncio."""
    # An explicit socket_timeout is kept.
    is_given = options["socket_timeout"] != options["timeout"]
    return library.Redis.from_pool(
        library.BlockingConnectionPool(**options) if is_given else patience.pool(library, options)
    )


def _of_cluster(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as a cluster's client takes them. Its pools have no timeout."""
    taken = {name: value for name, value in options.items() if name not in ("timeout", "connection_class")}
    return {**taken, "ssl": True} if "connection_class" in options else taken
