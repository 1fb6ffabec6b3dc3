"""Runs that wait for a human: a call is never in the session without its result. Both come together."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents import Runner, RunState, function_tool
from chatring.openai_agents import ChatringSession
from chatring.stores import Store, open_store
from openai_scripted_model import VERSION, Item, ScriptedModel, agent_of, called, config, find_order, said, thought
from providers import validate_openai_responses


@function_tool(needs_approval=True)
def refund(number: int) -> str:
    """Refund an order."""
    return f"Order {number} is refunded."


def kinds(items: list[Any]) -> list[str]:
    return [item.get("type", item.get("role")) for item in items]


class Shop:
    """A database, and a new session and agent for each run, as in another process."""

    def __init__(self, url: str, *responses: list[Any]) -> None:
        self.url = url
        self.answers = iter(responses)
        self.model = ScriptedModel(lambda given: next(self.answers))
        self.stores: list[Store[Item]] = []

    @property
    def session(self) -> ChatringSession:
        self.stores.append(open_store(self.url))
        return ChatringSession("ada", self.stores[-1], 4_000)

    @property
    def agent(self) -> Any:
        return agent_of(self.model, [find_order, refund])

    async def run(self, given: Any, *, streamed: bool = False) -> Any:
        if not streamed:
            return await Runner.run(self.agent, given, session=self.session, run_config=config())
        result = Runner.run_streamed(self.agent, given, session=self.session, run_config=config())
        async for _ in result.stream_events():
            pass
        return result

    async def saved(self, result: Any) -> RunState[Any, Any]:
        """Return the state of an interrupted run, written and read."""
        return await RunState.from_json(self.agent, result.to_state().to_json())

    def close(self) -> None:
        for store in self.stores:
            store.close()


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    shop = Shop(f"sqlite:///{tmp_path / 'chat.db'}", *request.param())
    yield shop
    shop.close()


def one_call() -> list[list[Any]]:
    return [[thought(), called("refund", number=1)], [said("It is refunded.")], [said("You are welcome.")]]


@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
@pytest.mark.parametrize("approves", [True, False], ids=["approved", "rejected"])
@pytest.mark.parametrize("shop", [one_call], ids=["one call"], indirect=True)
async def test_a_call_is_stored_when_it_is_decided(shop: Shop, approves: bool, streamed: bool) -> None:
    result = await shop.run("Refund it.", streamed=streamed)
    assert kinds(await shop.session.get_items()) == ["user"]
    assert kinds(await shop.session.get_items(9)) == ["user", "reasoning", "function_call"]
    assert kinds(await shop.session.get_items(1)) == ["function_call"]
    state = await shop.saved(result)
    for approval in state.get_interruptions():
        (state.approve if approves else state.reject)(approval)
    result = await shop.run(state, streamed=streamed)
    assert result.final_output == "It is refunded."
    everything = ["user", "reasoning", "function_call", "function_call_output", "message"]
    assert kinds(await shop.session.get_items()) == everything
    assert kinds(await shop.session.get_items(9)) == everything
    await shop.run("Thanks.")
    assert kinds(shop.model.requests[-1]) == [*everything, "user"]


def two_calls() -> list[list[Any]]:
    first = [thought(), called("refund", number=1), called("find_order", number=3), called("refund", number=2)]
    return [first, [said("They are refunded.")]]


@pytest.mark.parametrize("shop", [two_calls], ids=["two calls"], indirect=True)
async def test_calls_that_are_decided_one_by_one(shop: Shop) -> None:
    """The result that is there already waits with the others, after the reasoning that led to all of them."""
    result = await shop.run("Refund them.")
    assert kinds(await shop.session.get_items()) == ["user"]
    while result.interruptions:
        state = await shop.saved(result)
        state.approve(state.get_interruptions()[0])
        assert kinds(await shop.session.get_items()) == ["user"]
        result = await shop.run(state)
    calls, results = ["function_call"] * 3, ["function_call_output"] * 3
    assert kinds(await shop.session.get_items()) == ["user", "reasoning", *calls, *results, "message"]
    assert await shop.session.get_items() == await shop.session.get_items(100)


def never_decided() -> list[list[Any]]:
    return [[thought(), called("refund", number=1)], [said("What else?")], [said("It is refunded.")]]


@pytest.mark.parametrize("shop", [never_decided], ids=["never decided"], indirect=True)
async def test_another_run_goes_on_meanwhile(shop: Shop) -> None:
    interrupted = await shop.run("Refund it.")
    await shop.run("Never mind.")
    kept: Any = await shop.session.get_items()
    validate_openai_responses(kept)
    assert kinds(kept) == ["user", "user", "message"]
    state = await shop.saved(interrupted)  # and now somebody approves
    state.approve(state.get_interruptions()[0])
    await shop.run(state)
    kept = await shop.session.get_items()
    validate_openai_responses(kept)
    step = ["reasoning", "function_call", "function_call_output"]
    assert kinds(kept) == ["user", "user", "message", *step, "message"]


@pytest.mark.parametrize("shop", [never_decided], ids=["never decided"], indirect=True)
async def test_a_cleared_session_does_not_bring_the_call_back(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    interrupted = await shop.run("Refund it.")
    await shop.session.clear_session()
    assert await shop.session.get_items(9) == []
    state = await shop.saved(interrupted)
    state.approve(state.get_interruptions()[0])
    await shop.run(state)
    assert kinds(await shop.session.get_items()) == ["message"]
    assert "were left out: 'call_" in caplog.text


def fails_once() -> list[list[Any]]:
    return [[thought(), called("refund", number=1)], [said("It is refunded.")]]


@pytest.mark.skipif(VERSION < (0, 23), reason="before 0.23 the SDK does not write again what it failed to write")
@pytest.mark.parametrize("shop", [fails_once], ids=["fails once"], indirect=True)
async def test_a_resumed_run_whose_write_failed_finds_the_session_unchanged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK compares the last items with those before it wrote, to see whether it has written."""
    state = await shop.saved(await shop.run("Refund it."))
    state.approve(state.get_interruptions()[0])
    with monkeypatch.context() as patched:
        patched.setattr(Store, "aupdate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await shop.run(state)
    result = await shop.run(state)
    assert result.final_output == "It is refunded."
    assert kinds(await shop.session.get_items()) == [
        "user",
        "reasoning",
        "function_call",
        "function_call_output",
        "message",
    ]
