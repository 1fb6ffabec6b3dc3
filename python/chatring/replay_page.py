"""The page of `chatring replay --html`: one file, without scripts, parts from elsewhere, or texts of messages."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from math import ceil

from chatring.chart import HEIGHT, STYLE, WIDTH, along, down, figure, legend, scale, split, ticks_to
from chatring.replay import KINDS, Call, Recording, Replay
from chatring.replay_report import ReplayReport, name_of, percent
from chatring.terminal import amount, one_line

# The ratios that cost is drawn for.
CURVE = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
# Columns of bars and of calls at most: a wide screen shows no more.
_BARS = 150
_COLUMNS = 600
# Calls whose windows are drawn one below the other.
_ROWS = 48
# Where the rows begin: above them are the messages, left of them is the head.
_TOP = 110
_LEFT = 150
_DASHES = ("", "18 6", "6 6", "18 6 4 6")
_COLOURS = ("assistant", "tool", "user", "system")
_KIND_NAMES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool results"}


def page(report: ReplayReport) -> str:
    """Return the page as HTML."""
    name = escape(one_line(report.name))
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Nothing is loaded, whatever a file's name says.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>chatring replay: {name}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>What each model call would have been sent: {name}</h1>",
            f'<p class="soft">{escape(report.summary())}. Windows are chosen with <code>start_on='
            f"{escape(repr(report.start_on))}</code>, <code>include_system={report.include_system}</code>.</p>",
            *_answer(report),
            *_table(report),
            *_costs(report),
            *_history(report.recordings),
            "<h2>Call by call</h2>",
            *legend(("cached", "cached"), ("full", "at the full price"), ("limit thin", "the limit")),
            *(
                line
                for index, limit in enumerate(report.limits())
                for line in _limit(limit, report.at_limit(limit), is_open=index == 0)
            ),
            "</main>",
            "</body>",
            "</html>",
            "",
        )
    )


def _answer(report: ReplayReport) -> Iterable[str]:
    yield "<h2>In short</h2>"
    yield "<ul>"
    for limit in report.limits():
        sliding, *others = report.at_limit(limit)
        said = f"plain sliding costs {_number(sliding.cost / report.calls)} tokens a call"
        if sliding.invalid:
            reasons = "; ".join(f"{reason}: {_number(n)}" for reason, n in sliding.invalid.most_common())
            invalid = _number(sum(sliding.invalid.values()))
            said += f"; {invalid} of its {amount(report.calls, 'request')} are invalid ({escape(reasons)})"
        if others:
            best = min(others, key=lambda replay: replay.cost)
            said += (
                f". Of the ratios asked for, {best.policy.retention_ratio:g} is the cheapest: "
                f"<b>{percent(report.share_of_sliding(best))}</b> of that, "
                f"with {_number(best.sent / report.calls)} tokens sent a call, and {amount(best.cuts, 'cut')}"
            )
        yield f"<li><b>Limit {limit:,}</b>: {said}.</li>"
    yield "</ul>"
    yield (
        '<p class="soft">Cost is in input tokens at the full price: '
        f"{escape(report.prices())}. A lower ratio mostly costs less, as it sends less of the history: the model "
        "sees less. Choose the smallest limit that your agent works well with, then the ratio where the curve of the "
        "cost gets flat.</p>"
    )


def _table(report: ReplayReport) -> Iterable[str]:
    heads = (
        "window",
        "tokens sent",
        "a call",
        "cached",
        "cost",
        "of sliding",
        "cuts",
        "invalid",
        "no question",
        "no prompt",
    )
    yield "<h2>The figures</h2>"
    yield (
        f'<p class="soft">{amount(report.calls, "call")}. Cuts: calls whose messages behind the system messages begin '
        "elsewhere than those of the call before. Invalid: some provider would refuse the request (a first "
        "message that is not a user's is refused by Bedrock and Gemini, and not by OpenAI). No question, no prompt: "
        "requests without the newest user message, or without the system messages.</p>"
    )
    yield '<div class="scroll" role="region" aria-label="The figures" tabindex="0"><table>'
    yield "<thead><tr>" + "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead>"
    for limit in report.limits():
        yield f'<tbody><tr><th scope="rowgroup" colspan="{len(heads)}">limit {limit:,}</th></tr>'
        for replay in report.at_limit(limit):
            faults = (sum(replay.invalid.values()), replay.lost_question, replay.lost_prompt)
            plain = (
                _number(replay.sent),
                _number(replay.sent / report.calls),
                percent(replay.cached_share),
                _number(replay.cost),
                percent(report.share_of_sliding(replay)),
                _number(replay.cuts),
            )
            yield (
                f'<tr><th scope="row">{name_of(replay.policy)}</th>'
                + "".join(f"<td>{cell}</td>" for cell in plain)
                + "".join(f'<td class="bad">{_number(n)}</td>' if n else "<td>0</td>" for n in faults)
                + "</tr>"
            )
        yield "</tbody>"
    yield "</table></div>"


def _costs(report: ReplayReport) -> Iterable[str]:
    limits = report.limits()
    by_limit = {
        limit: sorted(
            (r for r in report.curve if r.policy.token_limit == limit and r.policy.retention_ratio is not None),
            key=lambda replay: replay.policy.retention_ratio or 0,
        )
        for limit in limits
    }
    sliding = {limit: report.at_limit(limit)[0] for limit in limits}
    yield "<h2>Which ratio?</h2>"
    yield from legend(
        *((f"line-{_COLOURS[i % 4]}", f"limit {limit:,}", _DASHES[i // 4 % 4]) for i, limit in enumerate(limits)),
        ("line-limit thin", "plain sliding window with the same limit"),
    )
    least = min(r.policy.retention_ratio or 0.0 for replays in by_limit.values() for r in replays)
    span = max(1 - least, 0.01)
    shown = [r for r in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if r >= least]
    x_ticks = [(f"{ratio:g}", (ratio - least) / span) for ratio in shown]
    for title, unit, of in (
        ("Cost against ratio", "tokens at the full price, a call", _cost_a_call),
        ("What the model still sees against ratio", "tokens sent, a call", _sent_a_call),
    ):
        values = [of(replay) for replays in by_limit.values() for replay in replays]
        values += map(of, sliding.values())
        ticks = ticks_to(max(values))
        shapes = []
        for i, limit in enumerate(limits):
            colour, dash = _COLOURS[i % 4], _DASHES[i // 4 % 4]
            points = [
                (scale((r.policy.retention_ratio or 0.0) - least, span, WIDTH), down(of(r), ticks[-1]))
                for r in by_limit[limit]
            ]
            level = down(of(sliding[limit]), ticks[-1])
            path = "M" + "L".join(f"{x} {y}" for x, y in points)
            shapes.append(f'<path class="line-{colour} thin" d="M0 {level}H{WIDTH}"/>')
            shapes.append(f'<path class="line-{colour}" stroke-dasharray="{dash}" d="{path}"/>')
            # Dots that stay round: lines without length.
            dots = "".join(f"M{x} {y}h0" for x, y in points)
            shapes.append(f'<path class="line-{colour}" style="stroke-width:7;stroke-linecap:round" d="{dots}"/>')
        described = "; ".join(
            f"limit {limit:,}: sliding {_number(of(sliding[limit]))}, "
            + ", ".join(f"ratio {r.policy.retention_ratio:g} {_number(of(r))}" for r in by_limit[limit])
            for limit in limits
        )
        yield figure(title, f"{title}, {unit}. {described}.", shapes, ticks, x_ticks, unit, "retention ratio", 15)


def _history(recordings: Sequence[Recording]) -> Iterable[str]:
    messages = [pair for recording in recordings for pair in zip(recording.kinds, recording.tokens, strict=True)]
    bars = split(messages, _BARS)
    stacks = [{kind: sum(tokens for other, tokens in bar if other == kind) for kind in KINDS} for bar in bars]
    ticks = ticks_to(max(sum(stack.values()) for stack in stacks))
    width = WIDTH / len(bars)
    paths = dict.fromkeys(KINDS, "")
    for index, stack in enumerate(stacks):
        left, right = round(index * width), round((index + 0.85) * width)
        below = 0
        for kind, tokens in stack.items():
            if tokens:
                bottom, top = down(below, ticks[-1]), down(below + tokens, ticks[-1])
                paths[kind] += f"M{left} {bottom}H{right}V{top}H{left}z"
                below += tokens
    totals = {kind: sum(tokens for other, tokens in messages if other == kind) for kind in KINDS}
    whole = max(sum(totals.values()), 1)
    shares = [(kind, f"{_KIND_NAMES[kind]} {percent(totals[kind] / whole)}") for kind in KINDS if totals[kind]]
    each = ceil(len(messages) / len(bars))
    unit = "tokens" if each == 1 else f"tokens of {each} messages"
    described = "The history's tokens by kind: " + ", ".join(text for _, text in shares) + "."
    yield "<h2>The history</h2>"
    yield from legend(*shares)
    shapes = [f'<path class="{kind}" d="{path}"/>' for kind, path in paths.items() if path]
    x_ticks = along(len(messages), first=0)
    yield figure("Messages by kind and tokens", described, shapes, ticks, x_ticks, unit, "message", 13)


def _limit(limit: int, replays: Sequence[Replay], *, is_open: bool) -> Iterable[str]:
    yield f"<details{' open' if is_open else ''}><summary>At a limit of {amount(limit, 'token')}</summary>"
    highest = max(call.sent for replay in replays for calls in replay.calls for call in calls)
    ticks = ticks_to(max(limit, highest))
    yield "<h3>Tokens of each call</h3>"
    yield '<p class="soft">Where a cut is, what is behind it is sent at the full price once more.</p>'
    for replay in replays:
        yield _calls(replay, ticks)
    yield "<h3>The window of each call</h3>"
    recording = max(range(len(replays[0].calls)), key=lambda i: len(replays[0].calls[i]))
    rows = min(_ROWS, len(replays[0].calls[recording]))
    which = f" of conversation {recording + 1}, the longest" if len(replays[0].calls) > 1 else ""
    are_all = rows == len(replays[0].calls[recording])
    yield (
        f'<p class="soft">{"All" if are_all else f"The last {rows}"} calls{which}, one below the other, over the '
        "history's tokens. On top are the messages, by kind. The block at the left edge is the head, a short one "
        "before a window its question. A window whose left edge goes straight down keeps its beginning, and the cache "
        "knows it; each step in the edge is a cut.</p>"
    )
    yield from legend(
        *((kind, _KIND_NAMES[kind]) for kind in KINDS), ("cached", "cached"), ("full", "at the full price")
    )
    least = min(_left(call) for replay in replays for call in replay.calls[recording][-rows:])
    for replay in replays:
        yield _windows(replay, replay.recordings[recording], replay.calls[recording][-rows:], least)
    yield "</details>"


def _calls(replay: Replay, ticks: Sequence[int]) -> str:
    """Return what each call sends, over all calls."""
    calls = [call for calls in replay.calls for call in calls]
    columns = split(calls, _COLUMNS)
    width = WIDTH / len(columns)
    shapes = []
    for name, heights in (
        ("full", [sum(call.sent for call in column) / len(column) for column in columns]),
        ("cached", [sum(call.cached for call in column) / len(column) for column in columns]),
    ):
        path, x = f"M0 {HEIGHT}", 0
        for level, same in groupby(down(height, ticks[-1]) for height in heights):
            x += len(list(same))
            path += f"V{level}H{round(x * width)}"
        shapes.append(f'<path class="{name}" d="{path}V{HEIGHT}z"/>')
    level = down(replay.policy.token_limit, ticks[-1])
    shapes.append(f'<path class="line-limit thin" d="M0 {level}H{WIDTH}"/>')
    described = (
        f"{amount(len(calls), 'call')} send {_number(replay.sent / len(calls))} tokens on average, "
        f"{percent(replay.cached_share)} cached; {amount(replay.cuts, 'cut')}."
    )
    return figure(
        name_of(replay.policy), described, shapes, ticks, along(len(calls), first=1), "tokens", "call", 7, say=described
    )


def _windows(replay: Replay, recording: Recording, calls: Sequence[Call], least: int) -> str:
    """Return the windows of some calls, one below the other."""
    sums = recording.sums
    origin, span = sums[least], max(sums[calls[-1].request.end] - sums[least], 1)

    def across(position: int) -> int:
        return _LEFT + scale(sums[position] - origin, span, WIDTH - _LEFT)

    strip = dict.fromkeys(KINDS, "")
    for position in range(least, calls[-1].request.end):
        strip[recording.kinds[position]] += f"M{across(position)} 0H{across(position + 1)}V70H{across(position)}z"
    shapes = [f'<path class="{kind}" d="{path}"/>' for kind, path in strip.items() if path]
    height = (HEIGHT - _TOP) / len(calls)
    paths = {"cached": "", "full": ""}
    hits = []
    for row, call in enumerate(calls):
        top, bottom = round(_TOP + row * height), round(_TOP + (row + 0.8) * height)
        cached = call.cached - (call.sent - recording.tokens_of(call.request))  # what is sent before them is first
        for start, end in _pieces(call):
            known = min(max(cached, 0), sums[end] - sums[start])
            cached -= known
            if end <= call.request.head:
                left, right, middle = 0, _LEFT - 40, (_LEFT - 40 if known else 0)
            else:
                left, right = across(start), across(end)
                middle = left + round((right - left) * known / max(sums[end] - sums[start], 1))
            if middle > left:
                paths["cached"] += f"M{left} {top}H{middle}V{bottom}H{left}z"
            if right > middle:
                paths["full"] += f"M{middle} {top}H{right}V{bottom}H{middle}z"
        place = f'x="0" y="{top}" width="{WIDTH}" height="{ceil(height)}"'
        hits.append(f'<rect class="hit" {place}><title>{_told(call)}</title></rect>')
    shapes += [f'<path class="{name}" d="{path}"/>' for name, path in paths.items() if path]
    cuts = sum(call.is_cut for call in calls)
    described = f"{amount(cuts, 'cut')} in {amount(len(calls), 'call')}."
    ticks = [("0", _LEFT / WIDTH), (f"{span:,}", 1.0)]
    rows = [
        (f"{call.request.end:,}", 1 - (_TOP + (row + 0.4) * height) / HEIGHT)
        for row, call in enumerate(calls)
        if row in (0, len(calls) // 2, len(calls) - 1)
    ]
    return figure(
        *(
            name_of(replay.policy),
            described,
            shapes + hits,
            (),
            ticks,
            "call before message",
            "tokens of the history",
            14,
        ),
        say=described,
        y_labels=rows,
    )


def _told(call: Call) -> str:
    """Return what a pointer on the window of a call shows."""
    _, question, start, end = call.request
    carried = "" if question is None else f", question {question:,}"
    return f"before message {end:,}: {call.sent:,} tokens, {call.cached:,} cached, from message {start:,} on{carried}"


def _pieces(call: Call) -> list[tuple[int, int]]:
    """Return the ranges of a request with the head apart."""
    head = call.request.head
    return [
        *([(0, head)] if head else []),
        *((max(start, head), end) for start, end in call.request.ranges() if end > head),
    ]


def _left(call: Call) -> int:
    """Return the position of the first message behind the head."""
    request = call.request
    return request.start if request.question is None else request.question


def _cost_a_call(replay: Replay) -> float:
    return replay.cost / replay.number_of_calls


def _sent_a_call(replay: Replay) -> float:
    return replay.sent / replay.number_of_calls


def _number(value: float) -> str:
    return f"{value:,.0f}"
