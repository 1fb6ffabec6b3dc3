"""Conversations in JSON Lines: one message a line, or one conversation a line as `{"messages": [...]}`."""

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

from chatring._core import MessageRing

Message: TypeAlias = dict[str, Any]
Conversation: TypeAlias = MessageRing[Message]


class ConversationError(ValueError):
    """Lines that are not conversations. The text names the line to blame, counted from 1."""


def read_conversations(lines: Iterable[bytes]) -> list[Conversation]:
    """Return the conversations of a JSON Lines file in UTF-8.

    Messages one a line are one conversation. Blank lines are skipped. The messages are OpenAI's chat messages, kept as
    the dicts that JSON gives, but one with `tool_calls` and no `content` at all gets the content None.

    Raises:
        ConversationError: for a line that is not UTF-8, not JSON, or neither a message nor a conversation; for lines of
            both forms; if there is no line but blank ones.

    """
    conversations: list[Conversation] = []
    first_line = 0
    first_form = ""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = _parse(line)
            form = _form(value)
            if not first_form:
                first_line, first_form = number, form
            if form != first_form:
                raise ValueError(
                    f"this is {form}, but line {first_line} is {first_form}; all lines must be of one form"
                )
            if form == "a conversation":
                conversations.append(_conversation(value["messages"]))
            else:
                if not conversations:
                    conversations.append(MessageRing(counter="cl100k_base", measure="text"))
                _put(value, conversations[0])
        except ValueError as error:
            raise ConversationError(f"line {number}: {error}") from error
    if not conversations:
        raise ConversationError("no messages: the file is empty")
    return conversations


def concatenate(conversations: Iterable[Conversation]) -> Conversation:
    """Return one history of all messages, in order."""
    history: Conversation = MessageRing(counter="cl100k_base", measure="text")
    for conversation in conversations:
        history.put_messages(conversation)
    return history


def _parse(line: bytes) -> Any:
    try:
        # Files written on Windows may begin with a byte order mark.
        return json.loads(line.decode("utf-8-sig").rstrip(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.pos + 1}") from error
    except RecursionError as error:
        raise ValueError("not a message: nested too deeply") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"not JSON: {constant} is not a JSON number")


def _form(value: Any) -> str:
    match value:
        case {"messages": list()}:
            return "a conversation"
        case {"role": _} | {"content": _}:
            return "a message"
        case _:
            raise ValueError('neither a message with role and content nor a conversation, {"messages": [...]}')


def _conversation(messages: list[Any]) -> Conversation:
    conversation: Conversation = MessageRing(counter="cl100k_base", measure="text")
    for index, message in enumerate(messages):
        _put(message, conversation, place=f"messages[{index}]: ")
    return conversation


def _put(message: Any, conversation: Conversation, *, place: str = "") -> None:
    # Many clients leave out keys whose value is null before they log a message.
    if isinstance(message, dict) and message.get("tool_calls") and "content" not in message:
        message = {**message, "content": None}
    try:
        conversation.put(message)
    except TypeError as error:
        raise ValueError(f"{place}{error}") from error
