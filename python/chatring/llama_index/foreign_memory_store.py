"""`ForeignStore`: how `Memory` uses somebody else's store."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
import time
import weakref
from typing import Any, ClassVar, TypeVar

from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore

from chatring._core import _copied, _MessageQueue
from chatring.llama_index.background_loop import BLOCKS, STORES, shielded
from chatring.llama_index.memory_policy import MemoryPolicy
from chatring.llama_index.memory_store import AnyQueues, AnyStore, deep_copy
from chatring.overriding import override
from chatring.stores.operation import Operation
from chatring.stores.queues import Flush, Part
from chatring.stores.turns import Turn, Turns

_T = TypeVar("_T")
# Seconds that the writers of a session wait for each other.
_PATIENCE = 60.0
# The turns that enclosing calls hold, for stores and for sessions of stores. A tokenizer may call its memory.
_HELD: contextvars.ContextVar[frozenset[tuple[int, str | None]]] = contextvars.ContextVar("held", default=frozenset())
_STATUS: dict[Part | None, MessageStatus | None] = {
    None: None,
    "active": MessageStatus.ACTIVE,
    "archived": MessageStatus.ARCHIVED,
}


class ForeignStore(AnyStore):
    """Somebody else's store: the same rules over its own methods, with one writer to a session at a time.

    Each put reads the whole session, as in LlamaIndex. For sync calls the store's coroutines run in our own loop, so
    that its connections always have the same loop.

    Args:
        store: a store with LlamaIndex's interface.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    # By store, so that all memories on it wait for each other. Each memory keeps its own store.
    _known: ClassVar[weakref.WeakValueDictionary[int, ForeignStore]] = weakref.WeakValueDictionary()

    @classmethod
    def of(cls, store: AsyncDBChatStore) -> ForeignStore:
        """Return the `ForeignStore` of a store."""
        with cls._lock:
            known = cls._known.get(id(store))
            if known is None:
                known = cls._known[id(store)] = cls(store)
            return known

    def __init__(self, store: AsyncDBChatStore) -> None:
        self.store = store
        self._turns = Turns()
        # The first operation creates the table, which fails if another operation does so at the same time. And the
        # sessions of a database in memory share one connection, where the end of one session undoes what others have
        # not committed.
        self._one_at_a_time = isinstance(store, SQLAlchemyChatStore)
        uri = str(getattr(store, "async_database_uri", ""))
        self._stays_so = self._one_at_a_time and (":memory:" in uri or uri.endswith("://"))

    @override
    def queues(self, policy: MemoryPolicy) -> ForeignQueues:
        return ForeignQueues(self.store, policy)

    @override
    def run(self, operation: Operation[_T], changes: str | None = None) -> _T:
        with contextlib.ExitStack() as held:
            for turn in self._turns_of(changes, held):
                held.enter_context(turn)
            answer: Any = None
            while True:
                try:
                    step = operation.send(answer)
                except StopIteration as end:
                    self._one_at_a_time = self._stays_so
                    result: _T = end.value
                    return result
                answer = STORES.run(step)

    @override
    async def arun(self, operation: Operation[_T], changes: str | None = None) -> _T:
        # It goes to its end when its caller is cancelled: nothing is left out.
        return await shielded(self._arun(operation, changes))

    async def _arun(self, operation: Operation[_T], changes: str | None) -> _T:
        async with contextlib.AsyncExitStack() as held:
            for turn in self._turns_of(changes, held):
                await held.enter_async_context(turn)
            answer: Any = None
            while True:
                try:
                    step = operation.send(answer)
                except StopIteration as end:
                    self._one_at_a_time = self._stays_so
                    result: _T = end.value
                    return result
                # A sync call that needs the loop of memory blocks still has its store in the other loop.
                answer = await (asyncio.wrap_future(STORES.begin(step)) if BLOCKS.is_inside() else step)

    def _turns_of(self, changes: str | None, held: contextlib.ExitStack | contextlib.AsyncExitStack) -> list[Turn]:
        """Return the turns to wait for: the store's if need be, and the session's; not those of an enclosing call."""
        names: set[tuple[int, str | None]] = {(id(self), None)} if self._one_at_a_time else set()
        if changes is not None:
            names.add((id(self), changes))
        names -= (around := _HELD.get())
        held.callback(_HELD.reset, _HELD.set(around | names))
        deadline = time.monotonic() + _PATIENCE
        return [self._turns.of(f"{key!r}", deadline, type(self.store).__name__) for _, key in sorted(names, key=repr)]


class ForeignQueues(AnyQueues):
    """`Queues` on somebody else's store. The operations yield the store's coroutines.

    Args:
        store: has the sessions.
        policy: counts the messages.
    """

    def __init__(self, store: AsyncDBChatStore, policy: MemoryPolicy) -> None:
        self._store = store
        self._policy = policy

    @override
    def append(
        self, key: str, messages: list[ChatMessage], flush: Flush | None, *, wants: bool = True
    ) -> Operation[list[list[ChatMessage]]]:
        self._policy.copied_and_counted(messages)  # raises before anything is stored
        if len(messages) == 1:
            yield self._store.add_message(key, messages[0], status=MessageStatus.ACTIVE)
        elif messages:
            yield self._store.add_messages(key, messages, status=MessageStatus.ACTIVE)
        if flush is None:
            return []
        active: list[ChatMessage] = yield self._store.get_messages(key, status=MessageStatus.ACTIVE)
        batch = self._policy.counted(active)
        if not self._policy.counter.is_native:  # messages that a tokenizer puts are counted and archived too
            active = yield self._store.get_messages(key, status=MessageStatus.ACTIVE)
            batch = self._policy.counted(active)
        queue = _MessageQueue()
        queue.recount(self._policy.core)
        sizes = [len(leaving) for leaving in queue.put(self._policy.core, active, batch, flush) or []]
        if not sizes:
            return []
        # In one step, so that exactly what was archived is delivered, even if others write to the store as well.
        archived: list[ChatMessage] = yield self._store.archive_oldest_messages(key, n=sum(sizes))
        ends = list(itertools.accumulate(sizes))
        rounds = (archived[end - size : end] for size, end in zip(sizes, ends, strict=True))
        return [messages for messages in rounds if messages]

    @override
    def replace(self, key: str, messages: list[ChatMessage], archived: int = 0) -> Operation[None]:
        self._policy.copied_and_counted(messages)
        yield self._store.set_messages(key, messages, status=MessageStatus.ACTIVE)

    @override
    def all(self, key: str, part: Part | None) -> Operation[list[ChatMessage]]:
        messages: list[ChatMessage] = yield self._store.get_messages(key, status=_STATUS[part])
        return _copied(messages, deep_copy)

    @override
    def remove(self, key: str, part: Part | None) -> Operation[None]:
        yield self._store.delete_messages(key, status=_STATUS[part])
