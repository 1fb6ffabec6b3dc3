"""The conversations of a file, and rings for them."""

from functools import partial
from typing import Any

import click
from rich.progress import Progress

from chatring._core import MessageRing, TokenCounter
from chatring.cli.options import ENCODING
from chatring.cli.refusal import Refusal, refusals
from chatring.cli.terminal import amount, one_line
from chatring.recordings.conversation import (
    Conversation,
    ConversationError,
    NewConversation,
    Reading,
    read_conversations,
)
from chatring.stores.redaction import without_secrets


def ring_of(
    given: dict[str, Any], *, include_system: bool | None = None, retention_ratio: float | None = None
) -> tuple[TokenCounter, NewConversation]:
    """Return what counts the history of a file, and a function that makes an empty one."""
    options = dict(given, include_system=include_system, retention_ratio=retention_ratio)
    rule = {name: value for name, value in options.items() if value is not None or name == "start_on"}
    counter = rule["counter"] = TokenCounter(rule.get("counter", ENCODING))
    new = partial(MessageRing, **rule)
    with refusals():
        new()
    return counter, new


def read_file(file: str, new: NewConversation, progress: Progress, *, skip_invalid: bool) -> Reading:
    """Read a file, or standard input if it is `-`."""
    try:
        if progress.disable:
            with click.open_file(file, "rb") as stream:
                return read_conversations(stream, new, skip_invalid=skip_invalid)
        with progress.open(file, "rb", description="reading") as reported:
            return read_conversations(reported, new, skip_invalid=skip_invalid)
    except OSError as error:
        raise Refusal(f"{without_secrets(file)}: {error.strerror}") from error
    except ConversationError as error:
        raise Refusal(f"{'standard input' if file == '-' else without_secrets(file)}: {error}") from error


def choose(conversations: list[Conversation], chosen: int | None) -> list[tuple[int, Conversation]]:
    """Return the conversations with their numbers: all, or the chosen one."""
    numbered = [(n, conversation) for n, conversation in enumerate(conversations, 1) if chosen in (None, n)]
    if not numbered:
        raise Refusal(f"no conversation {chosen}: the file has {len(conversations):,}, numbered from 1")
    return numbered


def tell_what_is_left_out(reading: Reading) -> None:
    """Print on standard error what was left out or skipped."""
    if reading.left_out:
        counts = ", ".join(f"{name} ({count:,})" for name, count in reading.left_out.items())
        click.echo(one_line(f"Left out because they are not messages: {counts}"), err=True)
    if reading.skipped:
        click.echo(one_line(f"Skipped {amount(reading.skipped, 'damaged line')}: {reading.first_skipped}"), err=True)


def refuse_session(session: str | None) -> None:
    """Refuse a session beside a file."""
    if session is not None:
        raise Refusal(f"a session, {session!r}, needs the URL of a store, such as sqlite:///chat.db; a file has none")
