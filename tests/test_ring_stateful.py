"""Any sequence of calls on one ring, under every measure, against a plain list and the window rule."""

import copy
import functools
import pickle
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

import tiktoken
from chatring import MessageRing, TokenCounter
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from profiles import LONG, examples
from reading import Envelope, Envelopes, read
from reference import (
    Count,
    Measure,
    Message,
    Total,
    any_messages,
    blank_texts,
    contents,
    edit,
    first_fit,
    joined_total,
    may_start,
    message_measure,
    messages,
    ordinary_count,
    roles,
    same_objects,
    summed_total,
    sums,
    text_of,
    tiktoken_count,
    without_surrogates,
    words_after_a_beginning,
)


def joined_by(tokenize: Callable[[str], Sized]) -> Total:
    return joined_total(lambda text: len(tokenize(without_surrogates(text))))


def remembered(count: Count) -> Count:
    return functools.lru_cache(maxsize=100_000)(count)


O200K = tiktoken.get_encoding("o200k_base")
# More counters than a ring keeps ledgers for, and what counts joined texts as they do.
COUNTERS: dict[str, tuple[Any, Total]] = {
    "cl100k_base": ("cl100k_base", joined_total(remembered(tiktoken_count(tiktoken.get_encoding("cl100k_base"))))),
    "o200k_base": (O200K, joined_total(remembered(tiktoken_count(O200K)))),
    "gpt2": (TokenCounter("gpt2"), joined_total(remembered(TokenCounter("gpt2").count))),
    "str.split": (str.split, joined_by(str.split)),
    "list": (list, joined_by(list)),
    "words_after_a_beginning": (words_after_a_beginning, summed_total(words_after_a_beginning)),
}
# What counts a text of a message as they do, under other measures.
GPT2: MessageRing[Any] = MessageRing(counter="gpt2")
TEXT_COUNTS: dict[str, Count] = {
    "cl100k_base": remembered(ordinary_count(tiktoken.get_encoding("cl100k_base"))),
    "o200k_base": remembered(ordinary_count(O200K)),
    "gpt2": remembered(lambda text: GPT2.count({"role": "user", "content": text}) - 4),
    "str.split": lambda text: len(text.split()),
    "list": len,
    "words_after_a_beginning": lambda text: len(words_after_a_beginning(text)),
}
counters = st.sampled_from(sorted(COUNTERS))
limits = st.one_of(st.integers(1, 12), st.integers(1, 150), st.just(3000))
initials = st.sampled_from((0, 0, 0, 1, 5))
indices = st.integers(-20, 20)


def opened(message: Any) -> Any:
    return message.message if isinstance(message, Envelope) else message


def some_tokens(message: Any) -> int:
    """Measure a message in the caller's own way: many have no tokens."""
    return sum(map(len, read(message).texts)) // 3


@dataclass
class Kind:
    """A measure and a format of rings."""

    measure: Any = "message"
    format: Any = None
    # Whether edits in place are seen in the window, or not before `recount`.
    verified: bool = True

    def tokens(self, counter: str) -> Measure:
        """Return what a message costs, if that is the same at every position."""
        if callable(self.measure):
            return some_tokens
        plain = self.format if isinstance(self.format, str) else "openai-chat"
        measure = message_measure(TEXT_COUNTS[counter], plain)
        return lambda message: measure(opened(message))


KINDS = {
    "text": Kind("text"),
    "message": Kind(),
    "message of Gemini": Kind(format="gemini"),
    "message in an envelope": Kind(format=Envelopes(), verified=False),
    "callable": Kind(some_tokens, verified=False),
}


def messages_of(machine: "RingMachine") -> st.SearchStrategy[Any]:
    if machine.kind.measure == "text":
        return messages
    return st.builds(Envelope, any_messages) if isinstance(machine.kind.format, Envelopes) else any_messages


any_message = st.runner().flatmap(messages_of)


class RingMachine(RuleBasedStateMachine):
    @initialize(
        kind=st.sampled_from(sorted(KINDS)),
        max_messages=st.sampled_from((None, None, 1, 2, 3, 7, 20)),
        counter=counters,
        limit=limits,
    )
    def start(self, kind: str, max_messages: int | None, counter: str, limit: int) -> None:
        # test_window_rule.py compares what bounded rings keep, where tokens add up, with the design.
        max_messages = max_messages if KINDS[kind].measure == "text" else None
        self.kind, self.own, self.limit, self.max_messages = KINDS[kind], counter, limit, max_messages
        self.ring: MessageRing[Any] = MessageRing(
            limit,
            COUNTERS[counter][0],
            max_messages=max_messages,
            measure=self.kind.measure,
            start_on=None,
            include_system=False,
            format=self.kind.format,
        )
        # Whether no message has left for others; and the last one that has, if nothing has come since.
        self.whole = True
        self.gone: tuple[str, bool] | None = None
        self.model: list[Any] = []
        # Whether a window may begin with each: known when it is put.
        self.starts: list[bool] = []
        # The counters whose counts may be of texts that have changed since, where get() did not look.
        self.stale: set[str] = set()

    def may_start(self, message: Any) -> bool:
        return may_start(message.role) if self.kind.measure == "text" else read(opened(message)).may_start

    def add(self, more: Iterable[Any]) -> None:
        for message in more:
            self.model.append(message)
            self.starts.append(self.may_start(message))
            if len(self.model) == 1 and self.gone is not None:
                self.take_left_over(self.gone)
            while self.max_messages is not None and len(self.model) > self.max_messages:
                self.evict()

    def evict(self) -> None:
        """Take out the oldest message, and what needs it."""
        gone = self.take_oldest()
        if gone[0] == "system" and self.kind.measure != "text":
            return  # of the head
        self.whole = False
        self.take_left_over(gone)

    def take_left_over(self, gone: tuple[str, bool]) -> None:
        """Take out the oldest messages that need the one that is gone."""
        while self.model:
            kind, _ = self.outline(self.model[0])
            in_step = kind == "assistant" and gone == ("assistant", True)
            if not (kind == "tool" or in_step or (kind == "system" and self.kind.measure != "text")):
                self.gone = None
                return
            gone = self.take_oldest()
        self.gone = gone

    def take_oldest(self) -> tuple[str, bool]:
        self.starts.pop(0)
        return self.outline(self.model.pop(0))

    def outline(self, message: Any) -> tuple[str, bool]:
        if self.kind.measure != "text":
            reading = read(opened(message))
            return reading.kind, reading.continues
        return message.role if message.role == "tool" else "other", False

    def recount_if_stale(self, counter: str) -> None:
        if counter in self.stale:
            self.recount()

    def totals(self, counter: str, newest: int | None = None) -> list[int]:
        """Return T(i) for every one of the messages, or of the newest."""
        model = self.model if newest is None else self.model[-newest:]
        if self.kind.measure == "text":
            texts, total = [text_of(message.content) for message in model], COUNTERS[counter][1]
            return [total(texts[i:]) for i in range(len(texts))]
        measure = self.kind.tokens(counter)
        return sums([measure(message) for message in model])

    def expected(self, counter: str, limit: int) -> list[Any]:
        whole = self.whole or self.kind.measure != "text"
        start = first_fit(self.totals(counter), self.starts, limit, is_whole=whole) if self.model else 0
        return self.model[start:]

    def check_window(self, counter: str, limit: int, initial: int = 0, *, verify: bool = True) -> list[Any]:
        self.recount_if_stale(counter)
        source = COUNTERS[counter][0]
        window = self.ring.get(counter=source, token_limit=limit + initial, initial_token_count=initial, verify=verify)
        assert same_objects(window, self.expected(counter, limit))
        return window

    @rule(message=any_message)
    def put(self, message: Any) -> None:
        self.ring.put(message)
        self.add([message])

    @rule(more=st.lists(any_message, max_size=9), as_iterator=st.booleans())
    def put_messages(self, more: list[Any], as_iterator: bool) -> None:
        self.ring.put_messages(iter(more) if as_iterator else more)
        self.add(more)

    @rule(more=st.lists(any_message, min_size=15, max_size=30))
    def put_many(self, more: list[Any]) -> None:
        self.put_messages(more, as_iterator=False)

    @rule(more=st.lists(st.builds(Message, roles, blank_texts), min_size=1, max_size=4))
    def put_blanks(self, more: list[Message]) -> None:
        self.put_messages(
            [Envelope(message) for message in more] if isinstance(self.kind.format, Envelopes) else more,
            as_iterator=False,
        )

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 100))
    def put_again(self, index: int) -> None:
        self.put(self.model[index % len(self.model)])

    @rule(new=st.lists(any_message, max_size=9))
    def set(self, new: list[Any]) -> None:
        self.ring.set(new)
        self.model, self.starts, self.whole, self.gone = [], [], True, None
        self.add(new)

    @rule(keep=st.integers(0, 30), without=st.sampled_from((0, 0, 1, 2)), new=st.lists(any_message, max_size=3))
    def set_what_begins_alike(self, keep: int, without: int, new: list[Any]) -> None:
        self.set(self.model[without:keep] + new)

    @rule()
    def set_to_its_own_window(self) -> None:
        self.ring.set(self.ring)
        self.whole, self.gone = True, None
        assert same_objects(self.ring.get_all(), self.model)

    @rule()
    def pop(self) -> None:
        if self.model:
            self.starts.pop()
            assert self.ring.pop() is self.model.pop()
        else:
            assert_index_error(self.ring.pop)

    @rule(index=indices)
    def delete(self, index: int) -> None:
        if -len(self.model) <= index < len(self.model):
            self.starts.pop(index)
            assert self.ring.delete(index) is self.model.pop(index)
        else:
            assert_index_error(lambda: self.ring.delete(index))

    @rule()
    def reset(self) -> None:
        self.ring.reset()
        self.whole, self.gone = True, None
        self.model.clear()
        self.starts.clear()

    @rule()
    def recount(self) -> None:
        self.ring.recount()
        self.starts = [self.may_start(message) for message in self.model]
        self.stale.clear()

    @rule(how=st.sampled_from(("copy", "deepcopy", "pickle")))
    def go_on_with_a_copy(self, how: str) -> None:
        if how == "copy":
            self.ring = copy.copy(self.ring)
            return
        other = copy.deepcopy(self.ring) if how == "deepcopy" else pickle.loads(pickle.dumps(self.ring))
        assert len(other) == len(self.model)
        for message, copied in zip(self.model, other, strict=True):
            assert copied is not message
            assert read(opened(copied)) == read(opened(message))
        # What is copied has no counts, and every outline.
        self.ring, self.model = other, other.get_all()
        self.stale.clear()

    @rule(counter=counters, limit=limits, initial=initials, verify=st.booleans())
    def get(self, counter: str, limit: int, initial: int, verify: bool) -> None:
        self.check_window(counter, limit, initial, verify=verify)

    @rule()
    def get_with_the_rings_own(self) -> None:
        self.recount_if_stale(self.own)
        assert same_objects(self.ring.get(), self.expected(self.own, self.limit))

    @rule(counter=counters, back=st.integers(0, 30), less=st.integers(-1, 1))
    def get_at_an_exact_limit(self, counter: str, back: int, less: int) -> None:
        limit = self.totals(counter, back + 1)[0] - less if self.model else 0
        if limit >= 1:
            self.check_window(counter, limit)

    @rule(counter=counters)
    def token_count(self, counter: str) -> None:
        self.recount_if_stale(counter)
        expected = self.totals(counter)[0] if self.model else 0
        assert self.ring.token_count(counter=COUNTERS[counter][0]) == expected

    @precondition(lambda self: self.model)
    @rule(
        counter=counters,
        limit=limits,
        changes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), contents), min_size=1, max_size=3),
    )
    def change_the_window(self, counter: str, limit: int, changes: list[tuple[int, int, Any]]) -> None:
        window = self.check_window(counter, limit)
        for back, which, content in changes:
            message = window[-1 - back % len(window)]
            if self.kind.measure != "text":
                edit(opened(message), which, content)
            elif isinstance(message.content, list):
                message.content.append("one part more")
            else:
                message.content = content
        if self.kind.measure != "text":
            # Not looked at, or not to be looked at: the window is as it was counted.
            source = COUNTERS[counter][0]
            assert same_objects(self.ring.get(counter=source, token_limit=limit, verify=False), window)
        if not self.kind.verified:
            assert same_objects(self.ring.get(counter=source, token_limit=limit), window)
            self.stale = {*COUNTERS}
            return
        # Every other counter may have a window in which the message is not.
        self.stale = {*COUNTERS} - {counter}
        # So may this one, if a message is there twice and once outside the window.
        if sum(any(message is changed for changed in window) for message in self.model) > len(window):
            self.stale.add(counter)
        self.check_window(counter, limit)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 100), which=st.integers(0, 40), role=roles, content=contents)
    def change_anywhere_and_recount(self, index: int, which: int, role: str, content: Any) -> None:
        message = opened(self.model[index % len(self.model)])
        if isinstance(message, Message):
            message.role, message.content = role, content
        else:
            edit(message, which, content)
        self.recount()

    @rule(index=indices)
    def item(self, index: int) -> None:
        if -len(self.model) <= index < len(self.model):
            assert self.ring[index] is self.model[index]
        else:
            assert_index_error(lambda: self.ring[index])

    @rule(
        cut=st.builds(
            slice,
            st.one_of(st.none(), indices),
            st.one_of(st.none(), indices),
            st.one_of(st.none(), st.sampled_from((-3, -2, -1, 1, 2, 3))),
        )
    )
    def items(self, cut: slice) -> None:
        assert same_objects(self.ring[cut], self.model[cut])

    @invariant()
    def has_the_messages(self) -> None:
        assert len(self.ring) == len(self.model)
        assert same_objects(self.ring, self.model)
        assert same_objects(self.ring.get_all(), self.model)


def assert_index_error(call: Callable[[], object]) -> None:
    try:
        call()
    except IndexError:
        return
    raise AssertionError("no IndexError")


RingMachine.TestCase.settings = settings(max_examples=examples(200, long=5_000), stateful_step_count=60 if LONG else 40)

TestRing = RingMachine.TestCase
