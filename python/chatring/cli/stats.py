"""`chatring stats`: where the tokens of conversations go."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from chatring._core import TokenCounter
from chatring.cli.options import (
    ENCODING,
    Measure,
    StartOn,
    counting_options,
    given_options,
    history_options,
    start_on_option,
)
from chatring.cli.progress import reading_bar
from chatring.cli.recorded import read_file, refuse_session, ring_of, tell_what_is_left_out
from chatring.cli.stored import StoredMessages, opened_session, refuse_skipping
from chatring.cli.table import new_console, new_table, role_cell
from chatring.cli.terminal import amount, headline, role_of
from chatring.migration import is_url
from chatring.recordings.conversation import Conversation, NewConversation
from chatring.recordings.envelope import Message

_LONGEST = 5
_CHART_ROWS = 12
_CHART_WIDTH = 40


@click.command()
@history_options
@start_on_option
@counting_options(ENCODING)
def stats(
    file: str,
    session: str | None,
    skip_invalid: bool,
    measure: Measure | None,
    format_name: str | None,
    start_on: StartOn | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Print messages and tokens by role, the longest messages, and tokens over FILE or over a SESSION in a store.

    A message's tokens are everything that is sent: texts, tool calls, results, and what the provider adds. A history's
    tokens are their sum. With --measure text, a message's tokens are those of its content alone. A history's are those
    of all contents joined by one space, which may differ from the sum. Several conversations are taken together.
    """
    given = given_options(encoding, model, measure, start_on, format_name)
    if is_url(file):
        refuse_skipping(skip_invalid)
        with opened_session(file, session, given, must_fit=False) as (policy, store, key):
            stored, new = StoredMessages(policy.message_format()), policy.new_ring()
            conversation = new()
            conversation.put_messages(stored.readable(store.all(key)))
        with reading_bar(file) as progress:
            report = StatsReport.count([conversation], new, progress, stored)
    else:
        refuse_session(session)
        _, new = ring_of(given)
        with reading_bar(file) as progress:
            reading = read_file(file, new, progress, skip_invalid=skip_invalid)
            report = StatsReport.count(reading.conversations, new, progress)
        tell_what_is_left_out(reading)
    if as_json:
        click.echo(json.dumps(report.record()))
    else:
        report.show(new_console())


@dataclass(frozen=True)
class StatsReport:
    """Where the tokens of conversations go. The conversations are taken together in their order.

    `tokens` are each message's alone. `growth` has the tokens of the history's first messages, for evenly spaced
    numbers of messages.
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
        """Count every message of the conversations. `stored` shows those of a store."""
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
        """Return the messages and tokens of each role, in the order in which the roles first speak."""
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
            roles.add_row(role_cell({"role": role}), f"{messages:,}", f"{tokens:,}", f"{tokens / messages:,.1f}")
        console.print(roles)

        console.print()
        console.print("longest messages", style="underline")
        longest = new_table(*[">conversation"] * several, ">index", "role", ">tokens", "*content")
        for conversation, index, message, tokens in self.longest():
            place = [f"{conversation:,}"] * several
            longest.add_row(*place, f"{index:,}", role_cell(message), f"{tokens:,}", Text(headline(message)))
        console.print(longest)

        console.print()
        console.print("tokens over the conversation", style="underline")
        chart = new_table(">messages", ">tokens", "")
        block = "#" if console.options.ascii_only else "█"
        for messages, tokens in self.growth:
            bar = block * round(_CHART_WIDTH * tokens / max(self.history_tokens, 1))
            chart.add_row(f"{messages:,}", f"{tokens:,}", Text(bar, "blue"))
        console.print(chart)
