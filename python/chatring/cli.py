"""The commands: `chatring window` shows which messages fit a token limit, `chatring stats` where the tokens are."""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress

from chatring._core import MessageRing, TokenCounter
from chatring.conversation import Conversation, ConversationError, concatenate, read_conversations
from chatring.report import StatsReport, WindowReport, show_search, show_windows
from chatring.terminal import one_line

_Command = TypeVar("_Command", bound=Callable[..., Any])

_DEFAULT_ENCODING = "cl100k_base"
# Bytes of a file from which on progress is shown: smaller ones are done within a second.
_LARGE_FILE = 16 * 1024 * 1024
_BLOCK = 1024 * 1024


class _Refusal(click.ClickException):
    """Bad input: one line on standard error, exit status 2."""

    exit_code = 2

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(str(reason)))


def _counting(command: _Command) -> _Command:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--model", metavar="NAME", help="Count with the encoding of this model, such as gpt-4o."),
        click.option("--encoding", metavar="NAME", help=f"Count with this encoding.  [default: {_DEFAULT_ENCODING}]"),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chatring")
def chatring() -> None:
    """Which messages of a conversation fit a token limit, and where its tokens are.

    FILE has OpenAI's chat messages as JSON Lines: one message a line, or one conversation a line, {"messages": [...]}.
    "-" reads standard input. Conversations are numbered from 1, messages have an index from 0.
    """
    # A pipe may have an encoding that lacks a conversation's characters.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@chatring.command()
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--token-limit", type=int, required=True, metavar="N", help="Tokens that the window may have.")
@click.option("--initial-token-count", type=int, default=0, metavar="N", help="Tokens already spent before the window.")
@click.option("--conversation", "chosen", type=int, metavar="N", help="Take only conversation N; the first is 1.")
@click.option("--concatenate", "as_one", is_flag=True, help="Make one history of all conversations.")
@_counting
def window(
    file: str,
    token_limit: int,
    initial_token_count: int,
    chosen: int | None,
    as_one: bool,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Print the last messages of FILE that fit a token limit.

    The window begins with the first message, or one whose role is neither assistant nor tool; if none of these fits, it
    is the last message alone. A file with several conversations gives one row for each, unless --conversation or
    --concatenate says otherwise.
    """
    counter = _counter(encoding, model)
    _check_limits(token_limit, initial_token_count)
    if chosen is not None and as_one:
        raise _Refusal("--conversation and --concatenate exclude each other")
    with _progress(file) as progress:
        conversations = _read(file, progress)
        histories = [concatenate(conversations)] if as_one else conversations
        numbered = [(n, history) for n, history in enumerate(histories, 1) if chosen in (None, n)]
        if not numbered:
            raise _Refusal(f"no conversation {chosen}: the file has {len(histories):,}, numbered from 1")
        loading_seconds = _load(counter)
        reports = [
            WindowReport.find(
                history,
                counter,
                token_limit=token_limit,
                initial_token_count=initial_token_count,
                conversation=number if len(histories) > 1 else None,
            )
            for number, history in progress.track(numbered, description="counting")
        ]

    if as_json:
        for report in reports:
            click.echo(json.dumps(report.record()))
        return
    console = _console()
    if len(reports) == 1:
        reports[0].show(console)
    else:
        show_windows(console, reports)
    show_search(console, reports, loading_seconds=loading_seconds)


@chatring.command()
@click.argument("file", type=click.Path(allow_dash=True))
@_counting
def stats(file: str, encoding: str | None, model: str | None, as_json: bool) -> None:
    """Print messages and tokens by role, the longest messages, and tokens over the conversation.

    A message's tokens are those of its content alone. A history's are those of all contents joined by one space, which
    may differ from their sum. Several conversations are taken together.
    """
    counter = _counter(encoding, model)
    with _progress(file) as progress:
        report = StatsReport.measure(_read(file, progress), counter, progress)
    if as_json:
        click.echo(json.dumps(report.record()))
    else:
        report.show(_console())


def _counter(encoding: str | None, model: str | None) -> TokenCounter:
    if encoding is not None and model is not None:
        raise _Refusal("--encoding and --model exclude each other")
    try:
        if model is not None:
            return TokenCounter.for_model(model)
        return TokenCounter(_DEFAULT_ENCODING if encoding is None else encoding)
    except ValueError as error:
        raise _Refusal(error) from error


def _check_limits(token_limit: int, initial_token_count: int) -> None:
    if initial_token_count < 0:
        raise _Refusal(f"initial token count must be at least 0, got {initial_token_count}")
    try:
        # An empty ring refuses the same limits, before a large file is read.
        MessageRing(token_limit).get(initial_token_count=initial_token_count)
    except ValueError as error:
        raise _Refusal(error) from error


def _read(file: str, progress: Progress) -> list[Conversation]:
    try:
        if progress.disable:
            with click.open_file(file, "rb") as lines:
                return read_conversations(lines)
        with progress.open(file, "rb", description="reading") as stream:
            # By blocks, because telling progress of each line takes longer than reading it.
            return read_conversations(chain.from_iterable(iter(lambda: stream.readlines(_BLOCK), [])))
    except OSError as error:
        raise _Refusal(f"{file}: {error.strerror}") from error
    except ConversationError as error:
        raise _Refusal(f"{'standard input' if file == '-' else file}: {error}") from error


def _load(counter: TokenCounter) -> float:
    """Load the counter's encoding, which its first use would do; return the seconds that took."""
    begin = time.perf_counter()
    counter.count("")
    return time.perf_counter() - begin


def _progress(file: str) -> Progress:
    shown = sys.stderr.isatty() and file != "-" and os.path.isfile(file) and os.path.getsize(file) >= _LARGE_FILE
    return Progress(console=Console(stderr=True), transient=True, disable=not shown)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
