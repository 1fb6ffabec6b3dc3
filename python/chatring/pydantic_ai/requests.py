"""Requests of Pydantic AI that are several messages in one: system prompts, results and the user's prompt.

A window keeps or leaves whole messages. So before it is searched, the system prompts at the beginning of a history
become a message of their own, which stays in every window. So does a user's prompt that shares a request with results,
as it would not be found as the question otherwise; `Authors` tells which prompts are. Pydantic AI merges neighbours
again before it sends them.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    SystemPromptPart,
    ToolCallPart,
    UserPromptPart,
)

from chatring.formats.answered import answered
from chatring.pydantic_ai.authors import UNKNOWN, Authors, is_result


class Pieces:
    """The messages of a history, with those apart that Pydantic AI has merged into one request.

    Args:
        messages: oldest first. They are not changed.
        authors: tells whether a prompt beside results is the user's. If that cannot be known, it is taken for the
            user's, and is apart.

    Attributes:
        all: the pieces, oldest first; the message itself where it is only one.
    """

    def __init__(self, messages: Sequence[ModelMessage] = (), authors: Authors | None = None) -> None:
        self.all: list[ModelMessage] = []
        self.authors = authors or Authors()
        self._messages: Sequence[ModelMessage] = ()
        self._owners: list[int] = []  # of each piece, the message's position
        self._sizes: list[int] = []  # of each message, the number of its pieces
        self._unsure: set[int] = set()  # the pieces that may be a tool's
        self.update(messages)

    def update(self, messages: Sequence[ModelMessage]) -> int:
        """Replace the messages. Return how many of the first pieces have stayed."""
        same = next(
            (index for index, pair in enumerate(zip(self._messages, messages, strict=False)) if operator.is_not(*pair)),
            min(len(self._messages), len(messages)),
        )
        # Pydantic AI writes into the newest request until it is answered, and the message behind one tells about it.
        same = max(same - 1, 0)
        kept = sum(self._sizes[:same])
        del self.all[kept:], self._owners[kept:], self._sizes[same:]
        self._unsure = {piece for piece in self._unsure if piece < kept}
        self._messages = list(messages)
        for position in range(same, len(messages)):
            pieces, is_sure = self._pieces(position)
            self.all += pieces
            self._owners += [position] * len(pieces)
            self._sizes.append(len(pieces))
            if not is_sure:
                self._unsure.add(len(self.all) - 1)
        return kept

    def questions_before(self, piece: int) -> list[int]:
        """Return the questions without which the one at a position might not be the user's, the oldest first.

        That is none, if the piece is certainly the user's. Otherwise they go back to one that is.
        """
        found: list[int] = []
        while piece in self._unsure:
            earlier = next((index for index in range(piece - 1, -1, -1) if _asks(self.all[index])), None)
            if earlier is None:
                break
            found.insert(0, piece := earlier)
        return found

    def _pieces(self, position: int) -> tuple[list[ModelMessage], bool]:
        """Return the pieces of the message at a position, and whether the last is what it seems."""
        message = self._messages[position]
        if not isinstance(message, ModelRequest):
            return [message], True
        parts = list(message.parts)
        cuts = [0, len(parts)]
        prompts = _standing_prompts(parts) if position == 0 else 0
        if 0 < prompts < len(parts):
            cuts.insert(1, prompts)
        question = self.authors.question(self._messages, position)
        if question is not None:
            cuts.insert(-1, question[0])
        if len(cuts) == 2:
            return [message], True
        pieces = [replace(message, parts=parts[begin:end]) for begin, end in itertools.pairwise(cuts)]
        if 0 < prompts < len(parts):
            # Without instructions, so that Pydantic AI merges it with whatever the window has behind it.
            pieces[0] = replace(pieces[0], instructions=None, metadata=None)
        return list(pieces), question is None or question[1]

    def joined(self, kept: Iterable[int]) -> list[ModelMessage]:
        """Return the pieces at the positions `kept`, oldest first; the message itself where all its pieces are kept."""
        joined: list[ModelMessage] = []
        for owner, positions in groupby(kept, self._owners.__getitem__):
            pieces = [self.all[position] for position in positions]
            joined += [self._messages[owner]] if len(pieces) == self._sizes[owner] else pieces
        return joined


def messages_to_store(messages: Sequence[ModelMessage], prompt: Any = None) -> list[ModelMessage]:
    """Return messages as `StoredHistory` stores them: to move a history of yours into a store.

    The system prompts of the first request are a message of their own, which every window has. Calls that have no
    result, and results without their call, are left out.

    Args:
        messages: a whole history or what a run has added, oldest first.
        prompt: what the user asked in the run of the last message, if that is known.
    """
    run_id = messages[-1].run_id if messages else None
    return to_store(messages, Authors(UNKNOWN if prompt is None else prompt, run_id))


def to_store(messages: Sequence[ModelMessage], authors: Authors) -> list[ModelMessage]:
    """Do the work of `messages_to_store`."""
    return answered(Pieces(messages, authors).all, calls_of, results_of)


def calls_of(message: ModelMessage) -> Iterator[str]:
    """Yield the ids of the calls in a message that wait for a result; what providers run themselves does not."""
    if isinstance(message, ModelResponse):
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                yield part.tool_call_id


def results_of(message: ModelMessage) -> Iterator[str]:
    """Yield the ids of the calls that a message has the results of."""
    if isinstance(message, ModelRequest):
        for part in message.parts:
            if is_result(part):
                yield part.tool_call_id


def _standing_prompts(parts: Sequence[ModelRequestPart]) -> int:
    """Return how many system prompts a request begins with that hold for the whole conversation."""
    for index, part in enumerate(parts):
        if not isinstance(part, SystemPromptPart) or getattr(part, "scope", None) == "request":
            return index
    return len(parts)


def _asks(message: ModelMessage) -> bool:
    """Whether the user says something in a piece."""
    return (
        isinstance(message, ModelRequest)
        and any(isinstance(part, UserPromptPart) for part in message.parts)
        and not any(map(is_result, message.parts))
    )
