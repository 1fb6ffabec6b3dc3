"""Rings that change while they count: by their own counters, by other threads, by eviction, by edits in place.

Nothing here may panic or hang, and every window must be the rule's. `HYPOTHESIS_PROFILE=long` runs 10,000 rings of
three threads, and as many of one.
"""

import contextlib
import faulthandler
import functools
import itertools
import os
import random
from collections.abc import Callable, Iterator, Sized
from typing import Any

import pytest
import tiktoken
from chatring import MessageRing, TokenCounter
from profiles import LONG
from reference import (
    Count,
    Message,
    Total,
    is_whole,
    joined_total,
    kept_of,
    same_objects,
    suffix_totals,
    text_of,
    tiktoken_count,
    window_of,
    window_start,
)
from threads import run_all

RINGS = 10_000 if LONG else 600
LIMITS = (*range(1, 40), 50, 80, 1_000)
ENCODING = tiktoken.get_encoding("cl100k_base")
NATIVE = TokenCounter("cl100k_base")


def cl100k(text: str) -> range:
    """Count as the native encoding does, but in Python, where another thread may come in between."""
    return range(NATIVE.count(text))


COUNTERS: tuple[Callable[[str], Sized], ...] = (cl100k, str.split, list)
# One more than a ring keeps ledgers for, with those above: using them retires another.
OTHERS: tuple[Callable[[str], Sized], ...] = (lambda text: text.split(), lambda text: [*text * 2])
LONG_TEXT = "some words " * 12
# Long ones, so that a small limit counts a part of a ring, and blank ones beside them.
TEXTS = (
    "",
    "",
    "",
    "",
    " ",
    "\n",
    "a question\n",
    "\nnext",
    "one two",
    "word ",
    " x",
    *(LONG_TEXT, "\n" + LONG_TEXT) * 3,
)
# What is asked for: nearly nothing, or all there is.
ASKED = (1, 1, 6, 20, 1_000, 1_000)
ROLES = ("user", "assistant", "tool", "assistant")


@pytest.fixture
def alive() -> Iterator[Callable[[], None]]:
    """End the process if nothing is done for ten minutes: a thread that spins with the GIL held cannot be timed out."""
    stderr = os.dup(2)

    def alive() -> None:
        faulthandler.dump_traceback_later(600, exit=True, file=stderr)

    alive()
    yield alive
    faulthandler.cancel_dump_traceback_later()
    os.close(stderr)


def some_message(rng: random.Random) -> Message:
    return Message(rng.choice(ROLES), rng.choice(TEXTS))


def some_messages(rng: random.Random, most: int) -> list[Message]:
    return [some_message(rng) for _ in range(rng.randrange(most + 1))]


def change(ring: MessageRing[Message], rng: random.Random, counter: Any) -> None:
    """Do one thing to a ring that what is being counted may depend on."""
    match rng.randrange(14):
        case 0 | 1:
            ring.put(some_message(rng))
        case 2 | 3:
            ring.put_messages(some_messages(rng, 5))  # may evict all that is being counted
        case 4 | 5 | 6:
            messages = ring.get_all()
            for message in rng.sample(messages, min(2, len(messages))):
                message.content = rng.choice(TEXTS)
        case 7:
            ring.get(counter=counter, token_limit=rng.choice(ASKED))
        case 8:
            for other in (*COUNTERS, *OTHERS):
                ring.get(counter=other, token_limit=rng.choice((1, 20)))
        case 9:
            ring.recount()
        case 10:
            ring.set(ring.get_all()[rng.randrange(2) :])
        case 11:
            ring.token_count(counter=counter)
        case 12:
            if rng.random() < 0.3:
                ring.reset()
            ring.put_messages(some_messages(rng, 3))
        case _:
            with contextlib.suppress(IndexError):
                ring.delete(rng.randrange(-3, 3))
                ring.pop()


def assert_right(ring: MessageRing[Message], counter: Callable[[str], Sized]) -> None:
    """Check every window of a ring that rests. The first one has all messages, so that every edit is looked for."""
    messages = ring.get_all()
    totals = suffix_totals(messages, joined_total(lambda text: len(counter(text))))
    assert ring.token_count(counter=counter) == (totals[0] if totals else 0)
    roles = [message.role for message in messages]
    for limit in LIMITS if messages else ():
        window = ring.get(counter=counter, token_limit=limit)
        assert same_objects(window, messages[window_start(totals, roles, limit, is_whole=is_whole(ring)) :]), (
            limit,
            messages,
        )


# --- one thread


class Stop(Exception):  # noqa: N818
    """A counter's own error."""


class Interrupting:
    """Counts as another counter does; some of the calls do something to the ring before, or raise."""

    def __init__(self, counter: Callable[[str], Sized], rng: random.Random) -> None:
        self.counter, self.rng = counter, rng
        self.ring: MessageRing[Message] | None = None
        self.depth = 0

    def __call__(self, text: str) -> Sized:
        if self.ring is not None and self.depth < 2 and self.rng.random() < 0.3:
            if self.rng.random() < 0.1:
                raise Stop
            self.depth += 1
            try:
                change(self.ring, self.rng, self)
            finally:
                self.depth -= 1
        return self.counter(text)


def test_a_counter_that_changes_its_ring_at_random(alive: Callable[[], None]) -> None:
    for seed in range(RINGS):
        alive()
        rng = random.Random(seed)
        counter = Interrupting(rng.choice(COUNTERS), rng)
        ring: MessageRing[Message] = MessageRing(
            20, counter, max_messages=rng.choice((None, 1, 2, 3, 4, 8)), measure="text"
        )
        ring.put_messages(some_messages(rng, 10))
        counter.ring = ring
        for _ in range(rng.randrange(1, 12)):
            with contextlib.suppress(Stop):
                change(ring, rng, counter)
        counter.ring = None
        assert_right(ring, counter)
        for other in COUNTERS:
            assert_right(ring, other)


def expected_window(put: list[Message], bound: int, total: Total, limit: int) -> list[Message]:
    """Return the window of a bounded ring into which messages were put one by one."""
    kept, whole = kept_of(put, bound)
    return window_of(kept, total, limit, is_whole=whole)


class Once:
    """Counts words; the call that is armed does something before."""

    action: Callable[[], object] | None = None

    def __call__(self, text: str) -> list[str]:
        action, self.action = self.action, None
        if action:
            action()
        return text.split()


def test_all_that_is_being_counted_is_evicted() -> None:
    counter = Once()
    ring: MessageRing[Message] = MessageRing(3, counter, max_messages=3, measure="text")
    ring.put_messages([Message("user", ""), Message("tool", "x " * 20), Message("user", "q")])
    assert len(ring.get()) == 1
    ring.recount()
    counter.action = lambda: ring.put_messages([Message("user", f"new {number}") for number in range(3)])
    assert same_objects(ring.get(token_limit=1_000), ring.get_all())
    assert counter.action is None
    assert_right(ring, counter)


@pytest.mark.parametrize("blank", ["", " ", "word"])
def test_the_counts_are_forgotten_while_older_messages_are_counted(blank: str) -> None:
    counter = Once()
    messages = [Message("user", "one two three four five") for _ in range(5)]
    messages += [
        Message("user", blank),
        Message("assistant", "x " * 20),
        Message("user", "q q"),
        Message("tool", "a a"),
    ]
    ring: MessageRing[Message] = MessageRing(6, counter, measure="text")
    ring.put_messages(messages)
    assert len(ring.get()) == 2

    def stop() -> None:
        raise Stop

    def forget() -> None:
        messages[7].content = "changed"
        counter.action = stop
        with pytest.raises(Stop):
            ring.get()

    counter.action = forget
    assert same_objects(ring.get(token_limit=1_000), messages)
    assert_right(ring, counter)


def test_the_word_after_blank_messages_changes_while_they_are_counted() -> None:
    counter = Once()
    ring: MessageRing[Message] = MessageRing(1_000, counter, measure="text")
    ring.put_messages([Message("user", "first"), *(Message("user", "") for _ in range(3))])
    ring.get()
    word = Message("user", "one")
    ring.put(word)

    def edit() -> None:
        word.content = "one two three"
        ring.get(token_limit=1)

    for _ in range(8):  # whichever of the calls it is
        word.content = "one"
        counter.action = edit
        ring.get()
        assert_right(ring, counter)


def test_the_ledger_is_retired_and_begun_anew_while_it_is_counted_for() -> None:
    counter = Once()
    ring: MessageRing[Message] = MessageRing(4, counter, measure="text")
    messages = [Message("user", "one two three four five") for _ in range(5)]
    messages += [Message("user", ""), Message("assistant", "x " * 20), Message("user", "four five")]
    ring.put_messages(messages)
    assert len(ring.get()) == 1

    def retire() -> None:
        messages[-2].content = "three and more"
        for other in (*COUNTERS, *OTHERS):
            ring.get(counter=other)
        ring.get(token_limit=2)

    counter.action = retire
    assert len(ring.get(token_limit=100)) == 8
    assert counter.action is None
    assert_right(ring, counter)


def test_a_content_that_is_another_at_each_access_has_a_window_all_the_same() -> None:
    class Restless:
        role = "user"
        reads = itertools.count()

        @property
        def content(self) -> str:
            ring.put(Message("user", ""))
            return ("", "one two", " ", "three\n")[next(self.reads) % 4]

    ring: MessageRing[Any] = MessageRing(1_000, str.split, max_messages=4, measure="text")
    for limit in (0, 1, 5, 1_000):
        ring.put_messages([Restless() for _ in range(4)])
        window = ring._window(limit, ring.counter)
        assert 1 <= len(window) <= 4


@pytest.mark.parametrize("allowance", [-1, -9, -(2**63)])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_negative_allowance_is_refused(alive: Callable[[], None], allowance: int, length: int) -> None:
    ring: MessageRing[Message] = MessageRing(10, counter="cl100k_base", measure="text")
    ring.put_messages([Message("user", "hello") for _ in range(length)])
    with pytest.raises(ValueError, match=f"^the allowance of a window must be at least 0 tokens, got {allowance}$"):
        ring._window(allowance, ring.counter)
    assert len(ring._window(0, ring.counter)) == min(length, 1)


# --- three threads


@pytest.mark.usefixtures("hectic")
def test_three_threads_change_a_small_ring_and_count_it(alive: Callable[[], None]) -> None:
    for seed in range(RINGS):
        alive()
        rng = random.Random(seed)
        counter = rng.choice(COUNTERS)
        ring: MessageRing[Message] = MessageRing(
            20, counter, max_messages=rng.choice((None, 2, 3, 4, 5, 8)), measure="text"
        )
        ring.put_messages(some_messages(rng, 10))

        def work(seed: int, ring: MessageRing[Message] = ring, counter: Any = counter) -> None:
            rng = random.Random(seed)
            for _ in range(12):
                ring.get(counter=counter, token_limit=rng.choice(ASKED))
                change(ring, rng, counter)

        run_all(*(functools.partial(work, 3 * seed + part) for part in range(3)))
        for each in (counter, *COUNTERS):
            assert_right(ring, each)


@pytest.mark.usefixtures("hectic")
def test_windows_got_while_others_put_are_windows_of_one_moment(alive: Callable[[], None]) -> None:
    for seed in range(RINGS // 5):
        alive()
        rng = random.Random(seed)
        counter, bound = rng.choice(COUNTERS), rng.choice((3, 5, 8))
        ring: MessageRing[Message] = MessageRing(20, counter, max_messages=bound, measure="text")
        coming = [some_message(rng) for _ in range(60)]
        windows: list[tuple[int, list[Message]]] = []

        def put(ring: MessageRing[Message] = ring, coming: list[Message] = coming) -> None:
            for message in coming:
                ring.put(message)

        def get(ring: MessageRing[Message] = ring, found: list[tuple[int, list[Message]]] = windows) -> None:
            found.extend((limit, ring.get(token_limit=limit)) for limit in (20, 3, 1_000, 9) * 6)

        run_all(put, get, get)
        places = {id(message): place for place, message in enumerate(coming)}
        total = joined_total(lambda text, counter=counter: len(counter(text)))  # type: ignore[misc]
        for limit, window in windows:
            if window:
                end = places[id(window[-1])] + 1
                assert same_objects(window, expected_window(coming[:end], bound, total, limit))
        assert_right(ring, counter)


@pytest.mark.usefixtures("hectic")
def test_native_counts_of_long_texts_while_others_evict_and_edit(alive: Callable[[], None]) -> None:
    # Long enough that the GIL is released, so that others come in between without any Python being run.
    long = "the quick brown fox jumps over the lazy dog " * 400
    for seed in range(RINGS // 50):
        alive()
        rng = random.Random(seed)
        ring: MessageRing[Message] = MessageRing(
            5_000, max_messages=rng.choice((None, 3, 5)), counter="cl100k_base", measure="text"
        )
        edited = [Message("user", ""), Message("tool", long), Message("user", "a question\n")]
        ring.put_messages([*(Message("user", f"{number} {long}") for number in range(3)), *edited])

        def count(ring: MessageRing[Message] = ring) -> None:
            for _ in range(3):
                ring.token_count()

        def edit(ring: MessageRing[Message] = ring, edited: list[Message] = edited, rng: random.Random = rng) -> None:
            for _ in range(6):
                edited[rng.randrange(3)].content = rng.choice(("", "\nedited", long))
                ring.get(token_limit=rng.choice((5, 5_000)))

        def put(ring: MessageRing[Message] = ring, rng: random.Random = rng) -> None:
            for _ in range(4):
                ring.put_messages([Message("user", rng.choice(("", long, "word")))] * rng.randrange(1, 4))
                ring.get(token_limit=100)

        run_all(count, edit, put)
        messages = ring.get_all()
        total = joined_total(tiktoken_count(ENCODING))
        assert ring.token_count() == total([text_of(message.content) for message in messages])
        totals = suffix_totals(messages, total)
        for limit in (5, 4_000, 5_000, 20_000, 40_000):
            start = window_start(totals, [message.role for message in messages], limit, is_whole=is_whole(ring))
            assert same_objects(ring.get(token_limit=limit), messages[start:])


# --- edits just outside what is counted


OUTSIDE = ("a question\n", "a question", "a question ", "a question \n", "", "\n", "  ", "edited\n")
NEXT = ("next", "\nnext", "  next", "\n\n next", " ", "", "\n\nnext message of some length")
COUNT: Count = tiktoken_count(ENCODING)


def keep(ring: MessageRing[Message]) -> None:
    pass


def set_again(ring: MessageRing[Message]) -> None:
    ring.set(ring.get_all())


def get_and_set_again(ring: MessageRing[Message]) -> None:
    ring.get()
    ring.set(ring.get_all())


def evict(ring: MessageRing[Message]) -> None:
    ring.put(Message("assistant", "one more"))
    ring.get()


def delete_between(ring: MessageRing[Message]) -> None:
    ring.delete(-2)
    ring.get()


def pop_and_put(ring: MessageRing[Message]) -> None:
    ring.pop()
    ring.put(Message("user", "another last"))


@pytest.mark.parametrize("counter", ["cl100k_base", cl100k])
@pytest.mark.parametrize("then", [keep, set_again, get_and_set_again, evict, delete_between, pop_and_put])
def test_the_message_before_those_counted_is_edited(counter: Any, then: Callable[[MessageRing[Message]], None]) -> None:
    total = joined_total(COUNT)
    for old, new, second in itertools.product(OUTSIDE, OUTSIDE, NEXT):
        messages = [Message("user", old), Message("user", second + " words" * 30), Message("user", "last")]
        ring: MessageRing[Message] = MessageRing(10, counter, max_messages=4, measure="text")
        ring.put_messages([Message("user", "oldest"), *messages])
        assert len(ring.get()) == 1  # the second is counted, after the one that is edited now
        messages[0].content = new
        then(ring)
        now = ring.get_all()
        totals = suffix_totals(now, total)
        assert ring.token_count() == totals[0], (old, new, second)
        for tokens in totals:
            for limit in {max(1, tokens - 1), max(1, tokens)}:
                start = window_start(totals, [message.role for message in now], limit, is_whole=is_whole(ring))
                assert same_objects(ring.get(token_limit=limit), now[start:]), (old, new, second)


@pytest.mark.parametrize("counter", ["cl100k_base", cl100k])
def test_the_first_message_after_an_eviction_was_edited(counter: Any) -> None:
    # The oldest message that stays is counted again as the history's first, with the text that it has by then.
    total = joined_total(COUNT)
    for old, new, second in itertools.product(OUTSIDE, OUTSIDE, NEXT):
        messages = [
            Message("user", "oldest"),
            Message("assistant", old),
            Message("user", second + " words" * 30),
            Message("user", "last"),
        ]
        ring: MessageRing[Message] = MessageRing(10, counter, max_messages=4, measure="text")
        ring.put_messages(messages)
        ring.token_count()
        messages[1].content = new
        ring.put(Message("user", "newest"))
        ring.get()
        now = ring.get_all()
        totals = suffix_totals(now, total)
        for limit in range(max(1, totals[0] - 2), totals[0] + 3):
            start = window_start(totals, [message.role for message in now], limit, is_whole=is_whole(ring))
            assert same_objects(ring.get(token_limit=limit), now[start:]), (old, new, second)
        assert ring.token_count() == totals[0]


@pytest.mark.parametrize("counter", ["cl100k_base", cl100k])
def test_an_edit_is_taken_back_after_it_was_counted(counter: Any) -> None:
    total = joined_total(COUNT)
    for old, new, second in itertools.product(OUTSIDE, OUTSIDE, NEXT):
        edited = Message("assistant", old)
        ring: MessageRing[Message] = MessageRing(10, counter, max_messages=4, measure="text")
        ring.put_messages([Message("user", "oldest"), edited, Message("user", second + " words" * 30)])
        ring.put(Message("user", "last"))
        ring.get()
        edited.content = new
        ring.token_count()
        edited.content = old
        ring.put(Message("user", "newest"))  # the one edited is now the first
        assert ring.token_count() == total([text_of(message.content) for message in ring]), (old, new, second)


@pytest.mark.parametrize("counter", ["cl100k_base", cl100k])
@pytest.mark.parametrize("older", [0, 1, 2])
def test_an_edit_is_taken_back_after_others_were_counted(counter: Any, older: int) -> None:
    # What is counted next may depend on how the edited message ends, which then says again what was counted of it.
    total = joined_total(COUNT)
    for old, new, second in itertools.product(OUTSIDE, OUTSIDE, NEXT):
        edited = Message("user", old)
        ring: MessageRing[Message] = MessageRing(10, counter, measure="text")
        ring.put_messages([*(Message("user", "oldest words") for _ in range(older)), edited])
        ring.token_count()
        edited.content = new
        ring.put_messages([Message("user", second + " words" * 30), Message("user", "last")])
        ring.get()
        edited.content = old
        assert ring.token_count() == total([text_of(message.content) for message in ring]), (old, new, second)


@pytest.mark.parametrize("counter", ["cl100k_base", cl100k])
def test_the_first_message_counted_is_edited(counter: Any) -> None:
    # It is counted again with the older ones, and what was counted after it may depend on how it ends.
    total = joined_total(COUNT)
    for old, new, second in itertools.product(OUTSIDE, OUTSIDE, NEXT):
        edited = Message("user", "filler " * 30 + old)
        ring: MessageRing[Message] = MessageRing(10, counter, measure="text")
        ring.put_messages(
            [Message("user", "oldest"), edited, Message("user", second + " word"), Message("user", "last")]
        )
        assert len(ring.get()) <= 2
        edited.content = "filler " * 30 + new
        assert ring.token_count() == total([text_of(message.content) for message in ring]), (old, new, second)


def test_random_edits_are_in_the_counts_once_a_window_has_them(alive: Callable[[], None]) -> None:
    texts = ("a question\n", "a question ", "", "", "\n", "next\n", "\nnext", "  next", " x ", "x" * 200, "\n" * 70)
    blank = ("", " ", "\n", " " * 65)
    for seed in range(3 * RINGS):
        alive()
        rng = random.Random(seed)
        ring: MessageRing[Message] = MessageRing(
            10, NATIVE, max_messages=rng.choice((None, None, 3, 5, 20)), measure="text"
        )
        before: dict[int, str] = {}
        for _ in range(rng.randrange(2, 14)):
            messages = ring.get_all()
            match rng.randrange(8):
                case 0 | 1 | 2:
                    some = blank if rng.random() < 0.3 else texts
                    more = rng.choice((1, 2, 3, 3, 12, 40))
                    ring.put_messages([Message(rng.choice(ROLES), rng.choice(some)) for _ in range(more)])
                case 3 | 4 | 5 if messages:
                    message = rng.choice(messages)
                    text = before.get(id(message), "") if rng.random() < 0.4 else rng.choice(texts)
                    before[id(message)], message.content = message.content, text
                case 6 if messages:
                    ring.delete(rng.randrange(len(messages)))
                case _:
                    ring.get(token_limit=rng.choice((1, 1, 4, 6, 10, 20, 40, 80, 1_000, 2**63 - 1)))
        assert_right(ring, cl100k)


def test_texts_that_end_in_a_word_are_counted_once() -> None:
    # What comes before them makes no difference then. Only the first one counted is counted again each time that the
    # search goes on with older messages, as nobody has checked since what comes before it.
    counted: list[str] = []

    def counter(text: str) -> list[str]:
        counted.append(text)
        return text.split()

    ring: MessageRing[Message] = MessageRing(10, counter, measure="text")
    ring.put_messages([Message("user", f"message {number} of six words {number}") for number in range(100)])
    limits = (10, 40, 100, 300, 1_000)
    for limit in limits:
        ring.get(token_limit=limit)
    texts = [text for text in counted if text.startswith("message")]
    assert len(set(texts)) == 100
    assert len(texts) <= 100 + len(limits)
    assert len(counted) <= 201 + 2 * len(limits)
