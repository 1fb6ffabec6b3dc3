"""Standard output, and tables for it."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chatring.cli.terminal import one_line, role_of
from chatring.recordings.envelope import Message

_ROLE_STYLES = {
    "system": "magenta",
    "developer": "magenta",
    "user": "green",
    "assistant": "cyan",
    "model": "cyan",
    "tool": "yellow",
}


def new_console() -> Console:
    """Return standard output. It takes texts as they are, without markup."""
    return Console(highlight=False, markup=False, emoji=False)


def new_table(*headers: str) -> Table:
    """Return an empty table. `>` before a header aligns its column right, `*` gives it the rest of the width."""
    takes_all = any(header.startswith("*") for header in headers)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand=takes_all)
    for header in headers:
        table.add_column(
            header.lstrip(">*"),
            justify="right" if header.startswith(">") else "left",
            ratio=1 if header.startswith("*") else None,
            no_wrap=True,
        )
    return table


def role_cell(message: Message) -> Text:
    """Return a message's role in its colour."""
    role = role_of(message)
    return Text(one_line(role, characters=20), _ROLE_STYLES.get(role, ""))
