"""A drop-in for LlamaIndex's `ChatMemoryBuffer`: the same windows and calls, without the waiting.

>>> from chatring.llama_index import ChatMemoryBuffer
>>> memory = ChatMemoryBuffer.from_defaults(token_limit=3000)

`docs/llama-index.md` has the table of differences.
"""

from llama_index.core.llms import ChatMessage, TextBlock

from chatring import _core
from chatring.llama_index.chat_memory_buffer import ChatMemoryBuffer
from chatring.llama_index.ring_chat_store import RingChatStore

__all__ = ["ChatMemoryBuffer", "RingChatStore"]

_core._read_blocks(ChatMessage, TextBlock)
