"""The contenders: what a user might really choose, each with the same three methods."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import tiktoken
from chatring import MessageRing
from chatring.llama_index import ChatMemoryBuffer
from langchain_core.messages import AnyMessage, trim_messages
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexBuffer

from benches.conversation import Line, as_chat_message, as_dict, as_langchain, as_openai
from benches.honest_twin import ChatMessageTwin, HonestTwin, MessageTwin

ENCODING = tiktoken.get_encoding("cl100k_base")
ENCODE = functools.partial(ENCODING.encode, allowed_special="all")

LLAMA_INDEX = "llama-index ChatMemoryBuffer"
LANGCHAIN = "langchain trim_messages"
TWIN = "honest twin"
TWIN_LI = "honest twin, llama-index messages"
TWIN_MESSAGE = "honest twin, all that is sent"
SLICE = "history[-k:]"
RING = "chatring MessageRing"
RING_UNVERIFIED = "chatring MessageRing, verify=False"
RING_MESSAGE = "chatring MessageRing, all that is sent"
RING_LI = "chatring MessageRing, llama-index messages"
RING_LI_UNVERIFIED = "chatring MessageRing, llama-index messages, verify=False"
BUFFER = "chatring ChatMemoryBuffer"


class Memory(Protocol):
    """A history that answers with a window."""

    def put(self, message: Any) -> None: ...

    def put_messages(self, messages: list[Any]) -> None: ...

    def get(self) -> list[Any]: ...


class TrimMessages:
    """A list, and LangChain's `trim_messages` over it.

    `start_on` names the types of chatring's starts. The counter is the plain one of tutorials: the sum of
    every message's own tokens. So windows differ from the others' where the spaces between texts matter.
    """

    def __init__(self, token_limit: int) -> None:
        self._history: list[AnyMessage] = []
        self._trim = functools.partial(
            trim_messages,
            max_tokens=token_limit,
            strategy="last",
            token_counter=count_messages,
            start_on=("human", "system"),
        )

    def put(self, message: AnyMessage) -> None:
        self._history.append(message)

    def put_messages(self, messages: list[AnyMessage]) -> None:
        self._history.extend(messages)

    def get(self) -> list[Any]:
        trimmed: Any = self._trim(self._history)
        return list(trimmed)


def count_messages(messages: Sequence[Any]) -> int:
    return sum(len(ENCODE(message.content)) for message in messages)


class Slice:
    """The floor: the last messages, if one knew how many."""

    def __init__(self, length: int) -> None:
        self._history: list[Any] = []
        self._length = length

    def put(self, message: Any) -> None:
        self._history.append(message)

    def put_messages(self, messages: list[Any]) -> None:
        self._history.extend(messages)

    def get(self) -> list[Any]:
        return self._history[-self._length :]


@dataclass(frozen=True)
class Contender:
    """How to make a contender's memory for a token limit, the messages it takes, and what its `get` is called with."""

    name: str
    message: Callable[[Line], Any]
    memory: Callable[[int], Memory]
    options: dict[str, Any] = field(default_factory=dict)

    def load(self, token_limit: int, messages: list[Any]) -> Memory:
        """Return a memory of these messages that has counted nothing yet."""
        memory = self.memory(token_limit)
        memory.put_messages(messages)
        return memory


def _llama_index(token_limit: int) -> LlamaIndexBuffer:
    return LlamaIndexBuffer.from_defaults(token_limit=token_limit, tokenizer_fn=ENCODE)


def _chatring(token_limit: int) -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=token_limit, tokenizer_fn=ENCODE)


def _twin(token_limit: int) -> Memory:
    return HonestTwin[Any](token_limit, ENCODING)


def _chat_message_twin(token_limit: int) -> Memory:
    return ChatMessageTwin(token_limit, ENCODING)


def _ring(token_limit: int) -> Memory:
    return MessageRing[Any](token_limit, counter="cl100k_base", measure="text")


def _message_twin(token_limit: int) -> Memory:
    return MessageTwin(token_limit, ENCODING)


def _message_ring(token_limit: int) -> Memory:
    # The rule of the twin: a window is the newest messages that fit, from one that may begin it.
    return MessageRing[Any](token_limit, counter="cl100k_base", start_on=None, include_system=False)


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(LLAMA_INDEX, as_chat_message, _llama_index),
        Contender(LANGCHAIN, as_langchain, TrimMessages),
        Contender(TWIN, as_dict, _twin),
        Contender(TWIN_LI, as_chat_message, _chat_message_twin),
        Contender(TWIN_MESSAGE, as_openai, _message_twin),
        Contender(RING, as_dict, _ring),
        Contender(RING_MESSAGE, as_openai, _message_ring),
        Contender(RING_UNVERIFIED, as_dict, _ring, {"verify": False}),
        Contender(RING_LI, as_chat_message, _ring),
        Contender(RING_LI_UNVERIFIED, as_chat_message, _ring, {"verify": False}),
        Contender(BUFFER, as_chat_message, _chatring),
    )
}

# Under measure="message" windows are others, so these are compared with each other.
ALL_THAT_IS_SENT = (TWIN_MESSAGE, RING_MESSAGE)
