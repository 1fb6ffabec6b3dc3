"""`trim_messages`: LangChain's function, with an exact counter and no count of what does not fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, overload

from langchain_core.messages import BaseMessage, SystemMessage, convert_to_messages
from langchain_core.messages import trim_messages as _theirs
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableLambda

from chatring import MessageRing, TokenCounter

_Types = str | type[BaseMessage] | Sequence[str | type[BaseMessage]]
_Splitter = Callable[[str], list[str]]


@overload
def trim_messages(
    messages: None = None,
    *,
    max_tokens: int,
    token_counter: Any,
    strategy: Literal["last"] = "last",
    allow_partial: bool = False,
    end_on: _Types | None = None,
    start_on: _Types | None = None,
    include_system: bool = False,
    text_splitter: Any = None,
) -> RunnableLambda[Any, list[BaseMessage]]: ...
@overload
def trim_messages(
    messages: Iterable[Any] | PromptValue,
    *,
    max_tokens: int,
    token_counter: Any,
    strategy: Literal["last"] = "last",
    allow_partial: bool = False,
    end_on: _Types | None = None,
    start_on: _Types | None = None,
    include_system: bool = False,
    text_splitter: Any = None,
) -> list[BaseMessage]: ...
def trim_messages(
    messages: Iterable[Any] | PromptValue | None = None,
    *,
    max_tokens: int,
    token_counter: Any,
    strategy: Literal["last"] = "last",
    allow_partial: bool = False,
    end_on: _Types | None = None,
    start_on: _Types | None = None,
    include_system: bool = False,
    text_splitter: Any = None,
) -> list[BaseMessage] | RunnableLambda[Any, list[BaseMessage]]:
    """Return the last messages that have at most `max_tokens`, by LangChain's rule: a drop-in for its function.

    Returns what `langchain_core.messages.trim_messages` returns for the same arguments and counts. Messages are
    counted from the newest back to the first that does not fit, and no others. That rule may orphan results: say
    `start_on="human"`, or use `chatring.trim_messages`, which keeps the question and whole steps.

    Args:
        messages: LangChain's, or what its functions make them of. Without them, a Runnable is returned.
        max_tokens: tokens that the result may have.
        token_counter: the name of an encoding, such as `"o200k_base"`, a `TokenCounter` or a tiktoken encoding: a
            message has the tokens of all that is sent of it, as in `MessageRing`. Or a function from one message to its
            tokens, whose parameter is annotated with `BaseMessage`; or `len`, which counts messages.
        strategy: `"last"`.
        allow_partial: whether a part of the first message that does not fit may be in the result.
        end_on: types of messages; what follows the last of them is left out first.
        start_on: types of messages; what comes before the first of them is left out at last.
        include_system: whether a system message that is the first stays.
        text_splitter: as in LangChain, for `allow_partial`.

    Raises:
        ValueError: for another strategy or an unknown encoding.
        TypeError: for a counter that counts lists, such as a model.
    """
    if strategy != "last":
        raise ValueError(
            f"strategy must be 'last', got {strategy!r}: for others use langchain_core.messages.trim_messages"
        )
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
        raise TypeError(f"max_tokens must be an integer, got {max_tokens!r}")
    count = _count_of(token_counter)
    trim = partial(
        _trim,
        max_tokens=max_tokens,
        count=count,
        end_on=end_on,
        include_system=include_system,
        allow_partial=allow_partial,
        start_on=start_on,
        text_splitter=text_splitter,
    )
    return RunnableLambda(trim, name="trim_messages") if messages is None else trim(messages)


def _trim(
    messages: Iterable[Any] | PromptValue,
    *,
    max_tokens: int,
    count: Callable[[BaseMessage], int],
    end_on: _Types | None,
    include_system: bool,
    **others: Any,
) -> list[BaseMessage]:
    history: Any = convert_to_messages(messages)
    tokens: dict[int, int] = {}  # by the message's address
    total, index = 0, len(history)
    while index and total <= max(max_tokens, 0):
        index -= 1
        message = history[index]
        if tokens or not end_on or _is_one_of(message, end_on):
            tokens[id(message)] = count(message)
            total += tokens[id(message)]

    # What is older than the first message that does not fit changes nothing, but the system message.
    tail = history[index:]
    has_head = include_system and bool(history) and isinstance(history[0], SystemMessage)
    if index and has_head:
        tail = [history[0], *tail]

    def count_all(listed: list[BaseMessage]) -> int:
        counts = (tokens.get(id(message)) for message in listed)
        return sum(count(message) if known is None else known for message, known in zip(listed, counts, strict=True))

    trimmed: list[BaseMessage] = _theirs(
        tail,
        max_tokens=max_tokens,
        token_counter=count_all,
        strategy="last",
        end_on=end_on,
        include_system=has_head,
        **others,
    )
    return trimmed


def _is_one_of(message: BaseMessage, types: _Types) -> bool:
    listed = [types] if isinstance(types, (str, type)) else types
    return any(message.type == each if isinstance(each, str) else isinstance(message, each) for each in listed)


def _count_of(token_counter: Any) -> Callable[[BaseMessage], int]:
    """Return what counts one message."""
    if token_counter is len:
        return lambda message: 1
    is_name = isinstance(token_counter, str) and token_counter != "approximate"  # LangChain's estimate of whole lists
    if is_name or isinstance(token_counter, TokenCounter) or hasattr(token_counter, "encode_ordinary"):
        return MessageRing[BaseMessage](counter=token_counter).count
    if callable(token_counter) and not hasattr(token_counter, "get_num_tokens_from_messages"):
        # LangChain's own way to tell the two apart.
        first = next(iter(inspect.signature(token_counter).parameters.values()), None)
        if first is not None and first.annotation in (BaseMessage, BaseMessage.__name__):
            return MessageRing[BaseMessage](measure=token_counter).count
    raise TypeError(
        "token_counter must count single messages, so that counts add up: the name of an encoding, such as "
        "'o200k_base', a TokenCounter, a tiktoken encoding, len, or a function whose parameter is annotated with "
        f"BaseMessage; got {token_counter!r}. For others use langchain_core.messages.trim_messages"
    )
