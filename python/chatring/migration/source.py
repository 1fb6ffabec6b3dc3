"""What sessions are copied from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from chatring.migration.policy import StorePolicy

CHATRING = "chatring"
LLAMA_INDEX = "llama-index"
OPENAI_AGENTS = "openai-agents"
LANGCHAIN = "langchain"
CONVERSATIONS = "conversations"
# How they are called in a sentence.
LAYOUTS = {
    CHATRING: "chatring",
    LLAMA_INDEX: "LlamaIndex",
    OPENAI_AGENTS: "OpenAI Agents",
    LANGCHAIN: "LangChain",
    CONVERSATIONS: "conversations",
}
# What the drop-in for LlamaIndex's ChatMemoryBuffer opens its stores with.
OF_LLAMA_INDEX = StorePolicy("cl100k_base", "text", None, "llama-index")


class SourceError(ValueError):
    """There is nothing to read, or something that cannot be read. The text has no secrets."""


def listed(names: Iterable[str], conjunction: str) -> str:
    """Return names as a sentence has them: `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


class Source(Protocol):
    """Sessions to copy.

    `name` is where they are, without secrets; `layout` is whose form they are in; `policy` is what a store of them is
    opened with, unless somebody says otherwise.
    """

    name: str
    layout: str
    policy: StorePolicy

    def keys(self) -> list[str]:
        """Return the keys of the sessions."""

    def messages(self, key: str) -> list[Any]:
        """Return a session's messages, which a store with the policy's format takes.

        Raises:
            ValueError: if one is not a message.
        """

    def left_out(self) -> list[str]:
        """Return what is among the sessions and is not one; known once `keys` has been asked."""

    def close(self) -> None:
        """Close connections."""
