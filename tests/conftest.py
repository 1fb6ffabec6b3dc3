import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# llama-index-core ships the vocabularies of cl100k_base and o200k_base: with them tiktoken, the oracle of these tests,
# needs no network. Finding a submodule imports its parents; finding the package and going on by path does not.
_NAMESPACE = importlib.util.find_spec("llama_index")
for _folder in _NAMESPACE.submodule_search_locations or () if _NAMESPACE else ():
    _cache = Path(_folder) / "core" / "_static" / "tiktoken_cache"
    if _cache.is_dir():
        os.environ["TIKTOKEN_CACHE_DIR"] = str(_cache)

import profiles  # noqa: E402, F401  # loads one
import tiktoken  # noqa: E402

AIRLINE = Path(__file__).parents[2] / "shared" / "data" / "airline-conversations.jsonl"


@pytest.fixture(scope="session")
def cl100k() -> tiktoken.Encoding:
    return tiktoken.get_encoding("cl100k_base")


@pytest.fixture(scope="session")
def o200k() -> tiktoken.Encoding:
    return tiktoken.get_encoding("o200k_base")


@pytest.fixture(scope="session")
def airline() -> list[dict[str, object]]:
    """The messages of a hundred recorded conversations, as one history."""
    if not AIRLINE.is_file():
        pytest.skip(f"the recorded conversations are not beside the repository: no {AIRLINE}")
    with AIRLINE.open(encoding="utf-8") as lines:
        return [message for line in lines for message in json.loads(line)["messages"]]


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
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
