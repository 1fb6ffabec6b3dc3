"""Sessions in files: those that LlamaIndex persists, and conversations that `chatring window` reads."""

from __future__ import annotations

import json
import os
from typing import Any

from chatring._core import MessageRing
from chatring.migration.layouts.messages import chat_messages
from chatring.migration.policy import StorePolicy
from chatring.migration.source import CONVERSATIONS, LLAMA_INDEX, OF_LLAMA_INDEX, Source, SourceError
from chatring.overriding import override
from chatring.recordings.conversation import ConversationError, read_conversations
from chatring.recordings.json_file import read_values
from chatring.stores.redaction import without_secrets

# Keys that may hold a conversation's own name.
_IDS = ("id", "session_id", "sessionId", "conversation_id", "thread_id", "chat_id", "custom_id", "uuid")
# LlamaIndex's name for a session that nobody has named.
_UNNAMED = "chat_history"


class LlamaIndexFile(Source):
    """A file of LlamaIndex, as `sessions`: by key, the JSON values of messages."""

    layout = LLAMA_INDEX
    policy = OF_LLAMA_INDEX

    def __init__(self, path: str, sessions: dict[str, list[Any]]) -> None:
        self.name = path
        self._sessions = sessions

    @override
    def keys(self) -> list[str]:
        return list(self._sessions)

    @override
    def messages(self, key: str) -> list[Any]:
        return chat_messages(map(json.dumps, self._sessions[key]))

    @override
    def left_out(self) -> list[str]:
        return []

    @override
    def close(self) -> None:
        pass  # nothing is open


class ConversationFile(Source):
    """A file of JSON that `chatring window` reads.

    A conversation's key is its own `id`, if all have one, or its number, counted from 1. If there is only one, its key
    is the file's name without its endings.

    Raises:
        SourceError: if its contents cannot be read.
        OSError: if the file cannot be read.
    """

    layout = CONVERSATIONS
    policy = StorePolicy()

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            with open(path, "rb") as stream:
                reading = read_conversations(stream, MessageRing)
        except ConversationError as error:
            raise SourceError(f"{without_secrets(path)}: {error}") from error
        count = len(reading.conversations)
        keys = [_stem(path)] if count == 1 else _ids(path, count) or [str(n) for n in range(1, count + 1)]
        self._conversations = dict(zip(keys, reading.conversations, strict=True))
        self._left_out = [f"{name} ({count:,})" for name, count in reading.left_out.items()]

    @override
    def keys(self) -> list[str]:
        return list(self._conversations)

    @override
    def messages(self, key: str) -> list[Any]:
        return list(self._conversations[key])

    @override
    def left_out(self) -> list[str]:
        return self._left_out

    @override
    def close(self) -> None:
        pass  # nothing is open


def open_llama_index_file(path: str) -> LlamaIndexFile | None:
    """Return the sessions of a file that LlamaIndex wrote; None if it did not.

    That is a file persisted by `SimpleChatStore` or `RingChatStore`; `to_string()` or `to_dict()` of a memory, even as
    the text of a JSON string; an array of dumps of messages; or one dump in each line.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as stream:
        values = read_values(stream)
        try:
            _, value = next(values, (0, None))
            if isinstance(value, str):
                value = json.loads(value)
            if _is_dump(value):
                value = [value, *(value for _, value in values)]
        except (ValueError, RecursionError):  # the reader of conversations says what is wrong
            return None
    sessions = _sessions_in(value, _stem(path))
    return LlamaIndexFile(path, sessions) if sessions is not None else None


def _sessions_in(value: Any, stem: str) -> dict[str, list[Any]] | None:
    if isinstance(value, list):
        return {stem: value} if value and all(map(_is_dump, value)) else None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("chat_store"), dict):  # a memory's
        value = value["chat_store"]
    if isinstance(value.get("chat_history"), list):  # a memory's, of the first versions
        return {_UNNAMED: value["chat_history"]}
    sessions = value.get("store")
    if isinstance(sessions, dict) and all(isinstance(messages, list) for messages in sessions.values()):
        return sessions
    return None


def _is_dump(value: Any) -> bool:
    """Return whether this is a dump of a LlamaIndex message: no provider takes these keys."""
    return isinstance(value, dict) and "role" in value and not {"blocks", "additional_kwargs"}.isdisjoint(value)


def _stem(path: str) -> str:
    name = os.path.basename(path)
    return name.removesuffix(".gz").rpartition(".")[0] or name


def _ids(path: str, count: int) -> list[str] | None:
    """Return the conversations' own names, if each has a different one."""
    with open(path, "rb") as stream:
        values = [value for _, value in read_values(stream)]
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    ids = [str(name) for value in values if (name := _id(value)) is not None]
    return ids if len(ids) == len(values) == len(set(ids)) == count else None


def _id(value: Any) -> str | int | None:
    if not isinstance(value, dict):
        return None
    return next((value[key] for key in _IDS if isinstance(value.get(key), (str, int)) and value[key] != ""), None)
