"""`MemoryPolicy`: how `Memory` counts and reads messages."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from llama_index.core.base.llms.types import CitableBlock, CitationBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, TextBlock
from llama_index.core.memory import Memory as LlamaIndexMemory

from chatring._core import TokenCounter, _Batch, _BlockMeasure, _copied, _StorePolicy
from chatring.llama_index.message_format import MessageFormat, reread
from chatring.llama_index.tokenizer import counter_of

# The fields for the cost of media in LlamaIndex's class, as far as this version has them.
ESTIMATES = tuple(
    name
    for name in (f"{kind}_token_size_estimate" for kind in ("image", "audio", "video", "document"))
    if name in LlamaIndexMemory.model_fields
)

# Their defaults.
DEFAULTS: dict[str, int] = {name: LlamaIndexMemory.model_fields[name].default for name in ESTIMATES}

# Has nothing, and lends LlamaIndex's own method of counting. Each policy takes a copy: to construct one, pydantic asks
# for the signatures of default factories, which now and then fails in several threads on Python 3.11 (python/cpython,
# issue 106905).
_MEMORY = LlamaIndexMemory.model_construct()


class NotAMessageError(TypeError, AttributeError):
    """Something was put that is not a `ChatMessage`. An AttributeError, as in LlamaIndex."""


class MemoryFormat(MessageFormat):
    """A `MessageFormat` where a message counts as what comes back from a store, as in LlamaIndex."""

    dumps_readings = True

    def read(self, message: ChatMessage) -> ChatMessage:
        """Return the message as it comes back.

        Raises:
            NotAMessageError: if it is not a `ChatMessage`.
            ValueError: see `dump`.
        """
        try:
            super().read(message)
        except TypeError as error:
            raise NotAMessageError(*error.args) from None
        return _copied([message], reread)[0]


_FORMAT = MemoryFormat()


class MemoryPolicy(NamedTuple):
    """A counter and a measure."""

    counter: TokenCounter
    measure: _BlockMeasure
    core: _StorePolicy

    @classmethod
    def of(cls, tokenizer: Any, estimates: dict[str, int]) -> MemoryPolicy:
        """Return the policy of a tokenizer or counter, with these tokens for media.

        Raises:
            TypeError, ValueError: if an estimate is not a number of tokens.
        """
        for name, tokens in estimates.items():
            if not isinstance(tokens, int) or isinstance(tokens, bool):
                raise TypeError(f"{name} must be an integer, got {tokens!r} ({type(tokens).__name__})")
            if tokens < 0:
                raise ValueError(f"{name} must be at least 0, got {tokens}")
        counter = counter_of(tokenizer)
        if isinstance(tokenizer, TokenCounter):
            tokenizer = _Lengths(tokenizer)
        counting = _MEMORY.model_copy(update={"tokenizer_fn": tokenizer, **estimates})
        measure = _BlockMeasure(_name(estimates), counting._estimate_token_count)
        return cls(counter, measure, _StorePolicy(counter, measure, None, None))

    def counted(self, messages: list[ChatMessage]) -> _Batch:
        """Count messages as they are."""
        batch = self.core.read(messages)
        self.core.count(batch)
        return batch

    def copied_and_counted(self, messages: list[ChatMessage]) -> tuple[list[ChatMessage], _Batch]:
        """Copy messages as they come back from a store, and count the copies.

        Raises the same as `MemoryFormat.read`; then nothing has been changed anywhere.
        """
        copies = _copied(messages, _FORMAT.read)
        return copies, self.counted(copies)


class _Lengths(NamedTuple):
    """A counter as a tokenizer: what it returns has as many items as there are tokens."""

    counter: TokenCounter

    def __call__(self, text: str) -> range:
        return range(self.counter.count(text))


@functools.lru_cache(maxsize=4)
def default_policy(counter: TokenCounter) -> MemoryPolicy:
    """Return the policy of a counter and of LlamaIndex's defaults for media."""
    return MemoryPolicy.of(counter, DEFAULTS)


def _name(estimates: dict[str, int]) -> str:
    """Return the name of a measure: the estimates, and a number that tells versions of LlamaIndex apart.

    LlamaIndex is about to change whether tool calls, thinking and citations count (run-llama/llama_index, issue 21950).
    """
    return "-".join(["llama-index", *map(str, estimates.values()), str(_probe())])


@functools.lru_cache(maxsize=1)
def _probe() -> int:
    text = TextBlock(text="c c")
    message = ChatMessage(
        role="assistant",
        blocks=[
            ToolCallBlock(tool_name="t", tool_kwargs={"a": 1}),
            ThinkingBlock(content="t t t t"),
            CitableBlock(title="t", source="s", content=[text]),
            CitationBlock(cited_content=text, source="s", title="t", additional_location_info={}),
        ],
        additional_kwargs={"k": "v"},
    )
    counting = _MEMORY.model_copy(update={"tokenizer_fn": list, **dict.fromkeys(ESTIMATES, 0)})
    return counting._estimate_token_count(message)
