"""`Turns`: writers of one process wait for each other, first come, first served."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Any

import pytest
from chatring.stores import StoreTimeoutError
from chatring.stores.turns import Turns
from profiles import examples
from threads import run_all, run_numbered
from timing import least_seconds, wait_until

TOO_LATE = "sqlite://: other writers of this process held the session for too long; try again"


def soon(seconds: float = 60) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


def waiting(turns: Turns, name: str = "ada") -> int:
    """Return how many wait for a name's turn; -1 if nobody has it."""
    queue = turns._queues.get(name)
    return -1 if queue is None else len(queue) - 1


def assert_free(turns: Turns) -> None:
    """Assert that nobody has a turn, and that the next who comes has one at once."""
    assert turns._queues == {}
    with turns.of("ada", 0, "sqlite://"):
        assert waiting(turns) == 0
    assert turns._queues == {}


class Holder:
    """A thread that has the turn until it is let go."""

    def __init__(self, turns: Turns, name: str = "ada") -> None:
        self._let_go = threading.Event()
        has_it = threading.Event()

        def hold() -> None:
            with turns.of(name, soon(), "sqlite://"):
                has_it.set()
                assert self._let_go.wait(60)

        self._thread = threading.Thread(target=hold)
        self._thread.start()
        assert has_it.wait(60)

    def let_go(self) -> None:
        self._let_go.set()
        self._thread.join()


def test_a_turn_that_is_free_is_had_at_once() -> None:
    turns = Turns()
    with turns.of("ada", 0, "sqlite://"):
        assert list(turns._queues) == ["ada"]
        with turns.of("bob", 0, "sqlite://"):
            assert sorted(turns._queues) == ["ada", "bob"]
    assert_free(turns)

    async def task() -> None:
        async with turns.of("ada", 0, "sqlite://"), turns.of("bob", 0, "sqlite://"):
            assert sorted(turns._queues) == ["ada", "bob"]

    asyncio.run(task())
    assert_free(turns)


def test_an_error_passes_the_turn_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.of("ada", 0, "sqlite://"):
        raise ZeroDivisionError

    async def task() -> None:
        with pytest.raises(ZeroDivisionError):
            async with turns.of("ada", 0, "sqlite://"):
                raise ZeroDivisionError

    asyncio.run(task())
    assert_free(turns)


def test_first_come_first_served_for_threads_and_tasks_of_several_loops() -> None:
    turns, order = Turns(), list[int]()
    holder = Holder(turns)
    works: list[threading.Thread] = []
    loops = [asyncio.new_event_loop() for _ in range(3)]
    runners = [threading.Thread(target=loop.run_forever) for loop in loops]
    for runner in runners:
        runner.start()

    def in_a_thread(number: int) -> None:
        with turns.of("ada", soon(), "sqlite://"):
            order.append(number)

    async def in_a_task(number: int) -> None:
        async with turns.of("ada", soon(), "sqlite://"):
            order.append(number)
            await asyncio.sleep(0)

    futures = []
    for number in range(24):
        if number % 4 == 3:
            works.append(threading.Thread(target=in_a_thread, args=(number,)))
            works[-1].start()
        else:
            futures.append(asyncio.run_coroutine_threadsafe(in_a_task(number), loops[number % 4]))
        wait_until(lambda number=number: waiting(turns) == number + 1)  # type: ignore[misc]
    holder.let_go()
    for work in works:
        work.join()
    for future in futures:
        future.result(60)
    assert order == list(range(24))
    assert_free(turns)
    for loop, runner in zip(loops, runners, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        runner.join()
        loop.close()


def test_a_turn_that_does_not_come_in_time() -> None:
    turns = Turns()
    holder = Holder(turns)

    def call(seconds: float) -> None:
        with pytest.raises(StoreTimeoutError) as raised, turns.of("ada", soon(seconds), "sqlite://"):
            pass
        assert str(raised.value) == TOO_LATE

    async def acall(seconds: float) -> None:
        with pytest.raises(StoreTimeoutError) as raised:
            async with turns.of("ada", soon(seconds), "sqlite://"):
                pass
        assert str(raised.value) == TOO_LATE

    for wait in (call, lambda seconds: asyncio.run(acall(seconds))):
        for seconds in (0.2, 0, -5):
            least = max(seconds, 0)
            # It looks at others every second.
            assert least - 0.01 <= least_seconds(partial(wait, seconds), least + 0.5) < least + 0.5
    assert waiting(turns) == 0  # nobody waits any more
    with turns.of("bob", 0, "sqlite://"):  # others are not concerned
        pass
    holder.let_go()
    assert_free(turns)


def test_who_gives_up_is_left_out() -> None:
    turns, order = Turns(), list[str]()
    holder = Holder(turns)

    turn = turns.of("ada", soon(), "sqlite://")

    def impatient() -> None:
        with pytest.raises(StoreTimeoutError), turn:
            pass
        order.append("impatient")

    def patient() -> None:
        with turns.of("ada", soon(), "sqlite://"):
            order.append("patient")

    first = threading.Thread(target=impatient)
    first.start()
    wait_until(lambda: waiting(turns) == 1)
    second = threading.Thread(target=patient)
    second.start()
    wait_until(lambda: waiting(turns) == 2)
    turn._deadline = 0  # it looks every second
    first.join()
    holder.let_go()
    second.join()
    assert order == ["impatient", "patient"]
    assert_free(turns)


def test_a_task_that_is_cancelled_while_it_waits() -> None:
    async def run() -> None:
        turns = Turns()
        holder = Holder(turns)

        async def wait() -> None:
            async with turns.of("ada", soon(), "sqlite://"):
                raise AssertionError("it was cancelled")

        tasks = [asyncio.create_task(wait()) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert waiting(turns) == 5
        for task in tasks:
            task.cancel()
        assert [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 5
        assert waiting(turns) == 0
        await asyncio.to_thread(holder.let_go)
        assert_free(turns)

    asyncio.run(run())


def test_a_task_that_is_cancelled_when_its_turn_has_come() -> None:
    """Between the moment at which the turn is passed on and the one at which the task runs: the next has it."""

    async def run(steps: int) -> None:
        turns, had = Turns(), list[str]()
        first = turns.of("ada", soon(), "sqlite://")
        await first.__aenter__()

        async def wait(name: str) -> None:
            async with turns.of("ada", soon(), "sqlite://"):
                had.append(name)
                await asyncio.sleep(0)

        cancelled, next_one = asyncio.create_task(wait("cancelled")), asyncio.create_task(wait("next"))
        await asyncio.sleep(0.001)
        assert waiting(turns) == 2
        await first.__aexit__(None, None, None)
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled.cancel()
        was_done = cancelled.done()
        await asyncio.wait_for(asyncio.gather(cancelled, next_one, return_exceptions=True), 60)
        assert had in (["next"], ["cancelled", "next"])
        assert was_done or cancelled.cancelled()
        assert_free(turns)

    for steps in range(8):
        asyncio.run(run(steps))


def test_a_task_whose_time_is_up_when_its_turn_has_come() -> None:
    async def run() -> None:
        turns = Turns()
        for number in range(30):
            holder = turns.of("ada", soon(), "sqlite://")
            await holder.__aenter__()
            outcomes: list[str] = []

            async def wait(outcomes: list[str] = outcomes, turns: Turns = turns) -> None:
                try:
                    async with turns.of("ada", soon(0.01), "sqlite://"):
                        outcomes.append("had")
                except StoreTimeoutError:
                    outcomes.append("late")

            task = asyncio.create_task(wait())
            await asyncio.sleep(0)
            time.sleep(0.008 + 0.0002 * number)  # the loop is blocked
            await holder.__aexit__(None, None, None)
            await asyncio.wait_for(task, 60)
            assert len(outcomes) == 1
            assert_free(turns)

    asyncio.run(run())


def test_a_loop_that_was_closed_while_its_task_waited() -> None:
    turns, order = Turns(), list[str]()
    holder = Holder(turns)

    async def wait() -> None:
        async with turns.of("ada", soon(), "sqlite://"):
            order.append("gone")

    loop = asyncio.new_event_loop()
    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert waiting(turns) == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    def patient() -> None:
        with turns.of("ada", soon(), "sqlite://"):
            order.append("patient")

    thread = threading.Thread(target=patient)
    thread.start()
    wait_until(lambda: waiting(turns) == 2)
    holder.let_go()
    thread.join()
    assert order == ["patient"]
    assert_free(turns)
    del task


def test_a_loop_that_does_not_run_when_the_turn_of_its_task_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that `run_until_complete` runs piece by piece. The task has its turn as soon as the loop goes on."""
    monkeypatch.setattr("chatring.stores.turns._CHECK", 60)  # it need not look
    turns = Turns()
    holder = Holder(turns)
    loop = asyncio.new_event_loop()
    came: list[float] = []

    async def write() -> None:
        async with turns.of("ada", soon(), "sqlite://"):
            came.append(time.monotonic())

    task = loop.create_task(write())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert waiting(turns) == 1
    holder.let_go()
    goes_on = time.monotonic()
    loop.run_until_complete(task)
    assert came[0] - goes_on < 30
    # And if another writer did not wait for it meanwhile.
    holder = Holder(turns)
    task = loop.create_task(write())
    loop.run_until_complete(asyncio.sleep(0.01))
    holder.let_go()
    with turns.of("ada", soon(0), "sqlite://"):
        pass
    loop.run_until_complete(task)
    loop.close()
    assert len(came) == 2
    assert_free(turns)


def test_a_turn_whose_holder_cannot_go_on_is_not_waited_for() -> None:
    turns, order = Turns(), list[str]()

    async def hold() -> None:
        async with turns.of("ada", soon(), "sqlite://"):
            order.append("held")
            await asyncio.sleep(0.02)
        order.append("let go")

    loop = asyncio.new_event_loop()
    task = loop.create_task(hold())
    loop.run_until_complete(asyncio.sleep(0))  # now it is paused
    with turns.of("ada", soon(), "sqlite://"):
        order.append("sync")
        assert waiting(turns) == 0
    loop.run_until_complete(task)
    assert order == ["held", "sync", "let go"]
    assert_free(turns)
    loop.run_until_complete(asyncio.sleep(0))
    task = loop.create_task(hold())
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    with turns.of("ada", soon(), "sqlite://"):
        pass
    assert_free(turns)
    del task


def test_a_sync_call_does_not_wait_for_tasks_of_the_loop_that_it_blocks() -> None:
    turns, order = Turns(), list[str]()

    async def wait(name: str) -> None:
        async with turns.of("ada", soon(), "sqlite://"):
            order.append(name)
            await asyncio.sleep(0.01)

    async def run() -> None:
        tasks = [asyncio.create_task(wait(name)) for name in ("first", "second")]
        await asyncio.sleep(0.001)
        with turns.of("ada", soon(0.1), "sqlite://"):
            order.append("sync")
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert order == ["first", "sync", "second"]
    assert_free(turns)


def test_a_call_that_is_gone_without_giving_its_turn_back() -> None:
    """As when a signal's handler raises at the last moment: those who wait find out, and who comes has the turn."""
    turns = Turns()
    lost = turns.of("ada", soon(), "sqlite://")
    lost.__enter__()
    came: list[str] = []

    def write() -> None:
        with turns.of("ada", soon(), "sqlite://"):
            came.append("thread")

    async def awrite() -> None:
        async with turns.of("ada", soon(), "sqlite://"):
            came.append("task")

    threads = [threading.Thread(target=write), threading.Thread(target=asyncio.run, args=(awrite(),))]
    for number, thread in enumerate(threads):
        thread.start()
        wait_until(lambda number=number: waiting(turns) == number + 1)  # type: ignore[misc]
    del lost
    for thread in threads:
        thread.join(60)
    assert came == ["thread", "task"]
    lost = turns.of("ada", soon(), "sqlite://")
    lost.__enter__()
    del lost
    with turns.of("ada", 0, "sqlite://"):
        came.append("at once")
    assert_free(turns)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_a_thread_waits() -> None:
    """As Ctrl-C in the main thread."""
    turns = Turns()
    holder = Holder(turns)

    def interrupt() -> None:
        wait_until(lambda: waiting(turns) == 1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt), turns.of("ada", soon(), "sqlite://"):
        pass
    assert waiting(turns) == 0
    holder.let_go()
    assert_free(turns)


@pytest.mark.usefixtures("hectic")
def test_never_two_at_once_and_nobody_is_forgotten() -> None:
    """Threads, tasks of several loops, timeouts and cancellations: at every moment one has the turn at most."""
    turns, inside, counts = Turns(), set[object](), {"had": 0, "late": 0, "cancelled": 0}
    lock = threading.Lock()

    def enter(who: object) -> None:
        with lock:
            assert not inside, "two have the turn"
            inside.add(who)

    def leave(who: object, outcome: str = "had") -> None:
        with lock:
            inside.discard(who)
            counts[outcome] += 1

    def in_threads(number: int) -> None:
        source = random.Random(number)
        for _ in range(examples(100, long=3_000)):
            who = object()
            try:
                with turns.of("ada", soon(source.choice((30, 0.001, 0.0002))), "sqlite://"):
                    enter(who)
                    time.sleep(source.choice((0, 0, 0.0005)))
                    leave(who)
            except StoreTimeoutError:
                leave(who, "late")

    def in_tasks(number: int) -> None:
        source = random.Random(number)

        async def one() -> None:
            who = object()
            try:
                async with turns.of("ada", soon(source.choice((30, 0.001))), "sqlite://"):
                    enter(who)
                    try:
                        await asyncio.sleep(source.choice((0, 0, 0.0005)))
                    finally:
                        leave(who)
            except StoreTimeoutError:
                leave(who, "late")
            except asyncio.CancelledError:
                leave(who, "cancelled")
                raise

        async def run() -> None:
            for _ in range(examples(20, long=400)):
                tasks = [asyncio.create_task(one()) for _ in range(6)]
                await asyncio.sleep(source.choice((0, 0.0005, 0.002)))
                for task in tasks:
                    if source.random() < 0.4:
                        task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(run())

    run_all(
        *(lambda number=number: in_threads(number) for number in range(4)),
        *(lambda number=number: in_tasks(number) for number in range(3)),
    )
    assert_free(turns)
    assert counts["had"] > 10
    assert counts["late"] > 0
    assert counts["cancelled"] > 0


def test_names_are_apart() -> None:
    turns = Turns()
    holder = Holder(turns)
    done: list[int] = []

    def write(number: int) -> None:
        for _ in range(50):
            with turns.of(f"{number}", soon(20), "sqlite://"):
                done.append(number)

    run_numbered(write, 4)
    assert len(done) == 200
    holder.let_go()
    assert_free(turns)


FORKS = """
import os, threading, time
from chatring.stores.turns import Turns

turns = Turns()
has_it, let_go = threading.Event(), threading.Event()

def hold():
    with turns.of("ada", time.monotonic() + 300, "sqlite://"):
        has_it.set()
        let_go.wait(300)

thread = threading.Thread(target=hold)
thread.start()
has_it.wait(300)
waiter = threading.Thread(target=lambda: turns.of("ada", time.monotonic() + 300, "sqlite://").__enter__())
waiter.start()
while not turns._queues["ada"]:
    time.sleep(0.001)
turns._lock.acquire()  # at the worst moment
child = os.fork()
if child == 0:
    turns.renew()
    with turns.of("ada", time.monotonic(), "sqlite://"):
        pass
    assert turns._queues == {}
    os._exit(0)
turns._lock.release()
assert os.waitpid(child, 0)[1] == 0
let_go.set()
thread.join()
waiter.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_begins_anew() -> None:
    # From 3.12 on Python warns of a fork beside threads, which is what is tested.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    result: Any = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
