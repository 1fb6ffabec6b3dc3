"""`migrate`: copies sessions into one of our stores, from where the last attempt ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chatring._core import MessageRing
from chatring.migration.existing import counts_of
from chatring.migration.memories import Memories
from chatring.migration.policy import StorePolicy
from chatring.migration.source import Queue, QueueSource, Source
from chatring.stores import Store
from chatring.stores.policy_name import PolicyName

if TYPE_CHECKING:
    pass

# Messages to append at once, and about how many characters: servers have limits.
_MOST_MESSAGES = 2000
_MOST_SIZE = 16 * 1024 * 1024

_Put = Callable[[str, list[Any]], None]


@dataclass
class Migration:
    """What was done: sessions by key, with their messages and tokens."""

    copied: dict[str, tuple[int, int]] = field(default_factory=dict)
    already_there: dict[str, tuple[int, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Why a session was not copied, or is not what it should be."""
    archived: dict[str, int] = field(default_factory=dict)
    """For sessions of LlamaIndex's `Memory` that were copied or exist: how many of their messages are archived."""
    counted_by: dict[str, str] = field(default_factory=dict)
    """For these, and for those that failed: the policy's name, which may differ."""
    remarks: dict[str, str] = field(default_factory=dict)
    """What has changed in a session that was copied or existed already."""

    @property
    def policy_of_all(self) -> StorePolicy | None:
        """The policy of all sessions, if they are `Memory`'s and share one."""
        names = set(self.counted_by.values())
        if len(names) != 1 or not self.counted_by.keys() >= {*self.copied, *self.already_there}:
            return None
        name = PolicyName.parse(names.pop())
        return None if name is None else StorePolicy(*name)


def migrate(
    source: Source,
    keys: list[str],
    target: Store[Any],
    *,
    memories: Memories | None = None,
    overwrite: bool = False,
    advanced: Callable[[float], object] = lambda sessions: None,
) -> Migration:
    """Copy sessions. When all are copied, verify the numbers of their messages and tokens.

    If the target has a session already, or its beginning, that counts as copied. So nothing is copied twice, and after
    an interruption the same call goes on. One session at a time is in memory. A session of LlamaIndex's `Memory` is
    copied in one change, with its archived messages.

    Args:
        source: what to copy.
        keys: the sessions to copy, as `source.keys()` returned them.
        target: where to copy them.
        memories: of the same store, for sessions of `Memory`; None makes them histories.
        overwrite: whether to replace sessions that the target has with other messages, or under another policy.
            Otherwise they are left alone, and are among those that failed.
        advanced: called with the number of sessions done, including parts of one, whenever it grows.

    Raises:
        StoreError: if a store fails. What was copied stays.
    """
    done = Migration()
    present = set(target.keys())
    for number, key in enumerate(keys):
        try:
            if memories is not None and isinstance(source, QueueSource):
                queue = source.queue(key)
                if queue is not None:
                    _copy_queue(key, queue, memories, done, overwrite)
                    advanced(number + 1)
                    continue
            messages = source.messages(key)
            bodies, tokens = _dumped_and_counted(messages, target)
            batches, put_first = _plan(key, messages, bodies, target, key in present, overwrite)
            put, left = put_first, sum(map(len, batches))
            for batch in batches:
                put(key, batch)
                put, left = target.append, left - len(batch)
                advanced(number + 1 - left / max(len(messages), 1))
            (done.copied if batches else done.already_there)[key] = len(messages), tokens
        except (TypeError, ValueError) as error:
            done.failed[key] = str(error)
        advanced(number + 1)
    _verify(done, target, memories)
    return done


def _copy_queue(key: str, queue: Queue, memories: Memories, done: Migration, overwrite: bool) -> None:
    done.counted_by[key] = memories.policy_of(queue)
    is_new, tokens = memories.copy(key, queue, overwrite=overwrite)
    (done.copied if is_new else done.already_there)[key] = len(queue.messages), tokens
    done.archived[key] = queue.archived
    if queue.remark is not None:
        done.remarks[key] = queue.remark


def _dumped_and_counted(messages: list[Any], target: Store[Any]) -> tuple[list[str], int]:
    provider: dict[str, Any] = {"format": target.format} if isinstance(target.format, str) else {}
    ring: MessageRing[Any] = MessageRing(
        counter=target.counter, measure=target.measure, start_on=target.start_on, **provider
    )
    own = target._message_format
    bodies: list[str] = []
    try:
        for message in messages:
            ring.put(own.read(message))
            bodies.append(own.dump(message))
    except (TypeError, ValueError) as error:
        # Not the text of a framework's error, which may show the message.
        reason = error if not own.name or isinstance(error, ValueError) else f"it is not of {own.name}"
        raise ValueError(f"message {len(bodies)}: {reason}") from error
    return bodies, ring.token_count()


def _plan(
    key: str,
    messages: list[Any],
    bodies: list[str],
    target: Store[Any],
    is_present: bool,
    overwrite: bool,
) -> tuple[list[list[Any]], _Put]:
    """Return the messages to copy, in batches, and what stores the first batch. The others are appended."""
    if not is_present:
        # A session without messages cannot be begun by appending.
        return _batches(messages, bodies) or [[]], target.append if messages else target.replace
    kept = [target._message_format.dump(message) for message in target.all(key)]
    if bodies[: len(kept)] != kept:
        if not overwrite:
            raise ValueError("the target has other messages under this key; --overwrite replaces them")
        # All at once: an interruption leaves what was there, or all that takes its place.
        return [messages], target.replace
    missing = _batches(messages[len(kept) :], bodies[len(kept) :])
    session = target.info(key)
    if session is None or session.policy == target.policy_name:
        return missing, target.append
    if not overwrite:
        raise ValueError(
            f"the target has counted this session by {session.policy!r}; --overwrite counts it by "
            f"{target.policy_name!r}"
        )

    # Here messages keep their positions. They may be the source's own, in a database that has two URLs.
    def count_and_append(key: str, batch: list[Any]) -> None:
        target.recount(key)
        target.append(key, batch)

    return missing or [[]], count_and_append


def _batches(messages: list[Any], bodies: list[str]) -> list[list[Any]]:
    batches: list[list[Any]] = []
    size = 0
    for message, body in zip(messages, bodies, strict=True):
        if not batches or len(batches[-1]) == _MOST_MESSAGES or size + len(body) > _MOST_SIZE:
            batches.append([])
            size = 0
        batches[-1].append(message)
        size += len(body)
    return batches


def _verify(done: Migration, target: Store[Any], memories: Memories | None) -> None:
    """Compare the numbers with the target's. Sessions that differ have failed."""
    for sessions in (done.copied, done.already_there):
        for key, expected in list(sessions.items()):
            policy, archived = done.counted_by.get(key, target.policy_name), done.archived.get(key)
            found = counts_of(target, key, policy) or (0, 0)
            difference = None
            if found != expected:
                difference = (
                    f"{found[0]:,} messages and {found[1]:,} tokens, expected {expected[0]:,} and {expected[1]:,}"
                )
            elif memories is not None and archived is not None:
                kept = memories.archived(key, policy)
                if kept != archived:
                    difference = f"archived {kept:,} messages, expected {archived:,}"
            if difference is not None:
                del sessions[key]
                done.archived.pop(key, None)
                done.remarks.pop(key, None)
                done.failed[key] = (
                    f"the target has {difference}; is another program writing to it? run the command again"
                )
