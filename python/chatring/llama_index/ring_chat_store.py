"""`RingChatStore`: LlamaIndex's chat store on rings, one for each session key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import fsspec
from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES
from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from typing_extensions import Self

from chatring._core import MessageRing
from chatring.llama_index.bounded_store import BoundedStore
from chatring.llama_index.message_format import checked
from chatring.llama_index.sessions import Change, Sessions
from chatring.llama_index.window_store import Budget, Policy, WindowStore
from chatring.overriding import override

# Characters that are counted on an event loop, where each message adds 64 to its own. More goes to a thread, which
# takes about 60 us. 4,096 characters take 0.02 ms as prose, and 0.5 to 1 ms as the worst known texts (random or equal
# letters, spaces, newlines, emoji, Han, empty messages), on a two-core x86-64 machine.
MOST_ON_LOOP = 4_096


class RingChatStore(BoundedStore, WindowStore):
    """A chat store of rings: `SimpleChatStore` with counts that stay with the history.

    Any number of memories may share one store: a new memory for every request starts with the counts of the last. Safe
    to use from many threads.

    Args:
        store: messages to begin with, by key. The lists are copied, the messages are not.
        max_messages: the most messages to keep of a session; the oldest leave. None keeps all. It cannot be assigned
            later.
        max_sessions: the most sessions to keep; the least recently used leaves. None keeps all.
        on_evict: called with a key and the messages that leave because of a bound, oldest first. It may use the store.
        measure: how sessions are counted at first. It matters only with `max_messages`: with `"message"` the leading
            system messages stay and do not count, and the question of the oldest step stays.

    A memory may ask for windows with another `measure` or `start_on` than a session has. Then its messages move to
    another ring, with the same bounds, and are counted again. So memories that share a session should agree.

    Raises:
        ValueError: for a bound below 1, or another measure.
        TypeError: for a message that is not a `ChatMessage`.
    """

    max_messages: int | None = Field(default=None, ge=1)
    measure: Literal["text", "message"] = "text"

    # Beside the fields in the instance's __dict__, as with functools.cached_property, because pydantic's private
    # attributes take half a microsecond to read.
    if TYPE_CHECKING:
        _sessions: Sessions[MessageRing[ChatMessage]]
        # Held while a file is written, so that older contents never replace newer ones.
        _persisting: threading.RLock

    _fixed = ("max_messages", "measure")  # the sessions' rings have them too

    def __init__(self, store: Mapping[str, Iterable[Any]] | None = None, **data: Any) -> None:
        super().__init__(**data)
        given = (store or {}).items()
        self._begin({key: [ChatMessage.model_validate(message) for message in messages] for key, messages in given})

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Return a store whose bounds are not checked.

        Args:
            _fields_set: see pydantic.
            **values: see the class; messages in `store` have to be `ChatMessage` objects.
        """
        store = values.pop("store", None) or {}
        constructed = super().model_construct(_fields_set, **values)
        constructed._begin(store)
        return constructed

    def _begin(self, store: Mapping[str, Iterable[ChatMessage]]) -> None:
        # Counted with LlamaIndex's default tokenizer, unless a memory gives another.
        empty: MessageRing[ChatMessage] = MessageRing(
            counter="cl100k_base", measure=self.measure, max_messages=self.max_messages
        )
        self._hold(empty._new_like)
        self.__dict__["_persisting"] = threading.RLock()
        for key, messages in store.items():
            self.set_messages(key, list(messages))

    @override
    def _refuse(self, name: str, value: object) -> NoReturn:
        raise ValueError(
            f"{name} of a RingChatStore is fixed when it is made and cannot become {value!r}: make another, "
            f"RingChatStore(store=store.store, {name}=...)"
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised stores of this class carry."""
        return "RingChatStore"

    @property
    def store(self) -> dict[str, list[ChatMessage]]:
        """A copy of all messages, by key. Changing it changes nothing here."""
        return self._sessions.snapshot(MessageRing.get_all)

    def ring(self, key: str) -> MessageRing[ChatMessage] | None:
        """Return the ring of a session; None if there is no such session. This counts as a use of the session."""
        return self._sessions.get(key)

    def window(self, key: str, budget: Budget, policy: Policy) -> list[ChatMessage]:
        """Return the window of a session; empty if there is no such session."""
        return self._window(key, budget, policy) or []

    @override
    async def awindow(self, key: str, budget: Budget, policy: Policy) -> list[ChatMessage]:
        # What would take the event loop longer than a millisecond is counted in a thread.
        window = self._window(key, budget, policy, MOST_ON_LOOP)
        return await asyncio.to_thread(self.window, key, budget, policy) if window is None else window

    def token_count(self, key: str, policy: Policy) -> int:
        """Return the tokens of all messages of a session; 0 if there is no such session."""
        return self._ring(key, policy).token_count(counter=policy.counter)

    def _window(self, key: str, budget: Budget, policy: Policy, most: int | None = None) -> list[ChatMessage] | None:
        return self._ring(key, policy)._limited_window(*budget, policy.counter, most)

    def _ring(self, key: str, policy: Policy) -> MessageRing[ChatMessage]:
        """Return the ring of a session; an empty one if there is no such session.

        If the session has another measure or start rule, this is a new ring, which replaces the old one.
        """
        rule = policy.measure, policy.start_on
        ring = self.ring(key)
        if ring is not None and (ring.measure, ring.start_on) == rule:
            return ring
        asked: MessageRing[ChatMessage] = MessageRing(**policy._asdict(), max_messages=self.max_messages)
        with self._sessions.changing() as change:
            ring = self.ring(key)
            if ring is None:
                return asked
            if (ring.measure, ring.start_on) == rule:  # it has just begun
                return ring
            change.evicted(key, asked._put_messages(ring.get_all()))
            change.set(key, asked)  # now, because a reader may find it at once
        return asked

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace all messages of a session. The list is copied."""
        checked(messages)
        with self._sessions.changing() as change:
            self._set(change, key, messages)

    def get_messages(self, key: str) -> list[ChatMessage]:
        """Return a new list of a session's messages; empty if there is no such session."""
        ring = self.ring(key)
        return [] if ring is None else ring.get_all()

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Add a message to a session: at its end, or before index `idx` as `list.insert` does."""
        if idx is None:
            self.add_messages(key, [message])
            return
        checked([message])
        with self._sessions.changing() as change:
            messages = self.get_messages(key)
            messages.insert(idx, message)
            self._set(change, key, messages)

    def add_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Add messages to the end of a session: all of them, or none if one is not a message."""
        if checked(messages):
            with self._sessions.changing() as change:
                change.evicted(key, change.open(key)._put_messages(messages))

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove a session; return its messages, None if there is no such session."""
        ring = self._sessions.delete(key)
        return None if ring is None else ring.get_all()

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove a message and return it; None if there are not that many messages.

        Raises:
            IndexError: for a negative index before the first message.
        """
        with self._sessions.lock:
            ring = self.ring(key)
            return None if ring is None or idx >= len(ring) else ring.delete(idx)

    def get_keys(self) -> list[str]:
        """Return the keys of all sessions in the order in which they began or, with `max_sessions`, were last used."""
        return self._sessions.keys()

    # Nothing here waits or counts, so the async methods answer at once instead of moving to a thread.

    @override
    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        self.set_messages(key, messages)

    @override
    async def aget_messages(self, key: str) -> list[ChatMessage]:
        return self.get_messages(key)

    @override
    async def async_add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        self.add_message(key, message, idx)

    @override
    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        return self.delete_messages(key)

    @override
    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        return self.delete_message(key, idx)

    @override
    async def aget_keys(self) -> list[str]:
        return self.get_keys()

    def persist(self, persist_path: str = "chat_store.json", fs: fsspec.AbstractFileSystem | None = None) -> None:
        """Write all sessions to a file in `SimpleChatStore`'s JSON form.

        The file has the old contents or the new ones, never a part of them. They go to a temporary file beside it,
        which is flushed to the disk and renamed. With another file system `fs` there is no flush. All sessions are from
        one moment. If two threads persist, the one that began later wins.

        Raises:
            ValueError: if a message's `additional_kwargs` hold something that has no JSON form; nothing is written.
            OSError: if writing fails; the file is left alone.
        """
        if fs is None:
            persist_path = os.path.realpath(persist_path)  # a link stays a link
        folder = os.path.dirname(persist_path)
        fs_or_local = fs or fsspec.filesystem("file")
        # Processes on two machines may have the same id.
        temporary = f"{persist_path}.{uuid.uuid4().hex}.tmp"
        with self._persisting:
            data = self.model_dump_json()
            if folder:
                fs_or_local.makedirs(folder, exist_ok=True)
            try:
                with fs_or_local.open(temporary, "w", encoding="utf-8") as file:
                    file.write(data)
                    if fs is None:
                        file.flush()
                        os.fsync(file.fileno())
                if fs is not None:
                    fs.mv(temporary, persist_path)
                    return
                if os.path.exists(persist_path):
                    shutil.copymode(persist_path, temporary)
                os.replace(temporary, persist_path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    fs_or_local.rm_file(temporary)
                raise

    @classmethod
    def from_persist_path(
        cls, persist_path: str = "chat_store.json", fs: fsspec.AbstractFileSystem | None = None
    ) -> RingChatStore:
        """Read sessions that `persist` or `SimpleChatStore.persist` wrote; none if there is no such file.

        Raises:
            ValueError: if the file is not a chat store, for example because it was cut short. It is not changed.
        """
        fs = fs or fsspec.filesystem("file")
        if not fs.exists(persist_path):
            return cls()
        try:
            with fs.open(persist_path, "r", encoding="utf-8") as file:
                data = json.load(file)
            return cls.from_dict(json.loads(data) if isinstance(data, str) else data)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{persist_path} is not a chat store: {error}") from error

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> RingChatStore:
        """Return the store that `to_dict`, or `SimpleChatStore.to_dict`, described. The argument is not changed.

        Raises:
            TypeError: if `data` is not a dict, or its `store` is not a dict of lists.
            ValueError: if something in it is not a message.
        """
        if not isinstance(data, dict):
            raise TypeError(f"a chat store is a dict, got {type(data).__name__}")
        store = data.get("store", {})
        if not isinstance(store, dict) or not all(isinstance(messages, list) for messages in store.values()):
            raise TypeError('a chat store has its messages in a dict of lists, under "store"')
        return cls(**{**data, **kwargs})

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Describe the store as `SimpleChatStore` does, with the bounds if there are any."""
        bounds = {key: value for key, value in handler(self).items() if value not in (None, "text")}
        store = {key: [_dump(message, info) for message in messages] for key, messages in self.store.items()}
        return {"store": store, **bounds, "class_name": self.class_name()}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle sessions as lists of messages."""
        return {"store": self.store, **self._settings()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill a store that was made without its constructor."""
        self.__init__(**state)  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        """Whether both hold equal messages under the same keys."""
        return isinstance(other, RingChatStore) and self.store == other.store

    __hash__ = None  # type: ignore[assignment]

    def _set(self, change: Change[MessageRing[ChatMessage]], key: str, messages: list[ChatMessage]) -> None:
        ring = change.open(key)
        ring.set(messages)
        change.evicted(key, _without(messages, ring.get_all()) if self.max_messages is not None else [])


def _without(messages: list[ChatMessage], kept: list[ChatMessage]) -> list[ChatMessage]:
    """Return the messages that are not among `kept`, which are some of them in the same order."""
    left = []
    for message in reversed(messages):
        if kept and kept[-1] is message:
            kept.pop()
        else:
            left.append(message)
    return left[::-1]


def _dump(message: ChatMessage, info: SerializationInfo) -> dict[str, Any]:
    """Describe a message as `SimpleChatStore` does, whose own method fails on pydantic 2.14 and newer."""
    data = message.model_dump(mode=info.mode)
    for key, value in data.get("additional_kwargs", {}).items():
        value = message._recursive_serialization(value)
        if not isinstance(value, (str, int, float, bool, dict, list, type(None))):
            raise ValueError(f"Failed to serialize additional_kwargs value: {value}")
        data["additional_kwargs"][key] = value
    return data


RECOGNIZED_CHAT_STORES[RingChatStore.class_name()] = RingChatStore  # type: ignore[assignment]
