"""`Window`: the messages that go into a model call, and what is known of them."""

from typing import TypeVar

_M = TypeVar("_M")


class Window(list[_M]):
    """A list of messages, oldest first: the head, the question if it is carried, and the last messages that fit.

    Attributes:
        tokens: what they count as, without the initial token count. More than the limit if nothing smaller is valid.
        start: the position of the first message behind head and question, counted from the first message ever put into
            the history. Everything before it has left the window: `ring.slice(done, window.start)`.
        question: the position of the user message that stands in front of its steps, None if none is carried.
        head: how many leading system messages there are at the window's beginning.
    """

    __slots__ = ("head", "question", "start", "tokens")

    tokens: int
    start: int
    question: int | None
    head: int
