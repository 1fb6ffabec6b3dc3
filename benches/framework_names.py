"""The workloads of frameworks that have targets, and the two contenders of each."""

from typing import NamedTuple


class Workload(NamedTuple):
    """A workload, and its two contenders that are compared."""

    name: str
    theirs: str
    ours: str


OPENAI_READ = Workload("openai-agents: what a run reads", "openai-agents SQLiteSession", "chatring ChatringSession")
LANGCHAIN_CALL = Workload(
    "LangChain: a model call's window", "langchain trim_messages, tiktoken summed", "chatring TrimMessages"
)
STRATEGY = Workload(
    "agent-framework: the strategy before a model call",
    "agent-framework TruncationStrategy, characters / 4",
    "chatring RingStrategy",
)
AUTOGEN_GET = Workload(
    "autogen: messages for a model call",
    "autogen TokenLimitedChatCompletionContext",
    "chatring RingChatCompletionContext",
)
