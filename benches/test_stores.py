"""Stores that outlive the process, against bare drivers, pure Python and LlamaIndex's stores. Real servers, on this
machine.

Both sides have the same settings: SQLite in WAL with `synchronous=FULL`, where it does not say NORMAL, PostgreSQL as it
comes, Valkey as it comes, which is without an append-only file, and without its snapshots: those would fall into some
timings and not into others.

Messages are OpenAI's dicts, with calls and results, and counted as those. In front of every session is the
conversation's own system message, and beside every window are tools of some tokens: so many, and the long session of so
many messages, that windows begin in the middle of a turn, and carry its question.
"""

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import tiktoken
from chatring import MessageRing, Window
from chatring.llama_index import ChatMemoryBuffer, RedisChatStore, SQLChatStore
from chatring.stores import Store
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexBuffer
from llama_index.storage.chat_store.postgres import PostgresChatStore
from llama_index.storage.chat_store.redis import RedisChatStore as LlamaIndexRedis
from pytest_benchmark.fixture import BenchmarkFixture

from benches.bare_drivers import BareDriver, BarePsycopg, BareRedis, BareSQLite, Place
from benches.conftest import Label
from benches.contenders import ENCODE
from benches.conversation import Histories, as_chat_message, as_openai
from benches.plain_store import PlainStore
from benches.store_backends import Backend, Backends, all_backends, in_turns, waits
from benches.store_names import (
    BACKENDS,
    BARE_DRIVERS,
    OUR_ADAPTERS,
    OUR_SHORT,
    OUR_STORES,
    PLAIN_STORE,
    POSTGRESQL,
    SQLITE,
    SQLITE_NORMAL,
    THEIR_STORES,
    VALKEY,
    WRITTEN,
)

WINDOW_TOKENS, TOOLS_TOKENS = 40_000, 600
RATIOS = (1.0, 0.7)
SHORT = 1_000
# What is loaded in the quick mode; the full one has a million.
LONG_QUICK, LONG_FULL = 100_000, 1_000_000
LOADED_AT_ONCE = 100_000
ROUNDS, APPENDS = 300, 500

# LlamaIndex's case.
MESSAGES, LIMIT = 2_000, 3_000

Message = dict[str, Any]
BARE: dict[str, type[BareDriver]] = {
    SQLITE: BareSQLite,
    SQLITE_NORMAL: BareSQLite,
    POSTGRESQL: BarePsycopg,
    VALKEY: BareRedis,
}
# A turn's last message, and a step: what an agent stores at once.
APPENDED: dict[str, list[Message]] = {
    "one": [{"role": "user", "content": "The receipts are attached. Is the shop's VAT number on all three of them?"}],
    "a step": [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_i7HWMb6yxU31dvbDvW8xY7",
                    "type": "function",
                    "function": {"name": "read_file", "arguments": '{"path": "receipts/2026-11.pdf", "pages": "1-3"}'},
                }
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "call_i7HWMb6yxU31dvbDvW8xY7",
            "content": '{"pages": 3, "text": "Lindenkorb, VAT DE 811 907 980. Sum 84.90 EUR. Paid by card."}',
        },
    ],
}


class Case(NamedTuple):
    """A session, and its window."""

    key: str
    length: int
    window: Window[Message]
    place: Place


@pytest.fixture(scope="module")
def long(pytestconfig: pytest.Config) -> int:
    return LONG_FULL if pytestconfig.getoption("--full") else LONG_QUICK


@pytest.fixture(scope="module")
def history(histories: Histories) -> Callable[[int], list[Message]]:
    """Return the function that returns a session of so many messages."""
    head = next(as_openai(line) for line in histories.lines if line.role == "system")
    return lambda length: [head, *histories.last(length - 1, as_openai)]


@pytest.fixture(scope="module")
def cases(long: int, history: Callable[[int], list[Message]]) -> dict[tuple[str, float], Case]:
    """Return the sessions and windows by key and ratio.

    The short session of a ratio is the first of at least 1,000 messages that has the window of the long one: what is
    left out is a multiple of a block, so the window's length depends on where the session ends.
    """

    def windows(length: int) -> list[Window[Message]]:
        ring = MessageRing[Message](WINDOW_TOKENS)
        ring.put_messages(history(length))
        return [ring.window(initial_token_count=TOOLS_TOKENS, retention_ratio=ratio) for ratio in RATIOS]

    def case(key: str, length: int, window: Window[Message]) -> Case:
        # A ring's window has the same positions as the store's.
        return Case(key, length, window, Place(window.question, window.start))

    length, wanted = long, windows(long)
    while any(window.question is None for window in wanted):
        length += 10
        wanted = windows(length)
    found = {}
    for number, ratio in enumerate(RATIOS):
        window = wanted[number]
        assert 100 < len(window) < SHORT
        assert window.head == 1
        found["long", ratio] = case("long", length, window)
        for shorter in itertools.count(SHORT):
            if list(same := windows(shorter)[number]) == list(window):
                found["short", ratio] = case(f"short {shorter}", shorter, same)
                break
    return found


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with all_backends(tmp_path_factory.mktemp("stores")) as backends:
        yield backends


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainStore]:
    """Return the pure Python store, empty."""
    path = tmp_path_factory.mktemp("plain") / "plain.db"
    store = PlainStore(str(path), tiktoken.get_encoding("o200k_base"))
    yield store
    store.close()


def _load(store: Store[Message] | PlainStore, key: str, messages: list[Message]) -> None:
    for first in range(0, len(messages), LOADED_AT_ONCE):
        store.append(key, messages[first : first + LOADED_AT_ONCE])


def _load_once(backend: Backend, key: str, messages: list[Message]) -> None:
    if key not in backend.known:
        _load(backend.store, key, messages)
        backend.known[key] = True


@contextmanager
def _bare(backend: Backend, key: str, rows: int = 1, place: Place | None = None) -> Iterator[BareDriver]:
    driver = BARE[backend.name](backend.url, key, rows, place)
    try:
        yield driver
    finally:
        driver.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_bulk_load(
    benchmark: BenchmarkFixture, backends: Backends, history: Callable[[int], list[Message]], label: Label, name: str
) -> None:
    store = backends(name).store
    messages = history(LOADED_AT_ONCE)
    store.append("inserted", messages)
    with _bare(backends(name), "inserted", len(messages)) as driver:

        def prepare() -> None:
            store.delete("loaded")
            driver.unload()

        label(f"{name}: bulk load", OUR_STORES[name], messages=len(messages))
        load = functools.partial(store.append, "loaded", messages)
        in_turns(benchmark, load, {BARE_DRIVERS[name]: driver.load}, 3, prepare)
        driver.unload() if name == VALKEY else None
    for key in ("loaded", "inserted"):
        assert store.length(key) == len(messages)
        assert store.last(key, SHORT) == messages[-SHORT:]
        assert store.delete(key)


def test_bulk_load_of_pure_python(
    benchmark: BenchmarkFixture, plain: PlainStore, history: Callable[[int], list[Message]], label: Label
) -> None:
    label(f"{SQLITE}: bulk load", PLAIN_STORE, messages=LOADED_AT_ONCE)
    benchmark.pedantic(plain.append, ("loaded", history(LOADED_AT_ONCE)))  # once


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("which", ["short", "long"])
@pytest.mark.parametrize("name", BACKENDS)
def test_window(
    benchmark: BenchmarkFixture,
    backends: Backends,
    plain: PlainStore,
    history: Callable[[int], list[Message]],
    cases: dict[tuple[str, float], Case],
    label: Label,
    name: str,
    which: str,
    ratio: float,
) -> None:
    backend, (key, length, window, place) = backends(name), cases[which, ratio]

    def ask(store: Any, key: str = key) -> Any:
        return store.window(key, WINDOW_TOKENS, TOOLS_TOKENS, retention_ratio=ratio)

    _load_once(backend, key, history(length))
    assert backend.store.length(key) == length
    with waits(backend) as (other, count):
        for _ in range(10):  # PostgreSQL's statements are prepared when they come again
            assert ask(other) == window
        before = count()
        found = ask(other)
        assert count() - before == 1
    assert (found.tokens, found.head) == (window.tokens, window.head)
    assert (found.question, found.start) == (place.question, place.start)
    others: dict[str, Callable[[], object]] = {}
    with _bare(backend, key, 1, place) as driver:
        assert driver.window() == window
        others[BARE_DRIVERS[name]] = driver.window
        if name == SQLITE:
            if key not in backend.known.setdefault("plain", set()):
                backend.known["plain"].add(key)
                _load(plain, key, history(length))
            assert ask(plain) == window
            others[PLAIN_STORE] = functools.partial(ask, plain)
        if which == "long":
            short = cases["short", ratio]
            _load_once(backend, short.key, history(short.length))
            assert ask(backend.store, short.key) == window
            others[OUR_SHORT[name]] = functools.partial(ask, backend.store, short.key)
        workload = f"{name}: window" + (f", ratio {ratio}" if ratio < 1 else "")
        label(workload, OUR_STORES[name], messages=length, limit=WINDOW_TOKENS, window=len(window))
        in_turns(benchmark, functools.partial(ask, backend.store), others, ROUNDS)


@pytest.mark.parametrize("what", APPENDED)
@pytest.mark.parametrize("name", WRITTEN)
def test_append(
    benchmark: BenchmarkFixture,
    backends: Backends,
    plain: PlainStore,
    history: Callable[[int], list[Message]],
    label: Label,
    name: str,
    what: str,
) -> None:
    backend, messages, store = backends(name), APPENDED[what], backends(name).store
    ours, theirs = f"appended {what}", f"inserted {what}"
    for key in (ours, theirs):
        store.append(key, [*history(SHORT), *messages])
    label(f"{name}: append of {what}", OUR_STORES[name])
    with _bare(backend, theirs, len(messages)) as driver:
        others: dict[str, Callable[[], object]] = {BARE_DRIVERS[name]: driver.append}
        if name == SQLITE:
            plain.append(ours, [*history(SHORT), *messages])
            others[PLAIN_STORE] = functools.partial(plain.append, ours, messages)
        rounds = in_turns(benchmark, functools.partial(store.append, ours, messages), others, APPENDS)
    everything = store.all(ours)
    assert everything == history(SHORT) + messages * (rounds + 1)
    if name == SQLITE:
        assert plain.window(ours, LIMIT) == store.window(ours, LIMIT)
    if name != VALKEY:  # whose bare rows are beside the store's
        assert store.all(theirs) == everything


# Half a minute each: one is enough for the quick mode.
LLAMA_INDEX_CASES = [VALKEY, pytest.param(POSTGRESQL, marks=pytest.mark.full)]

# What the slow one returned; it comes first, and ours must return the same.
answers: dict[str, list[ChatMessage]] = {}


@pytest.mark.parametrize("name", LLAMA_INDEX_CASES)
def test_get_of_llama_index(
    benchmark: BenchmarkFixture, backends: Backends, histories: Histories, label: Label, name: str
) -> None:
    store: Any = (PostgresChatStore.from_uri if name == POSTGRESQL else LlamaIndexRedis)(backends(name).url)
    store.set_messages("theirs", histories.last(MESSAGES, as_chat_message))
    memory = LlamaIndexBuffer.from_defaults(
        token_limit=LIMIT, chat_store=store, chat_store_key="theirs", tokenizer_fn=ENCODE
    )
    label(f"{name}: get through LlamaIndex", THEIR_STORES[name], messages=MESSAGES, limit=LIMIT)
    answers[name] = benchmark.pedantic(memory.get)  # once
    assert len(answers[name]) > 1
    if name == POSTGRESQL:
        store._session.kw["bind"].dispose()
    else:
        store._redis_client.close()
        asyncio.run(store._aredis_client.aclose())


@pytest.mark.parametrize("name", LLAMA_INDEX_CASES)
def test_get(benchmark: BenchmarkFixture, backends: Backends, histories: Histories, label: Label, name: str) -> None:
    store = (SQLChatStore if name == POSTGRESQL else RedisChatStore)(backends(name).url)
    store.set_messages("ours", histories.last(MESSAGES, as_chat_message))
    memory = ChatMemoryBuffer.from_defaults(
        token_limit=LIMIT, chat_store=store, chat_store_key="ours", tokenizer_fn=ENCODE
    )
    label(f"{name}: get through LlamaIndex", OUR_ADAPTERS[name], messages=MESSAGES, limit=LIMIT)
    assert benchmark(memory.get) == answers[name]
    store.store.close()
