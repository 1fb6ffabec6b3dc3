"""What a good engineer would write in an hour instead of a `ChatringSession` and `trim_input`: sqlite3, json, tiktoken.

The same windows, for histories of plain messages, calls and results. What an item costs is stored with it. A window is
found from the newest item backwards, so that a long history does not matter.

Left out: a ratio, unanswered calls, other items, another database.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Item: TypeAlias = dict[str, Any]
Encode: TypeAlias = Callable[[str], list[int]]

_MESSAGE, _CALL, _RESULT = 4, 11, 10
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS item (session TEXT, position INTEGER, kind TEXT, tokens INTEGER, body TEXT,"
    " PRIMARY KEY (session, position)) WITHOUT ROWID"
)
_ADD = "INSERT INTO item SELECT ?1, coalesce(max(position), 0) + 1, ?2, ?3, ?4 FROM item WHERE session = ?1"
_NEWEST = "SELECT kind, tokens, body FROM item WHERE session = ? ORDER BY position DESC"


def kind_of(item: Item) -> str:
    kind: str = item.get("type", "message")
    return item["role"] if kind == "message" else kind


def tokens_of(item: Item, encode: Encode) -> int:
    match item.get("type", "message"):
        case "function_call":
            return _CALL + len(encode(item["name"])) + len(encode(item["arguments"]))
        case "function_call_output":
            return _RESULT + len(encode(item["output"]))
    content = item["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return _MESSAGE + sum(len(encode(text)) for text in texts)


def window_of(newest: Iterable[tuple[str, int, Any]], token_limit: int) -> list[Any]:
    """Return the window, oldest first, of kind, tokens and item, newest first."""
    items: list[Any] = []
    tokens, best, question = 0, 0, None
    # How many items there are from the starts on whose question has not come yet, and their tokens.
    steps: list[tuple[int, int]] = []
    follower = ""
    for kind, cost, item in newest:
        if kind == "user":
            # A step with its question in front is the longer one, the older it is.
            for length, sum_of_step in steps:
                if length > best and sum_of_step + cost <= token_limit:
                    best, question = length, item
            steps = []
        items.append(item)
        tokens += cost
        if tokens > token_limit and not steps:
            break
        if kind == "user" and tokens <= token_limit:
            best, question = len(items), None
        elif kind in ("assistant", "function_call") and tokens <= token_limit:
            if kind == "function_call" and follower in ("assistant", "function_call"):
                steps.pop()  # what follows a call is the same step
            steps.append((len(items), tokens))
        follower = kind
    else:
        if tokens <= token_limit:
            best, question = len(items), None
    return [*([] if question is None else [question]), *reversed(items[:best])]


class PlainSession:
    """Sessions in a file, for the SDK.

    Args:
        session_id: of the session.
        path: of the file.
        token_limit: of a window.
        encode: tokens of a text.
    """

    session_settings = None

    def __init__(self, session_id: str, path: str, token_limit: int, encode: Encode) -> None:
        self.session_id = session_id
        self._token_limit, self._encode = token_limit, encode
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(_SCHEMA)

    async def get_items(self, limit: int | None = None) -> list[Item]:
        return await asyncio.to_thread(self._window)

    async def add_items(self, items: list[Item]) -> None:
        await asyncio.to_thread(self._add, items)

    async def pop_item(self) -> Item | None:
        raise NotImplementedError

    async def clear_session(self) -> None:
        raise NotImplementedError

    def _window(self) -> list[Item]:
        rows = self._connection.execute(_NEWEST, (self.session_id,))
        return [json.loads(body) for body in window_of(rows, self._token_limit)]

    def _add(self, items: list[Item]) -> None:
        rows = [(self.session_id, kind_of(item), tokens_of(item, self._encode), json.dumps(item)) for item in items]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_ADD, rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


def trim(items: list[Item], token_limit: int, instructions: str, encode: Encode) -> list[Item]:
    """Return what fits beside the instructions: each item is counted until there is enough."""
    room = token_limit - _MESSAGE - len(encode(instructions))
    return window_of(((kind_of(item), tokens_of(item, encode), item) for item in reversed(items)), room)
