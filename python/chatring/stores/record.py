"""`Record`: a message as a store keeps it."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

# Bytes of UTF-8 that a key may have: an index of PostgreSQL holds at most 2,704 bytes a row.
_LONGEST_KEY = 1024
_LONGEST_ROLE = 128
_LONGEST_COUNTER_NAME = 1024
# Records that are checked in half a millisecond.
_MANY = 1_000


class Record(NamedTuple):
    """One message.

    Args:
        role: decides whether a window may begin with the message; at most 128 bytes of UTF-8.
        text: what is counted. Any str: NUL characters and surrogates without a partner come back as they were.
        payload: whatever else belongs to the message, for the one who stored it; not counted.
    """

    role: str
    text: str
    payload: bytes | None = None

    @property
    def content(self) -> str:
        """The text, by the name that messages have it under."""
        return self.text


def check_records(records: object) -> list[Record]:
    """Return `records` as a list, if every one of them can be stored.

    Raises:
        TypeError: if it is not an iterable of `Record`, or one has a field of another type.
        ValueError: for a role that is too long, or has a NUL character or a surrogate without a partner.
    """
    if isinstance(records, (str, bytes, dict, Record)):
        raise TypeError(f"records must be an iterable of Record, got one {type(records).__name__}")
    checked: list[Record] = list(records)  # type: ignore[call-overload]
    for index, record in enumerate(checked):
        if not isinstance(record, Record):
            raise TypeError(f"records[{index}] must be a Record, got {type(record).__name__}")
        if not isinstance(record.text, str):
            raise TypeError(f"records[{index}].text must be a str, got {type(record.text).__name__}")
        if record.payload is not None and not isinstance(record.payload, bytes):
            raise TypeError(f"records[{index}].payload must be bytes or None, got {type(record.payload).__name__}")
        _check_name(record.role, f"records[{index}].role", _LONGEST_ROLE)
    return checked


async def acheck_records(records: object) -> list[Record]:
    """As `check_records`; many are checked in a thread, so that the event loop goes on."""
    if isinstance(records, (list, tuple)) and len(records) > _MANY:
        return await asyncio.to_thread(check_records, records)
    return check_records(records)


def check_key(key: object) -> str:
    """Return `key`, if a session can have it.

    Raises:
        TypeError: if it is not a str.
        ValueError: if it has more than 1,024 bytes of UTF-8, a NUL character or a surrogate without a partner.
    """
    return _check_name(key, "a session's key", _LONGEST_KEY)


def check_counter_name(name: object) -> str:
    """Return `name`, if a counter can be known by it.

    Raises:
        TypeError, ValueError: as of `check_key`.
    """
    return _check_name(name, "counter_name", _LONGEST_COUNTER_NAME)


def _check_name(name: object, what: str, longest: int) -> str:
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
