"""Rings whose measures, formats, counters and messages' properties change them, from one thread and from several.

As `test_reentrancy.py`, for measures where a message costs the same at every position. Nothing may panic or
hang, and whatever happened, a ring that rests answers by the rule.
"""

import contextlib
import faulthandler
import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from chatring import MessageRing
from chatring._core import _is_plain
from profiles import LONG
from reading import Envelope, read
from reference import Count, Measure, first_fit, is_whole, message_measure, same_objects, sums
from threads import run_all

RINGS = 20_000 if LONG else 500
LIMITS = (*range(1, 40, 3), 50, 80, 1_000)
TEXTS = ("", "", "a b c", "x" * 30, " ", "word word word word", "q")
ROLES = ("user", "assistant", "tool", "critic")


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """End the process if a lock is never given back: a thread that waits with the GIL held cannot be timed out."""
    stderr = os.dup(2)
    faulthandler.dump_traceback_later(600, exit=True, file=stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(stderr)


class Stop(Exception):  # noqa: N818
    """What is raised from within."""


class Computed:
    """A message whose content is a new string at each access, and who does something before it is there."""

    def __init__(self, world: "World", role: str, text: str) -> None:
        self.world, self.role, self.text = world, role, text

    @property
    def content(self) -> str:
        self.world.interrupt()
        return "".join(list(self.text))


class World:
    """A ring, and whatever of it calls back: a measure, a format, a counter, properties."""

    def __init__(self, seed: int) -> None:
        self.rng, self.depths, self.awake = random.Random(seed), threading.local(), False
        self.kind = self.rng.choice(("message", "callable", "format"))
        self.counter: Any = self.rng.choice((self.words, "o200k_base"))
        self.ring: MessageRing[Any] = MessageRing(
            20,
            self.counter,
            measure=self.measure if self.kind == "callable" else "message",
            format=self if self.kind == "format" else None,
            max_messages=self.rng.choice((None, 1, 2, 3, 4, 8)),
            start_on=None,
            include_system=False,
        )
        self.ring.put_messages([self.message() for _ in range(self.rng.randrange(10))])
        self.awake = True

    def words(self, text: str) -> list[str]:
        self.interrupt()
        return text.split()

    def measure(self, message: Any) -> int:
        self.interrupt()
        return by_first_text(message)

    def read(self, envelope: Envelope) -> Any:
        self.interrupt()
        return envelope.message

    def interrupt(self) -> None:
        depth = getattr(self.depths, "depth", 0)
        if self.awake and depth < 2 and self.rng.random() < 0.15:
            if self.rng.random() < 0.1:
                raise Stop
            self.depths.depth = depth + 1
            try:
                self.change()
            finally:
                self.depths.depth = depth

    def text(self) -> str:
        return self.rng.choice(TEXTS)

    def message(self) -> Any:
        role, text = self.rng.choice(ROLES), self.text()
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": text}}}
        message = self.rng.choice(
            (
                {"role": role, "content": text},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": role, "content": [{"type": "text", "text": text}, {"type": "tool_result", "content": text}]},
                {"role": "model", "parts": [{"text": text}, {"functionCall": {"name": "g", "args": {"b": text}}}]},
                {"type": "function_call_output", "call_id": "1", "output": text},
                SimpleNamespace(role=role, content=text),
                Computed(self, role, text),
            )
        )
        return Envelope(message) if self.kind == "format" else message

    def edit(self, message: Any) -> None:
        if isinstance(message, Envelope):
            message = message.message
        if isinstance(message, Computed):
            message.text = self.text()
        elif isinstance(message, SimpleNamespace):
            message.content = self.text()
        elif "output" in message:
            message["output"] = self.text()
        elif "parts" in message:
            message["parts"] = [{"text": self.text()}]
        elif message.get("tool_calls"):
            message["tool_calls"][0]["function"]["arguments"] = {"a": self.text()}
        else:
            message["content"] = self.rng.choice((self.text(), [self.text()]))

    def change(self) -> None:
        """Do one thing to the ring that what is being counted may depend on."""
        rng, ring = self.rng, self.ring
        with contextlib.suppress(IndexError):
            match rng.randrange(14):
                case 0 | 1:
                    ring.put(self.message())
                case 2 | 3:
                    ring.put_messages([self.message() for _ in range(rng.randrange(5))])
                case 4 | 5 | 6:
                    messages = ring.get_all()
                    for message in rng.sample(messages, min(2, len(messages))):
                        self.edit(message)
                case 7:
                    ring.get(token_limit=rng.choice((1, 1, 6, 20, 1_000)))
                case 8:
                    for other in (str.split, list, "gpt2", "cl100k_base", len_as_list):
                        ring.get(counter=other, token_limit=20)
                case 9:
                    ring.recount()
                case 10:
                    ring.set(ring.get_all()[rng.randrange(2) :])
                case 11:
                    ring.token_count()
                case 12:
                    ring.delete(rng.randrange(-4, 4))
                case _:
                    ring.pop()
                    ring.put(self.message())

    def work(self) -> None:
        for _ in range(self.rng.randrange(1, 15)):
            with contextlib.suppress(Stop):
                self.change()

    def assert_right(self) -> None:
        """Check the windows of the ring, which rests now. Edits of what is not verified are seen by `recount`."""
        self.awake = False
        if self.kind != "message":
            self.ring.recount()
        messages = self.ring.get_all()
        opened = [message.message if isinstance(message, Envelope) else message for message in messages]
        starts = [read(message).may_start for message in opened]
        for counter, count in ((self.counter, COUNTS[self.counter == "o200k_base"]), (str.split, COUNTS[0])):
            measure: Measure = by_first_text if self.kind == "callable" else message_measure(count)
            totals = sums([measure(message) for message in opened])
            assert self.ring.token_count(counter=counter) == (totals[0] if totals else 0)
            for limit in LIMITS if messages else ():
                window = self.ring.get(counter=counter, token_limit=limit)
                start = first_fit(totals, starts, limit, is_whole=is_whole(self.ring))
                assert same_objects(window, messages[start:]), limit


def by_first_text(message: Any) -> int:
    texts = read(message).texts
    return len(texts[0]) if texts else 0


def len_as_list(text: str) -> range:
    return range(len(text))


O200K: MessageRing[Any] = MessageRing(start_on=None, include_system=False)
COUNTS: tuple[Count, Count] = (
    lambda text: len(text.split()),
    lambda text: O200K.count({"role": "user", "content": text}) - 4,
)


def test_whatever_calls_back_at_random() -> None:
    for seed in range(RINGS):
        world = World(seed)
        world.work()
        world.assert_right()


@pytest.mark.usefixtures("hectic")
def test_whatever_calls_back_in_three_threads() -> None:
    for seed in range(RINGS // 3):
        world = World(seed)
        run_all(*[world.work] * 3)
        world.assert_right()


@pytest.mark.parametrize("kind", ["measure", "format"])
def test_what_asks_its_ring_for_ever_is_a_recursion_error(kind: str) -> None:
    ring: MessageRing[Any]

    class Asking:
        def __call__(self, message: Any) -> int:
            ring.get()
            return 1

        def read(self, message: Any) -> Any:
            if len(ring):
                ring.get()
            return message

    asking = Asking()
    ring = (
        MessageRing(measure=asking, start_on=None, include_system=False)
        if kind == "measure"
        else MessageRing(format=asking, start_on=None, include_system=False)
    )
    ring.put({"role": "user", "content": "one"})
    with pytest.raises(RecursionError):
        ring.get()
    assert len(ring.get_all()) == 1


def test_a_measure_that_empties_the_ring() -> None:
    def measure(message: Any) -> int:
        ring.reset()
        return 1

    ring: MessageRing[Any] = MessageRing(20, measure=measure, start_on=None, include_system=False)
    ring.put_messages([{"role": "user", "content": "one"}] * 50)
    assert ring.get() == []
    assert len(ring) == 0


def test_a_measure_that_changes_the_history_at_each_call() -> None:
    # The answer is of one moment, and the ring works as before.
    message = {"role": "user", "content": "one"}
    busy = True

    def measure(message: Any) -> int:
        if busy:
            ring.put(message)
            ring.pop()
        return 4

    ring: MessageRing[Any] = MessageRing(20, measure=measure, start_on=None, include_system=False)
    ring.put_messages([message] * 3_000)
    assert ring.get() == [message] * 5
    busy = False
    assert ring.get() == [message] * 5
    assert ring.token_count() == 12_000


@pytest.fixture
def meddle() -> Iterator[Callable[[dict[Any, Any]], None]]:
    """Let every collection change a dict, and let it run as often as it can."""
    changed: list[dict[Any, Any]] = []

    def change(phase: str, _: object) -> None:
        for each in changed if phase == "start" else ():
            each[f"new {len(each)}"] = 1

    thresholds = gc.get_threshold()
    gc.callbacks.append(change)
    gc.set_threshold(1, 1_000, 1_000)
    yield changed.append
    changed.clear()
    gc.set_threshold(*thresholds)
    gc.callbacks.remove(change)


def with_invalid_keys(**fields: Any) -> dict[str, Any]:
    """Return fields with keys that are not valid Unicode, where asking for their characters makes an exception."""
    return {**fields, **{f"\ud800{number}": number for number in range(30)}}


# Up to Python 3.11 a collection may run whenever an object is made, also within native code.
@pytest.mark.parametrize("make", [lambda fields: fields, lambda fields: {"role": "user", "content": [fields]}])
def test_a_collection_that_changes_a_message_while_it_is_read(
    meddle: Callable[[dict[Any, Any]], None], make: Callable[[dict[str, Any]], Any]
) -> None:
    fields = with_invalid_keys(role="user", content="Hi")
    ring: MessageRing[Any] = MessageRing(1_000)
    meddle(fields)
    for _ in range(50):
        ring.put(make(fields))
        ring.get()
    assert len(ring) == 50


def test_a_collection_that_changes_a_message_while_it_is_copied(meddle: Callable[[dict[Any, Any]], None]) -> None:
    types = pytest.importorskip("llama_index.core.llms")
    pytest.importorskip("chatring.llama_index")
    message = types.ChatMessage(role="user", content="Hi", additional_kwargs={str(number): {} for number in range(50)})
    assert _is_plain(message)
    meddle(message.additional_kwargs)
    for _ in range(50):
        assert _is_plain(message)


def test_an_attribute_that_changes_the_state_it_comes_from() -> None:
    class Meddling(MessageRing[Any]):
        __slots__ = ("one", "two")

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            in_slots[f"{name} {len(in_slots)}"] = value

    ring: Any = Meddling()
    *state, in_slots = ring.__getstate__()
    in_slots.update(one=1, two=2)
    ring.__setstate__((*state, in_slots))
    assert (ring.one, ring.two) == (1, 2)


def test_messages_that_are_replaced_while_they_are_counted_again() -> None:
    class Replacing:
        replaces = False

        def read(self, message: dict[str, Any]) -> dict[str, Any]:
            if self.replaces:
                self.replaces = False
                ring.set(others)
            return message

    many = 100_000
    reader = Replacing()
    ring: MessageRing[Any] = MessageRing(format=reader)
    ring.put_messages([{"role": "user", "content": ""} for _ in range(many)])
    others = [{"role": "assistant", "content": ""} for _ in range(many)]
    began = time.thread_time()
    ring.set(ring.get_all())
    ring.recount()
    alone = time.thread_time() - began
    reader.replaces = True
    began = time.thread_time()
    ring.recount()
    assert time.thread_time() - began < 10 * alone  # it was 60 times as long
    assert same_objects(ring.get_all(), others)
