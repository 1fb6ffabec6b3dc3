"""`RedisStore`: sessions in Redis or Valkey."""

from chatring.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
