"""Sessions in lists of Redis or Valkey."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from chatring.migration.layouts.messages import chat_messages, json_messages, object_of
from chatring.migration.policy import StorePolicy
from chatring.migration.source import LANGCHAIN, LLAMA_INDEX, OF_LLAMA_INDEX, OPENAI_AGENTS, Source
from chatring.overriding import override

# Keys to look at in one round trip.
_AT_ONCE = 1000
# The prefix of `RedisStore`'s keys.
_OURS = b"chatring:{"


class Lists:
    """A server, and all lists on it, except those of our own stores."""

    def __init__(self, url: str) -> None:
        from chatring.stores.redis.server import RedisServer

        self._server = RedisServer(url)
        self.name = self._server.url

    def firsts(self) -> dict[bytes, bytes | None]:
        """Return the first item of each list, by key."""
        firsts: dict[bytes, bytes | None] = {}
        with self._client() as client:
            keys = (key for key in client.scan_iter(count=_AT_ONCE, _type="list") if not key.startswith(_OURS))
            for some in iter(lambda: list(itertools.islice(keys, _AT_ONCE)), []):
                pipeline = client.pipeline(transaction=False)
                for key in some:
                    pipeline.lindex(key, 0)
                firsts.update(zip(some, pipeline.execute(), strict=True))
        return firsts

    def items(self, key: str) -> list[bytes]:
        """Return all items of a list."""
        with self._client() as client:
            return client.lrange(key, 0, -1)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from redis.exceptions import RedisClusterException, RedisError

        from chatring.stores.redis.errors import store_error

        try:
            with self._server.client() as client:
                yield client
        except (RedisError, RedisClusterException, OSError) as error:
            raise store_error(error, self.name, may_have_changed=False) from error


class ListSource(Source, ABC):
    """The lists that are sessions of one layout, by their keys and first items. The others are somebody else's."""

    layout: str
    policy = StorePolicy()

    def __init__(self, lists: Lists, firsts: dict[bytes, bytes | None]) -> None:
        self.name = lists.name
        self._lists = lists
        self._lists_by_key: dict[str, str] = {}
        self._left_out: list[str] = []
        for key, first in firsts.items():
            name = key.decode("utf-8", "backslashreplace")
            value = object_of(first)
            session = None if value is None or name.encode() != key else self._session(name, value)
            if session is None:
                self._left_out.append(name)
            else:
                self._lists_by_key[session] = name

    @override
    def keys(self) -> list[str]:
        return sorted(self._lists_by_key)

    @override
    def messages(self, key: str) -> list[Any]:
        return self._read(self._lists.items(self._lists_by_key[key]))

    @override
    def left_out(self) -> list[str]:
        return sorted(self._left_out)

    @override
    def close(self) -> None:
        self._lists.close()

    @staticmethod
    @abstractmethod
    def _session(name: str, first: dict[str, Any]) -> str | None:
        """Return the key of the session in a list; None if it is not a session."""

    def _read(self, items: list[bytes]) -> list[Any]:
        return json_messages(items)


class LlamaIndexLists(ListSource):
    """`RedisChatStore` of LlamaIndex (0.8.0): a list under the session's key."""

    layout = LLAMA_INDEX
    policy = OF_LLAMA_INDEX

    @staticmethod
    def _session(name: str, first: dict[str, Any]) -> str | None:
        return name if "role" in first and OpenAIAgentsLists._session(name, first) is None else None

    def _read(self, items: list[bytes]) -> list[Any]:
        return chat_messages(items)


class LangChainLists(ListSource):
    """`RedisChatMessageHistory` of LangChain: the newest message first, under `message_store:<session>`."""

    layout = LANGCHAIN

    @staticmethod
    def _session(name: str, first: dict[str, Any]) -> str | None:
        is_message = isinstance(first.get("type"), str) and isinstance(first.get("data"), dict)
        return name.removeprefix("message_store:") if is_message else None

    def _read(self, items: list[bytes]) -> list[Any]:
        return json_messages(items[::-1])


class OpenAIAgentsLists(ListSource):
    """`RedisSession` of OpenAI Agents (0.24): items of Responses, under `agents:session:<session>:messages`."""

    layout = OPENAI_AGENTS

    @staticmethod
    def _session(name: str, first: dict[str, Any]) -> str | None:
        key = name.removeprefix("agents:session:").removesuffix(":messages")
        return key if len(name) - len(key) == len("agents:session::messages") else None


_KINDS: tuple[type[ListSource], ...] = (LlamaIndexLists, LangChainLists, OpenAIAgentsLists)


def find_lists(url: str, layouts: Iterable[str]) -> list[ListSource]:
    """Return the source for each of these layouts that a server has.

    Raises:
        StoreError: if the server fails.
    """
    lists = Lists(url)
    firsts = lists.firsts()
    sources = [kind(lists, firsts) for kind in _KINDS if kind.layout in layouts]
    return [source for source in sources if source.keys()]
