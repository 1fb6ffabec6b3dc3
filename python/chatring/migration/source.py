"""What sessions are copied from."""

from __future__ import annotations

from typing import Protocol

from chatring.stores import Record, Store

CHATRING = "chatring"
LLAMA_INDEX = "llama-index"


class SourceError(ValueError):
    """There is nothing to read, or something that cannot be read. The text has no secrets."""


class Source(Protocol):
    """Sessions to copy. `name` is where they are, without secrets; `layout` is whose form they are in."""

    name: str
    layout: str

    def lengths(self) -> dict[str, int]:
        """Return the number of messages of each session, by key."""

    def records(self, key: str) -> list[Record]:
        """Return a session's messages as the records that our stores keep.

        Raises:
            ValueError: if one is no message.
        """

    def left_out(self) -> list[str]:
        """Return what stands among the sessions and is none; known once `lengths` has been asked."""

    def close(self) -> None:
        """Close connections."""


class StoreSource:
    """The sessions of one of our stores."""

    layout = CHATRING

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store

    def lengths(self) -> dict[str, int]:
        """As in `Source`."""
        return {key: self._store.length(key) for key in sorted(self._store.keys())}

    def records(self, key: str) -> list[Record]:
        """As in `Source`."""
        return self._store.all(key)

    def left_out(self) -> list[str]:
        """As in `Source`."""
        return []

    def close(self) -> None:
        """As in `Source`."""
        self._store.close()
