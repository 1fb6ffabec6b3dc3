"""What every store does, with its sync and with its async methods: the same tests for all of them."""

import asyncio
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chatring import MessageRing, TokenCounter, Window
from chatring.stores import CounterMismatchError, Record, Store, StoreError, StoreTimeoutError, open_store
from profiles import FAST, slow
from threads import run_numbered

from stores.histories import (
    POLICIES,
    Awaited,
    assert_is,
    assistant,
    call,
    conversation,
    error_of,
    limits_of,
    result,
    results,
    ring_of,
    system,
    user,
)
from stores.servers import PASSWORD

TEXTS = {
    "nul": "\0 between \0",
    "megabyte": "a megabyte \U0001f600\n" * 65_536,
    "lone surrogates": "\ud800 \udfff\ud83d",
    "quotes": "'\"`''\\'\\\"$$ $1 ?",
    "placeholders": "%s %(key)s :key ?1 {0} {key} %%",
    "sql": "'); DROP TABLE chatring_message; --",
    "lua": "]]..redis.call('FLUSHALL')..[[",
    "json": '{"role": "user", "content": null}',
    "looks like bytes": "\\x00\\xff \\u0000",
    "looks like a number": "0012",
    "null": "null",
    "scripts": "世界 👩‍👩‍👧‍👦 e\u0301 \ufeff\u200b",
    "line ends": "\r\n\r\n\u2028\x85\n",
}
# No text of PostgreSQL may have a NUL, and no UTF-8 a surrogate: such a key is refused everywhere.
NAMES = [text for name, text in TEXTS.items() if name not in ("nul", "megabyte") and "surrogates" not in name]


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Open stores that are closed after the test."""
    loop = asyncio.new_event_loop()
    stores: list[Store[Any]] = []

    def open_one(url: str, **options: Any) -> Any:
        store = open_store(url, **options)
        stores.append(store)
        return store if request.param == "sync" else Awaited(store, loop)

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


# Sessions, and what reads them.


def test_a_session_begins_with_its_first_message(store: Any) -> None:
    assert store.all("ada") == []
    assert store.window("ada", 10) == []
    assert store.last("ada", 3) == []
    assert store.slice("ada", 0, 3) == []
    assert store.length("ada") == 0
    assert store.token_count("ada") == 0
    assert store.exists("ada") is False
    assert store.updated_at("ada") is None
    assert store.keys() == []
    assert store.delete("ada") is False
    assert store.trim("ada", 5) == 0
    store.recount("ada")
    store.append("ada", [])
    assert store.keys() == []
    store.append("ada", [user("Where is my order?")])
    assert store.keys() == ["ada"]
    assert store.exists("ada") is True
    assert_is(store, "ada", [user("Where is my order?")])


def test_what_comes_back(store: Any) -> None:
    store.append("ada", (user(text) for text in ("one", "two")))
    for messages in (store.all("ada"), store.last("ada", 2), store.slice("ada", 0, 2)):
        assert type(messages) is list
        assert messages == [user("one"), user("two")]
    window = store.window("ada", 100)
    assert type(window) is Window
    assert window == [user("one"), user("two")]
    empty = store.window("nobody", 100)
    assert type(empty) is Window
    assert (empty, empty.tokens, empty.start, empty.question, empty.head) == ([], 0, 0, None, 0)
    assert store.pop("ada") == user("two")


def test_what_was_put_may_change_afterwards(store: Any) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "one"}]}
    messages = [message]
    store.append("ada", messages)
    message["content"][0]["text"] = "two"  # type: ignore[index]
    messages.clear()
    expected = [{"role": "user", "content": [{"type": "text", "text": "one"}]}]
    assert store.all("ada") == expected
    store.all("ada")[0]["content"].clear()
    assert store.all("ada") == expected


@pytest.mark.parametrize("policy", POLICIES)
def test_windows_are_those_of_the_ring_however_messages_came(
    store_url: str, opened: Callable[..., Any], policy: str
) -> None:
    options = POLICIES[policy]
    store = opened(store_url, **options)
    for seed in range(3):
        key, messages = f"session {seed}", conversation(40, seed)
        source = random.Random(seed)
        done = 0
        while done < len(messages):
            more = source.choice((1, 1, 2, 7))
            store.append(key, messages[done : done + more])
            done += more
        assert_is(store, key, messages, options)
        store.replace(key, messages[5:20])
        assert_is(store, key, messages[5:20], options)
        for place in (0, 7, -1):
            popped = messages[5:20]
            expected = popped.pop(place)
            assert store.pop(key, place) == expected
            assert_is(store, key, popped, options, moved=True)
            store.replace(key, messages[5:20])


def test_a_window_has_the_question_of_its_first_step(store: Any) -> None:
    messages = [
        *(system("Be brief."), user("first"), assistant("first answer")),
        *(user("question " * 5), call(), result("result " * 30), assistant("answer")),
    ]
    store.append("ada", messages)
    window = store.window("ada", 30)
    assert window == [messages[0], messages[3], messages[6]]
    assert (window.head, window.question, window.start) == (1, 3, 6)
    assert window.tokens == sum(MessageRing().count(message) for message in window)
    without = store.window("ada", 30, include_system=False)
    assert without == [messages[3], messages[6]]
    assert (without.head, without.question, without.start) == (0, 3, 6)


def test_a_cut_that_stays_for_a_while(store: Any) -> None:
    messages = [message for number in range(60) for message in (user(f"number {number}"), assistant("fine"))]
    cuts: set[int] = set()
    moved = 0
    for number in range(20, 120):
        if number == 20:
            store.append("ada", messages[:20])
        else:
            store.append("ada", messages[number - 1 : number])
        start = store.window("ada", 100, retention_ratio=0.5).start
        moved += start not in cuts
        assert not cuts or start >= max(cuts)
        cuts.add(start)
    assert moved < 20


def test_a_window_takes_its_initial_tokens_into_account(store: Any) -> None:
    messages = conversation(30, seed=7)
    store.append("ada", messages)
    ring = ring_of(messages)
    for initial in (-5, 0, 1, 10, 39, 60):
        window = store.window("ada", 60, initial, include_system=False)
        assert window == ring.window(token_limit=60, initial_token_count=initial, include_system=False)


def test_a_window_may_have_more_tokens_than_the_greatest_limit(store: Any) -> None:
    messages = conversation(30, seed=7)
    store.append("ada", messages)
    for initial in (-1, -5, -(2**63)):
        window = store.window("ada", 2**63 - 1, initial)
        assert window == ring_of(messages).window(token_limit=2**63 - 1, initial_token_count=initial)
        assert len(window) > 20


LIMITS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"token_limit": 0}, ValueError, "token_limit must be at least 1, got 0"),
    (
        {"token_limit": 2**63},
        ValueError,
        "token_limit must be between -2**63 and 2**63 - 1, got 9223372036854775808",
    ),
    ({"token_limit": True}, TypeError, "token_limit must be an integer, got True (bool)"),
    ({"token_limit": 1.5}, TypeError, "token_limit must be an integer, got 1.5 (float)"),
    ({"token_limit": "3"}, TypeError, "token_limit must be an integer, got '3' (str)"),
    ({"token_limit": None}, TypeError, "token_limit must be an integer, got None (NoneType)"),
    ({"initial_token_count": "3"}, TypeError, "initial_token_count must be an integer, got '3' (str)"),
    ({"initial_token_count": None}, TypeError, "initial_token_count must be an integer, got None (NoneType)"),
    (
        {"initial_token_count": 11},
        ValueError,
        "initial token count exceeds token limit: 11 > 10; raise token_limit or shorten what comes before the history",
    ),
    ({"include_system": 1}, TypeError, "include_system must be a bool, got 1 (int)"),
    ({"retention_ratio": 2}, ValueError, "retention_ratio must be between 0 and 1, got 2"),
    ({"retention_ratio": -0.1}, ValueError, "retention_ratio must be between 0 and 1, got -0.1"),
    ({"retention_ratio": float("nan")}, ValueError, "retention_ratio must be between 0 and 1, got nan"),
    ({"retention_ratio": "x"}, TypeError, "retention_ratio must be a number between 0 and 1, got 'x' (str)"),
]


def test_a_window_refuses_what_is_no_limit(store: Any) -> None:
    store.append("ada", [user("hello")])
    for key in ("ada", "nobody"):
        for arguments, kind, message in LIMITS:
            assert error_of(lambda: store.window(key, **{"token_limit": 10, **arguments}), kind) == message  # noqa: B023


def test_a_head_that_is_too_long(store: Any) -> None:
    store.append("ada", [system("Be brief."), user("hello")])
    message = (
        "the 7 tokens of the system messages and the initial token count of 2 exceed token_limit 8; raise it, shorten "
        "them or pass include_system=False"
    )
    assert error_of(lambda: store.window("ada", 8, 2)) == message
    assert store.window("ada", 7) == [system("Be brief."), user("hello")]
    assert store.window("ada", 5, include_system=False) == [user("hello")]


LLAMA_INDEX = (
    'measure="text" is LlamaIndex\'s rule: it goes with start_on=None, include_system=False and retention_ratio=1.0; '
    'use measure="message"'
)


def test_options_that_do_not_go_with_texts(store_url: str, opened: Callable[..., Any]) -> None:
    store = opened(store_url, measure="text")
    store.append("ada", [system("Be brief."), user("hello")])
    for call_ in (
        lambda: store.window("ada", 10, include_system=True),
        lambda: store.window("ada", 10, retention_ratio=0.5),
        lambda: open_store(store_url, measure="text", start_on="user"),
    ):
        assert error_of(call_) == LLAMA_INDEX
    no_head = 'measure="text" is LlamaIndex\'s rule, which has no head; use measure="message"'
    assert error_of(lambda: store.set_head("ada", [system("Be long.")])) == no_head
    assert store.window("ada", 10, include_system=False) == [system("Be brief."), user("hello")]
    assert_is(store, "ada", [system("Be brief."), user("hello")], {"measure": "text"})


def test_last(store: Any) -> None:
    messages = [system("Be brief."), *conversation(10, seed=3)]
    store.append("ada", messages)
    for n in range(len(messages) + 2):
        assert store.last("ada", n) == (messages[-n:] if n else [])
    assert store.last("ada", 2**80) == messages
    assert error_of(lambda: store.last("ada", -1)) == "n must be at least 0, got -1"
    for odd in ("1", 1.0, None):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            store.last("ada", odd)


def test_slice(store: Any) -> None:
    messages = [system("Be brief."), system("Be kind."), *(user(str(number)) for number in range(6))]
    store.append("ada", messages)
    for start in range(10):
        for stop in range(10):
            assert store.slice("ada", start, stop) == messages[start:stop]
    assert store.slice("ada", 0, 2**70) == messages
    assert store.slice("ada", 2**70, 2**70 + 1) == []
    for key in ("ada", "nobody"):
        assert error_of(lambda: store.slice(key, -1, 3)) == "start must be at least 0, got -1"  # noqa: B023
        assert error_of(lambda: store.slice(key, 0, -3)) == "stop must be at least 0, got -3"  # noqa: B023
        for odd in ((1.0, 2), (1, "2"), (None, 3)):
            with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
                store.slice(key, *odd)


def test_what_has_left_the_window_is_summarised_once(store: Any) -> None:
    messages = conversation(200, seed=5)
    done = 0
    summarised: list[Any] = []
    for number in range(0, 200, 5):
        store.append("ada", messages[number : number + 5])
        window = store.window("ada", 100, include_system=False)
        assert window.start >= done
        summarised += store.slice("ada", done, window.start)
        done = window.start
    assert summarised == messages[:done]
    assert done > 100


def test_when_a_session_was_changed(store: Any) -> None:
    before = time.time()
    store.append("ada", [user("hello"), assistant("hi")])
    first = store.updated_at("ada")
    assert before - 0.01 <= first <= time.time() + 0.01
    changes: list[Callable[[], object]] = [
        lambda: store.append("ada", [user("one"), user("two")]),
        lambda: store.pop("ada"),
        lambda: store.set_head("ada", [system("Be brief.")]),
        lambda: store.trim("ada", 2),
        lambda: store.recount("ada"),
        lambda: store.replace("ada", [user("one")]),
    ]
    last = first
    for change in changes:
        time.sleep(0.003)
        change()
        now = store.updated_at("ada")
        assert now > last
        last = now
    store.window("ada", 10)
    store.all("ada")
    assert store.updated_at("ada") == last
    store.delete("ada")
    assert store.updated_at("ada") is None


# Keys.


def test_keys_come_in_order_and_in_pages(store: Any) -> None:
    keys = [
        "",
        " ",
        "A",
        "a",
        "a ",
        "a!",
        "a:b",
        "ab",
        "a\x7f",
        "a\x80",
        "b",
        "é",
        "\uffff",
        "\U00010000",
        "\U0010ffff",
    ]
    for key in reversed(keys):
        store.append(key, [user(key)])
    assert keys == sorted(keys, key=str.encode)
    assert store.keys() == keys
    for limit in (1, 2, 4, len(keys), 99):
        pages: list[str] = []
        after = None
        while page := store.keys(after=after, limit=limit):
            assert len(page) == min(limit, len(keys) - len(pages))
            pages += page
            after = page[-1]
        assert pages == keys
    for prefix in ("", "a", "a ", "A", "é", "\U00010000", "x", "%", "_", "*", "?", "[a]", "a\\"):
        expected = [key for key in keys if key.startswith(prefix)]
        assert store.keys(prefix) == expected, prefix
        assert store.keys(prefix=prefix, limit=2) == expected[:2]
        assert store.keys(prefix, after="a!") == [key for key in expected if key > "a!"]
    assert store.keys(after="a\x81", limit=1) == ["b"]  # there need not be such a key


def test_what_keys_refuses(store: Any) -> None:
    assert error_of(lambda: store.keys(limit=0)) == "limit must be at least 1, got 0"
    assert error_of(lambda: store.keys(limit=-5)) == "limit must be at least 1, got -5"
    for named in ({"prefix": 5}, {"after": 5}):
        assert error_of(lambda: store.keys(**named), TypeError) == "a session's key must be a str, got int"  # noqa: B023
    assert error_of(lambda: store.keys("a\0")) == "a session's key has a NUL character: 'a\\x00'"
    assert error_of(lambda: store.keys(after="\ud800")) == "a session's key has a lone surrogate: '\\ud800'"
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        store.keys(limit="3")


def test_keys_are_data(store: Any) -> None:
    names = [*NAMES, "*", "a*", "?", "[a]", "{a}", "{}", "a/b", "%", "_", "é", "e\u0301", "k" * 1024, "世" * 341]
    for name in names:
        store.append(name, [user(name), user("one")])
    assert store.keys() == sorted(names)
    for name in names:
        assert_is(store, name, [user(name), user("one")])
        assert store.pop(name) == user("one")
        assert store.exists(name)
        assert store.delete(name) is True
        assert not store.exists(name)
    assert store.keys() == []


METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "append": lambda store, key: store.append(key, [user("hello")]),
    "append two": lambda store, key: store.append(key, [user("hello"), user("again")]),
    "append nothing": lambda store, key: store.append(key, []),
    "window": lambda store, key: store.window(key, 10),
    "all": lambda store, key: store.all(key),
    "last": lambda store, key: store.last(key, 1),
    "slice": lambda store, key: store.slice(key, 0, 1),
    "replace": lambda store, key: store.replace(key, [user("hello")]),
    "set_head": lambda store, key: store.set_head(key, [system("hello")]),
    "update": lambda store, key: store.update(key, -1, lambda last: [*last, user("hello")]),
    "trim": lambda store, key: store.trim(key, 1),
    "delete": lambda store, key: store.delete(key),
    "pop": lambda store, key: store.pop(key),
    "exists": lambda store, key: store.exists(key),
    "length": lambda store, key: store.length(key),
    "token_count": lambda store, key: store.token_count(key),
    "updated_at": lambda store, key: store.updated_at(key),
    "recount": lambda store, key: store.recount(key),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_refuses_what_is_no_key(store: Any, method: str) -> None:
    longest = "k" * 1022 + "é"
    store.append(longest, [user("hello")])
    refused: list[tuple[Any, type[Exception], str]] = [
        (5, TypeError, "a session's key must be a str, got int"),
        (None, TypeError, "a session's key must be a str, got NoneType"),
        (b"ada", TypeError, "a session's key must be a str, got bytes"),
        (
            longest + "k",
            ValueError,
            f"a session's key must have at most 1024 bytes of UTF-8, got 1025: '{'k' * 40}'...",
        ),
        ("a\0b", ValueError, "a session's key has a NUL character: 'a\\x00b'"),
        ("a\ud800", ValueError, "a session's key has a lone surrogate: 'a\\ud800'"),
    ]
    for key, kind, message in refused:
        assert error_of(lambda: METHODS[method](store, key), kind) == message  # noqa: B023
    assert store.keys() == [longest]
    assert store.all(longest) == [user("hello")]


# Changes.


@pytest.mark.parametrize("policy", ["message, user", "message, any", "text"])
def test_pop_removes_one_message(store_url: str, opened: Callable[..., Any], policy: str) -> None:
    options = POLICIES[policy]
    store = opened(store_url, **options)
    for place in (0, 1, 6, 12, 18, 19):
        messages = conversation(20, seed=place)
        store.append(f"ada {place}", messages)
        store.append(f"bob {place}", messages)
        assert store.pop(f"ada {place}", place) == messages[place]
        assert store.pop(f"bob {place}", place - 20) == messages[place]
        expected = messages[:place] + messages[place + 1 :]
        assert_is(store, f"ada {place}", expected, options, moved=True)
        assert_is(store, f"bob {place}", expected, options, moved=True)
        store.append(f"ada {place}", messages[:3])
        assert_is(store, f"ada {place}", expected + messages[:3], options, moved=True)


def test_pop_of_the_head_and_of_the_first_question(store: Any) -> None:
    messages = [
        system("one"),
        system("two"),
        call(),
        result("early"),
        user("first"),
        assistant("fine"),
        call(),
        result("x"),
    ]
    for place in range(len(messages)):
        store.replace("ada", messages)
        assert store.pop("ada", place) == messages[place]
        left = messages[:place] + messages[place + 1 :]
        assert_is(store, "ada", left, moved=True)
        for more in (user("more"), assistant("more")):
            store.append("ada", [more])
            left.append(more)
            assert_is(store, "ada", left, moved=True)
    # System messages lead once nothing is before them.
    store.replace("ada", [user("hello"), system("Be brief."), user("again")])
    assert store.pop("ada", 0) == user("hello")
    assert store.window("ada", 100).head == 1
    assert_is(store, "ada", [system("Be brief."), user("again")], moved=True)


def test_pop_empties_a_session(store: Any) -> None:
    messages = conversation(6)
    store.append("ada", messages)
    assert [store.pop("ada") for _ in messages] == messages[::-1]
    assert_is(store, "ada", [], moved=True)
    assert store.keys() == ["ada"]
    store.append("ada", messages)
    assert_is(store, "ada", messages, moved=True)


@pytest.mark.parametrize("policy", ["message, user", "message, any", "text"])
def test_update_replaces_the_end(store_url: str, opened: Callable[..., Any], policy: str) -> None:
    options = POLICIES[policy]
    store = opened(store_url, **options)
    messages = conversation(20, seed=1)
    for start, kept, more in (
        (0, 0, 2),
        (19, 1, 3),
        (20, 0, 1),
        (7, 0, 0),
        (-1, 1, 2),
        (-5, 2, 3),
        (-99, 1, 0),
        (3, 17, 0),
    ):
        key = f"ada {start}"
        store.append(key, messages)
        seen: list[Any] = []
        new = conversation(more, seed=2)

        def change(given: list[Any], seen: list[Any] = seen, kept: int = kept, new: list[Any] = new) -> list[Any]:
            seen[:] = given
            return [*given[:kept], *new]

        begin = start if start >= 0 else max(20 + start, 0)
        assert store.update(key, start, change) == messages[begin : begin + kept] + new
        assert seen == messages[begin:]
        expected = messages[: begin + kept] + new
        assert_is(store, key, expected, options, moved=True)
        store.append(key, messages[:3])
        assert_is(store, key, expected + messages[:3], options, moved=True)


def test_update_begins_a_session(store: Any) -> None:
    assert store.update("ada", 0, list) == []
    assert store.exists("ada") is False
    assert store.update("ada", -3, lambda none: [*none, system("Be brief."), user("hello")]) == [
        system("Be brief."),
        user("hello"),
    ]
    assert_is(store, "ada", [system("Be brief."), user("hello")])


def test_update_of_the_head(store: Any) -> None:
    messages = [system("one"), system("two"), user("first"), assistant("fine")]
    for start, kept, new in (
        (0, 1, [system("three"), user("second")]),
        (1, 0, [user("second")]),
        (-3, 0, []),
        (-4, 4, [system("not of the head")]),
        (0, 2, [system("three")]),
    ):
        store.replace("ada", messages)
        begin = start if start >= 0 else 4 + start
        store.update("ada", start, lambda given: [*given[:kept], *new])  # noqa: B023
        expected = messages[: begin + kept] + new
        assert_is(store, "ada", expected, moved=True)
        store.append("ada", [user("more")])
        assert_is(store, "ada", [*expected, user("more")], moved=True)


def test_update_without_a_change(store: Any) -> None:
    store.append("ada", conversation(5))
    before = store.updated_at("ada")
    time.sleep(0.01)
    assert store.update("ada", -2, lambda last: last) == conversation(5)[3:]
    assert store.update("ada", 9, list) == []
    assert store.updated_at("ada") == before
    assert_is(store, "ada", conversation(5))


def test_update_of_what_was_trimmed(store: Any) -> None:
    store.append("ada", [system("Be brief."), *(user(str(number)) for number in range(9))])
    store.trim("ada", 5)
    refused = error_of(lambda: store.update("ada", 3, lambda given: [*given, user("more")]), IndexError)
    assert refused == "the message at position 3 was trimmed; the oldest left is at 5"
    # A negative number counts what is left.
    assert store.update("ada", -99, lambda given: [*given, user("more")])[:2] == [system("Be brief."), user("4")]
    assert store.update("ada", 9, lambda given: given[:1]) == [user("8")]
    assert store.all("ada")[-1] == user("8")
    assert store.window("ada", 1_000).start == 5
    # A change of the head is like `replace`: positions begin anew.
    store.update("ada", -99, lambda given: [system("Be kind."), *given[1:]])
    assert store.window("ada", 1_000).start == 1
    assert store.slice("ada", 0, 3) == [system("Be kind."), user("4"), user("5")]


def test_update_refuses_what_is_no_change(store: Any) -> None:
    store.append("ada", conversation(3))
    refused: list[tuple[Any, type[Exception], str]] = [
        (
            [user("hello")],
            TypeError,
            "change must be a function of a list of messages, got [{'role': 'user', 'content': 'hello'}]",
        ),
        (lambda _: None, TypeError, "change must return an iterable of messages, got NoneType"),
        (lambda _: user("hello"), TypeError, "change must return an iterable of messages, got one dict"),
        (lambda _: 1 / 0, ZeroDivisionError, "division by zero"),
        (lambda last: last[7], IndexError, "list index out of range"),
        (lambda last: last.remove(0), ValueError, "list.remove(x): x not in list"),
        (lambda _: [user("hello"), {"role": "user", "content": {1, 2}}], TypeError, ""),
    ]
    for change, kind, message in refused:
        assert message in error_of(lambda: store.update("ada", -2, change), kind)  # noqa: B023
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        store.update("ada", 1.5, list)
    assert_is(store, "ada", conversation(3))


def test_pop_refuses_an_index_that_is_not_there(store: Any) -> None:
    store.append("ada", conversation(3))
    for index in (3, -4, 2**70, -(2**70)):
        message = f"index {index} is out of range for a session of 3 messages"
        assert error_of(lambda: store.pop("ada", index), IndexError) == message  # noqa: B023
    assert error_of(lambda: store.pop("bob"), IndexError) == "index -1 is out of range for a session of 0 messages"
    for odd in ("0", 1.0, None):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            store.pop("ada", odd)
    assert_is(store, "ada", conversation(3))
    assert store.keys() == ["ada"]


def test_replace_and_delete(store: Any) -> None:
    messages = conversation(9)
    store.replace("ada", messages)
    store.append("bob", messages[:2])
    assert_is(store, "ada", messages)
    store.replace("ada", [])
    assert_is(store, "ada", [])
    assert store.keys() == ["ada", "bob"]
    store.replace("ada", messages[::-1])
    assert_is(store, "ada", messages[::-1])
    assert store.delete("ada") is True
    assert store.delete("ada") is False
    assert store.keys() == ["bob"]
    assert_is(store, "ada", [])
    assert_is(store, "bob", messages[:2])
    store.append("ada", messages)
    assert_is(store, "ada", messages)


def test_sessions_are_apart(store: Any) -> None:
    sessions = {f"session {index}": conversation(index, seed=index) for index in range(1, 12)}
    for key, messages in sessions.items():
        store.append(key, messages)
    for key in list(sessions)[::3]:
        assert store.delete(key)
        del sessions[key]
    assert store.keys() == sorted(sessions)
    for key, messages in sessions.items():
        assert_is(store, key, messages)


@pytest.mark.parametrize("start_on", ["user", None])
def test_set_head(store_url: str, opened: Callable[..., Any], start_on: Any) -> None:
    policy = {"start_on": start_on}
    store = opened(store_url, **policy)
    store.set_head("ada", [system("one")])  # a session begins
    assert_is(store, "ada", [system("one")], policy)
    rest = [user("hello"), call(), result("found"), assistant("fine"), system("later"), user("more")]
    store.append("ada", rest)
    positions = store.window("ada", 10**6).start, store.slice("ada", 1, 2)
    for head in (
        [system("two"), {"role": "developer", "content": "three"}],
        [],
        [system("four " * 20)],
        [system("five")] * 9,
    ):
        store.set_head("ada", head)
        assert_is(store, "ada", [*head, *rest], policy, moved=True)
        assert store.window("ada", 10**6).head == len(head)
        # Messages after the head keep their positions.
        assert store.slice("ada", 1, 2) == positions[1] == [user("hello")]
    store.append("ada", [user("end")])
    assert_is(store, "ada", [*[system("five")] * 9, *rest, user("end")], policy, moved=True)


def test_set_head_refuses_what_is_not_of_a_head(store: Any) -> None:
    messages = [system("one"), user("hello")]
    store.append("ada", messages)
    for number, head in enumerate(([user("x")], [system("x"), assistant("y")], [system("x")] * 2 + [results("x")])):
        message = f"the head has system and developer messages only; number {number} of those given is not one"
        for key in ("ada", "nobody"):
            assert error_of(lambda: store.set_head(key, head)) == message  # noqa: B023
    assert_is(store, "ada", messages)
    assert store.keys() == ["ada"]


@pytest.mark.parametrize("policy", ["message, user", "message, any", "text", "callable measure"])
def test_trim(store_url: str, opened: Callable[..., Any], policy: str) -> None:
    """Windows are what they were, as far as their messages are left."""
    options = POLICIES[policy]
    store = opened(store_url, **options)
    messages = [system("Be brief."), *conversation(60, seed=11)[2:]]
    ring = ring_of(messages, options)
    has_head = policy != "text"
    for before in (0, 1, 2, 5, 20, 40, 57, 58, 10**12):
        store.replace("ada", messages)
        gone = store.trim("ada", before)
        first = has_head + gone
        assert first <= max(before, has_head)
        assert store.length("ada") == len(messages) - gone
        assert store.all("ada") == messages[:has_head] + messages[first:]
        assert store.trim("ada", before) == 0
        for limit in limits_of(ring):
            try:
                expected = ring.window(token_limit=limit)
            except ValueError:
                continue
            window = store.window("ada", limit)
            if expected.start >= first and (expected.question is None or expected.question >= first):
                assert window == expected
                assert (window.tokens, window.start, window.question) == (
                    expected.tokens,
                    expected.start,
                    expected.question,
                )
            else:
                assert window == messages[:has_head] + messages[first:] or policy == "text"
        assert store.slice("ada", first, first + 3) == messages[first : first + 3]
        if gone:
            message = f"the message at position {first - 1} was trimmed; the oldest left is at {first}"
            assert error_of(lambda: store.slice("ada", first - 1, first + 1), IndexError) == message  # noqa: B023
            assert store.slice("ada", 0, has_head) == messages[:has_head]
        store.append("ada", [user("end")])
        assert store.last("ada", 1) == [user("end")]
        assert store.slice("ada", len(messages), len(messages) + 1) == [user("end")]
    assert error_of(lambda: store.trim("ada", -1)) == "before must be at least 0, got -1"
    for before_ in ("1", 1.5, None):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            store.trim("ada", before_)


def test_what_follows_a_trim(store: Any) -> None:
    messages = [
        system("Be brief."),
        *(one for n in range(30) for one in (user(f"{n}"), call(), result("r"), assistant("ok"))),
    ]
    store.append("ada", messages)
    assert store.trim("ada", 50) == 48
    left = [messages[0], *messages[49:]]
    assert_is(store, "ada", left, moved=True, trimmed=True)
    assert store.pop("ada", 5) == left.pop(5)
    assert_is(store, "ada", left, moved=True, trimmed=True)
    store.recount("ada")
    assert_is(store, "ada", left, moved=True)
    assert store.pop("ada", 0) == left.pop(0)
    assert_is(store, "ada", left, moved=True)
    store.set_head("ada", [system("Be kind.")])
    left.insert(0, system("Be kind."))
    assert store.pop("ada", 1) == left.pop(1)
    assert_is(store, "ada", left, moved=True)
    store.replace("ada", messages)
    assert_is(store, "ada", messages)


def test_prune(store: Any) -> None:
    turns = [message for number in range(40) for message in (user(f"question {number}"), assistant("answer"))]
    sessions = {"a": [system("Be brief."), *turns], "b": turns[:10], "c": [], "x": turns}
    for key, messages in sessions.items():
        store.replace(key, messages)
    assert store.prune(unused_for=3600) == (0, 0, 0, 0)
    pruned = store.prune(max_messages=20, prefix="a")
    assert (pruned.removed, pruned.trimmed, pruned.messages) == (0, 1, 60)
    assert store.all("a") == [system("Be brief."), *turns[60:]]
    assert store.length("x") == 80
    pruned = store.prune(max_messages=20)
    assert (pruned.removed, pruned.trimmed, pruned.messages) == (0, 1, 60)
    tokens = sum(MessageRing().count(message) for message in turns[70:])
    assert store.prune(max_tokens=tokens) == (0, 2, 20, 0)
    assert store.all("a") == [system("Be brief."), *turns[70:]]
    assert store.all("x") == turns[70:]
    assert store.all("b") == turns[:10]
    store.append("a", [user("one"), assistant("two")])
    assert store.prune(max_messages=9, max_tokens=10**6) == (0, 1, 2, 0)


def test_prune_removes_what_is_not_used(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("old", "used"):
        store.append(key, [user("hello")])
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3_600)
    store.append("used", [user("again")])
    assert store.prune(unused_for=1_800, prefix="u") == (0, 0, 0, 0)
    assert store.prune(unused_for=1_800) == (1, 0, 0, 0)
    assert store.keys() == ["used"]


def test_what_prune_refuses(store: Any) -> None:
    message = "say what to prune: unused_for, max_messages or max_tokens"
    assert error_of(store.prune) == message
    for name, bound in (("unused_for", 0.5), ("max_messages", 0), ("max_tokens", -1), ("unused_for", float("nan"))):
        assert error_of(lambda: store.prune(**{name: bound})) == f"{name} must be at least 1, got {bound}"  # noqa: B023


def test_prune_leaves_sessions_of_another_policy(durable_url: str, opened: Callable[..., Any]) -> None:
    first, second = opened(durable_url), opened(durable_url, counter="cl100k_base")
    for store, key in ((first, "a"), (second, "b")):
        store.append(key, [user(str(number)) for number in range(10)])
    assert second.prune(max_messages=2) == (0, 1, 8, 0)
    assert first.length("a") == 10


# What is stored.


def test_texts_are_data(store: Any) -> None:
    for name, text in TEXTS.items():
        message = {"role": "user", "content": text, "name": text[:20], text[:30]: [text[:9], {text[:8]: None}]}
        store.append(name, [user("before")])
        store.append(name, [message])
        store.append(name, [user("after"), message])
        messages = [user("before"), message, user("after"), message]
        assert store.all(name) == messages
        assert store.window(name, 10**9) == messages
        assert store.token_count(name) == ring_of(messages).token_count()
        assert store.pop(name) == message
        store.replace(name, [message])
        assert store.all(name) == [message]


def test_values_are_data(store: Any) -> None:
    values: list[Any] = [
        None,
        True,
        False,
        0,
        -1,
        2**70,
        1.5,
        -0.0,
        1e300,
        1e-300,
        0.1,
        "",
        [],
        {},
        [[]],
        {"": [{}]},
        "\0",
    ]
    message = {"role": "assistant", "content": "x", "values": values, "deep": [[[[[{"a": {"b": [None]}}]]]]]}
    store.append("ada", [message])
    (back,) = store.all("ada")
    assert back == message
    assert list(map(type, back["values"])) == list(map(type, values))
    assert list(back) == list(message)  # in order
    assert str(back["values"][7]) == "-0.0"
    store.append("ada", [{"role": "user", "content": "x", "pair": (1, (2, 3))}])
    assert store.last("ada", 1) == [{"role": "user", "content": "x", "pair": [1, [2, 3]]}]


def test_records(store: Any) -> None:
    payloads = [None, b"", b"\x00", bytes(range(256)), b"x" * 2**20]
    records = [Record("user", "hello", payload) for payload in payloads]
    store.append("one by one", records[:1])
    for record in records[1:]:
        store.append("one by one", [record])
    store.append("together", records)
    assert store.all("one by one") == records
    assert [type(record) for record in store.all("together")] == [Record] * len(records)
    assert store.window("together", 1000) == records
    assert [store.pop("together", 0) for _ in payloads] == records
    mixed = [Record("system", "Be brief."), user("hello"), Record("assistant", "\ud800 \0", b"\0"), Record("\0", "x")]
    store.append("mixed", mixed)
    assert store.all("mixed") == mixed
    assert store.window("mixed", 100).head == 1
    assert [record.content for record in store.all("mixed")[::2]] == ["Be brief.", "\ud800 \0"]


class SDKMessage:
    """As pydantic's models, which the SDKs of providers have."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, *, mode: str, exclude_unset: bool) -> dict[str, Any]:
        assert (mode, exclude_unset) == ("json", True)
        return self.fields


def test_objects_of_an_sdk_are_stored_as_dicts(store: Any) -> None:
    reply = call("Let me see.")
    store.append("ada", [user("hello"), SDKMessage(**reply)])
    store.append("ada", [SDKMessage(**result("found"))])
    assert_is(store, "ada", [user("hello"), reply, result("found")])
    store.replace("ada", [SDKMessage(**reply)])
    assert store.all("ada") == [reply]
    store.set_head("ada", [SDKMessage(**system("Be brief."))])
    assert store.all("ada") == [system("Be brief."), reply]


def test_mappings_are_stored_as_dicts(store: Any) -> None:
    from types import MappingProxyType

    store.append("ada", [MappingProxyType(user("hello"))])
    assert_is(store, "ada", [user("hello")])


@pytest.mark.parametrize("opened", ["sync", "async"], indirect=True)
def test_every_request_comes_back_equal(
    store_url: str, opened: Callable[..., Any], requests: list[dict[str, Any]]
) -> None:
    requests = requests[:: max(len(requests) // 50, 1) if FAST else 1]
    stores = {name: opened(store_url, format=name) for name in {request["format"] for request in requests}}
    for number, request in enumerate(requests):
        messages = [system(request["system"]), *request["messages"]] if request["system"] else request["messages"]
        store = stores[request["format"]]
        store.append(f"{number}", messages)
        assert store.all(f"{number}") == messages
        ring: MessageRing[Any] = MessageRing(format=request["format"])
        ring.put_messages(messages)
        tokens = ring.token_count()
        assert store.token_count(f"{number}") == tokens
        limit = tokens * 2 // 3
        try:
            expected = ring.window(token_limit=limit)
        except ValueError:
            continue
        window = store.window(f"{number}", limit)
        assert window == expected
        assert (window.tokens, window.start) == (expected.tokens, expected.start)


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ("hello", TypeError, "messages must be an iterable of messages, got one str"),
    (b"hello", TypeError, "messages must be an iterable of messages, got one bytes"),
    (user("hello"), TypeError, "messages must be an iterable of messages, got one dict"),
    (Record("user", "hello"), TypeError, "messages must be an iterable of messages, got one Record"),
    (5, TypeError, "messages must be an iterable of messages, got int"),
    *(
        (
            [user("fine"), odd, user("fine")],
            TypeError,
            f"a store keeps messages that are JSON, such as dicts; got {type(odd).__name__}: convert it, or open the "
            "store with a format that can",
        )
        for odd in (5, "hello", ("user", "hello"), None, object())
    ),
    (
        [user("fine"), {"role": "user"}],
        TypeError,
        "a message needs a role and a content (or tool_calls, blocks or parts), or the type of an item such as "
        "function_call; this dict has the keys 'role'",
    ),
    ([user("fine"), {"role": 5, "content": "x"}], TypeError, "a message's role must be a string, got int"),
    (
        [user("fine"), {"role": "user", "content": "x", "y": {1}}, user("fine")],
        TypeError,
        "a message that is stored must be JSON: Object of type set is not JSON serializable",
    ),
    (
        [user("fine"), {"role": "user", "content": "x", "y": b"y"}],
        TypeError,
        "a message that is stored must be JSON: Object of type bytes is not JSON serializable",
    ),
    (
        [user("fine"), {"role": "user", "content": "x", 5: "y"}],
        TypeError,
        "a message that is stored must be JSON: its keys must be str, got 5",
    ),
    (
        [user("fine"), {"role": "user", "content": "x", "y": float("nan")}],
        ValueError,
        "a message that is stored must be JSON: Out of range float values are not JSON compliant",
    ),
]


def test_what_is_no_message_is_refused(store: Any) -> None:
    store.append("ada", [user("before")])
    circular = user("x")
    circular["itself"] = circular
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    too_deep = "a message that is stored must be nested at most 200 deep"
    refused: list[tuple[Any, type[Exception], str]] = [
        *REFUSED,
        ([user("fine"), circular], ValueError, too_deep),
        ([user("fine"), {**user("x"), "y": deep}], ValueError, too_deep),
    ]
    for messages, error, text in refused:
        for key in ("ada", "bob"):
            for change in (store.append, store.replace, store.set_head):
                with pytest.raises(error) as raised:
                    change(key, messages)
                assert str(raised.value).startswith(text)
    assert_is(store, "ada", [user("before")])
    assert store.keys() == ["ada"]


def test_messages_may_come_from_an_iterator_that_fails(store: Any) -> None:
    def failing() -> Iterator[Any]:
        yield user("one")
        raise LookupError("no more")

    store.append("ada", [user("before")])
    for method in (store.append, store.replace, store.set_head):
        with pytest.raises(LookupError, match="no more"):
            method("ada", failing())
    assert_is(store, "ada", [user("before")])


# Blank texts, where texts are joined.

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
def test_blank_texts(store_url: str, opened: Callable[..., Any], roles: tuple[str, ...]) -> None:
    policy = {"measure": "text"}
    store = opened(store_url, **policy)
    for number, texts in enumerate(BLANK):
        messages = [Record(roles[index % len(roles)], text) for index, text in enumerate(texts)]
        single, batch = f"one by one {number}", f"together {number}"
        for message in messages:
            store.append(single, [message])
        store.append(batch, messages)
        assert_is(store, single, messages, policy)
        assert_is(store, batch, messages, policy)
        for length in range(len(messages) - 1, -1, -1):
            store.pop(single)
            store.pop(batch, 0)
            assert_is(store, single, messages[:length], policy)
            assert_is(store, batch, messages[len(messages) - length :], policy)


def test_blank_texts_that_a_callable_counts_with_the_word_before(store_url: str, opened: Callable[..., Any]) -> None:
    def count(text: str) -> list[int]:
        return [0] * (sum(map(ord, text)) % 7)

    policy = {"counter": count, "counter_name": "letters", "measure": "text"}
    store = opened(store_url, **policy)
    messages = [user(text) for text in ("ab", "", "", " ", "", "c", "", "")]
    for first in range(0, len(messages), 2):
        for second in range(first, len(messages), 3):
            key = f"{first} {second}"
            for part in (messages[:first], messages[first:second], messages[second:]):
                store.append(key, part)
            assert_is(store, key, messages, policy)
    for place in range(len(messages)):
        key = f"pop {place}"
        store.append(key, messages)
        assert store.pop(key, place) == messages[place]
        assert_is(store, key, messages[:place] + messages[place + 1 :], policy)


def test_many_blank_texts(store_url: str, opened: Callable[..., Any]) -> None:
    policy = {"measure": "text"}
    store = opened(store_url, **policy)
    messages = [user("hello"), *[user("")] * 150, *[user("\n")] * 150, user("there"), *[user(" ")] * 80]
    store.append("ada", messages)
    assert_is(store, "ada", messages, policy)
    store.append("ada", [user("end"), user("")])
    assert_is(store, "ada", [*messages, user("end"), user("")], policy)


def test_a_run_without_a_legal_start(store_url: str, opened: Callable[..., Any]) -> None:
    messages = [user("go on"), *(result(f"result {index} of many") for index in range(300)), assistant("done")]
    for name in ("message, user", "message, any", "text"):
        store = opened(store_url, **POLICIES[name])
        store.append(name, messages)
        assert_is(store, name, messages, POLICIES[name])


# Formats.


class Note(NamedTuple):
    who: str
    text: str
    mark: object = None


class Notes:
    """A format of notes, with a mark that is not counted and need not be JSON."""

    name = "notes"

    def read(self, note: Any) -> Any:
        if not isinstance(note, Note):
            raise TypeError(f"a note, please; got {type(note).__name__}")
        if note.mark == "unreadable":
            raise ZeroDivisionError("cannot read")
        return {"role": note.who, "content": note.text}

    def dump(self, note: Note) -> Any:
        if note.mark == "unwritable":
            raise ZeroDivisionError("cannot dump")
        if note.mark in ("nul", "bytes", "none", "surrogate"):
            return {"nul": "a\0b", "bytes": b"x", "none": None, "surrogate": "a\ud800b"}[str(note.mark)]
        return f"{note.who}|{note.text}|{note.mark}"

    def load(self, body: str) -> Note:
        who, text, mark = body.split("|")
        if mark == "unloadable":
            raise ZeroDivisionError("cannot load")
        return Note(who, text, None if mark == "None" else mark)


def test_the_options_of_a_format() -> None:
    """They are used, unless a subclass replaces what they belong to."""
    used: list[str] = []

    class Bulk(Notes):
        dumps_readings = True

        def read(self, note: Any) -> Any:
            return note if isinstance(note, dict) else super().read(note)

        def dump(self, note: Any) -> Any:
            used.append(type(note).__name__)
            return super().dump(note if isinstance(note, Note) else as_note(note))

        def load_all(self, bodies: list[str]) -> list[Note]:
            used.append("load_all")
            return [self.load(body) for body in bodies]

    class Quoting(Bulk):
        def dump(self, note: Any) -> Any:
            return super().dump(note)

        def load(self, body: str) -> Note:
            return super().load(body)

    class Both(Quoting):
        dumps_readings = True

        def load_all(self, bodies: list[str]) -> list[Note]:
            return super().load_all(bodies)

    for made, expected in ((Bulk(), ["dict", "load_all"]), (Quoting(), ["Note"]), (Both(), ["dict", "load_all"])):
        used.clear()
        store = open_store("memory://", format=made)
        store.append("ada", [Note("user", "hello")])
        assert store.all("ada") == [Note("user", "hello")]
        assert used == expected


def as_note(message: Any) -> Note:
    return Note(message["role"], message["content"] if isinstance(message["content"], str) else "x")


def test_a_format_of_ones_own(store_url: str, opened: Callable[..., Any]) -> None:
    store = opened(store_url, format=Notes())
    notes = [Note("system", "Be brief."), *map(as_note, conversation(20, seed=2)[2:]), Note("user", "世界 \x7f", "m")]
    store.append("ada", notes[:1])
    store.append("ada", notes[1:])
    assert store.all("ada") == notes
    assert {type(note) for note in store.all("ada")} == {Note}
    ring = ring_of([{"role": note.who, "content": note.text} for note in notes])
    for limit in limits_of(ring):
        if limit < 14:
            continue  # the head does not fit
        window, expected = store.window("ada", limit), ring.window(token_limit=limit)
        assert [(note.who, note.text) for note in window] == [(one["role"], one["content"]) for one in expected]
        assert (window.tokens, window.start, window.question, window.head) == (
            expected.tokens,
            expected.start,
            expected.question,
            expected.head,
        )
    assert store.last("ada", 1) == store.slice("ada", len(notes) - 1, 99) == [notes[-1]]
    assert store.pop("ada", 5) == notes.pop(5)
    store.set_head("ada", [Note("system", "Be kind.")])
    notes = [Note("system", "Be kind."), *(note for note in notes if note != notes[0])]
    store.recount("ada")
    assert store.all("ada") == notes
    assert (
        error_of(lambda: store.append("ada", [Note("user", "x"), user("x")]), TypeError) == "a note, please; got dict"
    )


@pytest.mark.parametrize("policy", ["message, user", "text"])
def test_a_format_that_fails(store_url: str, opened: Callable[..., Any], policy: str) -> None:
    store = (
        opened(store_url, format=Notes(), **POLICIES[policy]) if policy != "text" else opened(store_url, format=Notes())
    )
    fine = Note("user", "fine")
    store.append("ada", [fine])
    for mark, message in (("unreadable", "cannot read"), ("unwritable", "cannot dump")):
        for key in ("ada", "bob"):
            for change in (store.append, store.replace):
                with pytest.raises(ZeroDivisionError, match=message):
                    change(key, [fine, Note("user", "x", mark), fine])
    for mark, kind, message in (
        ("nul", ValueError, "a format's dump must return a str without NUL characters and surrogates"),
        ("surrogate", ValueError, "a format's dump must return a str without NUL characters and surrogates"),
        ("bytes", TypeError, "a format's dump must return a str, got bytes"),
        ("none", TypeError, "a format's dump must return a str, got NoneType"),
    ):
        for change in (store.append, store.replace):
            refused = [fine, Note("user", "x", mark), fine]
            assert error_of(lambda: change("ada", refused), kind) == message  # noqa: B023
    assert store.all("ada") == [fine]
    assert store.keys() == ["ada"]
    store.append("ada", [Note("user", "x", "unloadable"), fine])
    for read in (METHODS["all"], lambda store, key: store.window(key, 100), lambda store, key: store.last(key, 2)):
        with pytest.raises(ZeroDivisionError, match="cannot load"):
            read(store, "ada")
    assert store.last("ada", 1) == [fine]
    store.append("ada", [fine])
    assert store.length("ada") == 4


def test_a_format_has_a_name_in_the_policy(durable_url: str, opened: Callable[..., Any]) -> None:
    notes, plain = opened(durable_url, format=Notes()), opened(durable_url)
    assert notes.policy_name == "o200k_base, message, user, notes"
    assert opened(durable_url, format="anthropic").policy_name == "o200k_base, message, user, anthropic"
    notes.append("ada", [Note("user", "hello")])
    with pytest.raises(CounterMismatchError, match=r"counted under the policy 'o200k_base, message, user, notes' "):
        plain.window("ada", 10)


def test_what_is_no_format(store_url: str) -> None:
    class Nameless(Notes):
        name = ""

    class Numbered(Notes):
        name = 5  # type: ignore[assignment]

    assert error_of(lambda: open_store(store_url, format=Nameless())) == "a format's name must not be empty"
    assert (
        error_of(lambda: open_store(store_url, format=Numbered()), TypeError)
        == "a format's name must be a str, got int"
    )
    for odd in (5, object(), b"anthropic", Notes):
        with pytest.raises(TypeError, match=r"^format must be None, a provider's name or a Format, "):
            open_store(store_url, format=odd)
    message = "unknown format 'x': choose one of openai-chat, openai-responses, anthropic, gemini, bedrock"
    assert error_of(lambda: open_store(store_url, format="x")) == message
    message = 'measure="text" reads a message\'s role and content and takes no format; use measure="message"'
    assert error_of(lambda: open_store(store_url, format="anthropic", measure="text")) == message


# Callables.


def test_sums_of_many_digits(store_url: str, opened: Callable[..., Any]) -> None:
    def count(text: str) -> range:
        return range(2 ** (10 * len(text.strip())))

    for measure in ("message", "text"):
        policy = {"counter": count, "counter_name": "many", "measure": measure}
        store = opened(store_url, **policy)
        messages = [user("x" * length) for length in (1, 1, 4, 2, 1, 4, 3, 1)]
        for message in messages[:2]:
            store.append(f"ada {measure}", [message])
        store.append(f"ada {measure}", messages[2:])
        assert_is(store, f"ada {measure}", messages, policy)


@pytest.mark.parametrize("measure", ["message", "text", "callable"])
def test_an_error_of_a_callable_reaches_the_caller(store_url: str, opened: Callable[..., Any], measure: str) -> None:
    def count(text: str) -> list[str]:
        if "bad" in text:
            raise ZeroDivisionError(text)
        return text.split()

    def tokens(message: Any) -> int:
        return len(count(message["content"]))

    policy: dict[str, Any] = {"counter": count, "counter_name": "words", "measure": measure}
    if measure == "callable":
        policy = {"measure": tokens, "measure_name": "words"}
    store = opened(store_url, **policy)
    messages = [user("good"), user("also good\n")]
    store.append("ada", messages)
    for key in ("ada", "bob"):
        for refused in ([user("bad")], [user("fine"), user("bad"), user("fine")]):
            for change in (store.append, store.replace):
                with pytest.raises(ZeroDivisionError, match="bad"):
                    change(key, refused)
    assert_is(store, "ada", messages, policy)
    assert store.keys() == ["ada"]
    store.append("ada", [user("good again")])
    assert_is(store, "ada", [*messages, user("good again")], policy)


def test_what_a_callable_gives_is_checked(store_url: str, opened: Callable[..., Any]) -> None:
    for given in (None, "text", {"a": 1}, {1}, -1, 1.5, object(), [[1]]):
        counts = {"counter": lambda _, given=given: given, "counter_name": "odd"}
        measures = {"measure": lambda _, given=given: given, "measure_name": "odd"}
        for policy in (counts, {**counts, "measure": "text"}, measures):
            refused = False
            try:
                ring_of([user("hello")], policy).token_count()
            except (TypeError, ValueError) as error:
                kind, refused, message = type(error), True, str(error)
            if refused:
                store = opened(store_url, **policy)
                assert error_of(lambda: store.append("ada", [user("hello")]), kind) == message  # noqa: B023
                assert store.keys() == []
            else:
                assert given in ("text", [[1]]) or isinstance(given, (dict, set))


def test_a_counter_that_uses_its_store(store_url: str, opened: Callable[..., Any]) -> None:
    """What it does is done before the change that it is called in."""
    working: list[str] = []

    def count(text: str) -> list[str]:
        if text == "outer" and not working:
            working.append(text)
            inner.append("ada", [user("inner")])
            inner.append("bob", [user("inner")])
            seen.append(inner.all("ada"))
            inner.window("ada", 10)
            inner.pop("bob")
        return text.split()

    for measure in ("message", "text"):
        seen: list[Any] = []
        policy = {"counter": count, "counter_name": "words", "measure": measure}
        store = opened(store_url, **policy)
        inner: Any = store._store if isinstance(store, Awaited) else store
        store.append("ada", [user("before\n")])
        working.clear()
        store.append("ada", [user("outer")])
        assert seen == [[user("before\n"), user("inner")]]
        working.append("done")
        assert_is(store, "ada", [user("before\n"), user("inner"), user("outer")], policy)
        assert store.all("bob") == []
        for key in ("ada", "bob"):
            store.delete(key)


@slow
@pytest.mark.parametrize("opened", ["sync"], indirect=True)
def test_a_counter_that_changes_its_session_whenever_it_is_asked(store_url: str, opened: Callable[..., Any]) -> None:
    """Then the session keeps changing, or the asking call itself has locked it: an error, not an endless wait."""
    asked: list[str] = []

    def count(text: str) -> list[str]:
        if text.endswith(" outer"):
            asked.append(text)
            changing.append("ada", [user("x\n")])
        return text.split()

    policy = {"counter": count, "counter_name": "words", "measure": "text"}
    changing = opened(store_url, timeout=1.5, **policy)
    changing.append("ada", [user("outer\n")])
    began = time.monotonic()
    with pytest.raises(StoreTimeoutError):
        changing.append("ada", [user("outer")])
    assert time.monotonic() - began < 60
    assert asked != []
    changing.append("bob", [user("x")])
    changing.append("ada", [user("end")])
    texts = [message["content"] for message in changing.all("ada")]
    assert texts == ["outer\n", *["x\n"] * (len(texts) - 2), "end"]
    assert_is(changing, "ada", changing.all("ada"), policy)


# Policies.


def test_a_policy_has_a_name(store_url: str) -> None:
    def name(**options: Any) -> str:
        return open_store(store_url, **options).policy_name

    assert name() == "o200k_base, message, user"
    assert name(counter=TokenCounter("cl100k_base")) == "cl100k_base, message, user"
    assert name(start_on=None) == "o200k_base, message, any"
    assert name(measure="text") == name(measure="text", start_on=None) == "o200k_base, text, any"
    assert name(counter=str.split, counter_name="words") == "words, message, user"
    assert name(measure=len, measure_name="keys") == "o200k_base, keys, user"
    assert name(counter="gpt2", counter_name="gpt2", measure_name="message") == "gpt2, message, user"


def test_options_that_are_refused(store_url: str) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        (
            {"counter": str.split},
            ValueError,
            "a callable counter needs a counter_name, which identifies it in its sessions",
        ),
        (
            {"measure": len},
            ValueError,
            "a callable measure needs a measure_name, which identifies it in its sessions",
        ),
        ({"counter": str.split, "counter_name": ""}, ValueError, "counter_name must not be empty"),
        # Or the words and the measure of one policy could be the counter of another.
        (
            {"counter": str.split, "counter_name": "words, message"},
            ValueError,
            "counter_name must not have a comma and a space, which part the names in a policy's: 'words, message'",
        ),
        (
            {"measure": len, "measure_name": "keys, queue"},
            ValueError,
            "measure_name must not have a comma and a space, which part the names in a policy's: 'keys, queue'",
        ),
        *(
            (
                {"counter": str.split, "counter_name": known},
                ValueError,
                f"counter_name {known!r} is the name of another counter, which counts differently",
            )
            for known in ("cl100k_base", "message", "text")
        ),
        (
            {"measure": len, "measure_name": "message"},
            ValueError,
            "measure_name 'message' is the name of another measure, which counts differently",
        ),
        ({"counter_name": "words"}, ValueError, "counter_name is for callables; this counter is known as 'o200k_base'"),
        ({"measure_name": "words"}, ValueError, "measure_name is for callables; this measure is known as 'message'"),
        (
            {"measure": "x"},
            ValueError,
            'measure must be "message", "text" or a callable from a message to its tokens; got \'x\'',
        ),
        ({"start_on": "x"}, ValueError, "start_on must be \"user\" or None, got 'x'"),
        *(
            ({"timeout": timeout}, ValueError, f"timeout must be a number of seconds above 0, got {timeout!r}")
            for timeout in (0, -1, True, "soon", float("nan"))
        ),
        (
            {"counter": str.split, "counter_name": "a\0b"},
            ValueError,
            "counter_name has a NUL character: 'a\\x00b'",
        ),
        (
            {"counter": str.split, "counter_name": "a\ud800"},
            ValueError,
            "counter_name has a lone surrogate: 'a\\ud800'",
        ),
        (
            {"measure": len, "measure_name": "n" * 129},
            ValueError,
            f"measure_name must have at most 128 bytes of UTF-8, got 129: '{'n' * 40}'...",
        ),
        *(
            (
                {"counter": str.split, "counter_name": name},
                TypeError,
                f"counter_name must be a str, got {type(name).__name__}",
            )
            for name in (5, 0, b"words", ["words"])
        ),
    ]
    for options, kind, message in cases:
        if options == {"timeout": "soon"} and store_url.startswith(("postgresql", "redis")):
            continue  # refused, in other words
        assert error_of(lambda: open_store(store_url, **options), kind) == message  # noqa: B023
    with pytest.raises(ValueError, match='unknown encoding "cl100k"'):
        open_store(store_url, counter="cl100k")
    with pytest.raises(TypeError, match=r"^a (SQL|Redis)Store has no option 'colour'$"):
        open_store(store_url, colour="red")
    with pytest.raises(TypeError, match=r"^a (SQL|Redis)Store has no option 'token_limit': it is an argument of"):
        open_store(store_url, token_limit=3_000)


DIRECTIONS = [
    ("message, user", "message, any"),
    ("message, any", "message, user"),
    ("message, user", "text"),
    ("text", "message, user"),
    ("message, any", "text"),
    ("text", "message, any"),
    ("message, user", "another encoding"),
    ("callable counter", "a provider's format"),
    ("text", "callable measure"),
    ("callable measure", "callable counter of texts"),
]


@pytest.mark.parametrize(("ours", "theirs"), DIRECTIONS)
def test_a_session_of_another_policy(durable_url: str, opened: Callable[..., Any], ours: str, theirs: str) -> None:
    first, second = opened(durable_url, **POLICIES[ours]), opened(durable_url, **POLICIES[theirs])
    messages = conversation(12, seed=1)
    first.append("ada", messages)
    message = (
        f"session 'ada' was counted under the policy '{first.policy_name}' (counter, measure, start rule, format), "
        f"this store's is '{second.policy_name}': open it with those options, or call recount('ada')"
    )
    needs_counts = ["append", "append two", "window", "pop", "trim", "token_count"]
    for name in needs_counts + ["set_head"] * ("text" not in theirs):
        with pytest.raises(CounterMismatchError) as raised:
            METHODS[name](second, "ada")
        assert str(raised.value) == message, name
        assert isinstance(raised.value, StoreError)
        assert isinstance(raised.value, ValueError)
    # These do not need the counts.
    assert second.all("ada") == messages
    assert second.last("ada", 2) == second.slice("ada", 10, 12) == messages[-2:]
    assert second.length("ada") == len(messages)
    assert second.exists("ada")
    assert second.keys() == ["ada"]
    assert_is(first, "ada", messages, POLICIES[ours])
    second.recount("ada")
    assert_is(second, "ada", messages, POLICIES[theirs], moved=True)
    with pytest.raises(CounterMismatchError):
        first.append("ada", [user("hello")])
    second.append("ada", [assistant("and more"), user("more")])
    assert_is(second, "ada", [*messages, assistant("and more"), user("more")], POLICIES[theirs], moved=True)
    first.recount("ada")
    assert_is(first, "ada", [*messages, assistant("and more"), user("more")], POLICIES[ours], moved=True)
    second.replace("ada", messages[:4])
    assert_is(second, "ada", messages[:4], POLICIES[theirs])
    assert first.delete("ada") is True
    second.append("ada", messages)
    assert_is(second, "ada", messages, POLICIES[theirs])


@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize("head", [1, 3])
def test_a_head_is_counted_by_another_policy(
    durable_url: str, opened: Callable[..., Any], head: int, trims: bool
) -> None:
    """Where texts are joined it is like other messages. When it is counted again, it is a head again."""
    stores = [opened(durable_url, **POLICIES[name]) for name in ("message, user", "text", "message, any", "text")]
    messages = [*[{"role": "system", "content": "Be nice."}] * head, *conversation(12, seed=1)]
    stores[0].append("ada", messages)
    if trims:
        gone = stores[0].trim("ada", head + 6)
        messages = [*messages[:head], *messages[head + gone :]]
    for store in [*stores, stores[0]]:
        store.recount("ada")
        assert store.all("ada") == messages
        assert store.length("ada") == len(messages)
        assert store.last("ada", 2) == messages[-2:]
    stores[0].append("ada", [user("more")])
    assert stores[0].all("ada") == [*messages, user("more")]
    if not trims:
        assert_is(stores[0], "ada", [*messages, user("more")], POLICIES["message, user"], moved=True)


def test_an_empty_session_has_a_policy_too(durable_url: str, opened: Callable[..., Any]) -> None:
    policy = POLICIES["callable counter"]
    first, second = opened(durable_url), opened(durable_url, **policy)
    first.replace("ada", [])
    for name in ("append", "window", "token_count", "trim"):
        with pytest.raises(CounterMismatchError):
            METHODS[name](second, "ada")
    assert second.all("ada") == []
    assert second.length("ada") == 0
    second.recount("ada")
    assert_is(second, "ada", [], policy)
    second.append("ada", [user("hello")])
    assert_is(second, "ada", [user("hello")], policy)


def test_recount_counts_what_has_changed_its_tokens(store_url: str, opened: Callable[..., Any]) -> None:
    factor = 1
    policy = {"counter": lambda text: factor * len(text.split()), "counter_name": "words"}
    store = opened(store_url, **policy)
    messages = conversation(12)
    store.append("ada", messages)
    factor = 3
    store.recount("ada")
    assert_is(store, "ada", messages, policy)
    store.append("ada", messages)
    assert_is(store, "ada", messages + messages, policy)


@pytest.mark.parametrize("policy", ["message, user", "message, any", "text"])
def test_recount_of_what_others_have_appended_meanwhile(
    durable_url: str, opened: Callable[..., Any], policy: str
) -> None:
    """A store that remembers the session as it was counts what is new on top."""
    options = POLICIES[policy]
    cases = [
        ([], [system("Be brief.")]),
        ([system("one")], [system("two"), user("hello")]),
        ([assistant("one"), call(), result("x")], [user("hello"), assistant("two")]),
        ([user("one"), user("\t"), system(" ")], [assistant("two"), user(" "), user("three\n")]),
        ([user("one\n")], [user(" "), result("")]),
    ]
    for number, (before, more) in enumerate(cases):
        key = f"session {number}"
        ours, theirs = opened(durable_url, **options), opened(durable_url, **options)
        ours.replace(key, before)
        theirs.append(key, more)
        ours.recount(key)
        assert_is(theirs, key, [*before, *more], options, moved=True)
        theirs.append(key, [user("end")])
        ours.recount(key)
        assert_is(theirs, key, [*before, *more, user("end")], options, moved=True)


# Several stores, threads and tasks.


def test_two_stores_see_each_others_changes(durable_url: str, opened: Callable[..., Any]) -> None:
    first, second = opened(durable_url), opened(durable_url)
    messages = conversation(30, seed=2)
    for index, message in enumerate(messages):
        (first, second)[index % 2].append("ada", [message])
    assert_is(first, "ada", messages)
    assert second.pop("ada", 7) == messages[7]
    assert_is(first, "ada", messages[:7] + messages[8:], moved=True)
    first.append("ada", [user("one")])
    second.set_head("ada", [system("Be kind.")])
    first.append("ada", [user("two")])
    assert second.trim("ada", 10) > 0
    first.append("ada", [user("three")])
    assert second.last("ada", 3) == [user("one"), user("two"), user("three")]
    first.replace("ada", messages[:5])
    assert_is(second, "ada", messages[:5])
    assert second.delete("ada") is True
    first.append("ada", messages)
    assert_is(second, "ada", messages)


def test_sessions_outlive_the_store(durable_url: str, opened: Callable[..., Any]) -> None:
    messages = conversation(8)
    first = opened(durable_url)
    first.append("ada", messages)
    first.close()
    assert_is(first, "ada", messages)
    first.close()
    assert_is(opened(durable_url), "ada", messages)


def test_a_closed_store_opens_at_the_next_call(store: Any) -> None:
    store.close()
    store.append("ada", [user("hello")])
    assert_is(store, "ada", [user("hello")])
    store.close()
    store.close()


def test_what_is_in_memory_is_gone_with_its_store() -> None:
    store = open_store("memory://")
    assert store.is_in_memory
    store.append("ada", [user("hello")])
    assert open_store("memory://").keys() == []
    asyncio.run(store.aclose())
    assert store.keys() == ["ada"]
    store.close()
    assert store.keys() == []
    store.append("ada", [user("again")])
    assert_is(store, "ada", [user("again")])
    store.close()


@pytest.mark.parametrize("measure", ["message", "text"])
def test_many_threads(store_url: str, measure: str) -> None:
    writers, each = 8, 20
    policy = {"measure": measure}
    store = open_store(store_url, **policy)

    def write(writer: int) -> None:
        for index in range(each):
            store.append("ada", [(user if index % 3 else assistant)(f"{writer} {index} ")])
            store.append(f"own {writer}", [user(f"{index}")])
            if index % 10 == 9:
                assert store.window("ada", 50)

    run_numbered(write, writers)
    written = [tuple(map(int, message["content"].split())) for message in store.all("ada")]
    assert sorted(written) == [(writer, index) for writer in range(writers) for index in range(each)]
    for writer in range(writers):
        assert [index for by, index in written if by == writer] == list(range(each))
        assert_is(store, f"own {writer}", [user(f"{index}") for index in range(each)], policy)
    assert_is(store, "ada", store.all("ada"), policy)
    store.close()


@pytest.mark.parametrize("measure", ["message", "text"])
def test_many_tasks(store_url: str, measure: str) -> None:
    writers, each = 8, 12
    policy = {"measure": measure}
    store = open_store(store_url, **policy)

    async def write(writer: int) -> None:
        for index in range(each):
            await store.aappend("ada", [user(f"{writer} {index}\n")])
            await store.awindow("ada", 20)

    async def write_all() -> list[Any]:
        try:
            await asyncio.gather(*(write(writer) for writer in range(writers)))
            return await store.aall("ada")
        finally:
            await store.aclose()

    messages = asyncio.run(write_all())
    written = [tuple(map(int, message["content"].split())) for message in messages]
    assert sorted(written) == [(writer, index) for writer in range(writers) for index in range(each)]
    for writer in range(writers):
        assert [index for by, index in written if by == writer] == list(range(each))
    assert_is(store, "ada", messages, policy)
    store.close()


def test_a_store_is_used_in_one_loop_after_the_other(store_url: str) -> None:
    store = open_store(store_url)

    async def use() -> None:
        await asyncio.gather(*(store.aappend("ada", [user("hello")]) for _ in range(3)))
        await store.aclose()

    for _ in range(3):
        asyncio.run(use())
    run_numbered(lambda _: asyncio.run(use()), 3)
    assert store.length("ada") == 18
    store.close()


def test_threads_that_change_all_there_is_to_change(store_url: str) -> None:
    store = open_store(store_url)
    store.append("ada", [system("Be brief."), *conversation(30, seed=4)])
    popped: list[Any] = []

    def work(number: int) -> None:
        for index in range(8):
            store.append("ada", [user(f"{number} {index}")])
            popped.append(store.pop("ada", 1))
            popped.append(store.pop("ada", -1))
            store.append("ada", [result(f"{number} {index} \n"), user("")])
            store.set_head("ada", [system(f"Be number {number}.")])
            if index % 4 == 3:
                store.recount("ada")

    run_numbered(work, 4)
    assert len(popped) == 64
    assert store.length("ada") >= 30 + 32
    assert_is(store, "ada", store.all("ada"), moved=True)
    store.close()


def test_updates_of_many_writers_lose_nothing(store_url: str) -> None:
    store = open_store(store_url, timeout=60)
    same = [user("asked"), assistant("once")]

    def counted(last: list[Any]) -> list[Any]:
        return [*last[:-1], user(str(int(last[-1]["content"]) + 1))]

    def added(all_of_it: list[Any]) -> list[Any]:
        return all_of_it if same[0] in all_of_it else [*all_of_it, *same]

    async def tasks() -> None:
        await asyncio.gather(*(store.aupdate("count", -1, counted) for _ in range(10)))
        await asyncio.gather(*(store.aupdate("once", 0, added) for _ in range(5)))
        await store.aclose()

    def work(number: int) -> None:
        if number == 0:
            asyncio.run(tasks())
        for index in range(10):
            store.update("count", -1, counted)
            store.append("once", [user(f"{number} {index}")])
            store.update("once", 0, added)

    store.append("count", [user("0")])
    run_numbered(work, 4)
    assert store.all("count") == [user("50")]
    assert [message for message in store.all("once") if message in same] == same
    assert store.length("once") == 42
    assert_is(store, "once", store.all("once"), moved=True)
    store.close()


def test_big_batches(store_url: str) -> None:
    for name in ("message, user", "text"):
        store = open_store(store_url, **POLICIES[name])
        messages = conversation(5_000, seed=11)
        store.append(name, messages)
        store.append(name, messages[:1])
        ring = ring_of([*messages, messages[0]], POLICIES[name])
        assert store.token_count(name) == ring.token_count()
        for limit in (100, 1_000, 10_000):
            assert store.window(name, limit) == ring.window(token_limit=limit)
        assert store.pop(name, 4_000) == messages[4_000]
        ring.delete(4_000)
        for limit in (100, 1_000, 10_000):
            assert store.window(name, limit) == ring.window(token_limit=limit)
        store.close()


def test_a_store_shows_no_secret(store_url: str) -> None:
    store = open_store(store_url)
    shown = repr(store)
    assert PASSWORD not in shown
    assert PASSWORD not in store.url
    assert f"({store.url!r}, 'o200k_base, message, user')" in shown
    assert ("***" in store.url) == (PASSWORD in store_url)
    assert store.is_in_memory == (store_url == "memory://")
    assert bool(store) is True


def test_what_is_no_store() -> None:
    secret = uuid.uuid4().hex
    for url in (
        f"mysql://root:{secret}@localhost/db",
        f"http://{secret}",
        "chat.db",
        "",
        "memory:",
        "postgresql:",
        f"x?password={secret}",
    ):
        message = error_of(lambda: open_store(url))  # noqa: B023
        assert message.endswith(
            " is not a store's URL; one begins with sqlite:// (a file: sqlite:///chat.db), postgresql://, redis:// or memory://"
        )
        assert secret not in message or url.startswith("http")
    for odd in (None, 5, Path("chat.db"), b"sqlite://"):
        assert error_of(lambda: open_store(odd), TypeError) == f"a store's URL must be a str, got {type(odd).__name__}"  # type: ignore[arg-type] # noqa: B023


def test_a_store_needs_no_driver() -> None:
    """`pip install chatring` alone opens SQLite's files and what is in memory."""
    program = (
        "import sys\n"
        "for name in ('sqlalchemy', 'psycopg', 'psycopg_pool', 'redis', 'greenlet', 'numpy', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
        "from chatring.stores import open_store\n"
        "store = open_store('sqlite://')\n"
        "store.append('ada', [{'role': 'user', 'content': 'one'}])\n"
        "import asyncio\n"
        "assert store.window('ada', 99) == asyncio.run(store.awindow('ada', 99)) == store.all('ada')\n"
        "store.close()\n"
    )
    import subprocess

    subprocess.run([sys.executable, "-c", program], check=True)
