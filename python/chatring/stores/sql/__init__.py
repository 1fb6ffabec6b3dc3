"""Sessions in SQLite or PostgreSQL."""

from chatring.stores.sql.store import SQLStore

__all__ = ["SQLStore"]
