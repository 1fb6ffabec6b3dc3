"""`MessageFormat`: stores a `ChatMessage` as the JSON that LlamaIndex's own chat stores write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from llama_index.core.llms import ChatMessage, MessageRole
from pydantic import ValidationError

from chatring._core import _is_plain, _made
from chatring.stores.errors import ForeignDataError

_T = TypeVar("_T")


class MessageFormat:
    """LlamaIndex's messages, given back equal. For a subclass of `ChatMessage`: what LlamaIndex makes of its JSON.

    Text, blocks and `additional_kwargs` come back as far as JSON has them: a tuple as a list, bytes in
    `additional_kwargs` as base64.
    """

    name = "llama-index"

    def read(self, message: ChatMessage) -> ChatMessage:
        """Return the message itself: the core knows LlamaIndex's rule for what is counted.

        Raises:
            TypeError: if it is not a `ChatMessage`.
        """
        return checked([message])[0]

    def dump(self, message: ChatMessage) -> str:
        """Return the message's JSON.

        Raises:
            ValueError: if something in the message has no JSON form, LlamaIndex does not have its role, or it could not
                be read back.
        """
        role = MessageRole(message.role)  # an assigned one may be a plain str
        _refuse_images(message)
        body = _json_of(message)
        if _is_plain(message):
            return body
        back = _read_back(_message_of, body)
        # LlamaIndex ignores fields that it does not know.
        if back.role is not role or str(back.content) != str(message.content):
            raise ValueError("a message cannot be stored because its JSON gives a message with another role or text")
        return body

    def load(self, body: str) -> ChatMessage:
        """Return the message that LlamaIndex makes of JSON.

        Raises:
            ForeignDataError: if the JSON is not a message. The error shows none of its contents.
        """
        try:
            return _message_of(body)
        except ValueError as error:
            raise ForeignDataError(f"what is stored is not a ChatMessage: {error}") from error

    def load_all(self, bodies: list[str]) -> list[ChatMessage]:
        """Return the messages with these bodies, in less time than one by one. Raises the same as `load`."""
        try:
            values = json.loads(f"[{','.join(bodies)}]")
        except (ValueError, RecursionError):
            values = []
        if len(values) != len(bodies):  # one is not JSON
            return [self.load(body) for body in bodies]
        return [message or self.load(body) for message, body in zip(_made(values), bodies, strict=True)]


def reread(message: ChatMessage) -> ChatMessage:
    """Return the message that LlamaIndex makes of a message's JSON: a new one, of LlamaIndex's own class.

    Raises:
        ValueError: if something in the message has no JSON form, or it could not be read back.
    """
    _refuse_images(message)
    return _read_back(ChatMessage.model_validate, _json_values(message))


def _refuse_images(message: ChatMessage) -> None:
    kwargs = message.additional_kwargs
    if isinstance(kwargs, dict) and kwargs.get("images"):
        raise ValueError(
            "a message with additional_kwargs['images'] cannot be stored because LlamaIndex cannot read it back; "
            "the images are in the message's blocks: remove the key"
        )


def checked(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Return `messages`, if it is a list of messages.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(messages, list):
        raise TypeError(f"messages must be a list of ChatMessage, got {type(messages).__name__}")
    for message in messages:
        if not isinstance(message, ChatMessage):
            raise TypeError(f"a message must be a ChatMessage, got {message!r} ({type(message).__name__})")
    return messages


def _json_of(message: ChatMessage) -> str:
    # No warnings about unexpected values: reading the message back shows whether it can be read.
    try:
        return message.model_dump_json(warnings=False)
    except (ValueError, TypeError, RecursionError):
        return json.dumps(_json_values(message))  # JSON with lone surrogates must be ASCII


def _json_values(message: ChatMessage) -> dict[str, Any]:
    try:
        return message.model_dump(mode="json", warnings=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"a message has something that has no JSON form: {error}") from error


def _read_back(read: Callable[[_T], ChatMessage], written: _T) -> ChatMessage:
    try:
        return read(written)
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(
            f"a message cannot be stored because it could not be read back from its JSON: {error}"
        ) from error


def _message_of(body: str) -> ChatMessage:
    try:
        try:
            return ChatMessage.model_validate_json(body)
        except ValidationError as error:
            if error.errors()[0]["type"] != "json_invalid":
                raise
            # pydantic accepts no lone surrogates.
            return ChatMessage.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"not JSON of a message: {error}") from error
