"""`WaitingCalls`: calls whose results have not come yet."""

from __future__ import annotations

import logging

from autogen_core.models import AssistantMessage, FunctionExecutionResultMessage, LLMMessage

from chatring.formats.steps import Steps

_logger = logging.getLogger(__name__)


class WaitingCalls:
    """Keeps calls back until they have all their results. Providers refuse one without the other.

    So a run that is cancelled leaves nothing behind, and one that adds messages between another one's calls and results
    does not part them.
    """

    def __init__(self) -> None:
        self._steps: Steps[LLMMessage] = Steps()

    def complete(self, message: LLMMessage) -> list[LLMMessage]:
        """Return what goes into the history now that `message` is there, oldest first."""
        if isinstance(message, AssistantMessage) and isinstance(message.content, list) and message.content:
            self._steps.add(message, [call.id for call in message.content])
            return []
        if not isinstance(message, FunctionExecutionResultMessage):
            return [message]
        ids = [result.call_id for result in message.content]
        step = self._steps.answer(message, ids)
        if step is None:
            _logger.warning("results of calls that are not there are left out: %s", sorted(set(ids)))
            return []
        if step.waits_for:
            return []
        self._steps.all.remove(step)
        return step.messages
