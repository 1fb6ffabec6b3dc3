"""A model context for AutoGen's agents: the newest messages that fit a token limit.

>>> from chatring.autogen import RingChatCompletionContext
>>> context = RingChatCompletionContext(16_000, retention_ratio=0.7)  # AssistantAgent(..., model_context=context)

`docs/autogen.md` is the page about it.
"""

from chatring.autogen.context import RingChatCompletionContext, RingChatCompletionContextConfig

__all__ = ["RingChatCompletionContext", "RingChatCompletionContextConfig"]
