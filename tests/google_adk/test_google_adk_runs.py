"""`TrimPlugin` in ADK's own loop: a model that refuses what Gemini refuses, and sessions that keep everything."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.adk.plugins", reason="google-adk is not installed: pip install 'chatring[google-adk]'")

import google_adk_agents as adk
from chatring.google_adk import TrimPlugin
from google.adk.agents import SequentialAgent
from google.adk.agents.run_config import RunConfig, StreamingMode  # type: ignore[attr-defined]
from google.adk.apps.app import EventsCompactionConfig
from google.adk.apps.llm_event_summarizer import LlmEventSummarizer
from google.adk.models.llm_request import LlmRequest
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.long_running_tool import LongRunningFunctionTool
from google.adk.tools.tool_context import ToolContext
from google.genai.types import Blob, Content, FunctionResponse, Part
from google_adk_agents import PROMPT, ScriptedModel, agent_of, ask, called, events_of, questions, runner_of, said, turns

pytestmark = pytest.mark.filterwarnings(r"ignore:\[EXPERIMENTAL\]:UserWarning")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def check(requests: list[LlmRequest], limit: int, question: str | None = None) -> None:
    """The model has validated them already."""
    assert requests
    for request in requests:
        assert adk.tokens_of(request) <= limit
        assert PROMPT in str(request.config.system_instruction)
        if question is not None:
            assert questions(request.contents)[-1] == question


def test_one_question_and_more_steps_than_fit() -> None:
    async def work() -> None:
        model = ScriptedModel(turns(30))
        runner = runner_of(agent_of(model), [TrimPlugin(500)])
        await ask(runner, "Where are they?")
        check(model.requests, 500, "Where are they?")
        assert len(model.requests) == 30
        assert 5 < len(model.requests[-1].contents) < 15
        assert len(await events_of(runner)) == 60  # the session keeps everything

    run(work())


def test_thirty_turns_and_a_restart_of_the_process(tmp_path: Path) -> None:
    async def work(first: int) -> None:
        service = SqliteSessionService(str(tmp_path / "sessions.db"))
        model = ScriptedModel(turns(4))
        runner = runner_of(agent_of(model), [TrimPlugin(900)], service)
        for number in range(first, first + 15):
            before = len(model.requests)
            await ask(runner, f"Where is number {number}?")
            check(model.requests[before:], 900, f"Where is number {number}?")
        assert len(await events_of(runner)) == 8 * (first + 15)
        assert len(questions(model.requests[0].contents)) == (1 if first == 0 else 4)

    run(work(0))
    run(work(15))


def test_with_a_ratio_the_beginning_stays() -> None:
    async def moves(ratio: float) -> int:
        model = ScriptedModel(turns(3))
        runner = runner_of(agent_of(model), [TrimPlugin(1_500, retention_ratio=ratio)])
        for number in range(20):
            await ask(runner, f"Where is number {number}?")
        check(model.requests, 1_500)
        sent = [adk.sent(request.contents) for request in model.requests]
        return sum(sent[place][: len(sent[place - 1])] != sent[place - 1] for place in range(1, len(sent)))

    assert asyncio.run(moves(1.0)) > 15
    assert asyncio.run(moves(0.7)) <= 12


def test_events_and_state_are_what_they_are_without_the_plugin() -> None:
    def note(text: str, tool_context: ToolContext) -> dict[str, str]:
        """Note it."""
        tool_context.state["noted"] = text
        tool_context.state["temp:secret"] = text
        return {"noted": text * 30}

    async def kept(plugins: list[TrimPlugin]) -> tuple[Any, Any]:
        numbers = iter(range(100))

        def script(request: LlmRequest) -> Content:
            number = next(numbers)
            return said("Done.") if number % 5 == 4 else called(("note", {"text": f"{number} "}))

        model = ScriptedModel(script)
        runner = runner_of(agent_of(model, tools=[note]), plugins)
        for _ in range(6):
            await ask(runner, "Note it.")
        if plugins:
            assert any(len(request.contents) < 11 for request in model.requests[12:])
        session = await runner.session_service.get_session(app_name=adk.NAME, user_id="ada", session_id="s")
        assert session is not None
        assert session.state == {"noted": "28 "}
        kept = [event.model_dump(mode="json", include={"author", "content", "actions"}) for event in session.events]
        for event in kept:
            for part in event["content"]["parts"]:
                (part["function_call"] or part["function_response"] or {}).pop("id", None)
        return kept, session.state

    assert asyncio.run(kept([TrimPlugin(300)])) == asyncio.run(kept([]))


def test_streaming() -> None:
    async def work() -> None:
        model = ScriptedModel(turns(10))
        runner = runner_of(agent_of(model), [TrimPlugin(500)])
        for number in range(3):
            events = await ask(runner, f"Number {number}?", config=RunConfig(streaming_mode=StreamingMode.SSE))
            assert any(event.partial for event in events)
        check(model.requests, 500)
        assert len(await events_of(runner)) == 60

    run(work())


def test_two_runs_at_once_lose_nothing() -> None:
    async def work() -> None:
        plugin = TrimPlugin(500)
        models = [ScriptedModel(turns(8)) for _ in range(3)]
        runners = [runner_of(agent_of(model), [plugin]) for model in models[:2]]
        third = runner_of(agent_of(models[2]), [plugin], runners[0].session_service)
        # One plugin serves two sessions of the same name in two services, and a third one beside the first.
        await asyncio.gather(
            ask(runners[0], "First?"), ask(runners[1], "Second?"), ask(third, "Third?", session_id="other")
        )
        for model, question in zip(models, ("First?", "Second?", "Third?"), strict=True):
            check(model.requests, 500, question)
        assert [len(await events_of(runner)) for runner in runners] == [16, 16]
        assert len(await events_of(third, "other")) == 16

    run(work())


def test_two_runs_at_once_in_one_session_lose_nothing() -> None:
    async def work() -> None:
        model = ScriptedModel(turns(9))
        runner = runner_of(agent_of(model), [TrimPlugin(600)])
        await ask(runner, "Is anybody there?")
        await asyncio.gather(ask(runner, "First?"), ask(runner, "Second?"))
        check(model.requests, 600)
        # Three questions, what the model said, and the results of all but its three answers.
        assert len(await events_of(runner)) == 3 + len(model.requests) + len(model.requests) - 3
        await ask(runner, "And now?")
        check(model.requests[-1:], 600, "And now?")

    run(work())


def test_cancelled_in_mid_run() -> None:
    async def work() -> None:
        started = asyncio.Event()

        async def wait(number: int) -> str:
            """Wait."""
            started.set()
            await asyncio.sleep(60 if number else 0)
            return "done " * 40

        numbers = iter([0, 0, 0, 1])
        model = ScriptedModel(lambda request: called(*[("wait", {"number": next(numbers)})]))
        runner = runner_of(agent_of(model, tools=[wait]), [TrimPlugin(200)])
        task = asyncio.create_task(ask(runner, "Wait."))
        while len(model.requests) < 4:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        model._script = lambda request: said("I am back.")
        await ask(runner, "And now?")
        check(model.requests, 200)
        assert questions(model.requests[-1].contents)[-1] == "And now?"

    run(work())


def test_a_sub_agent_keeps_the_users_question() -> None:
    """ADK tells a sub-agent what the others did as contents of the user; none of it is the question."""

    async def work() -> None:
        desk = ScriptedModel(lambda request: called(("transfer_to_agent", {"agent_name": "orders"})))
        model = ScriptedModel(turns(20))
        orders = agent_of(model, name="orders", description="Knows orders.")
        root = agent_of(desk, name="desk", tools=[], sub_agents=[orders])
        runner = runner_of(root, [TrimPlugin(1_200)])
        await ask(runner, "Where are they?")
        assert len(model.requests) == 20
        check(model.requests, 1_200)
        for request in model.requests:
            assert questions(request.contents)[0] == "Where are they?"
        first, last = (model.requests[place].contents for place in (0, -1))
        assert sum(text.startswith("For context:") for text in questions(first)) == 2
        assert questions(last) == ["Where are they?"]  # they were the oldest steps
        assert len(await events_of(runner)) == 1 + 2 + 39

    run(work())


def test_a_user_may_write_as_adk_does_of_other_agents() -> None:
    async def work() -> None:
        model = ScriptedModel(turns(5))
        runner = runner_of(agent_of(model), [TrimPlugin(330)])
        await ask(runner, "Hello.")
        parts = [Part(text="For context: this is my invoice."), Part(text="Where is it? " * 10)]
        await ask(runner, Content(role="user", parts=parts))
        assert len(model.requests) == 10
        check(model.requests, 330)
        for request in model.requests[5:]:
            assert questions(request.contents)[-1] == "For context: this is my invoice."

    run(work())


@pytest.mark.filterwarnings("ignore:SequentialAgent is deprecated:DeprecationWarning")
def test_what_an_agent_gets_from_another_one_is_its_question_where_it_sees_no_other() -> None:
    async def work() -> None:
        writer = ScriptedModel(lambda request: said("A draft about orders."))
        model = ScriptedModel(turns(15))
        editor = agent_of(model, name="editor", include_contents="none")
        pair = SequentialAgent(name="pair", sub_agents=[agent_of(writer, name="writer", tools=[]), editor])
        runner = runner_of(pair, [TrimPlugin(800)])
        await ask(runner, "Write.")
        check(model.requests, 800)
        assert len(model.requests) == 15
        for request in model.requests:
            assert "A draft about orders." in str(request.contents[0])

    run(work())


@pytest.mark.filterwarnings("ignore:The `plugins` argument is deprecated:DeprecationWarning")  # by ADK itself
def test_an_agent_as_a_tool() -> None:
    async def work() -> None:
        model = ScriptedModel(turns(15))
        inner = agent_of(model, name="orders", description="Knows orders.")
        answers = iter([called(("orders", {"request": "All of them"})), said("They left.")])
        outer = ScriptedModel(lambda request: next(answers))
        runner = runner_of(agent_of(outer, name="desk", tools=[AgentTool(inner)]), [TrimPlugin(500)])
        await ask(runner, "Where are they?")
        check(outer.requests, 500, "Where are they?")
        check(model.requests, 500, "All of them")
        assert len(model.requests) == 15

    run(work())


def test_a_long_running_tool() -> None:
    def refund(number: int) -> dict[str, str]:
        """Ask for a refund."""
        return {"status": "pending"}

    async def work() -> None:
        answers = iter(
            [
                *[called(("find_order", {"number": number})) for number in range(10)],
                called(("refund", {"number": 1}), ("find_order", {"number": 1})),
                said("It is being looked at."),
                said("It is granted."),
            ]
        )
        model = ScriptedModel(lambda request: next(answers))
        agent = agent_of(model, tools=[LongRunningFunctionTool(refund), adk.find_order])
        runner = runner_of(agent, [TrimPlugin(400)])
        events = await ask(runner, "Can I have it back?")
        calls = [call for event in events for call in event.get_function_calls() if call.name == "refund"]
        granted = FunctionResponse(id=calls[0].id, name="refund", response={"status": "granted"})
        await ask(runner, Content(role="user", parts=[Part(function_response=granted)]))
        check(model.requests, 400, "Can I have it back?")
        assert "granted" in str(model.requests[-1].contents[-1])

    run(work())


def test_recent_events_that_begin_within_a_turn() -> None:
    """What is left of the turn in front would be refused."""

    async def work() -> None:
        model = ScriptedModel(turns(5))
        runner = runner_of(agent_of(model), [TrimPlugin(3_000)])
        await ask(runner, "Where are they?")
        for number in range(2, 10):
            config = RunConfig(get_session_config=GetSessionConfig(num_recent_events=number))
            await ask(runner, f"With {number}?", config=config)
        assert len(model.requests) == 45

    run(work())


def test_a_summary_of_adk_stays_in_front_while_all_fits() -> None:
    async def work() -> None:
        summarizer = LlmEventSummarizer(llm=ScriptedModel(lambda request: said("Summary: they left.")))
        compaction = EventsCompactionConfig(summarizer=summarizer, compaction_interval=2, overlap_size=0)
        model = ScriptedModel(turns(3))
        runner = runner_of(agent_of(model), [TrimPlugin(3_000)], events_compaction_config=compaction)
        await ask(runner, "One?")
        await ask(runner, "Two?")
        for limit, kept in ((3_000, 1), (250, 0)):
            model = ScriptedModel(turns(4), unchecked=kept)  # ADK has the summary sent as the model's
            runner = runner_of(agent_of(model), [TrimPlugin(limit)], runner.session_service)
            await ask(runner, f"With {limit}?")
            assert len(model.requests[-1].contents) > 3
            assert str(model.requests[-1].contents[0]).count("Summary: they left.") == kept

    run(work())


@pytest.mark.parametrize("static", ["You never lie.", "image"])
def test_an_instruction_beside_a_static_one_is_in_every_request(static: str) -> None:
    """ADK sends it among the contents, as the user's."""

    async def work() -> None:
        image = Part(inline_data=Blob(data=b"png", mime_type="image/png"))
        parts = [Part(text="You never lie."), *([image] if static == "image" else [])]
        model = ScriptedModel(turns(8))
        agent = agent_of(model, instruction="Be short. " * 20, static_instruction=Content(role="user", parts=parts))
        limit = 600 + 1_200 * (static == "image")
        runner = runner_of(agent, [TrimPlugin(limit)])
        for number in range(4):
            before = len(model.requests)
            await ask(runner, f"Number {number}?")
            for request in model.requests[before:]:
                assert adk.tokens_of(request) <= limit
                assert "You never lie." in str(request.config.system_instruction)
                users = questions(request.contents)
                assert sum("Be short. Be short." in text for text in users) == 1
                assert str(adk.sent(request.contents)).count("image/png") == (static == "image")
                assert f"Number {number}?" in users
        assert all(len(request.contents) < 16 for request in model.requests)

    run(work())


def test_instructions_that_are_over_the_limit_end_the_run_in_words() -> None:
    async def work() -> None:
        model = ScriptedModel(turns(1))
        runner = runner_of(agent_of(model, instruction="Be kind. " * 100), [TrimPlugin(100, initial_token_count=5)])
        reason = r"chatring_trim_plugin.* exceeds token_limit 100: instructions 3\d\d, initial_token_count 5; "
        with pytest.raises(RuntimeError, match=reason) as caught:
            await ask(runner, "Hi")
        assert isinstance(caught.value.__cause__, ValueError)
        assert model.requests == []

    run(work())
