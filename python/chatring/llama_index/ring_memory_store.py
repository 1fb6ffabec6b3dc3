"""`RingMemoryStore`: the sessions of `Memory` in this process."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.llms import ChatMessage
from llama_index.core.utils import get_tokenizer
from pydantic import Field, model_serializer
from typing_extensions import Self

from chatring._core import _Batch, _copied, _MessageQueue
from chatring.llama_index.memory_policy import MemoryFormat, MemoryPolicy, default_policy
from chatring.llama_index.memory_store import AllQueues, MemoryStore, deep_copy
from chatring.llama_index.sessions import EvictionCallback, Sessions
from chatring.llama_index.tokenizer import counter_of
from chatring.overriding import override
from chatring.stores.measuring import is_little
from chatring.stores.names import check_key
from chatring.stores.operation import Operation, Work, arun, run
from chatring.stores.queues import Flush, Part, refuse_active

_T = TypeVar("_T")
_FORMAT = MemoryFormat()
# Messages that are copied in about a millisecond.
_MANY = 1_000


class RingMemoryStore(MemoryStore):
    """Sessions in this process's memory. Safe to use from many threads and event loops.

    Any number of memories may share one store: a new memory for every request starts with the counts of the last.

    Args:
        max_sessions: the most sessions to keep; the least recently used leaves. None keeps all.
        on_evict: called with a key and all messages of a session that leaves because of the bound.

    Raises:
        ValueError: for a bound below 1.
    """

    max_sessions: int | None = Field(default=None, ge=1)
    on_evict: EvictionCallback | None = Field(default=None, exclude=True)

    if TYPE_CHECKING:
        _sessions: Sessions[_MessageQueue]

    def __init__(self, sessions: Mapping[str, Any] | None = None, **data: Any) -> None:
        data.pop("class_name", None)
        super().__init__(**data)
        self.__dict__["_sessions"] = Sessions(_MessageQueue, self.max_sessions, self.on_evict)
        queues = self.queues(self.default_policy())
        try:
            for key, session in (sessions or {}).items():
                messages, archived = session["messages"], session["archived"]
                if not 0 <= archived <= len(messages):
                    raise ValueError(f"of {len(messages)} messages {archived} cannot be archived")
                self.run(queues.replace(check_key(key), [*map(ChatMessage.model_validate, messages)], archived))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"a {type(self).__name__} has sessions, each with its messages and how many are archived: {error!r}"
            ) from error

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field. If `max_sessions` is lowered, the sessions that leave are reported.

        Raises:
            ValueError: for a `max_sessions` below 1.
        """
        if name == "max_sessions" and value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"max_sessions must be None or an integer of at least 1, got {value!r}")
        super().__setattr__(name, value)
        with self._sessions.changing() as change:
            self._bound()
            change.make_room()

    def _bound(self) -> None:
        self._sessions.max_sessions, self._sessions.on_evict = self.max_sessions, self.on_evict

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy that shares the sessions and has its own bounds; a deep copy has its own sessions."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__["_sessions"] = copy.copy(copied._sessions)
        copied._bound()
        return copied

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised stores of this class carry."""
        return "chatring.RingMemoryStore"

    @override
    def queues(self, policy: MemoryPolicy) -> RingQueues:
        return RingQueues(self.__dict__["_sessions"], policy)

    @override
    def run(self, operation: Operation[_T], changes: str | None = None) -> _T:
        return run(operation, _no_connection)

    @override
    async def arun(self, operation: Operation[_T], changes: str | None = None) -> _T:
        # What takes longer than a millisecond or two is done in a thread.
        return await arun(operation, _no_connection)

    @override
    def default_policy(self) -> MemoryPolicy:
        return default_policy(counter_of(get_tokenizer()))

    async def get_keys(self) -> list[str]:
        """Return the keys of all sessions in the order in which they began or, with `max_sessions`, were last used."""
        return self._sessions.keys()

    def only(self, key: str) -> Self:
        """Return a store with the same bounds, and one of the sessions with the same messages."""
        store = type(self)(max_sessions=self.max_sessions, on_evict=self.on_evict)
        queue = self._sessions.get(key)
        if queue is not None:
            with store._sessions.changing() as change:
                change.set(key, copy.copy(queue))
        return store

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a store with its own sessions of the same messages."""
        store = type(self)(max_sessions=self.max_sessions, on_evict=self.on_evict)
        for key, queue in self._sessions.snapshot(copy.copy).items():
            with store._sessions.changing() as change:
                change.set(key, queue)
        return store

    @model_serializer(mode="plain")
    def _dumped(self) -> dict[str, Any]:
        sessions = self._sessions.snapshot(lambda queue: (queue.get_all(), queue.archived_count))
        return {
            "class_name": self.class_name(),
            "max_sessions": self.max_sessions,
            "sessions": {
                key: {"archived": archived, "messages": [message.model_dump(mode="json") for message in messages]}
                for key, (messages, archived) in sessions.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the store that `model_dump` described.

        Raises:
            ValueError: if `data` is something else.
        """
        if not isinstance(data.get("sessions"), Mapping):
            raise ValueError(f"a {cls.__name__} is described by its sessions, got {sorted(data)}")
        return cls(**data)

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle sessions as lists of messages."""
        sessions = self._sessions.snapshot(lambda queue: (queue.get_all(), queue.archived_count))
        return {"max_sessions": self.max_sessions, "on_evict": self.on_evict, "sessions": sessions}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Fill a store that was made without its constructor."""
        self.__init__(max_sessions=state["max_sessions"], on_evict=state["on_evict"])  # type: ignore[misc]
        for key, (messages, archived) in state["sessions"].items():
            self.run(self.queues(self.default_policy()).replace(key, messages, archived))


class RingQueues(AllQueues):
    """`Queues` for sessions in this process.

    Args:
        sessions: has them.
        policy: counts the messages.
    """

    def __init__(self, sessions: Sessions[_MessageQueue], policy: MemoryPolicy) -> None:
        self._sessions = sessions
        self._core = policy.core

    @override
    def append(
        self, key: str, messages: list[ChatMessage], flush: Flush | None, *, wants: bool = True
    ) -> Operation[list[list[ChatMessage]]]:
        # What was archived are the stored messages themselves.
        if not messages and self._sessions.get(key) is None:
            return []
        queue = self._sessions.get(key)
        is_recounted = queue is not None and not queue.is_counted_by(self._core)
        takes_long = is_recounted or not is_little(messages)
        return (yield Work(lambda: self._append(key, messages, flush), takes_long))  # type: ignore[no-any-return]

    @override
    def replace(self, key: str, messages: list[ChatMessage], archived: int = 0) -> Operation[None]:
        def replace() -> None:
            kept, batch = self._counted(messages)
            self._opened(key)
            with self._sessions.changing() as change:
                change.open(key).set(self._core, kept, batch, archived)

        yield Work(replace, not is_little(messages))

    @override
    def all(self, key: str, part: Part | None) -> Operation[list[ChatMessage]]:
        queue = self._sessions.get(key)
        if queue is None:
            return []
        messages = {None: queue.get_all, "active": queue.active, "archived": queue.archived}[part]()
        return (yield Work(lambda: _copied(messages, deep_copy), len(messages) > _MANY))  # type: ignore[no-any-return]

    @override
    def count(self, key: str, part: Part | None) -> Operation[int]:
        yield from ()
        queue = self._sessions.get(key)
        if queue is None:
            return 0
        archived, length = queue.archived_count, len(queue)
        return {None: length, "active": length - archived, "archived": archived}[part]

    @override
    def append_archived(self, key: str, messages: list[ChatMessage]) -> Operation[None]:
        yield Work(lambda: self._append(key, messages, None, archives=True), not is_little(messages))

    @override
    def archive(self, key: str, count: int) -> Operation[list[ChatMessage]]:
        yield from ()
        queue = self._sessions.get(key)
        return [] if queue is None else _copied(queue.archive(max(count, 0)), deep_copy)

    @override
    def remove_oldest(self, key: str, count: int) -> Operation[list[ChatMessage]]:
        yield from ()
        queue = self._sessions.get(key)
        return [] if queue is None else queue.remove_oldest(max(count, 0))

    @override
    def remove(self, key: str, part: Part | None) -> Operation[None]:
        yield from ()
        if part is None:
            self._sessions.delete(key)
        elif (queue := self._sessions.get(key)) is not None:
            (queue.clear_active if part == "active" else queue.clear_archived)()

    def _append(
        self, key: str, messages: list[ChatMessage], flush: Flush | None, *, archives: bool = False
    ) -> list[list[ChatMessage]]:
        kept, batch = self._counted(messages)
        while True:
            queue = self._opened(key)
            queue.recount(self._core)  # calls a tokenizer, so without the lock
            with self._sessions.changing():
                if self._sessions.get(key) is not queue:
                    continue
                if archives:
                    refuse_active(key, len(queue) - queue.archived_count)
                flushed = queue.put(self._core, kept, batch, flush)
                if flushed is not None:
                    queue.archive(len(kept) if archives else 0)
                    return flushed

    def _opened(self, key: str) -> _MessageQueue:
        """Open a session in a change of its own. If reporting an evicted one raises, nothing has been put yet."""
        if (queue := self._sessions.get(key)) is None:
            with self._sessions.changing() as change:
                queue = change.open(key)
        return queue

    def _counted(self, messages: list[ChatMessage]) -> tuple[list[ChatMessage], _Batch]:
        """Copy and count messages before anything is changed."""
        kept = _copied(messages, _FORMAT.read)
        batch = self._core.read(kept)
        self._core.count(batch)
        return kept, batch


def _no_connection() -> Any:
    raise AssertionError("a session in this process needs no connection")
