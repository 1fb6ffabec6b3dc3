"""`SQLChatStore` and `RedisChatStore`: LlamaIndex's chat store on stores that outlive the process."""

from __future__ import annotations

import pkgutil
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.parse import quote

from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES
from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from typing_extensions import Self

from chatring._core import TokenCounter
from chatring.llama_index.message_format import MessageFormat
from chatring.llama_index.tokenizer import counter_of
from chatring.llama_index.window_store import Budget, Policy, WindowStore
from chatring.overriding import override
from chatring.stores.errors import CounterMismatchError
from chatring.stores.store import Store
from chatring.window import Window

# The open stores of this process, by class and description. A loaded store is found here with its password, its counter
# and its connections, none of which are saved.
_OPEN: weakref.WeakValueDictionary[tuple[Any, ...], Store[ChatMessage]] = weakref.WeakValueDictionary()

# Replaces what is not saved.
_SECRET = "***"


class StoreChatStore(WindowStore):
    """A chat store on a `chatring.stores.Store`. A window is read without the rest.

    Messages are written when they are added, and made again whenever they are read: editing one changes nothing in the
    store. Safe to use from many threads and processes. Copies and pickles use the same database.

    No async method calls its sync version: a subclass that overrides one of them must override the other too.

    Attributes:
        store: the store itself, for `recount`, `close`, `length` and whatever else LlamaIndex does not have.
    """

    url: str
    counter_name: str
    options: dict[str, Any] = Field(default_factory=dict)

    # Beside the fields in `__dict__`, as with functools.cached_property, because pydantic's private attributes take
    # half a microsecond to read.
    if TYPE_CHECKING:
        store: Store[ChatMessage]

    # The class of the store, whose driver may not be installed, and the extra with the driver.
    _opens: ClassVar[str]
    _extra: ClassVar[str]
    _fixed = ("url", "counter_name", "options")

    def __init__(
        self, url: str, *, counter: Any = "cl100k_base", counter_name: str | None = None, **options: Any
    ) -> None:
        counter = counter_of(counter)
        given = {"format": MessageFormat(), "counter": counter, "counter_name": counter_name, "measure": "text"}
        try:
            store: Store[ChatMessage] = pkgutil.resolve_name(self._opens)(url, **{**given, **options})
        except ModuleNotFoundError as error:
            driver = (error.name or "").partition(".")[0]
            raise ModuleNotFoundError(
                f"{type(self).__name__} needs {driver}: pip install 'chatring[{self._extra}]'",
                name=error.name,
            ) from error
        saved = {
            name: value if isinstance(value, (str, int, float, type(None))) and name != "password" else _SECRET
            for name, value in options.items()
            if value is not None or name == "start_on"
        }
        self._fill(store, url=store.url, counter_name=counter_name or counter.name, options=saved)

    @override
    def _refuse(self, name: str, value: object) -> NoReturn:
        raise ValueError(f"{name} of a {type(self).__name__} is fixed when it is opened: open another")

    def _fill(self, store: Store[ChatMessage], **fields: Any) -> None:
        super().__init__(**fields)
        self.__dict__["store"] = store
        _OPEN[_key(type(self), fields)] = store

    def window(self, key: str, budget: Budget | int, policy: Policy | None = None) -> Window[ChatMessage]:
        """Return the last messages that fit, oldest first. Nothing else is read.

        Args:
            key: the session.
            budget: the limits of the window; a number is tokens, with the store's own rule.
            policy: the policy that must have counted the session; None is the store's own.

        Raises:
            ValueError: if the budget leaves no room for a window.
            CounterMismatchError: if `policy` is not the store's, or another one counted the session.
            ForeignDataError: if what is stored is not a `ChatMessage`.
            StoreError: if the store fails.
        """
        return self._by(policy).window(key, **_limits(budget))

    def token_count(self, key: str, policy: Policy | None = None) -> int:
        """Return the tokens of a session, counted like a window; 0 if there is none. See `window` for `policy`."""
        return self._by(policy).token_count(key)

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace all messages of a session: all or none."""
        self.store.replace(key, messages)

    def get_messages(self, key: str) -> list[ChatMessage]:
        """Return all messages of a session; empty if there is no such session."""
        return self.store.all(key)

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Add a message to a session: at its end, or before index `idx` as `list.insert` does.

        With `idx` the whole session is written again, and what another writer adds meanwhile is lost.

        Raises:
            TypeError: if it is not a `ChatMessage`.
            ValueError: if something in it has no JSON form, or it could not be read back; nothing is stored.
        """
        if idx is None:
            self.add_messages(key, [message])
        else:
            messages = self.store.all(key)
            messages.insert(idx, message)
            self.store.replace(key, messages)

    def add_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Add messages to the end of a session, in one step: all of them or none.

        Raises the same as `add_message`.
        """
        self.store.append(key, messages)

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Remove a session. Return its messages as they were just before; None if there is no such session."""
        messages = self.get_messages(key)
        return messages if self.store.delete(key) else None

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Remove a message and return it; None if there are not that many messages.

        Raises:
            IndexError: for a negative index before the first message.
            ForeignDataError: if it is not a `ChatMessage`; it is still removed.
        """
        try:
            return self.store.pop(key, idx)
        except IndexError:
            if idx >= 0 or not self.store.exists(key):
                return None
            raise

    def get_keys(self) -> list[str]:
        """Return the keys of all sessions, in the order of their UTF-8."""
        return self.store.keys()

    def forget(self, key: str) -> None:
        """Remove a session without reading it."""
        self.store.delete(key)

    @override
    async def awindow(self, key: str, budget: Budget | int, policy: Policy | None = None) -> Window[ChatMessage]:
        return await self._by(policy).awindow(key, **_limits(budget))

    async def atoken_count(self, key: str, policy: Policy | None = None) -> int:
        """Async version of `token_count`."""
        return await self._by(policy).atoken_count(key)

    @override
    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        await self.store.areplace(key, messages)

    @override
    async def aget_messages(self, key: str) -> list[ChatMessage]:
        return await self.store.aall(key)

    @override
    async def async_add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        if idx is None:
            await self.async_add_messages(key, [message])
        else:
            messages = await self.store.aall(key)
            messages.insert(idx, message)
            await self.store.areplace(key, messages)

    @override
    async def async_add_messages(self, key: str, messages: list[ChatMessage]) -> None:
        await self.store.aappend(key, messages)

    @override
    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        messages = await self.aget_messages(key)
        return messages if await self.store.adelete(key) else None

    @override
    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        try:
            return await self.store.apop(key, idx)
        except IndexError:
            if idx >= 0 or not await self.store.aexists(key):
                return None
            raise

    @override
    async def aget_keys(self) -> list[str]:
        return await self.store.akeys()

    @override
    async def aforget(self, key: str) -> None:
        await self.store.adelete(key)

    def _by(self, policy: Policy | None) -> Store[ChatMessage]:
        """Return the store.

        Raises:
            CounterMismatchError: if it counts by another policy.
        """
        if policy is None:
            return self.store
        store, name = self.store, type(self).__name__
        if policy.counter != store.counter:
            raise CounterMismatchError(
                f"the memory counts with {policy.counter!r}, its chat store with {store.counter!r}: give both the "
                f"same, as {name}(..., counter=tokenizer) and ChatMemoryBuffer(..., tokenizer_fn=tokenizer)"
            )
        if (policy.measure, policy.start_on) != (store.measure, store.start_on):
            asked = f"measure={policy.measure!r}, start_on={policy.start_on!r}"
            raise CounterMismatchError(
                f"the memory has {asked}, its chat store measure={store.measure!r}, start_on={store.start_on!r}: give "
                f"both the same, as {name}(..., {asked}) and ChatMemoryBuffer(..., {asked})"
            )
        return self.store

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return the chat store that `to_dict` described, on the same database. The argument is not changed.

        A password, a counter of your own and options that are objects are not saved. They are known as long as a chat
        store with the same description is open in this process; otherwise give them again.

        Args:
            data: what `to_dict` returned.
            **kwargs: `url`, `counter` and options that replace the saved ones.

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
            ValueError: if they are only in this object.
        """
        if self.store.is_in_memory:
            raise ValueError(f"{self.url} is in this process's memory and cannot be saved: use a file")
        fields = {name: value for name, value in handler(self).items() if name != "options" or value}
        return {**fields, "class_name": self.class_name()}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle where the messages are."""
        return self.model_dump()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open a chat store that was made without its constructor. Raises the same as `from_dict`."""
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
        self.__init__(options.pop("url"), counter_name=counter_name, **options)  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a chat store on the same database and connections."""
        return self.__copy__()


def _limits(budget: Budget | int) -> dict[str, Any]:
    return {"token_limit": budget} if isinstance(budget, int) else budget._asdict()


def _key(cls: type, fields: Mapping[str, Any]) -> tuple[Any, ...]:
    return cls, fields["url"], fields["counter_name"], frozenset(fields.get("options", {}).items())


class SQLChatStore(StoreChatStore):
    """A chat store in SQLite or PostgreSQL. One statement reads a window.

    Args:
        url: `sqlite:///chat.db` (a file; four slashes for an absolute path), `sqlite://` (in memory), or
            `postgresql://user:password@host/database`; see `chatring.stores.SQLStore`.
        counter: counts the texts: an encoding's name, or the memory's tokenizer.
        counter_name: identifies a counter that is not an encoding.
        **options: of `chatring.stores.SQLStore`: schema, pool_size, timeout, pool, async_pool, password; and `measure`
            and `start_on`, which must be the memory's. The default is LlamaIndex's, `measure="text"`.

    Raises:
        TypeError, ValueError: if the URL is not one of these, an option is unknown, or a counter needs a name.
        ModuleNotFoundError: for PostgreSQL, without the extra `postgresql`.
    """

    _opens = "chatring.stores.sql:SQLStore"
    _extra = "postgresql"

    def __init__(self, url: str, **options: Any) -> None:  # or type checkers take the fields for arguments
        super().__init__(url, **options)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised chat stores of this class carry."""
        return "chatring.SQLChatStore"

    @classmethod
    def from_uri(cls, uri: str, **kwargs: Any) -> Self:
        """Return the chat store at a URL: the constructor, by the name in LlamaIndex's `PostgresChatStore`."""
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
            **kwargs: see the class.
        """
        user, database = quote(user, safe=""), quote(database, safe="")
        secret = "" if password is None else f":{quote(password, safe='')}"
        return cls(f"postgresql://{user}{secret}@{host}:{port}/{database}", **kwargs)


class RedisChatStore(StoreChatStore):
    """A chat store in Redis or Valkey. One script on the server reads a window.

    Args:
        redis_url: `redis://user:password@host:6379/0`; see `chatring.stores.RedisStore`. Even with a `client` it must
            be the URL of the client's server, because a loaded chat store is found by it.
        counter: counts the texts: an encoding's name, or the memory's tokenizer.
        counter_name: identifies a counter that is not an encoding.
        **options: of `chatring.stores.RedisStore`: prefix, ttl, pool_size, timeout, client, async_client, password; and
            `measure` and `start_on`, which must be the memory's. The default is LlamaIndex's, `measure="text"`.

    Raises:
        TypeError, ValueError: if the URL is not one of these, an option is unknown, or a counter needs a name.
        ModuleNotFoundError: without the extra `redis`.
    """

    _opens = "chatring.stores.redis:RedisStore"
    _extra = "redis"

    def __init__(self, redis_url: str = "redis://localhost:6379", **options: Any) -> None:
        super().__init__(redis_url, **options)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that serialised chat stores of this class carry."""
        return "chatring.RedisChatStore"


RECOGNIZED_CHAT_STORES.update({cls.class_name(): cls for cls in (SQLChatStore, RedisChatStore)})  # type: ignore[misc]
