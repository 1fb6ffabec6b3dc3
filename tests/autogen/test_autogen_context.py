"""`RingChatCompletionContext` by itself: what it hands out, keeps, saves and refuses."""

import asyncio
import json
import subprocess
import sys
from random import Random
from typing import Any

import pytest

pytest.importorskip("autogen_core.model_context", reason="AutoGen is not installed: pip install 'chatring[autogen]'")

from autogen_core import ComponentModel, FunctionCall
from autogen_core import Image as AutogenImage
from autogen_core.model_context import ChatCompletionContext, UnboundedChatCompletionContext
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    SystemMessage,
    UserMessage,
)
from chatring import MessageRing, TokenCounter, trim_messages
from chatring.autogen import RingChatCompletionContext
from chatring.autogen.sent import sent
from profiles import examples
from providers import validate_openai_chat
from trimmer_options import check_refusals


def user(text: str) -> UserMessage:
    return UserMessage(content=text, source="ada")


def said(text: str, thought: str | None = None) -> AssistantMessage:
    return AssistantMessage(content=text, source="bot", thought=thought)


def called(*ids: str, thought: str | None = None) -> AssistantMessage:
    calls = [FunctionCall(id=each, name="f", arguments='{"n":1}') for each in ids]
    return AssistantMessage(content=calls, source="bot", thought=thought)


def returned(*ids: str, text: str = "ok") -> FunctionExecutionResultMessage:
    return FunctionExecutionResultMessage(
        content=[FunctionExecutionResult(content=text, name="f", call_id=each) for each in ids]
    )


def filled(messages: list[LLMMessage], *args: Any, **options: Any) -> RingChatCompletionContext:
    context = RingChatCompletionContext(*args, **options)

    async def fill() -> None:
        for message in messages:
            await context.add_message(message)

    asyncio.run(fill())
    return context


def got(context: ChatCompletionContext) -> list[LLMMessage]:
    return asyncio.run(context.get_messages())


def kept(context: ChatCompletionContext) -> list[LLMMessage]:
    """Return all messages, by what is saved."""
    other = UnboundedChatCompletionContext()
    asyncio.run(other.load_state(json.loads(json.dumps(asyncio.run(context.save_state())))))
    return got(other)


def turn(number: int) -> list[LLMMessage]:
    call = f"c{number}"
    return [user(f"Number {number}?"), called(call), returned(call, text="It left. " * 5), said("It left.")]


def test_the_newest_are_kept_and_the_middle_is_not_deleted() -> None:
    messages = [message for number in range(50) for message in turn(number)]
    context = filled(messages, 300)
    window = got(context)
    assert 8 <= len(window) < 30
    question, *steps = window  # the first turn has lost its first step
    assert question == messages[-len(steps) - 3]
    assert all(one is other for one, other in zip(steps, messages[-len(steps) :], strict=True))
    assert got(context) is not got(context)
    assert kept(context) == messages


def test_what_a_message_costs_is_what_openai_is_sent() -> None:
    count = MessageRing[Any]().count
    cases: list[tuple[LLMMessage, list[dict[str, Any]]]] = [
        (user("Hi there"), [{"role": "user", "name": "ada", "content": "Hi there"}]),
        (said("Yes", thought="Hm, hm, hm"), [{"role": "assistant", "content": "Yes"}]),
        (SystemMessage(content="Be kind."), [{"role": "system", "content": "Be kind."}]),
        (returned("1", "2"), [{"role": "tool", "tool_call_id": each, "content": "ok"} for each in "12"]),
        (
            called("1", "2", thought="Hm"),
            [
                {
                    "role": "assistant",
                    "content": "Hm",
                    "tool_calls": [
                        {"id": each, "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}
                        for each in "12"
                    ],
                }
            ],
        ),
    ]
    for message, expected in cases:
        assert sum(map(count, sent(message))) == sum(map(count, expected))


def test_options_are_those_of_a_ring() -> None:
    messages = [message for number in range(50) for message in turn(number)]
    choices: list[dict[str, Any]] = [
        {},
        {"retention_ratio": 0.7},
        {"initial_token_count": 70},
        {"counter": "cl100k_base"},
        {"counter": lambda text: len(text) // 4},
        {"measure": lambda message: 20},
    ]
    for options in choices:
        ring: MessageRing[Any] = MessageRing(counter=options.get("counter", "o200k_base"))
        measured: Any = {"measure": lambda message, ring=ring: sum(map(ring.count, sent(message))), **options}
        assert got(filled(messages, 300, **options)) == trim_messages(messages, 300, **measured) != messages


def test_a_call_waits_for_its_results() -> None:
    context = filled([user("Q"), called("1", "2")], 1_000)
    assert got(context) == [user("Q")] == kept(context)
    asyncio.run(context.add_message(returned("1")))
    assert got(context) == [user("Q")]
    asyncio.run(context.add_message(user("Meanwhile")))
    asyncio.run(context.add_message(returned("2")))
    expected = [user("Q"), user("Meanwhile"), called("1", "2"), returned("1"), returned("2")]
    assert got(context) == expected == kept(context)


def test_ids_that_are_all_the_same() -> None:
    """Some models give none: the newest call is meant, also where an older one was cancelled."""
    messages: list[LLMMessage] = [
        user("Q"),
        called(""),
        user("Again"),
        called(""),
        returned("", text="new"),
        said("Yes"),
    ]
    window = got(filled(messages, 1_000))
    assert window == [user("Q"), user("Again"), *messages[3:]]
    assert window[2] is messages[3]
    twice: list[LLMMessage] = [user("Q"), called("", ""), returned("", ""), called(""), returned(""), said("Yes")]
    assert got(filled(twice, 1_000)) == twice
    one_by_one: list[LLMMessage] = [user("Q"), called("", ""), returned(""), returned("")]
    assert got(filled(one_by_one[:3], 1_000)) == one_by_one[:1]
    assert got(filled(one_by_one, 1_000)) == one_by_one


def test_results_without_a_call_are_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    context = filled([user("Q"), returned("1"), said("Yes")], 1_000)
    assert got(context) == [user("Q"), said("Yes")]
    assert "results of calls that are not there are left out: ['1']" in caplog.text


def test_every_window_of_random_histories_is_valid() -> None:
    for seed in range(examples(150, long=5_000)):
        random = Random(seed)
        context = RingChatCompletionContext(
            random.randrange(60, 400), retention_ratio=random.choice((1.0, 0.7, 0.2)), initial_token_count=10
        )
        for number in range(random.randrange(1, 40)):
            ids = [f"{number}-{each}" for each in range(random.choice((1, 1, 2, 3)))]
            messages: list[LLMMessage] = random.choice(
                [
                    [user("word " * random.randrange(30))],
                    [said("word " * random.randrange(30))],
                    [called(*ids), returned(*ids, text="word " * random.randrange(30))],
                    [called(*ids)],  # cancelled
                    [called(*ids), user("Meanwhile"), returned(*ids)],
                    [SystemMessage(content="Remember.")],
                ]
            )
            for message in messages:
                asyncio.run(context.add_message(message))
                window = got(context)
                wire: list[dict[str, Any]] = []
                for each in window:
                    if isinstance(each, FunctionExecutionResultMessage):
                        wire += [{"role": "tool", "tool_call_id": result.call_id} for result in each.content]
                    elif isinstance(each.content, list) and isinstance(each, AssistantMessage):
                        wire.append({"role": "assistant", "tool_calls": [{"id": call.id} for call in each.content]})
                    else:
                        wire.append({"role": "user"})
                if wire:
                    validate_openai_chat(wire)


def test_state_goes_to_autogen_s_own_contexts_and_back() -> None:
    messages = [message for number in range(5) for message in turn(number)]
    other = UnboundedChatCompletionContext()
    for message in [*messages, user("Q"), called("x")]:  # a run that was cancelled
        asyncio.run(other.add_message(message))
    context = filled([user("before")], 10_000)
    asyncio.run(context.load_state(json.loads(json.dumps(asyncio.run(other.save_state())))))
    assert got(context) == [*messages, user("Q")] == kept(context)
    # Its results may still come.
    asyncio.run(context.add_message(returned("x")))
    assert got(context)[-2:] == [called("x"), returned("x")]


def test_a_state_that_is_none_changes_nothing() -> None:
    context = filled(turn(1), 1_000)
    with pytest.raises(ValueError, match="messages"):
        asyncio.run(context.load_state({"messages": [{"type": "nothing"}]}))
    assert got(context) == turn(1)


def test_images_are_saved_and_counted() -> None:
    image = pytest.importorskip("PIL.Image").new("RGB", (8, 8))
    message = UserMessage(content=["Look", AutogenImage(image)], source="ada")
    context = filled([user("Hi"), message], 2_000)
    assert got(context)[1] is message
    assert 765 < MessageRing[Any]().count(sent(message)[0]) < 800
    assert len(got(filled([user("Hi"), said("Yes"), message], 775))) == 1
    loaded = kept(context)[1]
    assert isinstance(loaded, UserMessage)
    assert isinstance(loaded.content[1], AutogenImage)


def test_clear_removes_all() -> None:
    context = filled([called("1")], 1_000, initial_messages=turn(1))
    assert got(context) == turn(1)
    asyncio.run(context.clear())
    assert got(context) == []
    asyncio.run(context.add_message(returned("1")))
    assert got(context) == []


def test_a_context_is_a_component() -> None:
    context = filled(
        turn(2),
        300,
        counter="cl100k_base",
        retention_ratio=0.7,
        initial_token_count=9,
        initial_messages=turn(1),
    )
    dumped = json.loads(context.dump_component().model_dump_json())
    assert dumped["provider"] == "chatring.autogen.RingChatCompletionContext"
    assert dumped["component_type"] == "chat_completion_context"
    loaded = ChatCompletionContext.load_component(ComponentModel.model_validate(dumped))
    assert type(loaded) is RingChatCompletionContext
    assert got(loaded) == turn(1)
    assert loaded.dump_component() == context.dump_component()
    for each in turn(2):
        asyncio.run(loaded.add_message(each))
    assert got(loaded) == got(context)


def test_a_context_with_a_callable_is_not_dumped_in_words() -> None:
    for options in ({"counter": len}, {"measure": lambda message: 1}):
        with pytest.raises(ValueError, match=r"^a context with a callable cannot be dumped, .*: give the counter as"):
            RingChatCompletionContext(100, **options).dump_component()
    assert RingChatCompletionContext(100, counter=TokenCounter("cl100k_base")).dump_component().config == {
        "token_limit": 100,
        "counter": "cl100k_base",
        "retention_ratio": 1.0,
        "initial_token_count": 0,
    }


def test_bad_arguments_and_messages_are_named() -> None:
    def make(*args: Any, **options: Any) -> Any:
        return RingChatCompletionContext(*args, **options)

    check_refusals(make)
    with pytest.raises(TypeError, match="got dict"):
        make(100, initial_messages=[{"role": "user", "content": "Hi"}])
    context: Any = make(100)
    with pytest.raises(TypeError, match=r"^a message must be one of AutoGen's, such as UserMessage; got str"):
        asyncio.run(context.add_message("Hi"))
    assert got(context) == []


def test_a_head_that_is_over_the_limit_is_said_in_words() -> None:
    context = filled([SystemMessage(content="Be kind. " * 50), user("Hi")], 100)
    with pytest.raises(ValueError, match="100"):
        got(context)


PROGRAM = f"""
import sys
sys.path[:0] = {sys.path!r}
import chatring, chatring.formats, chatring.stores
assert not [name for name in sys.modules if name.startswith("autogen")]
import chatring.autogen
assert not [name for name in sys.modules if name.startswith(("autogen_agentchat", "autogen_ext"))]
print("done")
"""


def test_autogen_is_imported_by_its_adapter_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
