"""Copies sessions into one of our stores, from another store or from others' data; and looks into a store."""

from chatring.migration.existing import (
    back_up,
    counts_of,
    is_url,
    open_existing,
)
from chatring.migration.location import open_source
from chatring.migration.memories import Memories
from chatring.migration.migration import Migration, migrate
from chatring.migration.policy import FORMATS, StorePolicy
from chatring.migration.source import CHATRING, LAYOUTS, QueueSource, Source, SourceError

__all__ = [
    "CHATRING",
    "FORMATS",
    "LAYOUTS",
    "Memories",
    "Migration",
    "QueueSource",
    "Source",
    "SourceError",
    "StorePolicy",
    "back_up",
    "counts_of",
    "is_url",
    "migrate",
    "open_existing",
    "open_source",
]
