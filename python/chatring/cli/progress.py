"""Bars on standard error, if that is a terminal."""

import os
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Bytes of a file from which progress is shown: smaller files take less than a second.
_LARGE_FILE = 16 * 1024 * 1024


class _Bar(Progress):
    """A bar that leaves nothing if it is not shown: rich before 14.3 ends it with an empty line."""

    def stop(self) -> None:
        """See `Progress`."""
        if not self.disable:
            super().stop()


def reading_bar(file: str) -> Progress:
    """Return a bar for reading and counting a file, if it is large."""
    shown = sys.stderr.isatty() and file != "-" and os.path.isfile(file) and os.path.getsize(file) >= _LARGE_FILE
    return _Bar(console=Console(stderr=True), transient=True, disable=not shown)


def copying_bar(sessions: int) -> Progress:
    """Return a bar for copying sessions."""
    progress = _Bar(
        TextColumn("copying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sessions"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    progress.add_task("", total=sessions)
    return progress
