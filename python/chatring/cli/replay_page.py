"""The page of `chatring replay --html`: one file without scripts, parts from elsewhere, or texts of messages."""

from collections.abc import Iterable
from html import escape

from chatring.cli.chart import STYLE, legend
from chatring.cli.replay_charts import calls_at, costs, history
from chatring.cli.replay_report import ReplayReport, name_of, percent, rounded
from chatring.cli.terminal import amount, one_line


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
            *costs(report),
            *history(report.recordings),
            "<h2>Call by call</h2>",
            *legend(("cached", "cached"), ("full", "at the full price"), ("limit thin", "the limit")),
            *(
                line
                for index, limit in enumerate(report.limits())
                for line in calls_at(limit, report.at_limit(limit), is_open=index == 0)
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
        said = f"plain sliding costs {rounded(sliding.cost / report.calls)} tokens a call"
        if sliding.invalid:
            reasons = "; ".join(f"{reason}: {rounded(n)}" for reason, n in sliding.invalid.most_common())
            invalid = rounded(sum(sliding.invalid.values()))
            said += f"; {invalid} of its {amount(report.calls, 'request')} are invalid ({escape(reasons)})"
        if others:
            best = min(others, key=lambda replay: replay.cost)
            said += (
                f". Of the ratios asked for, {best.policy.retention_ratio:g} is the cheapest: "
                f"<b>{percent(report.share_of_sliding(best))}</b> of that, "
                f"with {rounded(best.sent / report.calls)} tokens sent a call, and {amount(best.cuts, 'cut')}"
            )
        yield f"<li><b>Limit {limit:,}</b>: {said}.</li>"
    yield "</ul>"
    yield (
        '<p class="soft">Cost is in input tokens at the full price: '
        f"{escape(report.prices())}. A lower ratio mostly costs less, because it sends less of the history: the "
        "model sees less. Choose the smallest limit that your agent works well with, then the ratio where the curve of "
        "the cost gets flat.</p>"
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
                rounded(replay.sent),
                rounded(replay.sent / report.calls),
                percent(replay.cached_share),
                rounded(replay.cost),
                percent(report.share_of_sliding(replay)),
                rounded(replay.cuts),
            )
            yield (
                f'<tr><th scope="row">{name_of(replay.policy)}</th>'
                + "".join(f"<td>{cell}</td>" for cell in plain)
                + "".join(f'<td class="bad">{rounded(n)}</td>' if n else "<td>0</td>" for n in faults)
                + "</tr>"
            )
        yield "</tbody>"
    yield "</table></div>"
