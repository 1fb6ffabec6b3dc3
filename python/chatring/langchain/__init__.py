"""LangChain and LangGraph: requests within a token limit, threads in a store, and `trim_messages` with exact counts.

>>> from langchain.agents import create_agent
>>> from chatring.langchain import MessageFormat, StoredHistory, TrimMessages
>>> from chatring.stores import open_store
>>> store = open_store("sqlite:///chat.db", format=MessageFormat())
>>> agent = create_agent(model, tools, middleware=[StoredHistory(store, 8000), TrimMessages(8000)])

`docs/langchain.md` says what each does.
"""

from chatring.langchain.message_format import MessageFormat
from chatring.langchain.stored_history import StoredHistory
from chatring.langchain.trim_middleware import TrimMessages
from chatring.langchain.trimming import trim_messages

__all__ = ["MessageFormat", "StoredHistory", "TrimMessages", "trim_messages"]
