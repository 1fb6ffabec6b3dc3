"""`SQLChatStore` and `RedisChatStore`: LlamaIndex's chat store on stores that outlive the process."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.base import BaseChatStore
from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES
from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from typing_extensions import Self

from chatring._core import TokenCounter
from chatring.llama_index.message_format import MessageFormat
from chatring.llama_index.tokenizer import counter_of
from chatring.stores.errors import CounterMismatchError
from chatring.stores.store import Store
from chatring.window import Window

# The stores that are open here, by class and description. One that is loaded is found again with its password, its
# counter and its connections, none of which is saved.
_OPEN: weakref.WeakValueDictionary[tuple[Any, ...], Store[ChatMessage]] = weakref.WeakValueDictionary()

_FIXED = ("url", "counter_name", "options")

# Stands for what is not saved.
_SECRET = "***"


class StoreChatStore(BaseChatStore):
    """A chat store on a `chatring.stores.Store`, of which a window is read without the rest.

    Messages are written when they are added, and made anew whenever they are read: editing one changes nothing in the
    store. Safe to use from many threads and processes. Copies and pickles are of the same database.

    No async method calls its sync one: a subclass that overrides one of them overrides the other, too.
    """

    url: str
    counter_name: str
    options: dict[str, Any] = Field(default_factory=dict)

    # Beside the fields in `__dict__`, where functools.cached_property would put it too: pydantic's private attributes
    # take half a microsecond to read.
    if TYPE_CHECKING:
        _store: Store[ChatMessage]

    _extra: ClassVar[str]

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field, but not one that says what is open.

        Raises:
            ValueError: for `url`, `counter_name` and `options`.
        """
        if name in _FIXED:
            raise ValueError(f"{name} of a {type(self).__name__} is fixed when it is opened: open another")
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a chat store of the same database, on the same connections.

        Args:
            update: fields that differ in the copy; not `url`, `counter_name` and `options`.
            deep: makes no difference.

        Raises:
            ValueError: if it updates one of these.
        """
        for name in _FIXED:
            if update and update.get(name, getattr(self, name)) != getattr(self, name):
                raise ValueError(f"{name} of a {type(self).__name__} is fixed when it is opened: open another")
        return super().model_copy(update=update, deep=deep)

    def _open(self, url: str, counter: Any, counter_name: str | None, options: Mapping[str, Any]) -> None:
        counter = counter_of(counter)
        given = {"measure": "text", "format": MessageFormat(), "counter": counter, "counter_name": counter_name}
        try:
            store = self._store_class()(url, **given, **options)
        except ModuleNotFoundError as error:
            driver = (error.name or "").partition(".")[0]
            raise ModuleNotFoundError(
                f"{type(self).__name__} needs {driver}: pip install 'chatring[{self._extra}]'",
                name=error.name,
            ) from error
        saved = {
            name: value if isinstance(value, (str, int, float)) and name != "password" else _SECRET
            for name, value in options.items()
            if value is not None
        }
        self._fill(store, url=store.url, counter_name=counter_name or counter.name, options=saved)

    @classmethod
    @abstractmethod
    def _store_class(cls) -> Callable[..., Store[ChatMessage]]:
        """Return the class of the store, whose driver may not be installed."""

    def _fill(self, store: Store[ChatMessage], **fields: Any) -> None:
        super().__init__(**fields)
        self.__dict__["_store"] = store
        _OPEN[_key(type(self), fields)] = store

    @property
    def store(self) -> Store[ChatMessage]:
        """The store itself: `recount`, `close`, `length` and what else is not LlamaIndex's."""
        return self._store

    def window(self, key: str, token_limit: int, initial_token_count: int = 0) -> Window[ChatMessage]:
        """Return the last messages that fit the token limit, oldest first; nothing else is read.

        Raises:
            ValueError: if `token_limit` is below 1 or `initial_token_count` exceeds it.
            CounterMismatchError: if the session was counted with another counter.
            ForeignDataError: if what is stored is not a `ChatMessage`.
            StoreError: if the store fails.
        """
        return self._store.window(key, token_limit, initial_token_count)

    def token_count(self, key: str) -> int:
        """Return the tokens of a session, as windows count them; 0 if there is none."""
        return self._store.token_count(key)

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace all messages of a session: all or no change."""
        self._store.replace(key, messages)

    def get_messages(self, key: str) -> list[ChatMessage]:
        """Return all messages of a session; empty if there is no such session."""
        return self._store.all(key)

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Add a message to a session: at its end, or before index `idx` as `list.insert` does.

        An `idx` writes the whole session anew, and what another writer adds meanwhile is lost.

        Raises:
            TypeError: if it is not a `ChatMessage`.
            ValueError: if something in it has no JSON form, or it could not be read back; nothing is stored.
        """
        if idx is None:
            self.add_messages(key, [message])
        else:
            messages = self._store.all(key)
            messages.insert(idx, message)
            self._store.replace(key, messages)

    def add_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Add messages to the end of a session, in one step: all of them or none.

        Raises: as `add_message`.
        """
        self._store.append(key, messages)

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove a session; return its messages as they were just before, None if there is no such session."""
        messages = self.get_messages(key)
        return messages if self._store.delete(key) else None

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove a message; return it, None if there is none so far from the start.

        Raises:
            IndexError: for a negative index before the first message.
            ForeignDataError: if it is not a `ChatMessage`; it is removed all the same.
        """
        try:
            return self._store.pop(key, idx)
        except IndexError:
            if idx >= 0 or not self._store.exists(key):
                return None
            raise

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Remove the newest message of a session; return it, None if there is no such session.

        Raises:
            IndexError: if the session has no message.
        """
        return self.delete_message(key, -1)

    def get_keys(self) -> list[str]:
        """Return the keys of all sessions, in the order of their UTF-8."""
        return self._store.keys()

    async def awindow(self, key: str, token_limit: int, initial_token_count: int = 0) -> Window[ChatMessage]:
        """As `window`."""
        return await self._store.awindow(key, token_limit, initial_token_count)

    async def atoken_count(self, key: str) -> int:
        """As `token_count`."""
        return await self._store.atoken_count(key)

    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """As `set_messages`."""
        await self._store.areplace(key, messages)

    async def aget_messages(self, key: str) -> list[ChatMessage]:
        """As `get_messages`."""
        return await self._store.aall(key)

    async def async_add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """As `add_message`."""
        if idx is None:
            await self.async_add_messages(key, [message])
        else:
            messages = await self._store.aall(key)
            messages.insert(idx, message)
            await self._store.areplace(key, messages)

    async def async_add_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """As `add_messages`."""
        await self._store.aappend(key, messages)

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """As `delete_messages`."""
        messages = await self.aget_messages(key)
        return messages if await self._store.adelete(key) else None

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """As `delete_message`."""
        try:
            return await self._store.apop(key, idx)
        except IndexError:
            if idx >= 0 or not await self._store.aexists(key):
                return None
            raise

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """As `delete_last_message`."""
        return await self.adelete_message(key, -1)

    async def aget_keys(self) -> list[str]:
        """As `get_keys`."""
        return await self._store.akeys()

    def _check_counter(self, counter: TokenCounter) -> None:
        """Refuse to answer for a memory that counts with another counter than this store.

        Raises:
            CounterMismatchError: if it does.
        """
        if counter != self._store.counter:
            raise CounterMismatchError(
                f"the memory counts with {counter!r}, its chat store with {self._store.counter!r}: give both the same, "
                f"as {type(self).__name__}(..., counter=tokenizer) and ChatMemoryBuffer(..., tokenizer_fn=tokenizer)"
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return the chat store that `to_dict` has described: of the same database. The argument is left alone.

        A password, a counter of your own and options that are objects are not saved. They are known as long as a chat
        store of the same description is open in this process; else give them again.

        Args:
            data: what `to_dict` returned.
            **kwargs: `url`, `counter` and options, in place of those that are saved.

        Raises:
            ValueError: if `data` is something else, or something that was not saved is missing.
        """
        chat_store = cls.__new__(cls)
        chat_store._reopen(data, kwargs)
        return chat_store

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Describe where the messages are.

        Raises:
            ValueError: if that is nowhere but in this object.
        """
        if self._store.is_in_memory:
            raise ValueError(f"{self.url} is in this process's memory and cannot be saved: use a file")
        fields = {name: value for name, value in handler(self).items() if name != "options" or value}
        return {**fields, "class_name": self.class_name()}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle where the messages are."""
        return self.model_dump()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open a chat store that was made without its constructor. Raises: as `from_dict`."""
        self._reopen(state, {})

    def _reopen(self, data: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        name = type(self).__name__
        fields = {field: value for field, value in data.items() if field != "class_name"}
        if fields.keys() - {"options"} != {"url", "counter_name"}:
            raise ValueError(
                f"a {name} is described by url and counter_name, and maybe options, not by {sorted(fields)}"
            )
        if not given and (store := _OPEN.get(_key(type(self), fields))) is not None:
            self._fill(store, **fields)
            return
        counter_name = fields["counter_name"]
        counter = counter_name if counter_name in TokenCounter.encodings() else _SECRET
        options = {"url": fields["url"], "counter": counter, **fields.get("options", {}), **given}
        for option, value in options.items():
            if value == _SECRET or (option == "url" and _SECRET in value):
                what = {"url": f"the password of {value}", "counter": f"the counter {counter_name!r}"}.get(
                    option, option
                )
                raise ValueError(
                    f"{what} was not saved: open a {name} with it first, or call {name}.from_dict(data, {option}=...)"
                )
        self._open(options.pop("url"), options.pop("counter"), counter_name, options)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a chat store of the same database, on the same connections."""
        return self.__copy__()


def _key(cls: type, fields: Mapping[str, Any]) -> tuple[Any, ...]:
    return cls, fields["url"], fields["counter_name"], frozenset(fields.get("options", {}).items())


class SQLChatStore(StoreChatStore):
    """A chat store in SQLite or PostgreSQL, of which a window is one statement.

    Args:
        url: `sqlite:///chat.db` (a file; four slashes for an absolute path), `sqlite://` (in memory), or
            `postgresql://user:password@host/database`, as in `chatring.stores.SQLStore`.
        counter: counts the texts: an encoding's name, or the tokenizer that the memory has.
        counter_name: what a counter that is no encoding is known by in the database.
        **options: of `chatring.stores.SQLStore`: schema, pool_size, timeout, pool, async_pool, password.

    Raises:
        TypeError, ValueError: if the URL is not one of these, there is no such option, or a counter needs a name.
        ModuleNotFoundError: for PostgreSQL, without the extra `postgresql`.
    """

    _extra = "postgresql"

    def __init__(
        self, url: str, *, counter: Any = "cl100k_base", counter_name: str | None = None, **options: Any
    ) -> None:
        self._open(url, counter, counter_name, options)

    @classmethod
    def _store_class(cls) -> Callable[..., Store[ChatMessage]]:
        from chatring.stores.sql import SQLStore

        return SQLStore

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised chat stores of this class carry."""
        return "chatring.SQLChatStore"

    @classmethod
    def from_uri(cls, uri: str, **kwargs: Any) -> Self:
        """Return the chat store at a URL: the constructor, by the name that LlamaIndex's `PostgresChatStore` has it."""
        return cls(uri, **kwargs)

    @classmethod
    def from_params(
        cls, *, host: str, database: str, user: str, password: str | None = None, port: int | str = 5432, **kwargs: Any
    ) -> Self:
        """Return the chat store in a PostgreSQL database.

        Args:
            host: the server.
            database: the database in it.
            user: who connects.
            password: may have any character; None if the server needs none, or libpq finds it elsewhere.
            port: the server's port.
            **kwargs: as in the class.
        """
        user, database = quote(user, safe=""), quote(database, safe="")
        secret = "" if password is None else f":{quote(password, safe='')}"
        return cls(f"postgresql://{user}{secret}@{host}:{port}/{database}", **kwargs)


class RedisChatStore(StoreChatStore):
    """A chat store in Redis or Valkey, of which a window is one script on the server.

    Args:
        redis_url: `redis://user:password@host:6379/0`, as in `chatring.stores.RedisStore`. With a `client` it must
            be that of its server all the same: a chat store that is loaded is found by it.
        counter: counts the texts: an encoding's name, or the tokenizer that the memory has.
        counter_name: what a counter that is no encoding is known by on the server.
        **options: of `chatring.stores.RedisStore`: prefix, ttl, pool_size, timeout, client, async_client, password.

    Raises:
        TypeError, ValueError: if the URL is not one of these, there is no such option, or a counter needs a name.
        ModuleNotFoundError: without the extra `redis`.
    """

    _extra = "redis"

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379",
        *,
        counter: Any = "cl100k_base",
        counter_name: str | None = None,
        **options: Any,
    ) -> None:
        self._open(redis_url, counter, counter_name, options)

    @classmethod
    def _store_class(cls) -> Callable[..., Store[ChatMessage]]:
        from chatring.stores.redis import RedisStore

        return RedisStore

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised chat stores of this class carry."""
        return "chatring.RedisChatStore"


RECOGNIZED_CHAT_STORES.update({cls.class_name(): cls for cls in (SQLChatStore, RedisChatStore)})  # type: ignore[misc]
