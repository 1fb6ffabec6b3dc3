"""`Record`: a message with a payload of its own; and what keys and names may be."""

from __future__ import annotations

from typing import NamedTuple

# Bytes of UTF-8 that a key may have: an index of PostgreSQL holds at most 2,704 bytes a row.
_LONGEST_KEY = 1024
_LONGEST_NAME = 128


class Record(NamedTuple):
    """A message of a role and a text, with whatever else belongs to it.

    Args:
        role: who speaks; decides whether a window may begin with the message.
        text: what is counted.
        payload: for the one who stored it; not counted.
    """

    role: str
    text: str
    payload: bytes | None = None

    @property
    def content(self) -> str:
        """The text, by the name that messages have it under."""
        return self.text


def check_key(key: object) -> str:
    """Return `key`, if a session can have it.

    Raises:
        TypeError: if it is not a str.
        ValueError: if it has more than 1,024 bytes of UTF-8, a NUL character or a surrogate without a partner.
    """
    return _check(key, "a session's key", _LONGEST_KEY)


def check_name(name: object, what: str) -> str:
    """Return `name`, if something that is called `what` can be known by it.

    Raises:
        TypeError: if it is not a str.
        ValueError: if it is empty, has more than 128 bytes of UTF-8, a NUL character or a surrogate without a partner.
    """
    checked = _check(name, what, _LONGEST_NAME)
    if not checked:
        raise ValueError(f"{what} must not be empty")
    return checked


def _check(name: object, what: str, longest: int) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, got {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} has a surrogate without a partner: {name!r}") from error
    if size > longest:
        raise ValueError(f"{what} must have at most {longest} bytes of UTF-8, got {size}: {name[:40]!r}...")
    if "\0" in name:
        raise ValueError(f"{what} has a NUL character: {name!r}")
    return name
