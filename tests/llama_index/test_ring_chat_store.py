"""`RingChatStore` beside `SimpleChatStore`: the same methods, files, bounds, and many threads."""

import asyncio
import collections
import copy
import json
import os
import pickle
import random
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pydantic
import pytest
from chatring import MessageRing
from chatring.llama_index import ChatMemoryBuffer, RingChatStore
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.llms import ChatMessage, TextBlock
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.loading import load_chat_store
from profiles import examples, slow

# From pydantic 2.14 on, LlamaIndex 0.14.25 cannot serialise a SimpleChatStore that holds a message.
LLAMA_INDEX_SERIALISES = tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 14)


def numbered(count: int, first: int = 0) -> list[ChatMessage]:
    return [ChatMessage(str(i)) for i in range(first, first + count)]


def contents(messages: list[ChatMessage] | None) -> list[str | None]:
    return [message.content for message in messages or []]


def identities(result: Any) -> Any:
    if isinstance(result, dict):
        return {key: identities(messages) for key, messages in result.items()}
    if isinstance(result, list):
        return [item if isinstance(item, str) else id(item) for item in result]
    return id(result) if isinstance(result, ChatMessage) else result


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return identities(call())
    except Exception as error:
        return type(error)


keys = st.sampled_from(("a", "b", "ü 世界", ""))
indices = st.integers(-4, 4)
one_message = st.sampled_from("xyz").map(ChatMessage)
few_messages = st.lists(one_message, max_size=4)
calls = st.one_of(
    st.tuples(st.just("add_message"), keys, one_message),
    st.tuples(st.just("add_message"), keys, one_message),
    st.tuples(st.just("add_message"), keys, one_message, st.one_of(indices, st.none())),
    st.tuples(st.just("set_messages"), keys, few_messages),
    st.tuples(st.just("get_messages"), keys),
    st.tuples(st.just("delete_messages"), keys),
    st.tuples(st.just("delete_message"), keys, indices),
    st.tuples(st.just("delete_last_message"), keys),
    st.tuples(st.just("get_keys")),
)
ASYNC_NAMES = {"add_message": "async_add_message"}


def answer(store: RingChatStore, name: str, arguments: list[Any], asynchronous: bool) -> Any:
    if not asynchronous:
        return getattr(store, name)(*arguments)
    try:
        getattr(store, ASYNC_NAMES.get(name, f"a{name}"))(*arguments).send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


@settings(max_examples=examples(1_000, long=10_000))
@given(st.lists(calls, max_size=25), st.booleans(), st.booleans())
def test_every_method_in_lock_step_with_simple_chat_store(
    calls: list[tuple[Any, ...]], asynchronous: bool, bounded: bool
) -> None:
    # Bounds that are never reached change nothing.
    ours = RingChatStore(max_messages=1_000, max_sessions=1_000) if bounded else RingChatStore()
    theirs = SimpleChatStore()
    for name, *arguments in calls:
        expected = outcome(lambda: getattr(theirs, name)(*arguments))  # noqa: B023
        got = outcome(lambda: answer(ours, name, arguments, asynchronous))  # noqa: B023
        if name == "get_keys" and bounded:  # in the order in which they were last used
            expected, got = sorted(expected), sorted(got)
        assert got == expected
        if name == "set_messages":  # LlamaIndex keeps the list it was given
            theirs.store[arguments[0]] = list(arguments[1])
    assert identities(ours.store) == identities(theirs.store)
    if not bounded:
        assert ours.get_keys() == list(ours.store) == theirs.get_keys()


def test_the_methods_are_those_of_simple_chat_store() -> None:
    for name in dir(SimpleChatStore):
        if not name.startswith("_") and name not in dir(pydantic.BaseModel):
            assert hasattr(RingChatStore, name), name
    store = RingChatStore()
    assert store
    assert not hasattr(store, "__len__")


@pytest.mark.parametrize("bad", ["text", None, 3, {"role": "user", "content": "a"}])
def test_what_is_no_message_is_refused_at_once(bad: Any) -> None:
    store = RingChatStore(store={"a": numbered(2)})
    bad_calls: list[Callable[[], Any]] = [
        lambda: store.add_message("a", bad),
        lambda: store.add_message("a", bad, 0),
        lambda: store.add_message("new", bad),
        lambda: store.set_messages("a", [ChatMessage("b"), bad]),
        lambda: store.set_messages("new", bad),
        lambda: store.add_messages("a", [ChatMessage("b"), bad]),
        lambda: asyncio.run(store.aset_messages("a", bad)),
    ]
    for call in bad_calls:
        with pytest.raises(TypeError, match="ChatMessage"):
            call()
    assert store.get_keys() == ["a"]
    assert contents(store.get_messages("a")) == ["0", "1"]


def test_lists_are_copied_and_messages_are_not() -> None:
    messages = numbered(3)
    store = RingChatStore(store={"a": messages})
    store.set_messages("b", messages)
    for found in (store.get_messages("a"), store.get_messages("b"), store.store["a"]):
        assert identities(found) == identities(messages)
        found.clear()
    messages.clear()
    assert len(store.get_messages("a")) == len(store.get_messages("b")) == 3
    assert store.get_messages("missing") == []
    assert store.get_keys() == ["a", "b"]


class TestWarmCounts:
    def test_a_new_memory_for_every_request_counts_only_what_is_new(self) -> None:
        calls: list[str] = []

        def tokenize(text: str) -> list[str]:
            calls.append(text)
            return text.split()

        store = RingChatStore(store={"session": [ChatMessage(f"message {i}") for i in range(1_000)]})
        window = None
        for request in range(5):
            memory = ChatMemoryBuffer(
                token_limit=100, tokenizer_fn=tokenize, chat_store=store, chat_store_key="session"
            )
            assert memory.get() != window
            assert len(calls) < 120 if request == 0 else len(calls) <= 3
            calls.clear()
            window = memory.get()
            assert len(window) == 50
            assert calls == []
            memory.put(ChatMessage(f"answer {request}"))


# The form that SimpleChatStore.persist writes.
FORM = (
    '{"store":{"a":[{"role":"user","additional_kwargs":{},"blocks":[{"block_type":"text","text":"0 ü 世界 😀"}]}],'
    '"ü":[]},"class_name":"SimpleChatStore"}'
)


class TestPersist:
    @pytest.fixture
    def store(self) -> RingChatStore:
        return RingChatStore(store={"a": [ChatMessage("0 ü 世界 😀")], "ü": []})

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        return str(tmp_path / "chat_store.json")

    def test_the_form_is_that_of_simple_chat_store(self, store: RingChatStore, path: str) -> None:
        store.persist(path)
        text = Path(path).read_bytes().decode()
        assert text.replace("RingChatStore", "SimpleChatStore") == FORM
        back = SimpleChatStore.from_persist_path(path)
        assert back.store == store.store
        if LLAMA_INDEX_SERIALISES:
            back.persist(path)
            # Older releases write escapes and spaces: the same JSON.
            assert json.loads(Path(path).read_bytes()) == json.loads(FORM)

    def test_what_simple_chat_store_wrote_is_read(self, store: RingChatStore, path: str) -> None:
        # Early versions wrote the JSON as a JSON string.
        for text in (FORM, json.dumps(json.loads(FORM)), json.dumps(FORM), json.dumps(json.loads(FORM), indent=2)):
            Path(path).write_text(text, encoding="utf-8")
            back = RingChatStore.from_persist_path(path)
            assert back.store == store.store
            assert back == store
            assert SimpleChatStore.from_persist_path(path).store == back.store

    @settings(max_examples=examples(200, long=2_000))
    @given(st.dictionaries(st.text(max_size=3), st.lists(st.text(max_size=5).map(ChatMessage), max_size=3), max_size=4))
    def test_any_texts_there_and_back(self, messages: dict[str, Any]) -> None:
        store = RingChatStore(store=messages)
        text = store.model_dump_json()
        assert RingChatStore.model_validate_json(text).store == store.store
        assert RingChatStore.from_dict(store.to_dict()).store == store.store
        assert SimpleChatStore.model_validate_json(text).store == store.store
        assert json.loads(store.to_json()) == json.loads(text)

    def test_blocks_and_arguments_there_and_back(self, path: str) -> None:
        blocks = [
            TextBlock(text="a"),
            ImageBlock(image=b"\x89PNG\r\n\x1a\n"),
            ImageBlock(url="https://example.org/i.png"),
        ]
        message = ChatMessage(blocks, role="tool", additional_kwargs={"id": 1, "raw": b"\xff", "nested": [{"a": None}]})
        store = RingChatStore(store={"a": [message]})
        store.persist(path)
        back = RingChatStore.from_persist_path(path).get_messages("a")[0]
        assert back.blocks == message.blocks
        assert back.additional_kwargs == {"id": 1, "raw": "/w==", "nested": [{"a": None}]}
        assert SimpleChatStore.from_persist_path(path).get_messages("a") == [back]

    def test_load_chat_store(self, store: RingChatStore) -> None:
        for bounded in (store, RingChatStore(store=dict(store.store), max_messages=5, max_sessions=4)):
            data = bounded.to_dict()
            before = copy.deepcopy(data)
            back = load_chat_store(data)
            assert data == before
            assert type(back) is RingChatStore
            assert back == store
            assert (back.max_messages, back.max_sessions) == (bounded.max_messages, bounded.max_sessions)

    def test_bounds_there_and_back(self, path: str) -> None:
        RingChatStore(store={"a": numbered(5)}, max_messages=3).persist(path)
        back = RingChatStore.from_persist_path(path)
        assert back.max_messages == 3
        back.add_message("a", ChatMessage("5"))
        assert contents(back.get_messages("a")) == ["3", "4", "5"]

    def test_no_file_is_an_empty_store(self, path: str) -> None:
        assert RingChatStore.from_persist_path(path).get_keys() == []
        assert not os.path.exists(path)

    def test_relative_names_and_new_folders(
        self, store: RingChatStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for path in ("chat_store.json", "new/and newer/chat_store.json", str(tmp_path / "other" / "ü.json")):
            store.persist(path)
            assert RingChatStore.from_persist_path(path) == store
        store.persist()
        assert RingChatStore.from_persist_path() == store
        assert sorted(os.listdir(tmp_path)) == ["chat_store.json", "new", "other"]

    def test_another_file_system(self, store: RingChatStore) -> None:
        fs = MemoryFileSystem()
        store.persist("/folder/chat_store.json", fs)
        assert RingChatStore.from_persist_path("/folder/chat_store.json", fs) == store
        assert fs.find("/folder") == ["/folder/chat_store.json"]
        store.add_message("a", ChatMessage("1"))
        store.persist("/folder/chat_store.json", fs=fs)
        assert RingChatStore.from_persist_path("/folder/chat_store.json", fs) == store
        store.persist("/folder/chat_store.json", fsspec.filesystem("memory"))
        fs.rm("/folder", recursive=True)

    def test_the_file_can_be_read_by_whom_an_ordinary_file_can(self, store: RingChatStore, path: str) -> None:
        store.persist(path)
        ordinary = path + ".ordinary"
        with open(ordinary, "w", encoding="utf-8"):
            pass
        assert stat.S_IMODE(os.stat(path).st_mode) == stat.S_IMODE(os.stat(ordinary).st_mode)

    @pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
    def test_a_file_keeps_its_permissions(self, store: RingChatStore, path: str) -> None:
        for mode in (0o640, 0o600, 0o664):
            store.persist(path)
            os.chmod(path, mode)
            store.persist(path)
            assert stat.S_IMODE(os.stat(path).st_mode) == mode


class TestFailuresOfPersist:
    """The old file stays as it was, and nothing else is left beside it."""

    @pytest.fixture(params=[True, False], ids=["old file", "no file"])
    def path(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
        path = tmp_path / "chat_store.json"
        if request.param:
            path.write_bytes(b"the old file")
        yield str(path)
        if request.param:
            assert path.read_bytes() == b"the old file"
        assert os.listdir(tmp_path) == (["chat_store.json"] if request.param else [])

    @pytest.mark.parametrize("function", ["replace", "fsync"])
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
    def test_a_system_call_fails(
        self, path: str, function: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object, **keywords: object) -> None:
            raise error

        monkeypatch.setattr(os, function, fail)
        with pytest.raises(type(error)) as raised:
            RingChatStore(store={"a": numbered(3)}).persist(path)
        assert raised.value is error
        monkeypatch.undo()

    def test_the_disk_is_full(self, path: str) -> None:
        resource = pytest.importorskip("resource", reason="limits of POSIX")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        store = RingChatStore(store={"a": numbered(10_000)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                store.persist(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_arguments_without_a_form(self, path: str) -> None:
        store = RingChatStore(store={"a": [ChatMessage("a", additional_kwargs={"x": object()})]})
        with pytest.raises(ValueError, match="serializ"):
            store.persist(path)

    def test_a_text_that_is_no_unicode(self, path: str) -> None:
        block = TextBlock(text="a")
        block.text = "\ud800"
        with pytest.raises(ValueError, match="surrogates"):
            RingChatStore(store={"a": [ChatMessage([block])]}).persist(path)


def test_a_failure_of_another_file_system_leaves_the_file() -> None:
    class Full(MemoryFileSystem):  # type: ignore[misc]
        cachable = False

        def mv(self, *arguments: object, **keywords: object) -> None:
            raise OSError(28, "No space left on device")

    fs = Full()
    fs.pipe("/full/chat_store.json", b"the old file")
    with pytest.raises(OSError, match="No space left"):
        RingChatStore(store={"a": numbered(3)}).persist("/full/chat_store.json", fs)
    assert fs.cat("/full/chat_store.json") == b"the old file"
    fs.rm("/full", recursive=True)


class TestBrokenFiles:
    def check(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is not a chat store") as raised:
            RingChatStore.from_persist_path(str(path))
        assert str(path) in str(raised.value)
        assert path.read_bytes() == data

    def test_a_file_cut_short_anywhere(self, tmp_path: Path) -> None:
        whole = FORM.encode()
        for length in range(len(whole)):
            self.check(tmp_path / "chat_store.json", whole[:length])

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b" \n",
            b"\x00" * 100,
            b"[]",
            b"null",
            b"3",
            b'"text"',
            b'"[]"',
            b"[" * 100_000,
            b'{"store": []}',
            b'{"store": 3}',
            b'{"store": "text"}',
            b'{"store": {"a": null}}',
            b'{"store": {"a": {}}}',
            b'{"store": {"a": ""}}',
            b'{"store": {"a": "text"}}',
            b'{"store": {"a": [1]}}',
            b'{"store": {"a": [{"role": "nobody", "content": "a"}]}}',
            b'{"store": {"a": [{"role": "user", "blocks": "a"}]}}',
            b'{"store": {}, "max_messages": 0}',
            b'{"store": {"\xff": []}}',
            b"\xff\xfe{\x00}\x00",
        ],
        ids=lambda data: repr(data[:40]),
    )
    def test_a_file_that_is_no_chat_store(self, tmp_path: Path, data: bytes) -> None:
        self.check(tmp_path / "chat_store.json", data)

    def test_one_byte_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "chat_store.json"
        whole = FORM.encode()
        for i in range(len(whole)):
            path.write_bytes(whole[:i] + b"\x00" + whole[i + 1 :])
            with pytest.raises(ValueError, match="is not a chat store"):
                RingChatStore.from_persist_path(str(path))


class Evictions:
    """An `on_evict` that keeps what it receives."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[str | None]]] = []

    def __call__(self, key: str, messages: list[ChatMessage]) -> None:
        assert isinstance(messages, list)
        assert messages, "a call without messages"
        self.seen.append((key, contents(messages)))


class TestBounds:
    @pytest.mark.parametrize("bounds", [{"max_messages": 0}, {"max_sessions": 0}, {"max_messages": -1}])
    def test_bounds_below_one(self, bounds: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            RingChatStore(**bounds)

    def test_the_oldest_messages_leave(self) -> None:
        evicted = Evictions()
        store = RingChatStore(max_messages=3, on_evict=evicted)
        for message in numbered(5):
            store.add_message("a", message)
        assert contents(store.get_messages("a")) == ["2", "3", "4"]
        assert evicted.seen == [("a", ["0"]), ("a", ["1"])]
        store.add_messages("a", numbered(2, 5))
        store.add_messages("a", numbered(5, 7))
        assert contents(store.get_messages("a")) == ["9", "10", "11"]
        assert [message for _, messages in evicted.seen for message in messages] == [str(i) for i in range(9)]
        store.add_message("b", ChatMessage("b"))
        assert len(evicted.seen) == 4

    def test_a_list_that_is_too_long(self) -> None:
        evicted = Evictions()
        store = RingChatStore(store={"a": numbered(5)}, max_messages=2, on_evict=evicted)
        assert contents(store.get_messages("a")) == ["3", "4"]
        assert evicted.seen == [("a", ["0", "1", "2"])]
        # What is replaced has not left because of a bound.
        store.set_messages("a", numbered(3, 10))
        assert contents(store.get_messages("a")) == ["11", "12"]
        assert evicted.seen[1:] == [("a", ["10"])]

    def test_a_message_put_in_between(self) -> None:
        evicted = Evictions()
        store = RingChatStore(store={"a": numbered(3)}, max_messages=3, on_evict=evicted)
        store.add_message("a", ChatMessage("new"), 2)
        assert contents(store.get_messages("a")) == ["1", "new", "2"]
        assert evicted.seen == [("a", ["0"])]
        store.add_message("a", ChatMessage("oldest"), 0)
        assert contents(store.get_messages("a")) == ["1", "new", "2"]
        assert evicted.seen[1:] == [("a", ["oldest"])]

    @pytest.mark.parametrize(
        "use",
        [
            lambda store: store.add_message("a", ChatMessage("new")),
            lambda store: store.set_messages("a", numbered(2)),
            lambda store: store.get_messages("a"),
            lambda store: store.delete_last_message("a"),
            lambda store: store.delete_message("a", 0),
            lambda store: ChatMemoryBuffer(token_limit=5, chat_store=store, chat_store_key="a").get(),
            lambda store: ChatMemoryBuffer(token_limit=5, chat_store=store, chat_store_key="a").put(ChatMessage("new")),
            lambda store: asyncio.run(store.aget_messages("a")),
        ],
    )
    def test_the_least_recently_used_session_leaves(self, use: Callable[[RingChatStore], Any]) -> None:
        evicted = Evictions()
        store = RingChatStore(max_sessions=2, on_evict=evicted)
        store.add_messages("a", numbered(2))
        store.add_messages("b", numbered(2))
        use(store)
        store.add_message("c", ChatMessage("c"))
        assert store.get_keys() == ["a", "c"]
        assert evicted.seen == [("b", ["0", "1"])]

    def test_looking_at_all_sessions_is_no_use_of_one(self, tmp_path: Path) -> None:
        store = RingChatStore(max_sessions=2)
        store.add_messages("a", numbered(2))
        store.add_messages("b", numbered(2))
        store.get_keys()
        store.get_messages("missing")
        store.persist(str(tmp_path / "chat_store.json"))
        copy.deepcopy(store)
        assert list(store.store) == ["a", "b"]
        store.add_message("c", ChatMessage("c"))
        assert store.get_keys() == ["b", "c"]

    def test_what_is_deleted_is_not_reported(self) -> None:
        evicted = Evictions()
        store = RingChatStore(max_sessions=2, max_messages=2, on_evict=evicted)
        store.add_messages("a", numbered(2))
        assert contents(store.delete_messages("a")) == ["0", "1"]
        store.add_messages("b", numbered(2))
        store.add_messages("c", numbered(2))
        store.set_messages("c", numbered(1))
        store.delete_last_message("c")
        assert evicted.seen == []
        store.add_messages("d", numbered(2))
        store.add_messages("e", numbered(1))  # the session that leaves has no message
        assert evicted.seen == [("b", ["0", "1"])]

    def test_without_a_callback_bounds_hold_too(self) -> None:
        store = RingChatStore(max_messages=2, max_sessions=3)
        for i in range(40):
            store.add_message(str(i % 5), ChatMessage(str(i)))
        assert [contents(store.store[key]) for key in store.get_keys()] == [["37"], ["38"], ["39"]]
        assert RingChatStore(store={key: numbered(3) for key in "abcd"}, max_sessions=2).get_keys() == ["c", "d"]

    def test_both_bounds_at_once(self) -> None:
        evicted = Evictions()
        store = RingChatStore(max_messages=2, max_sessions=1, on_evict=evicted)
        store.add_messages("a", numbered(2))
        store.add_messages("b", numbered(3))
        assert evicted.seen == [("a", ["0", "1"]), ("b", ["0"])]

    def test_windows_are_those_of_the_messages_that_stayed(self) -> None:
        store = RingChatStore(max_messages=4)
        memory = ChatMemoryBuffer(token_limit=3, tokenizer_fn=str.split, chat_store=store)
        for message in numbered(20):
            memory.put(message)
            assert memory.get() == store.get_messages("chat_history")[-3:]
        memory.token_limit = 100
        assert contents(memory.get()) == ["16", "17", "18", "19"]
        memory.set(numbered(6))
        assert contents(memory.get()) == ["2", "3", "4", "5"]

    @pytest.mark.parametrize("bounds", [{"max_messages": 2}, {"max_sessions": 1}])
    def test_a_callback_that_raises(self, bounds: dict[str, Any]) -> None:
        """Its error reaches the caller after the message was stored, so the caller must not put it again."""
        error = RuntimeError("the archive is down")
        reported: list[str | None] = []

        def fail(key: str, messages: list[ChatMessage]) -> None:
            reported.extend(contents(messages))
            raise error

        store = RingChatStore(**bounds, on_evict=fail)
        store.add_messages("a", numbered(2))
        key = "a" if "max_messages" in bounds else "b"
        with pytest.raises(RuntimeError) as raised:
            store.add_message(key, ChatMessage("2"))
        assert raised.value is error
        assert reported + contents([m for messages in store.store.values() for m in messages]) == ["0", "1", "2"]
        assert len(store.get_keys()) == 1
        # It does not hold the lock: another thread can go on.
        thread = threading.Thread(target=store.get_messages, args=("a",))
        thread.start()
        thread.join(60)
        assert not thread.is_alive()

    @pytest.mark.parametrize("max_sessions", [1, 2, 3])
    @pytest.mark.parametrize("max_messages", [None, 1, 2])
    def test_a_callback_that_uses_the_store(self, max_sessions: int, max_messages: int | None) -> None:
        """What leaves goes into a session of the same store, and nothing is lost on the way."""
        gone: list[str | None] = []

        def archive(key: str, messages: list[ChatMessage]) -> None:
            store.get_keys()
            store.get_messages(key)
            if key == "archive":
                gone.extend(contents(messages))
            else:
                store.add_messages("archive", messages)

        store = RingChatStore(max_sessions=max_sessions, max_messages=max_messages, on_evict=archive)
        for i in range(30):
            store.add_message("abcd"[i * 7 % 4], ChatMessage(str(i)))
        kept = contents([message for messages in store.store.values() for message in messages])
        assert sorted(kept + gone, key=lambda text: int(text or -1)) == [str(i) for i in range(30)]
        assert len(store.get_keys()) <= max_sessions

    def test_a_callback_of_an_insertion_does_not_hold_the_lock(self) -> None:
        freed: list[bool] = []

        def on_evict(key: str, messages: list[ChatMessage]) -> None:
            thread = threading.Thread(target=store.add_message, args=("b", ChatMessage("b")), daemon=True)
            thread.start()
            thread.join(60)
            freed.append(not thread.is_alive())

        store = RingChatStore(store={"a": numbered(2)}, max_messages=2, on_evict=on_evict)
        store.add_message("a", ChatMessage("new"), 1)
        assert contents(store.get_messages("a")) == ["new", "1"]
        assert freed == [True]

    @pytest.mark.parametrize(("before", "after"), [(None, 3), (2, None), (2, 4), (4, 2)])
    def test_max_messages_is_fixed(self, before: int | None, after: int | None) -> None:
        evicted = Evictions()
        store = RingChatStore(store={"a": numbered(2)}, max_messages=before, on_evict=evicted)
        for assign in (
            lambda: setattr(store, "max_messages", after),
            lambda: store.model_copy(update={"max_messages": after}),
            lambda: store.model_copy(update={"max_messages": after}, deep=True),
        ):
            with pytest.raises(ValueError, match=f"^max_messages of a RingChatStore .* cannot become {after}: make"):
                assign()
        assert store.max_messages == before
        assert store.model_copy(update={"max_messages": before}).max_messages == before
        store.add_messages("a", numbered(4, first=2))
        kept = contents(store.get_messages("a"))
        assert [text for _, texts in evicted.seen for text in texts] + kept == [str(i) for i in range(6)]
        assert len(kept) == min(6, before or 6)

    def test_max_sessions_assigned_later_holds_at_once(self) -> None:
        evicted = Evictions()
        store = RingChatStore(store={key: numbered(1) for key in "abcd"}, on_evict=evicted)
        store.max_sessions = 3
        assert (store.get_keys(), evicted.seen) == (["b", "c", "d"], [("a", ["0"])])
        store.get_messages("b")
        store.add_message("e", ChatMessage("e"))
        assert store.get_keys() == ["d", "b", "e"]
        store.max_sessions = None
        store.add_messages("f", numbered(1))
        assert store.get_keys() == ["d", "b", "e", "f"]
        assert evicted.seen == [("a", ["0"]), ("c", ["0"])]
        for bad in (0, -1, "3", 1.5):
            with pytest.raises(ValueError, match=r"^max_sessions must be None or an integer of at least 1, got"):
                store.max_sessions = bad  # type: ignore[assignment]
        assert store.max_sessions is None

    def test_a_callback_that_empties_the_session(self) -> None:
        def empty(key: str, messages: list[ChatMessage]) -> None:
            store.delete_messages(key)

        store = RingChatStore(max_messages=2, on_evict=empty)
        store.add_messages("a", numbered(3))
        assert store.get_keys() == []
        store.add_messages("a", numbered(2))
        assert contents(store.get_messages("a")) == ["0", "1"]


def module_level_callback(key: str, messages: list[ChatMessage]) -> None:
    pass


def test_made_without_checks() -> None:
    for store_class in (RingChatStore, SimpleChatStore):
        store: Any = store_class.model_construct()
        assert store.get_keys() == []
        store.add_message("a", ChatMessage("0"))
        store = store_class.model_construct(store={"a": numbered(2), "b": []})
        store.add_message("a", ChatMessage("2"))
        assert store.get_keys() == ["a", "b"]
        assert contents(store.get_messages("a")) == ["0", "1", "2"]
    store = RingChatStore.model_construct(store={"a": numbered(3)}, max_messages=2)
    assert contents(store.get_messages("a")) == ["1", "2"]


class TestCopies:
    def test_pickle(self) -> None:
        store = RingChatStore(
            store={"a": numbered(3), "b": []}, max_messages=5, max_sessions=2, on_evict=module_level_callback
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            back = pickle.loads(pickle.dumps(store, protocol))
            assert back == store
            assert back.get_keys() == ["a", "b"]
            assert (back.max_messages, back.max_sessions, back.on_evict) == (5, 2, module_level_callback)
            back.add_message("c", ChatMessage("c"))
            assert store.get_keys() == ["a", "b"]

    def test_deepcopy(self) -> None:
        evicted = Evictions()
        store = RingChatStore(store={"a": numbered(3)}, max_messages=3, max_sessions=1, on_evict=evicted)
        for copied in (copy.deepcopy(store), store.model_copy(deep=True)):
            assert copied == store
            assert identities(copied.store) == identities(store.store)
            copied.add_message("a", ChatMessage("new"))
            assert contents(copied.get_messages("a")) == ["1", "2", "new"]
            copied.add_message("b", ChatMessage("new"))
            assert contents(store.get_messages("a")) == ["0", "1", "2"]
            assert store.get_keys() == ["a"]
            assert copied.max_messages == 3

    def test_a_shallow_copy_shares_the_sessions(self) -> None:
        for store_class in (RingChatStore, SimpleChatStore):
            store = store_class(store={"a": numbered(3)})
            copied = copy.copy(store)
            assert type(copied) is store_class
            copied.add_message("a", ChatMessage("new"))
            copied.add_message("b", ChatMessage("new"))
            assert store.get_keys() == ["a", "b"]
            assert len(store.get_messages("a")) == 4

    def test_equality(self) -> None:
        assert RingChatStore(store={"a": numbered(2)}) == RingChatStore(store={"a": numbered(2)}, max_messages=2)
        assert RingChatStore(store={"a": numbered(2)}) != RingChatStore(store={"b": numbered(2)})
        assert RingChatStore(store={"a": numbered(2)}) != RingChatStore(store={"a": numbered(3)})
        assert RingChatStore() != SimpleChatStore()


@pytest.fixture
def busy_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_threads(work: Callable[[int], None], count: int = 8) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def guarded(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not any(thread.is_alive() for thread in threads), "a deadlock"
    assert errors == []


@pytest.mark.usefixtures("busy_switching")
@slow
class TestThreads:
    """Every message is in the store at the end, was reported as evicted, or was returned by a delete: exactly once."""

    MESSAGES = 1_500  # of each of 8 threads

    @pytest.mark.parametrize("max_sessions", [None, 1, 3])
    @pytest.mark.parametrize("max_messages", [None, 1, 20])
    def test_adding(self, max_messages: int | None, max_sessions: int | None) -> None:
        self.check({"add": 1, "add_many": 1, "put": 1, "get": 1}, max_messages, max_sessions)

    @pytest.mark.parametrize("max_sessions", [None, 3])
    @pytest.mark.parametrize("max_messages", [None, 20])
    def test_adding_and_inserting(self, max_messages: int | None, max_sessions: int | None) -> None:
        self.check({"add": 1, "insert": 1, "get": 1}, max_messages, max_sessions)

    @pytest.mark.parametrize("max_sessions", [None, 3])
    @pytest.mark.parametrize("max_messages", [None, 20])
    def test_adding_and_deleting(self, max_messages: int | None, max_sessions: int | None) -> None:
        self.check({"add": 4, "put": 2, "delete": 1, "delete_last": 1, "get": 1}, max_messages, max_sessions)

    @pytest.mark.parametrize("max_sessions", [None, 3])
    def test_adding_and_deleting_sessions(self, max_sessions: int | None) -> None:
        self.check({"add": 4, "add_many": 4, "delete_session": 2, "get": 1}, None, max_sessions)

    def check(self, actions: dict[str, int], max_messages: int | None, max_sessions: int | None) -> None:
        left: list[ChatMessage] = []  # appending is atomic

        def on_evict(key: str, messages: list[ChatMessage]) -> None:
            left.extend(messages)

        store = RingChatStore(max_messages=max_messages, max_sessions=max_sessions, on_evict=on_evict)
        put: list[list[ChatMessage]] = [[] for _ in range(8)]
        names = [name for name, weight in actions.items() for _ in range(weight)]

        def work(number: int) -> None:
            random_ = random.Random(number)
            mine = put[number]
            while len(mine) < self.MESSAGES:
                key = random_.choice("abcdef")
                name = random_.choice(names)
                if name in ("add", "insert", "put", "add_many"):
                    count = 3 if name == "add_many" else 1
                    messages = [ChatMessage(f"{number} {len(mine) + i}") for i in range(count)]
                    mine.extend(messages)
                if name == "add":
                    store.add_message(key, messages[0])
                elif name == "add_many":
                    store.add_messages(key, messages)
                elif name == "insert":
                    store.add_message(key, messages[0], random_.choice((0, 1, -1)))
                elif name == "put":
                    ChatMemoryBuffer(token_limit=30, chat_store=store, chat_store_key=key).put(messages[0])
                elif name == "get":
                    memory = ChatMemoryBuffer(
                        token_limit=30, chat_store=store, chat_store_key=key, tokenizer_fn=str.split
                    )
                    assert len(memory.get()) <= 15
                elif name == "delete_session":
                    left.extend(store.delete_messages(key) or [])
                else:
                    try:
                        deleted = store.delete_message(key, 0) if name == "delete" else store.delete_last_message(key)
                    except IndexError:  # the session has no message
                        continue
                    left.extend([deleted] if deleted is not None else [])

        run_threads(work)
        kept = [message for messages in store.store.values() for message in messages]
        found = collections.Counter(id(message) for message in kept + left)
        everything = [message for messages in put for message in messages]
        lost = [message.content for message in everything if found[id(message)] == 0]
        twice = [message.content for message in everything if found[id(message)] > 1]
        assert not lost, f"{len(lost)} of {len(everything)} are lost: {lost[:5]}"
        assert not twice, f"{len(twice)} of {len(everything)} came out twice: {twice[:5]}"
        assert all(len(messages) <= (max_messages or len(messages)) for messages in store.store.values())
        assert len(store.get_keys()) <= (max_sessions or 6)

    @pytest.mark.parametrize("max_sessions", [None, 6])
    def test_the_order_of_each_thread_is_kept(self, max_sessions: int | None) -> None:
        store = RingChatStore(max_sessions=max_sessions)

        def work(number: int) -> None:
            for i in range(self.MESSAGES):
                store.add_message("abc"[i % 3], ChatMessage(f"{number} {i}"))

        run_threads(work)
        for key in "abc":
            last = dict.fromkeys(range(8), -1)
            for message in store.get_messages(key):
                number, i = map(int, str(message.content).split())
                assert i > last[number]
                last[number] = i

    def test_a_session_is_begun_once(self) -> None:
        for _ in range(30):
            store = RingChatStore()
            run_threads(lambda number, store=store: store.add_message("a", ChatMessage(str(number))))  # type: ignore[misc]
            assert len(store.get_messages("a")) == 8

    def test_a_session_that_is_used_is_never_missing(self, tmp_path: Path) -> None:
        store = RingChatStore(store={str(i): numbered(1) for i in range(20)}, max_sessions=100)
        expected = {str(i) for i in range(20)}
        path = str(tmp_path / "chat_store.json")
        shared = store.model_copy(update={"max_sessions": None})
        memory = ChatMemoryBuffer(token_limit=100, chat_store=store)

        def persisted() -> Any:
            store.persist(path)
            return json.loads(Path(path).read_bytes())["store"]

        reads: list[Callable[[], Any]] = [
            store.get_keys,
            lambda: asyncio.run(store.aget_keys()),
            lambda: store.store,
            lambda: store.model_dump()["store"],
            lambda: json.loads(store.model_dump_json())["store"],
            lambda: store.to_dict()["store"],
            persisted,
            lambda: memory.to_dict()["chat_store"]["store"],
            lambda: json.loads(memory.to_string())["chat_store"]["store"],
            lambda: copy.deepcopy(store).get_keys(),
            lambda: store.model_copy(deep=True).get_keys(),
            lambda: copy.deepcopy(memory).chat_store.get_keys(),
            lambda: pickle.loads(pickle.dumps(store)).get_keys(),
            lambda: [key for key in expected if shared.ring(key) is not None],
        ]
        done = threading.Event()

        def work(number: int) -> None:
            if number:
                while not done.is_set():
                    ChatMemoryBuffer(token_limit=100, chat_store=store, chat_store_key="7").get()
                return
            try:
                same = copy.deepcopy(store)
                for _ in range(60):
                    for index, read in enumerate(reads):
                        assert set(read()) == expected, index
                    assert store == same
            finally:
                done.set()

        run_threads(work, 3)

    def test_what_is_read_is_of_one_moment(self) -> None:
        store = RingChatStore(store={"a": [], **{str(i): [] for i in range(300)}, "b": []})
        done = threading.Event()

        def work(number: int) -> None:
            if number:
                while not done.is_set():
                    store.add_message("a", ChatMessage("x"))
                    store.add_message("b", ChatMessage("x"))
                    if len(store.get_messages("a")) == 50:
                        store.set_messages("b", [])
                        store.set_messages("a", [])
                return
            try:
                for _ in range(200):
                    for found in (store.store, copy.deepcopy(store).store):
                        assert len(found["a"]) - len(found["b"]) in (0, 1, 50), (len(found["a"]), len(found["b"]))
            finally:
                done.set()

        run_threads(work, 2)

    def test_the_later_of_two_threads_that_persist_has_the_last_word(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = RingChatStore(store={"a": numbered(1)})
        path = str(tmp_path / "chat_store.json")
        slow, later_is_done = threading.Event(), threading.Event()
        replace = os.replace

        def slowly(source: str, target: str) -> None:
            if not slow.is_set():
                slow.set()
                later_is_done.wait(1)
            replace(source, target)

        monkeypatch.setattr(os, "replace", slowly)

        def work(number: int) -> None:
            if number:
                slow.wait(60)
                store.add_message("a", ChatMessage("new"))
            store.persist(path)
            if number:
                later_is_done.set()

        run_threads(work, 2)
        assert RingChatStore.from_persist_path(path) == store

    def test_persisting_meanwhile(self, tmp_path: Path) -> None:
        store = RingChatStore(max_messages=50)
        path = str(tmp_path / "chat_store.json")

        def work(number: int) -> None:
            for i in range(300 if number else 20):
                if number:
                    store.add_message(str(i % 40), ChatMessage(f"{number} {i}"))
                    if i % 7 == 0:
                        store.delete_messages(str(i % 40))
                else:
                    store.persist(path)
                    RingChatStore.from_persist_path(path)
                    copy.deepcopy(store)
                    pickle.dumps(store)

        run_threads(work)
        assert os.listdir(tmp_path) == ["chat_store.json"]


def test_a_reader_never_finds_a_session_empty_that_moves_to_another_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory with another measure moves it. Others read without the lock meanwhile."""
    store = RingChatStore()
    store.add_messages("ada", [ChatMessage("one"), ChatMessage("two")])
    found: list[int] = []

    class Watched(MessageRing[ChatMessage]):
        def _put_messages(self, messages: Iterable[ChatMessage], /) -> list[ChatMessage]:
            found.append(len(store.get_messages("ada")))
            return super()._put_messages(messages)

    monkeypatch.setattr("chatring.llama_index.ring_chat_store.MessageRing", Watched)
    memory = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="ada", measure="message")
    assert [message.content for message in memory.get()] == ["one", "two"]
    assert isinstance(store.ring("ada"), Watched)
    assert found == [2]
