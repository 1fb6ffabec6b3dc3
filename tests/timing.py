"""How long calls take, on a machine that does other work too."""

import time
from collections.abc import Callable

_TRIES = 6


def least_seconds(call: Callable[[], object], enough: float) -> float:
    """Return how long a call takes: the least of some tries, as others may have had the processor.

    The first that is below `enough` will do.
    """
    took: list[float] = []
    while len(took) < _TRIES and not (took and took[-1] < enough):
        began = time.monotonic()
        call()
        took.append(time.monotonic() - began)
    return min(took)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another thread, process or server is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
