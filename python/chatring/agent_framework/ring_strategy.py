"""`RingStrategy`: a compaction strategy that keeps each model call within a token limit."""

from __future__ import annotations

from typing import Any

from agent_framework import EXCLUDE_REASON_KEY, EXCLUDED_KEY, Message

from chatring.agent_framework.message_format import MessageFormat, is_reasoning
from chatring.agent_framework.step import answers_of, calls_of
from chatring.formats.answered import answered
from chatring.trimmer import Measure, Trimmer

_FORMAT = MessageFormat()
_REASON = "chatring"


class RingStrategy:
    """Leaves out of each model call what does not fit: `Agent(compaction_strategy=...)`.

    A call gets the system messages, the question, and the newest steps that fit, each with all its results; see
    `docs/windows.md`. Calls that nobody has answered, and results without a call, are left out too, since providers
    refuse them. The others are marked as excluded, as by the framework's own strategies; nothing is removed.

    What this strategy excluded, it includes again where the limit has room. What another one did, such as a summary's
    messages, stays as it is. There is no state: one object serves any number of agents and runs at once.

    Args:
        token_limit: tokens that the messages and `initial_token_count` may have together, at least 1. A call is above
            it only if not even its question and newest step fit.
        counter: counts texts: anything that `chatring.TokenCounter` takes.
        measure: what a message's tokens are, as in `MessageRing`: `"message"` or a callable.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1,
            the next calls begin with the same messages, which a provider's prompt cache knows; 0.7 is a good choice.
        initial_token_count: tokens of what is sent beside the messages. The framework shows a strategy neither the
            agent's instructions nor its tools.

    Raises:
        TypeError, ValueError: as `MessageRing`, and for a negative `initial_token_count`. A run raises ValueError if
            system messages and `initial_token_count` exceed the limit.
    """

    def __init__(
        self,
        token_limit: int,
        *,
        counter: Any = "o200k_base",
        measure: Measure[Message] = "message",
        retention_ratio: float = 1.0,
        initial_token_count: int = 0,
    ) -> None:
        self._trimmer: Trimmer[Message] = Trimmer(
            token_limit,
            counter=counter,
            measure=measure,
            retention_ratio=retention_ratio,
            initial_token_count=initial_token_count,
            format=_FORMAT,
        )

    async def __call__(self, messages: list[Message]) -> bool:
        """Mark messages as excluded, or not. Return whether any mark has changed."""
        candidates = [message for message in messages if _is_ours(message)]
        # Stable: all system messages are the head.
        window = self._trimmer.window(sorted(candidates, key=_is_system, reverse=True))
        kept = set(map(id, answered(window, calls_of, answers_of, is_reasoning)))
        changed = False
        for message in candidates:
            properties = message.additional_properties
            excluded = id(message) not in kept
            if bool(properties.get(EXCLUDED_KEY)) is not excluded:
                changed = True
                properties[EXCLUDED_KEY] = excluded
                if excluded:
                    properties[EXCLUDE_REASON_KEY] = _REASON
                else:
                    del properties[EXCLUDE_REASON_KEY]
        return changed


def _is_ours(message: Message) -> bool:
    """Whether a message is included, or this strategy has excluded it."""
    properties = message.additional_properties
    return not properties.get(EXCLUDED_KEY) or properties.get(EXCLUDE_REASON_KEY) == _REASON


def _is_system(message: Message) -> bool:
    return message.role == "system"
