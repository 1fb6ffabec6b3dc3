"""`StoredHistory`: middleware that keeps each thread's messages in a store, and loads only the window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph.message import add_messages
from langgraph.types import Overwrite
from typing_extensions import NotRequired, override

from chatring.langchain.message_format import MessageFormat, without_unanswered
from chatring.limits import check_limits
from chatring.stores.check_store import check_store
from chatring.stores.lookback import lookback
from chatring.stores.store import Store
from chatring.stores.to_its_end import to_its_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langgraph.runtime import Runtime

_NO_CONFIG = RunnableConfig()


class StoredHistoryState(AgentState[Any]):
    """The agent's state, and the ids of its messages that are in the store."""

    stored_ids: NotRequired[Annotated[list[str], PrivateStateAttr]]


class StoredHistory(AgentMiddleware[Any, Any]):
    """Keeps the messages of each thread in a store, as the session of the thread's id.

    When a run begins, the state becomes the window of what is stored and the run's new messages. When it ends, all that
    is new is appended at once; a call that is unanswered then, and the results beside it, are not. A run that fails or
    is cancelled before that append leaves the session as it was. A cancellation during the append is passed on when the
    run is stored. Runs of one thread at once lose nothing: each appends what it has.

    A checkpointer is not needed. If there is one, for interrupts, it keeps the window and one run, not the history.
    A message whose id is in the window already, as of a client that sends all again, is not stored again, nor is a run
    whose end the checkpointer did not see, whether it is resumed or the next one begins.

    Args:
        store: opened with `format=MessageFormat()`, or with a format of yours for the same messages.
        token_limit: tokens that the window which is loaded may have, at least 1. The run's own messages come on top:
            `TrimMessages` keeps the requests within a limit.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to.
        prefix: of the sessions' keys, before the thread's id: for agents that share threads.

    Raises:
        TypeError: for a store of other messages.
        ValueError: for a store with another start rule.
        TypeError, ValueError: as `MessageRing`, for limit and ratio.

    A run raises ValueError if it has no `thread_id`, and what the store raises.
    """

    state_schema = StoredHistoryState

    def __init__(self, store: Store[Any], token_limit: int, *, retention_ratio: float = 1.0, prefix: str = "") -> None:
        super().__init__()
        check_store(
            store,
            MessageFormat,
            HumanMessage("Hello"),
            "StoredHistory needs a store of LangChain's messages: open_store(url, format=MessageFormat())",
        )
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, got {prefix!r}")
        check_limits(token_limit, retention_ratio=retention_ratio)
        self._store = store
        self._limit = token_limit
        self._ratio = retention_ratio
        self._prefix = prefix

    # The config is asked for by name, as in any node: on Python 3.10 nothing else tells an async one its thread.

    @override
    def before_agent(
        self, state: StoredHistoryState, runtime: Runtime[Any], config: RunnableConfig = _NO_CONFIG
    ) -> dict[str, Any]:
        key = self._key(config)
        window = self._store.window(key, self._limit, retention_ratio=self._ratio)
        last = self._store.last(key, lookback(len(new))) if _may_be_stored(new := _new(state)) else []
        return _loaded(window, last, state)

    @override
    async def abefore_agent(
        self, state: StoredHistoryState, runtime: Runtime[Any], config: RunnableConfig = _NO_CONFIG
    ) -> dict[str, Any]:
        key = self._key(config)
        window = await self._store.awindow(key, self._limit, retention_ratio=self._ratio)
        last = await self._store.alast(key, lookback(len(new))) if _may_be_stored(new := _new(state)) else []
        return _loaded(window, last, state)

    @override
    def after_agent(
        self, state: StoredHistoryState, runtime: Runtime[Any], config: RunnableConfig = _NO_CONFIG
    ) -> dict[str, Any]:
        if new := _new(state):
            # A run that is resumed here was broken off while it was stored, or afterwards.
            self._store.update(self._key(config), -lookback(len(new)), lambda last: [*last, *_without(new, last)])
        return {"stored_ids": _ids(state["messages"])}

    @override
    async def aafter_agent(
        self, state: StoredHistoryState, runtime: Runtime[Any], config: RunnableConfig = _NO_CONFIG
    ) -> dict[str, Any]:
        if new := _new(state):
            changing = self._store.aupdate(
                self._key(config), -lookback(len(new)), lambda last: [*last, *_without(new, last)]
            )
            # To its end, as nobody knows of a change that is broken off whether it was made.
            await to_its_end(changing)
        return {"stored_ids": _ids(state["messages"])}

    def _key(self, config: RunnableConfig) -> str:
        thread = config.get("configurable", {}).get("thread_id")
        if thread is None or thread == "":
            raise ValueError(
                "StoredHistory needs to know the thread, "
                f"agent.invoke(..., config={{'configurable': {{'thread_id': ...}}}}); got {thread!r}"
            )
        return f"{self._prefix}{thread}"


def _may_be_stored(new: Sequence[BaseMessage]) -> bool:
    """Return whether a run was broken off at its end. Then nobody knows whether its messages were stored."""
    return any(message.type == "ai" for message in new)


def _without(new: Sequence[BaseMessage], stored: Iterable[BaseMessage]) -> list[BaseMessage]:
    ids = set(_ids(stored))
    return [message for message in new if message.id not in ids]


def _loaded(window: list[BaseMessage], last: list[BaseMessage], state: StoredHistoryState) -> dict[str, Any]:
    """Return the state's update when a run begins.

    What a checkpoint has of runs that did not end is new, too, unless it is among the `last` messages of the store.
    """
    loaded = set(_ids(window))  # what comes again takes its place there
    new = _without(_new(state), [message for message in last if message.id not in loaded])
    merged: Any = add_messages(list(window), new)  # type: ignore[arg-type]
    # Where the update is a plain list, `stream_mode="messages"` shows the history as if the agent said it.
    return {"messages": Overwrite(merged), "stored_ids": _ids(window)}


def _new(state: StoredHistoryState) -> list[BaseMessage]:
    """Return what is in the state and not in the store, less calls that nobody has answered."""
    stored = set(state.get("stored_ids", ()))
    return without_unanswered([message for message in state["messages"] if message.id not in stored])


def _ids(messages: Iterable[BaseMessage]) -> list[str]:
    return [message.id for message in messages if message.id is not None]
