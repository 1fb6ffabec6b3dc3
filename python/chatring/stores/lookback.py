"""`lookback`: how far back an adapter looks for messages that may be stored already."""

from __future__ import annotations

_LEAST = 100


def lookback(count: int) -> int:
    """Return how many of the last stored messages to look at for messages that are handed over again.

    As many as are handed over, and at least 100: others may have been stored behind them.

    Args:
        count: the number of messages that are handed over.
    """
    return max(count, _LEAST)
