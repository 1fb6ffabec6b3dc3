"""Checks the numbers of a session, which somebody else may have written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from chatring.stores.session import Session

_NULLABLE = ("last", "question", "reach")
# The types of all fields, in order: numbers, some of which may be None, and the policy.
_TYPES = frozenset(
    product(
        *(
            (str,) if name == "policy" else (int, type(None)) if name in _NULLABLE else (int,)
            for name in Session._fields
        )
    )
)


def session_of(numbers: Sequence[Any]) -> Session:
    """Return a session's numbers.

    Raises:
        TypeError, ValueError: if they are not possible for a session.
    """
    if tuple(map(type, numbers)) not in _TYPES:
        raise ValueError("the numbers of a session must be numbers")
    session = Session(*numbers)
    head, head_tokens, behind, first, _, lead, _, end, *_ = session
    if min(head, head_tokens, behind, session.word) < 0 or not behind <= first <= end or not 0 <= lead <= end:
        raise ValueError("a session cannot have these numbers")
    return session
