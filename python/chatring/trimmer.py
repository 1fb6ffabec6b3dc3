"""`Trimmer`: the options of adapters that trim requests, checked once, and the window of a request under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, SupportsIndex, TypeAlias, TypeVar

from chatring._core import MessageRing, trim_messages
from chatring.limits import check_limits
from chatring.window import Window

_M = TypeVar("_M")

Measure: TypeAlias = Literal["message"] | Callable[[_M], SupportsIndex]
"""What a message's tokens are: `"message"`, all that is sent of it, or a callable."""


class Trimmer(Generic[_M]):
    """Finds the window of each request. It has no state: one serves any number of runs at once.

    Args:
        token_limit: tokens that a request may have, at least 1.
        counter: counts texts: anything that `TokenCounter` takes.
        measure: what a message's tokens are.
        retention_ratio: from 0 to 1; see `MessageRing`.
        initial_token_count: tokens of what is sent beside the messages, at least 0.
        include_system: whether leading system messages are in every window.
        format: how messages are read; see `MessageRing`.

    Attributes:
        count: returns the tokens of one message.
        counter: the counter.

    Raises:
        TypeError, ValueError: as `MessageRing`, and for an initial token count that is negative or has no room.
    """

    def __init__(
        self,
        token_limit: int,
        *,
        counter: Any,
        measure: Measure[_M],
        retention_ratio: float,
        initial_token_count: int,
        include_system: bool = True,
        format: Any = None,  # noqa: A002 (as in MessageRing)
    ) -> None:
        if isinstance(measure, str) and measure != "message":
            raise ValueError(
                f"measure must be 'message', which counts all that is sent, or a callable; got {measure!r}"
            )
        check_limits(token_limit, initial_token_count, retention_ratio)
        self.token_limit = token_limit
        self.initial_token_count = initial_token_count
        self._options: dict[str, Any] = {
            "counter": counter,
            "measure": measure,
            "retention_ratio": retention_ratio,
            "include_system": include_system,
            "format": format,
        }
        ring = self.new_ring()  # only counts single messages, and has checked the options
        self.count = ring.count
        self._options["counter"] = self.counter = ring.counter

    def new_ring(self) -> MessageRing[_M]:
        """Return an empty ring with these options, for an adapter that keeps what was counted between requests."""
        return MessageRing(self.token_limit, **self._options)

    def beside(self, **parts: int) -> int:
        """Return the tokens of all that is sent beside the messages, `initial_token_count` included.

        Args:
            **parts: tokens of what else a request has, by what it is, such as `instructions`.

        Raises:
            ValueError: if they are more than the limit, with each part's number.
        """
        total = sum(parts.values()) + self.initial_token_count
        if total > self.token_limit:
            numbers = [f"{name.replace('_', ' ')} {tokens}" for name, tokens in parts.items()]
            numbers.append(f"initial_token_count {self.initial_token_count}")
            raise ValueError(
                f"what is sent beside the messages exceeds token_limit {self.token_limit}: {', '.join(numbers)}; raise "
                "it, or send less"
            )
        return total

    def window(self, messages: Iterable[_M], **parts: int) -> Window[_M]:
        """Return the window of a request's messages.

        Args:
            messages: oldest first.
            **parts: see `beside`.

        Raises:
            ValueError: as `beside`, and as `MessageRing.window`.
        """
        return trim_messages(messages, self.token_limit, initial_token_count=self.beside(**parts), **self._options)
