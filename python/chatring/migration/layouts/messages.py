"""Messages from the JSON that others have written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from chatring.migration.source import OF_LLAMA_INDEX


def json_messages(items: Iterable[bytes | str | None]) -> list[Any]:
    """Return the objects that items of JSON are.

    Raises:
        ValueError: if one is not; it tells nothing of the contents.
    """
    messages: list[Any] = []
    for item in items:
        value = object_of(item)
        if value is None:
            raise ValueError(f"message {len(messages)}: it is not a JSON object")
        messages.append(value)
    return messages


def chat_messages(items: Iterable[bytes | str | None]) -> list[Any]:
    """Return the messages that LlamaIndex makes of items of JSON.

    Raises:
        ValueError: if it makes none of one; it tells nothing of the contents.
    """
    codec = OF_LLAMA_INDEX.codec()
    messages: list[Any] = []
    try:
        for item in items:
            message = codec.load(item.decode() if isinstance(item, bytes) else item or "null")
            messages.append(message)
    except ValueError as error:
        raise ValueError(f"message {len(messages)}: {error}") from error
    return messages


def object_of(item: bytes | str | None) -> dict[str, Any] | None:
    """Return the JSON object that an item is, or None."""
    try:
        value = None if item is None else json.loads(item)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
