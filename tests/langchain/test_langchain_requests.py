"""`TrimMessages` in LangChain's own agent: what reaches the model."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("langchain.agents", reason="langchain is not installed: pip install 'chatring[langchain]'")

from chatring import MessageRing
from chatring.langchain import TrimMessages
from langchain.agents import create_agent
from langchain_agents import PROMPT, RING, ScriptedModel, check_request, find_order, tokens, tool_tokens, validate
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from trimmer_options import check_refusals

QUESTION = "Where are all my orders?"


def agent_of(model: ScriptedModel, *middleware: Any, **options: Any) -> Any:
    return create_agent(model, [find_order], system_prompt=PROMPT, middleware=middleware, **options)


def invoke(agent: Any, messages: list[Any], *, is_async: bool = False, **config: Any) -> list[BaseMessage]:
    config = {"recursion_limit": 200, **config}
    call = {"messages": messages}
    state = asyncio.run(agent.ainvoke(call, config)) if is_async else agent.invoke(call, config)
    listed: list[BaseMessage] = state["messages"]
    return listed


@pytest.mark.parametrize("is_async", [False, True], ids=["invoke", "ainvoke"])
@pytest.mark.parametrize("parallel", [1, 3])
def test_thirty_steps_beyond_the_limit(is_async: bool, parallel: int) -> None:
    limit = 500
    model = ScriptedModel(steps=30, parallel=parallel)
    state = invoke(agent_of(model, TrimMessages(limit)), [HumanMessage(QUESTION)], is_async=is_async)
    assert len(model.requests) == 31
    for sent in model.requests:
        check_request(sent, QUESTION, limit)
    # The state keeps everything.
    assert len(state) == 1 + 30 * (1 + parallel) + 1
    assert tokens(state) > 2 * limit
    # Only as much as needed is left out: one step more would not fit.
    step = tokens(state[1 : 2 + parallel])
    assert all(tokens(sent) + tool_tokens() + step > limit for sent in model.requests[10:])


def test_the_beginning_stays_with_a_ratio() -> None:
    def moves(retention_ratio: float) -> int:
        model = ScriptedModel(steps=30)
        invoke(agent_of(model, TrimMessages(700, retention_ratio=retention_ratio)), [HumanMessage(QUESTION)])
        for sent in model.requests:
            check_request(sent, QUESTION, 700)
        pairs = zip(model.requests, model.requests[1:], strict=False)
        return sum(after[: len(before)] != before for before, after in pairs)

    assert moves(1.0) > 15
    assert moves(0.5) <= 5


def test_thirty_turns_of_a_conversation() -> None:
    model = ScriptedModel(steps=2)
    agent = agent_of(model, TrimMessages(600, retention_ratio=0.7))
    state: list[Any] = []
    for number in range(30):
        question = f"Where is my order {number}?"
        before = len(model.requests)
        state = invoke(agent, [*state, HumanMessage(question)])
        for sent in model.requests[before:]:
            check_request(sent, question, 600)
    assert len(model.requests) == 90
    assert len(state) == 180


def test_a_request_that_fits_is_sent_as_it_is() -> None:
    model = ScriptedModel(steps=1)
    state = invoke(agent_of(model, TrimMessages(8000)), [HumanMessage(QUESTION)])
    assert model.requests[-1][1:] == state[:-1]


def test_a_leading_result_and_an_unanswered_call_are_not_sent() -> None:
    call: Any = {"name": "find_order", "args": {"number": 1}, "id": "cancelled"}
    state = [
        ToolMessage("Its call is gone.", tool_call_id="gone"),
        HumanMessage("Where is my order?"),
        AIMessage("", tool_calls=[call]),
        HumanMessage(QUESTION),
    ]
    trimmed, plain = ScriptedModel(), ScriptedModel()
    invoke(agent_of(trimmed, TrimMessages(8000)), state)
    (sent,) = trimmed.requests
    validate(sent)
    assert [message.content for message in sent] == [PROMPT, "Where is my order?", QUESTION]
    invoke(agent_of(plain), state)
    assert len(plain.requests[0]) == 5  # LangChain repairs nothing


def test_invalid_calls_that_langchain_answers_stay() -> None:
    call: Any = {"name": "find_order", "args": "{", "id": "1", "error": "bad", "type": "invalid_tool_call"}
    state = [
        HumanMessage(QUESTION),
        AIMessage("", invalid_tool_calls=[call]),
        ToolMessage("malformed", tool_call_id="1"),
        HumanMessage("Again!"),
    ]
    model = ScriptedModel()
    invoke(agent_of(model, TrimMessages(8000)), state)
    assert len(model.requests[0]) == 5


def test_all_leading_system_messages_stay() -> None:
    summary = [SystemMessage("A summary."), SystemMessage("Another one.")]
    turns = [message for n in range(30) for message in (HumanMessage(f"Question {n}?"), AIMessage("Yes. " * 20))]
    model = ScriptedModel()
    invoke(agent_of(model, TrimMessages(300)), [*summary, *turns, HumanMessage(QUESTION)])
    (sent,) = model.requests
    assert [message.content for message in sent[:3]] == [PROMPT, "A summary.", "Another one."]
    assert len(sent) < 30
    check_request(sent, QUESTION, 300)


def test_what_is_sent_beside_the_messages_counts() -> None:
    beside = tokens([SystemMessage(PROMPT)]) + tool_tokens()
    question = tokens([HumanMessage(QUESTION)])
    old = [HumanMessage("Hello"), AIMessage("Hello!")]
    room = beside + tokens(old) + question
    for limit, extra, length in ((room, 0, 4), (room - 1, 0, 2), (room + 50, 50, 4), (room + 49, 50, 2)):
        model = ScriptedModel()
        invoke(agent_of(model, TrimMessages(limit, initial_token_count=extra)), [*old, HumanMessage(QUESTION)])
        assert len(model.requests[0]) == length
    tight = TrimMessages(beside - 1)
    with pytest.raises(
        ValueError,
        match=rf"exceeds token_limit {beside - 1}: system message 12, tools {beside - 12}, initial_token_count 0; ",
    ):
        invoke(agent_of(ScriptedModel(), tight), [HumanMessage(QUESTION)])


def test_tools_of_providers_count_as_their_json() -> None:
    trim = TrimMessages(8000)
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert trim._count_tools([search]) == RING.counter.count('{"type":"web_search_20250305","name":"web_search"}')
    assert trim._count_tools([find_order]) == tool_tokens()
    assert trim._count_tools([find_order, search]) == tool_tokens() + trim._count_tools([search])
    assert trim._count_tools([]) == 0


def test_options_are_those_of_a_ring() -> None:
    check_refusals(TrimMessages)
    model = ScriptedModel(steps=10)
    invoke(agent_of(model, TrimMessages(500, counter=len, measure=lambda message: 100)), [HumanMessage(QUESTION)])
    assert max(map(len, model.requests)) < 6


def test_a_providers_constants_count() -> None:
    model = ScriptedModel(steps=20)
    invoke(agent_of(model, TrimMessages(700, format="anthropic")), [HumanMessage(QUESTION)])
    ring: MessageRing[Any] = MessageRing(format="anthropic")
    for sent in model.requests:
        check_request(sent, QUESTION, 700)
        assert sum(map(ring.count, sent)) + tool_tokens() <= 700
    assert max(map(tokens, model.requests)) + tool_tokens() < 650  # Anthropic's calls and results cost more


def test_one_object_serves_runs_at_once() -> None:
    trim = TrimMessages(500)
    models = [ScriptedModel(steps=20) for _ in range(4)]

    async def run() -> None:
        agents = [agent_of(model, trim) for model in models]
        calls = [
            agent.ainvoke({"messages": [HumanMessage(f"I am number {number}.")]}, {"recursion_limit": 200})
            for number, agent in enumerate(agents)
        ]
        await asyncio.gather(*calls)

    asyncio.run(run())
    for number, model in enumerate(models):
        assert len(model.requests) == 21
        for sent in model.requests:
            check_request(sent, f"I am number {number}.", 500)
