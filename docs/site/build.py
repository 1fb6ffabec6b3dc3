"""Builds the site into target/site: `make docs`.

Its pages are the Markdown files beside README.md and those in docs/, as they are, and a reference, made from the stub
and the docstrings without importing anything. New pages and packages appear by themselves. A link from one page to
another stays one; a link to any other file leads to that file at the repository's address.
"""

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = Path(__file__).parent
TARGET = ROOT / "target"
PAGES = TARGET / "site-source"

# Where pages are in the menu. One of docs/ that is not named here is a door: the page of a framework or an SDK.
GUIDES = [f"docs/{name}.md" for name in ("windows", "usage", "stores", "sdks", "counting", "tokenizers", "replay")]
BENCHMARKS = ["docs/benchmarks/README.md", "docs/performance.md"]
PROJECT = ["CONTRIBUTING.md", "docs/design.md", "docs/versioning.md", "SECURITY.md", "THIRD_PARTY.md"]

NOT_FOR_USERS = {"chatring.cli", "chatring.migration"}  # the command is

REPLAY = "replay examples/support-conversation.jsonl --token-limit 3000 --token-limit 6000 --html"
REPLAY_PAGE = "replay-example.html"
REPLAY_MARK = "<!-- the site has a link here, to the page that the command above writes -->"


@functools.cache
def repository() -> str:
    """Return the repository's address."""
    found = re.search(r'^Repository = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit("pyproject.toml: needs a Repository in [project.urls]")
    return found[1]


@functools.cache
def pages() -> dict[str, str]:
    """Return the Markdown files that become pages, each with its page."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return {source: page_of(source) for source in sorted(path.relative_to(ROOT).as_posix() for path in found)}


def page_of(source: str) -> str:
    """Return the page that a Markdown file becomes."""
    name = source.removeprefix("docs/") if source.startswith("docs/") else source.lower()
    return re.sub(r"readme\.md$", "index.md", name, flags=re.IGNORECASE)


def title_of(source: str) -> str:
    """Return a page's name in the menu: what its title begins with."""
    found = re.search(r"^# (.*)$", (ROOT / source).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{source}: needs a title")
    title = re.sub(r"^chatring (in|with|and|for) (the )?| on chatring$", "", found[1].replace("`", ""))
    return title.partition(":")[0]


def address_of(path: str, source: str) -> str:
    """Return how the page of a Markdown file links to a file of the repository."""
    here = os.path.dirname(pages()[source]) or "."
    if path in pages():
        return os.path.relpath(pages()[path], here)
    if path.startswith("docs/"):  # a picture: they are copied
        return os.path.relpath(path.removeprefix("docs/"), here)
    return f"{repository()}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"


# A link: its text if that is a file's name, its target and anchor. Or a page that is named without a link.
LINK = re.compile(r"(?:\[`?([\w/.-]+\.md)`?)?\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*|)\)")
NAMED = re.compile(r"(?<!\[)`(docs/[\w/.-]+\.md)`")


def with_links(text: str, source: str) -> str:
    """Return the text of a Markdown file with its links as the site has them. A page goes by its name there.

    Raises:
        SystemExit: for a link to a file that does not exist.
    """

    def link(found: re.Match[str]) -> str:
        file, target, anchor = found.groups()
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if not (ROOT / path).exists():
            raise SystemExit(f"{source}: {target} does not exist")
        text = "" if file is None else f"[{title_of(path)}" if path in pages() else f"[{file}"
        return f"{text}]({address_of(path, source)}{anchor})"

    def named(found: re.Match[str]) -> str:
        known = found[1] in pages()
        return f"[{title_of(found[1])}]({address_of(found[1], source)})" if known else found[0]

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [NAMED.sub(named, LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def packages() -> dict[str, list[str]]:
    """Return the packages that are for users, each with the names that it exports."""
    found = {}
    for path in sorted((ROOT / "python" / "chatring").rglob("__init__.py")):
        package = path.parent.relative_to(ROOT / "python").as_posix().replace("/", ".")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found[package] = ast.literal_eval(node.value)
    # Errors come last, whatever the order else.
    shown = {package: sorted(names, key=lambda name: name.endswith("Error")) for package, names in found.items()}
    return {package: names for package, names in shown.items() if package not in NOT_FOR_USERS}


def write_pages() -> None:
    """Write what the site is made of."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.md", "*.json", SETTINGS.name))
    for source, page in pages().items():
        (PAGES / page).parent.mkdir(exist_ok=True)
        text = with_links((ROOT / source).read_text(encoding="utf-8"), source)
        (PAGES / page).write_text(text, encoding="utf-8")
    (PAGES / "reference").mkdir()
    for package, names in packages().items():
        text = f"# {package}\n\n::: {package}\n    options:\n      members: {json.dumps(names)}\n"
        (PAGES / "reference" / f"{package}.md").write_text(text, encoding="utf-8")
    shutil.copy(SETTINGS / "extra.css", PAGES)


def write_replay() -> None:
    """Make the page of a replay, and have the guide link to it."""
    command = [sys.executable, "-m", "chatring", *REPLAY.split(), str(PAGES / REPLAY_PAGE)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    guide = PAGES / "replay.md"
    text = guide.read_text(encoding="utf-8")
    if text.count(REPLAY_MARK) != 1:
        raise SystemExit(f"docs/replay.md: needs this once: {REPLAY_MARK}")
    link = f"[This is the page]({REPLAY_PAGE}) that the command above writes."
    guide.write_text(text.replace(REPLAY_MARK, link), encoding="utf-8")


def menu() -> list[object]:
    """Return the site's menu."""
    named = {"README.md", *GUIDES, *BENCHMARKS, *PROJECT}
    doors = sorted((source for source in pages() if source not in named and "/" in source), key=title_of)
    others = [source for source in pages() if source not in named and "/" not in source]

    def section(name: str, sources: list[str]) -> dict[str, list[dict[str, str]]]:
        return {name: [{title_of(source): pages()[source]} for source in sources]}

    return [
        {"Home": "index.md"},
        section("Guides", GUIDES),
        section("Frameworks and SDKs", doors),
        {"Reference": [{package: f"reference/{package}.md"} for package in packages()]},
        section("Benchmarks", BENCHMARKS),
        section("Project", [*PROJECT, *others]),
    ]


def main() -> None:
    """Build the site. Whatever is said about a page is an error."""
    write_pages()
    write_replay()
    settings = (SETTINGS / "mkdocs.yml").read_text(encoding="utf-8").replace("REPOSITORY", repository())
    (TARGET / "mkdocs.yml").write_text(f"{settings}\nnav: {json.dumps(menu())}\n", encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", "mkdocs.yml"]
    done = subprocess.run(command, cwd=TARGET, text=True, capture_output=True, check=False)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    if done.returncode or "No issues found" not in said or re.search("griffe|warning", said, re.IGNORECASE):
        raise SystemExit(said)
    print(f"{len(pages()) + len(packages())} pages: target/site/index.html")


if __name__ == "__main__":
    main()
