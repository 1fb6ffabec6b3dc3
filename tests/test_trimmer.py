"""`Trimmer`: the checks and the window of the adapters that trim requests."""

import copy
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from chatring import MessageRing, TokenCounter, trim_messages
from chatring.trimmer import Trimmer
from trimmer_options import check_refusals

HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    *({"role": role, "content": f"Message {n}."} for n in range(20) for role in ("user", "assistant")),
]


def trimmer(token_limit: Any, **options: Any) -> Trimmer[Any]:
    defaults = {"counter": "o200k_base", "measure": "message", "retention_ratio": 1.0, "initial_token_count": 0}
    return Trimmer(token_limit, **{**defaults, **options})


def test_bad_options_are_refused() -> None:
    check_refusals(trimmer)
    with pytest.raises(TypeError, match="include_system must be a bool"):
        trimmer(100, include_system="no")
    with pytest.raises(ValueError, match="format"):
        trimmer(100, format="no such")


@pytest.mark.parametrize("options", [{}, {"retention_ratio": 0.5}, {"include_system": False}, {"format": "anthropic"}])
def test_the_window_is_that_of_trim_messages(options: dict[str, Any]) -> None:
    ours = trimmer(100, initial_token_count=20, **options)
    window = ours.window(HISTORY, instructions=9, tools=3)
    expected = trim_messages(HISTORY, 100, initial_token_count=32, **options)
    assert 0 < len(window) < len(HISTORY)
    assert (window, window.tokens, window.start, window.head) == (
        expected,
        expected.tokens,
        expected.start,
        expected.head,
    )
    ring = ours.new_ring()
    ring.put_messages(HISTORY)
    assert ring.window(initial_token_count=ours.beside(instructions=9, tools=3)) == expected


def test_a_message_counts_by_the_options() -> None:
    assert trimmer(100).count(HISTORY[0]) == MessageRing[Any]().count(HISTORY[0])
    assert trimmer(100, counter=len).count(HISTORY[0]) == MessageRing[Any](counter=len).count(HISTORY[0])
    assert trimmer(100, measure=lambda message: 7).count(HISTORY[0]) == 7
    counter = TokenCounter(len)
    assert trimmer(100, counter=counter).counter is counter


def test_what_is_sent_beside_the_messages_may_fill_the_limit_and_not_more() -> None:
    full = trimmer(100, initial_token_count=20)
    assert full.beside() == 20
    assert full.beside(system_message=70, tools=10) == 100
    with pytest.raises(
        ValueError,
        match=r"^what is sent beside the messages exceeds token_limit 100: system message 71, tools 10, "
        r"initial_token_count 20; raise it, or send less$",
    ):
        full.window(HISTORY, system_message=71, tools=10)


@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_threads_share_one_though_messages_are_edited_between_calls(ratio: float) -> None:
    """A server has one object for all its conversations. What was counted for a call says nothing about the next."""
    shared = trimmer(200, retention_ratio=ratio)

    def converse(seed: int) -> int:
        random = Random(seed)
        history: list[dict[str, Any]] = []
        cut = 0
        for number in range(60):
            call = {"id": str(number), "type": "tool_call", "name": "find", "args": {"what": ["word"]}}
            history.append({"role": "user", "content": "word " * random.randrange(9)})
            history.append({"role": "assistant", "content": None, "tool_calls": [call]})
            history.append({"role": "tool", "tool_call_id": str(number), "content": [{"type": "text", "text": "one"}]})
            for edited in random.choices(history, k=2):
                if edited["role"] == "user":
                    edited["content"] += "and more"
                elif edited["role"] == "tool":
                    edited["content"][0]["text"] += " two"
                else:
                    edited["tool_calls"][0]["args"]["what"].append("more words")
            window = shared.window(history)
            anew = trim_messages(copy.deepcopy(history), 200, retention_ratio=ratio)
            assert (window, window.tokens, window.start) == (anew, anew.tokens, anew.start)
            cut += len(window) < len(history)
        return cut

    with ThreadPoolExecutor(4) as threads:
        assert all(cut > 20 for cut in threads.map(converse, range(8)))
