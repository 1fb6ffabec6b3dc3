"""`ChatMemoryBuffer`: LlamaIndex's class, whose windows come from rings."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any, Literal, TypeVar

import tiktoken
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexChatMemoryBuffer
from llama_index.core.memory.chat_memory_buffer import DEFAULT_TOKEN_LIMIT, DEFAULT_TOKEN_LIMIT_RATIO
from llama_index.core.memory.types import DEFAULT_CHAT_STORE_KEY
from llama_index.core.storage.chat_store import BaseChatStore, SimpleChatStore
from llama_index.core.storage.chat_store.loading import load_chat_store
from llama_index.core.utils import get_tokenizer
from pydantic import (
    Field,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from chatring._core import MessageRing, TokenCounter
from chatring.llama_index.message_format import checked
from chatring.llama_index.options import LLAMA_INDEX, options_of, written
from chatring.llama_index.ring_chat_store import MOST_ON_LOOP, RingChatStore
from chatring.llama_index.sessions import Sessions
from chatring.llama_index.tokenizer import counter_of, fields_to_pickle, function_of
from chatring.llama_index.window_store import Budget, Policy, WindowStore, replaces
from chatring.overriding import override

_T = TypeVar("_T")

# No tokenizer has been used yet.
_NOT_YET = (object(), None)

# More tokens than any history has.
_NO_LIMIT = sys.maxsize - 1


class ChatMemoryBuffer(LlamaIndexChatMemoryBuffer):
    """LlamaIndex's `ChatMemoryBuffer`, with the same windows in logarithmic instead of quadratic time.

    It is a subclass of LlamaIndex's own. It takes, returns and raises the same, except for what `docs/llama-index.md`
    lists.

    Args:
        token_limit: the most tokens that a window may have; at least 1.
        tokenizer_fn: from a text to its tokens. The default is LlamaIndex's global tokenizer. The encodings of tiktoken
            are counted in Rust.
        chat_store: holds the messages. The default is a new `RingChatStore`. Any other chat store works too. From a
            `SQLChatStore` or `RedisChatStore` only windows are read; its `counter` must be the same tokenizer.
        chat_store_key: the session's key in the store.
        measure: what a message's tokens are. `"text"` is LlamaIndex's rule: its text, joined with the others.
            `"message"` counts all that is sent, with calls and results. The options that follow need `"message"`.
        start_on: what a window may begin with behind the leading system messages. `"user"`, the default with
            `measure="message"`: a user message, or an agent's step with its question in front, which every provider
            accepts. None, the default otherwise: LlamaIndex's rule.
        include_system: whether the leading system messages are in every window. The default is True with
            `measure="message"`.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit that is kept. Below 1,
            windows keep their beginning for several calls, so it is in the provider's prompt cache.

    The last four are in the serialised form only if they are not LlamaIndex's. Each may be assigned later, and is then
    checked with the others.

    Raises:
        ValueError: if token_limit is missing or below 1, or an option needs `measure="message"`.
        TypeError: if an option has a wrong type.
    """

    chat_store: SerializeAsAny[BaseChatStore] = Field(default_factory=RingChatStore)
    measure: Literal["text", "message"] = "text"
    start_on: Literal["user"] | None = None
    include_system: bool = False
    retention_ratio: float = 1.0

    # Beside the fields in `__dict__`, as with functools.cached_property, because pydantic's private attributes take
    # half a microsecond to read: `_counter`, the callable that was last `tokenizer_fn` and its counter; `_seen`, a ring
    # of the messages last seen in a foreign store.

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self.__dict__["_counter"] = _NOT_YET

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Return a memory with these fields without checking them, as pydantic does."""
        constructed = super().model_construct(_fields_set, **values)
        constructed.__dict__["_counter"] = _NOT_YET
        return constructed

    @model_validator(mode="before")
    @classmethod
    def validate_memory(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Check the limit and the options, and find the tokenizer and the chat store. The argument is not changed."""
        given = {name: value for name, value in values.items() if value is not None or name == "start_on"}
        if cls is not ChatMemoryBuffer:  # a subclass's defaults count as given
            defaults = {name: cls.model_fields[name].default for name in LLAMA_INDEX}
            given = {name: value for name, value in defaults.items() if value != LLAMA_INDEX[name]} | given
        values = {**values, **options_of(given), "tokenizer_fn": function_of(values.get("tokenizer_fn"))}
        if isinstance(values.get("chat_store"), dict):
            values["chat_store"] = _load_store(values["chat_store"])
        return LlamaIndexChatMemoryBuffer.validate_memory.__func__(cls, values)  # type: ignore[no-any-return]

    @classmethod
    def from_defaults(
        cls,
        chat_history: list[ChatMessage] | None = None,
        llm: LLM | None = None,
        chat_store: BaseChatStore | None = None,
        chat_store_key: str = DEFAULT_CHAT_STORE_KEY,
        token_limit: int | None = None,
        tokenizer_fn: Any = None,
        measure: Literal["text", "message"] | None = None,
        start_on: Literal["user"] | EllipsisType | None = ...,
        include_system: bool | None = None,
        retention_ratio: float | None = None,
        **kwargs: Any,
    ) -> ChatMemoryBuffer:
        """Return a memory.

        Args:
            chat_history: messages to begin with, instead of those in the store; the list is copied.
            llm: if no token limit is given, it is 75 % of this model's context window.
            chat_store: see the class.
            chat_store_key: see the class.
            token_limit: see the class. The default is 3,000 if there is no `llm` either.
            tokenizer_fn: see the class.
            measure: see the class.
            start_on: see the class.
            include_system: see the class.
            retention_ratio: see the class.
            **kwargs: none are accepted.

        Raises:
            ValueError: for other arguments; also see the class.
            TypeError: see the class.
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
            measure=measure,
            start_on=start_on,
            include_system=include_system,
            retention_ratio=retention_ratio,
        )
        if chat_history is not None:
            memory.chat_store.set_messages(chat_store_key, list(checked(chat_history)))
        return memory

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> ChatMemoryBuffer:
        """Return the memory that `to_dict` of this class or LlamaIndex's described. The argument is not changed.

        Raises:
            ValueError: if it names a chat store that cannot be loaded from a dict.
        """
        data = dict(data)
        if "chat_history" in data:  # the form of early versions of LlamaIndex
            history = {DEFAULT_CHAT_STORE_KEY: data.pop("chat_history")}
            data["chat_store"] = RingChatStore(store=history)
        elif isinstance(data.get("chat_store"), dict):
            data["chat_store"] = _load_store(data["chat_store"])
        return cls(**data)

    @field_serializer("chat_store")
    def serialize_courses_in_order(  # type: ignore[override]
        self, chat_store: BaseChatStore, info: SerializationInfo
    ) -> dict[str, Any]:
        """Describe the store; a `RingChatStore` without bounds as the `SimpleChatStore` it replaces."""
        if type(chat_store) is SimpleChatStore:
            # LlamaIndex's own method fails on pydantic 2.14 and newer.
            chat_store = RingChatStore(store=chat_store.store)
        data: dict[str, Any] = chat_store.model_dump(mode=info.mode)
        is_simple = isinstance(chat_store, RingChatStore) and data.keys() == {"store", "class_name"}
        data["class_name"] = (SimpleChatStore if is_simple else chat_store).class_name()
        return data

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Describe the memory as LlamaIndex does, with the options that are not LlamaIndex's."""
        data: dict[str, Any] = handler(self)
        kept = written({name: data.pop(name) for name in LLAMA_INDEX if name in data})
        return {**data, **kept, "class_name": self.class_name()}

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field. An option is checked with the others. Raises the same as the class."""
        if name in LLAMA_INDEX:
            value = options_of({**self.__dict__, name: value})[name]
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, as pydantic does, with its options checked. Raises the same as the class."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.update(options_of(copied.__dict__))
        return copied

    def get(self, input: str | None = None, initial_token_count: int = 0, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        """Return the last messages that fit the token limit: a new list of the messages themselves, oldest first.

        Args:
            input: not used, as in LlamaIndex.
            initial_token_count: tokens spent before the window.
            **kwargs: not used, as in LlamaIndex.

        Raises:
            ValueError: if `initial_token_count` exceeds the token limit; its attributes `initial_token_count` and
                `token_limit` have the numbers. With `measure="message"` also if it does so together with the leading
                system messages, with `MessageRing`'s message. A `CounterMismatchError` if the chat store is a
                `SQLChatStore` or `RedisChatStore` with another counter than the memory's tokenizer, another `measure`
                or another `start_on`.
            TypeError: if a `tokenizer_fn` that was assigned later cannot be called.
            StoreError: if such a store fails.
            Exception: whatever the tokenizer raises, unchanged.
        """
        if (window := _plain_window(self, initial_token_count)) is not None:
            return window
        # The long way gives the same window, whatever the store is and whichever methods are replaced.
        if replaces(self, "_token_count_for_messages"):
            return super().get(input, initial_token_count, **kwargs)
        budget, policy = self._budget(initial_token_count), self._policy()
        return self._answer(lambda store: store.window(self.chat_store_key, budget, policy))

    def token_count(self) -> int:
        """Return the tokens of the whole history, counted like a window; 0 if it is empty."""
        if replaces(self, "_token_count_for_messages"):
            return self._token_count_for_messages(self.get_all())
        return self._answer(lambda store: store.token_count(self.chat_store_key, self._policy()))

    def put(self, message: ChatMessage) -> None:
        """Add a message.

        Raises:
            TypeError: if it is not a `ChatMessage`.
        """
        checked([message])
        self.chat_store.add_message(self.chat_store_key, message)

    def put_message(self, message: ChatMessage) -> None:
        """Add a message: `put`, by the name in early documents of LlamaIndex."""
        self.put(message)

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages: all of them, or none if one is not a `ChatMessage`."""
        messages = checked(list(messages))
        store = self._own_store("add_message")
        if store is None or replaces(self, "put"):
            super().put_messages(messages)
        else:
            store.add_messages(self.chat_store_key, messages)

    def set(self, messages: list[ChatMessage]) -> None:
        """Replace all messages; the list is copied.

        Raises:
            TypeError: if it is not a list of `ChatMessage`.
        """
        self.chat_store.set_messages(self.chat_store_key, list(checked(messages)))

    def get_all(self) -> list[ChatMessage]:
        """Return a new list of all messages."""
        return list(self.chat_store.get_messages(self.chat_store_key))

    def reset(self) -> None:
        """Remove all messages."""
        if (store := self._own_store("delete_messages")) is not None:
            store.forget(self.chat_store_key)
        else:
            super().reset()

    # Our own stores never block the event loop, so nothing here moves to a thread without need.

    @override
    async def aget(self, input: str | None = None, initial_token_count: int = 0, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        # What would take the event loop longer than a millisecond to count is counted in a thread.
        if (window := _plain_window(self, initial_token_count, MOST_ON_LOOP)) is not None:
            return window
        store = self._own_store("get_messages")
        if store is None or replaces(self, "get", "get_all", "_token_count_for_messages"):
            return await super().aget(input, initial_token_count, **kwargs)  # in a thread
        return await store.awindow(self.chat_store_key, self._budget(initial_token_count), self._policy())

    @override
    async def aput(self, message: ChatMessage) -> None:
        checked([message])
        await self.chat_store.async_add_message(self.chat_store_key, message)

    @override
    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        store = self._own_store("add_message", "async_add_message")
        if store is None or replaces(self, "put", "put_messages"):
            await super().aput_messages(messages)
        else:
            await store.async_add_messages(self.chat_store_key, checked(list(messages)))

    @override
    async def aset(self, messages: list[ChatMessage]) -> None:
        await self.chat_store.aset_messages(self.chat_store_key, list(checked(messages)))

    @override
    async def aget_all(self) -> list[ChatMessage]:
        return list(await self.chat_store.aget_messages(self.chat_store_key))

    @override
    async def areset(self) -> None:
        if (store := self._own_store("delete_messages", "adelete_messages")) is not None:
            await store.aforget(self.chat_store_key)
        else:
            await super().areset()

    def __copy__(self) -> ChatMemoryBuffer:
        """Return a memory over the same store."""
        copied = super().__copy__()
        copied.__dict__.pop("_seen", None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ChatMemoryBuffer:
        """Return a memory with a store of its own, unless the store is in a database.

        Tokenizers are never copied, and neither are the messages in our own stores.
        """
        memo = {} if memo is None else memo
        memo[id(self.tokenizer_fn)] = self.tokenizer_fn
        copied: ChatMemoryBuffer = super(ChatMemoryBuffer, self.__copy__()).__deepcopy__(memo)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the fields, without counts. A tokenizer is pickled by its name, and left out if it has none."""
        return {"__dict__": fields_to_pickle(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill a memory made without its constructor. LlamaIndex's global tokenizer replaces one that was left out."""
        self.__init__(**state["__dict__"])  # type: ignore[misc]

    def _own_store(self, *names: str) -> WindowStore | None:
        """Return the chat store, if it is a `WindowStore` on which nobody has replaced the methods with these names."""
        store = self.chat_store
        return store if isinstance(store, WindowStore) and not replaces(store, *names) else None

    def _answer(self, ask: Callable[[WindowStore], _T]) -> _T:
        """Return what `ask` returns for the chat store, or for one with the messages that `get_all` returns.

        The latter is kept, with the counts of messages whose texts are still at the same positions.
        """
        store = self._own_store("get_messages")
        if store is not None and not replaces(self, "get_all"):
            return ask(store)
        # Removed while in use: another thread's call may be about another history.
        seen: RingChatStore = self.__dict__.pop("_seen", None) or RingChatStore(max_sessions=1)
        with seen._sessions.changing() as change:
            change.open(self.chat_store_key).set(self.get_all())
        answer = ask(seen)
        self.__dict__["_seen"] = seen
        return answer

    def _policy(self) -> Policy:
        return Policy(_counter_in(self.__dict__), self.measure, self.start_on)

    def _budget(self, initial_token_count: float) -> Budget:
        if self.measure == "text":
            # An allowance may be 0 but a token limit may not, so both get one more.
            return Budget(_tokens_left(self.token_limit, initial_token_count) + 1, 1)
        return Budget(self.token_limit, initial_token_count or 0, self.include_system, self.retention_ratio)  # type: ignore[arg-type]


# Entries in the `__dict__` of a memory and of a `RingChatStore` on which no method was replaced in the instance.
_MEMORY_ENTRIES = len(ChatMemoryBuffer.model_fields) + len(["_counter"])
_STORE_ENTRIES = len(RingChatStore().__dict__)


def _plain_window(
    memory: ChatMemoryBuffer, initial_token_count: float, most: int | None = None
) -> list[ChatMessage] | None:
    """Return LlamaIndex's window for a memory and a `RingChatStore` without replaced methods: a shortcut.

    A model's attributes, including methods, take 50 ns each; a call takes as long. Returns None if the long way is
    needed: more must be known, or more than `most` characters counted.
    """
    fields = memory.__dict__
    store = fields["chat_store"]
    is_plain = type(memory) is ChatMemoryBuffer and len(fields) == _MEMORY_ENTRIES and type(store) is RingChatStore
    if not is_plain or len(stored := store.__dict__) != _STORE_ENTRIES or fields["measure"] != "text":
        return None
    sessions: Sessions[MessageRing[ChatMessage]] = stored["_sessions"]
    key = fields["chat_store_key"]
    ring = sessions.held.get(key) if sessions.max_sessions is None else sessions.get(key)
    if ring is None or ring.measure != "text":
        return None
    known, counter = fields["_counter"]
    if known is not fields["tokenizer_fn"]:
        counter = _counter_in(fields)
    tokens = fields["token_limit"] - initial_token_count
    if type(tokens) is not int or not 0 <= tokens < _NO_LIMIT:
        tokens = _tokens_left(fields["token_limit"], initial_token_count)
    return ring._window(tokens, counter, most)


def _counter_in(fields: dict[str, Any]) -> TokenCounter:
    """Return the counter of a memory's tokenizer, which is kept in the memory's fields."""
    tokenizer = fields["tokenizer_fn"]
    known, counter = fields["_counter"]
    if known is not tokenizer:
        can_count = callable(tokenizer) or isinstance(tokenizer, tiktoken.Encoding)
        # If it cannot be called, counting fails with the interpreter's own error.
        counter = counter_of(tokenizer if can_count else lambda text: tokenizer(text))
        fields["_counter"] = (tokenizer, counter)
    return counter  # type: ignore[no-any-return]


def _tokens_left(token_limit: float, initial_token_count: float) -> int:
    """Return the tokens that a window may have, rounded down.

    Raises:
        ValueError: if `initial_token_count` exceeds the token limit.
    """
    if initial_token_count > token_limit:
        # Word for word LlamaIndex's, because programs compare it. So the numbers are attributes.
        error: Any = ValueError("Initial token count exceeds token limit")
        error.initial_token_count, error.token_limit = initial_token_count, token_limit
        raise error
    allowance = token_limit - initial_token_count
    return math.floor(allowance) if allowance < _NO_LIMIT else _NO_LIMIT  # NaN is not a limit either


def _load_store(data: dict[str, Any]) -> BaseChatStore:
    """Return the store that `data` describes; for a `SimpleChatStore`, the `RingChatStore` that replaces it."""
    if data.get("class_name") == SimpleChatStore.class_name():
        return RingChatStore.from_dict(data)
    return load_chat_store(data)
