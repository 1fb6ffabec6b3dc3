"""Messages and numbers as plain text for a terminal: one line each, without control characters."""

from typing import Any

from chatring.conversation import Message

# Joiners are not printable to Python, but emoji and the scripts of Persian and India are made with them.
_JOINERS = "\u200c\u200d"


def one_line(text: str, *, characters: int = 1000) -> str:
    r"""Return the beginning of `text` on one line, with escapes such as `\x1b` for what is not printable.

    Nothing in the result controls a terminal: no escape sequences, no right-to-left overrides, no lone surrogates.
    """
    line = " ".join(text[:characters].split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in line)
    return line if len(text) <= characters else line + "…"


def headline(message: Message) -> str:
    """Return the beginning of what a message says, and the tools that it calls as `name(arguments)`, on one line."""
    calls = message.get("tool_calls")
    said = [_content(message["content"]), *map(_call, calls if isinstance(calls, list) else [])]
    return " ".join(one_line(part) for part in said if part)


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it: `7.3 µs`, `410.0 ms`, `12.5 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def amount(number: int, noun: str) -> str:
    """Return a number of things: `1 message`, `2,658 messages`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _content(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(map(_part, content))
    return content or ""


def _part(part: Any) -> str:
    match part:
        case str(text) | {"text": str(text)}:
            return text
        case {"type": str(kind)}:
            return f"[{kind}]"
        case _:
            return ""


def _call(call: Any) -> str:
    match call:
        case {"function": {"name": name, "arguments": arguments}} | {"custom": {"name": name, "input": arguments}}:
            return f"{name}({arguments})"
        case _:
            return "[tool call]"
