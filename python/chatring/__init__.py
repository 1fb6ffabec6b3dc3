"""Chat histories for LLM agents, and the last messages of them that fit a token limit.

>>> from chatring import MessageRing
>>> ring = MessageRing(token_limit=3000)
>>> ring.put({"role": "user", "content": "Where is my order?"})
>>> ring.get()
[{'role': 'user', 'content': 'Where is my order?'}]
>>> ring.token_count()  # all that is sent of the messages, not only their text
9

A message is whatever a provider or framework has, recognised by its shape.
"""

from chatring._core import MessageRing, TokenCounter, trim_messages
from chatring.window import Window

__all__ = ["MessageRing", "TokenCounter", "Window", "trim_messages"]
