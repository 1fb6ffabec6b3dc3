"""What a database keeps of a session beside its messages, and what a change consists of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Session(NamedTuple):
    """The beginning and the end of a session.

    These are the numbers of `Ending` in `src/core/ending`, and more. Positions are counted from the first message
    ever put. Sums concern the messages behind the head. Only the core knows what they mean; a backend stores them, and
    compares them with the limits of a window.
    """

    head: int  # leading system messages
    head_tokens: int
    behind: int  # the position at which the messages behind the head began
    first: int  # the position of the first of them that is still there
    base: int  # the sum before that message
    lead: int  # where the window that has everything begins; for a queue, the cut: see `queues`
    lead_total: int  # the sum before that position
    end: int  # the position after the last message
    total: int  # the sum of all; where texts are joined, without blank messages at the end
    last: int | None  # the outline of the last message
    question: int | None  # the position of the last user message, if windows carry it
    question_tokens: int
    reach: int | None  # where texts are joined: the largest `before`
    word: int  # where texts are joined: the position after the last message that is not blank
    is_closed: int  # where texts are joined: whether that one ends in a character that is not whitespace
    has_runs: int  # where texts are joined: whether windows may begin among many blank messages
    epoch: int  # changes with every change except an append
    policy: str  # the name of the policy of these numbers

    @property
    def length(self) -> int:
        """The number of messages."""
        return self.head + self.end - self.first

    def number(self, position: int) -> int:
        """Return how many messages there are before a position."""
        if position < self.behind:
            return max(position - self.behind + self.head, 0)
        return self.head + max(position - self.first, 0)


class Row(NamedTuple):
    """What is stored of one message."""

    kind: int  # its outline, a number of the core's
    tokens: int  # what it adds to the sums
    before: int | None  # if a window may begin with it: `total` less the tokens of that window
    question: int | None  # the position of the user message that such a window carries
    body: str  # the message as its format dumps it


RowLike = tuple[int, int, int | None, int | None, str]
"""A `Row` or the same plain tuple. When 100,000 are made at once, the collector visits the `Row`s again and again."""


class Change(NamedTuple):
    """A change of a session, made in one atomic step. All numbers come from the core.

    Messages of the head have negative positions, from `-head` to -1, in every statement and script.
    """

    session: Session  # afterwards
    keep: int  # messages from this position on are replaced by `rows`
    rows: Sequence[RowLike]
    head: list[Row] | None = None  # replaces the head; None: it stays
    settled: list[tuple[int, int]] = []  # noqa: RUF012 (never changed): messages before `keep` that get this `before`
    forgets: bool = False  # whether messages that stay can no longer begin a window, except those of the head

    def only_appends(self, session: Session) -> bool:
        """Return whether this changes nothing of `session`, its state before, except its numbers."""
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
    tokens: int  # by its own policy; where texts are joined, blank messages at the end are not counted yet
    policy: str  # counter, measure, start rule and format, by name
    updated_at: float  # when it was last changed: seconds since 1970, by its writer's clock


class Pruned(NamedTuple):
    """What `Store.prune` has done."""

    removed: int  # sessions
    trimmed: int  # sessions
    messages: int  # of those that were trimmed
    damaged: int  # sessions that were left as they are


class Limits(NamedTuple):
    """The limits of a window, as databases take them.

    The tokens to leave out of a session are `T = S(end) - A`, rounded up to a multiple of a block. The block is the
    largest of `blocks` whose `least` is at most A.
    """

    room: int  # tokens of the window; A is this less the head's tokens
    includes_head: bool
    least: list[int]  # for each block, the smallest A that it is for, in tokens
    blocks: list[int]  # in tokens, the largest first


class Found(NamedTuple):
    """A window, as a database finds it."""

    session: Session
    start: int  # the position of its first message behind head and question; negative within the head
    question: int | None
    tokens: int  # -1 if the head alone does not fit: then there are no bodies
    head: int  # how many of the bodies are the head's, first
    bodies: list[str]  # all of them, oldest first
