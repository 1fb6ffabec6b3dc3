"""`PostgreSQLUrl`: the settings in the URL of a PostgreSQL store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from chatring.stores.redaction import check_url, redacted, without_secrets

# When libpq considers a connection, or an attempt to make one, lost; by itself the system may take hours. In seconds,
# except for the last: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_LOST_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_OPTIONS = (
    # Each statement sees what was committed before it, whatever the database's default.
    "-c default_transaction_isolation=read\\ committed",
    # The best plan is the same for all values, and making a plan takes as long as running it.
    "-c plan_cache_mode=force_generic_plan",
    # If a writer's machine is gone, its session is free after half a minute; the system's own keepalives take hours.
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
)
LONGEST = 86_400.0
"""The longest wait, a day, in seconds. Drivers and the system do not take much more."""
_LOCK_TIMEOUT = re.compile(r"\block_timeout\s*=")
_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
# The user ends at the first colon, and the password at the next @, even if somebody forgot to write %2F for a slash.
_CREDENTIALS = re.compile(r"(?<=://)([^:/]*)(:[^@]*)?@")
# libpq's words that contain no values.
_UNKNOWN = re.compile(r'invalid URI query parameter: "\w+"')
# Parameters that libpq does not know.
_OURS = ("pool_size", "timeout", "schema", "startup_options", "prepare_threshold")


@dataclass(frozen=True)
class PostgreSQLUrl:
    """A URL in parts.

    Args:
        parameters: for libpq.
        shown: the URL without secrets.
        pool_size: the most connections; None if the URL does not say.
        timeout: how long a call waits, in seconds; None if the URL does not say.
        schema: the schema with the tables; None for the first of the search path.
        startup_options: whether to send settings when connecting.
        prepare: psycopg's `prepare_threshold`, if the URL has it: after how many uses a statement is prepared; None for
            never.
    """

    parameters: Mapping[str, str]
    shown: str
    pool_size: int | None = None
    timeout: float | None = None
    schema: str | None = None
    startup_options: bool = True
    prepare: Mapping[str, int | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> PostgreSQLUrl:
        """Take a URL apart.

        Raises:
            TypeError: if it is not a str.
            ValueError: if it is not one of PostgreSQL, or has unknown parameters. It is shown without secrets.
            ModuleNotFoundError: if psycopg is not installed.
        """
        check_url(url)
        cls.check_scheme(url)
        shown = redacted(url, _CREDENTIALS)
        address, query = _address(url)
        ours: dict[str, str] = {}
        others = []
        for part in query.split("&") if query else ():
            name, _, value = part.partition("=")
            if unquote(name) in _OURS:
                ours[unquote(name)] = unquote(value)
            else:
                others.append(f"{name}={quote(unquote(value), safe='')}")  # libpq requires an escaped =
        if ours.get("startup_options", "none") != "none":
            raise ValueError(f"startup_options can only be none, got {ours['startup_options']!r}")
        given = ours.get("prepare_threshold", "none")
        if given != "none" and not (given.isascii() and given.isdigit()):
            raise ValueError(f"prepare_threshold must be none or a number of uses, got {given!r}")
        return cls(
            # What is refused may have been written wrong in any place: shown with more hidden than what is taken.
            parameters=_parameters(f"postgresql://{address}?{'&'.join(others)}", without_secrets(url)),
            shown=shown,
            pool_size=_number(ours, "pool_size", int),
            timeout=_number(ours, "timeout", float),
            schema=ours.get("schema"),
            startup_options="startup_options" not in ours,
            prepare={"prepare_threshold": None if given == "none" else int(given)}
            if "prepare_threshold" in ours
            else {},
        )

    @property
    def has_lock_timeout(self) -> bool:
        """Whether the URL itself says how long to wait for other writers."""
        return _LOCK_TIMEOUT.search(self.parameters.get("options", "")) is not None

    @staticmethod
    def check_scheme(url: str) -> None:
        """Refuse a URL that does not begin like one of PostgreSQL.

        Raises:
            ValueError: if it does not.
        """
        if url.partition("://")[0] not in _SCHEMES:
            raise ValueError(
                f"{without_secrets(url)!r} names neither SQLite nor PostgreSQL with psycopg; "
                "it must begin with sqlite:// or postgresql://"
            )

    def arguments(self, timeout: float) -> dict[str, Any]:
        """Return arguments for psycopg's `connect`.

        Args:
            timeout: how long to wait for other writers, in seconds.
        """
        settings = (
            (f"-c lock_timeout={max(round(min(timeout, LONGEST) * 1000), 1)}", *_OPTIONS)
            if self.startup_options
            else ()
        )
        return {
            **lost_connection(self.parameters),
            **self.parameters,
            "client_encoding": "utf8",  # the driver would use the database's
            # PgBouncer refuses a trailing space.
            "options": " ".join((*settings, self.parameters.get("options", ""))).strip(),
            "autocommit": True,
            **self.prepare,
        }


def lost_connection(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for psycopg that make a silent or vanished server an error after a while."""
    return {name: value for name, value in _LOST_CONNECTION.items() if name not in parameters}


def _address(url: str) -> tuple[str, str]:
    """Return what is between scheme and query, with user and password as libpq takes them; and the query."""
    found = _CREDENTIALS.search(url)
    rest, _, query = url[found.end() if found else url.index("://") + 3 :].partition("?")
    if not found:
        return rest, query
    user, password = (quote(unquote(part), safe="") for part in (found[1], (found[2] or "")[1:]))
    return f"{user}:{password}@{rest}" if found[2] else f"{user}@{rest}", query


def _parameters(url: str, shown: str) -> dict[str, str]:
    """Return a URL as libpq's parameters. The error does not say what is wrong if that could show the password."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except ProgrammingError as error:
        found = _UNKNOWN.search(str(error))
        raise ValueError(f"{shown!r} is not a URL of PostgreSQL{': ' + found[0] if found else ''}") from None
    for port in parameters.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit()):
            raise ValueError(f"{shown!r} is not a URL of PostgreSQL: its port must be a number") from None
    return parameters


def _number(values: Mapping[str, str], name: str, kind: type[Any]) -> Any:
    if name not in values:
        return None
    try:
        number = kind(values[name])
    except ValueError:
        number = 0
    if not 0 < number < 2**31:
        raise ValueError(f"{name} must be a number above 0, got {values[name]!r}")
    return number
