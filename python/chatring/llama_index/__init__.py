"""A drop-in for LlamaIndex's `ChatMemoryBuffer`: the same windows and calls, without the waiting.

>>> from chatring.llama_index import ChatMemoryBuffer
>>> memory = ChatMemoryBuffer.from_defaults(token_limit=3000)

`SQLChatStore` and `RedisChatStore` keep the messages in a database. PostgreSQL and Redis need the extra `postgresql` or
`redis`. `docs/llama-index.md` lists the differences.
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
