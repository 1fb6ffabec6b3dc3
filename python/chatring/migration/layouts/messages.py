"""Messages from the JSON that others have written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from chatring.migration.source import OF_LLAMA_INDEX


def json_messages(items: Iterable[bytes | str | None]) -> list[Any]:
    """Return the objects in items of JSON.

    Raises:
        ValueError: if an item is not an object. The error shows none of its contents.
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
        ValueError: if an item is not a message. The error shows none of its contents.
    """
    message_format = OF_LLAMA_INDEX.message_format()
    messages: list[Any] = []
    try:
        for item in items:
            message = message_format.load(item.decode() if isinstance(item, bytes) else item or "null")
            messages.append(message)
    except ValueError as error:
        raise ValueError(f"message {len(messages)}: {error}") from error
    return messages


def object_of(item: bytes | str | None) -> dict[str, Any] | None:
    """Return the JSON object in an item; None if it is not one."""
    try:
        value = None if item is None else json.loads(item)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
