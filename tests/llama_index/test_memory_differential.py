"""`Memory` compared with the installed LlamaIndex's: the same operations, and after each the same messages.

A history is a list of random operations. LlamaIndex's class runs it once, and ours runs it on every store: a ring,
SQLite, PostgreSQL, Valkey, and a store of somebody else's. After every operation these must be equal: active and
archived messages, the batches that each memory block was given, what it was asked, and what `get` returns. An everyday
run makes 500 histories, `HYPOTHESIS_PROFILE=long` ten times as many.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import enum
import functools
import itertools
import json
import random
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from banks.env import env as templates  # type: ignore[import-untyped]
from chatring._core import _copied, _MessageQueue
from chatring.llama_index import Memory, RedisChatStore, RingMemoryStore, SQLChatStore
from chatring.llama_index.memory_policy import DEFAULTS, ESTIMATES, MemoryPolicy
from chatring.llama_index.message_format import reread
from chatring.llama_index.store_chat_store import StoreChatStore
from chatring.stores import CounterMismatchError
from chatring.stores.queues import Flush, Part
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms import ChatMessage, MessageRole, TextBlock
from llama_index.core.memory import BaseMemoryBlock, InsertMethod
from llama_index.core.memory import Memory as LlamaIndexMemory
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.utils import get_tokenizer
from profiles import examples
from pydantic import BaseModel, Field
from pydantic_core import PydanticSerializationError
from stores.conftest import postgres_server, valkey_server

T = TypeVar("T")
Messages = list[ChatMessage]

FIXTURES = (postgres_server, valkey_server)
HISTORIES = examples(500, long=5_000)
AT_ONCE = 50
CHUNKS = max(HISTORIES // AT_ONCE, 1)
ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


# --- what LlamaIndex's memory is built on -----------------------------------------------------------------------------


class ListStore(AsyncDBChatStore):
    """The contract of LlamaIndex's SQLAlchemyChatStore, on lists: a message is kept as JSON and read back from it."""

    # By session.
    rows: dict[str, list[tuple[MessageStatus, str]]] = Field(default_factory=dict)
    # How often it was told to archive: the rounds.
    rounds: int = 0

    def _found(self, key: str, status: MessageStatus | None) -> list[int]:
        return [number for number, row in enumerate(self.rows.get(key, [])) if status in (None, row[0])]

    def _read(self, key: str, numbers: list[int]) -> Messages:
        return [ChatMessage.model_validate(json.loads(self.rows[key][number][1])) for number in numbers]

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> Messages:
        return self._read(key, self._found(key, status)[offset or 0 :][:limit])

    async def count_messages(self, key: str, status: MessageStatus | None = ACTIVE) -> int:
        return len(self._found(key, status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = ACTIVE) -> None:
        await self.add_messages(key, [message], status)

    async def add_messages(self, key: str, messages: Messages, status: MessageStatus = ACTIVE) -> None:
        rows = [(status, json.dumps(message.model_dump(mode="json"))) for message in messages]
        self.rows.setdefault(key, []).extend(rows)

    async def set_messages(self, key: str, messages: Messages, status: MessageStatus = ACTIVE) -> None:
        await self.delete_messages(key)
        await self.add_messages(key, messages, status)

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        raise NotImplementedError

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        found = self._found(key, status)
        self.rows[key] = [row for number, row in enumerate(self.rows.get(key, [])) if number not in found]

    async def delete_oldest_messages(self, key: str, n: int) -> Messages:
        oldest = self._found(key, ACTIVE)[:n]
        messages = self._read(key, oldest)
        self.rows[key] = [row for number, row in enumerate(self.rows.get(key, [])) if number not in oldest]
        return messages

    async def archive_oldest_messages(self, key: str, n: int) -> Messages:
        self.rounds += 1
        oldest = self._found(key, ACTIVE)[:n]
        for number in oldest:
            self.rows[key][number] = ARCHIVED, self.rows[key][number][1]
        return self._read(key, oldest)

    async def get_keys(self) -> list[str]:
        return list(self.rows)


class Probe(BaseMemoryBlock[Any]):
    """A memory block with fixed contents that notes what it is given and asked."""

    value: Any = ""
    shrinks: str = "to nothing"  # or "by half", "not at all"
    given: list[list[str]] = Field(default_factory=list)
    asked: list[tuple[list[str], dict[str, Any]]] = Field(default_factory=list)
    truncated: int = 0

    async def _aget(self, messages: Messages | None = None, **block_kwargs: Any) -> Any:
        self.asked.append((written(messages or []), block_kwargs))
        return copy.deepcopy(self.value)

    async def _aput(self, messages: Messages) -> None:
        self.given.append(written(messages))

    async def atruncate(self, content: Any, tokens_to_truncate: int) -> Any:
        self.truncated += 1
        self.asked.append((["truncate"], {"tokens": tokens_to_truncate}))
        if self.shrinks == "to nothing":
            return None
        return content[: len(content) // 2] if self.shrinks == "by half" else content


def written(messages: Messages) -> list[str]:
    """Return messages in a form that is equal only if they are."""
    return [_written(message) for message in messages]


def _written(message: ChatMessage) -> str:
    try:
        return message.model_dump_json()
    except PydanticSerializationError:  # a surrogate without a partner
        return json.dumps(message.model_dump(mode="json"))


def parts(value: Any) -> Any:
    """Return what a message consists of: values with their types, and the fields that pydantic says were set."""
    if isinstance(value, BaseModel):
        return type(value), value.model_fields_set, {name: parts(part) for name, part in value}
    if isinstance(value, dict):
        return dict, [(parts(key), parts(part)) for key, part in value.items()]
    if isinstance(value, list):
        return list, [parts(part) for part in value]
    return type(value), repr(value) if isinstance(value, float) else value


def words_and_one(text: str) -> list[str]:
    """Split a text, with a begin token in front, as some tokenizers add."""
    return ["<s>", *text.split()]


def _tokens_of(tokenizer: Any) -> str:
    names = {str.split: "words", words_and_one: "words and one"}
    return names.get(tokenizer, "cl100k_base")


# --- random histories -------------------------------------------------------------------------------------------------

ROLES = ("user", "assistant", "tool", "system", "developer", "function", "chatbot", "model")
WEIGHTS = (
    (4, 4, 2, 0, 0, 0, 0, 0),
    (3, 3, 3, 1, 1, 1, 1, 1),
    (1, 6, 6, 1, 0, 0, 0, 0),
    (0, 3, 3, 1, 0, 0, 0, 0),
    (1, 1, 0, 0, 0, 0, 0, 0),
)
WORDS = (
    "w",
    "w",
    "w",
    "w",
    "w",
    "<|endoftext|>",
    "<|fim_prefix|>x",
    "<|no",
    "世界",
    "it's\n",
    "\t",
    "\0",
    "  🙂",
    "é",
    "",
)
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01"
TOKENIZERS: tuple[Any, ...] = (str.split, words_and_one, get_tokenizer())
LIMITS = (1, 2, 5, 9, 10, 15, 20, 30, 50, 100)
RATIOS = (0.7, 0.7, 0.7, 0.0, 0.1, 0.29, 0.5, 0.95, 1.0, 1.3, float("nan"), -0.5, float("inf"))
FLUSH_SIZES = (None, 0, 1, 2, 5, 10, 30, 3_000, -1)


class Note(ChatMessage):
    """A message of the user's own class."""

    page: int = 7


class Call(BaseModel):
    """What a provider's client puts into `additional_kwargs`."""

    name: str = "look_up"
    arguments: tuple[int, str] = (1, "a b")


class Colour(enum.Enum):
    RED = "red and green"


class History:
    """The choices of one history."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(f"memory/{number}")
        self.key = f"{number}: ü 世界 }}%{{"
        self.weights = self.random.choice(WEIGHTS)
        self.longest = self.random.choice((1, 3, 8, 20))
        self.limit = self.random.choice(LIMITS)
        self._calls = itertools.count()

    def text(self, most: int) -> str:
        return " ".join(self.random.choice(WORDS) for _ in range(self.random.randint(0, most)))

    def value(self, depth: int = 0) -> Any:
        """Return something that `additional_kwargs` may have, and that has a JSON form."""
        kind = self.random.randrange(18 if depth < 3 else 13)
        if kind == 13:
            return [self.value(depth + 1) for _ in range(self.random.randint(0, 3))]
        if kind == 14:
            return tuple(self.value(depth + 1) for _ in range(self.random.randint(0, 3)))
        if kind >= 15:
            keys = ("a", "b c", 1, "1", True, 2.5, None, Colour.RED)
            return {self.random.choice(keys): self.value(depth + 1) for _ in range(self.random.randint(0, 3))}
        flat = (
            None,
            True,
            7,
            2**70,
            -0.0,
            1.5,
            1e22,
            "",
            "\ud800 x",
            b"\xff\x00"[depth:],
            Call(),
            Colour.RED,
            self.text(4),
        )
        return flat[kind]

    def kwargs(self, role: str) -> dict[Any, Any]:
        kwargs: dict[Any, Any] = {"tool_call_id": f"call {next(self._calls)}"} if role == "tool" else {}
        if self.random.random() < 0.12:
            kwargs["value"] = self.value()
        if self.random.random() < 0.04:
            kwargs["tool_calls"] = [Call(), {"id": 1, "function": {"name": "f", "arguments": '{"a": "b c"}'}}]
        return kwargs

    def block(self) -> Any:
        text = self.text(self.longest)
        kinds: tuple[Callable[[], Any], ...] = (
            lambda: ImageBlock(url="http://x/y.png", detail="low"),
            lambda: ImageBlock(image=PNG),
            lambda: AudioBlock(url="http://x/y.wav"),
            lambda: AudioBlock(audio=b"RIFF....WAVE", format="wav"),
            lambda: VideoBlock(url="http://x/y.mp4"),
            lambda: DocumentBlock(url="http://x/y.pdf", title="t"),
            lambda: DocumentBlock(data=b"%PDF-1.4 ...", title="t"),
            lambda: CachePoint(cache_control=CacheControl(type="ephemeral")),
            lambda: ToolCallBlock(tool_name="f", tool_kwargs={"x": text, "y": {1: (2, [None])}}),
            lambda: ThinkingBlock(content=text, num_tokens=3, additional_information={"signature": b"x"}),
            lambda: CitableBlock(title="t", source="s", content=[TextBlock(text=text)]),
            lambda: CitationBlock(
                cited_content=TextBlock(text=text), source="s", title="t", additional_location_info={"page": 1}
            ),
        )
        return self.random.choice(kinds)()

    def message(self) -> ChatMessage:
        role = self.random.choices(ROLES, self.weights)[0]
        kwargs = self.kwargs(role)
        if self.random.random() < 0.05:
            return ChatMessage(None, role=role, additional_kwargs=kwargs)
        blocks: list[Any] = [
            TextBlock(text=self.text(self.longest)) for _ in range(self.random.choice((0, 1, 1, 1, 1, 1, 2)))
        ]
        while self.random.random() < 0.2:
            blocks.insert(self.random.randint(0, len(blocks)), self.block())
        if self.random.random() < 0.05:
            return Note(role=MessageRole(role), blocks=blocks, additional_kwargs=kwargs)
        return ChatMessage(role=role, blocks=blocks, additional_kwargs=kwargs)

    def messages(self, least: int, most: int) -> Messages:
        messages = [self.message() for _ in range(self.random.randint(least, most))]
        return messages + messages[:1] if self.random.random() < 0.1 else messages

    def many(self) -> Messages:
        """Return more messages than a database is asked for at once, and of few tokens, as LlamaIndex takes long."""
        self.weights, self.longest = (1, 3, 2, 0, 0, 0, 0, 0), 2
        return [self.message() for _ in range(self.random.randint(65, 130))]

    def content(self, number: int) -> Any:
        """Return what a memory block has."""
        kinds: tuple[Callable[[], Any], ...] = (
            lambda: f"s{number} {self.text(6)}",
            lambda: f"s{number} {self.text(6)}",
            lambda: [TextBlock(text=f"b{number} {self.text(4)}"), TextBlock(text="x")],
            lambda: [
                TextBlock(text="i"),
                ImageBlock(url="http://x/y.png"),
                CachePoint(cache_control=CacheControl(type="e")),
            ],
            lambda: [ChatMessage(f"m{number} {self.text(4)}", role=self.random.choice(ROLES)), ChatMessage("m")],
            lambda: "",
            list,
            lambda: None,
        )
        # What LlamaIndex refuses.
        refused: tuple[Any, ...] = (5, [TextBlock(text="x"), ChatMessage("m")], [ThinkingBlock(content="t")])
        return self.random.choice(refused) if self.random.random() < 0.03 else self.random.choice(kinds)()

    def block_fields(self) -> list[dict[str, Any]]:
        return [
            {
                "name": f"block{number}",
                "value": self.content(number),
                "priority": self.random.choice((0, 0, 1, 1, 2, -1)),
                "shrinks": self.random.choice(("to nothing", "by half", "not at all")),
                "accept_short_term_memory": self.random.random() < 0.8,
            }
            for number in range(self.random.choice((0, 0, 0, 1, 2, 3)))
        ]

    def estimates(self) -> dict[str, int]:
        return {name: self.random.choice((0, 3, 7, 256, 10**6)) for name in ESTIMATES if self.random.random() < 0.5}

    def settings(self) -> tuple[str, dict[str, Any]]:
        """Return how a memory is made, and with what; memory blocks are the fields of theirs."""
        fields: dict[str, Any] = {
            "token_limit": self.limit,
            "chat_history_token_ratio": self.random.choice(RATIOS),
            "memory_blocks": self.block_fields(),
            "insert_method": self.random.choice((*InsertMethod, "system", "user")),
            "session_id": self.key,
            **self.estimates(),
        }
        size = self.random.choice(FLUSH_SIZES)
        if size is not None:
            fields["token_flush_size"] = size
        how = self.random.choice(("the constructor", "from_defaults"))
        if how == "from_defaults":
            fields.pop("document_token_size_estimate", None)
        return how, fields

    def operation(self) -> tuple[Any, ...]:
        chance = self.random.random()
        if chance < 0.60:
            return "put", self.message()
        if chance < 0.76:
            return "put_messages", self.messages(1, 7)
        if chance < 0.81:
            return "set", self.messages(0, 9)
        if chance < 0.814:
            return "set", self.many()
        if chance < 0.85:
            return "reset", self.random.choice((None, ACTIVE, ARCHIVED))
        if chance < 0.94:
            return "assign", *self.assignment()
        if chance < 0.96:
            return ("new memory",)
        if chance < 0.97:
            return "manage", None
        in_the_store = (
            ("add_messages", self.messages(1, 3)),
            ("archive_oldest_messages", self.random.randint(0, 4)),
            ("delete_oldest_messages", self.random.randint(0, 4)),
            ("set_messages", self.messages(0, 4), self.random.choice((ACTIVE, ARCHIVED))),
        )
        return "store", *self.random.choice(in_the_store)

    def assignment(self) -> tuple[str, Any]:
        choices: tuple[tuple[str, tuple[Any, ...]], ...] = (
            ("token_limit", (*LIMITS, 0, -5)),
            ("chat_history_token_ratio", RATIOS),
            ("token_flush_size", (0, 1, 5, 30, 3_000, -3, 2.5, float("nan"), float("inf"))),
            ("tokenizer_fn", TOKENIZERS),
            ("insert_method", tuple(InsertMethod)),
            *((name, (0, 3, 256)) for name in ESTIMATES),
        )
        name, values = self.random.choice(choices)
        return name, self.random.choice(values)

    def questions(self) -> list[tuple[Any, dict[str, Any]]]:
        """Return the arguments that `get` is called with: without an input, and with one."""
        block_kwargs = {"extra": 1} if self.random.random() < 0.1 else {}
        if self.random.random() < 0.1:
            return [(None, block_kwargs), (ChatMessage("some input"), {})]
        return [(None, block_kwargs), (self.random.choice(("some input", "")), {})]


# --- the stores of ours -----------------------------------------------------------------------------------------------


class Place:
    """Where a memory of ours has its messages. A database has a store for each tokenizer."""

    def __init__(self, name: str, stores: Callable[[Any], Any]) -> None:
        self.name = name
        self.store = functools.cache(stores)

    @property
    def has_one_counter(self) -> bool:
        """Whether a memory cannot be given another tokenizer there."""
        return isinstance(self.store(str.split), StoreChatStore)


class Places:
    """All of them, with a loop for async calls and a thread for calls from elsewhere."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.loop = asyncio.new_event_loop()
        self.elsewhere = ThreadPoolExecutor(1)
        ring, foreign = RingMemoryStore(), ListStore()
        self.all = [Place("ring", lambda _: ring), Place("somebody else's", lambda _: foreign)]
        self._opened: list[StoreChatStore] = []
        for name, url in urls.items():
            self.all.append(Place(name, functools.partial(self._open, url)))

    def _open(self, url: str, tokenizer: Any) -> StoreChatStore:
        name = _tokens_of(tokenizer)
        options = {} if name == "cl100k_base" else {"counter": tokenizer, "counter_name": name}
        store = RedisChatStore(url, **options) if url.startswith("redis") else SQLChatStore(url, **options)
        self._opened.append(store)
        return store

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        for store in self._opened:
            self.run(store.store.aclose())
            store.store.close()
        self.loop.close()
        self.elsewhere.shutdown()


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest) -> dict[str, str]:
    """The URL of each server; where there is none, the reason."""

    def url_of(fixture: str) -> str:
        try:
            return str(request.getfixturevalue(fixture).url)
        except pytest.skip.Exception as reason:
            return str(reason)

    return {"PostgreSQL": url_of("postgres_server"), "Valkey": url_of("valkey_server")}


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Compile the template of memory blocks once: LlamaIndex does at every call, which is most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "compile", functools.cache(templates.compile))
        yield


@pytest.fixture(scope="module")
def places(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    urls = {"SQLite": f"sqlite:///{tmp_path_factory.mktemp('memory') / 'chat.db'}"}
    urls |= {name: url for name, url in servers.items() if "://" in url}
    places = Places(urls)
    yield places
    places.close()


@pytest.mark.parametrize("name", ["PostgreSQL", "Valkey"])
def test_a_server_was_there(servers: dict[str, str], name: str) -> None:
    if "://" not in servers[name]:
        pytest.skip(f"the histories ran without {name}: {servers[name]}")


# --- both, side by side -----------------------------------------------------------------------------------------------


class Theirs:
    """LlamaIndex's memory."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.store: Any = ListStore()
        self.memory: Any

    def make(self, how: str, fields: dict[str, Any], tokenizer: Any) -> None:
        blocks = [Probe(**block) for block in fields["memory_blocks"]]
        fields = {**fields, "memory_blocks": blocks, "tokenizer_fn": tokenizer}
        self.memory = (
            LlamaIndexMemory(**fields) if how == "the constructor" else LlamaIndexMemory.from_defaults(**fields)
        )
        self.memory.sql_store = self.store  # old versions take no other than their own

    def do(self, name: str, *arguments: Any) -> None:
        memory = self.memory
        if name == "reset":
            self.places.run(memory.areset(status=arguments[0]))
        elif name == "assign":
            setattr(memory, *arguments)
        elif name == "manage":
            self.places.run(memory._manage_queue())
        elif name == "store":
            self.places.run(getattr(self.store, arguments[0])(memory.session_id, *arguments[1:]))
        else:
            self.places.run(getattr(memory, f"a{name}")(*arguments))

    def seen(self, questions: list[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
        return self.places.run(_seen(self.memory, questions))


class Ours(Theirs):
    """A memory of ours. How it is called is by chance."""

    def __init__(self, places: Places, place: Place, number: int) -> None:
        self.places = places
        self.place = place
        self.random = random.Random(f"{place.name}/{number}")

    def make(self, how: str, fields: dict[str, Any], tokenizer: Any) -> None:
        store = self.place.store(tokenizer)
        blocks = [Probe(**block) for block in fields["memory_blocks"]]
        fields = {**fields, "memory_blocks": blocks, "tokenizer_fn": tokenizer}
        if how == "the constructor":
            self.memory = Memory(**fields, sql_store=store)
        else:
            self.memory = Memory.from_defaults(**fields, chat_store=store)

    def do(self, name: str, *arguments: Any) -> None:
        memory = self.memory
        way = self.random.choice(("async", "async", "async", "sync", "sync in the loop", "sync elsewhere"))
        if way == "async" or name in ("manage", "store", "assign") or (name == "reset" and arguments[0]):
            self.store = memory.sql_store
            super().do(name, *arguments)
            return
        call = functools.partial(getattr(memory, name), *(() if name == "reset" else arguments))
        self.called(way, call)

    def called(self, way: str, call: Callable[[], T]) -> T:
        if way == "sync in the loop":

            async def in_the_loop() -> T:
                return call()

            return self.places.run(in_the_loop())
        if way == "sync elsewhere":
            return self.places.elsewhere.submit(call).result()
        return call()

    def assign_tokenizer(self, tokenizer: Any) -> None:
        """Assign another tokenizer: where the store counts, it is refused until the store is another one, too."""
        memory = self.memory
        memory.tokenizer_fn = tokenizer
        if self.place.has_one_counter and memory.sql_store.chat_store is not self.place.store(tokenizer):
            with pytest.raises(CounterMismatchError, match="the memory counts with"):
                memory.put(ChatMessage("lost"))
            other = Memory(token_limit=1, tokenizer_fn=tokenizer, sql_store=self.place.store(tokenizer))
            self.memory = memory.model_copy(update={"sql_store": other.sql_store})

    def seen(self, questions: list[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
        if self.random.random() < 0.4:
            return super().seen(questions)
        way = self.random.choice(("sync", "sync in the loop", "sync elsewhere"))
        memory = self.memory

        def seen() -> dict[str, Any]:
            active, archived = memory.get_all(status=ACTIVE), memory.get_all(status=ARCHIVED)
            answers = [_outcome(lambda: memory.get(input=asked, **named)) for asked, named in questions]  # noqa: B023
            return _collected(memory, active, archived, answers)

        return self.called(way, seen)

    def edit(self, seen: dict[str, Any]) -> None:
        """Change what was returned: nothing that is stored may change with it."""
        for messages in (seen["active"], seen["archived"], *seen["got"]):
            for message in messages if isinstance(messages, list) else ():
                message.blocks.append(TextBlock(text="edited"))
                message.additional_kwargs["edited"] = True
                message.role = MessageRole.USER


async def _seen(memory: Any, questions: list[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    active, archived = await memory.aget_all(status=ACTIVE), await memory.aget_all(status=ARCHIVED)
    answers = [await _awaited(memory.aget(input=asked, **named)) for asked, named in questions]
    return _collected(memory, active, archived, answers)


async def _awaited(getting: Coroutine[Any, Any, Messages]) -> Messages | str:
    try:
        return await getting
    except ValueError as error:
        return f"{type(error)}: {error}"


def _outcome(get: Callable[[], Messages]) -> Messages | str:
    try:
        return get()
    except ValueError as error:
        return f"{type(error)}: {error}"


def _collected(memory: Any, active: Messages, archived: Messages, answers: list[Any]) -> dict[str, Any]:
    blocks = memory.memory_blocks
    of_blocks = {block.name: (list(block.given), list(block.asked)) for block in blocks}
    for block in blocks:
        block.given.clear()
        block.asked.clear()
    return {"active": active, "archived": archived, "got": answers, "blocks": of_blocks}


class Tally(collections.Counter[str]):
    """What happened in some histories."""


def run(places: Places, number: int, tally: Tally) -> None:
    """Run a history on all of them."""
    history = History(number)
    tokenizer = history.random.choice(TOKENIZERS)
    theirs = Theirs(places)
    everyone: list[Theirs] = [theirs, *(Ours(places, place, number) for place in places.all)]
    how, fields = history.settings()
    for one in everyone:
        one.make(how, fields, tokenizer)
    if history.random.random() < 0.1:
        begun_with = history.messages(0, 8)
        theirs.do("set", begun_with)
        for one in everyone[1:]:
            again = {**fields, "memory_blocks": [Probe(**block) for block in fields["memory_blocks"]]}
            again = {name: value for name, value in again.items() if name != "document_token_size_estimate"}
            Memory.from_defaults(
                **again, tokenizer_fn=tokenizer, chat_store=one.memory.sql_store, chat_history=begun_with
            )
    log: list[Any] = [(how, fields, _tokens_of(tokenizer))]
    for _ in range(history.random.randint(1, 16)):
        operation = history.operation()
        log.append(operation)
        rounds = theirs.store.rounds
        if operation[0] == "new memory":
            how, fields = history.settings()
            log[-1] = how, fields
        for one in everyone:
            if operation[0] == "new memory":
                one.make(how, fields, tokenizer)
            elif operation[:2] == ("assign", "tokenizer_fn") and isinstance(one, Ours):
                one.assign_tokenizer(operation[2])
            else:
                one.do(*operation)
        if operation[:2] == ("assign", "tokenizer_fn"):
            tokenizer = operation[2]
        edited: Messages = []
        if operation[0] in ("put", "put_messages", "set") and history.random.random() < 0.1:
            edited = [operation[1]] if operation[0] == "put" else operation[1]
        for message in edited:
            message.blocks.clear()
            message.additional_kwargs["edited"] = True
        questions = history.questions()
        if not theirs.memory.memory_blocks:  # which alone see the input
            questions = [history.random.choice(questions)]
        tally["operations"] += 1
        expected = theirs.seen(questions)
        for one in everyone[1:]:
            assert isinstance(one, Ours)
            got = one.seen(questions)
            assert got == expected, (number, one.place.name, log)
            tally["comparisons"] += 1
            if one.random.random() < 0.1:
                one.edit(got)
        blocks = theirs.memory.memory_blocks
        now = theirs.store.rounds - rounds
        tally["rounds"] += now
        tally["long queues"] += len(expected["active"]) > 64
        tally["several rounds at once"] += now > 1
        flushed = bool(now) and operation[0] in ("put", "put_messages", "manage")
        tally["emptied queues"] += flushed and not expected["active"]
        active = expected["active"]
        tally["non-user starts"] += bool(active and expected["archived"]) and active[0].role != "user"
        tally["batches to memory blocks"] += sum(len(given) for given, _ in expected["blocks"].values())
        tally["truncated blocks"] += sum(block.truncated for block in blocks)
        tally["refused contents"] += sum(isinstance(answer, str) for answer in expected["got"])
        tally["contents inserted"] += any(answer != active for answer in expected["got"])
        for block in blocks:
            block.truncated = 0
    stored = [list(map(parts, places.run(one.memory.aget_all()))) for one in everyone]
    for one, messages in zip(everyone[1:], stored[1:], strict=True):
        assert messages == stored[0], (number, one, log)
    tally["histories"] += 1


# Of fifty histories. Fixed seeds make fixed numbers, up to what versions of LlamaIndex count.
LEAST = {
    "operations": 300,
    "rounds": 80,
    "several rounds at once": 2,
    "emptied queues": 20,
    "non-user starts": 12,
    "batches to memory blocks": 30,
    "truncated blocks": 100,
    "contents inserted": 40,
}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_histories(places: Places, chunk: int, record_property: Callable[[str, object], None]) -> None:
    tally = Tally()
    count = HISTORIES // CHUNKS
    for number in range(chunk * AT_ONCE, chunk * AT_ONCE + count):
        run(places, number, tally)
    record_property("tally", json.dumps({**tally, "places": len(places.all)}))
    assert tally["comparisons"] == tally["operations"] * len(places.all)
    for name, least in LEAST.items():
        assert tally[name] >= least * count // 50, (name, tally)


# --- with exact numbers -----------------------------------------------------------------------------------------------


def said(words: int, role: str = "user") -> ChatMessage:
    return ChatMessage(" ".join(["w"] * words), role=role)


def numbers(messages: Messages) -> list[int]:
    """Return how many words each message has."""
    return [len((message.content or "").split()) for message in messages]


def their_memory(**fields: Any) -> LlamaIndexMemory:
    memory = LlamaIndexMemory.from_defaults(tokenizer_fn=str.split, **fields)
    memory.sql_store = ListStore()
    return memory


def our_memory(place: Place | None = None, **fields: Any) -> Memory:
    store = RingMemoryStore() if place is None else place.store(str.split)
    return Memory.from_defaults(tokenizer_fn=str.split, chat_store=store, **fields)


async def until_a_flush(memory: LlamaIndexMemory) -> tuple[int, int]:
    """Put messages of 100 tokens until the first flush; return how many there were, and how many are left."""
    for number in itertools.count(1):
        await memory.aput(said(100, ("user", "assistant")[number % 2 - 1]))
        active = len(await memory.aget_all(status=ACTIVE))
        if active < number:
            return number, active
    raise AssertionError


class TestOneByOne:
    @pytest.mark.parametrize(
        ("limit", "size", "messages", "left"),
        [
            (2_000, 1_400, 15, 1),
            (3_000, 3_000, 22, 2),
            (4_286, 3_000, 31, 1),
            (6_000, 3_000, 43, 13),
            (30_000, 3_000, 211, 181),
        ],
    )
    def test_the_first_flush(self, limit: int, size: int, messages: int, left: int) -> None:
        for memory in (our_memory(token_limit=limit), their_memory(token_limit=limit)):
            assert memory.token_flush_size == size
            assert asyncio.run(until_a_flush(memory)) == (messages, left)

    def test_a_queue_without_a_user_message_is_emptied(self, places: Places) -> None:
        for place in places.all:
            memory = our_memory(place, token_limit=10, session_id="emptied")
            memory.put(said(2, "system"))
            memory.put(said(9, "assistant"))
            assert memory.get() == []
            assert numbers(memory.get_all(status=ARCHIVED)) == [2, 9], place.name
            memory.put(said(1, "tool"))
            assert numbers(memory.get()) == [1]

    def test_a_turn_alone_stays(self, places: Places) -> None:
        for place in places.all:
            memory = our_memory(place, token_limit=10, token_flush_size=1, session_id="a turn")
            memory.put_messages([said(3), said(1, "assistant"), said(5), said(6, "assistant"), said(7, "tool")])
            assert numbers(memory.get()) == [5, 6, 7], place.name  # 18 tokens
            memory.put(said(8))
            assert numbers(memory.get()) == [8]

    def test_exactly_the_share_is_not_too_much(self) -> None:
        memory = our_memory(token_limit=10, token_flush_size=1)
        memory.put_messages([said(3), said(4)])
        assert numbers(memory.get()) == [3, 4]  # 0.7 of 10
        memory.put(said(1))
        assert numbers(memory.get()) == [4, 1]

    def test_a_flush_size_that_is_not_whole(self) -> None:
        batches = []
        for memory in (our_memory(token_limit=10), their_memory(token_limit=10)):
            probe = Probe(name="probe")
            memory.memory_blocks, memory.token_flush_size = [probe], 2.5  # type: ignore[assignment]
            asyncio.run(memory.aput_messages([said(2), said(1), said(4), said(4)]))
            batches.append(
                [[len(json.loads(one)["blocks"][0]["text"].split()) for one in batch] for batch in probe.given]
            )
        assert batches == [[[2, 1], [4]]] * 2

    def test_no_messages_do_nothing(self, places: Places) -> None:
        for place in places.all:
            memory = our_memory(place, token_limit=10, session_id="nothing")
            memory.put_messages([])
            places.run(memory.aput_messages([]))
            assert "nothing" not in places.run(memory.sql_store.get_keys())
            memory.set([said(30), said(40, "assistant"), said(50)])
            memory.put_messages([])
            places.run(memory.aput_messages([]))
            assert numbers(memory.get_all(status=ACTIVE)) == [30, 40, 50], place.name
            assert memory.get_all(status=ARCHIVED) == []

    def test_two_tokenizers_on_one_session_of_a_ring(self) -> None:
        ring, their_store = RingMemoryStore(), ListStore()
        options: dict[str, Any] = {"token_limit": 10, "chat_history_token_ratio": 1.0, "token_flush_size": 1}
        options["session_id"] = "ada"
        ours = [Memory(**options, tokenizer_fn=tokenizer, sql_store=ring) for tokenizer in (str.split, list)]
        theirs = [LlamaIndexMemory(**options, tokenizer_fn=tokenizer) for tokenizer in (str.split, list)]
        for memory in theirs:
            memory.sql_store = their_store

        async def put(words: LlamaIndexMemory, letters: LlamaIndexMemory) -> list[list[str | None]]:
            windows = []
            for memory, text in ((words, "1234 6789"), (words, "abcd fghi"), (words, "jklm opqr"), (letters, "s")):
                await memory.aput(ChatMessage(text))
            windows.append(await words.aget_all(status=ACTIVE))  # 28 letters, but 10 from "jklm" on
            await words.aput(ChatMessage("t u v w x y z"))
            windows.append(await letters.aget())  # 10 words
            await letters.aput(ChatMessage("."))
            windows.append(await words.aget())
            return [[message.content for message in window] for window in windows]

        expected = [["jklm opqr", "s"], ["jklm opqr", "s", "t u v w x y z"], ["."]]
        assert asyncio.run(put(*theirs)) == expected
        assert asyncio.run(put(*ours)) == expected

    def test_a_memory_block_is_given_each_round_by_itself(self, places: Places) -> None:
        for place in places.all:
            probe = Probe(name="probe")
            memory = our_memory(
                place, token_limit=10, token_flush_size=1, memory_blocks=[probe], session_id="in rounds"
            )
            memory.set([said(3), said(3, "assistant"), said(3), said(3)])
            assert probe.given == []
            memory.put(said(3))
            kwargs = [[json.loads(message)["additional_kwargs"] for message in batch] for batch in probe.given]
            session = {"session_id": "in rounds"}
            assert kwargs == [[session, session], [session]], place.name
            assert numbers(memory.get_all(status=ACTIVE)) == [3, 3]
            assert all(message.additional_kwargs == {} for message in memory.get_all())

    def test_a_memory_block_without_content_is_asked_to_shrink(self, places: Places) -> None:
        options: dict[str, Any] = {"token_limit": 10, "session_id": "silent"}
        memories = [our_memory(place, **options) for place in places.all]
        for memory in (their_memory(**options), *memories):
            probe = Probe(name="silent", priority=1)
            memory.memory_blocks = [probe]
            places.run(memory.aset([said(30)]))
            assert numbers(places.run(memory.aget())) == [30]
            assert probe.asked[1:] == [(["truncate"], {"tokens": 20})]


UNSTORABLE: dict[str, Callable[[], ChatMessage]] = {
    "a role that there is not": lambda: changed(ChatMessage("x"), role="customer"),
    "a role that is none": lambda: changed(ChatMessage("x"), role=None),
    "a role of another kind": lambda: changed(ChatMessage("x"), role=Colour.RED),
    "a text that is a number": lambda: with_text(5),
    "a block of no kind": lambda: with_text("x", block_type="poem"),
    "no list of blocks": lambda: changed(ChatMessage("x"), blocks=None),
    "no kwargs": lambda: changed(ChatMessage("x"), additional_kwargs=None),
    "images": lambda: changed(ChatMessage("x"), additional_kwargs={"images": ["i"]}),
    "an object": lambda: ChatMessage("x", additional_kwargs={"a": object()}),
    "bytes in a tuple": lambda: ChatMessage("x", additional_kwargs={"a": (b"\xff",)}),
    "a surrogate in a key": lambda: ChatMessage("x", additional_kwargs={"a": {"\ud800": 1}}),
    "a value in itself": lambda: ChatMessage("x", additional_kwargs={"a": endless()}),
}


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("name", UNSTORABLE)
def test_what_cannot_be_stored_is_refused_before_it_is(places: Places, name: str) -> None:
    for place in places.all:
        memory = our_memory(place, token_limit=30, session_id=f"unstorable: {name}")
        memory.put(said(1))
        with pytest.raises(ValueError, match="message"):
            memory.put_messages([said(2), UNSTORABLE[name]()])
        with pytest.raises(ValueError, match="message"):
            memory.set([said(2), UNSTORABLE[name]()])
        memory.put(said(3))
        assert numbers(memory.get()) == [1, 3], place.name


def test_a_number_of_too_many_digits_breaks_no_session(places: Places) -> None:
    call = ToolCallBlock(tool_name="t", tool_kwargs={"number": 10**5_000})
    for place in places.all:
        memory = our_memory(place, token_limit=30, session_id="a long number")
        memory.put(said(1))
        with contextlib.suppress(ValueError):
            memory.put(ChatMessage(blocks=[call]))
        memory.put(said(3))
        assert numbers(memory.get()) in ([1, 3], [1, 0, 3]), place.name


# --- copies -----------------------------------------------------------------------------------------------------------


class Text(str):
    """A text with something more."""


class Texts(TextBlock):
    """A block of the user's own."""


class Speaker(str, enum.Enum):
    """Roles of the user's own."""

    USER = "user"


def changed(message: ChatMessage, **attributes: Any) -> ChatMessage:
    """Assign attributes, also what pydantic would not take."""
    message.__dict__.update(attributes)
    return message


def with_text(text: Any, **attributes: Any) -> ChatMessage:
    message = ChatMessage("x")
    message.blocks[0].__dict__.update({"text": text, **attributes})
    return message


PLAIN: tuple[Callable[[], ChatMessage], ...] = (
    lambda: ChatMessage("x"),
    lambda: ChatMessage("", role="tool"),
    lambda: ChatMessage(None, role="assistant"),
    lambda: ChatMessage(blocks=[TextBlock(text="a"), TextBlock(text="\0世界")], role="model"),
    lambda: with_text("assigned"),
)
ODD: dict[str, Callable[[], ChatMessage]] = {
    "a subclass": lambda: Note(blocks=[TextBlock(text="x")], page=3),
    "kwargs": lambda: ChatMessage("x", additional_kwargs={"a": (1, {2: None}), "b": b"\xff"}),
    "kwargs of a subclass": lambda: changed(ChatMessage("x"), additional_kwargs=collections.OrderedDict()),
    "a role that is a str": lambda: changed(ChatMessage("x"), role="tool"),
    "a role of another enumeration": lambda: changed(ChatMessage("x"), role=Speaker.USER),
    "an attribute more": lambda: changed(ChatMessage("x"), more=[1]),
    "a str of a subclass": lambda: with_text(Text("x")),
    "a block's attribute more": lambda: with_text("x", more=[1]),
    "a block of a subclass": lambda: ChatMessage(blocks=[Texts(text="x")]),
    "a block of another kind": lambda: ChatMessage(blocks=[TextBlock(text="x"), ThinkingBlock(content="t")]),
    "a tuple of blocks": lambda: changed(ChatMessage("x"), blocks=(TextBlock(text="x"),)),
}


class TestCopied:
    @pytest.mark.parametrize("number", range(len(PLAIN)))
    def test_texts_are_copied_natively_to_what_their_json_is(self, number: int) -> None:
        message = PLAIN[number]()
        (copied,) = _copied([message], refused)
        assert parts(copied) == parts(reread(message))
        copied.blocks.append(TextBlock(text="y"))
        copied.additional_kwargs["a"] = 1
        for block in copied.blocks:
            block.__dict__["text"] = "changed"
        assert parts(reread(message)) == parts(reread(PLAIN[number]()))

    @pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
    @pytest.mark.parametrize("name", ODD)
    def test_all_others_by_what_is_given(self, name: str) -> None:
        message = ODD[name]()
        given: Messages = []

        def other(message: ChatMessage) -> ChatMessage:
            given.append(message)
            return reread(message)

        copied = _copied([ChatMessage("a"), message, ChatMessage("b")], other)
        assert [id(message) for message in given] == [id(message)]
        expected = ChatMessage.model_validate(message.model_dump(mode="json"))
        assert [parts(message) for message in copied] == [
            parts(each) for each in (_reread("a"), expected, _reread("b"))
        ]

    @pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
    @pytest.mark.parametrize("name", ODD)
    def test_a_memory_returns_what_llama_index_does(self, places: Places, name: str) -> None:
        theirs = their_memory(token_limit=30, session_id=name)
        places.run(theirs.aput(ODD[name]()))
        expected = list(map(parts, places.run(theirs.aget())))
        for place in places.all:
            memory = our_memory(place, token_limit=30, session_id=f"odd: {name}")
            memory.put(ODD[name]())
            assert list(map(parts, memory.get())) == expected, place.name


def refused(message: ChatMessage) -> ChatMessage:
    raise AssertionError(f"not copied natively: {message!r}")


def _reread(text: str) -> ChatMessage:
    return ChatMessage.model_validate(ChatMessage(text).model_dump(mode="json"))


# --- queues beside a literal model ------------------------------------------------------------------------------------


class LiteralQueue:
    """Archived messages and a queue; LlamaIndex's rule in its own loops."""

    def __init__(self) -> None:
        self.archived: Messages = []
        self.active: Messages = []

    def put(self, messages: Messages, flush: Flush | None, cost: Callable[[ChatMessage], int]) -> list[Messages]:
        self.active += messages
        rounds = []
        while flush is not None and len(self.active) > 1 and sum(map(cost, self.active)) > flush.high:
            leave = self._leaving(flush.size, cost)
            if leave == 0:
                break
            rounds.append(self.active[:leave])
            self.archive(leave)
        return rounds

    def _leaving(self, size: int, cost: Callable[[ChatMessage], int]) -> int:
        queue, last = self.active, len(self.active) - 1
        leave = spent = 0
        while spent < size and leave < last:
            spent += cost(queue[leave])
            leave += 1
        while leave < last and queue[leave].role != "user":
            leave += 1
        if leave == last and queue[last].role != "user" and leave > 0:
            users = [number for number, message in enumerate(queue) if message.role == "user"]
            return users[-1] if users else len(queue)
        return leave

    def archive(self, count: int) -> Messages:
        archived, self.active = self.active[:count], self.active[count:]
        self.archived += archived
        return archived

    def part(self, part: Part | None) -> Messages:
        return {"archived": self.archived, "active": self.active, None: self.archived + self.active}[part]


PARTS: tuple[Part | None, ...] = (None, "archived", "active")
KEYS = ("ada", "ü 世界")
keys = st.sampled_from(KEYS)
kinds = st.tuples(st.sampled_from(("user", "user", "assistant", "tool", "system")), st.integers(0, 9), st.booleans())
few = st.lists(kinds, max_size=5)
many = st.builds(
    lambda seed, length: [
        (random.Random(seed + at).choice(("user", "assistant", "tool", "tool", "tool")), at % 3, at % 7 == 0)
        for at in range(length)
    ],
    st.integers(0, 99),
    st.integers(60, 200),
)
flushes = st.one_of(
    st.none(),
    st.builds(Flush, st.integers(-2, 60), st.sampled_from((0, 1, 2, 5, 30, 300, 3_000))),
    st.just(Flush(20, 5)),
)


def of_kinds(chosen: list[tuple[str, int, bool]]) -> Messages:
    return [
        ChatMessage(
            role=role,
            blocks=[TextBlock(text="w " * words), *([ImageBlock(url="http://x/y.png")] if has_image else [])],
        )
        for role, words, has_image in chosen
    ]


class QueueMachine(RuleBasedStateMachine):
    """A ring's queues and a database's, which two policies share, and bare queues, beside literal ones."""

    @initialize()
    def begin(self) -> None:
        self.images = [3, 20]
        self.policies = [
            MemoryPolicy.of(str.split, {**DEFAULTS, "image_token_size_estimate": tokens}) for tokens in self.images
        ]
        self.policy = self.policies[0]
        self.database = SQLChatStore("sqlite://", counter=str.split, counter_name="words")
        memory = Memory.from_defaults(tokenizer_fn=str.split, chat_store=self.database)
        self.stores: list[Any] = [RingMemoryStore(), memory.sql_store]
        self.bare = {key: _MessageQueue() for key in KEYS}
        self.literal = {key: LiteralQueue() for key in KEYS}
        self.changed = KEYS[0]

    def each(self, key: str, operation: Callable[[Any], Any], *, reads: bool = False) -> list[Any]:
        """Run an operation on the queues of each store."""
        self.changed = key
        return [store.run(operation(store.queues(self.policy)), None if reads else key) for store in self.stores]

    def counted(self, messages: Messages) -> Any:
        batch = self.policy.core.read(messages)
        self.policy.core.count(batch)
        return batch

    @rule(key=keys, chosen=st.one_of(few, few, few, many), flush=flushes, policy=st.integers(0, 1))
    def append(self, key: str, chosen: list[tuple[str, int, bool]], flush: Flush | None, policy: int) -> None:
        self.policy, image = self.policies[policy], self.images[policy]
        messages = of_kinds(chosen)

        def cost(message: ChatMessage) -> int:
            return len((message.content or "").split()) + image * (len(message.blocks) - 1)

        expected = self.literal[key].put(messages, flush, cost)
        assert self.each(key, lambda queues: queues.append(key, messages, flush)) == [expected, expected]
        core, batch = self.policy.core, self.counted(messages)
        self.bare[key].recount(core)
        assert self.bare[key].put(core, messages, batch, flush) == expected

    @rule(key=keys, chosen=few)
    def append_archived(self, key: str, chosen: list[tuple[str, int, bool]]) -> None:
        messages = of_kinds(chosen)
        queue = self.literal[key]
        if queue.active:
            for store in self.stores:
                with pytest.raises(ValueError, match="active messages"):
                    store.run(store.queues(self.policy).append_archived(key, messages), key)
            return
        queue.archived += messages
        self.each(key, lambda queues: queues.append_archived(key, messages))
        self.bare[key].set(self.policy.core, queue.archived, self.counted(queue.archived), len(queue.archived))

    @rule(key=keys, chosen=st.one_of(few, few, few, many), data=st.data())
    def replace(self, key: str, chosen: list[tuple[str, int, bool]], data: st.DataObject) -> None:
        messages = of_kinds(chosen)
        archived = data.draw(st.integers(0, len(messages)))
        queue = self.literal[key]
        queue.archived, queue.active = messages[:archived], messages[archived:]
        self.each(key, lambda queues: queues.replace(key, messages, archived))
        self.bare[key].set(self.policy.core, messages, self.counted(messages), archived)

    @rule(key=keys, count=st.one_of(st.integers(0, 4), st.integers(0, 100)))
    def archive(self, key: str, count: int) -> None:
        expected = self.literal[key].archive(count)
        assert self.each(key, lambda queues: queues.archive(key, count)) == [expected, expected]
        assert self.bare[key].archive(count) == expected

    @rule(key=keys, count=st.one_of(st.integers(0, 4), st.integers(0, 100)))
    def remove_oldest(self, key: str, count: int) -> None:
        queue = self.literal[key]
        expected, queue.active = queue.active[:count], queue.active[count:]
        assert self.each(key, lambda queues: queues.remove_oldest(key, count)) == [expected, expected]
        assert self.bare[key].remove_oldest(count) == expected

    @rule(key=keys, part=st.sampled_from(PARTS))
    def remove(self, key: str, part: Part | None) -> None:
        self.each(key, lambda queues: queues.remove(key, part))
        if part != "archived":
            self.literal[key].active = []
            self.bare[key].clear_active()
        if part != "active":
            self.literal[key].archived = []
            self.bare[key].clear_archived()

    @rule(key=keys)
    def go_on_with_copies(self, key: str) -> None:
        before = self.bare[key]
        self.bare[key] = copy.copy(before)
        before.archive(len(before))
        before.clear_archived()
        assert len(before) == 0
        ring = self.stores[0]
        self.stores[0] = copy.deepcopy(ring)
        ring.run(ring.queues(self.policy).remove(key, None), key)

    @invariant()
    def all_have_the_same(self) -> None:
        self.check(self.changed)

    def check(self, key: str) -> None:
        bare = self.bare[key]
        read = {None: bare.get_all, "archived": bare.archived, "active": bare.active}
        for part in PARTS:
            expected = self.literal[key].part(part)
            assert read[part]() == expected
            assert self.each(key, lambda queues: queues.all(key, part), reads=True) == [expected, expected]  # noqa: B023
            count = len(expected)
            assert self.each(key, lambda queues: queues.count(key, part), reads=True) == [count, count]  # noqa: B023
        assert (len(bare), bare.archived_count) == (len(bare.get_all()), len(bare.archived()))

    def teardown(self) -> None:
        for key in KEYS:
            self.check(key)
        self.database.store.close()


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=examples(30, long=300), stateful_step_count=20, suppress_health_check=list(HealthCheck)
)
