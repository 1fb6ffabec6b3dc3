"""What `chatring replay` prints: a row for each limit and window."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from chatring._core import TokenCounter
from chatring.cli.table import new_table
from chatring.cli.terminal import amount, one_line
from chatring.recordings.replay import Policy, Pricing, Recording, Replay


@dataclass(frozen=True)
class ReplayReport:
    """The replays of a file's conversations: by limit in the order asked for, the sliding window first.

    `curve` has more ratios for the same limits, for charts.
    """

    name: str
    counter: TokenCounter
    start_on: str | None
    include_system: bool
    initial_token_count: int
    pricing: Pricing
    recordings: Sequence[Recording]
    replays: Sequence[Replay]
    curve: Sequence[Replay]

    @property
    def messages(self) -> int:
        """How many messages the conversations have."""
        return sum(len(recording.messages) for recording in self.recordings)

    @property
    def tokens(self) -> int:
        """The tokens of these messages."""
        return sum(recording.sums[-1] for recording in self.recordings)

    @property
    def calls(self) -> int:
        """How many calls were replayed."""
        return self.replays[0].number_of_calls

    def limits(self) -> list[int]:
        """Return the limits in the order asked for."""
        return list(dict.fromkeys(replay.policy.token_limit for replay in self.replays))

    def at_limit(self, token_limit: int) -> list[Replay]:
        """Return the replays of a limit, the sliding window first."""
        return [replay for replay in self.replays if replay.policy.token_limit == token_limit]

    def share_of_sliding(self, replay: Replay) -> float:
        """Return a replay's cost as a share of the plain sliding window's with the same limit."""
        sliding = self.at_limit(replay.policy.token_limit)[0]
        return replay.cost / sliding.cost if sliding.cost else 1.0

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield each replay as JSON's values."""
        for replay in self.replays:
            yield {
                "token_limit": replay.policy.token_limit,
                "retention_ratio": replay.policy.retention_ratio,
                "window": name_of(replay.policy),
                "start_on": self.start_on,
                "include_system": self.include_system,
                "initial_token_count": self.initial_token_count,
                "encoding": self.counter.name,
                "calls": replay.number_of_calls,
                "tokens_sent": replay.sent,
                "tokens_cached": replay.cached,
                "cached_share": round(replay.cached_share, 4),
                "cost": round(replay.cost, 1),
                "cost_of_sliding": round(self.share_of_sliding(replay), 4),
                "cuts": replay.cuts,
                "invalid": sum(replay.invalid.values()),
                "invalid_by_reason": dict(replay.invalid),
                "lost_question": replay.lost_question,
                "lost_prompt": replay.lost_prompt,
                "over_limit": replay.over_limit,
                "requests": [
                    {
                        "conversation": number,
                        "answer": call.request.end,
                        "head": call.request.head,
                        "question": call.request.question,
                        "start": call.request.start,
                        "tokens": call.sent,
                        "cached": call.cached,
                    }
                    for number, calls in enumerate(replay.calls, 1)
                    for call in calls
                ],
            }

    def show(self, console: Console) -> None:
        """Print the table, and what its numbers mean."""
        console.print(self.summary())
        console.print()
        table = new_table(
            "limit\nwindow",
            ">tokens\nsent",
            ">\ncached",
            ">cost\na call",
            ">of\nsliding",
            ">\ncuts",
            ">\ninvalid",
            ">lost\nquestion",
            ">lost\nprompt",
        )
        for token_limit in self.limits():
            table.add_row(f"{token_limit:,}", style="bold")
            for replay in self.at_limit(token_limit):
                table.add_row(
                    name_of(replay.policy),
                    f"{replay.sent:,}",
                    percent(replay.cached_share),
                    f"{replay.cost / self.calls:,.0f}",
                    percent(self.share_of_sliding(replay)),
                    f"{replay.cuts:,}",
                    f"{sum(replay.invalid.values()):,}",
                    f"{replay.lost_question:,}",
                    f"{replay.lost_prompt:,}",
                )
        console.print(table)
        console.print()
        console.print(f"cost: input tokens at the full price; {self.prices()}")
        over = {replay.policy.token_limit for replay in self.replays if replay.over_limit}
        if over:
            limits = ", ".join(f"{limit:,}" for limit in sorted(over))
            console.print(f"some calls exceed the limit of {limits}: nothing smaller is valid, or left", style="dim")

    def summary(self) -> str:
        """Return what was replayed, on one line."""
        parts = [
            one_line(self.name),
            *([amount(len(self.recordings), "conversation")] if len(self.recordings) > 1 else []),
            amount(self.messages, "message"),
            f"{amount(self.tokens, 'token')} of {self.counter.name}",
            amount(self.calls, "call"),
        ]
        beside = [f"{amount(self.initial_token_count, 'token')} sent before them"] if self.initial_token_count else []
        return ", ".join([*parts, *beside])

    def prices(self) -> str:
        """Return the prices behind the cost."""
        pricing = self.pricing
        written = f", others {pricing.write_price:g}" if pricing.write_price != 1 else ""
        least = f", from {amount(pricing.cache_minimum, 'token')} on" if pricing.cache_minimum else ""
        return f"a cached one is {pricing.cached_price:g}{written}{least}"


def name_of(policy: Policy) -> str:
    """Return the name of a window: `sliding` or `ratio 0.7`."""
    return "sliding" if policy.retention_ratio is None else f"ratio {policy.retention_ratio:g}"


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{share:.0%}"


def rounded(value: float) -> str:
    """Return a number without decimals."""
    return f"{value:,.0f}"
