"""`ChatringSession`: a session of the OpenAI Agents SDK that is read by tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from agents import TResponseInputItem
from agents.memory import SessionSettings

from chatring.formats import JsonFormat
from chatring.formats.steps import Step
from chatring.limits import check_limits
from chatring.openai_agents.addition import Addition
from chatring.openai_agents.step import Item, step_of, steps_of, waits_from
from chatring.openai_agents.stored_items import StoredItems, Tail, has_items
from chatring.openai_agents.waiting_steps import SUFFIX, WaitingStep, WaitingSteps
from chatring.stores import Store, StoreTimeoutError
from chatring.stores.check_store import check_store
from chatring.stores.names import check_key
from chatring.stores.to_its_end import to_its_end

_logger = logging.getLogger(__name__)
_json = JsonFormat()

# Items that are read first to pop one. Most steps have fewer.
_TAIL = 8
# How often to try to pop one beside others, before giving up.
_MOST_TRIES = 100


class ChatringSession:
    """A conversation in a store. A run gets the window that fits a token limit.

    Give it to `Runner.run(agent, input, session=...)`. A run reads it once, before its new input is there, so leave
    room for that; `trim_input` bounds each model call.

    A call and its results are stored at once. A response with a call that has no result yet, such as one that waits for
    a human's approval, is kept beside the conversation, under the key `<session_id>/unanswered`, until the last result
    is added. So what is stored is accepted by the provider at any moment.

    Objects are cheap: make one for each run, over one store. Any number of them, in any number of processes, may have
    the same session.

    Args:
        session_id: the conversation's key in the store.
        store: from `chatring.stores.open_store`, with `start_on="user"`, its default. A format of yours is one for the
            SDK's items.
        token_limit: tokens that a window and what is sent beside it may have. None: all items are read.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1,
            the next runs begin with the same items, which a provider's prompt cache knows; 0.7 is a good choice.
        initial_token_count: tokens of what is sent beside the window: instructions, tools, and room for the new input.
        include_system: whether the leading system and developer items are in every window; by default they are.

    Raises:
        TypeError: if `store` is not a `Store` or is one of other messages, or an argument has the wrong type.
        ValueError: for a session id that ends with `/unanswered` or cannot be a key, a store with another start rule, a
            limit below 1, a ratio outside 0 to 1, or an initial token count that the limit has no room for.
    """

    session_settings: SessionSettings | None = None

    def __init__(
        self,
        session_id: str,
        store: Store[Any],
        token_limit: int | None = None,
        *,
        retention_ratio: float = 1.0,
        initial_token_count: int = 0,
        include_system: bool | None = None,
    ) -> None:
        check_store(
            store,
            JsonFormat,
            {"role": "user", "content": "Hello"},
            "ChatringSession needs a store of the SDK's items: open_store('sqlite:///chat.db'), shared by all sessions",
        )
        _check_session_id(session_id)
        if token_limit is None:
            check_limits(1, retention_ratio=retention_ratio)
        else:
            check_limits(token_limit, initial_token_count, retention_ratio)
        self.session_id = session_id
        self.store = store
        self.token_limit = token_limit
        self.retention_ratio = retention_ratio
        self.initial_token_count = initial_token_count
        self.include_system = include_system
        self._stored = StoredItems(store, session_id)
        self._waiting = WaitingSteps(store, session_id)
        # The name of the waiting step whose reasoning leads what this object adds next.
        self._led: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r}, {self.store!r}, {self.token_limit!r})"

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return items, oldest first.

        Args:
            limit: None: the window, a `chatring.Window`, or all items that are stored if there is no token limit. Else
                the last so many items, raw, those that wait for a result included, where they were added: the
                SDK asks so to go on with an interrupted run. Reasoning alone is among them only if it is newest.

        Raises:
            ValueError: if `limit` is negative; if the leading system items alone are over the token limit.
            CounterMismatchError: if the session was counted by another policy than the store's.
        """
        if limit is not None:
            return cast(list[TResponseInputItem], await self._last(limit))
        if self.token_limit is None:
            return cast(list[TResponseInputItem], await self.store.aall(self.session_id))
        window = await self.store.awindow(
            self.session_id,
            self.token_limit,
            self.initial_token_count,
            include_system=self.include_system,
            retention_ratio=self.retention_ratio,
        )
        return cast(list[TResponseInputItem], window)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items in one append: all of them or none.

        What waits for a result is kept aside until the result comes: that is a change of its own. The items of one
        response are added together; results may come later, in any order.

        A result whose call is not in the session is left out, and logged as a warning: no provider takes it.

        Raises:
            ValueError: for items that `EncryptedSession` has encrypted; nothing is stored.
            TypeError: for an item that is not a dict or an SDK's object, or has the shape of no item; nothing is
                stored.
            CounterMismatchError: if the session was counted by another policy than the store's.
        """
        added = [_checked(item) for item in items]
        steps, left = steps_of(added)
        if not left and self._led is None and all(step.is_whole for step in steps):
            if added:
                await self.store.aappend(self.session_id, _items(steps))
            return
        await to_its_end(self._add_with_waiting(added))

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item, the last of `get_items(n)`, and return it; None if there is none.

        A call whose result is removed waits for one again. The SDK pops items only to rewind a failed run.
        """
        return cast("TResponseInputItem | None", await to_its_end(self._pop()))

    async def clear_session(self) -> None:
        """Remove all items, and those that wait for a result."""
        await self._waiting.clear()
        await self.store.adelete(self.session_id)
        self._led = None

    async def _last(self, limit: int) -> list[Item]:
        waiting = await self._waiting.all()
        if not waiting or limit < 1:
            return await self.store.alast(self.session_id, limit)
        tail = await self._stored.tail(limit)
        items = list(tail.items)
        for each in reversed(waiting):
            is_newest = each is waiting[-1] and each.position >= tail.end
            if not is_newest and not step_of(each.items).waits_for:
                continue  # reasoning that something else follows: no provider takes it
            index = max(each.position - tail.begin, 0)
            items[index:index] = each.items
        return items[-limit:]

    async def _add_with_waiting(self, items: list[Item]) -> None:
        for item in items:  # before the first of several changes
            self.store._measuring.given_back(item)
        end = await self._stored.end()
        addition: Addition

        def plan(waiting: list[WaitingStep]) -> list[WaitingStep]:
            nonlocal addition
            addition = Addition.of(items, waiting, self._led, end)
            return addition.waiting

        await self._waiting.change(plan)
        if addition.left:
            calls = ", ".join(repr(item.get("call_id", item.get("approval_request_id"))) for item in addition.left)
            _logger.warning(
                "results of calls that are not in session %r, or have a result, were left out: %s",
                self.session_id,
                calls,
            )
        await self._append(addition.whole, addition.moved, end, addition.new)
        self._led = addition.led

    async def _append(
        self,
        whole: list[Step[Item]],
        moved: dict[Step[Item], WaitingStep],
        end: int,
        new: Sequence[WaitingStep] = (),
    ) -> None:
        """Append steps, but of those that have `moved` only what nobody else has appended. Let `new` ones wait."""

        def add(since: list[Item]) -> list[Item]:
            steps = [step for step in whole if step not in moved or not has_items(since, moved[step].items)]
            return [*since, *_items(steps)]

        if moved:
            await self._stored.update(end, add)
        elif whole:
            await self.store.aappend(self.session_id, _items(whole))
        if moved or new:
            names = {each.name for each in moved.values()}
            await self._waiting.change(lambda waiting: [*waiting, *new], forgotten=names)

    async def _pop(self) -> Item | None:
        count = _TAIL
        for _ in range(_MOST_TRIES):
            waiting = await self._waiting.all()
            tail = await self._stored.tail(count)
            if await self._waiting.all() != waiting:
                continue
            if waiting and waiting[-1].position >= tail.end:
                newest = waiting[-1]
                if await self._pop_waiting(newest, tail.end):
                    return newest.items[-1]
                continue
            if not tail.items:
                return None
            *rest, popped = tail.items
            index = waits_from(rest, popped)
            if index is None and len(tail.items) == count:  # it is further back
                count *= 4
            elif await self._pop_stored(tail, len(rest) if index is None else index):
                return popped
        raise StoreTimeoutError(f"others kept changing the end of session {self.session_id!r}; try again")

    async def _pop_waiting(self, newest: WaitingStep, end: int) -> bool:
        """Pop the last item of the newest step, if that is still so. What is in front of it may be whole now."""
        rest = newest.items[:-1]
        step = step_of(rest)
        left = replace(newest, items=rest, moving=end if step.is_whole else newest.moving)
        is_there = False

        def plan(waiting: list[WaitingStep]) -> list[WaitingStep]:
            nonlocal is_there
            is_there = newest in waiting
            return [left if each == newest else each for each in waiting if rest or each != newest]

        await self._waiting.change(plan)
        if is_there:
            if rest and step.is_whole:
                await self._append([step], {step: left}, end)
            self._led = newest.name if step.leads else None
        return is_there

    async def _pop_stored(self, tail: Tail, index: int) -> bool:
        """Pop the last item of a tail, if it is still there. What is before it, from an index on, waits again."""
        ending = tail.items[index:]
        kept = ending[:-1]
        position = tail.begin + index
        is_there = False

        def cut(since: list[Item]) -> list[Item]:
            nonlocal is_there
            is_there = since[: len(ending)] == ending
            return since[len(ending) :] if is_there else since  # others may have appended something

        if not kept:
            await self._stored.update(position, cut, len(ending))
            return is_there
        step = WaitingStep(kept, position, moving=position)
        # What a killed process has left in both places would wait again, once it is no longer in the conversation.
        await self._waiting.change(lambda waiting: [*waiting, step], forgotten=None)
        await self._stored.update(position, cut, len(ending))

        def arrived(waiting: list[WaitingStep]) -> list[WaitingStep]:
            return [replace(each, moving=None) if each.name == step.name else each for each in waiting]

        # If it is not there, somebody has cleared the session.
        await self._waiting.change(arrived, forgotten=() if is_there else (step.name,))
        if is_there:
            self._led = step.name if step_of(kept).leads else None
        return is_there


def _check_session_id(session_id: str) -> None:
    check_key(session_id)
    check_key(session_id + SUFFIX)
    if session_id.endswith(SUFFIX):
        raise ValueError(f"a session id must not end with {SUFFIX!r}, where calls wait for results; got {session_id!r}")


def _checked(item: Any) -> Item:
    if isinstance(item, dict) and "__enc__" in item:
        raise ValueError(
            "a ChatringSession cannot be wrapped by EncryptedSession: it would count nothing of encrypted items, and "
            "the token limit would have no effect. Encrypt the database's disk, or open the store with a format whose "
            "dump encrypts and whose load decrypts (docs/openai_agents.md)"
        )
    read = _json.read(item)
    if not isinstance(read, dict):
        raise TypeError(f"an item of the SDK is a dict, got {type(item).__name__}")
    return read


def _items(steps: Iterable[Step[Item]]) -> list[Item]:
    return [item for step in steps for item in step.messages]
