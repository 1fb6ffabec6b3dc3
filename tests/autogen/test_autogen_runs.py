"""`RingChatCompletionContext` in the loop of AutoGen's agents: OpenAI accepts each request, and nothing is lost."""

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("autogen_agentchat", reason="AutoGen is not installed: pip install 'chatring[autogen]'")
pytest.importorskip("autogen_ext.models.openai", reason="AutoGen's client is not installed: autogen-ext[openai]")

from autogen_agentchat.base import Handoff
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_core.memory import ListMemory, MemoryContent
from autogen_core.models import AssistantMessage, FunctionExecutionResultMessage, UserMessage
from autogen_models import PROMPT, Message, ScriptedOpenAI, agent_of, called, questions, said, tokens_of, turns
from chatring.autogen import RingChatCompletionContext

SYSTEM = tokens_of([{"role": "system", "content": PROMPT}])


def context_of(limit: int, **options: Any) -> RingChatCompletionContext:
    return RingChatCompletionContext(limit, initial_token_count=SYSTEM, **options)


def check(requests: list[list[Message]], limit: int, question: str | None = None) -> None:
    """The model has validated them already."""
    assert requests
    for request in requests:
        assert tokens_of(request) <= limit
        assert request[0] == {"role": "system", "content": PROMPT}
        if question is not None:
            assert questions(request)[-1] == question


@pytest.mark.parametrize("thought", [None, "Let me look for them."])
def test_one_question_and_more_steps_than_fit(thought: str | None) -> None:
    async def work() -> None:
        model = ScriptedOpenAI(turns(30, thought))
        context = context_of(500)
        await agent_of(model, context).run(task="Where are they?")
        check(model.requests, 500, "Where are they?")
        assert len(model.requests) == 30
        assert max(map(tokens_of, model.requests)) > 400
        assert len((await context.save_state())["messages"]) == 60

    asyncio.run(work())


def test_what_is_counted_is_what_is_sent() -> None:
    async def work() -> None:
        counted: list[int] = []

        class Watched(RingChatCompletionContext):
            async def get_messages(self) -> Any:
                window = self._ring.window(initial_token_count=SYSTEM)
                counted.append(window.tokens)
                return window

        model = ScriptedOpenAI(turns(15, "Let me look for them."))
        context = Watched(500, initial_token_count=SYSTEM)
        for _ in range(3):
            await agent_of(model, context).run(task="Where are they?")
        assert counted == [tokens_of(request[1:]) for request in model.requests]

    asyncio.run(work())


def test_thirty_turns_and_a_restart_of_the_process() -> None:
    async def work(state: str | None, first: int) -> str:
        model = ScriptedOpenAI(turns(4))
        agent = agent_of(model, context_of(900))
        if state is not None:
            await agent.load_state(json.loads(state))
        for number in range(first, first + 15):
            before = len(model.requests)
            await agent.run(task=f"Where is number {number}?")
            check(model.requests[before:], 900, f"Where is number {number}?")
        saved = await agent.save_state()
        assert len(saved["llm_context"]["messages"]) == 8 * (first + 15)
        assert len(questions(model.requests[0])) == (1 if state is None else 4)
        return json.dumps(saved)

    asyncio.run(work(asyncio.run(work(None, 0)), 15))


def test_with_a_ratio_the_beginning_stays() -> None:
    async def moves(ratio: float) -> int:
        model = ScriptedOpenAI(turns(3))
        agent = agent_of(model, context_of(1_500, retention_ratio=ratio))
        for number in range(20):
            await agent.run(task=f"Where is number {number}?")
        check(model.requests, 1_500)
        sent = model.requests
        return sum(sent[place][: len(sent[place - 1])] != sent[place - 1] for place in range(1, len(sent)))

    assert asyncio.run(moves(1.0)) > 15
    assert asyncio.run(moves(0.7)) <= 12


def test_cancelled_in_mid_run() -> None:
    async def work() -> None:
        async def wait(number: int) -> str:
            """Wait."""
            if number == 3:
                run.cancel()
            await asyncio.sleep(60 if number == 3 else 0)
            return "done " * 40

        numbers = iter(range(4))
        model = ScriptedOpenAI(lambda messages: called(("wait", {"number": next(numbers)})))
        context = context_of(200)
        agent = agent_of(model, context, tools=[wait])
        run = asyncio.create_task(agent.run(task="Wait."))
        with pytest.raises(asyncio.CancelledError):
            await run
        state = json.loads(json.dumps(await agent.save_state()))
        kinds = [message["type"] for message in state["llm_context"]["messages"]]
        assert kinds == ["UserMessage", *["AssistantMessage", "FunctionExecutionResultMessage"] * 3]
        model.script = lambda messages: said("I am back.")
        await agent.run(task="And now?")
        other = agent_of(model, context_of(200), tools=[wait])
        await other.load_state(state)
        await other.run(task="And now?")
        check(model.requests, 200)
        assert [questions(request)[-1] for request in model.requests[-2:]] == ["And now?"] * 2

    asyncio.run(work())


def test_two_runs_at_once_lose_nothing() -> None:
    """They share a context: each one's calls and results stay together, whatever comes in between."""

    async def work() -> None:
        async def slow(number: int) -> str:
            """Find it, and take a while."""
            await asyncio.sleep(0.001 * (number % 3))
            return f"Number {number} is here. " * 5

        done = 0

        def script(messages: list[Message]) -> Message:
            nonlocal done
            done += 1
            return called(("slow", {"number": done}), ("slow", {"number": done + 1}))

        model = ScriptedOpenAI(script)
        context = context_of(500)
        agents = [agent_of(model, context, tools=[slow], max_tool_iterations=20) for _ in range(3)]
        await asyncio.gather(*(agent.run(task=f"Task {place}") for place, agent in enumerate(agents)))
        check(model.requests, 500)
        assert len(model.requests) == 60
        messages = context._ring.get_all()
        assert sum(isinstance(message, UserMessage) for message in messages) == 3
        for place, message in enumerate(messages):
            if isinstance(message, AssistantMessage):
                results = messages[place + 1]
                assert isinstance(results, FunctionExecutionResultMessage)
                assert [call.id for call in message.content] == [result.call_id for result in results.content]  # type: ignore[union-attr]
        assert len(messages) == 3 + 2 * 60

    asyncio.run(work())


def test_memory_stands_behind_the_question_and_leaves_with_its_turn() -> None:
    async def work() -> None:
        memory = ListMemory()
        await memory.add(MemoryContent(content="The customer is Ada. " * 5, mime_type="text/plain"))
        model = ScriptedOpenAI(turns(5))
        agent = agent_of(model, context_of(600), memory=[memory])
        for number in range(6):
            before = len(model.requests)
            await agent.run(task=f"Number {number}?")
            check(model.requests[before:], 600, f"Number {number}?")
        assert "Ada" in str(model.requests[-5][-1])

    asyncio.run(work())


def test_agents_in_a_team() -> None:
    """What the others say is a user's to each agent. So the newest of it is the question."""

    async def work() -> None:
        models = [ScriptedOpenAI(turns(2)), ScriptedOpenAI(turns(2))]
        agents = [agent_of(model, context_of(300), name) for model, name in zip(models, ("one", "two"), strict=True)]
        team = RoundRobinGroupChat([*agents], termination_condition=MaxMessageTermination(60))
        await team.run(task="Talk.")
        state = json.loads(json.dumps(await team.save_state()))
        await team.reset()
        await team.load_state(state)
        await team.run()
        for model in models:
            check(model.requests, 300)
            assert len(model.requests) > 20

    asyncio.run(work())


def test_a_handoff_takes_calls_and_results_along() -> None:
    async def work() -> None:
        hands = [called(("find_order", {"number": 1}), ("transfer_to_other", {})), said("unused")]
        first = ScriptedOpenAI(lambda messages: hands.pop(0))
        second = ScriptedOpenAI(lambda messages: said("I have it."))
        agents = [
            agent_of(first, context_of(500), handoffs=[Handoff(target="other")]),
            agent_of(second, context_of(500), "other"),
        ]
        team = Swarm([*agents], termination_condition=MaxMessageTermination(6))
        result = await team.run(task="Where is it?")
        check(second.requests, 500)
        assert "warehouse" in str(second.requests[0])
        assert "I have it." in str(result.messages[-1])

    asyncio.run(work())
