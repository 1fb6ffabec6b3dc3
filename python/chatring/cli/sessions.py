"""`chatring sessions`: lists a store's sessions."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from chatring.cli.options import json_option
from chatring.cli.stored import opened_store
from chatring.cli.table import new_console, new_table
from chatring.cli.terminal import one_line
from chatring.stores.session import Info


@click.command()
@click.argument("url", metavar="URL")
@click.option("--prefix", default="", metavar="TEXT", help="Only sessions whose key begins with this.")
@click.option("--after", metavar="KEY", help="Only sessions after this one.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="At most this many.")
@json_option
def sessions(url: str, prefix: str, after: str | None, limit: int, as_json: bool) -> None:
    """List the sessions of the store at a URL by their keys, with messages, tokens and last change.

    The tokens are as counted by the program that wrote the session. --json prints one object for each session.
    """
    with opened_store(url) as store:
        keys = store.keys(prefix, after, limit)
        listed = [(key, info) for key in keys if (info := store.info(key)) is not None]
        has_more = len(keys) == limit and bool(store.keys(prefix, keys[-1], 1))
    report = SessionsReport(listed, has_more)
    if as_json:
        for record in report.records():
            click.echo(json.dumps(record))
    else:
        report.show(new_console())


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
        """Print the sessions, one in each line, and how to get the next page."""
        table = new_table("session", ">messages", ">tokens", "last change", "*counted by")
        for key, (messages, tokens, policy, updated_at) in self.sessions:
            shown = (one_line(key, characters=60), f"{messages:,}", f"{tokens:,}", _moment(updated_at) or "", policy)
            table.add_row(*map(Text, shown))
        console.print(table)
        if self.has_more:
            console.print(f"\nmore: --after {self.sessions[-1][0]!r}")


def _moment(seconds: float | None) -> str | None:
    """Return a time in ISO 8601, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
