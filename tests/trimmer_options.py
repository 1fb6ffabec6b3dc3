"""What each adapter that trims requests must refuse, in the same words."""

import re
from collections.abc import Callable
from typing import Any

import pytest

_NO_ROOM = (
    "initial token count exceeds token limit: 101 > 100; raise token_limit or shorten what comes before the history"
)

REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((0,), {}, ValueError, "token_limit must be at least 1, got 0"),
    ((None,), {}, TypeError, "token_limit must be an integer, got None (NoneType)"),
    (("8000",), {}, TypeError, "token_limit must be an integer, got '8000' (str)"),
    (
        (100,),
        {"measure": "text"},
        ValueError,
        "measure must be 'message', which counts all that is sent, or a callable; got 'text'",
    ),
    ((100,), {"retention_ratio": 1.5}, ValueError, "retention_ratio must be between 0 and 1, got 1.5"),
    ((100,), {"initial_token_count": 101}, ValueError, _NO_ROOM),
    ((100,), {"initial_token_count": -1}, ValueError, "initial_token_count must be at least 0, got -1"),
    ((100,), {"initial_token_count": True}, TypeError, "initial_token_count must be an integer, got True (bool)"),
    ((100,), {"initial_token_count": 1.5}, TypeError, "initial_token_count must be an integer, got 1.5 (float)"),
    ((100,), {"initial_token_count": None}, TypeError, "initial_token_count must be an integer, got None (NoneType)"),
]


def check_refusals(make: Callable[..., Any]) -> None:
    """Check that an adapter made with bad options raises what all of them raise, before anything runs."""
    for args, options, error, message in REFUSED:
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            make(*args, **options)
    with pytest.raises(ValueError, match="unknown encoding"):
        make(100, counter="no such")
    make(100, initial_token_count=100)
