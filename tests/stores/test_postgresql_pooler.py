"""PostgreSQL behind PgBouncer, in session and transaction mode, with and without prepared statements."""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from chatring.stores import Store, StoreError, StoreUnavailableError, open_store
from threads import run_numbered

from stores.servers import PASSWORD, PostgresServer, Server


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


PROGRAM = shutil.which("pgbouncer")
# In each mode, half of them async; `make test-kills` has the larger number.
CALLS = 1_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 200
ONE = user("one")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer: apt-get install pgbouncer")


class PgBouncer(Server):
    """A pooler of connections to a PostgreSQL server.

    Args:
        server: the server.
        settings: of the pooler.
    """

    def __init__(self, server: PostgresServer, **settings: str) -> None:
        super().__init__()
        self._settings = settings
        self._server = server
        self.folder.chmod(0o755)

    @property
    def url(self) -> str:
        """The URL of the database `pooled`, through the pooler."""
        return self._server.database_url("pooled").replace(f":{self._server.port}/", f":{self.port}/")

    def _command(self) -> list[str]:
        users = self.folder / "users"
        users.write_text(f'"postgres" "{PASSWORD}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "plain",
            "auth_file": str(users),
            # Less than clients, where they share connections.
            "default_pool_size": "20" if self._settings["pool_mode"] == "session" else "3",
            **self._settings,
        }
        database = f"* = host=127.0.0.1 port={self._server.port}"
        lines = ["[databases]", database, "[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text("\n".join(lines) + "\n")
        assert PROGRAM is not None
        return [PROGRAM, str(configuration)]

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=2, options="").close()
            return True
        return False

    def _identity(self) -> dict[str, Any]:
        # It refuses to run as root.
        return self._server._identity() | {"cwd": self.folder}


@pytest.fixture(scope="module")
def server(postgres_server: PostgresServer) -> PostgresServer:
    """A server with a database whose connections no other test ends: poolers keep them."""
    postgres_server.create_database("pooled")
    return postgres_server


@pytest.fixture(scope="module", params=["session", "transaction"])
def pooler(request: pytest.FixtureRequest, server: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(server, pool_mode=request.param, ignore_startup_parameters="options") as pooler:
        yield pooler


@pytest.fixture(scope="module")
def strict_pooler(server: PostgresServer) -> Iterator[PgBouncer]:
    """A pooler that accepts no options, like Neon's and Amazon's."""
    with PgBouncer(server, pool_mode="transaction") as pooler:
        yield pooler


def use(store: Store[Any], prefix: str, calls: int) -> None:
    """Make calls of all kinds, in threads and in tasks that all use the same few connections."""

    def work(writer: int) -> None:
        for number in range(calls // 2 // 4 // 5):
            key = f"{prefix} {(writer + number) % 3}"
            store.append(key, [user(f"{writer} {number}")])
            store.append(key, [user(f"{writer} {number}\n"), ONE])
            assert store.window(key, 100) != []
            assert store.length(key) > 0
            store.pop(key)

    async def awork(writer: int) -> None:
        for number in range(calls // 2 // 4 // 5):
            key = f"{prefix} {(writer + number) % 3}"
            await store.aappend(key, [user(f"{writer} {number}")])
            await store.aappend(key, [user(f"{writer} {number}\n"), ONE])
            assert await store.awindow(key, 100) != []
            assert await store.alength(key) > 0
            await store.apop(key)

    async def all_tasks() -> None:
        await asyncio.gather(*(awork(writer) for writer in range(4)))
        await store.aclose()

    run_numbered(work, 4)
    store.close()
    asyncio.run(all_tasks())
    # Of each turn's five calls, two append, three messages in all, and one pops.
    assert sum(store.length(f"{prefix} {number}") for number in range(3)) == calls // 2 // 4 // 5 * 4 * 2 * 2
    store.close()


@pytest.mark.parametrize("query", ["", "?prepare_threshold=none", "?startup_options=none", "?prepare_threshold=5"])
def test_calls_through_a_pooler(pooler: PgBouncer, query: str) -> None:
    """Prepared statements need a connection of one's own, or a newer PgBouncer, so nobody gets them unasked."""
    if query == "?prepare_threshold=5" and pooler._settings["pool_mode"] == "transaction":
        pytest.skip("PgBouncer keeps prepared statements from 1.21 on only, with max_prepared_statements")
    use(open_store(pooler.url + query), f"{pooler._settings['pool_mode']}{query}", CALLS)


def test_a_pooler_that_takes_no_options(strict_pooler: PgBouncer) -> None:
    store = open_store(strict_pooler.url)
    with pytest.raises(StoreUnavailableError, match=r"add \?startup_options=none to the URL: .*startup parameter"):
        store.append("ada", [ONE])
    use(open_store(f"{strict_pooler.url}?startup_options=none"), "ada", CALLS // 4)


def test_a_clash_of_prepared_statements_is_named(postgres_url: str) -> None:
    """As behind a pooler in transaction mode, whose connection has another client's statement of the same name."""
    store = open_store(f"{postgres_url}?prepare_threshold=0")
    with psycopg.connect(postgres_url, prepare_threshold=0) as other, pytest.MonkeyPatch.context() as patch:
        connect = psycopg.Connection.connect

        def prepared(*arguments: Any, **named: Any) -> Any:
            connection = connect(*arguments, **named)
            connection.pgconn.exec_(b"PREPARE _pg3_0 AS SELECT 1")
            return connection

        patch.setattr(psycopg.Connection, "connect", prepared)
        with pytest.raises(StoreError) as raised:
            store.append("ada", [ONE])
        assert type(raised.value) is StoreError
        assert "a pooler that does not keep prepared statements; add ?prepare_threshold=none" in str(raised.value)
        other.rollback()
    store.close()


def test_statements_are_prepared_where_there_is_no_pooler(postgres_url: str) -> None:
    store = open_store(postgres_url)
    assert "SELECT" in prepared_statements(store)
    store.close()


def test_statements_are_not_prepared_where_there_is_a_pooler(pooler: PgBouncer) -> None:
    store = open_store(pooler.url)
    assert prepared_statements(store) == ""
    store.close()


def prepared_statements(store: Any) -> str:
    """Use a store for a while, and return the statements that are then prepared on its connection."""
    for _ in range(10):
        store.append("ada", [ONE])
        store.window("ada", 10)
    with store._backend._lend(time.monotonic() + 10, None) as lent:
        rows = lent._connection.execute("SELECT statement FROM pg_prepared_statements").fetchall()
    return " ".join(statement for (statement,) in rows)
