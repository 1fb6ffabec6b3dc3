"""The page about Agent Framework: its code runs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agent_framework_openai", reason="Agent Framework is not installed: agent-framework-openai")

from agent_framework import InMemoryHistoryProvider
from agent_framework_agents import INSTRUCTIONS, Model, asked_in, make_agent

PAGE = Path(__file__).parents[2] / "docs" / "agent_framework.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the store makes its file
    model = Model()
    names: dict[str, Any] = {"client": model.chat}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block.replace("You are the support of a shop.", INSTRUCTIONS), PAGE.name, "exec"), names)

    async def all_runs() -> None:
        for _ in range(2):
            assert await names["handle"]("ada", "Where is it?") == "Answer to: Where is it?"
        theirs = InMemoryHistoryProvider()
        agent = make_agent(model.chat, theirs)
        session = agent.create_session(session_id="ben")
        await agent.run("Is it here?", session=session)
        await names["move"](theirs, session)

    asyncio.run(all_runs())
    assert asked_in(names["store"].all("ada")) == ["Where is it?", "Where is it?"]
    assert [message.text for message in names["store"].all("ben")] == ["Is it here?", "Answer to: Is it here?"]
    names["store"].close()
