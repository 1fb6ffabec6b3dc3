"""`MessageFormat`: how a `ChatMessage` is kept in a store, as the JSON that LlamaIndex's own chat stores write."""

from __future__ import annotations

import json

from llama_index.core.llms import ChatMessage, MessageRole
from pydantic import ValidationError

from chatring.stores.errors import ForeignDataError


class MessageFormat:
    """Messages of LlamaIndex, given back equal; of a subclass, what LlamaIndex makes of its JSON.

    Text, blocks and `additional_kwargs` come back as they were, as far as JSON has them: a tuple as a list, bytes in
    `additional_kwargs` as base64.
    """

    name = "llama-index"

    def read(self, message: ChatMessage) -> ChatMessage:
        """Return the message itself: LlamaIndex's rule for what is counted is the core's own.

        Raises:
            TypeError: if it is not a `ChatMessage`.
        """
        if not isinstance(message, ChatMessage):
            raise TypeError(f"a message must be a ChatMessage, got {message!r} ({type(message).__name__})")
        return message

    def dump(self, message: ChatMessage) -> str:
        """Return the message's JSON.

        Raises:
            ValueError: if something in the message has no JSON form, LlamaIndex does not have its role, or it could not
                be read back.
        """
        role = MessageRole(message.role)  # one that was assigned may be a plain str
        if message.additional_kwargs.get("images"):
            raise ValueError(
                "a message with additional_kwargs['images'] cannot be stored, as LlamaIndex cannot read it back; "
                "the images are in the message's blocks: remove the key"
            )
        body = _json_of(message)
        try:
            back = _message_of(body)
        except ValueError as error:
            raise ValueError(
                f"a message cannot be stored, as it could not be read back from its JSON: {error}"
            ) from error
        # LlamaIndex ignores what it does not know.
        if back.role is not role or str(back.content) != str(message.content):
            raise ValueError("a message cannot be stored, as its JSON is that of a message with another role or text")
        return body

    def load(self, body: str) -> ChatMessage:
        """Return the message that LlamaIndex makes of JSON.

        Raises:
            ForeignDataError: if it makes none. It tells nothing of the contents.
        """
        try:
            return _message_of(body)
        except ValueError as error:
            raise ForeignDataError(f"what is stored is not a ChatMessage: {error}") from error


def _json_of(message: ChatMessage) -> str:
    # No warnings of what is unexpected: whether it can be read back is seen by reading it.
    try:
        return message.model_dump_json(warnings=False)
    except (ValueError, TypeError, RecursionError):
        try:
            # JSON of surrogates without a partner has to be ASCII.
            return json.dumps(message.model_dump(mode="json", warnings=False))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"a message has something that has no JSON form: {error}") from error


def _message_of(body: str) -> ChatMessage:
    try:
        try:
            return ChatMessage.model_validate_json(body)
        except ValidationError as error:
            if error.errors()[0]["type"] != "json_invalid":
                raise
            # pydantic knows no surrogates without a partner.
            return ChatMessage.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"not JSON of a message: {error}") from error
