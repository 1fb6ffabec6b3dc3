"""`ChatringSession` without a runner: its protocol, what it refuses, and what it keeps aside."""

import asyncio
import contextlib
import copy
import json
import logging
from random import Random
from typing import Any, cast

import pytest
from adapter_stores import check_stores
from chatring.formats import JsonFormat

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents.memory import Session, SessionSettings, SQLiteSession
from chatring import MessageRing, Window
from chatring.openai_agents import ChatringSession
from chatring.stores import Record, Store, open_store
from openai_items import answer, call, output, reasoning, user
from openai_scripted_model import Item, thought
from profiles import examples
from providers import PROVIDERS, validate_openai_responses

STEP: list[Any] = [reasoning(), call("a"), call("b"), output("b"), output("a")]


@pytest.fixture
def store() -> Any:
    store = open_store("memory://")
    yield store
    store.close()


@pytest.fixture
def session(store: Store[Item]) -> ChatringSession:
    return ChatringSession("ada", store)


def test_it_is_a_session(session: ChatringSession) -> None:
    assert isinstance(session, Session)
    assert session.session_settings is None
    assert repr(session) == "ChatringSession('ada', SQLStore('sqlite://', 'o200k_base, message, user'), None)"


async def test_a_window_is_that_of_a_ring(store: Store[Item]) -> None:
    ring = MessageRing[Item]()
    items: list[Any] = [{"role": "developer", "content": "Be short."}]
    for number in range(60):
        items += [user(f"And number {number}?"), reasoning(), call(str(number)), output(str(number)), answer()]
    await ChatringSession("ada", store).add_items(items)
    ring.put_messages(items)
    for options in ({}, {"retention_ratio": 0.7}, {"initial_token_count": 90}, {"include_system": False}):
        window = await ChatringSession("ada", store, 400, **options).get_items()
        expected = ring.window(token_limit=400, **options)
        assert window == expected
        assert isinstance(window, Window)
        assert (window.start, window.tokens) == (expected.start, expected.tokens)
    assert await ChatringSession("ada", store).get_items() == items


async def test_an_explicit_limit_is_raw(session: ChatringSession) -> None:
    items: list[Any] = [user(), *STEP, answer()]
    await session.add_items(items)
    session.token_limit = 30
    for limit in range(10):
        assert await session.get_items(limit) == (items[-limit:] if limit else [])
    with pytest.raises(ValueError, match=r"^n must be at least 0, got -1$"):
        await session.get_items(-1)


async def test_nothing_is_popped_of_nothing(session: ChatringSession) -> None:
    assert await session.pop_item() is None
    await session.add_items([])
    assert await session.get_items() == []
    await session.clear_session()


async def test_items_are_popped_as_from_the_sdks_own_session(session: ChatringSession) -> None:
    theirs = SQLiteSession("ada")
    turns = (
        [user(), reasoning("s"), answer()],
        [user(), *STEP, reasoning("t"), answer()],
        [user(), call("c"), output("c")],
    )
    items = [item for turn in turns for item in turn]
    await session.add_items(items)
    await theirs.add_items(items)
    for _ in range(len(items) + 1):
        assert await session.pop_item() == await theirs.pop_item()
        assert await session.get_items(100) == await theirs.get_items(100)
        kept: Any = await session.get_items()
        validate_openai_responses([user(), *kept])
    theirs.close()


async def test_what_was_popped_can_be_added_again(session: ChatringSession) -> None:
    items: Any = [user(), *STEP, answer()]
    await session.add_items(items)
    popped = [await session.pop_item() for _ in range(3)]
    await session.add_items([item for item in reversed(popped) if item])
    assert await session.get_items() == items


async def test_items_may_come_one_by_one(session: ChatringSession) -> None:
    items: Any = [user(), reasoning(), call("a"), output("a"), reasoning("s"), answer(), user(), answer()]
    for number, item in enumerate(items, 1):
        await session.add_items([item])
        assert await session.get_items(100) == items[:number]
        kept: Any = await session.get_items()
        validate_openai_responses(kept)
    assert await session.get_items() == items


async def test_reasoning_that_nothing_follows_is_not_read(session: ChatringSession) -> None:
    """A response that ran out of tokens while it reasoned."""
    await session.add_items([user(), reasoning()])
    again = ChatringSession("ada", session.store)
    await again.add_items([user("Well?"), answer()])
    assert await again.get_items() == [user(), user("Well?"), answer()]


async def test_reasoning_that_nothing_followed_leads_no_later_response(session: ChatringSession) -> None:
    await session.add_items([user("One."), reasoning("cut off")])
    again = ChatringSession("ada", session.store)
    await again.add_items([user("Two.")])
    await again.add_items([reasoning("r"), call("a")])
    await again.add_items([output("a")])
    assert await again.get_items() == [user("One."), user("Two."), reasoning("r"), call("a"), output("a")]


async def test_reasoning_leads_what_its_own_run_adds(session: ChatringSession) -> None:
    other = ChatringSession("ada", session.store)
    await session.add_items([reasoning("one")])
    await other.add_items([reasoning("two")])
    await session.add_items([answer("One.")])
    await other.add_items([answer("Two.")])
    assert await session.get_items() == [reasoning("one"), answer("One."), reasoning("two"), answer("Two.")]


async def test_a_result_stands_with_its_call(session: ChatringSession) -> None:
    await session.add_items([call("a"), user(), answer(), output("a")])
    assert await session.get_items() == [call("a"), output("a"), user(), answer()]
    await session.add_items([output("b"), call("b")])
    assert await session.get_items(2) == [call("b"), output("b")]


async def test_a_result_is_that_of_the_call_in_front_of_it_if_ids_repeat(session: ChatringSession) -> None:
    """Some models number the calls of each response."""
    turns = [item for number in range(3) for item in (user(f"{number}?"), call("1"), output("1"), answer())]
    await session.add_items(turns)
    assert await session.get_items() == turns
    assert await session.pop_item() == answer()
    assert await session.pop_item() == output("1")
    assert await session.get_items() == turns[:-3]
    await session.add_items([output("1")])
    assert await session.get_items() == turns[:-1]


async def test_two_calls_of_one_response_with_one_id_wait_for_two_results(
    session: ChatringSession, caplog: pytest.LogCaptureFixture
) -> None:
    first: Any = {**output("1"), "output": "first"}
    second: Any = {**output("1"), "output": "second"}
    turn: list[Any] = [user(), call("1"), call("1"), first, second, answer()]
    await session.add_items(turn)
    assert await session.get_items() == turn
    assert [await session.pop_item(), await session.pop_item()] == [answer(), second]
    assert await session.get_items() == [user()]
    again = ChatringSession("ada", session.store)
    assert await again.get_items(4) == turn[:4]
    await again.add_items([second, answer()])
    assert await again.get_items() == turn
    later = ChatringSession("results come later", session.store)
    for items, expected in [(turn[:3], turn[:1]), ([first], turn[:1]), ([second], turn[:5]), ([answer()], turn)]:
        await later.add_items(items)
        assert await later.get_items() == expected
    assert not caplog.messages


async def test_a_result_without_its_call_is_left_out_with_a_warning(
    session: ChatringSession, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "chatring"):
        await session.add_items([user(), *STEP, output("c"), output("a"), answer()])
    assert await session.get_items() == [user(), *STEP, answer()]
    assert caplog.messages == [
        "results of calls that are not in session 'ada', or have a result, were left out: 'c', 'a'"
    ]


async def test_a_request_for_approval_waits_for_its_response(session: ChatringSession) -> None:
    """Tools of a hosted MCP server, which have ids of their own."""
    request: Any = {"type": "mcp_approval_request", "id": "q", "name": "f", "arguments": "{}", "server_label": "s"}
    response: Any = {"type": "mcp_approval_response", "approval_request_id": "q", "approve": True}
    done: Any = {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "server_label": "s", "output": "ok"}
    items: Any = [user(), request, response, done, answer()]
    await session.add_items(items[:2])
    assert await session.get_items() == items[:1]
    await session.add_items(items[2:])
    assert await session.get_items() == items


async def test_a_program_is_stored_as_it_comes(session: ChatringSession) -> None:
    caller = {"caller": {"type": "program", "caller_id": "p"}}
    program: Any = [{"type": "program", "call_id": "p", "code": "f()"}, {**call("a"), **caller}, output("a")]
    items: Any = [user(), *program, {"type": "program_output", "call_id": "p", "result": "ok"}, answer()]
    await session.add_items(items[:4])
    await session.add_items(items[4:])
    assert await session.get_items() == items


async def test_tools_that_the_provider_runs_need_no_answer(session: ChatringSession) -> None:
    search = {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "q"}}
    items: Any = [user(), search, answer(), {"type": "compaction", "encrypted_content": "..."}, user()]
    await session.add_items(items)
    assert await session.get_items() == items


async def test_an_sdks_object_is_stored_as_its_dict(session: ChatringSession) -> None:
    added: Any = thought()
    await session.add_items([user(), added, answer()])
    assert (await session.get_items())[1] == added.model_dump(exclude_unset=True)


async def test_items_that_are_none_change_nothing(session: ChatringSession) -> None:
    cases: Any = (
        ("Hi", "a store keeps messages that are JSON, such as dicts; got str"),
        ({"text": "Hi"}, "a message needs a role and a content"),
        ({**user(), "when": object()}, "a message that is stored must be JSON"),
        ({**call("waits"), "when": object()}, "a message that is stored must be JSON"),
        (Record("user", "Hi"), "an item of the SDK is a dict, got Record"),
    )
    for bad, reason in cases:
        with pytest.raises(TypeError, match=reason):
            await session.add_items([user(), bad, answer()])
    assert await session.get_items() == []


async def test_envelopes_of_an_encrypted_session_are_refused_in_words(session: ChatringSession) -> None:
    envelope: Any = {"__enc__": 1, "v": 1, "kid": "hkdf-v1", "payload": "gAAAAA"}
    with pytest.raises(ValueError, match=r"^a ChatringSession cannot be wrapped by EncryptedSession: .* format"):
        await session.add_items([user(), envelope])
    assert await session.get_items() == []


async def test_the_sdks_encrypted_session_is_refused(session: ChatringSession) -> None:
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    from agents.extensions.memory import EncryptedSession

    inner: Any = session
    encrypted = EncryptedSession("ada", inner, "a key of any length")
    with pytest.raises(ValueError, match="cannot be wrapped by EncryptedSession"):
        await encrypted.add_items([user()])


class Rot13:
    """A format that pretends to encrypt."""

    name = "rot13"

    def read(self, message: Item) -> Item:
        return message

    def dump(self, message: Item) -> str:
        return json.dumps(message).translate(str.maketrans("aeiou", "eioua"))

    def load(self, body: str) -> Item:
        return json.loads(body.translate(str.maketrans("eioua", "aeiou")))  # type: ignore[no-any-return]


async def test_a_format_may_encrypt_inside() -> None:
    store = open_store("memory://", format=Rot13())
    session = ChatringSession("ada", store, 1_000)
    await session.add_items([user(), call("a")])
    await session.add_items([output("a"), answer()])
    assert await session.get_items() == [user(), call("a"), output("a"), answer()]
    store.close()


def test_bad_arguments_are_named(store: Store[Item]) -> None:
    def make(*args: Any, **options: Any) -> Any:
        return ChatringSession(*args, **options)

    for error, reason, args, options in (
        (TypeError, r"a session's key must be a str, got int", (1, store), {}),
        (ValueError, r"a session id must not end with '/unanswered', .*'a/unanswered'", ("a/unanswered", store), {}),
        (ValueError, r"a session's key must have at most 1024 bytes", ("a" * 1_020, store), {}),
        (ValueError, r"0", ("a", store, 0), {}),
        (TypeError, r"True|bool", ("a", store, True), {}),
        (ValueError, r"1\.5", ("a", store, 100), {"retention_ratio": 1.5}),
        (ValueError, r"200", ("a", store, 100), {"initial_token_count": 200}),
    ):
        with pytest.raises(error, match=reason):
            make(*args, **options)
    for number in (True, 1.5, "5", None):
        with pytest.raises(TypeError, match="initial_token_count must be an integer"):
            make("a", store, 100, initial_token_count=number)
    with pytest.raises(ValueError, match=r"1\.5"):
        make("a", store, retention_ratio=1.5)


def test_other_stores_are_refused() -> None:
    needs = "ChatringSession needs a store of the SDK's items: open_store('sqlite:///chat.db'), shared by all sessions"
    check_stores(lambda store: ChatringSession("a", store), JsonFormat, needs)
    assert ChatringSession("a", open_store("memory://", format="openai-responses")).token_limit is None


async def test_settings_may_limit_to_a_number_of_items(session: ChatringSession) -> None:
    await session.add_items([user(), *STEP, answer()])
    session.session_settings = SessionSettings(limit=2)  # the runner passes it on, and takes off results without calls
    assert await session.get_items(session.session_settings.limit) == [output("a"), answer()]


async def test_many_writers_lose_nothing(store: Store[Item]) -> None:
    async def write(name: str) -> None:
        session = ChatringSession("ada", store)
        for number in range(5):
            one, other = f"{name} {number} one", f"{name} {number} other"
            await session.add_items([reasoning(one), call(one), call(other), output(other)])
            await asyncio.sleep(0)
            await session.add_items([output(one), answer(one)])

    await asyncio.gather(*(write(str(name)) for name in range(6)))
    kept: Any = await ChatringSession("ada", store).get_items()
    validate_openai_responses(kept)
    assert len(kept) == 6 * 5 * 6
    assert await ChatringSession("ada", store).get_items(1_000) == kept


async def test_nothing_that_another_run_adds_meanwhile_is_popped(
    store: Store[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = ChatringSession("ada", store), ChatringSession("ada", store)
    await session.add_items([user(), reasoning(), call("a"), output("a")])
    update, number = store.aupdate, 0

    async def add_meanwhile(*args: Any) -> Any:
        nonlocal number
        number += 1
        if number < 3:
            await other.add_items([user(f"Other {number}.")])
        return await update(*args)

    monkeypatch.setattr(store, "aupdate", add_meanwhile)
    assert await session.pop_item() == output("a")
    monkeypatch.undo()
    others = [user("Other 1."), user("Other 2.")]
    assert await session.get_items() == [user(), *others]
    assert await session.get_items(9) == [user(), reasoning(), call("a"), *others]


async def test_a_change_of_several_is_made_to_its_end_if_it_is_cancelled(store: Store[Item]) -> None:
    for delay in range(8):
        session = ChatringSession(f"ada {delay}", store)
        await session.add_items([user(), call("a")])
        task = asyncio.ensure_future(session.add_items([output("a"), answer()]))
        for _ in range(delay):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        kept = await session.get_items(9)
        assert kept in ([user(), call("a")], [user(), call("a"), output("a"), answer()])


def random_pieces(random: Random) -> list[list[Item]]:
    """Return a history in pieces: the items of a response are in one, its results in any number."""
    pieces: list[list[Item]] = []
    for part in PROVIDERS["openai-responses"].history(random):
        responses = [item for item in part if item.get("type") != "function_call_output"]
        pieces.append(responses)
        for item in part[len(responses) :]:
            if random.random() < 0.5:
                pieces.append([])
            pieces[-1].append(item)
        if random.random() < 0.3:
            pieces[-2:] = [[item for piece in pieces[-2:] for item in piece]]
    return pieces


async def test_random_histories_in_pieces(store: Store[Item]) -> None:
    """Whatever comes when: what is read is valid, nothing is lost, and it is in order."""
    for seed in range(examples(60, long=3_000)):
        session = ChatringSession(str(seed), store)
        added: list[Item] = []
        for piece in random_pieces(Random(seed)):
            await session.add_items([*cast(Any, copy.deepcopy(piece))])
            added += piece
            kept: Any = await session.get_items()
            validate_openai_responses(kept or [user()])
            assert await session.get_items(1_000) == added
        assert await session.get_items() == added
        for _ in range(Random(seed).randrange(8)):
            assert await session.pop_item() == (added.pop() if added else None)
            assert await session.get_items(1_000) == added
            kept = await session.get_items()
            validate_openai_responses(kept or [user()])


async def test_what_has_been_decided_does_not_pile_up(store: Store[Item]) -> None:
    session = ChatringSession("ada", store)
    for number in range(50):
        await session.add_items([call(str(number))])
        await session.add_items([output(str(number))])
    assert store.length("ada") == 100
    assert store.length("ada/unanswered") == 0
    await session.clear_session()
    assert store.keys() == []
