"""`answered`: messages without unanswered calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

_M = TypeVar("_M")

_Call = tuple[str, int, int]
"""A call's id, the position of its message, and its number among those of the message with this id."""


def answered(
    messages: Sequence[_M],
    calls: Callable[[_M], Iterable[str]],
    results: Callable[[_M], Iterable[str]],
    leads: Callable[[_M], bool] = lambda message: False,
) -> list[_M]:
    """Return the messages without calls that have no result, and without results that have no call.

    Providers refuse both. Messages are left out whole: if one of its calls has no result, a message goes, and so do the
    results of its other calls. A result is that of the newest call before it with its id that has none yet: not every
    model has ids that no other call has.

    All messages are there at once, and what stays keeps its order. `Steps` does another job: it takes messages as they
    come, moves results behind their calls, and keeps what waits.

    Args:
        messages: oldest first.
        calls: the ids of the calls that a message carries, as often as it does.
        results: the ids of the calls whose results it carries, likewise.
        leads: whether it belongs to the message behind it, as reasoning does, and goes with that.
    """
    kept: list[tuple[_M, set[_Call], set[_Call]]] = []
    waiting: dict[str, list[_Call]] = {}  # by their id, of the newest message that has it
    for position, message in enumerate(messages):
        returned: set[_Call] = set()
        for call, count in Counter(results(message)).items():
            found = waiting.pop(call, [(call, position, 0)])
            returned.update(found[:count])
            if len(found) > count:
                waiting[call] = found[count:]
        called = {
            call: [(call, position, number) for number in range(count)]
            for call, count in Counter(calls(message)).items()
        }
        kept.append((message, {each for same in called.values() for each in same}, returned))
        waiting.update(called)
    while True:
        all_called = {call for _, ids, _ in kept for call in ids}
        all_returned = {call for _, _, ids in kept for call in ids}
        complete = []
        stays = True  # whether the message behind does
        for each in reversed(kept):
            message, own, theirs = each
            stays = (stays or not leads(message)) and own <= all_returned and theirs <= all_called
            if stays:
                complete.append(each)
        complete.reverse()
        if len(complete) == len(kept):
            return [message for message, _, _ in kept]
        kept = complete  # what went may have been the other half of something else
