"""What `ChatringHistoryProvider` stores: calls with their results, approvals, and no message twice."""

import asyncio
import copy
import functools
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from adapter_stores import Reversed, check_stores, coming_between

pytest.importorskip("agent_framework_openai", reason="Agent Framework is not installed: agent-framework-openai")

from agent_framework import (
    Agent,
    AgentLoopMiddleware,
    AgentSession,
    Content,
    FunctionTool,
    InMemoryHistoryProvider,
    Message,
    SessionContext,
    TruncationStrategy,
    tool,
)
from agent_framework_agents import FOUND, Model, asked_in, check_request, check_session, make_agent, question, run
from chatring.agent_framework import ChatringHistoryProvider, MessageFormat, RingStrategy, Tokenizer
from chatring.agent_framework.step import calls_of
from chatring.stores import Store, StoreError, open_store

PER_CALL: Any = {"require_per_service_call_history_persistence": True}
both = pytest.mark.parametrize("options", [{}, PER_CALL], ids=["per run", "per call"])


@pytest.fixture
def store() -> Iterator[Store[Message]]:
    store = open_store("memory://", format=MessageFormat())
    yield store
    store.close()


def user(text: str, message_id: str | None = None) -> Message:
    return Message("user", [text], message_id=message_id)


def said(text: str, message_id: str | None = None) -> Message:
    return Message("assistant", [text], message_id=message_id)


def called(*ids: str) -> Message:
    return Message("assistant", [Content.from_function_call(each, "find", arguments="{}") for each in ids])


def returned(*ids: str) -> Message:
    return Message("tool", [Content.from_function_result(each, result=FOUND) for each in ids])


class Session:
    """A provider's session, to which messages are saved one after the other."""

    def __init__(self, store: Store[Message]) -> None:
        self.provider = ChatringHistoryProvider(store, 100_000)
        self.state: dict[str, Any] = {}
        self.store = store

    def save(self, *messages: Message, state: bool = True) -> None:
        asyncio.run(self.provider.save_messages("ada", messages, state=self.state if state else None))

    @property
    def texts(self) -> list[str]:
        return [message.text or message.role for message in self.store.all("ada")]


@pytest.fixture
def session(store: Store[Message]) -> Session:
    return Session(store)


# Calls and their results


def test_a_call_waits_for_all_its_results(session: Session) -> None:
    session.save(user("q"), called("a", "b"))
    assert session.texts == ["q"]
    session.save(returned("a"))
    assert session.texts == ["q"]
    session.save(returned("b"), said("done"))
    assert session.texts == ["q", "assistant", "tool", "tool", "done"]
    assert session.state == {}
    check_session(session.store.all("ada"))


def test_a_result_stands_behind_its_call_wherever_it_came(session: Session) -> None:
    session.save(user("q"), called("a"))
    session.save(user("hurry"), returned("a"), said("done"))
    assert session.texts == ["q", "assistant", "tool", "hurry", "done"]


def test_a_result_belongs_to_the_newest_call_of_its_id(session: Session) -> None:
    session.save(user("q"), called("find"))  # cancelled
    session.save(user("again"), called("find"))
    session.save(returned("find"), called("find"))
    session.save(returned("find"), said("done"))
    assert session.texts == ["q", "again", "assistant", "tool", "assistant", "tool", "done"]
    check_session(session.store.all("ada"))


def test_the_same_call_over_and_over_with_one_id(session: Session) -> None:
    session.save(user("q"), called("poll"))
    for _ in range(4):
        session.save(returned("poll"), called("poll"))
    session.save(returned("poll"), said("done"))
    assert session.texts == ["q", *5 * ["assistant", "tool"], "done"]
    check_session(session.store.all("ada"))


def test_two_calls_of_one_response_with_one_id_wait_for_two_results(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    session.save(user("q"), called("", "f", "f"))
    session.save(returned("f"))
    assert session.texts == ["q"]
    session.save(returned("f"), said("done"))
    session.save(user("again"), called("f", "f"), returned("f", "f"), said("done"))
    assert session.texts == ["q", "assistant", "tool", "tool", "done", "again", "assistant", "tool", "done"]
    assert session.state == {}
    assert not caplog.messages
    check_session(session.store.all("ada"))


def test_a_call_and_the_request_to_approve_it_are_one_call() -> None:
    calls = [Content.from_function_call("f", "find", arguments="{}") for _ in range(2)]
    requests = [Content.from_function_approval_request(str(number), call) for number, call in enumerate(calls)]
    for contents, count in [(calls[:1] + requests[:1], 1), (requests, 2), (calls + requests, 2)]:
        assert calls_of(Message("assistant", contents)) == {"f": count}


def test_a_result_without_its_call_is_left_out_and_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        session.save(user("q"), returned("x"), said("done"))
    assert session.texts == ["q", "done"]
    assert "'x'" in caplog.text


def test_without_a_state_a_call_without_results_is_left_out(session: Session) -> None:
    session.save(user("q"), called("a"), state=False)
    session.save(user("r"), called("b"), returned("b"), said("done"), state=False)
    assert session.texts == ["q", "r", "assistant", "tool", "done"]


def test_reasoning_goes_with_its_call(session: Session) -> None:
    thought = Message("assistant", [Content.from_text_reasoning(text="hmm", protected_data="x")])
    session.save(user("q"), thought, called("a"))
    assert session.texts == ["q"]
    session.save(returned("a"), thought)  # cut off: nothing belongs to it
    assert session.texts == ["q", "assistant", "assistant", "tool"]


def test_reasoning_goes_with_what_follows_also_behind_the_result_of_another_step(session: Session) -> None:
    thought = Message("assistant", [Content.from_text_reasoning(text="hmm", protected_data="x")])
    session.save(user("q"), called("a"))
    session.save(thought, returned("a"), said("done"))
    assert [message.role for message in session.store.all("ada")] == ["user", "assistant", "tool", *["assistant"] * 2]
    assert session.store.all("ada")[3].contents[0].type == "text_reasoning"


def test_calls_that_the_provider_runs_wait_for_nothing(session: Session) -> None:
    hosted = Content.from_mcp_server_tool_call("m", "search", server_name="web", arguments="{}")
    informational = Content.from_function_call("i", "search", arguments="{}", informational_only=True)
    session.save(user("q"), Message("assistant", [hosted, informational, "found"]))
    assert session.texts == ["q", "found"]


def test_a_save_that_is_cancelled_and_repeated_stores_nothing_twice(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = session.store.aupdate

    async def append_slowly(*change: Any) -> None:
        await append(*change)
        made.set()
        await asyncio.sleep(0)

    async def cancelled() -> None:
        task = asyncio.ensure_future(session.provider.save_messages("ada", rest, state=session.state))
        await made.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    session.save(user("q"), called("find"))
    rest, made = [returned("find"), said("answer")], asyncio.Event()
    monkeypatch.setattr(session.store, "aupdate", append_slowly)
    asyncio.run(cancelled())
    assert session.texts == ["q", "assistant", "tool", "answer"]
    assert not session.state
    session.save(*rest)
    assert session.texts == ["q", "assistant", "tool", "answer"]


@pytest.mark.parametrize("between", [0, 30])
def test_a_result_that_is_brought_again_with_an_older_state_is_stored_once(
    session: Session, between: int, caplog: pytest.LogCaptureFixture
) -> None:
    session.save(user("q"), called("a"))
    before = session.state
    session.state = copy.deepcopy(before)
    session.save(returned("a"), said("done"))
    for number in range(between):
        session.save(user(f"r{number}"), said(f"s{number}"))
    session.state = copy.deepcopy(before)
    with caplog.at_level(logging.WARNING):
        session.save(returned("a"), said("done again"))
    assert session.texts[:4] == ["q", "assistant", "tool", "done"]
    assert session.texts[4 + 2 * between :] == ["done again"]
    assert session.state == {}
    assert not caplog.text
    check_session(session.store.all("ada"))


@pytest.mark.parametrize("when", ["alast", "aupdate"])
def test_a_result_that_two_processes_bring_at_once_is_stored_once(session: Session, when: str) -> None:
    session.save(user("q"), called("a"))
    state = copy.deepcopy(session.state)
    other = functools.partial(session.provider.save_messages, "ada", [returned("a"), said("done")], state=state)
    with coming_between(session.store, when, other):
        session.save(returned("a"), said("done again"))
    assert session.texts == ["q", "assistant", "tool", "done", "done again"]
    assert session.state == {}
    check_session(session.store.all("ada"))


def test_a_call_with_the_id_of_one_that_has_its_result_is_another_one(session: Session) -> None:
    for _ in range(2):
        session.save(user("q"), called("find"))
        session.state = copy.deepcopy(session.state)
        session.save(returned("find"), said("done"))
    assert session.texts == 2 * ["q", "assistant", "tool", "done"]


def test_calls_of_cancelled_runs_are_forgotten_in_the_end(session: Session) -> None:
    for number in range(50):
        session.save(user(f"q{number}"), called(f"a{number}", "b"))
    assert len(session.state["unanswered"]) == 20
    session.save(returned("a49"), returned("b"), said("done"))
    assert session.texts[-4:] == ["assistant", "tool", "tool", "done"]


def test_what_waits_is_still_there_when_the_store_failed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.save(user("q"), called("a"))

    async def aupdate(*args: Any) -> None:
        raise StoreError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(session.store, "aupdate", aupdate)
        with pytest.raises(StoreError):
            session.save(returned("a"), said("done"))
    session.save(returned("a"), said("done"))
    assert session.texts == ["q", "assistant", "tool", "done"]
    assert session.state == {}


def test_two_saves_at_once_share_a_state(session: Session) -> None:
    """Between the two, the first waits for the store."""
    ids = [f"{number}" for number in range(8)]

    async def all_runs() -> None:
        async def save(each: str) -> None:
            await session.provider.save_messages("ada", [user(each), called(each)], state=session.state)
            await session.provider.save_messages("ada", [returned(each), said(f"done {each}")], state=session.state)

        await asyncio.gather(*map(save, ids))

    asyncio.run(all_runs())
    check_session(session.store.all("ada"))
    assert sorted(asked_in(session.store.all("ada"))) == ids
    assert sum(message.role == "tool" for message in session.store.all("ada")) == 8
    assert session.state == {}


def loaded(session: Session, *brought: Message) -> list[str]:
    """Return what a run that brings messages is given of the session."""
    context = SessionContext(session_id="ada", input_messages=list(brought))
    agent: Any = None
    run = session.provider.before_run(agent=agent, session=agent, context=context, state=session.state)
    asyncio.run(run)
    return [message.text or "+".join(calls_of(message)) or message.role for message in context.get_messages()]


def test_a_run_is_given_the_calls_that_it_brings_results_of(session: Session) -> None:
    session.save(user("q"), called("a", "b"))
    session.save(user("r"), called("c"))
    session.save(returned("a"))
    assert loaded(session, user("s")) == ["q", "r"]
    assert loaded(session, returned("b")) == ["q", "r", "a+b", "tool"]
    assert loaded(session, returned("c")) == ["q", "r", "c"]
    assert loaded(session, returned("c"), returned("b")) == ["q", "r", "a+b", "tool", "c"]


def test_a_run_is_given_the_newest_call_of_an_id(session: Session) -> None:
    session.save(user("q"), called("find", "cancelled"))
    session.save(user("r"), called("find"))
    assert loaded(session, returned("find")) == ["q", "r", "find"]


def test_a_call_that_the_provider_runs_after_approval(session: Session) -> None:
    call = Content.from_function_call("c", "search", arguments="{}")
    if hasattr(call, "hosted"):
        call.hosted = True
    call.additional_properties["server_label"] = "web"
    response = Message("user", [Content.from_function_approval_response(True, "r", call)])
    session.save(user("q"), Message("assistant", [Content.from_function_approval_request("r", call)]))
    assert session.texts == ["q"]
    assert loaded(session, user("r")) == ["q"]
    assert loaded(session, response) == ["q", "approval r"]
    session.save(response, said("found"))
    assert session.texts == ["q", "found"]
    assert session.state == {}


# Replays


def test_a_whole_conversation_that_is_handed_over_again_is_stored_once(session: Session) -> None:
    transcript: list[Message] = []
    for number in range(5):
        transcript += [user(f"q{number}")]
        run = [called(f"c{number}"), returned(f"c{number}"), said(f"a{number}")]
        session.save(*[copy.copy(message) for message in transcript], *run)
        transcript += run
    assert session.texts == [message.text or message.role for message in transcript]


def test_the_newest_part_of_a_conversation_too(session: Session) -> None:
    session.save(*(message for number in range(9) for message in (user(f"q{number}"), said(f"a{number}"))))
    session.save(user("q8"), said("a8"), user("q9"), said("a9"))
    assert session.texts[-4:] == ["q8", "a8", "q9", "a9"]
    assert session.store.length("ada") == 20


def test_a_conversation_of_which_the_store_has_only_the_end(session: Session) -> None:
    """The store was trimmed, or never had the client's greeting."""
    session.save(user("q1"), said("a1"))
    session.save(said("Hello!"), user("q0"), said("a0"), user("q1"), said("a1"), user("q2"), said("a2"))
    assert session.texts == ["q1", "a1", "q2", "a2"]


def test_the_conversation_so_far_at_each_call_of_one_run(session: Session) -> None:
    run = [user("q"), called("a"), returned("a"), called("b"), returned("b"), said("done")]
    for end in (2, 4, 6):
        session.save(*map(copy.copy, run[:end]))
    assert session.texts == ["q", "assistant", "tool", "assistant", "tool", "done"]
    assert session.state == {}


def test_the_conversation_so_far_while_another_call_waits(session: Session) -> None:
    session.save(user("q"), called("forgotten"))
    session.save(user("r"), said("a"))
    session.save(user("q"), user("r"), said("a"), user("s"), said("b"))
    assert session.texts == ["q", "r", "a", "s", "b"]


def test_the_same_objects_are_stored_once(session: Session) -> None:
    messages = [user("q"), said("a")]
    session.save(*messages)
    session.save(*messages)
    session.save(messages[-1], user("r"), said("b"))
    assert session.texts == ["q", "a", "r", "b"]


def test_the_same_ids_are_stored_once(session: Session) -> None:
    for _ in range(2):
        session.save(user("yes", "m1"), said("ok", "m2"))
    session.save(user("yes", "m1"), said("ok", "m2"), user("yes", "m3"), said("ok", "m4"))
    assert session.texts == ["yes", "ok", "yes", "ok"]


def test_what_somebody_says_twice_is_stored_twice(session: Session) -> None:
    yes = user("yes")
    session.save(user("yes"), said("ok"))
    session.save(user("yes"), said("ok"))
    session.save(yes, said("ok"))
    session.save(yes, said("ok"))
    session.save(user("yes", "m1"), said("ok", "m2"))
    session.save(user("yes", "m3"), said("ok", "m4"))
    assert session.texts == 6 * ["yes", "ok"]


def test_other_ids_are_other_messages(session: Session) -> None:
    session.save(user("yes", "m1"), said("ok", "m2"))
    session.save(user("yes", "m3"), said("ok", "m4"), user("q"), said("a"))
    assert session.texts == ["yes", "ok", "yes", "ok", "q", "a"]


def test_a_question_that_got_no_answer_and_is_asked_again_is_stored_twice(session: Session) -> None:
    session.save(user("q"), called("cancelled"))
    session.save(user("q"), said("a"))
    session.save(user("r"), called("cancelled"))
    session.save(user("r"), user("s"), said("b"))
    assert session.texts == ["q", "q", "a", "r", "r", "s", "b"]


def test_the_numbers_that_compaction_gives_are_no_ids(session: Session) -> None:
    """The first message of each request is `msg_0`."""
    agent: Agent[Any] = make_agent(
        Model().chat,
        ChatringHistoryProvider(session.store, 100_000),
        compaction_strategy=TruncationStrategy(max_n=10, compact_to=8),
        **PER_CALL,
    )

    async def all_runs() -> None:
        for _ in range(12):
            await run(agent, "steps=1, yes", "ada")

    asyncio.run(all_runs())
    messages = session.store.all("ada")
    check_session(messages)
    assert len(messages) == 48
    assert not [message.message_id for message in messages if message.role != "assistant" and message.message_id]


@pytest.mark.filterwarnings("ignore:.*AgentLoopMiddleware is experimental")
@both
def test_looped_runs_grow_as_their_messages_do(store: Store[Message], options: Any) -> None:
    model = Model()
    loop = AgentLoopMiddleware(
        should_continue=lambda **_: True,
        max_iterations=5,
        next_message=lambda *, messages, last_result, **_: [*messages, *last_result.messages, user("And the next?")],
    )
    agent = make_agent(model.chat, ChatringHistoryProvider(store, 2_000), middleware=[loop], **options)
    asyncio.run(run(agent, question(0, steps=1), "ada"))
    check_session(store.all("ada"))
    assert asked_in(store.all("ada")) == [question(0, steps=1), *4 * ["And the next?"]]
    assert store.length("ada") == 4 + 4 * 2


# Approvals


@tool(approval_mode="always_require")
def find_order(number: int) -> str:
    """Find an order."""
    return f"{number}: found"


def approval(result: Any, approved: bool) -> Message:
    return Message("user", [each.to_function_approval_response(approved) for each in result.user_input_requests])


def restarted(session: AgentSession) -> AgentSession:
    """The session as another process gets it."""
    return AgentSession.from_dict(json.loads(json.dumps(session.to_dict())))


@both
@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("approved", [True, False])
def test_a_call_that_waits_for_a_human(store: Store[Message], options: Any, api: str, approved: bool) -> None:
    model = Model()
    agent = make_agent(getattr(model, api), ChatringHistoryProvider(store, 2_000), tools=find_order, **options)

    async def all_runs() -> None:
        session = agent.create_session(session_id="ada")
        asked = await agent.run(question(0, steps=2), session=session)
        for _ in range(2):
            assert len(asked.user_input_requests) == 2
            check_session(store.all("ada"))
            session = restarted(session)
            asked = await agent.run(approval(asked, approved), session=session)
        assert asked.text == f"Answer to: {question(0, steps=2)}"

    asyncio.run(all_runs())
    messages = store.all("ada")
    check_session(messages)
    assert asked_in(messages) == [question(0, steps=2)]
    results = [str(content.result) for each in messages for content in each.contents if each.role == "tool"]
    assert len(results) == 4
    assert [result.endswith("found") for result in results] == 4 * [approved]


@both
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_an_approval_that_is_given_again_after_a_restart(store: Store[Message], options: Any, api: str) -> None:
    """The process died before it could save the `AgentSession`."""
    model = Model()
    agent = make_agent(getattr(model, api), ChatringHistoryProvider(store, 2_000), tools=find_order, **options)

    async def all_runs() -> None:
        session = agent.create_session(session_id="ada")
        asked = await agent.run(question(0, steps=1), session=session)
        for again in [restarted(session) for _ in range(2)]:
            assert (await agent.run(approval(asked, True), session=again)).text.startswith("Answer to")

    asyncio.run(all_runs())
    messages = store.all("ada")
    check_session(messages)
    assert sum(calls_of(message).total() for message in messages) == 2
    assert asked_in(messages) == [question(0, steps=1)]


@both
def test_a_conversation_goes_on_without_the_approval(store: Store[Message], options: Any) -> None:
    model = Model()
    agent = make_agent(model.chat, ChatringHistoryProvider(store, 2_000), tools=find_order, **options)

    async def all_runs() -> None:
        session = agent.create_session(session_id="ada")
        await agent.run(question(0, steps=1), session=session)
        await agent.run("Never mind.", session=session)

    asyncio.run(all_runs())
    check_session(store.all("ada"))
    check_request(model.requests[-1], "Never mind.", 2_000)
    assert asked_in(store.all("ada")) == [question(0, steps=1), "Never mind."]


def test_a_call_that_the_caller_answers(store: Store[Message]) -> None:
    """A tool that is only declared ends the run; its result is the next run's input."""
    model = Model()
    declared = FunctionTool(name="find_order", description="Find an order.", func=None, input_model=_SCHEMA)
    agent = make_agent(model.chat, ChatringHistoryProvider(store, 2_000), tools=declared)

    async def all_runs() -> None:
        session = agent.create_session(session_id="ada")
        result = await agent.run(question(0, steps=1), session=session)
        calls = [each for message in result.messages for each in message.contents if each.type == "function_call"]
        assert len(calls) == 2
        results = [Content.from_function_result(str(call.call_id), result="found") for call in calls]
        result = await agent.run(Message("tool", results), session=session)
        assert result.text.startswith("Answer to")

    asyncio.run(all_runs())
    check_session(store.all("ada"))
    assert [message.role for message in store.all("ada")] == ["user", "assistant", "tool", "assistant"]


_SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}


# What else is stored


def test_sessions_move_in_from_another_provider(store: Store[Message]) -> None:
    agent = make_agent(Model().chat, InMemoryHistoryProvider(), compaction_strategy=RingStrategy(400))
    session = agent.create_session(session_id="ada")

    async def all_runs() -> None:
        for number in range(5):
            await agent.run(question(number, steps=5), session=session)
        state = session.state["in_memory"]
        theirs = await InMemoryHistoryProvider().get_messages("ada", state=state)
        assert any(message.additional_properties.get("_excluded") for message in theirs)
        await ChatringHistoryProvider(store, 2_000).save_messages("ada", theirs)

    asyncio.run(all_runs())
    check_session(store.all("ada"))
    assert asked_in(store.all("ada")) == [question(number, steps=5) for number in range(5)]


def test_their_strategies_with_our_tokenizer_and_our_history(store: Store[Message]) -> None:
    model = Model()
    agent = make_agent(
        model.chat,
        ChatringHistoryProvider(store, 2_000),
        compaction_strategy=TruncationStrategy(max_n=1_200, compact_to=1_000, tokenizer=Tokenizer()),
    )

    async def all_runs() -> None:
        for number in range(12):
            await run(agent, question(number), "ada")

    asyncio.run(all_runs())
    check_session(store.all("ada"))
    assert store.length("ada") == 72


def test_prefixes_keep_agents_apart(store: Store[Message]) -> None:
    async def all_runs() -> None:
        for prefix in ("writer/", "critic/"):
            agent = make_agent(Model().chat, ChatringHistoryProvider(store, 2_000, prefix=prefix))
            await run(agent, f"I am {prefix}", "ada")

    asyncio.run(all_runs())
    assert store.keys() == ["critic/ada", "writer/ada"]


def test_messages_of_other_providers_are_stored_when_asked_for(store: Store[Message]) -> None:
    class Facts(InMemoryHistoryProvider):
        async def get_messages(self, *args: Any, **kwargs: Any) -> list[Message]:
            return [user("I live in Delft.")]

        async def save_messages(self, *args: Any, **kwargs: Any) -> None:
            pass

    ours = ChatringHistoryProvider(store, 2_000, store_context_messages=True)
    agent = make_agent(Model().chat, Facts("facts"), ours)
    asyncio.run(run(agent, "Hello", "ada"))
    assert asked_in(store.all("ada")) == ["I live in Delft.", "Hello"]


# What is refused


def test_a_message_that_cannot_be_stored_stores_nothing(session: Session) -> None:
    bad = Message("assistant", [Content.from_function_call("a", "find", arguments={"when": float("nan")})])
    with pytest.raises(
        ValueError, match="the assistant message None cannot be stored: a message that is stored must be JSON"
    ):
        session.save(user("q"), bad, returned("a"), said("done"))
    assert session.texts == []
    with pytest.raises(TypeError, match=r"a message must be an agent_framework\.Message, got dict: make one of JSON"):
        session.save({"role": "user", "content": "q"})  # type: ignore[arg-type]


def test_a_session_must_have_an_id(session: Session) -> None:
    for call in (session.provider.get_messages(None), session.provider.save_messages("", [user("q")])):
        with pytest.raises(ValueError, match=r"needs to know the session: agent\.run\(\.\.\., session=agent"):
            asyncio.run(call)


def test_a_format_may_encrypt_inside() -> None:
    session = Session(open_store("memory://", format=Reversed(MessageFormat())))
    session.save(user("q"), called("a"), returned("a"), said("done"))
    assert session.texts == ["q", "assistant", "tool", "done"]


def test_arguments_are_checked(store: Store[Message]) -> None:
    needs = (
        "ChatringHistoryProvider needs a store of Agent Framework's messages: open_store(url, format=MessageFormat())"
    )
    check_stores(lambda store: ChatringHistoryProvider(store, 100), MessageFormat, needs)
    with pytest.raises(TypeError, match="token_limit must be an integer, got None"):
        ChatringHistoryProvider(store, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token_limit must be at least 1"):
        ChatringHistoryProvider(store, 0)
    with pytest.raises(ValueError, match="retention_ratio must be between 0 and 1, got 2"):
        ChatringHistoryProvider(store, 100, retention_ratio=2)
    with pytest.raises(ValueError, match="initial token count exceeds token limit: 101 > 100"):
        ChatringHistoryProvider(store, 100, initial_token_count=101)
    with pytest.raises(TypeError, match="prefix must be a str, got 1"):
        ChatringHistoryProvider(store, 100, prefix=1)  # type: ignore[arg-type]
