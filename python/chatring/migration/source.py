"""`Source`: what sessions are copied from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from chatring.migration.policy import StorePolicy

CHATRING = "chatring"
LLAMA_INDEX = "llama-index"
OPENAI_AGENTS = "openai-agents"
LANGCHAIN = "langchain"
CONVERSATIONS = "conversations"
# Their names in a sentence.
LAYOUTS = {
    CHATRING: "chatring",
    LLAMA_INDEX: "LlamaIndex",
    OPENAI_AGENTS: "OpenAI Agents",
    LANGCHAIN: "LangChain",
    CONVERSATIONS: "conversations",
}
# How the drop-in for LlamaIndex's ChatMemoryBuffer opens its stores.
OF_LLAMA_INDEX = StorePolicy("cl100k_base", "text", None, "llama-index")


class SourceError(ValueError):
    """There is nothing to read, or something that cannot be read. The text has no secrets."""


def listed(names: Iterable[str], conjunction: str) -> str:
    """Return names for a sentence: `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


class Source(Protocol):
    """Sessions to copy.

    `name` says where they are, without secrets. `layout` says who wrote them. `policy` is the default policy of a store
    for them.
    """

    name: str
    layout: str
    policy: StorePolicy

    def keys(self) -> list[str]:
        """Return the keys of the sessions."""

    def messages(self, key: str) -> list[Any]:
        """Return a session's messages, as a store with the policy's format takes them.

        Raises:
            ValueError: if one is not a message.
        """

    def left_out(self) -> list[str]:
        """Return what was found among the sessions and is not a session; known after `keys`."""

    def close(self) -> None:
        """Close connections."""


class Queue(NamedTuple):
    """A session of LlamaIndex's `Memory`."""

    messages: list[Any]  # the archived ones, then the active ones
    archived: int  # how many are archived
    remark: str | None = None  # what has changed
    policy: str | None = None  # the name of the policy that counted it


@runtime_checkable
class QueueSource(Source, Protocol):
    """Sessions to copy, which may include sessions of LlamaIndex's `Memory`."""

    has_histories: bool
    """Whether there may be other sessions."""

    def queue(self, key: str) -> Queue | None:
        """Return a session of `Memory`; None if it is not `Memory`'s.

        Raises:
            ValueError: if a message is not one, or is neither archived nor active.
        """
