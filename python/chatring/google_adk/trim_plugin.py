"""`TrimPlugin`: what goes into each model call of an app, by tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.adk.plugins.base_plugin import BasePlugin
from google.genai import types
from typing_extensions import override

from chatring.google_adk.contents import first_of, inserted, spoken
from chatring.trimmer import Measure, Trimmer
from chatring.window import positions_of

if TYPE_CHECKING:
    from google.adk.agents.callback_context import CallbackContext
    from google.adk.models.llm_request import LlmRequest
    from google.adk.models.llm_response import LlmResponse


class TrimPlugin(BasePlugin):
    """Leaves out of each model call what does not fit: `Runner(app=App(..., plugins=[TrimPlugin(16_000)]))`.

    A call gets the window of its contents: the question, and the newest steps that fit, each with all its responses;
    see `docs/windows.md`. Only the request is changed. Events, session and state keep everything. One plugin serves all
    agents and any number of runs at once.

    Args:
        token_limit: tokens that system instruction, contents and `initial_token_count` may have together, at least 1. A
            call is above it only if not even its question and newest step fit.
        counter: counts texts: anything that `chatring.TokenCounter` takes. Gemini's tokens are its own: the default
            estimates them, so leave a margin, or give a callable that knows better.
        measure: what a content's tokens are: `"message"`, all that is sent of it, or a callable, which is asked about
            the system instruction too, as a `Content` of the role `system`.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1,
            the next calls begin with the same contents, which a provider's prompt cache knows; 0.7 is a good choice.
            Then all contents are counted for each call.
        initial_token_count: tokens of what else is sent: the tools' declarations, the output's schema.
        name: of the plugin. The plugins of an app have different names.

    Raises:
        TypeError, ValueError: as `MessageRing`, and for a negative `initial_token_count`. A run ends with ADK's
            RuntimeError around a ValueError, with the numbers, if the instructions and `initial_token_count` alone are
            over the limit.
    """

    def __init__(
        self,
        token_limit: int,
        *,
        counter: Any = "o200k_base",
        measure: Measure[types.Content] = "message",
        retention_ratio: float = 1.0,
        initial_token_count: int = 0,
        name: str = "chatring_trim_plugin",
    ) -> None:
        super().__init__(name)
        self._trimmer: Trimmer[types.Content] = Trimmer(
            token_limit,
            counter=counter,
            measure=measure,
            retention_ratio=retention_ratio,
            initial_token_count=initial_token_count,
        )

    @override
    async def before_model_callback(
        self, *, callback_context: CallbackContext, llm_request: LlmRequest
    ) -> LlmResponse | None:
        """Replace the request's contents by their window, and return None: the model is called."""
        trimmer, contents = self._trimmer, llm_request.contents
        # Files of a static instruction come first. Without the attribute there are none.
        static: int = getattr(llm_request, "_static_instruction_prefix_end_index", None) or 0
        stays = {*range(min(static, len(contents))), *inserted(contents, callback_context.user_content)}
        instructions = sum(trimmer.count(contents[place]) for place in stays)
        if llm_request.config.system_instruction:
            instructions += trimmer.count(_content(llm_request.config.system_instruction))
        places = [place for place in range(len(contents)) if place not in stays]
        places = places[first_of([contents[place] for place in places], callback_context.session.events) :]
        window = trimmer.window(
            spoken([contents[place] for place in places], callback_context.session.events), instructions=instructions
        )
        stays.update(places[position] for position in positions_of(window))
        llm_request.contents = [contents[place] for place in sorted(stays)]
        return None


def _content(instruction: Any) -> types.Content:
    """Return a system instruction, in whatever form a config may have it, as a content."""
    parts = instruction.parts if isinstance(instruction, types.Content) else types.UserContent(instruction).parts
    return types.Content(role="system", parts=parts)
