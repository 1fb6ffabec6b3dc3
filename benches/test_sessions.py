"""100,000 sessions in one store: a turn on a random one, with a memory object made for the request as servers do."""

import random
from typing import Any

import pytest
from chatring.llama_index import ChatMemoryBuffer, RingChatStore
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexBuffer
from llama_index.core.storage.chat_store import SimpleChatStore
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import BUFFER, ENCODE, ENCODING, LLAMA_INDEX, TWIN_LI, Memory
from benches.conversation import Histories, as_chat_message
from benches.honest_twin import ChatMessageTwin
from benches.test_agent_turn import turn

LIMIT = 3_000
SESSIONS = 100_000
# Messages in each session. They are counted with its first turn.
LENGTH = 40


class Twins:
    """A dict of twins."""

    def __init__(self) -> None:
        self._sessions: dict[str, ChatMessageTwin] = {}

    def set_messages(self, key: str, messages: list[Any]) -> None:
        twin = self._sessions[key] = ChatMessageTwin(LIMIT, ENCODING)
        twin.put_messages(messages)

    def memory(self, key: str) -> Memory:
        return self._sessions[key]


def _store(name: str) -> Any:
    return {LLAMA_INDEX: SimpleChatStore, TWIN_LI: Twins, BUFFER: RingChatStore}[name]()


def _memory(name: str, store: Any, key: str) -> Memory:
    if name == TWIN_LI:
        twin: Memory = store.memory(key)
        return twin
    buffer = LlamaIndexBuffer if name == LLAMA_INDEX else ChatMemoryBuffer
    return buffer.from_defaults(token_limit=LIMIT, chat_store=store, chat_store_key=key, tokenizer_fn=ENCODE)


@pytest.mark.parametrize("name", [LLAMA_INDEX, TWIN_LI, BUFFER])
def test_turn_on_a_random_session(benchmark: BenchmarkFixture, histories: Histories, label: Label, name: str) -> None:
    history = histories.last(SESSIONS, as_chat_message)
    store = _store(name)
    for session in range(SESSIONS):
        first = session * LENGTH % (SESSIONS - LENGTH)
        store.set_messages(f"session {session}", history[first : first + LENGTH])
    keys = random.Random(1)  # the same sessions for every contender
    turns = histories.turns()
    if name != LLAMA_INDEX:
        _same_windows_as_llama_index(name, history[:LENGTH])

    def request() -> tuple[tuple[Any, ...], dict[str, Any]]:
        key = f"session {keys.randrange(SESSIONS)}"
        return (name, store, key, [as_chat_message(line) for line in next(turns)]), {}

    label("turn on one of 100,000 sessions", name)
    benchmark.pedantic(_request, setup=request, rounds=10 if name == LLAMA_INDEX else 200)


def _request(name: str, store: Any, key: str, messages: list[Any]) -> tuple[list[Any], list[Any]]:
    return turn(_memory(name, store, key), messages)


def _same_windows_as_llama_index(name: str, history: list[Any]) -> None:
    stores = [_store(name), _store(LLAMA_INDEX)]
    for store in stores:
        store.set_messages("session", list(history))
    ours, theirs = (
        _request(each, store, "session", history[:5]) for each, store in zip((name, LLAMA_INDEX), stores, strict=True)
    )
    assert ours == theirs
