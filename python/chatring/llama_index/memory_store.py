"""`MemoryStore`: keeps the sessions of `Memory`; and how `Memory` uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, TypeVar

from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus

from chatring.llama_index.memory_policy import MemoryPolicy
from chatring.stores.operation import Operation
from chatring.stores.queues import Flush, Part

_T = TypeVar("_T")


class AnyQueues(Protocol):
    """What every store can do with a session. See `Queues` for the methods."""

    def append(
        self, key: str, messages: list[ChatMessage], flush: Flush | None, *, wants: bool = True
    ) -> Operation[list[list[ChatMessage]]]:
        """See `Queues`."""

    def replace(self, key: str, messages: list[ChatMessage], archived: int = 0) -> Operation[None]:
        """See `Queues`."""

    def all(self, key: str, part: Part | None) -> Operation[list[ChatMessage]]:
        """See `Queues`."""

    def remove(self, key: str, part: Part | None) -> Operation[None]:
        """See `Queues`."""


class AllQueues(AnyQueues, Protocol):
    """What our own stores can do in addition. See `Queues` for the methods."""

    def count(self, key: str, part: Part | None) -> Operation[int]:
        """See `Queues`."""

    def append_archived(self, key: str, messages: list[ChatMessage]) -> Operation[None]:
        """See `Queues`."""

    def archive(self, key: str, count: int) -> Operation[list[ChatMessage]]:
        """See `Queues`."""

    def remove_oldest(self, key: str, count: int) -> Operation[list[ChatMessage]]:
        """See `Queues`."""


class AnyStore(ABC):
    """How `Memory` uses a store: it makes an operation with `queues`, and the store runs it."""

    @abstractmethod
    def queues(self, policy: MemoryPolicy) -> AnyQueues:
        """Return the sessions, counted by a policy."""

    @abstractmethod
    def run(self, operation: Operation[_T], changes: str | None = None) -> _T:
        """Run an operation, and return what it returns. `changes` is the session that it changes."""

    @abstractmethod
    async def arun(self, operation: Operation[_T], changes: str | None = None) -> _T:
        """Like `run`, without blocking the event loop."""


class MemoryStore(AsyncDBChatStore, AnyStore):
    """A store of `Memory`'s sessions: archived messages, and behind them the active ones.

    The methods are LlamaIndex's. Where `Memory` would need several of them, it does it in one step by `queues`.
    """

    @abstractmethod
    def queues(self, policy: MemoryPolicy) -> AllQueues:
        """Return the sessions, counted by a policy."""

    @abstractmethod
    def default_policy(self) -> MemoryPolicy:
        """Return the policy that counts if no memory gives one."""

    @abstractmethod
    async def get_keys(self) -> list[str]:
        """Return the keys of all sessions."""

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Return copies of a session's messages, oldest first.

        Args:
            key: the session.
            status: of which messages; None for all.
            limit: the most messages to return; None for all.
            offset: how many of the oldest to leave out.

        Raises:
            ValueError: if one of these is negative.
        """
        for name, number in (("limit", limit), ("offset", offset)):
            if number is not None and number < 0:
                raise ValueError(f"{name} must be at least 0, got {number}")
        messages = await self.arun(self._queues_alone().all(key, part_of(status)))
        return messages[offset or 0 :][:limit]

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """Return how many messages a session has; see `get_messages` for `status`."""
        return await self.arun(self._queues_alone().count(key, part_of(status)))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE) -> None:
        """Add a message. Raises the same as `add_messages`."""
        await self.add_messages(key, [message], status)

    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Add messages to the end of a session: all of them or none. This archives nothing.

        Raises:
            TypeError: if one is not a `ChatMessage`.
            ValueError: if one cannot be stored; or for archived messages behind active ones.
        """
        messages = list(messages)
        queues = self._queues_alone()
        if messages and part_of(status) == "archived":
            await self.arun(queues.append_archived(key, messages), key)
        elif messages:
            await self.arun(queues.append(key, messages, None), key)

    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Replace all messages of a session, the archived ones too: all or none. Raises the same as `add_messages`."""
        messages = list(messages)
        archived = len(messages) if status == MessageStatus.ARCHIVED else 0
        await self.arun(self._queues_alone().replace(key, messages, archived), key)

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Refuse: LlamaIndex's `idx` is the number of a row in its own table.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"a {type(self).__name__} has no row {idx!r}: messages leave from the front, by delete_oldest_messages or "
            "archive_oldest_messages, or all at once"
        )

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Remove a session, or only its messages with a status."""
        await self.arun(self._queues_alone().remove(key, part_of(status)), key)

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Remove the `n` oldest active messages, and return them."""
        return await self.arun(self._queues_alone().remove_oldest(key, n), key)

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the `n` oldest active messages, and return copies of them."""
        return await self.arun(self._queues_alone().archive(key, n), key)

    def _queues_alone(self) -> AllQueues:
        """Return the sessions under the default policy, for calls on the store itself."""
        return self.queues(self.default_policy())


def part_of(status: MessageStatus | None) -> Part | None:
    """Return the part of a session that has a status.

    Raises:
        ValueError: if it is not one.
    """
    return None if status is None else "active" if MessageStatus(status) is MessageStatus.ACTIVE else "archived"


def deep_copy(message: ChatMessage) -> ChatMessage:
    """Return a copy that shares nothing with a message."""
    return message.model_copy(deep=True)
