"""Finding the sessions at a location, whoever wrote them."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from typing import Any

from chatring.migration.database import engine_of, sql_errors
from chatring.migration.layouts import ChatStoreFile, PostgresArrays, RedisLists
from chatring.migration.source import CHATRING, LLAMA_INDEX, Source, SourceError, StoreSource
from chatring.stores import Store, open_store
from chatring.stores.redaction import without_secrets


def is_url(location: str) -> bool:
    """Whether a location is a store's URL, and not a file."""
    return "://" in location


def open_existing(url: str, **options: Any) -> Store:
    """Return the store at a URL, which is one that outlives this process. Options are those of `open_store`.

    Raises:
        SourceError: if nobody has kept a session there.
        ValueError, ModuleNotFoundError: as `open_store`.
        StoreError: if the store fails.
    """
    store = open_store(url, **options)
    with closing(store):  # It opens its connections again.
        if not _is_in_use(store, url):
            raise SourceError(f"{without_secrets(url)} has no sessions of chatring")
    return store


def open_source(location: str, *, layout: str | None = None, table: str | None = None) -> Source:
    """Return the sessions at a location.

    Args:
        location: a file that LlamaIndex's `SimpleChatStore`, or our `RingChatStore`, has persisted; or a URL of one of
            our stores, or of what LlamaIndex's `RedisChatStore` or `PostgresChatStore` is in.
        layout: `"chatring"` or `"llama-index"`; None finds out.
        table: the one of a `PostgresChatStore`, as `name` or `schema.name`; None finds out.

    Raises:
        SourceError: if there are no sessions, or some in both layouts or several tables; if an argument does not fit.
        ValueError, ModuleNotFoundError: as `open_store`.
        StoreError, OSError: if the store fails, or the file cannot be read.
    """
    name, scheme = without_secrets(location), location.partition(":")[0]
    if table is not None and (layout == CHATRING or not scheme.startswith("postgres")):
        raise SourceError("only LlamaIndex's PostgresChatStore has a table to choose")
    if not is_url(location):
        if layout == CHATRING:
            raise SourceError(f"{name} is a file: its layout is {LLAMA_INDEX}")
        file = ChatStoreFile(location)
        if not file.lengths():
            raise SourceError(f"{name} has no sessions of LlamaIndex")
        return file
    found: list[Source] = []
    with ExitStack() as looking:  # What is returned opens its connections again.
        store = open_store(location)
        looking.callback(store.close)
        if layout != LLAMA_INDEX and _is_in_use(store, location):
            found.append(StoreSource(store, name))
        if layout != CHATRING and (theirs := _theirs(location, table)) is not None:
            looking.callback(theirs.close)
            if theirs.lengths():
                found.append(theirs)
    if len(found) > 1:
        raise SourceError(
            f"{name} has sessions of chatring and of LlamaIndex: say which with --layout {CHATRING} or {LLAMA_INDEX}"
        )
    if not found:
        of = {CHATRING: "of chatring", LLAMA_INDEX: "of LlamaIndex", None: "of chatring or LlamaIndex"}[layout]
        raise SourceError(f"{name} has no sessions {of}")
    return found[0]


def _theirs(url: str, table: str | None) -> Source | None:
    if url.startswith("postgres"):
        return PostgresArrays(url, table)
    return RedisLists(url) if url.startswith(("redis", "valkey")) else None


def _is_in_use(store: Store, url: str) -> bool:
    """Whether a store of ours has been used at a URL. Nothing is changed there, as the store itself would."""
    if store.is_in_memory:
        raise SourceError(f"{without_secrets(url)} is a new store in this process: it has no sessions")
    if url.startswith(("redis", "valkey")):
        return bool(store.keys())
    engine = engine_of(url)
    path = engine.url.database
    if engine.name == "sqlite" and not (path and (path.startswith("file:") or os.path.exists(path))):
        raise SourceError(f"{without_secrets(url)}: no such file")
    from sqlalchemy import inspect

    try:
        with sql_errors(url):
            return bool(inspect(engine).has_table("chatring_session"))
    finally:
        engine.dispose()
