"""Chat histories in a database, whose windows are read without the rest.

>>> from chatring.stores import open_store
>>> store = open_store("memory://")  # or sqlite:///chat.db, postgresql://..., redis://...
>>> store.append("ada", [{"role": "user", "content": "Where is my order?"}])
>>> store.window("ada", token_limit=3000)
[{'role': 'user', 'content': 'Where is my order?'}]

`docs/stores.md` says which store to use when.
"""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    # Not in `__all__`: `import *` would need the driver.
    from chatring.stores.redis import RedisStore as RedisStore
    from chatring.stores.sql import SQLStore

__all__ = [
    "CounterMismatchError",
    "ForeignDataError",
    "Record",
    "SQLStore",
    "SchemaVersionError",
    "Store",
    "StoreError",
    "StoreFullError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "open_store",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # What imports a driver is imported when it is asked for.
        if name == "RedisStore":
            from chatring.stores.redis import RedisStore

            return RedisStore
        if name == "SQLStore":
            from chatring.stores.sql import SQLStore

            return SQLStore
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
