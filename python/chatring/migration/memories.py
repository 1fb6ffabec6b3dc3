"""`Memories`: sessions of LlamaIndex's `Memory` in one of our stores, read and copied as a whole."""

from __future__ import annotations

from typing import Any

from chatring._core import TokenCounter
from chatring.migration.policy import QueuePolicy
from chatring.migration.source import Queue
from chatring.stores import Store
from chatring.stores.measuring import Measuring
from chatring.stores.names import check_key
from chatring.stores.operation import Operation
from chatring.stores.policy_name import is_queue
from chatring.stores.queues import Queues
from chatring.stores.session import Change, Session


class Memories:
    """The sessions of `Memory` in a store. LlamaIndex is needed from the first one on.

    Args:
        store: has the sessions, beside histories of its own policy.
        counter: the encoding to count with; None: the one that counted a session at its source, or LlamaIndex's
            default.
    """

    def __init__(self, store: Store[Any], counter: str | None = None) -> None:
        self._store = store
        self._counter = counter
        self._queues: dict[QueuePolicy, _Queues] = {}

    def read(self, key: str, policy: str) -> Queue | None:
        """Return a session that this policy counted, as it is at one moment.

        Raises:
            ValueError: if a message is not a `ChatMessage`.
        """
        return self._store._run(self._of(QueuePolicy.named(policy)).read(key))

    def policy_of(self, queue: Queue) -> str:
        """Return the name of the policy that counts a session here."""
        return self._of(self._policy(queue)).policy_name

    def copy(self, key: str, queue: Queue, *, overwrite: bool) -> tuple[bool, int]:
        """Make a session equal to one elsewhere, in one change, or in none if it is equal already.

        Returns:
            Whether there was a change, and the session's tokens.

        Args:
            key: the session.
            queue: what it must become. It may have grown since it was copied, and archived more.
            overwrite: whether to replace a session that is something else.

        Raises:
            TypeError, ValueError: if a message cannot be stored, or the store has something else under this key.
        """
        return self._store._run(self._of(self._policy(queue)).copy(check_key(key), queue, overwrite), key)

    def archived(self, key: str, policy: str) -> int:
        """Return how many messages are archived in a session of this policy."""
        return self._store._run(self._of(QueuePolicy.named(policy)).count(key, "archived"))

    def _policy(self, queue: Queue) -> QueuePolicy:
        policy = QueuePolicy() if queue.policy is None else QueuePolicy.named(queue.policy)
        return policy if self._counter is None else policy._replace(counter=self._counter)

    def _of(self, policy: QueuePolicy) -> _Queues:
        queues = self._queues.get(policy)
        if queues is None:
            queues = self._queues[policy] = _Queues(self._store._backend, _measuring(policy), self._store.timeout)
        return queues


class _Queues(Queues):
    """Queues that can be read, and compared with queues elsewhere."""

    @property
    def policy_name(self) -> str:
        """The name of the policy, as sessions have it."""
        return self._measuring.name

    def read(self, key: str) -> Operation[Queue | None]:
        """Return a session of `Memory`: see `Memories`."""
        tries = 0
        while (session := (yield from self._backend.read(key))) is not None:
            bodies = yield from self._bodies(key, session)
            if (yield from self._changes.is_still(key, session)):
                messages = yield from self._measuring.messages(bodies)
                return Queue(messages, session.lead - session.first, policy=session.policy)
            tries = self._changes.outrun(key, tries)
        return None

    def copy(self, key: str, queue: Queue, overwrite: bool) -> Operation[tuple[bool, int]]:
        """Copy a session: see `Memories`."""
        try:
            measured = yield from self._measuring.measured(queue.messages)
        except (TypeError, ValueError) as error:
            refusal = self._refusal(queue.messages)
            if refusal is None:
                raise
            raise refusal from error
        tokens = measured.batch.tokens

        def plan(session: Session | None) -> Operation[tuple[Change | None, bool]]:
            if session is not None:
                difference = yield from self._difference(key, session, measured.bodies, queue.archived)
                if difference is None:
                    return None, False
                if difference and not overwrite:
                    raise ValueError(difference)
            change = yield from self._changes.appending(key, None, measured)
            numbers = self._with_cut(change.session, queue.archived, sum(tokens[: queue.archived]))
            return change._replace(session=numbers, head=[]), True

        is_new: bool = yield from self._changes.make(key, plan, any_policy=True)
        return is_new, sum(tokens)

    def _difference(self, key: str, session: Session, bodies: list[str], archived: int) -> Operation[str | None]:
        """Return why a session is not the beginning of another one; "" if it is, None if it is equal to it."""
        if not is_queue(session.policy):
            return (
                f"the target has a session under this key that is not of Memory, counted by {session.policy!r}; "
                "--overwrite replaces it"
            )
        kept = yield from self._bodies(key, session)
        if bodies[: len(kept)] != kept:
            return "the target has other messages under this key; --overwrite replaces them"
        done = session.lead - session.first
        if done > archived:
            return (
                f"the target has archived {done:,} of these messages, and not {archived:,}; --overwrite makes them "
                "active again"
            )
        if session.policy != self.policy_name:
            return (
                f"the target has counted this session by {session.policy!r}; --overwrite counts it by "
                f"{self.policy_name!r}"
            )
        return None if (len(kept), done) == (len(bodies), archived) else ""

    def _bodies(self, key: str, session: Session) -> Operation[list[str]]:
        rows = yield from self._backend.rows(key, session, session.first, session.end)
        return [row.body for _, row in rows]

    def _refusal(self, messages: list[Any]) -> ValueError | None:
        """Return an error that says which message cannot be stored, without its contents."""
        for number, message in enumerate(messages):
            try:
                self._measuring.format.dump(message)
            except ValueError as error:
                return ValueError(f"message {number}: {error}")
            try:
                self._measuring.format.read(message)
            except (TypeError, ValueError):
                return ValueError(f"message {number}: LlamaIndex could not read it back from its JSON")
        return None


def _measuring(policy: QueuePolicy) -> Measuring:
    """Return how `Memory` measures. Raises ModuleNotFoundError without LlamaIndex."""
    from chatring.llama_index.memory_policy import DEFAULTS, MemoryFormat, MemoryPolicy

    counter = TokenCounter(policy.counter)
    estimates = DEFAULTS
    if policy.estimates is not None and len(policy.estimates) == len(DEFAULTS):
        estimates = dict(zip(DEFAULTS, policy.estimates, strict=True))
    return Measuring(counter, MemoryPolicy.of(counter, estimates).measure, None, MemoryFormat(), None, None)
