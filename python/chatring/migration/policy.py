"""`StorePolicy`: how sessions are counted and stored, as far as the command can say it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from chatring._core import MessageRing, TokenCounter
from chatring.stores import Store, open_store

if TYPE_CHECKING:
    from chatring.formats import Format

PROVIDERS = ("openai-chat", "openai-responses", "anthropic", "gemini", "bedrock")
# By name: the module and class of a framework's messages, which is imported when it is needed.
_CODECS = {"llama-index": ("chatring.llama_index.message_format", "MessageFormat")}
FORMATS = (*PROVIDERS, *_CODECS)
# What `Store` calls a policy: its parts.
_SEPARATOR = ", "
_STARTS = {"user": "user", "any": None}


class StorePolicy(NamedTuple):
    """The options of a store that are fixed with its sessions; the defaults are the store's."""

    counter: str = "o200k_base"
    measure: str = "message"
    start_on: str | None = "user"
    format: str | None = None

    @classmethod
    def named(cls, name: str) -> StorePolicy | None:
        """Return the policy that a session says it has; None if only the program that wrote it has it."""
        counter, measure, start_on, *rest = [*name.split(_SEPARATOR), "", ""][: max(name.count(_SEPARATOR) + 1, 3)]
        format_name = rest[0] if rest else None
        is_known = counter in TokenCounter.encodings() and measure in ("message", "text") and start_on in _STARTS
        if not is_known or len(rest) > 1 or format_name not in (None, *FORMATS):
            return None
        return cls(counter, measure, _STARTS[start_on], format_name)

    @property
    def name(self) -> str:
        """What a session says."""
        return _SEPARATOR.join([self.counter, self.measure, self.start_on or "any", *filter(None, [self.format])])

    @property
    def arguments(self) -> str:
        """What to write on the command line for this policy."""
        options = {
            "encoding": self.counter,
            "measure": self.measure,
            "start-on": self.start_on or "none",
            "format": self.format,
        }
        return " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)

    def changed(self, given: dict[str, Any]) -> StorePolicy:
        """Return the policy with other options; another measure has its own rule for starts, unless one is given."""
        if given.get("measure", self.measure) != self.measure:
            given = {"start_on": None if given["measure"] == "text" else "user", **given}
        return self._replace(**given)

    def open(self, url: str) -> Store[Any]:
        """Return the store at a URL, with this policy. Raises: as `open_store`."""
        return open_store(
            url,
            counter=self.counter,
            measure=self.measure,
            start_on=self.start_on,
            format=self.codec() if self.format in _CODECS else self.format,
        )

    def codec(self) -> Format[Any]:
        """Return what turns messages into what is stored. Raises ModuleNotFoundError without its framework."""
        return codec_named(self.format if self.format in _CODECS else None)

    def new_ring(self) -> Callable[[], MessageRing[Any]]:
        """Return what makes a ring that counts what `codec().read` returns as the store does."""
        provider = {"format": self.format} if self.format in PROVIDERS else {}
        rule: dict[str, Any] = {"measure": self.measure, "start_on": self.start_on, **provider}
        return partial(MessageRing, counter=TokenCounter(self.counter), **rule)


def codec_named(name: str | None) -> Format[Any]:
    """Return the format of this name; None: of JSON.

    Raises:
        ValueError: if there is none.
        ModuleNotFoundError: if its framework is not installed.
    """
    if name is None:
        from chatring.formats import JsonFormat

        return JsonFormat()
    if name not in _CODECS:
        raise ValueError(f"it is stored in the format {name!r}, which this command does not read")
    module, cls = _CODECS[name]
    return getattr(import_module(module), cls)()  # type: ignore[no-any-return]


def codec_name_of(policy: str) -> str | None:
    """Return the format in a policy's name, if it is not JSON; also of policies that the command cannot have."""
    *others, start_on, last = policy.split(_SEPARATOR)
    return last if len(others) >= 2 and start_on in _STARTS and last not in PROVIDERS else None
