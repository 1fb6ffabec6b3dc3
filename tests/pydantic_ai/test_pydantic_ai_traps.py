"""What goes wrong with a history in Pydantic AI unless an adapter takes care, in real runs."""

import asyncio
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from adapter_stores import coming_between

pytest.importorskip("pydantic_ai.messages", reason="Pydantic AI is not installed: pip install pydantic-ai-slim")

from chatring.pydantic_ai import ModelMessageFormat, StoredHistory, TrimMessages, messages_to_store
from chatring.stores import Store, open_store
from chatring.stores.errors import StoreUnavailableError
from providers import validate_openai_chat
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    Tool,
    ToolReturn,
    capture_run_messages,
)
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.exceptions import CallDeferred, UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai_agents import (
    FOUND,
    SYSTEM,
    Model,
    answer,
    as_openai,
    check_request,
    check_session,
    make_agent,
    parts_of,
    question,
    questions,
)

LIMIT = 500
PAGE = "The page:" + " word" * 30
YESTERDAY = datetime.now(timezone.utc) - timedelta(days=1)


@pytest.fixture
def store() -> Store[ModelMessage]:
    return open_store("memory://", format=ModelMessageFormat())


def test_nothing_is_lost_from_all_messages() -> None:
    """Pydantic AI's `ProcessHistory` writes what it cuts into the history: what was left out is gone for good."""
    last_two = ProcessHistory(lambda messages: messages[-2:])
    kept = {}
    for name, capability in (("theirs", last_two), ("ours", TrimMessages(LIMIT))):
        agent = make_agent(Model().function_model, capability)
        history: list[ModelMessage] = []
        for number in range(4):
            result = asyncio.run(agent.run(question(number, steps=0), message_history=history))
            history = result.all_messages()
        kept[name] = questions(history)
    assert kept["ours"] == [question(number, steps=0) for number in range(4)]
    assert kept["theirs"] != kept["ours"]


def test_the_system_prompt_stays_when_the_first_request_has_left(store: Store[ModelMessage]) -> None:
    """It is a part of the first request, which holds the first question too."""
    model = Model()
    agent = make_agent(model.function_model, StoredHistory(store, LIMIT), TrimMessages(LIMIT))
    for number in range(8):
        asyncio.run(agent.run(question(number, steps=1), conversation_id="ada"))
    check_request(model.requests[-1], question(7, steps=1), LIMIT)
    assert question(0, steps=1) not in questions(model.requests[-1])
    assert [part.content for part in parts_of(model.requests[-1], SystemPromptPart)] == [SYSTEM]


def test_a_dynamic_system_prompt_is_said_anew(store: Store[ModelMessage]) -> None:
    model = Model()
    agent: Agent[Any, Any] = Agent(model.function_model, capabilities=[StoredHistory(store, 40)])
    said = iter(("It is Monday.", "It is Tuesday.", "It is Wednesday."))

    @agent.system_prompt(dynamic=True)
    def day() -> str:
        return next(said)

    for number in range(3):
        asyncio.run(agent.run(question(number, steps=0), conversation_id="ada"))
    assert [part.content for part in parts_of(model.requests[-1], SystemPromptPart)] == ["It is Wednesday."]
    assert question(0, steps=0) not in questions(model.requests[-1])


class Order(BaseModel):
    """An order."""

    number: int


def test_results_and_the_next_question_in_one_request(store: Store[ModelMessage]) -> None:
    """A run with structured output ends in a result. Pydantic AI merges it with the next run's question."""

    def says(messages: Sequence[ModelMessage]) -> list[ToolCallPart] | str:
        steps = 12 if "long" in questions(messages)[-1] else 0
        calls = parts_of(messages[-2:], ToolCallPart)
        number = calls[-1].args_as_dict()["number"] + 1 if calls and not questions(messages[-1:]) else 0
        return [ToolCallPart("find_order" if number < steps else "final_result", {"number": number})]

    model = Model(says)
    agent = make_agent(model.function_model, TrimMessages(LIMIT), output_type=Order)
    history: list[ModelMessage] = []
    for number in range(6):
        asked = f"{'long' if number == 5 else 'short'} question {number}"
        result = asyncio.run(agent.run(asked, message_history=history))
        history = result.all_messages()
    merged = [message for message in history if parts_of([message], ToolReturnPart) and questions([message])]
    assert len(merged) == 4  # the last run's question is not merged yet
    for request in model.requests[-13:]:
        check_request(request, "long question 5", LIMIT)
    assert questions(model.requests[-1]) == ["long question 5"]

    # Given to another run as its history, that question is merged, too. It is found all the same.
    model.requests.clear()
    result = asyncio.run(agent.run("long question 6", message_history=history))
    for request in model.requests:
        check_request(request, "long question 6", LIMIT)
    # From a store, it is the same.
    stored = make_agent(model.function_model, StoredHistory(store, 10_000), TrimMessages(LIMIT), output_type=Order)
    for number in range(3):
        model.requests.clear()
        asyncio.run(stored.run(f"long question {number}", conversation_id="ada"))
        for request in model.requests:
            check_request(request, f"long question {number}", LIMIT)
    check_session(store.all("ada"))


def test_what_a_tool_returns_for_the_user_is_not_the_question() -> None:
    """`ToolReturn.content` is a user's prompt beside the result, in the same request."""

    async def look(number: int) -> ToolReturn[str]:
        return ToolReturn(return_value=f"{number}: {FOUND}", content=f"This is page {number}.")

    model = Model(
        lambda messages: (
            "Done"
            if (calls := parts_of(messages[-2:], ToolCallPart)) and calls[-1].args_as_dict()["number"] == 9
            else [ToolCallPart("find_order", {"number": calls[-1].args_as_dict()["number"] + 1 if calls else 0})]
        )
    )
    agent = make_agent(model.function_model, TrimMessages(LIMIT), tool=Tool(look, name="find_order"))
    asyncio.run(agent.run("Read all pages."))
    assert len(model.requests) == 11
    for request in model.requests:
        check_request(request, "Read all pages.", LIMIT)
    assert len(questions(model.requests[-1])) < 10


def test_feedback_about_an_output_is_not_the_question() -> None:
    model = Model(lambda messages: "word " * 60)
    agent = make_agent(model.function_model, TrimMessages(300), retries=9)
    refused = 0

    @agent.output_validator
    def _(output: str) -> str:
        nonlocal refused
        refused += 1
        if refused < 6:
            raise ModelRetry("Say it in fewer words.")
        return output

    asyncio.run(agent.run("Tell me a story."))
    assert len(model.requests) == 6
    for request in model.requests:
        assert questions(request)[0] == "Tell me a story."
        assert request[0].parts[0].content == SYSTEM  # type: ignore[union-attr]
    assert len(model.requests[-1]) < 11


def test_a_request_with_too_long_a_question_is_still_valid() -> None:
    model = Model()
    asked = question(0, steps=3) + " Please." * 600
    asyncio.run(make_agent(model.function_model, TrimMessages(LIMIT)).run(asked))
    for request in model.requests:
        check_request(request, asked)
    assert [len(request) for request in model.requests] == [1, 3, 3, 3]  # with no more than the newest step


def test_instructions_beyond_the_limit_are_an_error() -> None:
    agent = make_agent(Model().function_model, TrimMessages(12, initial_token_count=4))
    with pytest.raises(ValueError, match="exceeds token_limit 12: instructions 9, initial_token_count 4; "):
        asyncio.run(agent.run("Hello"))


def test_system_prompts_beyond_the_limit_are_an_error() -> None:
    agent = make_agent(Model().function_model, TrimMessages(13, initial_token_count=4))
    with pytest.raises(ValueError, match=r"the \d+ tokens of the system messages and .* of 13 exceed token_limit 13"):
        asyncio.run(agent.run("Hello"))


def test_a_run_id_that_was_used_before_is_refused(store: Store[ModelMessage]) -> None:
    """`new_messages()` goes by it: all stored messages would be stored again."""
    agent = make_agent(Model().function_model, StoredHistory(store, LIMIT))
    asyncio.run(agent.run("Hello", conversation_id="ada", run_id="one"))
    with pytest.raises(UserError, match="run_id='one' belongs to a run whose messages are stored in the conversation"):
        asyncio.run(agent.run("Hello again", conversation_id="ada", run_id="one"))
    asyncio.run(agent.run("Hello again", conversation_id="ada", run_id="two"))
    assert questions(store.all("ada")) == ["Hello", "Hello again"]


def test_a_conversation_goes_on_by_its_id(store: Store[ModelMessage]) -> None:
    agent = make_agent(Model().function_model, StoredHistory(store, LIMIT))
    first = asyncio.run(agent.run("Hello"))
    asyncio.run(agent.run("Hello again", conversation_id=first.conversation_id))
    asyncio.run(agent.run("Somebody else"))
    assert [questions(store.all(key)) for key in store.keys()] == [["Hello", "Hello again"], ["Somebody else"]]  # noqa: SIM118


def test_a_run_that_is_given_messages_begins_with_those(store: Store[ModelMessage]) -> None:
    model = Model()
    agent = make_agent(model.function_model, StoredHistory(store, LIMIT))
    first = asyncio.run(agent.run("One", conversation_id="ada"))
    asyncio.run(agent.run("Two", message_history=first.all_messages()))
    assert questions(model.requests[-1]) == ["One", "Two"]
    assert questions(store.all("ada")) == ["One", "Two"]


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_failed_run_that_is_resumed_is_stored_with_its_question(store: Store[ModelMessage], fails_at: int) -> None:
    requests = itertools.count(1)

    def says(messages: Sequence[ModelMessage]) -> list[ToolCallPart] | str:
        if next(requests) == fails_at:
            raise ConnectionError
        return answer(messages)

    agent = make_agent(Model(says).function_model, StoredHistory(store, LIMIT))
    with capture_run_messages() as messages, pytest.raises(ConnectionError):
        asyncio.run(agent.run(question(0, steps=2), conversation_id="ada"))
    assert store.all("ada") == []
    for _ in range(2):  # the second time there is nothing to resume
        asyncio.run(agent.run(message_history=messages, conversation_id="ada"))
        messages = asyncio.run(agent.run("Hello", conversation_id="ada")).all_messages()[:-1]
    check_session(store.all("ada"))
    assert questions(store.all("ada")) == [question(0, steps=2), "Hello", "Hello"]
    assert len(parts_of(store.all("ada"), ToolCallPart)) == 4


def test_deferred_calls_are_stored_with_their_results(store: Store[ModelMessage]) -> None:
    """A history that ends in unanswered calls takes no prompt: Pydantic AI raises."""

    async def defer(number: int) -> str:
        if number:
            raise CallDeferred
        return "found"

    model = Model()
    options = {"output_type": [str, DeferredToolRequests], "tool": Tool(defer, name="find_order")}
    agent = make_agent(model.function_model, StoredHistory(store, LIMIT), **options)
    paused = asyncio.run(agent.run(question(0, steps=1), conversation_id="ada"))
    assert isinstance(paused.output, DeferredToolRequests)
    check_session(store.all("ada"))
    assert questions(store.all("ada")) == [question(0, steps=1)]
    assert len(store.all("ada")) == 2

    other = asyncio.run(agent.run("Hello?", conversation_id="ada"))  # meanwhile
    assert other.output == "Answer to: Hello?"

    results = DeferredToolResults(calls={call.tool_call_id: "found, too" for call in paused.output.calls})
    done = asyncio.run(agent.run(message_history=paused.all_messages(), deferred_tool_results=results))
    assert done.output == f"Answer to: {question(0, steps=1)}"
    check_session(store.all("ada"))
    assert [part.content for part in parts_of(store.all("ada"), ToolReturnPart)] == ["found", "found, too"]
    assert len(parts_of(store.all("ada"), ToolCallPart)) == 2


def test_a_prompt_beside_deferred_results_is_the_question(store: Store[ModelMessage]) -> None:
    async def defer(number: int) -> str:
        if number in (0, 1):
            raise CallDeferred
        return f"{number}: {FOUND}"

    model = Model()
    options = {"output_type": [str, DeferredToolRequests], "tool": Tool(defer, name="find_order")}
    agent = make_agent(model.function_model, StoredHistory(store, LIMIT), TrimMessages(LIMIT), **options)
    paused = asyncio.run(agent.run(question(0, steps=9), conversation_id="ada"))
    results = DeferredToolResults(calls={call.tool_call_id: "found" for call in paused.output.calls})
    asked = question(1, steps=8)
    asyncio.run(agent.run(asked, message_history=paused.all_messages(), deferred_tool_results=results))
    for request in model.requests[1:]:
        check_request(request, asked, LIMIT)
    assert questions(store.all("ada")) == [question(0, steps=9), asked]
    check_session(store.all("ada"))


def test_results_without_their_calls_are_left_to_pydantic_ai() -> None:
    """They have no window. Pydantic AI needs a request at the end, and makes one without parts of them."""

    def requests(*more: Any) -> list[list[str]]:
        model = Model(
            lambda messages: "What?" if not questions(messages) else [ToolCallPart("find_order", {"number": 1})]
        )
        asyncio.run(make_agent(model.function_model, ProcessHistory(lambda messages: messages[-1:]), *more).run("Go"))
        return [[part.part_kind for message in request for part in message.parts] for request in model.requests]

    assert requests(TrimMessages(100)) == requests() == [["system-prompt", "user-prompt"], []]


def test_a_history_of_ones_own_moves_into_a_store(store: Store[ModelMessage]) -> None:
    model = Model()
    agent = make_agent(model.function_model)
    history: list[ModelMessage] = []
    for number in range(5):
        history = asyncio.run(agent.run(question(number), message_history=history)).all_messages()
    unanswered = ModelResponse(parts=[ToolCallPart("find_order", {"number": 1})])
    store.append("ada", messages_to_store([*history, unanswered]))
    check_session(store.all("ada"))
    stored = make_agent(model.function_model, StoredHistory(store, LIMIT), TrimMessages(LIMIT))
    asyncio.run(stored.run(question(5), conversation_id="ada"))
    check_request(model.requests[-1], question(5), LIMIT)
    assert questions(store.all("ada")) == [question(number) for number in range(6)]


def merged_history(run_id: str | None = None) -> list[ModelMessage]:
    parts: list[Any] = [ToolReturnPart("find_order", "found", "1", timestamp=YESTERDAY), UserPromptPart("Two")]
    return [
        ModelRequest(parts=[SystemPromptPart("Short."), UserPromptPart("One")]),
        ModelResponse(parts=[ToolCallPart("find_order", {"number": 1}, "1")]),
        ModelRequest(parts=parts),
        ModelResponse(parts=[TextPart("Found")], run_id=run_id),
    ]


def test_a_window_begins_with_the_newest_steps_of_a_merged_history() -> None:
    """The request's own object is sent where all of it is: Pydantic AI writes the run's id and instructions into it."""
    history = merged_history()
    model = Model()
    capability = TrimMessages(1_000)
    agent: Agent[Any, Any] = Agent(model.function_model, capabilities=[capability])
    asyncio.run(agent.run("Three", message_history=history))
    assert len(model.requests[-1]) == 5
    tight: Agent[Any, Any] = Agent(model.function_model, capabilities=[dataclasses.replace(capability, token_limit=33)])
    today = datetime.now(timezone.utc) - timedelta(hours=1)
    run_id = str(UUID(int=int(today.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62))
    asyncio.run(tight.run("Three", message_history=merged_history(run_id)))
    assert questions(model.requests[-1]) == ["Two", "Three"]
    assert [message["role"] for message in as_openai(model.requests[-1])] == ["system", "user", "assistant", "user"]
    # Without the time at which the second run began, "Two" may be what the tool returned.
    asyncio.run(tight.run("Three", message_history=merged_history()))
    assert questions(model.requests[-1]) == ["One", "Two", "Three"]


# The user's question in runs that are resumed


def resumable(script: Sequence[Any], *capabilities: Any) -> tuple[Agent[Any, Any], list[list[Any]]]:
    """Return an agent whose model says what a script says, and the prompts of each request."""
    lines, sent = iter(script), list[list[Any]]()

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        validate_openai_chat(as_openai(messages))
        sent.append([part.content for part in parts_of(messages, UserPromptPart)])
        line = next(lines)
        if isinstance(line, Exception):
            raise line
        return ModelResponse(parts=[TextPart(line)] if isinstance(line, str) else line)

    agent: Agent[Any, Any] = Agent(
        FunctionModel(respond), output_type=[str, DeferredToolRequests], capabilities=capabilities
    )

    @agent.tool_plain
    def page() -> ToolReturn[str]:
        return ToolReturn("found", content=PAGE)

    @agent.tool_plain
    def plain() -> str:
        return "word " * 60

    @agent.tool_plain
    def late() -> str:
        raise CallDeferred

    return agent, sent


def call(name: str, number: int) -> ToolCallPart:
    return ToolCallPart(name, {}, tool_call_id=f"{number}")


def resume(
    agent: Agent[Any, Any], messages: Sequence[ModelMessage], number: int, prompt: str | None = None, **options: Any
) -> list[ModelMessage]:
    results = DeferredToolResults(calls={f"{number}": "late result"})
    run = agent.run(prompt, message_history=messages, deferred_tool_results=results, **options)
    return asyncio.run(run).all_messages()


def same(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    return list(messages)


def reloaded(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    return ModelMessagesTypeAdapter.validate_json(ModelMessagesTypeAdapter.dump_json(list(messages)))


@pytest.mark.parametrize("given", [same, reloaded])
@pytest.mark.parametrize("limit", [100, 130, 160, 200, 240])
def test_a_page_that_was_merged_with_deferred_results_is_not_the_question(limit: int, given: Any) -> None:
    script: list[Any] = [[call("page", 1), call("late", 2)], *([call("late", number)] for number in (3, 4))]
    script += [[call("plain", 5)], [call("plain", 6)], "done"]
    agent, sent = resumable(script, TrimMessages(limit))
    messages = asyncio.run(agent.run("What does the page say?")).all_messages()
    for number in (2, 3, 4):
        messages = resume(agent, given(messages), number)
    assert len(sent) == 6
    for asked in sent:
        assert asked[0] == "What does the page say?"


@pytest.mark.parametrize("given", [same, reloaded])
def test_a_question_that_came_with_deferred_results_is_found_in_a_later_run(given: Any) -> None:
    script = [[call("late", 1)], [call("late", 2)], [call("plain", 3)], [call("plain", 4)], "done"]
    agent, sent = resumable(script, TrimMessages(200))
    messages = asyncio.run(agent.run("First question")).all_messages()
    messages = resume(agent, given(messages), 1, "Second question")
    resume(agent, given(messages), 2)
    assert len(sent) == 5
    for asked in sent[1:]:
        assert "Second question" in asked


@pytest.mark.parametrize("given", [same, reloaded])
@pytest.mark.parametrize("limit", [100, 200, 300])
def test_a_question_between_a_certain_one_and_a_page_is_sent(limit: int, given: Any) -> None:
    """Nothing tells whether it or the page is the question: both have come with deferred results."""
    script: list[Any] = [[call("late", 1)], [call("page", 2), call("late", 3)]]
    script += [*([call("late", number)] for number in (4, 5)), [call("plain", 6)], [call("plain", 7)], "done"]
    agent, sent = resumable(script, TrimMessages(limit))
    messages = asyncio.run(agent.run("First question")).all_messages()
    messages = resume(agent, given(messages), 1, "Second question")
    for number in (3, 4, 5):
        messages = resume(agent, given(messages), number)
    assert len(sent) == 7
    assert sent[-1] == ["First question", "Second question", PAGE]
    assert all("Second question" in asked for asked in sent[1:])


def test_a_page_is_not_the_question_when_its_run_is_resumed() -> None:
    """Pydantic AI then tells capabilities that the page is what the user asks."""
    script = [[call("page", 1)], ConnectionError(), [call("plain", 3)], [call("plain", 4)], "done"]
    agent, sent = resumable(script, TrimMessages(150))
    with capture_run_messages() as messages, pytest.raises(ConnectionError):
        asyncio.run(agent.run("What does the page say?"))
    asyncio.run(agent.run(message_history=messages))
    assert len(sent) == 5
    assert all(asked[0] == "What does the page say?" for asked in sent)
    assert PAGE not in sent[-1]


def test_a_question_that_was_merged_is_the_question_when_its_run_is_resumed() -> None:
    """It was asked after a run that failed, and its own run failed too."""
    script = [[call("plain", 1)], ConnectionError(), ConnectionError(), [call("plain", 3)], [call("plain", 4)], "done"]
    agent, sent = resumable(script, TrimMessages(150))
    messages: list[ModelMessage] = []
    for prompt in ("First question", "Second question"):
        with capture_run_messages() as captured, pytest.raises(ConnectionError):
            asyncio.run(agent.run(prompt, message_history=messages))
        messages = captured
    asyncio.run(agent.run(message_history=messages))
    assert len(sent) == 6
    assert all("Second question" in asked for asked in sent[2:])


def test_questions_that_may_be_pages_take_no_more_than_half_of_the_room() -> None:
    """The certain one comes along always, and of the others the newest that fit."""
    script: list[Any] = [[call("late", number)] for number in range(30)]
    script += [[call("plain", 40)], [call("plain", 41)], "done"]
    limit = 400
    agent, sent = resumable(script, TrimMessages(limit))
    messages = asyncio.run(agent.run("Certain question")).all_messages()
    for number in range(30):
        prompt = f"Question {number} " + "please " * 8 if number < 29 else None
        messages = resume(agent, reloaded(messages), number, prompt)
    assert [question.split(" please")[0].strip() for question in sent[-1]][::20] == ["Certain question"]
    assert sent[-1][-1].startswith("Question 28")
    assert 5 < len(sent[-1]) < 15


# What is resumed twice


def test_deferred_calls_that_are_resumed_twice_are_stored_once(store: Store[ModelMessage]) -> None:
    script = [[call("late", 1)], "done", "meanwhile", "done again", "and again"]
    agent, _ = resumable(script, StoredHistory(store, 10_000))
    first = asyncio.run(agent.run("Question", conversation_id="ada")).all_messages()
    resume(agent, first, 1, conversation_id="ada")
    asyncio.run(agent.run("Hello?", conversation_id="ada"))
    resume(agent, reloaded(first), 1, conversation_id="ada")
    resume(agent, first, 1, "And now?", conversation_id="ada")
    check_session(store.all("ada"))
    assert questions(store.all("ada")) == ["Question", "Hello?", "And now?"]
    assert len(parts_of(store.all("ada"), ToolCallPart)) == 1
    assert [part.content for part in parts_of(store.all("ada"), TextPart)] == [
        "done",
        "meanwhile",
        "done again",
        "and again",
    ]


def test_deferred_calls_are_stored_once_if_the_store_s_answer_was_lost(
    store: Store[ModelMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = resumable([[call("late", 1)], "done", "done again"], StoredHistory(store, 10_000))
    first = asyncio.run(agent.run("Question", conversation_id="ada")).all_messages()
    append = store.aupdate

    async def append_and_lose(*change: Any) -> None:
        await append(*change)
        raise StoreUnavailableError("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(store, "aupdate", append_and_lose)
        with pytest.raises(StoreUnavailableError):
            resume(agent, first, 1, conversation_id="ada")
    resume(agent, first, 1, conversation_id="ada")
    check_session(store.all("ada"))
    assert len(parts_of(store.all("ada"), ToolCallPart)) == 1


def test_deferred_calls_that_two_resume_at_once_are_stored_once(store: Store[ModelMessage]) -> None:
    agent, _ = resumable([[call("late", 1)], "done", "done again"], StoredHistory(store, 10_000))
    first = asyncio.run(agent.run("Question", conversation_id="ada")).all_messages()
    other = functools.partial(asyncio.to_thread, resume, agent, first, 1, conversation_id="ada")
    with coming_between(store, "aupdate", other):
        resume(agent, first, 1, conversation_id="ada")
    check_session(store.all("ada"))
    assert len(parts_of(store.all("ada"), ToolCallPart)) == 1


def test_calls_with_the_ids_of_older_ones_are_stored(store: Store[ModelMessage]) -> None:
    """Not every model gives each call an id that no other has."""
    agent, _ = resumable([[call("late", 1)], "done", [call("late", 1)], "done"], StoredHistory(store, 10_000))
    for _ in range(2):
        first = asyncio.run(agent.run("Question", conversation_id="ada")).all_messages()
        resume(agent, first, 1, conversation_id="ada")
    check_session(store.all("ada"))
    assert len(parts_of(store.all("ada"), ToolCallPart)) == 2


def test_a_failed_run_with_deferred_results_that_is_resumed_is_stored_with_its_calls(
    store: Store[ModelMessage],
) -> None:
    agent, _ = resumable([[call("late", 1)], ConnectionError(), "done"], StoredHistory(store, 10_000))
    first = asyncio.run(agent.run("Question", conversation_id="ada")).all_messages()
    with capture_run_messages() as messages, pytest.raises(ConnectionError):
        resume(agent, first, 1, conversation_id="ada")
    asyncio.run(agent.run(message_history=messages, conversation_id="ada"))
    kinds = [part.part_kind for message in store.all("ada") for part in message.parts]
    assert kinds == ["user-prompt", "tool-call", "tool-return", "text"]


def test_a_page_is_not_a_question_of_the_stored_session(store: Store[ModelMessage]) -> None:
    script = [[call("page", 1), call("late", 2)], [call("plain", 3)], [call("plain", 4)], "done"]
    agent, _ = resumable(script, StoredHistory(store, 10_000))
    messages = asyncio.run(agent.run("What does the page say?", conversation_id="ada")).all_messages()
    resume(agent, reloaded(messages), 2)
    assert questions(store.all("ada")) == ["What does the page say?", PAGE]
    assert questions(store.window("ada", 100)) == ["What does the page say?"]
