"""`PolicyName`: the name of a policy, which is stored with each session that it counts."""

from __future__ import annotations

from typing import NamedTuple

_SEPARATOR = ", "
# Start rules: of `start_on=None`, and of LlamaIndex's `Memory`, whose sessions are read from a cut.
ANY, QUEUE = "any", "queue"


class PolicyName(NamedTuple):
    """A policy's name in parts: `o200k_base, message, user`. Two stores with the same one count alike.

    Args:
        counter: the encoding's name, or the one that the user has given.
        measure: likewise.
        start_on: `"user"`, or one of the above.
        format: the provider's or the format's name; None for any JSON message.
    """

    counter: str
    measure: str
    start_on: str
    format: str | None = None

    @classmethod
    def parse(cls, name: str) -> PolicyName | None:
        """Take a name apart. None if it is not the name of a policy."""
        parts = name.split(_SEPARATOR)
        return cls(*parts) if 3 <= len(parts) <= 4 and parts[2] in ("user", ANY, QUEUE) else None

    def __str__(self) -> str:
        return _SEPARATOR.join(filter(None, self))


def is_queue(policy: str) -> bool:
    """Return whether a policy of this name is for sessions of LlamaIndex's `Memory`."""
    name = PolicyName.parse(policy)
    return name is not None and name.start_on == QUEUE


def check_part(name: str, what: str) -> str:
    """Return `name`, if it can be a part of a policy's name.

    Raises:
        ValueError: if it has a comma with a space behind it.
    """
    if _SEPARATOR in name:
        raise ValueError(f"{what} must not have a comma and a space, which part the names in a policy's: {name!r}")
    return name
