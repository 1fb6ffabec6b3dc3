"""`StorePolicy`: how sessions are counted and stored, as far as the command has options for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from chatring._core import MessageRing, TokenCounter
from chatring.stores import Store, open_store
from chatring.stores.policy_name import ANY, PolicyName

if TYPE_CHECKING:
    from chatring.formats import Format

PROVIDERS = ("openai-chat", "openai-responses", "anthropic", "gemini", "bedrock")
# By name: the module and class of the format for a framework's messages, imported when it is needed.
_OF_FRAMEWORKS = {
    "agent-framework": ("chatring.agent_framework.message_format", "MessageFormat"),
    "langchain": ("chatring.langchain.message_format", "MessageFormat"),
    "llama-index": ("chatring.llama_index.message_format", "MessageFormat"),
    "pydantic-ai": ("chatring.pydantic_ai.message_format", "ModelMessageFormat"),
}
FORMATS = (*PROVIDERS, *_OF_FRAMEWORKS)


class StorePolicy(NamedTuple):
    """The options of a store that are fixed with its sessions; the defaults are the store's."""

    counter: str = "o200k_base"
    measure: str = "message"
    start_on: str | None = "user"
    format: str | None = None

    @classmethod
    def named(cls, name: str) -> StorePolicy | None:
        """Return the policy that a session names; None if only the program that wrote it has it."""
        parts = PolicyName.parse(name)
        if (
            parts is None
            or parts.counter not in TokenCounter.encodings()
            or parts.measure not in ("message", "text")
            or parts.start_on not in ("user", ANY)
            or parts.format not in (None, *FORMATS)
        ):
            return None
        return cls(parts.counter, parts.measure, None if parts.start_on == ANY else parts.start_on, parts.format)

    @property
    def name(self) -> str:
        """The name, as sessions have it."""
        return str(PolicyName(self.counter, self.measure, self.start_on or ANY, self.format))

    @property
    def arguments(self) -> str:
        """The options for this policy on the command line."""
        options = {
            "encoding": self.counter,
            "measure": self.measure,
            "start-on": self.start_on or "none",
            "format": self.format,
        }
        return " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)

    def changed(self, given: dict[str, Any]) -> StorePolicy:
        """Return the policy with other options. Another measure brings its own start rule, unless one is given."""
        if given.get("measure", self.measure) != self.measure:
            given = {"start_on": None if given["measure"] == "text" else "user", **given}
        return self._replace(**given)

    def open(self, url: str) -> Store[Any]:
        """Return the store at a URL, with this policy. Raises the same as `open_store`."""
        return open_store(
            url,
            counter=self.counter,
            measure=self.measure,
            start_on=self.start_on,
            format=self.message_format() if self.format in _OF_FRAMEWORKS else self.format,
        )

    def message_format(self) -> Format[Any]:
        """Return the format of stored messages. Raises ModuleNotFoundError without its framework."""
        return format_named(self.format if self.format in _OF_FRAMEWORKS else None)

    def new_ring(self) -> Callable[[], MessageRing[Any]]:
        """Return a function that makes a ring, which counts what `message_format().read` returns like the store."""
        provider = {"format": self.format} if self.format in PROVIDERS else {}
        rule: dict[str, Any] = {"measure": self.measure, "start_on": self.start_on, **provider}
        return partial(MessageRing, counter=TokenCounter(self.counter), **rule)


class QueuePolicy(NamedTuple):
    """How a session of LlamaIndex's `Memory` is counted; the defaults are `Memory`'s."""

    counter: str = "cl100k_base"
    estimates: tuple[int, ...] | None = None  # tokens of media, in the order of its fields

    @classmethod
    def named(cls, name: str) -> QueuePolicy:
        """Return the policy that a session names, as far as the command has options for it."""
        parts = PolicyName.parse(name)
        if parts is None:
            return cls()
        # The number behind the estimates tells versions of LlamaIndex apart.
        *estimates, _ = parts.measure.removeprefix("llama-index-").split("-")
        return cls(
            parts.counter if parts.counter in TokenCounter.encodings() else cls().counter,
            tuple(map(int, estimates)) if all(part.isdecimal() for part in estimates) else None,
        )


def format_named(name: str | None) -> Format[Any]:
    """Return the format with this name; None: the one for JSON.

    Raises:
        ValueError: if there is none.
        ModuleNotFoundError: if its framework is not installed.
    """
    if name is None:
        from chatring.formats import JsonFormat

        return JsonFormat()
    if name not in _OF_FRAMEWORKS:
        raise ValueError(f"it is stored in the format {name!r}, which this command does not read")
    module, cls = _OF_FRAMEWORKS[name]
    return getattr(import_module(module), cls)()  # type: ignore[no-any-return]


def format_name_of(policy: str) -> str | None:
    """Return the format in a policy's name, if it is not JSON; even of policies that the command has no options for."""
    parts = PolicyName.parse(policy)
    return None if parts is None or parts.format in PROVIDERS else parts.format
