"""`MessageFormat`: how LangChain's messages are kept in a store, as the JSON that its own chat histories write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, message_to_dict, messages_from_dict

from chatring.formats import JsonFormat
from chatring.formats.answered import answered
from chatring.stores.errors import ForeignDataError

_json = JsonFormat()


class MessageFormat:
    """Messages of LangChain, given back equal, with their ids.

    What is stored is the JSON of what LangChain's `message_to_dict` makes: tuples come back as lists, and pydantic
    models within a message as dicts.

    Args:
        artifacts: whether to store what a tool keeps beside its result, `ToolMessage.artifact`, which no model is
            sent. It must then be JSON. False leaves it out.
    """

    name = "langchain"

    def __init__(self, *, artifacts: bool = True) -> None:
        self._artifacts = artifacts

    def read(self, message: BaseMessage) -> BaseMessage:
        """Return the message itself: the core reads LangChain's.

        Raises:
            TypeError: if it is not one.
        """
        if not isinstance(message, BaseMessage):
            raise TypeError(
                f"a message must be one of LangChain's, such as HumanMessage; got {type(message).__name__}: "
                "langchain_core.messages.convert_to_messages makes them of dicts and tuples"
            )
        return message

    def dump(self, message: BaseMessage) -> str:
        """Return the message's JSON.

        Raises:
            TypeError, ValueError: if something in it is not JSON.
        """
        value = message_to_dict(message)
        if not self._artifacts:
            value["data"].pop("artifact", None)
        try:
            return _json.dump(value)
        except (TypeError, ValueError) as error:
            hint = ""
            if self._artifacts and getattr(message, "artifact", None) is not None:
                hint = "; MessageFormat(artifacts=False) leaves artifacts out"
            raise type(error)(f"the {message.type} message {message.id!r} cannot be stored: {error}{hint}") from error

    def load(self, body: str) -> BaseMessage:
        """Return the message of its JSON.

        Raises:
            ForeignDataError: if it is not the JSON of a message. The error does not show the contents.
        """
        return self.load_all([body])[0]

    def load_all(self, bodies: list[str]) -> list[BaseMessage]:
        """Return the messages of all `bodies`, in less time than one by one. Raises: as `load`."""
        try:
            return messages_from_dict(_json.load_all(bodies))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            kind = type(error).__name__
            raise ForeignDataError(f"what is stored is not a message of LangChain's ({kind})") from None


def without_unanswered(messages: Sequence[Any]) -> list[Any]:
    """Return the messages without calls that have no result, and without results whose call is not there."""
    return answered(messages, _calls, _results)


def _calls(message: BaseMessage) -> list[str]:
    if not isinstance(message, AIMessage):
        return []
    # Providers are sent the invalid ones too: LangChain answers them with an error.
    return [call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls) if call["id"] is not None]


def _results(message: BaseMessage) -> list[str]:
    return [message.tool_call_id] if isinstance(message, ToolMessage) else []
