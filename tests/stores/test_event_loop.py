"""That an event loop does not wait while a store counts, and that nobody else waits for the database meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from chatring.stores import Store, open_store
from profiles import LONG
from timing import Laps

from stores.histories import Message, assistant, system, user

HELLO, BLANK = user("Hello"), user("")
SPACES = user(" " * 20_000)
LENGTHY = user("word " * 4_000 + "end")
MANY = 20_000 if LONG else 4_000
# Seconds that the loop may be blocked.
PAUSE = 0.05
# Seconds that a call may take, as some count for a second even if nobody else has the processor.
PATIENCE = 300


class Pauses:
    """Measures the longest time that the loop is blocked."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Pauses:
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(0.002)
        self.longest = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.002)
        assert self._task is not None
        self._task.cancel()

    async def _watch(self) -> None:
        laps = Laps()
        while True:
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, laps.lap() - 0.001)


async def pauses_of(call: Callable[[], Any]) -> float:
    async with Pauses() as pauses:
        await call()
    return pauses.longest


def least_pause(
    prepare: Callable[[Store[Any]], Any], call: Callable[[Store[Any]], Any], url: str, **policy: Any
) -> float:
    """Return the longest pause during a call: the least of some tries, as others may have had the processor."""

    async def run() -> float:
        store = open_store(url, timeout=PATIENCE, **policy)
        await store.aappend("warm", [HELLO])
        longest = []
        for _ in range(8):
            await store.adelete("ada")
            await prepare(store)
            longest.append(await pauses_of(lambda: call(store)))
            if longest[-1] < PAUSE:
                break
        await store.aclose()
        store.close()
        return min(longest)

    return asyncio.run(run())


async def nothing(_: Store[Any]) -> None:
    """Prepare nothing."""


def appended(*batches: list[Message]) -> Callable[[Store[Any]], Any]:
    async def append(store: Store[Any]) -> None:
        for batch in batches:
            await store.aappend("ada", batch)

    return append


MIXED = [system("Be brief."), *[user("a question of some words"), assistant("and its answer")] * (MANY // 4)]
CALLS: dict[str, tuple[Callable[[Store[Any]], Any], Callable[[Store[Any]], Any]]] = {
    "a long message": (nothing, appended([LENGTHY])),
    "many messages": (nothing, appended(MIXED)),
    "many empty messages and a word": (nothing, appended([*[BLANK] * MANY, HELLO])),
    "a word after many empty messages": (appended([BLANK] * MANY), appended([HELLO])),
    "a word after many spaces": (appended(*[[SPACES]] * 100), appended([HELLO])),
    "many spaces": (nothing, appended([SPACES] * 100)),
    "replace": (appended(MIXED), lambda store: store.areplace("ada", MIXED)),
    "recount": (appended(MIXED), lambda store: store.arecount("ada")),
    "pop in the middle": (appended(MIXED), lambda store: store.apop("ada", 5)),
    "all": (appended(MIXED), lambda store: store.aall("ada")),
    "last": (appended(MIXED), lambda store: store.alast("ada", MANY // 3)),
    "slice": (appended(MIXED), lambda store: store.aslice("ada", 5, MANY // 3)),
    "window": (appended(MIXED), lambda store: store.awindow("ada", MANY * 2)),
    "window of empty messages": (appended([HELLO, *[BLANK] * MANY]), lambda store: store.awindow("ada", 100)),
    "token_count": (appended([HELLO, *[BLANK] * MANY]), lambda store: store.atoken_count("ada")),
    "trim": (appended(MIXED), lambda store: store.atrim("ada", MANY // 4)),
    "prune": (appended(MIXED), lambda store: store.aprune(max_messages=100)),
}


@pytest.mark.parametrize("measure", ["message", "text"])
@pytest.mark.parametrize("name", CALLS)
def test_the_loop_goes_on(store_url: str, measure: str, name: str) -> None:
    prepare, call = CALLS[name]
    assert least_pause(prepare, call, store_url, measure=measure) < PAUSE


@pytest.mark.parametrize("name", ["a long message", "many messages", "recount"])
def test_the_loop_goes_on_while_a_callable_counts(store_url: str, name: str) -> None:
    slept: list[float] = []

    def count(text: str) -> list[str]:
        if len(text) > 8 and len(slept) < 20:
            slept.append(0.01)
            time.sleep(0.01)
        return text.split()

    prepare, call = CALLS[name]
    policy = {"counter": count, "counter_name": "words"}
    assert least_pause(prepare, call, store_url, **policy) < PAUSE
    assert slept != []


def test_a_callable_is_called_in_another_thread(store_url: str) -> None:
    threads: set[int] = set()

    def count(text: str) -> list[str]:
        threads.add(threading.get_ident())
        return text.split()

    async def run() -> None:
        for measure in ("message", "text"):
            store = open_store(store_url, counter=count, counter_name="words", measure=measure)
            key = measure
            await store.aappend(key, [HELLO, user("ends in a line\n"), BLANK])
            await store.aappend(key, [HELLO])
            await store.apop(key, 0)
            await store.areplace(key, [HELLO, SPACES])
            await store.arecount(key)
            await store.awindow(key, 10)
            await store.atoken_count(key)
            await store.aclose()
            store.close()

    asyncio.run(run())
    assert threads
    assert threading.get_ident() not in threads


def test_an_error_of_the_counter_in_a_thread_reaches_the_caller(store_url: str) -> None:
    def count(text: str) -> list[str]:
        if len(text) > 100:
            raise KeyError("mistake")
        return text.split()

    async def run() -> None:
        store = open_store(store_url, counter=count, counter_name="mistaken")
        await store.aappend("ada", [HELLO])
        with pytest.raises(KeyError, match="mistake"):
            await store.aappend("ada", [LENGTHY])
        assert await store.aall("ada") == [HELLO]
        await store.aclose()
        store.close()

    asyncio.run(run())


# Writers of other processes.


class Looks:
    """A second program that begins to write as often as it can, and notes how long it had to wait at most."""

    def __init__(self, url: str) -> None:
        self._path = url.partition("?")[0].removeprefix("sqlite:///")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.longest = 0.0

    def __enter__(self) -> Looks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=PATIENCE)
        while not self._ended.is_set():
            laps = Laps()
            connection.execute("BEGIN IMMEDIATE")
            self.longest = max(self.longest, laps.lap())
            connection.execute("ROLLBACK")
            time.sleep(0.001)
        connection.close()


@pytest.mark.parametrize("measure", ["message", "text"])
@pytest.mark.parametrize("case", ["spaces", "empty", "empty in one", "recount", "pop"])
def test_a_file_is_not_held_while_much_is_counted(sqlite_url: str, measure: str, case: str) -> None:
    """100 messages of 20,000 spaces and a word; 20,000 empty messages and a word."""
    store = open_store(f"{sqlite_url}?synchronous=OFF", measure=measure, timeout=PATIENCE)
    store.append("bob", [HELLO])
    longest = []
    for _ in range(8):
        store.delete("ada")
        if case == "spaces":
            store.append("ada", [SPACES] * 100)
        elif case != "empty in one":
            store.append("ada", [BLANK] * (MANY // 8 if case in ("recount", "pop") else MANY))
        with Looks(sqlite_url) as looks:
            match case:
                case "empty in one":
                    store.append("ada", [*[BLANK] * (MANY // 4), HELLO])
                case "recount":
                    store.recount("ada")
                case "pop":
                    store.pop("ada", 1)
                case _:
                    store.append("ada", [HELLO])
        longest.append(looks.longest)
        if longest[-1] < 0.1:
            break
    assert min(longest) < 0.1, longest
    store.close()
