"""How a history in Pydantic AI is limited and kept: what its users write today, honest Python, and chatring."""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tiktoken
from chatring.pydantic_ai import ModelMessageFormat, messages_to_store
from chatring.pydantic_ai.requests import Pieces
from chatring.stores import Store, open_store
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import InMemoryConversationStore
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from benches.conversation import Histories, Line
from benches.honest_twin import _CALL, _MESSAGE, _PARALLEL, _RESULT

ENCODE = tiktoken.get_encoding("o200k_base").encode_ordinary
KEY = "ada"


def history(histories: Histories, size: int) -> list[ModelMessage]:
    """Return about `size` messages, from a user's to an assistant's; results of one response are one request."""
    made: list[ModelMessage] = [ModelRequest(parts=[SystemPromptPart(histories.lines[0].text or "")])]
    lines = [line for line in histories.newest(2 * size) if line.role != "system"]
    first = next(index for index, line in enumerate(lines) if line.role == "user")
    open_ids: list[str] = []
    for line in lines[first:]:
        if line.role == "tool":
            result = ToolReturnPart("tool", line.text or "", open_ids.pop(0))
            if isinstance(last := made[-1], ModelRequest):
                made[-1] = ModelRequest(parts=[*last.parts, result])
            else:
                made.append(ModelRequest(parts=[result]))
        elif line.role == "user":
            made.append(ModelRequest(parts=[UserPromptPart(line.text or "")]))
        else:
            made.append(_response(line, len(made)))
            open_ids += [part.tool_call_id for part in made[-1].parts if isinstance(part, ToolCallPart)]
    starts = [index for index, message in enumerate(made) if _kind(message) == "user"]
    begin = next((index for index in starts if len(made) - index < size), starts[-1])
    end = max(index for index, message in enumerate(made) if isinstance(message, ModelResponse)) + 1
    body = made[begin:end]
    assert isinstance(body[0], ModelRequest)
    return [ModelRequest(parts=[*made[0].parts, *body[0].parts]), *body[1:]]


def _response(line: Line, number: int) -> ModelResponse:
    calls = [ToolCallPart(name, args, f"{number}.{index}") for index, (name, args) in enumerate(line.calls)]
    return ModelResponse(parts=[*([TextPart(line.text)] if line.text else []), *calls])


def _kind(message: ModelMessage) -> str:
    if isinstance(message, ModelResponse):
        return "assistant"
    if all(isinstance(part, SystemPromptPart) for part in message.parts):
        return "system"
    return "tool" if any(isinstance(part, ToolReturnPart) for part in message.parts) else "user"


def count(message: ModelMessage) -> int:
    """Return the tokens of everything that is sent of a message, as `measure="message"` counts."""
    tokens, calls, results = _MESSAGE, 0, 0
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            calls += 1
            tokens += _CALL + len(ENCODE(part.tool_name)) + len(ENCODE(str(part.args)))
        elif isinstance(part, ToolReturnPart):
            results += 1
            tokens += _RESULT + len(ENCODE(part.tool_name)) + len(ENCODE(part.model_response_str()))
        elif isinstance(part, (TextPart, SystemPromptPart)) or (
            isinstance(part, UserPromptPart) and isinstance(part.content, str)
        ):
            tokens += len(ENCODE(part.content))  # type: ignore[arg-type]
    return tokens + (_PARALLEL if calls > 1 else 0) + _MESSAGE * max(results - 1, 0)


class Size(NamedTuple):
    """What the window's rule knows of a message."""

    kind: str
    tokens: int


def first_that_fits(newest_first: Iterable[Size], limit: int) -> tuple[int, int | None]:
    """Return how many of the newest messages fit the limit with their question, and how far back the question is.

    It looks no further than a window reaches: the newest user's message before which nothing fits.
    """
    best: tuple[int, int | None] = (1, None)
    steps: list[tuple[int, int]] = []
    total = 0
    for length, (kind, tokens) in enumerate(newest_first, 1):
        total += tokens
        if kind == "user":
            if total <= limit:
                best, steps = (length, None), []
                continue
            fitting = [(each, length) for each, before in steps if before + tokens <= limit]
            return max(fitting, default=best)
        if kind == "assistant":
            steps.append((length, total))
    return best


class CachingTrim:
    """Thirty honest lines: each message is counted once, the window is searched from the end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: dict[int, tuple[ModelMessage, Size]] = {}  # by identity, which the message keeps

    def __call__(self, messages: list[ModelMessage]) -> list[ModelMessage]:
        pieces = Pieces(messages)
        head, body = pieces.all[0], pieces.all[1:]
        length, asked = first_that_fits(map(self._size, reversed(body)), self._limit - self._size(head).tokens)
        kept = [] if asked is None else [len(body) - asked + 1]
        return pieces.joined([0, *kept, *range(len(body) - length + 1, len(body) + 1)])

    def _size(self, message: ModelMessage) -> Size:
        if (known := self._sizes.get(id(message))) is None or known[0] is not message:
            known = self._sizes[id(message)] = message, Size(_kind(message), count(message))
        return known[1]


def counting_trim(limit: int) -> Any:
    """Return what one finds in threads: a processor that counts all messages at each request."""

    def process(messages: list[ModelMessage]) -> list[ModelMessage]:
        pieces = Pieces(messages)
        sizes = [Size(_kind(message), count(message)) for message in pieces.all]
        length, asked = first_that_fits(reversed(sizes[1:]), limit - sizes[0].tokens)
        kept = [] if asked is None else [len(sizes) - asked]
        return pieces.joined([0, *kept, *range(len(sizes) - length, len(sizes))])

    return process


# Histories on disk


class OneBlob:
    """What Pydantic AI's documents show: the JSON of all messages, here in a row of SQLite."""

    def __init__(self, folder: Path, messages: list[ModelMessage]) -> None:
        self._connection = _connect(folder / "blob.db")
        self._connection.execute("CREATE TABLE conversation (key TEXT PRIMARY KEY, messages BLOB)")
        self.save(messages)

    def load(self) -> list[ModelMessage]:
        (row,) = self._connection.execute("SELECT messages FROM conversation WHERE key = ?", (KEY,))
        return ModelMessagesTypeAdapter.validate_json(row[0])

    def save(self, messages: list[ModelMessage]) -> None:
        row = (KEY, ModelMessagesTypeAdapter.dump_json(messages))
        with self._connection:
            self._connection.execute("INSERT OR REPLACE INTO conversation VALUES (?, ?)", row)


class Rows:
    """Honest Python: a row a message with its kind and tokens. The newest are read until they are too many."""

    def __init__(self, folder: Path, messages: list[ModelMessage]) -> None:
        self._connection = _connect(folder / "rows.db")
        self._connection.execute(
            "CREATE TABLE message (key TEXT, seq INTEGER, kind TEXT, tokens INTEGER, body BLOB, PRIMARY KEY (key, seq))"
        )
        rows = [
            (KEY, seq, _kind(message), count(message), ModelMessagesTypeAdapter.dump_json([message])[1:-1])
            for seq, message in enumerate(messages_to_store(messages))
        ]
        with self._connection:
            self._connection.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", rows)

    def load(self, limit: int) -> list[ModelMessage]:
        query = "SELECT kind, tokens, body FROM message WHERE key = ? AND seq > 0 ORDER BY seq DESC"
        (head,) = self._connection.execute("SELECT tokens, body FROM message WHERE key = ? AND seq = 0", (KEY,))
        bodies: list[bytes] = []

        def sizes() -> Iterator[Size]:
            for kind, tokens, body in self._connection.execute(query, (KEY,)):
                bodies.append(body)
                yield Size(kind, tokens)

        length, asked = first_that_fits(sizes(), limit - head[0])
        kept = [*([] if asked is None else [bodies[asked - 1]]), *bodies[:length][::-1]]
        return ModelMessagesTypeAdapter.validate_json(b"[" + b",".join([head[1], *kept]) + b"]")


def our_store(folder: Path, messages: list[ModelMessage]) -> Store[ModelMessage]:
    store: Store[ModelMessage] = open_store(f"sqlite:///{folder}/chatring.db", format=ModelMessageFormat())
    store.append(KEY, messages_to_store(messages))
    return store


async def their_store(messages: list[ModelMessage]) -> InMemoryConversationStore:
    store = InMemoryConversationStore()
    await store.save(Conversation(messages=messages, conversation_id=KEY))
    return store


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection
