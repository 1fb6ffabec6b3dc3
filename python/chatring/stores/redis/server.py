"""`RedisServer`: the connections of a `RedisStore`, and what becomes of a call when one is lost."""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis as sync_redis
from redis import asyncio as async_redis
from redis.asyncio.connection import parse_url as parse_async_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.connection import parse_url
from redis.credentials import CredentialProvider
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError
from redis.retry import Retry

from chatring.stores.redaction import check_url, redacted, without_secrets
from chatring.stores.redis.cluster import AsyncCluster, Cluster
from chatring.stores.redis.errors import is_lost, store_error
from chatring.stores.redis.scripts import Script
from chatring.stores.turns import Turns

_ERRORS = (RedisError, RedisClusterException, OSError)

# Unless something else is said.
_SECONDS = 10.0
_MOST_CONNECTIONS = 50
# Keys that the server looks at, one call, to find sessions.
_KEYS_AT_ONCE = 1000
# As urllib finds them: the user ends at the first colon, the password at the last @ before the path.
_CREDENTIALS = re.compile(r"(?<=://)([^:/?#]*)(:[^/?#]*)?@")
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
# redis-py looks it up: the answer comes as bytes from a client of any settings.
_AS_BYTES = {NEVER_DECODE: True}


class Call(NamedTuple):
    """A script to be run with these values."""

    script: Script
    keys: tuple[bytes, ...]
    arguments: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Of the script."""
        return self.script.name

    @property
    def changes(self) -> bool:
        """Whether it must not be sent twice."""
        return self.script.changes


class Scan(NamedTuple):
    """The keys that match a pattern, as a set."""

    pattern: bytes
    name: str = "scan"
    changes: bool = False


class Times(NamedTuple):
    """When the sessions with these keys were last changed; None for those that are none."""

    keys: Sequence[bytes]
    name: str = "times"
    changes: bool = False


Step = Call | Scan | Times


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
        self.timeout = _SECONDS if timeout is None else timeout
        self._new_client = self._new_async_client = _no_client
        if self._has_given:
            self._is_cluster = False
            self.url = "redis://" if url is None else redacted(url, _CREDENTIALS)
        else:
            check_url(url)
            assert url is not None
            defaults = _defaults(timeout, pool_size)
            options, self._is_cluster = _parsed(url, parse_url, sync_redis.Connection, Retry, defaults, password)
            async_options, _ = _parsed(url, parse_async_url, async_redis.Connection, AsyncRetry, defaults, password)
            if timeout is None:
                self.timeout = float(options["timeout"])
            # Functions, as the options have the password, which tools that show the values of attributes must not see.
            self._new_client = lambda: _pooled(sync_redis, options)
            self._new_async_client = lambda: _pooled(async_redis, async_options)
            if self._is_cluster:
                self._new_client = lambda: Cluster(**_of_cluster(options))
                self._new_async_client = lambda: AsyncCluster(**_of_cluster(async_options))
            self.url = redacted(url, _CREDENTIALS)
        self.turns = Turns()
        # Clients are safe to use from many threads. By process, as one may be made just while the process forks.
        self._clients: dict[int, Any] = {}
        # An async connection belongs to the loop that opened it. With each, what closes it when the loop ends.
        self._async_clients: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None, None]]] = {}
        self._connection, self._async_connection = _Connection(self), _AsyncConnection(self)
        _servers.add(self)

    @contextmanager
    def lend(self) -> Iterator[_Connection]:
        """Lend the client, which many use at once."""
        yield self._connection

    @asynccontextmanager
    async def alend(self) -> AsyncIterator[_AsyncConnection]:
        """As `lend`."""
        yield self._async_connection

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


class _Connection:
    """Has the server do what an operation yields."""

    is_in_transaction = False

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def execute(self, step: Step) -> Any:
        """Return what the server answers."""
        attempt = _Attempt(self._server.url, step)
        while True:
            with attempt:
                client = self._server.client()
                if isinstance(step, Call):
                    return self._evaluate(client, step)
                if isinstance(step, Times):
                    with client.pipeline(transaction=False) as pipeline:
                        for key in step.keys:
                            pipeline.hget(key, "updated_at")
                        return _numbers(pipeline.execute(raise_on_error=False))
                if isinstance(client, Cluster):
                    return client.keys_like(step.pattern, _KEYS_AT_ONCE)
                return {_encoded(key) for key in client.scan_iter(match=step.pattern, count=_KEYS_AT_ONCE)}

    def _evaluate(self, client: Any, call: Call) -> Any:
        script, keys, arguments = call
        try:
            return client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments, **_AS_BYTES)
        except NoScriptError:  # so nothing was done; the server keeps the script from now on
            return client.execute_command("EVAL", script.source, len(keys), *keys, *arguments, **_AS_BYTES)
        except ReadOnlyError:
            # The name may by now belong to another server, which takes changes.
            self._server.drop_client()
            raise


class _AsyncConnection:
    """As `_Connection`."""

    is_in_transaction = False

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    async def execute(self, step: Step) -> Any:
        """Return what the server answers."""
        if step.changes:
            # That a connection was closed is known once the loop has looked for what there is to read, which it did not
            # do while it stood still. It looks after the first step, and passes it on after the second.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        attempt = _Attempt(self._server.url, step)
        while True:
            with attempt:
                client = await self._server.async_client()
                if isinstance(step, Call):
                    return await self._evaluate(client, step)
                if isinstance(step, Times):
                    async with client.pipeline(transaction=False) as pipeline:
                        for key in step.keys:
                            pipeline.hget(key, "updated_at")
                        return _numbers(await pipeline.execute(raise_on_error=False))
                if isinstance(client, AsyncCluster):
                    return await client.keys_like(step.pattern, _KEYS_AT_ONCE)
                return {_encoded(key) async for key in client.scan_iter(match=step.pattern, count=_KEYS_AT_ONCE)}

    async def _evaluate(self, client: Any, call: Call) -> Any:
        script, keys, arguments = call
        try:
            return await client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments, **_AS_BYTES)
        except NoScriptError:
            return await client.execute_command("EVAL", script.source, len(keys), *keys, *arguments, **_AS_BYTES)
        except ReadOnlyError:
            if isinstance(client, async_redis.Redis):
                await client.connection_pool.disconnect(inuse_connections=False)
            raise


class _Attempt:
    """A call, made once more if it only reads and the connection turns out to be lost."""

    def __init__(self, url: str, step: Step) -> None:
        self._url = url
        self._step = step
        self._is_last = step.changes

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, _ERRORS):
            return False
        if self._is_last or not is_lost(error):
            raise store_error(error, self._url, may_have_changed=self._step.changes) from error
        self._is_last = True
        return True


class _Password(CredentialProvider):
    """The user of a URL, with a password that is asked for whenever a connection is made."""

    def __init__(self, user: str | None, password: Callable[[], str]) -> None:
        self._user, self._password = user, password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, behind the user if there is one."""
        password = self._password()
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """As `get_credentials`, in a thread."""
        return await asyncio.to_thread(self.get_credentials)


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


def _numbers(answers: list[Any]) -> list[int | None]:
    return [int(answer) if isinstance(answer, (bytes, str)) and answer.isdigit() else None for answer in answers]


def _encoded(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _defaults(timeout: float | None, pool_size: int | None) -> dict[str, Any]:
    """Return the options of redis-py that are given besides the URL; None for those that are not."""
    if pool_size is not None and (not isinstance(pool_size, int) or isinstance(pool_size, bool) or pool_size < 1):
        raise ValueError(f"pool_size must be a number of connections of at least 1, got {pool_size!r}")
    return {"timeout": timeout, "max_connections": pool_size}


def _parsed(
    url: str, parse: Any, connection: Any, retry: Any, given: dict[str, Any], password: Callable[[], str] | None
) -> tuple[dict[str, Any], bool]:
    """Return what redis-py is to connect with, and whether to a cluster."""
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
        seconds = float(options.setdefault("timeout", _SECONDS))
        options = {
            **({} if scheme == "unix" else {"host": "localhost", "port": 6379}),
            "max_connections": _MOST_CONNECTIONS,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            **options,
            "decode_responses": False,
            # RESP3 brings notifications by which redis-py no longer sees that an idle connection was closed.
            "protocol": 2,
            "retry": retry(NoBackoff(), 0),
        }
        if password is not None:
            options.pop("password", None)
            options["credential_provider"] = _Password(options.pop("username", None), password)
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
    return library.Redis.from_pool(library.BlockingConnectionPool(**options))


def _of_cluster(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as a cluster's client takes them, whose pools know no timeout."""
    taken = {name: value for name, value in options.items() if name not in ("timeout", "connection_class")}
    return {**taken, "ssl": True} if "connection_class" in options else taken
