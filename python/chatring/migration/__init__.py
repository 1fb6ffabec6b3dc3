"""Moving sessions into a store of ours, from another one or from what LlamaIndex's chat stores leave behind."""

from chatring.migration.location import is_url, open_existing, open_source
from chatring.migration.migration import Migration, migrate
from chatring.migration.source import CHATRING, LLAMA_INDEX, Source, SourceError

__all__ = [
    "CHATRING",
    "LLAMA_INDEX",
    "Migration",
    "Source",
    "SourceError",
    "is_url",
    "migrate",
    "open_existing",
    "open_source",
]
