"""`ChatMemoryBuffer`: LlamaIndex's class with its windows answered by rings."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

import tiktoken
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexChatMemoryBuffer
from llama_index.core.memory.chat_memory_buffer import DEFAULT_TOKEN_LIMIT, DEFAULT_TOKEN_LIMIT_RATIO
from llama_index.core.memory.types import DEFAULT_CHAT_STORE_KEY
from llama_index.core.storage.chat_store import BaseChatStore, SimpleChatStore
from llama_index.core.storage.chat_store.loading import load_chat_store
from llama_index.core.utils import get_tokenizer
from pydantic import Field, SerializationInfo, SerializeAsAny, field_serializer, model_validator
from typing_extensions import Self

from chatring._core import MessageRing, TokenCounter
from chatring.llama_index.ring_chat_store import RingChatStore, _checked
from chatring.llama_index.store_chat_store import StoreChatStore
from chatring.llama_index.tokenizer import counter_of, encoding_of

# Tokens that no history has.
_NO_LIMIT = sys.maxsize - 1

# Characters that are counted on an event loop, a message being 64 of them beside its own. More goes to a thread: that
# takes about 60 us, and 4,096 characters take 0.02 ms as prose, and 0.5 to 1 ms as the worst texts that are known
# (random or equal letters, spaces, newlines, emoji, Han, empty messages), on a two-core x86-64 machine.
_MOST_ON_LOOP = 4_096

_logger = logging.getLogger(__name__)


class ChatMemoryBuffer(LlamaIndexChatMemoryBuffer):
    """LlamaIndex's `ChatMemoryBuffer`, with the same windows in logarithmic instead of quadratic time.

    A subclass of LlamaIndex's own. Everything it takes, returns and raises is the same but for what stands in
    `docs/llama-index.md`.

    Args:
        token_limit: tokens that a window may have, at least 1.
        tokenizer_fn: from a text to its tokens; LlamaIndex's global tokenizer if not given. The encodings of tiktoken
            are counted in Rust.
        chat_store: holds the messages; a new `RingChatStore` if not given. Any other chat store works too. Of a
            `SQLChatStore` or `RedisChatStore` only windows are read; its `counter` must be the same tokenizer.
        chat_store_key: the session's key in the store.

    Raises:
        ValueError: if token_limit is missing or below 1.
    """

    chat_store: SerializeAsAny[BaseChatStore] = Field(default_factory=RingChatStore)

    # Beside the fields in `__dict__`, where functools.cached_property would put them too, because pydantic's private
    # attributes take half a microsecond to read: `_counter`, the callable that was `tokenizer_fn` last and its counter;
    # `_seen`, a ring of the messages last seen in a store that is not ours.

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self.__dict__["_counter"] = None

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Return a memory of these fields without checking them, as pydantic does."""
        constructed = super().model_construct(_fields_set, **values)
        constructed.__dict__["_counter"] = None
        return constructed

    @model_validator(mode="before")
    @classmethod
    def validate_memory(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Check the limit, and find the tokenizer and the chat store. The argument is left alone."""
        values = dict(values)
        tokenizer = values.get("tokenizer_fn")
        if isinstance(tokenizer, tiktoken.Encoding):
            values["tokenizer_fn"] = functools.partial(tokenizer.encode, allowed_special="all")
        if isinstance(values.get("chat_store"), dict):
            values["chat_store"] = _load_store(values["chat_store"])
        checked: dict[str, Any] = LlamaIndexChatMemoryBuffer.validate_memory.__func__(cls, values)
        return checked

    @classmethod
    def from_defaults(
        cls,
        chat_history: list[ChatMessage] | None = None,
        llm: LLM | None = None,
        chat_store: BaseChatStore | None = None,
        chat_store_key: str = DEFAULT_CHAT_STORE_KEY,
        token_limit: int | None = None,
        tokenizer_fn: Any = None,
        **kwargs: Any,
    ) -> ChatMemoryBuffer:
        """Return a memory.

        Args:
            chat_history: messages to begin with, in the place of those in the store; the list is copied.
            llm: takes 75 % of its context window as the token limit, if none is given.
            chat_store: as in the class.
            chat_store_key: as in the class.
            token_limit: as in the class; 3,000 if neither it nor `llm` is given.
            tokenizer_fn: as in the class.
            **kwargs: there are no others.

        Raises:
            ValueError: for other arguments, or a token limit below 1.
        """
        if kwargs:
            raise ValueError(f"Unexpected kwargs: {kwargs}")
        if llm is not None:
            token_limit = token_limit or int(llm.metadata.context_window * DEFAULT_TOKEN_LIMIT_RATIO)
        elif token_limit is None:
            token_limit = DEFAULT_TOKEN_LIMIT
        memory = cls(
            token_limit=token_limit,
            tokenizer_fn=tokenizer_fn or get_tokenizer(),
            chat_store=chat_store or RingChatStore(),
            chat_store_key=chat_store_key,
        )
        if chat_history is not None:
            memory.chat_store.set_messages(chat_store_key, list(_checked(chat_history)))
        return memory

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> ChatMemoryBuffer:
        """Return the memory that `to_dict` of this class or of LlamaIndex's has described. The argument is left alone.

        Raises:
            ValueError: if it names a chat store that cannot be loaded from a dict.
        """
        data = dict(data)
        if "chat_history" in data:  # the form of early versions of LlamaIndex
            history = data.pop("chat_history")
            data["chat_store"] = RingChatStore(store={DEFAULT_CHAT_STORE_KEY: history})
        elif isinstance(data.get("chat_store"), dict):
            data["chat_store"] = _load_store(data["chat_store"])
        return cls(**data)

    @field_serializer("chat_store")
    def serialize_courses_in_order(  # type: ignore[override]
        self, chat_store: BaseChatStore, info: SerializationInfo
    ) -> dict[str, Any]:
        """Describe the store; a `RingChatStore` without bounds as the `SimpleChatStore` it replaces."""
        if type(chat_store) is SimpleChatStore:
            # Its own way fails on pydantic 2.14 and newer.
            chat_store = RingChatStore(store=chat_store.store)
        data: dict[str, Any] = chat_store.model_dump(mode=info.mode)
        data["class_name"] = chat_store.class_name()
        if isinstance(chat_store, RingChatStore) and chat_store.max_messages is chat_store.max_sessions is None:
            data["class_name"] = SimpleChatStore.class_name()
        return data

    def get(self, input: str | None = None, initial_token_count: int = 0, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        """Return the last messages that fit the token limit: a new list of the messages themselves, oldest first.

        Args:
            input: not used, as in LlamaIndex.
            initial_token_count: tokens spent before the window.
            **kwargs: not used, as in LlamaIndex.

        Raises:
            ValueError: if `initial_token_count` exceeds the token limit: its attributes `initial_token_count` and
                `token_limit` have the numbers. A `CounterMismatchError` if the chat store is a `SQLChatStore` or
                `RedisChatStore` with another counter than the memory's tokenizer.
            TypeError: if a `tokenizer_fn` that was assigned later cannot be called.
            StoreError: if such a store fails.
            Exception: whatever the tokenizer raises, unchanged.
        """
        fields = self.__dict__
        if (
            type(self) is ChatMemoryBuffer
            and len(fields) == _OWN
            and type(store := fields["chat_store"]) is RingChatStore
            and len(stored := store.__dict__) == _STORES_OWN
        ):
            return _ring_window(fields, stored, initial_token_count)  # type: ignore[return-value]
        if _overridden(self, "_token_count_for_messages"):
            return super().get(input, initial_token_count, **kwargs)
        tokens = _tokens_left(self.token_limit, initial_token_count)
        if (database := self._window_store()) is not None:
            # No token is a legal allowance, but not a legal token limit: so one more of each.
            return database.window(self.chat_store_key, tokens + 1, 1)
        with self._read_history() as history:
            return history._window(tokens, _counter_in(fields))

    def token_count(self) -> int:
        """Return the tokens of the whole history, as `get` counts them; 0 if it is empty."""
        if _overridden(self, "_token_count_for_messages"):
            return self._token_count_for_messages(self.get_all())
        if (store := self._window_store()) is not None:
            return store.token_count(self.chat_store_key)
        with self._read_history() as history:
            return history.token_count(counter=_counter_in(self.__dict__))

    def put(self, message: ChatMessage) -> None:
        """Add a message.

        Raises:
            TypeError: if it is not a `ChatMessage`.
        """
        fields = self.__dict__
        if type(fields["chat_store"]) is not RingChatStore:  # which checks too
            _checked([message])
        fields["chat_store"].add_message(fields["chat_store_key"], message)

    def put_message(self, message: ChatMessage) -> None:
        """As `put`, by the name that early documents of LlamaIndex use."""
        self.put(message)

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages: all of them, or none if one is no `ChatMessage`."""
        messages = _checked(list(messages))
        store = self._adds_at_once("add_message")
        if store is not None and not _overridden(self, "put"):
            store.add_messages(self.chat_store_key, messages)
        else:
            for message in messages:
                self.put(message)

    def set(self, messages: list[ChatMessage]) -> None:
        """Put messages in the place of all others; the list is copied.

        Raises:
            TypeError: if it is not a list of `ChatMessage`.
        """
        self.chat_store.set_messages(self.chat_store_key, list(_checked(messages)))

    def get_all(self) -> list[ChatMessage]:
        """Return a new list of all messages."""
        return list(self.chat_store.get_messages(self.chat_store_key))

    def reset(self) -> None:
        """Remove all messages."""
        if (store := self._database("delete_messages")) is not None:
            store.store.delete(self.chat_store_key)  # without reading them first
        else:
            super().reset()

    # A ring never waits, so the async methods answer at once, and hop to a thread only if there is much to count.

    async def aget(self, input: str | None = None, initial_token_count: int = 0, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        """As `get`. What would take the event loop longer than a millisecond to count is counted in a thread."""
        fields = self.__dict__
        if not (
            type(self) is ChatMemoryBuffer
            and len(fields) == _OWN
            and type(store := fields["chat_store"]) is RingChatStore
            and len(stored := store.__dict__) == _STORES_OWN
        ):
            if len(fields) < _OWN or not self._has_ring() or self._gets_otherwise():
                return await self._aget_elsewhere(input, initial_token_count, **kwargs)
            stored = self.chat_store.__dict__
        window = _ring_window(fields, stored, initial_token_count, _MOST_ON_LOOP)
        if window is None:
            window = await asyncio.to_thread(_ring_window, fields, stored, initial_token_count)
        return window  # type: ignore[return-value]

    async def _aget_elsewhere(self, input: str | None, initial_token_count: int, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        """As `get`, of a history that is not in a ring, or as somebody else's code says."""
        if not self._gets_otherwise():
            tokens = _tokens_left(self.token_limit, initial_token_count)
            if (store := self._window_store()) is not None:
                return await store.awindow(self.chat_store_key, tokens + 1, 1)
        return await super().aget(input=input, initial_token_count=initial_token_count, **kwargs)

    async def aput(self, message: ChatMessage) -> None:
        """As `put`."""
        fields = self.__dict__
        if type(store := fields["chat_store"]) is RingChatStore and len(store.__dict__) == _STORES_OWN:
            store.add_message(fields["chat_store_key"], message)
        else:
            _checked([message])
            await fields["chat_store"].async_add_message(fields["chat_store_key"], message)

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """As `put_messages`."""
        store = self._adds_at_once("add_message", "async_add_message")
        if store is None or _overridden(self, "put") or _overridden(self, "put_messages"):
            await super().aput_messages(messages)
        elif isinstance(store, RingChatStore):
            self.put_messages(messages)
        else:
            await store.async_add_messages(self.chat_store_key, _checked(list(messages)))

    async def aset(self, messages: list[ChatMessage]) -> None:
        """As `set`."""
        await self.chat_store.aset_messages(self.chat_store_key, list(_checked(messages)))

    async def aget_all(self) -> list[ChatMessage]:
        """As `get_all`."""
        return list(await self.chat_store.aget_messages(self.chat_store_key))

    async def areset(self) -> None:
        """As `reset`."""
        store = self._database("delete_messages", "adelete_messages")
        if store is None or _overridden(self, "reset"):
            await super().areset()
        else:
            await store.store.adelete(self.chat_store_key)

    def __copy__(self) -> ChatMemoryBuffer:
        """Return a memory over the same store."""
        copied = super().__copy__()
        copied.__dict__.pop("_seen", None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ChatMemoryBuffer:
        """Return a memory with a store of its own, unless that is in a database.

        Tokenizers are never copied, nor the messages in a store of ours.
        """
        memo = {} if memo is None else memo
        memo[id(self.tokenizer_fn)] = self.tokenizer_fn
        without_counts = self.__copy__()
        copied: ChatMemoryBuffer = super(ChatMemoryBuffer, without_counts).__deepcopy__(memo)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the fields, without counts. A tokenizer goes by its name: one that would be copied is left out."""
        fields = {name: self.__dict__[name] for name in type(self).model_fields}
        if not _pickled_by_name(self.tokenizer_fn):
            del fields["tokenizer_fn"]
            if self.tokenizer_fn is not get_tokenizer():
                _logger.warning("Leaving out tokenizer_fn, which has no name to be found by: %r", self.tokenizer_fn)
        return {"__dict__": fields}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill a memory made without its constructor; LlamaIndex's global tokenizer stands in for one left out."""
        self.__init__(**state["__dict__"])  # type: ignore[misc]

    def _has_ring(self) -> bool:
        """Whether the history is a ring of our store, and not what somebody else's code says it is."""
        store = self.chat_store
        is_ours = type(store) is RingChatStore and "get_messages" not in store.__dict__
        return is_ours and not _overridden(self, "get_all")

    def _gets_otherwise(self) -> bool:
        """Whether `get`, or what counts in it, is somebody else's code."""
        return _overridden(self, "get") or _overridden(self, "_token_count_for_messages")

    def _database(self, *names: str) -> StoreChatStore | None:
        """Return the chat store, if it is one on a database whose methods `names` are ours and not somebody else's."""
        store = self.chat_store
        if not isinstance(store, StoreChatStore):
            return None
        replaced = store.__dict__.keys() & names
        is_ours = all(getattr(type(store), name) is getattr(StoreChatStore, name) for name in names)
        return store if is_ours and not replaced else None

    def _adds_at_once(self, *names: str) -> RingChatStore | StoreChatStore | None:
        """Return the chat store, if it takes many messages at once and its methods `names` are ours."""
        store = self.chat_store
        if type(store) is RingChatStore:
            return None if store.__dict__.keys() & names else store
        return self._database(*names)

    def _window_store(self) -> StoreChatStore | None:
        """Return the chat store, if it answers with windows.

        Raises:
            CounterMismatchError: if it does, by another counter.
        """
        store = self._database("get_messages")
        if store is None or _overridden(self, "get_all"):
            return None
        store._check_counter(_counter_in(self.__dict__))
        return store

    @contextlib.contextmanager
    def _read_history(self) -> Iterator[MessageRing[ChatMessage]]:
        """Lend a ring of the history, with the counts of the messages whose texts are still where they were."""
        if self._has_ring():
            yield self.chat_store.ring(self.chat_store_key) or MessageRing(counter="cl100k_base", measure="text")  # type: ignore[attr-defined]
            return
        # Taken out while in use: another thread's call may be about another history.
        ring: MessageRing[ChatMessage] = self.__dict__.pop("_seen", None) or MessageRing(
            counter="cl100k_base", measure="text"
        )
        ring.set(self.get_all())
        yield ring
        self.__dict__["_seen"] = ring


# Entries in the `__dict__` of a memory, and of a `RingChatStore`, of which no method was replaced in the instance.
_OWN = len(ChatMemoryBuffer.model_fields) + len(["_counter"])
_STORES_OWN = len(RingChatStore().__dict__)


def _ring_window(
    fields: dict[str, Any], stored: dict[str, Any], initial_token_count: float, most: int | None = None
) -> list[ChatMessage] | None:
    """Return the window of a memory over a `RingChatStore`, from the memory's fields; None if `most` is exceeded.

    The short way: a model's attributes take 50 ns each, and methods are attributes, and nothing can be overridden.
    """
    tokens = _tokens_left(fields["token_limit"], initial_token_count)
    key = fields["chat_store_key"]
    # What `ring` does, without the call.
    ring = stored["_rings"].get(key) if stored["max_sessions"] is None else fields["chat_store"].ring(key)
    return [] if ring is None else ring._window(tokens, _counter_in(fields), most)


def _counter_in(fields: dict[str, Any]) -> TokenCounter:
    """Return the counter of a memory's tokenizer, from the memory's fields and into them."""
    tokenizer = fields["tokenizer_fn"]
    known: tuple[Any, TokenCounter] | None = fields["_counter"]
    if known is None or known[0] is not tokenizer:
        if not (callable(tokenizer) or isinstance(tokenizer, tiktoken.Encoding)):
            raise TypeError(f"'{type(tokenizer).__name__}' object is not callable")  # in the interpreter's words
        known = fields["_counter"] = (tokenizer, counter_of(tokenizer))
    return known[1]


def _tokens_left(token_limit: float, initial_token_count: float) -> int:
    """Return the tokens that a window may have; a fraction of one is none.

    Raises:
        ValueError: if `initial_token_count` exceeds the token limit.
    """
    if initial_token_count > token_limit:
        # Word for word LlamaIndex's, which programs compare; so the numbers are attributes.
        error: Any = ValueError("Initial token count exceeds token limit")
        error.initial_token_count, error.token_limit = initial_token_count, token_limit
        raise error
    allowance = token_limit - initial_token_count
    if allowance < _NO_LIMIT:
        return allowance if type(allowance) is int else math.floor(allowance)  # which takes twice as long
    return _NO_LIMIT  # NaN is no limit either


def _overridden(memory: ChatMemoryBuffer, name: str) -> bool:
    """Whether the memory, or a subclass of ours, has a method of its own in the place of `name`."""
    cls = type(memory)
    return name in memory.__dict__ or (
        cls is not ChatMemoryBuffer and getattr(cls, name) is not getattr(ChatMemoryBuffer, name)
    )


def _pickled_by_name(tokenizer: Any) -> bool:
    """Whether pickling `tokenizer` writes a name to find it by, and not what it consists of."""
    if encoding_of(tokenizer) is not None:
        return True
    if not isinstance(tokenizer, (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, type)):
        return False
    if not isinstance(getattr(tokenizer, "__self__", None), (types.ModuleType, type(None))):
        return False
    try:
        pickle.dumps(tokenizer)
    except (pickle.PicklingError, AttributeError):  # a lambda, or a function within a function
        return False
    return True


def _load_store(data: dict[str, Any]) -> BaseChatStore:
    """Return the store that `data` describes; a `SimpleChatStore` as the `RingChatStore` that takes its place."""
    if data.get("class_name") == SimpleChatStore.class_name():
        return RingChatStore.from_dict(data)
    return load_chat_store(data)
