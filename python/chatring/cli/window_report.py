"""What `chatring window` prints: windows, and what finding them took."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from chatring._core import TokenCounter
from chatring.cli.stored import StoredMessages
from chatring.cli.table import new_table, role_cell
from chatring.cli.terminal import amount, duration, headline
from chatring.recordings.conversation import Conversation, NewConversation
from chatring.recordings.envelope import Message
from chatring.stores import Store
from chatring.window import Window, positions_of


@dataclass(frozen=True)
class WindowReport:
    """The window of one history, and what finding it took.

    `conversation` is None if there is only one; `session` is None outside a store. `rule` has the options that decide
    where windows begin. `positions` are the messages' positions in the history. `message_tokens` are each message's
    tokens alone, in a store.
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
    message_tokens: list[int] | None = None

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
            ValueError: if `token_limit` is below 1 or `initial_token_count` exceeds it.
        """
        window, first_seconds, again_seconds = _found_twice(
            lambda: history.window(initial_token_count=initial_token_count, token_limit=token_limit)
        )
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
            positions=positions_of(window, include_system=history.include_system),
            head=window.head,
            question=window.question,
            start=window.start,
            tokens=window.tokens,
            history_messages=len(history),
            history_tokens=history.token_count(),
            first_seconds=first_seconds,
            again_seconds=again_seconds,
        )

    @classmethod
    def read(
        cls,
        store: Store[Any],
        session: str,
        stored: StoredMessages,
        new: NewConversation,
        *,
        token_limit: int,
        initial_token_count: int,
        include_system: bool,
        retention_ratio: float,
    ) -> "WindowReport":
        """Read the window of a session, and nothing else of it; and read it again.

        Raises:
            ValueError: if `token_limit` is below 1 or `initial_token_count` exceeds it.
            StoreError: if the store fails.
        """
        rule: dict[str, Any] = {"include_system": include_system, "retention_ratio": retention_ratio}
        window, first_seconds, again_seconds = _found_twice(
            lambda: store.window(session, token_limit, initial_token_count, **rule)
        )
        return cls(
            conversation=None,
            new=new,
            counter=store.counter,
            measure=str(store.measure),
            rule={"start_on": store.start_on, **rule},
            token_limit=token_limit,
            initial_token_count=initial_token_count,
            messages=[stored.shown(message) for message in window],
            positions=positions_of(window, include_system=include_system),
            head=window.head,
            question=window.question,
            start=window.start,
            tokens=window.tokens,
            history_messages=store.length(session),
            history_tokens=store.token_count(session),
            first_seconds=first_seconds,
            again_seconds=again_seconds,
            session=session,
            message_tokens=[new().count(message) for message in stored.readable(window)],
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
        """Print the window's messages, one in each line, with head and question marked, and what was left out."""
        if self.conversation is not None:
            console.print(f"conversation {self.conversation:,}", style="bold")
        is_marked = self.head > 0 or self.question is not None
        table = new_table(">index", *[""] * is_marked, "role", ">tokens", "*content")
        tokens = self.message_tokens or [self.new().count(message) for message in self.messages]
        for row, (index, message) in enumerate(zip(self.positions, self.messages, strict=True)):
            mark = "head" if row < self.head else "question" if index == self.question else ""
            marks = [Text(mark, "bold")] * is_marked
            table.add_row(f"{index:,}", *marks, role_cell(message), f"{tokens[row]:,}", Text(headline(message)))
        console.print(table)
        console.print()

        totals = new_table("", ">messages", ">tokens", ">from index")
        totals.add_row("window", f"{len(self.messages):,}", f"{self.tokens:,}", f"{self.start:,}", style="bold")
        # What the window saves. Where texts are joined, this includes the space before the window, so that the rows add
        # up.
        totals.add_row("left out", f"{self.left_out:,}", f"{self.history_tokens - self.tokens:,}")
        totals.add_row("history", f"{self.history_messages:,}", f"{self.history_tokens:,}")
        console.print(totals)
        console.print()


def _found_twice(find: Callable[[], Window[Any]]) -> tuple[Window[Any], float, float]:
    """Return what `find` finds, and the seconds that it takes at first and again."""
    begin = time.perf_counter()
    window = find()
    found = time.perf_counter()
    find()
    return window, found - begin, time.perf_counter() - found


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
    spent = f", {first.initial_token_count:,} of them already spent" if first.initial_token_count else ""
    console.print(
        f"limit: {amount(first.token_limit, 'token')} of {first.counter.name}{spent}; measure: {first.measure}"
    )
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


def _rule(rule: dict[str, Any]) -> str:
    system = "always in it" if rule["include_system"] else "as others"
    start_on, ratio = rule["start_on"] or "none", rule["retention_ratio"]
    return f"start on: {start_on}; leading system messages: {system}; retention ratio: {ratio:g}"
