"""The examples of `docs/langchain.md` run as they are."""

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain.agents", reason="langchain is not installed: pip install 'chatring[langchain]'")

from langchain_agents import ScriptedModel, find_order
from langchain_core.messages import HumanMessage

TEXT = (Path(__file__).parents[2] / "docs" / "langchain.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_agent_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for turns in (1, 2):  # the second time after a restart
        names: dict[str, Any] = {"model": ScriptedModel(steps=1), "tools": [find_order]}
        exec(compile(BLOCKS[0], "langchain.md", "exec"), names)
        store = names["store"]
        assert store.length("ada") == 8 * turns
        assert sum(message.type == "human" for message in names["model"].requests[-1]) == 2 * turns
        store.close()


def test_trim_messages_trims() -> None:
    messages = [HumanMessage(f"{number}: where is my order? " * 20) for number in range(100)]
    names: dict[str, Any] = {"messages": messages}
    exec(
        compile(
            BLOCKS[1].replace("trim_messages(messages", "trimmed = trim_messages(messages"), "langchain.md", "exec"
        ),
        names,
    )
    assert 10 < len(names["trimmed"]) < 50


def test_each_block_is_tested() -> None:
    assert len(BLOCKS) == 2
