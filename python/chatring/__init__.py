"""Chat histories for LLM agents, and the last messages that fit a token limit.

>>> from chatring import MessageRing
>>> ring = MessageRing(token_limit=3000)
>>> ring.put({"role": "user", "content": "Where is my order?"})
>>> ring.get()
[{'role': 'user', 'content': 'Where is my order?'}]
>>> ring.token_count()  # everything that is sent, not only the text
9

A message is any provider's or framework's, recognised by its shape.
"""

from chatring._core import MessageRing, TokenCounter, __version__, trim_messages
from chatring.counter_source import CounterSource
from chatring.window import Window

__all__ = ["CounterSource", "MessageRing", "TokenCounter", "Window", "__version__", "trim_messages"]
