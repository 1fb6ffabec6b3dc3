"""`WindowStore`: a chat store that answers with windows. Memories ask for windows only through it."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn

from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store import BaseChatStore
from typing_extensions import Self

from chatring._core import TokenCounter
from chatring.overriding import override


class Policy(NamedTuple):
    """How a session is counted, and what its windows may begin with; see `MessageRing`."""

    counter: TokenCounter
    measure: Literal["text", "message"] = "text"
    start_on: Literal["user"] | None = None


class Budget(NamedTuple):
    """The limits of one window; see `MessageRing.window`."""

    token_limit: int
    initial_token_count: int = 0
    include_system: bool = False
    retention_ratio: float = 1.0


class WindowStore(BaseChatStore):
    """A chat store that finds a window without reading the rest, and adds messages at once.

    Its async methods never block the event loop. In addition to what its docstring says, each method raises whatever
    the counter raises, and StoreError if a database fails.
    """

    # The fields that never get another value.
    _fixed: ClassVar[tuple[str, ...]] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field.

        Raises:
            ValueError: for a field that is fixed.
        """
        if name in self._fixed:
            self._refuse(name, value)
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, in which the fields of `update` differ.

        Raises:
            ValueError: for another value of a field that is fixed.
        """
        for name in self._fixed:
            if update and update.get(name, getattr(self, name)) != getattr(self, name):
                self._refuse(name, update[name])
        return super().model_copy(update=update, deep=deep)

    @abstractmethod
    def _refuse(self, name: str, value: object) -> NoReturn:
        """Raise the ValueError for another value of a field that is fixed."""

    @abstractmethod
    def window(self, key: str, budget: Budget, policy: Policy) -> list[ChatMessage]:
        """Return the window of a session, oldest first; empty if there is no such session.

        Raises:
            ValueError: if the budget leaves no room for a window.
            CounterMismatchError: if the session is in a database and was counted by another policy.
        """

    @abstractmethod
    async def awindow(self, key: str, budget: Budget, policy: Policy) -> list[ChatMessage]:
        """Async version of `window`."""

    @abstractmethod
    def token_count(self, key: str, policy: Policy) -> int:
        """Return the tokens of all messages of a session; 0 if there is no such session."""

    @abstractmethod
    def add_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Add messages to the end of a session: all of them or none. If there is no such session, it begins now."""

    async def async_add_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Async version of `add_messages`."""
        self.add_messages(key, messages)

    def forget(self, key: str) -> None:
        """Remove a session. It need not be read."""
        self.delete_messages(key)

    async def aforget(self, key: str) -> None:
        """Async version of `forget`."""
        await self.adelete_messages(key)

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Remove the newest message of a session and return it; None if there is no such session.

        Raises:
            IndexError: if the session has no messages.
        """
        return self.delete_message(key, -1)

    @override
    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        return await self.adelete_message(key, -1)


def replaces(owner: object, *names: str) -> bool:
    """Return whether a subclass of one of our classes, or the instance, has its own methods with these names."""
    cls: Any = type(owner)
    ours = _ours(cls)
    return any(name in owner.__dict__ or getattr(cls, name) is not getattr(ours, name) for name in names)


@functools.cache
def _ours(cls: Any) -> Any:
    return next(base for base in cls.__mro__ if base.__module__.startswith(__package__))
