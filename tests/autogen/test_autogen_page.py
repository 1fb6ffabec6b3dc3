"""The page about AutoGen: its code runs."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("autogen_agentchat", reason="AutoGen is not installed: pip install 'chatring[autogen]'")
pytest.importorskip("autogen_ext.models.openai", reason="AutoGen's client is not installed: autogen-ext[openai]")

from autogen_models import ScriptedOpenAI, find_order, questions, turns

PAGE = Path(__file__).parents[2] / "docs" / "autogen.md"


def test_the_code_of_the_page_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    model = ScriptedOpenAI(turns(3))
    state: dict[str, Any] = {}
    for question in ("Where is it?", "And now?"):  # the second time after a restart
        names: dict[str, Any] = {"model_client": model.client(), "tools": [find_order]}
        exec(compile(block, PAGE.name, "exec"), names)
        answer, state = asyncio.run(names["handle"](question, json.loads(json.dumps(state))))
        assert answer == "They left."
    assert questions(model.requests[-1]) == ["Where is it?", "And now?"]
