"""Chat histories that outlive the process, of which a window can be read without the rest.

>>> from chatring.stores import Record, open_store
>>> store = open_store("memory://")  # or sqlite:///chat.db, postgresql://..., redis://...
>>> store.append("ada", [Record("user", "Where is my order?")])
>>> store.window("ada", token_limit=3000)
[Record(role='user', text='Where is my order?', payload=None)]

`docs/stores.md` says which store to use when.
"""

from chatring.stores.errors import (
    CounterMismatchError,
    ForeignDataError,
    SchemaVersionError,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from chatring.stores.memory import MemoryStore
from chatring.stores.record import Record
from chatring.stores.store import Store
from chatring.stores.url import open_store

__all__ = [
    "CounterMismatchError",
    "ForeignDataError",
    "MemoryStore",
    "Record",
    "SchemaVersionError",
    "Store",
    "StoreError",
    "StoreFullError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "open_store",
]
