"""Stores that exist already: opened without creating anything, and their sessions one by one."""

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
    """Return whether a location is a store's URL and not a file."""
    return "://" in location


def open_existing(url: str, policy: StorePolicy | None = None) -> Store[Any]:
    """Return the store at a URL. It must be one that outlives this process.

    Raises:
        SourceError: if nobody has kept a session there.
        ValueError, ModuleNotFoundError: see `open_store`.
        StoreError: if the store fails.
    """
    store = (policy or StorePolicy()).open(url)
    with closing(store):  # it opens its connections again
        if not is_in_use(store, url):
            raise SourceError(f"{without_secrets(url)} has no sessions of chatring")
    return store


def is_in_use(store: Store[Any], url: str) -> bool:
    """Return whether one of our stores has been used at a URL. This changes nothing there, unlike the store itself."""
    if store.is_in_memory:
        raise SourceError(f"{without_secrets(url)} is a new store in this process: it has no sessions")
    if not is_sql(url):
        return bool(store.keys(limit=1))
    with closing(Database(url)) as database:
        return database.has_our_tables()


def is_sql(url: str) -> bool:
    """Return whether a URL is one of SQLite or PostgreSQL."""
    return url.startswith(("sqlite", "postgres"))


def counts_of(store: Store[Any], key: str, policy: str) -> tuple[int, int] | None:
    """Return the messages and tokens of a session; None if there is none, or if it has another policy."""
    info = store.info(key)
    if info is None or info.policy != policy:
        return None
    # Blank texts at the end are counted when they are asked for.
    is_joined = policy == store.policy_name and store.measure == "text"
    return info.messages, store.token_count(key) if is_joined else info.tokens


def back_up(url: str, file: str) -> None:
    """Copy the database of a SQLite store, as it is at one moment, to a new file.

    Raises:
        SourceError: if nobody has kept a session there, or the file exists.
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
