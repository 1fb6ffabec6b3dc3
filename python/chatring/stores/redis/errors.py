"""Maps what a Redis or Valkey server reports to the errors of the stores."""

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

# By the first word of an error. If a script of an older server passes it on, the word is within the text.
_BY_WORD: dict[str, type[StoreError]] = {
    "OOM": StoreFullError,
    "MISCONF": StoreFullError,  # cannot write its files
    "WRONGTYPE": ForeignDataError,
    "BUSY": StoreTimeoutError,  # it runs somebody's script
    "READONLY": StoreUnavailableError,
    "LOADING": StoreUnavailableError,
    "MASTERDOWN": StoreUnavailableError,
    "NOREPLICAS": StoreUnavailableError,
    "CLUSTERDOWN": StoreUnavailableError,
}
_WORD = re.compile(rf"\b({'|'.join(_BY_WORD)})\b")

# redis-py's texts for an exhausted pool, which has no class of its own on all clients.
_EXHAUSTED = ("No connection available.", "Too many connections")

_REDIRECTED = (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError)

_ADVICE: dict[type[StoreError], str] = {
    StoreUnavailableError: "cannot be reached or takes no changes now; check that it runs and try again",
    StoreTimeoutError: "did not answer in time; try again",
    StoreFullError: "is full; nothing was stored",
    ForeignDataError: "has data under a session's keys that was not written by chatring",
    StoreError: "refused",
}


def is_lost(error: Exception) -> bool:
    """Return whether the connection broke, so that the same command may succeed on a new one."""
    # A server that is loading, or refuses the password, does so on a new connection too.
    refused = (exceptions.BusyLoadingError, exceptions.AuthenticationError)
    return isinstance(error, exceptions.ConnectionError) and not (isinstance(error, refused) or is_exhausted(error))


def is_exhausted(error: Exception) -> bool:
    """Return whether a pool had no connection for too long. Then nothing was sent."""
    return isinstance(error, exceptions.ConnectionError) and str(error) in _EXHAUSTED


def store_error(error: Exception, url: str, *, may_have_changed: bool) -> StoreError:
    """Return the error to raise from `error`, which the server at `url` caused.

    Args:
        error: from redis-py.
        url: the store's, without secrets.
        may_have_changed: whether a change was under way.
    """
    # A client without a cluster has no class for these in an older redis-py; one with a cluster follows them.
    if isinstance(error, _REDIRECTED) or str(error).startswith(("MOVED ", "ASK ", "TRYAGAIN ")):
        return StoreError(f"{url} is a node of a cluster; add cluster=true to the URL: redis://host/?cluster=true")
    if isinstance(error, exceptions.ClusterError) and "TTL exhausted" in str(error):  # redirected too often
        return StoreUnavailableError(
            f"{url} is moving the slot of this session to another server, so its keys are on two servers; "
            "nothing was done, try again when the slot has moved"
        )
    if is_exhausted(error):
        return StoreTimeoutError(f"{url}: all connections were in use for too long; try again or allow more")
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
