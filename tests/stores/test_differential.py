"""Every store gives the windows of the literal rule, of `window_rule.py` and `reference.py`, whatever was done before.

A history is a row of changes of one session, made through several stores on the same data, with sync and async methods.
After each change the whole session is compared, and windows under random limits and options. An everyday run makes some
1,300 comparisons of windows with each store; one with `HYPOTHESIS_PROFILE=long` makes 80,000 and more with each.

A history is determined by its seed, which an error shows with what was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import window_rule as rule
from chatring import MessageRing
from chatring._core import _outline
from chatring.stores import open_store
from profiles import LONG, examples
from reference import (
    Total,
    joined_total,
    may_start,
    summed_total,
    tiktoken_count,
    window_start,
    words_after_a_beginning,
)
from threads import run_all

from stores.histories import Awaited, Message, assistant, call, result, results, system, user

# Words, and what comes before and after them makes a difference to.
TEXTS = (
    *("a", "Hello there", "where is it?", "one two three four five", "世界", "don't", "x" * 200, "<|endoftext|>"),
    *("", "", " ", "\n", "\t \t", "  \n", "\xa0", "\u3000", "ends in a space ", "ends in a line\n", " begins with one"),
    *("\ud800", "x\udfff ", "\0", "."),
)
HISTORIES = examples(50, long=4_500)
WINDOWS = 4  # after each change


def message_of(source: random.Random) -> Message:
    """Return any message: clean histories and dirty ones."""
    kind = source.choice((system, user, user, user, assistant, assistant, call, call, result, result, results))
    return kind(source.choice(TEXTS))


def few_tokens(message: Message) -> int:
    """Measure a message by its content: some cost nothing."""
    return len(message["content"] or "") % 3


def text_of(message: Message) -> str:
    """Return what counts where texts are joined."""
    content = message["content"]
    return content if isinstance(content, str) else ""


class Reference:
    """What a session must be, by the words of the design.

    Args:
        options: of the store.
        total: counts texts, where they are joined.
    """

    def __init__(self, options: dict[str, Any], total: Total | None) -> None:
        self.start_on = options.get("start_on", "user")
        self.total = total
        self._counted: tuple[list[str], list[int]] = [], []
        self._ring: MessageRing[Message] = MessageRing(
            **{name: value for name, value in options.items() if name in ("counter", "measure", "start_on")},
            include_system=total is None,
        )
        self.begin([])

    def begin(self, messages: list[Message]) -> None:
        """Start again with these messages."""
        self.head: list[Message] = []
        self.rest: list[Message] = []
        self.first = 0  # the position of the first message after the head
        self.evicted: list[Message] = []
        self.is_cut = False
        self.is_trimmed = False
        self.append(messages)

    @property
    def all(self) -> list[Message]:
        return [*self.head, *self.rest]

    def append(self, messages: list[Message]) -> None:
        for message in messages:
            if self.total is None and not self.rest and not self.is_trimmed and message["role"] == "system":
                self.head.append(message)
                self.first += 1
            else:
                self.rest.append(message)

    def pop(self, index: int) -> Message:
        index = index if index >= 0 else index + len(self.all)
        if index < len(self.head):
            return self.head.pop(index)
        popped = self.rest.pop(index - len(self.head))
        if index == len(self.head):
            self.begin_behind(self.rest)
            self.is_cut |= bool(self.evicted)
        return popped

    def update(self, start: int, kept: int, messages: list[Message]) -> None:
        """Keep so many of the messages from the number `start` on, and put others in place of the rest."""
        everything, cut = self.all, start + kept
        if cut == len(everything):
            self.append(messages)
        elif cut < len(self.head):
            self.begin([*everything[:cut], *messages])
        else:
            is_empty = cut == len(self.head)
            self.begin_behind(self.rest[: cut - len(self.head)] if not is_empty else [])
            self.is_cut |= is_empty and bool(self.evicted)
            self.append(messages)

    def begin_behind(self, messages: list[Message]) -> None:
        """Have messages follow the head; some may lead now."""
        self.rest = []
        self.append(messages)

    def trim(self, count: int) -> None:
        self.evicted += self.rest[:count]
        self.rest = self.rest[count:]
        self.first += count
        self.is_trimmed |= count > 0

    def recount(self) -> None:
        self.evicted = []
        self.is_cut = False
        self.begin_behind(self.rest)

    def _totals(self) -> list[int]:
        """Return the tokens of the texts from each on, joined."""
        assert self.total is not None
        texts = [text_of(message) for message in self.rest]
        if texts != self._counted[0]:
            self._counted = texts, [self.total(texts[i:]) for i in range(len(texts))]
        return self._counted[1]

    def tokens(self) -> int:
        if self.total is not None:
            return self._totals()[0] if self.rest else 0
        return sum(self._ring.count(message) for message in self.all)

    def window(self, limit: int, initial: int, inside: bool, ratio: float) -> tuple[Any, ...] | None:
        """Return the messages of a window, its tokens, start, question, and length of its head; None: an error."""
        if self.total is not None:
            if not self.rest:
                return [], 0, self.first, None, 0
            totals = self._totals()
            start = window_start(totals, [message["role"] for message in self.rest], limit, initial)
            return self.rest[start:], totals[start], self.first + start, None, 0
        # Where a window may begin within the head, it would have had what was trimmed, which is left out then.
        gone = self.evicted if self.start_on is None and not inside else []
        history = [*self.head, *gone, *self.rest]
        items = [rule.Item(*_outline(message), self._ring.count(message), message) for message in history]
        for item in items[len(self.head) :]:
            if item.kind == "system":
                item.kind = "system behind others"  # also if those were trimmed
        try:
            answer = rule.window(
                items,
                limit,
                initial_token_count=initial,
                start_on=self.start_on,
                include_system=inside,
                retention_ratio=ratio,
                evicted=sum(self._ring.count(message) for message in self.evicted if not gone),
            )
        except rule.HeadTooLongError:
            return None
        left = len(self.head) + len(gone)
        chosen = [i for i in answer.chosen if i < len(self.head) or i >= left]
        start = self.first + max(answer.start - left, 0)
        question = None if answer.question is None else answer.question + self.first - left
        return [history[i] for i in chosen], sum(items[i].tokens for i in chosen), start, question, answer.head

    def limits(self, source: random.Random) -> tuple[int, int, bool, float]:
        """Return a window's arguments: often such that one more token makes a difference."""
        if self.total is not None:
            limit = max(source.choice([1, *self._totals()]) + source.choice((-1, 0, 0, 1, 7)), 1)
            return limit, source.choice((0, 0, source.randrange(limit + 1))), False, 1.0
        costs = [self._ring.count(message) for message in self.all[source.randrange(len(self.all) + 1) :]]
        limit = max(sum(costs) + source.choice((-1, 0, 0, 1, 7)), 1)
        initial = source.choice((0, 0, source.randrange(limit + 1)))
        ratio = source.choice((1.0, 1.0, 0.7, 0.5, 0.0, source.random()))
        return limit + source.choice((0, initial)), initial, source.random() < 0.6, ratio


class History:
    """Random changes of one session, through several stores on the same data."""

    def __init__(self, seed: int, key: str, stores: list[Any], reference: Reference) -> None:
        self._source = random.Random(seed)
        self._key = key
        self._stores = stores
        self._reference = reference
        self.done: list[tuple[Any, ...]] = []
        self.windows = 0

    def run(self) -> None:
        for _ in range(self._source.randrange(1, 14)):
            self.change()
            self.check(self._source.choice(self._stores))
            if self._reference.is_cut and self._reference.start_on is None and self._reference.total is None:
                continue  # what a trim left first was removed: whether the next may begin a window is nowhere said
            for _ in range(WINDOWS):
                self.check_window(self._source.choice(self._stores))

    def change(self) -> None:
        source, key, reference = self._source, self._key, self._reference
        store = source.choice(self._stores)
        length = len(reference.all)
        kind = source.choice(
            ("append",) * 4 + ("pop", "pop", "update", "update", "trim", "replace", "set_head", "recount", "delete")
        )
        if kind == "set_head" and reference.total is not None:
            kind = "append"
        if kind == "pop" and not length:
            kind = "append"
        count = source.choice((1, 1, 2, 4))
        match kind:
            case "append":
                messages = [message_of(source) for _ in range(count)]
                self.done.append((kind, messages))
                store.append(key, messages)
                reference.append(messages)
            case "replace":
                messages = [message_of(source) for _ in range(count * 2 - 2)]
                self.done.append((kind, messages))
                store.replace(key, messages)
                reference.begin(messages)
            case "set_head":
                messages = [system(source.choice(TEXTS)) for _ in range(count - 1)]
                self.done.append((kind, messages))
                store.set_head(key, messages)
                if not reference.rest and not store.exists(key):
                    reference.begin(messages)
                reference.first = self._first_after_head(messages)
                reference.head = messages
            case "pop":
                index = source.randrange(-length, length)
                self.done.append((kind, index))
                assert store.pop(key, index) == reference.pop(index)
            case "update":
                number = source.randrange(length + 1)
                kept = source.randrange(length - number + 1)
                messages = [message_of(source) for _ in range(count - 1 if length else count)]
                position = reference.first + number - len(reference.head)
                is_negative = number < length and (number < len(reference.head) or source.random() < 0.5)
                start = number - length if is_negative else position
                self.done.append((kind, start, kept, messages))
                ending = reference.all[number:]
                after = [*ending[:kept], *messages]

                def changed(given: list[Message]) -> list[Message]:
                    assert given == ending
                    return [*given[:kept], *messages]

                assert store.update(key, start, changed) == after
                if after != ending or kept < len(ending):
                    reference.update(number, kept, messages)
            case "trim":
                before = source.randrange(reference.first + len(reference.rest) + 2)
                self.done.append((kind, before))
                self._trim(store, before)
            case "recount":
                self.done.append((kind,))
                store.recount(key)
                reference.recount()
            case "delete":
                self.done.append((kind,))
                store.delete(key)
                reference.begin([])

    def _first_after_head(self, head: list[Message]) -> int:
        # A session begins with its head if there is none yet.
        is_new = not self.done[:-1] or all(kind in ("recount", "trim") for kind, *_ in self.done[:-1])
        deleted = next((kind for kind, *_ in reversed(self.done[:-1]) if kind not in ("recount", "trim")), "delete")
        return len(head) if is_new or deleted == "delete" else self._reference.first

    def _trim(self, store: Any, before: int) -> None:
        """Whole turns go: what stays begins with the newest start at or before a position that carries no question."""
        reference = self._reference
        rest, first = reference.rest, reference.first
        gone = store.trim(self._key, before)
        if reference.total is None:
            items = [rule.Item(*_outline(message), 0, message) for message in rest]
            starts = [
                i
                for i in range(1, min(len(rest), before + 1 - first))
                if rule.is_start(items, 0, i, reference.start_on)
                and (i < len(rest) - 1 or reference.start_on == "user" or items[i].may_start)
                and not (
                    reference.start_on == "user" and items[i].kind == "assistant" and rule.question_of(items, 0, i)
                )
                and not (
                    reference.start_on == "user"
                    and items[i].kind == "assistant"
                    and rule.question_of(items, 0, i) is not None
                )
            ]
            assert gone == max(starts, default=0), (gone, starts)
        else:
            assert gone <= max(before - first, 0)
            assert not gone or may_start(rest[gone]["role"])
        reference.trim(gone)

    def check(self, store: Any) -> None:
        key, reference = self._key, self._reference
        history = reference.all
        assert store.all(key) == history
        assert store.length(key) == len(history)
        n = self._source.randrange(6)
        assert store.last(key, n) == (history[-n:] if n else [])
        start = reference.first + self._source.randrange(len(reference.rest) + 1)
        wanted = reference.rest[start - reference.first :][:n]
        assert store.slice(key, start, start + n) == wanted
        assert store.token_count(key) == reference.tokens()

    def check_window(self, store: Any) -> None:
        reference = self._reference
        limit, initial, inside, ratio = reference.limits(self._source)
        options: dict[str, Any] = {}
        if reference.total is None:
            options = {"include_system": inside, "retention_ratio": ratio}
        expected = reference.window(limit, initial, inside, ratio)
        asked = (limit, initial, options)
        if expected is None:
            with pytest.raises(ValueError, match="of the system messages and the initial token count"):
                store.window(self._key, limit, initial, **options)
            return
        window = store.window(self._key, limit, initial, **options)
        found = (list(window), window.tokens, window.start, window.question, window.head)
        if not store.exists(self._key):
            assert found == ([], 0, 0, None, 0)
            return
        assert found == expected, asked
        self.windows += 1


POLICIES: dict[str, list[dict[str, Any]]] = {
    "message": [
        {"measure": "message", "start_on": "user"},
        {"measure": "message", "start_on": None},
        {"measure": few_tokens, "measure_name": "few", "start_on": "user"},
        {"measure": few_tokens, "measure_name": "few", "start_on": None},
        {"measure": "message", "counter": str.split, "counter_name": "words"},
    ],
    "text": [
        {"measure": "text", "counter": "o200k_base", "start_on": None},
        {"measure": "text", "counter": "cl100k_base", "start_on": None},
        {"measure": "text", "counter": words_after_a_beginning, "counter_name": "words", "start_on": None},
    ],
}


@pytest.fixture
def totals(cl100k: Any, o200k: Any) -> dict[Any, Total]:
    """What counts joined texts, by the counter."""
    return {
        "o200k_base": joined_total(tiktoken_count(o200k)),
        "cl100k_base": joined_total(tiktoken_count(cl100k)),
        words_after_a_beginning: summed_total(words_after_a_beginning),
    }


@pytest.fixture
def fast_url(store_url: str) -> str:
    """The URL of a store that need not survive a power cut."""
    return f"{store_url}?synchronous=OFF" if store_url.startswith("sqlite") else store_url


@contextlib.contextmanager
def opened(url: str, options: dict[str, Any]) -> Iterator[list[Any]]:
    """Open several stores on the same data, or what is in memory once, and one to be called by its async methods."""
    loop = asyncio.new_event_loop()
    stores = [open_store(url, **options) for _ in range(1 if url == "memory://" else 2)]
    try:
        yield [*stores, Awaited(stores[-1], loop)]
    finally:
        for store in stores:
            store.close()
            loop.run_until_complete(store.aclose())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.mark.timeout(3600 if LONG else 900)
@pytest.mark.parametrize("measure", POLICIES)
def test_windows_are_those_of_the_rule(fast_url: str, measure: str, totals: dict[Any, Total]) -> None:
    windows = 0
    policies = POLICIES[measure]
    for number, options in enumerate(policies):
        with opened(fast_url, options) as stores:
            for seed in range(number, max(HISTORIES, len(policies)), len(policies)):
                total = totals[options["counter"]] if measure == "text" else None
                history = History(seed, f"session {seed}", stores, Reference(options, total))
                try:
                    history.run()
                except Exception as error:
                    raise AssertionError(f"seed {seed} of {options}, after {history.done}: {error}") from error
                windows += history.windows
                stores[0].delete(f"session {seed}")
    print(f"{fast_url.partition(':')[0]}, {measure}: {windows} windows, all of them right")
    assert windows > 0


@pytest.mark.timeout(3600 if LONG else 900)
@pytest.mark.parametrize("measure", POLICIES)
def test_several_writers(fast_url: str, measure: str, totals: dict[Any, Total]) -> None:
    """Threads and tasks that change the same session: what is left has the windows of the rule."""
    windows = 0
    for seed in range(examples(4, long=200)):
        options = POLICIES[measure][seed % len(POLICIES[measure])]
        key = f"session {seed}"
        total = totals[options["counter"]] if measure == "text" else None
        with opened(fast_url, options) as stores:
            stores[0].append(key, [user("begin")])

            def change(store: Any, source: random.Random, key: str = key, measure: str = measure) -> Any:
                kind = source.choice(
                    ("append", "append", "append", "append", "pop", "pop", "update", "set_head", "recount")
                )
                match kind:
                    case "pop":
                        return store.pop(key, source.choice((-1, 0)))
                    case "update":
                        return store.update(key, -3, lambda last: [*last[:2], message_of(source), *last[2:]])
                    case "set_head" if measure != "text":
                        return store.set_head(key, [system(source.choice(TEXTS))] * source.randrange(3))
                    case "recount":
                        return store.recount(key)
                return store.append(key, [message_of(source) for _ in range(source.choice((1, 1, 3)))])

            def in_a_thread(number: int, seed: int = seed, stores: list[Any] = stores) -> None:
                source = random.Random(f"{seed} {number}")
                for _ in range(8):
                    with contextlib.suppress(IndexError):
                        change(stores[number % (len(stores) - 1)], source)

            async def task(number: int, seed: int = seed, stores: list[Any] = stores) -> None:
                class Async:
                    def __getattr__(self, name: str) -> Any:
                        return getattr(stores[0], f"a{name}")

                source = random.Random(f"{seed} {number}")
                for _ in range(8):
                    with contextlib.suppress(IndexError):
                        await change(Async(), source)

            async def tasks(stores: list[Any] = stores) -> None:
                await asyncio.gather(*(task(number) for number in (10, 11, 12)))
                await stores[0].aclose()

            run_all(
                lambda: in_a_thread(0), lambda: in_a_thread(1), lambda: in_a_thread(2), lambda: asyncio.run(tasks())
            )
            reference = Reference(options, total)
            # Where its messages are counted from is not known, so it is counted again.
            stores[0].recount(key)
            reference.begin(stores[0].all(key))
            reference.first = stores[0].window(key, 2**60).start
            checked = History(seed, key, stores, reference)
            for _ in range(20):
                found = checked.windows
                reference.first = first_of(stores[0], key, reference)
                checked.check_window(stores[0])
                windows += checked.windows - found
    assert windows > 0


def first_of(store: Any, key: str, reference: Reference) -> int:
    """Return the position of the first message after the head, from the last one's, which slices show."""
    low, high = 0, 2**20
    while low < high:  # the position after the last message
        middle = (low + high) // 2
        if store.slice(key, middle, 2**30):
            low = middle + 1
        else:
            high = middle
    return low - len(reference.rest)
