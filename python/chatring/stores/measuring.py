"""`Measuring`: what a store's policy makes of messages. Here the formats meet the core."""

from __future__ import annotations

from typing import Any, NamedTuple

from chatring._core import TokenCounter, _Batch, _StorePolicy
from chatring.formats.format import Format
from chatring.formats.json_format import JsonFormat
from chatring.stores.errors import ForeignDataError
from chatring.stores.names import check_name
from chatring.stores.operation import Steps, Work
from chatring.stores.session import Row

# Messages, and characters, that are loaded in about a millisecond.
_MANY, _MUCH = 200, 2**15
# Characters that are dumped, read and counted in about a millisecond; and messages.
_LITTLE, _FEW = 4_096, 32


class Measured(NamedTuple):
    """Messages that were dumped and read, and counted where tokens add up."""

    bodies: list[str]
    batch: _Batch


class Measuring:
    """Dumps, loads, reads and counts messages. Arguments and errors as in `Store`.

    Attributes:
        core: the policy, as the core has it.
        format: how messages are stored.
        name: by which it is known again.
    """

    def __init__(
        self,
        counter: Any,
        measure: Any,
        start_on: Any,
        format: Any,  # noqa: A002 (as in Store)
        counter_name: str | None,
        measure_name: str | None,
    ) -> None:
        self.counter = TokenCounter(counter)
        self.measure = measure
        start: Any = (None if measure == "text" else "user") if start_on is ... else start_on
        self.start_on = start
        is_known = format is None or isinstance(format, str)
        self.format: Format[Any] = JsonFormat() if is_known else _checked(format)
        self.core = _StorePolicy(self.counter, measure, start, format if is_known else None)
        names = [
            _name_of("counter", self.counter.name if self.counter.is_native else None, counter_name),
            _name_of("measure", measure if isinstance(measure, str) else None, measure_name),
            self.start_on or "any",
        ]
        if isinstance(format, str):
            names.append(format)
        elif type(self.format) is not JsonFormat:
            names.append(check_name(self.format.name, "a format's name"))
        self.name = ", ".join(names)
        self._is_warm = not self.counter.is_native

    def measured(self, messages: list[Any]) -> Steps[Measured]:
        """Dump, read and count messages.

        Raises:
            TypeError, ValueError: for one that cannot be read or stored.
            Exception: whatever a callable raises, unchanged.
        """
        takes_long = not self._is_warm or self.core.calls_python or not _is_little(messages)
        measured = yield Work(lambda: self.measure_now(messages), takes_long)
        self._is_warm = True
        return measured  # type: ignore[no-any-return]

    def measure_now(self, messages: list[Any], bodies: list[str] | None = None) -> Measured:
        """As `measured`, at once; `bodies` are what they were dumped to, if that is known."""
        readable = [self.format.read(message) for message in messages]
        if bodies is None:
            bodies = self._dumped(messages, readable)
        batch = self.core.read(readable)
        self.core.count(batch)
        return Measured(bodies, batch)

    def _dumped(self, messages: list[Any], readable: list[Any]) -> list[str]:
        # What the format of JSON reads is what it dumps.
        dumped = readable if type(self.format) is JsonFormat else messages
        bodies = [self.format.dump(message) for message in dumped]
        for body in bodies:
            if not isinstance(body, str):
                raise TypeError(f"a format's dump must return a str, got {type(body).__name__}")
            if "\0" in body or not _is_unicode(body):
                raise ValueError("a format's dump must return a str without NUL characters and surrogates")
        return bodies

    def messages(self, bodies: list[str]) -> Steps[list[Any]]:
        """Return the messages of bodies."""
        messages: list[Any] = yield Work(lambda: self.loaded(bodies), is_much(bodies))
        return messages

    def loaded(self, bodies: list[str]) -> list[Any]:
        """As `messages`, at once.

        Raises:
            ForeignDataError: for a body that the format made of no message.
        """
        try:
            if type(self.format) is JsonFormat:
                return self.format.load_all(bodies)
            return [self.format.load(body) for body in bodies]
        except ForeignDataError:
            raise
        except ValueError as error:
            raise ForeignDataError(f"a stored message was not written in this store's format: {error}") from error

    def readable(self, bodies: list[str]) -> list[Any]:
        """Return the messages of bodies, as the core reads them."""
        return [self.format.read(message) for message in self.loaded(bodies)]

    def head(self, rows: list[Row]) -> list[Row]:
        """Return the rows of a head, with the starts among them."""
        starts = self.core.head_starts([row[:2] for row in rows])
        return [row._replace(before=before) for row, before in zip(rows, starts, strict=True)]


def _checked(format: Any) -> Format[Any]:  # noqa: A002
    if isinstance(format, type) or not all(hasattr(format, name) for name in ("name", "read", "dump", "load")):
        kind = format.__name__ if isinstance(format, type) else type(format).__name__
        raise TypeError(
            f"format must be None, a provider's name or a Format, which has a name, read, dump and load; got {kind}"
        )
    checked: Format[Any] = format
    return checked


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:  # a surrogate without a partner
        return False


def _name_of(what: str, known: str | None, given: str | None) -> str:
    if known is not None:
        if given not in (None, known):
            raise ValueError(f"{what}_name is for callables; this {what} is known as {known!r}")
        return known
    if given is None:
        raise ValueError(f"a callable {what} needs a {what}_name, by which its sessions are known again")
    check_name(given, f"{what}_name")
    if given in (*TokenCounter.encodings(), "message", "text"):
        raise ValueError(f"{what}_name {given!r} is the name of another {what}, which counts otherwise")
    return given


def _is_little(messages: list[Any]) -> bool:
    """Return whether messages are dumped, read and counted in a millisecond or two, as far as can be seen at once."""
    if len(messages) > _FEW:
        return False
    size = 0
    for message in messages:
        values = message.values() if type(message) is dict else message if isinstance(message, tuple) else None
        if values is None or len(values) > 99:
            return False
        for value in values:
            if type(value) is str:
                size += len(value)
            elif value is not None and not isinstance(value, (bool, int)):
                return False
    return size <= _LITTLE


def is_much(bodies: list[str], characters: int = _MUCH) -> bool:
    """Return whether messages are loaded in more than a millisecond, or counted if they have so many characters."""
    return len(bodies) > _MANY or sum(map(len, bodies)) > characters
