"""Calls without results, and results without calls, are left out."""

from collections import defaultdict
from itertools import combinations

from chatring.formats.answered import answered
from hypothesis import given
from hypothesis import strategies as st


def left(*messages: str) -> list[str]:
    def ids(message: str, kind: str) -> list[str]:
        name, _, rest = message.partition(" ")
        return rest.split() if name == kind else []

    return answered(
        messages,
        lambda message: ids(message, "call"),
        lambda message: ids(message, "result"),
        lambda message: message == "reasoning",
    )


def test_a_whole_history_stays() -> None:
    history = ["user", "reasoning", "call a b", "result a", "result b", "reasoning", "answer", "reasoning"]
    assert left(*history) == history


def test_a_call_without_a_result_goes_with_its_reasoning() -> None:
    assert left("user", "reasoning", "call a") == ["user"]
    assert left("reasoning", "answer", "reasoning", "reasoning", "call a") == ["reasoning", "answer"]
    assert left("user", "call a") == ["user"]
    assert left("user", "call a", "result a", "call b") == ["user", "call a", "result a"]


def test_parallel_calls_of_one_message_go_together() -> None:
    assert left("user", "call a b", "result a") == ["user"]
    assert left("user", "call a", "call b", "result a") == ["user", "call a", "result a"]


def test_calls_of_one_message_with_one_id_need_a_result_each() -> None:
    whole = ["user", "call a a", "result a", "result a", "answer"]
    assert left(*whole) == whole
    assert left("user", "call a a", "result a a") == ["user", "call a a", "result a a"]
    assert left("user", "call a a", "result a", "answer") == ["user", "answer"]
    assert left("user", "call a", "result a", "result a") == ["user", "call a", "result a"]


def test_a_result_without_its_call_goes() -> None:
    assert left("result a", "user", "answer") == ["user", "answer"]
    assert left() == []


def test_what_goes_takes_its_other_half_along() -> None:
    assert left("call a", "result a b", "answer") == ["answer"]
    assert left("call a b", "result b c", "result a", "answer") == ["answer"]


def test_a_result_is_that_of_the_newest_call_with_its_id() -> None:
    done = ["user", "call a", "result a", "answer"]
    assert left(*done, "user", "call a") == [*done, "user"]
    assert left(*done, "user", "call a", "user", "call a", "result a") == [*done, "user", "user", "call a", "result a"]
    assert left(*done, *done) == [*done, *done]
    assert left("result a", "call a", "user") == ["user"]
    assert left(*done, "result a", "user") == [*done, "user"]


@given(
    st.lists(st.tuples(st.sampled_from(["call", "result"]), st.lists(st.sampled_from("abcd"), max_size=3)), max_size=9)
)
def test_what_is_left_is_the_most_that_is_complete(history: list[tuple[str, list[str]]]) -> None:
    messages = [" ".join([kind, *ids]) for kind, ids in history]

    carried: dict[int, set[tuple[int, str, int]]] = defaultdict(set)  # by message, its calls
    returned: dict[int, set[tuple[int, str, int] | None]] = defaultdict(set)  # by message, the calls of its results
    waiting: dict[str, list[tuple[int, str, int]]] = {}
    for index, (kind, ids) in enumerate(history):
        if kind == "call":
            for each in set(ids):
                waiting[each] = [(index, each, number) for number in range(ids.count(each))]
                carried[index] |= set(waiting[each])
            continue
        for each in set(ids):
            found, waiting[each] = waiting.get(each, [])[: ids.count(each)], waiting.get(each, [])[ids.count(each) :]
            returned[index] |= set(found) or {None}

    def is_complete(kept: tuple[int, ...]) -> bool:
        calls = {call for index in kept for call in carried[index]}
        return calls == {call for index in kept for call in returned[index]}

    most = next(
        kept
        for length in range(len(history), -1, -1)
        for kept in combinations(range(len(history)), length)
        if is_complete(kept)
    )
    assert left(*messages) == [messages[index] for index in most]
