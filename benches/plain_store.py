"""What a good engineer would write in an hour instead of a store: sqlite3, json, tiktoken, and prefix sums in a table.

The windows of a `SQLStore` for OpenAI's dicts: the head, the question that a window in the middle of a turn carries,
and a cut in blocks. What comes before a start is indexed, so the database finds the window; its rows are read alone.

Left out: everything but `append` and `window`. No async, no writers in turn, no policy, no other database.
"""

import json
import math
import sqlite3
from typing import Any, NamedTuple

import tiktoken

from benches.honest_twin import message_tokens

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    session TEXT NOT NULL, position INTEGER NOT NULL, role TEXT NOT NULL, tokens INTEGER NOT NULL,
    total INTEGER NOT NULL, asked INTEGER, asked_tokens INTEGER NOT NULL, before INTEGER, question INTEGER,
    body TEXT NOT NULL, PRIMARY KEY (session, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS message_start ON message (session, before, position, question) WHERE before IS NOT NULL;
"""
_ADD = "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_LAST = (
    "SELECT position, role, total, asked, asked_tokens FROM message WHERE session = ? ORDER BY position DESC LIMIT 1"
)
_HEAD = "SELECT tokens, body FROM message WHERE session = ? AND position < 0"
_START = (
    "SELECT position, question FROM message WHERE session = ? AND before IS NOT NULL AND before >= ?"
    " ORDER BY before, position LIMIT 1"
)
_LAST_START = (
    "SELECT position, question FROM message WHERE session = ? AND before IS NOT NULL"
    " ORDER BY before DESC, position DESC LIMIT 1"
)
_BODIES = "SELECT body FROM message WHERE session = ? AND position >= ?"
_BODY = "SELECT body FROM message WHERE session = ? AND position = ?"


class _Last(NamedTuple):
    """The last message of a session."""

    position: int
    role: str
    total: int  # tokens up to and with it, without the head's
    asked: int | None  # the last user message up to it, and its tokens
    asked_tokens: int


_NOTHING = _Last(-1, "system", 0, None, 0)


class PlainStore:
    """Sessions in a file.

    Args:
        path: of the file.
        encoding: to count with.
        synchronous: of SQLite.
    """

    def __init__(self, path: str, encoding: tiktoken.Encoding, synchronous: str = "FULL") -> None:
        self._encode = encoding.encode_ordinary
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.executescript(_SCHEMA)

    def append(self, key: str, messages: list[dict[str, Any]]) -> None:
        counted = [(message, message_tokens(message, self._encode), json.dumps(message)) for message in messages]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            last = self._last(key)
            rows: list[tuple[Any, ...]] = []
            for message, tokens, body in counted:
                role = message["role"]
                if role == "system" and last.position < 0:
                    last = last._replace(position=last.position - 1)
                    rows.append((key, last.position, role, tokens, 0, None, 0, None, None, body))
                    continue
                if last.position < 0:
                    last = _NOTHING
                before, question = self._start(last, role)
                last = _Last(last.position + 1, role, last.total + tokens, last.asked, last.asked_tokens)
                if role == "user":
                    last = last._replace(asked=last.position, asked_tokens=tokens)
                rows.append((key, *last[:2], tokens, *last[2:], before, question, body))
            self._connection.executemany(_ADD, rows)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def window(
        self, key: str, token_limit: int, initial_token_count: int = 0, *, retention_ratio: float = 1.0
    ) -> list[dict[str, Any]]:
        head = self._connection.execute(_HEAD, (key,)).fetchall()
        room = token_limit - initial_token_count - sum(tokens for tokens, _ in head)
        if room < 0:
            raise ValueError("the head alone does not fit")
        excess = self._last(key).total - room
        start, question = 0, None
        if excess > 0:
            block = math.floor((1 - retention_ratio) * token_limit)
            while block > 1 and block > (1 - retention_ratio / 2) * room:
                block //= 2
            block = max(block, 1)
            least = -(-excess // block) * block
            found = self._connection.execute(_START, (key, least)).fetchone()
            start, question = found or self._connection.execute(_LAST_START, (key,)).fetchone()
        bodies = [body for _, body in head]
        if question is not None:
            bodies += self._connection.execute(_BODY, (key, question)).fetchone()
        bodies += [body for (body,) in self._connection.execute(_BODIES, (key, start))]
        return [json.loads(body) for body in bodies]

    def close(self) -> None:
        self._connection.close()

    def _last(self, key: str) -> _Last:
        row = self._connection.execute(_LAST, (key,)).fetchone()
        return _NOTHING if row is None else _Last(*row)

    @staticmethod
    def _start(last: _Last, role: str) -> tuple[int | None, int | None]:
        """Return what a window that begins with the next message leaves out, and which question it carries."""
        if role == "user":
            return last.total, None
        # A call after a call is the same step; one after the question begins no shorter window than the question.
        if role != "assistant" or last.role in ("assistant", "user") or last.asked is None:
            return None, None
        return last.total - last.asked_tokens, last.asked
