"""`Measuring`: reads and counts messages under a store's policy. Here the formats meet the core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from chatring._core import TokenCounter, _Batch, _BlockMeasure, _StorePolicy
from chatring.formats.format import Format
from chatring.formats.json_format import JsonFormat
from chatring.stores.errors import ForeignDataError
from chatring.stores.names import check_name
from chatring.stores.operation import Operation, Work
from chatring.stores.policy_name import ANY, QUEUE, PolicyName, check_part
from chatring.stores.session import Row

# Messages and characters that are loaded in about a millisecond.
_MANY, _MUCH = 200, 2**15
# Characters and messages that are dumped, read and counted in about a millisecond.
_LITTLE, _FEW = 4_096, 32


class Measured(NamedTuple):
    """Messages that were dumped and read, and counted where tokens add up."""

    bodies: list[str]
    batch: _Batch


class Measuring:
    """Dumps, loads, reads and counts messages. For arguments and errors see `Store`.

    Attributes:
        core: the policy in the core.
        format: how messages are stored.
        name: identifies the policy.
    """

    def __init__(
        self,
        counter: Any,
        measure: Any,
        start_on: Any,
        format: Any,  # noqa: A002 (the word for it)
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
        format_name = format if isinstance(format, str) else None
        if not is_known and type(self.format) is not JsonFormat:
            format_name = check_part(check_name(self.format.name, "a format's name"), "a format's name")
        name = PolicyName(
            _name_of("counter", self.counter.name if self.counter.is_native else None, counter_name),
            _name_of("measure", _known_name(measure), measure_name),
            QUEUE if isinstance(measure, _BlockMeasure) else self.start_on or ANY,
            format_name,
        )
        self.name = str(name)
        self._dumps_readings = bool(_option(self.format, "dumps_readings", "read", "dump"))
        self._load_all = _option(self.format, "load_all", "load") or self._load_each
        self._is_warm = not self.counter.is_native

    def measured(self, messages: list[Any]) -> Operation[Measured]:
        """Dump, read and count messages.

        Raises:
            TypeError, ValueError: for a message that cannot be read or stored.
            Exception: whatever a callable raises, unchanged.
        """
        takes_long = not self._is_warm or self.core.calls_python or not is_little(messages)
        measured = yield Work(lambda: self.measure_now(messages), takes_long)
        self._is_warm = True
        return measured  # type: ignore[no-any-return]

    def measure_now(self, messages: list[Any], bodies: list[str] | None = None) -> Measured:
        """Like `measured`, at once. `bodies` are the dumped messages, if they are known."""
        readable = [self.format.read(message) for message in messages]
        if bodies is None:
            bodies = self._dumped(messages, readable)
        batch = self.core.read(readable)
        self.core.count(batch)
        return Measured(bodies, batch)

    def stored(self, rows: list[Row]) -> Measured:
        """Return messages with what is stored of them."""
        return Measured([row.body for row in rows], self.core.known([row[:2] for row in rows]))

    def _dumped(self, messages: list[Any], readable: list[Any]) -> list[str]:
        dumped = readable if self._dumps_readings else messages
        bodies = [self.format.dump(message) for message in dumped]
        for body in bodies:
            if not isinstance(body, str):
                raise TypeError(f"a format's dump must return a str, got {type(body).__name__}")
            if "\0" in body or not _is_unicode(body):
                raise ValueError("a format's dump must return a str without NUL characters and surrogates")
        return bodies

    def messages(self, bodies: list[str]) -> Operation[list[Any]]:
        """Return the messages with these bodies."""
        messages: list[Any] = yield Work(lambda: self.loaded(bodies), is_much(bodies))
        return messages

    def loaded(self, bodies: list[str]) -> list[Any]:
        """Like `messages`, at once.

        Raises:
            ForeignDataError: for a body that the format cannot load.
        """
        try:
            return self._load_all(bodies)
        except ForeignDataError:
            raise
        except ValueError as error:
            raise ForeignDataError(f"a stored message was not written in this store's format: {error}") from error

    def given_back(self, message: Any) -> Any:
        """Return what becomes of a message that is stored and loaded, without counting it. Raises as both do."""
        return self.loaded(self._dumped([message], [self.format.read(message)]))[0]

    def _load_each(self, bodies: list[str]) -> list[Any]:
        return [self.format.load(body) for body in bodies]

    def readable(self, bodies: list[str]) -> list[Any]:
        """Return the messages with these bodies, as the core reads them."""
        return [self.format.read(message) for message in self.loaded(bodies)]

    def head(self, rows: list[Row]) -> list[Row]:
        """Return the rows of a head, including which of them are starts."""
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


def _option(format: Any, name: str, *methods: str) -> Any:  # noqa: A002
    """Return what a format may have beside some methods; None if it does not, or if a subclass replaces a method."""
    for cls in type(format).__mro__:
        if name in vars(cls):
            return getattr(format, name)
        if not vars(cls).keys().isdisjoint(methods):
            break
    return None


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _known_name(measure: Any) -> str | None:
    return measure.name if isinstance(measure, _BlockMeasure) else measure if isinstance(measure, str) else None


def _name_of(what: str, known: str | None, given: str | None) -> str:
    if known is not None:
        if given not in (None, known):
            raise ValueError(f"{what}_name is for callables; this {what} is known as {known!r}")
        return known
    if given is None:
        raise ValueError(f"a callable {what} needs a {what}_name, which identifies it in its sessions")
    check_part(check_name(given, f"{what}_name"), f"{what}_name")
    if given in (*TokenCounter.encodings(), "message", "text"):
        raise ValueError(f"{what}_name {given!r} is the name of another {what}, which counts differently")
    return given


def listed(messages: Any, what: str = "messages must be") -> list[Any]:
    """Return messages as a list.

    Raises:
        TypeError: if they are no iterable of messages. It says `what` should be one.
    """
    if isinstance(messages, (str, bytes, dict)) or hasattr(messages, "_fields"):
        raise TypeError(f"{what} an iterable of messages, got one {type(messages).__name__}")
    try:
        iterator = iter(messages)
    except TypeError:
        raise TypeError(f"{what} an iterable of messages, got {type(messages).__name__}") from None
    return list(iterator)


def is_little(messages: list[Any]) -> bool:
    """Return whether messages are dumped, read and counted in a millisecond or two, as far as a quick look tells."""
    if len(messages) > _FEW:
        return False
    size = 0
    for message in messages:
        for value in _values(message):
            if type(value) is str:
                size += len(value)
            elif value is not None and not isinstance(value, (bool, int)):
                return False
    return size <= _LITTLE


def _values(message: Any) -> Iterable[Any]:
    """Return the parts of a message, if they are few; otherwise a list of one list."""
    if isinstance(blocks := getattr(message, "blocks", None), list) and len(blocks) < 99:  # LlamaIndex's
        texts = [getattr(block, "text", []) for block in blocks]
        kwargs = getattr(message, "additional_kwargs", None)
        return [*texts, *kwargs.values()] if isinstance(kwargs, dict) and len(kwargs) < 99 else [[]]
    values = message.values() if type(message) is dict else message if isinstance(message, tuple) else [[]]
    return values if len(values) < 99 else [[]]


def is_much(bodies: list[str], characters: int = _MUCH) -> bool:
    """Return whether loading messages takes more than a millisecond; or counting them, given that many `characters`."""
    return len(bodies) > _MANY or sum(map(len, bodies)) > characters
