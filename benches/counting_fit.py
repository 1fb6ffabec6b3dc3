"""Fit the constants of `measure="message"` to what providers billed, and plot counted against billed.

    python -m benches.counting_fit recorded-requests.jsonl docs/counting.svg

Prints the tables of docs/counting.md. The constants themselves are in src/core/measure.rs.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import matplotlib as mpl
from chatring import TokenCounter, _core
from matplotlib import pyplot as plt

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "chatring"  # the same file for the same data

# Not fitted: documented by OpenAI, or what two plain messages cost beside their texts.
MESSAGE = {"openai-chat": 4, "openai-responses": 4, "anthropic": 4, "bedrock": 4, "gemini": 1}
# OpenAI's own models. Others bill its format by their own templates.
OWN_MODELS = ("gpt-4", "gpt-5", "o1", "o3", "o4")


@dataclass(frozen=True)
class Bill:
    """Messages that were added between two requests, and what they cost."""

    group: str
    billed: int
    counted: int  # with the library's constants
    texts: int
    messages: int
    calls: int
    parallel: int  # messages with several calls
    results: int
    media: int

    def estimate(self, message: int, pair: int, parallel: int) -> float:
        """Return what they count as if a call and its result cost `pair` together."""
        calls = pair * (self.calls + self.results) / 2
        return self.texts + message * self.messages + calls + parallel * self.parallel


def bills(path: Path) -> list[Bill]:
    count = TokenCounter("o200k_base").count
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        request = json.loads(line)
        if "added" not in request:
            continue
        readings = [_core._read(message) for message in request["messages"][-request["added"] :]]
        texts = sum(count(text) for reading in readings for text in reading[5])
        extras = [reading[4] for reading in readings]
        found.append(
            Bill(
                group_of(request),
                request["billed_for_added"],
                texts + sum(reading[6] for reading in readings),
                texts,
                len(readings),
                sum(calls for _, calls, *_ in extras),
                sum(calls > 1 for _, calls, *_ in extras),
                sum(results for _, _, results, *_ in extras),
                sum(sum(media) for _, _, _, *media in extras),
            )
        )
    return found


def group_of(request: dict[str, Any]) -> str:
    group: str = request["format"]
    is_own = request["model"].rpartition("/")[2].startswith(OWN_MODELS)
    return "other models on openai-chat" if group == "openai-chat" and not is_own else group


def error(estimate: float, bill: Bill) -> float:
    return abs(estimate - bill.billed) / bill.billed


def fit(some: list[Bill], message: int) -> tuple[int, int]:
    """Return what a call with its result, and a message with several calls, cost: the least mean relative error."""
    parallels = range(60) if any(bill.parallel for bill in some) else range(1)
    return min(
        ((pair, parallel) for pair in range(90) for parallel in parallels),
        key=lambda constants: sum(error(bill.estimate(message, *constants), bill) for bill in some),
    )


def leave_one_out(some: list[Bill], message: int) -> list[float]:
    return [error(bill.estimate(message, *fit(some[:i] + some[i + 1 :], message)), bill) for i, bill in enumerate(some)]


def percent(errors: Iterable[float]) -> str:
    errors = sorted(errors)
    return f"{median(errors):.1%} | {quantiles(errors, n=10, method='inclusive')[-1]:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("plot", type=Path)
    arguments = parser.parse_args()
    found = bills(arguments.records)

    print("| | bills | call + result | parallel | left out: median | 90th percentile |\n|---|---:|---:|---:|---:|---:|")
    for group, message in MESSAGE.items():
        some = [bill for bill in found if bill.group == group and not bill.media]
        pair, parallel = fit(some, message)
        print(f"| {group} | {len(some)} | {pair} | {parallel} | {percent(leave_one_out(some, message))} |")

    print("\n| | bills | counted / billed | error: median | 90th percentile |\n|---|---:|---:|---:|---:|")
    groups = dict.fromkeys(bill.group for bill in sorted(found, key=lambda bill: bill.group))
    for group in groups:
        some = [bill for bill in found if bill.group == group]
        ratio = median(bill.counted / bill.billed for bill in some)
        print(f"| {group} | {len(some)} | {ratio:.2f} | {percent(error(bill.counted, bill) for bill in some)} |")

    _, axes = plt.subplots(figsize=(6.4, 5.4), layout="constrained")
    ends = (5, 2_500)
    axes.plot(ends, ends, color="0.7", linewidth=1)
    axes.fill_between(ends, [0.85 * end for end in ends], [1.15 * end for end in ends], color="0.93")
    for group, marker in zip(groups, "osD^vx", strict=True):
        some = [bill for bill in found if bill.group == group]
        axes.plot([b.billed for b in some], [b.counted for b in some], marker, label=group, alpha=0.7, markersize=5)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set(xlabel="billed for the added messages, tokens", ylabel='counted by measure="message", tokens')
    axes.set_title("Counted against billed; grey: within 15 %", fontsize=10)
    axes.legend(fontsize=8)
    plt.savefig(arguments.plot, metadata={"Date": None})


if __name__ == "__main__":
    main()
