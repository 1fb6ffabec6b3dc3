"""OpenAI's dicts edited in place: `get` checks them faster than it reads them."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from chatring import MessageRing

TEXTS = ("", "one", "two words", "and three words", " ")


def text(rng: random.Random) -> str:
    return "".join([rng.choice(TEXTS), rng.choice(("", " more"))])  # a new object, often equal to another


def call(rng: random.Random) -> dict[str, Any]:
    arguments = rng.choice((text(rng), {"shelf": text(rng)}, None))
    function = {"name": text(rng), "arguments": arguments}
    if rng.random() < 0.2:
        function = dict(reversed(function.items()))
    return {"id": text(rng), "type": "function", "function": function}


def content(rng: random.Random) -> Any:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    blocks = [{"type": "text", "text": text(rng)}, picture, {"type": "text", "text": text(rng), "cache_control": {}}]
    return rng.choice((text(rng), text(rng), None, [], rng.sample(blocks, rng.randrange(1, 4))))


def some_message(rng: random.Random) -> dict[str, Any]:
    message = {"role": rng.choice(("system", "user", "assistant", "tool")), "content": content(rng)}
    for change in rng.sample(CHANGES, rng.choice((0, 0, 1, 2))):
        change(message, rng)
    return message


def change_content(message: dict[str, Any], rng: random.Random) -> None:
    message["content"] = content(rng)


def take_text_out(message: dict[str, Any], _rng: random.Random) -> None:
    """Keep the content as the same object, and replace what was around it."""
    blocks = message["content"]
    if isinstance(blocks, list) and blocks and "text" in blocks[-1]:
        message["content"] = blocks[-1]["text"]


def change_calls(message: dict[str, Any], rng: random.Random) -> None:
    message["tool_calls"] = rng.choice((None, [], [call(rng)], [call(rng), call(rng)]))


def change_call(message: dict[str, Any], rng: random.Random) -> None:
    for each in message.get("tool_calls") or ():
        each["function"][rng.choice(("name", "arguments"))] = text(rng)


def change_field(message: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(
        ("name", "tool_call_id", "refusal", "reasoning_content", "audio", "timestamp", "additional_kwargs")
    )
    message[name] = rng.choice((None, text(rng), {"id": "1"}, message["content"]))


def drop_field(message: dict[str, Any], rng: random.Random) -> None:
    if others := message.keys() - {"role", "content"}:
        del message[rng.choice(sorted(others))]


Change = Callable[[dict[str, Any], random.Random], None]
CHANGES: list[Change] = [change_content, take_text_out, change_calls, change_call, change_field, drop_field]


@pytest.mark.parametrize("provider", [None, "anthropic", "gemini"])
def test_edits_in_place_are_counted(provider: Any) -> None:
    noticed = 0
    for seed in range(300):
        rng = random.Random(seed)
        ring: MessageRing[dict[str, Any]] = MessageRing(10**6, format=provider)
        ring.put_messages([some_message(rng) for _ in range(8)])
        for _ in range(8):
            before = ring.token_count()
            message = rng.choice(ring.get_all())
            rng.choice(CHANGES)(message, rng)
            fresh: MessageRing[dict[str, Any]] = MessageRing(10**6, format=provider)
            fresh.put_messages(copy.deepcopy(ring.get_all()))
            assert ring.token_count() == fresh.token_count(), (seed, message)
            noticed += ring.token_count() != before
    assert noticed > 500
