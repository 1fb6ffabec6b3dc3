"""`Window`: the messages that go into a model call, and what is known about them."""

from operator import index
from typing import Any, SupportsIndex, TypeVar

_M = TypeVar("_M")


class Window(list[_M]):
    """A list of messages, oldest first: the head, the question if it is carried, and the last messages that fit.

    Attributes:
        tokens: what they count as, without the initial token count. More than the limit if nothing smaller is valid.
        start: the position of the first message behind head and question, counted from the first message ever put into
            the history. Everything before it has left the window: `ring.slice(done, window.start)`.
        question: the position of the user message in front of its steps; None if none is carried.
        head: the number of leading system messages at the window's beginning.
    """

    __module__ = "chatring"  # where it is public: pickles name it
    __slots__ = ("head", "question", "start", "tokens")

    tokens: int
    start: int
    question: int | None
    head: int

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> str | tuple[Any, ...]:
        # Below protocol 2, object does not know slots.
        return super().__reduce_ex__(max(2, index(protocol)))


def positions_of(window: Window[Any], *, include_system: bool = True) -> list[int]:
    """Return the positions of a window's messages, oldest first.

    Args:
        window: of a history whose head has not changed since it was first put.
        include_system: what the window was found with. Without it, the window may begin with the last ones of the
            leading system messages, which are just before its start.
    """
    head = 0 if include_system else window.start - window.head
    question = [] if window.question is None else [window.question]
    rest = len(window) - window.head - len(question)
    return [*range(head, head + window.head), *question, *range(window.start, window.start + rest)]
