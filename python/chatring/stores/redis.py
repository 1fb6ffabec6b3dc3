"""`RedisStore`: sessions in Redis or Valkey, of which a window is read with one command."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis as sync_redis
from redis import asyncio as async_redis
from redis.asyncio.connection import parse_url as parse_async_url
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError
from redis.retry import Retry

from chatring.stores.record import Record, check_key, check_records
from chatring.stores.redis_errors import is_lost, store_error
from chatring.stores.redis_layout import SESSIONS, session_of
from chatring.stores.redis_sessions import Call, RedisSessions, Work, checked_answer
from chatring.stores.store import Store, check_limits
from chatring.stores.url import without_secrets

_T = TypeVar("_T")

_ERRORS = (RedisError, RedisClusterException, OSError)

# Unless the URL says otherwise: how long to wait for the server, and for a connection of the pool.
_SECONDS = 10
_MOST_CONNECTIONS = 50
# Keys that the server looks at, one call, to find sessions.
_KEYS_AT_ONCE = 1000
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class RedisStore(Store):
    """Sessions in Redis or Valkey, each change and each read one script that the server runs as one step.

    A change is never sent twice: a connection that broke while it was under way is a `StoreUnavailableError`. The
    server must not evict keys (`maxmemory-policy noeviction`); a session of which a part is gone is a
    `ForeignDataError`.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://...` with TLS, or the same with `valkey` and `valkeys`.
            `?cluster=true` for a cluster. Other parameters are those of redis-py, such as `socket_timeout` (seconds).
        counter: as in `Store`.
        counter_name: as in `Store`.

    Raises:
        ValueError: if the URL is not one of these, or a counter that needs a name has none.
    """

    def __init__(self, url: str, *, counter: Any = "cl100k_base", counter_name: str | None = None) -> None:
        super().__init__(counter, counter_name)
        self.url = without_secrets(url)
        self._sessions = RedisSessions(self.url, self.counter, self.counter_name)
        self._options, self._is_cluster = _parsed(url, parse_url, sync_redis.Connection)
        self._async_options, _ = _parsed(url, parse_async_url, async_redis.Connection)
        # Held while a client is made. Clients are safe to use from many threads, and see by themselves that the process
        # is another one after a fork.
        self._lock = threading.Lock()
        self._client: Any = None
        # An async connection belongs to the loop that opened it.
        self._async_clients: dict[asyncio.AbstractEventLoop, Any] = {}

    def __repr__(self) -> str:
        return f"RedisStore({self.url!r}, counter={self.counter_name!r})"

    def append(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`. One command, if the session ends in a character that is not whitespace."""
        check_key(key)
        if checked := check_records(records):
            self._run(key, self._sessions.append(key, checked))

    def window(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As in `Store`. One command."""
        allowance = check_limits(token_limit, initial_token_count)
        return self._run(key, self._sessions.window(check_key(key), allowance))

    def all(self, key: str) -> list[Record]:
        """As in `Store`."""
        return self._run(key, self._sessions.all(check_key(key)))

    def replace(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`."""
        self._run(key, self._sessions.replace(check_key(key), check_records(records)))

    def delete(self, key: str) -> bool:
        """As in `Store`."""
        return self._run(key, self._sessions.delete(check_key(key)))

    def pop(self, key: str, index: int = -1) -> Record:
        """As in `Store`."""
        return self._run(key, self._sessions.pop(check_key(key), index))

    def keys(self) -> list[str]:
        """As in `Store`. The server looks at all its keys, of whatever kind, in time that grows with their number.

        A set of the sessions would be quicker, but not true: in a cluster no change can be made to it and to a session
        in one step, and a writer may be killed between two.
        """
        found = set()
        for last in (False, True):
            client = self._connected()
            try:
                found.update(client.scan_iter(match=SESSIONS, count=_KEYS_AT_ONCE))
                break
            except _ERRORS as error:
                self._raise_unless_worth_retrying(error, None, last)
        return [session_of(key) for key in found]

    def length(self, key: str) -> int:
        """As in `Store`."""
        return self._run(key, self._sessions.length(check_key(key)))

    def token_count(self, key: str) -> int:
        """As in `Store`."""
        return self._run(key, self._sessions.token_count(check_key(key)))

    def recount(self, key: str) -> None:
        """As in `Store`."""
        self._run(key, self._sessions.recount(check_key(key)))

    def close(self) -> None:
        """As in `Store`."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aappend(self, key: str, records: Iterable[Record]) -> None:
        """As `append`."""
        check_key(key)
        if checked := check_records(records):
            await self._arun(key, self._sessions.append(key, checked))

    async def awindow(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As `window`."""
        allowance = check_limits(token_limit, initial_token_count)
        return await self._arun(key, self._sessions.window(check_key(key), allowance))

    async def aall(self, key: str) -> list[Record]:
        """As `all`."""
        return await self._arun(key, self._sessions.all(check_key(key)))

    async def areplace(self, key: str, records: Iterable[Record]) -> None:
        """As `replace`."""
        await self._arun(key, self._sessions.replace(check_key(key), check_records(records)))

    async def adelete(self, key: str) -> bool:
        """As `delete`."""
        return await self._arun(key, self._sessions.delete(check_key(key)))

    async def apop(self, key: str, index: int = -1) -> Record:
        """As `pop`."""
        return await self._arun(key, self._sessions.pop(check_key(key), index))

    async def akeys(self) -> list[str]:
        """As `keys`."""
        found = set()
        for last in (False, True):
            client = self._async_connected()
            try:
                async for key in client.scan_iter(match=SESSIONS, count=_KEYS_AT_ONCE):
                    found.add(key)
                break
            except _ERRORS as error:
                self._raise_unless_worth_retrying(error, None, last)
        return [session_of(key) for key in found]

    async def alength(self, key: str) -> int:
        """As `length`."""
        return await self._arun(key, self._sessions.length(check_key(key)))

    async def atoken_count(self, key: str) -> int:
        """As `token_count`."""
        return await self._arun(key, self._sessions.token_count(check_key(key)))

    async def arecount(self, key: str) -> None:
        """As `recount`."""
        await self._arun(key, self._sessions.recount(check_key(key)))

    async def aclose(self) -> None:
        """Close the connections that async methods opened in this event loop."""
        client = self._async_clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    # The way from a session's work to the server and back, for sync and async methods.

    def _run(self, key: str, work: Work[_T]) -> _T:
        answer: list[Any] | None = None
        while True:
            try:
                call = work.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = self._checked(key, call, self._answer(call))

    def _answer(self, call: Call) -> Any:
        for last in (False, True):
            client = None
            try:
                client = self._connected()
                if call.script is None:
                    return client.lrange(call.keys[1], *call.arguments)
                try:
                    return client.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
                except NoScriptError:  # so nothing was done; the server keeps the script from now on
                    return client.eval(call.script.source, len(call.keys), *call.keys, *call.arguments)
            except _ERRORS as error:
                if isinstance(error, ReadOnlyError):
                    # The name may by now belong to another server, which takes changes.
                    self._client = None
                self._raise_unless_worth_retrying(error, call, last)
        raise AssertionError("the last attempt returns or raises")

    async def _arun(self, key: str, work: Work[_T]) -> _T:
        answer: list[Any] | None = None
        while True:
            try:
                call = work.send(answer)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            answer = self._checked(key, call, await self._aanswer(call))

    async def _aanswer(self, call: Call) -> Any:
        if call.script is not None and call.script.changes:
            # That a connection was closed is known once the loop has looked for what there is to read, which it did not
            # do while it stood still. It looks after the first step, and passes it on after the second.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for last in (False, True):
            client = self._async_connected()
            try:
                if call.script is None:
                    return await client.lrange(call.keys[1], *call.arguments)
                try:
                    return await client.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
                except NoScriptError:
                    return await client.eval(call.script.source, len(call.keys), *call.keys, *call.arguments)
            except _ERRORS as error:
                if isinstance(error, ReadOnlyError) and not self._is_cluster:
                    await client.connection_pool.disconnect(inuse_connections=False)
                self._raise_unless_worth_retrying(error, call, last)
        raise AssertionError("the last attempt returns or raises")

    def _checked(self, key: str, call: Call, answer: Any) -> list[Any]:
        return answer if call.script is None else checked_answer(key, self.counter_name, self.url, answer)

    def _raise_unless_worth_retrying(self, error: Exception, call: Call | None, last: bool) -> None:
        """Raise what an error means for the store, unless it is that of a first attempt to read on a lost connection.

        The pools see most connections that were lost since their last use before they send anything.
        """
        changes = call is not None and call.script is not None and call.script.changes
        if last or changes or not is_lost(error):
            raise store_error(error, self.url, may_have_changed=changes) from error

    def _connected(self) -> Any:
        client = self._client
        if client is None:
            with self._lock:
                client = self._client
                if client is None:
                    client = self._client = _client(sync_redis, self._options, self._is_cluster)
        return client

    def _async_connected(self) -> Any:
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            for other in [other for other in self._async_clients if other.is_closed()]:
                with suppress(KeyError):  # another thread's loop may have done it
                    del self._async_clients[other]
            client = self._async_clients[loop] = _client(async_redis, self._async_options, self._is_cluster)
        return client


def _parsed(url: str, parse: Any, connection: Any) -> tuple[dict[str, Any], bool]:
    """Return what redis-py is to connect with, and whether to a cluster."""
    scheme, _, rest = url.partition("://")
    try:
        options = parse(f"{scheme.replace('valkey', 'redis')}://{rest}")
        database = urlsplit(url).path.strip("/")
        cluster = str(options.pop("cluster", "false")).lower()
        if scheme not in ("redis", "rediss", "valkey", "valkeys") or (database and not database.isdecimal()):
            raise ValueError
        is_cluster = _FLAGS[cluster]
        if is_cluster and options.pop("db", 0) != 0:
            raise TypeError("a cluster has only database 0")
        # RESP3 brings notifications by which redis-py no longer sees that an idle connection was closed.
        options = {
            "host": "localhost",
            "port": 6379,
            "protocol": 2,
            "socket_timeout": _SECONDS,
            "socket_connect_timeout": _SECONDS,
            **options,
            "decode_responses": False,
            # None, as a command whose answer was lost may have been done.
            "retry": Retry(NoBackoff(), 0),
        }
        own = {name: value for name, value in options.items() if name not in ("connection_class", "max_connections")}
        own.pop("timeout", None)
        options.get("connection_class", connection)(**own)  # which knows all other parameters, and connects later
    except (ValueError, KeyError, TypeError) as error:
        # Without the cause, which may show the password.
        reason = f": {error}" if isinstance(error, TypeError) else ""
        raise ValueError(
            f"{without_secrets(url)!r} is not the URL of a Redis or Valkey server, as redis://host:6379/0{reason}"
        ) from None
    return options, is_cluster


def _client(library: Any, options: dict[str, Any], is_cluster: bool) -> Any:
    """Return a client of `library`, which is redis or redis.asyncio."""
    if not is_cluster:
        pool = {"max_connections": _MOST_CONNECTIONS, "timeout": _SECONDS, **options}
        return library.Redis.from_pool(library.BlockingConnectionPool(**pool))
    options = dict(options)
    is_secure = options.pop("connection_class", None) is not None
    return library.RedisCluster(**options, **({"ssl": True} if is_secure else {}))
