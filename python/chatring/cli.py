"""The commands: `chatring window` shows which messages fit a token limit, `chatring stats` where the tokens are.

`chatring replay` shows what each model call of a recorded conversation would have been sent, and its cost.
`chatring migrate` copies sessions into a store; `sessions`, `prune` and `backup` look after one.
"""

import contextlib
import io
import json
import math
import os
import sys
import time
from collections import Counter
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
from chatring.migration import (
    CHATRING,
    FORMATS,
    LAYOUTS,
    StorePolicy,
    back_up,
    is_url,
    migrate,
    open_existing,
    open_source,
)
from chatring.replay import Policy, Pricing, Recording, replay
from chatring.replay_page import CURVE, page
from chatring.replay_report import ReplayReport
from chatring.report import (
    MigrationReport,
    PruneReport,
    SessionsReport,
    StatsReport,
    StoredMessages,
    WindowReport,
    show_search,
    show_windows,
)
from chatring.stores import Store, StoreError
from chatring.stores.redaction import without_secrets
from chatring.terminal import amount, one_line

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Measure: TypeAlias = Literal["message", "text"]
_StartOn: TypeAlias = Literal["user", "none"]

# What rings and stores count with by default.
_ENCODING = "o200k_base"
# Bytes of a file from which on progress is shown: smaller ones are done within a second.
_LARGE_FILE = 16 * 1024 * 1024
# By the package that is missing: what to install.
_EXTRAS = {"psycopg": "postgresql", "redis": "redis", "llama_index": "llama-index"}
# The retention ratios that are replayed unless others are given.
_RATIOS = (1.0, 0.7, 0.5)
# Sessions that are named, of those that there are.
_NAMED = 5
_SECONDS_OF_A_DAY = 86_400


class _Refusal(click.ClickException):
    """Bad input: one line on standard error, exit status 2."""

    exit_code = 2

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(str(reason)))


def _as_json(command: _Command) -> _Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _counting(default: str) -> Callable[[_Command], _Command]:
    def add_options(command: _Command) -> _Command:
        for option in (
            _as_json,
            click.option("--model", metavar="NAME", help="Count with the encoding of this model, such as gpt-4o."),
            click.option(
                *("--encoding", "--counter", "encoding"),
                metavar="NAME",
                help=f"Count with this encoding.  [default: {default}]",
            ),
        ):
            command = option(command)
        return command

    return add_options


def _start_on(command: _Command) -> _Command:
    return click.option(
        "--start-on",
        type=click.Choice(["user", "none"]),
        help="Begin with a user message, or a step behind its question; or with all but replies and results.  "
        "[default: user]",
    )(command)


def _starts(command: _Command) -> _Command:
    include_system = click.option(
        "--include-system/--no-include-system",
        default=None,
        help="Whether the leading system messages are in every window.  [default: they are]",
    )
    return _start_on(include_system(command))


def _measuring(command: _Command) -> _Command:
    for option in (
        click.option("--format", "format_name", type=click.Choice(FORMATS), help="Whose messages they are."),
        click.option(
            "--measure",
            type=click.Choice(["message", "text"]),
            help="Count all that is sent of a message, or the texts joined.  [default: message]",
        ),
    ):
        command = option(command)
    return command


def _history(command: _Command) -> _Command:
    for option in (
        _measuring,
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

    A session of a store goes by the store's URL and the session's key: sqlite:///chat.db ada. It is counted as the
    program that wrote it has counted it, unless options say otherwise.
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
@_counting(_ENCODING)
def window(
    file: str,
    session: str | None,
    skip_invalid: bool,
    measure: _Measure | None,
    format_name: str | None,
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

    With --measure text it begins with the first message, or one whose role is neither assistant nor tool; if none of
    these fits, it is the last message alone.

    --json prints one object for each row. Its messages are those of the file or session as they are.
    """
    given = _given(encoding, model, measure, start_on, format_name)
    _check_limits(token_limit, initial_token_count)
    _refuse_both(chosen, as_one)
    if is_url(file):
        if chosen is not None or as_one:
            raise _Refusal("--conversation and --concatenate are for files; a store has sessions")
        _refuse_skipping(skip_invalid)
        with _session(file, session, given, must_fit=True) as (policy, store, key):
            report = WindowReport.read(
                *(store, key, StoredMessages(policy.codec()), policy.new_ring()),
                token_limit=token_limit,
                initial_token_count=initial_token_count,
                include_system=policy.measure != "text" if include_system is None else include_system,
                retention_ratio=1.0 if retention_ratio is None else retention_ratio,
            )
        if as_json:
            click.echo(json.dumps(report.record()))
        else:
            report.show(console := _console())
            show_search(console, [report])
        return
    _refuse_session(session)
    counter, new = _ring_of(given, include_system=include_system, retention_ratio=retention_ratio)
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
@_start_on
@_counting(_ENCODING)
def stats(
    file: str,
    session: str | None,
    skip_invalid: bool,
    measure: _Measure | None,
    format_name: str | None,
    start_on: _StartOn | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Print messages and tokens by role, the longest messages, and tokens over FILE, or a SESSION in a store.

    A message's tokens are all that is sent of it: texts, tool calls, results, and what the provider adds. A history's
    are their sum. With --measure text, a message's are those of its content alone, and a history's those of all
    contents joined by one space, which may differ from their sum. Several conversations are taken together.
    """
    given = _given(encoding, model, measure, start_on, format_name)
    if is_url(file):
        _refuse_skipping(skip_invalid)
        with _session(file, session, given, must_fit=False) as (policy, store, key):
            stored, new = StoredMessages(policy.codec()), policy.new_ring()
            conversation = new()
            conversation.put_messages(stored.readable(store.all(key)))
        with _progress(file) as progress:
            report = StatsReport.count([conversation], new, progress, stored)
    else:
        _refuse_session(session)
        _, new = _ring_of(given)
        with _progress(file) as progress:
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
@_counting(_ENCODING)
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
    _, new = _ring_of(_given(encoding, model, None, start_on, None), include_system=include_system)
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
@click.option("--layout", type=click.Choice(list(LAYOUTS)), help="Whose sessions FROM has.  [default: find out]")
@click.option("--table", metavar="NAME", help="The table of FROM, if others made it.  [default: the only one]")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace sessions that TO has with other messages, and count anew those that it has counted otherwise.",
)
@_measuring
@_start_on
@_counting(f"{_ENCODING}; for LlamaIndex cl100k_base")
def migrate_sessions(
    source_location: str,
    target_url: str,
    layout: str | None,
    table: str | None,
    overwrite: bool,
    measure: _Measure | None,
    format_name: str | None,
    start_on: _StartOn | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Copy all sessions of FROM into the store at the URL TO, and verify them.

    TO is sqlite:///chat.db, postgresql://... or redis://... FROM is the URL of such a store, or of a database in which
    LlamaIndex's chat stores, the sessions of OpenAI Agents or LangChain's histories keep theirs; or a file: a chat
    store or memory that LlamaIndex has written, or conversations as in `chatring window`. A conversation's key is its
    own id or its number; the only one's is the file's name.

    Sessions of LlamaIndex are stored as its drop-in reads them, those of a store as they are there, and others as
    JSON. The options change that.

    What TO has already is not copied again, so a migration that was interrupted goes on when it is run again. FROM is
    left as it is.
    """
    given = _given(encoding, model, measure, start_on, format_name)
    with contextlib.ExitStack() as opened, _refusals(), _resumable():
        if not is_url(target_url):
            raise _Refusal(
                f"TO must be the URL of a store, such as sqlite:///chat.db; got {without_secrets(target_url)}"
            )
        target = StorePolicy().open(target_url)
        if target.is_in_memory:
            raise _Refusal(f"{without_secrets(target_url)} would be gone when the command ends")
        layouts = [layout] if layout else list(LAYOUTS)
        if source_location == target_url:  # one store has nothing to copy from itself
            layouts = [other for other in layouts if other != CHATRING]
            if not layouts:
                raise _Refusal("FROM and TO are the same store")
        source = open_source(source_location, layouts=layouts, table=table)
        opened.callback(source.close)
        policy = source.policy.changed(given)
        target = policy.open(target_url)
        opened.callback(target.close)
        keys = source.keys()
        with _copying(len(keys)) as progress:
            task = progress.task_ids[0]
            migration = migrate(
                source,
                keys,
                target,
                overwrite=overwrite,
                advanced=lambda sessions: progress.update(task, completed=sessions),
            )
        report = MigrationReport(source.name, without_secrets(target_url), policy, migration, source.left_out())
    if as_json:
        click.echo(json.dumps(report.record()))
    else:
        report.show(_console())
    for key, reason in migration.failed.items():
        _Refusal(f"session {key!r}: {reason}").show()
    if migration.failed:
        sys.exit(_Refusal.exit_code)


@chatring.command()
@click.argument("url", metavar="URL")
@click.option("--prefix", default="", metavar="TEXT", help="Only sessions whose key begins with this.")
@click.option("--after", metavar="KEY", help="Only sessions behind this one.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="At most so many.")
@_as_json
def sessions(url: str, prefix: str, after: str | None, limit: int, as_json: bool) -> None:
    """List the sessions of the store at a URL by their keys, with messages, tokens and last change.

    The tokens are those that the program which wrote a session has counted. --json prints one object for each session.
    """
    with _opened(url) as store:
        keys = store.keys(prefix, after, limit)
        listed = [(key, info) for key in keys if (info := store.info(key)) is not None]
        has_more = len(keys) == limit and bool(store.keys(prefix, keys[-1], 1))
    report = SessionsReport(listed, has_more)
    if as_json:
        for record in report.records():
            click.echo(json.dumps(record))
    else:
        report.show(_console())


@chatring.command()
@click.argument("url", metavar="URL")
@click.option(
    "--unused-for",
    type=click.FloatRange(0, min_open=True),
    metavar="DAYS",
    help="Remove sessions that were not changed for so long.",
)
@click.option("--max-messages", type=click.IntRange(1), metavar="N", help="Trim sessions to so many messages.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Trim sessions to so many tokens.")
@click.option("--prefix", default="", metavar="TEXT", help="Only sessions whose key begins with this.")
@_as_json
def prune(
    url: str,
    unused_for: float | None,
    max_messages: int | None,
    max_tokens: int | None,
    prefix: str,
    as_json: bool,
) -> None:
    """Remove sessions of the store at a URL that are no longer used, and the oldest messages of those that are long.

    Windows within the bounds stay what they were: the leading system messages stay, and what is left begins with a
    whole turn. Programs may use the store meanwhile. A session whose counter only its own program has is not trimmed.
    """
    if unused_for is None and max_messages is None and max_tokens is None:
        raise _Refusal("say what to prune: --unused-for, --max-messages or --max-tokens")
    seconds = None if unused_for is None else max(unused_for * _SECONDS_OF_A_DAY, 1)
    report = PruneReport()
    with _opened(url) as store:
        if seconds is not None:
            report.add(store.prune(unused_for=seconds, prefix=prefix))
        if max_messages is not None or max_tokens is not None:
            # Each session as it was counted.
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
        report.show(_console())


@chatring.command()
@click.argument("url", metavar="URL")
@click.argument("file", type=click.Path())
def backup(url: str, file: str) -> None:
    """Copy the database of the SQLite store at a URL, as it is at one moment, to a new FILE.

    Programs may use the store meanwhile. Copying the file itself would miss what is in the log beside it. FILE appears
    when it is complete, and is never replaced. It is a store again: sqlite:///FILE.
    """
    with _refusals():
        back_up(url, file)
    click.echo(one_line(f"{without_secrets(url)} is in {file}, {os.path.getsize(file):,} bytes"))


def _given(
    encoding: str | None,
    model: str | None,
    measure: _Measure | None,
    start_on: _StartOn | None,
    format_name: str | None,
) -> dict[str, Any]:
    """Return the options of a policy that are given, by their names in `StorePolicy`."""
    given: dict[str, Any] = {}
    if encoding is not None or model is not None:
        given["counter"] = _counter(encoding, model).name
    if measure is not None:
        given["measure"] = measure
    if start_on is not None:
        given["start_on"] = None if start_on == "none" else start_on
    if format_name is not None:
        given["format"] = format_name
    return given


def _ring_of(
    given: dict[str, Any], *, include_system: bool | None = None, retention_ratio: float | None = None
) -> tuple[TokenCounter, NewConversation]:
    """Return what counts the history of a file, and what makes an empty one."""
    options = dict(given, include_system=include_system, retention_ratio=retention_ratio)
    rule = {name: value for name, value in options.items() if value is not None or name == "start_on"}
    counter = rule["counter"] = TokenCounter(rule.get("counter", _ENCODING))
    new = partial(MessageRing, **rule)
    with _refusals():
        new()
    return counter, new


def _refuse_both(chosen: int | None, as_one: bool) -> None:
    if chosen is not None and as_one:
        raise _Refusal("--conversation and --concatenate exclude each other")


def _chosen(conversations: list[Conversation], chosen: int | None) -> list[tuple[int, Conversation]]:
    """Return the conversations with their numbers: all, or the chosen one."""
    numbered = [(n, conversation) for n, conversation in enumerate(conversations, 1) if chosen in (None, n)]
    if not numbered:
        raise _Refusal(f"no conversation {chosen}: the file has {len(conversations):,}, numbered from 1")
    return numbered


def _counter(encoding: str | None, model: str | None) -> TokenCounter:
    if encoding is not None and model is not None:
        raise _Refusal("--encoding and --model exclude each other")
    try:
        if model is not None:
            return TokenCounter.for_model(model)
        return TokenCounter(_ENCODING if encoding is None else encoding)
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
def _opened(url: str) -> Iterator[Store[Any]]:
    """Open a store that is there, with whatever policy."""
    with _refusals():
        if not is_url(url):
            raise _Refusal(f"this needs the URL of a store, such as sqlite:///chat.db; got {without_secrets(url)}")
        with contextlib.closing(open_existing(url)) as store:
            yield store


@contextlib.contextmanager
def _session(
    url: str, session: str | None, given: dict[str, Any], *, must_fit: bool
) -> Iterator[tuple[StorePolicy, Store[Any], str]]:
    """Open a store with the policy of a session, changed by the options given; it must fit where sums are read."""
    with contextlib.ExitStack() as opened, _refusals():
        with _opened(url) as store:
            found = None if session is None else store.info(session)
            if session is None or found is None:
                keys = store.keys()
                named = ", ".join(map(repr, keys[:_NAMED])) + (", ..." if len(keys) > _NAMED else "")
                reason = "which session?" if session is None else f"no session {session!r};"
                raise _Refusal(f"{without_secrets(url)}: {reason} it has {len(keys):,}: {named}")
        own = StorePolicy.named(found.policy)
        policy = (own or StorePolicy()).changed(given)
        if own is None and (must_fit or not given):
            raise _Refusal(
                f"session {session!r} was counted by {found.policy!r}, which only the program that wrote it has"
                + ("" if must_fit else "; say how to count it: --encoding NAME")
            )
        if own is not None and policy != own and (must_fit or policy.codec().name != own.codec().name):
            raise _Refusal(
                f"session {session!r} was counted by {own.name!r}: give {own.arguments}, or none of these options"
            )
        yield policy, opened.enter_context(contextlib.closing(policy.open(url))), session


def _refuse_session(session: str | None) -> None:
    if session is not None:
        raise _Refusal(f"a session, {session!r}, needs the URL of a store, such as sqlite:///chat.db; a file has none")


def _refuse_skipping(skip_invalid: bool) -> None:
    if skip_invalid:
        raise _Refusal("--skip-invalid is for files; a store has no damaged lines")


def _copying(sessions: int) -> Progress:
    """Return a bar on standard error, if that is a terminal."""
    progress = Progress(
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
