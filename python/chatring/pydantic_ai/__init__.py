"""Two capabilities for Pydantic AI: conversations in a store, and model requests that fit a token limit.

>>> from chatring.pydantic_ai import ModelMessageFormat, StoredHistory, TrimMessages
>>> from chatring.stores import open_store
>>> store = open_store("sqlite:///chat.db", format=ModelMessageFormat())
>>> capabilities = [StoredHistory(store, 6000), TrimMessages(8000)]  # Agent(..., capabilities=capabilities)

`docs/pydantic_ai.md` is the page about it.
"""

from chatring.pydantic_ai.message_format import ModelMessageFormat
from chatring.pydantic_ai.requests import messages_to_store
from chatring.pydantic_ai.stored_history import StoredHistory
from chatring.pydantic_ai.trim_messages import TrimMessages

__all__ = ["ModelMessageFormat", "StoredHistory", "TrimMessages", "messages_to_store"]
