"""How long other threads are stopped while one call works on a million messages: `python -m benches.stops`.

A thread sleeps for a millisecond over and over, and notes how much work the process did between two of its turns. Time
of the processor counts, not time of day: other work on the machine does not stop this process's threads for longer.
"""

import copy
import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from chatring import MessageRing, TokenCounter

MESSAGES = 1_000_000


class Ticker(threading.Thread):
    """A thread that wants to run every millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self._stopped = False

    def run(self) -> None:
        last = time.process_time()
        while not self._stopped:
            time.sleep(0.001)
            now = time.process_time()
            self.longest = max(self.longest, now - last)
            last = now

    def stop(self) -> None:
        self._stopped = True
        self.join()

    def during(self, call: Callable[[], object]) -> tuple[float, float]:
        """Return the seconds of the longest stop while `call` ran, and of the call."""
        time.sleep(0.01)
        self.longest = 0.0
        begin = time.process_time()
        result = call()
        took = time.process_time() - begin
        time.sleep(0.01)
        longest = self.longest
        del result
        return longest, took


def calls(messages: int) -> dict[str, Callable[[], object]]:
    """Return what is done with a history of so many messages, in this order."""
    dicts = [
        {"role": "assistant" if index % 2 else "user", "content": f"hi {index}"}
        if index % 4
        else {"role": "assistant", "content": None, "tool_calls": [_call(index)]}
        for index in range(messages)
    ]
    edited = [dict(message) for message in dicts]
    ring: MessageRing[Any] = MessageRing(counter="cl100k_base")
    other: MessageRing[Any] = MessageRing(counter="cl100k_base", max_messages=messages // 2)
    texts = [f"hi {index}" for index in range(messages)]

    def count_edited() -> int:
        for message in edited[1::64]:
            message["content"] = "ho"
        return ring.token_count()

    return {
        "put_messages": lambda: ring.put_messages(dicts),
        "token_count, first": ring.token_count,
        "token_count, again": ring.token_count,
        "get of everything": lambda: ring.get(token_limit=10**9),
        "get of everything, verify=False": lambda: ring.get(token_limit=10**9, verify=False),
        "get_all": ring.get_all,
        "set of the same": lambda: ring.set(dicts),
        "set of equal ones": lambda: ring.set(edited),
        "token_count after edits": count_edited,
        "recount": ring.recount,
        "copy": lambda: copy.copy(ring),
        "pickle's state": lambda: ring.__reduce_ex__(2),
        "delete in the middle": lambda: ring.delete(messages // 2),
        "token_count after delete": ring.token_count,
        "count_batch": lambda: TokenCounter("cl100k_base").count_batch(texts),
        "put_messages, half evicted": lambda: other.put_messages(dicts),
        "put_messages, all evicted": lambda: other.put_messages(edited),
        "reset": ring.reset,
    }


def _call(index: int) -> dict[str, Any]:
    return {"id": f"call_{index}", "type": "function", "function": {"name": "find", "arguments": f'{{"id": {index}}}'}}


def stops(messages: int = MESSAGES) -> dict[str, tuple[float, float]]:
    """Return for each call the longest stop of other threads and its own time, in seconds."""
    TokenCounter("cl100k_base").count("loaded")
    # The collector's runs stop everything too, and are not the ring's.
    gc.disable()
    ticker = Ticker()
    ticker.start()
    try:
        return {name: ticker.during(call) for name, call in calls(messages).items()}
    finally:
        ticker.stop()
        gc.enable()


def main() -> None:
    for name, (longest, took) in stops(*map(int, sys.argv[1:])).items():
        print(f"{name:36}{took * 1000:9.1f} ms, others stopped for {longest * 1000:7.1f} ms")


if __name__ == "__main__":
    main()
