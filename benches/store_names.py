"""The databases, and what the stores on them are called in the tables."""

SQLITE, POSTGRESQL, VALKEY = "SQLite", "PostgreSQL", "Valkey"
BACKENDS = (SQLITE, POSTGRESQL, VALKEY)

OUR_STORES = {SQLITE: "chatring SQLStore", POSTGRESQL: "chatring SQLStore", VALKEY: "chatring RedisStore"}
OUR_ADAPTERS = {POSTGRESQL: "chatring SQLChatStore", VALKEY: "chatring RedisChatStore"}
THEIR_STORES = {POSTGRESQL: "llama-index PostgresChatStore", VALKEY: "llama-index RedisChatStore"}
BARE_DRIVERS = {SQLITE: "sqlite3", POSTGRESQL: "psycopg", VALKEY: "redis-py"}
