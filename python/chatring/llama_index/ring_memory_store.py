"""`RingMemoryStore`: the sessions of `Memory` in this process."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.llms import ChatMessage
from llama_index.core.utils import get_tokenizer
from pydantic import model_serializer
from typing_extensions import Self

from chatring._core import _copied, _MessageQueue
from chatring.llama_index.bounded_store import BoundedStore
from chatring.llama_index.memory_policy import MemoryPolicy, default_policy
from chatring.llama_index.memory_store import AllQueues, MemoryStore, deep_copy
from chatring.llama_index.sessions import Sessions
from chatring.llama_index.tokenizer import counter_of
from chatring.overriding import override
from chatring.stores.measuring import is_little
from chatring.stores.names import check_key
from chatring.stores.operation import Operation, Work, arun, run
from chatring.stores.queues import Flush, Part, refuse_active

_T = TypeVar("_T")
# Messages that are copied in about a millisecond.
_MANY = 1_000


class RingMemoryStore(BoundedStore, MemoryStore):
    """Sessions in this process's memory. Safe to use from many threads and event loops.

    Any number of memories may share one store: a new memory for every request starts with the counts of the last.

    Args:
        max_sessions: the most sessions to keep; the least recently used leaves. None keeps all.
        on_evict: called with a key and all messages of a session that leaves because of the bound.

    Raises:
        ValueError: for a bound below 1.
    """

    if TYPE_CHECKING:
        _sessions: Sessions[_MessageQueue]

    def __init__(self, sessions: Mapping[str, Any] | None = None, **data: Any) -> None:
        data.pop("class_name", None)
        super().__init__(**data)
        self._hold(_MessageQueue)
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
        store = type(self)(**self._settings())
        if (queue := self._sessions.get(key)) is not None:
            store._sessions.held[key] = copy.copy(queue)
        return store

    def _lists(self) -> dict[str, dict[str, Any]]:
        return self._sessions.snapshot(lambda queue: {"archived": queue.archived_count, "messages": queue.get_all()})

    @model_serializer(mode="plain")
    def _dumped(self) -> dict[str, Any]:
        sessions = self._lists()
        for session in sessions.values():
            session["messages"] = [message.model_dump(mode="json") for message in session["messages"]]
        return {"class_name": self.class_name(), "max_sessions": self.max_sessions, "sessions": sessions}

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
        return {"sessions": self._lists(), **self._settings()}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Fill a store that was made without its constructor."""
        self.__init__(**state)  # type: ignore[misc]


class RingQueues(AllQueues):
    """`Queues` for sessions in this process.

    Args:
        sessions: has them.
        policy: counts the messages.
    """

    def __init__(self, sessions: Sessions[_MessageQueue], policy: MemoryPolicy) -> None:
        self._sessions = sessions
        self._policy = policy

    @override
    def append(
        self, key: str, messages: list[ChatMessage], flush: Flush | None, *, wants: bool = True
    ) -> Operation[list[list[ChatMessage]]]:
        # What was archived are the stored messages themselves.
        queue = self._sessions.get(key)
        if queue is None and not messages:
            return []
        is_recounted = queue is not None and not queue.is_counted_by(self._policy.core)
        takes_long = is_recounted or not is_little(messages)
        return (yield Work(lambda: self._append(key, messages, flush), takes_long))  # type: ignore[no-any-return]

    @override
    def replace(self, key: str, messages: list[ChatMessage], archived: int = 0) -> Operation[None]:
        def replace() -> None:
            kept, batch = self._policy.copied_and_counted(messages)
            self._opened(key)
            with self._sessions.changing() as change:
                change.open(key).set(self._policy.core, kept, batch, archived)

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
        kept, batch = self._policy.copied_and_counted(messages)  # before anything is changed
        while True:
            queue = self._opened(key)
            queue.recount(self._policy.core)  # calls a tokenizer, so without the lock
            with self._sessions.changing():
                if self._sessions.get(key) is not queue:
                    continue
                if archives:
                    refuse_active(key, len(queue) - queue.archived_count)
                flushed = queue.put(self._policy.core, kept, batch, flush)
                if flushed is not None:
                    queue.archive(len(kept) if archives else 0)
                    return flushed

    def _opened(self, key: str) -> _MessageQueue:
        """Open a session in a change of its own. If reporting an evicted one raises, nothing has been put yet."""
        if (queue := self._sessions.get(key)) is None:
            with self._sessions.changing() as change:
                queue = change.open(key)
        return queue


def _no_connection() -> Any:
    raise AssertionError("a session in this process needs no connection")
