"""`chatring prune`: removes unused sessions of a store, and the oldest messages of long ones."""

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console

from chatring.cli.options import json_option
from chatring.cli.refusal import Refusal
from chatring.cli.stored import opened_store
from chatring.cli.table import new_console
from chatring.cli.terminal import amount, one_line
from chatring.migration import StorePolicy
from chatring.stores.session import Pruned

_SECONDS_OF_A_DAY = 86_400


@click.command()
@click.argument("url", metavar="URL")
@click.option(
    "--unused-for",
    type=click.FloatRange(0, min_open=True),
    metavar="DAYS",
    help="Remove sessions that have not changed for this long.",
)
@click.option("--max-messages", type=click.IntRange(1), metavar="N", help="Trim sessions to this many messages.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Trim sessions to this many tokens.")
@click.option("--prefix", default="", metavar="TEXT", help="Only sessions whose key begins with this.")
@json_option
def prune(
    url: str,
    unused_for: float | None,
    max_messages: int | None,
    max_tokens: int | None,
    prefix: str,
    as_json: bool,
) -> None:
    """Remove sessions of the store at a URL that are no longer used, and the oldest messages of long ones.

    Windows within the bounds stay the same: the leading system messages stay, and what is left begins with a whole
    turn. Programs may use the store meanwhile. A session whose counter only its own program has is not trimmed.
    """
    if unused_for is None and max_messages is None and max_tokens is None:
        raise Refusal("say what to prune: --unused-for, --max-messages or --max-tokens")
    seconds = None if unused_for is None else max(unused_for * _SECONDS_OF_A_DAY, 1)
    report = PruneReport()
    with opened_store(url) as store:
        if seconds is not None:
            report.add(store.prune(unused_for=seconds, prefix=prefix))
        if max_messages is not None or max_tokens is not None:
            # Each session by the policy that counted it.
            names = Counter(info.policy for key in store.keys(prefix) if (info := store.info(key)))
            for name, count in names.items():
                policy = StorePolicy.named(name)
                if policy is None:
                    report.untouched[name] = count
                    continue
                with contextlib.closing(policy.open(url)) as theirs:
                    report.add(theirs.prune(max_messages=max_messages, max_tokens=max_tokens, prefix=prefix))
    if as_json:
        click.echo(json.dumps(report.record()))
    else:
        report.show(new_console())


@dataclass
class PruneReport:
    """What was pruned. `untouched` counts the sessions not trimmed, by policies that only other programs have."""

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
