"""`chatring window`: the last messages that fit a token limit."""

import json
import time

import click

from chatring._core import TokenCounter
from chatring.cli.options import (
    ENCODING,
    Measure,
    StartOn,
    conversation_option,
    counting_options,
    given_options,
    history_options,
    refuse_both,
    start_options,
)
from chatring.cli.progress import reading_bar
from chatring.cli.recorded import (
    choose,
    read_file,
    refuse_session,
    ring_of,
    tell_what_is_left_out,
)
from chatring.cli.refusal import Refusal, refusals
from chatring.cli.stored import StoredMessages, opened_session, refuse_skipping
from chatring.cli.table import new_console
from chatring.cli.window_report import WindowReport, show_search, show_windows
from chatring.limits import check_limits
from chatring.migration import is_url
from chatring.recordings.conversation import concatenate


@click.command()
@history_options
@click.option("--token-limit", type=int, required=True, metavar="N", help="The most tokens that the window may have.")
@click.option("--initial-token-count", type=int, default=0, metavar="N", help="Tokens already spent before the window.")
@conversation_option
@click.option("--concatenate", "as_one", is_flag=True, help="Make one history of all conversations.")
@click.option(
    "--retention-ratio",
    type=click.FloatRange(0, 1),
    metavar="R",
    help="When messages must go, keep this share of the limit.  [default: 1.0]",
)
@start_options
@counting_options(ENCODING)
def window(
    file: str,
    session: str | None,
    skip_invalid: bool,
    measure: Measure | None,
    format_name: str | None,
    token_limit: int,
    initial_token_count: int,
    chosen: int | None,
    as_one: bool,
    retention_ratio: float | None,
    start_on: StartOn | None,
    include_system: bool | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Print the last messages of FILE, or of a SESSION in the store at a URL, that fit a token limit.

    The window has the leading system messages, then the newest turns that fit. If not all of a turn fits, its question
    stays and its oldest steps go; no result loses its call. A file with several conversations gives one row for each,
    unless --conversation or --concatenate says otherwise.

    With --measure text the window begins with the first message, or with one whose role is neither assistant nor tool.
    If none of these fits, it is the last message alone.

    --json prints one object for each row. Its messages are unchanged from the file or session.
    """
    given = given_options(encoding, model, measure, start_on, format_name)
    with refusals():
        check_limits(token_limit, initial_token_count)
    refuse_both(chosen, as_one)
    if is_url(file):
        if chosen is not None or as_one:
            raise Refusal("--conversation and --concatenate are for files; a store has sessions")
        refuse_skipping(skip_invalid)
        with opened_session(file, session, given, must_fit=True) as (policy, store, key):
            report = WindowReport.read(
                store,
                key,
                StoredMessages(policy.message_format()),
                policy.new_ring(),
                token_limit=token_limit,
                initial_token_count=initial_token_count,
                include_system=policy.measure != "text" if include_system is None else include_system,
                retention_ratio=1.0 if retention_ratio is None else retention_ratio,
            )
        if as_json:
            click.echo(json.dumps(report.record()))
        else:
            report.show(console := new_console())
            show_search(console, [report])
        return
    refuse_session(session)
    counter, new = ring_of(given, include_system=include_system, retention_ratio=retention_ratio)
    with reading_bar(file) as progress:
        reading = read_file(file, new, progress, skip_invalid=skip_invalid)
        histories = [concatenate(reading.conversations, new)] if as_one else reading.conversations
        numbered = choose(histories, chosen)
        loading_seconds = _load(counter)
        with refusals():  # the head may be too long
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
    tell_what_is_left_out(reading)
    if as_json:
        for report in reports:
            click.echo(json.dumps(report.record()))
        return
    console = new_console()
    if len(reports) == 1:
        reports[0].show(console)
    else:
        show_windows(console, reports)
    show_search(console, reports, loading_seconds=loading_seconds)


def _load(counter: TokenCounter) -> float:
    """Load the counter's encoding, as its first use would. Return the seconds that took."""
    begin = time.perf_counter()
    counter.count("")
    return time.perf_counter() - begin
