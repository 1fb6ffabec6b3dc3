import asyncio
import importlib.util
import inspect
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# llama-index-core ships the vocabularies of cl100k_base and o200k_base: with them tiktoken, the oracle of these tests,
# needs no network. Finding a submodule imports its parents; finding the package and going on by path does not.
_NAMESPACE = importlib.util.find_spec("llama_index")
for _folder in _NAMESPACE.submodule_search_locations or () if _NAMESPACE else ():
    _cache = Path(_folder) / "core" / "_static" / "tiktoken_cache"
    if _cache.is_dir():
        os.environ["TIKTOKEN_CACHE_DIR"] = str(_cache)

import profiles  # noqa: E402  # loads one
import tiktoken  # noqa: E402
from recordings import CONVERSATIONS, REQUESTS  # noqa: E402

# To import the frameworks takes as long as all of the fast tests.
_FRAMEWORKS = ["agent_framework", "autogen", "examples_sdk", "google_adk", "langchain", "openai_agents", "pydantic_ai"]
collect_ignore = _FRAMEWORKS if profiles.FAST else []


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are coroutines, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in arguments}))
    return True


def encoding(name: str) -> tiktoken.Encoding:
    try:
        return tiktoken.get_encoding(name)
    except OSError as error:  # it was to be fetched
        pytest.skip(f"tiktoken has no vocabulary of {name}, llama-index-core is not installed, and {error}")


@pytest.fixture(scope="session")
def cl100k() -> tiktoken.Encoding:
    return encoding("cl100k_base")


@pytest.fixture(scope="session")
def o200k() -> tiktoken.Encoding:
    return encoding("o200k_base")


@pytest.fixture(scope="session", params=["shipped", "recorded"])
def source(request: pytest.FixtureRequest) -> str:
    """Whether conversations and requests are those in tests/data, or recorded ones beside the repository."""
    source: str = request.param
    return source


def existing(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"the recordings are not beside the repository: no {path}")
    return path


@pytest.fixture(scope="session")
def conversations_file(source: str) -> Path:
    return existing(CONVERSATIONS[source])


@pytest.fixture(scope="session")
def conversations(conversations_file: Path) -> list[list[dict[str, Any]]]:
    """The messages of each conversation; all begin with the same prompt."""
    with conversations_file.open(encoding="utf-8") as lines:
        return [json.loads(line)["messages"] for line in lines]


@pytest.fixture(scope="session")
def history(conversations: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The messages of all conversations as one history."""
    return [message for conversation in conversations for message in conversation]


@pytest.fixture(scope="session")
def requests_file(source: str) -> Path:
    return existing(REQUESTS[source])


@pytest.fixture(scope="session")
def requests(requests_file: Path) -> list[dict[str, Any]]:
    """Requests with their messages in the provider's own format; providers accepted the recorded ones."""
    with requests_file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process and those that it starts, even in a background job, where shells ignore it."""
    if os.name != "posix":
        pytest.skip("signals of POSIX")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is run in a thread of asyncio's, as it comes."""
    hops: list[Any] = []
    to_thread = asyncio.to_thread

    def noted(function: Any, *arguments: Any, **keywords: Any) -> Any:
        hops.append(function)
        return to_thread(function, *arguments, **keywords)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    return hops
