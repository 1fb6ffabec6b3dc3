"""`Sessions`: histories under keys in this process, in order and bounded."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from llama_index.core.llms import ChatMessage

EvictionCallback: TypeAlias = Callable[[str, list[ChatMessage]], None]


class History(Protocol):
    """What a session must have."""

    def get_all(self) -> list[ChatMessage]:
        """Return a new list of all messages, oldest first."""


_S = TypeVar("_S", bound=History)
_T = TypeVar("_T")


class Sessions(Generic[_S]):
    """Sessions under keys, in the order in which they began or, with `max_sessions`, were last used.

    Safe to use from many threads. `copy.copy` returns an object with the same sessions and lock, and its own bound.

    Args:
        make: returns a new session without messages.
        max_sessions: the most sessions to keep; the least recently used leaves. None keeps all. A lower bound assigned
            later applies when the next session begins, or at once with `make_room`.
        on_evict: called with a key and the messages that leave because of a bound, oldest first, without the lock.

    Attributes:
        held: the sessions. Only for a reader that takes one, where `max_sessions` is None.
        lock: held by whatever changes a session, so that nothing is put into one that has just left. Also held by
            whatever reads more than one, so that it sees all of them at one moment. It can be acquired again by its
            holder.
    """

    __slots__ = ("__weakref__", "held", "lock", "make", "max_sessions", "on_evict")

    def __init__(
        self, make: Callable[[], _S], max_sessions: int | None = None, on_evict: EvictionCallback | None = None
    ) -> None:
        self.make = make
        self.max_sessions = max_sessions
        self.on_evict = on_evict
        # Ordered, because its move to the end is one step, so a session never seems to be missing.
        self.held: OrderedDict[str, _S] = OrderedDict()
        self.lock = threading.RLock()
        _ALL.add(self)

    def get(self, key: str) -> _S | None:
        """Return a session; None if there is no such session. This counts as a use of the session."""
        if self.max_sessions is None:
            return self.held.get(key)
        with self.lock:
            session = self.held.get(key)
            if session is not None:
                self.held.move_to_end(key)
            return session

    def delete(self, key: str) -> _S | None:
        """Remove a session and return it; None if there is no such session. It is not reported as evicted."""
        with self.lock:
            return self.held.pop(key, None)

    def keys(self) -> list[str]:
        """Return the keys of all sessions."""
        with self.lock:
            return list(self.held)

    def snapshot(self, read: Callable[[_S], _T]) -> dict[str, _T]:
        """Return what `read` makes of each session, by key: all at one moment. This does not count as a use."""
        with self.lock:
            return {key: read(session) for key, session in self.held.items()}

    def changing(self) -> Change[_S]:
        """Return a context that holds the lock, opens sessions, and afterwards reports what has left."""
        return Change(self)


class Change(Generic[_S]):
    """The time in which one thread changes sessions: `with sessions.changing() as change`.

    At its end, what has left because of a bound is reported. Then the change is complete, and the lock is free for
    `on_evict`. Every report is made, even if another one raises.
    """

    __slots__ = ("_evicted", "_sessions")

    def __init__(self, sessions: Sessions[_S]) -> None:
        self._sessions = sessions
        self._evicted: list[tuple[str, list[ChatMessage]]] = []

    def open(self, key: str) -> _S:
        """Return a session, which begins now if there is none. This counts as a use of the session."""
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions.make()
            self.set(key, session)
        return session

    def set(self, key: str, session: _S) -> None:
        """Set the session under a key. It replaces another one, which is not reported as evicted."""
        self._sessions.held[key] = session
        self.make_room()

    def make_room(self) -> None:
        """Evict the sessions that `max_sessions` has no room for."""
        sessions = self._sessions
        while sessions.max_sessions is not None and len(sessions.held) > sessions.max_sessions:
            key, session = sessions.held.popitem(last=False)
            self.evicted(key, session.get_all())

    def evicted(self, key: str, messages: list[ChatMessage]) -> None:
        """Note messages that have left a session because of the session's own bound, oldest first."""
        if messages:
            self._evicted.append((key, messages))

    def __enter__(self) -> Change[_S]:
        self._sessions.lock.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self._sessions.lock.release()
        on_evict = self._sessions.on_evict
        if self._evicted and on_evict is not None:
            with contextlib.ExitStack() as reports:  # runs all of them, the last one first
                for key, messages in reversed(self._evicted):
                    reports.callback(on_evict, key, messages)


_ALL: weakref.WeakSet[Sessions[Any]] = weakref.WeakSet()


def _renew_locks() -> None:
    """Give each object a new lock in a forked process, where the thread that held the old one may not exist."""
    for sessions in _ALL:
        sessions.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
