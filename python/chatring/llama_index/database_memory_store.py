"""`DatabaseMemoryStore`: the sessions of `Memory` in a database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.storage.chat_store.loading import load_chat_store
from pydantic import model_serializer
from typing_extensions import Self

from chatring.llama_index.memory_policy import MemoryFormat, MemoryPolicy, default_policy
from chatring.llama_index.memory_store import MemoryStore
from chatring.llama_index.store_chat_store import StoreChatStore
from chatring.overriding import override
from chatring.stores.errors import CounterMismatchError
from chatring.stores.measuring import Measuring
from chatring.stores.operation import Operation
from chatring.stores.queues import Queues

_T = TypeVar("_T")
# Policies whose queues are kept.
_POLICIES = 8


class DatabaseMemoryStore(MemoryStore):
    """Sessions in the database of a `SQLChatStore` or `RedisChatStore`, on its connections.

    Args:
        chat_store: the chat store. Its counter must be the memory's tokenizer.
    """

    chat_store: StoreChatStore

    if TYPE_CHECKING:
        _queues: dict[str, Queues]

    def __init__(self, chat_store: StoreChatStore, **data: Any) -> None:
        fields: dict[str, Any] = {"chat_store": chat_store, **data}
        super().__init__(**fields)
        self.__dict__["_queues"] = {}

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised stores of this class carry."""
        return "chatring.DatabaseMemoryStore"

    def queues(self, policy: MemoryPolicy) -> Queues:
        """Return the sessions, counted by a policy.

        Raises:
            CounterMismatchError: if the chat store has another counter.
        """
        store = self.chat_store.store
        if policy.counter != store.counter:
            raise CounterMismatchError(
                f"the memory counts with {policy.counter!r}, its store with {store.counter!r}: give both the same, as "
                f"{type(self.chat_store).__name__}(..., counter=tokenizer) and Memory(..., tokenizer_fn=tokenizer)"
            )
        name = policy.measure.name
        if name not in self._queues:
            if len(self._queues) >= _POLICIES:
                self._queues.clear()
            counter_name = None if store.counter.is_native else self.chat_store.counter_name
            measuring = Measuring(store.counter, policy.measure, None, MemoryFormat(), counter_name, None)
            self._queues[name] = Queues(store._backend, measuring, store.timeout)
        return self._queues[name]

    @override
    def run(self, operation: Operation[_T], changes: str | None = None) -> _T:
        return self.chat_store.store._run(operation, changes)

    @override
    async def arun(self, operation: Operation[_T], changes: str | None = None) -> _T:
        return await self.chat_store.store._arun(operation, changes)

    @override
    def default_policy(self) -> MemoryPolicy:
        return default_policy(self.chat_store.store.counter)

    async def get_keys(self) -> list[str]:
        """Return the keys of all sessions in the database, those of other kinds too."""
        return await self.chat_store.store.akeys()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a store of the same database, on the same connections."""
        return type(self)(self.chat_store)

    @model_serializer(mode="plain")
    def _dumped(self) -> dict[str, Any]:
        return {"class_name": self.class_name(), "chat_store": self.chat_store.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the store that `model_dump` described. Raises the same as `SQLChatStore.from_dict`."""
        described = data.get("chat_store")
        if not isinstance(described, dict):
            raise ValueError(f"a {cls.__name__} is described by its chat_store, got {described!r}")
        chat_store = load_chat_store(described)
        if not isinstance(chat_store, StoreChatStore):
            raise ValueError(
                f"a {cls.__name__} is on a SQLChatStore or RedisChatStore, got {type(chat_store).__name__}"
            )
        return cls(chat_store)

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle where the messages are."""
        return {"chat_store": self.chat_store}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Open a store that was made without its constructor."""
        self.__init__(**state)  # type: ignore[misc]
