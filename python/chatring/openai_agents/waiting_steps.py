"""`WaitingSteps`: the steps of a session whose calls nobody has answered yet."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from chatring.openai_agents.step import Item
from chatring.openai_agents.stored_items import StoredItems
from chatring.stores import Store

SUFFIX = "/unanswered"


@dataclass
class WaitingStep:
    """A step that waits, and its position among the items of the conversation."""

    items: list[Item]
    position: int
    """Where it is: in front of the item at this position."""

    moving: int | None = None
    """The position from which on the conversation may have it, if a process was killed while it moved it."""

    name: str = field(default_factory=lambda: uuid.uuid4().hex)


class WaitingSteps:
    """Steps that wait for a result, such as a call that a human must approve. They outlive the process.

    They are one message in a session of their own, and that is changed as a whole. A step that moves between it and the
    conversation is marked meanwhile. So it is known where else to look for it, if a process was killed on the way.

    Args:
        store: of both sessions.
        session_id: the conversation's key.
    """

    def __init__(self, store: Store[Any], session_id: str) -> None:
        self._store = store
        self._key = session_id + SUFFIX
        self._stored = StoredItems(store, session_id)

    async def all(self) -> list[WaitingStep]:
        """Return the steps that the conversation does not have, in the order of their positions."""
        steps = _steps(await self._store.alast(self._key, 1))
        waiting = [each for each in steps if not await self._has_moved(each)]
        return sorted(waiting, key=lambda each: each.position)

    async def change(
        self, plan: Callable[[list[WaitingStep]], Iterable[WaitingStep]], forgotten: Collection[str] | None = ()
    ) -> None:
        """Replace the steps in one change. Those that the conversation has stay as they are.

        They belong to a process that is about to remove them here or there, or was killed.

        Args:
            plan: is called with the steps that the conversation does not have, in the order of their positions, and
                returns those to have in their place. It may be called again if another writer was faster. The last
                call counts.
            forgotten: names of steps to remove. None: all that the conversation has.
        """
        moved = {each.name for each in _steps(await self._store.alast(self._key, 1)) if await self._has_moved(each)}

        def changed(last: list[Any]) -> list[Any]:
            before = _steps(last)
            left = [each for each in before if each.name not in (moved if forgotten is None else forgotten)]
            waiting = sorted((each for each in left if each.name not in moved), key=lambda each: each.position)
            after = [*(each for each in left if each.name in moved), *plan(waiting)]
            return last if after == before else [_message(after)] if after else []

        await self._store.aupdate(self._key, -1, changed)

    async def clear(self) -> None:
        """Remove all steps."""
        await self._store.adelete(self._key)

    async def _has_moved(self, step: WaitingStep) -> bool:
        return step.moving is not None and await self._stored.has(step.items, step.moving)


def _message(steps: list[WaitingStep]) -> dict[str, Any]:
    content = json.dumps([asdict(each) for each in steps], ensure_ascii=False)
    return {"role": "user", "content": content}


def _steps(messages: list[Any]) -> list[WaitingStep]:
    return [WaitingStep(**each) for message in messages for each in json.loads(message["content"])]
