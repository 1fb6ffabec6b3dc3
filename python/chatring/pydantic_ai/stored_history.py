"""`StoredHistory`: a capability that keeps conversations in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from pydantic_ai.capabilities import AbstractCapability, WrapRunHandler
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT, RunContext

from chatring.limits import check_limits
from chatring.pydantic_ai.authors import Authors
from chatring.pydantic_ai.message_format import ModelMessageFormat
from chatring.pydantic_ai.requests import calls_of, messages_to_store, results_of, to_store
from chatring.stores.check_store import check_store
from chatring.stores.lookback import lookback
from chatring.stores.store import Store
from chatring.stores.to_its_end import to_its_end


@dataclass
class StoredHistory(AbstractCapability[AgentDepsT]):
    """Begins each run with the window of its conversation, and appends to it what the run has added.

    The conversation's key is the run's `conversation_id`. A run that is given messages (`message_history=`,
    `conversation=`) begins with those instead: so the results of deferred calls are handed in. What a run has added is
    one append, when it has succeeded. Nothing of a run that raises or is cancelled is stored, unless it is cancelled
    during that append, which is made to its end. A call without its result is never stored.

    Args:
        store: opened with `format=ModelMessageFormat()`, or with a format of yours for the same messages.
        token_limit: tokens that the stored messages of a run may have, at least 1. `TrimMessages` is for what the run
            adds.
        initial_token_count: tokens of this limit that are for something else.
        retention_ratio: as of `Store.window`.

    Raises:
        TypeError, ValueError: for a store of other messages or with another start rule, and as `Store.window`. In a run
            what the store raises, and UserError if its `run_id` belongs to a stored run: `new_messages()` would be
            wrong.
    """

    store: Store[ModelMessage]
    token_limit: int
    _: KW_ONLY
    initial_token_count: int = 0
    retention_ratio: float = 1.0

    def __post_init__(self) -> None:
        check_store(
            self.store,
            ModelMessageFormat,
            ModelRequest(parts=[UserPromptPart("Hello")]),
            "StoredHistory needs a store of Pydantic AI's messages: open_store(url, format=ModelMessageFormat())",
        )
        check_limits(self.token_limit, self.initial_token_count, self.retention_ratio)

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Put the window before the run's messages, and append what is new after it."""
        if ctx.conversation_id is None:
            raise UserError("StoredHistory needs the run's conversation: run the agent with conversation_id=")
        given = list(ctx.messages)
        if not given:
            ctx.messages[:0] = await self._window(ctx)
        prompt, conversation = ctx.prompt, ctx.conversation_id
        result = await handler()
        # To its end, as nobody knows of an append that is broken off whether it was made.
        await to_its_end(self._append(conversation, given, result.new_messages(), Authors(prompt, ctx.run_id)))
        return result

    async def _append(
        self, conversation: str, given: Sequence[ModelMessage], new: Sequence[ModelMessage], authors: Authors
    ) -> None:
        """Append what a run has added, and what at the end of the messages it was given is not stored."""
        waiting = _unanswered(given)
        run = given[-1].run_id if waiting or (given and isinstance(given[-1], ModelRequest)) else None
        if run is None and not waiting:
            if stored := to_store(new, authors):
                await self.store.aappend(conversation, stored)
            return

        def append(last: list[ModelMessage]) -> list[ModelMessage]:
            return [*last, *to_store([*_unstored(given, waiting, run, last), *new], authors)]

        await self.store.aupdate(conversation, -lookback(len(given)), append)

    async def _window(self, ctx: RunContext[AgentDepsT]) -> list[ModelMessage]:
        window = await self.store.awindow(
            ctx.conversation_id or "",
            self.token_limit,
            self.initial_token_count,
            retention_ratio=self.retention_ratio,
        )
        if any(message.run_id == ctx.run_id for message in window):
            raise UserError(
                f"run_id={ctx.run_id!r} belongs to a run whose messages are stored in the conversation "
                f"{ctx.conversation_id!r}: give each run its own, or none"
            )
        return window

    @classmethod
    def get_serialization_name(cls) -> str | None:
        """Return None: a store has no place in an agent's specification."""
        return None


def _run(given: Sequence[ModelMessage], run: str | None) -> Sequence[ModelMessage]:
    """Return a run's messages, which are the last, and the calls in front whose results it began with."""
    begin = next(position for position, message in enumerate(given) if message.run_id == run)
    if any(results_of(given[begin])):
        begin = next((place for place in range(begin - 1, -1, -1) if isinstance(given[place], ModelResponse)), begin)
    return given[begin:]


def _unstored(
    given: Sequence[ModelMessage], waiting: Sequence[ModelMessage], run: str | None, stored: Sequence[ModelMessage]
) -> Sequence[ModelMessage]:
    """Return what at the end of messages is not stored: of a run that failed, or calls that wait for results."""
    ended = run is None or any(message.run_id == run for message in stored)
    unstored = waiting if ended else _run(given, run)
    # The calls may have been given their results before. Without them, those of now are left out.
    return unstored[1:] if unstored and _response_in(stored, unstored[0]) else unstored


def _unanswered(given: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """Return the last response of messages and what follows, if it has calls that wait for results.

    They were not stored when their run ended. This one may have the results.
    """
    for position in range(len(given) - 1, -1, -1):
        if isinstance(given[position], ModelResponse):
            waiting = given[position:]
            return waiting if len(messages_to_store(waiting)) < len(waiting) else ()
    return ()


def _response_in(stored: Sequence[ModelMessage], response: ModelMessage) -> bool:
    """Return whether a response with calls is among stored messages. Not every model's ids of calls are unique."""

    def identity(message: ModelMessage) -> tuple[object, ...]:
        return message.kind, message.run_id, message.timestamp, *calls_of(message)

    return isinstance(response, ModelResponse) and identity(response) in map(identity, stored)
