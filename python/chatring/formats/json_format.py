"""`JsonFormat`: any provider's messages that are JSON."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from chatring.formats.record import Record

# JSON as providers' clients write it, but with non-ASCII characters as they are: shorter, and readable in a database.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode
# The deepest nesting. Python's own bound depends on the caller, so a message might be stored and not be readable.
_DEEPEST = 200


class JsonFormat:
    """Any message that is JSON, given back equal: the dicts of every provider. It is a store's default.

    An SDK's object is stored as the dict that its `model_dump` makes, and comes back as that dict. A `Record` comes
    back as a `Record`. Tuples come back as lists.
    """

    name = ""
    dumps_readings = True

    def read(self, message: Any) -> Any:
        """Return a message as the core reads it: what `dump` would store."""
        if isinstance(message, (dict, Record)):
            return message
        dump = getattr(message, "model_dump", None)
        if dump is not None:
            # Only the fields that were set: providers refuse some fields that are None.
            return dump(mode="json", exclude_unset=True)
        if isinstance(message, Mapping):
            return dict(message)
        raise TypeError(
            f"a store keeps messages that are JSON, such as dicts; got {type(message).__name__}: convert it, or open "
            "the store with a format that can"
        )

    def dump(self, message: Any) -> str:
        """Return a message as JSON; see `read`."""
        if isinstance(message, Record):
            payload = () if message.payload is None else (b64encode(message.payload).decode(),)
            message = (message.role, message.text, *payload)
        elif not isinstance(message, dict):
            message = self.read(message)
        _check(message)
        try:
            body = _encode(message)
            body.isascii() or body.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return json.dumps(message, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise type(error)(f"a message that is stored must be JSON: {error}") from None
        return body

    def load(self, body: str) -> Any:
        """Return the message with this body."""
        return _message(_decode(body))

    def load_all(self, bodies: list[str]) -> list[Any]:
        """Return the messages with these bodies, in less time than one by one."""
        messages = _decode(f"[{','.join(bodies)}]")
        return [_message(message) if type(message) is list else message for message in messages]


def _check(value: Any, depth: int = _DEEPEST) -> None:
    """Refuse what JSON would change or could not give back."""
    if not depth:
        raise ValueError(f"a message that is stored must be nested at most {_DEEPEST} deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a message that is stored must be JSON: its keys must be str, got {key!r}")
            if isinstance(inner, (dict, list, tuple)):
                _check(inner, depth - 1)
    else:
        for inner in value:
            if isinstance(inner, (dict, list, tuple)):
                _check(inner, depth - 1)


def _message(value: Any) -> Any:
    if type(value) is dict:
        return value
    role, text, *payload = value
    return Record(role, text, b64decode(payload[0]) if payload else None)
