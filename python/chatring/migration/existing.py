"""Stores that are there already: opened without making anything, and their sessions one by one."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

from chatring.migration.database import Database
from chatring.migration.policy import StorePolicy
from chatring.migration.source import SourceError
from chatring.stores import Store
from chatring.stores.redaction import without_secrets


def is_url(location: str) -> bool:
    """Whether a location is a store's URL, and not a file."""
    return "://" in location


def open_existing(url: str, policy: StorePolicy | None = None) -> Store[Any]:
    """Return the store at a URL, which is one that outlives this process.

    Raises:
        SourceError: if nobody has kept a session there.
        ValueError, ModuleNotFoundError: as `open_store`.
        StoreError: if the store fails.
    """
    store = (policy or StorePolicy()).open(url)
    with closing(store):  # It opens its connections again.
        if not is_in_use(store, url):
            raise SourceError(f"{without_secrets(url)} has no sessions of chatring")
    return store


def is_in_use(store: Store[Any], url: str) -> bool:
    """Whether a store of ours has been used at a URL. Nothing is changed there, as the store itself would."""
    if store.is_in_memory:
        raise SourceError(f"{without_secrets(url)} is a new store in this process: it has no sessions")
    if not is_sql(url):
        return bool(store.keys(limit=1))
    with closing(Database(url)) as database:
        return database.has_our_tables()


def is_sql(url: str) -> bool:
    """Whether a URL is one of SQLite or PostgreSQL."""
    return url.startswith(("sqlite", "postgres"))


def counts_of(store: Store[Any], key: str) -> tuple[int, int] | None:
    """Return the messages and tokens of a session; None if there is none, or it has another policy."""
    info = store.info(key)
    if info is None or info.policy != store.policy_name:
        return None
    # Blank texts at the end are counted when they are asked for.
    return info.messages, store.token_count(key) if store.measure == "text" else info.tokens


def back_up(url: str, file: str) -> None:
    """Copy the database of a SQLite store, as it is at one moment, into a file that is not there yet.

    Raises:
        SourceError: if nobody has kept a session there, or the file is there.
        ValueError: if it is another store's URL.
        StoreError, OSError: if reading or writing fails; then there is no file.
    """
    if not url.startswith("sqlite"):
        server = "pg_dump" if is_sql(url) else "the server's own snapshots, BGSAVE"
        raise SourceError(f"{without_secrets(url)} is not a SQLite store; for this one use {server}")
    if os.path.lexists(file):
        raise SourceError(f"{without_secrets(file)} is there already; give a new name")
    with closing(open_existing(url)) as store:
        store.backup(file)  # type: ignore[attr-defined]
