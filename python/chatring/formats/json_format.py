"""`JsonFormat`: messages that are JSON, of any provider."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from chatring.formats.record import Record

# As providers' clients write JSON, but with other alphabets' characters as they are: shorter, and readable in a
# database.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode
# Values within values. Python's own bound depends on who calls, so that a message might be stored and not be read.
_DEEPEST = 200


class JsonFormat:
    """Any message that is JSON, given back equal: the dicts of every provider. What a store uses unless told otherwise.

    An SDK's object is stored as the dict that its `model_dump` makes, and comes back as that. A `Record` comes back as
    one. Tuples come back as lists.
    """

    name = ""

    def read(self, message: Any) -> Any:
        """Return what `dump` would store, as the core reads it."""
        if isinstance(message, (dict, Record)):
            return message
        dump = getattr(message, "model_dump", None)
        if dump is not None:
            # Only what was set, as providers refuse some of what is None.
            return dump(mode="json", exclude_unset=True)
        if isinstance(message, Mapping):
            return dict(message)
        raise TypeError(
            f"a store keeps messages that are JSON, such as dicts; got {type(message).__name__}: convert it, or open "
            "the store with a format that can"
        )

    def dump(self, message: Any) -> str:
        """Return a message, as `read` returns it, as JSON."""
        if isinstance(message, Record):
            payload = () if message.payload is None else (b64encode(message.payload).decode(),)
            message = (message.role, message.text, *payload)
        elif not isinstance(message, dict):
            message = self.read(message)
        _check(message)
        try:
            body = _encode(message)
            body.isascii() or body.encode()
        except UnicodeEncodeError:  # a surrogate without a partner
            return json.dumps(message, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise type(error)(f"a message that is stored must be JSON: {error}") from None
        return body

    def load(self, body: str) -> Any:
        """Return the message of `body`."""
        return _message(_decode(body))

    def load_all(self, bodies: list[str]) -> list[Any]:
        """Return the messages of all `bodies`, in less time than one by one."""
        messages = _decode(f"[{','.join(bodies)}]")
        return [_message(message) if type(message) is list else message for message in messages]


def _check(value: Any, depth: int = _DEEPEST) -> None:
    """Refuse what JSON would give back changed, or not at all."""
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
