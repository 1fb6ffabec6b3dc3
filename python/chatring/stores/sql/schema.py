"""The version of the tables: they are created at the first use. Older ones are upgraded; newer ones are refused.

A version is a number in `chatring_schema`. The next version needs a statement `migrate_2_to_3` in `sqlite.sql` and
`postgresql.sql`, its name in `MIGRATIONS`, and 3 in `VERSION`. All steps run in one transaction, which locks out other
processes that do the same.

Processes of an older chatring may still be connected, and look at the version only at their first use. To keep them
from writing to newer tables, **every migration renames the column `epoch` of `chatring_session`**: to `epoch3`, and so
on. All statements that read or change a session name that column. So every older statement fails from then on, in
SQLite and in PostgreSQL. This costs nothing, because no row is touched. A process that gets this error looks at the
version again.
"""

from __future__ import annotations

from typing import Any

from chatring.stores.errors import ForeignDataError, SchemaVersionError
from chatring.stores.operation import Operation
from chatring.stores.sql.statement import Statement

VERSION = 2
# By version: the name of the statement that leads to the next version.
MIGRATIONS: dict[int, str] = {}


def made(url: str) -> Operation[None]:
    """Create the tables if there are none, and upgrade older ones.

    Raises:
        ForeignDataError: if tables with these names are not chatring's.
        SchemaVersionError: if they belong to a newer chatring, or have the unreleased first version.
    """
    if (yield from _version(url)) == VERSION:
        return
    yield Statement("begin")
    yield Statement("lock_schema")
    version = yield from _version(url)
    if version is None:
        yield Statement("schema")
        yield Statement("first_version", {"version": VERSION})
    elif version < VERSION:
        for older in range(version, VERSION):
            yield Statement(MIGRATIONS[older])
        yield Statement("set_version", {"version": VERSION})
    yield Statement("commit")


def _version(url: str) -> Operation[int | None]:
    if not (yield Statement("has_tables")):
        return None
    return check_version(url, (yield Statement("version")))


def check_version(url: str, rows: list[tuple[Any, ...]]) -> int:
    """Return the version that a database says it has.

    Raises:
        ForeignDataError, SchemaVersionError: see `made`.
    """
    version = rows[0][0] if len(rows) == 1 else None
    if not isinstance(version, int) or version < 1:
        raise ForeignDataError(f"{url} has a table chatring_schema that was not written by chatring")
    if version > VERSION:
        raise SchemaVersionError(
            f"{url} has tables of version {version}, this chatring knows version {VERSION}; use the chatring that "
            "wrote them, or a newer one"
        )
    if version == 1:
        raise SchemaVersionError(
            f"{url} has tables of the unreleased version 1, which this chatring does not read; remove them "
            "(chatring_message, chatring_session, chatring_schema), or choose another schema or database"
        )
    return version
