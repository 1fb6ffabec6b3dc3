"""Sessions and trimmed model calls for the OpenAI Agents SDK, by tokens.

>>> from chatring.openai_agents import ChatringSession
>>> from chatring.stores import open_store
>>> session = ChatringSession("ada", open_store("memory://"), token_limit=8000)

`docs/openai_agents.md` has the rest on one page.
"""

from chatring.openai_agents.session import ChatringSession
from chatring.openai_agents.trim_input import trim_input

__all__ = ["ChatringSession", "trim_input"]
