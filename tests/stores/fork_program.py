"""The program of the fork tests: a process that uses a store and forks, `python fork_program.py URL LOG KIND`.

Each process writes to LOG what was acknowledged to it. The exit status is that of the last child that failed, or 0; a
process that outlives its parent writes why it fails to the standard error.
"""

import asyncio
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from chatring.stores import Store, open_store

_, URL, LOG, KIND = sys.argv
APPENDS = 20
store = open_store(URL)
log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def append(name: str, to: Store[Any] = store, pause: float = 0.005) -> None:
    for number in range(APPENDS):
        to.append("ada", [{"role": "user", "content": f"{name} {number}"}])
        os.write(log, f"{name} {number}\n".encode())
        time.sleep(pause)


def fork(work: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    try:
        work()
        store.close()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def wait(*processes: int) -> None:
    statuses = [os.waitpid(process, 0)[1] for process in processes]
    assert not any(statuses), statuses


def used() -> None:
    """The parent has a connection and goes on, as do its children."""
    append("parent before", pause=0)
    children = [fork(lambda name=f"child {number}": append(name)) for number in range(3)]  # type: ignore[misc]
    append("parent after")
    wait(*children)


def closes() -> None:
    """The parent closes the store while its children work."""
    append("parent", pause=0)
    children = [fork(lambda name=f"child {number}": append(name)) for number in range(3)]  # type: ignore[misc]
    time.sleep(0.03)
    store.close()
    wait(*children)


def ends() -> None:
    """The parent ends while its child works, with a store of the child's own."""
    append("parent", pause=0)
    fork(lambda: append("child", open_store(URL)))
    time.sleep(0.03)


def daemon() -> None:
    """As a daemon starts: two forks, and both parents end at once."""
    append("launcher", pause=0)

    def first() -> None:
        os.setsid()
        fork(lambda: append("daemon"))

    wait(fork(first))


def in_mid_append() -> None:
    """Other threads append whenever the parent forks."""
    append("parent", pause=0)
    stop = threading.Event()

    def write(number: int) -> None:
        turn = 0
        while not stop.is_set():
            append(f"thread {number} turn {turn}", pause=0)
            turn += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    children = []
    for number in range(4):
        time.sleep(0.03)
        children.append(fork(lambda name=f"child {number}": append(name, pause=0)))  # type: ignore[misc]
    time.sleep(0.03)
    stop.set()
    for thread in threads:
        thread.join()
    wait(*children)


def through_multiprocessing() -> None:
    """Workers of multiprocessing, that the parent forks and closes its store."""
    append("parent", pause=0)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=append, args=(f"worker {number}",)) for number in range(4)]
    for worker in workers:
        worker.start()
    store.close()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def prefork() -> None:
    """A server that replaces workers, which end at different times, and looks at the store itself."""
    append("server", pause=0)
    running: list[int] = []
    for number in range(6):
        running.append(fork(lambda name=f"worker {number}": append(name, pause=0.002)))  # type: ignore[misc]
        assert store.length("ada") >= APPENDS
        if len(running) == 3:
            wait(running.pop(0))
    wait(*running)


def in_an_event_loop() -> None:
    """A coroutine forks while others append."""

    async def write(name: str) -> None:
        for number in range(APPENDS):
            await store.aappend("ada", [{"role": "user", "content": f"{name} {number}"}])
            os.write(log, f"{name} {number}\n".encode())

    async def work() -> list[int]:
        await write("first")
        tasks = [asyncio.create_task(write(f"task {number}")) for number in range(3)]
        children = []
        for number in range(3):
            await asyncio.sleep(0.01)
            children.append(fork(lambda name=f"child {number}": append(name, pause=0)))  # type: ignore[misc]
        await asyncio.gather(*tasks)
        await store.aclose()
        return children

    wait(*asyncio.run(work()))


KINDS = {
    work.__name__: work
    for work in (used, closes, ends, daemon, in_mid_append, through_multiprocessing, prefork, in_an_event_loop)
}

if __name__ == "__main__":
    KINDS[KIND]()
