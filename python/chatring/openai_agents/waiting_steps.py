"""`WaitingSteps`: the steps of a session whose calls nobody has answered yet."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chatring.openai_agents.step import Item
from chatring.openai_agents.stored_items import StoredItems
from chatring.stores import Store

SUFFIX = "/unanswered"

# How many entries are written before the older ones are removed.
_MANY = 20
# More than any session has.
_ALL_TOKENS = 2**53


@dataclass
class WaitingStep:
    """A step that waits, and its position among the items of the conversation."""

    items: list[Item]
    position: int
    """Where it is: in front of the item at this position."""

    moving: int | None = None
    """The position from which on the conversation may have it, if a process was killed while it moved it."""

    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def record(self) -> dict[str, Any]:
        """Return what is stored of it."""
        return {"name": self.name, "position": self.position, "moving": self.moving, "items": self.items}


class WaitingSteps:
    """Steps that wait for a result, such as a call that a human must approve. They outlive the process.

    They are in a session of their own in the store, which is a log. An entry has all steps that wait after a change, so
    the newest one is enough, and older ones may be trimmed or pruned. It also has the change itself, and the position
    up to which its writer had read the log. If another writer came in between, readers add that one's change.

    Args:
        store: of both sessions.
        session_id: the conversation's key.
    """

    def __init__(self, store: Store[Any], session_id: str) -> None:
        self._store = store
        self._key = session_id + SUFFIX
        self._stored = StoredItems(store, session_id)

    async def all(self) -> list[WaitingStep]:
        """Return the steps, in the order of their positions. Forget those that a killed process had moved."""
        _, steps = await self._read()
        waiting = await self._not_moved(steps.values())
        if len(waiting) < len(steps):
            await self.change()
        return sorted(waiting, key=lambda each: each.position)

    async def change(self, put: Iterable[WaitingStep] = (), removed: Iterable[WaitingStep] = ()) -> None:
        """Put steps, which replace those of the same name, and remove others: all of it or nothing."""
        position, steps = await self._read()
        new = {each.name: each for each in put}
        done = {each.name for each in removed}
        others = await self._not_moved(each for each in steps.values() if each.name not in done | new.keys())
        entry = {
            "position": position,
            "waiting": [each.record() for each in [*others, *new.values()]],
            "put": sorted(new),
            "removed": sorted(done),
        }
        await self._store.aappend(self._key, [{"role": "user", "content": json.dumps(entry, ensure_ascii=False)}])
        if position % _MANY == _MANY - 1:
            # The entry has them all. Those of other writers may be behind it.
            await self._store.atrim(self._key, position)

    async def clear(self) -> None:
        """Remove all steps."""
        await self._store.adelete(self._key)

    async def _read(self) -> tuple[int, dict[str, WaitingStep]]:
        """Return the position of the next entry, and the steps by name."""
        window = await self._store.awindow(self._key, 1)  # the newest entry
        entries = _entries(window)
        if not entries:
            return window.start, {}
        if entries[0]["position"] != window.start:
            window = await self._store.awindow(self._key, _ALL_TOKENS)
            entries = _entries(window)
        # The one whose writer had read most, and the changes that it had not read.
        last = max(entries, key=lambda entry: int(entry["position"]))
        steps = _steps(last)
        for entry in entries[max(last["position"] - window.start, 0) :]:
            for name in (*entry["removed"], *entry["put"]):
                steps.pop(name, None)
            put = _steps(entry)
            steps.update((name, put[name]) for name in entry["put"])
        return window.start + len(window), steps

    async def _not_moved(self, steps: Iterable[WaitingStep]) -> list[WaitingStep]:
        """Leave out those that the conversation has."""
        return [each for each in steps if each.moving is None or not await self._stored.has(each.items, each.moving)]


def _entries(messages: Iterable[Any]) -> list[dict[str, Any]]:
    return [json.loads(message["content"]) for message in messages]


def _steps(entry: dict[str, Any]) -> dict[str, WaitingStep]:
    return {record["name"]: WaitingStep(**record) for record in entry["waiting"]}
