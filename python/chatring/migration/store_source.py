"""`StoreSource`: the sessions of a store of ours."""

from __future__ import annotations

from typing import Any

from chatring.migration.policy import StorePolicy, codec_name_of, codec_named
from chatring.migration.source import CHATRING
from chatring.stores import Store, open_store
from chatring.stores.redaction import without_secrets


class StoreSource:
    """The sessions of one of our stores. Its policy is the first session's, if the command can have it."""

    layout = CHATRING

    def __init__(self, url: str) -> None:
        self.name = without_secrets(url)
        self._url = url
        # By the name of the format that its messages have; None: JSON.
        self._stores: dict[str | None, Store[Any]] = {None: open_store(url)}
        first = self._stores[None].keys(limit=1)
        session = self._stores[None].info(first[0]) if first else None
        self.policy = StorePolicy() if session is None else StorePolicy.named(session.policy) or StorePolicy()

    def keys(self) -> list[str]:
        """See `Source`."""
        return self._stores[None].keys()

    def messages(self, key: str) -> list[Any]:
        """See `Source`."""
        session = self._stores[None].info(key)
        if session is None:
            return []
        name = codec_name_of(session.policy)
        if name not in self._stores:
            self._stores[name] = open_store(self._url, format=codec_named(name))
        return self._stores[name].all(key)

    def left_out(self) -> list[str]:
        """See `Source`."""
        return []

    def close(self) -> None:
        """See `Source`."""
        for store in self._stores.values():
            store.close()
