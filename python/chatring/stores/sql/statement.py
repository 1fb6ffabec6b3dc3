"""`Statement`: what an operation runs in a SQL database; and the files with the texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

_NAMED = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_TABLE = re.compile(r"\bchatring_(?:session|message|schema)\b")
_VALUE = re.compile(r"(?<!:):(\w+)")


class Statement(NamedTuple):
    """A statement, by its name in the file.

    A connection answers with the rows. If the statement returns none, it answers with the number of rows changed.
    """

    name: str
    values: Mapping[str, Any] = {}
    many: Iterable[tuple[Any, ...]] | None = None  # SQLite: runs it with each of these


def read_statements(*names: str, value: str = r":\1", schema: str | None = None) -> dict[str, str]:
    """Return the statements in files of this package, by name.

    Args:
        names: of the files.
        value: how the driver writes a value, as a replacement for `:name`.
        schema: the schema with the tables, quoted.
    """
    statements = {}
    for name in names:
        _, *parts = _NAMED.split(files(__package__).joinpath(name).read_text("utf-8"))
        for title, text in zip(parts[::2], parts[1::2], strict=True):
            plain = _VALUE.sub(value, _COMMENT.sub("", text)).strip().removesuffix(";")
            statements[title] = plain if schema is None else _TABLE.sub(rf"{schema}.\g<0>", plain)
    return statements
