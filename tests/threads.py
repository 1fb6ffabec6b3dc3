"""Works that run side by side, each in a thread of its own."""

import threading
import time
from collections.abc import Callable
from functools import partial


def run_all(*works: Callable[[], object]) -> None:
    """Run all works, from one moment on, to their ends. Raise the first exception of any."""
    barrier = threading.Barrier(len(works))
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as failure:  # a panic is not an Exception
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def run_numbered(work: Callable[[int], object], count: int) -> None:
    """Run `work(0)` to `work(count - 1)` as `run_all` does."""
    run_all(*(lambda number=number: work(number) for number in range(count)))


def tenths_with_turns(work: Callable[[], object]) -> int:
    """Return how many of the ten tenths of `work` another thread had a turn in, without the first and the last one.

    In those two it may get one that the work has no part in. The work should take 80 ms of CPU or more: a thread asks
    for the GIL after it has waited for 5 ms, and long work offers it every 10 ms.
    """
    now: Callable[[], float] = time.perf_counter
    if hasattr(time, "pthread_getcpuclockid"):
        # This thread's CPU time goes on only while it works: not while others keep it from that, however long.
        now = partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))
    turns, done = [now()], threading.Event()

    def take_turns() -> None:
        while not done.is_set():
            time.sleep(0)
            turns.append(now())

    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        began = now()
        work()
        took = now() - began
    finally:
        done.set()
        thread.join()
    return len({int(10 * (turn - began) / took) for turn in turns} & set(range(1, 9)))
