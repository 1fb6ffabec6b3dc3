"""`RedisServer`: the connections of a `RedisStore`, and what becomes of a call when one is lost."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis as sync_redis
from redis import asyncio as async_redis
from redis.asyncio.connection import parse_url as parse_async_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError
from redis.retry import Retry

from chatring.stores.redis_cluster import AsyncCluster, Cluster
from chatring.stores.redis_errors import is_lost, store_error
from chatring.stores.redis_layout import SESSIONS
from chatring.stores.redis_sessions import Call, Work
from chatring.stores.redaction import redacted, without_secrets

_T = TypeVar("_T")

_ERRORS = (RedisError, RedisClusterException, OSError)

# Unless the URL says otherwise: how long to wait for the server, and for a connection of the pool.
_SECONDS = 10
_MOST_CONNECTIONS = 50
# Keys that the server looks at, one call, to find sessions.
_KEYS_AT_ONCE = 1000
# As urllib finds them: the user ends at the first colon, the password at the last @ before the path.
_CREDENTIALS = re.compile(r"(?<=://)([^:/?#]*)(:[^/?#]*)?@")
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class RedisServer:
    """A server, or a cluster of them, at the URL of a store.

    A change is sent once: its answer may be lost after it was made, and an append that is sent again is there twice. So
    redis-py must not retry. Its pools see most connections that were lost since their last use before they send
    anything; those of an async client of a cluster do not. What only reads is sent once more on a new connection.

    Raises:
        ValueError: if it is no such URL.
    """

    def __init__(self, url: str) -> None:
        options, self._is_cluster = _parsed(url, parse_url, sync_redis.Connection, Retry)
        async_options, _ = _parsed(url, parse_async_url, async_redis.Connection, AsyncRetry)
        # Functions, as the options have the password, which tools that show the values of attributes must not see.
        self._new_client: Callable[[], Any] = lambda: _pooled(sync_redis, options)
        self._new_async_client: Callable[[], Any] = lambda: _pooled(async_redis, async_options)
        if self._is_cluster:
            self._new_client = lambda: Cluster(**_of_cluster(options))
            self._new_async_client = lambda: AsyncCluster(**_of_cluster(async_options))
        self.url = redacted(url, _CREDENTIALS)
        # By process: a client that a fork inherited is the parent's, which may have held its locks just then. Made
        # without a lock for the same reason. Clients are safe to use from many threads.
        self._clients: dict[int, Any] = {}
        # An async connection belongs to the loop that opened it.
        self._async_clients: dict[asyncio.AbstractEventLoop, Any] = {}

    def run(self, work: Work[_T]) -> _T:
        """Have the server do what `work` yields, and return its result."""
        answer: Any = None
        while True:
            call, end = _next(work, answer)
            if end is not None:
                return end.value  # type: ignore[no-any-return]
            answer = None if call is None else self._answer(call)

    async def arun(self, work: Work[_T]) -> _T:
        """As `run`. What takes long is done in a thread."""
        answer: Any = None
        takes_long = False
        while True:
            call, end = await asyncio.to_thread(_next, work, answer) if takes_long else _next(work, answer)
            if end is not None:
                return end.value  # type: ignore[no-any-return]
            takes_long = call is None
            answer = None if call is None else await self._aanswer(call)

    def session_keys(self) -> set[bytes]:
        """Return the first key of every session."""
        attempt = _Attempt(self.url)
        while True:
            with attempt:
                client = self.client()
                if self._is_cluster:
                    return client.keys_like(SESSIONS, _KEYS_AT_ONCE)  # type: ignore[no-any-return]
                return set(client.scan_iter(match=SESSIONS, count=_KEYS_AT_ONCE))

    async def asession_keys(self) -> set[bytes]:
        """As `session_keys`."""
        attempt = _Attempt(self.url)
        while True:
            with attempt:
                client = self._async_connected()
                if self._is_cluster:
                    return await client.keys_like(SESSIONS, _KEYS_AT_ONCE)  # type: ignore[no-any-return]
                return {key async for key in client.scan_iter(match=SESSIONS, count=_KEYS_AT_ONCE)}

    def client(self) -> Any:
        """Return the client of redis-py, which connects when it is used. Its errors are redis-py's own."""
        process = os.getpid()
        client = self._clients.get(process)
        if client is None:
            made = self._new_client()
            client = self._clients.setdefault(process, made)
            if client is not made:  # another thread was quicker
                made.close()
        return client

    def close(self) -> None:
        """Close the connections of the sync methods."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the connections that async methods opened in this event loop."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _answer(self, call: Call) -> Any:
        attempt = _Attempt(self.url, call)
        while True:
            with attempt:
                client = self.client()
                if call.script is None:
                    return client.lrange(call.keys[1], *call.arguments)
                try:
                    return self._evaluate(client, call.script.sha, call)
                except NoScriptError:  # so nothing was done; the server keeps the script from now on
                    return client.eval(call.script.source, len(call.keys), *call.keys, *call.arguments)
                except ReadOnlyError:
                    # The name may by now belong to another server, which takes changes.
                    self._clients.pop(os.getpid(), None)
                    raise

    def _evaluate(self, client: Any, sha: str, call: Call) -> Any:
        if self._is_cluster:
            return client.evalsha(sha, len(call.keys), *call.keys, *call.arguments)
        # As the client does it, less its metrics, its retries and its many checks, which take a tenth of an append.
        pool = client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command("EVALSHA", sha, len(call.keys), *call.keys, *call.arguments)
            return connection.read_response()
        finally:
            pool.release(connection)

    async def _aanswer(self, call: Call) -> Any:
        if call.script is not None and call.script.changes:
            # That a connection was closed is known once the loop has looked for what there is to read, which it did not
            # do while it stood still. It looks after the first step, and passes it on after the second.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        attempt = _Attempt(self.url, call)
        while True:
            with attempt:
                client = self._async_connected()
                if call.script is None:
                    return await client.lrange(call.keys[1], *call.arguments)
                try:
                    return await client.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
                except NoScriptError:
                    return await client.eval(call.script.source, len(call.keys), *call.keys, *call.arguments)
                except ReadOnlyError:
                    if not self._is_cluster:
                        await client.connection_pool.disconnect(inuse_connections=False)
                    raise

    def _async_connected(self) -> Any:
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            for other in list(self._async_clients):
                if other.is_closed():
                    self._async_clients.pop(other, None)  # another thread's loop may have done it
            client = self._async_clients[loop] = self._new_async_client()
        return client


def _next(work: Work[_T], answer: Any) -> tuple[Call | None, StopIteration | None]:
    """Return what `work` yields next, or its end, which cannot be raised in a thread's future."""
    try:
        return work.send(answer), None
    except StopIteration as end:
        return None, end


class _Attempt:
    """A call, made once more if it only reads and the connection turns out to be lost."""

    def __init__(self, url: str, call: Call | None = None) -> None:
        self._url = url
        self._changes = call is not None and call.script is not None and call.script.changes
        self._is_last = self._changes

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, _ERRORS):
            return False
        if self._is_last or not is_lost(error):
            raise store_error(error, self._url, may_have_changed=self._changes) from error
        self._is_last = True
        return True


def _parsed(url: str, parse: Any, connection: Any, retry: Any) -> tuple[dict[str, Any], bool]:
    """Return what redis-py is to connect with, and whether to a cluster."""
    scheme, _, rest = url.partition("://")
    try:
        options = parse(f"{scheme.replace('valkey', 'redis')}://{rest}")
        database = urlsplit(url).path.strip("/")
        is_cluster = _FLAGS[str(options.pop("cluster", "false")).lower()]
        if scheme not in ("redis", "rediss", "valkey", "valkeys") or (database and not database.isdecimal()):
            raise ValueError
        if is_cluster and options.pop("db", 0) != 0:
            raise TypeError("a cluster has only database 0")
        options = {
            "host": "localhost",
            "port": 6379,
            "socket_timeout": _SECONDS,
            "socket_connect_timeout": _SECONDS,
            **options,
            "decode_responses": False,
            # RESP3 brings notifications by which redis-py no longer sees that an idle connection was closed.
            "protocol": 2,
            "retry": retry(NoBackoff(), 0),
        }
        of_pool = ("connection_class", "max_connections", "timeout")
        of_connection = {name: value for name, value in options.items() if name not in of_pool}
        # A connection knows all its parameters, and connects later.
        options.get("connection_class", connection)(**of_connection)
    except (ValueError, KeyError, TypeError) as error:
        # Without the cause, which may show the password.
        reason = f": {error}" if isinstance(error, TypeError) else ""
        raise ValueError(
            f"{without_secrets(url)!r} is not the URL of a Redis or Valkey server, as redis://host:6379/0{reason}"
        ) from None
    return options, is_cluster


def _pooled(library: Any, options: dict[str, Any]) -> Any:
    """Return a client of `library`, which is redis or redis.asyncio."""
    pool = {"max_connections": _MOST_CONNECTIONS, "timeout": _SECONDS, **options}
    return library.Redis.from_pool(library.BlockingConnectionPool(**pool))


def _of_cluster(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as a cluster's client takes them, whose pools know no timeout."""
    taken = {name: value for name, value in options.items() if name not in ("timeout", "connection_class")}
    return {**taken, "ssl": True} if "connection_class" in options else taken
