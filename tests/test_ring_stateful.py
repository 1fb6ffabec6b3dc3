"""Any sequence of calls on one ring, against a plain list and the window rule."""

import functools
from collections.abc import Callable, Sized
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
from reference import (
    Count,
    Message,
    Total,
    blank_texts,
    contents,
    joined_total,
    messages,
    roles,
    same_objects,
    summed_total,
    text_of,
    tiktoken_count,
    window_of,
    without_surrogates,
    words_after_a_beginning,
)


def joined_by(tokenize: Callable[[str], Sized]) -> Total:
    return joined_total(lambda text: len(tokenize(without_surrogates(text))))


def remembered(count: Count) -> Count:
    return functools.lru_cache(maxsize=100_000)(count)


O200K = tiktoken.get_encoding("o200k_base")
# More counters than a ring keeps ledgers for.
COUNTERS: dict[str, tuple[Any, Total]] = {
    "cl100k_base": ("cl100k_base", joined_total(remembered(tiktoken_count(tiktoken.get_encoding("cl100k_base"))))),
    "o200k_base": (O200K, joined_total(remembered(tiktoken_count(O200K)))),
    "gpt2": (TokenCounter("gpt2"), joined_total(remembered(TokenCounter("gpt2").count))),
    "str.split": (str.split, joined_by(str.split)),
    "list": (list, joined_by(list)),
    "words_after_a_beginning": (words_after_a_beginning, summed_total(words_after_a_beginning)),
}
counters = st.sampled_from(sorted(COUNTERS))
limits = st.one_of(st.integers(1, 12), st.integers(1, 150), st.just(3000))
initials = st.sampled_from((0, 0, 0, 1, 5))
indices = st.integers(-20, 20)


class RingMachine(RuleBasedStateMachine):
    @initialize(
        max_messages=st.sampled_from((None, None, 1, 2, 3, 7, 20)),
        counter=counters,
        limit=limits,
    )
    def start(self, max_messages: int | None, counter: str, limit: int) -> None:
        self.own, self.limit, self.max_messages = counter, limit, max_messages
        self.ring: MessageRing[Message] = MessageRing(
            limit, COUNTERS[counter][0], max_messages=max_messages, measure="text"
        )
        self.model: list[Message] = []
        # The counters whose counts may be of texts that have changed since, where get() did not look.
        self.stale: set[str] = set()

    def keep_newest(self) -> None:
        if self.max_messages is not None:
            del self.model[: -self.max_messages]

    def check_window(self, counter: str, limit: int, initial: int = 0, *, verify: bool = True) -> list[Message]:
        if counter in self.stale:
            self.ring.recount()
            self.stale.clear()
        source, total = COUNTERS[counter]
        window = self.ring.get(counter=source, token_limit=limit + initial, initial_token_count=initial, verify=verify)
        assert same_objects(window, window_of(self.model, total, limit))
        return window

    @rule(message=messages)
    def put(self, message: Message) -> None:
        self.ring.put(message)
        self.model.append(message)
        self.keep_newest()

    @rule(more=st.lists(messages, max_size=9), as_iterator=st.booleans())
    def put_messages(self, more: list[Message], as_iterator: bool) -> None:
        self.ring.put_messages(iter(more) if as_iterator else more)
        self.model += more
        self.keep_newest()

    @rule(more=st.lists(messages, min_size=15, max_size=40))
    def put_many(self, more: list[Message]) -> None:
        self.put_messages(more, as_iterator=False)

    @rule(more=st.lists(st.builds(Message, roles, blank_texts), min_size=1, max_size=4))
    def put_blanks(self, more: list[Message]) -> None:
        self.put_messages(more, as_iterator=False)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 100))
    def put_again(self, index: int) -> None:
        self.put(self.model[index % len(self.model)])

    @rule(new=st.lists(messages, max_size=9))
    def set(self, new: list[Message]) -> None:
        self.ring.set(new)
        self.model = list(new)
        self.keep_newest()

    @rule()
    def set_to_its_own_window(self) -> None:
        self.ring.set(self.ring)
        assert same_objects(self.ring.get_all(), self.model)

    @rule()
    def pop(self) -> None:
        if self.model:
            assert self.ring.pop() is self.model.pop()
        else:
            assert_index_error(self.ring.pop)

    @rule(index=indices)
    def delete(self, index: int) -> None:
        if -len(self.model) <= index < len(self.model):
            assert self.ring.delete(index) is self.model.pop(index)
        else:
            assert_index_error(lambda: self.ring.delete(index))

    @rule()
    def reset(self) -> None:
        self.ring.reset()
        self.model.clear()

    @rule()
    def recount(self) -> None:
        self.ring.recount()
        self.stale.clear()

    @rule(counter=counters, limit=limits, initial=initials, verify=st.booleans())
    def get(self, counter: str, limit: int, initial: int, verify: bool) -> None:
        self.check_window(counter, limit, initial, verify=verify)

    @rule()
    def get_with_the_rings_own(self) -> None:
        if self.own in self.stale:
            self.recount()
        assert same_objects(self.ring.get(), window_of(self.model, COUNTERS[self.own][1], self.limit))

    @rule(counter=counters, back=st.integers(0, 30), less=st.integers(-1, 1))
    def get_at_an_exact_limit(self, counter: str, back: int, less: int) -> None:
        texts = [text_of(message.content) for message in self.model[-1 - back :]]
        limit = COUNTERS[counter][1](texts) - less if texts else 0
        if limit >= 1:
            self.check_window(counter, limit)

    @rule(counter=counters)
    def token_count(self, counter: str) -> None:
        if counter in self.stale:
            self.recount()
        texts = [text_of(message.content) for message in self.model]
        expected = COUNTERS[counter][1](texts) if texts else 0
        assert self.ring.token_count(counter=COUNTERS[counter][0]) == expected

    @precondition(lambda self: self.model)
    @rule(
        counter=counters,
        limit=limits,
        changes=st.lists(st.tuples(st.integers(0, 40), contents), min_size=1, max_size=3),
    )
    def change_the_window(self, counter: str, limit: int, changes: list[tuple[int, Any]]) -> None:
        window = self.check_window(counter, limit)
        for back, content in changes:
            message = window[-1 - back % len(window)]
            if isinstance(message.content, list):
                message.content.append("one part more")
            else:
                message.content = content
        # Every other counter may have a window in which the message is not.
        self.stale = set(COUNTERS) - {counter}
        # So may this one, where a message stands twice and once outside the window.
        if sum(any(message is changed for changed in window) for message in self.model) > len(window):
            self.stale.add(counter)
        self.check_window(counter, limit)

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 100), role=roles, content=contents)
    def change_anywhere_and_recount(self, index: int, role: str, content: Any) -> None:
        message = self.model[index % len(self.model)]
        message.role, message.content = role, content
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


RingMachine.TestCase.settings = settings(max_examples=examples(300, long=5_000), stateful_step_count=60 if LONG else 40)

TestRing = RingMachine.TestCase
