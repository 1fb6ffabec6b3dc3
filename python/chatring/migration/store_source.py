"""`StoreSource`: the sessions of one of our stores."""

from __future__ import annotations

from typing import Any

from chatring.migration.memories import Memories
from chatring.migration.policy import StorePolicy, format_name_of, format_named
from chatring.migration.source import CHATRING, OF_LLAMA_INDEX, Queue, QueueSource
from chatring.overriding import override
from chatring.stores import Store, open_store
from chatring.stores.policy_name import is_queue
from chatring.stores.redaction import without_secrets


class StoreSource(QueueSource):
    """The sessions of one of our stores.

    Its policy is the one of the first session that is not `Memory`'s, if the command has options for it.
    """

    layout = CHATRING
    has_histories = True

    def __init__(self, url: str) -> None:
        self.name = without_secrets(url)
        self._url = url
        store = open_store(url)
        # By the name of the messages' format; None: JSON.
        self._stores: dict[str | None, Store[Any]] = {None: store}
        self._memories = Memories(store)
        policies = (info.policy for key in store.keys() if (info := store.info(key)) is not None)  # noqa: SIM118
        first = None
        for first in policies:
            if not is_queue(first):
                break
        self.policy = StorePolicy() if first is None else _policy_of(first)

    @override
    def keys(self) -> list[str]:
        return self._stores[None].keys()

    @override
    def messages(self, key: str) -> list[Any]:
        session = self._stores[None].info(key)
        if session is None:
            return []
        name = format_name_of(session.policy)
        if name not in self._stores:
            self._stores[name] = open_store(self._url, format=format_named(name))
        return self._stores[name].all(key)

    @override
    def queue(self, key: str) -> Queue | None:
        session = self._stores[None].info(key)
        return self._memories.read(key, session.policy) if session and is_queue(session.policy) else None

    @override
    def left_out(self) -> list[str]:
        return []

    @override
    def close(self) -> None:
        for store in self._stores.values():
            store.close()


def _policy_of(name: str) -> StorePolicy:
    return OF_LLAMA_INDEX if is_queue(name) else StorePolicy.named(name) or StorePolicy()
