"""Whether providers accept a request: no result without a call, no call without a result, a user's message first."""

from collections.abc import Iterable

from chatring.formats.links import Links

ORPHAN_RESULT = "result without its call"
UNANSWERED_CALL = "call without its result"
FIRST_MESSAGE = "first message is not a user's"


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
