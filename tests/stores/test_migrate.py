"""`chatring migrate`, from what others have written, from files and from chatring's stores, into every store."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
import redis.asyncio
from chatring import MessageRing
from chatring.llama_index import ChatMemoryBuffer, RedisChatStore, RingChatStore, SQLChatStore
from chatring.llama_index.store_chat_store import StoreChatStore
from chatring.migration import StorePolicy, migrate, open_source
from chatring.stores import Record, Store, open_store
from llama_index.core.base.llms.types import ImageBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, TextBlock
from llama_index.storage.chat_store.postgres import PostgresChatStore
from llama_index.storage.chat_store.redis import RedisChatStore as LlamaIndexRedisChatStore
from profiles import slow
from test_cli import EXAMPLE, output, python, refusal, run, run_on_terminal

from stores.servers import PASSWORD, PostgresServer, ValkeyServer
from stores.test_redis_cluster import ClusterNode, nodes, wait_until_it_serves

FIXTURES = (nodes,)

SESSIONS: dict[str, list[ChatMessage]] = {
    "ada": [
        ChatMessage("You sell tea.", role="system"),
        ChatMessage("Is there any Assam left? 🍵"),
        ChatMessage(
            [ToolCallBlock(tool_call_id="1", tool_name="stock", tool_kwargs={"tea": "Assam"})],
            role="assistant",
            additional_kwargs={"tool_calls": [{"id": "1"}]},
        ),
        ChatMessage('{"grams": 1250}', role="tool", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage("Yes, 1,250 grams.", role="assistant"),
    ],
    "bob ü 世界 }{%": [
        ChatMessage([TextBlock(text="see"), ImageBlock(image=b"\x89PNG\r\n\x1a\n")]),
        ChatMessage(None, role="assistant"),
        ChatMessage("", role="user"),
        ChatMessage("  \n", role="user"),
    ],
    "cy": [ChatMessage(f"question {n}") for n in range(100)],
}
COUNTS = {"sessions": len(SESSIONS), "messages": sum(map(len, SESSIONS.values()))}
NOTHING = {"sessions": 0, "messages": 0, "tokens": 0}


def opened(url: str) -> StoreChatStore:
    return RedisChatStore(url) if url.startswith("redis") else SQLChatStore(url)


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
def target(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store that outlives a process, one of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chats.json"
    RingChatStore(store=SESSIONS).persist(str(path))
    return path


@pytest.fixture
def their_redis(valkey_url: str) -> str:
    """The URL of a server with sessions of LlamaIndex's `RedisChatStore`."""
    with closing_redis(LlamaIndexRedisChatStore(redis_url=valkey_url)) as theirs:
        for key, messages in SESSIONS.items():
            for message in messages:
                theirs.add_message(key, message)
    return valkey_url


@pytest.fixture
def database(postgres_server: PostgresServer) -> str:
    """The URL of a new database, for tests that make their own tables."""
    return postgres_server.create_database(f"test_{uuid.uuid4().hex}")


def closing_redis(theirs: LlamaIndexRedisChatStore) -> Any:
    class Closing:
        def __enter__(self) -> LlamaIndexRedisChatStore:
            return theirs

        def __exit__(self, *_: object) -> None:
            assert theirs._redis_client is not None
            theirs._redis_client.close()

    return Closing()


def their_postgres(url: str, **options: Any) -> PostgresChatStore:
    """Keep the sessions in LlamaIndex's `PostgresChatStore`."""
    theirs: PostgresChatStore = PostgresChatStore.from_uri(url, **options)
    for key, messages in SESSIONS.items():
        theirs.set_messages(key, messages[:-1])
        theirs.add_message(key, messages[-1])
    assert theirs._session is not None
    theirs._session.kw["bind"].dispose()
    return theirs


def report(*arguments: object) -> dict[str, Any]:
    """Migrate, which must succeed; return what it tells."""
    told: dict[str, Any] = json.loads(output("migrate", *arguments, "--json"))
    return told


def assert_all_there(url: str) -> None:
    """Assert that a store has the sessions, and gives the windows of a ring."""
    ring = RingChatStore(store=SESSIONS)
    chat_store = opened(url)
    assert sorted(chat_store.get_keys()) == sorted(SESSIONS)
    for key, messages in SESSIONS.items():
        assert chat_store.get_messages(key) == messages
        for limit in (1, 10, 40, 3000):
            mine, rings = (
                ChatMemoryBuffer.from_defaults(token_limit=limit, chat_store=store, chat_store_key=key)
                for store in (chat_store, ring)
            )
            assert mine.get() == rings.get()
            assert mine.token_count() == rings.token_count()
    chat_store.store.close()


class TestFromLlamaIndex:
    def test_a_persisted_simple_chat_store(self, file: Path, target: str) -> None:
        told = report(file, target)
        assert_all_there(target)
        tokens = sum(
            ChatMemoryBuffer.from_defaults(chat_history=messages).token_count() for messages in SESSIONS.values()
        )
        assert told == {
            "from": str(file),
            "to": target.replace(PASSWORD, "***"),
            "encoding": "cl100k_base",
            "measure": "text",
            "start_on": None,
            "format": "llama-index",
            "copied": {**COUNTS, "tokens": tokens},
            "already_there": NOTHING,
            "not_copied": {},
            "left_out": [],
        }
        again = report(file, target)
        assert (again["copied"], again["already_there"]) == (NOTHING, told["copied"])
        assert_all_there(target)

    def test_old_forms_of_messages(self, tmp_path: Path, sqlite_url: str) -> None:
        file = tmp_path / "old.json"
        old = {"role": "assistant", "content": "Hello.", "additional_kwargs": {"name": "Ada"}}
        file.write_text(json.dumps({"store": {"a": [old, {"content": None}], "empty": []}}))
        report(file, sqlite_url)
        chat_store = opened(sqlite_url)
        assert chat_store.get_messages("a") == [
            ChatMessage("Hello.", role="assistant", additional_kwargs={"name": "Ada"}),
            ChatMessage(None),
        ]
        assert sorted(chat_store.get_keys()) == ["a", "empty"]
        chat_store.store.close()
        assert report(file, sqlite_url)["already_there"]["sessions"] == 2

    def test_their_redis_chat_store(self, their_redis: str, sqlite_url: str) -> None:
        told = report(their_redis, sqlite_url)
        assert {name: told["copied"][name] for name in COUNTS} == COUNTS
        assert told["from"] == their_redis.replace(PASSWORD, "***")
        assert_all_there(sqlite_url)

    def test_their_redis_chat_store_into_the_same_server(self, their_redis: str) -> None:
        for name in ("copied", "already_there"):
            told = report(their_redis, their_redis)
            assert {count: told[name][count] for count in COUNTS} == COUNTS
            assert_all_there(their_redis)
        with closing_redis(LlamaIndexRedisChatStore(redis_url=their_redis)) as theirs:
            for key, messages in SESSIONS.items():
                assert theirs.get_messages(key) == messages

    def test_their_redis_chat_store_on_a_cluster(self, nodes: list[ClusterNode], sqlite_url: str) -> None:
        wait_until_it_serves(nodes)
        url = f"{nodes[0].url}?cluster=true"
        client: Any = redis.RedisCluster(host="127.0.0.1", port=nodes[0].port, password=PASSWORD)
        client.flushall()
        theirs = LlamaIndexRedisChatStore(redis_client=client, aredis_client=redis.asyncio.Redis())
        for key, messages in SESSIONS.items():
            theirs.set_messages(key, messages)
        client.close()
        report(url, sqlite_url)
        assert_all_there(sqlite_url)
        report(url, url)
        assert report(sqlite_url, url)["copied"] == NOTHING

    def test_what_else_is_on_a_redis_server(
        self, their_redis: str, valkey_server: ValkeyServer, sqlite_url: str
    ) -> None:
        with valkey_server.client() as client:
            client.set("a string", "1")
            client.hset("a hash", "a", "b")
            client.rpush("a queue", '{"task": 1}')
            client.rpush("numbers", 1, 2, 3)
            client.rpush(b"\xff", '{"role": "user"}')
        told = report(their_redis, sqlite_url)
        assert sorted(told["left_out"]) == ["\\xff", "a queue", "numbers"]
        assert_all_there(sqlite_url)
        shown = output("migrate", their_redis, sqlite_url)
        assert "left out because it is not a session: " in shown

    @pytest.mark.parametrize("options", [{}, {"use_jsonb": True}, {"schema_name": "chats", "table_name": "talks"}])
    def test_their_postgres_chat_store(self, database: str, sqlite_url: str, options: dict[str, Any]) -> None:
        their_postgres(database, **options)
        told = report(database, sqlite_url)
        assert {name: told["copied"][name] for name in COUNTS} == COUNTS
        assert_all_there(sqlite_url)
        # Into the same database.
        report(database, database)
        assert_all_there(database)
        assert report(database, database)["copied"] == NOTHING

    def test_several_tables_of_their_postgres_chat_store(self, database: str, sqlite_url: str) -> None:
        import psycopg

        their_postgres(database)
        with psycopg.connect(database) as connection:
            connection.execute("CREATE TABLE data_old (id serial PRIMARY KEY, key varchar NOT NULL, value json[])")
            connection.execute("INSERT INTO data_old (key, value) VALUES ('nothing', NULL)")
            connection.execute("CREATE TABLE others (key varchar, value text[])")
        name = database.replace(PASSWORD, "***")
        assert refusal("migrate", database, sqlite_url) == (
            f"Error: {name} has several tables of LlamaIndex: say which with --table, one of: "
            "public.chatstore, public.data_old\n"
        )
        assert refusal("migrate", database, sqlite_url, "--table", "others") == (
            f"Error: {name} has no table others of LlamaIndex, OpenAI Agents or LangChain; it has: public.chatstore, "
            "public.data_old\n"
        )
        report(database, sqlite_url, "--table", "chatstore")
        assert_all_there(sqlite_url)
        told = report(database, sqlite_url, "--table", "public.data_old")
        assert told["copied"] == {"sessions": 1, "messages": 0, "tokens": 0}

    def test_a_message_that_is_none(self, valkey_server: ValkeyServer, their_redis: str, sqlite_url: str) -> None:
        with valkey_server.client() as client:
            client.rpush("bad", '{"role": "user", "content": "a"}', '{"role": "SECRET"}')
            client.rpush("x" * 2000, '{"role": "user", "content": "a"}')
        result = run("migrate", their_redis, sqlite_url, "--json")
        told = json.loads(result.stdout)
        assert {name: told["copied"][name] for name in COUNTS} == COUNTS
        reason = (
            "message 1: what is stored is not a ChatMessage: role: Input should be 'system', 'developer', 'user', "
            "'assistant', 'function', 'tool', 'chatbot' or 'model'"
        )
        long = f"a session's key must have at most 1024 bytes of UTF-8, got 2000: {'x' * 40!r}..."
        assert told["not_copied"] == {"bad": reason, "x" * 2000: long}
        assert result.exit_code == 2
        errors = sorted(result.stderr.splitlines())
        assert errors == [f"Error: session 'bad': {reason}", f"Error: session '{'x' * 990}…"] or len(errors) == 2
        assert "SECRET" not in result.stderr
        assert_all_there(sqlite_url)

    @pytest.mark.parametrize("form", ["to_string", "to_dict", "text of JSON", "dumps", "a dump a line", "early"])
    def test_memories(self, form: str, tmp_path: Path, sqlite_url: str) -> None:
        messages = SESSIONS["ada"]
        memory = ChatMemoryBuffer.from_defaults(chat_history=messages)
        dumps = [message.model_dump(mode="json") for message in messages]
        text, key = {
            "to_string": (memory.to_string(), "chat_history"),
            "to_dict": (json.dumps(memory.to_dict()), "chat_history"),
            "text of JSON": (json.dumps(memory.to_string()), "chat_history"),
            "dumps": (json.dumps(dumps, indent=1), "memory"),
            "a dump a line": ("".join(json.dumps(dump) + "\n" for dump in dumps), "memory"),
            "early": (json.dumps({"token_limit": 3000, "chat_history": dumps}), "chat_history"),
        }[form]
        file = tmp_path / "memory.json"
        file.write_text(text)
        assert report(file, sqlite_url)["copied"]["messages"] == len(messages)
        chat_store = opened(sqlite_url)
        assert chat_store.get_keys() == [key]
        assert chat_store.get_messages(key) == messages
        chat_store.store.close()

    def test_their_memory_as_histories(self, tmp_path: Path, sqlite_url: str) -> None:
        path = tmp_path / "theirs.db"
        with closing(sqlite3.connect(path)) as connection, connection:  # as `SQLAlchemyChatStore` makes it
            connection.execute(
                "CREATE TABLE llama_index_memory (id INTEGER NOT NULL, key VARCHAR NOT NULL, "
                "timestamp BIGINT NOT NULL, role VARCHAR NOT NULL, status VARCHAR NOT NULL, "
                "data JSON NOT NULL, PRIMARY KEY (id))"
            )
            for key, messages in SESSIONS.items():
                for number, message in enumerate(messages):
                    row = (key, number, message.role.value, "archived" if number < 2 else "active")
                    connection.execute(
                        "INSERT INTO llama_index_memory (key, timestamp, role, status, data) VALUES (?, ?, ?, ?, ?)",
                        [*row, message.model_dump_json()],
                    )
        told = report(f"sqlite:///{path}", sqlite_url, "--as-histories")
        assert {name: told["copied"][name] for name in COUNTS} == COUNTS
        assert_all_there(sqlite_url)
        report(f"sqlite:///{path}", f"sqlite:///{path}", "--as-histories")  # into the same file
        assert_all_there(f"sqlite:///{path}")


ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "Is there any Assam left?"},
    {"type": "function_call", "call_id": "1", "name": "stock", "arguments": '{"tea": "Assam"}'},
    {"type": "function_call_output", "call_id": "1", "output": '{"grams": 1250}'},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes. 🍵"}]},
]
CALL = {"name": "stock", "args": {"tea": "Assam"}, "id": "1", "type": "tool_call"}
HISTORY: list[dict[str, Any]] = [
    {"type": "human", "data": {"content": "Is there any Assam left?", "type": "human", "name": None, "id": None}},
    {"type": "ai", "data": {"content": "", "type": "ai", "tool_calls": [CALL], "usage_metadata": None}},
    {"type": "tool", "data": {"content": "1,250 grams", "type": "tool", "tool_call_id": "1", "status": "success"}},
    {"type": "ai", "data": {"content": "Yes. 🍵", "type": "ai", "tool_calls": []}},
]
# As the packages make them: of OpenAI Agents 0.24, and of langchain-community 0.4.
AGENT_TABLES = """
    CREATE TABLE agent_sessions (session_id VARCHAR(255) PRIMARY KEY, created_at TIMESTAMP, updated_at TIMESTAMP);
    CREATE TABLE agent_messages (
        id INTEGER PRIMARY KEY, session_id VARCHAR(255) NOT NULL REFERENCES agent_sessions, message_data TEXT NOT NULL,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
    )
"""
LANGCHAIN_TABLE = "CREATE TABLE message_store (id INTEGER NOT NULL, session_id TEXT, message TEXT, PRIMARY KEY (id))"


def execute(url: str, statements: Iterable[str]) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            for statement in statements:
                connection.execute(statement)
    else:
        import psycopg

        with psycopg.connect(url) as server:
            for statement in statements:
                server.execute(statement.encode())


def inserted(table: str, column: str, messages: list[dict[str, Any]], first: int = 1) -> list[str]:
    """Return the statements that put messages into the sessions "ada" and "bob", in turn."""
    rows = [
        (2 * number + turn + first, key, json.dumps(message))
        for number, message in enumerate(messages)
        for turn, key in enumerate(("ada", "bob"))
    ]
    return [
        f"INSERT INTO {table} (id, session_id, {column}) VALUES ({number}, '{key}', '{text}')"
        for number, key, text in rows
    ]


def assert_stored(url: str, messages: list[dict[str, Any]]) -> None:
    """Assert that the two sessions have these messages, counted as usual."""
    ring: MessageRing[dict[str, Any]] = MessageRing()
    ring.put_messages(messages)
    with closing(open_store(url)) as store:
        assert store.keys() == ["ada", "bob"]
        for key in store.keys():  # noqa: SIM118
            assert store.all(key) == messages
            assert store.window(key, 40) == ring.window(token_limit=40)


class TestFromOthers:
    @pytest.fixture(params=["sqlite", "postgres"])
    def theirs(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """The URL of a database that others may have made."""
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path / 'theirs.db'}"
        url: str = request.getfixturevalue("database")
        return url

    def test_openai_agents(self, theirs: str, sqlite_url: str) -> None:
        sessions = [f"INSERT INTO agent_sessions (session_id) VALUES ('{key}')" for key in ("ada", "bob", "empty")]
        execute(theirs, [*AGENT_TABLES.split(";"), *sessions, *inserted("agent_messages", "message_data", ITEMS)])
        told = report(theirs, sqlite_url)
        assert {name: told["copied"][name] for name in ("sessions", "messages")} == {"sessions": 2, "messages": 8}
        assert_stored(sqlite_url, ITEMS)
        report(theirs, theirs)
        assert report(theirs, theirs)["already_there"]["sessions"] == 2
        assert_stored(theirs, ITEMS)

    @pytest.mark.parametrize("name", ["message_store", "talks"])
    def test_langchain(self, theirs: str, name: str, sqlite_url: str) -> None:
        execute(theirs, [LANGCHAIN_TABLE.replace("message_store", name), *inserted(name, "message", HISTORY)])
        assert report(theirs, sqlite_url)["copied"]["messages"] == 8
        assert_stored(sqlite_url, HISTORY)

    def test_langchain_of_postgresql(self, database: str, sqlite_url: str) -> None:
        ids = ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"]
        rows = [text for number, text in enumerate(inserted("talks", "message", HISTORY)) if number % 2 == 0]
        table = "CREATE TABLE talks (id SERIAL PRIMARY KEY, session_id UUID NOT NULL, message JSONB NOT NULL)"
        execute(database, [table, *(row.replace("'ada'", f"'{ids[1]}'") for row in rows)])
        assert report(database, sqlite_url)["copied"]["messages"] == 4
        with closing(open_store(sqlite_url)) as store:
            assert store.all(ids[1]) == HISTORY

    def test_both(self, theirs: str, sqlite_url: str) -> None:
        statements = [*AGENT_TABLES.split(";"), LANGCHAIN_TABLE, *inserted("message_store", "message", HISTORY)]
        sessions = [f"INSERT INTO agent_sessions (session_id) VALUES ('{key}')" for key in ("ada", "bob")]
        execute(theirs, [*statements, *sessions, *inserted("agent_messages", "message_data", ITEMS)])
        assert refusal("migrate", theirs, sqlite_url) == (
            f"Error: {theirs.replace(PASSWORD, '***')} has sessions of OpenAI Agents and LangChain: "
            "say which with --layout openai-agents or langchain\n"
        )
        report(theirs, sqlite_url, "--table", "message_store")
        assert_stored(sqlite_url, HISTORY)
        report(theirs, sqlite_url, "--layout", "openai-agents", "--overwrite")
        assert_stored(sqlite_url, ITEMS)

    def test_a_message_that_is_none(self, tmp_path: Path, sqlite_url: str) -> None:
        theirs = f"sqlite:///{tmp_path / 'theirs.db'}"
        damaged = ["UPDATE message_store SET message = 'SECRET' WHERE id = 4"]
        execute(theirs, [LANGCHAIN_TABLE, *inserted("message_store", "message", HISTORY), *damaged])
        result = run("migrate", theirs, sqlite_url)
        assert result.exit_code == 2
        assert result.stderr == "Error: session 'bob': message 1: it is not a JSON object\n"

    def test_lists_of_redis(
        self, valkey_url: str, valkey_server: ValkeyServer, sqlite_url: str, tmp_path: Path
    ) -> None:
        with valkey_server.client() as client:
            for key in ("ada", "bob"):
                for message in HISTORY:
                    client.lpush(f"message_store:{key}", json.dumps(message))
                client.rpush(f"agents:session:{key}:messages", *map(json.dumps, ITEMS))
            client.rpush("a queue", "{}")
        assert "has sessions of LangChain and OpenAI Agents" in refusal("migrate", valkey_url, sqlite_url)
        told = report(valkey_url, sqlite_url, "--layout", "langchain")
        assert told["left_out"] == ["a queue", "agents:session:ada:messages", "agents:session:bob:messages"]
        assert_stored(sqlite_url, HISTORY)
        items_url = f"sqlite:///{tmp_path / 'items.db'}"
        report(valkey_url, items_url, "--layout", "openai-agents")
        assert_stored(items_url, ITEMS)


class TestFromFiles:
    def sessions_of(self, url: str) -> dict[str, list[Any]]:
        with closing(open_store(url)) as store:
            return {key: store.all(key) for key in store.keys()}  # noqa: SIM118

    def test_a_file_is_a_session(self, target: str) -> None:
        messages = [json.loads(line) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
        told = report(EXAMPLE, target)
        assert (told["encoding"], told["measure"], told["start_on"]) == ("o200k_base", "message", "user")
        assert self.sessions_of(target) == {EXAMPLE.stem: messages}
        assert report(EXAMPLE, target)["already_there"]["sessions"] == 1
        window = json.loads(output("window", EXAMPLE, "--token-limit", 3000, "--json"))
        stored = json.loads(output("window", target, EXAMPLE.stem, "--token-limit", 3000, "--json"))
        assert stored == {**window, "session": EXAMPLE.stem}

    @pytest.mark.parametrize(
        ("values", "keys"),
        [
            ([{"id": "x", "messages": ITEMS[:1]}, {"id": "y", "messages": ITEMS}], ["x", "y"]),
            ([{"session_id": 7, "messages": ITEMS[:1]}, {"session_id": 8, "messages": ITEMS}], ["7", "8"]),
            ([{"messages": ITEMS[:1]}, {"messages": ITEMS}], ["1", "2"]),
            ([{"id": "x", "messages": ITEMS[:1]}, {"id": "x", "messages": ITEMS}], ["1", "2"]),
            ([{"id": "x", "messages": ITEMS[:1]}, {"messages": ITEMS}], ["1", "2"]),
        ],
    )
    def test_conversations(self, values: list[Any], keys: list[str], tmp_path: Path, sqlite_url: str) -> None:
        expected = dict(zip(keys, (ITEMS[:1], ITEMS), strict=True))
        for number, text in enumerate((json.dumps(values), "".join(json.dumps(value) + "\n" for value in values))):
            file = tmp_path / f"{number}.json"
            file.write_text(text)
            url = f"{sqlite_url}{number}"
            report(file, url)
            assert self.sessions_of(url) == expected

    def test_options(self, sqlite_url: str) -> None:
        told = report(EXAMPLE, sqlite_url, "--counter", "cl100k_base", "--format", "anthropic", "--start-on", "none")
        assert [told[name] for name in ("encoding", "measure", "start_on", "format")] == (
            ["cl100k_base", "message", None, "anthropic"]
        )
        (session,) = [json.loads(line) for line in output("sessions", sqlite_url, "--json").splitlines()]
        assert session["policy"] == "cl100k_base, message, any, anthropic"
        assert output("window", sqlite_url, EXAMPLE.stem, "--token-limit", 3000)
        assert "it is not of llama-index" in run("migrate", EXAMPLE, sqlite_url, "--format", "llama-index").stderr


RECORDS = {
    "a": [Record("user", "NUL \0 and \ud800", b"\x00\xff"), Record("tool", "", b""), Record("customer", "Hello?")],
    "empty": [],
    "ü }{%": [Record("user", f"message {n}", None if n % 2 else b"{}") for n in range(30)],
}


def fill(url: str, sessions: dict[str, list[Record]]) -> None:
    with closing(open_store(url)) as store:
        for key, records in sessions.items():
            store.replace(key, records)


def assert_records(url: str, sessions: dict[str, list[Record]]) -> None:
    with closing(open_store(url)) as store:
        assert sorted(store.keys()) == sorted(sessions)
        for key, records in sessions.items():
            assert store.all(key) == records
            assert store.token_count(key) == tokens_of(records)
            assert store.window(key, 20) == window_of(records, 20)


def ring_of(records: list[Record]) -> MessageRing[Record]:
    ring: MessageRing[Record] = MessageRing()
    ring.put_messages(records)
    return ring


def tokens_of(records: list[Record]) -> int:
    return ring_of(records).token_count()


def window_of(records: list[Record], limit: int) -> list[Record]:
    return list(ring_of(records).window(token_limit=limit))


class TestFromOurs:
    def test_from_store_to_store(self, sqlite_url: str, postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
        fill(sqlite_url, RECORDS)
        last = f"sqlite:///{tmp_path / 'last.db'}"
        for source, target in ((sqlite_url, postgres_url), (postgres_url, valkey_url), (valkey_url, last)):
            told = report(source, target)
            assert told["copied"] == {
                "sessions": 3,
                "messages": 33,
                "tokens": sum(map(tokens_of, RECORDS.values())),
            }
            assert_records(target, RECORDS)

    def test_under_another_policy(self, sqlite_url: str, tmp_path: Path) -> None:
        fill(sqlite_url, RECORDS)
        target = f"sqlite:///{tmp_path / 'cl100k.db'}"
        told = report(sqlite_url, target, "--model", "gpt-4", "--measure", "text")
        assert (told["encoding"], told["measure"], told["start_on"]) == ("cl100k_base", "text", None)
        with closing(open_store(target, counter="cl100k_base", measure="text")) as store:
            for key, records in RECORDS.items():
                assert store.all(key) == records
                assert told["copied"]["tokens"] >= store.token_count(key)
        # Again with the first one: the sums would be wrong.
        reason = (
            "the target has counted this session by 'cl100k_base, text, any'; "
            "--overwrite counts it by 'o200k_base, message, user'"
        )
        result = run("migrate", sqlite_url, target, "--json")
        assert json.loads(result.stdout)["not_copied"] == dict.fromkeys(RECORDS, reason)
        assert result.exit_code == 2
        report(sqlite_url, target, "--overwrite")
        assert_records(target, RECORDS)

    def test_the_policy_of_the_source_is_kept(self, file: Path, sqlite_url: str, target: str) -> None:
        between = sqlite_url.replace("chat.db", "between.db")
        told = report(file, between)
        again = report(between, target)
        assert again == {**told, "from": between, "to": target.replace(PASSWORD, "***")}
        assert_all_there(target)

    def test_sessions_of_several_formats(self, file: Path, sqlite_url: str, tmp_path: Path) -> None:
        report(file, sqlite_url)
        fill(sqlite_url, {"zoe": [Record("user", "SECRET")]})
        result = run("migrate", sqlite_url, f"sqlite:///{tmp_path / 'target.db'}", "--json")
        told = json.loads(result.stdout)
        assert told["copied"]["sessions"] == 3
        assert told["not_copied"] == {"zoe": "message 0: it is not of llama-index"}
        assert "SECRET" not in result.stderr
        # All of them as JSON.
        json_policy = ("--encoding", "o200k_base", "--measure", "message")
        fill(url := f"sqlite:///{tmp_path / 'first.db'}", {"a": [Record("user", "first")]})
        report(file, url)
        assert report(url, f"sqlite:///{tmp_path / 'json.db'}", *json_policy)["copied"]["sessions"] == 4

    def test_a_store_under_two_urls_is_counted_anew_in_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "chat.db"
        long = [Record("user", f"message {n}") for n in range(2_500)]
        fill(f"sqlite:///{path}", {"long": long})
        source, target = f"sqlite:///{path}", f"sqlite:///{path.parent}/./{path.name}"
        with closing(open_store(target, counter="cl100k_base")) as store, closing(open_source(source)) as found:

            def lost(*_: object) -> None:
                raise AssertionError("a message left its place")

            store.replace = store.delete = store.pop = lost  # type: ignore[assignment, method-assign]
            done = migrate(found, found.keys(), store, overwrite=True)
            assert (list(done.copied), done.already_there, done.failed) == (["long"], {}, {})
            assert store.all("long") == long
            assert store.token_count("long") == done.copied["long"][1]
            assert migrate(found, found.keys(), store, overwrite=True).already_there == done.copied

    def test_a_session_is_replaced_in_one_step(self, target: str, tmp_path: Path) -> None:
        source = f"sqlite:///{tmp_path / 'source.db'}"
        long = [Record("user", f"message {n}") for n in range(2_500)]
        fill(source, {"long": long})
        fill(target, {"long": [Record("user", "other")]})
        with closing(open_store(target)) as store, closing(open_source(source)) as found:
            seen: list[int] = []
            done = migrate(
                found, found.keys(), store, overwrite=True, advanced=lambda _: seen.append(store.length("long"))
            )
            assert (list(done.copied), done.failed) == (["long"], {})
        assert set(seen) == {2_500}
        assert_records(target, {"long": long})

    def test_a_beginning_under_another_policy_is_counted_and_completed(self, sqlite_url: str, tmp_path: Path) -> None:
        target = f"sqlite:///{tmp_path / 'target.db'}"
        fill(sqlite_url, RECORDS)
        with closing(open_store(target, counter="cl100k_base")) as store:
            store.append("a", RECORDS["a"][:2])
        report(sqlite_url, target, "--overwrite")
        assert_records(target, RECORDS)

    def test_other_messages_are_left_alone(self, sqlite_url: str, tmp_path: Path) -> None:
        target = f"sqlite:///{tmp_path / 'target.db'}"
        theirs = {"a": [Record("user", "other")], "ü }{%": [*RECORDS["ü }{%"], Record("user", "newer")]}
        fill(sqlite_url, RECORDS)
        fill(target, {**theirs, "unrelated": [Record("user", "u")]})
        result = run("migrate", sqlite_url, target)
        assert result.exit_code == 2
        reason = "the target has other messages under this key; --overwrite replaces them"
        assert result.stderr == f"Error: session 'a': {reason}\nError: session 'ü }}{{%': {reason}\n"
        rows = [line.split() for line in result.stdout.splitlines()]
        assert rows[:4] == [
            ["sessions", "messages", "tokens"],
            ["copied", "1", "0", "0"],
            ["already", "there", "0", "0", "0"],
            ["not", "copied", "2"],
        ]
        unrelated = {"unrelated": [Record("user", "u")]}
        assert_records(target, {**RECORDS, **theirs, **unrelated})
        told = report(sqlite_url, target, "--overwrite")
        assert (told["copied"]["sessions"], told["already_there"]["sessions"]) == (2, 1)
        assert_records(target, {**RECORDS, **unrelated})


class TestResumed:
    LONG: ClassVar = [Record("user", f"message {n}", b"{}") for n in range(5_000)]

    def test_half_a_session_is_completed(self, target: str, tmp_path: Path) -> None:
        source = f"sqlite:///{tmp_path / 'source.db'}"
        fill(source, {"long": self.LONG, "short": self.LONG[:10]})
        fill(target, {"long": self.LONG[:3_000]})
        advanced: list[float] = []
        with closing(open_store(target)) as store, closing(open_source(source)) as found:
            appended: list[int] = []
            append = store.append

            def noted(key: str, records: Iterable[Record]) -> None:
                append(key, records := list(records))
                appended.append(len(records))

            store.append = noted  # type: ignore[assignment, method-assign]
            done = migrate(found, found.keys(), store, advanced=advanced.append)
        assert (list(done.copied), done.already_there, done.failed) == (["long", "short"], {}, {})
        assert appended == [2_000, 10]
        assert advanced == [1, 1, 2, 2]
        assert_records(target, {"long": self.LONG, "short": self.LONG[:10]})

    @slow
    @pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
    def test_after_a_kill(self, target: str, tmp_path: Path) -> None:
        source = f"sqlite:///{tmp_path / 'source.db'}"
        sessions = {f"session {n:02}": self.LONG for n in range(4)}
        fill(source, sessions)
        program = (
            "import time; from chatring.cli import chatring; from chatring.stores import Store\n"
            "append = Store.append\n"
            "def held(store, key, messages): key == 'session 03' and time.sleep(600); append(store, key, messages)\n"
            "Store.append = held; chatring()"  # so that it does not end before it is killed
        )
        command = [sys.executable, "-c", program, "migrate", source, target]
        with (tmp_path / "told").open("w+b") as told_file, closing(open_store(target)) as store:
            with subprocess.Popen(command, stdout=told_file, stderr=told_file) as process:
                # In the middle of the second session, or later.
                while process.poll() is None and store.length("session 01") < 2_000:
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
            assert process.returncode == -signal.SIGKILL, (tmp_path / "told").read_text()
        with closing(open_store(target)) as store:
            kept = {key: store.length(key) for key in store.keys()}  # noqa: SIM118
            assert all(store.all(key) == self.LONG[: kept[key]] for key in kept)
        assert 2 <= len(kept) < 4
        told = report(source, target)
        assert told["already_there"]["sessions"] == sum(length == 5_000 for length in kept.values())
        assert told["copied"]["sessions"] + told["already_there"]["sessions"] == 4
        assert_records(target, sessions)

    @pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
    @pytest.mark.usefixtures("interruptible")
    def test_an_interrupt_says_how_to_go_on(self, sqlite_url: str, tmp_path: Path) -> None:
        source = f"sqlite:///{tmp_path / 'source.db'}"
        fill(source, {"long": self.LONG})
        program = (
            "import os, signal; from chatring.stores.sql import SQLStore; from chatring.cli import chatring\n"
            "append = SQLStore.append\n"
            "def interrupted(*arguments): append(*arguments); os.kill(os.getpid(), signal.SIGINT)\n"
            "SQLStore.append = interrupted; chatring()"
        )
        done = python("-c", program, "migrate", source, sqlite_url)
        told = "Interrupted: what has been copied stays, and the same command goes on from there."
        assert (done.returncode, done.stdout, done.stderr.decode().split("\n")) == (1, b"", [told, "", "Aborted!", ""])
        assert_records(sqlite_url, {"long": self.LONG[:2_000]})
        assert report(source, sqlite_url)["copied"]["sessions"] == 1
        assert_records(sqlite_url, {"long": self.LONG})

    def test_a_writer_in_between_is_noticed(self, target: str, file: Path) -> None:
        with closing(open_source(str(file))) as source, closing(source.policy.open(target)) as store:

            def write(_: float) -> None:
                store.append("ada", [ChatMessage("Me too.")])

            done = migrate(source, source.keys(), store, advanced=write)
            assert sorted(done.copied) == sorted(key for key in SESSIONS if key != "ada")
            assert list(done.failed) == ["ada"]
            assert done.failed["ada"].startswith(f"the target has {store.length('ada')} messages and ")
            assert "is another program writing to it?" in done.failed["ada"]


class TestRefusals:
    def test_targets(self, file: Path) -> None:
        assert refusal("migrate", file, "chat.db") == (
            "Error: TO must be the URL of a store, such as sqlite:///chat.db; got chat.db\n"
        )
        for url in (
            "memory://",
            "sqlite://",
            "sqlite:///:memory:",
            "sqlite:///file:a?mode=memory&uri=true",
            "sqlite:///file:/a?vfs=memdb&uri=true",
        ):
            assert refusal("migrate", file, url) == f"Error: {url} would be gone when the command ends\n"
        assert refusal("migrate", file, "mysql://u:hunter2@h/d").startswith(
            "Error: 'mysql://u:***@h/d' is not a store's URL"
        )

    def test_sources(self, tmp_path: Path, sqlite_url: str, database: str, valkey_url: str) -> None:
        target = f"sqlite:///{tmp_path / 'target.db'}"
        nothing = f"sqlite:///{tmp_path / 'nothing.db'}"
        assert refusal("migrate", tmp_path / "no", target) == f"Error: {tmp_path / 'no'}: no such file\n"
        assert refusal("migrate", nothing, target) == f"Error: {nothing}: no such file\n"
        assert not (tmp_path / "nothing.db").exists()
        for url in (database, valkey_url):
            name = url.replace(PASSWORD, "***")
            of = "has no sessions of"
            anybody = "chatring, LlamaIndex, OpenAI Agents or LangChain"
            assert refusal("migrate", url, target) == f"Error: {name} {of} {anybody}\n"
            assert refusal("migrate", url, target, "--layout", "chatring") == f"Error: {name} {of} chatring\n"
            assert refusal("migrate", url, target, "--layout", "llama-index") == f"Error: {name} {of} LlamaIndex\n"
        assert refusal("migrate", "memory://", target) == (
            "Error: memory:// is a new store in this process: it has no sessions\n"
        )
        # Looking made no tables.
        assert refusal("window", database, "a", "--token-limit", 3).endswith("has no sessions of chatring\n")

    def test_damaged_files(self, file: Path, sqlite_url: str, tmp_path: Path) -> None:
        assert refusal("migrate", tmp_path, sqlite_url) == f"Error: {tmp_path}: Is a directory\n"
        other = tmp_path / "other.json"
        other.write_text('{"store": {}}')
        assert refusal("migrate", other, sqlite_url) == f"Error: {other} has no sessions of LlamaIndex\n"
        other.write_text("{}")
        told = f'Error: {other}: line 1: neither a message with a role nor a conversation, {{"messages": [...]}}; '
        assert refusal("migrate", other, sqlite_url).startswith(told)
        assert refusal("migrate", EXAMPLE, sqlite_url, "--layout", "llama-index").endswith("of LlamaIndex\n")
        file.write_bytes(file.read_bytes()[:-100])
        assert refusal("migrate", file, sqlite_url).startswith(f"Error: {file}: line 1: not JSON: ")
        database = tmp_path / "damaged.db"
        database.write_bytes(b"no database" * 100)
        assert "not a database" in refusal("migrate", f"sqlite:///{database}", sqlite_url)

    def test_options(self, file: Path, sqlite_url: str, their_redis: str) -> None:
        assert refusal("migrate", file, sqlite_url, "--layout", "chatring") == (
            f"Error: {file} is a file: its layout is llama-index or conversations\n"
        )
        assert refusal("migrate", file, sqlite_url, "--table", "t") == (
            "Error: only a database that others have made has a table to choose\n"
        )
        assert refusal("migrate", sqlite_url, "sqlite:///b.db", "--layout", "conversations") == (
            f"Error: {sqlite_url} is not a file, which the layout conversations is for\n"
        )
        assert refusal("migrate", sqlite_url, sqlite_url, "--layout", "chatring") == (
            "Error: FROM and TO are the same store\n"
        )
        # After a migration within one server, sessions of both are there.
        report(their_redis, their_redis)
        name = their_redis.replace(PASSWORD, "***")
        assert refusal("migrate", their_redis, sqlite_url) == (
            f"Error: {name} has sessions of chatring and LlamaIndex: say which with --layout chatring or llama-index\n"
        )
        for layout in ("chatring", "llama-index"):
            report(their_redis, sqlite_url, "--layout", layout)
        assert_all_there(sqlite_url)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql:/ada:hunter2@localhost/x",
            "postgresql:ada:hunter2@localhost/x",
            "postgresql://ada@corp:hunter2@127.0.0.1:1/x",
            "mysql://ada@corp:hunter2@h/x",
            "memory://ada:hunter2@h",
            "sqlite://ada:hunter2@h/x",
            "redis://ada@corp:hunter2@127.0.0.1:1/0",
            "redis://h?pwd=hunter2",
            "redis:/h?password=hunter2",
        ],
    )
    def test_no_password_is_shown(self, url: str, file: Path, sqlite_url: str) -> None:
        for told in (
            refusal("migrate", url, sqlite_url),
            refusal("migrate", file, url),
            refusal("window", url, "--token-limit", 3),
            refusal("window", url, "a", "--token-limit", 3),
            refusal("stats", url),
        ):
            assert "hunter2" not in told

    @pytest.mark.parametrize("url", ["postgresql://u:hunter2@127.0.0.1:1/d", "redis://u:hunter2@127.0.0.1:1/0"])
    def test_servers_that_are_not_there(self, url: str, file: Path, sqlite_url: str) -> None:
        shown = url.replace("hunter2", "***")
        for told in (
            refusal("migrate", url, sqlite_url),
            refusal("migrate", file, url),
            refusal("window", url, "a", "--token-limit", 3),
        ):
            assert told.startswith(f"Error: {shown} cannot be reached")
            assert "hunter2" not in told

    @slow
    def test_without_what_is_needed(self, file: Path, tmp_path: Path) -> None:
        for missing, extra, arguments in (
            ("psycopg", "postgresql", ("postgresql://h/d", "sqlite:///b.db")),
            ("redis", "redis", ("redis://h", "sqlite:///b.db")),
            ("llama_index", "llama-index", (str(file), f"sqlite:///{tmp_path / 'b.db'}")),
        ):
            program = f"import sys; sys.modules[{missing!r}] = None; from chatring.__main__ import main; main()"
            done = python("-c", program, "migrate", *arguments)
            told = f"Error: this needs {missing}: pip install 'chatring[{extra}]'\n"
            assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", told)


def test_tables(file: Path, sqlite_url: str) -> None:
    tokens = report(file, sqlite_url)["copied"]["tokens"]
    rows = [line.split() for line in output("migrate", file, sqlite_url).splitlines()]
    assert rows[:3] == [
        ["sessions", "messages", "tokens"],
        ["copied", "0", "0", "0"],
        ["already", "there", "3", "109", f"{tokens:,}"],
    ]
    assert [" ".join(row) for row in rows[4:]] == [
        f"from: {file}",
        f"to: {sqlite_url}",
        "counted by: cl100k_base, text, any, llama-index",
        "verified: messages and tokens of 3 sessions are the same in both",
    ]


@slow
@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")
def test_progress_on_a_terminal(file: Path, sqlite_url: str) -> None:
    stdout, seen = run_on_terminal(["-m", "chatring", "migrate", str(file), sqlite_url, "--json"])
    assert json.loads(stdout)["copied"]["sessions"] == 3
    assert b"copying" in seen
    assert b"3/3" in seen
    assert b"sessions" in seen


def test_a_store_is_a_target_for_whoever_writes_a_source() -> None:
    class Twice:
        name, layout, policy = "twice", "mine", StorePolicy()

        def keys(self) -> list[str]:
            return ["a"]

        def messages(self, key: str) -> list[Record]:
            return [Record("user", key)] * 2

        def left_out(self) -> list[str]:
            return []

        def close(self) -> None:
            pass

    store: Store[Record] = open_store("memory://")
    done = migrate(Twice(), Twice().keys(), store)
    assert done.copied == {"a": (2, store.token_count("a"))}
    assert store.all("a") == [Record("user", "a")] * 2
