"""The case of run-llama/llama_index #12264: 1,000 messages, about 217,000 tokens, a limit of 16,000."""

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import BUFFER, CONTENDERS, ENCODE, ENCODING, LLAMA_INDEX, RING_LI, TWIN_LI, Memory
from benches.conversation import Histories, Line, as_chat_message

MESSAGES, TOKENS_EACH, LIMIT = 1_000, 217, 16_000

# What the slow one returned; it comes first, and the others must return the same.
windows: dict[str, list[int]] = {}


@pytest.fixture(scope="module")
def history(histories: Histories) -> list[Any]:
    """Questions and answers of 217 tokens, cut from the conversation."""
    tokens = _tokens(histories.texts)
    starts = range(0, MESSAGES * TOKENS_EACH, TOKENS_EACH)
    texts = [ENCODING.decode(tokens[start : start + TOKENS_EACH]) for start in starts]
    assert 215_000 < sum(len(ENCODE(text)) for text in texts) < 221_000
    return [as_chat_message(Line("assistant" if index % 2 else "user", text)) for index, text in enumerate(texts)]


@pytest.mark.parametrize("name", [LLAMA_INDEX, TWIN_LI, RING_LI, BUFFER])
def test_steady(benchmark: BenchmarkFixture, history: list[Any], label: Label, name: str) -> None:
    memory = CONTENDERS[name].load(LIMIT, history)
    label("llama_index #12264, steady get", name, messages=MESSAGES, limit=LIMIT)
    if name == LLAMA_INDEX:  # half a minute a call
        window = benchmark.pedantic(memory.get)
    else:
        _check(memory.get())
        window = benchmark(memory.get)
    windows.setdefault(LLAMA_INDEX, [id(message) for message in window])
    _check(window)


@pytest.mark.parametrize("name", [TWIN_LI, RING_LI, BUFFER])
def test_first(benchmark: BenchmarkFixture, history: list[Any], label: Label, name: str) -> None:
    contender = CONTENDERS[name]
    label("llama_index #12264, first get", name, messages=MESSAGES, limit=LIMIT)

    def load() -> tuple[tuple[Memory], dict[str, Any]]:
        return (contender.load(LIMIT, history),), {}

    _check(benchmark.pedantic(lambda memory: memory.get(), setup=load, rounds=20))


def _tokens(texts: list[str]) -> list[int]:
    tokens = ENCODE("\n".join(texts))
    return tokens * (1 + MESSAGES * TOKENS_EACH // len(tokens))


def _check(window: list[Any]) -> None:
    assert [id(message) for message in window] == windows[LLAMA_INDEX]
