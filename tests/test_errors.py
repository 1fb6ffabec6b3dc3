"""Bad input: each error by its exact message, and the ring as it was before."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from chatring import MessageRing, TokenCounter, trim_messages
from reference import Message, same_objects

KNOWN = "cl100k_base, o200k_base, o200k_harmony, p50k_base, p50k_edit, r50k_base, gpt2, qwen2, mistral_v3"
NOT_A_COUNTER = (
    "a counter is an encoding's name, a tiktoken encoding or a callable from str to its tokens or their number; got "
)
NO_TOKENS = (
    "a counter must return the tokens of a text, or their number; got {}: return a list of tokens, or an integer"
)
HUGE = 10**30


@pytest.fixture
def messages() -> list[Message]:
    return [Message("user", "one two"), Message("assistant", "three"), Message("user", "four five six")]


@pytest.fixture
def ring(messages: list[Message]) -> MessageRing[Any]:
    ring: MessageRing[Any] = MessageRing(10, max_messages=5, counter="cl100k_base", measure="text")
    ring.put_messages(messages)
    assert same_objects(ring.get(), messages)
    return ring


def check(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
    assert type(caught.value) is error


def check_unchanged(ring: MessageRing[Any], messages: list[Message]) -> None:
    assert same_objects(ring.get_all(), messages)
    assert same_objects(ring.get(), messages)
    assert ring.token_count() == 6
    assert same_objects(ring.get(token_limit=5), messages[2:])


NOT_AN_INTEGER = [
    (True, "True (bool)"),
    (False, "False (bool)"),
    ("3", "'3' (str)"),
    (3.0, "3.0 (float)"),
    ([3], "[3] (list)"),
    # Before NumPy 2.3 it is an index, with a warning.
    *([] if hasattr(numpy.bool_, "__index__") else [(numpy.bool_(True), "np.True_ (bool)")]),
    (numpy.ones(2, int), "array([1, 1]) (ndarray)"),
]
BELOW_ONE = [0, -1, -(2**63)]
TOO_LARGE = [2**63, HUGE]


@pytest.mark.parametrize(("value", "shown"), NOT_AN_INTEGER)
def test_numbers_must_be_integers(ring: MessageRing[Any], messages: list[Message], value: Any, shown: str) -> None:
    check(
        lambda: MessageRing(value, counter="cl100k_base", measure="text"),
        TypeError,
        f"token_limit must be an integer, got {shown}",
    )
    check(
        lambda: MessageRing(max_messages=value, counter="cl100k_base", measure="text"),
        TypeError,
        f"max_messages must be an integer, got {shown}",
    )
    check(lambda: ring.get(token_limit=value), TypeError, f"token_limit must be an integer, got {shown}")
    check(
        lambda: ring.get(initial_token_count=value), TypeError, f"initial_token_count must be an integer, got {shown}"
    )
    check_unchanged(ring, messages)


@pytest.mark.parametrize("value", BELOW_ONE)
def test_limits_must_be_at_least_one(ring: MessageRing[Any], messages: list[Message], value: int) -> None:
    check(
        lambda: MessageRing(value, counter="cl100k_base", measure="text"),
        ValueError,
        f"token_limit must be at least 1, got {value}",
    )
    check(
        lambda: MessageRing(max_messages=value, counter="cl100k_base", measure="text"),
        ValueError,
        f"max_messages must be at least 1, got {value}",
    )
    check(lambda: ring.get(token_limit=value), ValueError, f"token_limit must be at least 1, got {value}")
    check_unchanged(ring, messages)


@pytest.mark.parametrize("value", TOO_LARGE)
def test_numbers_must_fit_64_bits(ring: MessageRing[Any], messages: list[Message], value: int) -> None:
    check(
        lambda: MessageRing(value, counter="cl100k_base", measure="text"),
        ValueError,
        f"token_limit must be between -2**63 and 2**63 - 1, got {value}",
    )
    check(
        lambda: MessageRing(max_messages=value, counter="cl100k_base", measure="text"),
        ValueError,
        f"max_messages must be between -2**63 and 2**63 - 1, got {value}",
    )
    check(
        lambda: ring.get(token_limit=value),
        ValueError,
        f"token_limit must be between -2**63 and 2**63 - 1, got {value}",
    )
    check(
        lambda: ring.get(initial_token_count=value),
        ValueError,
        f"initial_token_count must be between -2**63 and 2**63 - 1, got {value}",
    )
    check_unchanged(ring, messages)


def test_a_hugely_negative_limit_is_below_one(ring: MessageRing[Any]) -> None:
    calls: list[Callable[[], object]] = [
        lambda: MessageRing(-HUGE, counter="cl100k_base", measure="text"),
        lambda: MessageRing(max_messages=-HUGE, counter="cl100k_base", measure="text"),
        lambda: ring.get(token_limit=-HUGE),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"must be .*, got -{HUGE}$"):
            call()


def test_numbers_of_more_digits_than_python_shows(ring: MessageRing[Any]) -> None:
    # str() of it is an error of its own; it must not reach standard error from within ours.
    value = 10**5_000
    calls: list[Callable[[], object]] = [
        lambda: MessageRing(value, counter="cl100k_base", measure="text"),
        lambda: ring.get(token_limit=value),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"token_limit must be between .*, got one of thousands of digits"):
            call()


@pytest.mark.parametrize("make", [numpy.int64, numpy.uint8, numpy.array, type("Int", (int,), {})])
def test_integers_of_other_libraries_are_accepted(make: Callable[[int], Any]) -> None:
    ring: MessageRing[Any] = MessageRing(make(50), list, max_messages=make(9))
    assert (ring.token_limit, ring.max_messages) == (50, 9)
    ring.put_messages([PLAIN] * 3)
    window = ring.window(token_limit=make(20), initial_token_count=make(1))
    assert window == ring.window(token_limit=20, initial_token_count=1)
    assert ring.slice(make(0), make(2)) == ring.slice(0, 2) == [PLAIN] * 2
    assert trim_messages([PLAIN] * 3, make(20), counter=list, initial_token_count=make(1)) == window


class Shy:
    """An object that does not show itself."""

    def __repr__(self) -> str:
        raise OwnError("repr")


def test_what_does_not_show_itself_is_refused_in_the_same_words(ring: MessageRing[Any]) -> None:
    shy: Any = Shy()
    unshown = "one that cannot be shown"
    check(lambda: MessageRing(shy), TypeError, f"token_limit must be an integer, got {unshown} (Shy)")
    check(lambda: ring.get(include_system=shy), TypeError, f"include_system must be a bool, got {unshown} (Shy)")
    check(lambda: MessageRing(start_on=shy), ValueError, f'start_on must be "user" or None, got {unshown}')
    check(
        lambda: TokenCounter("gpt2").count("one", special=shy),
        ValueError,
        f'special must be "token" or "text", got {unshown}',
    )
    for value in (10**5_000, -(10**5_000)):
        check(
            lambda value=value: TokenCounter(lambda text: value).count("one"),  # type: ignore[misc]
            ValueError,
            f"a counter must return between 0 and 2**40 tokens for a text, got {unshown}",
        )
    keys = f"this dict has the keys {unshown}"
    check(
        lambda: ring.count({shy: 1}),
        TypeError,
        "a message needs a role and a content, as attributes or keys; this dict has no role",
    )
    check(lambda: MessageRing[Any]().put({shy: 1}), TypeError, UNREADABLE + keys)


def test_what_is_verified_is_true_or_false(ring: MessageRing[Any], messages: list[Message]) -> None:
    value: Any
    for value in (0, 1, None, "no"):
        message = f"verify must be a bool, got {value!r} ({type(value).__name__})"
        check(lambda value=value: ring.get(verify=value), TypeError, message)  # type: ignore[misc]
        check(lambda value=value: ring.window(verify=value), TypeError, message)  # type: ignore[misc]
    check_unchanged(ring, messages)


def test_joined_texts_have_no_head(ring: MessageRing[Any], messages: list[Message]) -> None:
    message = 'measure="text" is LlamaIndex\'s rule, which has no head; use measure="message"'
    check(lambda: ring.set_head([]), ValueError, message)
    check_unchanged(ring, messages)


def test_the_largest_numbers_are_accepted(ring: MessageRing[Any], messages: list[Message]) -> None:
    largest = 2**63 - 1
    assert MessageRing(largest, max_messages=largest, counter="cl100k_base", measure="text").max_messages == largest
    assert same_objects(ring.get(token_limit=largest), messages)
    assert same_objects(ring.get(token_limit=largest, initial_token_count=-(2**63)), messages)
    assert same_objects(ring.get(token_limit=largest, initial_token_count=largest), messages[2:])


def test_the_initial_count_may_not_exceed_the_limit(ring: MessageRing[Any], messages: list[Message]) -> None:
    advice = "raise token_limit or shorten what comes before the history"
    message = f"initial token count exceeds token limit: 11 > 10; {advice}"
    check(lambda: ring.get(initial_token_count=11), ValueError, message)
    check(
        lambda: MessageRing(10, counter="cl100k_base", measure="text").get(initial_token_count=11), ValueError, message
    )
    message = f"initial token count exceeds token limit: 4 > 3; {advice}"
    check(lambda: ring.get(initial_token_count=4, token_limit=3), ValueError, message)
    assert same_objects(ring.get(initial_token_count=10), messages[2:])
    check_unchanged(ring, messages)


@pytest.mark.parametrize(
    ("counter", "error", "message"),
    [
        ("nope", ValueError, f'unknown encoding "nope"; known: {KNOWN}'),
        (
            "gpt-4o",
            ValueError,
            f'unknown encoding "gpt-4o"; known: {KNOWN}; for a model use TokenCounter.for_model("gpt-4o")',
        ),
        (5, TypeError, NOT_A_COUNTER + "int"),
        (b"gpt2", TypeError, NOT_A_COUNTER + "bytes"),
    ],
)
def test_what_cannot_count(
    ring: MessageRing[Any], messages: list[Message], counter: Any, error: type[Exception], message: str
) -> None:
    check(lambda: MessageRing(10, counter, measure="text"), error, message)
    check(lambda: ring.get(counter=counter), error, message)
    check(lambda: ring.token_count(counter=counter), error, message)
    check_unchanged(ring, messages)


class NoLength:
    pass


def no_argument() -> list[str]:
    return []


class LengthRaises:
    def __len__(self) -> int:
        raise OSError("length")


class OwnError(Exception):
    pass


class OwnExit(BaseException):
    pass


def raises(error: BaseException) -> Callable[[str], list[str]]:
    def counter(text: str) -> list[str]:
        raise error

    return counter


@pytest.mark.parametrize(
    ("counter", "error", "message"),
    [
        (lambda text: None, TypeError, NO_TOKENS.format("NoneType")),
        (lambda text: NoLength(), TypeError, NO_TOKENS.format("NoLength")),
        (lambda text: LengthRaises(), OSError, "length"),
        (no_argument, TypeError, None),
    ],
)
def test_counters_that_do_not_count(
    ring: MessageRing[Any], messages: list[Message], counter: Any, error: type[Exception], message: str | None
) -> None:
    for call in (lambda: ring.get(counter=counter), lambda: ring.token_count(counter=counter)):
        with pytest.raises(error) as caught:
            call()
        assert message is None or str(caught.value) == message
        check_unchanged(ring, messages)


@pytest.mark.parametrize("error", [OwnError("mine"), KeyError("key"), TypeError("type"), StopIteration(3), OwnExit()])
def test_a_counters_exception_reaches_the_caller_unchanged(
    ring: MessageRing[Any], messages: list[Message], error: BaseException
) -> None:
    for call in (lambda: ring.get(counter=raises(error)), lambda: ring.token_count(counter=raises(error))):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error
        check_unchanged(ring, messages)


def test_a_counter_that_raises_now_and_then(messages: list[Message]) -> None:
    # Whichever call fails, the next get() answers as if there had been none.
    for fail_at in range(12):
        calls = 0

        def counter(text: str, fail_at: int = fail_at) -> list[str]:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OwnError
            return text.split()

        ring: MessageRing[Message] = MessageRing(6, counter, measure="text")
        for message in messages:
            ring.put(message)
            try:
                window = ring.get()
            except OwnError:
                window = ring.get()
            assert same_objects(window, ring.get_all())
        assert ring.token_count() == 6


# --- messages


class RaisingContent:
    role = "user"

    @property
    def content(self) -> str:
        raise OwnError("content")


class RaisingRole:
    content = "text"

    @property
    def role(self) -> str:
        raise OwnError("role")


class HiddenContent:
    role = "user"

    @property
    def content(self) -> str:
        raise AttributeError("content is not loaded")


MISSING = "a message needs a role and a content, as attributes or keys; this "
BAD_MESSAGES: list[tuple[Any, type[Exception], str]] = [
    ({"role": "user"}, TypeError, MISSING + "dict has no content"),
    ({"content": "x"}, TypeError, MISSING + "dict has no role"),
    ({}, TypeError, MISSING + "dict has no role"),
    (None, TypeError, MISSING + "NoneType has no role"),
    (5, TypeError, MISSING + "int has no role"),
    ("user: text", TypeError, MISSING + "str has no role"),
    (("user", "text"), TypeError, MISSING + "tuple has no role"),
    (NoLength(), TypeError, MISSING + "NoLength has no role"),
    (HiddenContent(), AttributeError, "content is not loaded"),
    ({"role": 3, "content": "x"}, TypeError, "a message's role must be a string, got int"),
    ({"role": None, "content": "x"}, TypeError, "a message's role must be a string, got NoneType"),
    ({"role": b"user", "content": "x"}, TypeError, "a message's role must be a string, got bytes"),
    *(
        (
            {"role": "user", "content": content},
            TypeError,
            f"a message's content must be a string, None or a list of parts, got {name}",
        )
        for content, name in ((5, "int"), (b"x", "bytes"), ({"text": "x"}, "dict"), ({"x"}, "set"), (True, "bool"))
    ),
    (RaisingContent(), OwnError, "content"),
    (RaisingRole(), OwnError, "role"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_MESSAGES)
def test_bad_messages(
    ring: MessageRing[Any], messages: list[Message], bad: Any, error: type[Exception], message: str
) -> None:
    good = Message("user", "good")

    def later() -> Iterator[Any]:
        yield good
        yield bad
        raise AssertionError("nothing is asked for after a message that was refused")

    check(lambda: ring.put(bad), error, message)
    for several in ([bad], [good, bad, good], (good, bad), [good] * 1_000 + [bad]):
        check(lambda several=several: ring.put_messages(several), error, message)  # type: ignore[misc]
        check(lambda several=several: ring.set(several), error, message)  # type: ignore[misc]
        check_unchanged(ring, messages)
    check(lambda: ring.put_messages(later()), error, message)
    check(lambda: ring.set(later()), error, message)
    check_unchanged(ring, messages)


def failing_generator() -> Iterator[Message]:
    yield Message("user", "good")
    raise OwnError("generator")


@pytest.mark.parametrize(
    ("several", "error", "message"),
    [
        (None, TypeError, "'NoneType' object is not iterable"),
        (5, TypeError, "'int' object is not iterable"),
        (Message("user", "x"), TypeError, "'Message' object is not iterable"),
        ("text", TypeError, "messages must be an iterable of messages, got one str"),
        ({"role": "user", "content": "x"}, TypeError, "messages must be an iterable of messages, got one dict"),
    ],
)
def test_what_is_not_several_messages(
    ring: MessageRing[Any], messages: list[Message], several: Any, error: type[Exception], message: str
) -> None:
    check(lambda: ring.put_messages(several), error, message)
    check(lambda: ring.set(several), error, message)
    check_unchanged(ring, messages)


def test_an_iterator_that_raises(ring: MessageRing[Any], messages: list[Message]) -> None:
    check(lambda: ring.put_messages(failing_generator()), OwnError, "generator")
    check(lambda: ring.set(failing_generator()), OwnError, "generator")
    check_unchanged(ring, messages)


def test_a_message_that_goes_bad_after_it_was_put(ring: MessageRing[Any], messages: list[Message]) -> None:
    wrong = "a message's content must be a string, None or a list of parts, got int"
    content, messages[1].content = messages[1].content, 5
    check(ring.get, TypeError, wrong)
    check(lambda: ring.get(counter="gpt2"), TypeError, wrong)
    check(ring.token_count, TypeError, wrong)
    check(ring.recount, TypeError, wrong)
    assert same_objects(ring.get_all(), messages)
    assert same_objects(ring.get(verify=False), messages)
    del messages[1].content
    check(ring.get, TypeError, MISSING + "Message has no content")
    messages[1].content = content
    check_unchanged(ring, messages)
    messages[1].role = 3
    check(ring.recount, TypeError, "a message's role must be a string, got int")
    messages[1].role = "assistant"
    ring.recount()
    check_unchanged(ring, messages)


# --- positions


@pytest.mark.parametrize("index", [3, 4, -4, 100, -100, 2**62, -(2**63)])
def test_no_such_message(ring: MessageRing[Any], messages: list[Message], index: int) -> None:
    wrong = f"index {index} is out of range for a ring of 3 messages"
    check(lambda: ring[index], IndexError, wrong)
    check(lambda: ring.delete(index), IndexError, wrong)
    check_unchanged(ring, messages)


@pytest.mark.parametrize("index", [2**63, HUGE, -HUGE])
def test_no_message_at_a_huge_index(ring: MessageRing[Any], messages: list[Message], index: int) -> None:
    # As with a list: an IndexError, not an OverflowError.
    calls: list[Callable[[], object]] = [lambda: ring[index], lambda: ring.delete(index)]
    for call in calls:
        with pytest.raises(IndexError):
            call()
    check_unchanged(ring, messages)


@pytest.mark.parametrize(("index", "name"), [("a", "str"), (1.0, "float"), (None, "NoneType"), ((0, 1), "tuple")])
def test_an_index_must_be_an_integer(ring: MessageRing[Any], messages: list[Message], index: Any, name: str) -> None:
    check(lambda: ring[index], TypeError, f"an index must be an integer or a slice, got {name}")
    check(lambda: ring.delete(index), TypeError, f"an index must be an integer or a slice, got {name}")
    check_unchanged(ring, messages)


def test_a_slice_with_a_step_of_zero(ring: MessageRing[Any]) -> None:
    check(lambda: ring[::0], ValueError, "slice step cannot be zero")


def test_an_empty_ring_has_nothing_to_take() -> None:
    ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    check(ring.pop, IndexError, "pop from an empty ring")
    check(lambda: ring.delete(0), IndexError, "index 0 is out of range for a ring of 0 messages")
    check(lambda: ring.delete(-1), IndexError, "index -1 is out of range for a ring of 0 messages")
    assert ring.get() == ring.get_all() == list(ring) == []


def test_arguments() -> None:
    ring: Any = MessageRing(counter="cl100k_base", measure="text")
    make_ring: Any = MessageRing
    calls: list[Callable[[], object]] = [
        lambda: ring.get(10),
        lambda: ring.get(limit=10),
        lambda: ring.get(verify="yes"),
        lambda: make_ring(10, "gpt2", 5),
        lambda: ring.put(message={"role": "user", "content": "x"}),
        lambda: ring.put(),
        lambda: ring.token_count("gpt2"),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    for name in ("token_limit", "counter", "max_messages", "other"):
        with pytest.raises(AttributeError):
            setattr(ring, name, 3)


# --- measures and formats

MEASURES = 'measure must be "message", "text" or a callable from a message to its tokens; got '
FORMATS = (
    "a format must be the name of a provider, or have a method read(message) that returns a message with a role and a"
    " content; got "
)
PROVIDERS = "openai-chat, openai-responses, anthropic, gemini, bedrock"


class ReadIsNoMethod:
    read = 3


class Returning:
    """A format that returns one thing whatever it is given."""

    def __init__(self, returned: Any) -> None:
        self.returned = returned

    def read(self, message: Any) -> Any:
        return self.returned


@pytest.mark.parametrize(
    ("measure", "error", "got"),
    [
        ("Message", ValueError, "'Message'"),
        ("", ValueError, "''"),
        ("\ud800", ValueError, r"'\ud800'"),
        (5, TypeError, "int"),
        (b"text", TypeError, "bytes"),
        (["text"], TypeError, "list"),
    ],
)
def test_what_cannot_measure(measure: Any, error: type[Exception], got: str) -> None:
    check(lambda: MessageRing(measure=measure), error, MEASURES + got)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("openai", ValueError, f"unknown format 'openai': choose one of {PROVIDERS}"),
        ("", ValueError, f"unknown format '': choose one of {PROVIDERS}"),
        ("\ud800", ValueError, rf"unknown format '\ud800': choose one of {PROVIDERS}"),
        (5, TypeError, FORMATS + "int"),
        ([], TypeError, FORMATS + "list"),
        (lambda message: message, TypeError, FORMATS + "function"),
        (ReadIsNoMethod(), TypeError, FORMATS + "ReadIsNoMethod"),
    ],
)
def test_what_is_not_a_format(source: Any, error: type[Exception], message: str) -> None:
    check(lambda: MessageRing(format=source), error, message)


@pytest.mark.parametrize("source", ["gemini", Returning({})])
def test_the_text_rule_takes_no_format(source: Any) -> None:
    advice = 'measure="text" reads a message\'s role and content and takes no format; use measure="message"'
    check(lambda: MessageRing(measure="text", format=source), ValueError, advice)
    assert MessageRing(measure="text", format=None).format is None


class Index:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __index__(self) -> int:
        if isinstance(self.value, Exception):
            raise self.value
        value: int = self.value
        return value

    def __repr__(self) -> str:
        return f"Index({self.value})"


class ReprRaises:
    def __repr__(self) -> str:
        raise OwnError("repr")


PLAIN = {"role": "user", "content": "one"}
NOT_A_COUNT = "a measure must return a message's tokens as an integer, got "
OUT_OF_RANGE = "a measure must return between 0 and 2**40 tokens for a message, got "


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (True, TypeError, NOT_A_COUNT + "True (bool)"),
        (False, TypeError, NOT_A_COUNT + "False (bool)"),
        (3.0, TypeError, NOT_A_COUNT + "3.0 (float)"),
        (float("nan"), TypeError, NOT_A_COUNT + "nan (float)"),
        (None, TypeError, NOT_A_COUNT + "None (NoneType)"),
        ("3", TypeError, NOT_A_COUNT + "'3' (str)"),
        ([3], TypeError, NOT_A_COUNT + "[3] (list)"),
        (Index, TypeError, NOT_A_COUNT + "<class 'test_errors.Index'> (type)"),
        (numpy.float64(2), TypeError, NOT_A_COUNT + f"{numpy.float64(2)!r} (float64)"),
        (ReprRaises(), TypeError, NOT_A_COUNT + "one that cannot be shown (ReprRaises)"),
        (Index("3"), TypeError, "__index__ returned non-int (type str)"),
        (Index(OwnError("mine")), OwnError, "mine"),
        (-1, ValueError, OUT_OF_RANGE + "-1"),
        (2**40 + 1, ValueError, OUT_OF_RANGE + "1099511627777"),
        (HUGE, ValueError, OUT_OF_RANGE + str(HUGE)),
        (-HUGE, ValueError, OUT_OF_RANGE + str(-HUGE)),
        pytest.param(10**5_000, ValueError, OUT_OF_RANGE + "one that cannot be shown", id="thousands of digits"),
        (numpy.int64(-4), ValueError, OUT_OF_RANGE + repr(numpy.int64(-4))),
        (numpy.uint64(2**63), ValueError, OUT_OF_RANGE + repr(numpy.uint64(2**63))),
        (Index(-5), ValueError, OUT_OF_RANGE + "Index(-5)"),
    ],
)
def test_measures_that_do_not_measure(returned: Any, error: type[Exception], message: str) -> None:
    results = [returned]
    ring: MessageRing[Any] = MessageRing(1, measure=lambda _: results[0])
    ring.put_messages([PLAIN, PLAIN])
    for call in (ring.get, ring.token_count, lambda: ring.count(PLAIN)):
        check(call, error, message)
    assert same_objects(ring.get_all(), [PLAIN, PLAIN])
    results[0] = 1
    assert ring.token_count() == 2
    assert len(ring.get()) == 1


@pytest.mark.parametrize("returned", [0, 1, 2**40, numpy.int64(4), numpy.uint8(3), numpy.array(7), Index(5)])
def test_integers_of_any_kind_are_tokens(returned: Any) -> None:
    ring: MessageRing[Any] = MessageRing(measure=lambda _: returned)
    ring.put_messages([PLAIN, PLAIN])
    tokens = int(returned) if not isinstance(returned, Index) else 5
    assert ring.count(PLAIN) == tokens
    assert type(ring.count(PLAIN)) is int
    assert ring.token_count() == 2 * tokens


@pytest.mark.parametrize("error", [OwnError("mine"), KeyError("key"), StopIteration(3), OwnExit()])
def test_what_a_measure_or_a_format_raises_reaches_the_caller_unchanged(error: BaseException) -> None:
    class Raising:
        armed = False

        def __call__(self, message: Any) -> Any:
            if self.armed:
                raise error
            return message if as_format else 1

        read = __call__

    for as_format in (False, True):
        source = Raising()
        measure: Any = "message" if as_format else source
        ring: MessageRing[Any] = MessageRing(100, measure=measure, format=source if as_format else None)
        ring.put_messages([PLAIN, PLAIN])
        source.armed = True
        calls: list[Callable[[], object]] = [ring.get, ring.token_count, functools.partial(ring.count, PLAIN)]
        if as_format:
            calls += [functools.partial(ring.put, PLAIN), functools.partial(ring.set, [PLAIN]), ring.recount]
        for call in calls:
            with pytest.raises(type(error)) as caught:
                call()
            assert caught.value is error
            assert same_objects(ring.get_all(), [PLAIN, PLAIN])
        source.armed = False
        assert same_objects(ring.get(), [PLAIN, PLAIN])


UNREADABLE = (
    "a message needs a role and a content (or tool_calls, blocks or parts), or the type of an item such as"
    " function_call; "
)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            None,
            "a format's read(message) must return a message with a role and a content; Returning's returned None",
        ),
        (5, UNREADABLE + "got int"),
        ("user: text", UNREADABLE + "got str"),
        ([PLAIN], UNREADABLE + "got list"),
        ({}, UNREADABLE + "this dict has no keys"),
        ({"role": "user"}, UNREADABLE + "this dict has the keys 'role'"),
        ({"role": 3, "content": "x"}, "a message's role must be a string, got int"),
        ({"role": "user", "content": 5}, "a message's content must be a string, None or a list of parts, got int"),
    ],
)
def test_a_format_that_reads_nonsense(read: Any, message: str) -> None:
    reader = Returning(PLAIN)
    ring: MessageRing[Any] = MessageRing(100, list, format=reader)
    ring.put(5)
    assert ring.token_count() == ring.count(5) == 7
    reader.returned = read
    for call in (
        lambda: ring.put(5),
        lambda: ring.put_messages([5, 5]),
        lambda: ring.set([5]),
        lambda: ring.count(5),
        lambda: ring.get(counter="gpt2"),
        ring.recount,
    ):
        check(call, TypeError, message)
    assert ring.get_all() == ring.get() == [5]


def test_counting_one_message() -> None:
    ring: MessageRing[Any] = MessageRing(counter=list)
    assert ring.count(PLAIN) == 4 + len("one")
    as_text: MessageRing[Any] = MessageRing(counter=list, measure="text")
    assert as_text.count({"role": "user", "content": None}) == len("None")
    as_gemini: MessageRing[Any] = MessageRing(counter=list, format="gemini")
    assert as_gemini.count(PLAIN) == 1 + len("one")
    check(lambda: ring.count({"role": "user"}), TypeError, UNREADABLE + "this dict has the keys 'role'")
    check(lambda: ring.count(None), TypeError, UNREADABLE + "got NoneType")
    assert len(ring) == 0
