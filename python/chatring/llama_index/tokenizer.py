"""Which counter a LlamaIndex tokenizer is."""

from __future__ import annotations

import functools
from typing import Any

import tiktoken

from chatring._core import TokenCounter


def encoding_of(tokenizer: Any) -> tiktoken.Encoding | None:
    """Return the tiktoken encoding whose `encode`, maybe with all special tokens allowed, is `tokenizer`; or None."""
    if isinstance(tokenizer, functools.partial):
        if tokenizer.args or tokenizer.keywords != {"allowed_special": "all"}:
            return None
        tokenizer = tokenizer.func
    encoding = getattr(tokenizer, "__self__", None)
    is_encode = isinstance(encoding, tiktoken.Encoding) and tokenizer == encoding.encode
    return encoding if is_encode else None


def counter_of(tokenizer: Any) -> TokenCounter:
    """Return the counter that counts as `tokenizer` does: natively, if it is an embedded encoding's."""
    counter = TokenCounter(encoding_of(tokenizer) or tokenizer)
    return counter if counter.is_native else TokenCounter(tokenizer)
