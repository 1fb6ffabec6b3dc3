"""`trim_input`: what goes into each model call of the OpenAI Agents SDK, by tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from agents.run import CallModelData, ModelInputData

from chatring.trimmer import Measure, Trimmer


def trim_input(
    token_limit: int,
    *,
    counter: Any = "o200k_base",
    measure: Measure[Any] = "message",
    retention_ratio: float = 1.0,
    initial_token_count: int = 0,
    include_system: bool = True,
) -> Callable[[CallModelData[Any]], ModelInputData]:
    """Return a filter that leaves out of each model call what does not fit: `RunConfig(call_model_input_filter=...)`.

    A call gets the window of its input: leading system items, the question, and the newest steps that fit. The session
    and the run's result keep everything. The filter has no state: one may serve all runs.

    Args:
        token_limit: tokens that instructions, input and `initial_token_count` may have together, at least 1. A call is
            above it only if not even its question and newest step fit.
        counter: counts texts: anything that `chatring.TokenCounter` takes.
        measure: what an item's tokens are, as in `MessageRing`. A callable is asked about the instructions too, as a
            system message.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1,
            the next calls begin with the same items, which a provider's prompt cache knows; 0.7 is a good choice.
        initial_token_count: tokens of what is sent beside instructions and input: tools, the output's schema, handoffs.
        include_system: whether leading system and developer items of the input are in every call.

    Raises:
        TypeError, ValueError: as `MessageRing`, and for a negative `initial_token_count`. The filter raises ValueError,
            with the numbers, if instructions and `initial_token_count` alone are over the limit; the run ends with it.
    """
    trimmer: Trimmer[Any] = Trimmer(
        token_limit,
        counter=counter,
        measure=measure,
        retention_ratio=retention_ratio,
        initial_token_count=initial_token_count,
        include_system=include_system,
    )

    def trim(data: CallModelData[Any]) -> ModelInputData:
        instructions = data.model_data.instructions
        tokens = trimmer.count({"role": "system", "content": instructions}) if instructions else 0
        window = trimmer.window(cast(list[Any], data.model_data.input), instructions=tokens)
        return ModelInputData(input=list(window), instructions=instructions)

    return trim
