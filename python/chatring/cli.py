"""The commands: `chatring window` shows which messages fit a token limit, `chatring stats` where the tokens are.

`chatring migrate` copies sessions into a store.
"""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chatring._core import MessageRing, TokenCounter
from chatring.conversation import ConversationError, NewConversation, Reading, concatenate, read_conversations
from chatring.migration import CHATRING, LLAMA_INDEX, is_url, migrate, open_existing, open_source
from chatring.report import MigrationReport, StatsReport, WindowReport, show_search, show_windows
from chatring.stores import Store, StoreError, open_store
from chatring.stores.url import without_secrets
from chatring.terminal import amount, one_line

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Measure: TypeAlias = Literal["message", "text"]

# What rings count with by default, and what stores do.
_ENCODING_OF_FILES = "o200k_base"
_ENCODING_OF_STORES = "cl100k_base"
# Bytes of a file from which on progress is shown: smaller ones are done within a second.
_LARGE_FILE = 16 * 1024 * 1024
# By the package that is missing: what to install.
_EXTRAS = {"sqlalchemy": "sql", "psycopg": "sql", "redis": "redis", "llama_index": "llama-index"}
# Sessions that are named, of those that there are.
_NAMED = 5


class _Refusal(click.ClickException):
    """Bad input: one line on standard error, exit status 2."""

    exit_code = 2

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(str(reason)))


def _counting(default: str) -> Callable[[_Command], _Command]:
    def add_options(command: _Command) -> _Command:
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
            click.option("--model", metavar="NAME", help="Count with the encoding of this model, such as gpt-4o."),
            click.option("--encoding", metavar="NAME", help=f"Count with this encoding.  [default: {default}]"),
        ):
            command = option(command)
        return command

    return add_options


def _history(command: _Command) -> _Command:
    for option in (
        click.option(
            "--measure",
            type=click.Choice(["message", "text"]),
            help="Count all that is sent of a message, or the texts joined.  [default: message; of a store text]",
        ),
        click.option("--skip-invalid", is_flag=True, help="Skip damaged lines, and say how many there were."),
        click.argument("session", required=False),
        click.argument("file", metavar="FILE|URL", type=click.Path(allow_dash=True)),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chatring")
def chatring() -> None:
    """Which messages of a conversation fit a token limit, and where its tokens are.

    FILE has messages as JSON: a message or a conversation a line, an array, a request body, a data set for fine-tuning,
    requests and results of a batch, the log of an agent. It may be compressed by gzip. "-" reads standard input.
    Conversations are numbered from 1, messages have an index from 0.

    A session of a store goes by the store's URL and the session's key: sqlite:///chat.db ada.
    """
    # A pipe may have an encoding that lacks a conversation's characters.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@chatring.command()
@_history
@click.option("--token-limit", type=int, required=True, metavar="N", help="Tokens that the window may have.")
@click.option("--initial-token-count", type=int, default=0, metavar="N", help="Tokens already spent before the window.")
@click.option("--conversation", "chosen", type=int, metavar="N", help="Take only conversation N; the first is 1.")
@click.option("--concatenate", "as_one", is_flag=True, help="Make one history of all conversations.")
@_counting(f"{_ENCODING_OF_FILES}; of a store {_ENCODING_OF_STORES}")
def window(
    file: str,
    session: str | None,
    skip_invalid: bool,
    measure: _Measure | None,
    token_limit: int,
    initial_token_count: int,
    chosen: int | None,
    as_one: bool,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Print the last messages of FILE, or of a SESSION in the store at a URL, that fit a token limit.

    The window begins with the first message, or one whose role is neither assistant nor tool; if none of these fits, it
    is the last message alone. A file with several conversations gives one row for each, unless --conversation or
    --concatenate says otherwise.

    --json prints one object for each row. Its messages are those of the file as they are; of a store's session they
    have the role and the content, without what else is stored with them.
    """
    counter, new = _policy(file, measure, encoding, model)
    _check_limits(token_limit, initial_token_count)
    if chosen is not None and as_one:
        raise _Refusal("--conversation and --concatenate exclude each other")
    if is_url(file):
        if chosen is not None or as_one:
            raise _Refusal("--conversation and --concatenate are for files; a store has sessions")
        _refuse_skipping(skip_invalid)
        with _session(file, session, counter) as (store, key):
            report = WindowReport.read(store, key, token_limit=token_limit, initial_token_count=initial_token_count)
        if as_json:
            click.echo(json.dumps(report.record()))
        else:
            report.show(console := _console())
            show_search(console, [report])
        return
    _refuse_session(session)
    with _progress(file) as progress:
        reading = _read(file, new, progress, skip_invalid=skip_invalid)
        histories = [concatenate(reading.conversations, new)] if as_one else reading.conversations
        numbered = [(n, history) for n, history in enumerate(histories, 1) if chosen in (None, n)]
        if not numbered:
            raise _Refusal(f"no conversation {chosen}: the file has {len(histories):,}, numbered from 1")
        loading_seconds = _load(counter)
        reports = [
            WindowReport.find(
                history,
                new,
                token_limit=token_limit,
                initial_token_count=initial_token_count,
                conversation=number if len(histories) > 1 else None,
            )
            for number, history in progress.track(numbered, description="counting")
        ]
    _tell_what_is_left_out(reading)
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
@_history
@_counting(f"{_ENCODING_OF_FILES}; of a store {_ENCODING_OF_STORES}")
def stats(
    file: str,
    session: str | None,
    skip_invalid: bool,
    measure: _Measure | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Print messages and tokens by role, the longest messages, and tokens over FILE, or a SESSION in a store.

    A message's tokens are all that is sent of it: texts, tool calls, results, and what the provider adds. A history's
    are their sum. With --measure text, a message's are those of its content alone, and a history's those of all
    contents joined by one space, which may differ from their sum. Several conversations are taken together.
    """
    counter, new = _policy(file, measure, encoding, model)
    if is_url(file):
        _refuse_skipping(skip_invalid)
        with _session(file, session, counter) as (store, key):
            conversation = new()
            conversation.put_messages({"role": record.role, "content": record.text} for record in store.all(key))
        reading = Reading([conversation])
    else:
        _refuse_session(session)
    with _progress(file) as progress:
        if not is_url(file):
            reading = _read(file, new, progress, skip_invalid=skip_invalid)
        report = StatsReport.count(reading.conversations, new, progress)
    _tell_what_is_left_out(reading)
    if as_json:
        click.echo(json.dumps(report.record()))
    else:
        report.show(_console())


@chatring.command("migrate")
@click.argument("source_location", metavar="FROM")
@click.argument("target_url", metavar="TO")
@click.option(
    "--layout", type=click.Choice([CHATRING, LLAMA_INDEX]), help="Whose sessions FROM has.  [default: find out]"
)
@click.option("--table", metavar="NAME", help="The table of LlamaIndex's PostgresChatStore.  [default: the only one]")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace sessions that TO has with other messages, and count anew those under another counter.",
)
@_counting(_ENCODING_OF_STORES)
def migrate_sessions(
    source_location: str,
    target_url: str,
    layout: str | None,
    table: str | None,
    overwrite: bool,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Copy all sessions of FROM into the store at the URL TO, and verify them.

    FROM is a file that LlamaIndex's SimpleChatStore has persisted, or the URL of a store: ours, or the one of
    LlamaIndex's RedisChatStore or PostgresChatStore. TO is sqlite:///chat.db, postgresql://... or redis://...

    What TO has already is not copied again, so a migration that was interrupted goes on when it is run again. FROM is
    left as it is.
    """
    counter = _counter(encoding, model, _ENCODING_OF_STORES)
    with contextlib.ExitStack() as opened, _refusals(), _resumable():
        if not is_url(target_url):
            raise _Refusal(
                f"TO must be the URL of a store, such as sqlite:///chat.db; got {without_secrets(target_url)}"
            )
        target = open_store(target_url, counter=counter)
        if target.is_in_memory:
            raise _Refusal(f"{without_secrets(target_url)} would be gone when the command ends")
        opened.callback(target.close)
        if source_location == target_url:  # one store has nothing to copy from itself
            layout = layout or LLAMA_INDEX
            if layout == CHATRING:
                raise _Refusal("FROM and TO are the same store")
        source = open_source(source_location, layout=layout, table=table)
        opened.callback(source.close)
        lengths = source.lengths()
        with _copying(sum(lengths.values())) as progress:
            task = progress.task_ids[0]
            migration = migrate(
                source,
                lengths,
                target,
                overwrite=overwrite,
                advanced=lambda messages: progress.advance(task, messages),
            )
        report = MigrationReport(source.name, without_secrets(target_url), counter, migration, source.left_out())
    if as_json:
        click.echo(json.dumps(report.record()))
    else:
        report.show(_console())
    for key, reason in migration.failed.items():
        _Refusal(f"session {key!r}: {reason}").show()
    if migration.failed:
        sys.exit(_Refusal.exit_code)


def _policy(
    file: str, measure: _Measure | None, encoding: str | None, model: str | None
) -> tuple[TokenCounter, NewConversation]:
    """Return what counts the history of a file or store, and what makes an empty one that is measured like it."""
    if not is_url(file):
        counter = _counter(encoding, model, _ENCODING_OF_FILES)
        return counter, partial(MessageRing, counter=counter, measure=measure or "message")
    if measure == "message":
        raise _Refusal("--measure message is for files; a store counts the text of its records: --measure text")
    counter = _counter(encoding, model, _ENCODING_OF_STORES)
    return counter, partial(MessageRing, counter=counter, measure="text")


def _counter(encoding: str | None, model: str | None, default: str) -> TokenCounter:
    if encoding is not None and model is not None:
        raise _Refusal("--encoding and --model exclude each other")
    try:
        if model is not None:
            return TokenCounter.for_model(model)
        return TokenCounter(default if encoding is None else encoding)
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


def _read(file: str, new: NewConversation, progress: Progress, *, skip_invalid: bool) -> Reading:
    try:
        if progress.disable:
            with click.open_file(file, "rb") as stream:
                return read_conversations(stream, new, skip_invalid=skip_invalid)
        with progress.open(file, "rb", description="reading") as reported:
            return read_conversations(reported, new, skip_invalid=skip_invalid)
    except OSError as error:
        raise _Refusal(f"{without_secrets(file)}: {error.strerror}") from error
    except ConversationError as error:
        raise _Refusal(f"{'standard input' if file == '-' else without_secrets(file)}: {error}") from error


def _tell_what_is_left_out(reading: Reading) -> None:
    if reading.left_out:
        counts = ", ".join(f"{name} ({count:,})" for name, count in reading.left_out.items())
        click.echo(one_line(f"Left out, as they are not messages: {counts}"), err=True)
    if reading.skipped:
        click.echo(one_line(f"Skipped {amount(reading.skipped, 'damaged line')}: {reading.first_skipped}"), err=True)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what stores and sources refuse into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise _Refusal(f"this needs {package}: pip install 'chatring[{_EXTRAS[package]}]'") from error
    except (StoreError, ValueError) as error:
        raise _Refusal(error) from error
    except OSError as error:
        raise _Refusal(f"{without_secrets(str(error.filename))}: {error.strerror}") from error


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted: what has been copied stays, and the same command goes on from there.", err=True)
        raise


@contextlib.contextmanager
def _session(url: str, session: str | None, counter: TokenCounter) -> Iterator[tuple[Store, str]]:
    with _refusals(), contextlib.closing(open_existing(url, counter=counter)) as store:
        keys = [] if session is not None and store.length(session) else sorted(store.keys())
        if session is None or (keys and session not in keys):
            named = ", ".join(map(repr, keys[:_NAMED])) + (", ..." if len(keys) > _NAMED else "")
            reason = "which session?" if session is None else f"no session {session!r};"
            raise _Refusal(f"{without_secrets(url)}: {reason} it has {len(keys):,}: {named}")
        yield store, session


def _refuse_session(session: str | None) -> None:
    if session is not None:
        raise _Refusal(f"a session, {session!r}, needs the URL of a store, such as sqlite:///chat.db; a file has none")


def _refuse_skipping(skip_invalid: bool) -> None:
    if skip_invalid:
        raise _Refusal("--skip-invalid is for files; a store has no damaged lines")


def _copying(messages: int) -> Progress:
    """Return a bar on standard error, if that is a terminal."""
    progress = Progress(
        TextColumn("copying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("messages"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    progress.add_task("", total=messages)
    return progress


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
