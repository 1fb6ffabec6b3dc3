"""`Addition`: what becomes of items that are added to a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatring.formats.steps import Step
from chatring.openai_agents.step import Item, step_of, steps_of
from chatring.openai_agents.waiting_steps import WaitingStep


@dataclass
class Addition:
    """What becomes of items that are added, and of the steps that waited."""

    whole: list[Step[Item]]
    """They go into the conversation, in this order."""

    moved: dict[Step[Item], WaitingStep]
    """Those of them that waited, as they were."""

    waiting: list[WaitingStep]
    """The steps that waited, afterwards. Those that go into the conversation are marked."""

    new: list[WaitingStep]
    """What waits now and did not before."""

    led: str | None
    """The name of the waiting step that ends in reasoning, which leads what is added next."""

    left: list[Item]
    """Results whose calls are not there."""

    @classmethod
    def of(cls, items: Sequence[Item], waiting: Sequence[WaitingStep], led: str | None, end: int) -> Addition:
        """Return what becomes of items.

        Args:
            items: what is added, oldest first.
            waiting: the steps that wait.
            led: the name of the one whose reasoning leads the items. That of others may be of a response that was cut
                off.
            end: the position behind the last item of the conversation.
        """
        ordered = sorted(waiting, key=lambda each: each.name == led)
        before = {step_of(each.items, is_open=each.name == led): each for each in ordered}
        steps, left = steps_of(items, before)
        changed = _changed(steps, items)
        whole = [step for step in changed if step.is_whole]
        moved = {step: before[step] for step in whole if step in before}
        kept: dict[Step[Item], WaitingStep] = {}
        position = end
        for step in changed:
            if step.is_whole:
                position += len(step.messages)
            elif step in before:
                kept[step] = replace(before[step], items=step.messages, position=position)
            else:
                kept[step] = WaitingStep(step.messages, position)
        others = [
            replace(each, moving=end) if step in moved else each for step, each in before.items() if step not in kept
        ]
        again = [each for step, each in kept.items() if step in before]
        new = [each for step, each in kept.items() if step not in before]
        leading = kept[changed[-1]].name if changed and changed[-1].leads else None
        return cls(whole, moved, [*others, *again], new, leading, left)


def _changed(steps: Sequence[Step[Item]], items: Sequence[Item]) -> list[Step[Item]]:
    """Return the steps that got something, in the order of the first of it."""
    indexes = {id(item): index for index, item in enumerate(items)}
    got = {step: [indexes[id(each)] for each in step.messages if id(each) in indexes] for step in steps}
    return sorted((step for step in steps if got[step]), key=lambda step: min(got[step]))
