"""`Appended`: what records add to a ledger that is kept elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chatring._core import TokenCounter, _is_blank, _measure_appended
from chatring.stores.record import Record

# Characters that are counted in a millisecond at worst, which is a run of one character; other texts are much quicker.
# Of n blank texts each is counted with all that follow: 100 empty ones take 0.3 ms, 20 of 20 spaces 1.2 ms.
_QUICK = 8_192
# What a record takes besides, in such characters: a microsecond or two.
_RECORD = 16
# The encodings that were used in this process.
_loaded: set[str] = set()


class Appended(NamedTuple):
    """What records add to the session that they are appended to. `src/core/append.rs` has the rule.

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
        load(counter)
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
        load(counter)
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


def load(counter: TokenCounter) -> None:
    """Load an encoding's tables, as its first use would: about a tenth of a second, with the GIL held."""
    if counter.is_native and counter.name not in _loaded:
        counter.count_batch([""])
        _loaded.add(counter.name)


def takes_long(counter: TokenCounter, *histories: Sequence[Record]) -> bool:
    """Return whether to measure these records may take more than a millisecond or two.

    Then it must not be done in an event loop's thread. A callable is taken to be about as quick as an encoding.
    """
    if counter.is_native and counter.name not in _loaded:
        return True
    size = blanks = blank_size = 0
    for records in histories:
        for record in records:
            size += len(record.text) + _RECORD
            if size > _QUICK:
                return True
            if not record.text or record.text.isspace():
                blanks += 1
                blank_size += len(record.text) + 1
    return blanks * blank_size > _QUICK


def depends_on_word(counter: TokenCounter, records: list[Record]) -> bool:
    """Return whether what records add depends on the text before them, though it ends in no whitespace.

    A callable gets whole texts: what follows a blank record is counted with the blank one and the word before that.
    Tokens of an encoding never reach across a space that follows a word.
    """
    return not counter.is_native and len(records) > 1 and _is_blank(records[0].text)


def blanks_at_end(records: Sequence[Record]) -> int:
    """Return with how many blank records `records` ends."""
    return next((count for count, record in enumerate(reversed(records)) if not _is_blank(record.text)), len(records))
