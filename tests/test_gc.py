"""Cycles through a ring are collected, and nothing is kept without need."""

import copy
import gc
import sys
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chatring import MessageRing, TokenCounter
from profiles import slow
from reference import Message


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects() -> Iterator[None]:
    """Let collections here not walk the objects of all modules, which takes most of a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_automatic_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Session(MessageRing[Any]):
    pass


class Tokenizer:
    owner: Any

    def __call__(self, text: str) -> list[str]:
        return text.split()

    encode = __call__


class Text(str):
    """A content that can be part of a cycle."""

    owner: Any


def message_with_ring(counted: bool) -> MessageRing[Any]:
    ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    message = Message("user", "one")
    message.ring = ring  # type: ignore[attr-defined]
    ring.put(message)
    if counted:
        ring.get()
    return ring


def ring_in_itself(counted: bool) -> MessageRing[Any]:
    ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    ring.put({"role": "user", "content": "one", "ring": ring})
    if counted:
        ring.get()
    return ring


def counter_with_ring(counted: bool) -> MessageRing[Any]:
    tokenizer = Tokenizer()
    ring: MessageRing[Any] = MessageRing(10, tokenizer, measure="text")
    tokenizer.owner = ring
    ring.put(Message("user", "one"))
    if counted:
        ring.get()
    return ring


def method_with_ring(counted: bool) -> MessageRing[Any]:
    tokenizer = Tokenizer()
    ring: MessageRing[Any] = MessageRing(10, tokenizer.encode, measure="text")
    tokenizer.owner = ring
    ring.put(Message("user", "one"))
    if counted:
        ring.get()
    return ring


def closure_with_ring(counted: bool) -> MessageRing[Any]:
    def counter(text: str) -> list[str]:
        return text.split() if len(ring) else []

    ring: MessageRing[Any] = MessageRing(10, counter, measure="text")
    ring.put(Message("user", "one"))
    if counted:
        ring.get()
    return ring


def ledger_with_ring(counted: bool) -> MessageRing[Any]:
    """Only the ledger knows the counter."""
    tokenizer = Tokenizer()
    ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    tokenizer.owner = ring
    ring.put(Message("user", "one"))
    if counted:
        ring.get(counter=tokenizer)
    return ring


def content_with_ring(counted: bool) -> MessageRing[Any]:
    """The message has another content now: only the ledger has the one that was counted."""
    ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    text = Text("one")
    text.owner = ring
    message = Message("user", text)
    ring.put(message)
    if counted:
        ring.get()
        message.content = "other"
    return ring


def subclass_in_itself(counted: bool) -> MessageRing[Any]:
    session = Session(counter="cl100k_base", measure="text")
    session.itself = session  # type: ignore[attr-defined]
    if counted:
        session.put(Message("user", "one"))
        session.get()
    return session


def two_rings(counted: bool) -> MessageRing[Any]:
    first: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    second: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    first.put({"role": "user", "content": "one", "other": second})
    second.put({"role": "user", "content": "one", "other": first})
    if counted:
        first.get()
        second.get()
    return first


class Owner:
    """A measure, and a format, that knows whose it is."""

    owner: Any

    def __call__(self, message: Any) -> int:
        return len(message["content"])

    measure = __call__

    def read(self, message: Any) -> Any:
        return message


def ring_of(owner: Owner, *, as_format: bool = False, as_method: bool = False) -> MessageRing[Any]:
    measure: Any = "message" if as_format else owner.measure if as_method else owner
    ring: MessageRing[Any] = MessageRing(measure=measure, format=owner if as_format else None)
    ring.put({"role": "user", "content": "one"})
    return ring


def measure_with_ring(counted: bool) -> MessageRing[Any]:
    owner = Owner()
    owner.owner = ring = ring_of(owner)
    if counted:
        ring.get()
    return ring


def measure_method_with_ring(counted: bool) -> MessageRing[Any]:
    owner = Owner()
    owner.owner = ring = ring_of(owner, as_method=True)
    if counted:
        ring.get(counter=Tokenizer())
    return ring


def format_with_ring(counted: bool) -> MessageRing[Any]:
    owner = Owner()
    owner.owner = ring = ring_of(owner, as_format=True)
    if counted:
        ring.get()
        ring.get(counter=Tokenizer())
    return ring


def measure_with_a_copy(counted: bool) -> MessageRing[Any]:
    """Ledgers of a copy have policies of their own."""
    owner = Owner()
    ring = ring_of(owner)
    if counted:
        for source in (Tokenizer(), "gpt2", "o200k_base"):
            ring.get(counter=source)
    owner.owner = copied = copy.copy(ring)
    if counted:
        copied.get()
        copied.get(counter=Tokenizer())
    return copied


def ledgers_with_ring(counted: bool) -> MessageRing[Any]:
    """Every ledger that a ring keeps, and one that it does not keep any more, is in the cycle."""
    owner = Owner()
    owner.owner = ring = ring_of(owner)
    if counted:
        for _ in range(5):
            tokenizer = Tokenizer()
            tokenizer.owner = ring
            ring.get(counter=tokenizer)
    return ring


def arguments_with_ring(counted: bool) -> MessageRing[Any]:
    """The message has other arguments now: only the ledger has those that were counted."""
    ring: MessageRing[Any] = MessageRing()
    arguments = {"text": Text("one")}
    arguments["text"].owner = ring
    message = {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": arguments}]}
    ring.put(message)
    if counted:
        ring.get()
        message["content"] = "other"
    return ring


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        measure_with_ring,
        measure_method_with_ring,
        format_with_ring,
        measure_with_a_copy,
        ledgers_with_ring,
        arguments_with_ring,
        message_with_ring,
        ring_in_itself,
        counter_with_ring,
        method_with_ring,
        closure_with_ring,
        ledger_with_ring,
        content_with_ring,
        subclass_in_itself,
        two_rings,
    ],
)
def test_a_cycle_is_collected(make: Callable[[bool], MessageRing[Any]], counted: bool) -> None:
    ring = weakref.ref(make(counted))
    # Alive until it is collected, or there would be no cycle to test: this one has its cycle only once it was counted.
    assert (ring() is not None) == (counted or make is not ledger_with_ring)
    gc.collect()
    assert ring() is None


@pytest.mark.parametrize("as_method", [False, True])
def test_a_cycle_of_a_counter_and_its_callable_is_collected(as_method: bool) -> None:
    tokenizer = Tokenizer()
    counter = TokenCounter(tokenizer.encode if as_method else tokenizer)
    tokenizer.owner = counter
    gone = weakref.ref(tokenizer), weakref.ref(counter)
    del tokenizer, counter
    assert all(reference() is not None for reference in gone)
    gc.collect()
    assert not any(reference() for reference in gone)


def test_what_is_in_use_is_not_collected() -> None:
    rings = [make(True) for make in (message_with_ring, counter_with_ring, subclass_in_itself, two_rings)]
    gc.collect()
    for ring in rings:
        assert len(ring.get()) == 1
        assert ring.token_count() == 1


def test_the_collector_sees_all_that_a_ring_holds() -> None:
    tokenizer, other = Tokenizer(), Tokenizer()
    ring: MessageRing[Any] = MessageRing(10, tokenizer, measure="text")
    messages = [Message("user", Text(word)) for word in ("one", "two")]
    ring.put_messages(messages)
    ring.get()
    ring.get(counter=other)
    referents = gc.get_referents(ring)
    counters = [referent for referent in referents if isinstance(referent, TokenCounter)]
    assert {id(message) for message in messages} <= {id(referent) for referent in referents}
    assert {id(message.content) for message in messages} <= {id(referent) for referent in referents}
    callables = [held for counter in counters for held in gc.get_referents(counter) if held is not TokenCounter]
    assert {id(held) for held in callables} == {id(tokenizer), id(other)}
    assert gc.is_tracked(ring)


@pytest.mark.parametrize("as_format", [False, True])
def test_the_collector_is_shown_each_reference_once(as_format: bool) -> None:
    # One more, and an object that is in use is taken for garbage; one less, and a cycle through it stays forever.
    owner, tokenizers = Owner(), [Tokenizer() for _ in range(6)]
    base = sys.getrefcount(owner)

    def check(*rings: MessageRing[Any], policies: int) -> None:
        shown = Counter(id(referent) for ring in rings for referent in gc.get_referents(ring))
        assert shown[id(owner)] == sys.getrefcount(owner) - base == policies
        messages = rings[0].get_all()
        for message in messages:
            assert shown[id(message)] == sys.getrefcount(message) - 3  # the list, the name and the argument

    ring = ring_of(owner, as_format=as_format)
    check(ring, policies=1)
    ring.get()
    check(ring, policies=1)  # the ring's own ledger has the ring's own policy
    for number, tokenizer in enumerate(tokenizers):
        ring.get(counter=tokenizer)
        check(ring, policies=1 + min(number + 1, 4))
    ring.get()
    check(ring, policies=1 + 3)
    copied = copy.copy(ring)
    check(copied, ring, policies=4 + 5)
    copied.get()
    copied.recount()
    copied.get(counter=tokenizers[0])
    check(copied, ring, policies=4 + 2)
    del copied
    check(ring, policies=4)
    ring.set(ring)
    ring.put({"role": "user", "content": "two"})
    ring.get()
    check(ring, policies=4)
    ring.reset()
    check(ring, policies=1)
    del ring
    assert sys.getrefcount(owner) == base


@pytest.mark.parametrize("as_format", [False, True])
def test_a_collection_during_a_search_takes_nothing(as_format: bool) -> None:
    class Collecting(Owner):
        def __call__(self, message: Any) -> int:
            gc.collect()
            assert self.owner.get_all()[-1] is message
            return 1

        def read(self, message: Any) -> Any:
            gc.collect()
            return message

    owner = Collecting()
    owner.owner = ring = ring_of(owner, as_format=as_format)
    owner.itself = owner  # type: ignore[attr-defined]
    for source in ("o200k_base", Tokenizer(), "o200k_base"):
        assert len(ring.get(counter=source)) == 1
        assert len(copy.copy(ring).get(counter=source)) == 1
        ring.recount()


def test_references_are_given_back() -> None:
    message = Message("user", "a text that nobody else has: " + str(id(object())))
    tokenizer = Tokenizer()
    base = sys.getrefcount(message), sys.getrefcount(message.content), sys.getrefcount(tokenizer)

    def counts() -> tuple[int, int, int]:
        return sys.getrefcount(message), sys.getrefcount(message.content), sys.getrefcount(tokenizer)

    def work(ring: MessageRing[Any]) -> None:
        for _ in range(5):
            ring.put(message)
            ring.put_messages([message] * 7)
            ring.get()
            ring.get(counter=tokenizer)
            ring.get(token_limit=1, verify=False)
            ring.token_count(counter="gpt2")
            ring.pop()
            ring.delete(0)
            list(ring)
            ring[1:3]
            ring.set([message] * 9)
            ring.recount()
            ring.get()

    ring: MessageRing[Any] = MessageRing(30, counter="cl100k_base", measure="text")
    work(ring)
    assert counts()[0] == base[0] + 9
    ring.reset()
    assert counts() == base
    work(ring)
    del ring
    assert counts() == base

    bounded: MessageRing[Any] = MessageRing(30, tokenizer, max_messages=4, measure="text")
    for _ in range(100):
        bounded.put(message)
        bounded.get()
    assert counts()[0] == base[0] + 4
    bounded.put_messages([Message("user", "other")] * 4)
    assert counts()[:2] == base[:2]
    del bounded
    assert counts() == base


def test_references_are_given_back_after_errors() -> None:
    message = Message("user", "a text that nobody else has: " + str(id(object())))
    base = sys.getrefcount(message), sys.getrefcount(message.content)

    def failing(text: str) -> list[str]:
        raise LookupError

    ring: MessageRing[Any] = MessageRing(30, counter="cl100k_base", measure="text")
    for _ in range(20):
        with pytest.raises(TypeError):
            ring.put_messages([message, message, 5])
        ring.put(message)
        with pytest.raises(LookupError):
            ring.get(counter=failing)
        ring.pop()
    assert (sys.getrefcount(message), sys.getrefcount(message.content)) == base


@slow
@pytest.mark.parametrize("max_messages", [None, 50])
def test_memory_does_not_grow(max_messages: int | None) -> None:
    ring: MessageRing[Any] = MessageRing(100, max_messages=max_messages, counter="cl100k_base", measure="text")

    def work() -> None:
        for number in range(200):
            ring.put(Message("user", f"message {number}"))
            ring.get()
            ring.get(counter=Tokenizer())
        ring.token_count()
        ring.reset()

    work()
    gc.collect()
    tracemalloc.start()
    try:
        work()
        gc.collect()
        before, objects = tracemalloc.get_traced_memory()[0], len(gc.get_objects())
        for _ in range(15):
            work()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        more = len(gc.get_objects()) - objects
    finally:
        tracemalloc.stop()
    # 3,000 messages and as many counters came and went; the interpreter's own free lists take some kilobytes.
    assert more < 20
    assert grown < 50_000
