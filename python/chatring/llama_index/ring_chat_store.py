"""`RingChatStore`: LlamaIndex's chat store on rings, one for each session key."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import fsspec
from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.base import BaseChatStore
from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES
from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from typing_extensions import Self

from chatring._core import MessageRing

EvictionCallback = Callable[[str, list[ChatMessage]], None]
# A key, and the messages that left that session.
_Evicted: TypeAlias = tuple[str, list[ChatMessage]]


class RingChatStore(BaseChatStore):
    """A chat store of rings: `SimpleChatStore` with counts that stay with the history.

    Any number of memory objects may share one store: a new one for every request starts with the counts of the last.
    Safe to use from many threads.

    Args:
        store: messages to begin with, by key. The lists are copied, the messages are not.
        max_messages: keep at most so many messages of a session, the oldest leave; None keeps all. Cannot be assigned
            later.
        max_sessions: keep at most so many sessions, the least recently used leaves; None keeps all.
        on_evict: called with a key and the messages that leave because of a bound, oldest first. It may use the store.

    Raises:
        ValueError: for a bound below 1.
        TypeError: for a message that is not a `ChatMessage`.
    """

    max_messages: int | None = Field(default=None, ge=1)
    max_sessions: int | None = Field(default=None, ge=1)
    on_evict: EvictionCallback | None = Field(default=None, exclude=True)

    # In the instance's __dict__ beside the fields, where functools.cached_property would put them too: pydantic's
    # private attributes take half a microsecond to read.
    if TYPE_CHECKING:
        # Ordered, because its move to the end is one step: a session is there all the while.
        _rings: OrderedDict[str, MessageRing[ChatMessage]]
        # Held by whatever changes a session, so that nothing is put into one that has just left, and by whatever reads
        # more than one, so that it sees all of them as they were at one moment.
        _lock: threading.RLock
        # Held while a file is written, so that older contents never replace newer ones.
        _persisting: threading.RLock

    def __init__(self, store: Mapping[str, Iterable[Any]] | None = None, **data: Any) -> None:
        super().__init__(**data)
        self._begin()
        for key, messages in dict(store or {}).items():
            self.set_messages(key, [ChatMessage.model_validate(message) for message in messages])

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Return a store whose bounds are not checked.

        Args:
            _fields_set: as in pydantic.
            **values: as in the class; messages in `store` have to be `ChatMessage` objects.
        """
        store = dict(values.pop("store", None) or {})
        constructed = super().model_construct(_fields_set, **values)
        constructed._begin()
        for key, messages in store.items():
            constructed.set_messages(key, list(messages))
        return constructed

    def _begin(self) -> None:
        self.__dict__.update(_rings=OrderedDict(), _lock=threading.RLock(), _persisting=threading.RLock())

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field; sessions that leave for a lower `max_sessions` are reported.

        Raises:
            ValueError: for `max_messages`, which every session's ring has too, or a `max_sessions` below 1.
        """
        if name == "max_messages":
            _refuse_max_messages(value)
        if name != "max_sessions":
            super().__setattr__(name, value)
            return
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"max_sessions must be None or an integer of at least 1, got {value!r}")
        with self._changing() as evicted:
            super().__setattr__(name, value)
            self._make_room(evicted)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy that shares the sessions, or a deep one that has its own.

        Args:
            update: fields that differ in the copy; not `max_messages`, which every session's ring has too.
            deep: whether to copy the sessions. The messages are never copied.

        Raises:
            ValueError: for another `max_messages`.
        """
        if update and update.get("max_messages", self.max_messages) != self.max_messages:
            _refuse_max_messages(update["max_messages"])
        return super().model_copy(update=update, deep=deep)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised stores of this class carry."""
        return "RingChatStore"

    @property
    def store(self) -> dict[str, list[ChatMessage]]:
        """All messages by key: a copy. Changing it changes nothing here."""
        with self._lock:
            return {key: ring.get_all() for key, ring in self._rings.items()}

    def ring(self, key: str) -> MessageRing[ChatMessage] | None:
        """Return the ring of a session, None if there is no such session; a look counts as a use of the session."""
        fields = self.__dict__  # reading a field as an attribute takes longer than finding the ring
        if fields["max_sessions"] is None:
            ring: MessageRing[ChatMessage] | None = fields["_rings"].get(key)
            return ring
        with self._lock:
            ring = self._rings.get(key)
            if ring is not None:
                self._rings.move_to_end(key)  # the most recently used
            return ring

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Put messages in the place of all of a session; a copy of the list, which is not kept."""
        checked = _checked(messages)
        with self._changing() as evicted:
            self._set(key, checked, evicted)

    def get_messages(self, key: str) -> list[ChatMessage]:
        """Return a new list of a session's messages; empty if there is no such session."""
        ring = self.ring(key)
        return [] if ring is None else ring.get_all()

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Add a message to a session: at its end, or before index `idx` as `list.insert` does."""
        fields = self.__dict__
        if idx is not None:
            with self._changing() as evicted:
                messages = self.get_messages(key)
                messages.insert(idx, message)
                self._set(key, _checked(messages), evicted)
        elif fields["max_messages"] is fields["max_sessions"] is None and isinstance(message, ChatMessage):
            with fields["_lock"]:  # nothing can leave
                (fields["_rings"].get(key) or self._open(key, [])).put(message)
        else:
            self.add_messages(key, [message])

    def add_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Add messages to the end of a session: all of them, or none if one is no message."""
        checked = _checked(messages)
        if not checked:
            return
        fields = self.__dict__
        if fields["max_messages"] is fields["max_sessions"] is None:  # nothing can leave
            with fields["_lock"]:
                (fields["_rings"].get(key) or self._open(key, [])).put_messages(checked)
        else:
            with self._changing() as evicted:
                evicted.append((key, self._open(key, evicted)._put_messages(checked)))

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove a session; return its messages, None if there is no such session."""
        with self._lock:
            ring = self._rings.pop(key, None)
            return None if ring is None else ring.get_all()

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove a message; return it, None if there is none so far from the start.

        Raises:
            IndexError: for a negative index before the first message.
        """
        with self._lock:
            ring = self.ring(key)
            return None if ring is None or idx >= len(ring) else ring.delete(idx)

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Remove the newest message of a session; return it, None if there is no such session.

        Raises:
            IndexError: if the session has no message.
        """
        with self._lock:
            ring = self.ring(key)
            return None if ring is None else ring.pop()

    def get_keys(self) -> list[str]:
        """Return the keys of all sessions, in the order in which they began (with `max_sessions`: were last used)."""
        with self._lock:
            return list(self._rings)

    # Nothing here waits or counts, so the async methods answer at once instead of hopping to a thread.

    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """As `set_messages`."""
        self.set_messages(key, messages)

    async def aget_messages(self, key: str) -> list[ChatMessage]:
        """As `get_messages`."""
        return self.get_messages(key)

    async def async_add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """As `add_message`."""
        self.add_message(key, message, idx)

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """As `delete_messages`."""
        return self.delete_messages(key)

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """As `delete_message`."""
        return self.delete_message(key, idx)

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """As `delete_last_message`."""
        return self.delete_last_message(key)

    async def aget_keys(self) -> list[str]:
        """As `get_keys`."""
        return self.get_keys()

    def persist(self, persist_path: str = "chat_store.json", fs: fsspec.AbstractFileSystem | None = None) -> None:
        """Write all sessions to a file in `SimpleChatStore`'s JSON form.

        The file has the old contents or the new ones, never a part: they go to a temporary file beside it, which is
        flushed to the disk and renamed. Another file system `fs` gets the temporary file and the rename only. All
        sessions are those of one moment, and of two threads that persist, the one that began later has the last word.

        Raises:
            ValueError: if a message's `additional_kwargs` hold something that has no JSON form; nothing is written.
            OSError: if writing fails; the file is left alone.
        """
        with self._persisting:
            self._write(self.model_dump_json(), persist_path, fs)

    def _write(self, data: str, persist_path: str, fs: fsspec.AbstractFileSystem | None) -> None:
        if fs is None:
            persist_path = os.path.realpath(persist_path)  # a link is to stay one
        folder = os.path.dirname(persist_path)
        fs_or_local = fs or fsspec.filesystem("file")
        if folder and not fs_or_local.exists(folder):
            fs_or_local.makedirs(folder, exist_ok=True)
        # Processes on two machines may have the same numbers.
        temporary = f"{persist_path}.{uuid.uuid4().hex}.tmp"
        try:
            with fs_or_local.open(temporary, "w", encoding="utf-8") as file:
                file.write(data)
                if fs is None:
                    file.flush()
                    os.fsync(file.fileno())
            if fs is None:
                if os.path.exists(persist_path):
                    shutil.copymode(persist_path, temporary)
                os.replace(temporary, persist_path)
            else:
                fs.mv(temporary, persist_path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                fs_or_local.rm_file(temporary)
            raise

    @classmethod
    def from_persist_path(
        cls, persist_path: str = "chat_store.json", fs: fsspec.AbstractFileSystem | None = None
    ) -> RingChatStore:
        """Read sessions that `persist` or `SimpleChatStore.persist` has written; none if there is no such file.

        Raises:
            ValueError: if the file is not a chat store, such as one cut short. It is left alone.
        """
        fs = fs or fsspec.filesystem("file")
        if not fs.exists(persist_path):
            return cls()
        with fs.open(persist_path, "rb") as file:
            content = file.read()
        try:
            data = json.loads(content.decode("utf-8"))
            return cls.from_dict(json.loads(data) if isinstance(data, str) else data)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{persist_path} is not a chat store: {error}") from error

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> RingChatStore:
        """Return the store that `to_dict`, or `SimpleChatStore.to_dict`, has described. The argument is left alone.

        Raises:
            TypeError: if `data` is no dict, or its `store` is not a dict of lists.
            ValueError: if something in it is no message.
        """
        if not isinstance(data, dict):
            raise TypeError(f"a chat store is a dict, got {type(data).__name__}")
        data = {key: value for key, value in data.items() if key != "class_name"}
        store = data.get("store", {})
        if not isinstance(store, dict) or not all(isinstance(messages, list) for messages in store.values()):
            raise TypeError('a chat store has its messages in a dict of lists, under "store"')
        return cls(**{**data, **kwargs})

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Describe the store as `SimpleChatStore` does, with the bounds if there are any."""
        bounds = {key: value for key, value in handler(self).items() if value is not None}
        store = {key: [_dump(message, info) for message in messages] for key, messages in self.store.items()}
        return {"store": store, **bounds, "class_name": self.class_name()}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle sessions as lists of messages."""
        return {"store": self.store, **self._settings()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill a store that was made without its constructor."""
        self.__init__(**state)  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RingChatStore:
        """Return a store with lists of its own, and counts, of the same messages."""
        copied = type(self)(**self._settings())
        with self._lock:
            copied._rings.update((key, copy.copy(ring)) for key, ring in self._rings.items())
        return copied

    def __eq__(self, other: object) -> bool:
        """Whether both hold equal messages under the same keys."""
        return isinstance(other, RingChatStore) and self.store == other.store

    __hash__ = None  # type: ignore[assignment]

    def _settings(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in type(self).model_fields}

    def _set(self, key: str, messages: list[ChatMessage], evicted: list[_Evicted]) -> None:
        """Put messages in the place of all of a session; those that it has no room for are added to `evicted`."""
        ring = self._open(key, evicted)
        ring.set(messages)
        evicted.append((key, messages[: len(messages) - len(ring)]))

    def _open(self, key: str, evicted: list[_Evicted]) -> MessageRing[ChatMessage]:
        """Return the ring of a session, begun now if there is none; a session that must leave is added to `evicted`."""
        ring = self.ring(key)
        if ring is None:
            ring = self._rings[key] = MessageRing(measure="text", max_messages=self.max_messages)
            self._make_room(evicted)
        return ring

    def _make_room(self, evicted: list[_Evicted]) -> None:
        while self.max_sessions is not None and len(self._rings) > self.max_sessions:
            oldest, ring = self._rings.popitem(last=False)
            evicted.append((oldest, ring.get_all()))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[_Evicted]]:
        """Hold the lock; then report what was evicted, with the change complete and the store free for the callback."""
        evicted: list[_Evicted] = []
        with self._lock:
            yield evicted
        on_evict = self.on_evict
        if on_evict is not None:
            with contextlib.ExitStack() as reports:  # all of them, even if one raises
                for key, messages in reversed(evicted):
                    if messages:
                        reports.callback(on_evict, key, messages)


def _refuse_max_messages(value: int | None) -> NoReturn:
    raise ValueError(
        f"max_messages of a RingChatStore is fixed when it is made and cannot become {value!r}: make another, "
        "RingChatStore(store=store.store, max_messages=...)"
    )


def _checked(messages: list[ChatMessage]) -> list[ChatMessage]:
    if not isinstance(messages, list):
        raise TypeError(f"messages must be a list of ChatMessage, got {type(messages).__name__}")
    for message in messages:
        if not isinstance(message, ChatMessage):
            raise TypeError(f"a message must be a ChatMessage, got {message!r} ({type(message).__name__})")
    return messages


def _dump(message: ChatMessage, info: SerializationInfo) -> dict[str, Any]:
    """Describe a message as `SimpleChatStore` does. Its own way fails on pydantic 2.14 and newer."""
    data = message.model_dump(mode=info.mode)
    for key, value in data.get("additional_kwargs", {}).items():
        value = message._recursive_serialization(value)
        if not isinstance(value, (str, int, float, bool, dict, list, type(None))):
            raise ValueError(f"Failed to serialize additional_kwargs value: {value}")
        data["additional_kwargs"][key] = value
    return data


RECOGNIZED_CHAT_STORES[RingChatStore.class_name()] = RingChatStore  # type: ignore[assignment]
