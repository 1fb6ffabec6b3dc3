"""Chat histories in a database, of which a window is read without the rest.

>>> from chatring.stores import open_store
>>> store = open_store("memory://")  # or sqlite:///chat.db, postgresql://..., redis://...
>>> store.append("ada", [{"role": "user", "content": "Where is my order?"}])
>>> store.window("ada", token_limit=3000)
[{'role': 'user', 'content': 'Where is my order?'}]

`docs/stores.md` says which store to use when.
"""

from chatring.formats.record import Record
from chatring.stores.errors import (
    CounterMismatchError,
    ForeignDataError,
    SchemaVersionError,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from chatring.stores.open import open_store
from chatring.stores.store import Store

__all__ = [
    "CounterMismatchError",
    "ForeignDataError",
    "Record",
    "SchemaVersionError",
    "Store",
    "StoreError",
    "StoreFullError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "open_store",
]
