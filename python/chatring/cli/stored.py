"""A store at a URL, and a session in it."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from chatring.cli.refusal import Refusal, refusals
from chatring.migration import StorePolicy, is_url, open_existing
from chatring.recordings.envelope import Message
from chatring.stores import Record, Store
from chatring.stores.redaction import without_secrets

if TYPE_CHECKING:
    from chatring.formats import Format

# The most sessions named in an error.
_NAMED = 5


class StoredMessages:
    """The messages of a store's session, to count and to show."""

    def __init__(self, message_format: "Format[Any]") -> None:
        self._format = message_format

    def readable(self, messages: Iterable[Any]) -> list[Any]:
        """Return messages as a ring counts them."""
        return [self._format.read(message) for message in messages]

    def shown(self, message: Any) -> Message:
        """Return a message as JSON."""
        if isinstance(message, Record):
            return {"role": message.role, "content": message.text}
        value = message if isinstance(message, dict) else json.loads(self._format.dump(message))
        return value if isinstance(value, dict) else {"content": value}


@contextlib.contextmanager
def opened_store(url: str) -> Iterator[Store[Any]]:
    """Open an existing store, whatever its policy."""
    with refusals():
        if not is_url(url):
            raise Refusal(f"this needs the URL of a store, such as sqlite:///chat.db; got {without_secrets(url)}")
        with contextlib.closing(open_existing(url)) as store:
            yield store


@contextlib.contextmanager
def opened_session(
    url: str, session: str | None, given: dict[str, Any], *, must_fit: bool
) -> Iterator[tuple[StorePolicy, Store[Any], str]]:
    """Open a store with a session's policy, changed by the given options. They must fit where sums are read."""
    with contextlib.ExitStack() as opened, refusals():
        with opened_store(url) as store:
            found = None if session is None else store.info(session)
            if session is None or found is None:
                keys = store.keys()
                named = ", ".join(map(repr, keys[:_NAMED])) + (", ..." if len(keys) > _NAMED else "")
                reason = "which session?" if session is None else f"no session {session!r};"
                raise Refusal(f"{without_secrets(url)}: {reason} it has {len(keys):,}: {named}")
        own = StorePolicy.named(found.policy)
        policy = (own or StorePolicy()).changed(given)
        if own is None and (must_fit or not given):
            raise Refusal(
                f"session {session!r} was counted by {found.policy!r}, which only the program that wrote it has"
                + ("" if must_fit else "; say how to count it: --encoding NAME")
            )
        if own is not None and policy != own:
            same = policy.message_format().name == own.message_format().name
            if must_fit or not same:
                raise Refusal(
                    f"session {session!r} was counted by {own.name!r}: give {own.arguments}, or none of these options"
                )
        yield policy, opened.enter_context(contextlib.closing(policy.open(url))), session


def refuse_skipping(skip_invalid: bool) -> None:
    """Refuse `--skip-invalid` for a store."""
    if skip_invalid:
        raise Refusal("--skip-invalid is for files; a store has no damaged lines")
