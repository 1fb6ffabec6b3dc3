"""`MessageFormat`: how messages of Agent Framework are read, and kept in a store as the JSON of their `to_dict`."""

from __future__ import annotations

import re
from typing import Any

from agent_framework import EXCLUDE_REASON_KEY, EXCLUDED_KEY, GROUP_ANNOTATION_KEY, Message

from chatring.formats import JsonFormat
from chatring.stores.errors import ForeignDataError

_json = JsonFormat()

# Compaction numbers the messages of one request that have no id. Another request has the same numbers.
_NUMBERED = re.compile(r"msg_\d+")


class MessageFormat:
    """Messages of Agent Framework, given back equal as far as `Message.from_dict(message.to_dict())` is.

    So `raw_representation` and objects that have no JSON form are left out, and a tool's `exception` becomes a mark.
    What compaction notes in a message is about one request, and is not stored either.
    """

    name = "agent-framework"

    def read(self, message: Message) -> Any:
        """Return the message, as the core reads it by itself.

        Reasoning in a message of its own is returned as an item of reasoning: the call behind it needs it.

        Raises:
            TypeError: if it is not a `Message`.
        """
        if not isinstance(message, Message):
            raise TypeError(
                f"a message must be an agent_framework.Message, got {type(message).__name__}: make one of JSON with "
                "Message.from_dict"
            )
        if is_reasoning(message):
            return {"type": "reasoning", "content": message.contents}
        return message

    def dump(self, message: Message) -> str:
        """Return the message's JSON.

        Raises:
            TypeError, ValueError: if something in it is not JSON.
        """
        value = message.to_dict()
        properties = value.get("additional_properties", {})
        if message_id(message) is None:
            value.pop("message_id", None)
        for key in (GROUP_ANNOTATION_KEY, EXCLUDED_KEY, EXCLUDE_REASON_KEY):
            properties.pop(key, None)
        try:
            return _json.dump(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the {message.role} message {message.message_id!r} cannot be stored: {error}") from error

    def load(self, body: str) -> Message:
        """Return the message of its JSON.

        Raises:
            ForeignDataError: if it is not the JSON of a message. The error does not show the contents.
        """
        return self.load_all([body])[0]

    def load_all(self, bodies: list[str]) -> list[Message]:
        """Return the messages of all `bodies`, in less time than one by one. Raises: as `load`."""
        try:
            return [Message.from_dict(value) for value in _json.load_all(bodies)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            kind = type(error).__name__
            raise ForeignDataError(f"what is stored is not a message of Agent Framework's ({kind})") from None


def is_reasoning(message: Message) -> bool:
    """Whether a message is reasoning alone, and belongs to the one behind it."""
    contents = message.contents
    return (
        message.role == "assistant" and bool(contents) and all(content.type == "text_reasoning" for content in contents)
    )


def message_id(message: Message) -> str | None:
    """Return the id of a message, unless it is the number that compaction gave it."""
    found = message.message_id
    if found is not None and GROUP_ANNOTATION_KEY in message.additional_properties and _NUMBERED.fullmatch(found):
        return None
    return found
