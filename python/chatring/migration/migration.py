"""`migrate`: copying sessions into a store of ours, from where the last attempt ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chatring._core import MessageRing
from chatring.migration.existing import counts_of
from chatring.migration.policy import codec_named
from chatring.migration.source import Source
from chatring.stores import Store

if TYPE_CHECKING:
    from chatring.formats import Format

# Messages that are appended at once, and about how many characters: servers have limits.
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


def migrate(
    source: Source,
    keys: list[str],
    target: Store[Any],
    *,
    overwrite: bool = False,
    advanced: Callable[[float], object] = lambda sessions: None,
) -> Migration:
    """Copy sessions, and verify the numbers of their messages and tokens when all are copied.

    A session that is in the target already, or its beginning, is taken as copied so far: nothing is copied twice, and
    after an interruption the same call goes on. One session at a time is held in memory.

    Args:
        source: what to copy.
        keys: what `source.keys()` returned: the sessions to copy.
        target: where to.
        overwrite: whether to replace sessions that the target has with other messages, or under another policy.
            Without it they are left alone, and are among those that failed.
        advanced: called with the number of sessions that are done, parts of one too, whenever it has grown.

    Raises:
        StoreError: if a store fails. What was copied stays.
    """
    done = Migration()
    codec = _codec_of(target)
    present = set(target.keys())
    for number, key in enumerate(keys):
        try:
            messages = source.messages(key)
            bodies, tokens = _dumped_and_counted(messages, codec, target)
            batches, put_first = _plan(key, messages, bodies, target, codec, key in present, overwrite)
            put, left = put_first, sum(map(len, batches))
            for batch in batches:
                put(key, batch)
                put, left = target.append, left - len(batch)
                advanced(number + 1 - left / max(len(messages), 1))
            (done.copied if batches else done.already_there)[key] = len(messages), tokens
        except (TypeError, ValueError) as error:
            done.failed[key] = str(error)
        advanced(number + 1)
    _verify(done, target)
    return done


def _dumped_and_counted(messages: list[Any], codec: Format[Any], target: Store[Any]) -> tuple[list[str], int]:
    provider: dict[str, Any] = {"format": target.format} if isinstance(target.format, str) else {}
    ring: MessageRing[Any] = MessageRing(
        counter=target.counter, measure=target.measure, start_on=target.start_on, **provider
    )
    bodies: list[str] = []
    try:
        for message in messages:
            ring.put(codec.read(message))
            bodies.append(codec.dump(message))
    except (TypeError, ValueError) as error:
        # Not the words of a framework's format: they may show the message.
        reason = error if not codec.name or isinstance(error, ValueError) else f"it is not of {codec.name}"
        raise ValueError(f"message {len(bodies)}: {reason}") from error
    return bodies, ring.token_count()


def _plan(
    key: str,
    messages: list[Any],
    bodies: list[str],
    target: Store[Any],
    codec: Format[Any],
    is_present: bool,
    overwrite: bool,
) -> tuple[list[list[Any]], _Put]:
    """Return the messages to copy, in batches, and how the first batch gets there; the others are appended."""
    if not is_present:
        # A session without messages cannot be begun by appending.
        return _batches(messages, bodies) or [[]], target.append if messages else target.replace
    kept = [codec.dump(message) for message in target.all(key)]
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

    # Its messages stay where they are: they may be the source's own, in a database of which there are two URLs.
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


def _verify(done: Migration, target: Store[Any]) -> None:
    """Look at the numbers in the target, and take what differs for failed."""
    for sessions in (done.copied, done.already_there):
        for key, expected in list(sessions.items()):
            found = counts_of(target, key) or (0, 0)
            if found != expected:
                del sessions[key]
                done.failed[key] = (
                    f"the target has {found[0]:,} messages and {found[1]:,} tokens, expected {expected[0]:,} and "
                    f"{expected[1]:,}; does somebody write to it meanwhile? run the command again"
                )


def _codec_of(store: Store[Any]) -> Format[Any]:
    return codec_named(None) if store.format is None or isinstance(store.format, str) else store.format
