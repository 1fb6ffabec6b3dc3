"""Maps what a database reports to the errors of the stores."""

from __future__ import annotations

import errno
import os
import re
import sqlite3

from chatring.stores.errors import (
    ForeignDataError,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
)

# SQLSTATEs: a key, a name or a message has a character that the database's encoding lacks.
_ENCODING = ("22021", "22P05")
# A prepared statement exists already, or does not exist: a pooler gave the connection to somebody else.
_PREPARED = ("42P05", "26000")

# By SQLSTATE, or its first two characters: https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL = {
    "08": StoreUnavailableError,
    "57P01": StoreUnavailableError,  # shut down by an administrator
    "57P02": StoreUnavailableError,  # shut down by a crash
    "57P03": StoreUnavailableError,  # still starting
    "57P05": StoreUnavailableError,  # idle for too long
    "25P03": StoreUnavailableError,  # idle in a transaction for too long, and disconnected
    "25006": StoreUnavailableError,  # a standby, or a server set to read only
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
    "3F": StoreError,  # no such schema
    "42": ForeignDataError,
    "42501": StoreError,  # insufficient privilege
    **dict.fromkeys(_PREPARED, StoreError),
}

# By the name of the result code: https://www.sqlite.org/rescode.html
_SQLITE = {
    "SQLITE_BUSY": StoreTimeoutError,
    "SQLITE_LOCKED": StoreTimeoutError,
    "SQLITE_FULL": StoreFullError,
    "SQLITE_IOERR_SHMSIZE": StoreFullError,  # no room for the file beside the database while that is open
    "SQLITE_IOERR": StoreUnavailableError,
    "SQLITE_CANTOPEN": StoreUnavailableError,
    "SQLITE_NOTADB": ForeignDataError,
    "SQLITE_CORRUPT": ForeignDataError,
    "SQLITE_CONSTRAINT": ForeignDataError,
    "SQLITE_MISMATCH": ForeignDataError,
    "SQLITE_ERROR": ForeignDataError,  # no such table or column
}

# Before Python 3.11, sqlite3 has no result codes.
_SQLITE_BY_TEXT = {
    "locked": "SQLITE_BUSY",
    "disk is full": "SQLITE_FULL",
    "disk I/O": "SQLITE_IOERR",
    "unable to open": "SQLITE_CANTOPEN",
    "readonly": "SQLITE_READONLY",
    "not a database": "SQLITE_NOTADB",
    "malformed": "SQLITE_CORRUPT",
    "constraint": "SQLITE_CONSTRAINT",
    "already exists": "SQLITE_ERROR",
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
# How poolers refuse settings at connect: PgBouncer and Neon, RDS Proxy.
_OPTIONS = re.compile(r"startup parameter|command-line options")

# How libpq passes on what a server said instead of connecting, in any language: a severity and two spaces.
_REFUSED = re.compile(r"failed: \w+:  ")


def store_error(error: Exception, url: str, file: str | None = None) -> StoreError:
    """Return the error to raise from a driver's `error`, which the database at `url` caused.

    Args:
        error: the driver's.
        url: without secrets.
        file: for SQLite.
    """
    kind = _kind(error)
    state = getattr(error, "sqlstate", None)
    # Not PostgreSQL's detail, which may show a row.
    words: str = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    advice = _ADVICE[kind]
    if state in _ENCODING:
        advice = "cannot hold a key, a name or a message in its encoding; make a database with ENCODING 'UTF8'"
    elif state in _PREPARED:
        advice = "is behind a pooler that does not keep prepared statements; add ?prepare_threshold=none to the URL"
    elif state == "3F000":
        advice = "has no such schema; make it with CREATE SCHEMA"
    elif state == "25006":
        advice = "takes no changes now: it is a standby, or set to read only"
    elif _OPTIONS.search(words):
        advice = "is behind a pooler that takes no settings; add ?startup_options=none to the URL"
    elif kind is StoreUnavailableError and isinstance(error, sqlite3.Error):
        advice = "cannot be read or written now; check the disk and try again"
    elif kind is StoreUnavailableError and _is_refused(error):
        advice = "refused the connection"
    if file is not None and isinstance(error, sqlite3.Error):
        code = _sqlite_code(error)
        if code.startswith("SQLITE_CANTOPEN") and (why := _why_not_open(file)):
            kind, advice = StoreError, f"cannot be opened, {why}"
        elif code.startswith("SQLITE_READONLY") and (why := _why_not_in_folder(os.path.dirname(file))):
            advice = f"cannot be used, {why}"
    return kind(f"{url} {advice}: {' '.join(words.split())}")


def _why_not_open(file: str) -> str | None:
    """Return why SQLite cannot open a file and never will; None if trying again may help."""
    folder = os.path.dirname(file)
    try:
        os.close(os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)))
    except FileNotFoundError:
        return f"there is no folder {folder!r}; create it first"
    except NotADirectoryError:
        return f"{folder!r} is not a folder"
    except PermissionError:
        pass
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return None
    if os.path.isdir(file):
        return f"{file!r} is a folder"
    if why := _why_not_in_folder(folder):
        return why
    if not os.path.exists(file):
        return f"it does not exist, and cannot be created in {folder!r}"
    if not os.access(file, os.R_OK):
        return "this user may not read it"
    return None


def _why_not_in_folder(folder: str) -> str | None:
    if os.access(folder, os.W_OK | os.X_OK):
        return None
    return f"this user may not write to its folder {folder!r}, where SQLite keeps a log beside the file"


def _kind(error: BaseException) -> type[StoreError]:
    if any(base.__name__ == "PoolTimeout" for base in type(error).__mro__):
        return StoreTimeoutError  # from the user's own pool
    if isinstance(error, sqlite3.Error):
        name = _sqlite_code(error)
        # Extended codes, such as SQLITE_IOERR_WRITE, begin with the name of the primary one.
        return next((kind for code, kind in _SQLITE.items() if name == code or name.startswith(f"{code}_")), StoreError)
    state = getattr(error, "sqlstate", None)
    if state is None:
        # libpq has no SQLSTATE for an unreachable server or a broken connection.
        is_operational = any(base.__name__ == "OperationalError" for base in type(error).__mro__)
        return StoreUnavailableError if is_operational else StoreError
    return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2]) or StoreError


def _sqlite_code(error: sqlite3.Error) -> str:
    name: str | None = getattr(error, "sqlite_errorname", None)
    if name is None and isinstance(error, sqlite3.IntegrityError):  # a trigger's, with whatever text
        name = "SQLITE_CONSTRAINT"
    return name or next((name for text, name in _SQLITE_BY_TEXT.items() if text in str(error)), "")


def _is_refused(error: BaseException) -> bool:
    """Return whether the server answered, but refused the password, the database or another connection."""
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:  # libpq does not tell
        return _REFUSED.search(str(error)) is not None
    return state.startswith(("28", "3D", "53300", "57P03"))
