"""Chat histories for LLM agents, and the last messages of them that fit a token limit.

>>> from chatring import MessageRing
>>> ring = MessageRing(token_limit=3000)
>>> ring.put({"role": "user", "content": "Where is my order?"})
>>> ring.get()
[{'role': 'user', 'content': 'Where is my order?'}]
"""

from chatring._core import MessageRing, TokenCounter

__all__ = ["MessageRing", "TokenCounter"]
