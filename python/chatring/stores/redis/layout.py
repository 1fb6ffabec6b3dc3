"""How `RedisStore` names keys and packs rows. `scripts/shared.lua` says what each key holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chatring.stores.errors import ForeignDataError
from chatring.stores.session import Row, RowLike

_SUFFIX = "}:session"
_SPECIAL = re.compile(r"([*?\[\]\\^])")
_LONGEST_PREFIX = 128

# Added to positions where they are sorted as text.
_OFFSET = 10**15

# A server takes at most 512 MB in a value, and 1 GB in a command.
MOST_BYTES = 2**29


class Keys(NamedTuple):
    """The keys of a session. See `scripts/shared.lua`."""

    session: bytes
    messages: bytes
    starts: bytes


class Names:
    """The names of keys.

    A cluster places a key by the text between its first `{` and the first `}` after it, if there is any. So the only
    character of a session's key that must not be there is `}`.

    Args:
        prefix: what all keys begin with.

    Raises:
        TypeError: if it is not a str.
        ValueError: if it has a brace, more than 128 bytes of UTF-8, a NUL character or a lone surrogate.
    """

    def __init__(self, prefix: str) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, got {type(prefix).__name__}")
        if re.search("[{}\0\ud800-\udfff]", prefix) or len(prefix.encode()) > _LONGEST_PREFIX:
            raise ValueError(
                f"prefix must have at most {_LONGEST_PREFIX} bytes of UTF-8, no brace and no NUL character, "
                f"got {prefix!r}"
            )
        self._front = f"{prefix}:{{"

    def of(self, session: str) -> Keys:
        """Return the keys of a session."""
        start = f"{self._front}{_escaped(session) or '%'}}}:".encode()
        return Keys(start + b"session", start + b"messages", start + b"starts")

    def of_layout_1(self, session: str) -> tuple[bytes, bytes, bytes]:
        """Return the keys that a session of layout 1 has."""
        own = self.of(session)
        return own.session, own.messages.removesuffix(b"messages") + b"records", own.starts

    def pattern(self, prefix: str) -> bytes:
        """Return the pattern for the first key of every session whose own key begins with `prefix`."""
        escaped = _SPECIAL.sub(r"\\\1", self._front + _escaped(prefix))
        return f"{escaped}*{_SUFFIX}".encode()

    def session_of(self, key: bytes | str) -> str:
        """Return the session with this first key.

        Raises:
            ForeignDataError: if it is not a session's.
        """
        try:
            name = key.decode() if isinstance(key, bytes) else key
        except UnicodeDecodeError as cause:
            raise ForeignDataError(f"the key {key!r} was not written by chatring: it is not UTF-8") from cause
        tag = name[len(self._front) : -len(_SUFFIX)]
        session = "" if tag == "%" else tag.replace("%7D", "}").replace("%25", "%")
        if self.of(session).session != name.encode():
            raise ForeignDataError(f"the key {key!r} was not written by chatring")
        return session


def packed(rows: Iterable[RowLike]) -> list[bytes]:
    """Return rows as they are stored."""
    return [
        f"{body}\0{kind} {tokens} {'' if before is None else before} {'' if question is None else question}\0".encode(
            "utf-8", "surrogatepass"
        )
        for kind, tokens, before, question, body in rows
    ]


def bodies_of(rows: bytes, count: int) -> list[str]:
    """Return the bodies of `count` successive rows.

    Raises:
        ValueError: if a quick look shows that they were not packed here.
    """
    parts = rows.decode("utf-8", "surrogatepass").split("\0")
    if len(parts) != 2 * count + 1 or parts[-1]:
        raise ValueError("these are not those rows")
    return parts[:-1:2]


def unpacked(rows: bytes) -> list[Row]:
    """Return successive rows.

    Raises:
        ValueError: if they were not packed here.
    """
    parts = rows.decode("utf-8", "surrogatepass").split("\0")
    if parts.pop() or len(parts) % 2:
        raise ValueError("rows end in the middle")
    unpacked = []
    for body, facts in zip(parts[::2], parts[1::2], strict=True):
        kind, tokens, before, question = facts.split(" ")
        unpacked.append(Row(int(kind), int(tokens), _number(before), _number(question), body))
    return unpacked


def starts_of(rows: Sequence[RowLike], position: int) -> list[str]:
    """Return score and member of each row that may begin a window; `position` is the first row's."""
    starts = []
    for at, (_, _, before, question, _) in enumerate(rows, position):
        if before is not None:
            starts += [str(before), member_of(at, question)]
    return starts


def member_of(position: int, question: int | None) -> str:
    """Return the member of `starts` for a start."""
    member = f"{position + _OFFSET:016d}"
    return member if question is None else f"{member} {question}"


def _escaped(session: str) -> str:
    return session.replace("%", "%25").replace("}", "%7D")


def _number(text: str) -> int | None:
    return int(text) if text else None
