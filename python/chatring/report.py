"""What the commands print about a history: its window, and where its tokens are; and about histories that moved."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from chatring._core import TokenCounter
from chatring.conversation import Conversation, NewConversation
from chatring.envelope import Message
from chatring.migration import Migration
from chatring.stores import Store
from chatring.terminal import amount, duration, headline, one_line, role_of

_LONGEST = 5
_CHART_ROWS = 12
_CHART_WIDTH = 40
_COUNTS = ("sessions", "messages", "tokens")
_ROLE_STYLES = {
    "system": "magenta",
    "developer": "magenta",
    "user": "green",
    "assistant": "cyan",
    "model": "cyan",
    "tool": "yellow",
}


def count_tokens(messages: Iterable[Message], new: NewConversation) -> int:
    """Return the tokens of a new conversation of these messages."""
    conversation = new()
    conversation.put_messages(messages)
    return conversation.token_count()


@dataclass(frozen=True)
class WindowReport:
    """The window of one history, and what finding it took.

    Its `conversation` is None where there is only one, its `session` unless it is in a store. `rule` has the options
    that say where windows begin; `positions` are the messages' in the history.
    """

    conversation: int | None
    new: NewConversation
    counter: TokenCounter
    measure: str
    rule: dict[str, Any]
    token_limit: int
    initial_token_count: int
    messages: list[Message]
    positions: list[int]
    head: int
    question: int | None
    start: int
    tokens: int
    history_messages: int
    history_tokens: int
    first_seconds: float
    again_seconds: float
    session: str | None = None

    @classmethod
    def find(
        cls,
        history: Conversation,
        new: NewConversation,
        *,
        token_limit: int,
        initial_token_count: int,
        conversation: int | None = None,
    ) -> "WindowReport":
        """Find the window of a history that was not counted before, and find it again.

        Raises:
            ValueError: if `token_limit` is below 1 or `initial_token_count` above it.

        """
        begin = time.perf_counter()
        window = history.window(initial_token_count=initial_token_count, token_limit=token_limit)
        found = time.perf_counter()
        history.window(initial_token_count=initial_token_count, token_limit=token_limit)
        found_again = time.perf_counter()
        carried = [] if window.question is None else [window.question]
        # Without include_system, it may be the last of the leading system messages, which are before the start.
        head = range(window.head) if history.include_system else range(window.start - window.head, window.start)
        return cls(
            conversation=conversation,
            new=new,
            counter=history.counter,
            measure=str(history.measure),
            rule={
                "start_on": history.start_on,
                "include_system": history.include_system,
                "retention_ratio": history.retention_ratio,
            },
            token_limit=token_limit,
            initial_token_count=initial_token_count,
            messages=window,
            positions=[*head, *carried, *range(window.start, len(history))],
            head=window.head,
            question=window.question,
            start=window.start,
            tokens=window.tokens,
            history_messages=len(history),
            history_tokens=history.token_count(),
            first_seconds=found - begin,
            again_seconds=found_again - found,
        )

    @classmethod
    def read(
        cls, store: Store, session: str, new: NewConversation, *, token_limit: int, initial_token_count: int
    ) -> "WindowReport":
        """Read the window of a session, and nothing else of it, and read it again.

        Raises:
            ValueError: if `token_limit` is below 1 or `initial_token_count` above it.
            StoreError: if the store fails.
        """
        begin = time.perf_counter()
        records = store.window(session, token_limit, initial_token_count)
        found = time.perf_counter()
        store.window(session, token_limit, initial_token_count)
        found_again = time.perf_counter()
        messages: list[Message] = [{"role": record.role, "content": record.text} for record in records]
        length = store.length(session)
        start = length - len(messages)
        return cls(
            conversation=None,
            new=new,
            counter=store.counter,
            measure="text",
            rule={"start_on": None, "include_system": False, "retention_ratio": 1.0},
            token_limit=token_limit,
            initial_token_count=initial_token_count,
            messages=messages,
            positions=list(range(start, length)),
            head=0,
            question=None,
            start=start,
            tokens=count_tokens(messages, new),
            history_messages=length,
            history_tokens=store.token_count(session),
            first_seconds=found - begin,
            again_seconds=found_again - found,
            session=session,
        )

    @property
    def left_out(self) -> int:
        """How many messages of the history are not in the window."""
        return self.history_messages - len(self.messages)

    @property
    def exceeds_limit(self) -> bool:
        """Whether not even the smallest window fits."""
        return self.tokens + self.initial_token_count > self.token_limit

    def record(self) -> dict[str, Any]:
        """Return the report as JSON's values, without the times."""
        return {
            **({} if self.conversation is None else {"conversation": self.conversation}),
            **({} if self.session is None else {"session": self.session}),
            "token_limit": self.token_limit,
            "initial_token_count": self.initial_token_count,
            "encoding": self.counter.name,
            "measure": self.measure,
            **self.rule,
            "messages": self.messages,
            "window": {
                "head": self.head,
                "question": self.question,
                "start": self.start,
                "messages": len(self.messages),
                "tokens": self.tokens,
            },
            "history": {"messages": self.history_messages, "tokens": self.history_tokens},
        }

    def show(self, console: Console) -> None:
        """Print the window's messages, one a line, head and question marked, and what was left out."""
        if self.conversation is not None:
            console.print(f"conversation {self.conversation:,}", style="bold")
        is_marked = self.head > 0 or self.question is not None
        table = new_table(">index", *[""] * is_marked, "role", ">tokens", "content")
        count = self.new().count
        for row, (index, message) in enumerate(zip(self.positions, self.messages, strict=True)):
            mark = "head" if row < self.head else "question" if index == self.question else ""
            marks = [Text(mark, "bold")] * is_marked
            table.add_row(f"{index:,}", *marks, _role(message), f"{count(message):,}", Text(headline(message)))
        console.print(table)
        console.print()

        totals = new_table("", ">messages", ">tokens", ">from index")
        totals.add_row("window", f"{len(self.messages):,}", f"{self.tokens:,}", f"{self.start:,}", style="bold")
        # What the window saves, with the space before it if texts are joined, so that the rows add up.
        totals.add_row("left out", f"{self.left_out:,}", f"{self.history_tokens - self.tokens:,}")
        totals.add_row("history", f"{self.history_messages:,}", f"{self.history_tokens:,}")
        console.print(totals)
        console.print()


def show_windows(console: Console, reports: Sequence[WindowReport]) -> None:
    """Print the windows of several conversations, one row for each."""
    table = new_table(">conversation", ">messages", ">tokens", ">window messages", ">window tokens", ">left out")
    for report in reports:
        numbers = (report.history_messages, report.history_tokens, len(report.messages), report.tokens, report.left_out)
        table.add_row(str(report.conversation), *(f"{number:,}" for number in numbers))
    console.print(table)
    console.print()


def show_search(console: Console, reports: Sequence[WindowReport], *, loading_seconds: float = 0) -> None:
    """Print the limit of these windows, whether they keep it, and how long finding or reading them took."""
    first = reports[0]
    spent = f", of which {first.initial_token_count:,} already spent" if first.initial_token_count else ""
    console.print(
        f"limit: {amount(first.token_limit, 'token')} of {first.counter.name}{spent}; measure: {first.measure}"
    )
    if first.session is None:
        console.print(_rule(first.rule))
    too_long = sum(report.exceeds_limit for report in reports)
    if too_long:
        where = "" if len(reports) == 1 else f"in {amount(too_long, 'conversation')} "
        console.print(f"{where}the smallest window exceeds the limit; it is the window all the same", style="bold red")
    once = duration(sum(report.first_seconds for report in reports))
    again = duration(sum(report.again_seconds for report in reports))
    if first.session is None:
        console.print(f"time: {once} to count and find, {again} again; encoding loaded in {duration(loading_seconds)}")
    else:
        console.print(f"time: {once} to connect and read, {again} to read again")
    lacks_content = any(message.get("content", "") is None for message in first.messages)
    if first.measure == "text" and len(reports) == 1 and lacks_content:
        console.print("note: tool calls do not count; a message without content counts as the text None", style="dim")


@dataclass(frozen=True)
class StatsReport:
    """Where the tokens of conversations are, taken together in their order.

    `tokens` are those of each message alone; `growth` has the tokens of the history's first messages, for numbers of
    messages that divide it evenly.
    """

    counter: TokenCounter
    measure: str
    conversations: Sequence[Conversation]
    history: list[Message]
    tokens: list[int]
    growth: list[tuple[int, int]]

    @classmethod
    def count(cls, conversations: Sequence[Conversation], new: NewConversation, progress: Progress) -> "StatsReport":
        """Count every message of the conversations."""
        history = [message for conversation in conversations for message in conversation]
        count = new().count
        tokens = [count(message) for message in progress.track(history, description="counting")]
        rows = min(_CHART_ROWS, len(history))
        ends = [len(history) * row // rows for row in range(1, rows + 1)]
        growth = []
        conversation = new()
        for end in progress.track(ends, description="adding up"):
            conversation.put_messages(history[len(conversation) : end])
            growth.append((end, conversation.token_count()))
        return cls(conversation.counter, str(conversation.measure), conversations, history, tokens, growth)

    @property
    def history_tokens(self) -> int:
        """The tokens of all messages together."""
        return self.growth[-1][1] if self.growth else 0

    def by_role(self) -> dict[str, tuple[int, int]]:
        """Return the messages and tokens of each role, in the order in which they speak first."""
        roles: dict[str, tuple[int, int]] = {}
        for message, tokens in zip(self.history, self.tokens, strict=True):
            messages, total = roles.get(role := role_of(message), (0, 0))
            roles[role] = messages + 1, total + tokens
        return roles

    def longest(self) -> list[tuple[int, int, Message, int]]:
        """Return conversation, index in it, message and tokens of the longest messages, the longest first."""
        places = [(number, index) for number, ring in enumerate(self.conversations, 1) for index in range(len(ring))]
        ranking = sorted(range(len(self.history)), key=lambda position: -self.tokens[position])
        return [(*places[position], self.history[position], self.tokens[position]) for position in ranking[:_LONGEST]]

    def record(self) -> dict[str, Any]:
        """Return the report as JSON's values."""
        return {
            "encoding": self.counter.name,
            "measure": self.measure,
            "conversations": len(self.conversations),
            "history": {"messages": len(self.history), "tokens": self.history_tokens},
            "roles": {role: {"messages": count, "tokens": tokens} for role, (count, tokens) in self.by_role().items()},
            "longest": [
                {
                    "conversation": conversation,
                    "index": index,
                    "role": role_of(message),
                    "tokens": tokens,
                    "beginning": headline(message)[:200],
                }
                for conversation, index, message, tokens in self.longest()
            ],
            "growth": [{"messages": messages, "tokens": tokens} for messages, tokens in self.growth],
        }

    def show(self, console: Console) -> None:
        """Print the tables and the chart."""
        several = len(self.conversations) > 1
        first = [amount(len(self.conversations), "conversation")] if several else []
        total = f"{amount(self.history_tokens, 'token')} of {self.counter.name}; measure: {self.measure}"
        console.print(", ".join([*first, amount(len(self.history), "message"), total]))

        console.print()
        roles = new_table("role", ">messages", ">tokens", ">tokens/message")
        for role, (messages, tokens) in self.by_role().items():
            roles.add_row(_role({"role": role}), f"{messages:,}", f"{tokens:,}", f"{tokens / messages:,.1f}")
        console.print(roles)

        console.print()
        console.print("longest messages", style="underline")
        longest = new_table(*[">conversation"] * several, ">index", "role", ">tokens", "content")
        for conversation, index, message, tokens in self.longest():
            place = [f"{conversation:,}"] * several
            longest.add_row(*place, f"{index:,}", _role(message), f"{tokens:,}", Text(headline(message)))
        console.print(longest)

        console.print()
        console.print("tokens over the conversation", style="underline")
        chart = new_table(">messages", ">tokens", "")
        block = "#" if console.options.ascii_only else "█"
        for messages, tokens in self.growth:
            bar = block * round(_CHART_WIDTH * tokens / max(self.history_tokens, 1))
            chart.add_row(f"{messages:,}", f"{tokens:,}", Text(bar, "blue"))
        console.print(chart)


@dataclass(frozen=True)
class MigrationReport:
    """What was copied from where, and what was not."""

    source: str
    target: str
    counter: TokenCounter
    migration: Migration
    left_out: list[str]

    def record(self) -> dict[str, Any]:
        """Return the report as JSON's values."""
        return {
            "from": self.source,
            "to": self.target,
            "encoding": self.counter.name,
            **{name.replace(" ", "_"): dict(zip(_COUNTS, sums, strict=True)) for name, *sums in self._sums()},
            "not_copied": self.migration.failed,
            "left_out": self.left_out,
        }

    def show(self, console: Console) -> None:
        """Print how much was copied; what was not is for standard error."""
        table = new_table("", *(f">{name}" for name in _COUNTS))
        for name, *sums in self._sums():
            table.add_row(name, *(f"{number:,}" for number in sums))
        if self.migration.failed:
            table.add_row("not copied", f"{len(self.migration.failed):,}", style="bold red")
        console.print(table)
        console.print()
        console.print(one_line(f"from: {self.source}"))
        console.print(one_line(f"to: {self.target}, tokens of {self.counter.name}"))
        verified = amount(len(self.migration.copied) + len(self.migration.already_there), "session")
        console.print(f"verified: messages and tokens of {verified} are the same in both")
        if self.left_out:
            names = ", ".join(self.left_out[:_LONGEST]) + (", ..." if len(self.left_out) > _LONGEST else "")
            console.print(one_line(f"left out, as it is no session: {names}"), style="dim")

    def _sums(self) -> Iterable[tuple[Any, ...]]:
        for name, counts in (("copied", self.migration.copied), ("already there", self.migration.already_there)):
            yield name, len(counts), *(sum(column) for column in zip((0, 0), *counts.values(), strict=True))


def _rule(rule: dict[str, Any]) -> str:
    system = "always in it" if rule["include_system"] else "as others"
    start_on, ratio = rule["start_on"] or "none", rule["retention_ratio"]
    return f"start on: {start_on}; leading system messages: {system}; retention ratio: {ratio:g}"


def new_table(*headers: str) -> Table:
    """Return an empty table; `>` before a header aligns its column to the right, and `content` takes the width left."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand="content" in headers)
    for header in headers:
        right = header.startswith(">")
        ratio = 1 if header == "content" else None
        table.add_column(header.removeprefix(">"), justify="right" if right else "left", ratio=ratio, no_wrap=True)
    return table


def _role(message: Message) -> Text:
    role = role_of(message)
    return Text(one_line(role, characters=20), _ROLE_STYLES.get(role, ""))
