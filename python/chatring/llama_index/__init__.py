"""Drop-ins for LlamaIndex's `Memory` and `ChatMemoryBuffer`: the same windows and calls, without the waiting.

>>> from chatring.llama_index import Memory
>>> memory = Memory.from_defaults(session_id="ada", token_limit=30_000)

`SQLChatStore` and `RedisChatStore` keep the messages in a database. PostgreSQL and Redis need the extra `postgresql` or
`redis`. `docs/llama-index-memory.md` and `docs/llama-index.md` list the differences.
"""

from llama_index.core.llms import ChatMessage, TextBlock

from chatring import _core
from chatring.llama_index.chat_memory_buffer import ChatMemoryBuffer
from chatring.llama_index.memory import Memory
from chatring.llama_index.ring_chat_store import RingChatStore
from chatring.llama_index.ring_memory_store import RingMemoryStore
from chatring.llama_index.store_chat_store import RedisChatStore, SQLChatStore

__all__ = ["ChatMemoryBuffer", "Memory", "RedisChatStore", "RingChatStore", "RingMemoryStore", "SQLChatStore"]

_core._read_blocks(ChatMessage, TextBlock)
