"""The commands: `chatring window` shows which messages fit a token limit, `chatring stats` where the tokens are.

`chatring replay` shows what each model call of a recorded conversation would have been sent, and its cost.
`chatring migrate` copies sessions into a store.
"""

import contextlib
import io
import json
import math
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
from chatring.conversation import (
    Conversation,
    ConversationError,
    NewConversation,
    Reading,
    concatenate,
    read_conversations,
)
from chatring.migration import CHATRING, LLAMA_INDEX, is_url, migrate, open_existing, open_source
from chatring.replay import Policy, Pricing, Recording, replay
from chatring.replay_page import CURVE, page
from chatring.replay_report import ReplayReport
from chatring.report import MigrationReport, StatsReport, WindowReport, show_search, show_windows
from chatring.stores import Store, StoreError, open_store
from chatring.stores.redaction import without_secrets
from chatring.terminal import amount, one_line

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Measure: TypeAlias = Literal["message", "text"]
_StartOn: TypeAlias = Literal["user", "none"]

# What rings count with by default, and what stores do.
_ENCODING_OF_FILES = "o200k_base"
_ENCODING_OF_STORES = "cl100k_base"
# Bytes of a file from which on progress is shown: smaller ones are done within a second.
_LARGE_FILE = 16 * 1024 * 1024
# By the package that is missing: what to install.
_EXTRAS = {"sqlalchemy": "sql", "psycopg": "sql", "redis": "redis", "llama_index": "llama-index"}
# The retention ratios that are replayed unless others are given.
_RATIOS = (1.0, 0.7, 0.5)
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


def _starts(command: _Command) -> _Command:
    for option in (
        click.option(
            "--include-system/--no-include-system",
            default=None,
            help="Whether the leading system messages are in every window.  [default: they are]",
        ),
        click.option(
            "--start-on",
            type=click.Choice(["user", "none"]),
            help="Begin with a user message, or a step behind its question; or with all but replies and results.  "
            "[default: user]",
        ),
    ):
        command = option(command)
    return command


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
@click.option(
    "--retention-ratio",
    type=click.FloatRange(0, 1),
    metavar="R",
    help="When messages must go, go down to this share of the limit.  [default: 1.0]",
)
@_starts
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
    retention_ratio: float | None,
    start_on: _StartOn | None,
    include_system: bool | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Print the last messages of FILE, or of a SESSION in the store at a URL, that fit a token limit.

    The window has the leading system messages, then the newest turns that fit. If not all of a turn fits, its question
    stays and its oldest steps go; no result loses its call. A file with several conversations gives one row for each,
    unless --conversation or --concatenate says otherwise.

    With --measure text, and in a store, it begins with the first message, or one whose role is neither assistant nor
    tool; if none of these fits, it is the last message alone.

    --json prints one object for each row. Its messages are those of the file as they are; of a store's session they
    have the role and the content, without what else is stored with them.
    """
    counter, new = _policy(
        *(file, measure, encoding, model),
        start_on=start_on,
        include_system=include_system,
        retention_ratio=retention_ratio,
    )
    _check_limits(token_limit, initial_token_count)
    _refuse_both(chosen, as_one)
    if is_url(file):
        if chosen is not None or as_one:
            raise _Refusal("--conversation and --concatenate are for files; a store has sessions")
        _refuse_skipping(skip_invalid)
        with _session(file, session, counter) as (store, key):
            report = WindowReport.read(
                store, key, new, token_limit=token_limit, initial_token_count=initial_token_count
            )
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
        numbered = _chosen(histories, chosen)
        loading_seconds = _load(counter)
        with _refusals():  # of a head that is too long
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


@chatring.command("replay")
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@click.option("--skip-invalid", is_flag=True, help="Skip damaged lines, and say how many there were.")
@click.option(
    *("--token-limit", "token_limits"),
    type=int,
    required=True,
    multiple=True,
    metavar="N",
    help="Tokens that a call may have. May be given several times.",
)
@click.option(
    *("--retention-ratio", "ratios"),
    type=click.FloatRange(0, 1),
    multiple=True,
    metavar="R",
    help="When messages must go, go down to this share of the limit. May be given several times.  "
    "[default: 1.0, 0.7 and 0.5]",
)
@click.option("--initial-token-count", type=int, default=0, metavar="N", help="Tokens sent before the messages: tools.")
@click.option(
    "--cached-price",
    type=click.FloatRange(0),
    default=0.1,
    show_default=True,
    metavar="P",
    help="Of a cached token, where the full price is 1.",
)
@click.option(
    "--write-price",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="P",
    help="Of a token that is not cached: more than 1 where writing to the cache costs extra.",
)
@click.option(
    "--cache-minimum",
    type=click.IntRange(0),
    default=1024,
    show_default=True,
    metavar="N",
    help="Tokens that the cached beginning must have.",
)
@click.option("--conversation", "chosen", type=int, metavar="N", help="Take only conversation N; the first is 1.")
@click.option(
    "--concatenate",
    "as_one",
    is_flag=True,
    help="Make one history of all conversations, with the first one's system messages only once.",
)
@click.option(
    *("--html", "html_file"),
    type=click.Path(dir_okay=False, writable=True),
    metavar="OUT",
    help="Write a page with charts to this file.",
)
@_starts
@_counting(_ENCODING_OF_FILES)
def replay_conversations(
    file: str,
    skip_invalid: bool,
    token_limits: tuple[int, ...],
    ratios: tuple[float, ...],
    initial_token_count: int,
    cached_price: float,
    write_price: float,
    cache_minimum: int,
    chosen: int | None,
    as_one: bool,
    html_file: str | None,
    start_on: _StartOn | None,
    include_system: bool | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Show what each model call of a recorded conversation would have been sent, and what its input would have cost.

    A call is each response of the assistant; messages that follow one with calls or reasoning belong to the same
    response, and a greeting before the first user message is not a call.

    For each limit there is a row for a plain sliding window (the leading system messages, unless
    --no-include-system, and the newest messages that fit, wherever they begin), and one for each ratio. What a call has
    in common with the beginning of the call before is cached, in whole messages and blocks of 128 tokens; every
    conversation begins with an empty cache. The cost is in tokens at the full price. A cut is a call whose messages
    behind the system messages begin elsewhere than those of the call before.

    A request is invalid if one of the providers would refuse it: a result without its call, a call without its result,
    or a first message that is not a user's, unless the conversation itself begins so. It has lost the question if the
    newest user message is not in it.

    --json prints one object for each row, with the messages of each call by index. The page of --html has no texts of
    the conversation.
    """
    if is_url(file):
        raise _Refusal("chatring replay is for files; a store's sessions can be written to one")
    _refuse_both(chosen, as_one)
    _, new = _policy(file, None, encoding, model, start_on=start_on, include_system=include_system)
    if not (math.isfinite(cached_price) and math.isfinite(write_price)):
        raise _Refusal("a price must be a finite number")
    for token_limit in token_limits:
        _check_limits(token_limit, initial_token_count)
    with _progress(file) as progress, _refusals():
        reading = _read(file, new, progress, skip_invalid=skip_invalid)
        conversations = reading.conversations
        if as_one:
            conversations = [concatenate(conversations, new, repeat_prompt=False)]
        numbered = _chosen(conversations, chosen)
        recordings = [Recording(ring) for _, ring in progress.track(numbered, description="counting")]
        calls = sum(len(recording.calls) for recording in recordings)
        if not calls:
            raise _Refusal("no model call in it: no assistant's message follows a message that is not the system's")
        # In the order given, each once; the curve is for the page.
        asked = list(dict.fromkeys(Policy(n, ratio) for n in token_limits for ratio in (None, *(ratios or _RATIOS))))
        curve = [Policy(n, ratio) for n in token_limits for ratio in CURVE] if html_file else []
        task = progress.add_task("replaying", total=calls)
        pricing = Pricing(cached_price, write_price, cache_minimum)
        replays = replay(
            *(recordings, new, [*asked, *(policy for policy in curve if policy not in asked)]),
            pricing=pricing,
            initial_token_count=initial_token_count,
            advance=lambda: progress.advance(task),
        )
        ring = new()
        report = ReplayReport(
            name="standard input" if file == "-" else os.path.basename(file),
            counter=ring.counter,
            start_on=ring.start_on,
            include_system=ring.include_system,
            initial_token_count=initial_token_count,
            pricing=pricing,
            recordings=recordings,
            replays=replays[: len(asked)],
            curve=replays,
        )
        if html_file:
            with open(html_file, "w", encoding="utf-8") as out:
                out.write(page(report))
    _tell_what_is_left_out(reading)
    if as_json:
        for record in report.records():
            click.echo(json.dumps(record))
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
    file: str,
    measure: _Measure | None,
    encoding: str | None,
    model: str | None,
    *,
    start_on: _StartOn | None = None,
    include_system: bool | None = None,
    retention_ratio: float | None = None,
) -> tuple[TokenCounter, NewConversation]:
    """Return what counts the history of a file or store, and what makes an empty one that has its measure and rule."""
    rule: dict[str, Any] = {}
    if start_on is not None:
        rule["start_on"] = None if start_on == "none" else start_on
    if include_system is not None:
        rule["include_system"] = include_system
    if retention_ratio is not None:
        rule["retention_ratio"] = retention_ratio
    if not is_url(file):
        counter = _counter(encoding, model, _ENCODING_OF_FILES)
        new = partial(MessageRing, counter=counter, measure=measure or "message", **rule)
        with _refusals():
            new()
        return counter, new
    if measure == "message":
        raise _Refusal("--measure message is for files; a store counts the text of its records: --measure text")
    if rule:
        given = ", ".join("--" + name.replace("_", "-") for name in rule)
        raise _Refusal(f"{given}: only for files; a store's windows begin as its records say")
    counter = _counter(encoding, model, _ENCODING_OF_STORES)
    return counter, partial(MessageRing, counter=counter, measure="text")


def _refuse_both(chosen: int | None, as_one: bool) -> None:
    if chosen is not None and as_one:
        raise _Refusal("--conversation and --concatenate exclude each other")


def _chosen(conversations: list[Conversation], chosen: int | None) -> list[tuple[int, Conversation]]:
    """Return the conversations with their numbers: all, or the chosen one."""
    numbered = [(n, conversation) for n, conversation in enumerate(conversations, 1) if chosen in (None, n)]
    if not numbered:
        raise _Refusal(f"no conversation {chosen}: the file has {len(conversations):,}, numbered from 1")
    return numbered


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
