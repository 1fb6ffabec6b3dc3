"""`StoredHistory` in LangChain's own agent: what is loaded, sent and stored."""

import asyncio
import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from adapter_stores import Reversed, check_stores

pytest.importorskip("langchain.agents", reason="langchain is not installed: pip install 'chatring[langchain]'")

from chatring.langchain import MessageFormat, StoredHistory, TrimMessages
from chatring.stores import Store, open_store
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain_agents import PROMPT, ScriptedModel, check_request, fail_after_a_tool, find_order, tokens, validate
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage

LIMIT = 600


def opened(path: Path) -> Store[BaseMessage]:
    return open_store(f"sqlite:///{path / 'chat.db'}", format=MessageFormat())


def agent_of(model: ScriptedModel, store: Store[Any], *more: Any, ratio: float = 1.0, **options: Any) -> Any:
    middleware = [
        StoredHistory(store, LIMIT, retention_ratio=ratio),
        TrimMessages(LIMIT, retention_ratio=ratio),
        *more,
    ]
    return create_agent(model, [find_order], system_prompt=PROMPT, middleware=middleware, **options)


def on(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}, "recursion_limit": 200}


def ask(agent: Any, question: str, thread: str = "ada", *, is_async: bool = False) -> list[BaseMessage]:
    call = {"messages": [HumanMessage(question)]}
    state = asyncio.run(agent.ainvoke(call, on(thread))) if is_async else agent.invoke(call, on(thread))
    listed: list[BaseMessage] = state["messages"]
    return listed


def questions(messages: list[BaseMessage]) -> list[Any]:
    return [message.content for message in messages if isinstance(message, HumanMessage)]


@pytest.mark.parametrize("is_async", [False, True], ids=["invoke", "ainvoke"])
def test_thirty_turns_beyond_the_limit(tmp_path: Path, is_async: bool) -> None:
    store = opened(tmp_path)
    model = ScriptedModel(steps=2)
    agent = agent_of(model, store)
    for number in range(30):
        before = len(model.requests)
        state = ask(agent, f"Where is order {number}?", is_async=is_async)
        assert tokens(state) <= LIMIT + 300  # the window and one run, not the history
        for sent in model.requests[before:]:
            check_request(sent, f"Where is order {number}?", LIMIT)
        assert store.length("ada") == 6 * (number + 1)
    history = store.all("ada")
    validate(history)
    assert questions(history) == [f"Where is order {number}?" for number in range(30)]
    assert store.token_count("ada") > 5 * LIMIT
    # Ids round-trip: nothing was added twice, and the store has the state's ids.
    ids = [message.id for message in history]
    assert len(set(ids)) == len(ids) == 180
    assert ids[-6:] == [message.id for message in state[-6:]]


def test_the_beginning_stays_with_a_ratio(tmp_path: Path) -> None:
    def moves(ratio: float, thread: str) -> int:
        model = ScriptedModel(steps=2)
        agent = agent_of(model, store, ratio=ratio)
        for number in range(30):
            ask(agent, f"Where is order {number}?", thread)
            check_request(model.requests[-1], f"Where is order {number}?", LIMIT)
        ids = [[message.id for message in sent[1:]] for sent in model.requests]
        return sum(after[: len(before)] != before for before, after in itertools.pairwise(ids))

    store = opened(tmp_path)
    sliding, kept = moves(1.0, "sliding"), moves(0.5, "kept")
    assert sliding > 50
    assert kept < sliding / 2


def test_a_whole_run_beyond_the_limit_is_stored(tmp_path: Path) -> None:
    store = opened(tmp_path)
    model = ScriptedModel(steps=30)
    state = ask(agent_of(model, store), "Where are all my orders?")
    for sent in model.requests:
        check_request(sent, "Where are all my orders?", LIMIT)
    assert store.all("ada") == state
    assert len(state) == 62


RESTART = """
import sys
from pathlib import Path
from langchain_agents import ScriptedModel
from test_langchain_stored import agent_of, ask, opened
model = ScriptedModel(steps=1)
ask(agent_of(model, opened(Path(sys.argv[1]))), sys.argv[2])
print([message.content for message in model.requests[0] if message.type == "human"])
"""


def test_a_session_survives_its_process(tmp_path: Path) -> None:
    printed = []
    for question in ("One?", "Two?", "Three?"):
        program = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{RESTART}", str(tmp_path), question]
        done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.strip())
    assert printed == ["['One?']", "['One?', 'Two?']", "['One?', 'Two?', 'Three?']"]
    assert opened(tmp_path).length("ada") == 12


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "tasks"])
def test_two_runs_at_once_lose_nothing(tmp_path: Path, is_async: bool) -> None:
    store = opened(tmp_path)
    both = threading.Barrier(2)

    def wait(messages: list[BaseMessage]) -> None:
        if messages[-1].type == "human":
            both.wait(timeout=60)

    agent = agent_of(ScriptedModel(steps=3, before_call=wait), store)  # one object for both
    if is_async:

        async def run() -> None:
            calls = [agent.ainvoke({"messages": [HumanMessage(text)]}, on("ada")) for text in ("One?", "Two?")]
            await asyncio.gather(*calls)

        asyncio.run(run())
    else:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda text: ask(agent, text), ("One?", "Two?")))
    history = store.all("ada")
    validate(history)
    assert len(history) == 16
    assert {*questions(history)} == {"One?", "Two?"}
    assert [message.type for message in history[:8]] == [message.type for message in history[8:]]


@pytest.mark.parametrize("at", [2, 4])
def test_a_cancelled_run_leaves_a_valid_session(tmp_path: Path, at: int) -> None:
    store = opened(tmp_path)
    model = ScriptedModel(steps=3)
    agent = agent_of(model, store)
    ask(agent, "One?")
    before = store.all("ada")

    async def run() -> None:
        reached, released = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def signal(messages: list[BaseMessage]) -> None:
            if len(model.requests) == 4 + at - 1:
                loop.call_soon_threadsafe(reached.set)
                assert released.wait(60)

        model.before_call = signal
        task = asyncio.ensure_future(agent.ainvoke({"messages": [HumanMessage("Two?")]}, on("ada")))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()

    asyncio.run(run())
    model.before_call = None
    assert store.all("ada") == before
    ask(agent, "Three?")
    validate(store.all("ada"))
    assert questions(store.all("ada")) == ["One?", "Three?"]
    validate(model.requests[-1])


def test_a_run_that_is_cancelled_while_it_is_stored_is_stored_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    append = store.aupdate
    agent = agent_of(ScriptedModel(steps=1), store)

    async def run() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def append_slowly(*change: Any) -> None:
            began.set()
            await asyncio.sleep(0.01)
            await append(*change)
            ended.set()

        monkeypatch.setattr(store, "aupdate", append_slowly)
        task = asyncio.ensure_future(agent.ainvoke({"messages": [HumanMessage("One?")]}, on("ada")))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 60)  # LangGraph does not wait for it

    asyncio.run(run())
    assert [message.type for message in store.all("ada")] == ["human", "ai", "tool", "ai"]


def test_a_run_that_fails_leaves_the_session_as_it_was(tmp_path: Path) -> None:
    store = opened(tmp_path)
    model = ScriptedModel(steps=3)
    agent = agent_of(model, store)
    ask(agent, "One?")
    before = store.all("ada")

    model.before_call = fail_after_a_tool
    with pytest.raises(ConnectionError):
        ask(agent, "Two?")
    assert store.all("ada") == before


def test_a_call_that_is_unanswered_at_the_end_is_not_stored(tmp_path: Path) -> None:
    class Stop(AgentMiddleware):
        @hook_config(can_jump_to=["end"])
        def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
            return {"jump_to": "end"} if len(state["messages"]) > 3 else None

    store = opened(tmp_path)
    state = ask(agent_of(ScriptedModel(steps=3, parallel=2), store, Stop()), "Where is it?")
    assert isinstance(state[-1], AIMessage)
    assert state[-1].tool_calls
    assert [message.type for message in store.all("ada")] == ["human", "ai", "tool", "tool"]


def test_the_history_is_not_streamed_as_if_it_were_said(tmp_path: Path) -> None:
    store = opened(tmp_path)
    agent = agent_of(ScriptedModel(steps=1), store)
    ask(agent, "One?")
    call = {"messages": [HumanMessage("Two?")]}
    streamed = [chunk for chunk, _ in agent.stream(call, on("ada"), stream_mode="messages")]
    assert [chunk.type.lower().removesuffix("messagechunk") for chunk in streamed] == ["ai", "tool", "ai"]


def test_what_is_the_middlewares_own_is_not_in_the_result(tmp_path: Path) -> None:
    agent = agent_of(ScriptedModel(), opened(tmp_path))
    assert set(agent.invoke({"messages": [HumanMessage("One?")]}, on("ada"))) == {"messages"}


def test_messages_that_come_again_are_stored_once(tmp_path: Path) -> None:
    # As of a client that sends its whole transcript, ids and all.
    store = opened(tmp_path)
    agent = agent_of(ScriptedModel(steps=1), store)
    state = ask(agent, "One?")
    state = agent.invoke({"messages": [*state, HumanMessage("Two?")]}, on("ada"))["messages"]
    assert store.all("ada") == state
    assert questions(state) == ["One?", "Two?"]


def test_messages_without_an_id_are_loaded_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    call: Any = {"name": "find_order", "args": {"number": 1}, "id": "1"}
    old = [
        HumanMessage("Old?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("x", tool_call_id="1"),
        AIMessage("Old."),
    ]
    store.append("ada", old)
    agent = agent_of(ScriptedModel(), store)
    ask(agent, "One?")
    ask(agent, "Two?")
    assert questions(store.all("ada")) == ["Old?", "One?", "Two?"]
    assert store.length("ada") == 8


def test_threads_are_apart_and_may_have_any_name(tmp_path: Path) -> None:
    store = opened(tmp_path)
    agent = agent_of(ScriptedModel(), store)
    ask(agent, "One?", "ada")
    ask(agent, "Two?", "grace")
    agent.invoke({"messages": [HumanMessage("Three?")]}, on(7))  # type: ignore[arg-type]
    other = create_agent(ScriptedModel(), [], middleware=[StoredHistory(store, LIMIT, prefix="other/")])
    ask(other, "Four?", "ada")
    keys = store.keys()
    assert keys == ["7", "ada", "grace", "other/ada"]
    assert [questions(store.all(key)) for key in keys] == [["Three?"], ["One?"], ["Two?"], ["Four?"]]


@pytest.mark.parametrize("config", [{}, {"configurable": {}}, {"configurable": {"thread_id": ""}}])
def test_a_run_without_a_thread_is_refused(tmp_path: Path, config: Any) -> None:
    model = ScriptedModel()
    agent = agent_of(model, opened(tmp_path))
    with pytest.raises(ValueError, match=r"^StoredHistory needs to know the thread, agent\.invoke"):
        agent.invoke({"messages": [HumanMessage("One?")]}, config)
    assert model.requests == []


def test_other_stores_are_refused() -> None:
    needs = "StoredHistory needs a store of LangChain's messages: open_store(url, format=MessageFormat())"
    check_stores(lambda store: StoredHistory(store, 100), MessageFormat, needs)
    store = open_store("memory://", format=MessageFormat())
    with pytest.raises(ValueError, match="token_limit"):
        StoredHistory(store, 0)
    with pytest.raises(TypeError, match="token_limit must be an integer, got None"):
        StoredHistory(store, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="retention_ratio"):
        StoredHistory(store, 100, retention_ratio=3)
    with pytest.raises(TypeError, match="prefix must be a str, got 1"):
        StoredHistory(store, 100, prefix=1)  # type: ignore[arg-type]


def test_a_format_may_encrypt_inside() -> None:
    store = open_store("memory://", format=Reversed(MessageFormat()))
    model = ScriptedModel()
    agent = agent_of(model, store)
    ask(agent, "One?")
    ask(agent, "Two?")
    assert questions(model.requests[-1]) == ["One?", "Two?"]
    assert all(isinstance(message, BaseMessage) for message in store.all("ada"))


def test_a_message_that_middleware_removed_is_not_stored(tmp_path: Path) -> None:
    class Forget(AgentMiddleware):
        def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
            return {"messages": [RemoveMessage(id=state["messages"][-2].id)]}

    store = opened(tmp_path)
    ask(agent_of(ScriptedModel(), store, Forget()), "My password is secret.")
    assert [message.type for message in store.all("ada")] == ["ai"]
