"""The command `chatring`, with its subcommands."""

import io
import sys

import click

from chatring.cli.backup import backup
from chatring.cli.migrate import migrate_sessions
from chatring.cli.prune import prune
from chatring.cli.replay import replay_conversations
from chatring.cli.sessions import sessions
from chatring.cli.stats import stats
from chatring.cli.window import window


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chatring")
def chatring() -> None:
    """Which messages of a conversation fit a token limit, and where its tokens go.

    FILE has messages as JSON: a message or a conversation in each line, an array, a request body, a data set for
    fine-tuning, requests and results of a batch, or the log of an agent. It may be compressed with gzip. "-" reads
    standard input. Conversations are numbered from 1, messages have an index from 0.

    A session in a store is named by the store's URL and the session's key: sqlite:///chat.db ada. It is counted as
    the program that wrote it counts, unless options say otherwise.
    """
    # A pipe may have an encoding that lacks some of a conversation's characters.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


for _command in (backup, migrate_sessions, prune, replay_conversations, sessions, stats, window):
    chatring.add_command(_command)
