"""Which keys of sessions and names of counters, measures and formats are valid."""

from __future__ import annotations

# Bytes of UTF-8 that a key may have. An index of PostgreSQL holds at most 2,704 bytes a row.
_LONGEST_KEY = 1024
_LONGEST_NAME = 128


def check_key(key: object) -> str:
    """Return `key`, if it is a valid key of a session.

    Raises:
        TypeError: if it is not a str.
        ValueError: if it has more than 1,024 bytes of UTF-8, a NUL character or a lone surrogate.
    """
    return _check(key, "a session's key", _LONGEST_KEY)


def check_name(name: object, what: str) -> str:
    """Return `name`, if it is a valid name for a `what`.

    Raises:
        TypeError: if it is not a str.
        ValueError: if it is empty, has more than 128 bytes of UTF-8, a NUL character or a lone surrogate.
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
        raise ValueError(f"{what} has a lone surrogate: {name!r}") from error
    if size > longest:
        raise ValueError(f"{what} must have at most {longest} bytes of UTF-8, got {size}: {name[:40]!r}...")
    if "\0" in name:
        raise ValueError(f"{what} has a NUL character: {name!r}")
    return name
