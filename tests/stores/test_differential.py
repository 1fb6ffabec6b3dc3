"""Every store gives the windows of a ring of the same history, and the ring those of the naive reference.

An example is a history of changes, made through two stores on the same data. After each change the whole session is
compared, and windows under limits at which they begin to differ: the tokens of a suffix, or one more or less. An
everyday run makes 80 examples, some 1,500 comparisons of windows, with each store and counter; one with
`HYPOTHESIS_PROFILE=long` fifty times as many.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import tiktoken
from chatring import MessageRing
from chatring.stores import Record, open_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import LONG, examples
from reference import (
    Total,
    blank_texts,
    fragments,
    joined_total,
    roles,
    suffix_totals,
    summed_total,
    texts,
    tiktoken_count,
    window_start,
    without_surrogates,
    words_after_a_beginning,
)

WINDOWS_PER_CHANGE = 4


class Change(NamedTuple):
    """What is done to a session. A place stands for the one it is modulo the session's length."""

    kind: str
    records: list[Record]
    place: int
    by_second: bool
    limits: list[tuple[int, int, int]]


# Half the texts are such that what stands before or after them matters.
record_texts = st.one_of(texts, fragments, blank_texts, blank_texts, fragments.map(lambda text: text + " "))
records = st.builds(Record, roles, record_texts, st.one_of(st.none(), st.binary(max_size=3)))
changes = st.builds(
    Change,
    kind=st.sampled_from(
        ("append one", "append one", "append", "append", "pop", "pop", "replace", "delete", "recount")
    ),
    records=st.lists(records, max_size=6),
    place=st.integers(-50, 50),
    by_second=st.booleans(),
    # Which suffix, how many tokens more than it has, and how many tokens are spent already.
    limits=st.lists(
        st.tuples(st.integers(0, 50), st.integers(-1, 1), st.sampled_from((0, 0, 0, 5))),
        min_size=WINDOWS_PER_CHANGE,
        max_size=WINDOWS_PER_CHANGE,
    ),
)
numbers = itertools.count()


def odd_counts(text: str) -> list[int]:
    """Count so that a window's tokens may be far more or less than those of its parts."""
    return [0] * (sum(map(ord, without_surrogates(text))) % 7 + (5 if text.startswith(" ") else 0))


def apply(change: Change, key: str, store: Any, ring: MessageRing[Record]) -> None:
    match change.kind:
        case "append one":
            store.append(key, change.records[:1])
            ring.put_messages(change.records[:1])
        case "append":
            store.append(key, change.records)
            ring.put_messages(change.records)
        case "replace":
            store.replace(key, change.records)
            ring.set(change.records)
        case "delete":
            store.delete(key)
            ring.reset()
        case "recount":
            store.recount(key)
        case "pop" if len(ring):
            index = change.place % (2 * len(ring)) - len(ring)
            assert store.pop(key, index) == ring.delete(index)
        case "pop":
            with pytest.raises(IndexError):
                store.pop(key, change.place)


def check(change: Change, key: str, store: Any, ring: MessageRing[Record], total: Total) -> None:
    history = ring.get_all()
    assert store.all(key) == history
    assert store.length(key) == len(history)
    totals = suffix_totals(history, total)  # type: ignore[arg-type] # of anything that has a content
    assert store.token_count(key) == ring.token_count()
    if history:
        assert ring.token_count() == totals[0]
    for suffix, more, initial in change.limits:
        limit = max(totals[suffix % len(totals)] + more if totals else more, 1)
        window = store.window(key, limit + initial, initial)
        assert window == ring.get(token_limit=limit + initial, initial_token_count=initial), limit
        if history:
            assert window == history[window_start(totals, [role for role, _, _ in history], limit) :], limit


def compare(url: str, counter: Any, name: str | None, total: Callable[[], Total]) -> None:
    first = open_store(url, counter=counter, counter_name=name)
    # What is in memory has one store only.
    second = first if url == "memory://" else open_store(url, counter=counter, counter_name=name)

    @settings(max_examples=examples(80, long=4_000), suppress_health_check=list(HealthCheck))
    @given(st.lists(changes, min_size=1, max_size=12 if LONG else 8))
    def run(history: list[Change]) -> None:
        key = f"session {next(numbers)}"
        ring: MessageRing[Record] = MessageRing(counter=counter, measure="text")
        for change in history:
            apply(change, key, second if change.by_second else first, ring)
            check(change, key, first if change.by_second else second, ring, total())
        first.delete(key)

    run()
    first.close()
    second.close()


@pytest.fixture
def fast_url(store_url: str) -> str:
    """The URL of a store that need not survive a power cut."""
    return f"{store_url}?synchronous=OFF" if store_url.startswith("sqlite") else store_url


@pytest.mark.timeout(3600 if LONG else 300)
def test_cl100k_base(fast_url: str, cl100k: tiktoken.Encoding) -> None:
    compare(fast_url, "cl100k_base", None, lambda: joined_total(tiktoken_count(cl100k)))


@pytest.mark.timeout(3600 if LONG else 300)
def test_o200k_base(fast_url: str, o200k: tiktoken.Encoding) -> None:
    compare(fast_url, "o200k_base", None, lambda: joined_total(tiktoken_count(o200k)))


@pytest.mark.timeout(3600 if LONG else 300)
def test_a_callable_that_begins_each_text(fast_url: str) -> None:
    compare(fast_url, words_after_a_beginning, "words", lambda: summed_total(words_after_a_beginning))


@pytest.mark.timeout(3600 if LONG else 300)
def test_a_callable_whose_counts_do_not_add_up(fast_url: str) -> None:
    compare(fast_url, odd_counts, "odd", lambda: summed_total(odd_counts))
