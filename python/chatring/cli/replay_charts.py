"""The charts of the page of `chatring replay --html`."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import ceil

from chatring.cli.chart import HEIGHT, WIDTH, along, down, figure, legend, scale, split, ticks_to
from chatring.cli.replay_report import ReplayReport, name_of, percent, rounded
from chatring.cli.terminal import amount
from chatring.recordings.replay import KINDS, Call, Recording, Replay

# The ratios on the curve of the cost.
CURVE = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
# The most columns of bars and of calls: a wide screen shows no more.
_BARS = 150
_COLUMNS = 600
# Calls whose windows are drawn one below another.
_ROWS = 48
# Where the rows begin: the messages are above them, the head is left of them.
_TOP = 110
_LEFT = 150
_DASHES = ("", "18 6", "6 6", "18 6 4 6")
_COLOURS = ("assistant", "tool", "user", "system")
_KIND_NAMES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool results"}


def costs(report: ReplayReport) -> Iterable[str]:
    """Yield curves of the cost and of the tokens sent, against the retention ratio."""
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
            f"limit {limit:,}: sliding {rounded(of(sliding[limit]))}, "
            + ", ".join(f"ratio {r.policy.retention_ratio:g} {rounded(of(r))}" for r in by_limit[limit])
            for limit in limits
        )
        yield figure(title, f"{title}, {unit}. {described}.", shapes, ticks, x_ticks, unit, "retention ratio", 15)


def history(recordings: Sequence[Recording]) -> Iterable[str]:
    """Yield the history's messages as bars, by kind."""
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


def calls_at(limit: int, replays: Sequence[Replay], *, is_open: bool) -> Iterable[str]:
    """Yield the tokens and the window of each call at a limit, for each replay."""
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
    """Return what each call sends, for all calls."""
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
        f"{amount(len(calls), 'call')} send {rounded(replay.sent / len(calls))} tokens on average, "
        f"{percent(replay.cached_share)} cached; {amount(replay.cuts, 'cut')}."
    )
    return figure(
        name_of(replay.policy), described, shapes, ticks, along(len(calls), first=1), "tokens", "call", 7, say=described
    )


def _windows(replay: Replay, recording: Recording, calls: Sequence[Call], least: int) -> str:
    """Return the windows of some calls, one below another."""
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
        name_of(replay.policy),
        described,
        shapes + hits,
        (),
        ticks,
        "call before message",
        "tokens of the history",
        14,
        say=described,
        y_labels=rows,
    )


def _told(call: Call) -> str:
    """Return the text that a pointer on the window of a call shows."""
    _, question, start, end = call.request
    carried = "" if question is None else f", question {question:,}"
    return f"before message {end:,}: {call.sent:,} tokens, {call.cached:,} cached, from message {start:,} on{carried}"


def _pieces(call: Call) -> list[tuple[int, int]]:
    """Return the ranges of a request, with the head apart."""
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
