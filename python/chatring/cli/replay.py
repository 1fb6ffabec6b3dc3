"""`chatring replay`: what each model call of a recorded conversation would have been sent, and its cost."""

import json
import math
import os

import click

from chatring.cli.options import (
    ENCODING,
    StartOn,
    conversation_option,
    counting_options,
    given_options,
    refuse_both,
    start_options,
)
from chatring.cli.progress import reading_bar
from chatring.cli.recorded import choose, read_file, ring_of, tell_what_is_left_out
from chatring.cli.refusal import Refusal, refusals
from chatring.cli.replay_charts import CURVE
from chatring.cli.replay_page import page
from chatring.cli.replay_report import ReplayReport
from chatring.cli.table import new_console
from chatring.limits import check_limits
from chatring.migration import is_url
from chatring.recordings.conversation import concatenate
from chatring.recordings.replay import Policy, Pricing, Recording, replay

# The retention ratios of a replay, unless others are given.
_RATIOS = (1.0, 0.7, 0.5)


@click.command("replay")
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@click.option("--skip-invalid", is_flag=True, help="Skip damaged lines, and say how many there were.")
@click.option(
    "--token-limit",
    "token_limits",
    type=int,
    required=True,
    multiple=True,
    metavar="N",
    help="The most tokens that a call may have. May be given several times.",
)
@click.option(
    "--retention-ratio",
    "ratios",
    type=click.FloatRange(0, 1),
    multiple=True,
    metavar="R",
    help="When messages must go, keep this share of the limit. May be given several times.  "
    "[default: 1.0, 0.7 and 0.5]",
)
@click.option(
    "--initial-token-count",
    type=int,
    default=0,
    metavar="N",
    help="Tokens sent before the messages, such as those of tools.",
)
@click.option(
    "--cached-price",
    type=click.FloatRange(0),
    default=0.1,
    show_default=True,
    metavar="P",
    help="The price of a cached token; the full price is 1.",
)
@click.option(
    "--write-price",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="P",
    help="The price of a token that is not cached: more than 1 where writing to the cache costs extra.",
)
@click.option(
    "--cache-minimum",
    type=click.IntRange(0),
    default=1024,
    show_default=True,
    metavar="N",
    help="The smallest beginning that is cached, in tokens.",
)
@conversation_option
@click.option(
    "--concatenate",
    "as_one",
    is_flag=True,
    help="Make one history of all conversations, with the first one's system messages only once.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, writable=True),
    metavar="OUT",
    help="Write a page with charts to this file.",
)
@start_options
@counting_options(ENCODING)
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
    start_on: StartOn | None,
    include_system: bool | None,
    encoding: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Show what each model call of a recorded conversation would have been sent, and what its input would have cost.

    Each response of the assistant is a call. Messages that follow one with calls or reasoning belong to the same
    response. A greeting before the first user message is not a call.

    For each limit there is one row for a plain sliding window, and one for each ratio. The sliding window has the
    leading system messages, unless --no-include-system, and the newest messages that fit, wherever they begin. The
    beginning that a call shares with the call before is cached, in whole messages and blocks of 128 tokens; every
    conversation begins with an empty cache. The cost is in tokens at the full price. A cut is a call whose messages
    behind the system messages begin elsewhere than in the call before.

    A request is invalid if one of the providers would refuse it: a result without its call, a call without its result,
    or a first message that is not a user's, unless the conversation itself begins like that. A request has lost the
    question if the newest user message is not in it.

    --json prints one object for each row, with the messages of each call by index. The page of --html has no texts of
    the conversation.
    """
    if is_url(file):
        raise Refusal("chatring replay is for files; a store's sessions can be written to one")
    refuse_both(chosen, as_one)
    _, new = ring_of(given_options(encoding, model, None, start_on, None), include_system=include_system)
    if not (math.isfinite(cached_price) and math.isfinite(write_price)):
        raise Refusal("a price must be a finite number")
    with refusals():
        for token_limit in token_limits:
            check_limits(token_limit, initial_token_count)
    with reading_bar(file) as progress, refusals():
        reading = read_file(file, new, progress, skip_invalid=skip_invalid)
        conversations = reading.conversations
        if as_one:
            conversations = [concatenate(conversations, new, repeat_prompt=False)]
        numbered = choose(conversations, chosen)
        recordings = [Recording(ring) for _, ring in progress.track(numbered, description="counting")]
        calls = sum(len(recording.calls) for recording in recordings)
        if not calls:
            raise Refusal("no model call in it: no assistant's message follows a message that is not the system's")
        # In the order given, each once. The curve is for the page.
        asked = list(dict.fromkeys(Policy(n, ratio) for n in token_limits for ratio in (None, *(ratios or _RATIOS))))
        curve = [Policy(n, ratio) for n in token_limits for ratio in CURVE] if html_file else []
        task = progress.add_task("replaying", total=calls)
        pricing = Pricing(cached_price, write_price, cache_minimum)
        replays = replay(
            recordings,
            new,
            [*asked, *(policy for policy in curve if policy not in asked)],
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
    tell_what_is_left_out(reading)
    if as_json:
        for record in report.records():
            click.echo(json.dumps(record))
    else:
        report.show(new_console())
