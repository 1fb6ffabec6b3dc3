"""Finds the counter for a LlamaIndex tokenizer."""

from __future__ import annotations

import functools
import pickle
import types
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
    """Return the counter that counts like `tokenizer`. It is native for an embedded encoding."""
    counter = TokenCounter(encoding_of(tokenizer) or tokenizer)
    return counter if counter.is_native else TokenCounter(tokenizer)


def is_pickled_by_name(tokenizer: Any) -> bool:
    """Return whether pickling `tokenizer` writes only a name to find it by."""
    if encoding_of(tokenizer) is not None:
        return True
    if not isinstance(tokenizer, (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, type)):
        return False
    if not isinstance(getattr(tokenizer, "__self__", None), (types.ModuleType, type(None))):
        return False
    try:
        pickle.dumps(tokenizer)
    except (pickle.PicklingError, AttributeError):  # a lambda, or a nested function
        return False
    return True
