"""Messages for the tests of stores, the policies that count them, and what a store must then answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from chatring import MessageRing
from chatring.stores import Record, Store

Message = Any


def system(text: str) -> Message:
    """Return a system message."""
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    """Return a user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """Return an assistant message."""
    return {"role": "assistant", "content": text}


def call(text: str = "") -> Message:
    """Return an assistant message with a call of a tool."""
    function = {"name": "look_up", "arguments": '{"order": 42}'}
    return {"role": "assistant", "content": text, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def result(text: str) -> Message:
    """Return the result of a tool."""
    return {"role": "tool", "tool_call_id": "1", "content": text}


def results(text: str) -> Message:
    """Return a user message with the result of a tool, as Anthropic has it."""
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": text}]}


def conversation(length: int, seed: int = 0) -> list[Message]:
    """Turns of some words, with calls in between, and here and there a text that is blank or ends in whitespace."""
    source = random.Random(seed)
    words = ("order", "the", "refund", " twice", "please\n", "世界", "", " ", "\n\n", "42", "it's")
    kinds: tuple[Callable[[str], Message], ...] = (user, user, assistant, call, result, results, assistant, system)
    messages = [] if source.random() < 0.3 else [system("Be brief."), user("Hello")]
    while len(messages) < length:
        text = " ".join(source.choice(words) for _ in range(source.randrange(12)))
        messages.append(source.choice(kinds)(text))
    return messages[:length]


def letters(message: Any) -> int:
    """Measure a message by its content's length: some cost nothing."""
    return len(message["content"] or "") % 40


POLICIES: dict[str, dict[str, Any]] = {
    "message, user": {},
    "message, any": {"start_on": None},
    "text": {"measure": "text"},
    "callable measure": {"measure": letters, "measure_name": "letters"},
    "callable counter": {"counter": str.split, "counter_name": "words"},
    "callable counter of texts": {"counter": str.split, "counter_name": "words", "measure": "text"},
    "another encoding": {"counter": "cl100k_base"},
    "a provider's format": {"format": "anthropic"},
}
"""What `open_store` takes, by name: some that count alike by different rules, and others that count otherwise."""


def ring_of(messages: list[Message], policy: dict[str, Any] | None = None) -> MessageRing[Message]:
    """Return a ring that counts by a policy."""
    policy = policy or {}
    is_text = policy.get("measure") == "text"
    options: dict[str, Any] = {"start_on": None, "include_system": False} if is_text else {}
    options |= {name: value for name, value in policy.items() if not name.endswith("_name")}
    ring: MessageRing[Message] = MessageRing(**options)
    ring.put_messages(messages)
    return ring


def limits_of(ring: MessageRing[Message]) -> list[int]:
    """Return limits under which windows of a history differ."""
    tokens = ring.token_count()
    limits = {1, 2, 5, 13, 34, 90, tokens // 3, tokens // 2, tokens - 1, tokens, tokens + 1, 2**63 - 1}
    return sorted(limit for limit in limits if limit > 0)


def assert_is(
    store: Any,
    key: str,
    messages: list[Message],
    policy: dict[str, Any] | None = None,
    *,
    moved: bool = False,
    trimmed: bool = False,
) -> None:
    """Assert that a session is these messages, and that its windows equal a ring's.

    Args:
        store: that has the session.
        key: the session's.
        messages: those that it must have.
        policy: of the store.
        moved: whether its positions are not those of the ring, as messages of the head have come or gone.
        trimmed: whether what was trimmed still decides where windows are cut that stay for a while.
    """
    ring = ring_of(messages, policy)
    assert store.all(key) == messages
    assert store.length(key) == len(messages)
    assert store.token_count(key) == ring.token_count()
    is_text = (policy or {}).get("measure") == "text"
    choices: list[dict[str, Any]] = [{}]
    if not is_text and not trimmed:
        choices += [
            {"include_system": False},
            {"retention_ratio": 0.5},
            {"include_system": False, "retention_ratio": 0.0},
        ]
    for number, limit in enumerate(limits_of(ring)):
        options = choices[number % len(choices)]
        refused = None
        try:
            expected = ring.window(token_limit=limit, **options)
        except ValueError as error:  # the head does not fit
            refused = str(error)
        if refused is not None:
            assert error_of(lambda: store.window(key, limit, **options)) == refused  # noqa: B023
            continue
        window = store.window(key, limit, **options)
        assert window == expected, (limit, options)
        assert (window.tokens, window.head) == (expected.tokens, expected.head), (limit, options)
        if not moved:
            assert (window.start, window.question) == (expected.start, expected.question), (limit, options)


def error_of(function: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    """Return the text of the error that a function raises."""
    with pytest.raises(kind) as raised:
        function()
    assert type(raised.value) is kind
    return str(raised.value)


class Awaited:
    """The async methods of a store, by the names of the sync ones."""

    def __init__(self, store: Store[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, f"a{name}", None)
        if method is None:
            return getattr(self._store, name)
        return lambda *arguments, **named: self._loop.run_until_complete(method(*arguments, **named))

    def close(self) -> None:
        """As a store's, which is not async."""
        self._store.close()


def records(*texts: str) -> list[Record]:
    """Return records of users."""
    return [Record("user", text) for text in texts]
