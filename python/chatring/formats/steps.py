"""`Steps`: messages as the steps of a conversation, where a call waits for its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_M = TypeVar("_M")


@dataclass(eq=False)
class Step(Generic[_M]):
    """What one response did, with the results of its calls behind it. Any other message is a step by itself."""

    messages: list[_M]
    waits_for: Counter[str] = field(default_factory=Counter)
    """The ids of the calls that have no result yet, and how many: two calls of one response may have the same id."""

    leads: bool = False
    """Whether it ends in reasoning, which belongs to what follows."""

    is_open: bool = False
    """Whether the next message of a response belongs to it."""

    @property
    def is_whole(self) -> bool:
        """Whether a provider accepts it as it is."""
        return not self.waits_for and not self.leads


class Steps(Generic[_M]):
    """Gathers messages into steps, oldest first. Each result goes behind its call, wherever it comes.

    So a step can be kept back until it is whole. `answered` does another job: it has all messages at once, leaves them
    where they are, and drops what has no counterpart.

    Args:
        before: steps in front of the first message. They change where a result is theirs.

    Attributes:
        all: the steps, oldest first.
    """

    def __init__(self, before: Iterable[Step[_M]] = ()) -> None:
        self.all: list[Step[_M]] = list(before)

    def add(
        self,
        message: _M,
        calls: Iterable[str] = (),
        *,
        joins: bool = False,
        leads: bool = False,
        is_open: bool = False,
    ) -> Step[_M]:
        """Add a message that is not a result. Return its step.

        Args:
            message: the newest.
            calls: the ids of the calls in it that wait for a result, one for each call.
            joins: whether it belongs to the newest step, if that is open. Otherwise it begins a step.
            leads: whether it is reasoning alone.
            is_open: whether the step is open for the next one.
        """
        if joins and self.all and self.all[-1].is_open:
            step = self.all[-1]
            step.messages.append(message)
        else:
            step = Step([message])
            self.all.append(step)
        step.waits_for.update(calls)
        step.leads, step.is_open = leads, is_open
        return step

    def answer(self, message: _M, results: Iterable[str], calls: Iterable[str] = ()) -> Step[_M] | None:
        """Add results to the newest step that waits for one of them: not every model gives each call its own id.

        Each result takes one call.

        Args:
            message: the results.
            results: the ids of the calls that it answers, one for each result.
            calls: as in `add`.

        Returns:
            The step; None if no step waits for them. Then nothing is added.
        """
        answers = Counter(results)
        step = next((each for each in reversed(self.all) if not answers.keys().isdisjoint(each.waits_for)), None)
        if step is not None:
            step.messages.append(message)
            step.waits_for -= answers
            step.waits_for.update(calls)
        return step
