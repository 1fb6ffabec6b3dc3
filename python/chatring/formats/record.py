"""`Record`: a message with a payload of its own."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """A message with a role and a text, and whatever else belongs to it.

    Args:
        role: who speaks; decides whether a window may begin with the message.
        text: what is counted.
        payload: anything for whoever stored it; not counted.
    """

    role: str
    text: str
    payload: bytes | None = None

    @property
    def content(self) -> str:
        """The text, under the name that messages use."""
        return self.text
