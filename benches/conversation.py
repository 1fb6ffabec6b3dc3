"""Histories of any length, made from one recorded conversation.

Every contender gets the same texts: the same string objects in the message class that it works with.
"""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from llama_index.core.llms import ChatMessage

SHIPPED = Path(__file__).parents[1] / "examples" / "support-conversation.jsonl"

# So many of a history's newest messages are separate objects with separate texts. Longer histories repeat
# those objects before them: no contender looks at a message so far back, and ten million would not fit in memory.
DISTINCT = 100_000

_T = TypeVar("_T")


class Line(NamedTuple):
    """A message, before it becomes an object of any class."""

    role: str
    text: str | None
    calls: tuple[tuple[str, str], ...] = ()  # of tools: their names and arguments


def as_dict(line: Line) -> dict[str, Any]:
    return {"role": line.role, "content": line.text}


def as_openai(line: Line) -> dict[str, Any]:
    """As OpenAI's chat has it, with calls and their results."""
    message = as_dict(line)
    if line.role == "tool":
        message["tool_call_id"] = "call"
    if line.calls:
        message["tool_calls"] = [
            {"id": "call", "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in line.calls
        ]
    return message


def as_chat_message(line: Line) -> ChatMessage:
    return ChatMessage(role=line.role, content=line.text)


def as_langchain(line: Line) -> AnyMessage:
    text = line.text or ""  # LangChain has no message without a content.
    match line.role:
        case "system":
            return SystemMessage(text)
        case "assistant":
            return AIMessage(text)
        case "tool":
            return ToolMessage(text, tool_call_id="call")
        case _:
            return HumanMessage(text)


class Histories:
    """Histories that repeat one conversation and end where it ends, so that windows are the same at every length.

    Args:
        path: a file in JSON Lines: one message a line, or one `{"messages": [...]}` a line; those are concatenated.
    """

    def __init__(self, path: Path = SHIPPED) -> None:
        self.lines = list(_read(path))
        self._made: dict[Callable[[Line], Any], list[Any]] = {}

    @property
    def texts(self) -> list[str]:
        """The conversation's texts, as tokenizers see them."""
        return [line.text for line in self.lines if line.text]

    def last(self, length: int, make: Callable[[Line], _T]) -> list[_T]:
        """Return a history of `length` messages, each the result of `make`; the same objects at every call."""
        wanted = min(length, DISTINCT)
        made: list[_T] = self._made.get(make, [])
        if len(made) < wanted:
            made = [make(line) for line in self._newest[DISTINCT - wanted : DISTINCT - len(made)]] + made
            self._made[make] = made
        if length <= DISTINCT:
            return made[-length:]
        repeats = -(-length // DISTINCT)
        return (made * repeats)[-length:]

    def newest(self, length: int) -> list[Line]:
        """Return what `last` makes messages of; at most `DISTINCT`."""
        return self._newest[-length:]

    def turns(self) -> Iterator[list[Line]]:
        """Yield the conversation's turns forever, with new texts each time: a user's message and all replies to it."""
        starts = [index for index, line in enumerate(self.lines) if line.role == "user"]
        while True:
            for start, end in zip(starts, [*starts[1:], len(self.lines)], strict=True):
                yield [_fresh(line) for line in self.lines[start:end]]

    @functools.cached_property
    def _newest(self) -> list[Line]:
        repeats = -(-DISTINCT // len(self.lines))
        return [_fresh(line) for line in (self.lines * repeats)[-DISTINCT:]]


def _fresh(line: Line) -> Line:
    """Return the message with its own copies of texts, as if they came from a network."""
    calls = tuple((name, arguments[:1] + arguments[1:]) for name, arguments in line.calls)
    return Line(line.role, line.text and line.text[:1] + line.text[1:], calls)


def _read(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            value = json.loads(line)
            for message in value.get("messages", [value]):
                functions = [call["function"] for call in message.get("tool_calls") or ()]
                calls = tuple((function["name"], function["arguments"]) for function in functions)
                yield Line(message["role"], _text(message.get("content")), calls)


def _text(content: Any) -> str | None:
    """Return the content as one text: texts of parts are joined by newlines, as LlamaIndex and chatring do."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if "text" in part)
    return content if content is None else str(content)
