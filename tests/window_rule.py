"""The window rule and what a bounded ring keeps, literally: by looking at every start, at every message that leaves.

Written from the words of the design, for lists of items. The tests hold rings and `trim_messages` against this.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Item:
    """What a message is to the rules."""

    kind: str
    continues: bool
    may_start: bool
    tokens: int
    message: Any = None
    known: dict[str, int] = field(default_factory=dict)  # what it costs, by policy


@dataclass
class Answer:
    """A window: indexes into the items that were asked about, and what it costs."""

    head: int  # how many leading system messages it has
    question: int | None
    start: int
    tokens: int
    chosen: list[int]


class HeadTooLongError(ValueError):
    """The head alone does not fit."""


def leading_system(items: Sequence[Item]) -> int:
    """Return how many system messages the history begins with."""
    return next((i for i, item in enumerate(items) if item.kind != "system"), len(items))


def question_of(items: Sequence[Item], first: int, i: int) -> int | None:
    """Return the last user message before `i`, not before `first`."""
    return next((j for j in range(i - 1, first - 1, -1) if items[j].kind == "user"), None)


def is_start(items: Sequence[Item], first: int, i: int, start_on: str | None, is_whole: bool = True) -> bool:
    """Tell whether a window may begin with `i`, where rules concern the messages from `first` on."""
    item = items[i]
    if start_on is None:
        # What an eviction leaves first is not the history's first.
        return (i == first and is_whole) or i == len(items) - 1 or item.may_start
    if item.kind == "user":
        return True
    if item.kind != "assistant":
        return False
    before = items[i - 1] if i > first else None
    if before is not None and before.kind == "assistant" and before.continues:
        return False  # the same step
    if before is not None and before.kind == "user":
        return False  # the same window
    has_user = any(other.kind == "user" for other in items[first:])
    return not has_user or question_of(items, first, i) is not None


def window(
    items: Sequence[Item],
    token_limit: int,
    *,
    initial_token_count: int = 0,
    start_on: str | None = "user",
    include_system: bool = True,
    retention_ratio: float = 1.0,
    evicted: int = 0,
    is_whole: bool = True,
) -> Answer:
    """Return the window of a history, before which messages of `evicted` tokens have left if it is not whole.

    Raises:
        HeadTooLongError: The head alone exceeds the limit.
    """
    leading = leading_system(items)
    h = leading if include_system else 0
    end = len(items)

    def measure(indexes: Iterable[int]) -> int:
        return sum(items[i].tokens for i in indexes)

    def carried(i: int) -> int | None:
        if start_on is None or items[i].kind != "assistant":
            return None
        return question_of(items, h, i)

    def before(i: int) -> int:
        question = carried(i)
        return evicted + measure(range(h, i)) - (0 if question is None else items[question].tokens)

    def answer(question: int | None, start: int) -> Answer:
        chosen = [*range(h), *([] if question is None else [question]), *range(start, end)]
        head = sum(i < leading for i in chosen)
        return Answer(head, question, max(start, leading), measure(chosen), chosen)

    head = measure(range(h))
    allowance = token_limit - initial_token_count - head
    if allowance < 0:
        raise HeadTooLongError(f"{head} {initial_token_count} {token_limit}")
    excess = evicted + measure(range(h, end)) - allowance
    if excess <= 0:
        start = h
        while start_on == "user" and start < end and items[start].kind == "tool":
            start += 1
        while start_on is None and start < end and not is_start(items, h, start, None, is_whole):
            start += 1
        return answer(None, start)
    block = math.floor((1 - retention_ratio) * token_limit)
    while block > 1 and block > (1 - retention_ratio / 2) * allowance:
        block //= 2
    block = max(block, 1)
    least = math.ceil(excess / block) * block
    starts = [i for i in range(h, end) if is_start(items, h, i, start_on, is_whole)]
    found = [i for i in starts if before(i) >= least]
    if found:
        start = found[0]
    elif start_on == "user":
        start = starts[-1] if starts else end
    else:
        fitting = [i for i in starts if before(i) >= excess]
        start = fitting[-1] if fitting else max(end - 1, h)
    return answer(carried(start) if start < end else None, start)


def is_left_over(left: Item, item: Item) -> bool:
    """Tell whether `item` needs the one before it, which has left."""
    return item.kind == "tool" or (item.kind == "assistant" and left.kind == "assistant" and left.continues)


@dataclass
class Kept:
    """What a ring keeps: the head, the question of the oldest step when that has left its place, and the others."""

    max_messages: int | None
    start_on: str | None
    include_system: bool
    head: list[Item] = field(default_factory=list)
    question: Item | None = None
    others: list[Item] = field(default_factory=list)
    is_whole: bool = True
    has_gap: bool = False  # after the head
    last: Item | None = None  # the last one that has left, if nothing came after it

    @property
    def items(self) -> list[Item]:
        """All items, oldest first."""
        return [*self.head, *([] if self.question is None else [self.question]), *self.others]

    def put(self, item: Item) -> list[Item]:
        """Add an item, and return what leaves for it."""
        if item.kind == "system" and not self.others and self.question is None:
            self.head.append(item)
        else:
            self.others.append(item)
        gone: list[Item] = []
        if self.others == [item]:
            if self.last is not None and is_left_over(self.last, item):
                gone += self.evict_behind()  # a result that comes after its call has left
            else:
                self.last = None
        return gone + self.make_room()

    def set_head(self, head: list[Item]) -> None:
        """Replace the head."""
        self.head = head
        self.make_room()

    def make_room(self) -> list[Item]:
        """Take out what the bound does not allow; return what has left."""
        gone = []
        while self.max_messages is not None and self.counted() > self.max_messages:
            gone += self.evict()
        return gone

    def counted(self) -> int:
        """Return how many messages the bound is about: head and question do not count."""
        return len(self.others) + (0 if self.include_system else len(self.head))

    def evict(self) -> list[Item]:
        """Take out the oldest message, and what needs it; return what has left."""
        self.is_whole = False
        if self.head and not self.include_system:
            return [self.head.pop(0)]
        return self.evict_behind()

    def evict_behind(self) -> list[Item]:
        """Take out the oldest message after the head."""
        self.is_whole, self.has_gap = False, True
        gone = [self.others.pop(0)]
        # A result goes with its call, and so does the rest of a step. A system message after
        # others is part of their turn.
        while self.others and (self.others[0].kind == "system" or is_left_over(gone[-1], self.others[0])):
            gone.append(self.others.pop(0))
        self.last = None if self.others else gone[-1]
        users = [item for item in gone if item.kind == "user"] if self.start_on == "user" else []
        if users:
            gone.remove(users[-1])
            gone += [] if self.question is None else [self.question]
            self.question = users[-1]
        oldest = next((item for item in self.others if item.kind in ("user", "assistant")), None)
        if self.question is not None and oldest is not None and oldest.kind == "user":
            gone.append(self.question)  # no step is left that it belongs to
            self.question = None
        return gone

    def delete(self, index: int) -> Item:
        """Take out one item by its index among all."""
        item = self.items[index]
        if item is self.question:
            self.question = None
        elif index < len(self.head):
            self.head.pop(index)
        else:
            self.others.remove(item)
        while self.question is None and self.others and self.others[0].kind == "system":
            self.head.append(self.others.pop(0))  # it leads now
        return item

    def clear(self) -> None:
        """Take out everything."""
        self.head, self.question, self.others = [], None, []
        self.is_whole, self.has_gap, self.last = True, False, None
