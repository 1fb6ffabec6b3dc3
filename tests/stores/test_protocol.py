"""What every store does, with its sync and with its async methods: the same tests for all of them."""

import asyncio
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chatring import MessageRing, TokenCounter
from chatring.stores import CounterMismatchError, MemoryStore, Record, Store, StoreError, open_store
from threads import run_numbered

from stores.servers import PASSWORD

TEXTS = {
    "nul": "\0 between \0",
    "megabyte": "a megabyte \U0001f600\n" * 65_536,
    "lone surrogates": "\ud800 \udfff\ud83d",
    "surrogates for one character": "\ud83d\ude00",
    "quotes": "'\"`''\\'\\\"$$ $1 ?",
    "placeholders": "%s %(key)s :key ?1 {0} {key} %%",
    "sql": "'); DROP TABLE chatring_message; --",
    "lua": "]]..redis.call('FLUSHALL')..[[",
    "json": '{"role": "user", "text": null}',
    "looks like bytes": "\\x00\\xff",
    "looks like a number": "0012",
    "null": "null",
    "scripts": "世界 👩‍👩‍👧‍👦 e\u0301 \ufeff\u200b",
    "line ends": "\r\n\r\n\u2028\x85\n",
}
# No text of PostgreSQL may have a NUL, and no UTF-8 a surrogate: such a key or role is refused everywhere.
NAMES = {name: text for name, text in TEXTS.items() if name not in ("nul", "megabyte") and "surrogates" not in name}


def user(text: str) -> Record:
    return Record("user", text)


class Awaited:
    """The async methods of a store, by the names of the sync ones."""

    def __init__(self, store: Store, run: Callable[[Any], Any]) -> None:
        self._store = store
        self._run = run

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, f"a{name}")
        return lambda *arguments: self._run(method(*arguments))


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Open stores that are closed after the test."""
    loop = asyncio.new_event_loop()
    stores: list[Store] = []

    def open_one(url: str, **arguments: Any) -> Any:
        store = open_store(url, **arguments)
        stores.append(store)
        return store if request.param == "sync" else Awaited(store, loop.run_until_complete)

    yield open_one
    for store in stores:
        store.close()
        loop.run_until_complete(store.aclose())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def store(store_url: str, opened: Callable[..., Any]) -> Any:
    return opened(store_url)


@pytest.fixture
def durable_url(store_url: str) -> str:
    """The URL of a store whose sessions others can open."""
    if store_url == "memory://":
        pytest.skip("nobody else sees what is in this process")
    return store_url


def ring_of(records: list[Record], counter: Any = "cl100k_base") -> MessageRing[Record]:
    ring: MessageRing[Record] = MessageRing(counter=counter, measure="text")
    ring.put_messages(records)
    return ring


def conversation(length: int, seed: int = 0) -> list[Record]:
    """Turns of some words, with tool calls in between and here and there a text that is blank or ends in whitespace."""
    source = random.Random(seed)
    words = ("order", "the", "refund", " twice", "please\n", "世界", "", " ", "\n\n", "42", "it's")
    roles = ("user", "assistant", "tool", "assistant", "system")
    records = []
    for index in range(length):
        text = " ".join(source.choice(words) for _ in range(source.randrange(12)))
        payload = None if source.random() < 0.5 else f"payload {index}".encode()
        records.append(Record(source.choice(roles), text, payload))
    return records


def assert_is(store: Any, key: str, records: list[Record], counter: Any = "cl100k_base") -> None:
    """Assert that a session is these records, and that its windows are those of a ring of them."""
    ring = ring_of(records, counter)
    assert store.all(key) == records
    assert store.length(key) == len(records)
    tokens = ring.token_count()
    assert store.token_count(key) == tokens
    limits = {1, 2, 5, 13, 34, tokens // 2, tokens - 1, tokens, tokens + 1, 2**63 - 1}
    for limit in sorted(limit for limit in limits if limit > 0):
        assert store.window(key, limit) == ring.get(token_limit=limit), limit


def test_a_session_begins_with_its_first_record(store: Any) -> None:
    assert store.all("ada") == []
    assert store.window("ada", 10) == []
    assert store.length("ada") == 0
    assert store.token_count("ada") == 0
    assert store.keys() == []
    assert store.delete("ada") is False
    store.recount("ada")
    store.append("ada", [])
    assert store.keys() == []
    store.append("ada", [Record("user", "Where is my order?", b"\x00\xff")])
    assert store.keys() == ["ada"]
    assert_is(store, "ada", [Record("user", "Where is my order?", b"\x00\xff")])


def test_what_comes_back_are_records(store: Any) -> None:
    store.append("ada", (user(text) for text in ("one", "two")))
    for records in (store.all("ada"), store.window("ada", 100)):
        assert type(records) is list
        assert [type(record) for record in records] == [Record, Record]
        assert [record.content for record in records] == ["one", "two"]
    assert type(store.pop("ada")) is Record


def test_payloads_come_back_with_their_records(store: Any) -> None:
    payloads = [None, b"", b"\x00", bytes(range(256)), b"x" * 2**20]
    records = [Record("user", "hello", payload) for payload in payloads]
    store.append("one by one", records[:1])
    for record in records[1:]:
        store.append("one by one", [record])
    store.append("together", records)
    assert store.all("one by one") == records
    assert store.window("together", 1000) == records
    assert [store.pop("together", 0) for _ in payloads] == records


def test_windows_are_those_of_the_ring_however_records_came(store: Any) -> None:
    for seed in range(4):
        key, records = f"session {seed}", conversation(40, seed)
        source = random.Random(seed)
        done = 0
        while done < len(records):
            more = source.choice((1, 1, 2, 7))
            store.append(key, records[done : done + more])
            done += more
        assert_is(store, key, records)
        store.replace(key, records[5:20])
        assert_is(store, key, records[5:20])


def test_pop_removes_one_record(store: Any) -> None:
    for place in (0, 1, 6, 12, 18, 19):
        records = conversation(20, seed=place)
        store.append(f"ada {place}", records)
        store.append(f"bob {place}", records)
        assert store.pop(f"ada {place}", place) == records[place]
        assert store.pop(f"bob {place}", place - 20) == records[place]
        expected = records[:place] + records[place + 1 :]
        assert_is(store, f"ada {place}", expected)
        assert_is(store, f"bob {place}", expected)
        store.append(f"ada {place}", records[:3])
        assert_is(store, f"ada {place}", expected + records[:3])


def test_pop_empties_a_session(store: Any) -> None:
    records = conversation(6)
    store.append("ada", records)
    assert [store.pop("ada") for _ in records] == records[::-1]
    assert_is(store, "ada", [])
    assert store.keys() == ["ada"]
    store.append("ada", records)
    assert_is(store, "ada", records)


def test_pop_refuses_an_index_that_is_not_there(store: Any) -> None:
    store.append("ada", conversation(3))
    for index in (3, -4, 2**70, -(2**70)):
        with pytest.raises(IndexError, match=rf"^index {index} is out of range for a session of 3 messages$"):
            store.pop("ada", index)
    with pytest.raises(IndexError, match=r"^index -1 is out of range for a session of 0 messages$"):
        store.pop("bob")
    assert_is(store, "ada", conversation(3))
    assert store.keys() == ["ada"]


def test_pop_refuses_what_is_no_index(store: Any) -> None:
    store.append("ada", conversation(3))
    for index in ("0", 1.0, None):
        with pytest.raises(TypeError):
            store.pop("ada", index)
    assert store.length("ada") == 3


def test_replace_and_delete(store: Any) -> None:
    records = conversation(9)
    store.replace("ada", records)
    store.append("bob", records[:2])
    assert_is(store, "ada", records)
    store.replace("ada", [])
    assert_is(store, "ada", [])
    assert sorted(store.keys()) == ["ada", "bob"]
    store.replace("ada", records[::-1])
    assert_is(store, "ada", records[::-1])
    assert store.delete("ada") is True
    assert store.delete("ada") is False
    assert store.keys() == ["bob"]
    assert_is(store, "ada", [])
    assert_is(store, "bob", records[:2])
    store.append("ada", records)
    assert_is(store, "ada", records)


def test_sessions_are_apart(store: Any) -> None:
    sessions = {f"session {index}": conversation(index, seed=index) for index in range(1, 12)}
    for key, records in sessions.items():
        store.append(key, records)
    for key in list(sessions)[::3]:
        assert store.delete(key)
        del sessions[key]
    assert sorted(store.keys()) == sorted(sessions)
    for key, records in sessions.items():
        assert_is(store, key, records)


BLANK = [
    [""],
    [" "],
    ["", "", ""],
    [" ", "\n", "\t", "\xa0"],
    ["Hi", "", ""],
    ["Hi", " ", "\n", ""],
    ["\n", "", "Hi"],
    ["", "\n", "Hi", "", " ", "there", "", "\n\n"],
    ["Hi ", "you", "Hi\n", "you"],
]


@pytest.mark.parametrize("roles", [("user",), ("assistant",), ("user", "assistant"), ("assistant", "tool", "user")])
def test_blank_texts(store: Any, roles: tuple[str, ...]) -> None:
    for number, texts in enumerate(BLANK):
        records = [Record(roles[index % len(roles)], text) for index, text in enumerate(texts)]
        single, batch = f"one by one {number}", f"together {number}"
        for record in records:
            store.append(single, [record])
        store.append(batch, records)
        assert_is(store, single, records)
        assert_is(store, batch, records)
        for length in range(len(records) - 1, -1, -1):
            store.pop(single)
            store.pop(batch, 0)
            assert_is(store, single, records[:length])
            assert_is(store, batch, records[len(records) - length :])


def test_blank_texts_that_a_callable_counts_with_the_word_before(store_url: str, opened: Callable[..., Any]) -> None:
    def count(text: str) -> list[int]:
        return [0] * (sum(map(ord, text)) % 7)

    store = opened(store_url, counter=count, counter_name="letters")
    records = [user(text) for text in ("ab", "", "", " ", "", "c", "", "")]
    for first in range(len(records)):
        for second in range(first, len(records)):
            key = f"{first} {second}"
            for part in (records[:first], records[first:second], records[second:]):
                store.append(key, part)
            assert_is(store, key, records, count)
    for place in range(len(records)):
        assert store.pop(f"0 {place}", place) == records[place]
        assert_is(store, f"0 {place}", records[:place] + records[place + 1 :], count)


def test_a_window_takes_its_initial_tokens_into_account(store: Any) -> None:
    records = conversation(30, seed=7)
    store.append("ada", records)
    ring = ring_of(records)
    for initial in (-5, 0, 1, 10, 39, 40):
        assert store.window("ada", 40, initial) == ring.get(token_limit=40, initial_token_count=initial)


def test_a_window_may_have_more_tokens_than_the_greatest_limit(store: Any) -> None:
    for key, records in (("words", conversation(30, seed=7)), ("blank", [user(" "), user(""), user("\n")])):
        store.append(key, records)
        for initial in (-1, -5, -(2**63)):
            assert store.window(key, 2**63 - 1, initial) == records


def test_a_window_refuses_what_is_no_limit(store: Any) -> None:
    store.append("ada", conversation(3))
    for key in ("ada", "nobody"):
        with pytest.raises(ValueError, match=r"^token_limit must be at least 1, got 0$"):
            store.window(key, 0)
        with pytest.raises(ValueError, match=r"^initial token count exceeds token limit: 11 > 10; "):
            store.window(key, 10, 11)
        with pytest.raises(ValueError, match=r"^token_limit must be between -2\*\*63 and 2\*\*63 - 1, got "):
            store.window(key, 2**63)
        for limit in (True, 1.5, "3", None):
            with pytest.raises(TypeError, match=r"^token_limit must be an integer, got "):
                store.window(key, limit)
            with pytest.raises(TypeError, match=r"^initial_token_count must be an integer, got "):
                store.window(key, 10, limit)


def test_a_run_without_a_legal_start(store: Any) -> None:
    records = [
        user("go on"),
        *(Record("tool", f"result {index} of many") for index in range(300)),
        Record("assistant", "done"),
    ]
    store.append("ada", records)
    assert_is(store, "ada", records)
    assert store.window("ada", 100) == [Record("assistant", "done")]


def test_texts_and_payloads_are_data(store: Any) -> None:
    for name, text in TEXTS.items():
        record = Record("user", text, text.encode("utf-8", "surrogatepass"))
        store.append(name, [user("before")])
        store.append(name, [record])
        store.append(name, [user("after"), record])
        records = [user("before"), record, user("after"), record]
        assert store.all(name) == records
        assert store.window(name, 10**9) == records
        assert store.token_count(name) == ring_of(records).token_count()
        assert store.pop(name) == record
        store.replace(name, [record])
        assert store.all(name) == [record]


def test_keys_and_roles_are_data(store: Any) -> None:
    for name in NAMES.values():
        store.append(name, [Record(name, "one")])
        store.append(name, [Record(name, "two"), Record(name, "three")])
    assert sorted(store.keys()) == sorted(NAMES.values())
    for name in NAMES.values():
        assert_is(store, name, [Record(name, text) for text in ("one", "two", "three")])
        assert store.pop(name) == Record(name, "three")
        assert store.delete(name) is True
    assert store.keys() == []


def test_keys_differ_if_they_are_not_equal(store: Any) -> None:
    keys = ["", " ", "a", "A", "a ", " a", "é", "e\u0301", "*", "a*", "?", "[a]", "{a}", "{}", "a:b", "a/b", "%", "_"]
    for key in keys:
        store.append(key, [user(key)])
    assert sorted(store.keys()) == sorted(keys)
    for key in keys:
        assert store.all(key) == [user(key)]


METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "append": lambda store, key: store.append(key, [user("hello")]),
    "append two": lambda store, key: store.append(key, [user("hello"), user("again")]),
    "append nothing": lambda store, key: store.append(key, []),
    "window": lambda store, key: store.window(key, 10),
    "all": lambda store, key: store.all(key),
    "replace": lambda store, key: store.replace(key, [user("hello")]),
    "delete": lambda store, key: store.delete(key),
    "pop": lambda store, key: store.pop(key),
    "length": lambda store, key: store.length(key),
    "token_count": lambda store, key: store.token_count(key),
    "recount": lambda store, key: store.recount(key),
}


def test_every_method_refuses_what_is_no_key(store: Any) -> None:
    longest = "k" * 1022 + "é"
    store.append(longest, [user("hello")])
    for call in METHODS.values():
        with pytest.raises(TypeError, match=r"^a session's key must be a str, got int$"):
            call(store, 5)
        with pytest.raises(ValueError, match=r"^a session's key must have at most 1024 bytes of UTF-8, got 1025: 'kkk"):
            call(store, longest + "k")
        with pytest.raises(ValueError, match=r"^a session's key has a NUL character: 'a\\x00b'$"):
            call(store, "a\0b")
        with pytest.raises(ValueError, match=r"^a session's key has a surrogate without a partner: 'a\\ud800'$"):
            call(store, "a\ud800")
    assert store.keys() == [longest]
    assert store.all(longest) == [user("hello")]


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ("hello", TypeError, "records must be an iterable of Record, got one str"),
    (b"hello", TypeError, "records must be an iterable of Record, got one bytes"),
    ({"role": "user"}, TypeError, "records must be an iterable of Record, got one dict"),
    (user("hello"), TypeError, "records must be an iterable of Record, got one Record"),
    (5, TypeError, "'int' object is not iterable"),
    ([("user", "hello", None)], TypeError, "records[0] must be a Record, got tuple"),
    ([user("hello"), Record("user", None)], TypeError, "records[1].text must be a str, got NoneType"),  # type: ignore[arg-type]
    ([user("hello"), Record("user", b"x")], TypeError, "records[1].text must be a str, got bytes"),  # type: ignore[arg-type]
    ([Record(None, "hello")], TypeError, "records[0].role must be a str, got NoneType"),  # type: ignore[arg-type]
    ([Record("user", "hello", "x")], TypeError, "records[0].payload must be bytes or None, got str"),  # type: ignore[arg-type]
    ([Record("u\0", "hello")], ValueError, "records[0].role has a NUL character: 'u\\x00'"),
    ([Record("\udfff", "x")], ValueError, "records[0].role has a surrogate without a partner: '\\udfff'"),
    (
        [user("hello"), Record("r" * 129, "hello")],
        ValueError,
        f"records[1].role must have at most 128 bytes of UTF-8, got 129: '{'r' * 40}'...",
    ),
]


def test_what_is_no_record_is_refused(store: Any) -> None:
    store.append("ada", [user("before")])
    for records, error, message in REFUSED:
        for key in ("ada", "bob"):
            for change in (store.append, store.replace):
                with pytest.raises(error) as raised:
                    change(key, records)
                assert str(raised.value) == message
    assert_is(store, "ada", [user("before")])
    assert store.keys() == ["ada"]


def test_records_may_come_from_an_iterator_that_fails(store: Any) -> None:
    def failing() -> Iterator[Record]:
        yield user("one")
        raise LookupError("no more")

    store.append("ada", [user("before")])
    for method in (store.append, store.replace):
        with pytest.raises(LookupError, match="no more"):
            method("ada", failing())
    assert_is(store, "ada", [user("before")])


def test_a_callable_counts(store_url: str, opened: Callable[..., Any]) -> None:
    store = opened(store_url, counter=str.split, counter_name="words")
    records = conversation(25, seed=3)
    for record in records[:10]:
        store.append("ada", [record])
    store.append("ada", records[10:])
    assert_is(store, "ada", records, str.split)
    assert store.pop("ada", 4) == records[4]
    assert_is(store, "ada", records[:4] + records[5:], str.split)


def test_sums_of_many_digits(store_url: str, opened: Callable[..., Any]) -> None:
    def count(text: str) -> range:
        return range(2 ** (10 * len(text.strip())))

    store = opened(store_url, counter=count, counter_name="many")
    records = [user("x" * length) for length in (1, 1, 4, 2, 1, 4, 3, 1)]
    for record in records[:2]:
        store.append("ada", [record])
    store.append("ada", records[2:])
    store.append("bob", records)
    store.append("bob", records[:1])
    assert_is(store, "ada", records, count)
    assert_is(store, "bob", [*records, records[0]], count)
    assert store.window("ada", 2**41 - 1) == records[3:]


def test_an_error_of_the_counter_reaches_the_caller(durable_url: str, opened: Callable[..., Any]) -> None:
    def count(text: str) -> list[str]:
        if "bad" in text:
            raise ZeroDivisionError(text)
        return text.split()

    store = opened(durable_url, counter=count, counter_name="words")  # in memory it is a window that counts
    records = [user("good"), user("also good")]
    store.append("ada", records)
    for key in ("ada", "bob"):
        for refused in ([user("bad")], [user("fine"), user("bad"), user("fine")]):
            for change in (store.append, store.replace):
                with pytest.raises(ZeroDivisionError, match="bad"):
                    change(key, refused)
    assert_is(store, "ada", records, count)
    assert store.keys() == ["ada"]
    store.append("ada", [user("good again")])
    assert_is(store, "ada", [*records, user("good again")], count)


@pytest.mark.parametrize("counter", ["o200k_base", "gpt2"])
def test_encodings(store_url: str, opened: Callable[..., Any], counter: str) -> None:
    store = opened(store_url, counter=counter)
    records = conversation(25, seed=5)
    store.append("ada", records)
    assert_is(store, "ada", records, counter)


def test_a_counter_has_a_name(store_url: str) -> None:
    assert open_store(store_url).counter_name == "cl100k_base"
    assert open_store(store_url, counter=TokenCounter("o200k_base")).counter_name == "o200k_base"
    assert open_store(store_url, counter="gpt2", counter_name="gpt2").counter_name == "gpt2"
    words = open_store(store_url, counter=str.split, counter_name="words")
    assert words.counter_name == "words"
    assert words.counter == TokenCounter(str.split)
    with pytest.raises(ValueError, match=r"needs a counter_name, by which its sessions are known again$"):
        open_store(store_url, counter=str.split)
    with pytest.raises(ValueError, match=r"^counter_name 'cl100k_base' is the name of an encoding, which counts other"):
        open_store(store_url, counter=str.split, counter_name="cl100k_base")
    with pytest.raises(ValueError, match=r"^counter_name is for callables; this counter is known as 'cl100k_base'$"):
        open_store(store_url, counter_name="words")
    with pytest.raises(ValueError, match="unknown encoding"):
        open_store(store_url, counter="cl100k")
    for name in ("", None):
        with pytest.raises(ValueError, match="needs a counter_name"):
            open_store(store_url, counter=str.split, counter_name=name)
    for refused, message in (
        ("a\0b", "counter_name has a NUL character: 'a\\x00b'"),
        ("a\ud800", "counter_name has a surrogate without a partner: 'a\\ud800'"),
        ("n" * 1025, f"counter_name must have at most 1024 bytes of UTF-8, got 1025: '{'n' * 40}'..."),
    ):
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            open_store(store_url, counter=str.split, counter_name=refused)
        assert str(raised.value) == message
    for other in (5, 0, b"words", ["words"]):
        with pytest.raises(TypeError, match=rf"^counter_name must be a str, got {type(other).__name__}$"):
            open_store(store_url, counter=str.split, counter_name=other)  # type: ignore[arg-type]


def test_a_session_of_another_counter(durable_url: str, opened: Callable[..., Any]) -> None:
    first, second = opened(durable_url), opened(durable_url, counter="o200k_base")
    records = conversation(12)
    first.append("ada", records)
    message = (
        "session 'ada' was counted with 'cl100k_base', this store counts with 'o200k_base'; "
        "open it with that counter, or call recount('ada')"
    )
    for name in ("append", "append two", "window", "pop", "token_count"):
        with pytest.raises(CounterMismatchError) as raised:
            METHODS[name](second, "ada")
        assert str(raised.value) == message, name
        assert isinstance(raised.value, StoreError)
        assert isinstance(raised.value, ValueError)
    # These do not need the counts.
    assert second.all("ada") == records
    assert second.length("ada") == len(records)
    assert second.keys() == ["ada"]
    assert_is(first, "ada", records)
    second.recount("ada")
    assert_is(second, "ada", records, "o200k_base")
    with pytest.raises(CounterMismatchError):
        first.append("ada", [user("hello")])
    first.replace("ada", records[:4])
    assert_is(first, "ada", records[:4])
    assert second.delete("ada") is True
    second.append("ada", records)
    assert_is(second, "ada", records, "o200k_base")


def test_an_empty_session_has_a_counter_too(durable_url: str, opened: Callable[..., Any]) -> None:
    first, second = opened(durable_url), opened(durable_url, counter=str.split, counter_name="words")
    first.replace("ada", [])
    for name in ("append", "window", "token_count"):
        with pytest.raises(CounterMismatchError):
            METHODS[name](second, "ada")
    assert second.all("ada") == []
    assert second.length("ada") == 0
    second.recount("ada")
    assert_is(second, "ada", [], str.split)
    second.append("ada", [user("hello")])
    assert_is(second, "ada", [user("hello")], str.split)


def test_recount_counts_what_another_counter_counted(store_url: str, opened: Callable[..., Any]) -> None:
    store = opened(store_url)
    records = conversation(12)
    store.append("ada", records)
    store.recount("ada")
    assert_is(store, "ada", records)
    store.append("ada", records)
    assert_is(store, "ada", records + records)


def test_two_stores_see_each_others_changes(durable_url: str, opened: Callable[..., Any]) -> None:
    first, second = opened(durable_url), opened(durable_url)
    records = conversation(30, seed=2)
    for index, record in enumerate(records):
        (first, second)[index % 2].append("ada", [record])
    assert_is(first, "ada", records)
    assert second.pop("ada", 7) == records[7]
    assert_is(first, "ada", records[:7] + records[8:])
    first.replace("ada", records[:5])
    assert_is(second, "ada", records[:5])
    assert second.delete("ada") is True
    assert first.keys() == []


def test_sessions_outlive_the_store(durable_url: str, opened: Callable[..., Any]) -> None:
    records = conversation(8)
    first = opened(durable_url)
    first.append("ada", records)
    first.close()
    assert_is(first, "ada", records)
    first.close()
    assert_is(opened(durable_url), "ada", records)


def test_a_closed_store_opens_at_the_next_call(store: Any) -> None:
    store.close()
    store.append("ada", [user("hello")])
    assert_is(store, "ada", [user("hello")])
    store.close()
    store.close()


@pytest.mark.parametrize("opened", ["sync"], indirect=True)
def test_many_threads(store_url: str, opened: Callable[..., Any]) -> None:
    writers, each = 8, 25
    store = opened(store_url)

    def write(writer: int) -> None:
        for index in range(each):
            store.append("ada", [Record("user" if index % 3 else "assistant", f"{writer} {index} ")])
            store.append(f"own {writer}", [user(f"{index}")])
            if index % 10 == 9:
                assert store.window("ada", 50)

    run_numbered(write, writers)
    written = [tuple(map(int, record.text.split())) for record in store.all("ada")]
    assert sorted(written) == [(writer, index) for writer in range(writers) for index in range(each)]
    for writer in range(writers):
        assert [index for by, index in written if by == writer] == list(range(each))
        assert_is(store, f"own {writer}", [user(f"{index}") for index in range(each)])
    assert_is(store, "ada", store.all("ada"))


def test_many_tasks(store_url: str) -> None:
    writers, each = 8, 12
    store = open_store(store_url)

    async def write(writer: int) -> None:
        for index in range(each):
            await store.aappend("ada", [user(f"{writer} {index}\n")])
            await store.awindow("ada", 20)

    async def write_all() -> list[Record]:
        try:
            await asyncio.gather(*(write(writer) for writer in range(writers)))
            return await store.aall("ada")
        finally:
            await store.aclose()

    records = asyncio.run(write_all())
    written = [tuple(map(int, record.text.split())) for record in records]
    assert sorted(written) == [(writer, index) for writer in range(writers) for index in range(each)]
    for writer in range(writers):
        assert [index for by, index in written if by == writer] == list(range(each))
    assert_is(store, "ada", records)
    store.close()


def test_threads_that_pop_and_replace(store_url: str) -> None:
    store = open_store(store_url)
    store.append("ada", conversation(30))
    popped: list[Record] = []

    def work(number: int) -> None:
        for index in range(8):
            store.append("ada", [user(f"{number} {index}")])
            popped.append(store.pop("ada", 0))
            popped.append(store.pop("ada", -1))
            store.append("ada", [Record("tool", f"{number} {index} \n"), user("")])

    run_numbered(work, 4)
    assert len(popped) == 64
    assert store.length("ada") == 30 + 32
    assert_is(store, "ada", store.all("ada"))
    store.close()


def test_big_batches(store: Any) -> None:
    records = conversation(5_000, seed=11)
    store.append("ada", records)
    store.append("ada", records[:1])
    ring = ring_of([*records, records[0]])
    assert store.token_count("ada") == ring.token_count()
    for limit in (10, 100, 1_000, 10_000):
        assert store.window("ada", limit) == ring.get(token_limit=limit)
    assert store.pop("ada", 4_000) == records[4_000]
    ring.delete(4_000)
    for limit in (10, 1_000, 10_000):
        assert store.window("ada", limit) == ring.get(token_limit=limit)


def test_a_store_shows_no_secret(store_url: str) -> None:
    store = open_store(store_url)
    shown = repr(store)
    assert PASSWORD not in shown
    if not isinstance(store, MemoryStore):
        url: str = store.url  # type: ignore[attr-defined]
        assert PASSWORD not in url
        assert url in shown
        assert ("***" in url) == (PASSWORD in store_url)


def test_what_is_no_store() -> None:
    secret = uuid.uuid4().hex
    for url in (
        f"mysql://root:{secret}@localhost/db",
        f"http://{secret}",
        "chat.db",
        "",
        "postgresql:",
        f"x?password={secret}",
    ):
        with pytest.raises(
            ValueError, match=r"is no store's URL; one begins with sqlite://, postgresql://, redis://"
        ) as raised:
            open_store(url)
        assert secret not in str(raised.value) or url.startswith("http")
