"""`check_store`: what an adapter needs of a store, checked before anything runs."""

from __future__ import annotations

from typing import Any

from chatring.stores.store import Store


def check_store(store: Any, formats: type[Any], example: Any, needs: str) -> None:
    """Check that a store keeps an adapter's messages, and that each of its windows is a valid request.

    The format may be a user's own, such as one that encrypts. If it does not derive from the adapter's, it has to give
    the example back.

    Args:
        store: what the adapter was given.
        formats: the class of formats for the adapter's messages.
        example: one of these messages.
        needs: what to say if the store is not one of such messages: what needs which store, and how to open it.

    Raises:
        TypeError: if it is not a store, or one of other messages.
        ValueError: if it has another start rule.
    """
    if not isinstance(store, Store):
        raise TypeError(f"{needs}; got {type(store).__name__}")
    if not isinstance(store._message_format, formats):
        try:
            loaded = store._measuring.given_back(example)
        except Exception as error:
            raise TypeError(f"{needs}; got {store!r}") from error
        if not isinstance(loaded, type(example)):
            raise TypeError(f"{needs}; got {store!r}")
    if store.start_on != "user":
        raise ValueError(
            f"store must have start_on='user', got {store.start_on!r}: its windows could begin with a result "
            "without its call; open it without measure='text' and start_on"
        )
