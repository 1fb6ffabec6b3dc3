"""Microsoft Agent Framework: conversations in a store, and model calls that fit a token limit.

>>> from chatring.agent_framework import ChatringHistoryProvider, MessageFormat, RingStrategy
>>> from chatring.stores import open_store
>>> store = open_store("sqlite:///chat.db", format=MessageFormat())
>>> provider = ChatringHistoryProvider(store, 6000)  # Agent(..., context_providers=[provider],
>>> strategy = RingStrategy(8000)  # compaction_strategy=strategy)

`docs/agent_framework.md` is the page about it.
"""

from chatring.agent_framework.history_provider import ChatringHistoryProvider
from chatring.agent_framework.message_format import MessageFormat
from chatring.agent_framework.ring_strategy import RingStrategy
from chatring.agent_framework.tokenizer import Tokenizer

__all__ = ["ChatringHistoryProvider", "MessageFormat", "RingStrategy", "Tokenizer"]
