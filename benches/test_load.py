"""Loading a whole history, and a chat store on disk."""

from pathlib import Path
from typing import Any

import pydantic
import pytest
from chatring.llama_index import RingChatStore
from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store import SimpleChatStore
from pydantic_core import PydanticSerializationError
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import BUFFER, CONTENDERS, LLAMA_INDEX, RING, RING_LI, TWIN
from benches.conversation import Histories, as_chat_message

LIMIT = 3_000
STORES: dict[str, Any] = {"llama-index SimpleChatStore": SimpleChatStore, "chatring RingChatStore": RingChatStore}


@pytest.mark.parametrize("size", [1_000, 100_000, pytest.param(10_000_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", [TWIN, RING, RING_LI, LLAMA_INDEX, BUFFER])
def test_bulk_load(benchmark: BenchmarkFixture, histories: Histories, label: Label, name: str, size: int) -> None:
    contender = CONTENDERS[name]
    history: list[Any] = histories.last(size, contender.message)

    def load() -> Any:
        memory: Any = contender.memory(LIMIT)
        if name in (LLAMA_INDEX, BUFFER):
            memory.set(history)
        else:
            memory.put_messages(history)
        return memory

    loaded = load()
    kept = loaded.get() if name == TWIN else loaded.get_all()
    assert len(kept) == size or name == TWIN
    assert [id(message) for message in kept] == [id(message) for message in history[-len(kept) :]]
    label("bulk load", name, messages=size)
    benchmark.pedantic(load, rounds=3 if size >= 1_000_000 else 20)


@pytest.mark.parametrize("name", STORES)
def test_persist(benchmark: BenchmarkFixture, histories: Histories, label: Label, name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "store.json")
    store = _filled(name, histories.last(1_000, as_chat_message))
    try:
        store.persist(path)
    except PydanticSerializationError:
        pytest.skip(f"{name} cannot persist with pydantic {pydantic.VERSION}")
    assert SimpleChatStore.from_persist_path(path).store == store.store
    label("persist a store", name, messages=1_000)
    benchmark.pedantic(store.persist, (path,), rounds=10)


@pytest.mark.parametrize("name", STORES)
def test_from_persist_path(
    benchmark: BenchmarkFixture, histories: Histories, label: Label, name: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "store.json")
    store = _filled(name, histories.last(1_000, as_chat_message))
    _filled("chatring RingChatStore", store.get_messages("session")).persist(path)
    assert STORES[name].from_persist_path(path) == store
    label("load a persisted store", name, messages=1_000)
    benchmark.pedantic(STORES[name].from_persist_path, (path,), rounds=10)


def _filled(name: str, messages: list[ChatMessage]) -> Any:
    store = STORES[name]()
    store.set_messages("session", list(messages))
    return store
