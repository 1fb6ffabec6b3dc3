"""Connections of redis-py that wait for a server no longer than their call may. Earlier waits use up its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import redis as sync_redis
from redis import asyncio as async_redis

from chatring.overriding import override

# How long the running call may wait, in seconds; None for as long as the options say.
_left: ContextVar[float | None] = ContextVar("chatring_redis_patience", default=None)


@contextmanager
def at_most(seconds: float | None) -> Iterator[None]:
    """Limit every wait of this thread or task meanwhile; None for no limit."""
    if seconds is None:
        yield
        return
    token = _left.set(seconds)
    try:
        yield
    finally:
        _left.reset(token)


class _Bounded:
    """An attribute in seconds, which is lower while a call has less time left."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_chatring_{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        seconds, left = getattr(instance, self._name, None), _left.get()
        return seconds if left is None or seconds is None else min(seconds, left)

    def __set__(self, instance: Any, seconds: float | None) -> None:
        setattr(instance, self._name, seconds)


class _Patient:
    """A mixin that goes in front of a class of connections."""

    socket_timeout = _Bounded()
    socket_connect_timeout = _Bounded()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Set here, because newer versions of redis-py have properties with these names, and their own attributes behind
        # them.
        self.socket_timeout = options["socket_timeout"]
        self.socket_connect_timeout = options["socket_connect_timeout"]


class _Pool(sync_redis.BlockingConnectionPool):
    timeout = _Bounded()

    @override
    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        # A connection keeps the time that it had when it was opened, so it is told each time.
        connection: Any = super().get_connection(*arguments, **options)  # type: ignore[no-untyped-call]
        if (sock := getattr(connection, "_sock", None)) is not None:
            sock.settimeout(connection.socket_timeout)
        return connection


class _AsyncPool(async_redis.BlockingConnectionPool):
    timeout = _Bounded()


def pool(library: Any, options: dict[str, Any]) -> Any:
    """Return a pool of `library`, which is redis or redis.asyncio, with these options."""
    kind = options.get("connection_class", library.Connection)
    patient = type(f"Patient{kind.__name__}", (_Patient, kind), {})
    made = _AsyncPool if library is async_redis else _Pool
    return made(**{**options, "connection_class": patient})
