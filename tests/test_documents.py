"""The Python blocks of the documents run as they stand there, each page's in order and with the same names.

The README's are in test_readme.py. Blocks that need a framework are run by the tests of its adapter.
"""

import ast
import math
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from chatring import MessageRing

ROOT = Path(__file__).parents[1]


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


FOUND = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")} - {ROOT / "README.md"})
PAGES = [page for page in FOUND if blocks_of(page)]

# What a block that is cut out of a program has from it.
GIVEN: dict[str, dict[str, Any]] = {
    "docs/llama-index.md": {"archive": print, "session": "ada"},
    "docs/tokenizers.md": {
        "AutoTokenizer": SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(encode=str.split)),
        "MessageRing": MessageRing,
        "math": math,
        "tokenizer": None,
    },
}


def frameworks_of(blocks: list[str]) -> set[str]:
    """Return the packages that blocks import, but for those that these tests have."""
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"chatring", "llama_index"}


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, name = blocks_of(page), page.relative_to(ROOT).as_posix()
    tests = [
        path for path in sorted(ROOT.glob("tests/*/test_*.py")) if f'{page.name}"' in path.read_text(encoding="utf-8")
    ]
    if frameworks := ", ".join(sorted(frameworks_of(blocks))):
        assert tests, f"the blocks of {name} need {frameworks}, and no test of an adapter has them"
        pytest.skip(f"needs {frameworks}: run by {tests[0].relative_to(ROOT)}")
    if any("llama_index" in block for block in blocks):
        pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    monkeypatch.chdir(tmp_path)  # where a store makes its file
    module = ModuleType("page")
    module.__dict__.update(GIVEN.get(name, {}))
    monkeypatch.setitem(sys.modules, "page", module)  # where a class of a block is looked up
    for block in blocks:
        exec(compile(block, name, "exec"), module.__dict__)
        close = getattr(getattr(module, "store", None), "close", None)
        if close is not None:
            close()


COMMANDS = [
    (page.relative_to(ROOT).as_posix(), command)
    for page in (ROOT / "README.md", *FOUND)
    for command in re.findall(r"^ *chatring (\w+ examples/.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_on_an_example_runs(page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("click.testing", reason="click is not installed")
    cli = pytest.importorskip("chatring.cli", reason="rich is not installed")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)  # where a page is written
    done = testing.CliRunner(env={"COLUMNS": "120"}).invoke(cli.chatring, command.split())
    assert done.exit_code == 0, done.output
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "docs/replay.md":  # it shows what the command prints
        (shown,) = re.findall(r"^```\n(limit .*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert set(shown.splitlines()) <= {line.strip() for line in done.output.splitlines()}


def test_the_picture_of_the_design_names_every_file() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    picture = page.partition("## The picture")[2].partition("```\n")[2].partition("```\n")[0]
    files = [path for folder in ("src", "python") for path in (ROOT / folder).rglob("*.*")]
    names = {path.stem for path in files if path.suffix in {".rs", ".py", ".pyi", ".sql", ".lua"}}
    assert len(names) > 100
    assert names - {"mod", "tests", "__init__", "__main__"} - set(re.findall(r"\w+", picture)) == set()
