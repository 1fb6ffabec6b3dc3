"""`ChatringHistoryProvider`: conversations in a store. A run loads the window."""

from __future__ import annotations

import copy
import logging
import uuid
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

from agent_framework import AgentSession, HistoryProvider, Message, SessionContext, SupportsAgentRun

from chatring.agent_framework.message_format import MessageFormat
from chatring.agent_framework.replay import unsaved
from chatring.agent_framework.step import answers_of, concerns, settled, steps_of
from chatring.limits import check_limits
from chatring.stores.check_store import check_store
from chatring.stores.lookback import lookback
from chatring.stores.store import Store
from chatring.stores.to_its_end import to_its_end

_logger = logging.getLogger(__name__)

# In the session's state, the messages of steps that wait for results.
_WAITING = "unanswered"
# Steps that wait. Those of runs that were cancelled wait for ever.
_MOST = 20
# In the properties of a message that waits, what tells it from any other: ids of calls may repeat.
_MARK = "_chatring_waiting"


class ChatringHistoryProvider(HistoryProvider):
    """Keeps each session's messages in a store, and loads the window that fits a token limit.

    The conversation's key is the session's id. A call and all its results are one append. A call that has no result
    yet, such as one that waits for a human's approval, waits in the state of the `AgentSession`, where the framework
    keeps its own record of the approval: a run that brings the result or the approval gets it, no other does. So
    what is stored is accepted by the provider at any moment, also if the process dies between a call and its result.
    If the same result or approval is brought again, with a state from before, call and result are not stored again.

    Messages that are handed over again, as by a client that sends the whole conversation, are recognised by comparing
    them with as many of the last stored ones: `docs/agent_framework.md` says when. Any number of sessions, in any
    number of processes, may have one id.

    Args:
        store: opened with `format=MessageFormat()`, or with a format of yours for the same messages.
        token_limit: tokens that the window and `initial_token_count` may have, at least 1. The run's own messages come
            on top: `RingStrategy` bounds each model call.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1,
            the next runs begin with the same messages, which a provider's prompt cache knows; 0.7 is a good choice.
        initial_token_count: tokens of this limit that are for something else, such as the agent's instructions.
        source_id: the name under which the framework knows this provider.
        prefix: of the conversations' keys, before the session's id: for agents that share ids.
        load_messages, store_inputs, store_context_messages, store_context_from, store_outputs: as in `HistoryProvider`.

    Raises:
        TypeError: for a store of other messages, or an argument of the wrong type.
        ValueError: for a store with another start rule, a limit below 1, a ratio outside 0 to 1, or an initial token
            count that the limit has no room for.
    """

    def __init__(
        self,
        store: Store[Message],
        token_limit: int,
        *,
        retention_ratio: float = 1.0,
        initial_token_count: int = 0,
        source_id: str = "chatring",
        prefix: str = "",
        load_messages: bool = True,
        store_inputs: bool = True,
        store_context_messages: bool = False,
        store_context_from: set[str] | None = None,
        store_outputs: bool = True,
    ) -> None:
        super().__init__(
            source_id,
            load_messages=load_messages,
            store_inputs=store_inputs,
            store_context_messages=store_context_messages,
            store_context_from=store_context_from,
            store_outputs=store_outputs,
        )
        check_store(
            store,
            MessageFormat,
            Message("user", ["Hello"]),
            "ChatringHistoryProvider needs a store of Agent Framework's messages: "
            "open_store(url, format=MessageFormat())",
        )
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, got {prefix!r}")
        check_limits(token_limit, initial_token_count, retention_ratio)
        self.store = store
        self.token_limit = token_limit
        self.retention_ratio = retention_ratio
        self.initial_token_count = initial_token_count
        self.prefix = prefix
        self._saved: weakref.WeakSet[Message] = weakref.WeakSet()

    async def get_messages(
        self, session_id: str | None, *, state: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Message]:
        """Return the window of a session, a `chatring.Window`.

        Raises:
            ValueError: if there is no session id; if the leading system messages alone are over the limit.
            CounterMismatchError: if the session was counted by another policy than the store's.
        """
        return await self.store.awindow(
            self._key(session_id), self.token_limit, self.initial_token_count, retention_ratio=self.retention_ratio
        )

    async def save_messages(
        self,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append what is new of the messages, with the results that they bring: all or nothing.

        Requests for approval and responses are left out when they are settled: they are no longer sent. A result
        whose call is not there is left out, and logged as a warning: no provider takes it.

        Args:
            session_id: the session.
            messages: oldest first.
            state: where calls without a result wait. None: they are left out.
            **kwargs: what the framework may hand over in future.

        Raises:
            TypeError, ValueError: if there is no session id, or for a message that cannot be read or stored.
            CounterMismatchError: if the session was counted by another policy than the store's.
        """
        key = self._key(session_id)
        for message in messages:
            self.store._message_format.read(message)
        if not messages:
            return
        count = len(messages)
        recent = await self.store.alast(key, lookback(count) if _brings_results(messages, state) else count)
        stored = recent[-count:]
        # From here to the change of the state nothing is awaited: another run may have the same.
        waiting, had = _still_waiting([] if state is None else state.get(_WAITING, ()), recent)
        asked = {call for step in steps_of(waiting)[0] for call in step.waits_for}
        new = unsaved(messages, [*stored, *waiting], asked, self._saved)
        if len(new) == len(messages):
            new = unsaved(messages, stored, asked, self._saved)
        steps, left = steps_of([*waiting, *new])
        if left := [message for message in left if not answers_of(message) <= had]:
            _logger.warning("results of calls that are not in session %r were left out: %s", session_id, _calls(left))
        whole = [message for step in steps if step.is_whole for message in step.messages]
        if state is not None:
            _keep(state, [message for step in [s for s in steps if s.waits_for][-_MOST:] for message in step.messages])
        # To its end, as nobody knows of an append that is broken off whether it was made.
        await to_its_end(self._append(key, messages, whole, waiting, state))

    async def _append(
        self,
        key: str,
        saved: Sequence[Message],
        whole: list[Message],
        waiting: list[Message],
        state: dict[str, Any] | None,
    ) -> None:
        try:
            if _marks(whole):

                def append(last: list[Message]) -> list[Message]:
                    # Another process may have brought the same results since.
                    return [*last, *_sent(_still_waiting(whole, last)[0])]

                await self.store.aupdate(key, -lookback(len(whole)), append)
            elif sent := _sent(whole):
                await self.store.aappend(key, sent)
        except BaseException:
            if state is not None:  # its results may be handed over again
                ids = set(map(id, whole))
                _keep(state, [*(message for message in waiting if id(message) in ids), *state.get(_WAITING, ())])
            raise
        self._saved.update(saved)

    async def before_run(
        self, *, agent: SupportsAgentRun, session: AgentSession, context: SessionContext, state: dict[str, Any]
    ) -> None:
        """Load the window, and behind it the calls that wait for what this run brings."""
        await super().before_run(agent=agent, session=session, context=context, state=state)
        brought = {call for message in context.input_messages for call in concerns(message)}
        steps, _ = steps_of(state.get(_WAITING, ()))
        found: list[Message] = []
        for step in reversed(steps):  # the newest that waits for it, as not every model's ids are unique
            if not brought.isdisjoint(step.waits_for):
                brought.difference_update(step.waits_for)
                found[:0] = step.messages
        if found:
            loaded = context.context_messages.get(self.source_id, [])
            loaded[:] = _without_steps(loaded, _marks(found))  # or the provider would be sent a call twice
        context.extend_messages(self, found)

    def _key(self, session_id: str | None) -> str:
        if not session_id:
            raise ValueError(
                "ChatringHistoryProvider needs to know the session: "
                f"agent.run(..., session=agent.create_session(session_id=...)); got {session_id!r}"
            )
        return f"{self.prefix}{session_id}"


def _keep(state: dict[str, Any], waiting: list[Message]) -> None:
    state.pop(_WAITING, None)
    if waiting:
        state[_WAITING] = [
            message if _MARK in message.additional_properties else _marked(message) for message in waiting
        ]


def _marked(message: Message) -> Message:
    marked = copy.copy(message)
    marked.additional_properties = {**message.additional_properties, _MARK: uuid.uuid4().hex}
    return marked


def _sent(messages: Sequence[Message]) -> list[Message]:
    """Return what of messages is stored: requests for approval and responses are no longer sent."""
    return [bare for message in messages if (bare := settled(message)).contents or not message.contents]


def _marks(messages: Sequence[Message]) -> set[str]:
    return {mark for message in messages if (mark := message.additional_properties.get(_MARK)) is not None}


def _without_steps(messages: Sequence[Message], marks: set[str]) -> list[Message]:
    """Return the messages without those that have one of the marks, and without the results behind them."""
    kept: list[Message] = []
    within = False
    for message in messages:
        within = not marks.isdisjoint(_marks([message])) or (within and bool(answers_of(message)))
        if not within:
            kept.append(message)
    return kept


def _brings_results(messages: Sequence[Message], state: dict[str, Any] | None) -> bool:
    """Return whether there are results among the messages that a step of the state waits for."""
    waits_for = {call for step in steps_of((state or {}).get(_WAITING, ()))[0] for call in step.waits_for}
    return any(not waits_for.isdisjoint(answers_of(message)) for message in messages)


def _still_waiting(waiting: Sequence[Message], stored: Sequence[Message]) -> tuple[list[Message], Counter[str]]:
    """Return the messages that wait without the steps that are stored, and the calls of those.

    They are stored if the same results were brought before, and the state is one from before that.
    """
    marks = _marks(stored)
    still: list[Message] = []
    had: Counter[str] = Counter()
    for step in steps_of(waiting)[0]:
        if not marks.isdisjoint(_marks(step.messages)):
            had.update(step.waits_for)
        else:
            still += step.messages
    return still, had


def _calls(messages: list[Message]) -> str:
    return ", ".join(repr(content.call_id) for message in messages for content in message.contents)
