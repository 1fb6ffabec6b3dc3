"""Messages and numbers as plain text for a terminal: one line each, without control characters."""

import json
from typing import Any

from chatring.recordings.envelope import Message

# Python considers joiners not printable, but emoji and the scripts of Persian and India need them.
_JOINERS = "\u200c\u200d"
# The keys of a message's texts and calls, with every provider, at any depth.
_SAID = (
    *("content", "contents", "parts", "blocks", "text", "thinking", "reasoningContent", "reasoningText", "refusal"),
    *("summary", "output", "toolResult", "functionResponse", "function_response", "response", "result"),
    *("function_call", "function", "custom", "functionCall", "toolUse"),
)
_ARGUMENTS = ("arguments", "args", "input")
# Deeper than any provider's: the results of a call, in a message.
_DEPTH = 8


def one_line(text: str, *, characters: int = 1000) -> str:
    r"""Return the beginning of `text` on one line, with escapes such as `\x1b` for what is not printable.

    Nothing in the result controls a terminal: no escape sequences, no right-to-left overrides, no lone surrogates.
    """
    line = " ".join(text[:characters].split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in line)
    return line if len(text) <= characters else line + "…"


def role_of(message: Message) -> str:
    """Return a message's role, or the type of an item that has none, such as `function_call`."""
    return next((name for key in ("role", "type", "kind") if isinstance(name := message.get(key), str)), "")


def headline(message: Message) -> str:
    """Return the beginning of what a message says, and the tools that it calls as `name(arguments)`, on one line.

    The message may be any provider's, and parts of it may be missing. One that has neither text nor call shows as its
    type: `[image_url]`.
    """
    return " ".join(one_line(part) for part in _said(message, _DEPTH) if part)


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it: `7.3 µs`, `410.0 ms`, `12.5 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def amount(number: int, noun: str) -> str:
    """Return a number of things: `1 message`, `2,658 messages`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _said(value: Any, depth: int) -> list[str]:
    if isinstance(value, str):
        return [value]
    if depth == 0 or not isinstance(value, dict | list):
        return []
    if isinstance(value, list):
        return [text for part in value for text in _said(part, depth - 1)]
    if isinstance(inside := value.get("data"), dict):  # LangChain's messages, as they are stored
        return _said(inside, depth - 1)
    if call := _call(value):
        return [call]
    said = [text for key in _SAID for text in _said(value.get(key), depth - 1)]
    if isinstance(calls := value.get("tool_calls"), list):
        for call in calls:
            said += (isinstance(call, dict) and _said(call, depth - 1)) or ["[tool call]"]
    if not said and value and "role" not in value:
        said = [f"[{value.get('type', next(iter(value)))}]"]
    return said


def _call(value: Message) -> str:
    """Return `name(arguments)`, or nothing if this is not a call."""
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    if not isinstance(name := value.get("name", value.get("tool_name")), str) or arguments is None or "role" in value:
        return ""
    return f"{name}({arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)})"
