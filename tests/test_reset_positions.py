"""A position is given to one message only, so that whoever summarises what leaves the window misses nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from chatring import MessageRing

Message = dict[str, Any]
Messages = list[Message]
SYSTEM: Message = {"role": "system", "content": "Be kind."}


def user(number: int) -> Message:
    return {"role": "user", "content": f"message {number} " * 5}


def users(*numbers: int) -> Messages:
    return [user(number) for number in range(*numbers)]


def reset_and_put(ring: MessageRing[Message], messages: Messages) -> None:
    ring.reset()
    ring.put_messages(messages)


def put_one_by_one_after_set(ring: MessageRing[Message], messages: Messages) -> None:
    ring.set([])
    for message in messages:
        ring.put(message)


def measure(message: Message) -> int:
    return len(message["content"])


MEASURES: dict[str, dict[str, Any]] = {
    "message": {},
    "text": {"measure": "text"},
    "callable": {"measure": measure, "token_limit": 400},
}


@pytest.fixture(params=MEASURES)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"token_limit": 60, **MEASURES[request.param]}


@pytest.mark.parametrize("replace", [MessageRing.set, reset_and_put, put_one_by_one_after_set])
@pytest.mark.parametrize("head", [[], [SYSTEM], [SYSTEM] * 3])
@pytest.mark.parametrize("bound", [None, 40])
@pytest.mark.parametrize("many", [0, 1, 3, 30, 60])
def test_other_messages_get_other_positions(
    options: dict[str, Any], replace: Callable[..., None], head: Messages, bound: int | None, many: int
) -> None:
    ring: MessageRing[Message] = MessageRing(**options, max_messages=bound)
    ring.put_messages([*head, *users(50)])
    end = len(head) + 50
    done = ring.window().start
    assert done < end
    new = [*head, *users(100, 100 + many)]
    replace(ring, new)
    window = ring.window()
    assert not new or window.start >= end
    if bound is None:  # what has left the window is what was put since, and is not in it
        assert ring.slice(0, end) == []
        assert [*ring.slice(done, window.start), *window[window.head :]] == new
    else:
        assert ring.slice(window.start, end + len(new)) == window[window.head :]


@pytest.mark.parametrize("head", [[SYSTEM], [SYSTEM] * 3])
def test_a_head_that_comes_alone_gets_new_positions(head: Messages) -> None:
    ring: MessageRing[Message] = MessageRing()
    ring.set(head)
    assert ring.window().start == len(head)  # as if it had been put
    ring.put(user(1))
    ring.reset()
    ring.set(head)
    assert ring.window().start == 2 * len(head) + 1
    assert ring.slice(0, len(head) + 1) == []


def test_three_messages_begin_alike_after_a_reset() -> None:
    ring: MessageRing[Message] = MessageRing()
    messages = [SYSTEM, user(1), {"role": "assistant", "content": "Hi"}]
    starts = []
    for _ in range(3):
        reset_and_put(ring, messages)
        starts.append(ring.window().start)
    assert starts == [1, 4, 7]


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("again", [lambda message: message, dict], ids=["the same", "equal"])
@pytest.mark.parametrize(("without", "more"), [(0, 0), (0, 5), (3, 0), (30, 5)])
def test_messages_that_come_back_keep_their_positions(
    options: dict[str, Any], counted: bool, again: Callable[[Message], Message], without: int, more: int
) -> None:
    ring: MessageRing[Message] = MessageRing(**options)
    messages = users(50)
    ring.put_messages(messages)
    done = ring.window().start
    if counted:
        ring.token_count()
    if again is dict and (counted or ring.measure is measure):
        without = 0  # nothing shows where the first of them was
    ring.set([*map(again, messages[without:]), *users(50, 50 + more)])
    assert ring.slice(done, done + 1) == [messages[done]]
    assert [*ring.slice(done, ring.window().start), *ring.get()] == [*messages[done:], *users(50, 50 + more)]


def test_an_edited_message_keeps_its_position() -> None:
    ring: MessageRing[Message] = MessageRing(60)
    messages = users(50)
    ring.put_messages(messages)
    done = ring.window().start
    messages[-1]["content"] = "edited"
    ring.set(messages)
    assert ring.slice(done, 50) == messages[done:]


@pytest.mark.parametrize("change", [lambda messages: messages[:-1], lambda messages: [*messages[:-1], user(99)]])
def test_counts_are_kept_at_other_positions(change: Callable[[Messages], Messages]) -> None:
    counted: list[str] = []

    def counter(text: str) -> list[str]:
        counted.append(text)
        return text.split()

    ring: MessageRing[Message] = MessageRing(10_000, counter)
    ring.put_messages([SYSTEM, *users(50)])
    ring.token_count()
    counted.clear()
    new = change([SYSTEM, *users(50)])
    ring.set(new)
    window = ring.window()
    assert (window, window.start) == (new, 52)
    assert set(counted) <= {SYSTEM["content"], user(99)["content"]}
    assert window.tokens == ring.token_count() == sum(map(ring.count, ring))


def test_a_message_whose_comparison_raises_is_another() -> None:
    class Odd:
        role, content = "user", "odd"

        def __eq__(self, other: object) -> bool:
            raise LookupError("no answer")

        __hash__ = None  # type: ignore[assignment]

    ring: MessageRing[Any] = MessageRing(measure=lambda message: 1)
    ring.set([Odd(), Odd()])
    ring.get()
    ring.set([Odd(), Odd()])
    assert ring.window().start == 2
