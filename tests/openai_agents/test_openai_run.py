"""A session and a filter in the SDK's real runner, with a scripted model that refuses what OpenAI refuses."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents import Runner, function_tool
from chatring.openai_agents import ChatringSession, trim_input
from chatring.stores import Store, open_store
from openai_scripted_model import (
    PROMPT,
    Item,
    ScriptedModel,
    agent_of,
    called,
    config,
    find_order,
    said,
    thought,
    tokens_of,
    turns,
)
from providers import validate_openai_responses

LIMIT = 2_000


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = open_store(f"sqlite:///{tmp_path / 'chat.db'}")
    yield store
    store.close()


async def run(model: ScriptedModel, question: str, *, streamed: bool = False, **options: Any) -> Any:
    options.setdefault("run_config", config(call_model_input_filter=trim_input(LIMIT, retention_ratio=0.7)))
    agent = agent_of(model, options.pop("tools", (find_order,)))
    if not streamed:
        return await Runner.run(agent, question, max_turns=40, **options)
    result = Runner.run_streamed(agent, question, max_turns=40, **options)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
async def test_a_run_of_thirty_turns_beyond_the_limit(store: Store[Item], streamed: bool) -> None:
    model = ScriptedModel(turns(30))
    questions = [f"Where are my orders, the {place} time?" for place in ("first", "second", "third")]
    for question in questions:
        session = ChatringSession("ada", store, LIMIT, retention_ratio=0.7, initial_token_count=100)
        await run(model, question, session=session, streamed=streamed)
    assert len(model.requests) == 90
    beginnings = 0
    for number, request in enumerate(model.requests):  # the model has validated them
        assert tokens_of(request, PROMPT) <= LIMIT
        assert questions[number // 30] in [item["content"] for item in request if item.get("role") == "user"]
        # The cache knows the request before this one as far as they are the same.
        before = model.requests[number - 1] if number else []
        beginnings += request[: len(before)] != before
    assert model.instructions == [PROMPT] * 90
    everything = store.all("ada")
    validate_openai_responses(everything)
    assert [item["content"] for item in everything if item.get("role") == "user"] == questions
    assert tokens_of(everything) > 5 * LIMIT
    # A cut moves when 30 % of the limit are full. A run's first one may move it too: session and filter cut apart.
    assert beginnings <= tokens_of(everything) // (LIMIT * 3 // 10) + len(questions)
    assert not await ChatringSession("ada/x", store).get_items()


async def test_without_a_ratio_the_limit_holds_too(store: Store[Item]) -> None:
    model = ScriptedModel(turns(30, thinks=False))
    filtered = config(call_model_input_filter=trim_input(1_000, initial_token_count=200))
    await run(model, "Where are they?", session=ChatringSession("ada", store, 1_000), run_config=filtered)
    assert max(tokens_of(request, PROMPT) for request in model.requests) <= 800
    assert all(request[0]["content"] == "Where are they?" for request in model.requests)


PROGRAM = """
import asyncio, os, signal, sys
from agents import Runner
from chatring.openai_agents import ChatringSession
from chatring.stores import open_store
from openai_scripted_model import ScriptedModel, agent_of, turns

model = ScriptedModel(turns(3))
session = ChatringSession("ada", open_store("sqlite:///chat.db"), 3_000)
asyncio.run(Runner.run(agent_of(model), sys.argv[1], session=session))
print(*[item["content"] for item in model.requests[-1] if item.get("role") == "user"], sep="; ", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_session_survives_the_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = []
    for question in ("Where is it?", "And now?"):
        command = [sys.executable, "-c", PROGRAM, question]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == -9, done.stderr
        printed.append(done.stdout.strip())
    assert printed == ["Where is it?", "Where is it?; And now?"]


async def test_two_runs_at_once_lose_nothing(store: Store[Item]) -> None:
    questions = [f"Question {number}?" for number in range(8)]
    model = ScriptedModel(turns(4))

    async def one(question: str) -> None:
        # Each with a session of its own, as in a server's requests.
        await run(model, question, session=ChatringSession("ada", store, LIMIT))

    await asyncio.gather(*map(one, questions))
    everything = store.all("ada")
    validate_openai_responses(everything)
    assert sorted(item["content"] for item in everything if item.get("role") == "user") == questions
    calls = [item for item in everything if item.get("type") == "function_call"]
    answers = [item for item in everything if item.get("role") == "assistant"]
    assert (len(calls), len(answers)) == (8 * (2 + 1 + 2), 8)
    for place, item in enumerate(everything):
        if item.get("type") == "function_call_output":
            assert everything[place - 1].get("type", "").startswith("function_call")


@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
async def test_a_run_that_is_cancelled_leaves_a_valid_session(store: Store[Item], streamed: bool) -> None:
    reached = asyncio.Event()

    @function_tool
    async def wait() -> str:
        """Wait."""
        reached.set()
        await asyncio.sleep(60)
        return "never"

    answers = iter([[thought(), called("find_order", number=1)], [thought(), called("wait"), called("wait")]])
    session = ChatringSession("ada", store, LIMIT)
    model = ScriptedModel(lambda given: next(answers))
    task = asyncio.ensure_future(
        run(model, "Where is it?", session=session, tools=[find_order, wait], streamed=streamed)
    )
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # And until what a streamed run does in the background has ended.
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
    kept: Any = await session.get_items()
    validate_openai_responses(kept)
    assert [item.get("type", item.get("role")) for item in kept] == [
        "user",
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    await run(ScriptedModel(lambda given: [said("I am back.")]), "And now?", session=session)
    validate_openai_responses(store.all("ada"))


async def test_a_tool_that_fails_beside_another_leaves_a_valid_session(store: Store[Item]) -> None:
    @function_tool(failure_error_function=None)
    def fail() -> str:
        """Fail."""
        raise RuntimeError("no database")

    session = ChatringSession("ada", store, LIMIT)
    model = ScriptedModel(lambda given: [thought(), called("find_order", number=1), called("fail")])
    with pytest.raises(Exception, match="no database"):
        await run(model, "Where is it?", session=session, tools=[find_order, fail])
    validate_openai_responses(store.all("ada"))
    await run(ScriptedModel(lambda given: [said("I am back.")]), "And now?", session=session)
    validate_openai_responses(store.all("ada"))
