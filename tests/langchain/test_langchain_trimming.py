"""chatring's `trim_messages` against LangChain's, with the same counts: random histories and arguments."""

import copy
from typing import Any

import pytest

pytest.importorskip("langchain.agents", reason="langchain is not installed: pip install 'chatring[langchain]'")

import tiktoken
from chatring import MessageRing, TokenCounter
from chatring.langchain import trim_messages
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import trim_messages as theirs
from langchain_core.prompt_values import ChatPromptValue
from profiles import examples

RING: MessageRing[Any] = MessageRing()
TEXTS = st.sampled_from(["", "no", "what is it", "first line\nsecond line\nthird", "one two three four five six " * 3])
BLOCKS = st.lists(TEXTS.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=3)
CONTENTS: Any = st.one_of(TEXTS, BLOCKS)


def count_all(messages: list[BaseMessage]) -> int:
    return sum(map(RING.count, messages))


def called(content: Any, names: list[str]) -> AIMessage:
    return AIMessage(content, tool_calls=[{"name": name, "args": {"a": name}, "id": name} for name in names])


MESSAGES = st.one_of(
    st.builds(HumanMessage, CONTENTS),
    st.builds(SystemMessage, CONTENTS),
    st.builds(AIMessage, CONTENTS),
    st.builds(called, CONTENTS, st.lists(st.sampled_from("fgh"), min_size=1, max_size=2)),
    st.builds(lambda content: ToolMessage(content, tool_call_id="f"), TEXTS),
    st.builds(lambda content: ChatMessage(content=content, role="user"), TEXTS),
)
TYPES: Any = st.one_of(
    st.none(),
    st.sampled_from(["human", "ai", "tool", "system", HumanMessage, AIMessage, BaseMessage, "no such"]),
    st.lists(st.sampled_from(["human", ToolMessage, "system", AIMessage]), max_size=2),
    st.just((HumanMessage, "tool")),
)


@settings(max_examples=examples(1000))
@given(
    history=st.lists(MESSAGES, max_size=14),
    max_tokens=st.integers(-1, 250),
    arguments=st.fixed_dictionaries(
        {
            "start_on": TYPES,
            "end_on": TYPES,
            "include_system": st.booleans(),
            "allow_partial": st.booleans(),
            "text_splitter": st.sampled_from([None, lambda text: list(text)]),
        }
    ),
)
def test_equals_langchains(history: list[BaseMessage], max_tokens: int, arguments: dict[str, Any]) -> None:
    before = copy.deepcopy(history)
    expected = theirs(history, max_tokens=max_tokens, token_counter=count_all, **arguments)
    ours = trim_messages(history, max_tokens=max_tokens, token_counter="o200k_base", **arguments)
    assert ours == expected
    assert history == before
    if not arguments["allow_partial"]:
        assert [id(message) for message in ours] == [id(message) for message in expected]


def conversation() -> list[BaseMessage]:
    turns = [(HumanMessage(f"Question {n}?"), AIMessage(f"Answer {n}. " * n)) for n in range(20)]
    return [SystemMessage("You are the support of a shop."), *(message for turn in turns for message in turn)]


def one(message: BaseMessage) -> int:
    return len(message.content) + 1


@pytest.mark.parametrize(
    ("counter", "same"),
    [
        ("cl100k_base", MessageRing[Any](counter="cl100k_base").count),
        (TokenCounter("o200k_base"), RING.count),
        (len, lambda message: 1),
        (one, one),
    ],
)
def test_counters(counter: Any, same: Any) -> None:
    for limit in (1, 5, 60, 400, 5000):
        expected = theirs(conversation(), max_tokens=limit, token_counter=lambda messages: sum(map(same, messages)))
        assert trim_messages(conversation(), max_tokens=limit, token_counter=counter) == expected


def test_a_tiktoken_encoding_counts(o200k: tiktoken.Encoding) -> None:
    trimmed = trim_messages(conversation(), max_tokens=200, token_counter=o200k)
    assert trimmed == trim_messages(conversation(), max_tokens=200, token_counter="o200k_base")


def test_whatever_langchain_makes_messages_of() -> None:
    plain: list[Any] = [("system", "Be brief."), {"role": "user", "content": "Hello"}, "And?", ("ai", "Yes?")]
    expected = theirs(plain, max_tokens=12, token_counter=count_all, include_system=True)
    assert trim_messages(plain, max_tokens=12, token_counter="o200k_base", include_system=True) == expected
    prompt = ChatPromptValue(messages=conversation())
    expected = theirs(prompt, max_tokens=60, token_counter=count_all)
    assert trim_messages(prompt, max_tokens=60, token_counter="o200k_base") == expected
    assert trim_messages(iter(plain), max_tokens=99, token_counter="o200k_base") == theirs(
        plain, max_tokens=99, token_counter=count_all
    )
    assert trim_messages([], max_tokens=9, token_counter="o200k_base") == []


def test_without_messages_it_is_a_runnable() -> None:
    trimmer = trim_messages(max_tokens=60, token_counter="o200k_base", start_on="human")
    chain = trimmer | (lambda messages: len(messages))
    expected = theirs(conversation(), max_tokens=60, token_counter=count_all, start_on="human")
    assert trimmer.invoke(conversation()) == expected
    assert chain.invoke(conversation()) == len(expected)


def test_only_what_may_fit_is_counted() -> None:
    counted = []

    def measure(message: BaseMessage) -> int:
        counted.append(message)
        return 10

    trim_messages(conversation(), max_tokens=50, token_counter=measure, include_system=True, start_on="human")
    assert len(counted) == 7  # five that fit, the one that does not, and the system message


@pytest.mark.parametrize("counter", [count_all, "approximate", FakeListChatModel(responses=["x"]), 3, None])
def test_counters_that_do_not_add_up_are_refused(counter: Any) -> None:
    with pytest.raises(TypeError, match=r"^token_counter must count single messages.*LangChain|langchain_core"):
        trim_messages(conversation(), max_tokens=50, token_counter=counter)


def test_arguments_that_are_not_supported() -> None:
    arguments: Any = {"max_tokens": 50, "token_counter": "o200k_base"}
    first: Any = {**arguments, "strategy": "first"}
    with pytest.raises(ValueError, match='unknown encoding "gpt"'):
        trim_messages(conversation(), max_tokens=50, token_counter="gpt")
    with pytest.raises(ValueError, match=r"^strategy must be 'last', got 'first': for others use langchain_core"):
        trim_messages(conversation(), **first)
    with pytest.raises(TypeError, match=r"^max_tokens must be an integer, got '50'$"):
        trim_messages(conversation(), **{**arguments, "max_tokens": "50"})
    with pytest.raises(TypeError, match="token_counter"):
        trim_messages(conversation(), max_tokens=50)  # type: ignore[call-overload]
