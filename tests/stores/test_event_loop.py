"""That an event loop does not wait while a store counts."""

import asyncio
import threading
import time
from typing import Any

import pytest
from chatring import TokenCounter
from chatring.stores import Record, open_store
from chatring.stores.appended import load, takes_long

HELLO, BLANK = Record("user", "Hello"), Record("user", "")
LONG = Record("user", "word " * 4_000 + "end")
SPACES = Record("user", " " * 20_000)


@pytest.fixture(params=["memory", "sqlite", "postgresql", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store."""
    if request.param == "memory":
        return "memory://"
    urls = {"sqlite": "sqlite_url", "postgresql": "postgres_url", "valkey": "valkey_url"}
    found: str = request.getfixturevalue(urls[request.param])
    return found


class Threads:
    """A counter of words, which notes in which thread it counts how many characters."""

    def __init__(self) -> None:
        self.counted: list[tuple[int, int]] = []

    def __call__(self, text: str) -> list[str]:
        self.counted.append((threading.get_ident(), len(text)))
        return text.split()

    def here(self) -> list[int]:
        """Return the characters of the texts that were counted in this thread."""
        return [size for thread, size in self.counted if thread == threading.get_ident()]


CALLS: list[tuple[list[Record], str, tuple[Any, ...]]] = [
    ([HELLO], "append", ([LONG],)),
    ([HELLO], "append", ([HELLO] * 2_000,)),
    ([HELLO, SPACES], "append", ([HELLO],)),
    ([HELLO, BLANK, *[BLANK] * 200], "append", ([HELLO],)),
    ([HELLO, Record("user", LONG.text + "\n")], "append", ([HELLO],)),
    ([HELLO], "replace", ([LONG, HELLO],)),
    ([HELLO, LONG], "recount", ()),
    ([HELLO, *[HELLO] * 2_000], "recount", ()),
    ([HELLO, LONG], "pop", (0,)),
    ([HELLO, SPACES, HELLO], "pop", ()),
    ([SPACES, SPACES], "window", (1,)),
    ([SPACES], "token_count", ()),
]


@pytest.mark.parametrize("case", range(len(CALLS)))
def test_what_is_long_is_counted_in_another_thread(url: str, case: int) -> None:
    history, method, arguments = CALLS[case]
    counter = Threads()

    async def run() -> None:
        store = open_store(url, counter=counter, counter_name="words")
        await store.areplace("ada", history)
        await store.awindow("ada", 1)
        counter.counted.clear()
        await getattr(store, f"a{method}")("ada", *arguments)
        await store.awindow("ada", 10**6)
        here = counter.here()
        assert max(here, default=0) < 8_192
        assert len(here) < 1_000
        # In memory most is known already, and SQL has nothing to count where nothing is added.
        assert store.is_in_memory or not counter.counted or len(counter.counted) > len(here)
        await store.aclose()

    asyncio.run(run())


def test_what_is_short_is_counted_at_once(valkey_url: str) -> None:
    """To go to a thread and back takes a quarter of an append."""
    counter = Threads()

    async def run() -> None:
        store = open_store(valkey_url, counter=counter, counter_name="words")
        await store.aappend("ada", [HELLO, BLANK])
        await store.aappend("ada", [Record("user", "a message as they are " * 20)])
        await store.awindow("ada", 10)
        await store.apop("ada")
        assert len(counter.counted) == len(counter.here()) > 0
        await store.aclose()

    asyncio.run(run())


def test_an_error_of_the_counter_in_a_thread_reaches_the_caller(url: str) -> None:
    def count(text: str) -> list[str]:
        if len(text) > 100:
            raise KeyError("mistake")
        return text.split()

    async def append_and_count(store: Any) -> None:
        await store.aappend("ada", [LONG])
        await store.awindow("ada", 10**6)  # when a store in memory counts

    async def run() -> None:
        store = open_store(url, counter=count, counter_name="mistaken")
        await store.aappend("ada", [HELLO])
        with pytest.raises(KeyError, match="mistake"):
            await append_and_count(store)
        await store.adelete("ada")
        await store.aclose()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("history", "records"),
    [
        ([HELLO], [*[BLANK] * 1_500, HELLO]),
        ([HELLO, *[SPACES] * 10], [HELLO]),
        ([HELLO, *[Record("user", " " * 64)] * 200], [HELLO]),
        ([HELLO], [Record("user", "a" * 500_000)]),
    ],
)
def test_the_loop_goes_on_while_an_encoding_counts(url: str, history: list[Record], records: list[Record]) -> None:
    """Counting takes a long time, and holds neither the loop nor the GIL: the longest wait is a small part of it."""

    async def run() -> None:
        store = open_store(url)
        await store.areplace("ada", history)
        await store.awindow("ada", 1)
        pauses: list[float] = []

        async def watch() -> None:
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                pauses.append(now - last)
                last = now

        watching = asyncio.create_task(watch())
        started = time.perf_counter()
        await store.aappend("ada", records)
        await store.awindow("ada", 10**9)
        taken = time.perf_counter() - started
        watching.cancel()
        # What is done within a moment needs no thread.
        assert len(pauses) > 4 or taken < 0.05, (len(pauses), taken)
        assert max(pauses, default=0) < max(taken / 3, 0.05), (max(pauses), taken)
        await store.aclose()

    asyncio.run(run())


def test_how_long_is_long() -> None:
    counter = TokenCounter("cl100k_base")
    load(counter)
    quick = [[], [BLANK] * 60, [Record("user", "word " * 1_600)], [HELLO] * 300, [Record("user", " " * 80)] * 10]
    long = [[BLANK] * 100, [Record("user", "word " * 1_700)], [HELLO] * 500, [Record("user", " " * 64)] * 64]
    assert [takes_long(counter, records) for records in quick] == [False] * len(quick)
    assert [takes_long(counter, records) for records in long] == [True] * len(long)
    assert takes_long(counter, [BLANK] * 50, [BLANK] * 50)
