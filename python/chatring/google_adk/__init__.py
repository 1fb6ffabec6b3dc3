"""A plugin for Google's Agent Development Kit: model requests that fit a token limit.

>>> from chatring.google_adk import TrimPlugin
>>> plugins = [TrimPlugin(16_000, retention_ratio=0.7)]  # App(..., plugins=plugins)

`docs/google_adk.md` is the page about it.
"""

from chatring.google_adk.trim_plugin import TrimPlugin

__all__ = ["TrimPlugin"]
