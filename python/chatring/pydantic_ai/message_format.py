"""`ModelMessageFormat`: how a `ModelMessage` is read, and kept in a store as the JSON that Pydantic AI makes of it."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from pydantic import ValidationError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
)

# Parts of a request that are Pydantic AI's own: its feedback about an output that it could not use, and its records.
_FRAMEWORKS = {
    "retry-feedback",
    "instruction-baseline",
    "instruction-delta",
    "tool-availability-delta",
    "capability-load-delta",
    "model-settings-delta",
}
# A part that makes the core take a request for results, which no window begins with.
_RESULT = {"part_kind": "retry-prompt"}

Readable: TypeAlias = "ModelMessage | dict[str, Any]"


class ModelMessageFormat:
    """Messages of Pydantic AI, given back equal as far as `ModelMessagesTypeAdapter` gives them back.

    So bytes in a tool's result come back as base64, a tuple as a list. Binary content of prompts comes back as it was.
    """

    name = "pydantic-ai"

    def read(self, message: ModelMessage) -> Readable:
        """Return the message, as the core reads it by itself.

        A request in which only Pydantic AI speaks, such as its feedback about an output that it could not use, is
        returned as one of results: it is not a question, and no window begins with it.

        Raises:
            TypeError: if it is not a `ModelRequest` or `ModelResponse`.
        """
        if isinstance(message, ModelResponse):
            return message
        parts = checked(message).parts
        kinds = {part.part_kind for part in parts}
        if kinds == {"system-prompt"} or not kinds <= {"system-prompt", *_FRAMEWORKS}:
            return message
        return {"kind": "request", "parts": [*parts, _RESULT]}

    def dump(self, message: ModelMessage) -> str:
        """Return the message's JSON.

        Raises:
            TypeError: if it is not a `ModelRequest` or `ModelResponse`.
            ValueError: if something in it has no JSON form.
        """
        checked(message)
        try:
            return ModelMessagesTypeAdapter.dump_json([message], warnings=False)[1:-1].decode()
        except (ValueError, TypeError, RecursionError) as error:
            try:
                # pydantic knows no surrogates without a partner. JSON of them has to be ASCII.
                values = ModelMessagesTypeAdapter.dump_python([message], mode="json", warnings=False)
                return json.dumps(values[0], separators=(",", ":"))
            except (ValueError, TypeError, RecursionError):
                raise ValueError(
                    f"a message cannot be stored, as something in it has no JSON form: {error}. Let tools return "
                    "what JSON has"
                ) from error

    def load(self, body: str) -> ModelMessage:
        """Return the message of JSON.

        Raises:
            ValueError: if it is not one of a message. It tells nothing of the contents.
        """
        return self.load_all([body])[0]

    def load_all(self, bodies: list[str]) -> list[ModelMessage]:
        """Return the messages of all `bodies`, in less time than one by one. Raises: as `load`."""
        text = f"[{','.join(bodies)}]"
        try:
            try:
                messages = ModelMessagesTypeAdapter.validate_json(text)
            except ValidationError as error:
                if error.errors()[0]["type"] != "json_invalid":
                    raise
                messages = ModelMessagesTypeAdapter.validate_python(json.loads(text))  # with such surrogates
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            raise ValueError(f"not a message of Pydantic AI: {first['msg']}") from None
        except (ValueError, RecursionError):
            raise ValueError("not a message of Pydantic AI: not JSON") from None
        if len(messages) != len(bodies):
            raise ValueError("not messages of Pydantic AI, one in each place")
        return messages


def checked(message: Any) -> ModelMessage:
    """Return `message`, if it is one of Pydantic AI's.

    Raises:
        TypeError: if it is not.
    """
    if isinstance(message, (ModelRequest, ModelResponse)):
        return message
    raise TypeError(
        f"a message must be a ModelRequest or ModelResponse of Pydantic AI, got {type(message).__name__}: load JSON "
        "with ModelMessagesTypeAdapter"
    )
