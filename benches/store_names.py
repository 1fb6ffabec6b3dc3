"""The databases, and what the stores on them are called in the tables."""

SQLITE, POSTGRESQL, VALKEY = "SQLite", "PostgreSQL", "Valkey"
BACKENDS = (SQLITE, POSTGRESQL, VALKEY)
# Its commits do not wait for the disk. Only what changes something is timed on it.
SQLITE_NORMAL = "SQLite, synchronous=NORMAL"
WRITTEN = (SQLITE, SQLITE_NORMAL, POSTGRESQL, VALKEY)

OUR_STORES = {
    SQLITE: "chatring SQLStore",
    SQLITE_NORMAL: "chatring SQLStore",
    POSTGRESQL: "chatring SQLStore",
    VALKEY: "chatring RedisStore",
}
# The same window of a session of about 1,000 messages, in turns with the long session's.
OUR_SHORT = {name: f"{store}, a short session" for name, store in OUR_STORES.items()}
OUR_ADAPTERS = {POSTGRESQL: "chatring SQLChatStore", VALKEY: "chatring RedisChatStore"}
THEIR_STORES = {POSTGRESQL: "llama-index PostgresChatStore", VALKEY: "llama-index RedisChatStore"}
BARE_DRIVERS = {SQLITE: "sqlite3", SQLITE_NORMAL: "sqlite3", POSTGRESQL: "psycopg", VALKEY: "redis-py"}
BARE_POOLS = {POSTGRESQL: "psycopg_pool", VALKEY: "redis-py, a pool"}
PLAIN_STORE = "pure Python over sqlite3"
