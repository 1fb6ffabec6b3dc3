"""What a database reports, as the errors of the stores."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy import exc

from chatring.stores.errors import (
    ForeignDataError,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
)

# SQLSTATEs: a key, role or counter's name has a character that the database's encoding has not.
_ENCODING = ("22021", "22P05")

# By SQLSTATE, or its first two characters: https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL = {
    "08": StoreUnavailableError,
    "57P01": StoreUnavailableError,  # shut down by an administrator
    "57P02": StoreUnavailableError,  # shut down by a crash
    "57P03": StoreUnavailableError,  # still starting
    "57P05": StoreUnavailableError,  # idle for too long
    "25P03": StoreUnavailableError,  # idle in a transaction for too long, and disconnected
    "53300": StoreUnavailableError,  # too many connections
    "28": StoreUnavailableError,  # wrong user or password
    "3D000": StoreUnavailableError,  # no such database
    "40001": StoreTimeoutError,
    "40P01": StoreTimeoutError,  # deadlock
    "55P03": StoreTimeoutError,  # lock not available
    "57014": StoreTimeoutError,  # canceled, as by statement_timeout
    "53": StoreFullError,
    "22": ForeignDataError,
    **dict.fromkeys(_ENCODING, StoreError),
    "23": ForeignDataError,
    "42": ForeignDataError,
    "42501": StoreError,  # insufficient privilege
}

# By the name of the result code: https://www.sqlite.org/rescode.html
_SQLITE = {
    "SQLITE_BUSY": StoreTimeoutError,
    "SQLITE_LOCKED": StoreTimeoutError,
    "SQLITE_FULL": StoreFullError,
    "SQLITE_IOERR": StoreUnavailableError,
    "SQLITE_CANTOPEN": StoreUnavailableError,
    "SQLITE_NOTADB": ForeignDataError,
    "SQLITE_CORRUPT": ForeignDataError,
    "SQLITE_CONSTRAINT": ForeignDataError,
    "SQLITE_MISMATCH": ForeignDataError,
    "SQLITE_ERROR": ForeignDataError,  # no such table or column
}

# Before Python 3.11 sqlite3 has no result codes.
_SQLITE_BY_TEXT = {
    "locked": "SQLITE_BUSY",
    "disk is full": "SQLITE_FULL",
    "disk I/O": "SQLITE_IOERR",
    "unable to open": "SQLITE_CANTOPEN",
    "not a database": "SQLITE_NOTADB",
    "malformed": "SQLITE_CORRUPT",
    "constraint": "SQLITE_CONSTRAINT",
    "no such": "SQLITE_ERROR",
    "has no column": "SQLITE_ERROR",
}

_ADVICE = {
    StoreUnavailableError: "cannot be reached; check that it runs and try again",
    StoreTimeoutError: "did not answer in time, or another writer holds the session; try again",
    StoreFullError: "is full; nothing was stored",
    ForeignDataError: "has tables or rows that were not written by chatring",
    StoreError: "refused",
}


# How libpq passes on what a server said instead of connecting, in whatever language: a severity and two spaces.
_REFUSED = re.compile(r"failed: \w+:  ")


def store_error(error: Exception, url: str) -> StoreError:
    """Return the error to raise from `error`, of SQLAlchemy or of a driver, which the database at `url` caused.

    Args:
        error: the one that was raised.
        url: without secrets.
    """
    # SQLAlchemy's own words would add the statement.
    reported = error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error
    kind = _kind(reported)
    advice = _ADVICE[kind]
    if getattr(reported, "sqlstate", None) in _ENCODING:
        advice = "cannot hold a key, role or counter's name in its encoding; make a database with ENCODING 'UTF8'"
    elif kind is StoreUnavailableError and _is_refused(reported):
        advice = "refused the connection"
    # Not PostgreSQL's detail, which may be a row.
    words: str = getattr(getattr(reported, "diag", None), "message_primary", None) or str(reported)
    return kind(f"{url} {advice}: {' '.join(words.split())}")


def _kind(error: BaseException) -> type[StoreError]:
    if isinstance(error, exc.TimeoutError):
        return StoreTimeoutError  # of the connection pool
    if isinstance(error, exc.SQLAlchemyError):
        return StoreError
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", None) or next(
            (name for text, name in _SQLITE_BY_TEXT.items() if text in str(error)), ""
        )
        # Extended codes, such as SQLITE_IOERR_WRITE, begin with the name of the primary one.
        return next((kind for code, kind in _SQLITE.items() if name == code or name.startswith(f"{code}_")), StoreError)
    state = getattr(error, "sqlstate", None)
    if state is None:
        # libpq has no SQLSTATE for a server that is not there, or a connection that broke.
        return StoreUnavailableError if type(error).__name__ == "OperationalError" else StoreError
    return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2]) or StoreError


def _is_refused(error: BaseException) -> bool:
    """Return whether the server answered, and refused the password, the database or another connection."""
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:  # libpq does not tell
        return _REFUSED.search(str(error)) is not None
    return state.startswith(("28", "3D", "53300", "57P03"))
