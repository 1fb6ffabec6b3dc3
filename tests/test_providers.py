"""Windows of histories that a provider accepts are requests that it accepts.

An everyday run validates 20,000 windows, a long one a million.
"""

import importlib.util
from random import Random
from typing import Any

import pytest
from chatring import MessageRing, trim_messages
from profiles import FAST, LONG
from providers import PROVIDERS, Message, RefusedError

WINDOWS = 1_000_000 if LONG else 1_000 if FAST else 20_000
IS_HERE = importlib.util.find_spec("mistral_common") is not None


def size(message: Message) -> int:
    """Measure a message by its length; some cost nothing."""
    return len(str(message)) // 40 if len(str(message)) % 5 else 0


def walk(name: str, seed: int) -> int:
    """Validate the windows of one history, and return how many."""
    provider, random = PROVIDERS[name], Random(seed)

    def validate(messages: list[Message], head: int) -> None:
        provider.validate(messages if provider.has_head else messages[head:])

    options: dict[str, Any] = {
        "measure": random.choice(("message", "message", size)),
        "include_system": random.random() < 0.8,
        "retention_ratio": random.choice((1.0, 0.7, 0.3, 0.0)),
    }
    bounds = (None, random.randrange(1, 11))
    rings: list[MessageRing[Message]] = [MessageRing(400, max_messages=bound, **options) for bound in bounds]
    messages: list[Message] = []
    windows = 0
    for part in provider.history(random):
        messages += part
        head = next(i for i, message in enumerate(messages) if message.get("role") != "system")
        validate(messages, head)  # or the provider would not accept the history
        for ring in rings:
            ring.put_messages(part)
        asked: dict[str, Any] = {"retention_ratio": random.choice((1.0, 0.7, 0.1))}
        limits = [random.randrange(30, 500) for _ in range(2)]
        for limit in limits:
            found = []
            for ring in rings:
                try:
                    found.append(ring.window(token_limit=limit))
                    found.append(ring.window(token_limit=limit, **asked))
                except ValueError:  # noqa: PERF203 (the head alone is too long)
                    continue
            if random.random() < 0.2 and found:
                found.append(trim_messages(messages, limit, **{**options, **asked, "include_system": False}))
            for window in found:
                windows += 1
                validate(window, window.head)
    return windows


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(name == "mistral" and not IS_HERE, reason="no mistral-common"))
        for name in PROVIDERS
    ],
)
@pytest.mark.timeout(3_600)
def test_every_window_is_accepted(name: str) -> None:
    windows = seed = 0
    while windows < WINDOWS // len(PROVIDERS) + 1:
        try:
            windows += walk(name, seed)
        except RefusedError as error:
            getattr(error, "add_note", print)(f"seed {seed}")
            raise
        seed += 1


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_validators_refuse(name: str) -> None:
    if name == "mistral" and not IS_HERE:
        pytest.skip("no mistral-common")
    provider = PROVIDERS[name]
    for seed in range(40):
        messages = [message for part in provider.history(Random(seed)) for message in part]
        first = (
            next(i for i, message in enumerate(messages) if is_result(message))
            if any(map(is_result, messages))
            else None
        )
        if first is None:
            continue
        with pytest.raises(RefusedError):  # an orphan
            provider.validate([provider.say("user", "hi"), *messages[first:]])
        with pytest.raises(RefusedError):  # an unanswered call
            provider.validate([*messages[:first], *messages[first + 1 :]])


def is_result(message: Message) -> bool:
    text = str(message)
    return message.get("role") == "tool" or any(
        mark in text for mark in ("call_output", "tool_result", "toolResult", "functionResponse")
    )
