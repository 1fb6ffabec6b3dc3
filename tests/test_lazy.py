"""What is counted, and how often: a counter that notes every text it is given."""

import gc
import re
import weakref
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from chatring import MessageRing, TokenCounter, trim_messages
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples, slow
from reference import Message


class Counting:
    """Counts words, and keeps what it was asked."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> list[str]:
        self.texts.append(text)
        return text.split()

    def asked(self) -> tuple[int, int]:
        """Return how many calls there were, and for how many messages, since this was asked last.

        Not counted: the empty text, which may be tried once to see what a tokenizer puts around every text.
        """
        texts = [text for text in self.texts if text]
        assert len(self.texts) - len(texts) <= 1
        self.texts.clear()
        return len(texts), len({text.split()[0] for text in texts})


# Four words, the first of them the message's own number.
def message(number: int, role: str = "user") -> Message:
    return Message(role, f"{number} two three four")


# Counted past a window before everything older is ruled out: messages of more than 8 tokens, here 3.
SLACK = 3


@slow
def test_a_million_messages_are_counted_for_their_window_alone() -> None:
    counter = Counting()
    ring: MessageRing[Message] = MessageRing(40_000, counter, measure="text")
    ring.put_messages([message(number) for number in range(1_000_000)])
    assert counter.texts == []

    window = ring.get()
    assert len(window) == 10_000
    assert window[0].content == "990000 two three four"
    # Each message alone, as a window's first, and after a space, as another's successor.
    assert counter.asked() == (2 * (10_000 + SLACK), 10_000 + SLACK)

    ring.get()
    assert counter.asked() == (0, 0)

    for number in range(7):
        ring.put(message(1_000_000 + number))
    assert counter.asked() == (0, 0)
    assert len(ring.get()) == 10_000
    assert counter.asked() == (2 * 7, 7)

    # A smaller window is part of what is counted; a larger one is counted from there on.
    assert len(ring.get(token_limit=4_000)) == 1_000
    assert counter.asked() == (0, 0)
    assert len(ring.get(token_limit=44_000, initial_token_count=1_000)) == 10_750
    calls, messages = counter.asked()
    # The oldest message counted before is counted again with what comes before it.
    assert messages == 750 - 7 + 1
    assert calls == 2 * messages


def test_replies_cannot_start_a_window_and_are_counted_once() -> None:
    counter = Counting()
    ring: MessageRing[Message] = MessageRing(4_000, counter, measure="text")
    ring.put_messages([message(number, ("user", "assistant", "tool")[number % 3]) for number in range(30_000)])
    assert len(ring.get()) == 999
    calls, messages = counter.asked()
    assert messages == 1_000 + SLACK
    assert calls == messages + messages // 3


def test_one_long_message_is_enough() -> None:
    counter = Counting()
    ring: MessageRing[Message] = MessageRing(100, counter, measure="text")
    ring.put_messages([message(number) for number in range(10_000)])
    ring.put(Message("user", "word " * 200))
    assert len(ring.get()) == 1
    assert counter.asked() == (2, 1)


@pytest.mark.parametrize("verify", [True, False])
def test_blank_messages_are_counted_with_their_neighbours_only(verify: bool) -> None:
    counter = Counting()
    ring: MessageRing[Message] = MessageRing(400, counter, measure="text")
    ring.put_messages([Message("user", "") if number % 5 else message(number) for number in range(100_000)])
    window = ring.get(verify=verify)
    assert len(window) > 400
    assert len(counter.texts) < 3 * len(window)
    assert max(map(len, counter.texts)) < 100
    counter.texts.clear()
    ring.get(verify=verify)
    # The four blank messages at the end, which no word follows yet.
    assert counter.texts == [" " * 4]


def test_a_changed_message_is_counted_again_and_few_others() -> None:
    counter = Counting()
    ring: MessageRing[Message] = MessageRing(4_000, counter, measure="text")
    ring.put_messages([message(number) for number in range(5_000)])
    window = ring.get()
    assert len(window) == 1_000
    counter.asked()

    # Near either end: the rest stays counted.
    for index in (-1, -2, -10, 0, 5):
        window[index].content = window[index].content.replace("two", "2")
        assert ring.get() == window
        calls, messages = counter.asked()
        distance = min(index % 1_000, -index % 1_000)
        assert 1 <= messages <= distance + 2 + SLACK
        assert calls <= 2 * messages
    # In the middle: at most half.
    window[500].content = "500 2 three four"
    assert ring.get() == window
    assert 1 <= counter.asked()[1] <= 500 + SLACK + 2


def test_a_change_back_to_the_same_text_is_no_change() -> None:
    counter = Counting()
    ring: MessageRing[Message] = MessageRing(4_000, counter, measure="text")
    ring.put_messages([message(number) for number in range(100)])
    window = ring.get()
    counter.asked()
    for item in window:
        item.content = "".join(item.content)
    assert ring.get() == window
    assert counter.asked() == (0, 0)


def test_what_leaves_is_not_counted_again() -> None:
    counter = Counting()
    ring: MessageRing[Message] = MessageRing(4_000, counter, max_messages=500, measure="text")
    ring.put_messages([message(number) for number in range(500)])
    assert len(ring.get()) == 500
    counter.asked()
    for number in range(500, 600):
        ring.put(message(number))
        assert len(ring.get()) == 500
    # The new ones, and the one that is first now: alone.
    assert counter.asked()[0] <= 3 * 100
    ring.pop()
    assert len(ring.get()) == 499
    assert counter.asked() == (0, 0)
    ring.delete(3)
    assert len(ring.get()) == 498
    assert counter.asked()[1] <= 3 + 2


def test_token_count_counts_the_rest() -> None:
    counter = Counting()
    ring: MessageRing[Message] = MessageRing(400, counter, measure="text")
    ring.put_messages([message(number) for number in range(1_000)])
    ring.get()
    counter.asked()
    assert ring.token_count() == 4_000
    assert counter.asked()[1] == 1_000 - 100 - SLACK + 1
    assert ring.token_count() == 4_000
    assert len(ring.get()) == 100
    assert counter.asked() == (0, 0)


def test_an_exception_keeps_nothing_and_the_next_call_starts_again() -> None:
    counter = Counting()

    def failing(text: str) -> list[str]:
        if text.split()[:1] == [fail_at]:
            raise LookupError(text)
        return counter(text)

    ring: MessageRing[Message] = MessageRing(400, failing, measure="text")
    messages = [message(number) for number in range(1_000)]
    ring.put_messages(messages)
    fail_at = "950"
    for _ in range(2):
        with pytest.raises(LookupError, match="950"):
            ring.get()
        assert ring.get_all() == messages
    fail_at = "none"
    assert ring.get() == messages[900:]
    fail_at = "999"
    assert ring.get() == messages[900:]


def test_ledgers_are_kept_for_the_last_four_counters() -> None:
    ring: MessageRing[Message] = MessageRing(40, counter="cl100k_base", measure="text")
    ring.put_messages([message(number) for number in range(100)])
    counters = [Counting() for _ in range(5)]
    for counter in counters[:4]:
        assert len(ring.get(counter=counter)) == 10
        assert counter.asked()[1] == 10 + SLACK
    for counter in counters[:4]:
        ring.get(counter=counter)
        ring.get(counter=TokenCounter(counter))
        assert counter.asked() == (0, 0)
    # The fifth replaces the least recently used one.
    ring.get(counter=counters[0])
    ring.get(counter=counters[4])
    for counter in (counters[0], counters[2], counters[3], counters[4]):
        counter.asked()
        ring.get(counter=counter)
        assert counter.asked() == (0, 0)
    ring.get(counter=counters[1])
    assert counters[1].asked()[1] == 10 + SLACK


def test_a_counter_that_is_not_used_any_more_is_let_go() -> None:
    ring: MessageRing[Message] = MessageRing(40, counter="cl100k_base", measure="text")
    ring.put_messages([message(number) for number in range(100)])

    def use_a_new_one() -> weakref.ref[Callable[[str], list[str]]]:
        counter = Counting()
        ring.get(counter=counter)
        return weakref.ref(counter)

    used = [use_a_new_one() for _ in range(50)]
    gc.collect()
    assert sum(counter() is not None for counter in used) == 4
    assert used[-1]() is not None
    ring.reset()
    gc.collect()
    assert not any(counter() for counter in used)


TEXTLESS: dict[str, dict[str, object]] = {
    "empty": {"role": "user", "content": ""},
    "blank": {"role": "assistant", "content": " \n"},
    "nothing": {"role": "assistant", "content": None},
    "picture": {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
    "call in a block": {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "1", "name": "find", "input": {"shelf": 3}}],
    },
    "result in a block": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "12"}]},
    "call": {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"shelf": 3}'}}],
    },
}


@pytest.mark.parametrize("limit", [3_000, 10**9])
@pytest.mark.parametrize("measure", ["text", "message"])
@pytest.mark.parametrize("kind", TEXTLESS)
def test_messages_without_a_text_cost_time_in_proportion(kind: str, measure: Any, limit: int) -> None:
    def characters(messages: int) -> int:
        counted = 0

        def counter(text: str) -> list[str]:
            nonlocal counted
            counted += len(text) + 1  # a call costs something, too
            return text.split()

        ring: MessageRing[dict[str, object]] = MessageRing(limit, counter, measure=measure)
        ring.put_messages([dict(TEXTLESS[kind]) for _ in range(messages)])
        ring.get()
        ring.put({"role": "user", "content": "word"})
        ring.get()
        return counted

    assert characters(10_000) <= 12 * characters(1_000)


class Unreadable:
    """A message whose role nobody may ask for."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")


def test_trimming_reads_the_head_and_the_newest_messages_alone() -> None:
    head = [Message("system", "be brief")]
    newest = [Message("assistant" if number % 2 else "user", "two words") for number in range(40)]
    messages: list[Any] = [*head, newest[0], *(Unreadable() for _ in range(100_000)), *newest]
    window = trim_messages(messages, 60, counter=str.split)
    assert window == [*head, *newest[-8:]]
    assert (window.start, window.head, window.question) == (len(messages) - 8, 1, None)
    without = trim_messages(messages, 60, counter=str.split, include_system=False)
    assert (without, without.start) == (newest[-10:], len(messages) - 10)
    # A ratio is about the sum of all.
    with pytest.raises(AssertionError, match="was read"):
        trim_messages(messages, 60, counter=str.split, retention_ratio=0.7)


class Noting:
    """A format that notes what it read."""

    def __init__(self) -> None:
        self.read_contents: list[str] = []

    def read(self, message: Message) -> Message:
        self.read_contents.append(str(message.content))
        return message


def test_trimming_by_a_ratio_reads_and_counts_each_message_once() -> None:
    messages = [message(number, "assistant" if number % 2 else "user") for number in range(2_000)]
    noting, counting = Noting(), Counting()
    window = trim_messages(messages, 400, counter=counting, format=noting, retention_ratio=0.7)
    assert 10 < len(window) < 100
    assert noting.read_contents == [each.content for each in reversed(messages)]
    assert counting.asked() == (len(messages), len(messages))


@given(st.randoms(use_true_random=False), st.integers(1, 400), st.booleans(), st.sampled_from((1.0, 0.7, 0.0)))
@settings(max_examples=examples(300, long=5_000))
def test_trimming_a_long_list_finds_the_window_of_a_ring(
    random: Random, limit: int, include_system: bool, ratio: float
) -> None:
    """Turns and messages are long or short, so the window may be among the newest messages read at first, or not."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "be brief"} for _ in range(random.randrange(3))]
    while len(messages) < 200:
        messages.append({"role": "user", "content": "word " * random.choice((0, 1, 5, 60))})
        for number in range(random.choice((0, 1, 2, 30))):
            call = {"id": str(number), "type": "function", "function": {"name": "f", "arguments": "{}"}}
            messages.append({"role": "assistant", "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": str(number), "content": "word " * random.choice((0, 9))})
        messages.append({"role": "assistant", "content": "done"})
    del messages[-random.randrange(1, 5) :]
    if random.random() < 0.2:
        messages = [each for each in messages if each["role"] != "user"]
    options: dict[str, Any] = {"counter": str.split, "include_system": include_system, "retention_ratio": ratio}
    ring: MessageRing[Any] = MessageRing(limit, **options)
    ring.put_messages(messages)
    try:
        expected = ring.window()
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            trim_messages(messages, limit, **options)
        return
    window = trim_messages(iter(messages), limit, **options)
    assert list(map(id, window)) == list(map(id, expected))
    assert [getattr(window, name) for name in ("tokens", "start", "question", "head")] == [
        getattr(expected, name) for name in ("tokens", "start", "question", "head")
    ]
