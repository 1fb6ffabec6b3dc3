"""The options of rings that `ChatMemoryBuffer` adds to LlamaIndex's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from chatring._core import MessageRing

# The values that give LlamaIndex's windows, and the defaults of rings.
LLAMA_INDEX: Final[Mapping[str, Any]] = {
    "measure": "text",
    "start_on": None,
    "include_system": False,
    "retention_ratio": 1.0,
}
_RINGS: Final[Mapping[str, Any]] = {
    "measure": "message",
    "start_on": "user",
    "include_system": True,
    "retention_ratio": 1.0,
}


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options among `values`. Missing ones get the default for their measure.

    An option is missing if it is not there, if it is an ellipsis, or if it is None (except `start_on`).

    Raises:
        ValueError: for an option that does not go with LlamaIndex's measure, and for an invalid value.
        TypeError: for a value of a wrong type.
    """
    measure = values.get("measure", "text")
    if measure not in ("text", "message"):
        raise ValueError(f'measure must be "text" or "message", got {measure!r}')
    options = dict(LLAMA_INDEX if measure == "text" else _RINGS)
    for name, default in options.items():
        value = values.get(name, ...)
        if value is ... or (value is None and name != "start_on"):
            continue
        if measure == "text" and value != default:
            raise ValueError(
                f'{name}={value!r} needs measure="message": measure="text" is LlamaIndex\'s rule, which goes with '
                f'{name}={default!r} alone. Add measure="message", or leave {name} out'
            )
        options[name] = value
    if measure == "message":
        MessageRing(**options)  # this says what is wrong with a value
    return options


def written(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options to save: those that differ from LlamaIndex's, or would be read as something else."""
    if options["measure"] == "text":
        return {}
    return {name: value for name, value in options.items() if name != "retention_ratio" or value != 1.0}
