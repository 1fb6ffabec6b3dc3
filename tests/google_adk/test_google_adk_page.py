"""The page about ADK: its code runs. And nothing else imports the framework."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.adk.plugins", reason="google-adk is not installed: pip install 'chatring[google-adk]'")

from google.adk.sessions import InMemorySessionService
from google_adk_agents import ScriptedModel, events_of, find_order, said, turns

pytestmark = pytest.mark.filterwarnings(r"ignore:\[EXPERIMENTAL\]:UserWarning")

PAGE = Path(__file__).parents[2] / "docs" / "google_adk.md"

PROGRAM = f"""
import sys
sys.path[:0] = {sys.path!r}
import chatring, chatring.formats, chatring.stores
assert not [name for name in sys.modules if name.startswith("google")]
import chatring.google_adk
import google.adk
assert google.adk.__file__ != chatring.google_adk.__file__ and google.adk.Agent
print("done")
"""


def test_the_code_of_the_page_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {
        "model": ScriptedModel(turns(3)),
        "tools": [find_order],
        "sessions": InMemorySessionService(),
    }
    exec(compile(block, PAGE.name, "exec"), names)

    async def work() -> None:
        await names["sessions"].create_session(app_name="shop", user_id="ada", session_id="s")
        asked = names["runner"].run_async(user_id="ada", session_id="s", new_message=said("Where is it?", "user"))
        assert [event async for event in asked][-1].content.parts[0].text == "They left: Where is it?"
        assert len(await events_of(names["runner"])) == 6

    asyncio.run(work())


def test_adk_is_imported_by_its_adapter_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
