"""How `RedisStore` writes keys and records."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct, error

from chatring.stores.errors import ForeignDataError
from chatring.stores.record import Record

_PREFIX, _SUFFIX = "chatring:{", "}:session"

SESSIONS = f"{_PREFIX}*{_SUFFIX}"
"""The pattern of the keys that every session has one of."""

# Bytes of the role, of the text, and of the payload (-1 if there is none). Then these.
_HEADER = Struct("<BIi")
_HEADER_SIZE = _HEADER.size
_pack, _unpack = _HEADER.pack, _HEADER.unpack_from

# A server takes no more than 512 MB in a value, and 1 GB in a command.
MOST_BYTES = 2**29


def keys_of(session: str) -> tuple[bytes, bytes, bytes]:
    """Return the keys of a session: of its string, its list and its sorted set.

    A cluster places a key by what is between its first `{` and the first `}` after it, if that is not empty. So the
    only character of a session's key that must not stand there is `}`.
    """
    tag = session.replace("%", "%25").replace("}", "%7D") or "%"
    start = f"{_PREFIX}{tag}}}:".encode()
    return start + b"session", start + b"records", start + b"starts"


def session_of(key: bytes) -> str:
    """Return the session that has `key`, which is as `SESSIONS` says.

    Raises:
        ForeignDataError: if `keys_of` gives it for no session.
    """
    try:
        tag = key.decode()[len(_PREFIX) : -len(_SUFFIX)]
    except UnicodeDecodeError as cause:
        raise ForeignDataError(f"the key {key!r} was not written by chatring: it is no UTF-8") from cause
    session = "" if tag == "%" else tag.replace("%7D", "}").replace("%25", "%")
    if keys_of(session)[0] != key:
        raise ForeignDataError(f"the key {key!r} was not written by chatring")
    return session


def packed(records: Iterable[Record]) -> list[bytes]:
    """Return the rows of records.

    Raises:
        ValueError: if they are more than the server takes at once.
    """
    rows = []
    for role, text, payload in records:
        role_bytes, text_bytes = role.encode(), text.encode("utf-8", "surrogatepass")
        header = _pack(len(role_bytes), len(text_bytes), -1 if payload is None else len(payload))
        rows.append(b"".join((header, role_bytes, text_bytes, payload or b"")))
    if (size := sum(map(len, rows))) > MOST_BYTES:
        raise ValueError(f"records must have at most {MOST_BYTES:,} bytes at once, got {size:,}; append them in parts")
    return rows


def unpacked(count: int, rows: bytes) -> list[Record]:
    """Return the records of `count` rows, which follow each other.

    Raises:
        ForeignDataError: if they are not as `packed` makes them.
    """
    records = []
    make = tuple.__new__  # half the time of Record()
    at, end = 0, len(rows)
    try:
        while at < end:
            role_size, text_size, payload_size = _unpack(rows, at)
            role_at = at + _HEADER_SIZE
            text_at = role_at + role_size
            payload_at = at = text_at + text_size
            payload = None
            if payload_size >= 0:
                at += payload_size
                payload = rows[payload_at:at]
            text = rows[text_at:payload_at].decode("utf-8", "surrogatepass")
            records.append(make(Record, (rows[role_at:text_at].decode(), text, payload)))
    except (error, UnicodeDecodeError) as cause:
        raise ForeignDataError("a record was not written by chatring") from cause
    if at != end or len(records) != count:
        raise ForeignDataError("a record was not written by chatring: its sizes are wrong")
    return records
