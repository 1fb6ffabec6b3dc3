"""`SQLChatStore` and `RedisChatStore` on real servers: beside `SimpleChatStore`, and in `ChatMemoryBuffer`."""

import asyncio
import copy
import datetime
import functools
import gc
import itertools
import json
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
import tiktoken
from chatring.llama_index import ChatMemoryBuffer, RedisChatStore, SQLChatStore
from chatring.llama_index.message_format import MessageFormat
from chatring.llama_index.store_chat_store import StoreChatStore
from chatring.stores import CounterMismatchError, ForeignDataError, StoreUnavailableError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ImageBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, TextBlock
from llama_index.core.schema import ImageDocument
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.loading import load_chat_store
from profiles import examples, slow
from stores.conftest import postgres_server, sqlite_url, valkey_server, valkey_url
from stores.servers import PASSWORD, PostgresServer
from test_differential import few_messages, messages, questions
from test_integration import AGENT_WARNINGS, RUNNING_WARNINGS, confirmed, function_agent
from test_integration import theirs as their_memory
from workflows.context import JsonSerializer, PickleSerializer

T = TypeVar("T")

FIXTURES = (postgres_server, sqlite_url, valkey_server, valkey_url)
KEY = "ada"


def opened(url: str, **options: Any) -> StoreChatStore:
    return RedisChatStore(url, **options) if url.startswith("redis") else SQLChatStore(url, **options)


@pytest.fixture(scope="module")
def postgres_database(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database("llama_index")


@pytest.fixture
def postgres_url(postgres_database: str) -> str:
    """The URL of a database without sessions: a new one would take a third of a second."""
    chat_store = SQLChatStore(postgres_database)
    for key in chat_store.get_keys():
        chat_store.store.delete(key)
    chat_store.store.close()
    return postgres_database


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def chat_store(url: str) -> Iterator[StoreChatStore]:
    chat_store = opened(url)
    yield chat_store
    chat_store.store.close()


def awaited(chat_store: StoreChatStore, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run what `work` returns in a loop of its own, and close the connections that belong to it."""

    async def run() -> T:
        try:
            return await work()
        finally:
            await chat_store.store.aclose()

    return asyncio.run(run())


def dumped(messages: list[ChatMessage] | None) -> list[str] | None:
    return None if messages is None else [message.model_dump_json() for message in messages]


def contents(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage(text) for text in texts]


# --- as a chat store --------------------------------------------------------------------------------------------------

keys = st.sampled_from(("a", "ü 世界 }%{", ""))
indices = st.integers(-4, 4)
calls = st.one_of(
    st.tuples(st.just("add_message"), keys, messages),
    st.tuples(st.just("add_message"), keys, messages),
    st.tuples(st.just("add_message"), keys, messages, st.one_of(indices, st.none())),
    st.tuples(st.just("set_messages"), keys, few_messages),
    st.tuples(st.just("get_messages"), keys),
    st.tuples(st.just("delete_messages"), keys),
    st.tuples(st.just("delete_message"), keys, indices),
    st.tuples(st.just("delete_last_message"), keys),
)
ASYNC_NAMES = {"add_message": "async_add_message"}


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, messages as JSON, or the type of what it raises."""
    try:
        result = call()
    except Exception as error:
        return type(error)
    if isinstance(result, ChatMessage):
        return result.model_dump_json()
    return dumped(result)


class TestAsSimpleChatStore:
    prefixes = itertools.count()

    @settings(
        max_examples=examples(40, long=400),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(calls, max_size=12), st.booleans())
    def test_every_method_in_lock_step(
        self, chat_store: StoreChatStore, calls: list[tuple[Any, ...]], asynchronous: bool
    ) -> None:
        prefix = f"{next(self.prefixes)}:"
        theirs = SimpleChatStore()

        async def ours_async(name: str, arguments: list[Any]) -> Any:
            return await getattr(chat_store, ASYNC_NAMES.get(name, f"a{name}"))(*arguments)

        for name, key, *arguments in calls:
            expected = outcome(lambda: getattr(theirs, name)(prefix + key, *arguments))  # noqa: B023
            if asynchronous:
                got = outcome(lambda: awaited(chat_store, lambda: ours_async(name, [prefix + key, *arguments])))  # noqa: B023
            else:
                got = outcome(lambda: getattr(chat_store, name)(prefix + key, *arguments))  # noqa: B023
            assert got == expected
            if name == "set_messages":  # LlamaIndex keeps the list it was given
                theirs.store[prefix + key] = list(arguments[0])
        assert sorted(key for key in chat_store.get_keys() if key.startswith(prefix)) == sorted(theirs.get_keys())
        assert sorted(awaited(chat_store, chat_store.aget_keys)) == sorted(chat_store.get_keys())
        for key, history in theirs.store.items():
            assert dumped(chat_store.get_messages(key)) == dumped(history)

    @pytest.mark.parametrize("bad", ["text", None, 3, {"role": "user", "content": "a"}])
    def test_what_is_no_message_is_refused_at_once(self, chat_store: StoreChatStore, bad: Any) -> None:
        chat_store.set_messages("a", said("0"))
        bad_calls: list[Callable[[], Any]] = [
            lambda: chat_store.add_message("a", bad),
            lambda: chat_store.add_message("a", bad, 0),
            lambda: chat_store.add_message("new", bad),
            lambda: chat_store.set_messages("a", [ChatMessage("b"), bad]),
            lambda: chat_store.set_messages("new", bad),
            lambda: chat_store.add_messages("a", [ChatMessage("b"), bad]),
            lambda: awaited(chat_store, lambda: chat_store.aset_messages("a", bad)),
            lambda: awaited(chat_store, lambda: chat_store.async_add_message("a", bad)),
            lambda: awaited(chat_store, lambda: chat_store.async_add_messages("a", [ChatMessage("b"), bad])),
        ]
        for call in bad_calls:
            with pytest.raises(TypeError, match=r"ChatMessage|iterable"):
                call()
        assert chat_store.get_keys() == ["a"]
        assert contents(chat_store.get_messages("a")) == ["0"]

    def test_the_methods_are_those_of_simple_chat_store(self, chat_store: StoreChatStore) -> None:
        import pydantic

        for name in dir(SimpleChatStore):
            persists = name in ("store", "persist", "from_persist_path", "custom_model_dump")
            if not name.startswith("_") and name not in dir(pydantic.BaseModel) and not persists:
                assert hasattr(chat_store, name), name
        assert chat_store
        assert not hasattr(chat_store, "__len__")

    def test_a_deleted_message_is_the_one_at_the_index(self, chat_store: StoreChatStore) -> None:
        chat_store.set_messages(KEY, said("0", "1", "2", "3"))
        assert contents([chat_store.delete_message(KEY, 1), chat_store.delete_message(KEY, -3)]) == ["1", "0"]  # type: ignore[list-item]
        assert chat_store.delete_message(KEY, 2) is chat_store.delete_message("nobody", -1) is None
        with pytest.raises(IndexError):
            chat_store.delete_message(KEY, -3)
        assert contents(chat_store.get_messages(KEY)) == ["2", "3"]


# --- messages as they are stored -------------------------------------------------------------------------------------


class Raw:
    """A format of texts that are stored as they are, and counted as "old"."""

    name = MessageFormat.name

    def read(self, message: str) -> dict[str, str]:
        return {"role": "user", "content": "old"}

    def dump(self, message: str) -> str:
        return message

    def load(self, body: str) -> str:
        return body


PLAIN = '{"role": "user", "content": "old"}'


def write(chat_store: StoreChatStore, *bodies: str) -> None:
    """Append to what is stored of a session, as somebody else might do it."""
    open_again: Any = type(chat_store.store)
    store = open_again(url_of(chat_store), counter="cl100k_base", measure="text", format=Raw())
    store.append(KEY, bodies)
    store.close()


class OwnBlock(TextBlock):
    block_type: Literal["own"] = "own"  # type: ignore[assignment]


class OwnContent(ChatMessage):
    @property  # type: ignore[misc]
    def content(self) -> str:
        return "SECRET"


def edited(content: str = "a", **fields: Any) -> ChatMessage:
    """Return a message with fields assigned, which LlamaIndex does not validate."""
    message = ChatMessage(content)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


class TestRoundTrip:
    MESSAGES = (
        ChatMessage("plain", role="system"),
        ChatMessage("", role="user"),
        ChatMessage(None, role="assistant"),
        ChatMessage("NUL \0 and <|endoftext|> 😀 \u2028 '; DROP TABLE x; -- redis.call('FLUSHALL')"),
        ChatMessage("a surrogate \ud800 alone"),
        ChatMessage("\udfff", role="tool", additional_kwargs={"tool_call_id": "\ud800"}),
        ChatMessage([TextBlock(text="one"), TextBlock(text="two")], role="developer"),
        ChatMessage([TextBlock(text="see"), ImageBlock(image=b"\x89PNG\r\n\x1a\n")]),
        ChatMessage(
            [ToolCallBlock(tool_call_id="1", tool_name="search", tool_kwargs={"query": "tea", "limit": 3})],
            role="assistant",
            additional_kwargs={"tool_calls": [{"id": "1", "nested": {"a": [None, 1.5, True]}}]},
        ),
        ChatMessage("big " * 250_000, role="tool", additional_kwargs={"tool_call_id": "1"}),
    )

    def test_messages_come_back_as_they_were(self, chat_store: StoreChatStore) -> None:
        chat_store.add_messages(KEY, list(self.MESSAGES))
        back = chat_store.get_messages(KEY)
        assert back == list(self.MESSAGES)
        assert all(type(message) is ChatMessage for message in back)
        assert [message.model_dump() for message in back] == [message.model_dump() for message in self.MESSAGES]
        assert chat_store.window(KEY, 10**9) == back

    @pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
    def test_what_is_counted_is_what_llama_index_counts(self, chat_store: StoreChatStore, message: ChatMessage) -> None:
        chat_store.add_message(KEY, message)
        assert chat_store.token_count(KEY) == their_memory(3000)._token_count_for_messages([message])

    def test_what_is_stored_is_the_json_of_llama_indexs_own_chat_stores(self) -> None:
        for message in self.MESSAGES:
            body = MessageFormat().dump(message)
            if not body.isascii() or "\\ud" not in body:
                assert body == message.model_dump_json()
            assert "\0" not in body

    def test_messages_are_read_anew(self, chat_store: StoreChatStore) -> None:
        (message,) = said("Hello.")
        chat_store.add_message(KEY, message)
        message.content = "Changed."
        chat_store.get_messages(KEY)[0].content = "Changed, too."
        assert contents(chat_store.get_messages(KEY)) == ["Hello."]

    def test_subclasses_come_back_as_chat_messages(self, chat_store: StoreChatStore) -> None:
        class Noted(ChatMessage):
            note: str = "n"

        class NotedBlock(TextBlock):
            note: str = "n"

        chat_store.add_message(KEY, Noted(blocks=[TextBlock(text="Hello.")]))
        chat_store.add_message(KEY, ChatMessage([NotedBlock(text="Hello.")]))
        assert chat_store.get_messages(KEY) == said("Hello.", "Hello.")
        assert type(chat_store.get_messages(KEY)[1].blocks[0]) is TextBlock
        assert json.loads(MessageFormat().dump(Noted(blocks=[TextBlock(text="Hello.")])))["note"] == "n"

    def test_values_come_back_as_their_json(self, chat_store: StoreChatStore) -> None:
        values = {"nan": math.nan, "inf": -math.inf, "bytes": b"\xff", "tuple": (1, 2), "set": {1}, "key": {3: 4}}
        values |= {"date": datetime.date(2026, 1, 31), "model": TextBlock(text="a")}
        chat_store.add_message(KEY, ChatMessage("a", additional_kwargs=values))
        assert chat_store.get_messages(KEY)[0].additional_kwargs == {
            "nan": None,
            "inf": None,
            "bytes": "/w==",
            "tuple": [1, 2],
            "set": [1],
            "key": {"3": 4},
            "date": "2026-01-31",
            "model": {"block_type": "text", "text": "a"},
        }

    def test_json_of_other_programs(self, chat_store: StoreChatStore) -> None:
        write(chat_store, '{"role": "tool", "content": "42"}', '{"role": "user", "content": "Hello?"}')
        assert chat_store.get_messages(KEY) == [ChatMessage("42", role="tool"), ChatMessage("Hello?")]

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ('{"role": "customer", "content": "SECRET"}', "role: Input should be 'system', "),
            ("SECRET", "not JSON of a message: "),
            ("{", "not JSON of a message: "),
            ("[" * 100_000, "not JSON of a message: "),
            ("[]", ""),
            ('{"blocks": [{"text": "SECRET"}]}', "blocks.0: Unable to extract tag"),
            ('{"content": "a", "additional_kwargs": {"images": [1]}}', "not JSON of a message: "),
        ],
        ids=range(7),
    )
    def test_what_is_not_a_message_is_a_named_error(self, chat_store: StoreChatStore, body: str, reason: str) -> None:
        write(chat_store, PLAIN, body, PLAIN)
        reads: tuple[Callable[[], Any], ...] = (
            lambda: chat_store.get_messages(KEY),
            lambda: chat_store.window(KEY, 1_000_000),
            lambda: awaited(chat_store, lambda: chat_store.aget_messages(KEY)),
            lambda: awaited(chat_store, lambda: chat_store.awindow(KEY, 1_000_000)),
        )
        for call in reads:
            with pytest.raises(ForeignDataError, match="what is stored is not a ChatMessage: ") as caught:
                call()
            assert reason in str(caught.value)
            assert "SECRET" not in str(caught.value)
            assert caught.value.__cause__ is not None

    def test_what_is_not_a_message_can_be_deleted(self, chat_store: StoreChatStore) -> None:
        write(chat_store, PLAIN, PLAIN, "broken")
        with pytest.raises(ForeignDataError):
            chat_store.delete_last_message(KEY)
        assert chat_store.get_messages(KEY) == said("old", "old")

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (
                ChatMessage("a", additional_kwargs={"x": object()}),
                r"^a message has something that has no JSON form: Unable to serialize unknown type: <class 'object'>$",
            ),
            (
                ChatMessage("a\ud800", additional_kwargs={"x": lambda: 1}),
                "^a message has something that has no JSON form",
            ),
            (
                ChatMessage("a", additional_kwargs={"images": [ImageDocument(image="iVBORw0KGgo=")]}),
                r"^a message with additional_kwargs\['images'\] cannot be stored because LlamaIndex cannot read it",
            ),
            (
                edited(blocks=[OwnBlock(text="SECRET")]),
                r"^a message cannot be stored because it could not be read back from its JSON: "
                r"blocks\.0: Input tag 'own'",
            ),
            (
                edited(blocks=[{"block_type": "text", "text": "SECRET"}]),
                r"^a message cannot be stored because its JSON gives a message with another role or text$",
            ),
            (
                OwnContent(blocks=[TextBlock(text="a")]),
                r"^a message cannot be stored because its JSON gives a message with another role or text$",
            ),
            (edited(role="customer"), "^'customer' is not a valid MessageRole$"),
        ],
        ids=["object", "function", "images", "own block", "dict as block", "own content", "own role"],
    )
    def test_what_could_not_be_read_back_is_refused_and_nothing_stored(
        self, chat_store: StoreChatStore, message: ChatMessage, reason: str
    ) -> None:
        chat_store.set_messages(KEY, said("before"))
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store, chat_store_key=KEY)
        bad_calls: list[Callable[[], Any]] = [
            lambda: chat_store.add_message(KEY, message),
            lambda: chat_store.add_message(KEY, message, 0),
            lambda: chat_store.add_messages(KEY, [ChatMessage("good"), message]),
            lambda: chat_store.set_messages(KEY, [message]),
            lambda: memory.put(message),
            lambda: memory.put_messages([ChatMessage("good"), message]),
            lambda: memory.set([message]),
            lambda: awaited(chat_store, lambda: memory.aput_messages([ChatMessage("good"), message])),
            lambda: awaited(chat_store, lambda: memory.aput(message)),
            lambda: awaited(chat_store, lambda: memory.aset([message])),
        ]
        for call in bad_calls:
            with pytest.raises(ValueError, match=reason) as caught:
                call()
            assert "SECRET" not in str(caught.value)
        assert contents(chat_store.get_messages(KEY)) == ["before"]

    def test_a_role_may_be_a_plain_str(self, chat_store: StoreChatStore) -> None:
        blocks = [TextBlock(text="a")]
        plain = [
            edited(role="assistant"),
            edited(role="tool", additional_kwargs={"tool_call_id": "1"}),
            ChatMessage.model_construct(role="system", blocks=blocks),
        ]
        chat_store.add_messages(KEY, plain)
        assert chat_store.get_messages(KEY) == [
            ChatMessage("a", role="assistant"),
            ChatMessage("a", role="tool", additional_kwargs={"tool_call_id": "1"}),
            ChatMessage("a", role="system"),
        ]
        assert contents(chat_store.window(KEY, 1)) == ["a"]  # begins with the newest that is not an answer
        assert chat_store.window(KEY, 1)[0].role == "system"


def test_a_cyclic_value_has_no_json_form(sqlite_url: str) -> None:
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    chat_store = SQLChatStore(sqlite_url)
    with pytest.raises(ValueError, match="a message has something that has no JSON form"):
        chat_store.add_message(KEY, ChatMessage("a", additional_kwargs=cyclic))
    assert chat_store.get_keys() == []
    chat_store.store.close()


# --- in ChatMemoryBuffer ----------------------------------------------------------------------------------------------


class TestMemory:
    keys = map("{}".format, itertools.count())

    @settings(
        max_examples=examples(60, long=1_000),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(st.tuples(few_messages, st.integers(0, 4), questions), min_size=1, max_size=5), st.booleans())
    def test_windows_are_those_of_a_ring(
        self,
        chat_store: StoreChatStore,
        steps: list[tuple[list[ChatMessage], int, tuple[int, int, Any]]],
        asynchronous: bool,
    ) -> None:
        key = next(self.keys)
        ours = ChatMemoryBuffer.from_defaults(chat_store=chat_store, chat_store_key=key)
        ring = ChatMemoryBuffer.from_defaults()

        def answer(memory: ChatMemoryBuffer, name: str, *arguments: Any) -> Any:
            try:
                if asynchronous:
                    return awaited(chat_store, lambda: getattr(memory, f"a{name}")(*arguments))
                return getattr(memory, name)(*arguments)
            except ValueError as error:
                return str(error)

        def both(name: str, *arguments: Any) -> tuple[Any, Any]:
            return answer(ours, name, *arguments), answer(ring, name, *arguments)

        for few, how, (suffix, more, initial) in steps:
            match how:
                case 0:
                    both("set", few)
                case 1:
                    for message in few:
                        both("put", message)
                case 2 if few:
                    for store, session in ((chat_store, key), (ring.chat_store, ring.chat_store_key)):
                        store.delete_message(session, 1)
                        store.delete_message(session, 0)
                case 3:
                    both("reset")
                case _:
                    both("put_messages", few)
            mine, rings = both("get_all")
            assert dumped(mine) == dumped(rings)
            assert ours.token_count() == ring.token_count()
            limit = ours._token_count_for_messages(rings[-suffix:] if suffix else []) + more
            ours.token_limit = ring.token_limit = max(limit, 1)
            if isinstance(initial, str):
                initial = ours.token_limit + {"limit": 0, "limit + 1": 1, "limit + 0.5": 0.5}[initial]
            mine, rings = both("get", None, initial)
            assert mine == rings if isinstance(rings, str) else dumped(mine) == dumped(rings)

    def test_get_reads_the_window_alone(self, chat_store: StoreChatStore) -> None:
        # What is before the window is not a message at all: reading it fails.
        write(chat_store, *["broken"] * 10)
        memory = ChatMemoryBuffer.from_defaults(token_limit=4, chat_store=chat_store, chat_store_key=KEY)
        # The last message alone costs less than joined: that is looked for among the last 64.
        memory.put_messages(said(*["Hello."] * 70, "Bye."))
        assert contents(memory.get()) == contents(awaited(chat_store, memory.aget)) == ["Hello.", "Bye."]
        memory.token_limit = 3
        assert contents(memory.get()) == contents(awaited(chat_store, memory.aget)) == ["Bye."]
        assert memory.token_count() == 10 + 70 * 2 + 2
        with pytest.raises(ForeignDataError):
            memory.get_all()
        memory.reset()
        assert memory.get_all() == []

    def test_awaited_reset_reads_nothing(self, chat_store: StoreChatStore) -> None:
        write(chat_store, "broken")
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store, chat_store_key=KEY)
        awaited(chat_store, memory.areset)
        assert chat_store.get_keys() == []

    def test_limits(self, chat_store: StoreChatStore) -> None:
        memory = ChatMemoryBuffer.from_defaults(token_limit=10, chat_store=chat_store, chat_store_key=KEY)
        for history in ([], said("Hello.")):
            memory.set(history)
            for initial in (11, 10.5, float("inf")):
                expected = "Initial token count exceeds token limit"
                with pytest.raises(ValueError, match=expected):
                    memory.get(initial_token_count=initial)  # type: ignore[arg-type]
                with pytest.raises(ValueError, match=expected):
                    awaited(chat_store, lambda: memory.aget(None, initial))  # type: ignore[arg-type]  # noqa: B023
            for fine in (10, 9.5, -3, float("nan"), float("-inf")):
                assert memory.get(initial_token_count=fine) == history  # type: ignore[arg-type]
                assert awaited(chat_store, lambda: memory.aget(None, fine)) == history  # type: ignore[arg-type]  # noqa: B023

    def test_the_counter_of_the_store_must_be_the_tokenizer_of_the_memory(self, url: str) -> None:
        o200k = tiktoken.get_encoding("o200k_base")
        chat_store = opened(url, counter=o200k.encode)
        mismatch = (
            r'^the memory counts with TokenCounter\("cl100k_base"\), its chat store with TokenCounter\("o200k_base"\): '
            r"give both the same, as \w+ChatStore\(\.\.\., counter=tokenizer\) and ChatMemoryBuffer\(\.\.\., "
            r"tokenizer_fn=tokenizer\)$"
        )
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store, chat_store_key=KEY)
        for history in ([], said("Hello.")):
            memory.set(history)
            for call in (memory.get, memory.token_count, lambda: awaited(chat_store, memory.aget)):
                with pytest.raises(CounterMismatchError, match=mismatch):
                    call()
        for tokenizer in (o200k, o200k.encode, functools.partial(o200k.encode, allowed_special="all")):
            memory = ChatMemoryBuffer.from_defaults(
                chat_store=chat_store, chat_store_key=KEY, tokenizer_fn=tokenizer, token_limit=100
            )
            assert memory.get() == said("Hello.")
        chat_store.store.close()
        # The session knows what it was counted with.
        other = opened(url)
        with pytest.raises(CounterMismatchError, match=r"recount\('ada'\)"):
            ChatMemoryBuffer.from_defaults(chat_store=other, chat_store_key=KEY).get()
        other.store.recount(KEY)
        assert ChatMemoryBuffer.from_defaults(chat_store=other, chat_store_key=KEY).get() == said("Hello.")
        other.store.close()

    def test_a_callable_as_counter(self, url: str) -> None:
        with pytest.raises(ValueError, match="needs a counter_name"):
            opened(url, counter=str.split)
        chat_store = opened(url, counter=str.split, counter_name="words")
        memory = ChatMemoryBuffer.from_defaults(
            chat_store=chat_store, chat_store_key=KEY, tokenizer_fn=str.split, token_limit=5
        )
        memory.put_messages(said("one two", "three four", "five six"))
        assert contents(memory.get()) == ["three four", "five six"]
        chat_store.store.close()

    def test_a_subclass_that_counts_or_reads_otherwise_is_asked(self, chat_store: StoreChatStore) -> None:
        class ByMessages(ChatMemoryBuffer):
            def _token_count_for_messages(self, messages: list[ChatMessage]) -> int:
                return len(messages)

        class Shouting(ChatMemoryBuffer):
            def get_all(self) -> list[ChatMessage]:
                return [ChatMessage(str(message.content).upper()) for message in super().get_all()]

        chat_store.set_messages(KEY, said("one", "two", "three"))
        memory = ByMessages(token_limit=2, chat_store=chat_store, chat_store_key=KEY)
        assert contents(memory.get()) == contents(awaited(chat_store, memory.aget)) == ["two", "three"]
        loud = Shouting(token_limit=100, chat_store=chat_store, chat_store_key=KEY)
        assert contents(loud.get()) == contents(awaited(chat_store, loud.aget)) == ["ONE", "TWO", "THREE"]

    def test_a_chat_store_that_reads_otherwise_is_asked(self, sqlite_url: str) -> None:
        class Shouting(SQLChatStore):
            def get_messages(self, key: str) -> list[ChatMessage]:
                return [ChatMessage(str(message.content).upper()) for message in super().get_messages(key)]

        chat_store = Shouting.from_uri(sqlite_url)
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store, token_limit=10)
        memory.put_messages(said("one", "two"))
        assert contents(memory.get()) == contents(asyncio.run(memory.aget())) == ["ONE", "TWO"]
        chat_store.store.close()

    def test_a_chat_store_that_writes_otherwise_is_asked(self, sqlite_url: str) -> None:
        class Redacting(SQLChatStore):
            def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
                super().add_message(key, ChatMessage(str(message.content).replace("1234", "****")), idx)

            async def async_add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
                await super().async_add_message(key, ChatMessage(str(message.content).replace("1234", "****")), idx)

        chat_store = Redacting.from_uri(sqlite_url)
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store)
        memory.put(ChatMessage("pin 1234"))
        memory.put_messages(said("1234 0", "1234 1"))
        awaited(chat_store, lambda: memory.aput(ChatMessage("1234 2")))
        awaited(chat_store, lambda: memory.aput_messages(said("1234 3", "1234 4")))
        assert contents(memory.get()) == ["pin ****", *(f"**** {n}" for n in range(5))]
        chat_store.store.close()

    def test_a_chat_store_that_deletes_otherwise_is_asked(self, sqlite_url: str) -> None:
        archive: list[str | None] = []

        class Archiving(SQLChatStore):
            def delete_messages(self, key: str) -> list[ChatMessage] | None:
                archive.extend(contents(self.get_messages(key)))
                return super().delete_messages(key)

            async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
                archive.extend(contents(await self.aget_messages(key)))
                return await super().adelete_messages(key)

        chat_store = Archiving.from_uri(sqlite_url)
        memory = ChatMemoryBuffer.from_defaults(said("one"), chat_store=chat_store)
        memory.reset()
        memory.put(ChatMessage("two"))
        awaited(chat_store, memory.areset)
        assert archive == ["one", "two"]
        assert memory.get_all() == []
        chat_store.store.close()

    def test_messages_given_at_the_beginning(self, chat_store: StoreChatStore) -> None:
        memory = ChatMemoryBuffer.from_defaults(said("Hello."), chat_store=chat_store, chat_store_key=KEY)
        assert memory.get() == chat_store.get_messages(KEY) == said("Hello.")

    def test_much_json_is_made_and_read_in_a_thread(
        self, chat_store: StoreChatStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        threads: list[int] = []
        for name in ("model_dump_json", "model_validate_json"):
            method = getattr(ChatMessage, name)

            def noted(*arguments: Any, method: Any = method, **keywords: Any) -> Any:
                threads.append(threading.get_ident())
                return method(*arguments, **keywords)

            monkeypatch.setattr(ChatMessage, name, noted)
        memory = ChatMemoryBuffer(token_limit=3000, chat_store=chat_store, chat_store_key=KEY)
        many = said(*"abc" * 100)

        async def run() -> None:
            await memory.aset(many)
            await memory.aput_messages(many)
            await chat_store.async_add_message(KEY, many[0], 0)
            assert len(await memory.aget_all()) == 601
            assert threading.get_ident() not in threads

        awaited(chat_store, run)

    def test_what_is_open_cannot_be_assigned(self, chat_store: StoreChatStore) -> None:
        for name in ("url", "counter_name", "options"):
            before = getattr(chat_store, name)
            with pytest.raises(ValueError, match=f"^{name} of a .*ChatStore is fixed when it is opened"):
                setattr(chat_store, name, "other")
            with pytest.raises(ValueError, match=f"^{name} of a .*ChatStore is fixed when it is opened"):
                chat_store.model_copy(update={name: "other"})
            assert getattr(chat_store, name) == before
        chat_store.add_message(KEY, ChatMessage("a"))
        for copied in (chat_store.model_copy(), chat_store.model_copy(update={"url": chat_store.url})):
            assert contents(copied.get_messages(KEY)) == ["a"]

    def test_awaited_puts_are_in_order(self, chat_store: StoreChatStore) -> None:
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store, chat_store_key=KEY)

        async def put() -> None:
            for text in "abc":
                await memory.aput(ChatMessage(text))
            await memory.aput_messages(said("d", "e"))
            await memory.aput_messages([])

        awaited(chat_store, put)
        assert contents(awaited(chat_store, memory.aget_all)) == list("abcde")


# --- agents -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(*AGENT_WARNINGS, *RUNNING_WARNINGS)
@pytest.mark.parametrize("token_limit", [1, 30, 100, 3000])
def test_function_agent(chat_store: StoreChatStore, token_limit: int) -> None:
    def on_store(limit: int) -> ChatMemoryBuffer:
        return ChatMemoryBuffer.from_defaults(token_limit=limit, chat_store=chat_store, chat_store_key=KEY)

    expected = asyncio.run(function_agent(their_memory, token_limit))
    assert awaited(chat_store, lambda: function_agent(on_store, token_limit)) == expected
    # Another process would go on from here.
    again = opened(url_of(chat_store))
    assert again.get_messages(KEY) == chat_store.get_messages(KEY)
    again.store.close()


def url_of(chat_store: StoreChatStore) -> str:
    """Return the URL with the servers' password."""
    return chat_store.url.replace("***", PASSWORD)


@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@pytest.mark.parametrize("token_limit", [10, 3000])
@pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()], ids=["json", "pickle"])
def test_context_saved_while_waiting_for_the_user(
    chat_store: StoreChatStore, token_limit: int, serializer: JsonSerializer
) -> None:
    def on_store(limit: int) -> ChatMemoryBuffer:
        return ChatMemoryBuffer.from_defaults(token_limit=limit, chat_store=chat_store, chat_store_key=KEY)

    expected = asyncio.run(confirmed(their_memory, token_limit, None))
    assert awaited(chat_store, lambda: confirmed(on_store, token_limit, serializer)) == expected


# --- saving and loading -----------------------------------------------------------------------------------------------


class TestSaved:
    def test_memory_and_chat_store_are_of_the_same_database(self, chat_store: StoreChatStore) -> None:
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store, chat_store_key=KEY, token_limit=7)
        memory.put(ChatMessage("Hello."))
        again: list[Any] = [
            ChatMemoryBuffer.from_string(memory.to_string()),
            ChatMemoryBuffer.from_dict(memory.to_dict()),
            ChatMemoryBuffer.model_validate(memory.to_dict()),
            ChatMemoryBuffer.model_validate_json(memory.model_dump_json()),
            pickle.loads(pickle.dumps(memory)),
            copy.deepcopy(memory),
            copy.copy(memory),
            memory.model_copy(deep=True),
        ]
        for n, other in enumerate(again):
            assert (other.token_limit, other.chat_store_key) == (7, KEY)
            assert type(other.chat_store) is type(chat_store)
            # The connections are shared.
            assert other.chat_store.store is chat_store.store
            assert other.chat_store == chat_store
            other.put(ChatMessage(str(n)))
        assert contents(memory.get_all()) == ["Hello.", *map(str, range(len(again)))]
        assert load_chat_store(chat_store.to_dict()).get_keys() == [KEY]

    def test_there_is_no_secret_in_what_is_saved_or_shown(self, chat_store: StoreChatStore) -> None:
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store)
        shown = [repr(chat_store), str(chat_store), repr(memory), memory.to_string(), str(pickle.dumps(memory))]
        shown += [chat_store.model_dump_json(), str(chat_store.to_dict()), repr(chat_store.store)]
        assert not any(PASSWORD in text for text in shown)
        assert chat_store.to_dict() == {
            "url": chat_store.url,
            "counter_name": "cl100k_base",
            "class_name": f"chatring.{type(chat_store).__name__}",
        }

    def test_a_password_is_known_while_its_store_is_open(self, valkey_url: str) -> None:
        chat_store = RedisChatStore(valkey_url)
        chat_store.add_messages(KEY, said("Hello."))
        saved, pickled = chat_store.to_dict(), pickle.dumps(chat_store)
        assert RedisChatStore.from_dict(saved).get_messages(KEY) == said("Hello.")
        chat_store.store.close()
        del chat_store
        gc.collect()
        unknown = r"^the password of redis://:\*\*\*@\S+ was not saved: open a RedisChatStore with it first, or call "
        for load in (lambda: RedisChatStore.from_dict(saved), lambda: pickle.loads(pickled)):
            with pytest.raises(ValueError, match=unknown):
                load()
        again = RedisChatStore.from_dict(saved, url=valkey_url)
        assert again.get_messages(KEY) == pickle.loads(pickled).get_messages(KEY) == said("Hello.")
        again.store.close()

    def test_a_counter_is_known_while_its_store_is_open(self, sqlite_url: str) -> None:
        chat_store = SQLChatStore(sqlite_url, counter=str.split, counter_name="words")
        saved = chat_store.to_dict()
        assert SQLChatStore.from_dict(saved).store.counter == chat_store.store.counter
        chat_store.store.close()
        del chat_store
        gc.collect()
        with pytest.raises(ValueError, match=r"^the counter 'words' was not saved: open a SQLChatStore with it first"):
            SQLChatStore.from_dict(saved)
        again = SQLChatStore.from_dict(saved, counter=str.split)
        assert again.counter_name == "words"
        again.store.close()

    def test_options_are_saved(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'chat.db'}"
        chat_store = SQLChatStore(url, timeout=3, pool_size=2)
        saved = chat_store.to_dict()
        assert saved["options"] == {"timeout": 3, "pool_size": 2}
        assert SQLChatStore(url).to_dict().keys() == {"url", "counter_name", "class_name"}
        assert SQLChatStore.from_dict(saved).store is pickle.loads(pickle.dumps(chat_store)).store is chat_store.store
        other = SQLChatStore.from_dict(saved, timeout=4)
        assert (other.store.timeout, other.options) == (4, {"timeout": 4, "pool_size": 2})
        for closed in (chat_store, other):
            closed.store.close()
        del chat_store
        gc.collect()
        assert SQLChatStore.from_dict(saved).store.timeout == 3
        with pytest.raises(TypeError, match="ttl"):
            SQLChatStore(url, ttl=3)

    def test_stores_with_other_options_are_others(self, valkey_url: str) -> None:
        ours, theirs = (RedisChatStore(valkey_url, prefix=prefix) for prefix in ("ours", "theirs"))
        ours.add_messages(KEY, said("Hello."))
        theirs.add_messages(KEY, said("Bye."))
        for chat_store, text in ((ours, "Hello."), (theirs, "Bye.")):
            assert contents(RedisChatStore.from_dict(chat_store.to_dict()).get_messages(KEY)) == [text]
        assert RedisChatStore(valkey_url).get_keys() == []
        for chat_store in (ours, theirs):
            chat_store.store.close()

    def test_options_that_are_objects_are_not_saved(self) -> None:
        chat_store = SQLChatStore("postgresql://h/d", password=lambda: "secret")
        saved = chat_store.to_dict()
        assert saved["options"] == {"password": "***"}
        assert SQLChatStore.from_dict(saved).store is chat_store.store
        del chat_store
        gc.collect()
        with pytest.raises(ValueError, match=r"^password was not saved: open a SQLChatStore with it first, or call "):
            SQLChatStore.from_dict(saved)
        assert SQLChatStore.from_dict(saved, password=lambda: "secret").to_dict() == saved

    @slow
    def test_another_process_opens_the_same_file(self, sqlite_url: str) -> None:
        chat_store = SQLChatStore(sqlite_url, counter="o200k_base")
        chat_store.add_messages(KEY, said("Hello."))
        saved = chat_store.to_dict()
        chat_store.store.close()
        program = (
            "import json, sys; from llama_index.core.storage.chat_store.loading import load_chat_store\n"
            "import chatring.llama_index; s = load_chat_store(json.loads(sys.argv[1]))\n"
            "print(s.store.counter.name, s.window('ada', 10)[0].content)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(saved)], capture_output=True, check=True, timeout=300
        )
        assert done.stdout.split() == [b"o200k_base", b"Hello."]

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:a?mode=memory&uri=true"])
    def test_what_is_in_memory_alone_cannot_be_saved(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        chat_store = SQLChatStore(url)
        chat_store.add_messages(KEY, said("Hello."))
        for save in (chat_store.to_dict, lambda: pickle.dumps(chat_store)):
            with pytest.raises(
                ValueError, match="is in this process's memory and cannot be saved: use a file"
            ) as caught:
                save()
            assert url in str(caught.value)
        assert copy.deepcopy(chat_store).get_messages(KEY) == said("Hello.")
        assert not list(tmp_path.iterdir())
        chat_store.store.close()

    @pytest.mark.parametrize("data", [{}, {"url": "sqlite:///a.db"}, {"url": "sqlite:///a.db", "ttl": 3}])
    def test_descriptions_of_something_else(self, data: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"^a SQLChatStore is described by url and counter_name"):
            SQLChatStore.from_dict(data)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_parameters_as_of_postgres_chat_store(postgres_url: str) -> None:
    address, database = postgres_url.partition("@")[2].split("/")
    host, port = address.split(":")
    by_uri = SQLChatStore.from_uri(postgres_url)
    by_uri.add_messages(KEY, said("Hello."))
    by_params = SQLChatStore.from_params(host=host, port=port, database=database, user="postgres", password=PASSWORD)
    assert by_params.get_messages(KEY) == said("Hello.")
    for chat_store in (by_uri, by_params):
        chat_store.store.close()


def test_passwords_of_any_characters() -> None:
    chat_store = SQLChatStore.from_params(host="h", database="d/e", user="a@b", password="p@s/s:w%rd?#")
    assert chat_store.url == "postgresql://a%40b:***@h:5432/d%2Fe"


@pytest.mark.parametrize(
    ("new", "url"),
    [(SQLChatStore, "redis://:secret@h"), (RedisChatStore, "sqlite:///chat.db"), (SQLChatStore, "chat.db")],
)
def test_urls_of_other_stores_are_refused(new: Callable[[str], StoreChatStore], url: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        new(url)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there() -> None:
    chat_store = RedisChatStore(redis_url="redis://:secret@127.0.0.1:1")
    memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store)
    for call in (memory.get, lambda: memory.put(ChatMessage("a")), lambda: awaited(chat_store, memory.aget)):
        with pytest.raises(StoreUnavailableError, match=r"redis://:\*\*\*@127\.0\.0\.1:1") as caught:
            call()
        assert "secret" not in str(caught.value)


@slow
def test_without_the_drivers(tmp_path: Path) -> None:
    program = """
import sys
sys.modules.update(dict.fromkeys(("redis", "psycopg")))  # LlamaIndex itself needs sqlalchemy
from chatring.llama_index import ChatMemoryBuffer, RedisChatStore, SQLChatStore
ChatMemoryBuffer.from_defaults().get()
for new in (lambda: SQLChatStore("postgresql://h/d"), lambda: RedisChatStore()):
    try:
        new()
    except ModuleNotFoundError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=300, cwd=tmp_path)
    assert done.stdout.decode().splitlines() == [
        "SQLChatStore needs psycopg: pip install 'chatring[postgresql]'",
        "RedisChatStore needs redis: pip install 'chatring[redis]'",
    ]
