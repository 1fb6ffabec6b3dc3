"""How `RedisStore` writes keys and records."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct, error

from chatring.stores.errors import ForeignDataError
from chatring.stores.record import Record

_PREFIX, _SUFFIX = "chatring:{", "}:session"

SESSIONS = f"{_PREFIX}*{_SUFFIX}"
"""The pattern of the keys that every session has one of."""

# The tokens that the record adds, bytes of its role, whether it has a payload, bytes of its text. Then these.
_HEADER = Struct("<qB?I")
_HEADER_SIZE = _HEADER.size
_pack, _unpack = _HEADER.pack, _HEADER.unpack_from

# A server takes no more than 512 MB in a value, and 1 GB in a command.
MOST_BYTES = 2**29


def keys_of(session: str) -> tuple[str, str, str]:
    """Return the keys of a session: of its hash, its list and its sorted set.

    A cluster places a key by what is between its first `{` and the first `}` after it, if that is not empty. So the only
    character of a session's key that must not stand there is `}`.
    """
    tag = session.replace("%", "%25").replace("}", "%7D") or "%"
    return f"{_PREFIX}{tag}{_SUFFIX}", f"{_PREFIX}{tag}}}:records", f"{_PREFIX}{tag}}}:starts"


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
    if keys_of(session)[0].encode() != key:
        raise ForeignDataError(f"the key {key!r} was not written by chatring")
    return session


def packed(records: Iterable[Record], steps: Iterable[int]) -> list[bytes]:
    """Return the rows of records, with the tokens that each of them adds.

    Raises:
        ValueError: if they are more than the server takes at once.
    """
    rows = []
    for (role, text, payload), step in zip(records, steps, strict=True):
        role_bytes, text_bytes = role.encode(), text.encode("utf-8", "surrogatepass")
        header = _pack(step, len(role_bytes), payload is not None, len(text_bytes))
        rows.append(b"".join((header, role_bytes, text_bytes, payload or b"")))
    if (size := sum(map(len, rows))) > MOST_BYTES:
        raise ValueError(f"records must have at most {MOST_BYTES:,} bytes at once, got {size:,}; append them in parts")
    return rows


def unpacked(rows: Iterable[bytes]) -> list[Record]:
    """Return the records of rows.

    Raises:
        ForeignDataError: if one is not as `packed` makes them.
    """
    records = []
    try:
        for row in rows:
            _, role_size, has_payload, text_size = _unpack(row)
            text_at = _HEADER_SIZE + role_size
            payload_at = text_at + text_size
            if len(row) != payload_at and (len(row) < payload_at or not has_payload):
                raise ForeignDataError("a record was not written by chatring: its sizes are wrong")
            text = row[text_at:payload_at].decode("utf-8", "surrogatepass")
            payload = row[payload_at:] if has_payload else None
            records.append(Record(row[_HEADER_SIZE:text_at].decode(), text, payload))
    except (error, UnicodeDecodeError) as cause:
        raise ForeignDataError("a record was not written by chatring") from cause
    return records


def steps_total(rows: Iterable[bytes]) -> int:
    """Return the tokens that the records of rows add. The rows are `unpacked` without an error."""
    return sum(_unpack(row)[0] for row in rows)


def packed_steps(steps: list[int]) -> bytes:
    """Return steps as they stand at the beginning of each row."""
    return Struct(f"<{len(steps)}q").pack(*steps)
