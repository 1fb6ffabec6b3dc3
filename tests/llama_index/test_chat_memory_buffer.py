"""`ChatMemoryBuffer` compared with LlamaIndex's: arguments, results, errors and copies."""

import asyncio
import copy
import functools
import gc
import json
import logging
import pickle
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast
from unittest import mock

import llama_index.core
import pydantic
import pytest
import tiktoken
from chatring.llama_index import ChatMemoryBuffer, RingChatStore
from llama_index.core import set_global_tokenizer
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.llms import ChatMessage, MockLLM, TextBlock
from llama_index.core.memory import BaseMemory
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexChatMemoryBuffer
from llama_index.core.storage.chat_store import BaseChatStore, SimpleChatStore
from llama_index.core.utils import get_tokenizer
from profiles import slow

BOTH = [ChatMemoryBuffer, LlamaIndexChatMemoryBuffer]
both = pytest.mark.parametrize("memory_class", BOTH, ids=["chatring", "llama_index"])
KEY = "chat_history"


def conversation(length: int = 6) -> list[ChatMessage]:
    roles = ("user", "assistant", "tool")
    return [ChatMessage(f"this is message {i}", role=roles[i % 3]) for i in range(length)]


def contents(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


class CountingTokenizer:
    """Splits at whitespace, and keeps what it was called with."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> list[str]:
        self.texts.append(text)
        return text.split()


def count_words(text: str) -> list[str]:
    return text.split()


class FreshCopies(SimpleChatStore):
    """Makes new message objects at every call, as the stores do that keep JSON."""

    def get_messages(self, key: str) -> list[ChatMessage]:
        kept = super().get_messages(key)
        return [ChatMessage.model_validate_json(message.model_dump_json()) for message in kept]


class LastMessages(FreshCopies):
    """Keeps the last hundred messages of a session, as a trimmed Redis list does."""

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        super().add_message(key, message, idx)
        del self.store[key][:-100]


class TestConstruction:
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"token_limit": 0},
            {"token_limit": -5},
            {"token_limit": None},
            {"token_limit": "10"},
            {"token_limit": 10.5},
            {"token_limit": 10, "tokenizer_fn": 3},
            {"token_limit": 10, "tokenizer_fn": "cl100k_base"},
            {"token_limit": 10, "chat_store": 3},
            {"token_limit": 10, "chat_store_key": 3},
        ],
        ids=str,
    )
    def test_errors_are_those_of_llama_index(self, arguments: dict[str, Any]) -> None:
        with pytest.raises((ValueError, TypeError)) as theirs:
            LlamaIndexChatMemoryBuffer(**arguments)
        with pytest.raises((ValueError, TypeError)) as ours:
            ChatMemoryBuffer(**arguments)
        assert type(ours.value) is type(theirs.value)
        if isinstance(theirs.value, pydantic.ValidationError) and isinstance(ours.value, pydantic.ValidationError):
            assert [(error["loc"], error["msg"]) for error in ours.value.errors()] == [
                (error["loc"], error["msg"]) for error in theirs.value.errors()
            ]
        else:
            assert str(ours.value) == str(theirs.value)

    @both
    def test_values_that_are_taken(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        untyped: Any = memory_class
        assert untyped(token_limit=10.0).token_limit == 10
        assert untyped(token_limit=True).token_limit == 1
        assert untyped(token_limit=10, not_a_field=1).token_limit == 10
        assert memory_class(token_limit=10).chat_store_key == KEY
        assert memory_class(token_limit=10).tokenizer_fn is get_tokenizer()
        assert untyped(token_limit=10, tokenizer_fn=None).tokenizer_fn is get_tokenizer()
        assert memory_class(token_limit=10, tokenizer_fn=count_words).tokenizer_fn is count_words
        with pytest.raises(TypeError, match="positional"):
            untyped(10)
        with pytest.raises(ValueError, match="has no field"):
            untyped(token_limit=10).not_a_field = 1

    def test_its_own_store_is_a_ring_chat_store(self) -> None:
        memory = ChatMemoryBuffer(token_limit=10)
        assert type(memory.chat_store) is RingChatStore
        assert type(ChatMemoryBuffer.from_defaults().chat_store) is RingChatStore
        assert memory.chat_store is not ChatMemoryBuffer(token_limit=10).chat_store

    def test_what_is_validated_is_left_alone(self) -> None:
        given = {"token_limit": 10, "chat_store": SimpleChatStore(), "chat_store_key": "a"}
        before = dict(given)
        ChatMemoryBuffer.model_validate(given)
        assert given == before

    def test_an_encoding_is_a_tokenizer(self, o200k: tiktoken.Encoding) -> None:
        memory = ChatMemoryBuffer.from_defaults(token_limit=100, tokenizer_fn=o200k)
        memory.put(ChatMessage("hello <|endoftext|> world"))
        assert memory.token_count() == len(o200k.encode("hello <|endoftext|> world", allowed_special="all"))
        assert memory.tokenizer_fn("<|endoftext|>") == o200k.encode("<|endoftext|>", allowed_special="all")


class TestFromDefaults:
    @both
    def test_the_token_limit(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        llm = MockLLM()
        assert memory_class.from_defaults().token_limit == 3000
        assert memory_class.from_defaults(token_limit=7).token_limit == 7
        assert memory_class.from_defaults(llm=llm).token_limit == int(llm.metadata.context_window * 0.75)
        assert memory_class.from_defaults(llm=llm, token_limit=7).token_limit == 7
        assert memory_class.from_defaults(llm=llm, token_limit=0).token_limit == 2925
        with pytest.raises(ValueError, match=r"Token limit must be set and greater than 0\."):
            memory_class.from_defaults(token_limit=0)

    @both
    def test_unknown_arguments(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        with pytest.raises(ValueError, match=r"^Unexpected kwargs: \{'limit': 3\}$"):
            memory_class.from_defaults(limit=3)

    @both
    def test_the_chat_history(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        assert memory_class.from_defaults().chat_store.get_keys() == []
        assert memory_class.from_defaults(chat_history=[]).chat_store.get_keys() == [KEY]
        messages = conversation()
        memory = memory_class.from_defaults(messages, chat_store_key="k")
        assert memory.chat_store.get_keys() == ["k"]
        assert memory.get_all() == messages

    @both
    def test_a_chat_history_takes_the_place_of_what_is_in_the_store(
        self, memory_class: type[LlamaIndexChatMemoryBuffer]
    ) -> None:
        store = SimpleChatStore(store={KEY: conversation(), "other": conversation(1)})
        memory = memory_class.from_defaults([ChatMessage("new")], chat_store=store)
        assert memory.chat_store is store
        assert contents(store.get_messages(KEY)) == ["new"]
        assert len(store.get_messages("other")) == 1
        assert memory_class.from_defaults(chat_store=store).get_all() == memory.get_all()

    @both
    def test_an_empty_store_is_kept(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        for store in (RingChatStore(), SimpleChatStore()):
            assert memory_class.from_defaults(chat_store=store).chat_store is store


class TestWindows:
    @pytest.mark.parametrize("limit", [sys.maxsize, 2**63 - 2, 2**63, 2**70])
    def test_a_limit_that_is_meant_as_none(self, limit: int) -> None:
        for memory in (each(token_limit=limit) for each in BOTH):
            memory.put_messages(conversation())
            assert len(memory.get()) == 6

    @pytest.mark.parametrize("limit", [0, -1, 3.5, float("inf"), 10**30, None, "3"])
    def test_a_limit_assigned_later(self, limit: Any) -> None:
        def get(memory: LlamaIndexChatMemoryBuffer) -> list[ChatMessage]:
            memory.token_limit = limit
            return memory.get()

        check_same_outcome(get)

    @pytest.mark.parametrize("initial", [30, 31, 31.5, 0.5, -1, -1e9, -(10**30), 10**30, True, None, "3"])
    def test_initial_token_counts(self, initial: Any) -> None:
        self.check_initial_token_count(initial)

    @pytest.mark.parametrize("initial", [float("inf"), float("-inf"), float("nan")])
    def test_initial_token_counts_that_are_no_numbers(self, initial: float) -> None:
        self.check_initial_token_count(initial)

    def check_initial_token_count(self, initial: Any) -> None:
        def get(memory: LlamaIndexChatMemoryBuffer) -> list[ChatMessage]:
            memory.token_limit = 30
            return memory.get(initial_token_count=initial)

        check_same_outcome(get)

    def test_the_error_carries_the_numbers(self) -> None:
        memory = ChatMemoryBuffer(token_limit=5)
        with pytest.raises(ValueError, match=r"^Initial token count exceeds token limit$") as raised:
            memory.get(initial_token_count=6)
        assert vars(raised.value) == {"initial_token_count": 6, "token_limit": 5}
        assert pickle.loads(pickle.dumps(raised.value)).token_limit == 5
        assert memory.get(initial_token_count=5) == []

    @both
    def test_other_arguments_are_ignored(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        memory = memory_class(token_limit=5)
        memory.put_messages(conversation())
        window = memory.get()
        assert memory.get(50) == memory.get("text", 0, whatever=1) == window  # type: ignore[arg-type]
        assert asyncio.run(memory.aget("text", 0, whatever=1)) == window

    @both
    def test_fields_assigned_later_count_at_once(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        memory = memory_class(token_limit=6, tokenizer_fn=str.split)
        memory.put_messages([ChatMessage("one two"), ChatMessage("three four"), ChatMessage("five six")])
        assert len(memory.get()) == 3
        memory.tokenizer_fn = list
        memory.token_limit = 19
        assert len(memory.get()) == 2
        memory.chat_store_key = "other"
        assert memory.get() == []
        memory.chat_store_key = KEY
        assert len(memory.get()) == 2

    def test_messages_changed_in_place_are_counted_again(self) -> None:
        for memory_class in BOTH:
            memory = memory_class(token_limit=6, tokenizer_fn=str.split)
            memory.put_messages([ChatMessage("one two"), ChatMessage("three four"), ChatMessage("five six")])
            assert len(memory.get()) == 3
            memory.get_all()[1].content = "three and four"
            assert len(memory.get()) == 2
            block = memory.get_all()[2].blocks[0]
            assert isinstance(block, TextBlock)
            block.text = "five and six and seven"
            assert len(memory.get()) == 1
            memory.get_all()[2].blocks.append(TextBlock(text="and more"))
            assert len(memory.get()) == 1

    def test_blank_messages_changed_in_place_are_counted_again(self) -> None:
        for memory_class in BOTH:
            memory = memory_class(token_limit=10, tokenizer_fn=list)
            memory.put_messages([ChatMessage(""), ChatMessage(" ")])
            assert len(memory.get()) == 2
            memory.get_all()[0].content = "a text that is too long by far"
            assert len(memory.get()) == 1

    def test_a_content_replaced_in_the_class_is_not_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        history = [ChatMessage("a") for _ in range(3)]
        monkeypatch.setattr(ChatMessage, "content", property(lambda message: "ten words " * 5))
        ours, theirs = (each.from_defaults(history, token_limit=10, tokenizer_fn=str.split) for each in BOTH)
        assert (len(ours.get()), len(theirs.get())) == (3, 1)

    def test_a_tokenizer_that_raises_leaves_the_history(self) -> None:
        def fail(text: str) -> list[str]:
            raise KeyError(text)

        memory = ChatMemoryBuffer(token_limit=10, tokenizer_fn=fail)
        memory.put_messages(conversation())
        with pytest.raises(KeyError):
            memory.get()
        assert memory.get_all() == conversation()
        memory.tokenizer_fn = str.split
        assert len(memory.get()) == 1

    def test_a_tokenizer_without_tokens(self) -> None:
        for memory_class in BOTH:
            memory = memory_class(token_limit=10, tokenizer_fn=cast(Any, lambda text: None))
            assert memory.get() == []
            memory.put(ChatMessage("a"))
            with pytest.raises(TypeError):
                memory.get()

    def test_a_tokenizer_that_returns_a_number(self) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(), token_limit=10, tokenizer_fn=cast(Any, len))
        assert memory.get() == ChatMemoryBuffer.from_defaults(conversation(), token_limit=10, tokenizer_fn=list).get()

    def test_token_count(self, cl100k: tiktoken.Encoding) -> None:
        memory = ChatMemoryBuffer(token_limit=1)
        assert memory.token_count() == 0
        memory.put_messages([*conversation(), ChatMessage(None, role="assistant")])
        joined = " ".join(str(message.content) for message in memory.get_all())
        assert memory.token_count() == len(cl100k.encode(joined))


def check_same_outcome(call: Callable[[LlamaIndexChatMemoryBuffer], Any]) -> None:
    results = []
    for memory_class in BOTH:
        memory = memory_class(token_limit=3000, tokenizer_fn=list)
        memory.put_messages([ChatMessage(10 * letter) for letter in "abc"])
        try:
            results.append(contents(call(memory)))
        except ValueError as error:
            results.append([type(error).__name__, str(error)])
        except Exception as error:
            results.append([type(error).__name__])
    assert results[0] == results[1]


@pytest.mark.parametrize("tokenizer", ["cl100k_base", None, 3, ["a"]], ids=repr)
def test_a_tokenizer_assigned_later_that_cannot_be_called(tokenizer: Any) -> None:
    said = []
    for memory in (each(token_limit=10) for each in BOTH):
        memory.put(ChatMessage("a"))
        memory.tokenizer_fn = tokenizer
        with pytest.raises(TypeError) as raised:
            memory.get()
        said.append(str(raised.value))
    assert said[0] == said[1]


MADE: list[dict[str, Any]] = [
    {},
    {"token_limit": 12},
    {"token_limit": 12, "tokenizer_fn": str.split},
    {"token_limit": -5},
    {"token_limit": "12"},
    {"token_limit": 12, "tokenizer_fn": None},
    {"token_limit": 12, "chat_store": None},
]


@pytest.mark.parametrize("fields", MADE, ids=str)
def test_made_without_checks(fields: dict[str, Any]) -> None:
    def run(memory_class: type[LlamaIndexChatMemoryBuffer], asynchronous: bool) -> list[Any]:
        memory = memory_class.model_construct(**fields)
        seen: list[Any] = []
        for call in (memory.get, memory.aget) if asynchronous else (memory.get, memory.get_all):
            for _ in range(2):
                try:
                    found = call()
                    seen.append(contents(asyncio.run(found) if asyncio.iscoroutine(found) else found))
                except Exception as error:
                    seen.append(type(error))
                if "chat_store" not in fields:
                    memory.put_messages(conversation())
        return seen

    for asynchronous in (False, True):
        assert run(ChatMemoryBuffer, asynchronous) == run(LlamaIndexChatMemoryBuffer, asynchronous)


class TestBadInput:
    @pytest.mark.parametrize("bad", ["text", None, 3, {"role": "user", "content": "text"}, TextBlock(text="text")])
    def test_what_is_no_message_is_refused_at_once(self, bad: Any) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(2))
        for put in (memory.put, memory.put_message, lambda bad: asyncio.run(memory.aput(bad))):
            with pytest.raises(TypeError, match="ChatMessage"):
                put(bad)
        for put_all in (memory.put_messages, memory.set, lambda bad: asyncio.run(memory.aput_messages(bad))):
            with pytest.raises(TypeError, match="ChatMessage"):
                put_all([ChatMessage("a"), bad, ChatMessage("b")])
        with pytest.raises(TypeError, match="ChatMessage"):
            asyncio.run(memory.aset([ChatMessage("a"), bad]))
        assert memory.get_all() == conversation(2)

    @pytest.mark.parametrize("bad", [(ChatMessage("a"),), None, "text", {}, iter(())])
    def test_set_takes_lists_only(self, bad: Any) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(2))
        with pytest.raises(TypeError, match="list of ChatMessage"):
            memory.set(bad)
        with pytest.raises(TypeError, match="list of ChatMessage"):
            asyncio.run(memory.aset(bad))
        assert memory.get_all() == conversation(2)

    @pytest.mark.parametrize("store_class", [RingChatStore, SimpleChatStore, FreshCopies])
    def test_other_stores_too(self, store_class: type[BaseChatStore]) -> None:
        memory = ChatMemoryBuffer(token_limit=10, chat_store=store_class())
        memory.put(ChatMessage("a"))
        calls: list[Callable[[], Any]] = [
            lambda: memory.put("text"),  # type: ignore[arg-type]
            lambda: memory.put_messages([ChatMessage("b"), None]),  # type: ignore[list-item]
            lambda: memory.set((ChatMessage("b"),)),  # type: ignore[arg-type]
        ]
        for call in calls:
            with pytest.raises(TypeError, match="ChatMessage"):
                call()
        assert contents(memory.get_all()) == ["a"]

    def test_a_bad_history_leaves_the_store(self) -> None:
        store = RingChatStore(store={KEY: conversation(2)})
        with pytest.raises(TypeError, match="ChatMessage"):
            ChatMemoryBuffer.from_defaults(["text"], chat_store=store)  # type: ignore[list-item]
        with pytest.raises(ValueError, match="Token limit"):
            ChatMemoryBuffer.from_defaults([ChatMessage("a")], chat_store=store, token_limit=0)
        assert store.get_messages(KEY) == conversation(2)

    @both
    def test_no_messages_begin_no_session(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        memory = memory_class(token_limit=10)
        memory.put_messages([])
        asyncio.run(memory.aput_messages([]))
        assert memory.chat_store.get_keys() == []

    def test_any_iterable_of_messages_can_be_put(self) -> None:
        for memory in (each(token_limit=10) for each in BOTH):
            memory.put_messages(message for message in conversation(2))  # type: ignore[arg-type]
            memory.put_messages(tuple(conversation(1)))  # type: ignore[arg-type]
            assert len(memory.get_all()) == 3


class TestAliasing:
    """Ours copies lists where LlamaIndex keeps the caller's: see the table of differences."""

    def test_the_callers_list_is_copied(self) -> None:
        messages = conversation(2)
        memory = ChatMemoryBuffer.from_defaults(messages)
        memory.put(ChatMessage("a"))
        assert len(messages) == 2
        messages.clear()
        assert len(memory.get_all()) == 3

        messages = conversation(2)
        for put_all in (memory.set, memory.put_messages, lambda given: asyncio.run(memory.aset(given))):
            put_all(messages)
            memory.put(ChatMessage("a"))
            assert len(messages) == 2

    def test_lists_that_are_returned_are_new(self) -> None:
        for store in (RingChatStore(), SimpleChatStore()):
            memory = ChatMemoryBuffer.from_defaults(conversation(), chat_store=store)
            for get in (memory.get, memory.get_all, lambda memory=memory: asyncio.run(memory.aget_all())):
                first = get()
                first.clear()
                assert len(get()) == 6

    def test_messages_are_never_copied(self) -> None:
        messages = conversation()
        memory = ChatMemoryBuffer.from_defaults(messages)
        for found in (memory.get(), memory.get_all(), memory.chat_store.get_messages(KEY)):
            assert all(one is other for one, other in zip(found, messages, strict=True))

    def test_windows_survive_a_reset(self) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation())
        window = memory.get()
        memory.reset()
        assert memory.get() == memory.get_all() == []
        assert window == conversation()


class TestSerialisation:
    @pytest.fixture
    def memory(self) -> ChatMemoryBuffer:
        history = [
            *conversation(4),
            ChatMessage([TextBlock(text="a"), TextBlock(text="ü 世界")], additional_kwargs={"x": {"y": [1]}}),
        ]
        return ChatMemoryBuffer.from_defaults(history, token_limit=20, chat_store_key="session")

    def test_the_form(self) -> None:
        memory = ChatMemoryBuffer.from_defaults([ChatMessage("ü", role="user")], token_limit=20)
        assert memory.to_string() == memory.json() == json.dumps(memory.to_dict())
        assert memory.to_string() == (
            '{"chat_store": {"store": {"chat_history": [{"role": "user", "additional_kwargs": {}, "blocks": '
            '[{"block_type": "text", "text": "\\u00fc"}]}]}, "class_name": "SimpleChatStore"}, '
            '"chat_store_key": "chat_history", "token_limit": 20, "class_name": "ChatMemoryBuffer"}'
        )
        assert memory.model_dump_json() == (
            '{"chat_store":{"store":{"chat_history":[{"role":"user","additional_kwargs":{},"blocks":'
            '[{"block_type":"text","text":"ü"}]}]},"class_name":"SimpleChatStore"},'
            '"chat_store_key":"chat_history","token_limit":20,"class_name":"ChatMemoryBuffer"}'
        )
        assert memory.to_dict() == memory.dict() == memory.model_dump() == json.loads(memory.to_string())

    def test_an_empty_memory_has_the_form_of_llama_index(self) -> None:
        ours, theirs = (each(token_limit=20) for each in BOTH)
        assert ours.to_string() == theirs.to_string()
        assert ours.to_dict() == theirs.to_dict()
        assert ours.model_dump_json() == theirs.model_dump_json()

    @pytest.mark.parametrize(
        "there_and_back",
        [
            lambda memory: ChatMemoryBuffer.from_string(memory.to_string()),
            lambda memory: ChatMemoryBuffer.from_string(memory.json()),
            lambda memory: ChatMemoryBuffer.from_dict(memory.to_dict()),
            lambda memory: ChatMemoryBuffer.from_dict(memory.dict()),
            lambda memory: ChatMemoryBuffer.from_dict(json.loads(memory.model_dump_json())),
            lambda memory: ChatMemoryBuffer.from_json(memory.to_json()),
            lambda memory: ChatMemoryBuffer.model_validate(memory.model_dump()),
            lambda memory: ChatMemoryBuffer.model_validate(memory.to_dict()),
            lambda memory: ChatMemoryBuffer.model_validate_json(memory.model_dump_json()),
            lambda memory: ChatMemoryBuffer(**memory.to_dict()),
            lambda memory: LlamaIndexChatMemoryBuffer.from_string(memory.to_string()),
            lambda memory: LlamaIndexChatMemoryBuffer.from_dict(memory.to_dict()),
            lambda memory: pickle.loads(pickle.dumps(memory)),
            copy.copy,
            copy.deepcopy,
        ],
    )
    def test_there_and_back(self, memory: ChatMemoryBuffer, there_and_back: Callable[[Any], Any]) -> None:
        back = there_and_back(memory)
        assert back.get_all() == memory.get_all()
        assert back.get() == memory.get()
        assert len(memory.get()) < 5
        assert back.chat_store_key == "session"
        assert back.chat_store.get_keys() == ["session"]
        assert back.token_limit == 20

    def test_what_llama_index_wrote_is_read(self) -> None:
        text = (
            '{"chat_store": {"store": {"k": [{"role": "user", "additional_kwargs": {}, "blocks": [{"block_type": '
            '"text", "text": "a"}]}, {"role": "assistant", "content": "b"}]}, "class_name": "SimpleChatStore"}, '
            '"chat_store_key": "k", "token_limit": 20, "class_name": "WhateverItSays"}'
        )
        ours, theirs = (each.from_string(text) for each in BOTH)
        assert type(ours.chat_store) is RingChatStore
        assert ours.get_all() == theirs.get_all()
        assert contents(ours.get_all()) == ["a", "b"]

    def test_the_early_form_with_a_chat_history(self) -> None:
        data = {"token_limit": 20, "chat_store_key": "k", "chat_history": [{"role": "user", "content": "a"}]}
        ours, theirs = (each.from_dict(copy.deepcopy(data)) for each in BOTH)
        assert ours.chat_store.get_keys() == theirs.chat_store.get_keys() == [KEY]
        assert ours.chat_store.get_messages(KEY) == theirs.chat_store.get_messages(KEY) == [ChatMessage("a")]

    @pytest.mark.parametrize("key", ["chat_store", "chat_history"])
    def test_from_dict_leaves_its_argument_alone(self, memory: ChatMemoryBuffer, key: str) -> None:
        data = memory.to_dict() if key == "chat_store" else {"token_limit": 20, key: [{"role": "user", "content": "a"}]}
        before = copy.deepcopy(data)
        assert ChatMemoryBuffer.from_dict(data).get_all() == ChatMemoryBuffer.from_dict(data).get_all()
        assert data == before

    @pytest.mark.parametrize(
        "data",
        [
            {"token_limit": 20, "chat_store": {}},
            {"token_limit": 20, "chat_store": {"class_name": "RedisChatStore"}},
            {"chat_store": {"class_name": "SimpleChatStore"}},
            {},
        ],
    )
    def test_from_dict_raises_as_llama_index(self, data: dict[str, Any]) -> None:
        with pytest.raises(ValueError) as theirs:  # noqa: PT011
            LlamaIndexChatMemoryBuffer.from_dict(copy.deepcopy(data))
        with pytest.raises(type(theirs.value)) as ours:
            ChatMemoryBuffer.from_dict(data)
        assert str(ours.value).partition(" [type=")[0] == str(theirs.value).partition(" [type=")[0]

    def test_a_store_with_bounds_is_read_with_its_bounds(self) -> None:
        memory = ChatMemoryBuffer(token_limit=20, chat_store=RingChatStore(max_messages=3, max_sessions=2))
        memory.put_messages(conversation(5))
        back = ChatMemoryBuffer.from_string(memory.to_string())
        assert isinstance(back.chat_store, RingChatStore)
        assert (back.chat_store.max_messages, back.chat_store.max_sessions) == (3, 2)
        # The third message is the result of a call that has left.
        assert back.get_all() == conversation(5)[3:]

    def test_arguments_without_a_form(self) -> None:
        memory = ChatMemoryBuffer.from_defaults([ChatMessage("a", additional_kwargs={"x": object()})])
        for write in (memory.to_dict, memory.to_string, memory.model_dump_json):
            with pytest.raises(ValueError, match="serializ"):
                write()
        assert len(memory.get()) == 1

    def test_images(self) -> None:
        memory = ChatMemoryBuffer.from_defaults([ChatMessage([ImageBlock(image=b"\x89PNG\r\n\x1a\n")])])
        back = ChatMemoryBuffer.model_validate_json(memory.model_dump_json())
        assert back.get_all() == memory.get_all()
        assert ChatMemoryBuffer.from_dict(memory.to_dict()).get_all() == memory.get_all()

    def test_a_subclass_comes_back_as_itself(self) -> None:
        memory = Labelled(token_limit=20, label="mine")
        memory.put(ChatMessage("a"))
        for back in (
            Labelled.from_dict(memory.to_dict()),
            pickle.loads(pickle.dumps(memory)),
            copy.deepcopy(memory),
            Labelled.model_validate(memory.model_dump()),
        ):
            assert type(back) is Labelled
            assert (back.label, contents(back.get_all())) == ("mine", ["a"])


class Labelled(ChatMemoryBuffer):
    label: str = ""


class UncopiedTokenizer:
    def __call__(self, text: str) -> list[str]:
        return text.split()

    def __deepcopy__(self, memo: object) -> None:
        raise AssertionError("a tokenizer was copied")

    __copy__ = None

    def __reduce__(self) -> Any:
        raise AssertionError("a tokenizer was pickled")


class TestCopies:
    @pytest.mark.parametrize("store_class", [RingChatStore, SimpleChatStore])
    def test_a_deep_copy_is_independent(self, store_class: type[BaseChatStore]) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(3), chat_store=store_class())
        window = memory.get()
        copied = copy.deepcopy(memory)
        assert copied.chat_store is not memory.chat_store
        assert copied.get() == window
        copied.put(ChatMessage("a"))
        memory.put_messages([ChatMessage("b"), ChatMessage("c")])
        copied.token_limit = 5
        assert contents(copied.get_all())[3:] == ["a"]
        assert contents(memory.get_all())[3:] == ["b", "c"]
        memory.reset()
        assert len(copied.get_all()) == 4
        assert memory.token_limit == 3000

    @slow
    def test_a_deep_copy_of_many_messages_copies_neither_them_nor_the_tokenizer(self) -> None:
        messages = conversation(10_000)
        for tokenizer in (None, UncopiedTokenizer(), tiktoken.get_encoding("o200k_base").encode):
            memory = ChatMemoryBuffer.from_defaults(messages, tokenizer_fn=tokenizer)
            window = memory.get()
            began = time.thread_time()
            copied = copy.deepcopy(memory)
            assert time.thread_time() - began < 0.1  # LlamaIndex takes 0.4 s, and with an encoding of its own more
            assert copied.tokenizer_fn is memory.tokenizer_fn
            assert all(one is other for one, other in zip(copied.get_all(), messages, strict=True))
            assert copied.get() == window

    def test_a_deep_copy_starts_with_the_counts(self) -> None:
        tokenizer = CountingTokenizer()
        memory = ChatMemoryBuffer.from_defaults(conversation(), tokenizer_fn=tokenizer)
        memory.get()
        tokenizer.texts.clear()
        assert copy.deepcopy(memory).get() == memory.get()
        assert tokenizer.texts == []

    def test_a_store_that_two_memories_share_is_copied_once(self) -> None:
        store = RingChatStore()
        memories = [ChatMemoryBuffer(token_limit=10, chat_store=store, chat_store_key=key) for key in "ab"]
        copied = copy.deepcopy(memories)
        assert copied[0].chat_store is copied[1].chat_store is not store

    @both
    def test_a_shallow_copy_shares_the_store(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        memory = memory_class.from_defaults(conversation(3))
        for copied in (copy.copy(memory), memory.model_copy()):
            assert type(copied) is memory_class
            assert copied.chat_store is memory.chat_store
            assert copied.tokenizer_fn is memory.tokenizer_fn
            copied.token_limit = 1
            assert len(copied.get()) == 1
            assert len(memory.get()) == len(memory.get_all())

    @pytest.mark.parametrize("store_class", [RingChatStore, SimpleChatStore])
    def test_a_copy_for_another_session_answers_for_that_session(self, store_class: type[BaseChatStore]) -> None:
        busy: list[int] = []

        def tokenize(text: str) -> list[str]:
            # In the middle of a `get`, another thread asks for another session.
            if text.startswith("mine") and not busy:
                busy.append(1)
                assert contents(other.get()) == ["theirs"]
            return text.split()

        memory = ChatMemoryBuffer(token_limit=10, tokenizer_fn=tokenize, chat_store=store_class(), chat_store_key="a")
        memory.get()
        other = memory.model_copy(update={"chat_store_key": "b"})
        other.put(ChatMessage("theirs"))
        memory.put(ChatMessage("mine"))
        assert contents(memory.get()) == ["mine"]
        assert busy

    @both
    def test_equality(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        one = memory_class.from_defaults(conversation(), tokenizer_fn=count_words, token_limit=5)
        other = memory_class.from_defaults(conversation(), tokenizer_fn=count_words, token_limit=5)
        assert one == other
        one.get()
        assert one == other, "a get made a difference"
        other.get()
        assert one == other
        other.put(ChatMessage("a"))
        assert one != other
        assert one != memory_class.from_defaults(conversation(), tokenizer_fn=count_words, token_limit=6)

    @both
    def test_it_is_true_and_an_instance_of_llama_indexes(self, memory_class: type[LlamaIndexChatMemoryBuffer]) -> None:
        memory = memory_class(token_limit=1)
        assert memory
        assert not hasattr(memory, "__len__")
        assert isinstance(memory, LlamaIndexChatMemoryBuffer)
        assert isinstance(memory, BaseMemory)
        assert memory.class_name() == "ChatMemoryBuffer"
        with pytest.raises(TypeError, match="unhashable"):
            hash(memory)

    def test_a_memory_is_not_kept_alive_by_a_cycle(self) -> None:
        memory = ChatMemoryBuffer(token_limit=10)
        message = ChatMessage("a")
        message.additional_kwargs["memory"] = memory
        memory.put(message)
        memory.get()
        store = weakref.ref(memory.chat_store)
        del memory, message
        gc.collect()
        assert store() is None


class TestPickle:
    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_the_messages_and_the_default_tokenizer(self, protocol: int) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(), token_limit=20)
        window = memory.get()
        pickled = pickle.dumps(memory, protocol)
        assert len(pickled) < 5_000
        back = pickle.loads(pickled)
        assert back.get() == window
        assert back.tokenizer_fn("<|endoftext|>") == get_tokenizer()("<|endoftext|>")

    def test_an_encoding_goes_by_its_name(self, o200k: tiktoken.Encoding) -> None:
        for tokenizer in (o200k, o200k.encode, functools.partial(o200k.encode, allowed_special="all")):
            pickled = pickle.dumps(ChatMemoryBuffer.from_defaults(conversation(), tokenizer_fn=tokenizer))
            assert len(pickled) < 5_000
            back = pickle.loads(pickled)
            assert back.tokenizer_fn("Oklahoma 世界 tokens") == o200k.encode("Oklahoma 世界 tokens")

    @pytest.mark.parametrize("tokenizer", [count_words, str.split, list, json.dumps])
    def test_a_tokenizer_with_a_name_is_kept(self, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
        back = pickle.loads(pickle.dumps(ChatMemoryBuffer(token_limit=10, tokenizer_fn=tokenizer)))
        assert back.tokenizer_fn is tokenizer or back.tokenizer_fn == tokenizer
        assert caplog.records == []

    @pytest.mark.parametrize("tokenizer", [lambda text: text.split(), UncopiedTokenizer()], ids=["lambda", "object"])
    def test_any_other_is_left_out_with_a_warning(self, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(), tokenizer_fn=tokenizer)
        memory.get()
        with caplog.at_level(logging.WARNING):
            back = pickle.loads(pickle.dumps(memory))
        assert "tokenizer_fn" in caplog.text
        assert back.tokenizer_fn is get_tokenizer()
        assert back.get_all() == conversation()

    def test_with_another_store(self) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(), chat_store=SimpleChatStore())
        memory.get()
        back = pickle.loads(pickle.dumps(memory))
        assert type(back.chat_store) is SimpleChatStore
        assert back.get() == memory.get()


@pytest.fixture
def global_tokenizer() -> Iterator[None]:
    before = llama_index.core.global_tokenizer
    yield
    llama_index.core.global_tokenizer = before


@pytest.mark.usefixtures("global_tokenizer")
def test_the_global_tokenizer_is_honoured() -> None:
    earlier = [memory_class.from_defaults() for memory_class in BOTH]
    set_global_tokenizer(count_words)
    for memory_class, early in zip(BOTH, earlier, strict=True):
        assert early.tokenizer_fn is not count_words
        for memory in (memory_class.from_defaults(token_limit=5), memory_class(token_limit=5)):
            assert memory.tokenizer_fn is count_words
            memory.put_messages([ChatMessage("Oklahoma-Oklahoma two"), ChatMessage("three four")])
            assert len(memory.get()) == 2
            assert memory.get(initial_token_count=2) == memory.get()[1:]
    back = ChatMemoryBuffer.from_dict(ChatMemoryBuffer(token_limit=5).to_dict())
    assert back.tokenizer_fn is count_words


def subclasses(base: Any) -> dict[str, Any]:
    class WithoutTools(base):  # type: ignore[misc]
        def get_all(self) -> list[ChatMessage]:
            return [message for message in super().get_all() if message.role != "tool"]

    class TenEach(base):  # type: ignore[misc]
        def _token_count_for_messages(self, messages: list[ChatMessage]) -> int:
            return 10 * len(messages)

    class Shouting(base):  # type: ignore[misc]
        def put(self, message: ChatMessage) -> None:
            super().put(ChatMessage(str(message.content).upper(), role=message.role))

    class Reversed(base):  # type: ignore[misc]
        def get(self, input: str | None = None, initial_token_count: int = 0, **kwargs: Any) -> list[ChatMessage]:  # noqa: A002
            return list(reversed(super().get(input, initial_token_count, **kwargs)))

    class Everything(WithoutTools, TenEach, Shouting, Reversed):
        pass

    return {each.__name__: each for each in (WithoutTools, TenEach, Shouting, Reversed, Everything)}


@pytest.mark.parametrize("store_class", [RingChatStore, SimpleChatStore])
@pytest.mark.parametrize("name", ["WithoutTools", "TenEach", "Shouting", "Reversed", "Everything"])
def test_methods_of_a_subclass_are_honoured(name: str, store_class: type[BaseChatStore]) -> None:
    ours = subclasses(ChatMemoryBuffer)[name](token_limit=25, chat_store=store_class())
    theirs = subclasses(LlamaIndexChatMemoryBuffer)[name](token_limit=25)
    # What the override changes must be seen: the same class without it gives other windows.
    plain = ChatMemoryBuffer(token_limit=25)

    async def run(memory: Any, messages: list[ChatMessage]) -> list[Any]:
        seen = []
        memory.put(messages[0])
        seen.append(contents(memory.get()))
        memory.put_messages(messages[1:4])
        seen += [contents(memory.get()), contents(await memory.aget()), contents(memory.get(initial_token_count=9))]
        await memory.aput(messages[4])
        await memory.aput_messages(messages[5:])
        seen += [contents(await memory.aget(initial_token_count=3)), contents(memory.get_all())]
        seen.append(contents(await memory.aget_all()))
        await memory.aset(messages[:4])
        return [*seen, contents(memory.get())]

    ours_seen, theirs_seen, plain_seen = (asyncio.run(run(each, conversation())) for each in (ours, theirs, plain))
    assert ours_seen == theirs_seen
    assert ours_seen != plain_seen


REPLACEMENTS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "get_all": lambda memory: lambda: conversation(3),
    "_token_count_for_messages": lambda memory: lambda messages: 10 * len(messages),
    "get": lambda memory: lambda *arguments, **keywords: conversation(1),
    "put": lambda memory: lambda message: memory.set([message]),
    "put_messages": lambda memory: lambda messages: memory.set(list(messages[:1])),
    "reset": lambda memory: lambda: None,
}
STORE_REPLACEMENTS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "get_messages": lambda store: lambda key: conversation(2),
    "add_message": lambda store: lambda key, message, idx=None: store.set_messages(key, [message]),
    "delete_messages": lambda store: lambda key: None,
}


@pytest.mark.parametrize("store_class", [RingChatStore, SimpleChatStore])
@pytest.mark.parametrize("name", [*REPLACEMENTS, *STORE_REPLACEMENTS])
def test_methods_replaced_in_an_instance_are_honoured(name: str, store_class: type[BaseChatStore]) -> None:
    async def run(memory: Any, replace: bool) -> list[Any]:
        await memory.aput_messages(conversation(4))
        memory.get()
        if replace and name in REPLACEMENTS:
            memory.__dict__[name] = REPLACEMENTS[name](memory)
        elif replace:
            memory.chat_store.__dict__[name] = STORE_REPLACEMENTS[name](memory.chat_store)
        seen = [contents(memory.get()), contents(await memory.aget(initial_token_count=3))]
        memory.put(ChatMessage("put"))
        await memory.aput(ChatMessage("aput"))
        seen += [contents(memory.get()), contents(memory.get_all()), contents(await memory.aget_all())]
        memory.put_messages([ChatMessage("one"), ChatMessage("two")])
        seen.append(contents(await memory.aget()))
        await memory.aput_messages([ChatMessage("three"), ChatMessage("four")])
        seen.append(contents(memory.get()))
        await memory.areset()
        return [*seen, contents(memory.get())]

    def made(memory_class: Any, store: BaseChatStore) -> Any:
        return memory_class(token_limit=25, tokenizer_fn=str.split, chat_store=store)

    theirs = asyncio.run(run(made(LlamaIndexChatMemoryBuffer, SimpleChatStore()), True))
    assert asyncio.run(run(made(ChatMemoryBuffer, store_class()), True)) == theirs
    untouched = asyncio.run(run(made(ChatMemoryBuffer, store_class()), False))
    # `areset` calls neither class's `reset`.
    assert (untouched == theirs) == (name == "reset")


def test_a_method_patched_for_a_while() -> None:
    memory = ChatMemoryBuffer.from_defaults(conversation(), token_limit=25)
    window = memory.get()
    with mock.patch.object(memory, "_token_count_for_messages", return_value=30) as patched:
        assert memory.get() == asyncio.run(memory.aget()) == memory.get_all()[-1:]
    assert patched.called
    assert memory.get() == asyncio.run(memory.aget()) == window


@pytest.mark.parametrize("base", [RingChatStore, SimpleChatStore])
def test_methods_of_a_stores_subclass_are_honoured(base: Any) -> None:
    added: list[str | None] = []

    class Audited(base):  # type: ignore[misc]
        def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
            added.append(message.content)
            super().add_message(key, message, idx)

        def get_messages(self, key: str) -> list[ChatMessage]:
            return [message for message in super().get_messages(key) if message.role != "tool"]

    memory = ChatMemoryBuffer(token_limit=100, chat_store=Audited())
    memory.put(conversation()[0])
    memory.put_messages(conversation()[1:])
    assert len(memory.get_all()) == 4
    assert len(memory.get()) == 4
    assert added == contents(conversation())


def test_token_count_honours_a_subclass() -> None:
    for name, expected in (("WithoutTools", 2 * 4), ("TenEach", 30)):
        memory = subclasses(ChatMemoryBuffer)[name](token_limit=25, tokenizer_fn=str.split)
        memory.put_messages(conversation(3))
        assert memory.token_count() == expected


class TestAsync:
    @pytest.fixture
    def no_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: object, **keywords: object) -> None:
            raise AssertionError("it hopped to a thread")

        monkeypatch.setattr(asyncio, "to_thread", fail)

    @pytest.mark.usefixtures("no_threads")
    def test_every_method_answers_inline(self) -> None:
        async def run() -> None:
            memory = ChatMemoryBuffer(token_limit=10)
            messages = conversation()
            await memory.aput(messages[0])
            await memory.aput_messages(messages[1:])
            assert await memory.aget_all() == messages
            assert await memory.aget() == memory.get()
            assert await memory.aget("input", 3) == memory.get(initial_token_count=3)
            with pytest.raises(ValueError, match="Initial token count exceeds token limit"):
                await memory.aget(initial_token_count=11)
            await memory.aset(messages[:2])
            assert memory.get_all() == messages[:2]
            await memory.areset()
            assert await memory.aget() == []

        asyncio.run(run())

    @pytest.mark.usefixtures("no_threads")
    def test_gathered_puts_keep_their_order(self) -> None:
        async def run() -> list[ChatMessage]:
            memory = ChatMemoryBuffer(token_limit=10)
            await asyncio.gather(*(memory.aput(ChatMessage(str(i))) for i in range(500)))
            pairs = [[ChatMessage(f"{i}a"), ChatMessage(f"{i}b")] for i in range(50)]
            await asyncio.gather(*(memory.aput_messages(pair) for pair in pairs))
            return memory.get_all()

        expected = [str(i) for i in range(500)] + [f"{i}{letter}" for i in range(50) for letter in "ab"]
        assert contents(asyncio.run(run())) == expected

    @pytest.mark.parametrize(
        "texts",
        [["a" * 5_000], [" " * 5_000], ["word", "世" * 5_000], [""] * 100, ["word"] + [""] * 100, ["words "] * 300],
        ids=["letters", "spaces", "han", "empty", "empty after a word", "many"],
    )
    @pytest.mark.parametrize("labelled", [False, True])
    def test_much_is_counted_in_a_thread(self, hops: list[Any], texts: list[str], labelled: bool) -> None:
        async def run() -> None:
            memory_class: Any = Labelled if labelled else ChatMemoryBuffer
            memory = memory_class(token_limit=3000)
            await memory.aput_messages([ChatMessage(text) for text in texts])
            window = await memory.aget()
            assert len(hops) == 1
            assert window == memory.get()
            await memory.aput(ChatMessage("a word"))
            await memory.aget()
            hops.clear()
            # What is counted is not counted again.
            assert await memory.aget() == memory.get()
            await memory.aput(ChatMessage("another"))
            assert await memory.aget() == memory.get()
            assert hops == []

        asyncio.run(run())

    def test_what_becomes_much_later_is_counted_in_a_thread(self, hops: list[Any]) -> None:
        async def run() -> None:
            memory = ChatMemoryBuffer(token_limit=48)
            await memory.aput_messages([ChatMessage(f"message {i} of some words") for i in range(400)])
            assert len(await memory.aget()) == 8
            assert hops == []
            memory.token_limit = 10_000
            assert len(await memory.aget()) == 400
            assert len(hops) == 1
            memory.get_all()[-1].content = "a" * 10_000
            assert await memory.aget() == memory.get()
            assert len(hops) == 2
            memory.tokenizer_fn = tiktoken.get_encoding("o200k_base").encode
            assert await memory.aget() == memory.get()
            assert len(hops) == 3

        asyncio.run(run())

    def test_a_callable_is_never_called_on_the_loop(self) -> None:
        threads: list[int] = []

        def tokenize(text: str) -> list[str]:
            threads.append(threading.get_ident())
            return text.split()

        async def run() -> None:
            memory = ChatMemoryBuffer(token_limit=10, tokenizer_fn=tokenize)
            for message in conversation():
                await memory.aput(message)
                await memory.aget()
            assert threads
            assert threading.get_ident() not in threads

        asyncio.run(run())

    @pytest.mark.usefixtures("no_threads")
    def test_counts_of_a_callable_are_answered_inline(self) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(), tokenizer_fn=count_words)
        window = memory.get()
        assert asyncio.run(memory.aget()) == window

    def test_an_error_of_a_callable_comes_out_of_the_thread(self) -> None:
        memory = ChatMemoryBuffer.from_defaults(conversation(), tokenizer_fn=cast(Any, {}.__getitem__))
        with pytest.raises(KeyError):
            asyncio.run(memory.aget())

    def test_the_loop_goes_on_while_a_giant_is_counted(self) -> None:
        giant = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))

        async def run() -> int:
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    await asyncio.sleep(0.005)
                    beats += 1

            memory = ChatMemoryBuffer(token_limit=3000)
            heart = asyncio.create_task(beat())
            await memory.aput(ChatMessage(giant))
            await memory.aget()
            heart.cancel()
            return beats

        assert asyncio.run(run()) >= 8

    def test_a_slow_store_does_not_block_the_loop(self) -> None:
        beaten = threading.Event()

        def wait() -> None:
            beaten.clear()
            assert beaten.wait(60)

        class Slow(SimpleChatStore):
            def get_messages(self, key: str) -> list[ChatMessage]:
                wait()
                return super().get_messages(key)

            def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
                wait()
                super().add_message(key, message, idx)

        async def run() -> None:
            async def beat() -> None:
                while True:
                    await asyncio.sleep(0.005)
                    beaten.set()

            heart = asyncio.create_task(beat())
            memory = ChatMemoryBuffer(token_limit=10, chat_store=Slow())
            await memory.aput(ChatMessage("a"))
            await memory.aput_messages([ChatMessage("b")])
            assert len(await memory.aget()) == len(await memory.aget_all()) == 2
            heart.cancel()

        asyncio.run(run())


class TestOtherStores:
    @pytest.mark.parametrize("store_class", [SimpleChatStore, FreshCopies])
    def test_the_same_windows(self, store_class: type[SimpleChatStore]) -> None:
        ours = ChatMemoryBuffer(token_limit=25, chat_store=store_class())
        theirs = LlamaIndexChatMemoryBuffer(token_limit=25)
        for message in conversation(40):
            ours.put(message)
            theirs.put(message)
            for initial in (0, 10, 25):
                assert ours.get(initial_token_count=initial) == theirs.get(initial_token_count=initial)
            assert asyncio.run(ours.aget()) == theirs.get()
        ours.chat_store.delete_message(KEY, 38)
        theirs.chat_store.delete_message(KEY, 38)
        assert ours.get() == theirs.get()
        ours.set(conversation(3))
        assert ours.get() == conversation(3)
        ours.reset()
        assert ours.get() == ours.get_all() == []

    def test_messages_written_past_the_memory_are_seen(self) -> None:
        store = FreshCopies()
        memory = ChatMemoryBuffer(token_limit=25, chat_store=store)
        assert memory.get() == []
        store.add_message(KEY, ChatMessage("b"))
        assert contents(memory.get()) == ["b"]
        store.add_message(KEY, ChatMessage("a"), 0)
        assert contents(memory.get()) == ["a", "b"]
        store.store[KEY][0].content = "another text"
        assert contents(memory.get()) == ["another text", "b"]

    @pytest.mark.parametrize("store_class", [SimpleChatStore, FreshCopies])
    def test_only_the_window_is_counted_and_only_once(self, store_class: type[SimpleChatStore]) -> None:
        tokenizer = CountingTokenizer()
        store = store_class(store={KEY: conversation(2_000)})
        memory = ChatMemoryBuffer(token_limit=100, tokenizer_fn=tokenizer, chat_store=store)
        window = memory.get()
        assert 20 < len(window) <= 25
        assert len(tokenizer.texts) < 250
        tokenizer.texts.clear()
        assert memory.get() == window
        assert len(tokenizer.texts) <= 1  # one message before the window, whose count is not known
        memory.put(ChatMessage("a new message", role="user"))
        memory.get()
        assert 1 <= len(tokenizer.texts) <= 4

    def test_counts_are_kept_when_the_oldest_messages_leave(self) -> None:
        tokenizer = CountingTokenizer()
        memory = ChatMemoryBuffer(token_limit=100, tokenizer_fn=tokenizer, chat_store=LastMessages())
        memory.put_messages(conversation(150))
        memory.get()
        tokenizer.texts.clear()
        for i in range(10):
            memory.put(ChatMessage(f"new message {i}", role="user"))
            memory.get()
        # About 25 messages are in a window: if nothing were kept, there would be over 250 calls.
        assert len(tokenizer.texts) <= 50

    def test_memory_is_bounded(self) -> None:
        memory = ChatMemoryBuffer(token_limit=50, chat_store=FreshCopies())
        memory.put_messages(conversation(200))
        memory.get()
        gc.collect()
        before = sum(type(found) is ChatMessage for found in gc.get_objects())
        for _ in range(20):
            memory.get()
        gc.collect()
        assert sum(type(found) is ChatMessage for found in gc.get_objects()) <= before
        memory.reset()
        memory.get()
        gc.collect()
        assert sum(type(found) is ChatMessage for found in gc.get_objects()) <= before - 400

    def test_what_a_store_raises_reaches_the_caller(self) -> None:
        class Broken(SimpleChatStore):
            broken: bool = False

            def get_messages(self, key: str) -> list[ChatMessage]:
                if self.broken:
                    raise ConnectionError("no route to host")
                return super().get_messages(key)

        store = Broken(store={KEY: conversation(3)})
        memory = ChatMemoryBuffer(token_limit=50, chat_store=store)
        assert memory.get() == conversation(3)
        store.broken = True
        for get in (memory.get, memory.get_all, memory.token_count, lambda: asyncio.run(memory.aget())):
            with pytest.raises(ConnectionError, match=r"^no route to host$"):
                get()
        store.broken = False
        assert memory.get() == conversation(3)

    def test_a_store_of_another_class_is_serialised_under_its_own_name(self) -> None:
        for name in ("SimpleChatStore", "FreshCopies"):
            store = {"SimpleChatStore": SimpleChatStore, "FreshCopies": FreshCopies}[name]()
            data = ChatMemoryBuffer(token_limit=50, chat_store=store).to_dict()
            assert data["chat_store"] == {"store": {}, "class_name": "SimpleChatStore"}
