"""What a database keeps of a session beside its messages, and what a change makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Session(NamedTuple):
    """Where a session ends, and what stands at its beginning.

    The numbers of `Ending` in `src/core/append.rs`, and more. Positions are counted from the first message ever put.
    Sums concern the messages behind the head. Only the core knows what to make of them; a backend stores them, and
    compares them with what a window may have.
    """

    head: int  # leading system messages
    head_tokens: int
    behind: int  # the position at which the messages behind the head began
    first: int  # the position of the first of them that is left
    base: int  # the sum before that one
    lead: int  # the first position with which the window begins that has everything
    lead_total: int  # the sum before that one
    end: int  # the position after the last message
    total: int  # the sum of all, but of blank messages at the end where texts are joined
    last: int | None  # what the last message is to the rules
    question: int | None  # the position of the last user message, if windows carry it
    question_tokens: int
    reach: int | None  # where texts are joined: the largest `before`
    word: int  # where texts are joined: the position after the last message that is not blank
    is_closed: int  # where texts are joined: whether that one ends in a character that is not whitespace
    has_runs: int  # where texts are joined: whether windows may begin among many blank messages
    epoch: int  # another one after every change but an append
    policy: str  # the name of the policy that the numbers are of

    @property
    def length(self) -> int:
        """The number of messages."""
        return self.head + self.end - self.first


class Row(NamedTuple):
    """What is stored of one message."""

    kind: int  # what it is to the rules, a number of the core's
    tokens: int  # what it adds to the sums
    before: int | None  # if a window may begin with it: what `total` exceeds the tokens of that window by
    question: int | None  # the position of the user message that such a window carries
    body: str  # what is given back, as its format dumps it


RowLike = tuple[int, int, int | None, int | None, str]
"""A `Row`, or a plain tuple of the same: of 100,000 that are made at once the collector looks only at the former."""


class Change(NamedTuple):
    """What is made of a session, in one atomic step. The numbers are all the core's.

    Messages of the head have negative positions, from `-head` to -1, in every statement and script.
    """

    session: Session  # afterwards
    keep: int  # messages from this position on are replaced by `rows`
    rows: Sequence[RowLike]
    head: list[Row] | None = None  # replaces the head; None: it stays
    settled: list[tuple[int, int]] = []  # noqa: RUF012 (never changed): messages before `keep` that get this `before`
    forgets: bool = False  # whether no window may begin any more with a message that stays, but those of the head

    def only_appends(self, session: Session) -> bool:
        """Return whether nothing of `session`, which was before, is changed but its numbers."""
        return (
            self.keep == session.end
            and self.session.epoch == session.epoch
            and self.session.first == session.first
            and self.head is None
            and not self.settled
            and not self.forgets
        )


class Info(NamedTuple):
    """What is known of a session without reading its messages."""

    messages: int
    tokens: int  # as its own policy counts them; blank messages at the end of joined texts are not counted yet
    policy: str  # counter, measure, start rule and format, by name
    updated_at: float  # when it was last changed: seconds since 1970, by its writer's clock


class Pruned(NamedTuple):
    """What `Store.prune` has done."""

    removed: int  # sessions
    trimmed: int  # sessions
    messages: int  # of those that were trimmed
    damaged: int  # sessions that were left as they are


class Limits(NamedTuple):
    """What a window may have, as databases take it.

    What is left out of a session is `T = S(end) - A` tokens rounded up to a multiple of a block: of the largest of
    `blocks` whose `least` is at most A.
    """

    room: int  # tokens of the window; less those of the head that is `A`
    includes_head: bool
    least: list[int]  # of each block, in tokens: the least A that it is for
    blocks: list[int]  # in tokens, the largest first


class Found(NamedTuple):
    """A window, as a database finds it."""

    session: Session
    start: int  # the position of its first message behind head and question; negative within the head
    question: int | None
    tokens: int  # -1 if the head alone does not fit: then there are no bodies
    head: int  # how many of the bodies are the head's, first
    bodies: list[str]  # all of them, oldest first
