"""The page about Pydantic AI: its code runs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_ai.messages", reason="Pydantic AI is not installed: pip install pydantic-ai-slim")

from pydantic_ai.models.test import TestModel

PAGE = Path(__file__).parents[2] / "docs" / "pydantic_ai.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the store makes its file
    names: dict[str, Any] = {"model": TestModel(custom_output_text="It is on its way.")}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    loop = asyncio.new_event_loop()  # run_sync leaves the one open that it makes
    asyncio.set_event_loop(loop)
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    for _ in range(2):
        assert loop.run_until_complete(names["handle"]("cem", "Where is it?")) == "It is on its way."
    asyncio.set_event_loop(None)
    loop.close()
    assert names["store"].length("cem") == 4
    names["store"].close()
