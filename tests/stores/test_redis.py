"""What is special about `RedisStore`: its keys, its scripts, and what they cost."""

import asyncio
import contextlib
import logging
import os
import random
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from chatring import MessageRing
from chatring.stores import ForeignDataError, Record, StoreError, StoreTimeoutError
from chatring.stores.redis import RedisStore, backend, server
from chatring.stores.redis.layout import Names
from chatring.stores.redis.scripts import Script, Scripts
from redis.crc import key_slot
from threads import run_numbered
from timing import wait_until

from stores.servers import PASSWORD, ValkeyServer

# None may break out of the tag, or have another one's keys.
SESSIONS = ["", "%", "%25", "%7D", "}", "{", "{}", "}{", "a}:session", "*", "a", "{a}", "ä\n", "%257D", "a:messages"]

HELLO, OPEN = Record("user", "Hello"), Record("tool", "\n")
# Where texts are joined, what is appended may depend on what is there.
JOINED: dict[str, Any] = {"measure": "text", "counter": "cl100k_base"}
keys_of = Names("chatring").of


@pytest.fixture
def client(valkey_server: ValkeyServer) -> Iterator[redis.Redis]:
    with valkey_server.client() as client:
        yield client


@pytest.fixture
def store(valkey_url: str) -> Iterator[RedisStore[Any]]:
    store = RedisStore[Any](valkey_url)
    yield store
    store.close()


@pytest.fixture
def joined(valkey_url: str) -> Iterator[RedisStore[Any]]:
    store: RedisStore[Any] = RedisStore(valkey_url, **JOINED)
    yield store
    store.close()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, store: RedisStore[Any]) -> Iterator[Callable[..., Any]]:
    """Call a method of the store by the name of the sync one."""
    if request.param == "sync":
        yield lambda method, *arguments: getattr(store, method)(*arguments)
        return
    loop = asyncio.new_event_loop()
    yield lambda method, *arguments: loop.run_until_complete(getattr(store, f"a{method}")(*arguments))
    loop.run_until_complete(store.aclose())
    loop.close()


def commands(client: redis.Redis) -> dict[str, int]:
    """Return how often each command was called since the last `config_resetstat`; without those within scripts."""
    statistics: Any = client.info("commandstats")
    counts = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in statistics.items()}
    return {name: counts[name] for name in ("evalsha", "eval") if name in counts}


def test_append_and_window_are_one_command_each(client: redis.Redis, call: Callable[..., Any]) -> None:
    call("append", "ada", [HELLO])
    for method, known in (("window", (10,)), ("all", ()), ("length", ())):  # which the server has the scripts of then
        call(method, "ada", *known)
    for method, arguments, count in (
        ("append", ("ada", [HELLO]), 1),
        ("append", ("ada", [HELLO] * 100), 1),
        ("append", ("new", [HELLO]), 2),  # it might have been there
        ("append", ("ada", [Record("user", "open \n")]), 1),
        ("append", ("ada", [OPEN]), 1),
        ("window", ("ada", 1), 1),
        ("window", ("ada", 100), 1),
        ("window", ("none", 100), 1),
        ("all", ("ada",), 1),
        ("last", ("ada", 5), 1),
        ("length", ("ada",), 1),
    ):
        client.config_resetstat()
        call(method, *arguments)
        assert commands(client) == {"evalsha": count}, (method, arguments)


def test_an_append_is_few_commands_of_the_server(client: redis.Redis, store: RedisStore[Any]) -> None:
    store.append("ada", [HELLO])
    client.config_resetstat()
    store.append("ada", [HELLO])
    statistics: Any = client.info("commandstats")
    counts = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in statistics.items()}
    counts.pop("config|resetstat", None)
    assert counts == {"evalsha": 1, "hmget": 1, "llen": 1, "zcard": 1, "pttl": 3, "rpush": 1, "zadd": 1, "hset": 1}


def test_a_server_that_forgot_the_scripts_is_sent_them_again(client: redis.Redis, call: Callable[..., Any]) -> None:
    expected = []
    for method in ("append", "append"):
        client.script_flush()
        call(method, "ada", [HELLO])
        expected.append(HELLO)
    client.script_flush()
    assert call("window", "ada", 100) == expected
    client.script_flush()
    assert call("pop", "ada") == HELLO
    client.script_flush()
    call("replace", "ada", [HELLO])
    client.script_flush()
    assert call("delete", "ada")


def test_the_keys_of_a_session_are_in_one_slot_and_nobody_elses(client: redis.Redis, call: Callable[..., Any]) -> None:
    for session in SESSIONS:
        call("append", session, [Record("user", f"I am {session}")])
    assert sorted(call("keys")) == sorted(SESSIONS)
    assert all(call("all", session) == [Record("user", f"I am {session}")] for session in SESSIONS)
    keys = [keys_of(session) for session in SESSIONS]
    assert len({key for of_session in keys for key in of_session}) == 3 * len(SESSIONS)
    for of_session in keys:
        assert len({key_slot(key) for key in of_session}) == 1
    assert sum(1 for _ in client.scan_iter()) == 3 * len(SESSIONS)
    slots = {key_slot(of_session[0]) for of_session in keys}
    assert len(slots) == len(SESSIONS)  # so that it is the session's key that decides


@pytest.mark.parametrize("key", [b"chatring:{%7d}:session", b"chatring:{%}x}:session", b"chatring:{\xff}:session"])
def test_a_key_that_no_session_has_is_not_taken_for_one(
    client: redis.Redis, store: RedisStore[Any], key: bytes
) -> None:
    client.set(key, b"")
    with pytest.raises(ForeignDataError, match="was not written by chatring"):
        store.keys()


def test_many_keys_of_others_do_not_hide_a_session(client: redis.Redis, call: Callable[..., Any]) -> None:
    client.mset({f"other:{number}": b"" for number in range(5_000)})
    call("append", "ada", [HELLO])
    assert call("keys") == ["ada"]


def test_a_hundred_thousand_messages_at_once(joined: RedisStore[Any]) -> None:
    store = joined
    records = [Record(("user", "assistant", "tool")[number % 3], f"Message {number}.") for number in range(100_000)]
    store.append("ada", records)
    ring: MessageRing[Record] = MessageRing(counter="cl100k_base", measure="text")
    ring.put_messages(records)
    assert store.length("ada") == 100_000
    assert store.token_count("ada") == ring.token_count()
    for limit in (1, 40, 40_000):
        assert store.window("ada", limit) == ring.get(token_limit=limit)
    for index in (-1, 50_001, 20, 0):
        assert store.pop("ada", index) == ring.delete(index)
    assert store.token_count("ada") == ring.token_count()
    assert store.window("ada", 500_000) == ring.get(token_limit=500_000)
    assert store.all("ada") == ring.get_all()


def test_what_the_server_would_not_take_is_refused_at_once(
    store: RedisStore[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "MOST_BYTES", 1_000)
    store.append("ada", [HELLO])
    for method in (store.append, store.replace):
        with pytest.raises(
            ValueError, match=r"^messages must have at most 1,000 bytes at once, got 1,\d+; append them in parts$"
        ):
            method("ada", [Record("user", "x" * 1_200)])
    assert store.all("ada") == [HELLO]


def test_sums_that_are_not_exact_as_doubles_are_refused(valkey_url: str) -> None:
    """No text has more than 2**40 tokens, but a session of some thousand such texts has more than a double can tell."""
    store: RedisStore[Any] = RedisStore(
        valkey_url, measure=lambda message: int(message.text), measure_name="what the text says", start_on=None
    )
    message = r"^a session must have at most 2\*\*52 tokens \(4,503,599,627,370,496\) here; nothing was stored$"
    huge, small = Record("user", f"{2**40}"), Record("user", f"{2**40 - 1}")
    store.append("ada", [huge] * 3_000)
    store.append("ada", [small])
    for method, count in ((store.append, 1_200), (store.append, 5_000), (store.replace, 5_000)):
        with pytest.raises(StoreError, match=message):
            method("ada", [huge] * count)
    assert store.length("ada") == 3_001
    assert store.token_count("ada") == 3_001 * 2**40 - 1
    assert store.window("ada", 2**41 - 1) == [huge, small]
    assert store.window("ada", 2**41 - 2) == [small]
    assert len(store.window("ada", 3_001 * 2**40 - 1)) == 3_001
    assert len(store.window("ada", 3_001 * 2**40 - 2)) == 3_000
    assert len(store.window("ada", 2**62)) == 3_001
    store.append("ada", [huge] * 1_000)
    assert store.pop("ada", 0) == huge
    assert store.token_count("ada") == 4_000 * 2**40 - 1
    store.close()


def test_writers_of_open_ends_and_removers_keep_order_and_sums(valkey_url: str, joined: RedisStore[Any]) -> None:
    """Every append and pop depends on the session's end, which others change at the same time."""
    stores = [joined, *(RedisStore[Any](valkey_url, **JOINED) for _ in range(2))]
    texts = ["open \n", "", " ", "closed", "\n\nword"]
    popped: list[Record] = []

    def write(writer: int) -> None:
        choose = random.Random(writer)
        store = stores[writer % 3]
        for number in range(40):
            store.append(
                "ada", [Record(choose.choice(["user", "tool"]), choose.choice(texts), b"%d %d" % (writer, number))]
            )
            if number % 4 == 3:
                popped.append(store.pop("ada", choose.choice([-1, 0, -3])))

    run_numbered(write, 6)
    store = joined
    records = store.all("ada")
    everything = [record.payload for record in records + popped]
    assert sorted(everything, key=repr) == sorted(
        (b"%d %d" % (writer, number) for writer in range(6) for number in range(40)), key=repr
    )
    for writer in range(6):
        numbers = [
            int((record.payload or b"").split()[1])
            for record in records
            if (record.payload or b"")[:1] == b"%d" % writer
        ]
        assert numbers == sorted(numbers)
    ring: MessageRing[Record] = MessageRing(counter="cl100k_base", measure="text")
    ring.put_messages(records)
    assert store.token_count("ada") == ring.token_count()
    for limit in range(1, ring.token_count() + 2):
        assert store.window("ada", limit) == ring.get(token_limit=limit)


def fork(work: Callable[[], bool]) -> int:
    """Return the id of a child process, whose status is 0 if it did the work, and this was what it should be."""
    with warnings.catch_warnings():  # from Python 3.12 on, if there is another thread
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(30)  # if it hangs
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return child


@pytest.mark.parametrize(
    ("history", "change"),
    [
        ([HELLO, HELLO, HELLO], ("trim", 1)),
        ([HELLO], ("set_head", [Record("system", "Be brief.")])),
        ([HELLO, OPEN, HELLO], ("append", [HELLO])),
        ([HELLO, OPEN], ("append", [HELLO])),
        ([OPEN], ("append", [HELLO])),  # which makes the first start
        ([], ("append", [HELLO])),
        ([HELLO, OPEN], ("replace", [OPEN])),
        ([OPEN], ("replace", [HELLO, HELLO])),
        ([HELLO], ("replace", [])),
        ([HELLO, HELLO, OPEN], ("pop",)),
        ([HELLO, HELLO], ("pop", 0)),
        ([HELLO], ("pop",)),
        ([HELLO, OPEN, HELLO], ("recount",)),
    ],
)
@pytest.mark.parametrize(
    "seconds", [(100, 100, 100), (100, None, None), (None, 100, 200), (300, 200, None), (None,) * 3]
)
def test_keys_that_somebody_lets_expire_do_so_together(
    client: redis.Redis,
    call: Callable[..., Any],
    history: list[Record],
    change: tuple[Any, ...],
    seconds: tuple[int | None, ...],
) -> None:
    """The latest expiry of any key becomes the expiry of all."""
    call("replace", "ada", history)
    keys = keys_of("ada")
    for key, expiry in zip(keys, seconds, strict=True):
        if expiry is not None:
            client.expire(key, expiry)

    def expiries() -> list[int]:
        return [client.pexpiretime(key.decode()) for key in keys if client.exists(key)]

    latest = max(expiries())
    method, *arguments = change
    call(method, "ada", *arguments)
    left = expiries()
    assert max(left) - min(left) <= 5  # milliseconds: within a script of Redis 7.0 the clock goes on
    assert abs(max(left) - latest) <= 1_000 if latest > 0 else left == [-1] * len(left)
    if latest > 0:
        for key in keys:
            client.pexpire(key, 1)
        time.sleep(0.01)
        assert call("window", "ada", 10) == []
        call("append", "ada", [HELLO])
        assert [client.ttl(key) for key in keys] == [-1, -1, -1]
        assert call("all", "ada") == [HELLO]


def test_an_idle_connection_that_was_closed_is_replaced(
    client: redis.Redis, valkey_url: str, connect: Callable[[str], Any]
) -> None:
    for parameter in ("protocol=2", "protocol=3", "max_connections=1"):
        call = connect(f"{valkey_url}?{parameter}")
        call("replace", "ada", [HELLO])
        client.client_kill_filter(_type="normal", skipme=True)
        call("append", "ada", [HELLO])
        assert call("all", "ada") == [HELLO, HELLO]


def test_a_child_process_has_connections_of_its_own(store: RedisStore[Any]) -> None:
    def work() -> bool:
        for number in range(50):
            store.append("child", [Record("user", f"child {number}")])
        return store.length("child") == 50

    store.append("ada", [HELLO])
    child = fork(work)
    for number in range(50):
        store.append("parent", [Record("user", f"parent {number}")])
    assert os.waitpid(child, 0)[1] == 0
    for session in ("child", "parent"):
        assert store.all(session) == [Record("user", f"{session} {number}") for number in range(50)]


def test_a_process_may_fork_while_another_thread_connects(
    store: RedisStore[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, is_making, go_on = server._pooled, threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Any:
        is_making.set()
        go_on.wait()
        return make(*arguments)

    def work() -> bool:
        monkeypatch.undo()
        store.append("ada", [HELLO])
        return store.all("ada") == [HELLO]

    monkeypatch.setattr(server, "_pooled", slowly)
    thread = threading.Thread(target=store.keys)
    thread.start()
    is_making.wait()
    try:
        assert os.waitpid(fork(work), 0)[1] == 0
    finally:
        go_on.set()
        thread.join()
    assert store.all("ada") == [HELLO]


def test_each_event_loop_has_connections_of_its_own(store: RedisStore[Any]) -> None:
    async def use(close: bool) -> int:
        await asyncio.gather(*(store.aappend("ada", [HELLO]) for _ in range(100)))
        if close:
            await store.aclose()
        return await store.alength("ada") if not close else 0

    assert [asyncio.run(use(close=True)) for _ in range(2)] == [0, 0]
    loops = [asyncio.new_event_loop() for _ in range(2)]
    assert [loop.run_until_complete(use(close=False)) for loop in loops] == [300, 400]
    for loop in loops:
        loop.run_until_complete(store.aclose())
        loop.close()
    assert store.length("ada") == 400


def test_a_cancelled_call_leaves_no_answer_for_the_next_one(store: RedisStore[Any]) -> None:
    records = [Record("user", f"Message {number} {'x' * 1_000}") for number in range(500)]

    async def use() -> None:
        await store.aappend("ada", records)
        await store.aappend("bob", [HELLO])
        for delay in range(40):
            task = asyncio.create_task(store.aall("ada"))
            await asyncio.sleep(delay / 10_000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await store.awindow("bob", 100) == [HELLO]
            assert await store.alength("ada") == 500
        await store.aclose()

    asyncio.run(use())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count what cancels a task")
def test_a_cancel_is_not_swallowed(store: RedisStore[Any]) -> None:
    """As `asyncio.wait_for` does, up to Python 3.11, if what it waits for is there."""

    async def use() -> None:
        await store.aappend("ada", [HELLO])
        for _ in range(20):
            tasks = [asyncio.create_task(store.awindow("ada", 100)) for _ in range(50)]
            cancelled = []
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0)
                task = random.choice(tasks)
                if task.cancel():
                    cancelled.append(task)
            await asyncio.gather(*tasks, return_exceptions=True)
            assert all(task.cancelled() for task in cancelled)
        await store.aclose()

    asyncio.run(use())


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://:secret@localhost/database",
        "redis://:secret@localhost:port/0",
        "redis://:secret@localhost/0?cluster=perhaps",
        "redis://:secret@localhost/1?cluster=true",
        "redis://:secret@localhost/0?socket_timeout=long",
        "redis://:secret@localhost/0?no_such_parameter=1",
        "redis://localhost?pwd=secret",
        "redis://ada@corp:secret@localhost:port",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not the URL of a Redis or Valkey server") as raised:
        RedisStore(url)
    assert "secret" not in repr(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", ["prefix", "no_such_parameter"])
def test_an_unknown_parameter_is_named(name: str) -> None:
    hint = "; give it to open_store" if name == "prefix" else ""
    with pytest.raises(ValueError, match=rf": redis-py has no parameter '{name}'{hint}$"):
        RedisStore(f"redis://localhost/0?{name}=1")


@pytest.mark.parametrize("url", ["redis://:p@ss?word@h/0", "redis://:1#word@h/0", "redis://:p@ss/?word@h/0"])
def test_a_password_that_reaches_into_the_rest_of_the_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^'redis://:\*\*\*@h/0' has a password with an @; write %40 instead$"):
        RedisStore(url)


def test_valkey_is_a_scheme(valkey_url: str, store: RedisStore[Any]) -> None:
    store.append("ada", [HELLO])
    valkey: RedisStore[Any] = RedisStore(valkey_url.replace("redis://", "valkey://"))
    assert valkey.all("ada") == [HELLO]
    shown = valkey_url.replace("redis://", "valkey://").replace(PASSWORD, "***")
    assert repr(valkey) == f"RedisStore({shown!r}, 'o200k_base, message, user')"
    valkey.close()
    RedisStore("valkeys://localhost").close()


@pytest.mark.parametrize("parameter", ["decode_responses=true", "protocol=3", "health_check_interval=1", "db=0"])
def test_parameters_of_redis_py(valkey_url: str, parameter: str) -> None:
    store = RedisStore[Any](f"{valkey_url}?{parameter}")
    store.append("ada", [Record("user", "\ud800 bytes", b"\xff")])
    assert store.window("ada", 100) == store.all("ada") == [Record("user", "\ud800 bytes", b"\xff")]
    assert store.keys() == ["ada"]
    store.close()


def test_every_script_is_known_by_what_it_is() -> None:
    found = {name: script for name, script in vars(Scripts()).items() if isinstance(script, Script)}
    assert len({script.sha for script in found.values()}) == len(found) == 8
    assert {name for name, script in found.items() if not script.changes} == {"window", "read", "rows"}


def test_a_prefix_is_a_store_of_its_own(client: redis.Redis, valkey_url: str, call: Callable[..., Any]) -> None:
    call("append", "ada", [HELLO])
    for prefix in ("two", "chat*", "", "a:b"):
        with contextlib.closing(RedisStore[Any](valkey_url, prefix=prefix)) as other:
            assert other.keys() == other.all("ada") == []
            other.append("ada", [OPEN])
            assert other.keys() == ["ada"]
    assert call("keys") == ["ada"]
    assert call("all", "ada") == [HELLO]
    assert client.exists("two:{ada}:session", "two:{ada}:messages", "two:{ada}:starts") == 3


@pytest.mark.parametrize("prefix", ["a{", "}", "\0", "\ud800", "x" * 129, 7])
def test_what_is_no_prefix(prefix: Any) -> None:
    with pytest.raises(TypeError if prefix == 7 else ValueError, match=r"^prefix must "):
        RedisStore("redis://localhost", prefix=prefix)


def test_keys_by_prefix_and_page(call: Callable[..., Any]) -> None:
    keys = sorted([*SESSIONS, "a*", "a[b]", "a?", "a\\", "a^", "ab", "a}b", "a%b", "\U0001f600", "\uffff"])
    for key in keys:
        call("append", key, [HELLO])
    for prefix in ("", "a", "a*", "a[", "a?", "a\\", "a^", "%", "}", "a}", "\uffff", "nothing"):
        expected = [key for key in keys if key.startswith(prefix)]
        assert call("keys", prefix) == expected
        paged, last = [], None
        while page := call("keys", prefix, last, 2):
            paged += page
            last = page[-1]
        assert paged == expected


@pytest.mark.parametrize("change", [("append", [HELLO]), ("pop",), ("replace", [HELLO]), ("recount",), ("trim", 2)])
def test_a_session_that_is_not_changed_for_long_is_gone(
    client: redis.Redis, valkey_url: str, change: tuple[Any, ...]
) -> None:
    with contextlib.closing(RedisStore[Any](valkey_url, ttl=100)) as store:
        store.append("ada", [HELLO] * 3)
        for key in keys_of("ada"):
            assert 99_000 < client.pttl(key) <= 100_000
            client.pexpire(key, 5_000)
        store.window("ada", 100)
        assert client.pttl(keys_of("ada").session) <= 5_000
        method, *arguments = change
        getattr(store, method)("ada", *arguments)
        assert all(99_000 < client.pttl(key) <= 100_000 for key in keys_of("ada"))


@pytest.mark.parametrize("ttl", [0, -1, True, "1", float("inf"), float("nan")])
def test_what_is_no_ttl(ttl: Any) -> None:
    with pytest.raises(ValueError, match=r"^ttl must be a number of seconds above 0, got "):
        RedisStore("redis://localhost", ttl=ttl)


def test_sessions_that_were_not_used_since(client: redis.Redis, store: RedisStore[Any]) -> None:
    backend = store._backend
    for number in range(5):
        store.append(f"{number}", [HELLO])
        client.hset(f"chatring:{{{number}}}:session", "updated_at", 1_000 * (number + 1))
    deadline = time.monotonic() + 10
    assert backend.run(backend.unused(3.5, ""), deadline) == ["0", "1", "2"]
    assert backend.run(backend.unused(3.5, "1"), deadline) == ["1"]
    assert backend.run(backend.unused(3.5, "4"), deadline) == []
    assert [backend.run(backend.delete(f"{number}", 3.5), deadline) for number in range(5)] == [
        *[True] * 3,
        *[False] * 2,
    ]
    assert store.keys() == ["3", "4"]
    assert store.updated_at("4") == 5


def test_clients_that_are_handed_in_are_used_as_they_are(valkey_server: ValkeyServer, valkey_url: str) -> None:
    options: dict[str, Any] = {"host": "127.0.0.1", "port": valkey_server.port, "password": PASSWORD}

    async def use(store: RedisStore[Any], client: Any) -> None:
        await store.aappend("ada", [HELLO])
        assert await store.aall("ada") == await store.awindow("ada", 100) == [HELLO] * 2
        assert await store.akeys() == ["ada"]
        await store.aclose()
        assert await client.ping()  # nobody has closed it
        await client.aclose()

    for more in ({}, {"decode_responses": True}, {"protocol": 3}):
        client = redis.Redis(**options, **more)
        async_client = redis.asyncio.Redis(**options, **more)
        store: RedisStore[Any] = RedisStore(None, client=client, async_client=async_client)
        store.append("ada", [HELLO])
        asyncio.run(use(store, async_client))
        store.close()
        assert client.ping()
        assert PASSWORD not in repr(store)
        assert store.delete("ada")
        client.close()
    only: RedisStore[Any] = RedisStore(valkey_url, client=redis.Redis(**options))
    with pytest.raises(TypeError, match="give it client and async_client"):
        asyncio.run(only.aappend("ada", [HELLO]))
    assert only.url == valkey_url.replace(PASSWORD, "***")


def test_a_client_that_sends_again_makes_no_change_twice(valkey_url: str, store: RedisStore[Any]) -> None:
    """As redis-py's do by default: the answer was lost, not the request."""
    connection = store._backend._server._connection  # type: ignore[attr-defined]
    execute = connection.execute

    def twice(step: Any) -> Any:
        first = execute(step)
        assert not step.changes or execute(step) == first
        return first

    connection.execute = twice
    for _ in range(3):
        store.append("ada", [HELLO])
    store.pop("ada")
    store.trim("ada", 1)
    assert store.all("ada") == [HELLO]


def test_a_password_that_changes_is_asked_for(valkey_server: ValkeyServer, valkey_url: str) -> None:
    asked: list[str] = []

    def password() -> str:
        asked.append(PASSWORD)
        return PASSWORD

    store: RedisStore[Any] = RedisStore(f"redis://127.0.0.1:{valkey_server.port}/0", password=password)
    store.append("ada", [HELLO])
    assert asyncio.run(store.aall("ada")) == [HELLO]
    store.close()
    assert store.length("ada") == 1
    assert len(asked) == 3
    store.close()


def test_a_socket_of_the_system() -> None:
    with ValkeyServer(appendonly="no") as server:
        path = server.folder / "socket"
        with server.client() as client:
            if "unixsocket" not in client.config_get("unixsocket"):
                pytest.skip("a server without sockets")
        server.stop()
        server._settings["unixsocket"] = str(path)
        server.start()
        url = f"unix://:{PASSWORD}@{path}?db=1"
        store: RedisStore[Any] = RedisStore(url)
        store.append("ada", [HELLO])
        assert asyncio.run(store.aall("ada")) == [HELLO]
        assert store.url == url.replace(PASSWORD, "***")
        store.close()


def test_a_loop_that_ends_leaves_no_connection(client: redis.Redis, store: RedisStore[Any]) -> None:
    def connections() -> int:
        return len(client.client_list())

    async def request(number: int) -> None:
        await asyncio.gather(*(store.aappend(f"{number}", [HELLO]) for _ in range(3)))

    before = connections()
    run_numbered(lambda number: [asyncio.run(request(number)) for _ in range(5)], 16)
    wait_until(lambda: connections() <= before)
    assert connections() == before
    assert not store._backend._server._async_clients  # type: ignore[attr-defined]
    assert sum(store.length(f"{number}") for number in range(16)) == 16 * 5 * 3


@pytest.mark.parametrize("is_async", [False, True])
def test_closing_does_not_disturb_calls(client: redis.Redis, valkey_url: str, is_async: bool) -> None:
    """Those that are under way end as they would, and then their connections are closed."""
    store: RedisStore[Any] = RedisStore(valkey_url)
    before = len(client.client_list())

    def append() -> None:
        store.append("ada", [HELLO])

    async def append_and_close() -> None:
        tasks = [asyncio.create_task(store.aappend(f"{number}", [HELLO])) for number in range(4)]
        await asyncio.sleep(0.1)
        await store.aclose()
        await store.aappend("ben", [HELLO])
        await asyncio.gather(*tasks)

    client.client_pause(300, all=False)
    threads: list[threading.Thread] = []
    if is_async:
        asyncio.run(append_and_close())
    else:
        threads = [threading.Thread(target=append) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        store.close()
        store.append("ben", [HELLO])
        for thread in threads:
            thread.join()
        store.close()
    assert store.length("ben") == 1
    assert sum(store.length(key) for key in store.keys() if key != "ben") == 4  # noqa: SIM118
    store.close()
    wait_until(lambda: len(client.client_list()) <= before)
    assert len(client.client_list()) == before


def test_how_many_connections_and_how_long_to_wait_for_one(client: redis.Redis, valkey_url: str) -> None:
    kinds: tuple[tuple[dict[str, Any], str], ...] = (
        ({"pool_size": 2, "timeout": 1}, ""),
        ({}, "?max_connections=2&timeout=1"),
    )
    for options, parameters in kinds:
        store: RedisStore[Any] = RedisStore(valkey_url + parameters, **options)
        assert store.timeout == 1
        store.replace("ada", [HELLO])
        with store._backend._server.client() as own:  # type: ignore[attr-defined]
            held = [own.connection_pool.get_connection() for _ in range(2)]
        begun = time.monotonic()
        with pytest.raises(StoreTimeoutError, match="all connections were in use for too long"):
            store.length("ada")
        assert 0.9 < time.monotonic() - begun < 9  # without them it is 10 seconds
        for connection in held:
            own.connection_pool.release(connection)
        assert store.length("ada") == 1
        store.close()
    for pool_size in (0, True, "3"):
        with pytest.raises(ValueError, match=r"^pool_size must be a number of connections of at least 1, got "):
            RedisStore(valkey_url, pool_size=pool_size)  # type: ignore[arg-type]


def test_every_call_goes_through_the_client_and_to_the_log(
    store: RedisStore[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So that what traces redis-py sees it."""
    caplog.set_level(logging.DEBUG, "chatring")
    seen: list[str] = []

    def traced(kind: Any) -> None:
        execute = kind.execute_command

        def execute_command(self: Any, *arguments: Any, **options: Any) -> Any:
            seen.append(arguments[0])
            return execute(self, *arguments, **options)

        monkeypatch.setattr(kind, "execute_command", execute_command)

    traced(redis.Redis)
    traced(redis.asyncio.Redis)
    secret = Record("user", "a secret")
    store.append("ada", [secret])
    store.append("ada", [secret])
    store.window("ada", 100)
    store.keys()
    asyncio.run(store.aappend("ada", [secret]))
    calls = [name for name in seen if name != "EVAL"]
    assert calls == ["EVALSHA"] * 4 + ["SCAN"] + ["EVALSHA"]
    lines = [record.getMessage() for record in caplog.records if record.name == "chatring"]
    assert [line.split()[0] for line in lines] == ["read", "write", "write", "window", "scan", "write"]
    assert all(re.fullmatch(r"\w+ took [\d.]+ ms", line) for line in lines)
