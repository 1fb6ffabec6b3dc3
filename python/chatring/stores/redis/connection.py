"""`RedisConnection`: runs an operation's scripts on a server, and handles lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import asyncio as async_redis
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError

from chatring.stores.redis import patience
from chatring.stores.redis.cluster import AsyncCluster, Cluster
from chatring.stores.redis.errors import is_lost, store_error
from chatring.stores.redis.scripts import Script

if TYPE_CHECKING:
    from chatring.stores.redis.server import RedisServer

_ERRORS = (RedisError, RedisClusterException, OSError)
# Keys that the server looks at in one call when it searches for sessions.
_KEYS_AT_ONCE = 1000
# redis-py looks this up. Answers then come as bytes, whatever the client's settings.
_AS_BYTES = {NEVER_DECODE: True}


class Call(NamedTuple):
    """A script to be run with these values."""

    script: Script
    keys: tuple[bytes, ...]
    arguments: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The script's name."""
        return self.script.name

    @property
    def changes(self) -> bool:
        """Whether the call must not be sent twice."""
        return self.script.changes


class Scan(NamedTuple):
    """The keys that match a pattern, as a set."""

    pattern: bytes
    name: str = "scan"
    changes: bool = False


class Times(NamedTuple):
    """When the sessions with these keys last changed; None for keys without a session."""

    keys: Sequence[bytes]
    name: str = "times"
    changes: bool = False


Step = Call | Scan | Times


class RedisConnection:
    """Runs on the server what an operation yields."""

    is_in_transaction = False

    def __init__(self, server: RedisServer, patience: float | None = None) -> None:
        self._server = server
        self._patience = patience  # how long to wait for the server in seconds, if less than usual

    def execute(self, step: Step) -> Any:
        """Return what the server answers."""
        attempt = _Attempt(self._server.url, step)
        while True:
            with attempt, patience.at_most(self._patience), self._server.client() as client:
                return self._answer(client, step)

    def _answer(self, client: Any, step: Step) -> Any:
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
        except NoScriptError:  # nothing was done; the server keeps the script from now on
            return client.execute_command("EVAL", script.source, len(keys), *keys, *arguments, **_AS_BYTES)
        except ReadOnlyError:
            # The name may belong to another server by now, one that takes changes.
            self._server.close()
            raise


class AsyncRedisConnection:
    """The async `RedisConnection`."""

    is_in_transaction = False

    def __init__(self, server: RedisServer, patience: float | None = None) -> None:
        self._server = server
        self._patience = patience  # how long to wait for the server in seconds, if less than usual

    async def execute(self, step: Step) -> Any:
        """Return what the server answers."""
        if step.changes:
            # A closed connection is noticed once the loop has looked for input. It did not look while it was blocked:
            # it looks after the first step, and delivers after the second.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        attempt = _Attempt(self._server.url, step)
        while True:
            with attempt, patience.at_most(self._patience), _Cancels():
                async with self._server.async_client() as client:
                    return await self._answer(client, step)

    async def _answer(self, client: Any, step: Step) -> Any:
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


class _Cancels:
    """Raises a cancellation that was swallowed meanwhile: by `asyncio.wait_for`, up to Python 3.11."""

    def __enter__(self) -> None:
        self._before = _cancels()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and _cancels() > self._before:
            raise asyncio.CancelledError


def _cancels() -> int:
    # Python 3.10 does not count them.
    return getattr(asyncio.current_task(), "cancelling", int)()


class _Attempt:
    """A call. If it only reads and the connection turns out to be lost, it is made once more."""

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


def _numbers(answers: list[Any]) -> list[int | None]:
    return [int(answer) if isinstance(answer, (bytes, str)) and answer.isdigit() else None for answer in answers]


def _encoded(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else key
