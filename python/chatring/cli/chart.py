"""Charts for a page without scripts: SVG that is stretched to the width of the page, with labels in HTML.

So texts have the same size on a wide screen and on a phone.
"""

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, log10
from typing import TypeVar

from chatring.recordings.replay import KINDS

_T = TypeVar("_T")

# A chart's own coordinates: whole numbers, to keep the page small.
WIDTH = 3000
HEIGHT = 1000

STYLE = (
    """
:root{color-scheme:light dark;--back:#fff;--panel:#f5f6f8;--text:#1c2128;--soft:#545d68;--line:#d5dae0;--grid:#e4e7eb;
--system:#7c4ddb;--user:#1a7f37;--assistant:#0b66cf;--tool:#b34700;--full:#8f1a12;--cached:#8793a1;--limit:#1c2128}
@media (prefers-color-scheme:dark){:root{--back:#14171c;--panel:#1c2027;--text:#e6e9ee;--soft:#a9b3bf;--line:#3a424d;
--grid:#2a3038;--system:#b896ff;--user:#4cc36d;--assistant:#69aeff;--tool:#f29150;--full:#ffa79e;--cached:#5f6b78;
--limit:#e6e9ee}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem}
h3{font-size:1rem;margin:1.75rem 0 .25rem}
p,ul{margin:.5rem 0}
.soft,figcaption{color:var(--soft);font-size:.9rem}
figure{margin:1rem 0 1.75rem}
figcaption{margin:0 0 .5rem}
figcaption b{color:var(--text)}
.unit{color:var(--soft);font-size:.8rem}
.plot{position:relative;margin:.25rem 0 1.5rem 3.5rem;border:solid var(--line);
border-width:0 0 1px 1px}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.plot span{position:absolute;font-size:.75rem;line-height:1;color:var(--soft);white-space:nowrap}
.y{right:calc(100% + .4rem);transform:translateY(50%)}
.x{top:calc(100% + .4rem);transform:translateX(-50%)}
.x.last{transform:translateX(-100%)}.x.first{transform:none}
.under{text-align:right;margin-top:-.25rem}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;padding:0;font-size:.875rem}
.legend svg{width:1.6rem;height:.8rem;margin-right:.4rem;vertical-align:baseline}
.scroll{overflow-x:auto}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--assistant);outline-offset:2px}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600}
th[scope=row],thead th:first-child{text-align:left;padding-left:0}
tbody th[colspan]{text-align:left;padding:1rem 0 .3rem;border-bottom-color:var(--soft)}
.bad{color:var(--full);font-weight:600}
details{border-top:1px solid var(--line);padding:.25rem 0}
summary{cursor:pointer;padding:.6rem 0;font-weight:600;font-size:1.05rem}
"""
    + "".join(
        f".{name}{{fill:var(--{name})}}.line-{name}{{fill:none;stroke:var(--{name});stroke-width:2;"
        "vector-effect:non-scaling-stroke}"
        for name in (*KINDS, "full", "cached", "limit")
    )
    + ".grid{stroke:var(--grid);stroke-width:1;vector-effect:non-scaling-stroke}"
    ".thin{stroke-width:1;stroke-dasharray:4 4}.hit{fill:transparent}"
)


def figure(
    title: str,
    described: str,
    shapes: Iterable[str],
    y_ticks: Sequence[int],
    x_ticks: Iterable[tuple[str, float]],
    y_unit: str,
    x_unit: str,
    rem: int,
    *,
    say: str = "",
    y_labels: Iterable[tuple[str, float]] = (),
) -> str:
    """Return a chart with its labels. `described` is for readers who cannot see it, `say` for everybody."""
    lines = "".join(f'<path class="grid" d="M0 {down(tick, y_ticks[-1])}H{WIDTH}"/>' for tick in y_ticks if tick > 0)
    labels = [*y_labels, *((f"{tick:,}", tick / y_ticks[-1]) for tick in y_ticks)]
    ys = "".join(f'<span class="y" style="bottom:{100 * share:.1f}%">{text}</span>' for text, share in labels)
    xs = "".join(
        f'<span class="x{" first" * (share < 0.03)}{" last" * (share > 0.97)}" style="left:{100 * share:.1f}%">'
        f"{text}</span>"
        for text, share in x_ticks
    )
    return (
        f"<figure><figcaption><b>{escape(title)}</b>{': ' + escape(say) if say else ''}</figcaption>"
        f'<div class="unit" aria-hidden="true">{escape(y_unit)}</div>'
        f'<div class="plot" style="height:{rem}rem"><svg role="img" aria-label="{escape(f"{title}. {described}")}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">{lines}{"".join(shapes)}</svg>'
        f'<div aria-hidden="true">{ys}{xs}</div></div>'
        f'<div class="unit under" aria-hidden="true">{escape(x_unit)}</div></figure>'
    )


def legend(*entries: Sequence[str]) -> Iterable[str]:
    """Yield a list of samples: each a class, a text, and maybe dashes. A line's class begins with `line-`."""
    yield '<ul class="legend">'
    for style, text, *dashes in entries:
        if style.startswith("line-") or style.endswith(" thin"):
            names = style if style.startswith("line-") else f"line-{style}"
            dash = f' stroke-dasharray="{dashes[0]}"' if dashes and dashes[0] else ""
            sample = f'<path class="{names}"{dash} d="M0 5H20"/>'
        else:
            sample = f'<rect class="{style}" width="20" height="10"/>'
        drawn = f'<svg viewBox="0 0 20 10" preserveAspectRatio="none" aria-hidden="true">{sample}</svg>'
        yield f"<li>{drawn}{escape(text)}</li>"
    yield "</ul>"


def split(values: Sequence[_T], most: int) -> list[Sequence[_T]]:
    """Return the values in at most `most` groups of the same size."""
    size = ceil(len(values) / most)
    return [values[start : start + size] for start in range(0, len(values), size)]


def along(number: int, *, first: int) -> list[tuple[str, float]]:
    """Return ticks for things that are numbered from `first`."""
    step = ticks_to(number)[1]
    return [(str(first), 0.0), *((f"{n:,}", n / number) for n in range(step, number + 1, step) if n > first)]


def ticks_to(highest: float) -> list[int]:
    """Return round numbers from 0 to one that is at least `highest`."""
    rough = max(highest, 1) / 4
    power = 10 ** floor(log10(rough))
    step = max(1, round(next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough) * power))
    return list(range(0, ceil(highest / step) * step + 1, step)) if highest > 0 else [0, 1]


def scale(value: float, span: float, length: int) -> int:
    """Return a value's share of a span, as a part of a length."""
    return round(length * value / span)


def down(value: float, highest: float) -> int:
    """Return how far a value is below a chart's top."""
    return HEIGHT - scale(value, highest, HEIGHT)
