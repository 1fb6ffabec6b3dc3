"""`BoundedStore`: what a chat store over `Sessions` and a store of `Memory` over `Sessions` have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from typing_extensions import Self

from chatring.llama_index.sessions import EvictionCallback, Sessions


class BoundedStore(BaseModel):
    """A store whose sessions are in this process, with their bounds as fields that may be assigned."""

    max_sessions: int | None = Field(default=None, ge=1)
    on_evict: EvictionCallback | None = Field(default=None, exclude=True)

    # Beside the fields in `__dict__`, as with functools.cached_property, because pydantic's private attributes take
    # half a microsecond to read.
    if TYPE_CHECKING:
        _sessions: Sessions[Any]

    def _hold(self, make: Callable[[], Any]) -> None:
        """Begin without sessions; `make` makes them."""
        self.__dict__["_sessions"] = Sessions(make, self.max_sessions, self.on_evict)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign a field. If `max_sessions` is lowered, the sessions that leave are reported.

        Raises:
            ValueError: for a `max_sessions` below 1, and for a field that is fixed.
        """
        if name == "max_sessions" and value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"max_sessions must be None or an integer of at least 1, got {value!r}")
        super().__setattr__(name, value)
        with self._sessions.changing() as change:
            self._bound()
            change.make_room()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy that shares the sessions and has its own bounds; a deep copy has its own sessions.

        Args:
            update: fields that differ in the copy; not those that are fixed.
            deep: whether to copy the sessions. The messages are never copied.

        Raises:
            ValueError: for another value of a field that is fixed.
        """
        copied = super().model_copy(update=update, deep=deep)
        copied._bound()
        return copied

    def __copy__(self) -> Self:
        """Return a store that shares the sessions and has its own bounds."""
        copied = super().__copy__()
        copied.__dict__["_sessions"] = copy.copy(self._sessions)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a store with its own lists and counts of the same messages."""
        copied = type(self)(**self._settings())
        copied._sessions.held.update(self._sessions.snapshot(copy.copy))
        return copied

    def _bound(self) -> None:
        self._sessions.max_sessions, self._sessions.on_evict = self.max_sessions, self.on_evict

    def _settings(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in type(self).model_fields}
