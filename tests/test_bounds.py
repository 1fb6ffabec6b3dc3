"""Bounded rings, and whole conversations: no window loses its question or its prompt, or begins with a result."""

import copy
import pickle
import sys
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from chatring import MessageRing, trim_messages
from chatring.llama_index import ChatMemoryBuffer, RingChatStore
from llama_index.core.llms import ChatMessage

Message = dict[str, Any]

SYSTEM: Message = {"role": "system", "content": "be kind"}


def user(text: str = "a question") -> Message:
    return {"role": "user", "content": text}


def reply(text: str = "an answer") -> Message:
    return {"role": "assistant", "content": text}


def calls(*ids: str) -> Message:
    made = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(of: str) -> Message:
    return {"role": "tool", "tool_call_id": of, "content": f"row {of}"}


TURNS = {
    "one call": [user(), calls("a"), result("a"), reply(), user(), reply()],
    "parallel calls": [user(), calls("a", "b", "c"), result("a"), result("b"), result("c"), reply(), user()],
    "several steps": [user(), calls("a"), result("a"), calls("b"), result("b"), reply()],
    "several turns": [user(), calls("a"), result("a"), user(), calls("b", "c"), result("b"), result("c"), reply()],
}


def orphans(messages: list[Message]) -> list[Message]:
    called = {call["id"] for message in messages for call in message.get("tool_calls", ())}
    return [message for message in messages if message["role"] == "tool" and message["tool_call_id"] not in called]


@pytest.mark.parametrize("start_on", ["user", None])
@pytest.mark.parametrize("max_messages", range(1, 8))
@pytest.mark.parametrize("name", TURNS)
def test_a_result_goes_with_its_call(name: str, max_messages: int, start_on: str | None) -> None:
    for measure in ("message", "text") if start_on is None else ("message",):
        options: dict[str, Any] = {"max_messages": max_messages, "measure": measure, "start_on": start_on}
        ring: MessageRing[Message] = MessageRing(3000, **options)
        for message in TURNS[name]:
            ring.put(message)
            assert orphans(ring.get_all()) == []
            # LlamaIndex's rule takes the last message alone, whatever it is, if no other may begin a window.
            assert orphans(ring.get()) == [] or (start_on is None and ring.get() == [message])
            if start_on == "user" and len(ring):
                assert ring.get()[0]["role"] == "user"
        if start_on is None and len(ring.get()) > 1:
            assert ring.get()[0]["role"] == "user"  # 3,000 tokens are free, but a reply is not the history's first


@pytest.mark.parametrize("max_messages", range(1, 8))
@pytest.mark.parametrize("name", TURNS)
def test_a_bounded_chat_store_leaves_no_result_in_front(name: str, max_messages: int) -> None:
    gone: list[ChatMessage] = []
    messages = [
        ChatMessage(role=each["role"], content=each["content"], additional_kwargs={"tool_calls": each["tool_calls"]})
        if "tool_calls" in each
        else ChatMessage(role=each["role"], content=each["content"])
        for each in TURNS[name]
    ]
    for put_at_once in (True, False):
        gone.clear()
        store = RingChatStore(max_messages=max_messages, on_evict=lambda _, left: gone.extend(left))
        memory = ChatMemoryBuffer(token_limit=3000, chat_store=store)
        if put_at_once:
            memory.set(messages)
        else:
            for message in messages:
                memory.put(message)
        kept = memory.get_all()
        assert not kept or kept[0].role.value != "tool"
        # What has left was reported, in its order, once.
        assert list(map(id, [*gone, *kept])) == list(map(id, messages))
        assert not memory.get() or memory.get()[0].role.value in ("user", "assistant")


def test_results_that_come_after_their_call_has_left() -> None:
    ring: MessageRing[Message] = MessageRing(3000, max_messages=1)
    ring.put_messages([SYSTEM, user("which?"), calls("a", "b", "c")])
    for each in "abc":
        ring.put(result(each))
        assert ring.get() == [SYSTEM, user("which?")]
    ring.put(reply())
    assert ring.get() == [SYSTEM, user("which?"), reply()]
    assert len(ring) == 3


def test_what_was_evicted_has_no_slice() -> None:
    ring: MessageRing[Message] = MessageRing(3000, max_messages=2)
    ring.put_messages([SYSTEM, user("0"), reply("1"), user("2"), reply("3"), reply("4")])
    window = ring.window()
    assert (window.head, window.question, window.start) == (1, 3, 4)
    assert ring.slice(0, 1) == [SYSTEM]
    assert ring.slice(3, 4) == [user("2")]
    assert ring.slice(4, 99) == [reply("3"), reply("4")]
    assert ring.slice(2, 2) == ring.slice(5, 4) == ring.slice(90, 99) == []
    for begin in (1, 2):
        with pytest.raises(IndexError, match=f"position {begin} has left"):
            ring.slice(begin, 6)
    # A longer head is not what was at those positions, and a shorter one leaves nothing evicted.
    ring.set_head([SYSTEM] * 3)
    with pytest.raises(IndexError, match="position 1 has left"):
        ring.slice(1, 3)
    ring.set_head([])
    assert ring.slice(0, 1) == []


def test_a_head_that_leaves_has_no_slice() -> None:
    ring: MessageRing[Message] = MessageRing(3000, max_messages=2, include_system=False)
    ring.put_messages([SYSTEM, {**SYSTEM, "content": "and brief"}, user("1")])
    with pytest.raises(IndexError, match="position 0 has left"):
        ring.slice(0, 3)
    assert ring.slice(1, 3) == [{**SYSTEM, "content": "and brief"}, user("1")]


def test_a_recount_keeps_what_the_bound_has_kept() -> None:
    ring: MessageRing[Message] = MessageRing(3000, max_messages=2)
    ring.put_messages([user("which?"), calls("a", "b"), result("a"), result("b"), SYSTEM, result("c")])
    kept = ring.get_all()
    assert kept == [user("which?"), SYSTEM, result("c")]
    ring.recount()
    assert ring.get_all() == kept
    ring = MessageRing(3000, max_messages=2)
    ring.put_messages([user("which?"), calls("a", "b", "c"), result("a"), result("b")])
    ring.recount()
    ring.put(result("c"))
    assert ring.window() == [user("which?")]


@pytest.mark.parametrize("include_system", [True, False])
@pytest.mark.parametrize("max_messages", range(1, 6))
def test_a_ring_that_is_recounted_goes_on_as_one_that_is_not(max_messages: int, include_system: bool) -> None:
    random = Random(max_messages)
    for _ in range(100):
        rings: list[MessageRing[Message]] = [
            MessageRing(40, max_messages=max_messages, include_system=include_system) for _ in range(2)
        ]
        for _ in range(random.randrange(1, 30)):
            part = random.choice(([SYSTEM], [user("which?")], [calls("a", "b")], [result("a")], [reply()]))
            for ring in rings:
                ring.put_messages(part)
            rings[1].recount()
            assert rings[1].get_all() == rings[0].get_all()
            windows = [ring.window(token_limit=10_000) for ring in rings]
            assert windows[1] == windows[0]
            assert windows[1].tokens == sum(map(rings[1].count, windows[1]))
            assert windows[1].start == windows[0].start


def test_a_new_head_that_counts_leaves_room_for_no_more_than_the_bound() -> None:
    ring: MessageRing[Message] = MessageRing(3000, max_messages=3, include_system=False)
    ring.put_messages([user("0"), user("1")])
    head = [{**SYSTEM, "content": str(number)} for number in range(10)]
    ring.set_head(head)
    assert ring.get_all() == [head[-1], user("0"), user("1")]
    ring.set_head([])
    assert ring.get_all() == [user("0"), user("1")]


def test_a_kept_question_stays_until_messages_leave_again() -> None:
    ring: MessageRing[Message] = MessageRing(3000, max_messages=2)
    ring.put_messages([user("0"), calls("a", "b"), result("a"), result("b"), user("1")])
    assert ring.window() == ring.get_all() == [user("0"), user("1")]
    ring.put_messages([reply(), user("2")])
    assert ring.get_all() == [user("1"), reply(), user("2")]


def test_no_window_has_a_gap_behind_a_head_that_may_leave() -> None:
    ring: MessageRing[Message] = MessageRing(3000, max_messages=3, include_system=False)
    ring.put_messages([user("0"), reply(), user("1"), reply(), user("2")])
    ring.delete(0)
    ring.set_head([SYSTEM])
    assert ring.get_all() == [SYSTEM, reply(), user("2")]
    assert ring.window() == [reply(), user("2")]
    assert ring.window(include_system=True) == ring.get_all()


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda ring: pickle.loads(pickle.dumps(ring)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("max_messages", [2, 3, 7])
@pytest.mark.parametrize("ratio", [1.0, 0.7, 0.3])
def test_a_copy_of_a_bounded_ring_goes_on_as_the_ring_does(how: str, max_messages: int, ratio: float) -> None:
    ring: MessageRing[Message] = MessageRing(70, max_messages=max_messages, retention_ratio=ratio)
    ring.put_messages([SYSTEM, user("which?")])
    for number in range(30):
        part = [calls(f"{number}", f"{number}b"), result(f"{number}"), result(f"{number}b"), reply("x " * (number % 7))]
        for message in part if number % 5 else [*part, user("next?")]:
            ring.put(message)
            window = ring.window()
            other = COPIES[how](ring)
            found = other.window()
            assert list(found) == list(window)
            assert (found.start, found.question, found.head, found.tokens) == (
                window.start,
                window.question,
                window.head,
                window.tokens,
            )
            assert other.get_all() == ring.get_all()
        if number % 3 == 0:
            ring = other


def test_a_set_counts_what_has_another_shape_or_another_weight() -> None:
    text = "the same text"
    for before, after in (
        (user(text), {"role": "user", "parts": [{"text": text}]}),
        (user(text), {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image", "source": {}}]}),
    ):
        ring: MessageRing[Message] = MessageRing(5_000)
        for messages in ([before, reply()], [after, reply()], [before, reply()]):
            ring.set(messages)
            assert ring.token_count() == sum(map(ring.count, messages))
            assert ring.window().tokens == sum(map(ring.count, messages))
    weighed: MessageRing[Message] = MessageRing(100, measure=lambda message: message["weight"])
    for weight in (1, 5, 3):
        weighed.set([{**user(text), "weight": weight}])
        assert weighed.window().tokens == weight


# Whole conversations


@pytest.mark.parametrize("limit", [1_500, 2_000, 3_000, 5_000, 8_000])
@pytest.mark.parametrize("ratio", [1.0, 0.7])
@pytest.mark.parametrize("max_messages", [None, 10])
def test_conversations_keep_their_question_and_prompt(
    conversations: list[list[Message]], limit: int, ratio: float, max_messages: int | None
) -> None:
    first, *others = conversations
    one_history = [*first, *(message for conversation in others for message in conversation[1:])]
    for conversation in [*conversations[:40], one_history[:800]]:
        ring: MessageRing[Message] = MessageRing(limit, retention_ratio=ratio, max_messages=max_messages)
        question = None
        for message in conversation:
            if message["role"] == "assistant":  # a call of the model
                window = ring.window()
                assert window[0] is conversation[0]
                assert window[1]["role"] == "user"
                assert any(each is question for each in window)
                assert orphans(window) == []
            question = message if message["role"] == "user" else question
            ring.put(message)


def test_a_prompt_that_is_too_long_alone_is_told_with_the_numbers(history: list[Message]) -> None:
    prompt = MessageRing[Message]().count(history[0])
    for limit, spent in ((prompt - 250, 0), (prompt + 50, 100)):
        with pytest.raises(ValueError, match=rf"\b{prompt} tokens.*\b{limit}\b"):
            trim_messages(history[:9], limit, initial_token_count=spent)


def test_threads_that_change_heads_and_messages() -> None:
    """Everything at once, at the smallest switch interval: no error, no deadlock, and every window is a valid one."""
    ring: MessageRing[Message] = MessageRing(60, max_messages=6, retention_ratio=0.5)
    ring.put_messages([SYSTEM, user()])
    errors: list[BaseException] = []
    done = threading.Event()

    def keep(work: Callable[[], object]) -> None:
        try:
            while not done.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        window = ring.window(retention_ratio=0.7)
        assert all(message["role"] == "system" for message in window[: window.head])
        assert window.head in (1, 2, 3)
        assert orphans(window) == []

    def change() -> None:
        ring.put_messages([user(), calls("a", "b"), result("a"), result("b"), reply()])

    works = [read, read, change, lambda: ring.set_head([SYSTEM] * 2), lambda: ring.set_head([SYSTEM]), ring.recount]
    works.append(lambda: pickle.loads(pickle.dumps(ring)).window())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=keep, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        done.wait(2)
        done.set()
        for thread in threads:
            thread.join(300)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
