"""What each adapter over a store must accept and refuse, before anything runs."""

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from chatring.formats import JsonFormat
from chatring.stores import Store, open_store


class Reversed:
    """A user's format around another one, which stores something else: as if it encrypted."""

    name = "reversed"

    def __init__(self, inside: Any) -> None:
        self._inside = inside
        self.read = inside.read

    def dump(self, message: Any) -> str:
        return str(self._inside.dump(message)[::-1])

    def load(self, body: str) -> Any:
        return self._inside.load(body[::-1])


class Once(Reversed):
    """One that converts each message once: it dumps what it read."""

    name = "once"
    dumps_readings = True

    def __init__(self, inside: Any) -> None:
        super().__init__(inside)
        self.read = lambda message: {"role": "user", "content": inside.dump(message)}

    def dump(self, message: Any) -> str:
        return str(message["content"][::-1])


class Notes:
    """A user's format for messages of another class."""

    name = "notes"

    def read(self, message: Any) -> Any:
        return {"role": message.author, "content": message.note}

    def dump(self, message: Any) -> str:
        return f"{message.author}: {message.note}"

    def load(self, body: str) -> Any:
        return body


class Anything(Notes):
    """One that reads whatever it gets, and gives back something else."""

    def read(self, message: Any) -> Any:
        return {"role": "user", "content": "?"}

    def dump(self, message: Any) -> str:
        return "?"


@contextlib.contextmanager
def coming_between(store: Store[Any], name: str, act: Callable[[], Awaitable[Any]]) -> Iterator[None]:
    """Let another process act just before the first call of one of a store's async methods."""
    method, acted = getattr(store, name), False

    async def called(*arguments: Any) -> Any:
        nonlocal acted
        if not acted:
            acted = True
            await act()
        return await method(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, name, called)
        yield
    assert acted


def check_stores(make: Callable[[Any], Any], formats: type[Any], needs: str) -> None:
    """Check an adapter that is made of a store.

    Args:
        make: makes one.
        formats: the class of its format.
        needs: what its errors for a wrong store begin with.
    """

    def opened(format: Any, **options: Any) -> Store[Any]:  # noqa: A002
        store = open_store("memory://", format=format, **options)
        stores.append(store)
        return store

    stores: list[Store[Any]] = []
    derived = type("Derived", (formats,), {"name": "derived"})
    others = [] if formats is JsonFormat else [None, "anthropic", Reversed(JsonFormat())]
    for accepted in (formats(), derived(), Reversed(formats()), Once(formats())):
        make(opened(accepted))
    for refused in (Notes(), Anything(), *others):
        with pytest.raises(TypeError, match=f"^{re.escape(needs)}; got SQLStore\\('sqlite://', 'o200k_base, message"):
            make(opened(refused))
    no_stores: list[Any] = ["postgresql://ada:secret@localhost/chat", None, formats()]
    for other in no_stores:
        with pytest.raises(TypeError, match=f"^{re.escape(needs)}; got {type(other).__name__}$"):
            make(other)
    rules: list[dict[str, Any]] = [{"start_on": None}, {"measure": "text"}]
    for options in rules:
        with pytest.raises(
            ValueError, match=r"^store must have start_on='user', got None: its windows could begin with"
        ):
            make(opened(formats(), **options))
    for store in stores:
        store.close()
