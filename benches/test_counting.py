"""Counting tokens: the conversation's texts one by one, in a batch, and in a batch on one core."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from chatring import TokenCounter
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import ENCODE, ENCODING
from benches.conversation import Histories

TIKTOKEN = "tiktoken encode"
CHATRING = "chatring TokenCounter"
BATCH = 5_000

COUNTER = TokenCounter("cl100k_base")


def _tiktoken(text: str) -> int:
    return len(ENCODE(text))


@pytest.mark.parametrize(("name", "count"), [(TIKTOKEN, _tiktoken), (CHATRING, COUNTER.count)])
def test_one_by_one(
    benchmark: BenchmarkFixture, histories: Histories, label: Label, name: str, count: Callable[[str], int]
) -> None:
    texts = histories.texts
    assert [count(text) for text in texts] == [_tiktoken(text) for text in texts]
    label("counting one message", name, calls=len(texts))
    benchmark(lambda: [count(text) for text in texts])


@pytest.mark.parametrize(("name", "count"), [(TIKTOKEN, _tiktoken), (CHATRING, COUNTER.count)])
@pytest.mark.parametrize("characters", [10, 100_000])
def test_one_text(
    benchmark: BenchmarkFixture,
    histories: Histories,
    label: Label,
    name: str,
    count: Callable[[str], int],
    characters: int,
) -> None:
    text = " ".join(histories.texts * (1 + characters // 10_000))[:characters]
    assert count(text) == _tiktoken(text)
    label(f"counting a text of {characters:,} characters", name)
    benchmark(count, text)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("name", ["tiktoken encode_batch", "chatring count_batch"])
def test_batch(benchmark: BenchmarkFixture, histories: Histories, label: Label, name: str, cores: int) -> None:
    texts = (histories.texts * (1 + BATCH // len(histories.texts)))[:BATCH]
    assert COUNTER.count_batch(texts[:500]) == [_tiktoken(text) for text in texts[:500]]
    label("counting a batch", f"{name}, {cores} core{'s' * (cores > 1)}", calls=BATCH)
    with _on(cores):
        if name.startswith("chatring"):
            benchmark.pedantic(COUNTER.count_batch, (texts,), rounds=20)
        else:
            options = {"num_threads": cores, "allowed_special": "all"}
            benchmark.pedantic(ENCODING.encode_batch, (texts,), options, rounds=3)


@contextmanager
def _on(cores: int) -> Iterator[None]:
    """Run on so many cores, where the system can be told; chatring uses all that it is given."""
    if not hasattr(os, "sched_setaffinity"):
        if cores == 1:
            pytest.skip("this system cannot keep a process on one core")
        yield
        return
    given = os.sched_getaffinity(0)
    if len(given) < cores:
        pytest.skip(f"fewer than {cores} cores")
    os.sched_setaffinity(0, set(sorted(given)[:cores]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, given)
