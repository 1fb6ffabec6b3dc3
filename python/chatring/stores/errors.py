"""What can go wrong with a store. The driver's own error is the cause (`__cause__`) of each."""


class StoreError(Exception):
    """A store could not do what it was asked.

    Nothing of it was done, unless the connection was lost or the server did not answer: then a change is in the store
    as a whole or not at all.
    """


class StoreUnavailableError(StoreError, ConnectionError):
    """The server cannot be reached, or the connection was lost.

    Or it refuses the password, or has no such database; or it takes no changes, as a standby, or is moving the session
    to another server of the cluster: then nothing was done. A change under way when the connection was lost is in the
    store as a whole or not at all; read the session to know. The next call connects anew.
    """


class StoreTimeoutError(StoreError, TimeoutError):
    """Another writer held the session, all connections were in use, or Redis did not answer, for too long.

    SQLite and PostgreSQL have done nothing. A change that Redis did not answer is in the store as a whole or not at
    all; read the session to know.
    """


class StoreFullError(StoreError, OSError):
    """The disk, or the server's memory, has no room for the change."""


class ForeignDataError(StoreError, ValueError):
    """Something in the place of the store's data was not written by it."""


class SchemaVersionError(StoreError):
    """The store was written by another chatring, in a form that this one does not know."""


class CounterMismatchError(StoreError, ValueError):
    """The session was counted by another policy: counter, measure, start rule or format. `recount` counts it anew."""


def counter_mismatch(key: str, theirs: str, ours: str) -> CounterMismatchError:
    """Return the error of a session that was counted by the policy of the name `theirs`."""
    return CounterMismatchError(
        f"session {key!r} was counted with {theirs!r}, this store counts with {ours!r}; "
        f"open it with that counter, or call recount({key!r})"
    )
