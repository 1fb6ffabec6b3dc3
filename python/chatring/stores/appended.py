"""`Appended`: what records add to a ledger that is kept elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chatring._core import TokenCounter, _is_blank, _measure_appended
from chatring.stores.record import Record


class Appended(NamedTuple):
    """What records add to the session that they are appended to. `src/core/appended.rs` has the rule.

    Args:
        sums: the prefix sum S of each record in tokens, less S of the last record before them.
        starts: the legal starts whose window's tokens are known now: the place of each, counted from the first record
            appended (negative for an earlier one), and what S of the last record exceeds by those tokens, less S of
            the last record before those appended.
        blank_tail: with how many blank records the session ends.
        closed: whether the last text ends in a character that is not whitespace.
    """

    sums: list[int]
    starts: list[tuple[int, int]]
    blank_tail: int
    closed: bool

    @classmethod
    def after_word(cls, counter: TokenCounter, records: list[Record]) -> Appended:
        """Measure records as what follows a text that ends in a character that is not whitespace.

        It needs nothing of the session, and is right for nearly every one: for those that end in such a text, unless
        `depends_on_word`, and for empty ones if `suits_first`.
        """
        return cls._make(_measure_appended(counter, [], records, False))

    @classmethod
    def after(cls, counter: TokenCounter, earlier: list[Record], records: list[Record], from_first: bool) -> Appended:
        """Measure records as what follows `earlier`.

        Args:
            counter: counts them.
            earlier: the session's last records, from the nearest one on that is not blank, or from its first.
            records: what is appended.
            from_first: whether the first record shown, of `earlier` or else of `records`, is the session's first.
        """
        return cls._make(_measure_appended(counter, earlier, records, from_first))

    @property
    def suits_first(self) -> bool:
        """Whether the records, measured `after_word`, add the same to an empty session.

        A session's first record may start a window whatever its role. If its role lets it anyway, nothing changes.
        """
        return bool(self.starts) and self.starts[0][0] == 0

    @property
    def total(self) -> int:
        """The tokens that all records add."""
        return self.sums[-1] if self.sums else 0


def depends_on_word(counter: TokenCounter, records: list[Record]) -> bool:
    """Return whether what records add depends on the text before them, though it ends in no whitespace.

    A callable gets whole texts: what follows a blank record is counted with the blank one and the word before that.
    Tokens of an encoding never reach across a space that follows a word.
    """
    return not counter.is_native and len(records) > 1 and _is_blank(records[0].text)


def blanks_at_end(records: Sequence[Record]) -> int:
    """Return with how many blank records `records` ends."""
    return next((count for count, record in enumerate(reversed(records)) if not _is_blank(record.text)), len(records))
