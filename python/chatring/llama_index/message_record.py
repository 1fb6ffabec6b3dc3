"""How a `ChatMessage` is kept in a store: as a record of its role, the text that LlamaIndex counts, and its JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from llama_index.core.llms import ChatMessage, MessageRole, TextBlock
from pydantic import BaseModel, ValidationError

from chatring.stores.errors import ForeignDataError
from chatring.stores.record import Record

# Characters or bytes that an event loop turns into JSON and back, a message being 200 of them beside its own. More goes
# to a thread: that takes about 60 us, and so many take 0.1 ms as ASCII, and 1 ms as Han or in 160 short messages, on a
# two-core x86-64 machine.
_MOST_ON_LOOP = 32_768
_MESSAGE_COST = 200
_VALUE_COST = 16


async def records_of(messages: list[ChatMessage]) -> list[Record]:
    """Return the records of messages without keeping an event loop waiting. Raises: as `to_record`."""
    if _is_much(messages):
        return await asyncio.to_thread(lambda: list(map(to_record, messages)))
    return list(map(to_record, messages))


async def messages_of(records: Sequence[Record], key: str) -> list[ChatMessage]:
    """As `to_messages`, without keeping an event loop waiting."""
    left = _MOST_ON_LOOP - _MESSAGE_COST * len(records)
    if left < 0 or sum(len(record.payload or b"") for record in records) > left:
        return await asyncio.to_thread(to_messages, records, key)
    return to_messages(records, key)


def _is_much(messages: list[ChatMessage]) -> bool:
    """Whether messages have more in them than an event loop should turn into JSON."""
    left = _MOST_ON_LOOP - _MESSAGE_COST * len(messages)
    todo: list[Any] = [message for message in messages if not _is_text(message)]
    while todo and left >= 0:
        value = todo.pop()
        if isinstance(value, BaseModel):
            value = value.__dict__
        left -= _VALUE_COST
        if isinstance(value, (str, bytes)):
            left -= len(value)
        elif isinstance(value, (dict, list, tuple, set, frozenset)):
            left -= _VALUE_COST * len(value)
            if left >= 0:
                todo.extend(value)
                todo.extend(value.values() if isinstance(value, dict) else ())
    return left < 0


def to_record(message: ChatMessage) -> Record:
    """Return the record of a message.

    Its payload is the message's JSON, in UTF-8. A message that is a role, one text and nothing else needs none.

    Raises:
        ValueError: if something in the message has no JSON form, LlamaIndex does not have its role, or its role and
            text could not be read back.
    """
    # A role that was assigned may be a plain str.
    role, text = MessageRole(message.role).value, str(message.content)
    if _is_text(message):
        return Record(role, text)
    record = Record(role, text, _payload(message))
    try:
        to_message(record)
    except ValueError as error:
        raise ValueError(f"a message cannot be stored, as it could not be read back from its JSON: {error}") from error
    return record


def to_message(record: Record) -> ChatMessage:
    """Return the message of a record.

    Raises:
        ValueError: if the payload is not the JSON of a message of this role and text, or LlamaIndex does not have the
            role. It tells nothing of the contents.
    """
    if record.payload is None:
        try:
            return ChatMessage(role=record.role, content=record.text)
        except ValidationError as error:
            raise ValueError(_reason(error)) from error
    message = message_of_json(record.payload)
    # Any JSON object is a message to LlamaIndex, which ignores what it does not know.
    if message.role.value != record.role or str(message.content) != record.text:
        raise ValueError("its payload is the JSON of something else")
    return message


def to_messages(records: Sequence[Record], key: str) -> list[ChatMessage]:
    """Return the messages of records, the last ones of session `key`.

    Raises:
        ForeignDataError: if one is no message.
    """
    messages: list[ChatMessage] = []
    try:
        for record in records:
            message = to_message(record)
            messages.append(message)
    except ValueError as error:
        place = len(messages) - len(records)
        raise ForeignDataError(f"session {key!r}: record {place} is not a ChatMessage: {error}") from error
    return messages


def message_of_json(data: bytes | str) -> ChatMessage:
    """Return the message that LlamaIndex makes of JSON.

    Raises:
        ValueError: if it makes none. It tells nothing of the contents.
    """
    try:
        try:
            return ChatMessage.model_validate_json(data)
        except ValidationError as error:
            if error.errors()[0]["type"] != "json_invalid":
                raise
            # pydantic knows no surrogates without a partner.
            return ChatMessage.model_validate(json.loads(data))
    except ValidationError as error:
        raise ValueError(_reason(error)) from error
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"not JSON of a message: {error}") from error


def _is_text(message: ChatMessage) -> bool:
    """Whether a message is a role, one text and nothing else."""
    if type(message) is not ChatMessage or message.additional_kwargs:
        return False
    match message.blocks:
        case [block]:
            return type(block) is TextBlock
    return False


def _payload(message: ChatMessage) -> bytes:
    if message.additional_kwargs.get("images"):
        raise ValueError(
            "a message with additional_kwargs['images'] cannot be stored, as LlamaIndex cannot read it back; "
            "the images are in the message's blocks: remove the key"
        )
    # No warnings of what is unexpected: whether it can be read back is seen by reading it.
    try:
        return message.model_dump_json(warnings=False).encode()
    except (ValueError, TypeError, RecursionError):
        try:
            # JSON of surrogates without a partner has to be ASCII.
            return json.dumps(message.model_dump(mode="json", warnings=False)).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"a message has something that has no JSON form: {error}") from error


def _reason(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
