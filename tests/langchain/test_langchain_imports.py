"""What is imported when."""

import subprocess
import sys

import pytest

pytest.importorskip("langchain.agents", reason="langchain is not installed: pip install 'chatring[langchain]'")

PROGRAM = f"""
import sys
sys.path[:0] = {sys.path!r}
import chatring, chatring.formats, chatring.stores
assert not [name for name in sys.modules if name.startswith(("langchain", "langgraph"))]
import chatring.langchain
import langchain
assert "create_agent" in dir(__import__("langchain.agents").agents)
assert langchain is not chatring.langchain
assert langchain.__file__ != chatring.langchain.__file__
print("done")
"""


def test_langchain_is_imported_by_its_adapter_alone_and_not_shadowed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
