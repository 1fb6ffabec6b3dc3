"""How long calls take, on a machine that does other work too."""

import contextlib
import glob
import time
from collections.abc import Callable

_TRIES = 6


class Laps:
    """Times laps, without what other processes take: the longest wait of a thread of this process for a processor.

    A thread waits for its own, and for the one of a thread that has the GIL or a lock. Only Linux tells.
    """

    def __init__(self) -> None:
        self._now = time.perf_counter(), _waited()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        (began, before), self._now = self._now, (time.perf_counter(), _waited())
        now, waits = self._now
        return now - began - max((seconds - before.get(thread, 0) for thread, seconds in waits.items()), default=0)


def _waited() -> dict[str, float]:
    """Return how long each thread of this process has been ready to run, and did not."""
    waited = {}
    for file in glob.glob("/proc/self/task/*/schedstat"):
        with contextlib.suppress(OSError), open(file, encoding="ascii") as stat:  # it may be gone
            waited[file] = int(stat.read().split()[1]) / 1e9
    return waited


def least(measure: Callable[[], float], enough: float) -> float:
    """Return the least of some measurements, as others may have had the processor. The first below `enough` will do."""
    measured: list[float] = []
    while len(measured) < _TRIES and not (measured and measured[-1] < enough):
        measured.append(measure())
    return min(measured)


def least_seconds(call: Callable[[], object], enough: float) -> float:
    """Return how long a call takes: the least of some tries."""

    def measure() -> float:
        began = time.monotonic()
        call()
        return time.monotonic() - began

    return least(measure, enough)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another thread, process or server is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
