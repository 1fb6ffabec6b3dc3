"""`open_source`: finds the sessions at a location, whoever wrote them."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack, closing

from chatring.migration.database import Database
from chatring.migration.existing import is_in_use, is_sql, is_url
from chatring.migration.layouts.files import ConversationFile, open_llama_index_file
from chatring.migration.layouts.lists import find_lists
from chatring.migration.layouts.tables import find_tables
from chatring.migration.source import CHATRING, CONVERSATIONS, LAYOUTS, LLAMA_INDEX, Source, SourceError, listed
from chatring.migration.store_source import StoreSource
from chatring.stores import open_store
from chatring.stores.redaction import without_secrets

# The drivers that LlamaIndex's Memory needs in the URLs of the same databases.
_ASYNC_DRIVERS = ("+aiosqlite", "+asyncpg")


def open_source(location: str, *, layouts: Collection[str] = tuple(LAYOUTS), table: str | None = None) -> Source:
    """Return the sessions at a location.

    Args:
        location: a file, or the URL of a database, which may name one of SQLAlchemy's async drivers: see `layouts`.
        layouts: whose sessions to look for.
        table: the table to read, as `name` or `schema.name`; None finds out.

    Raises:
        SourceError: if there are no sessions, or some in several layouts or tables; or if an argument does not fit.
        ValueError, ModuleNotFoundError: see `open_store`.
        StoreError, OSError: if the store fails, or the file cannot be read.
    """
    if is_url(location):
        scheme, _, rest = location.partition("://")
        for driver in _ASYNC_DRIVERS:
            scheme = scheme.removesuffix(driver)
        location = f"{scheme}://{rest}"
    if table is not None and not (is_url(location) and is_sql(location) and set(layouts) - {CHATRING}):
        raise SourceError("only a database that others have made has a table to choose")
    return _at_url(location, layouts, table) if is_url(location) else _in_file(location, layouts)


def _in_file(path: str, layouts: Collection[str]) -> Source:
    name = without_secrets(path)
    if not set(layouts) & {LLAMA_INDEX, CONVERSATIONS}:
        raise SourceError(f"{name} is a file: its layout is {LLAMA_INDEX} or {CONVERSATIONS}")
    if not os.path.exists(path):
        raise SourceError(f"{name}: no such file")
    theirs = open_llama_index_file(path) if LLAMA_INDEX in layouts else None
    if theirs is None and CONVERSATIONS in layouts:
        return ConversationFile(path)
    if theirs is None or not theirs.keys():
        raise SourceError(f"{name} has no sessions of LlamaIndex")
    return theirs


def _at_url(url: str, layouts: Collection[str], table: str | None) -> Source:
    name = without_secrets(url)
    asked = [layout for layout in layouts if layout != CONVERSATIONS]
    if not asked:
        raise SourceError(f"{name} is not a file, which the layout {CONVERSATIONS} is for")
    found: list[Source] = []
    with ExitStack() as looking:  # the source that is returned opens its connections again
        with closing(open_store(url)) as store:
            is_ours = is_in_use(store, url)
        if is_ours and CHATRING in layouts:
            found.append(StoreSource(url))
        if is_sql(url):
            database = Database(url)
            looking.callback(database.close)
            found += [theirs for theirs in find_tables(database, layouts, table) if theirs.keys()]
        else:
            found += find_lists(url, layouts)
        for source in found:
            looking.callback(source.close)
    if table is not None:
        found = [source for source in found if source.layout != CHATRING]
    if len(found) > 1:
        names = [source.layout for source in found]
        raise SourceError(
            f"{name} has sessions of {listed([LAYOUTS[layout] for layout in names], 'and')}: "
            f"say which with --layout {listed(names, 'or')}"
        )
    if not found:
        raise SourceError(f"{name} has no sessions of {listed([LAYOUTS[layout] for layout in asked], 'or')}")
    return found[0]
