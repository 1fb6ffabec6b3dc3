"""Conversations and requests for the tests.

The shipped ones are invented: a bicycle hire's customers and its agent, and five requests or so in each provider's
format. The recorded ones lie beside the repository; where they are missing, their tests are skipped, and say so.
"""

from pathlib import Path

_SHIPPED = Path(__file__).parent / "data"
_RECORDED = Path(__file__).parents[2] / "shared" / "data"

CONVERSATIONS = {"shipped": _SHIPPED / "conversations.jsonl", "recorded": _RECORDED / "airline-conversations.jsonl"}
REQUESTS = {"shipped": _SHIPPED / "requests.jsonl", "recorded": _RECORDED / "recorded-requests.jsonl"}
