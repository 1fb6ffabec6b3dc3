"""`migrate`: copying sessions into a store of ours, from where the last attempt ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chatring._core import MessageRing, TokenCounter
from chatring.migration.source import Source
from chatring.stores import CounterMismatchError, Record, Store

# Records that are appended at once, and about how many characters: servers have limits.
_MOST_RECORDS = 2000
_MOST_SIZE = 16 * 1024 * 1024


@dataclass
class Migration:
    """What was done: sessions by key, with their messages and tokens."""

    copied: dict[str, tuple[int, int]] = field(default_factory=dict)
    already_there: dict[str, tuple[int, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Why a session was not copied, or is not what it should be."""


def migrate(
    source: Source,
    lengths: dict[str, int],
    target: Store,
    *,
    overwrite: bool = False,
    advanced: Callable[[int], object] = lambda messages: None,
) -> Migration:
    """Copy sessions, and verify the numbers of their messages and tokens when all are copied.

    A session that is in the target already, or its beginning, is taken as copied so far: nothing is copied twice, and
    after an interruption the same call goes on. One session at a time is held in memory.

    Args:
        source: what to copy.
        lengths: what `source.lengths()` returned: the sessions to copy.
        target: where to.
        overwrite: whether to replace sessions that the target has with other messages, or under another counter.
            Without it they are left alone, and are among those that failed.
        advanced: called with a number of messages whenever so many more are done.

    Raises:
        StoreError: if a store fails. What was copied stays.
    """
    done = Migration()
    present = set(target.keys())
    for key, length in lengths.items():
        left = length
        try:
            records = source.records(key)
            counts = len(records), _tokens(records, target.counter)
            batches, put_first = _plan(key, records, target, key in present, overwrite)
            for batch in batches:
                put_first(key, batch)
                put_first = target.append
                advanced(len(batch))
                left -= len(batch)
            (done.copied if batches else done.already_there)[key] = counts
        except ValueError as error:
            done.failed[key] = str(error)
        advanced(left)
    _verify(done, target)
    return done


def _plan(
    key: str, records: list[Record], target: Store, is_present: bool, overwrite: bool
) -> tuple[list[list[Record]], Callable[[str, list[Record]], None]]:
    """Return the records to copy, in batches, and how the first batch gets there; the others are appended."""
    if not is_present:
        # A session without records cannot be begun by appending.
        return _batches(records) or [[]], target.append if records else target.replace
    kept = target.all(key)
    if records[: len(kept)] != kept:
        if not overwrite:
            raise ValueError("the target has other messages under this key; --overwrite replaces them")
        # All at once: an interruption leaves what was there, or all that takes its place.
        return [records], target.replace
    missing = _batches(records[len(kept) :])
    if not _has_other_counter(target, key):
        return missing, target.append
    if not overwrite:
        raise ValueError("the target has counted this session with another counter; --overwrite counts it anew")

    # Its messages stay where they are: they may be the source's own, in a database of which there are two URLs.
    def count_and_append(key: str, batch: list[Record]) -> None:
        target.recount(key)
        target.append(key, batch)

    return missing or [[]], count_and_append


def _batches(records: list[Record]) -> list[list[Record]]:
    batches: list[list[Record]] = []
    size = 0
    for record in records:
        record_size = len(record.text) + len(record.payload or b"")
        if not batches or len(batches[-1]) == _MOST_RECORDS or size + record_size > _MOST_SIZE:
            batches.append([])
            size = 0
        batches[-1].append(record)
        size += record_size
    return batches


def _has_other_counter(target: Store, key: str) -> bool:
    try:
        target.token_count(key)
    except CounterMismatchError:
        return True
    return False


def _verify(done: Migration, target: Store) -> None:
    """Count again in the target, and take what differs for failed."""
    for sessions in (done.copied, done.already_there):
        for key, expected in list(sessions.items()):
            found = target.length(key), target.token_count(key)
            if found != expected:
                del sessions[key]
                done.failed[key] = (
                    f"the target has {found[0]:,} messages and {found[1]:,} tokens, expected {expected[0]:,} and "
                    f"{expected[1]:,}; does somebody write to it meanwhile? run the command again"
                )


def _tokens(records: list[Record], counter: TokenCounter) -> int:
    ring: MessageRing[Record] = MessageRing(counter=counter, measure="text")
    ring.put_messages(records)
    return ring.token_count()
