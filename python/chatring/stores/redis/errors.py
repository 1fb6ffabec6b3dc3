"""What a Redis or Valkey server reports, as the errors of the stores."""

from __future__ import annotations

import re

from redis import exceptions

from chatring.stores.errors import (
    ForeignDataError,
    StoreError,
    StoreFullError,
    StoreTimeoutError,
    StoreUnavailableError,
)

# The order matters: some are subclasses of others.
_BY_CLASS: tuple[tuple[type[Exception], type[StoreError]], ...] = (
    (exceptions.OutOfMemoryError, StoreFullError),
    (exceptions.TimeoutError, StoreTimeoutError),
    (TimeoutError, StoreTimeoutError),
    (exceptions.ReadOnlyError, StoreUnavailableError),
    (exceptions.ConnectionError, StoreUnavailableError),
    (exceptions.ClusterError, StoreUnavailableError),
    (exceptions.RedisClusterException, StoreUnavailableError),
    (OSError, StoreUnavailableError),
)

# By the word with which an error begins; within the text where a script of an older server passes it on.
_BY_WORD: dict[str, type[StoreError]] = {
    "OOM": StoreFullError,
    "MISCONF": StoreFullError,  # cannot write its files
    "WRONGTYPE": ForeignDataError,
    "BUSY": StoreTimeoutError,  # with somebody's script
    "READONLY": StoreUnavailableError,
    "LOADING": StoreUnavailableError,
    "MASTERDOWN": StoreUnavailableError,
    "NOREPLICAS": StoreUnavailableError,
    "CLUSTERDOWN": StoreUnavailableError,
}
_WORD = re.compile(rf"\b({'|'.join(_BY_WORD)})\b")

# What redis-py says, which has no class for it on all clients.
_EXHAUSTED = ("No connection available.", "Too many connections")

_REDIRECTED = (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError)

_ADVICE: dict[type[StoreError], str] = {
    StoreUnavailableError: "cannot be reached or takes no changes now; check that it runs and try again",
    StoreTimeoutError: "did not answer in time; try again",
    StoreFullError: "is full; nothing was stored",
    ForeignDataError: "has something in the place of a session that was not written by chatring",
    StoreError: "refused",
}


def is_lost(error: Exception) -> bool:
    """Return whether the connection broke, and the same command may succeed on a new one."""
    # A server that is loading, or refuses the password, does so on a new connection as well.
    refused = (exceptions.BusyLoadingError, exceptions.AuthenticationError)
    return isinstance(error, exceptions.ConnectionError) and not (isinstance(error, refused) or is_exhausted(error))


def is_exhausted(error: Exception) -> bool:
    """Return whether a pool had no connection for too long, so that nothing was sent."""
    return isinstance(error, exceptions.ConnectionError) and str(error) in _EXHAUSTED


def store_error(error: Exception, url: str, *, may_have_changed: bool) -> StoreError:
    """Return the error to raise from `error`, which the server at `url` (without secrets) caused.

    Args:
        error: of redis-py.
        url: the store's, without secrets.
        may_have_changed: whether a change was under way.
    """
    # An older redis-py has no class for these on a client that is not of a cluster, and one of a cluster follows them.
    if isinstance(error, _REDIRECTED) or str(error).startswith(("MOVED ", "ASK ", "TRYAGAIN ")):
        return StoreError(f"{url} is a node of a cluster; add cluster=true to the URL: redis://host/?cluster=true")
    if isinstance(error, exceptions.ClusterError) and "TTL exhausted" in str(error):  # redirected too often
        return StoreUnavailableError(
            f"{url} is moving the slot of this session to another server, and has not all of its keys in one place; "
            "nothing was done, try again when the slot has moved"
        )
    if is_exhausted(error):
        return StoreTimeoutError(f"{url}: all of its connections are in use, for too long; try again or make more")
    kind = _kind(error)
    advice = "refused the connection" if isinstance(error, exceptions.AuthenticationError) else _ADVICE[kind]
    if may_have_changed and (is_lost(error) or kind is StoreTimeoutError):
        advice += "; a change under way is stored as a whole or not at all, read the session to know"
    return kind(f"{url} {advice}: {' '.join(str(error).split())}")


def _kind(error: Exception) -> type[StoreError]:
    for reported, kind in _BY_CLASS:
        if isinstance(error, reported):
            return kind
    word = _WORD.search(str(error))
    return _BY_WORD[word[1]] if word else StoreError
