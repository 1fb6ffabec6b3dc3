"""What can go wrong with a store. The driver's own error is the cause (`__cause__`) of each."""


class StoreError(Exception):
    """A store could not do what it was asked.

    Nothing was done, unless the connection was lost or the server did not answer. Then a change is stored as a whole or
    not at all.
    """


class StoreUnavailableError(StoreError, ConnectionError):
    """The server cannot be reached, or the connection was lost.

    The server may also refuse the password, lack the database, be a read-only standby, or be moving the session to
    another server of the cluster. Then nothing was done. A change that was under way when the connection was lost is
    stored as a whole or not at all; read the session to find out. The next call connects again.
    """


class StoreTimeoutError(StoreError, TimeoutError):
    """For too long, another writer held the session, all connections were in use, or Redis did not answer.

    SQLite and PostgreSQL have done nothing. A change that Redis did not answer is stored as a whole or not at all; read
    the session to find out.
    """


class StoreFullError(StoreError, OSError):
    """The disk or the server's memory has no room for the change."""


class ForeignDataError(StoreError, ValueError):
    """Data under chatring's keys or tables was not written by chatring."""


class SchemaVersionError(StoreError):
    """The store was written by another version of chatring, in a form that this one does not know."""


class CounterMismatchError(StoreError, ValueError):
    """The session was counted by another policy: counter, measure, start rule or format. `recount` counts it again."""


def counter_mismatch(key: str, theirs: str, ours: str) -> CounterMismatchError:
    """Return the error for a session that was counted by the policy named `theirs`."""
    return CounterMismatchError(
        f"session {key!r} was counted under the policy {theirs!r} (counter, measure, start rule, format), this store's "
        f"is {ours!r}: open it with those options, or call recount({key!r})"
    )


def kind_mismatch(key: str, is_memory: bool) -> CounterMismatchError:
    """Return the error for a session of LlamaIndex's `Memory` used as an ordinary one, or the other way round."""
    kind = "one" if is_memory else "not one"
    return CounterMismatchError(
        f"session {key!r} is {kind} of LlamaIndex's Memory; use another key, or delete it first"
    )
