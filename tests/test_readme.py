"""The examples of the README run as they stand there; those of the other documents are in test_documents.py."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chatring import MessageRing
from chatring.stores import Store

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {number}" for number in range(1, len(BLOCKS) + 1)])
def test_a_block_of_the_readme_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a store makes its file
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    for value in names.values():
        if isinstance(value, Store):
            value.close()


def test_the_first_block_returns_what_it_says() -> None:
    names: dict[str, object] = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    ring = names["ring"]
    assert isinstance(ring, MessageRing)
    assert [message["role"] for message in ring.get()] == ["system", "user", "assistant", "tool", "assistant"]


DRIVE = """
import os, signal, sys
sys.modules.update(dict.fromkeys(("sqlalchemy", "psycopg", "redis")))  # nothing but the standard library
def ask_llm(window):
    return f"I was sent {len(window)}."
{block}
print(handle("ada", sys.argv[1]), len(store.all("ada")), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_the_server_of_the_readme_remembers_when_it_was_killed(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if "sqlite:///" in block]
    program = DRIVE.replace("{block}", block)
    printed = []
    for question in ("Where is my order?", "And when does it come?"):
        command = [sys.executable, "-c", program, question]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == -signal.SIGKILL, done.stderr
        printed.append(done.stdout.strip())
    assert printed == ["I was sent 1. 2", "I was sent 3. 4"]


def test_files_that_the_documents_link_to_exist() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
