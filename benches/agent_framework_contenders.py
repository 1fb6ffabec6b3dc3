"""What Agent Framework's users limit and keep a history by: its own strategies and files, honest Python, and ours."""

import copy
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiktoken
from agent_framework import Content, HistoryProvider, Message, annotate_message_groups
from chatring.agent_framework import MessageFormat

from benches.conversation import Histories, Line
from benches.honest_twin import _CALL, _MESSAGE, _PARALLEL, _RESULT
from benches.plain_session import window_of

ENCODE = tiktoken.get_encoding("o200k_base").encode_ordinary
FORMAT = MessageFormat()
_KINDS = {"tool": "function_call_output"}


def history(histories: Histories, size: int) -> list[Message]:
    """Return a history of about so many messages, from a user's message on; all results of a step are one message."""
    messages: list[Message] = []
    open_ids: list[str] = []
    for line in histories.newest(2 * size):
        if line.role == "tool":
            result = Content.from_function_result(open_ids.pop(0), result=line.text or "")
            if messages[-1].role == "tool":
                messages[-1].contents.append(result)
            else:
                messages.append(Message("tool", [result]))
        elif line.role != "system":
            messages.append(_message(line, len(messages)))
            open_ids += [str(each.call_id) for each in messages[-1].contents if each.type == "function_call"]
    starts = [place for place, message in enumerate(messages) if message.role == "user"]
    begin = next(place for place in starts if len(messages) - place <= size)
    return messages[begin : starts[-1] + 1]  # it ends with a question


def _message(line: Line, number: int) -> Message:
    calls = [
        Content.from_function_call(f"{number}.{place}", name, arguments=arguments)
        for place, (name, arguments) in enumerate(line.calls)
    ]
    return Message(line.role, [*([line.text] if line.text else []), *calls])


def loaded(messages: Sequence[Message]) -> list[Message]:
    """Return messages as a history provider's are at a model call: copies, with what is noted in them."""
    copies = [copy.copy(message) for message in messages]
    for message in copies:
        message.additional_properties = dict(message.additional_properties)
    return copies


def noted(messages: list[Message], tokenizer: Any) -> list[Message]:
    """Return messages with groups and tokens noted in them, which the framework does once for each."""
    annotate_message_groups(messages, tokenizer=tokenizer)
    return messages


def kind_of(message: Message) -> str:
    if any(content.type == "function_call" for content in message.contents):
        return "function_call"
    return _KINDS.get(message.role, message.role)


def count(message: Message) -> int:
    """Return the tokens of all that is sent of a message, by the rule of `measure="message"`."""
    tokens, calls, results = _MESSAGE, 0, 0
    for content in message.contents:
        if content.type == "function_call":
            calls += 1
            tokens += _CALL + len(ENCODE(str(content.name))) + len(ENCODE(str(content.arguments)))
        elif content.type == "function_result":
            results += 1
            tokens += _RESULT + len(ENCODE(str(content.result)))
        else:
            tokens += len(ENCODE(content.text or ""))
    return tokens + (_PARALLEL if calls > 1 else 0) + _MESSAGE * max(results - 1, 0)


class PlainStrategy:
    """Honest Python: what a message counts is noted in it once, the window is searched from the end."""

    def __init__(self, token_limit: int) -> None:
        self._limit = token_limit

    async def __call__(self, messages: list[Message]) -> bool:
        newest = ((kind_of(message), self._tokens(message), message) for message in reversed(messages))
        kept = set(map(id, window_of(newest, self._limit)))
        changed = False
        for message in messages:
            excluded = id(message) not in kept
            changed |= bool(message.additional_properties.get("_excluded")) is not excluded
            message.additional_properties["_excluded"] = excluded
        return changed

    @staticmethod
    def _tokens(message: Message) -> int:
        noted: int | None = message.additional_properties.get("tokens")
        if noted is None:
            noted = message.additional_properties["tokens"] = count(message)
        return noted


class PlainProvider(HistoryProvider):
    """Honest Python: a row a message with its kind and tokens. The newest are read until they are too many."""

    def __init__(self, folder: Path, token_limit: int) -> None:
        super().__init__("plain")
        self._limit = token_limit
        self._connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(
            "CREATE TABLE message (session TEXT, position INTEGER, kind TEXT, tokens INTEGER, body TEXT,"
            " PRIMARY KEY (session, position)) WITHOUT ROWID"
        )

    async def get_messages(self, session_id: str | None, **_: Any) -> list[Message]:
        query = "SELECT kind, tokens, body FROM message WHERE session = ? ORDER BY position DESC"
        rows = self._connection.execute(query, (session_id,))
        return [FORMAT.load(body) for body in window_of(rows, self._limit)]

    async def save_messages(self, session_id: str | None, messages: Sequence[Message], **_: Any) -> None:
        rows = [(session_id, kind_of(each), count(each), FORMAT.dump(each)) for each in messages]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO message SELECT ?1, coalesce(max(position), 0) + 1, ?2, ?3, ?4 FROM message WHERE session = ?1",
            rows,
        )
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()
