"""What the commands print about a history: its window, and where its tokens are; and about the sessions of stores."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from chatring._core import TokenCounter
from chatring.conversation import Conversation, NewConversation
from chatring.envelope import Message
from chatring.migration import Migration, StorePolicy
from chatring.stores import Record, Store
from chatring.stores.session import Info, Pruned
from chatring.terminal import amount, duration, headline, one_line, role_of

if TYPE_CHECKING:
    from chatring.formats import Format

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


class StoredMessages:
    """The messages of a store's session, to count and to show."""

    def __init__(self, codec: "Format[Any]") -> None:
        self._codec = codec

    def readable(self, messages: Iterable[Any]) -> list[Any]:
        """Return messages as a ring counts them."""
        return [self._codec.read(message) for message in messages]

    def shown(self, message: Any) -> Message:
        """Return a message as JSON."""
        if isinstance(message, Record):
            return {"role": message.role, "content": message.text}
        value = message if isinstance(message, dict) else json.loads(self._codec.dump(message))
        return value if isinstance(value, dict) else {"content": value}


@dataclass(frozen=True)
class WindowReport:
    """The window of one history, and what finding it took.

    Its `conversation` is None where there is only one, its `session` unless it is in a store. `rule` has the options
    that say where windows begin; `positions` are the messages' in the history, `message_tokens` those of each alone
    if it is in a store.
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
        """Read the window of a session, and nothing else of it, and read it again.

        Raises:
            ValueError: if `token_limit` is below 1 or `initial_token_count` above it.
            StoreError: if the store fails.
        """
        rule: dict[str, Any] = {"include_system": include_system, "retention_ratio": retention_ratio}
        begin = time.perf_counter()
        window = store.window(session, token_limit, initial_token_count, **rule)
        found = time.perf_counter()
        store.window(session, token_limit, initial_token_count, **rule)
        found_again = time.perf_counter()
        carried = [] if window.question is None else [window.question]
        head = range(window.head) if include_system else range(window.start - window.head, window.start)
        rest = len(window) - len(head) - len(carried)
        return cls(
            conversation=None,
            new=new,
            counter=store.counter,
            measure=str(store.measure),
            rule={"start_on": store.start_on, **rule},
            token_limit=token_limit,
            initial_token_count=initial_token_count,
            messages=[stored.shown(message) for message in window],
            positions=[*head, *carried, *range(window.start, window.start + rest)],
            head=window.head,
            question=window.question,
            start=window.start,
            tokens=window.tokens,
            history_messages=store.length(session),
            history_tokens=store.token_count(session),
            first_seconds=found - begin,
            again_seconds=found_again - found,
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
        """Print the window's messages, one a line, head and question marked, and what was left out."""
        if self.conversation is not None:
            console.print(f"conversation {self.conversation:,}", style="bold")
        is_marked = self.head > 0 or self.question is not None
        table = new_table(">index", *[""] * is_marked, "role", ">tokens", "content")
        tokens = self.message_tokens or [self.new().count(message) for message in self.messages]
        for row, (index, message) in enumerate(zip(self.positions, self.messages, strict=True)):
            mark = "head" if row < self.head else "question" if index == self.question else ""
            marks = [Text(mark, "bold")] * is_marked
            table.add_row(f"{index:,}", *marks, _role(message), f"{tokens[row]:,}", Text(headline(message)))
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
    def count(
        cls,
        conversations: Sequence[Conversation],
        new: NewConversation,
        progress: Progress,
        stored: StoredMessages | None = None,
    ) -> "StatsReport":
        """Count every message of the conversations, of which `stored` shows those of a store."""
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
        shown = history if stored is None else [stored.shown(message) for message in history]
        return cls(conversation.counter, str(conversation.measure), conversations, shown, tokens, growth)

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
    policy: StorePolicy
    migration: Migration
    left_out: list[str]

    def record(self) -> dict[str, Any]:
        """Return the report as JSON's values."""
        return {
            "from": self.source,
            "to": self.target,
            "encoding": self.policy.counter,
            "measure": self.policy.measure,
            "start_on": self.policy.start_on,
            "format": self.policy.format,
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
        console.print(one_line(f"to: {self.target}"))
        console.print(f"counted by: {self.policy.name}")
        verified = amount(len(self.migration.copied) + len(self.migration.already_there), "session")
        console.print(f"verified: messages and tokens of {verified} are the same in both")
        if self.left_out:
            names = ", ".join(self.left_out[:_LONGEST]) + (", ..." if len(self.left_out) > _LONGEST else "")
            console.print(one_line(f"left out, as it is no session: {names}"), style="dim")

    def _sums(self) -> Iterable[tuple[Any, ...]]:
        for name, counts in (("copied", self.migration.copied), ("already there", self.migration.already_there)):
            yield name, len(counts), *(sum(column) for column in zip((0, 0), *counts.values(), strict=True))


@dataclass(frozen=True)
class SessionsReport:
    """A page of a store's sessions."""

    sessions: list[tuple[str, Info]]
    has_more: bool

    def records(self) -> Iterable[dict[str, Any]]:
        """Return each as JSON's values."""
        for key, info in self.sessions:
            yield {"key": key, **info._asdict(), "updated_at": _moment(info.updated_at)}

    def show(self, console: Console) -> None:
        """Print the sessions, one a line, and how to go on."""
        table = new_table("session", ">messages", ">tokens", "last change", "content")
        table.columns[-1].header = "counted by"
        for key, (messages, tokens, policy, updated_at) in self.sessions:
            shown = (one_line(key, characters=60), f"{messages:,}", f"{tokens:,}", _moment(updated_at) or "", policy)
            table.add_row(*map(Text, shown))
        console.print(table)
        if self.has_more:
            console.print(f"\nmore: --after {self.sessions[-1][0]!r}")


@dataclass
class PruneReport:
    """What was pruned; `untouched` has how many sessions were not trimmed, by the policy that only others have."""

    removed: int = 0
    trimmed: int = 0
    messages: int = 0
    untouched: dict[str, int] = field(default_factory=dict)

    def add(self, pruned: Pruned) -> None:
        """Add what one call has done."""
        self.removed += pruned.removed
        self.trimmed += pruned.trimmed
        self.messages += pruned.messages

    def record(self) -> dict[str, Any]:
        """Return the report as JSON's values."""
        return {
            "removed_sessions": self.removed,
            "trimmed_sessions": self.trimmed,
            "trimmed_messages": self.messages,
            "not_trimmed": self.untouched,
        }

    def show(self, console: Console) -> None:
        """Print a line for each."""
        console.print(f"removed: {amount(self.removed, 'session')}")
        console.print(f"trimmed: {amount(self.trimmed, 'session')} by {amount(self.messages, 'message')}")
        for policy, count in self.untouched.items():
            console.print(one_line(f"not trimmed, as counted by {policy}: {amount(count, 'session')}"))


def _moment(seconds: float | None) -> str | None:
    """Return a time as of ISO 8601, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


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
