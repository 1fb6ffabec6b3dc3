"""Results go behind their calls, and a step with a call waits for them."""

from collections import Counter

from chatring.formats.steps import Step, Steps
from hypothesis import given
from hypothesis import strategies as st


def gathered(*messages: str, before: tuple[Step[str], ...] = ()) -> tuple[list[list[str]], list[str]]:
    """Return the messages of each step, and the results that no step waits for."""
    steps = Steps(before)
    left = [message for message in messages if added(steps, message) is None]
    return [step.messages for step in steps.all], left


def added(steps: Steps[str], message: str) -> Step[str] | None:
    """Add a message: a kind and ids. Of a response are reasoning, calls and answers."""
    kind, *ids = message.split()
    if kind == "result":
        return steps.answer(message, ids)
    is_reply = kind != "user"
    return steps.add(message, ids, joins=is_reply, leads=kind == "reasoning", is_open=is_reply)


def test_a_result_joins_its_call_wherever_it_comes() -> None:
    assert gathered("call a", "user", "call b", "user", "result a", "result b") == (
        [["call a", "result a"], ["user"], ["call b", "result b"], ["user"]],
        [],
    )
    waiting = Step(["call a"], Counter("a"))
    assert gathered("user", "result a", before=(waiting,)) == ([["call a", "result a"], ["user"]], [])
    assert waiting.is_whole


def test_a_result_without_its_call_changes_nothing() -> None:
    assert gathered("result a", "call a", "result a", "result a") == ([["call a", "result a"]], ["result a"] * 2)


def test_the_newest_step_that_waits_gets_a_result_if_ids_repeat() -> None:
    """Not every model gives each call its own id."""
    assert gathered("call a", "user", "call a", "result a") == ([["call a"], ["user"], ["call a", "result a"]], [])
    assert gathered("call a", "result a", "user", "call a", "result a") == (
        [["call a", "result a"], ["user"], ["call a", "result a"]],
        [],
    )
    assert gathered("call a", "user", "call a", "result a", "result a")[0] == [
        ["call a", "result a"],
        ["user"],
        ["call a", "result a"],
    ]


def test_what_joins_goes_only_to_the_newest_step_if_that_is_open() -> None:
    assert gathered("reasoning", "call a", "call b", "user", "answer")[0] == [
        ["reasoning", "call a", "call b"],
        ["user"],
        ["answer"],
    ]
    closed, open_one = Step(["reasoning"], leads=True), Step(["reasoning"], leads=True, is_open=True)
    assert gathered("answer", before=(open_one, closed))[0] == [["reasoning"], ["reasoning"], ["answer"]]
    assert gathered("answer", before=(closed, open_one))[0] == [["reasoning"], ["reasoning", "answer"]]


def test_a_step_is_whole_with_all_its_results_and_without_reasoning_at_its_end() -> None:
    steps: Steps[str] = Steps()
    told = []
    for message in ("reasoning", "call a b", "result b", "result a"):
        step = added(steps, message)
        assert step is steps.all[-1]
        told.append(step.is_whole)
    assert told == [False, False, False, True]


def test_a_message_may_answer_a_call_and_make_another() -> None:
    steps: Steps[str] = Steps()
    steps.add("call a", ["a"])
    step = steps.answer("result a, call a again", {"a"}, ["a"])
    assert step is steps.all[0]
    assert step.waits_for == {"a": 1}


def test_each_result_takes_one_call_if_calls_of_one_step_have_one_id() -> None:
    assert gathered("call a", "call a", "result a", "user", "result a", "result a") == (
        [["call a", "call a", "result a", "result a"], ["user"]],
        ["result a"],
    )
    steps: Steps[str] = Steps()
    told = []
    for message in ("call a a b", "result a", "result b", "result a"):
        step = added(steps, message)
        assert step is steps.all[0]
        told.append(step.is_whole)
    assert told == [False, False, False, True]


IDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=2).map(" ".join)
MESSAGES = st.one_of(
    st.sampled_from(["user", "reasoning", "answer"]), IDS.map("call {}".format), IDS.map("result {}".format)
)


@given(st.lists(MESSAGES, max_size=20))
def test_nothing_is_lost_and_a_step_waits_for_what_it_lacks(messages: list[str]) -> None:
    numbered = [f"{message} #{number}" for number, message in enumerate(messages)]
    steps: Steps[str] = Steps()
    left = []
    for message, named in zip(messages, numbered, strict=True):
        kind, *ids = message.split()
        waiting = [step for step in steps.all if not step.waits_for.keys().isdisjoint(ids)]
        if kind == "result":
            step = steps.answer(named, ids)
            assert step is (waiting[-1] if waiting else None)
            if step is None:
                left.append(named)
        else:
            steps.add(named, ids, joins=kind != "user", is_open=kind != "user")
    assert sorted([message for step in steps.all for message in step.messages] + left) == sorted(numbered)
    for step in steps.all:
        assert not step.messages[0].startswith("result")
        lacking: Counter[str] = Counter()
        for message in step.messages:
            kind, *ids, _ = message.split()
            lacking = lacking - Counter(ids) if kind == "result" else lacking + Counter(ids)
        assert step.waits_for == lacking
