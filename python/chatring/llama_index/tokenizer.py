"""The tokenizer of a memory: its counter, and how it is pickled."""

from __future__ import annotations

import functools
import logging
import pickle
import types
from typing import Any

import tiktoken
from llama_index.core.utils import get_tokenizer
from pydantic import BaseModel

from chatring._core import TokenCounter

_logger = logging.getLogger(__name__)


def function_of(tokenizer: Any) -> Any:
    """Return a tokenizer as LlamaIndex's field `tokenizer_fn` takes it: for an encoding of tiktoken its `encode`."""
    if isinstance(tokenizer, tiktoken.Encoding):
        return functools.partial(tokenizer.encode, allowed_special="all")
    return tokenizer


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


def fields_to_pickle(memory: BaseModel) -> dict[str, Any]:
    """Return the fields of a memory. A tokenizer is pickled by its name, and left out if it has none."""
    fields = {name: memory.__dict__[name] for name in type(memory).model_fields}
    tokenizer = fields["tokenizer_fn"]
    if not _is_pickled_by_name(tokenizer):
        del fields["tokenizer_fn"]
        if tokenizer is not get_tokenizer():
            _logger.warning("Leaving out tokenizer_fn, which has no name to be found by: %r", tokenizer)
    return fields


def _is_pickled_by_name(tokenizer: Any) -> bool:
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
