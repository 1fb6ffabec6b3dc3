"""Many threads put through one memory while others ask for its window."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tiktoken
from chatring.llama_index import ChatMemoryBuffer, RingChatStore
from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store import SimpleChatStore
from profiles import slow

pytestmark = slow

WRITERS = 8
READERS = 4
MESSAGES = 1_000  # of each writer
LIMIT = 200


@pytest.fixture(autouse=True)
def busy_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def message(writer: int, number: int) -> ChatMessage:
    text = f"writer {writer} says number {number}" + " and more" * (number % 7) + ("" if number % 5 else " \n")
    return ChatMessage(text, role=("user", "assistant", "tool")[number % 3])


def in_order(messages: list[ChatMessage]) -> dict[int, list[int]]:
    """Return the numbers of each writer's messages, in their order."""
    numbers: dict[int, list[int]] = {}
    for found in messages:
        words = str(found.content).split()
        numbers.setdefault(int(words[1]), []).append(int(words[4]))
    return numbers


def run(writers: list[Callable[[], None]], readers: list[Callable[[], None]]) -> None:
    """Run the writers to their end, and the readers again and again until then."""
    errors: list[BaseException] = []
    written = threading.Event()

    def guarded(work: Callable[[], None], until: threading.Event | None) -> None:
        try:
            work()
            while until is not None and not until.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    def start(work: Callable[[], None], until: threading.Event | None) -> threading.Thread:
        thread = threading.Thread(target=guarded, args=(work, until), daemon=True)
        thread.start()
        return thread

    reading = [start(work, written) for work in readers]
    writing = [start(work, None) for work in writers]
    for thread in writing:
        thread.join(600)
    written.set()
    for thread in reading:
        thread.join(600)
    assert not any(thread.is_alive() for thread in writing + reading), "a deadlock"
    assert errors == []


def joined(messages: list[ChatMessage]) -> str:
    return " ".join(str(found.content) for found in messages)


@pytest.mark.parametrize("tokenizer", [None, "o200k", str.split, list], ids=str)
@pytest.mark.parametrize("bounds", [{}, {"max_messages": 10_000}, {"max_sessions": 2}], ids=str)
def test_nothing_is_lost_and_no_window_is_over_the_limit(
    tokenizer: Any, bounds: dict[str, Any], cl100k: tiktoken.Encoding, o200k: tiktoken.Encoding
) -> None:
    tokenizer = o200k.encode if tokenizer == "o200k" else tokenizer
    memory = ChatMemoryBuffer(token_limit=LIMIT, tokenizer_fn=tokenizer, chat_store=RingChatStore(**bounds))
    count = tokenizer or cl100k.encode
    windows = 0

    def write(writer: int) -> Callable[[], None]:
        def work() -> None:
            for number in range(0, MESSAGES, 4):
                memory.put(message(writer, number))
                memory.put_messages([message(writer, number + 1), message(writer, number + 2)])
                asyncio.run(memory.aput(message(writer, number + 3))) if number % 100 == 0 else memory.put_message(
                    message(writer, number + 3)
                )

        return work

    def read() -> None:
        nonlocal windows
        window = memory.get(initial_token_count=20)
        assert len(count(joined(window))) <= LIMIT - 20
        for numbers in in_order(window).values():
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        # Every writer begins as a user, so the oldest message is a user's too.
        assert len(window) < 2 or window[0].role == "user"
        assert memory.token_count() >= len(count(joined(window)))
        windows += 1

    run([write(writer) for writer in range(WRITERS)], [read] * READERS)
    history = memory.get_all()
    assert len(history) == WRITERS * MESSAGES
    assert in_order(history) == {writer: list(range(MESSAGES)) for writer in range(WRITERS)}
    window = memory.get()
    assert [id(found) for found in window] == [id(found) for found in history[len(history) - len(window) :]]
    assert windows > 10


def test_put_messages_stay_together() -> None:
    memory = ChatMemoryBuffer(token_limit=LIMIT)

    def write(writer: int) -> Callable[[], None]:
        def work() -> None:
            for number in range(0, 600, 3):
                memory.put_messages([message(writer, number + i) for i in range(3)])

        return work

    def read() -> None:
        history = memory.get_all()
        assert len(history) % 3 == 0
        for i in range(0, len(history), 3):
            assert len(in_order(history[i : i + 3])) == 1

    run([write(writer) for writer in range(WRITERS)], [read])


def test_one_memory_with_another_store() -> None:
    """Windows are right while others put, also with a store that is not chatring's."""
    memory = ChatMemoryBuffer(token_limit=30, tokenizer_fn=str.split, chat_store=SimpleChatStore())

    def write(writer: int) -> Callable[[], None]:
        def work() -> None:
            for number in range(150):
                memory.put(message(writer, number))

        return work

    def read() -> None:
        window = memory.get()
        assert len(joined(window).split()) <= 30
        for numbers in in_order(window).values():
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

    run([write(writer) for writer in range(WRITERS)], [read] * READERS)
    assert in_order(memory.get_all()) == {writer: list(range(150)) for writer in range(WRITERS)}


def test_copies_for_other_sessions_of_another_store() -> None:
    """A memory made by copying one of another session never answers with that session's messages."""
    first = ChatMemoryBuffer(token_limit=30, tokenizer_fn=str.split, chat_store=SimpleChatStore())
    first.get()
    memories = [first.model_copy(update={"chat_store_key": str(writer)}) for writer in range(4)]
    for writer, memory in enumerate(memories):
        memory.put_messages([message(writer, number) for number in range(50)])

    def read(writer: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(300):
                assert list(in_order(memories[writer].get())) == [writer]

        return work

    run([read(writer) for writer in range(4)], [])


def test_clearing_meanwhile() -> None:
    memory = ChatMemoryBuffer(token_limit=LIMIT)

    def write() -> None:
        for number in range(2_000):
            memory.put(message(0, number))
            if number % 50 == 0:
                memory.reset()
            elif number % 31 == 0:
                memory.set([message(1, number)])

    def read() -> None:
        window = memory.get()
        assert memory.token_count() >= 0
        # One moment's history: what was cleared does not come back together with what came after.
        numbers = [int(str(found.content).split()[4]) for found in window]
        assert numbers == sorted(numbers)
        assert len(numbers) < 2 or numbers[-1] - numbers[0] == len(numbers) - 1

    run([write], [read] * READERS)
