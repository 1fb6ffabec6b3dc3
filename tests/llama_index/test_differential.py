"""The same operations on ours and on the installed LlamaIndex, with the same message objects: the same windows.

After every operation both give a window, under a limit at which windows begin to differ: the tokens of a suffix of the
history, or one more or less. A case is one such comparison, an example is a history with its operations. An everyday
run makes 6,750 examples and at least 33,750 cases: each tokenizer has its share asserted. `HYPOTHESIS_PROFILE=long`
makes six times as many.
"""

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic
import pytest
import tiktoken
from chatring.llama_index import ChatMemoryBuffer, RingChatStore
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ImageBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, TextBlock
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexChatMemoryBuffer
from llama_index.core.storage.chat_store import SimpleChatStore
from profiles import FAST, LONG, examples
from reference import ROLES, roles, texts

EXAMPLES = examples(750, long=4_500)
CASES_PER_EXAMPLE = 5
LONGEST_HISTORY = 12
KEY = "chat_history"
# From pydantic 2.14 on, LlamaIndex 0.14.25 cannot serialise a SimpleChatStore that holds a message.
LLAMA_INDEX_SERIALISES = tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 14)

# Pydantic refuses surrogates without a partner.
texts = texts.filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01"

blocks = st.one_of(
    texts.map(lambda text: TextBlock(text=text)),
    texts.map(lambda text: TextBlock(text=text)),
    st.builds(ImageBlock, image=st.just(PNG)),
    st.builds(ImageBlock, url=st.just("https://example.org/i.png")),
    texts.map(lambda text: ToolCallBlock(tool_call_id="1", tool_name="search", tool_kwargs={"query": text})),
    texts.map(lambda text: ThinkingBlock(content=text, num_tokens=3)),
)
keywords: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({}),
    texts.map(lambda text: {"tool_call_id": "1", "name": text, "nested": {"raw": [b"\xff", 1.5, None, text]}}),
)
messages = st.one_of(
    st.builds(ChatMessage, texts, role=roles, additional_kwargs=keywords),
    st.builds(ChatMessage, texts, role=roles),
    st.builds(ChatMessage, st.lists(blocks, max_size=3), role=roles, additional_kwargs=keywords),
    st.builds(ChatMessage, st.none(), role=roles),
)
few_messages = st.lists(messages, max_size=4)
indices = st.integers(-3, 5)

operations = st.one_of(
    st.tuples(st.just("put"), messages),
    st.tuples(st.just("put"), messages),
    st.tuples(st.just("put_message"), messages),
    st.tuples(st.just("put_messages"), few_messages),
    st.tuples(st.just("put_messages"), few_messages),
    st.tuples(st.just("put_again"), indices),
    st.tuples(st.just("set"), few_messages),
    st.tuples(st.just("reset")),
    st.tuples(st.just("store_add"), messages, st.one_of(st.none(), indices)),
    st.tuples(st.just("store_set"), few_messages),
    st.tuples(st.just("store_delete"), indices),
    st.tuples(st.just("store_delete_last")),
    st.tuples(st.just("new_memory")),
    st.tuples(st.just("token_count")),
    st.tuples(st.just("change"), indices, st.sampled_from(("content", "text", "append", "blocks", "pop")), texts),
    st.tuples(st.just("change"), indices, st.sampled_from(("content", "text", "append", "blocks", "pop")), texts),
)
# Which suffix's tokens are the limit, how many more or less, and what is spent before: tokens, or by the limit.
questions = st.tuples(
    st.integers(0, LONGEST_HISTORY),
    st.sampled_from((0, 0, 0, -1, 1, 2, 10)),
    st.sampled_from((0, 0, 0, 0, 0, 1, 7, -3, 2.5, -0.5, "limit", "limit + 1", "limit + 0.5")),
)
steps = st.lists(st.tuples(operations, questions), min_size=4, max_size=10)


@dataclass
class Pair:
    """Ours and LlamaIndex's memory of the same messages."""

    ours: ChatMemoryBuffer
    theirs: LlamaIndexChatMemoryBuffer
    asynchronous: bool
    cases: int = 0
    # Messages that were changed in place while they may have been counted, and not seen in a window since. That `get`
    # does not see such a change before its window is by design: the window is checked, what is older is not.
    stale: list[ChatMessage] = field(default_factory=list)

    def apply(self, name: str, *arguments: Any) -> None:
        # Each gets its own list: LlamaIndex keeps the caller's, chatring copies it.
        history = self.theirs.get_all()
        if name in ("put", "put_message", "put_messages", "store_add", "put_again") and len(history) >= LONGEST_HISTORY:
            return
        if name in ("put_again", "change"):
            if not history:
                return
            index, *rest = arguments
            message = history[index % len(history)]
            if name == "change":
                self.change(message, *rest)
                return
            name, arguments = "put", (message,)
        if name == "new_memory":
            self.ours = copy_with_limit(self.ours, 3000)
            self.theirs = copy_with_limit(self.theirs, 3000)
        elif name == "token_count":
            assert self.ours.token_count() == self.theirs._token_count_for_messages(history)
            self.stale.clear()
        elif name == "store_add":
            message, index = arguments
            self.both(lambda memory: memory.chat_store.add_message(KEY, message, index))
        elif name == "store_set":
            self.both(lambda memory: memory.chat_store.set_messages(KEY, list(arguments[0])))
        elif name == "store_delete":
            self.both(lambda memory: memory.chat_store.delete_message(KEY, arguments[0]))
        elif name == "store_delete_last":
            self.both(lambda memory: memory.chat_store.delete_last_message(KEY))
        elif name == "reset":
            self.call("reset")
        elif name in ("put_messages", "set"):
            self.call(name, lambda: list(arguments[0]))
        elif name == "put_message":
            self.ours.put_message(*arguments)
            self.theirs.put(*arguments)
        else:
            self.call(name, lambda: arguments[0])

    def call(self, name: str, *make_arguments: Callable[[], Any]) -> None:
        arguments = [make() for make in make_arguments]
        if self.asynchronous:
            assert at_once(getattr(self.ours, f"a{name}")(*arguments)) is None
        else:
            assert getattr(self.ours, name)(*arguments) is None
        assert getattr(self.theirs, name)(*(make() for make in make_arguments)) is None

    def both(self, operation: Callable[[Any], Any]) -> None:
        ours, theirs = outcome(lambda: operation(self.ours)), outcome(lambda: operation(self.theirs))
        assert identities(ours) == identities(theirs)

    def change(self, message: ChatMessage, how: str, text: str) -> None:
        if how == "content" and len(message.blocks) <= 1:
            try:
                message.content = text
            except ValueError:  # the only block is not a text
                return
        elif how == "text" and message.blocks and isinstance(message.blocks[0], TextBlock):
            message.blocks[0].text = text
        elif how == "append":
            message.blocks.append(TextBlock(text=text))
        elif how == "blocks":
            message.blocks = [TextBlock(text=text), ToolCallBlock(tool_name="f"), TextBlock(text=text)]
        elif how == "pop" and message.blocks:
            message.blocks.pop()
        self.stale.append(message)

    def compare(self, suffix: int, more: int, initial: Any) -> None:
        history = self.theirs.get_all()
        spent = initial if isinstance(initial, int) else 0
        start = suffix % len(history) if history else 0
        limit = self.theirs._token_count_for_messages(history[start:]) + spent + more
        if limit >= 1 and suffix % 2:
            self.ours = copy_with_limit(self.ours, limit)
            self.theirs = copy_with_limit(self.theirs, limit)
        else:  # assigning is not validated, by neither
            self.ours.token_limit = self.theirs.token_limit = limit
        if isinstance(initial, str):
            initial = {"limit": limit, "limit + 1": limit + 1, "limit + 0.5": limit + 0.5}[initial]

        def get() -> Any:
            if self.asynchronous:
                return LOOP.run_until_complete(self.ours.aget(initial_token_count=initial))
            return self.ours.get(initial_token_count=initial)

        theirs = outcome(lambda: self.theirs.get(initial_token_count=initial))
        ours = outcome(get)
        self.cases += 1
        if isinstance(theirs, list) and isinstance(ours, list) and self.stale:
            older = history[: len(history) - len(ours)]
            if identities(ours) != identities(theirs) and any(has(older, message) for message in self.stale):
                self.check_window(ours, history, limit - initial)
                assert isinstance(self.ours.chat_store, RingChatStore)
                ring = self.ours.chat_store.ring(KEY)
                assert ring is not None
                ring.recount()
                self.stale.clear()
                ours = get()
            self.stale = [message for message in self.stale if has(older, message)]
        assert identities(ours) == identities(theirs), (limit, initial)
        if isinstance(theirs, list):
            assert [(message.role, message.content) for message in ours] == [
                (message.role, message.content) for message in theirs
            ]
        assert identities(self.ours.get_all()) == identities(history)
        assert self.ours.chat_store.get_keys() == self.theirs.chat_store.get_keys()

    def check_window(self, window: list[ChatMessage], history: list[ChatMessage], allowance: float) -> None:
        """Whatever was changed before it: a window fits and starts where it may, or is the last message."""
        start = len(history) - len(window)
        assert identities(window) == identities(history[start:])
        assert len(window) == 1 or self.theirs._token_count_for_messages(window) <= allowance
        assert len(window) == 1 or start == 0 or window[0].role not in ("assistant", "tool")

    def compare_serialised(self) -> None:
        ours, theirs = self.ours, self.theirs
        if LLAMA_INDEX_SERIALISES:
            for name in ("to_dict", "dict", "model_dump"):
                assert in_order(getattr(ours, name)()) == in_order(getattr(theirs, name)())
            for name in ("to_string", "json", "model_dump_json"):
                assert outcome(getattr(ours, name)) == outcome(getattr(theirs, name))
            return
        # What LlamaIndex writes where it can: the messages' own forms.
        store: Any = theirs.chat_store
        expected = {
            "chat_store": {
                "store": {key: [message.model_dump() for message in kept] for key, kept in store.store.items()},
                "class_name": "SimpleChatStore",
            },
            "chat_store_key": KEY,
            "token_limit": theirs.token_limit,
            "class_name": "ChatMemoryBuffer",
        }
        for name in ("to_dict", "dict", "model_dump"):
            assert in_order(getattr(ours, name)()) == in_order(expected)
        # An image's bytes or URL have no JSON form: a TypeError, here as there.
        for name in ("to_string", "json"):
            assert outcome(getattr(ours, name)) == outcome(lambda: json.dumps(expected))
        assert ours.model_dump_json() == pydantic.RootModel[dict[str, Any]](expected).model_dump_json()


def copy_with_limit(memory: Any, limit: int) -> Any:
    """Return a new memory over the same store."""
    fields = {"chat_store": memory.chat_store, "chat_store_key": KEY, "tokenizer_fn": memory.tokenizer_fn}
    return type(memory)(token_limit=limit, **fields)


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    global LOOP
    LOOP = asyncio.new_event_loop()
    yield LOOP
    LOOP.run_until_complete(LOOP.shutdown_default_executor())
    LOOP.close()


LOOP: asyncio.AbstractEventLoop


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def outcome(call: Callable[[], Any]) -> Any:
    """Return the result, or the exception's type and, for an error in a value, its leading words."""
    try:
        return call()
    except ValueError as error:
        return type(error), str(error).partition(":")[0]
    except Exception as error:
        return type(error)


def identities(result: Any) -> Any:
    if isinstance(result, list):
        return [id(message) for message in result]
    return id(result) if isinstance(result, ChatMessage) else result


def has(history: Sequence[ChatMessage], message: ChatMessage) -> bool:
    return any(other is message for other in history)


def in_order(form: Any) -> Any:
    """Return a form with its dicts as lists of pairs, so that the order of keys counts too."""
    if isinstance(form, dict):
        return [(key, in_order(value)) for key, value in form.items()]
    if isinstance(form, list):
        return [in_order(value) for value in form]
    return type(form), form


@functools.cache
def byte_level_bpe() -> Callable[[str], Any]:
    """Train a byte-level BPE with two special tokens, on what the tests' texts are made of."""
    from reference import FRAGMENTS
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.encode(errors="ignore").decode() for text in FRAGMENTS] * 3, trainer)
    return tokenizer.encode


def allowing_all(encoding: str) -> Callable[[str], Any]:
    return functools.partial(tiktoken.get_encoding(encoding).encode, allowed_special="all")


# What ours gets, and what LlamaIndex gets. It does not take an Encoding, and with a bound `encode` it raises for
# special tokens in a message: ours counts them, as LlamaIndex's default does.
TOKENIZERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "default": lambda: (None, None),
    "partial": lambda: (allowing_all("o200k_base"), allowing_all("o200k_base")),
    "bound encode": lambda: (tiktoken.get_encoding("o200k_base").encode, allowing_all("o200k_base")),
    "Encoding": lambda: (tiktoken.get_encoding("o200k_base"), allowing_all("o200k_base")),
    "encode_ordinary": lambda: (tiktoken.get_encoding("cl100k_base").encode_ordinary,) * 2,
    "wrapped": lambda: (lambda text: allowing_all("cl100k_base")(text), allowing_all("cl100k_base")),
    "words": lambda: (str.split, str.split),
    "characters": lambda: (list, list),
    "byte-level BPE": lambda: (byte_level_bpe(), byte_level_bpe()),
}


@pytest.mark.timeout(3600 if LONG else 900)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_same_operations_give_the_same_windows(tokenizer: str) -> None:
    tokenize, oracle = TOKENIZERS[tokenizer]()
    cases = 0

    @settings(max_examples=EXAMPLES)
    @given(steps, st.booleans())
    def run(steps: list[tuple[tuple[Any, ...], tuple[int, int, Any]]], asynchronous: bool) -> None:
        nonlocal cases
        pair = Pair(
            ChatMemoryBuffer(token_limit=3000, tokenizer_fn=tokenize),
            LlamaIndexChatMemoryBuffer(token_limit=3000, tokenizer_fn=oracle),
            asynchronous,
        )
        for operation, question in steps:
            pair.apply(*operation)
            pair.compare(*question)
        pair.compare_serialised()
        assert pair.ours.token_count() == pair.theirs._token_count_for_messages(pair.theirs.get_all())
        cases += pair.cases

    run()
    print(f"{tokenizer}: {cases} cases")
    assert FAST or cases >= EXAMPLES * CASES_PER_EXAMPLE  # few examples may be short ones


@pytest.mark.parametrize("roles", [(first, second) for first in ROLES for second in ROLES])
def test_every_role_at_every_place(roles: tuple[str, str]) -> None:
    history = [ChatMessage("a b c", role=role) for role in ("user", *roles, "user", *reversed(roles))]
    for limit in range(1, 20):
        ours = ChatMemoryBuffer.from_defaults(history, token_limit=limit, tokenizer_fn=str.split)
        theirs = LlamaIndexChatMemoryBuffer.from_defaults(list(history), token_limit=limit, tokenizer_fn=str.split)
        assert identities(ours.get()) == identities(theirs.get())


@settings(max_examples=EXAMPLES // 2)
@given(steps)
def test_another_chat_store_gives_the_same_windows(steps: list[tuple[tuple[Any, ...], tuple[int, int, Any]]]) -> None:
    pair = Pair(
        ChatMemoryBuffer(token_limit=3000, chat_store=SimpleChatStore()),
        LlamaIndexChatMemoryBuffer(token_limit=3000),
        asynchronous=False,
    )
    for operation, question in steps:
        pair.apply(*operation)
        # The history is read and compared each time, so a change is seen anywhere.
        pair.stale.clear()
        pair.compare(*question)


def test_surrogates_count_as_tiktoken_counts_them() -> None:
    for text in ("\ud800", "a\udc00 b", "\ud83d\ude00", "\udfff "):
        ours = ChatMemoryBuffer(token_limit=100)
        theirs = LlamaIndexChatMemoryBuffer(token_limit=100)
        for memory in (ours, theirs):
            memory.put_messages([ChatMessage("one two"), ChatMessage("three")])
            block = memory.get_all()[1].blocks[0]
            assert isinstance(block, TextBlock)
            block.text = text
        history = theirs.get_all()
        for limit in range(1, 8):
            ours.token_limit = theirs.token_limit = limit
            assert len(ours.get()) == len(theirs.get())
        assert ours.token_count() == theirs._token_count_for_messages(history)


def test_the_store_of_ours_is_a_ring_chat_store() -> None:
    assert isinstance(ChatMemoryBuffer(token_limit=1).chat_store, RingChatStore)
