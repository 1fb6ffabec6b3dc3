"""`Tokenizer`: exact counts for Agent Framework's own compaction strategies."""

from __future__ import annotations

from typing import Any

from chatring import TokenCounter


class Tokenizer:
    """Counts texts, as `Agent(tokenizer=...)` and the framework's compaction strategies want them counted.

    Those give it the JSON of each message, ids and all, which is more than what is sent.

    Args:
        counter: an encoding's name, or whatever else `TokenCounter` takes.

    Raises:
        TypeError, ValueError: as `TokenCounter`.
    """

    def __init__(self, counter: Any = "o200k_base") -> None:
        self._counter = TokenCounter(counter)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text. Special tokens in it count as ordinary text."""
        return self._counter.count(text, special="text")
