"""`Record`: a message with a payload of its own."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """A message of a role and a text, with whatever else belongs to it.

    Args:
        role: who speaks; decides whether a window may begin with the message.
        text: what is counted.
        payload: for the one who stored it; not counted.
    """

    role: str
    text: str
    payload: bytes | None = None

    @property
    def content(self) -> str:
        """The text, by the name that messages have it under."""
        return self.text
