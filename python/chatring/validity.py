"""Whether providers accept a request: no result without call, no call without result, first a user's message."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from chatring.envelope import Message

ORPHAN_RESULT = "result without its call"
UNANSWERED_CALL = "call without its result"
FIRST_MESSAGE = "first message is not a user's"

# By provider or framework, the keys of a part whose value is a call or a result: Bedrock's, then Gemini's.
_CALLS = ("toolUse", "functionCall", "function_call")
_RESULTS = ("toolResult", "functionResponse", "function_response")
# What says what kind of part or item this is: OpenAI's and Anthropic's, pydantic-ai's, LlamaIndex's.
_TYPES = ("type", "part_kind", "block_type")
_IDS = ("call_id", "tool_call_id", "tool_use_id", "toolUseId", "id", "name")


class Links(NamedTuple):
    """The ids of the calls and the results in one message. Where a provider has none, a function's name is its id."""

    calls: frozenset[str]
    results: frozenset[str]


def links_of(message: Message) -> Links:
    """Return what a message of any provider calls and answers."""
    calls: set[str] = set()
    results: set[str] = set()
    for part in _parts(message):
        kind = next((name for key in _TYPES if isinstance(name := part.get(key), str)), "")
        if part.get("execution") == "server":  # a search for tools that OpenAI runs: it need not be answered
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


def fault(messages: Iterable[tuple[str, Links]], *, may_begin_with_reply: bool = False) -> str | None:
    """Return why a request would be refused, or None.

    Args:
        messages: the request's, each with its kind: system, user, assistant or tool.
        may_begin_with_reply: whether the first message may be an assistant's, since the whole history begins with it.
    """
    seen: set[str] = set()
    waiting: set[str] = set()
    is_first = True
    for kind, (calls, results) in messages:
        if not results <= seen | calls:  # of the same message: tools that the provider runs
            return ORPHAN_RESULT
        if is_first and kind != "system":
            if kind == "tool":
                return ORPHAN_RESULT
            if kind == "assistant" and not may_begin_with_reply:
                return FIRST_MESSAGE
            is_first = False
        seen |= calls
        waiting = (waiting | calls) - results
    return UNANSWERED_CALL if waiting else None


def _parts(message: Message) -> Iterator[Message]:
    yield message
    for key in ("content", "parts", "blocks"):
        if isinstance(parts := message.get(key), list):
            yield from (part for part in parts if isinstance(part, dict))
    if isinstance(more := message.get("additional_kwargs"), dict):
        yield more


def _answers(part: Message, kind: str) -> bool:
    """Whether a message, part or item is a result."""
    if kind in ("tool_result", "tool-return") or (kind.endswith("_output") and part.get("call_id")):
        return True
    return isinstance(part.get("tool_call_id"), str) and kind not in ("tool_use", "tool_call", "tool-call")


def _id(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    return next((name for key in _IDS if isinstance(name := value.get(key), str) and name), "")
