"""The page of the adapter: its code runs as it is."""

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents.memory import SQLiteSession
from chatring.stores import Store
from openai_scripted_model import ScriptedModel, agent_of, turns

PAGE = Path(__file__).parents[2] / "docs" / "openai_agents.md"


async def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    model = ScriptedModel(turns(2))
    assert await names["handle"](agent_of(model), "ada", "Where is it?") == "They left: Where is it?"
    assert await names["handle"](agent_of(model), "ada", "And now?") == "They left: And now?"
    asked = [item["content"] for item in model.requests[-1] if item.get("role") == "user"]
    assert asked == ["Where is it?", "And now?"]

    theirs = SQLiteSession("grace")
    await theirs.add_items([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
    await names["move"](theirs, "grace")
    store = names["store"]
    assert isinstance(store, Store)
    assert store.all("grace") == await theirs.get_items()
    theirs.close()
    store.close()
