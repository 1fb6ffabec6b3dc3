"""`links_of`: the calls and results in a message of any provider or framework."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# By provider or framework: the keys of a part whose values are calls or results. Bedrock's, then Gemini's.
_CALLS = ("toolUse", "functionCall", "function_call")
_RESULTS = ("toolResult", "functionResponse", "function_response")
# The keys that say what a part or item is: OpenAI's and Anthropic's, pydantic-ai's, LlamaIndex's.
_TYPES = ("type", "part_kind", "block_type")
_IDS = ("call_id", "tool_call_id", "tool_use_id", "toolUseId", "id", "name")


class Links(NamedTuple):
    """The ids of the calls and results in one message. Where a provider has no ids, a function's name replaces them."""

    calls: frozenset[str]
    results: frozenset[str]


def links_of(message: Mapping[str, Any]) -> Links:
    """Return the calls and results of any provider's message."""
    calls: set[str] = set()
    results: set[str] = set()
    for part in _parts(message):
        kind = next((name for key in _TYPES if isinstance(name := part.get(key), str)), "")
        if part.get("execution") == "server":  # OpenAI runs this search for tools: it need not be answered
            continue
        called = [part[key] for key in _CALLS if isinstance(part.get(key), dict)]
        if isinstance(part.get("tool_calls"), list):
            called += part["tool_calls"]
        if kind in ("tool_use", "tool_call", "tool-call") or (kind.endswith("_call") and part.get("call_id")):
            called.append(part)
        answered = [part[key] for key in _RESULTS if isinstance(part.get(key), dict)]
        if part.get("role") == "function" or (called == [] and _answers(part, kind)):
            answered.append(part)
        calls.update(map(_id, called))
        results.update(map(_id, answered))
    return Links(frozenset(calls) - {""}, frozenset(results) - {""})


def _parts(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield message
    for key in ("content", "parts", "blocks"):
        if isinstance(parts := message.get(key), list):
            yield from (part for part in parts if isinstance(part, dict))
    if isinstance(more := message.get("additional_kwargs"), dict):
        yield more


def _answers(part: Mapping[str, Any], kind: str) -> bool:
    """Return whether a message, part or item is a result."""
    if kind in ("tool_result", "tool-return") or (kind.endswith("_output") and part.get("call_id")):
        return True
    return isinstance(part.get("tool_call_id"), str) and kind not in ("tool_use", "tool_call", "tool-call")


def _id(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    return next((name for key in _IDS if isinstance(name := value.get(key), str) and name), "")
