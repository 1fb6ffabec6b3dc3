"""`check_limits`: the numbers of a window, checked before anything runs."""

from __future__ import annotations

from chatring._core import trim_messages


def check_limits(token_limit: int, initial_token_count: int = 0, retention_ratio: float = 1.0) -> None:
    """Check what an adapter or the command was given for its windows.

    Raises:
        TypeError, ValueError: as `MessageRing.window`, and for None, which only a ring has defaults for. Also for a
            negative `initial_token_count`: rings and stores take one, but here it can only be a mistake.
    """
    if initial_token_count is None:
        raise TypeError("initial_token_count must be an integer, got None (NoneType)")
    trim_messages((), token_limit, initial_token_count=initial_token_count, retention_ratio=retention_ratio)
    if initial_token_count < 0:
        raise ValueError(f"initial_token_count must be at least 0, got {initial_token_count}")
