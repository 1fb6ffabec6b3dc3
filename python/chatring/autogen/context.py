"""`RingChatCompletionContext`: what an agent of AutoGen's sends its model, by tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autogen_core import Component
from autogen_core.model_context import ChatCompletionContext, ChatCompletionContextState
from autogen_core.models import LLMMessage
from pydantic import BaseModel
from typing_extensions import Self, override

from chatring import MessageRing
from chatring.autogen.sent import sent
from chatring.autogen.waiting_calls import WaitingCalls
from chatring.trimmer import Measure, Trimmer


class RingChatCompletionContextConfig(BaseModel):
    """What `RingChatCompletionContext` is made of, as JSON. The fields are its arguments."""

    token_limit: int
    counter: str = "o200k_base"
    retention_ratio: float = 1.0
    initial_token_count: int = 0
    initial_messages: list[LLMMessage] | None = None


class RingChatCompletionContext(ChatCompletionContext, Component[RingChatCompletionContextConfig]):
    """A context whose messages are the newest that fit: `AssistantAgent(..., model_context=...)`.

    What does not fit leaves at the old end, whole turns first, then the oldest steps of the turn. So a model gets the
    question and the newest steps, each call with all its results; see `docs/windows.md`. This is not what AutoGen's
    `TokenLimitedChatCompletionContext` does: it deletes from the middle, one message at a time, and keeps the oldest
    half and the newest half of what fits, with calls and results parted.

    The context itself keeps everything but calls that have no result: it has them once the last of their results is
    added. So it is valid at any moment, also when a run is cancelled, or several runs share it.

    Args:
        token_limit: tokens that the messages and `initial_token_count` may have together, at least 1. They are above it
            only if not even the question and its newest step fit.
        counter: counts texts: anything that `chatring.TokenCounter` takes.
        measure: what a message's tokens are: `"message"`, all that AutoGen's client of OpenAI sends of it, or a
            callable.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1,
            the next calls begin with the same messages, which a provider's prompt cache knows; 0.7 is a good choice.
        initial_token_count: tokens of what is sent beside the messages: the agent's system message, which it adds
            itself, and the tools.
        initial_messages: what the context begins with, oldest first.

    Raises:
        TypeError, ValueError: as `MessageRing`, and for a negative `initial_token_count`.
    """

    component_config_schema = RingChatCompletionContextConfig
    component_provider_override = "chatring.autogen.RingChatCompletionContext"

    def __init__(
        self,
        token_limit: int,
        *,
        counter: Any = "o200k_base",
        measure: Measure[LLMMessage] = "message",
        retention_ratio: float = 1.0,
        initial_token_count: int = 0,
        initial_messages: list[LLMMessage] | None = None,
    ) -> None:
        super().__init__()
        trimmer: Trimmer[Any] = Trimmer(
            token_limit,
            counter=counter,
            measure=measure,
            retention_ratio=retention_ratio,
            initial_token_count=initial_token_count,
        )
        self._ring: MessageRing[LLMMessage] = MessageRing(
            token_limit,
            trimmer.counter,
            # A message with several results is several when it is sent.
            measure=(lambda message: sum(map(trimmer.count, sent(message)))) if isinstance(measure, str) else measure,
            retention_ratio=retention_ratio,
        )
        self._beside, self._measure = initial_token_count, measure
        self._waiting = WaitingCalls()
        self._initial_messages = initial_messages
        self._set(initial_messages or ())

    @override
    async def add_message(self, message: LLMMessage) -> None:
        """Add the newest message. Calls wait for their results; results without a call are left out, and logged.

        Raises:
            TypeError: if it is not a message of AutoGen's.
        """
        sent(message)  # raises
        self._ring.put_messages(self._waiting.complete(message))

    @override
    async def get_messages(self) -> list[LLMMessage]:
        """Return the messages that fit, oldest first: a new list.

        Raises:
            ValueError: if leading system messages and `initial_token_count` exceed the limit, with the numbers.
        """
        return self._ring.get(initial_token_count=self._beside)

    @override
    async def clear(self) -> None:
        """Remove all messages, the initial ones too."""
        self._set(())

    @override
    async def save_state(self) -> Mapping[str, Any]:
        """Return all messages, in the form that AutoGen's own contexts have."""
        return ChatCompletionContextState(messages=self._ring.get_all()).model_dump()

    @override
    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace all messages by the messages of a state, saved by this context or by one of AutoGen's.

        Raises:
            ValueError: if it is not a state; nothing is changed then.
        """
        self._set(ChatCompletionContextState.model_validate(state).messages)

    def _set(self, messages: Sequence[LLMMessage]) -> None:
        waiting = WaitingCalls()
        for message in messages:
            sent(message)
        self._ring.set([complete for message in messages for complete in waiting.complete(message)])
        self._waiting = waiting

    @override
    def _to_config(self) -> RingChatCompletionContextConfig:
        ring = self._ring
        if not ring.counter.is_native or self._measure != "message":
            raise ValueError(
                f"a context with a callable cannot be dumped, this one has counter {ring.counter!r} and measure "
                f"{self._measure!r}: give the counter as an encoding's name, and no measure"
            )
        return RingChatCompletionContextConfig(
            token_limit=ring.token_limit,
            counter=ring.counter.name,
            retention_ratio=ring.retention_ratio,
            initial_token_count=self._beside,
            initial_messages=self._initial_messages,
        )

    @classmethod
    @override
    def _from_config(cls, config: RingChatCompletionContextConfig) -> Self:
        return cls(
            config.token_limit,
            counter=config.counter,
            retention_ratio=config.retention_ratio,
            initial_token_count=config.initial_token_count,
            initial_messages=config.initial_messages,
        )
