"""`RingStrategy` on histories of all kinds, by the framework's own application of strategies."""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

pytest.importorskip("agent_framework_openai", reason="Agent Framework is not installed: agent-framework-openai")

from agent_framework import (
    Agent,
    CompactionProvider,
    CompactionStrategy,
    Content,
    InMemoryHistoryProvider,
    Message,
    TokenBudgetComposedStrategy,
    TokenizerProtocol,
    ToolResultCompactionStrategy,
    annotate_message_groups,
    apply_compaction,
)
from agent_framework_agents import BESIDE, Model, check_request, make_agent, question, run
from chatring import MessageRing
from chatring._core import _outline
from chatring.agent_framework import MessageFormat, RingStrategy, Tokenizer
from chatring.agent_framework.step import answers_of, calls_of
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from trimmer_options import check_refusals
from window_rule import HeadTooLongError, Item, window

TEXTS = ("no", "what is it", "a b c d e f g", "one two three four five six seven eight " * 3)
RING: MessageRing[Message] = MessageRing(format=MessageFormat())


def history(random: Random) -> list[Message]:
    """Return messages of a conversation, with whole steps."""
    messages = [Message("system", [random.choice(TEXTS)]) for _ in range(random.randrange(3))]
    calls = 0
    for _ in range(random.randrange(1, 8)):
        messages += [Message("user", [random.choice(TEXTS)]) for _ in range(random.choice((1, 1, 1, 2)))]
        for _ in range(random.randrange(4)):
            ids = [f"c{calls + each}" for each in range(random.choice((1, 1, 2)))]
            calls += len(ids)
            if random.random() < 0.3:
                messages.append(Message("assistant", [Content.from_text_reasoning(text=random.choice(TEXTS))]))
            messages.append(
                Message("assistant", [Content.from_function_call(each, "f", arguments="{}") for each in ids])
            )
            results = [Content.from_function_result(each, result=random.choice(TEXTS)) for each in ids]
            split = random.random() < 0.5
            messages += [Message("tool", [each]) for each in results] if split else [Message("tool", results)]
        if random.random() < 0.8:
            messages.append(Message("assistant", [random.choice(TEXTS)]))
    return messages


def applied(strategy: CompactionStrategy, messages: list[Message]) -> list[Message]:
    return asyncio.run(apply_compaction(messages, strategy=strategy))


def valid(messages: list[Message]) -> bool:
    waiting: Counter[str] = Counter()
    for message in messages:
        if not answers_of(message) <= waiting:
            return False
        waiting = waiting - answers_of(message) + calls_of(message)
    return not waiting


ratios = st.sampled_from((1.0, 1.0, 0.7, 0.3))


@given(st.randoms(use_true_random=False), st.integers(1, 300), st.integers(0, 50), ratios)
@settings(max_examples=examples(500))
def test_a_call_gets_the_window(random: Random, limit: int, beside: int, ratio: float) -> None:
    messages = history(random)
    items = [Item(*_outline(message, MessageFormat()), RING.count(message)) for message in messages]
    try:
        expected = window(items, limit, initial_token_count=beside, retention_ratio=ratio)
    except HeadTooLongError:
        return
    if beside > limit:
        return
    strategy = RingStrategy(limit, initial_token_count=beside, retention_ratio=ratio)
    annotate_message_groups(messages)
    assert asyncio.run(strategy(messages)) is (len(expected.chosen) < len(messages))
    sent = applied(strategy, messages)
    assert sent == [messages[place] for place in expected.chosen]
    assert valid(sent)
    groups: dict[str, set[bool]] = {}
    for message in messages:
        group = message.additional_properties["_group"]["id"]
        groups.setdefault(group, set()).add(bool(message.additional_properties["_excluded"]))
    assert all(len(each) == 1 for each in groups.values())
    assert asyncio.run(strategy(messages)) is False  # nothing changes the second time


@given(st.randoms(use_true_random=False), st.integers(60, 300))
@settings(max_examples=examples(200))
def test_a_growing_history_needs_no_inclusion_again(random: Random, limit: int) -> None:
    messages = [message for message in history(random) if message.role != "system"]
    growing: list[Message] = []
    was_excluded: set[int] = set()
    strategy = RingStrategy(limit)
    for message in messages:
        growing.append(message)
        if valid(growing):
            sent = applied(strategy, growing)
            assert was_excluded.isdisjoint(map(id, sent))
            was_excluded |= set(map(id, growing)) - set(map(id, sent))


@given(st.randoms(use_true_random=False), st.integers(1, 200), st.integers(1, 200))
@settings(max_examples=examples(200))
def test_marks_of_another_limit_change_nothing(random: Random, limit: int, other: int) -> None:
    messages = history(random)
    fresh = [Message.from_dict(message.to_dict()) for message in messages]
    try:
        applied(RingStrategy(other), messages)
        sent = applied(RingStrategy(limit), messages)
    except ValueError:
        return
    expected = applied(RingStrategy(limit), fresh)
    assert [messages.index(message) for message in sent] == [fresh.index(message) for message in expected]
    for message in messages:
        is_ours = message.additional_properties.get("_exclude_reason") == "chatring"
        assert is_ours is bool(message.additional_properties["_excluded"])


@given(st.randoms(use_true_random=False), st.integers(1, 300))
@settings(max_examples=examples(200))
def test_what_providers_refuse_is_left_out(random: Random, limit: int) -> None:
    """Messages are missing, as other strategies and cancelled runs have it."""
    messages = [message for message in history(random) if random.random() < 0.8]
    try:
        sent = applied(RingStrategy(limit), messages)
    except ValueError:
        return
    assert valid(sent)
    users = [message for message in messages if message.role == "user"]
    # The last question stays, and all of what the system says.
    assert users[-1:] == [message for message in sent if message.role == "user"][-1:]
    assert [m for m in sent if m.role == "system"] == [m for m in messages if m.role == "system"]


def test_a_call_that_nobody_answered_takes_its_reasoning_along() -> None:
    call = Message("assistant", [Content.from_function_call("c", "f", arguments="{}")])
    thought = Message("assistant", [Content.from_text_reasoning(text="hmm")])
    messages = [Message("user", ["q"]), thought, call, Message("user", ["r"])]
    assert [message.text for message in applied(RingStrategy(1_000), messages)] == ["q", "r"]


def test_system_messages_stay_wherever_they_are() -> None:
    messages = [Message("user", [TEXTS[3]]), Message("system", ["Now in French."]), *[Message("user", [TEXTS[3]])] * 3]
    sent = applied(RingStrategy(50), [Message.from_dict(message.to_dict()) for message in messages])
    assert [message.role for message in sent] == ["system", "user"]


def test_what_another_strategy_excluded_stays_so() -> None:
    random = Random(3)
    messages = [message for _ in range(4) for message in history(random)]
    for number, message in enumerate(messages):  # ids of calls begin anew in each
        for content in message.contents:
            if content.call_id:
                content.call_id += f" {sum(other.role == 'user' for other in messages[:number])}"
    theirs = ToolResultCompactionStrategy(keep_last_tool_call_groups=1)
    applied(theirs, messages)
    before = [message.additional_properties["_excluded"] for message in messages]
    assert sum(before) > 5
    sent = applied(RingStrategy(1_000_000), messages)
    assert valid(sent)
    assert [message.additional_properties["_excluded"] for message in messages] == before
    sent = applied(RingStrategy(200), messages)
    assert sum(map(RING.count, sent)) <= 200
    assert not [message for message, was in zip(messages, before, strict=True) if was and message in sent]


def test_it_goes_into_the_framework_s_composition() -> None:
    random = Random(3)
    messages = history(random)
    composed = TokenBudgetComposedStrategy(token_budget=150, tokenizer=Tokenizer(), strategies=[RingStrategy(100)])
    sent = applied(composed, messages)
    assert valid(sent)
    assert sum(map(RING.count, sent)) <= 100


def test_messages_with_one_id_are_not_one() -> None:
    """Messages loaded from elsewhere may have the numbers that compaction gave them in several requests."""
    messages = [Message("user", [text], message_id="msg_0") for text in TEXTS[::-1]]
    annotate_message_groups(messages)
    sent = applied(RingStrategy(30), messages)
    assert [message.text for message in sent] == list(TEXTS[2::-1])


def test_they_have_the_shapes_of_the_framework_s_protocols() -> None:
    assert isinstance(RingStrategy(100), CompactionStrategy)
    assert isinstance(Tokenizer(), TokenizerProtocol)


def test_a_counter_and_a_measure_of_your_own() -> None:
    messages = [Message("user", ["x" * 10]) for _ in range(5)]
    assert len(applied(RingStrategy(29, counter=len), messages)) == 2  # 4 more for each
    assert len(applied(RingStrategy(29, measure=lambda message: len(message.text)), messages)) == 2
    assert len(applied(RingStrategy(30, measure=lambda message: len(message.text)), messages)) == 3


def test_marks_stay_on_what_the_in_memory_provider_keeps() -> None:
    """Trap: the framework's exclusions outlive the request. A larger limit includes ours again."""
    model = Model()
    provider = InMemoryHistoryProvider()
    agents: list[Agent[Any]] = [
        make_agent(model.chat, provider, compaction_strategy=RingStrategy(limit)) for limit in (300, 100_000)
    ]

    async def all_runs() -> None:
        session = agents[0].create_session()
        await agents[0].run(question(0, steps=6), session=session)
        kept = await provider.get_messages(None, state=session.state["in_memory"])
        assert sum(bool(message.additional_properties.get("_excluded")) for message in kept) > 5
        await agents[1].run(question(1), session=session)
        assert len(model.requests[-1]) == 1 + 20 + 1 + 6

    asyncio.run(all_runs())


def test_as_a_provider_s_strategy_before_and_after_runs() -> None:
    model = Model()
    history_provider = InMemoryHistoryProvider(skip_excluded=True)
    compaction = CompactionProvider(before_strategy=RingStrategy(400), after_strategy=RingStrategy(300))
    agent = make_agent(model.chat, history_provider, compaction)

    async def all_runs() -> None:
        session = agent.create_session()
        for number in range(10):
            await agent.run(question(number, steps=1), session=session)
            check_request(model.requests[-1], question(number, steps=1), 600 + BESIDE)

    asyncio.run(all_runs())


def test_arguments_are_checked() -> None:
    check_refusals(RingStrategy)
    with pytest.raises(ValueError, match="exceed"):
        applied(RingStrategy(10), [Message("system", [TEXTS[3]]), Message("user", ["Hi"])])


def test_a_run_that_does_not_fit_ends_in_words() -> None:
    agent = make_agent(Model().chat, compaction_strategy=RingStrategy(20))
    messages = [Message("system", [TEXTS[3]]), Message("user", ["Hi"])]
    with pytest.raises(ValueError, match=r"the 29 tokens of the system messages and .* exceed token_limit 20"):
        asyncio.run(run(agent, messages))
