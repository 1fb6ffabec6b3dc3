"""LlamaIndex's rule in numbers: windows of a ring with `measure="text"`, of the drop-in, and of LlamaIndex itself.

An everyday run compares 20,000 windows, `HYPOTHESIS_PROFILE=long` a million. Histories are made of the fragments that
have been known to break tokenizers, with runs of messages that have no text. They grow, shrink and are edited between
the windows. A window of the ring is held against the literal rule. One of the drop-in is held against that and against
what LlamaIndex gives for the same messages.
"""

import functools
import random
from typing import Any

import pytest
import tiktoken
from chatring import MessageRing
from chatring.llama_index import ChatMemoryBuffer
from llama_index.core.llms import ChatMessage, TextBlock
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexChatMemoryBuffer
from profiles import FAST, LONG
from reference import FRAGMENTS, Total, joined_total, may_start, same_objects, tiktoken_count, window_start

PARTS = 50 if LONG else 1
WINDOWS = 1_000 if FAST else 20_000  # of each part
LONGEST = 60
ROLES = ("user", "assistant", "tool", "system", "assistant", "tool", "user")
# Pydantic refuses surrogates without a partner.
TEXTS = tuple(text for text in FRAGMENTS if not any("\ud800" <= character <= "\udfff" for character in text))
BLANK = ("", "", " ", "\n", "  ", "\t", "\xa0", "\u3000")
CL100K = tiktoken.get_encoding("cl100k_base")
TOTAL: Total = joined_total(functools.lru_cache(maxsize=50_000)(tiktoken_count(CL100K)))


def some_text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(BLANK)
    if kind < 0.6:
        return rng.choice(TEXTS)
    return "".join(rng.choices(TEXTS, k=rng.randrange(2, 6)))


def some_message(rng: random.Random) -> ChatMessage:
    role, kind = rng.choice(ROLES), rng.random()
    if kind < 0.1:
        return ChatMessage(role=role, content=None)
    if kind < 0.2:
        return ChatMessage(role=role, blocks=[TextBlock(text=some_text(rng)) for _ in range(rng.randrange(4))])
    return ChatMessage(role=role, content=some_text(rng))


def some_messages(rng: random.Random, most: int) -> list[ChatMessage]:
    if rng.random() < 0.2:
        return [ChatMessage(role=rng.choice(ROLES), content=rng.choice(BLANK)) for _ in range(rng.randrange(most + 1))]
    return [some_message(rng) for _ in range(rng.randrange(most + 1))]


class Histories:
    """The same messages in all three, and how many windows were compared."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
        self.ours = ChatMemoryBuffer.from_defaults(token_limit=3000)
        self.theirs = LlamaIndexChatMemoryBuffer.from_defaults(token_limit=3000)
        self.windows = 0

    def change(self) -> None:
        rng, messages = self.rng, self.theirs.get_all()
        match rng.randrange(8):
            case 0 | 1 | 2:
                more = some_messages(rng, 6)
                self.ring.put_messages(more)
                self.ours.put_messages(list(more))
                self.theirs.put_messages(list(more))
            case 3 if messages:
                index = rng.randrange(len(messages))
                self.ring.delete(index)
                self.ours.chat_store.delete_message("chat_history", index)
                self.theirs.chat_store.delete_message("chat_history", index)
            case 4 if messages:
                # Changes are seen in the window, and by a count of everything.
                for message in rng.sample(messages, min(2, len(messages))):
                    message.blocks = [TextBlock(text=some_text(rng))]
                self.ring.token_count()
                self.ours.token_count()
            case 5:
                new = messages[rng.randrange(2) : rng.randrange(1, 20)] + some_messages(rng, 3)
                self.ring.set(new)
                self.ours.set(list(new))
                self.theirs.set(list(new))
            case 6 if messages:
                self.ring.pop()
                self.ours.chat_store.delete_last_message("chat_history")
                self.theirs.chat_store.delete_last_message("chat_history")
            case _:
                message = some_message(rng)
                self.ring.put(message)
                self.ours.put(message)
                self.theirs.put(message)
        if len(self.theirs.get_all()) > LONGEST:
            for memory in (self.ring, self.ours, self.theirs):
                memory.reset()

    def compare(self) -> None:
        messages = self.theirs.get_all()
        if not messages:
            return
        texts = [str(message.content) for message in messages]
        totals = [TOTAL(texts[i:]) for i in range(len(texts))]
        roles = [message.role.value for message in messages]
        assert self.ring.token_count() == self.ours.token_count() == totals[0]
        starts = [i for i in range(len(totals)) if i in (0, len(totals) - 1) or may_start(roles[i])]
        for i in self.rng.sample(starts, min(6, len(starts))):
            limit = max(totals[i] - self.rng.randrange(2), 1)
            expected = messages[window_start(totals, roles, limit) :]
            assert same_objects(self.ring.get(token_limit=limit), expected), (limit, texts, roles)
            self.ours.token_limit = self.theirs.token_limit = limit
            ours = self.ours.get()
            assert same_objects(ours, expected), (limit, texts, roles)
            assert same_objects(ours, self.theirs.get()), (limit, texts, roles)
            self.windows += 2


@pytest.mark.parametrize("part", range(PARTS))
def test_windows(part: int) -> None:
    rng = random.Random(part)
    windows = 0
    while windows < WINDOWS:
        histories = Histories(rng)
        for _ in range(rng.randrange(1, 25)):
            histories.change()
            histories.compare()
        windows += histories.windows
    print(windows, "windows compared")  # pytest -rP shows it
