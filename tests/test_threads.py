"""Many threads on one ring, and counters, messages and finalisers that call back into it."""

import contextlib
import faulthandler
import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from chatring import MessageRing, TokenCounter
from reference import Message, same_objects
from threads import run_all, run_numbered, tenths_with_turns

WRITERS = 8
EACH = 6_000


@pytest.fixture(autouse=True)
def _watchdog(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """End the process if a lock is never given back: a thread that waits with the GIL held cannot be timed out."""
    with capfd.disabled():
        stderr = os.dup(2)
    faulthandler.dump_traceback_later(600, exit=True, file=stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(stderr)


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.usefixtures("hectic")
@pytest.mark.parametrize("counter", ["o200k_base", words])
@pytest.mark.parametrize("max_messages", [None, 500])
def test_nothing_is_lost_and_no_window_is_over_the_limit(counter: Any, max_messages: int | None) -> None:
    limit = 200
    ring: MessageRing[Message] = MessageRing(limit, counter, max_messages=max_messages, measure="text")
    windows: list[list[Message]] = []
    finished: list[int] = []

    def write(writer: int) -> None:
        for number in range(0, EACH, 3):
            ring.put(Message("user", f"{writer} {number}"))
            ring.put_messages(
                [
                    Message("assistant", f"{writer} {number + 1}"),
                    Message("user", f"{writer} {number + 2} {'word ' * (number % 7)}"),
                ]
            )
        finished.append(writer)

    def read() -> None:
        while len(finished) < WRITERS:
            windows.append(ring.get())

    run_all(*(lambda writer=writer: write(writer) for writer in range(WRITERS)), read, read)

    messages = ring.get_all()
    assert len(messages) == len(ring) == (max_messages or WRITERS * EACH)
    for writer in range(WRITERS):
        numbers = [int(m.content.split()[1]) for m in messages if int(m.content.split()[0]) == writer]
        assert numbers == list(range(EACH))[len(range(EACH)) - len(numbers) :]
    count = TokenCounter(counter).count
    places = {id(message): place for place, message in enumerate(messages)}
    assert max(map(len, windows)) > 10
    for window in windows:
        assert len(window) <= 1 or count(" ".join(message.content for message in window)) <= limit
        if window and id(window[0]) in places:
            start = places[id(window[0])]
            assert same_objects(window, messages[start : start + len(window)])
    assert same_objects(ring.get(), messages[-len(ring.get()) :])


@pytest.mark.usefixtures("hectic")
@pytest.mark.parametrize("counter", ["cl100k_base", words])
def test_every_method_at_once(counter: Any) -> None:
    ring: MessageRing[Message] = MessageRing(60, counter, max_messages=300, measure="text")
    known = [Message(role, "word " * size) for role in ("user", "assistant", "tool") for size in range(9)]

    def sometimes(rng: random.Random, probability: float, call: Callable[[], object]) -> None:
        if rng.random() < probability:
            call()

    methods: list[Callable[[random.Random], object]] = [
        lambda rng: ring.put(rng.choice(known)),
        lambda rng: ring.put(rng.choice(known)),
        lambda rng: ring.put_messages(rng.choices(known, k=5)),
        lambda rng: ring.put_messages(rng.choices(known, k=5)),
        lambda rng: ring.pop(),
        lambda rng: ring.delete(rng.randrange(-20, 20)),
        lambda rng: ring.get(token_limit=rng.randrange(1, 99)),
        lambda rng: ring.get(counter=rng.choice(("o200k_base", len_in_tens, str.split))),
        lambda rng: ring.token_count(),
        lambda rng: ring[rng.randrange(-20, 20)],
        lambda rng: list(ring),
        lambda rng: ring.get_all(),
        lambda rng: sometimes(rng, 0.1, ring.recount),
        lambda rng: sometimes(rng, 0.1, lambda: ring.set(rng.choices(known, k=30))),
        lambda rng: sometimes(rng, 0.02, ring.reset),
        lambda rng: gc.collect(0),
    ]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(15_000):
            with contextlib.suppress(IndexError):
                rng.choice(methods)(rng)

    run_numbered(work, 8)

    # Whatever happened, the ring answers like a new ring with the same messages.
    messages = ring.get_all()
    assert {id(message) for message in messages} <= {id(message) for message in known}
    for source in (counter, "o200k_base", len_in_tens, str.split):
        fresh: MessageRing[Message] = MessageRing(60, source, measure="text")
        fresh.put_messages(messages)
        assert ring.token_count(counter=source) == fresh.token_count()
        for limit in range(1, 80, 3):
            assert same_objects(ring.get(token_limit=limit, counter=source), fresh.get(token_limit=limit))


def len_in_tens(text: str) -> range:
    return range((len(text) + 9) // 10)


@pytest.mark.usefixtures("hectic")
def test_long_texts_are_counted_while_others_put() -> None:
    # Long enough that counting gives up the GIL.
    long = "several words of a long text, " * 3_000
    ring: MessageRing[Message] = MessageRing(10_000_000, counter="cl100k_base", measure="text")
    counts: list[int] = []

    def write() -> None:
        for number in range(40):
            ring.put(Message("user", f"{number} {long}"))

    def read() -> None:
        counts.extend(ring.token_count() for _ in range(40))

    run_all(write, write, read, read)
    joined = " ".join(message.content for message in ring)
    assert ring.token_count() == TokenCounter("cl100k_base").count(joined)
    assert len(counts) == 80
    assert max(counts) <= ring.token_count()


# --- counters that call back


class Reentrant:
    """Counts words; the first `times` calls do something else before."""

    def __init__(self, action: Callable[[], object], times: int = 1) -> None:
        self.action, self.times = action, times

    def __call__(self, text: str) -> list[str]:
        if self.times:
            self.times -= 1
            self.action()
        return text.split()


def in_another_thread(action: Callable[[], object]) -> Callable[[], None]:
    return lambda: run_all(action)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("times", [1, 3, 100])
@pytest.mark.parametrize(
    "action",
    ["put", "put_messages", "pop", "delete", "set", "reset", "recount", "get", "other counter", "token_count", "copy"],
)
def test_a_counter_that_calls_back(action: str, times: int, elsewhere: bool) -> None:
    ring: MessageRing[Message] = MessageRing(25, counter="cl100k_base", measure="text")
    messages = [Message("user", f"a message of {number} words " + "w " * (number % 5)) for number in range(200)]
    more = [Message("user", "one more"), Message("assistant", "and one more")]
    actions: dict[str, Callable[[], object]] = {
        "put": lambda: ring.put(more[0]),
        "put_messages": lambda: ring.put_messages(more),
        "pop": ring.pop,
        "delete": lambda: ring.delete(-2),
        "set": lambda: ring.set(messages[:150]),
        "reset": ring.reset,
        "recount": ring.recount,
        "get": lambda: ring.get(counter=counter),
        "other counter": lambda: ring.get(counter=str.split),
        "token_count": lambda: ring.token_count(counter=counter),
        "copy": lambda: ring[:],
    }
    call = actions[action]
    counter = Reentrant(in_another_thread(call) if elsewhere else call, times)
    ring.put_messages(messages)
    window = ring.get(counter=counter)
    assert sum(len(message.content.split()) for message in window) <= 25
    counter.times = 0

    expected: MessageRing[Message] = MessageRing(25, words, measure="text")
    expected.put_messages(ring.get_all())
    assert same_objects(ring.get(counter=counter), expected.get())
    assert ring.token_count(counter=counter) == expected.token_count()
    # No change is lost, and the answer was right at one moment of the call.
    done = times if action in ("put", "put_messages", "pop", "delete") else 0
    if times == 1 and done:
        assert same_objects(window, expected.get())
        length = {"put": 201, "put_messages": 202, "pop": 199, "delete": 199}[action]
        assert len(ring) == length


@pytest.mark.parametrize("action", ["put", "pop", "set", "recount", "put and pop"])
def test_a_counter_that_changes_the_history_at_each_call(action: str) -> None:
    ring: MessageRing[Message] = MessageRing(20, counter="cl100k_base", measure="text")
    messages = [Message("user", "four words a message") for _ in range(2_000)]
    ring.put_messages(messages)

    def put_and_pop() -> None:
        ring.put(messages[0])
        ring.pop()

    actions: dict[str, Callable[[], object]] = {
        "put": lambda: ring.put(messages[0]),
        "pop": lambda: len(ring) > 10 and ring.pop(),
        "set": lambda: ring.set(messages),
        "recount": ring.recount,
        "put and pop": put_and_pop,
    }
    counter = Reentrant(actions[action], times=sys.maxsize)
    window = ring.get(counter=counter)
    assert [message.content for message in window] == ["four words a message"] * 5
    assert counter.times > sys.maxsize - 100_000
    # It does not harm others.
    assert len(ring.get(counter=words)) == 5


def test_a_counter_that_empties_the_ring() -> None:
    ring: MessageRing[Message] = MessageRing(20, counter="cl100k_base", measure="text")
    ring.put_messages([Message("user", "a b c") for _ in range(50)])
    assert ring.get(counter=Reentrant(ring.reset, times=sys.maxsize)) == []
    assert len(ring) == 0


def test_a_counter_that_asks_the_ring_for_ever_is_a_recursion_error() -> None:
    ring: MessageRing[Message] = MessageRing(20, counter="cl100k_base", measure="text")
    ring.put(Message("user", "a b c"))

    def counter(text: str) -> list[str]:
        ring.get(counter=counter)
        return text.split()

    with pytest.raises(RecursionError):
        ring.get(counter=counter)
    assert same_objects(ring.get(), ring.get_all())


# --- messages that call back


class Calling:
    """A message whose content does something before it is there."""

    role = "user"

    def __init__(self, action: Callable[[], object], content: Callable[[], Any]) -> None:
        self.action, self.read = action, content

    @property
    def content(self) -> Any:
        self.action()
        return self.read()


@pytest.mark.parametrize("counter", ["cl100k_base", words])
def test_a_message_whose_content_calls_back(counter: Any) -> None:
    ring: MessageRing[Any] = MessageRing(1_000, counter, measure="text")
    messages = [Message("user", f"plain {number}") for number in range(40)]
    calls = 0

    def action() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            ring.put(messages[-1])
        elif calls == 5:
            ring.delete(0)
        elif calls == 7:
            in_another_thread(lambda: ring.put(messages[-2]))()
        elif calls == 9:
            ring.recount()
        elif calls == 11:
            ring.get()

    ring.put_messages(messages[:20])
    ring.put(Calling(action, lambda: "calling"))
    ring.put_messages(messages[20:])
    for _ in range(12):
        before = ring.get_all()
        window = ring.get()
        # At most one change in one call: the answer is right for the moment before or after it.
        assert same_objects(window, before) or same_objects(window, ring.get_all())
    assert calls > 11
    assert same_objects(ring.get(), ring.get_all())
    assert len(ring) == 42
    joined = " ".join(message.content for message in ring.get_all())
    assert ring.token_count() == TokenCounter(counter).count(joined)


@pytest.mark.parametrize("counter", ["cl100k_base", words])
@pytest.mark.parametrize("contents", [("a", "b c d e f"), ("", "word"), ("word ", " ", "\n"), (None, "x", ["y", "z"])])
def test_a_content_that_is_different_at_each_access(counter: Any, contents: tuple[Any, ...]) -> None:
    ring: MessageRing[Any] = MessageRing(9, counter, measure="text")
    reads = 0

    def content() -> Any:
        nonlocal reads
        reads += 1
        return contents[reads % len(contents)]

    ring.put_messages([Message("user", "one two three") for _ in range(5)])
    ring.put_messages([Calling(lambda: None, content) for _ in range(3)])
    ring.put(Message("user", "last"))
    for verify in (True, False):
        window = ring.get(verify=verify)
        assert 1 <= len(window) <= 9
        assert same_objects(window, ring.get_all()[-len(window) :])
        assert ring.token_count() >= 16
    assert reads < 10_000


# --- finalisers that call back


# The ring that finalisers call, while there is one.
called: list[MessageRing[Any]] = []


class Dying(Message):
    """A message that puts another one when it goes."""

    gone = 0

    def __del__(self) -> None:
        Dying.gone += 1
        for ring in called:
            ring.put(Message("user", "last will"))
            ring.get()


class DyingText(str):
    """A content that does the same. The ring keeps it for as long as it keeps its count."""

    gone = 0

    def __del__(self) -> None:
        DyingText.gone += 1
        for ring in called:
            ring.put(Message("user", "last words"))
            ring.get()


def pop(ring: MessageRing[Any]) -> None:
    for _ in range(20):
        ring.pop()


def delete(ring: MessageRing[Any]) -> None:
    for _ in range(10):
        ring.delete(10)


def change(ring: MessageRing[Any]) -> None:
    for message in ring.get_all()[10:]:
        message.content = "other"
    ring.get()
    assert DyingText.gone
    ring.reset()


def collect(_ring: MessageRing[Any]) -> None:
    cycle = Dying("user", DyingText("cycle"))
    cycle.role = [cycle]
    del cycle
    gc.collect()


def drop_another(_ring: MessageRing[Any]) -> None:
    other: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    other.put_messages([Dying("user", DyingText("dying")) for _ in range(10)])
    assert len(other.get()) == 10


LEAVE: dict[str, Callable[[MessageRing[Any]], object]] = {
    "pop": pop,
    "delete": delete,
    "reset": lambda ring: ring.reset(),
    "set": lambda ring: ring.set([Message("user", "new")]),
    "evict": lambda ring: ring.put_messages([Message("user", "new")] * 25),
    "change": change,
    "collect": collect,
    "drop another": drop_another,
}


@pytest.mark.parametrize("counter", ["cl100k_base", words])
@pytest.mark.parametrize("leave", LEAVE)
def test_finalisers_that_call_back(counter: Any, leave: str) -> None:
    Dying.gone = DyingText.gone = 0
    ring: MessageRing[Any] = MessageRing(1_000, counter, max_messages=20, measure="text")
    ring.put_messages([Message("user", "first") for _ in range(10)])
    ring.put_messages([Dying("user", DyingText("dying")) for _ in range(10)])
    assert len(ring.get()) == 20
    called.append(ring)
    try:
        LEAVE[leave](ring)
        assert Dying.gone
        assert DyingText.gone
        messages = ring.get_all()
        assert 1 <= len(messages) <= 20
        assert same_objects(ring.get(), messages)
        joined = " ".join(message.content for message in messages)
        assert ring.token_count() == TokenCounter(counter).count(joined)
    finally:
        called.clear()


@pytest.mark.parametrize("leave", ["reset", "set", "set_head"])
def test_many_messages_that_leave_let_others_run(leave: str) -> None:
    role = "system" if leave == "set_head" else "user"
    ring: MessageRing[Any] = MessageRing()
    gc.disable()  # making so many objects would take ten times as long
    ring.put_messages([{"role": role, "content": "", "more": [[], [], []]} for _ in range(400_000)])
    gc.enable()
    work = ring.reset if leave == "reset" else partial(getattr(ring, leave), [])
    assert tenths_with_turns(work) >= 3
    assert len(ring) == 0
