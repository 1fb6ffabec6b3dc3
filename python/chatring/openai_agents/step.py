"""`steps_of`: items as the steps of a conversation, each with the results of its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from typing import Any, TypeAlias

from chatring._core import _outline
from chatring.formats.links import Links, links_of
from chatring.formats.steps import Step, Steps

Item: TypeAlias = dict[str, Any]

# A program goes on over several responses, and its output comes with the last of them. The SDK and the provider know
# which of the items between belong to it.
_PROGRAMS = ("program", "program_output")


def steps_of(items: Iterable[Item], before: Iterable[Step[Item]] = ()) -> tuple[list[Step[Item]], list[Item]]:
    """Return items that were added at once as steps, and the results whose calls are in none of them.

    A result is that of the newest call in front of it that waits for it; if there is none, of one behind it.

    Args:
        items: oldest first.
        before: steps in front of them, which wait. They are changed where a result is theirs, and are among those that
            are returned.

    Raises:
        TypeError: if an item has the shape of none.
    """
    steps = Steps(before)
    early: list[tuple[Item, Set[str]]] = []
    for item in items:
        kind, _, _ = _outline(item)
        links = _links(item)
        if links.results:
            if steps.all:  # what follows is of another response
                steps.all[-1].is_open = False
            if steps.answer(item, links.results) is None:
                early.append((item, links.results))
        else:
            is_reply = kind in ("assistant", "tool")
            steps.add(
                item, links.calls if is_reply else (), joins=is_reply, leads=_is_reasoning(item), is_open=is_reply
            )
    left = [item for item, results in early if steps.answer(item, results) is None]
    return steps.all, left


def step_of(items: Sequence[Item], *, is_open: bool = False) -> Step[Item]:
    """Return items that are known to be one step."""
    step = Step(list(items), leads=bool(items) and _is_reasoning(items[-1]), is_open=is_open)
    for item in items:
        calls, results = _links(item)
        step.waits_for.update(calls)
        step.waits_for -= Counter(results)
    return step


def waits_from(items: Sequence[Item], popped: Item) -> int | None:
    """Return the index from which on stored items wait again, now that the one behind them was popped.

    What is in front of that is whole. If none waits, it is how many they are. None: it is further back than these.
    """
    unanswered = set(_links(popped).results)
    results: Counter[str] = Counter()  # those whose calls are further back
    index = len(items)
    while unanswered or results.total():
        if not index:
            return None
        index -= 1
        links = _links(items[index])
        results.update(links.results)
        for call in links.calls:
            if results[call]:
                results[call] -= 1
            else:
                unanswered.discard(call)
    # What led to it goes with it. So do calls beside it that a killed process left without a result.
    while index and (_is_reasoning(items[index - 1]) or _links(items[index - 1]).calls):
        index -= 1
    return index


def _is_reasoning(item: Item) -> bool:
    return item.get("type") == "reasoning"


def _links(item: Item) -> Links:
    """Return what an item calls and answers, requests for a human's approval among it."""
    match item.get("type"):
        case "mcp_approval_request" if item.get("id"):
            return Links(frozenset((item["id"],)), frozenset())
        case "mcp_approval_response" if item.get("approval_request_id"):
            return Links(frozenset(), frozenset((item["approval_request_id"],)))
        case kind if kind in _PROGRAMS:
            return Links(frozenset(), frozenset())
    return links_of(item)
