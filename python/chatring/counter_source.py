"""`CounterSource`: what a counter is made of, for annotations."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Protocol, SupportsIndex, TypeAlias

if TYPE_CHECKING:
    from chatring._core import TokenCounter


class TiktokenEncoding(Protocol):
    """A `tiktoken.Encoding`, as far as a type checker needs to tell it from other objects."""

    @property
    def name(self) -> str:
        """The encoding's name."""
        ...

    @property
    def n_vocab(self) -> int:
        """How many tokens it has."""
        ...

    @property
    def special_tokens_set(self) -> set[str]:
        """The texts of its special tokens."""
        ...


CounterSource: TypeAlias = "TokenCounter | str | TiktokenEncoding | Callable[[str], Sized | SupportsIndex]"
"""What counts texts: a counter, an encoding's name, a tiktoken encoding, or a function from a text to its tokens or
their number."""
