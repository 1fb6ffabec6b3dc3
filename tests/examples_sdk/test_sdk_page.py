"""The page about SDKs: its code runs as it stands there, and what it says of the examples is so."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chatring.stores import Store
from sdk_provider import ANSWER, TOOLS_TOKENS, Provider, has_results
from sdk_server import EXAMPLES

PAGE = (EXAMPLES.parent / "docs" / "sdks.md").read_text(encoding="utf-8")
FILES = [file for file in re.findall(r"\(\.\./examples/(\w+\.py)\)", PAGE) if file != "chat_http.py"]


def lines_of_code(path: Path) -> int:
    """Return the number of lines that are not blank, comments, docstrings or imports."""
    text = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, (ast.Import, ast.ImportFrom)):
            assert isinstance(node, ast.stmt)
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in left_out for n, line in lines)


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


def test_its_code_runs(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openai = pytest.importorskip("openai", reason="OpenAI's SDK is not installed")
    monkeypatch.chdir(tmp_path)
    parameters = {"type": "object", "properties": {"number": {"type": "integer"}}}

    def run(call: Any) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}: Order 17."}

    names: dict[str, Any] = {
        "client": openai.OpenAI(api_key="key", base_url=f"{provider.url}/v1"),
        "TOOLS": [{"type": "function", "function": {"name": "find_order", "parameters": parameters}}],
        "run": run,
    }
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "sdks.md", "exec"), names)
    assert names["answer"]("ada", "Where is it?") == f"Where is it?: {ANSWER}"
    assert names["answer"]("ada", "And now?") == f"And now?: {ANSWER}"
    assert provider.refused == []
    assert sum(map(has_results, provider.requests[-1].messages)) == 8
    store = names["store"]
    assert isinstance(store, Store)
    # The window counts what is billed, but for the tools.
    assert store.window("ada", 8000).tokens > provider.requests[-1].tokens - TOOLS_TOKENS
    store.close()
    names["client"].close()


def test_it_names_each_example() -> None:
    with_fake = {path.name for path in EXAMPLES.glob("*.py") if "import fake_provider" in path.read_text("utf-8")}
    assert set(FILES) == with_fake
    assert len(FILES) == 5


def test_each_example_says_what_it_needs_and_has_a_store_of_its_own() -> None:
    texts = [(EXAMPLES / file).read_text(encoding="utf-8") for file in FILES]
    assert all("\n    pip install " in text.partition("import ")[0] for text in texts)
    stores = [url for text in texts for url in re.findall(r"sqlite:///[\w-]+\.db", text)]
    assert len(stores) == len(set(stores)) == len(FILES)


@pytest.mark.parametrize("file", FILES)
def test_an_example_is_short(file: str) -> None:
    assert 20 <= lines_of_code(EXAMPLES / file) <= 41


def test_the_examples_differ_in_what_the_sdk_wants() -> None:
    """What all of them have is the same in all, so that a correction reaches each."""
    texts = [(EXAMPLES / file).read_text(encoding="utf-8").splitlines() for file in FILES]
    everywhere = [line for line in texts[0] if all(line in text for text in texts)]
    assert len([line for line in everywhere if line.strip()]) >= 35
