"""`Format`: the three methods that an adapter's author writes."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

_M = TypeVar("_M")


class Format(Protocol[_M]):
    """Turns messages of one kind into what is stored, and back.

    What is counted is apart from what is given back: `read` returns the former; `load` makes the latter from what
    `dump` returned.

    Two things are optional. `load_all(bodies)` returns the messages with these bodies, if that takes less time than one
    by one. `dumps_readings = True` says that `dump` takes what `read` returned, so that a message is converted once.
    A subclass that replaces one of these three methods replaces what belongs to it too, or it is not used.
    """

    name: str
    """Identifies the format in its sessions: at most 128 bytes."""

    def read(self, message: _M, /) -> Any:
        """Return the message in one of the shapes that `MessageRing` knows. That is counted.

        Raises:
            TypeError, ValueError: if `message` is not of this format. Then nothing is stored.
        """

    def dump(self, message: _M, /) -> str:
        """Return what is stored: any text without NUL characters.

        Raises:
            TypeError, ValueError: if `message` cannot be stored. Then nothing is stored.
        """

    def load(self, body: str, /) -> _M:
        """Return the message that `dump` turned into `body`.

        Raises:
            ValueError: if `body` did not come from `dump`.
        """
