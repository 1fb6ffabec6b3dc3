"""The options of rings in `ChatMemoryBuffer`: defaults, errors, saving, and windows, which are a `MessageRing`'s."""

import asyncio
import copy
import json
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import tiktoken
from chatring import MessageRing
from chatring.llama_index import ChatMemoryBuffer, RingChatStore, SQLChatStore
from chatring.stores import CounterMismatchError
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexChatMemoryBuffer
from llama_index.core.storage.chat_store import BaseChatStore, SimpleChatStore
from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step
from profiles import examples, slow

KEY = "chat_history"
OPTIONS = ("measure", "start_on", "include_system", "retention_ratio")
LLAMA_INDEX = ("text", None, False, 1.0)
WORDS = "what is it that you said about the ring and the ledger"


def options(memory: ChatMemoryBuffer) -> tuple[Any, ...]:
    return tuple(getattr(memory, name) for name in OPTIONS)


def called(*ids: str) -> ChatMessage:
    blocks = [ToolCallBlock(tool_call_id=call, tool_name="add", tool_kwargs={"a": 1}) for call in ids]
    return ChatMessage(role="assistant", blocks=blocks)


def answered(call: str) -> ChatMessage:
    return ChatMessage("42", role="tool", additional_kwargs={"tool_call_id": call})


def agents(turns: int = 8) -> list[ChatMessage]:
    """Return a history with a head, and steps with calls."""
    history = [ChatMessage("Be brief.", role="system")]
    for turn in range(turns):
        history += [ChatMessage(f"{WORDS} {turn}?"), called(f"{turn}"), answered(f"{turn}")]
        history.append(ChatMessage(f"It is {turn}.", role="assistant"))
    return history


def ring_of(history: list[ChatMessage], memory: ChatMemoryBuffer, **bounds: Any) -> MessageRing[ChatMessage]:
    """Return the ring that has the memory's options."""
    ring: MessageRing[ChatMessage] = MessageRing(
        memory.token_limit,
        "cl100k_base",
        measure=memory.measure,
        start_on=memory.start_on,
        include_system=memory.include_system,
        retention_ratio=memory.retention_ratio,
        **bounds,
    )
    ring.put_messages(history)
    return ring


@pytest.fixture(params=["ring", "simple", "sql"])
def chat_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseChatStore]:
    if request.param == "sql":
        store = SQLChatStore(f"sqlite:///{tmp_path / 'chat.db'}", measure="message")
        yield store
        store.store.close()
    else:
        yield RingChatStore() if request.param == "ring" else SimpleChatStore()


class TestDefaults:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, LLAMA_INDEX),
            ({"measure": "text"}, LLAMA_INDEX),
            ({"start_on": None, "include_system": False, "retention_ratio": 1}, LLAMA_INDEX),
            ({"include_system": None}, LLAMA_INDEX),
            ({"measure": "message"}, ("message", "user", True, 1.0)),
            ({"measure": "message", "start_on": None}, ("message", None, True, 1.0)),
            ({"measure": "message", "include_system": False}, ("message", "user", False, 1.0)),
            ({"measure": "message", "start_on": "user", "retention_ratio": 0.7}, ("message", "user", True, 0.7)),
            ({"measure": "message", "retention_ratio": 0}, ("message", "user", True, 0)),
        ],
        ids=str,
    )
    def test_what_is_not_given(self, given: dict[str, Any], expected: tuple[Any, ...]) -> None:
        assert options(ChatMemoryBuffer(token_limit=10, **given)) == expected
        assert options(ChatMemoryBuffer.from_defaults(**given)) == expected
        assert options(ChatMemoryBuffer.model_validate({"token_limit": 10, **given})) == expected

    def test_other_keywords_are_refused_as_in_llama_index(self) -> None:
        with pytest.raises(ValueError, match=r"^Unexpected kwargs: \{'start': 'user'\}$"):
            ChatMemoryBuffer.from_defaults(measure="message", start="user")

    def test_a_subclass_may_have_defaults_of_its_own(self) -> None:
        class Cached(ChatMemoryBuffer):
            measure: Literal["text", "message"] = "message"
            retention_ratio: float = 0.7

        for memory in (
            Cached(token_limit=10),
            Cached.from_defaults(),
            Cached.from_dict(Cached(token_limit=10).to_dict()),
        ):
            assert options(memory) == ("message", "user", True, 0.7)
        assert options(Cached(token_limit=10, start_on=None, retention_ratio=1.0)) == ("message", None, True, 1.0)
        assert options(Cached(token_limit=10, measure="text", retention_ratio=1.0)) == LLAMA_INDEX


NEEDED = (
    '{name}={value} needs measure="message": measure="text" is LlamaIndex\'s rule, which goes with {name}={theirs} '
    'alone. Add measure="message", or leave {name} out'
)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "value", "theirs"),
        [("start_on", "user", None), ("include_system", True, False), ("retention_ratio", 0.7, 1.0)],
    )
    def test_what_needs_the_other_measure(self, name: str, value: Any, theirs: Any) -> None:
        said = NEEDED.format(name=name, value=repr(value), theirs=repr(theirs))
        memory = ChatMemoryBuffer(token_limit=10)
        calls: list[Callable[[], Any]] = [
            lambda: ChatMemoryBuffer(token_limit=10, **{name: value}),
            lambda: ChatMemoryBuffer(token_limit=10, measure="text", **{name: value}),
            lambda: ChatMemoryBuffer.from_defaults(**{name: value}),
            lambda: ChatMemoryBuffer.from_dict({"token_limit": 10, name: value}),
            lambda: setattr(memory, name, value),
            lambda: memory.model_copy(update={name: value}),
        ]
        for call in calls:
            with pytest.raises(ValueError) as raised:  # noqa: PT011
                call()
            assert said in str(raised.value)
        assert options(memory) == LLAMA_INDEX

    @pytest.mark.parametrize(
        ("given", "error", "said"),
        [
            ({"measure": "words"}, ValueError, 'measure must be "text" or "message", got \'words\''),
            ({"measure": len}, ValueError, 'measure must be "text" or "message", got <built-in function len>'),
            ({"measure": []}, ValueError, 'measure must be "text" or "message", got []'),
            ({"measure": "message", "start_on": "tool"}, ValueError, "start_on must be \"user\" or None, got 'tool'"),
            ({"measure": "message", "include_system": 1}, TypeError, "include_system must be a bool, got 1 (int)"),
            ({"measure": "message", "retention_ratio": 1.1}, ValueError, "retention_ratio must be between 0 and 1"),
            ({"measure": "message", "retention_ratio": "1"}, TypeError, "retention_ratio must be a number"),
        ],
        ids=str,
    )
    def test_other_values(self, given: dict[str, Any], error: type[Exception], said: str) -> None:
        for make in (ChatMemoryBuffer, ChatMemoryBuffer.from_defaults):
            with pytest.raises(error) as raised:
                make(token_limit=10, **given)
            assert said in str(raised.value)

    def test_a_budget_without_room(self, chat_store: BaseChatStore) -> None:
        memory = ChatMemoryBuffer(token_limit=20, measure="message", chat_store=chat_store)
        for history in ([], agents(1)):
            memory.set(history)
            gets: list[Callable[..., Any]] = [memory.get, lambda **keywords: asyncio.run(memory.aget(**keywords))]
            for get in gets:
                with pytest.raises(ValueError, match=r"^initial token count exceeds token limit: 21 > 20; raise"):
                    get(initial_token_count=21)
                with pytest.raises(TypeError, match=r"^initial_token_count must be an integer, got 1\.5 \(float\)$"):
                    get(initial_token_count=1.5)
        assert memory.get(initial_token_count=None) == memory.get()  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match=r"^the 7 tokens of the system messages and the initial token count of 18 "
        ):
            memory.get(initial_token_count=18)
        with pytest.raises(ValueError, match=r"^Initial token count exceeds token limit$"):
            ChatMemoryBuffer(token_limit=20).get(initial_token_count=21)


class TestWindows:
    @pytest.mark.parametrize("start_on", ["user", None])
    @pytest.mark.parametrize("include_system", [True, False])
    @pytest.mark.parametrize("retention_ratio", [1.0, 0.7, 0.0])
    def test_windows_are_those_of_a_ring(
        self,
        start_on: Literal["user"] | None,
        include_system: bool,
        retention_ratio: float,
        tmp_path: Path,
    ) -> None:
        sql = SQLChatStore(f"sqlite:///{tmp_path / 'chat.db'}", measure="message", start_on=start_on)
        for store in (RingChatStore(), SimpleChatStore(), sql):
            memory = ChatMemoryBuffer(
                token_limit=100,
                chat_store=store,
                measure="message",
                start_on=start_on,
                include_system=include_system,
                retention_ratio=retention_ratio,
            )
            ring = ring_of([], memory)
            for message in agents():
                memory.put(message)
                ring.put(message)
                for initial in (0, 30):
                    window = ring.get(initial_token_count=initial)
                    assert memory.get(initial_token_count=initial) == window
                    assert asyncio.run(memory.aget(initial_token_count=initial)) == window
                assert memory.token_count() == ring.token_count()
            assert len(memory.get()) < len(memory.get_all())
        sql.store.close()

    @settings(max_examples=examples(100, long=1_000))
    @given(
        st.lists(st.sampled_from(("system", "user", "assistant", "call", "tool")), max_size=25),
        st.integers(1, 120),
        st.sampled_from(("user", None)),
        st.booleans(),
        st.sampled_from((1.0, 0.7, 0.2)),
    )
    def test_any_history(
        self, kinds: list[str], limit: int, start_on: Any, include_system: bool, retention_ratio: float
    ) -> None:
        given: dict[str, Any] = {
            "measure": "message",
            "start_on": start_on,
            "include_system": include_system,
            "retention_ratio": retention_ratio,
        }
        special = {"call": called("1"), "tool": answered("1")}
        history = [special.get(kind) or ChatMessage(WORDS[: 5 * i], role=kind) for i, kind in enumerate(kinds)]

        def outcome(get: Callable[[], Any]) -> Any:
            try:
                return get()
            except ValueError as error:
                return str(error)

        for store in (RingChatStore(), SimpleChatStore()):
            memory = ChatMemoryBuffer.from_defaults(history, chat_store=store, token_limit=limit, **given)
            assert outcome(memory.get) == outcome(ring_of(history, memory).get)

    def test_the_counter_is_the_memorys(self, o200k: tiktoken.Encoding) -> None:
        for tokenizer in (o200k.encode, str.split):
            memory = ChatMemoryBuffer.from_defaults(agents(), token_limit=60, tokenizer_fn=tokenizer, measure="message")
            ring: MessageRing[ChatMessage] = MessageRing(60, tokenizer)
            ring.set(agents())
            assert memory.get() == ring.get() == asyncio.run(memory.aget())
            assert memory.token_count() == ring.token_count()

    def test_options_assigned_later_count_at_once(self) -> None:
        memory = ChatMemoryBuffer.from_defaults(agents(), token_limit=100)
        theirs = LlamaIndexChatMemoryBuffer.from_defaults(agents(), token_limit=100)
        assert memory.get() == theirs.get()
        memory.measure = "message"
        assert options(memory) == ("message", None, False, 1.0)
        assert memory.get() == ring_of(agents(), memory).get()
        memory.start_on = "user"
        memory.include_system = True
        memory.retention_ratio = 0.5
        assert memory.get() == asyncio.run(memory.aget()) == ring_of(agents(), memory).get()
        with pytest.raises(ValueError, match="start_on='user' needs measure"):
            memory.measure = "text"
        memory.start_on, memory.include_system, memory.retention_ratio = None, False, 1.0
        memory.measure = "text"
        assert memory.get() == asyncio.run(memory.aget()) == theirs.get()

    def test_messages_edited_in_place_are_counted_again(self) -> None:
        memory = ChatMemoryBuffer.from_defaults(agents(), token_limit=100, measure="message")
        before = memory.get()
        memory.get_all()[-4].content = WORDS * 5
        assert memory.get() == ring_of(memory.get_all(), memory).get() != before

    def test_methods_of_a_subclass_are_honoured(self, chat_store: BaseChatStore) -> None:
        class Shouting(ChatMemoryBuffer):
            def get_all(self) -> list[ChatMessage]:
                return [ChatMessage(str(message.content).upper(), role=message.role) for message in super().get_all()]

        memory = Shouting(token_limit=40, measure="message", chat_store=chat_store)
        memory.put_messages(agents())
        window = ring_of(memory.get_all(), memory).get()
        assert memory.get() == asyncio.run(memory.aget()) == window
        assert window[0].content == "BE BRIEF."

    def test_a_method_replaced_in_the_store_is_honoured(self) -> None:
        store = RingChatStore(store={KEY: agents()})
        memory = ChatMemoryBuffer(token_limit=1_000, measure="message", chat_store=store)
        assert len(memory.get()) == 33
        store.__dict__["get_messages"] = lambda key: agents(1)
        assert memory.get() == asyncio.run(memory.aget()) == agents(1)


class TestOnALoop:
    def test_only_much_is_counted_in_a_thread(self, hops: list[Any]) -> None:
        async def run() -> None:
            memory = ChatMemoryBuffer(token_limit=3000, measure="message", retention_ratio=0.7)
            await memory.aput_messages([ChatMessage("Be brief.", role="system"), ChatMessage(WORDS)])
            assert await memory.aget() == memory.get()
            assert hops == []
            await memory.aput(ChatMessage("words " * 5_000))
            assert await memory.aget() == memory.get()
            assert len(hops) == 1
            # What is counted is not counted again.
            await memory.aput(ChatMessage("Yes.", role="assistant"))
            assert await memory.aget() == memory.get()
            assert len(hops) == 1

        asyncio.run(run())


class TestRingChatStore:
    def test_one_session_answers_both_measures(self) -> None:
        store = RingChatStore(store={KEY: agents(), "other": agents(1)})
        text = ChatMemoryBuffer(token_limit=100, chat_store=store)
        message = ChatMemoryBuffer(token_limit=100, chat_store=store, measure="message")
        other_start = ChatMemoryBuffer(token_limit=100, chat_store=store, measure="message", start_on=None)
        theirs = LlamaIndexChatMemoryBuffer.from_defaults(agents(), token_limit=100)
        for _ in range(2):
            assert text.get() == asyncio.run(text.aget()) == theirs.get()
            assert text.token_count() == theirs._token_count_for_messages(agents())
            for memory in (message, other_start):
                ring = ring_of(agents(), memory)
                assert memory.get() == asyncio.run(memory.aget()) == ring.get()
                assert memory.token_count() == ring.token_count()
            for memory in (text, message):
                memory.put(ChatMessage("more"))
            for history in (theirs.chat_store.get_messages(KEY),):
                assert store.get_messages(KEY)[: len(history)] == history
            store.set_messages(KEY, agents())
        assert store.get_keys() == [KEY, "other"]

    @slow
    def test_memories_that_ask_by_turns_lose_nothing(self) -> None:
        """While one thread's window moves a session into another ring, others put into it."""
        store = RingChatStore()
        memories = [ChatMemoryBuffer(token_limit=200, chat_store=store, measure=m) for m in ("text", "message")]
        done = threading.Event()
        errors: list[BaseException] = []

        def read(memory: ChatMemoryBuffer) -> None:
            try:
                while not done.is_set():
                    window = memory.get()
                    assert not window or window[-1].role == "user"
            except BaseException as error:
                errors.append(error)

        def write(writer: int) -> None:
            for number in range(150):
                memories[number % 2].put(ChatMessage(f"{writer} {number}"))

        readers = [threading.Thread(target=read, args=(memory,), daemon=True) for memory in memories]
        writers = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(4)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join(600)
        done.set()
        for thread in readers:
            thread.join(600)
        assert errors == []
        texts = [str(message.content).split() for message in store.get_messages(KEY)]
        for writer in range(4):
            assert [int(number) for who, number in texts if who == str(writer)] == list(range(150))

    def test_asking_begins_no_session(self) -> None:
        memory = ChatMemoryBuffer(token_limit=100, measure="message")
        assert memory.get() == asyncio.run(memory.aget()) == []
        assert memory.token_count() == 0
        assert memory.chat_store.get_keys() == []

    def test_a_bound_by_messages_keeps_the_head(self) -> None:
        evicted: list[ChatMessage] = []
        store = RingChatStore(
            max_messages=6, measure="message", on_evict=lambda key, messages: evicted.extend(messages)
        )
        memory = ChatMemoryBuffer(token_limit=3000, chat_store=store, measure="message")
        history = agents()
        ring = ring_of(history, memory, max_messages=6)
        memory.put_messages(history[:20])
        memory.put_messages(history[20:])
        assert memory.get() == memory.get_all() == ring.get_all()
        assert memory.get_all()[0] is history[0]
        kept = {id(message) for message in memory.get_all()}
        # Exactly once. A question stays as long as a step of it does, so it leaves after some that are younger.
        assert sorted(map(id, evicted)) == sorted(id(message) for message in history if id(message) not in kept)

        evicted.clear()
        memory.set(history)
        assert memory.get_all() == ring.get_all()
        assert [id(message) for message in evicted] == [id(m) for m in history if id(m) not in kept]

    def test_a_session_that_is_counted_otherwise_has_the_bounds_of_its_measure(self) -> None:
        evicted: list[str | None] = []
        store = RingChatStore(
            max_messages=2, on_evict=lambda key, messages: evicted.extend(m.content for m in messages)
        )
        message = ChatMemoryBuffer(token_limit=3000, chat_store=store, measure="message")
        message.set([ChatMessage("head", role="system"), ChatMessage("one")])
        assert len(message.get()) == 2
        message.put(ChatMessage("two"))
        assert [found.content for found in message.get_all()] == ["head", "one", "two"]
        assert evicted == []
        # Under LlamaIndex's measure the head is a message like any other.
        assert len(ChatMemoryBuffer(token_limit=3000, chat_store=store).get()) == 2
        assert evicted == ["head"]

    def test_the_measure_is_saved_and_fixed(self) -> None:
        store = RingChatStore(store={KEY: agents(1)}, measure="message", max_messages=9)
        assert store.to_dict().keys() == {"store", "max_messages", "measure", "class_name"}
        assert RingChatStore().to_dict() == {"store": {}, "class_name": "RingChatStore"}
        for back in (RingChatStore.from_dict(store.to_dict()), pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
            assert (back.measure, back.max_messages) == ("message", 9)
            assert back.ring(KEY).measure == "message"  # type: ignore[union-attr]
        for assign in (
            lambda: setattr(store, "measure", "text"),
            lambda: store.model_copy(update={"measure": "text"}),
        ):
            with pytest.raises(
                ValueError, match=r"^measure of a RingChatStore is fixed when it is made and cannot become"
            ):
                assign()
        with pytest.raises(ValueError, match="'text' or 'message'"):
            RingChatStore(measure="words")


class TestSQLChatStore:
    def test_measure_and_start_must_be_the_memorys(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'chat.db'}"
        cases: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
            ({}, {"measure": "message"}, "measure='message', start_on='user'", "measure='text', start_on=None"),
            ({"measure": "message"}, {}, "measure='text', start_on=None", "measure='message', start_on='user'"),
            (
                {"measure": "message"},
                {"measure": "message", "start_on": None},
                "measure='message', start_on=None",
                "measure='message', start_on='user'",
            ),
        ]
        for number, (stores, memorys, asked, has) in enumerate(cases):
            store = SQLChatStore(url, **stores)
            memory = ChatMemoryBuffer(token_limit=10, chat_store=store, chat_store_key=str(number), **memorys)
            memory.put(ChatMessage("a"))
            said = (
                f"the memory has {asked}, its chat store {has}: give both the same, as SQLChatStore(..., {asked}) and "
                f"ChatMemoryBuffer(..., {asked})"
            )
            for call in (memory.get, memory.token_count, lambda: asyncio.run(memory.aget())):  # noqa: B023
                with pytest.raises(CounterMismatchError) as raised:
                    call()
                assert str(raised.value) == said
            store.store.close()

    def test_a_session_that_was_counted_otherwise(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'chat.db'}"
        text = SQLChatStore(url)
        text.set_messages(KEY, agents())
        text.store.close()
        store = SQLChatStore(url, measure="message")
        memory = ChatMemoryBuffer(token_limit=100, chat_store=store, measure="message")
        with pytest.raises(CounterMismatchError, match=r"recount\('chat_history'\)"):
            memory.get()
        store.store.recount(KEY)
        assert memory.get() == ring_of(agents(), memory).get()
        store.store.close()

    @pytest.mark.parametrize("start_on", ["user", None])
    def test_measure_and_start_are_saved(self, start_on: Any, tmp_path: Path) -> None:
        store = SQLChatStore(f"sqlite:///{tmp_path / 'chat.db'}", measure="message", start_on=start_on)
        saved = store.to_dict()
        assert saved["options"] == {"measure": "message", "start_on": start_on}
        store.store.close()
        del store
        back = SQLChatStore.from_dict(json.loads(json.dumps(saved)))
        assert (back.store.measure, back.store.start_on) == ("message", start_on)
        back.store.close()

    def test_a_window_of_so_many_tokens_by_the_stores_own_rule(self, tmp_path: Path) -> None:
        store = SQLChatStore(f"sqlite:///{tmp_path / 'chat.db'}", measure="message")
        store.add_messages(KEY, agents())
        memory = ChatMemoryBuffer(token_limit=100, measure="message")
        assert store.window(KEY, 100) == asyncio.run(store.awindow(KEY, 100)) == ring_of(agents(), memory).get()
        assert store.token_count(KEY) == asyncio.run(store.atoken_count(KEY)) == ring_of(agents(), memory).token_count()
        store.store.close()


SAVED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"measure": "text", "retention_ratio": 1.0}, {}),
    ({"measure": "message"}, {"measure": "message", "start_on": "user", "include_system": True}),
    (
        # Also forms of LlamaIndex's that could be mistaken for others.
        {"measure": "message", "start_on": None, "include_system": False},
        {"measure": "message", "start_on": None, "include_system": False},
    ),
    (
        {"measure": "message", "retention_ratio": 0.7},
        {"measure": "message", "start_on": "user", "include_system": True, "retention_ratio": 0.7},
    ),
]
there_and_back: list[Callable[[ChatMemoryBuffer], Any]] = [
    lambda memory: ChatMemoryBuffer.from_dict(memory.to_dict()),
    lambda memory: ChatMemoryBuffer.from_string(memory.to_string()),
    lambda memory: ChatMemoryBuffer.from_json(memory.to_json()),
    lambda memory: ChatMemoryBuffer.model_validate(memory.model_dump()),
    lambda memory: ChatMemoryBuffer.model_validate_json(memory.model_dump_json()),
    lambda memory: pickle.loads(pickle.dumps(memory)),
    copy.copy,
    copy.deepcopy,
    lambda memory: memory.model_copy(),
    lambda memory: memory.model_copy(deep=True, update={"chat_store_key": KEY}),
]


class TestSaved:
    @pytest.mark.parametrize(("given", "written"), SAVED, ids=str)
    def test_options_are_written_if_they_are_not_llama_indexs(
        self, given: dict[str, Any], written: dict[str, Any]
    ) -> None:
        memory = ChatMemoryBuffer.from_defaults(agents(), token_limit=100, **given)
        for data in (memory.to_dict(), json.loads(memory.to_string()), memory.model_dump()):
            assert {name: value for name, value in data.items() if name in OPTIONS} == written
        # LlamaIndex reads it, without them.
        assert LlamaIndexChatMemoryBuffer.from_dict(memory.to_dict()).token_limit == 100

    @pytest.mark.parametrize("copied", there_and_back)
    @pytest.mark.parametrize("given", [given for given, _ in SAVED], ids=str)
    def test_there_and_back(self, given: dict[str, Any], copied: Callable[[ChatMemoryBuffer], Any]) -> None:
        memory = ChatMemoryBuffer.from_defaults(agents(), token_limit=100, **given)
        window = memory.get()
        back = copied(memory)
        assert options(back) == options(memory)
        assert back.get() == window
        assert back.get_all() == memory.get_all()

    def test_in_a_context(self) -> None:
        class Nothing(Workflow):
            @step
            async def nothing(self, event: StartEvent) -> StopEvent:
                return StopEvent()

        async def run() -> Any:
            context: Context[Any] = Context(Nothing())
            memory = ChatMemoryBuffer.from_defaults(agents(1), measure="message", retention_ratio=0.7)
            await context.store.set("my_memory", memory)
            again: Context[Any] = Context.from_dict(Nothing(), json.loads(json.dumps(context.to_dict())))
            return await again.store.get("my_memory")

        back = asyncio.run(run())
        assert type(back) is ChatMemoryBuffer
        assert options(back) == ("message", "user", True, 0.7)
        assert len(back.get()) == 5

    def test_made_without_checks(self) -> None:
        memory = ChatMemoryBuffer.model_construct(token_limit=100, measure="message")
        memory.put_messages(agents())
        assert options(memory) == ("message", None, False, 1.0)
        assert memory.get() == ring_of(agents(), memory).get()

    def test_a_memory_of_an_earlier_release(self) -> None:
        memory = ChatMemoryBuffer(token_limit=10)
        state = {name: value for name, value in memory.__getstate__()["__dict__"].items() if name not in OPTIONS}
        back = ChatMemoryBuffer.__new__(ChatMemoryBuffer)
        back.__setstate__({"__dict__": state})
        assert options(back) == LLAMA_INDEX


def test_the_example_of_the_documents_runs() -> None:
    document = (Path(__file__).parents[2] / "docs" / "llama-index.md").read_text(encoding="utf-8")
    _, _, section = document.partition("## Options that LlamaIndex does not have")
    (block,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    exec(compile(block, "llama-index.md", "exec"), {})
