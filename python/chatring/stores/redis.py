"""`RedisStore`: sessions in Redis or Valkey, of which a window is read with one command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chatring.stores.record import Record, acheck_records, check_key, check_records
from chatring.stores.redis_layout import session_of
from chatring.stores.redis_server import RedisServer
from chatring.stores.redis_sessions import RedisSessions
from chatring.stores.store import Store, check_limits


class RedisStore(Store):
    """Sessions in Redis or Valkey, each change and each window one script that the server runs as one step.

    A change is never sent twice: a connection that broke while it was under way is a `StoreUnavailableError`. The
    server must not evict keys (`maxmemory-policy noeviction`); a session of which a part is gone is a
    `ForeignDataError`.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://...` with TLS, or the same with `valkey` and `valkeys`.
            `?cluster=true` for a cluster. Other parameters are those of redis-py, such as `socket_timeout` (seconds);
            but `protocol` is always 2.
        counter: as in `Store`.
        counter_name: as in `Store`.

    Raises:
        ValueError: if the URL is not one of these, or a counter that needs a name has none.
    """

    def __init__(self, url: str, *, counter: Any = "cl100k_base", counter_name: str | None = None) -> None:
        super().__init__(counter, counter_name)
        self._server = RedisServer(url)
        self.url = self._server.url
        self._sessions = RedisSessions(self.url, self.counter, self.counter_name)

    def __repr__(self) -> str:
        return f"RedisStore({self.url!r}, counter={self.counter_name!r})"

    def append(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`. One command, if the session ends in a character that is not whitespace."""
        check_key(key)
        if checked := check_records(records):
            self._server.run(self._sessions.append(key, checked))

    def window(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As in `Store`. One command."""
        allowance = check_limits(token_limit, initial_token_count)
        return self._server.run(self._sessions.window(check_key(key), allowance))

    def all(self, key: str) -> list[Record]:
        """As in `Store`."""
        return self._server.run(self._sessions.all(check_key(key)))

    def replace(self, key: str, records: Iterable[Record]) -> None:
        """As in `Store`."""
        self._server.run(self._sessions.replace(check_key(key), check_records(records)))

    def delete(self, key: str) -> bool:
        """As in `Store`."""
        return self._server.run(self._sessions.delete(check_key(key)))

    def pop(self, key: str, index: int = -1) -> Record:
        """As in `Store`."""
        return self._server.run(self._sessions.pop(check_key(key), index))

    def keys(self) -> list[str]:
        """As in `Store`. The server looks at all its keys, of whatever kind, in time that grows with their number.

        A set of the sessions would be quicker, but not true: in a cluster no change can be made to it and to a session
        in one step, and a writer may be killed between two.
        """
        return [session_of(key) for key in self._server.session_keys()]

    def length(self, key: str) -> int:
        """As in `Store`."""
        return self._server.run(self._sessions.length(check_key(key)))

    def token_count(self, key: str) -> int:
        """As in `Store`."""
        return self._server.run(self._sessions.token_count(check_key(key)))

    def recount(self, key: str) -> None:
        """As in `Store`."""
        self._server.run(self._sessions.recount(check_key(key)))

    def close(self) -> None:
        """As in `Store`."""
        self._server.close()

    async def aappend(self, key: str, records: Iterable[Record]) -> None:
        """As `append`."""
        check_key(key)
        if checked := await acheck_records(records):
            await self._server.arun(self._sessions.append(key, checked))

    async def awindow(self, key: str, token_limit: int, initial_token_count: int = 0) -> list[Record]:
        """As `window`."""
        allowance = check_limits(token_limit, initial_token_count)
        return await self._server.arun(self._sessions.window(check_key(key), allowance))

    async def aall(self, key: str) -> list[Record]:
        """As `all`."""
        return await self._server.arun(self._sessions.all(check_key(key)))

    async def areplace(self, key: str, records: Iterable[Record]) -> None:
        """As `replace`."""
        await self._server.arun(self._sessions.replace(check_key(key), await acheck_records(records)))

    async def adelete(self, key: str) -> bool:
        """As `delete`."""
        return await self._server.arun(self._sessions.delete(check_key(key)))

    async def apop(self, key: str, index: int = -1) -> Record:
        """As `pop`."""
        return await self._server.arun(self._sessions.pop(check_key(key), index))

    async def akeys(self) -> list[str]:
        """As `keys`."""
        return [session_of(key) for key in await self._server.asession_keys()]

    async def alength(self, key: str) -> int:
        """As `length`."""
        return await self._server.arun(self._sessions.length(check_key(key)))

    async def atoken_count(self, key: str) -> int:
        """As `token_count`."""
        return await self._server.arun(self._sessions.token_count(check_key(key)))

    async def arecount(self, key: str) -> None:
        """As `recount`."""
        await self._server.arun(self._sessions.recount(check_key(key)))

    async def aclose(self) -> None:
        """Close the connections that async methods opened in this event loop."""
        await self._server.aclose()
