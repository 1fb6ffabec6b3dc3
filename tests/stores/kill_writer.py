"""A process that changes sessions of a store until it is told to stop, or killed. `test_kill.py` starts it.

`python kill_writer.py URL NAME LOG`. What it does is determined by its name, so that who reads the log knows it. The
log has a character for each operation, written once its outcome is known: `+` done, `-` refused (nothing of it was
done), `?` the connection was lost (as a whole or not at all). At the end of its input it finishes what it is at, and
ends.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from chatring.stores import Record, Store, StoreTimeoutError, StoreUnavailableError, open_store

SHARED = ("shared/0", "shared/1", "shared/2")
# Words, and what comes before and after them makes a difference to: blanks, surrogates, texts of many tokens.
_TEXTS = (
    *("Hi", "Where is my order?", "It left our warehouse this morning.", "世界", "👩‍👩‍👧‍👦", "don't", "None"),
    *("", "", " ", "\n", "\t \t", "  \n", "\xa0", "\u3000", "ends in a space ", "ends in a line\n", " begins with one"),
    *("\ud800", "x\udfff ", "\0", "'; DROP TABLE chatring_message; --", "a" * 300, "word " * 200),
)
_ROLES = ("user", "assistant", "tool", "assistant", "system")


class Operation(NamedTuple):
    """A change of a session: messages are appended, replace all others, or one is removed."""

    kind: str
    key: str
    records: list[Record]
    place: int  # of what is removed, from the newest

    def apply(self, store: Store[Any]) -> None:
        match self.kind:
            case "append":
                store.append(self.key, self.records)
            case "replace":
                store.replace(self.key, self.records)
            case "pop":
                with contextlib.suppress(IndexError):  # there is no such record, so nothing is done
                    store.pop(self.key, self.place)

    def after(self, history: tuple[Record, ...]) -> tuple[Record, ...]:
        """Return the history that `apply` makes of one."""
        match self.kind:
            case "append":
                return (*history, *self.records)
            case "replace":
                return tuple(self.records)
        place = len(history) + self.place
        return history if place < 0 else (*history[:place], *history[place + 1 :])


def operations(writer: str) -> Iterator[Operation]:
    """Yield what a writer does: mostly appends to sessions of all writers, and any change of one that is its own."""
    random = Random(writer)
    number = 0
    while True:
        count = random.choice((1, 1, 1, 2, 5, 40))
        records = [
            Record(random.choice(_ROLES), random.choice(_TEXTS), f"{writer} {number} {place}".encode())
            for place in range(count)
        ]
        if random.random() < 0.7:
            yield Operation("append", random.choice(SHARED), records, -1)
        else:
            kind = random.choice(("append", "append", "pop", "pop", "replace"))
            yield Operation(kind, f"own/{writer}", records[:5], -random.randint(1, 4))
        number += 1


def write(url: str, writer: str, log: str, stop: threading.Event) -> None:
    """Do a writer's operations, and log their outcomes."""
    store = open_store(url)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    # A database gives up before it does anything; Redis may do later what it was too slow to answer.
    timeout = b"-" if url.startswith(("sqlite", "postgresql")) else b"?"
    for operation in operations(writer):
        if stop.is_set():
            break
        try:
            operation.apply(store)
        except StoreTimeoutError:
            os.write(file, timeout)
        except StoreUnavailableError:
            os.write(file, b"?")
            _wait(store, stop)
        else:
            os.write(file, b"+")
    store.close()


def _wait(store: Store[Any], stop: threading.Event) -> None:
    """Wait until the server is back."""
    while not stop.wait(0.02):
        with contextlib.suppress(StoreUnavailableError):
            store.length(SHARED[0])
            break


def main() -> None:
    _, url, writer, log = sys.argv
    stop = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    write(url, writer, log, stop)


if __name__ == "__main__":
    main()
