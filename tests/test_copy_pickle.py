"""Pickling and copying: the same messages and arguments, and no tie between the two rings."""

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import chatring
import pytest
from chatring import MessageRing, TokenCounter, Window, trim_messages
from reference import Message, same_objects

Copy = Callable[[Any], Any]


def pickled(protocol: int) -> Copy:
    return lambda ring: pickle.loads(pickle.dumps(ring, protocol))


COPIES: dict[str, Copy] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {protocol}": pickled(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.fixture(params=COPIES)
def make_copy(request: pytest.FixtureRequest) -> Copy:
    return COPIES[request.param]


def words(text: str) -> list[str]:
    return text.split()


class Session(MessageRing[Any]):
    """A subclass with attributes of its own."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.label = "made anew"

    @property
    def longest(self) -> int:
        return max(len(message.content) for message in self)


def contents(ring: MessageRing[Any]) -> list[tuple[Any, Any]]:
    return [(message.role, message.content) for message in ring]


def messages() -> list[Message]:
    roles = ("user", "assistant", "tool", "assistant")
    return [Message(roles[number % 4], f"message {number}" if number % 5 else None) for number in range(40)]


@pytest.mark.parametrize("counter", ["cl100k_base", "gpt2", words, str.split, functools.partial(str.split, sep="e")])
@pytest.mark.parametrize("max_messages", [None, 7, 1])
@pytest.mark.parametrize("counted", [False, True])
def test_a_copy_answers_alike(make_copy: Copy, counter: Any, max_messages: int | None, counted: bool) -> None:
    ring: MessageRing[Message] = MessageRing(50, counter, max_messages=max_messages, measure="text")
    ring.put_messages(messages())
    if counted:
        ring.get()
    other = make_copy(ring)
    assert type(other) is MessageRing
    assert other is not ring
    assert (other.token_limit, other.max_messages) == (50, max_messages)
    assert other.counter.name == ring.counter.name
    assert other.counter.is_native == ring.counter.is_native
    if not isinstance(counter, functools.partial):
        assert other.counter == ring.counter
    assert contents(other) == contents(ring)
    for limit in (1, 5, 20, 50, 500):
        assert len(other.get(token_limit=limit)) == len(ring.get(token_limit=limit))
    assert other.token_count() == ring.token_count()
    assert repr(other) == repr(ring)


def test_a_copy_shares_its_messages_and_a_deep_copy_does_not() -> None:
    ring: MessageRing[Message] = MessageRing(counter="cl100k_base", measure="text")
    ring.put_messages(messages())
    assert same_objects(copy.copy(ring), ring)
    deep = copy.deepcopy(ring)
    assert not {id(message) for message in deep} & {id(message) for message in ring}
    deep[1].content = "changed"
    assert ring[1].content == "message 1"


def test_the_two_are_independent(make_copy: Copy) -> None:
    ring: MessageRing[Message] = MessageRing(1_000, max_messages=50, counter="cl100k_base", measure="text")
    ring.put_messages(messages())
    ring.get()
    other = make_copy(ring)
    for changed, kept in ((ring, other), (other, ring)):
        before = kept.get_all()
        tokens = kept.token_count()
        changed.put(Message("user", "more"))
        changed.pop()
        changed.delete(3)
        changed.put_messages(messages())
        assert 48 <= len(changed) <= 50  # a result whose call has left goes with it
        assert same_objects(kept, before)
        changed.reset()
        assert same_objects(kept, before)
        assert kept.token_count() == tokens
        assert same_objects(kept.get(), before)


def test_an_empty_ring(make_copy: Copy) -> None:
    other = make_copy(MessageRing(7, "gpt2", max_messages=3, measure="text"))
    assert (other.token_limit, other.counter.name, other.max_messages, len(other)) == (7, "gpt2", 3, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"measure": "text", "max_messages": 3},
        {"token_limit": 70, "start_on": None, "include_system": False, "retention_ratio": 0.5, "format": "anthropic"},
    ],
)
def test_a_new_ring_like_another_shares_its_policy_and_has_no_messages(arguments: dict[str, Any]) -> None:
    ring: MessageRing[Any] = MessageRing(counter="gpt2", **arguments)
    ring.put_messages(messages())
    ring.token_count()
    new = ring._new_like()
    assert new.__getnewargs_ex__() == ring.__getnewargs_ex__()
    assert new.counter is ring.counter
    assert (len(new), new.token_count()) == (0, 0)
    new.put_messages(messages())
    assert contents(new) == contents(ring)
    assert new.token_count() == ring.token_count()
    ring.reset()
    assert len(new) > 0


def test_a_subclass_keeps_its_attributes(make_copy: Copy) -> None:
    session = Session(9, max_messages=5, counter="cl100k_base", measure="text")
    session.label = "kept"
    session.extra = {"key": ["value"]}  # type: ignore[attr-defined]
    session.put_messages([Message("user", "one"), Message("user", "three")])
    other = make_copy(session)
    assert type(other) is Session
    assert vars(other) == {"label": "kept", "extra": {"key": ["value"]}}
    assert other.longest == 5
    assert (other.token_limit, other.max_messages) == (9, 5)
    other.label = "other"
    assert session.label == "kept"


class Slotted(MessageRing[Any]):
    """A subclass whose attributes are in slots, one of them under a mangled name."""

    __slots__ = ("__secret", "label", "missing")

    def hide(self, secret: object) -> None:
        self.__secret = secret

    def secret(self) -> object:
        return self.__secret


class SlottedAndMore(Slotted):
    """One that adds a slot, and a dict."""

    __slots__ = ("__dict__", "more")


@pytest.mark.parametrize("kind", [Slotted, SlottedAndMore])
def test_a_subclass_keeps_what_is_in_its_slots(make_copy: Copy, kind: type[Any]) -> None:
    ring = kind(9, max_messages=5)
    ring.label = ["kept"]
    ring.hide("a secret")
    if kind is SlottedAndMore:
        ring.more, ring.in_the_dict = 1, 2
    ring.put(Message("user", "one"))
    other = make_copy(ring)
    assert type(other) is kind
    assert (other.label, other.secret(), len(other)) == (["kept"], "a secret", 1)
    assert not hasattr(other, "missing")
    if kind is SlottedAndMore:
        assert (other.more, other.in_the_dict) == (1, 2)
    other.label = "other"
    assert ring.label == ["kept"]


class Picky(MessageRing[Any]):
    """A subclass that refuses an attribute."""

    __slots__ = ("__dict__", "label", "other")

    def __setattr__(self, name: str, value: object) -> None:
        if value == "refused":
            raise AttributeError(f"{name} is refused")
        super().__setattr__(name, value)


def test_a_state_that_a_class_refuses_changes_nothing() -> None:
    ring: Any = Picky(9)
    ring.label, ring.in_dict = "before", "before"
    ring.put(Message("user", "one"))
    *state, in_dict, in_slots = ring.__getstate__()
    others = [{"label": "after", "unknown": "refused"}, {"other": "after", "label": "refused"}]
    for refused in others:
        version, _, _, place = state
        with pytest.raises(AttributeError):
            ring.__setstate__((version, messages()[:2], b"\x09\x09", place, {"in_dict": "after", "new": 1}, refused))
        assert contents(ring) == [("user", "one")]
        assert (ring.label, hasattr(ring, "other"), vars(ring)) == ("before", False, {"in_dict": "before"})
    damaged = (5, *state[3][1:])
    with pytest.raises(ValueError, match="is damaged"):
        ring.__setstate__((*state[:3], damaged, {"new": 1}, {"other": "after"}))
    assert (ring.label, hasattr(ring, "other"), vars(ring)) == ("before", False, {"in_dict": "before"})
    ring.__setstate__((*state, in_dict, {**in_slots, "other": "after"}))
    assert (ring.label, ring.other, vars(ring)) == ("before", "after", {"in_dict": "before"})


class Named(MessageRing[Any]):
    """A subclass that is made from other arguments, and says from which."""

    name: str

    def __new__(cls, name: str, limit: int = 9) -> "Named":
        ring: Any = super().__new__(cls, limit)
        ring.name = name
        assert isinstance(ring, cls)
        return ring

    def __init__(self, *_: object) -> None:
        pass

    def __getnewargs_ex__(self) -> Any:
        return (self.name, self.token_limit), {}


def test_a_subclass_with_other_arguments_says_which(make_copy: Copy) -> None:
    ring = Named("mine", 5)
    ring.put(Message("user", "one"))
    other = make_copy(ring)
    assert (type(other), other.name, other.token_limit, len(other)) == (Named, "mine", 5, 1)


@pytest.mark.parametrize("how", [name for name in COPIES if name != "copy"])
def test_a_cycle_of_ring_and_message(how: str) -> None:
    ring: MessageRing[Any] = MessageRing(9, counter="cl100k_base", measure="text")
    message = Message("user", "one")
    message.ring = ring  # type: ignore[attr-defined]
    ring.put_messages([message, message])
    other = COPIES[how](ring)
    assert len(other) == 2
    assert other[0] is other[1]
    assert other[0] is not message
    assert other[0].ring is other
    assert other.token_count() == ring.token_count()


@pytest.mark.parametrize("how", [name for name in COPIES if name != "copy"])
def test_a_cycle_through_an_attribute(how: str) -> None:
    session = Session(counter="cl100k_base", measure="text")
    session.itself = session  # type: ignore[attr-defined]
    session.put(Message("user", "one"))
    other = COPIES[how](session)
    assert other.itself is other
    assert other is not session
    assert len(other) == 1


@pytest.mark.parametrize("how", [name for name in COPIES if name != "copy"])
def test_what_is_shared_stays_shared(how: str) -> None:
    message = Message("user", "one")
    first: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    second: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    first.put(message)
    second.put(message)
    one, two, three = COPIES[how]([first, second, first])
    assert one is three
    assert one[0] is two[0]


def test_a_copy_keeps_the_counter_itself() -> None:
    ring: MessageRing[Message] = MessageRing(9, lambda text: text, measure="text")
    assert copy.copy(ring).counter is ring.counter
    assert copy.deepcopy(ring).counter is ring.counter


def test_what_cannot_be_pickled_says_so() -> None:
    ring: MessageRing[Message] = MessageRing(9, lambda text: text, measure="text")
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(ring)
    other: MessageRing[Any] = MessageRing(9, counter="cl100k_base", measure="text")
    other.put(Message("user", "fine"))
    other[0].lock = (number for number in range(3))
    with pytest.raises(TypeError, match="generator"):
        pickle.dumps(other)
    assert len(ring.get()) == 0
    assert len(other.get()) == 1


def test_a_state_that_is_none_of_ours_is_refused() -> None:
    ring: Any = MessageRing(counter="cl100k_base", measure="text")
    ring.put(Message("user", "one"))
    version, kept, flags, place, attributes, in_slots = ring.__getstate__()
    states: list[Any] = [None, 5, [], ([],), ([5], None), ([{"role": "user"}], None), (), (version,)]
    states += [(kept, flags, attributes), (version, kept, flags, attributes), (version, kept, flags, place, None, None)]
    states += [(version, kept, flags, [], {}), (version, kept, [1], None, {}), (version, kept, "t", None, {})]
    states += [
        (version, tuple(kept), flags, place, None, {}),
        (version, kept, flags, place, attributes, in_slots, None),
        (version, kept, flags, (5, None, 0, True, None, None), attributes, in_slots),
        (version, kept, flags, (5, None, 0, True, None, None, None), attributes, in_slots),
        (version, kept, flags, (2**64 - 1, 0, 1, False, None, None, None), attributes, in_slots),
        (version, kept, flags, (0, 3, 2, True, None, None, None), attributes, in_slots),
        (version, kept, flags, (0, None, 2**63, True, None, None, None), attributes, in_slots),
    ]
    for state in states:
        with pytest.raises((TypeError, ValueError)):
            ring.__setstate__(state)
    for other in (version + 1, 0, -1, "1", None):
        with pytest.raises(ValueError, match="begins with its version, 2; this one was made by another release"):
            ring.__setstate__((other, kept, flags, place, attributes, in_slots))
    assert contents(ring) == [("user", "one")]
    ring.__setstate__((version, kept * 2, flags * 2, place, attributes, in_slots))
    assert contents(ring) == [("user", "one")] * 2


@pytest.mark.parametrize("outlines", [b"", b"\x09", b"\x09" * 2, b"\x09" * 4, b"\x09\x09\x10", b"\x09\xff\x09"])
def test_a_damaged_state_is_refused(outlines: bytes) -> None:
    class Labelled(MessageRing[Any]):
        label = "before"

    ring: Any = Labelled(counter="cl100k_base", measure="text")
    ring.put(Message("user", "one"))
    version, _, _, place, *_ = ring.__getstate__()
    expected = "the state of a ring must have a byte below 16 for each of its 3 messages; this one is damaged"
    with pytest.raises(ValueError, match=f"^{expected}$"):
        ring.__setstate__((version, messages()[:3], outlines, place, {"label": "after"}, {}))
    assert contents(ring) == [("user", "one")]
    assert ring.label == "before"


@pytest.mark.parametrize("byte", range(16))
def test_any_outline_is_a_state(byte: int) -> None:
    # What a message was to the rules when it was put, not what it is now, and not what some other release makes of it.
    ring: Any = MessageRing(9, measure=constant, start_on=None, include_system=False)
    version, _, _, place, *_ = ring.__getstate__()
    some = messages()[:3]
    ring.__setstate__((version, some, bytes([byte]) * 3, place, None, {}))
    assert ring.__getstate__()[2] == bytes([byte]) * 3
    may_start = bool(byte & 8)
    assert same_objects(ring.get(token_limit=2 * constant(some[0])), some[1:] if may_start else some[2:])


def constant(message: Any) -> int:
    return 3


class Renamed:
    """A format that can be pickled."""

    def __init__(self, key: str) -> None:
        self.key = key

    def read(self, message: Any) -> Any:
        return {"role": "user", "content": message[self.key]}


@pytest.mark.parametrize("source", ["o200k_base", words])
@pytest.mark.parametrize("counted", [False, True])
def test_measure_and_format_are_copied(make_copy: Copy, source: Any, counted: bool) -> None:
    tool = {"role": "tool", "content": "a result"}
    parts = {"role": "user", "parts": [{"text": "one two"}, {"inlineData": {"mimeType": "image/png", "data": ""}}]}
    cases: list[tuple[Any, Any, list[dict[str, Any]]]] = [
        ("message", None, [*({"role": "user", "content": str(number)} for number in range(9)), tool, parts]),
        ("message", "gemini", [{"role": "user", "content": "one"}, tool, parts]),
        (constant, None, [tool, parts, {"role": "user", "content": None}]),
        ("message", Renamed("words"), [{"words": "one two"}, {"words": "three"}]),
        ("text", None, [{"role": "user", "content": None}, tool]),
    ]
    for measure, reader, some in cases:
        ring: MessageRing[Any] = MessageRing(50, source, measure=measure, format=reader, max_messages=10)
        ring.put_messages(some)
        if counted:
            ring.get()
            ring.get(counter="gpt2")
        other = make_copy(ring)
        assert other.measure == measure
        assert type(other.format) is type(reader)
        assert getattr(other.format, "key", other.format) == getattr(reader, "key", reader)
        assert other.get_all() == ring.get_all()
        assert other.token_count() == ring.token_count() == sum(map(ring.count, ring)) or measure == "text"
        for limit in (1, 8, 12, 30, 50, 2_000):
            assert other.get(token_limit=limit) == ring.get(token_limit=limit)
        assert repr(other) == repr(ring)
        assert other.__getstate__()[2] == ring.__getstate__()[2]


def test_a_deep_copy_has_a_format_of_its_own_and_a_copy_has_not() -> None:
    ring: MessageRing[Any] = MessageRing(format=Renamed("words"), measure=constant)
    ring.put({"words": "one"})
    ring.get()
    assert copy.copy(ring).format is ring.format
    assert copy.copy(ring).measure is ring.measure
    assert copy.deepcopy(ring).format is not ring.format


def test_a_cycle_through_a_format(make_copy: Copy) -> None:
    reader = Renamed("words")
    ring: MessageRing[Any] = MessageRing(format=reader)
    ring.put({"words": "one", "ring": ring, "format": reader})
    ring.get()
    other = make_copy(ring)
    assert other.token_count() == ring.token_count()
    assert other[0]["format"] is other.format
    assert other[0]["ring"] is (ring if other[0] is ring[0] else other)


def test_a_counter_is_pickled_by_its_name() -> None:
    # The vocabulary is part of the library: a pickled ring must not carry it.
    assert len(pickle.dumps(MessageRing(counter="cl100k_base", measure="text"))) < 300
    assert pickle.loads(pickle.dumps(MessageRing(counter="cl100k_base", measure="text"))).counter == TokenCounter(
        "cl100k_base"
    )


class Marked(Window[Any]):
    """A window with an attribute of its own."""


@pytest.mark.parametrize("kind", [Window, Marked])
def test_a_window_is_copied_whole(make_copy: Copy, kind: type[Any]) -> None:
    ring: MessageRing[Any] = MessageRing(30)
    ring.put_messages([{"role": "user", "content": f"message {number}"} for number in range(9)])
    window = kind(ring.window())
    window.tokens, window.start, window.question, window.head = 24, 6, None, 0
    if kind is Marked:
        window.mark = window
    other = make_copy(window)
    assert (type(other), other) == (kind, list(window))
    assert (other.tokens, other.start, other.question, other.head) == (24, 6, None, 0)
    if kind is Marked:
        assert other.mark is (window if make_copy is copy.copy else other)
    assert not hasattr(make_copy(kind()), "tokens")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_name_what_is_public_and_older_ones_load(protocol: int) -> None:
    ring: MessageRing[Any] = MessageRing(9)
    ring.put({"role": "user", "content": "one"})
    things = [MessageRing, TokenCounter, Window, trim_messages, ring, ring.counter, ring.window()]
    for thing in things:
        written = pickle.dumps(thing, protocol)
        assert b"_core" not in written
        assert b"chatring.window" not in written
    for module, name in (
        ("chatring._core", "MessageRing"),
        ("chatring._core", "TokenCounter"),
        ("chatring.window", "Window"),
    ):
        found = pickle.loads(f"c{module}\n{name}\n.".encode())
        assert found is getattr(chatring, name)
