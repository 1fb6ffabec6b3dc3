"""Memory and start-up: what cannot be timed in a running process. Each figure is from separate processes.

`python -m benches.memory FILE` writes them as JSON. Memory is resident memory of the process, since Python's own
accounting does not see what Rust allocates: a process that holds the thing, less one that holds what it is compared
with.
"""

import ctypes
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

MESSAGES = 1_000_000
# Counting with tiktoken takes long, and so does making memory objects of LlamaIndex's.
TWIN_MESSAGES = 200_000
BUFFERS = 10_000
SESSIONS = 100_000
WARM_SESSIONS, WARM_MESSAGES = 5_000, 100
RUNS = 9
LEGAL_EVERY = 4  # one message in four is the user's, about as in the shipped conversation


def messages(count: int) -> Iterator[dict[str, str]]:
    """Yield messages as a client has them: separate objects and texts."""
    for index in range(count):
        yield {"role": "assistant" if index % LEGAL_EVERY else "user", "content": f"message number {index}"}


def hold_list(count: int) -> object:
    kept = []
    for message in messages(count):
        kept.append(message)  # noqa: PERF402 - as histories grow
    return kept


def hold_ring(count: int) -> Any:
    from chatring import MessageRing

    ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    for message in messages(count):
        ring.put(message)
    return ring


def hold_counted_ring(count: int) -> object:
    ring = hold_ring(count)
    ring.token_count()
    return ring


def hold_twin(count: int) -> Any:
    from benches.contenders import ENCODING
    from benches.honest_twin import HonestTwin

    twin: HonestTwin[Any] = HonestTwin(count * 100, ENCODING)
    for message in messages(count):
        twin.put(message)
    return twin


def hold_counted_twin(count: int) -> object:
    twin = hold_twin(count)
    twin.get()
    return twin


def hold_nothing(count: int) -> object:
    return session_keys(count)


def session_keys(count: int) -> list[str]:
    return [f"session {index}" for index in range(count)]


def hold_ring_store(count: int) -> object:
    from chatring.llama_index import RingChatStore

    store = RingChatStore()
    keys = session_keys(count)
    for key in keys:
        store.set_messages(key, [])
    return store, keys


def hold_simple_store(count: int) -> object:
    from llama_index.core.storage.chat_store import SimpleChatStore

    store = SimpleChatStore()
    keys = session_keys(count)
    for key in keys:
        store.set_messages(key, [])
    return store, keys


def hold_buffers(count: int) -> object:
    """A memory object of LlamaIndex's for each session, as `from_defaults` makes them."""
    from llama_index.core.memory import ChatMemoryBuffer

    from benches.contenders import ENCODE

    make = ChatMemoryBuffer.from_defaults
    keys = session_keys(count)
    return [make(token_limit=3_000, tokenizer_fn=ENCODE) for _ in keys], keys


def hold_warm(count: int, kept: Callable[[str, list[Any]], object]) -> object:
    from llama_index.core.llms import ChatMessage

    shared = [ChatMessage(role=message["role"], content=message["content"]) for message in messages(WARM_MESSAGES)]
    return [kept(key, shared) for key in session_keys(count)]


def hold_warm_lists(count: int) -> object:
    return hold_warm(count, lambda key, shared: list(shared))


def hold_warm_store(count: int) -> object:
    from chatring.llama_index import ChatMemoryBuffer, RingChatStore

    store = RingChatStore()

    def put(key: str, shared: list[Any]) -> None:
        store.set_messages(key, shared)
        ChatMemoryBuffer.from_defaults(token_limit=3_000, chat_store=store, chat_store_key=key).get()

    return store, hold_warm(count, put)


def resident() -> int:
    """Return this process's resident memory in bytes, with what the allocator could give back given back."""
    gc.collect()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # which Windows lacks

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(name: str, count: int) -> int:
    """Return what `name`, called with `count`, adds to this process, once all that it needs is imported and loaded."""
    globals()[name](10)
    before = resident()
    kept = globals()[name](count)
    after = resident()
    del kept
    return after - before


@functools.cache
def held(name: str, count: int) -> int:
    return int(_run(f"from benches.memory import measure; print(measure({name!r}, {count}))"))


def difference(thing: str, compared_with: str, count: int) -> float:
    """Return the bytes that each of `count` takes in `thing` beyond what it takes in the other."""
    return round((held(thing, count) - held(compared_with, count)) / count, 1)


def seconds(code: str, before: str = "pass") -> float:
    """Return the time that `code` takes in a fresh process, in seconds: the median of several."""
    timed = f"import time; {before}; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
    return statistics.median(float(_run(timed)) for _ in range(RUNS))


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout


def stops() -> dict[str, float]:
    """Return how long other threads are stopped by each call that works on a million messages."""
    told = json.loads(_run("import json; from benches.stops import stops; print(json.dumps(stops()))"))
    return {f"seconds others are stopped by {call}": longest for call, (longest, _) in told.items()}


def figures() -> dict[str, float]:
    ring_store = difference("hold_ring_store", "hold_nothing", SESSIONS)
    warm_store = difference("hold_warm_store", "hold_warm_lists", WARM_SESSIONS)
    tiktoken_count = "len(tiktoken.get_encoding('cl100k_base').encode('hello'))"
    return {
        "bytes a message, not counted": difference("hold_ring", "hold_list", MESSAGES),
        "bytes a message, counted": difference("hold_counted_ring", "hold_list", MESSAGES),
        "bytes a message, counted, honest twin": difference("hold_counted_twin", "hold_list", TWIN_MESSAGES),
        "bytes an empty session, RingChatStore": ring_store,
        "bytes an empty session, SimpleChatStore": difference("hold_simple_store", "hold_nothing", SESSIONS),
        "bytes a ChatMemoryBuffer of llama-index": difference("hold_buffers", "hold_nothing", BUFFERS),
        f"bytes a session of {WARM_MESSAGES} messages after a get": warm_store,
        "seconds to import chatring": seconds("import chatring"),
        "seconds to the first count, chatring": seconds(
            "TokenCounter('cl100k_base').count('hello')", "from chatring import TokenCounter"
        ),
        "seconds to import tiktoken": seconds("import tiktoken"),
        "seconds to the first count, tiktoken": seconds(tiktoken_count, "import benches, tiktoken"),
        **stops(),
    }


def main(arguments: Iterable[str]) -> None:
    (path,) = arguments
    Path(path).write_text(json.dumps(figures(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
