"""`Format`: the three methods that an adapter's author writes."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

_M = TypeVar("_M")


class Format(Protocol[_M]):
    """Turns messages of one kind into what is stored, and back.

    What is counted, `read`, is apart from what is given back, `load` of what `dump` made.
    """

    name: str
    """By which the sessions in this format are known again: at most 128 bytes."""

    def read(self, message: _M, /) -> Any:
        """Return the same in one of the shapes that `MessageRing` knows, which is counted.

        Raises:
            TypeError, ValueError: if `message` is not of this format; then nothing is stored.
        """

    def dump(self, message: _M, /) -> str:
        """Return what is stored: any text without NUL characters.

        Raises:
            TypeError, ValueError: if `message` cannot be stored; then nothing is.
        """

    def load(self, body: str, /) -> _M:
        """Return the message that `dump` made `body` of.

        Raises:
            ValueError: if it made `body` of none.
        """
