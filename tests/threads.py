"""Works that run side by side, each in a thread of its own."""

import threading
from collections.abc import Callable


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
