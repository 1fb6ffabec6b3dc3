"""What is exported, and what packages and pages say of the version."""

import ast
import importlib.metadata
import inspect
import pickle
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import chatring
import pytest
from chatring import MessageRing, stores

ROOT = Path(__file__).parents[1]


def test_the_version_is_that_of_the_package() -> None:
    assert chatring.__version__ == importlib.metadata.version("chatring")
    assert f"version: {chatring.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [chatring, stores])
def test_what_is_exported_is_there(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        assert getattr(module, name, None) is not None, name


def test_stores_are_found_where_open_store_is() -> None:
    assert stores.SQLStore.__module__ == "chatring.stores.sql.store"
    assert stores.RedisStore.__module__ == "chatring.stores.redis.store"
    with pytest.raises(AttributeError, match="has no attribute 'Mongo'"):
        stores.Mongo  # type: ignore[attr-defined]  # noqa: B018


def test_no_driver_is_imported_before_it_is_asked_for() -> None:
    program = "import sys; from chatring.stores import *; print(sorted({'redis', 'psycopg'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_oldest_python_is_the_same_everywhere() -> None:
    (oldest,) = re.findall(r'requires-python = ">=3.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for path in ("noxfile.py", "release/checks.py"):
        assert f'PYTHONS = ["3.{oldest}", ' in (ROOT / path).read_text(encoding="utf-8"), path
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert f"--features abi3 --interpreter python3.{oldest}" in workflow
    assert f"abi3-py3{oldest}" in (ROOT / "Cargo.toml").read_text(encoding="utf-8")


def docstrings_of_the_stub() -> dict[str, str | None]:
    """Return the docstring of each class, `Class.method` and function that the stub of the extension defines."""
    found: dict[str, str | None] = {}
    stub = ast.parse((ROOT / "python" / "chatring" / "_core.pyi").read_text(encoding="utf-8"))
    for node in stub.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = ast.get_docstring(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = ast.get_docstring(node)
            methods = [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
            found.update({f"{node.name}.{inner.name}": ast.get_docstring(inner) for inner in methods})
    return found


def test_help_shows_what_the_stub_says() -> None:
    stub = docstrings_of_the_stub()
    public = {name for name in stub if name.split(".")[0] in chatring.__all__ and "._" not in name}
    assert {"MessageRing", "MessageRing.window", "MessageRing.token_limit", "TokenCounter.count"} < public
    assert all(stub[name] for name in public)
    for name in public:
        assert inspect.getdoc(attrgetter(name)(chatring)) == stub[name], name


@pytest.mark.parametrize("kind", [chatring.MessageRing, chatring.TokenCounter])
def test_help_shows_nothing_else(kind: type) -> None:
    stub = docstrings_of_the_stub()
    for name in vars(kind).keys() - {"__doc__", "__module__", "__slotnames__"}:  # the last is copyreg's
        # An operator's is the interpreter's, and cannot be replaced.
        usual = {getattr(getattr(other, name, None), "__doc__", None) for other in (object, int, tuple)}
        assert getattr(kind, name).__doc__ in {None, stub.get(f"{kind.__name__}.{name}"), *usual}, name


def test_public_classes_and_functions_are_those_of_the_package() -> None:
    for name in set(chatring.__all__) - {"__version__", "CounterSource"}:
        assert getattr(chatring, name).__module__ == "chatring", name
    ring: MessageRing[object] = MessageRing()
    with pytest.raises(AttributeError, match=r"'chatring\.MessageRing' object has no attribute 'nothing'"):
        ring.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert pickle.loads(pickle.dumps(chatring.trim_messages)) is chatring.trim_messages
