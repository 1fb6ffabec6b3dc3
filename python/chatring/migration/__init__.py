"""Moving sessions into a store of ours, from another one or from what others leave behind; and what is in a store."""

from chatring.migration.existing import (
    back_up,
    counts_of,
    is_url,
    open_existing,
)
from chatring.migration.location import open_source
from chatring.migration.migration import Migration, migrate
from chatring.migration.policy import FORMATS, StorePolicy
from chatring.migration.source import CHATRING, LAYOUTS, Source, SourceError

__all__ = [
    "CHATRING",
    "FORMATS",
    "LAYOUTS",
    "Migration",
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
