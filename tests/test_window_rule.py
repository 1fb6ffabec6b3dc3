"""Windows of rings and of `trim_messages` against the literal rule in `window_rule.py`, after any mix of changes.

An everyday run compares 20,000 windows, a long one a million.
"""

import copy
import functools
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import reading
import tiktoken
from chatring import MessageRing, trim_messages
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from profiles import FAST, LONG, examples
from window_rule import HeadTooLongError, Item, Kept, window

WINDOWS = 1_000_000 if LONG else 1_000 if FAST else 20_000
PARTS = 8  # for several workers, and so that no part comes near the timeout
EVERYTHING = 2**62

Message = dict[str, Any]
Policy = tuple[Any, Any]  # a measure and a counter, as `MessageRing` takes them


# What a message costs, from the documents

COLUMNS = ("message", "name", "call", "parallel", "result", "image", "audio", "file")
ROWS = {
    "openai-chat": "OpenAI chat, and any plain role and content",
    "openai-responses": "OpenAI Responses",
    "anthropic": "Anthropic",
    "bedrock": "Bedrock",
    "gemini": "Gemini",
}


@functools.cache
def constants(provider: str) -> dict[str, int]:
    table = (Path(__file__).parents[1] / "docs" / "counting.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if line.startswith(f"| {ROWS[provider]} |"))
    cells = (int(cell.replace(",", "")) for cell in row.strip("| ").split("|")[1:])
    return dict(zip(COLUMNS, cells, strict=True))


@functools.lru_cache(maxsize=100_000)
def o200k(text: str) -> int:
    return len(tiktoken.get_encoding("o200k_base").encode_ordinary(text))


def words(text: str) -> list[str]:
    return text.split()


COUNTS: dict[Any, Callable[[str], int]] = {"o200k_base": o200k, words: lambda text: len(text.split())}


def weight(message: Message) -> int:
    """Measure a message as what somebody wrote beside it."""
    number: int = message["weight"]
    return number


def tokens(message: Message, policy: Policy) -> int:
    measure, counter = policy
    if callable(measure):
        number: int = measure(message)
        return number
    read = reading.read(message)
    constant, extras = constants(read.provider), read.extras
    return (
        constant["message"]
        + constant["name"] * extras.named
        + constant["call"] * extras.calls
        + constant["parallel"] * (extras.calls > 1)
        + constant["result"] * extras.results
        + (constant["message"] * max(extras.results - 1, 0) if read.provider.startswith("openai") else 0)
        + constant["image"] * extras.images
        + constant["audio"] * extras.audio
        + constant["file"] * extras.files
        + sum(COUNTS[counter](text) for text in read.texts)
    )


# Messages of every kind, in several providers' shapes

TEXTS = ("", "no", "what is it", "a b c d e f g", "one two three four five six seven eight " * 3)


def call(number: int) -> Message:
    return {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def tool_use(number: int) -> Message:
    return {"type": "tool_use", "id": f"c{number}", "name": "f", "input": {"a": number}}


SHAPES: dict[str, Sequence[Callable[[str], Message]]] = {
    "system": (
        lambda text: {"role": "system", "content": text},
        lambda text: {"role": "developer", "content": text, "name": "ops"},
    ),
    "user": (
        lambda text: {"role": "user", "content": text},
        lambda text: {"role": "Human", "content": [{"type": "text", "text": text}]},
        lambda text: {"role": "user", "parts": [{"text": text}]},
        lambda text: {"role": "user", "content": [{"text": text}]},
    ),
    "reply": (
        lambda text: {"role": "assistant", "content": text},
        lambda text: {"role": "model", "parts": [{"text": text}]},
        lambda text: {"role": "chatbot", "content": text},
    ),
    "call": (
        lambda text: {"role": "assistant", "content": text, "tool_calls": [call(1)]},
        lambda text: {"role": "assistant", "content": None, "tool_calls": [call(1), call(2), call(3)]},
        lambda text: {"role": "assistant", "content": [{"type": "text", "text": text}, tool_use(1), tool_use(2)]},
        lambda text: {"type": "function_call", "name": "f", "call_id": "c1", "arguments": text},
        lambda text: {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"q": text}}}]},
        lambda text: {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]},
    ),
    "result": (
        lambda text: {"role": "tool", "tool_call_id": "c1", "content": text},
        lambda text: {"role": "function", "name": "f", "content": text},
        lambda text: {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": text}]},
        lambda text: {"type": "function_call_output", "call_id": "c1", "output": text},
        lambda text: {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"r": text}}}]},
    ),
}
KINDS = (*("user", "reply", "call", "result") * 3, "call", "result", "system")


def make_message(random: Random, kinds: Sequence[str] = KINDS) -> Message:
    shape = random.choice(SHAPES[random.choice(kinds)])
    return {**shape(random.choice(TEXTS)), "weight": random.choice((0, 1, 1, 2, 5, 30))}


def a_turn(random: Random) -> list[Message]:
    """Return a turn as agents have them, so that not all histories are leftovers."""
    kinds = ["user"]
    for _ in range(random.randrange(4)):
        results = random.randrange(1, 4)
        kinds += ["call"] * random.choice((1, 1, 2)) + ["result"] * results
    return [make_message(random, (kind,)) for kind in (*kinds, "reply")]


def outline_of(message: Message) -> tuple[str, bool, bool]:
    read = reading.read(message)
    return read.kind, read.continues, read.may_start


POLICIES: dict[str, Policy] = {
    "o200k_base": ("message", "o200k_base"),
    "words": ("message", words),
    "weight": (weight, "o200k_base"),
}


class Twins:
    """A ring and the literal model of it; every change is made to both."""

    def __init__(self, policy: str, **options: Any) -> None:
        self.own, self.options = policy, options
        measure, counter = POLICIES[policy]
        self.ring: MessageRing[Message] = MessageRing(40, counter, measure=measure, **options)
        self.kept = Kept(
            options.get("max_messages"), options.get("start_on", "user"), options.get("include_system", True)
        )
        # What each policy's cuts know of messages that have left.
        self.evicted: dict[str, int] = {}
        # The policies that something was counted under.
        self.counted: set[str] = set()
        self.windows = 0

    def items(self, policy: str) -> list[Item]:
        """Return all items with what they cost under a policy."""
        items = self.kept.items
        for item in items:
            if policy not in item.known:
                item.known[policy] = tokens(item.message, POLICIES[policy])
            item.tokens = item.known[policy]
        return items

    def policies(self) -> list[str]:
        return ["weight"] if self.own == "weight" else ["o200k_base", "words"]

    def put(self, *messages: Message, one_by_one: bool = False) -> None:
        # A message that leaves before anybody has counted it has no place in the sums.
        for policy in self.evicted:
            self.ask(policy, retention_ratio=0.5)
        known = self.kept.items
        for message in messages:
            gone = self.kept.put(Item(*outline_of(message), 0, message))
            for policy in self.evicted:
                self.evicted[policy] += sum(
                    tokens(item.message, POLICIES[policy]) for item in gone if any(item is one for one in known)
                )
        if one_by_one:
            for message in messages:
                self.ring.put(message)
        else:
            self.ring.put_messages(messages)
        self.same()

    def begin_anew(self, messages: Sequence[Message]) -> None:
        self.evicted.clear()
        self.kept.clear()
        for message in messages:
            self.kept.put(Item(*outline_of(message), 0, message))

    def replace(self, messages: Sequence[Message]) -> None:
        self.begin_anew(messages)
        self.ring.set(messages)
        self.same()

    def recount(self) -> None:
        self.evicted.clear()
        self.ring.recount()
        self.same()

    def set_head(self, messages: Sequence[Message]) -> None:
        self.kept.set_head([Item(*outline_of(message), 0, message) for message in messages])
        self.ring.set_head(messages)
        self.same()

    def delete(self, index: int) -> None:
        assert self.ring.delete(index) is self.kept.delete(index).message
        self.same()

    def pop(self) -> None:
        assert self.ring.pop() is self.kept.delete(len(self.kept.items) - 1).message
        self.same()

    def reset(self) -> None:
        self.begin_anew([])
        self.ring.reset()
        self.same()

    def becomes(self, how: Callable[[Any], Any]) -> None:
        self.ring = how(self.ring)
        if how is pickled:  # with what has left under its own policy only
            self.evicted = {policy: gone for policy, gone in self.evicted.items() if policy == self.own}

    def change(self, random: Random, policy: str, **asked: Any) -> None:
        """Edit a message of the window in place, and find the window again."""
        chosen = self.ask(policy, **asked)
        if not chosen:
            return
        message = random.choice(chosen).message
        field = "content" if isinstance(message.get("content"), str) else "weight"
        message[field] = random.choice(TEXTS) if field == "content" else random.choice((0, 3, 9))
        same = [other for other in self.kept.items if other.message is message]
        for other in same:
            other.known.clear()
        # Callables may look at anything, so nobody checks; other counters may have another window.
        if self.own == "weight" or len(same) > 1 or len(self.counted) > 1:
            self.recount()
        self.ask(policy, **asked)

    def ask(
        self,
        policy: str,
        *,
        token_limit: int = EVERYTHING,
        initial_token_count: int = 0,
        include_system: bool | None = None,
        retention_ratio: float | None = None,
        verify: bool = True,
        trim: bool = False,
    ) -> list[Item] | None:
        """Compare the window found with the rule's, and return its items; None if the head is too long."""
        self.windows += 1
        self.counted.add(policy)
        includes = self.kept.include_system if include_system is None else include_system
        ratio = self.options.get("retention_ratio", 1.0) if retention_ratio is None else retention_ratio
        asked: dict[str, Any] = {
            "token_limit": token_limit,
            "initial_token_count": initial_token_count,
            "include_system": include_system,
            "retention_ratio": retention_ratio,
        }
        counter = None if self.own == policy else POLICIES[policy][1]
        items = self.items(policy)
        limits: dict[str, Any] = {
            "initial_token_count": initial_token_count,
            "start_on": self.kept.start_on,
            "include_system": includes,
            "retention_ratio": ratio,
        }
        evicted = self.evicted.get(policy, 0) if ratio < 1 else 0
        everything = items
        if self.kept.has_gap and not includes:
            # A window that began with the head would have a gap: the head counts as what has left.
            evicted += sum(item.tokens for item in self.kept.head) if ratio < 1 else 0
            items = items[len(self.kept.head) :]
        try:
            answer = window(items, token_limit, evicted=evicted, is_whole=self.kept.is_whole, **limits)
        except HeadTooLongError as too_long:
            numbers = str(too_long).split()
        else:
            numbers = []
        if numbers:
            for find in (self.ring.window, self.ring.get):
                with pytest.raises(ValueError, match=r"\d") as raised:
                    find(counter=counter, verify=verify, **asked)
                assert {*numbers} - {"0"} <= {*re.findall(r"\d+", str(raised.value))}, (numbers, str(raised.value))
            return None
        if ratio < 1:
            self.evicted.setdefault(policy, 0)
        found = self.ring.window(counter=counter, verify=verify, **asked)
        chosen = [items[i].message for i in answer.chosen]
        assert list(map(id, found)) == list(map(id, chosen)), (found, chosen, asked)
        assert found.tokens == answer.tokens, asked
        assert found.head == answer.head
        assert list(map(id, self.ring.get(counter=counter, verify=verify, **asked))) == list(map(id, chosen))
        # `slice` agrees with the positions.
        behind = found[found.head :]
        if found.question is None:
            assert answer.question is None
        else:
            assert [id(behind.pop(0))] == [id(each) for each in self.ring.slice(found.question, found.question + 1)]
            assert answer.question is not None or items[answer.start] is self.kept.question
        assert list(map(id, self.ring.slice(found.start, EVERYTHING))) == list(map(id, behind))
        if trim:
            self.check_trim(policy, everything, token_limit, limits)
        return [items[i] for i in answer.chosen]

    def check_trim(self, policy: str, items: Sequence[Item], token_limit: int, limits: dict[str, Any]) -> None:
        self.windows += 1
        measure, counter = POLICIES[policy]
        answer = window(items, token_limit, **limits)
        messages = [item.message for item in items]
        found = trim_messages(messages, token_limit, counter=counter, measure=measure, **limits)
        assert list(map(id, found)) == [id(messages[i]) for i in answer.chosen]
        got = (found.tokens, found.head, found.question, found.start)
        assert got == (answer.tokens, answer.head, answer.question, answer.start)

    def same(self) -> None:
        expected = [id(item.message) for item in self.kept.items]
        assert list(map(id, self.ring.get_all())) == expected
        assert len(self.ring) == len(expected)


RATIOS = (1.0, 1, 0.7, 0.7, 0.5, 0.95, 0.3, 0.05, 0.0, 0)


def pickled(ring: Any) -> Any:
    """Pickle a ring, but for its messages: the tests hold on to these."""
    made, arguments, state = ring.__reduce__()
    version, messages, *others = state
    other = made(*arguments)
    other.__setstate__((version, messages, *pickle.loads(pickle.dumps(others))))
    return other


def make_limits(random: Random, twins: Twins) -> dict[str, Any]:
    """Return what one call asks for, with limits at which the answer may change."""
    policy = random.choice(twins.policies())
    asked: dict[str, Any] = {"policy": policy}
    if random.random() < 0.5:
        asked["include_system"] = random.random() < 0.7
    if random.random() < 0.7:
        asked["retention_ratio"] = random.choice(RATIOS)
    if random.random() < 0.3:
        asked["initial_token_count"] = random.randrange(12)
    sums = [item.tokens for item in twins.items(policy)]
    limit = sum(sums[random.randrange(len(sums)) :]) if sums and random.random() < 0.7 else random.randrange(150)
    if random.random() < 0.5:
        limit += sum(sums[: leading(twins)]) + random.choice((-1, 0, 0, 1, 4))
    asked["token_limit"] = max(limit + asked.get("initial_token_count", 0), asked.get("initial_token_count", 0), 1)
    return {**asked, "verify": random.random() < 0.8, "trim": random.random() < 0.3}


def leading(twins: Twins) -> int:
    return len(twins.kept.head)


def make_twins(random: Random) -> Twins:
    options: dict[str, Any] = {
        "start_on": random.choice(("user", "user", None)),
        "include_system": random.random() < 0.7,
        "retention_ratio": random.choice((1.0, 1.0, 0.7)),
        "max_messages": random.choice((None, None, *range(1, 11))),
    }
    return Twins(random.choice(("o200k_base", "words", "weight")), **options)


def step(random: Random, twins: Twins) -> None:
    """Make one change."""
    length = len(twins.kept.items)
    match random.choices(range(11), (8, 6, 6, 2, 2, 2, 1, 1, 3, 1, 1))[0]:
        case 0:
            twins.put(make_message(random))
        case 1:
            twins.put(*(make_message(random) for _ in range(random.randrange(7))), one_by_one=random.random() < 0.5)
        case 2:
            twins.put(*a_turn(random), one_by_one=random.random() < 0.5)
        case 3 if length:
            twins.pop()
        case 4 if length:
            twins.delete(random.randrange(length))
        case 5:
            twins.set_head([make_message(random, ("system",)) for _ in range(random.randrange(4))])
        case 6:
            some = [item.message for item in twins.kept.items][random.randrange(length + 1) :]
            heads = [make_message(random, ("system",)) for _ in range(random.randrange(3))]
            twins.replace([*heads, *some, *a_turn(random)])
        case 7:
            twins.replace([item.message for item in twins.kept.items][random.randrange(2) :])
        case 8:
            asked = make_limits(random, twins)
            twins.change(random, **{**asked, "verify": True, "trim": False})
        case 9:
            twins.becomes(random.choice((copy.copy, pickled)))
        case 10 if random.random() < 0.3:
            twins.reset()


def begin(random: Random, twins: Twins) -> None:
    """Put what histories begin with: heads, a greeting, leftovers, or nothing."""
    kinds = random.choice(((), ("system",), ("system",) * 3, ("reply",), ("result", "call"), ("system", "result")))
    twins.put(*(make_message(random, (kind,)) for kind in kinds))


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(3_600)
def test_any_mix_of_changes_gives_the_windows_of_the_rule(part: int) -> None:
    windows = number = 0
    while windows < WINDOWS // PARTS:
        seed = number * PARTS + part
        number += 1
        random = Random(seed)
        twins = make_twins(random)
        try:
            begin(random, twins)
            for _ in range(25):
                step(random, twins)
                for _ in range(2):
                    asked = make_limits(random, twins)
                    twins.ask(**asked)
        except BaseException as error:
            getattr(error, "add_note", print)(f"seed {seed}")
            raise
        windows += twins.windows


randoms = st.integers(0, 9_999).map(Random)


class WindowMachine(RuleBasedStateMachine):
    """The same, for hypothesis to make a failing sequence short."""

    @initialize(
        random=randoms,
        policy=st.sampled_from(sorted(POLICIES)),
        start_on=st.sampled_from(("user", "user", None)),
        include_system=st.booleans(),
        retention_ratio=st.sampled_from((1.0, 0.7)),
        max_messages=st.sampled_from((None, None, 1, 2, 3, 5, 10)),
    )
    def start(self, random: Random, policy: str, **options: Any) -> None:
        self.twins = Twins(policy, **options)
        begin(random, self.twins)

    @rule(random=randoms, kind=st.sampled_from(sorted(SHAPES)))
    def put(self, random: Random, kind: str) -> None:
        self.twins.put(make_message(random, (kind,)))

    @rule(random=randoms)
    def put_turn(self, random: Random) -> None:
        self.twins.put(*a_turn(random))

    @rule(random=randoms)
    def any_step(self, random: Random) -> None:
        step(random, self.twins)

    @rule()
    def recount(self) -> None:
        self.twins.recount()

    @rule(random=randoms)
    def ask(self, random: Random) -> None:
        asked = make_limits(random, self.twins)
        self.twins.ask(**asked)


WindowMachine.TestCase.settings = settings(max_examples=examples(100, long=2_000), stateful_step_count=25)
TestWindows = WindowMachine.TestCase


@pytest.mark.parametrize("max_messages", [None, 1, 4, 10])
@pytest.mark.parametrize("start_on", ["user", None])
def test_starts_never_move_back_while_a_history_grows(start_on: Any, max_messages: int | None) -> None:
    for seed in range(30 if not LONG else 600):
        random = Random(seed)
        ring: MessageRing[Message] = MessageRing(
            200, measure=random.choice(("message", weight)), start_on=start_on, max_messages=max_messages
        )
        fixed: list[dict[str, Any]] = [
            {"token_limit": random.randrange(60, 200), "retention_ratio": ratio, "include_system": includes}
            for ratio in (1.0, 0.7, 0.2)
            for includes in (True, False)
        ]
        last = [0] * len(fixed)
        ring.put_messages(make_message(random, ("system",)) for _ in range(random.randrange(2)))
        for _ in range(40):
            ring.put_messages([make_message(random)] if random.random() < 0.5 else a_turn(random))
            for i, asked in random.sample(list(enumerate(fixed)), 4):
                start = ring.window(**asked).start
                assert start >= last[i], (seed, asked)
                last[i] = start


@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_what_has_left_can_be_summarised_exactly_once(ratio: float) -> None:
    random = Random(7)
    ring: MessageRing[Message] = MessageRing(120, retention_ratio=ratio)
    messages = [make_message(random, ("system",))]
    ring.put_messages(messages)
    done, summarised = 1, []
    for _ in range(60):
        turn = a_turn(random)
        messages += turn
        ring.put_messages(turn)
        start = ring.window().start
        summarised += ring.slice(done, start)
        done = start
    assert list(map(id, summarised)) == list(map(id, messages[1:done]))
    assert done > 100


def test_a_head_that_does_not_fit_is_told_with_the_numbers() -> None:
    messages = [{"role": "system", "content": "a b c d e f"}, {"role": "user", "content": "hi"}]
    ring: MessageRing[Message] = MessageRing(10, words)
    ring.put_messages(messages)
    assert ring.window().tokens == 10 + 5  # nothing smaller is valid
    for find in (ring.window, ring.get):
        with pytest.raises(ValueError, match=r"10.*1.*10"):
            find(initial_token_count=1)
    with pytest.raises(ValueError, match=r"10.*1.*10"):
        trim_messages(messages, 10, counter=words, initial_token_count=1)
    with pytest.raises(ValueError, match="11 > 10"):
        trim_messages(messages, 10, counter=words, initial_token_count=11)
    assert trim_messages(messages, 10, counter=words, include_system=False) == messages[1:]


def test_a_last_message_beyond_the_limit_is_counted_by_the_counter_of_the_call() -> None:
    ring: MessageRing[Any] = MessageRing(2, len, measure="text")
    ring.put({"role": "user", "content": "hello there"})
    assert ring.window().tokens == 11
    assert ring.window(counter=lambda text: 2 * len(text)).tokens == 22
