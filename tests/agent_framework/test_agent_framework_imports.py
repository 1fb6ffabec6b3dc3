"""What is imported when."""

import subprocess
import sys

import pytest

pytest.importorskip("agent_framework.exceptions", reason="Agent Framework is not installed: agent-framework-core")

PROGRAM = f"""
import sys
sys.path[:0] = {sys.path!r}
import chatring, chatring.formats, chatring.stores
assert not [name for name in sys.modules if name.startswith("agent_framework")]
import chatring.agent_framework
import agent_framework
assert "Agent" in dir(agent_framework)
assert agent_framework.__file__ != chatring.agent_framework.__file__
assert not [name for name in sys.modules if name.startswith(("openai", "agent_framework_openai"))]
print("done")
"""


def test_agent_framework_is_imported_by_its_adapter_alone_and_not_shadowed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
