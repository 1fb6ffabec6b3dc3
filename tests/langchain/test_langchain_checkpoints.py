"""`StoredHistory` beside a checkpointer, which interrupts need: it keeps the window and one run."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain.agents", reason="langchain is not installed: pip install 'chatring[langchain]'")

from chatring.stores.errors import StoreUnavailableError
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_agents import ScriptedModel, fail_after_a_tool, tokens, validate
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from test_langchain_stored import LIMIT, agent_of, ask, on, opened, questions


def state_of(agent: Any) -> list[BaseMessage]:
    messages: list[BaseMessage] = agent.get_state(on("ada")).values["messages"]
    return messages


def test_a_checkpoint_has_the_window_and_one_run(tmp_path: Path) -> None:
    store = opened(tmp_path)
    model = ScriptedModel(steps=2)
    agent = agent_of(model, store, checkpointer=InMemorySaver())
    for number in range(30):
        ask(agent, f"Where is order {number}?")
        validate(model.requests[-1])
        assert tokens(state_of(agent)) <= LIMIT + 300
    assert store.length("ada") == 180
    assert questions(store.all("ada")) == [f"Where is order {number}?" for number in range(30)]


def asking_before_calls(model: ScriptedModel, path: Path) -> Any:
    approve = HumanInTheLoopMiddleware(interrupt_on={"find_order": True})
    return agent_of(model, opened(path), approve, checkpointer=InMemorySaver())


def test_a_run_that_was_interrupted_is_stored_when_it_ends(tmp_path: Path) -> None:
    model = ScriptedModel(steps=1)
    agent = asking_before_calls(model, tmp_path)
    store = opened(tmp_path)
    call: Any = {"messages": [HumanMessage("One?")]}
    for length in (4, 8):
        assert "__interrupt__" in agent.invoke(call, on("ada"))
        assert store.length("ada") == length - 4
        agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), on("ada"))
        assert store.length("ada") == length
        call = {"messages": [HumanMessage("Two?")]}
    validate(store.all("ada"))
    assert questions(store.all("ada")) == ["One?", "Two?"]


def test_a_run_whose_end_the_checkpointer_did_not_see_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    append = store.update

    def append_and_die(*change: Any) -> None:
        append(*change)
        raise RuntimeError("killed")

    model = ScriptedModel(steps=40)  # more than the window has
    agent = agent_of(model, store, checkpointer=InMemorySaver())
    with monkeypatch.context() as patched:
        patched.setattr(store, "update", append_and_die)
        with pytest.raises(RuntimeError, match="killed"):
            ask(agent, "One?")
    run = store.all("ada")
    assert tokens(run) > 2 * LIMIT
    ask(agent, "Two?")
    assert store.all("ada")[: len(run)] == run
    assert len(store.all("ada")) == 2 * len(run)
    assert questions(store.all("ada")) == ["One?", "Two?"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("others", [0, 5])
def test_a_run_whose_end_the_checkpointer_did_not_see_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_async: bool, others: int
) -> None:
    store = opened(tmp_path)
    append = store.update

    def append_and_die(*change: Any) -> None:
        append(*change)
        for number in range(others):  # agents that share the session
            store.append("ada", [HumanMessage(f"Other {number}?", id=f"other {number}")])
        raise StoreUnavailableError("the answer was lost")

    async def aappend_and_die(*change: Any) -> None:
        append_and_die(*change)

    model = ScriptedModel(steps=2)
    agent = agent_of(model, store, checkpointer=InMemorySaver())
    with monkeypatch.context() as patched:
        patched.setattr(store, "update", append_and_die)
        patched.setattr(store, "aupdate", aappend_and_die)
        with pytest.raises(StoreUnavailableError):
            ask(agent, "One?", is_async=is_async)
    run = store.all("ada")
    assert len(run) == 6 + others
    if is_async:
        asyncio.run(agent.ainvoke(None, on("ada")))
    else:
        agent.invoke(None, on("ada"))
    assert store.all("ada") == run
    ask(agent, "Two?", is_async=is_async)
    assert store.all("ada")[: len(run)] == run
    assert store.length("ada") == len(run) + 6


def test_a_run_that_was_given_up_leaves_its_question_and_no_call(tmp_path: Path) -> None:
    # Asking again instead of deciding leaves a call in the checkpoint that nobody will answer.
    model = ScriptedModel(steps=1)
    agent = asking_before_calls(model, tmp_path)
    assert "__interrupt__" in agent.invoke({"messages": [HumanMessage("One?")]}, on("ada"))
    model.steps = 0
    agent.invoke({"messages": [HumanMessage("Two?")]}, on("ada"))
    validate(model.requests[-1])
    history = opened(tmp_path).all("ada")
    assert [message.type for message in history] == ["human", "human", "ai"]
    assert questions(history) == ["One?", "Two?"]


def test_a_run_that_failed_is_stored_when_it_was_taken_up_again(tmp_path: Path) -> None:
    model = ScriptedModel(steps=2)
    store = opened(tmp_path)
    agent = agent_of(model, store, checkpointer=InMemorySaver())
    ask(agent, "One?")

    model.before_call = fail_after_a_tool
    with pytest.raises(ConnectionError):
        ask(agent, "Two?")
    assert store.length("ada") == 6
    model.before_call = None
    agent.invoke(None, on("ada"))
    assert store.length("ada") == 12
    validate(store.all("ada"))


def test_a_checkpoint_that_was_there_before_moves_into_the_store(tmp_path: Path) -> None:
    saver = InMemorySaver()
    model = ScriptedModel()
    store = opened(tmp_path)
    ask(create_agent(model, [], checkpointer=saver), "One?")
    ask(agent_of(model, store, checkpointer=saver), "Two?")
    assert questions(store.all("ada")) == ["One?", "Two?"]
