"""Steps that wait: their places among the newest items, and what is left of a change that was broken off."""

import asyncio
import copy
import itertools
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents.memory import SQLiteSession
from chatring.openai_agents import ChatringSession
from chatring.openai_agents.waiting_steps import SUFFIX, WaitingSteps
from chatring.stores import Store, open_store
from openai_items import answer, call, output, reasoning, user
from openai_scripted_model import Item
from profiles import examples


@pytest.fixture
def store() -> Any:
    store = open_store("memory://")
    yield store
    store.close()


def check_accepted(items: list[Any]) -> None:
    """Check that each result has a call in front of it that has no other, each call a result, reasoning its item."""
    unanswered: list[str] = []
    for item, following in itertools.pairwise([*items, None]):
        if item["type" if "type" in item else "role"] == "function_call":
            unanswered.append(item["call_id"])
        elif item.get("type") == "function_call_output":
            unanswered.remove(item["call_id"])
        elif item.get("type") == "reasoning":
            assert following is not None
            assert following.get("role") != "user"
    assert not unanswered


# Places


async def test_an_answer_in_front_of_a_resumed_step_is_not_of_that_step(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    await session.add_items([user("One.")])
    await session.add_items([reasoning(), call("a")])
    await session.add_items([user("Two."), answer("2")])
    await session.add_items([output("a")])
    assert await session.pop_item() == output("a")
    assert await session.get_items() == [user("One."), user("Two."), answer("2")]
    assert await session.pop_item() == call("a")
    assert await session.pop_item() == reasoning()
    assert await session.pop_item() == answer("2")


@pytest.mark.parametrize("between", [[], [reasoning("s"), answer("Text.")]], ids=["", "with a text"])
async def test_an_undo_finds_the_call_of_its_own_response_if_ids_repeat(store: Store[Item], between: list[Any]) -> None:
    session, theirs = ChatringSession("ada", store), SQLiteSession("ada")
    for text in ("One.", "Two."):
        for piece in ([user(text)], [*between, reasoning(), call("0"), output("0")], [answer(text)]):
            await session.add_items(copy.deepcopy(piece))
            await theirs.add_items(copy.deepcopy(piece))
    for _ in range(10 + 2 * len(between)):
        assert await session.pop_item() == await theirs.pop_item()
        assert await session.get_items(99) == await theirs.get_items(99)
        check_accepted(store.all("ada"))
    assert await session.pop_item() is None
    theirs.close()


async def test_an_abandoned_approval_keeps_its_place(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    items = [user("One."), reasoning(), call("never"), user("Two."), answer("2"), user("Three."), answer("3")]
    for piece in (items[:1], items[1:3], items[3:5], items[5:]):
        await ChatringSession("ada", store).add_items(piece)
    for limit in range(9):
        assert await session.get_items(limit) == (items[-limit:] if limit else [])
    for left in range(len(items), 0, -1):
        assert await session.pop_item() == items[left - 1]
        assert await session.get_items(9) == items[: left - 1]
        check_accepted(store.all("ada"))
    assert await session.pop_item() is None


async def test_places_stay_when_old_items_are_pruned(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    for number in range(20):
        await session.add_items([user(f"{number}"), answer(f"{number}")])
    await session.add_items([call("never")])
    await session.add_items([user("Last."), answer("Last.")])
    store.prune(max_messages=6)
    assert await session.get_items(4) == [answer("19"), call("never"), user("Last."), answer("Last.")]
    assert await session.pop_item() == answer("Last.")
    assert await session.pop_item() == user("Last.")
    assert await session.pop_item() == call("never")
    assert await session.pop_item() == answer("19")


async def test_reasoning_whose_answer_was_undone_is_not_read_once_something_follows(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    await session.add_items([user("One."), reasoning(), answer("1")])
    assert await session.pop_item() == answer("1")
    assert await session.get_items(9) == [user("One."), reasoning()]
    await session.add_items([user("Two."), reasoning("s"), answer("2")])
    assert await session.get_items(9) == [user("One."), user("Two."), reasoning("s"), answer("2")]
    assert await session.pop_item() == answer("2")
    assert await session.pop_item() == reasoning("s")
    assert await session.pop_item() == user("Two.")
    assert await session.pop_item() == reasoning()


async def test_a_text_in_front_of_a_call_stays_when_the_result_is_undone(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    await session.add_items([user("One."), reasoning(), answer("I look."), call("a"), output("a")])
    assert await session.pop_item() == output("a")
    assert await session.get_items() == [user("One."), reasoning(), answer("I look.")]
    assert await session.get_items(2) == [answer("I look."), call("a")]


async def test_what_is_left_of_a_popped_step_is_stored_if_it_is_whole(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    await session.add_items([user("One.")])
    await session.add_items([answer("I look."), call("a")])
    assert await session.get_items() == [user("One.")]
    assert await session.pop_item() == call("a")
    assert await session.get_items() == [user("One."), answer("I look.")]


async def test_a_step_that_is_longer_than_what_is_read_first_is_undone(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    ids = [str(number) for number in range(50)]
    items = [user("All."), reasoning(), *map(call, ids), *map(output, ids)]
    await session.add_items(items)
    assert await session.pop_item() == items[-1]
    assert await session.get_items() == [user("All.")]
    assert await session.get_items(200) == items[:-1]


async def test_a_result_without_a_call_that_is_in_the_store_is_popped_alone(store: Store[Item]) -> None:
    store.append("ada", [*(user(str(number)) for number in range(20)), output("x")])
    session = ChatringSession("ada", store)
    assert await session.pop_item() == output("x")
    assert await session.pop_item() == user("19")


async def test_an_undone_result_takes_all_calls_that_were_made_with_its_own(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    step = [reasoning(), call("a"), answer("And another."), call("b"), output("a"), output("b")]
    await session.add_items([user("One."), *step])
    assert await session.pop_item() == step[-1]
    assert await session.get_items() == [user("One.")]
    assert await session.get_items(9) == [user("One."), *step[:-1]]


async def test_what_is_added_together_keeps_its_order(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    await session.add_items([user("One."), call("a"), user("Two."), answer("2")])
    assert await session.get_items() == [user("One."), user("Two."), answer("2")]
    assert await session.get_items(9) == [user("One."), call("a"), user("Two."), answer("2")]
    await session.add_items([user("Three."), output("a"), answer("3")])
    assert (await session.get_items())[3:] == [user("Three."), call("a"), output("a"), answer("3")]


class Reference:
    """What `SQLiteSession` has after the same calls, but that a response is where its last result came."""

    def __init__(self) -> None:
        self.session = SQLiteSession("ada")

    async def items(self) -> list[Any]:
        return await self.session.get_items()

    async def add(self, items: list[Any]) -> None:
        kept = await self.items()
        results = {item["response"] for item in items if item.get("type") == "function_call_output"}
        moved = [item for item in kept if item["response"] in results]
        await self.session.clear_session()
        await self.session.add_items([*(item for item in kept if item not in moved), *moved, *items])

    async def unanswered(self) -> list[tuple[int, str]]:
        """Return the calls that wait, by response, the newest for each id."""
        waiting: dict[str, list[int]] = {}
        for item in await self.items():
            if item.get("type") == "function_call":
                waiting.setdefault(item["call_id"], []).append(item["response"])
            elif item.get("type") == "function_call_output":
                waiting[item["call_id"]].remove(item["response"])
        return [(responses[-1], call_id) for call_id, responses in waiting.items() if responses]

    async def readable(self) -> list[Any]:
        """Return the items without reasoning that something else follows."""
        items = await self.items()
        return [
            item
            for item, following in itertools.pairwise([*items, None])
            if item.get("type") != "reasoning" or following is None or following["response"] == item["response"]
        ]


def random_response(random: Random, number: int) -> list[Any]:
    """Return a response, with some of its results, or all of them, or a message."""
    leading = [reasoning(f"r{number}")] if random.random() < 0.5 else []
    if random.random() < 0.3:
        return [*leading, answer(f"a{number}")]
    ids = [str(place) if random.random() < 0.7 else f"{number}/{place}" for place in range(random.randint(1, 3))]
    results = random.sample(ids, random.choice((0, len(ids), len(ids), random.randint(0, len(ids)))))
    return [*leading, *map(call, ids), *map(output, results)]


async def test_random_moves_do_what_the_sdks_own_session_does(store: Store[Item]) -> None:
    for seed in range(examples(60, long=1_000)):
        random, reference, key = Random(seed), Reference(), str(seed)
        session = ChatringSession(key, store)
        for number in range(random.randint(2, 25)):
            if random.random() < 0.3:
                session = ChatringSession(key, store)
            last = (await reference.items())[-1:]
            move, waiting = random.random(), await reference.unanswered()
            added: list[Any] = []
            if move < 0.35:
                assert await session.pop_item() == await reference.session.pop_item()
            elif move < 0.55 and waiting:
                response, call_id = random.choice(waiting)
                added = [{**output(call_id), "response": response}]
            elif move < 0.7 or (last and last[0].get("type") == "reasoning"):
                added = [{**user(f"u{number}"), "response": -number}]
            else:
                added = [{**item, "response": number} for item in random_response(random, number)]
            await session.add_items(copy.deepcopy(added))
            await reference.add(added)
            expected = await reference.readable()
            assert await session.get_items(99) == expected, seed
            assert await session.get_items(3) == expected[-3:], seed
            kept = await session.get_items()
            check_accepted(kept)
            waits = {response for response, _ in await reference.unanswered()}
            assert [item for item in kept if item.get("response") in waits] == []
            if random.random() < 0.05:
                store.prune(max_messages=1, prefix=key + SUFFIX)
        reference.session.close()


# Changes that are broken off


class Killed(BaseException):
    """Ends a process between two changes of the store."""


async def killed_after(store: Store[Item], changes: int, act: Callable[[], Any]) -> bool:
    """Act, but end after so many changes. Return whether it ended before."""
    with pytest.MonkeyPatch.context() as patched:
        left = changes

        def limit(name: str) -> None:
            method = getattr(store, name)

            async def change(*args: Any) -> Any:
                nonlocal left
                if not left:
                    raise Killed
                left -= 1
                return await method(*args)

            patched.setattr(store, name, change)

        for name in ("aappend", "aupdate", "adelete"):
            limit(name)
        try:
            await act()
        except Killed:
            return True
        return False


@pytest.mark.parametrize("between", [[], [user("Two."), answer("2")]], ids=["at once", "later"])
@pytest.mark.parametrize("others", [0, 1], ids=["", "beside another"])
async def test_a_resume_that_is_killed_at_any_moment(store: Store[Item], between: list[Any], others: int) -> None:
    """After it, and after resuming again, each item is there once. Another response may have the same call."""
    step = [reasoning(), call("0")]
    for changes in itertools.count():
        key = str(changes)
        for _ in range(others):
            await ChatringSession(key, store).add_items([user("Zero."), *step])
        await ChatringSession(key, store).add_items([user("One.")])
        await ChatringSession(key, store).add_items(step)
        await ChatringSession(key, store).add_items(between)
        resumed = ChatringSession(key, store)
        is_killed = await killed_after(store, changes, partial(resumed.add_items, [output("0")]))
        again = ChatringSession(key, store)
        kept = await again.get_items()
        check_accepted(kept)
        everything = await again.get_items(99)
        assert everything.count(step[1]) == 1 + others
        assert everything.count(user("One.")) == 1
        if output("0") not in kept:
            await again.add_items([output("0")])
            kept = await again.get_items()
        check_accepted(kept)
        assert kept == [*[user("Zero.")] * others, user("One."), *between, *step, output("0")]
        waiting = step * others
        assert [item for each in await WaitingSteps(store, key).all() for item in each.items] == waiting
        assert await again.pop_item() == output("0")
        assert len(await again.get_items(99)) == len(kept) - 1 + len(waiting)
        if not is_killed:
            break
    assert changes > 2


async def test_a_resume_that_was_killed_is_known_after_the_conversation_was_pruned(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    await session.add_items([user("One."), call("a")])
    assert await killed_after(store, 2, partial(session.add_items, [output("a")]))
    for number in range(5):
        await ChatringSession("ada", store).add_items([user(str(number)), answer(str(number))])
    store.prune(max_messages=2, prefix="ada")
    assert await ChatringSession("ada", store).get_items(9) == [user("4"), answer("4")]


async def test_an_undo_that_is_killed_at_any_moment_leaves_nothing_twice(store: Store[Item]) -> None:
    """The next undo puts the conversation right."""
    items = [user("One."), answer("1"), reasoning(), call("a"), call("b"), output("b"), output("a")]
    for changes in itertools.count():
        key = str(changes)
        await ChatringSession(key, store).add_items(items)
        undone = ChatringSession(key, store)
        is_killed = await killed_after(store, changes, undone.pop_item)
        again = ChatringSession(key, store)
        kept = await again.get_items(99)
        assert kept == items[: len(kept)]
        for left in range(len(kept), 0, -1):
            assert await again.pop_item() == items[left - 1]
            assert await again.get_items(99) == items[: left - 1]
            check_accepted(store.all(key))
        assert await again.pop_item() is None
        if not is_killed:
            break
    assert changes > 2


async def test_a_change_that_failed_before_it_was_made_can_be_made_again(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    await session.add_items([user("One."), call("a")])
    for changes in (0, 1):
        assert await killed_after(store, changes, partial(session.add_items, [output("a")]))
        assert await session.get_items(9) == [user("One."), call("a")]
    await session.add_items([output("a")])
    assert await session.get_items() == [user("One."), call("a"), output("a")]


# Where they are kept


async def test_an_abandoned_approval_does_not_let_the_store_grow(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    await session.add_items([user("One."), call("never")])
    for number in range(60):
        await session.add_items([call(str(number))])
        await session.add_items([output(str(number))])
        assert store.length("ada" + SUFFIX) == 1
    await session.add_items([output("never")])
    assert (await session.get_items())[-2:] == [call("never"), output("never")]
    assert store.length("ada" + SUFFIX) == 0


@pytest.mark.parametrize("bounds", [{"max_messages": 1}, {"max_tokens": 1}], ids=str)
async def test_prune_removes_nothing_that_waits(store: Store[Item], bounds: Any) -> None:
    for number in range(4):
        await ChatringSession("ada", store).add_items([user(str(number)), call(str(number))])
    store.prune(**bounds)
    for number in (0, 3, 1, 2):
        await ChatringSession("ada", store).add_items([output(str(number))])
    results = [item["call_id"] for item in store.all("ada") if "call_id" in item]
    assert results == ["0", "0", "3", "3", "1", "1", "2", "2"]


async def test_writers_at_once_lose_nothing(url: str) -> None:
    first, second = open_store(url), open_store(url)

    async def write(number: int) -> None:
        store = (first, second)[number % 2]
        for response in range(4):
            session = ChatringSession("ada", store)
            ids = [f"{number} {response} {place}" for place in range(3)]
            await session.add_items([*map(call, ids)])
            for name in ids:
                await ChatringSession("ada", store).add_items([output(name)])

    await asyncio.gather(*map(write, range(5)))
    kept = await ChatringSession("ada", first).get_items()
    check_accepted(kept)
    assert len(kept) == 5 * 4 * 6
    assert second.length("ada" + SUFFIX) == 0
    await first.aclose()
    await second.aclose()


# Two processes at once: one is stopped before each of its calls of the store, and the other comes in between.


async def interrupted(store: Store[Item], calls: int, act: Callable[[], Any], other: Callable[[], Any]) -> bool:
    """Act, and let `other` act before the call with this number. Return whether there was such a call.

    Otherwise it acts afterwards.
    """
    number = -1

    def counted(method: Any) -> Any:
        async def called(*args: Any, **options: Any) -> Any:
            nonlocal number
            number += 1
            if number == calls:
                await other()
            return await method(*args, **options)

        return called

    with pytest.MonkeyPatch.context() as patched:
        for name in ("aappend", "aupdate", "adelete", "awindow", "alast", "aslice"):
            patched.setattr(store, name, counted(getattr(store, name)))
        await act()
    if number < calls:
        await other()
    return number >= calls


@pytest.fixture
def url(tmp_path: Any) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}?synchronous=OFF"


BEGIN = [user("One."), answer("1"), user("Two.")]
STEP = [reasoning(), call("a"), call("b")]
RESULTS = [output("a"), output("b")]


@pytest.mark.parametrize("results", [RESULTS, RESULTS[::-1]], ids=["alike", "in another order"])
async def test_a_run_that_two_resume_at_once_is_stored_once(url: str, results: list[Any]) -> None:
    store, another = open_store(url), open_store(url)
    for calls in itertools.count():
        key = str(calls)
        await ChatringSession(key, store).add_items([*BEGIN, *STEP])
        one, two = ChatringSession(key, store), ChatringSession(key, another)
        goes_on = await interrupted(store, calls, partial(one.add_items, RESULTS), partial(two.add_items, results))
        kept = await two.get_items()
        assert kept in ([*BEGIN, *STEP, *RESULTS], [*BEGIN, *STEP, *results])
        assert await two.get_items(99) == kept
        if not goes_on:
            break
    assert calls > 4
    await store.aclose()
    await another.aclose()


async def test_two_results_that_come_at_once(url: str) -> None:
    store, another = open_store(url), open_store(url)
    for calls in itertools.count():
        key = str(calls)
        await ChatringSession(key, store).add_items([*BEGIN, *STEP])
        one, two = ChatringSession(key, store), ChatringSession(key, another)
        goes_on = await interrupted(
            store, calls, partial(one.add_items, RESULTS[:1]), partial(two.add_items, RESULTS[1:])
        )
        kept = await two.get_items()
        assert kept in ([*BEGIN, *STEP, *RESULTS], [*BEGIN, *STEP, *RESULTS[::-1]])
        assert await two.get_items(99) == kept
        if not goes_on:
            break
    assert calls > 2
    await store.aclose()
    await another.aclose()


@pytest.mark.parametrize("ending", [[], STEP, [*STEP, *RESULTS], [call("a"), output("a"), answer("2")]], ids=str)
@pytest.mark.parametrize("change", ["add", "pop", "add a response", "add a call", "clear"])
async def test_an_undo_that_meets_another_change(url: str, ending: list[Any], change: str) -> None:
    store, another = open_store(url), open_store(url)
    everything = [*BEGIN, *ending]
    for calls in itertools.count():
        key = str(calls)
        await ChatringSession(key, store).add_items(copy.deepcopy(everything))
        one, two = ChatringSession(key, store), ChatringSession(key, another)
        popped: list[Any] = []

        async def undo(session: ChatringSession = one, popped: list[Any] = popped) -> None:
            popped.append(await session.pop_item())

        acts: dict[str, Callable[[], Any]] = {
            "add": partial(two.add_items, [user("Three.")]),
            "add a response": partial(two.add_items, [reasoning("r"), call("c"), output("c")]),
            "add a call": partial(two.add_items, [call("c")]),
            "pop": partial(undo, two),
            "clear": two.clear_session,
        }
        goes_on = await interrupted(store, calls, undo, acts[change])
        check_accepted(store.all(key))
        left = await two.get_items(99)
        match change:
            case "clear":
                assert popped in ([None], everything[-1:])
                assert left in ([], everything[:-1])
            case "pop":
                assert left == everything[:-2]
                assert popped in (everything[-2:], everything[:-3:-1])
            case _:
                added = {
                    "add": [user("Three.")],
                    "add a response": [reasoning("r"), call("c"), output("c")],
                    "add a call": [call("c")],
                }[change]
                if popped == added[-1:]:
                    assert left == everything + added[:-1]
                else:
                    assert popped == everything[-1:]
                    assert left == everything[:-1] + added
        if not goes_on:
            break
    assert calls > 1
    await store.aclose()
    await another.aclose()
