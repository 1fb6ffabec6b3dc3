"""`chatring migrate` from the tables of LlamaIndex's `Memory`: chatring's continues where LlamaIndex's stopped."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import tiktoken
from chatring.llama_index import ChatMemoryBuffer, Memory, RedisChatStore, SQLChatStore
from chatring.llama_index.memory_policy import DEFAULTS, MemoryPolicy
from chatring.llama_index.store_chat_store import StoreChatStore
from chatring.migration import Memories, Migration, migrate, open_source
from chatring.stores import Store, open_store
from llama_index.core.base.llms.types import ImageBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, TextBlock
from llama_index.core.memory import BaseMemoryBlock
from llama_index.core.memory import Memory as LlamaIndexMemory
from llama_index.core.storage.chat_store.base_db import MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from llama_index.core.utils import get_tokenizer
from profiles import slow
from pydantic import Field
from test_cli import output, python, refusal, run

from stores.servers import PASSWORD, PostgresServer

Messages = list[ChatMessage]

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED
KEYS = ("ada", "bob ü 世界 }{%", "cy")
# Few enough tokens for several flushes in a history of 30 messages.
LIMITS: dict[str, Any] = {"token_limit": 120, "token_flush_size": 20}
# Of the installed LlamaIndex.
MEASURE = MemoryPolicy.of(get_tokenizer(), DEFAULTS).measure.name
POLICY = f"cl100k_base, {MEASURE}, queue, llama-index"
TABLE = "llama_index_memory"


@pytest.fixture(params=["sqlite", "postgres"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database for LlamaIndex's tables, as ours name it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'theirs.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.create_database(f"test_{uuid.uuid4().hex}")


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The URLs of databases with sessions, by kind, to be copied: making one takes LlamaIndex a second or two."""
    return {}


@pytest.fixture
def in_sqlite(made: dict[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a file with sessions of theirs."""
    if "sqlite" not in made:
        made["sqlite"] = f"sqlite:///{tmp_path_factory.mktemp('theirs') / 'theirs.db'}"
        filled(made["sqlite"])
    return f"sqlite:///{shutil.copy(made['sqlite'].removeprefix('sqlite:///'), tmp_path / 'theirs.db')}"


@pytest.fixture
def in_postgresql(made: dict[str, str], postgres_server: PostgresServer) -> str:
    """The URL of a database with sessions of theirs."""
    if "postgresql" not in made:
        made["postgresql"] = postgres_server.create_database(f"test_{uuid.uuid4().hex}")
        filled(made["postgresql"])
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {made['postgresql'].rpartition('/')[2]}".encode())
    return postgres_server.database_url(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def source(request: pytest.FixtureRequest) -> str:
    """The URL of a database with sessions of theirs, one of each kind."""
    url: str = request.getfixturevalue(f"in_{request.param}")
    return url


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
def target(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store that outlives a process, one of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


class Given(BaseMemoryBlock[str]):
    """Notes what it is given."""

    batches: list[list[str]] = Field(default_factory=list)

    async def _aget(self, messages: Messages | None = None, **_: Any) -> str:
        return ""

    async def _aput(self, messages: Messages) -> None:
        self.batches.append([json.dumps(message.model_dump(mode="json")) for message in messages])


class Talk:
    """Messages at random, the same ones for each seed."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.count = 0

    def message(self) -> ChatMessage:
        self.count += 1
        role = self.random.choices(("user", "assistant", "tool", "system"), (4, 4, 2, 1))[0]
        text = f"{self.count}: " + " ".join(
            self.random.choice(("tea", "Assam 🍵", "\0", "<|endoftext|>")) for _ in range(4)
        )
        blocks: list[Any] = [TextBlock(text=text)]
        kwargs: dict[str, Any] = {}
        match self.random.randrange(12):
            case 0:
                blocks.append(ImageBlock(image=b"\x89PNG\r\n\x1a\n"))
            case 1:
                blocks = [ToolCallBlock(tool_call_id="1", tool_name="stock", tool_kwargs={"tea": ["Assam"]})]
            case 2:
                blocks.insert(0, ThinkingBlock(content="\ud800 so much to think"))
            case 3:
                blocks = []
            case 4:
                kwargs = {"tool_calls": [{"id": "1", "function": {"name": "stock", "arguments": (1, "two")}}]}
        return ChatMessage(role=role, blocks=blocks, additional_kwargs=kwargs)

    def messages(self, count: int) -> Messages:
        return [self.message() for _ in range(count)]


def uri_of(url: str) -> str:
    """Return a URL as SQLAlchemy's async engines want it."""
    return url.replace("sqlite://", "sqlite+aiosqlite://").replace("postgresql://", "postgresql+asyncpg://")


@contextlib.asynccontextmanager
async def their_store(url: str, table: str = TABLE, schema: str | None = None) -> AsyncIterator[SQLAlchemyChatStore]:
    store = SQLAlchemyChatStore(table_name=table, async_database_uri=uri_of(url), db_schema=schema)
    try:
        yield store
    finally:
        if store._async_engine is not None:
            await store._async_engine.dispose()


async def fill(store: SQLAlchemyChatStore, keys: Iterable[str] = KEYS, count: int = 30) -> None:
    """Put messages into sessions of theirs."""
    for key in keys:
        talk = Talk(key)
        memory = LlamaIndexMemory(session_id=key, sql_store=store, **LIMITS)
        await memory.aput_messages(talk.messages(count // 2))
        for message in talk.messages(count - count // 2):
            await memory.aput(message)
        assert 0 < await store.count_messages(key) < count


def filled(url: str, **options: Any) -> None:
    async def fill_and_close() -> None:
        async with their_store(url) as store:
            await fill(store, **options)

    asyncio.run(fill_and_close())


def opened(url: str, **options: Any) -> StoreChatStore:
    return RedisChatStore(url, **options) if url.startswith("redis") else SQLChatStore(url, **options)


@contextlib.contextmanager
def ours(url: str, **options: Any) -> Any:
    store = opened(url, **options)
    yield store
    store.store.close()


def execute(url: str, statement: str, *values: Any) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(statement, values)
    else:
        with psycopg.connect(url) as server:
            server.execute(statement.replace("?", "%s").encode(), values)


def report(*arguments: object) -> dict[str, Any]:
    """Migrate, which must succeed; return what it tells."""
    told: dict[str, Any] = json.loads(output("migrate", *arguments, "--json"))
    return told


def failures(*arguments: object) -> dict[str, str]:
    """Migrate, which must fail; return why, by session."""
    result = run("migrate", *arguments, "--json")
    assert result.exit_code == 2
    failed: dict[str, str] = json.loads(result.stdout)["not_copied"]
    assert result.stderr.count("\n") == len(failed) > 0
    return failed


def memory_of(store: StoreChatStore, key: str, **options: Any) -> Memory:
    fields: dict[str, Any] = {**LIMITS, "session_id": key, "sql_store": store, **options}
    return Memory(**fields)


def contents(url: str) -> dict[str, tuple[Messages, Messages]]:
    """Return archived and active messages of all sessions of ours."""
    with ours(url) as store:
        memories = {key: memory_of(store, key) for key in store.get_keys()}
        return {key: (memory.get_all(ARCHIVED), memory.get_all(ACTIVE)) for key, memory in memories.items()}


def their_contents(url: str, keys: Iterable[str] = KEYS, **options: Any) -> dict[str, tuple[Messages, Messages]]:
    """As `contents`, of LlamaIndex."""

    async def read() -> dict[str, tuple[Messages, Messages]]:
        async with their_store(url, **options) as store:
            return {key: (await store.get_messages(key, ARCHIVED), await store.get_messages(key)) for key in keys}

    return asyncio.run(read())


class TestGoesOn:
    def test_where_theirs_has_stopped(self, source: str, target: str) -> None:
        async def compare() -> None:
            async with their_store(source) as store:
                told = report(source, target)
                assert told["copied"]["sessions"] == len(KEYS)
                assert told["archived"] == {key: await store.count_messages(key, ARCHIVED) for key in KEYS}
                assert all(told["archived"].values())
                with ours(target) as chat_store:
                    for key in KEYS:
                        talk = Talk(f"more of {key}")
                        blocks = Given(name="theirs"), Given(name="ours")
                        their = LlamaIndexMemory(session_id=key, sql_store=store, memory_blocks=[blocks[0]], **LIMITS)
                        our = memory_of(chat_store, key, memory_blocks=[blocks[1]])
                        for number in range(21):
                            if number:
                                message = talk.message()
                                await their.aput(message)
                                await our.aput(message)
                            assert await our.aget() == await their.aget()
                            for status in (ACTIVE, ARCHIVED, None):
                                assert await our.aget_all(status) == await their.aget_all(status)
                        assert blocks[0].batches == blocks[1].batches != []
                await chat_store.store.aclose()

        asyncio.run(compare())

    def test_what_it_tells(self, source: str, sqlite_url: str) -> None:
        archived = {key: len(messages) for key, (messages, _) in their_contents(source).items()}
        told = report(source, sqlite_url)
        with closing(open_store(sqlite_url)) as store:
            infos = [store.info(key) for key in KEYS]
        nothing = {"sessions": 0, "messages": 0, "tokens": 0}
        assert told == {
            "from": source.replace(PASSWORD, "***"),
            "to": sqlite_url,
            "encoding": "cl100k_base",
            "measure": MEASURE,
            "start_on": "queue",
            "format": "llama-index",
            "copied": {"sessions": 3, "messages": 90, "tokens": sum(info.tokens for info in infos if info)},
            "already_there": nothing,
            "not_copied": {},
            "left_out": [],
            "archived": archived,
            "remarks": {},
        }
        assert [info.policy for info in infos if info] == [POLICY] * 3
        again = report(source, sqlite_url)
        assert again == {**told, "copied": nothing, "already_there": told["copied"]}
        assert output("migrate", source, sqlite_url).splitlines()[4:] == [
            f"from: {told['from']}",
            f"to: {sqlite_url}",
            f"counted by: {POLICY}",
            "verified: messages and tokens of 3 sessions are the same in both",
            f"of LlamaIndex's Memory: 3 sessions with {sum(archived.values())} archived messages",
        ]

    def test_each_session_is_one_change(self, in_sqlite: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with closing(open_source(in_sqlite)) as found, closing(open_store(target)) as store:
            write, writes = store._backend.write, []

            def noted(key: str, *arguments: Any, **options: Any) -> Any:
                writes.append(key)
                return write(key, *arguments, **options)

            monkeypatch.setattr(store._backend, "write", noted)
            done = migrate(found, found.keys(), store, memories=Memories(store))
            assert (sorted(done.copied), done.failed) == (sorted(KEYS), {})
            assert sorted(writes) == sorted(KEYS)
            migrate(found, found.keys(), store, memories=Memories(store))
            assert len(writes) == len(KEYS)

    def test_what_is_new_in_theirs_is_added(self, in_sqlite: str, target: str) -> None:
        async def grow() -> None:
            async with their_store(in_sqlite) as store:
                report(in_sqlite, target)
                for key in KEYS[:2]:
                    memory = LlamaIndexMemory(session_id=key, sql_store=store, **LIMITS)
                    for message in Talk(f"more of {key}").messages(20):
                        await memory.aput(message)

        asyncio.run(grow())
        told = report(in_sqlite, target)
        assert (told["copied"]["sessions"], told["already_there"]["sessions"]) == (2, 1)
        assert contents(target) == their_contents(in_sqlite)

    def test_long_sessions(self, theirs: str, target: str) -> None:
        async def add() -> None:
            async with their_store(theirs) as store:
                for first in range(0, 4_500, 1_500):
                    messages = [ChatMessage(f"question {first + n}") for n in range(1_500)]
                    await store.add_messages("ada", messages, ACTIVE if first else ARCHIVED)

        asyncio.run(add())
        report(theirs, target)
        assert contents(target) == their_contents(theirs, ["ada"])
        assert report(theirs, target)["already_there"]["messages"] == 4_500

    def test_a_queue_of_nothing_and_an_archive_of_nothing(self, theirs: str, target: str) -> None:
        async def make() -> None:
            async with their_store(theirs) as store:
                await store.add_messages("archived", Talk("a").messages(3), ARCHIVED)
                await store.add_messages("active", Talk("b").messages(3))

        asyncio.run(make())
        assert report(theirs, target)["archived"] == {"archived": 3, "active": 0}
        assert contents(target) == their_contents(theirs, ["archived", "active"])


class TestWhere:
    @pytest.mark.parametrize("schema", [None, "chats"])
    def test_another_table_and_schema(
        self, postgres_server: PostgresServer, sqlite_url: str, schema: str | None
    ) -> None:
        url = postgres_server.create_database(f"test_{uuid.uuid4().hex}")

        async def make() -> None:
            async with their_store(url, 'our "talks"', schema) as store:
                await fill(store)
            async with their_store(url) as store:
                await fill(store, ["other"])

        asyncio.run(make())
        shown = f'{schema or "public"}.our "talks"'
        tables = sorted([shown, f"public.{TABLE}"])
        assert refusal("migrate", url, sqlite_url) == (
            f"Error: {url.replace(PASSWORD, '***')} has several tables of LlamaIndex: say which with --table, one of: "
            f"{', '.join(tables)}\n"
        )
        for table in (shown, 'our "talks"'):
            report(url, sqlite_url, "--table", table)
            assert contents(sqlite_url) == their_contents(url, table='our "talks"', schema=schema)

    def test_another_table_in_sqlite(self, tmp_path: Path, sqlite_url: str) -> None:
        url = f"sqlite:///{tmp_path / 'theirs.db'}"

        async def make() -> None:
            async with their_store(url, "talks") as store:
                await fill(store)

        asyncio.run(make())
        report(url, sqlite_url)
        assert contents(sqlite_url) == their_contents(url, table="talks")

    def test_into_the_same_database(self, source: str) -> None:
        before = their_contents(source)
        for name in ("copied", "already_there"):
            assert report(source, source)[name]["sessions"] == 3
            assert contents(source) == their_contents(source) == before

    def test_the_uri_that_theirs_was_given(self, source: str, sqlite_url: str) -> None:
        assert report(uri_of(source), sqlite_url)["from"] == source.replace(PASSWORD, "***")
        assert contents(sqlite_url) == their_contents(source)

    def test_from_ours_to_ours(
        self, in_sqlite: str, tmp_path: Path, sqlite_url: str, postgres_url: str, valkey_url: str
    ) -> None:
        last = f"sqlite:///{tmp_path / 'last.db'}"
        first = report(in_sqlite, sqlite_url)
        for source, target in ((sqlite_url, postgres_url), (postgres_url, valkey_url), (valkey_url, last)):
            told = report(source, target)
            assert {**told, "from": "", "to": ""} == {**first, "from": "", "to": ""}
            assert contents(target) == their_contents(in_sqlite)

    def test_beside_histories_of_ours(self, in_sqlite: str, tmp_path: Path, sqlite_url: str) -> None:
        target = f"sqlite:///{tmp_path / 'target.db'}"
        report(in_sqlite, sqlite_url)
        messages = Talk("z").messages(5)
        with ours(sqlite_url) as store:
            store.set_messages("zoe", messages)
            memory_of(store, "estimated", image_token_size_estimate=7).put(messages[0])
        told = report(sqlite_url, target)
        assert told["copied"]["sessions"] == 5
        assert (told["measure"], told["archived"].keys()) == ("text", {*KEYS, "estimated"})
        shown = output("migrate", sqlite_url, target).splitlines()[-3:]
        assert shown == [
            f"of LlamaIndex's Memory: 4 sessions with {sum(told['archived'].values())} archived messages",
            f"of these counted by: {POLICY}",
            f"of these counted by: {POLICY.replace('256', '7', 1)}",
        ]
        with ours(sqlite_url) as before, ours(target) as after:
            keys = before.get_keys()
            assert [after.store.info(key)[:3] for key in keys] == [before.store.info(key)[:3] for key in keys]
            assert after.get_messages("zoe") == messages
            for key in KEYS:
                archived, active = their_contents(in_sqlite, [key])[key]
                assert memory_of(after, key).get_all(ARCHIVED) == archived
                assert memory_of(after, key).get() == active

    def test_histories_of_memories_of_ours(self, in_sqlite: str, tmp_path: Path, sqlite_url: str) -> None:
        target = f"sqlite:///{tmp_path / 'target.db'}"
        report(in_sqlite, sqlite_url)
        told = report(sqlite_url, target, "--as-histories")
        assert (told["encoding"], told["measure"], told["start_on"], told["format"]) == (
            ("cl100k_base", "text", None, "llama-index")
        )
        assert "archived" not in told
        with ours(target) as store:
            for key, (archived, active) in their_contents(in_sqlite).items():
                assert store.get_messages(key) == archived + active


class TestCounters:
    def test_another_encoding(self, source: str, sqlite_url: str) -> None:
        tokenizer = functools.partial(tiktoken.get_encoding("o200k_base").encode, allowed_special="all")
        options: dict[str, Any] = {**LIMITS, "tokenizer_fn": tokenizer}

        async def compare() -> None:
            async with their_store(source) as store:
                told = report(source, sqlite_url, "--counter", "o200k_base")
                assert told["encoding"] == "o200k_base"
                assert told["copied"] == report(source, sqlite_url, "--model", "gpt-4o")["already_there"]
                with ours(sqlite_url, counter=tokenizer) as chat_store:
                    policies = []
                    for key in KEYS:
                        talk = Talk(f"more of {key}")
                        their = LlamaIndexMemory(session_id=key, sql_store=store, **options)
                        our = memory_of(chat_store, key, tokenizer_fn=tokenizer)
                        policies.append(chat_store.store.info(key).policy)
                        for message in talk.messages(20):
                            await their.aput(message)
                            await our.aput(message)
                            assert await our.aget() == await their.aget()
                    assert policies == [POLICY.replace("cl100k", "o200k")] * 3
                await chat_store.store.aclose()

        asyncio.run(compare())

    def test_other_estimates_are_counted_at_the_first_put(self, in_sqlite: str, target: str) -> None:
        async def compare() -> None:
            async with their_store(in_sqlite) as store:
                report(in_sqlite, target)
                with ours(target) as chat_store:
                    for key in KEYS:
                        talk = Talk(f"more of {key}")
                        options: dict[str, Any] = {**LIMITS, "image_token_size_estimate": 9}
                        their = LlamaIndexMemory(session_id=key, sql_store=store, **options)
                        our = memory_of(chat_store, key, image_token_size_estimate=9)
                        for message in talk.messages(20):
                            await their.aput(message)
                            await our.aput(message)
                            assert await our.aget() == await their.aget()
                await chat_store.store.aclose()

        asyncio.run(compare())


class TestOrder:
    def test_archived_behind_active(self, theirs: str, target: str) -> None:
        """As after concurrent flushes: each archives the rows that are the oldest at its moment."""
        messages = [ChatMessage(f"question {n}") for n in range(6)]

        async def make() -> None:
            async with their_store(theirs) as store:
                for key in ("ada", "bob"):
                    await store.add_messages(key, messages)

        asyncio.run(make())
        for number, key in ((1, "ada"), (3, "ada"), (7, "bob")):
            execute(theirs, f"UPDATE {TABLE} SET status = 'archived' WHERE id = ? AND key = ?", number, key)
        remark = "archived messages that stood behind active ones are in front of them now: 1"
        told = report(theirs, target)
        assert told["archived"] == {"ada": 2, "bob": 1}
        assert told["remarks"] == {"ada": remark}
        found = contents(target)
        assert found == their_contents(theirs, ["ada", "bob"])
        archived, active = found["ada"]
        numbers = (0, 2, 1, 3, 4, 5)
        assert [message.content for message in archived + active] == [f"question {n}" for n in numbers]
        again = output("migrate", theirs, target)
        assert again.splitlines()[-1] == f"session 'ada': {remark}"

    def test_a_clock_that_was_set_back(self, theirs: str, sqlite_url: str) -> None:
        filled(theirs, keys=["ada"])
        execute(theirs, f"UPDATE {TABLE} SET timestamp = timestamp - 1000000000000 WHERE id = ?", 30)
        execute(theirs, f"UPDATE {TABLE} SET timestamp = 7 WHERE id > ? AND id < ?", 3, 9)
        report(theirs, sqlite_url)
        assert contents(sqlite_url) == their_contents(theirs, ["ada"])


class TestBadRows:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ('data = \'{"role": "SECRET"}\'', "message 4: what is stored is not a ChatMessage: role: Input should be "),
            ("data = '[\"SECRET\"]'", "message 4: what is stored is not a ChatMessage: "),
            ("data = 'null'", "message 4: what is stored is not a ChatMessage: "),
            (
                'data = \'{"role": "user", "blocks": [], "additional_kwargs": {"images": ["SECRET"]}}\'',
                "message 4: ",
            ),
            ("status = 'deleted'", "message 4: its status is neither archived nor active, but 'deleted'"),
            ("status = ''", "message 4: its status is neither archived nor active, but ''"),
            (
                f"status = '{'x' * 99}'",
                f"message 4: its status is neither archived nor active, but '{'x' * 39}",
            ),
        ],
    )
    def test_a_session_with_one_is_left_out_as_a_whole(
        self, source: str, sqlite_url: str, change: str, reason: str
    ) -> None:
        execute(source, f"UPDATE {TABLE} SET {change} WHERE id = ?", 35)
        result = run("migrate", source, sqlite_url, "--json")
        told = json.loads(result.stdout)
        assert result.exit_code == 2
        assert told["not_copied"].keys() == {KEYS[1]}
        assert told["not_copied"][KEYS[1]].startswith(reason)
        assert "SECRET" not in result.stdout + result.stderr
        assert told["archived"].keys() == {KEYS[0], KEYS[2]}
        found = contents(sqlite_url)
        assert found == {key: value for key, value in their_contents(source, found).items() if key in found}
        assert found.keys() == {KEYS[0], KEYS[2]}

    def test_text_that_is_no_json(self, in_sqlite: str, sqlite_url: str) -> None:
        execute(in_sqlite, f"UPDATE {TABLE} SET data = 'SECRET' WHERE id = 35")
        (failed,) = failures(in_sqlite, sqlite_url).items()
        assert failed[0] == KEYS[1]
        assert failed[1].startswith("message 4: what is stored is not a ChatMessage: ")
        assert "SECRET" not in failed[1]

    def test_a_key_that_is_too_long(self, theirs: str, target: str) -> None:
        filled(theirs, keys=["x" * 2_000, "ada"])
        failed = failures(theirs, target)
        assert failed == {
            "x" * 2_000: f"a session's key must have at most 1024 bytes of UTF-8, got 2000: {'x' * 40!r}..."
        }
        assert contents(target) == their_contents(theirs, ["ada"])


class TestAlreadyThere:
    def assert_left_alone(self, in_sqlite: str, target: str, reason: str) -> None:
        """Assert that "ada" is refused for a reason, and nothing of it changed; then that it can be replaced."""
        with closing(open_store(target)) as store:
            before = [store.info("ada"), *store._run(store._backend.newest("ada", None))]
            failed = failures(in_sqlite, target)
            assert failed == {"ada": reason}
            assert [store.info("ada"), *store._run(store._backend.newest("ada", None))] == before
        told = report(in_sqlite, target, "--overwrite")
        assert (told["copied"]["sessions"], told["already_there"]["sessions"]) == (1, 2)
        assert contents(target) == their_contents(in_sqlite)

    def test_a_history(self, in_sqlite: str, target: str) -> None:
        report(in_sqlite, target, "--as-histories")
        with ours(target) as store:
            for key in KEYS[1:]:
                store.delete_messages(key)
        self.assert_left_alone(
            *(in_sqlite, target),
            "the target has a session under this key that is not of Memory, counted by 'cl100k_base, text, any, "
            "llama-index'; --overwrite replaces it",
        )

    def test_a_history_with_a_head(self, in_sqlite: str, target: str) -> None:
        with closing(open_store(target)) as store:
            store.append("ada", [{"role": "system", "content": "You sell tea."}, {"role": "user", "content": "Hello."}])
        self.assert_left_alone(
            *(in_sqlite, target),
            "the target has a session under this key that is not of Memory, counted by 'o200k_base, message, user'; "
            "--overwrite replaces it",
        )

    def test_other_messages(self, in_sqlite: str, target: str) -> None:
        with ours(target) as store:
            memory_of(store, "ada").put(ChatMessage("Somebody else."))
        reason = "the target has other messages under this key; --overwrite replaces them"
        self.assert_left_alone(in_sqlite, target, reason)

    def test_more_messages(self, in_sqlite: str, target: str) -> None:
        report(in_sqlite, target)
        with ours(target) as store:
            memory_of(store, "ada").put(ChatMessage("Later."))
        reason = "the target has other messages under this key; --overwrite replaces them"
        self.assert_left_alone(in_sqlite, target, reason)

    def test_more_that_is_archived(self, in_sqlite: str, target: str) -> None:
        archived = report(in_sqlite, target)["archived"]["ada"]
        with ours(target) as store:
            memory = memory_of(store, "ada")
            asyncio.run(memory.sql_store.archive_oldest_messages("ada", 1))
        self.assert_left_alone(
            *(in_sqlite, target),
            f"the target has archived {archived + 1} of these messages, and not {archived}; --overwrite makes them "
            "active again",
        )

    def test_without_the_archive(self, in_sqlite: str, target: str) -> None:
        report(in_sqlite, target)
        with ours(target) as store:
            asyncio.run(memory_of(store, "ada").areset(ARCHIVED))
        reason = "the target has other messages under this key; --overwrite replaces them"
        self.assert_left_alone(in_sqlite, target, reason)

    def test_another_counter(self, in_sqlite: str, target: str) -> None:
        report(in_sqlite, target, "--encoding", "o200k_base")
        with ours(target) as store:
            for key in KEYS[1:]:
                store.delete_messages(key)
        self.assert_left_alone(
            *(in_sqlite, target),
            f"the target has counted this session by {POLICY.replace('cl100k', 'o200k')!r}; --overwrite counts it by "
            f"{POLICY!r}",
        )

    def test_a_writer_in_between(self, in_sqlite: str, target: str) -> None:
        with closing(open_source(in_sqlite)) as found, closing(open_store(target)) as store, ours(target) as chat_store:
            memories = {key: memory_of(chat_store, key) for key in KEYS}
            for write in (
                lambda _: memories["ada"].put(ChatMessage("Me too.")),
                lambda _: asyncio.run(memories["bob ü 世界 }{%"].sql_store.archive_oldest_messages(KEYS[1], 1)),
            ):
                done = migrated(found, store, write)
                assert len(done.failed) == 1
                ((key, reason),) = done.failed.items()
                assert reason.startswith("the target has ")
                assert reason.endswith("; is another program writing to it? run the command again")
                assert key not in {*done.copied, *done.already_there, *done.archived}
                for key in KEYS:
                    memories[key].reset()


def migrated(source: Any, store: Store[Any], advanced: Callable[[float], object]) -> Migration:
    return migrate(source, source.keys(), store, memories=Memories(store), advanced=advanced)


class TestHistories:
    def test_as_histories(self, source: str, target: str) -> None:
        told = report(source, target, "--as-histories")
        assert (told["measure"], told["start_on"], told["format"]) == ("text", None, "llama-index")
        with ours(target) as store:
            for key, (archived, active) in their_contents(source).items():
                assert store.get_messages(key) == archived + active
                assert (
                    ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key=key).get_all() == archived + active
                )

    @pytest.mark.parametrize("option", [("--measure", "text"), ("--start-on", "user"), ("--format", "llama-index")])
    def test_options_of_histories(self, in_sqlite: str, sqlite_url: str, option: tuple[str, str]) -> None:
        assert refusal("migrate", in_sqlite, sqlite_url, *option) == (
            f"Error: {in_sqlite} has sessions of LlamaIndex's Memory, which has its own measure and rule; "
            "--as-histories makes histories of them\n"
        )
        assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()

    def test_measured_by_message(self, in_sqlite: str, sqlite_url: str) -> None:
        told = report(in_sqlite, sqlite_url, "--as-histories", "--measure", "message")
        assert (told["measure"], told["start_on"], told["copied"]["sessions"]) == ("message", "user", 3)


@slow
def test_without_llama_index(in_sqlite: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'target.db'}"
    program = "import sys; sys.modules['llama_index'] = None; from chatring.__main__ import main; main()"
    done = python("-c", program, "migrate", in_sqlite, target)
    told = "Error: this needs llama_index: pip install 'chatring[llama-index]'\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", told)
    assert not (tmp_path / "target.db").exists()
    report(in_sqlite, target)
    # It cannot read them from a store of chatring's either.
    done = python("-c", program, "migrate", target, f"sqlite:///{tmp_path / 'last.db'}")
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", told)
