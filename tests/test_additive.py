"""Windows and totals of additive measures, where a message costs the same at every position, against the literal rule.

Messages of every provider and framework are in one history. Each total is checked, and the window for every limit at
which it may change: T(i) and T(i) - 1.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiktoken
from chatring import MessageRing
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from reading import Envelope, Envelopes, read
from reference import (
    Count,
    Measure,
    Message,
    additive_start,
    any_messages,
    arguments,
    contents,
    edit,
    first_fit,
    is_whole,
    message_measure,
    ordinary_count,
    same_objects,
    sums,
    texts,
)


def remembered(encoding: str) -> Count:
    return functools.lru_cache(maxsize=100_000)(ordinary_count(tiktoken.get_encoding(encoding)))


# A counter, and what counts one text as it does.
COUNTERS: dict[str, tuple[Any, Count]] = {
    "o200k_base": ("o200k_base", remembered("o200k_base")),
    "cl100k_base": ("cl100k_base", remembered("cl100k_base")),
    "str.split": (str.split, lambda text: len(text.split())),
}
FORMATS = (None, "openai-chat", "openai-responses", "anthropic", "gemini", "bedrock")
BOUNDS = (None, None, 1, 2, 3, 5, 9)
INITIALS = (0, 0, 1, 7)

any_histories = st.one_of(
    st.lists(any_messages, min_size=1, max_size=7), st.lists(any_messages, min_size=17, max_size=40)
)


def without_system(messages: Sequence[Any]) -> list[Any]:
    """Leave out what may be the head: what becomes of that in a bounded ring is not the subject here."""
    return [message for message in messages if read(message).kind != "system"]


def check_history(
    make_ring: Callable[[int, int | None], MessageRing[Any]],
    messages: Sequence[Any],
    measure: Measure,
    bound: int | None,
    initial: int,
) -> None:
    ring = make_ring(3000, bound)
    for message in messages:
        assert ring.count(message) == measure(message)
    if bound:
        messages = without_system(messages)
    ring.put_messages(messages)
    # test_window_rule.py compares what a bounded ring keeps with the design.
    put, messages, whole = messages, ring.get_all(), is_whole(ring)
    if not messages:
        return
    totals = sums([measure(message) for message in messages])
    starts = [read(message).may_start for message in messages]
    limits = {max(tokens - less + initial, initial, 1) for tokens in totals for less in (0, 1)}
    # From small to large, so that older messages are counted later, and the other way round.
    for order in (sorted(limits), sorted(limits, reverse=True)):
        for limit in order:
            expected = messages[first_fit(totals, starts, limit, initial, is_whole=whole) :]
            assert same_objects(ring.get(token_limit=limit, initial_token_count=initial), expected), limit
            fresh = make_ring(limit, bound)
            fresh.put_messages(put)
            assert same_objects(fresh.get(initial_token_count=initial, verify=False), expected), limit
        ring.recount()
    assert ring.token_count() == totals[0]


@pytest.mark.parametrize("part", range(2))
@settings(max_examples=examples(300, long=4_000))
@given(any_histories, st.sampled_from(sorted(COUNTERS)), st.sampled_from(FORMATS), st.sampled_from(BOUNDS), st.data())
def test_messages_of_every_format(
    part: int, messages: list[Any], counter: str, plain: Any, bound: int | None, data: st.DataObject
) -> None:
    source, count = COUNTERS[counter]
    check_history(
        lambda limit, bound: MessageRing(
            limit, source, max_messages=bound, format=plain, start_on=None, include_system=False
        ),
        messages,
        message_measure(count, plain or "openai-chat"),
        bound,
        data.draw(st.sampled_from(INITIALS)),
    )


def by_number(message: Any) -> int:
    """Measure by what the message says: 0 for many, and as much as a measure may say for some."""
    number: int = message["tokens"]
    return number


numbered = st.builds(
    lambda role, tokens: {"role": role, "content": "", "tokens": tokens},
    st.sampled_from(("user", "assistant", "tool", "system")),
    st.sampled_from((0, 0, 0, 1, 1, 2, 3, 10, 1_000, 2**40)),
)


@settings(max_examples=examples(600, long=4_000))
@given(st.lists(numbered, min_size=1, max_size=50), st.sampled_from(BOUNDS), st.sampled_from(INITIALS))
def test_a_measure_of_the_callers_own(messages: list[Any], bound: int | None, initial: int) -> None:
    check_history(
        lambda limit, bound: MessageRing(
            limit, measure=by_number, max_messages=bound, start_on=None, include_system=False
        ),
        messages,
        by_number,
        bound,
        initial,
    )


@settings(max_examples=examples(30, long=300))
@given(
    st.lists(numbered, min_size=1, max_size=20), st.integers(1_000, 2_500), st.lists(st.integers(1, 4_000), min_size=1)
)
def test_histories_longer_than_what_is_read_at_once(some: list[Any], length: int, limits: list[int]) -> None:
    messages = [dict(some[number % len(some)]) for number in range(length)]
    totals, starts = (
        sums([by_number(message) for message in messages]),
        [read(message).may_start for message in messages],
    )
    ring: MessageRing[Any] = MessageRing(measure=by_number, start_on=None, include_system=False)
    ring.put_messages(messages)
    for limit in [*limits, totals[0] or 1]:
        assert same_objects(ring.get(token_limit=limit), messages[first_fit(totals, starts, limit) :])
    assert ring.token_count() == totals[0]


@settings(max_examples=examples(500, long=5_000))
@given(
    st.lists(st.tuples(st.lists(any_messages, max_size=4), st.integers(1, 120)), min_size=1, max_size=8),
    st.sampled_from(BOUNDS),
)
def test_a_growing_history(rounds: list[tuple[list[Any], int]], bound: int | None) -> None:
    source, count = COUNTERS["o200k_base"]
    measure = message_measure(count)
    ring: MessageRing[Any] = MessageRing(3000, source, max_messages=bound, start_on=None, include_system=False)
    for more, limit in rounds:
        ring.put_messages(without_system(more) if bound else more)
        history = ring.get_all()
        if history:
            start = additive_start(history, measure, limit, is_whole=is_whole(ring))
            assert same_objects(ring.get(token_limit=limit), history[start:])


@settings(max_examples=examples(800, long=8_000))
@given(
    st.lists(any_messages, min_size=1, max_size=9),
    st.integers(1, 200),
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 99), st.one_of(texts, contents, arguments)), min_size=1, max_size=4
    ),
)
def test_edits_in_the_window_are_seen(messages: list[Any], limit: int, edits: list[tuple[int, int, Any]]) -> None:
    measure = message_measure(COUNTERS["o200k_base"][1])
    ring: MessageRing[Any] = MessageRing(limit, start_on=None, include_system=False)
    ring.put_messages(messages)
    starts = [read(message).may_start for message in messages]
    for back, which, new in edits:
        before = ring.get()
        edit(before[-1 - back % len(before)], which, new)
        # Unverified, the window is as it was counted.
        assert same_objects(ring.get(verify=False), before)
        totals = sums([measure(message) for message in messages])
        assert same_objects(ring.get(), messages[first_fit(totals, starts, limit) :])
    assert ring.token_count() == sums([measure(message) for message in messages])[0]


def tool_use(value: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": value}]}


def test_what_is_inside_arguments_is_not_verified() -> None:
    query = {"query": "one"}
    message = tool_use(query)
    ring: MessageRing[Any] = MessageRing(counter=list, start_on=None, include_system=False)
    ring.put(message)
    before = ring.token_count()
    query["query"] = "one two three"
    assert ring.token_count() == before
    ring.recount()
    assert ring.token_count() == ring.count(message) == before + 10


@pytest.mark.parametrize("new", [{"query": "one two three"}, {"query": "one"}, "one", None, ["one"]])
def test_arguments_that_are_replaced_are_verified_by_what_was_counted(new: Any) -> None:
    # Whatever became of the old ones meanwhile.
    query = {"query": "one"}
    message = tool_use(query)
    ring: MessageRing[Any] = MessageRing(counter=list, start_on=None, include_system=False)
    ring.put(message)
    ring.token_count()
    query["query"] = "one two three"
    message["content"][0]["input"] = new
    assert ring.token_count() == ring.count(message)


def test_a_message_that_becomes_one_of_another_provider_is_counted_anew() -> None:
    message: dict[str, Any] = {"role": "user", "parts": [{"text": "one two"}]}
    ring: MessageRing[Any] = MessageRing(counter=list, start_on=None, include_system=False)
    ring.put(message)
    assert ring.token_count() == 1 + 7
    message["content"] = message.pop("parts")[0]["text"]
    assert ring.token_count() == 4 + 7


OPAQUE: dict[str, Callable[[], MessageRing[Any]]] = {
    "measure": lambda: MessageRing(
        8, measure=lambda envelope: len(envelope["content"]), start_on=None, include_system=False
    ),
    "format": lambda: MessageRing(8 + 8, list, format=Envelopes(), start_on=None, include_system=False),
}


@pytest.mark.parametrize("kind", OPAQUE)
@pytest.mark.parametrize("keep", range(5))
def test_messages_that_replace_others_are_measured(kind: str, keep: int) -> None:
    # Nothing tells what a callable looks at: that messages look alike to the rules does not make them the same.
    def make(text: str) -> Any:
        message = {"role": "user", "content": text}
        return message if kind == "measure" else Envelope(message)

    ring = OPAQUE[kind]()
    old = [make("word") for _ in range(4)]
    ring.put_messages(old)
    assert len(ring.get()) == 2
    ring.token_count()
    new = [*old[:keep], *(make("w") for _ in range(4 - keep)), make("abc")]
    ring.set(new)
    assert ring.token_count() == sum(ring.count(message) for message in new)
    sizes = [ring.count(message) for message in new]
    assert same_objects(ring.get(), new[first_fit(sums(sizes), [True] * 5, ring.token_limit) :])


def test_what_a_measure_says_of_a_message_that_stays_is_kept() -> None:
    measured: list[int] = []

    def measure(message: Message) -> int:
        measured.append(id(message))
        return 1

    ring: MessageRing[Message] = MessageRing(5, measure=measure, start_on=None, include_system=False)
    messages = [Message("user", str(number)) for number in range(20)]
    ring.put_messages(messages)
    assert same_objects(ring.get(), messages[-5:])
    measured.clear()
    for history in (messages, messages, messages[3:]):
        ring.set(history)  # read again from where its messages are kept
        assert same_objects(ring.get(), history[-5:])
    assert measured == []
    ring.set(messages[:3])
    assert same_objects(ring.get(), messages[:3])
    assert sorted(measured) == sorted(map(id, messages[:3]))
