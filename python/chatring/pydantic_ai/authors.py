"""`Authors`: who wrote a prompt that shares a request with results, the user or a tool.

A tool may return content beside its result (`ToolReturn.content`), which becomes a user's prompt behind the result, in
the same request. The user's own prompt is there too, if it came with the results of deferred calls, or if Pydantic AI
has merged the request with the one before it. Then nothing in the part tells the two apart, but what is around it often
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypeGuard
from uuid import UUID

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    RetryPromptPart,
    ToolReturnPart,
    UserPromptPart,
)

Author: TypeAlias = Literal["user", "tool", "unknown"]

UNKNOWN: Any = object()
"""Instead of what the user asked in a run, if that is not known."""


class Authors:
    """Tells the user's prompts from what tools returned.

    Args:
        prompt: what the user asks in the current run; None if nothing.
        run_id: the current run's.
    """

    def __init__(self, prompt: Any = UNKNOWN, run_id: str | None = None) -> None:
        self._prompt = prompt
        self._run_id = run_id
        self._noted: dict[int, tuple[UserPromptPart, Author]] = {}  # by the part's identity, which it keeps alive

    def note(self, messages: Sequence[ModelMessage]) -> None:
        """Note who wrote the prompts in these messages, for when they are merged with others."""
        for position, message in enumerate(messages):
            if isinstance(message, ModelRequest):
                written = self.of(message, *_neighbours(messages, position))
                for part, author in zip(message.parts, written, strict=True):
                    if isinstance(part, UserPromptPart) and author != "unknown":
                        self._noted[id(part)] = part, author

    def question(self, messages: Sequence[ModelMessage], position: int) -> tuple[int, bool] | None:
        """Return where the user's prompt begins in a request that begins with results, and whether that is certain.

        Returns:
            The index of a part. None if the request has no results, or the user says nothing behind them.
        """
        request = messages[position]
        results = [index for index, part in enumerate(request.parts) if is_result(part)]
        if not results or not any(isinstance(part, UserPromptPart) for part in request.parts[results[-1] :]):
            return None
        assert isinstance(request, ModelRequest)
        written = self.of(request, *_neighbours(messages, position))
        behind = range(results[-1] + 1, len(written))
        for author in ("user", "unknown"):
            for index in behind:
                if written[index] == author and isinstance(request.parts[index], UserPromptPart):
                    return index, author == "user"
        return None

    def of(self, request: ModelRequest, before: ModelMessage | None, after: ModelMessage | None) -> list[Author]:
        """Return who wrote each part of a request, for those that are prompts.

        Without results, it is the user. Beside them, the first of these tells: the response before, what the user asks
        in the current run, the time at which the run began. What was noted about a part comes before all of them.

        Args:
            request: the request.
            before: the message in front of it.
            after: the message behind it.
        """
        parts = request.parts
        if not any(map(is_result, parts)):
            written: list[Author] = ["user"] * len(parts)
        else:
            written = (
                _by_response(request, before)
                or self._by_prompt(request)
                or _by_time(request, after)
                or ["unknown"] * len(parts)
            )
        return [self._noted.get(id(part), (part, author))[1] for part, author in zip(parts, written, strict=True)]

    def _by_prompt(self, request: ModelRequest) -> list[Author] | None:
        """Return who wrote the parts of a request of the current run, if it is known what the user asks in it."""
        if self._prompt is UNKNOWN or request.run_id != self._run_id:
            return None
        if self._prompt is None:
            return ["tool"] * len(request.parts)
        written: list[Author] = ["user" if _content(part) == self._prompt else "tool" for part in request.parts]
        # Without it, somebody has changed it.
        return written if "user" in written else ["unknown"] * len(written)


def is_result(part: object) -> TypeGuard[ToolReturnPart | RetryPromptPart]:
    """Whether a part is the result of a call. A prompt to try again is, if it names the tool."""
    return isinstance(part, ToolReturnPart) or (isinstance(part, RetryPromptPart) and part.tool_name is not None)


def _neighbours(messages: Sequence[ModelMessage], position: int) -> tuple[ModelMessage | None, ModelMessage | None]:
    before = messages[position - 1] if position else None
    return before, messages[position + 1] if position + 1 < len(messages) else None


def _by_response(request: ModelRequest, before: ModelMessage | None) -> list[Author] | None:
    """Return who wrote the parts of a request with results, if its own run called these tools.

    A run brings the user's prompt with its first request only.
    """
    called = request.run_id is not None and isinstance(before, ModelResponse) and before.run_id == request.run_id
    return ["tool"] * len(request.parts) if called else None


def _by_time(request: ModelRequest, after: ModelMessage | None) -> list[Author] | None:
    """Return who wrote the parts of a request with results, if those are older than the run.

    A run that ran no tool before its first request has returned nothing, either.
    """
    began = _began(request.run_id or (after.run_id if isinstance(after, ModelResponse) else None))
    if began is None or not all(part.timestamp.timestamp() < began for part in request.parts if is_result(part)):
        return None
    return ["user" if _since(part, began) else "unknown" for part in request.parts]


def _content(part: ModelRequestPart) -> Any:
    return part.content if isinstance(part, UserPromptPart) else None


def _since(part: ModelRequestPart, began: float) -> bool:
    return isinstance(part, UserPromptPart) and part.timestamp.timestamp() >= began


def _began(run_id: str | None) -> float | None:
    """Return when a run began, in seconds since 1970, if its id tells: Pydantic AI's own are of UUID's version 7."""
    try:
        number = UUID(run_id or "")
    except ValueError:
        return None
    return (number.int >> 80) / 1000 if number.version == 7 else None
