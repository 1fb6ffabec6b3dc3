"""Windows and totals against the window rule over joined counts, with tiktoken as the oracle.

An everyday run checks 10,000 short and 400 long histories under each of two encodings: 20,800 cases. In each of them
T(i) is checked for every i, and the window for every limit at which it may change: T(i) and T(i) - 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiktoken
from chatring import MessageRing, TokenCounter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from profiles import examples
from reference import (
    Message,
    Total,
    histories,
    joined_total,
    kept_of,
    long_histories,
    may_start,
    messages,
    same_objects,
    suffix_totals,
    summed_total,
    text_of,
    tiktoken_count,
    window_of,
    window_start,
    without_surrogates,
    words_after_a_beginning,
)

ENCODINGS = ("cl100k_base", "o200k_base")


def check_history(messages: Sequence[Message], encoding: str, total: Total, initial: int = 0) -> None:
    totals = suffix_totals(messages, total)
    roles = [message.role for message in messages]
    ring: MessageRing[Message] = MessageRing(3000, encoding, measure="text")
    ring.put_messages(messages)
    for i, tokens in enumerate(totals):
        suffix: MessageRing[Message] = MessageRing(3000, encoding, measure="text")
        suffix.put_messages(messages[i:])
        assert suffix.token_count() == tokens, i
    # Whatever was counted for one limit must not change the answer for another: first as they come, then one by one.
    limits = [limit + initial for tokens in totals for limit in (tokens, tokens - 1) if limit + initial >= 1]
    for limit in limits:
        if limit < initial:
            continue
        expected = messages[window_start(totals, roles, limit, initial) :]
        fresh: MessageRing[Message] = MessageRing(limit, encoding, measure="text")
        fresh.put_messages(messages)
        for window in (
            ring.get(token_limit=limit, initial_token_count=initial),
            fresh.get(initial_token_count=initial),
            fresh.get(initial_token_count=initial, verify=False),
        ):
            assert same_objects(window, expected), (limit, initial)
    assert ring.token_count() == totals[0]


def oracle(encoding: str) -> Total:
    return joined_total(tiktoken_count(tiktoken.get_encoding(encoding)))


ORACLES = {encoding: oracle(encoding) for encoding in ENCODINGS}


@pytest.mark.parametrize("part", range(4))  # for four workers, and so that no part comes near the timeout
@settings(max_examples=examples(1_250, long=5_000))
@given(histories, st.sampled_from((0, 0, 1, 7)))
@example([Message("user", ""), Message("assistant", " "), Message("tool", "\n"), Message("user", "a")], 0)
@example([Message("user", "hello "), Message("assistant", ""), Message("user", " \n"), Message("assistant", " x")], 0)
@example([Message("assistant", " "), Message("tool", "")], 0)
def test_short_histories(part: int, messages: list[Message], initial: int) -> None:
    for encoding, total in ORACLES.items():
        check_history(messages, encoding, total, initial)


@settings(max_examples=examples(200, long=4_000))
@given(long_histories)
def test_long_histories(messages: list[Message]) -> None:
    for encoding, total in ORACLES.items():
        check_history(messages, encoding, total)


@settings(max_examples=examples(500, long=5_000))
@given(
    st.lists(st.tuples(st.lists(messages, max_size=4), st.integers(1, 60)), min_size=1, max_size=8),
    st.sampled_from((None, 1, 2, 3, 5, 9)),
)
def test_a_growing_history(rounds: list[tuple[list[Message], int]], max_messages: int | None) -> None:
    for encoding, total in ORACLES.items():
        ring: MessageRing[Message] = MessageRing(3000, encoding, max_messages=max_messages, measure="text")
        history: list[Message] = []
        for more, limit in rounds:
            ring.put_messages(more)
            history += more
            kept, whole = kept_of(history, max_messages or 1000)
            window = window_of(kept, total, limit, is_whole=whole)
            assert same_objects(ring.get(token_limit=limit), window)


@pytest.mark.parametrize("encoding", sorted(set(TokenCounter.encodings()) - set(ENCODINGS)))
@settings(max_examples=examples(300, long=3_000))
@given(histories)
def test_other_encodings_agree_with_their_own_joined_counts(encoding: str, messages: list[Message]) -> None:
    check_history(messages, encoding, joined_total(TokenCounter(encoding).count))


def words_and_two_ends(text: str) -> list[str]:
    """Tokenize as encoders with a token for the beginning and one for the end do, of an empty text as well."""
    return ["<s>", *text.split(), "</s>"]


@pytest.mark.parametrize("tokenize", [str.split, list, words_and_two_ends])
@settings(max_examples=examples(500, long=5_000))
@given(histories, st.integers(1, 40))
def test_callables_whose_counts_add_up_are_exact(
    tokenize: Callable[[str], list[str]], messages: list[Message], limit: int
) -> None:
    ring: MessageRing[Message] = MessageRing(limit, tokenize, measure="text")
    ring.put_messages(messages)
    joined = joined_total(lambda text: len(tokenize(without_surrogates(text))))
    assert same_objects(ring.get(), window_of(messages, joined, limit))
    assert ring.token_count() == joined([text_of(message.content) for message in messages])


@pytest.mark.parametrize("tokenize", [words_after_a_beginning, words_and_two_ends])
@settings(max_examples=examples(500, long=5_000))
@given(st.one_of(histories, long_histories), st.integers(1, 60))
def test_any_callable_follows_the_accounting_rule(
    tokenize: Callable[[str], list[str]], messages: list[Message], limit: int
) -> None:
    ring: MessageRing[Message] = MessageRing(limit, tokenize, measure="text")
    ring.put_messages(messages)
    total = summed_total(tokenize)
    assert same_objects(ring.get(), window_of(messages, total, limit))
    assert ring.token_count() == total([text_of(message.content) for message in messages])


def test_whole_conversations(history: list[dict[str, Any]]) -> None:
    texts = [text_of(message["content"]) for message in history]
    roles = [str(message["role"]) for message in history]
    for encoding in ENCODINGS:
        count = tiktoken_count(tiktoken.get_encoding(encoding))
        ring: MessageRing[dict[str, object]] = MessageRing(3000, encoding, measure="text")
        ring.put_messages(history)
        # The window is a suffix of the last messages, so the rule needs their totals only; joined, each of them.
        newest = 150
        totals = [count(" ".join(texts[i:])) for i in range(len(texts) - newest, len(texts))]
        limits = sorted({limit for tokens in totals[5:] for limit in (tokens - 1, tokens, tokens + 1)})
        assert limits[0] >= 1
        assert limits[-1] < totals[0]
        for limit in reversed(limits):
            start = next(
                (
                    i
                    for i, tokens in enumerate(totals)
                    if tokens <= limit and (i == newest - 1 or may_start(roles[i - newest]))
                ),
                newest - 1,
            )
            window = ring.get(token_limit=limit)
            assert same_objects(window, history[len(history) - newest + start :]), limit
        assert ring.token_count() == count(" ".join(texts))


def test_a_window_is_a_new_list_of_the_same_objects() -> None:
    messages = [Message("user", "one two three"), Message("assistant", "four"), Message("user", "five")]
    ring: MessageRing[Message] = MessageRing(100, counter="cl100k_base", measure="text")
    ring.put_messages(messages)
    first, second = ring.get(), ring.get()
    assert same_objects(first, messages)
    assert first is not second
    first.clear()
    assert same_objects(ring.get(), messages)
    assert same_objects(ring.get_all(), messages)
    assert same_objects(ring.get(token_limit=1), messages[2:])
    assert len(ring) == 3


def test_the_initial_count_is_spent_before_the_window() -> None:
    messages = [Message("user", word) for word in ("one", " two", " three")]
    ring: MessageRing[Message] = MessageRing(5, counter="cl100k_base", measure="text")
    ring.put_messages(messages)
    total = ORACLES["cl100k_base"]([str(message.content) for message in messages])
    assert same_objects(ring.get(token_limit=total + 4, initial_token_count=4), messages)
    assert same_objects(ring.get(token_limit=total + 4, initial_token_count=5), messages[1:])
    # All is spent: the last message comes whatever it costs, even here.
    assert same_objects(ring.get(initial_token_count=5), messages[2:])
    assert same_objects(ring.get(initial_token_count=-(10**6)), messages)


def test_an_empty_history_has_an_empty_window() -> None:
    ring: MessageRing[Message] = MessageRing(5, counter="cl100k_base", measure="text")
    assert ring.get() == []
    assert ring.get(initial_token_count=5) == []
    assert ring.token_count() == 0


@pytest.mark.parametrize("role", ["assistant", "tool"])
def test_a_long_run_that_may_not_start_a_window(role: str) -> None:
    question = Message("user", "question")
    run = [Message(role, "result") for _ in range(100_000)]
    ring: MessageRing[Message] = MessageRing(50_000, counter="cl100k_base", measure="text")
    ring.put(question)
    ring.put_messages(run)
    assert same_objects(ring.get(), run[-1:])
    assert same_objects(ring.get(token_limit=100_001), [question, *run])
    assert same_objects(ring.get(token_limit=100_000), run[-1:])


@pytest.mark.parametrize("blank", ["", " ", "\n"])
@pytest.mark.parametrize("length", [2, 50, 1_000])
@pytest.mark.parametrize("after", [[], ["word"], ["word", *[""] * 100]])
def test_the_largest_limits_have_all_of_a_history_that_begins_blank(blank: str, length: int, after: list[str]) -> None:
    messages = [Message("user", text) for text in [blank] * length + after]
    ring: MessageRing[Message] = MessageRing(2**63 - 1, "cl100k_base", measure="text")
    ring.put_messages(messages)
    assert ring.token_count() == ORACLES["cl100k_base"]([message.content for message in messages])
    for limit in (2**63 - 1, 2**63 - 8, 2**63 - 9):
        assert same_objects(ring.get(token_limit=limit), messages)
    assert same_objects(ring.get(initial_token_count=-(2**63)), messages)
