"""Conversations in files of JSON, whatever wrote them: OpenAI's lines, request bodies, data sets, logs of agents."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import IO, Any, TypeAlias

from chatring._core import MessageRing
from chatring.recordings.envelope import CONVERSATION, LISTS, MESSAGE, History, Message, find, find_titled, shown
from chatring.recordings.json_file import read_values

Conversation: TypeAlias = MessageRing[Message]
NewConversation: TypeAlias = Callable[[], Conversation]
# A value with one of these is meant to be read, so it is not a header.
_MEANT = ("role", "content", "parts", "text", "value", "mes", *LISTS)
_NAMED_KEYS = 10


class ConversationError(ValueError):
    """A file without readable conversations. The text names the line to blame, counted from 1."""


@dataclass
class Reading:
    """The conversations of a file, and what else was in it."""

    conversations: list[Conversation] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Counts of what is not a message and need not be: `header`, or the types of a log's events."""
    skipped: int = 0
    """The number of damaged lines."""
    first_skipped: str = ""
    """The first damaged line, and what is wrong with it."""


def read_conversations(stream: IO[bytes], new: NewConversation, *, skip_invalid: bool = False) -> Reading:
    """Return the conversations of a file of JSON: of its lines, or of whole documents.

    Each value is a message, something that contains messages (a list, a request, a result, an envelope), or one of the
    other lines that logs have. If each line is a message, all are one conversation.

    Messages are handed on as they are in the file. Only those of ShareGPT (`from`, `value`) and SillyTavern (`is_user`,
    `mes`) become `{"role", "content"}`. Instructions beside messages become the first message, with the role system.

    Args:
        stream: the file, as bytes.
        new: makes an empty conversation. What that refuses cannot be read.
        skip_invalid: count what cannot be read, instead of raising an error.

    Raises:
        ConversationError: for a value that is not JSON, or that contains no message; for messages beside conversations;
            if there is neither; if the file as a whole cannot be read.
    """
    reader = _Reader(new, skip_invalid=skip_invalid)
    try:
        for number, value in read_values(stream):
            reader.take(f"line {number}", value)
        return reader.reading()
    except ValueError as error:
        raise ConversationError(str(error)) from error


def concatenate(
    conversations: Iterable[Conversation], new: NewConversation, *, repeat_prompt: bool = True
) -> Conversation:
    """Return one history of all messages, in order.

    Args:
        conversations: where the messages are.
        new: makes an empty conversation.
        repeat_prompt: False leaves out the first one's leading system messages where others begin with them too.
    """
    history = new()
    prompt: list[Message] = []
    for number, conversation in enumerate(conversations):
        messages = list(conversation)
        if number == 0 and not repeat_prompt:
            prompt = list(takewhile(lambda message: message.get("role") in ("system", "developer"), messages))
        is_repeated = number > 0 and messages[: len(prompt)] == prompt
        history.put_messages(messages[len(prompt) :] if is_repeated else messages)
    return history


class _Reader:
    """Takes the values of a file or a list, one after another."""

    def __init__(self, new: NewConversation, *, skip_invalid: bool) -> None:
        self._new = new
        self._skip_invalid = skip_invalid
        self._reading = Reading()
        self._form = self._form_place = self._first_left_out = ""

    def take(self, place: str, value: Any) -> None:
        """Take a value. Its place is, for example, `line 7`."""
        try:
            self._take(place, value)
        except (ValueError, RecursionError) as error:
            reason = f"{place}: {'nested too deeply' if isinstance(error, RecursionError) else error}"
            if not self._skip_invalid:
                raise ValueError(reason) from error
            self._reading.skipped += 1
            self._reading.first_skipped = self._reading.first_skipped or reason

    def reading(self) -> Reading:
        """Return what was read; it must be something."""
        if not self._reading.conversations:
            skipped = self._reading.skipped and f"no messages: nothing can be read; {self._reading.first_skipped}"
            raise ValueError(self._first_left_out or skipped or "no messages: the file is empty")
        return self._reading

    def _take(self, place: str, value: Any) -> None:
        if isinstance(value, ValueError):
            raise value
        if isinstance(value, list):
            form, conversations = CONVERSATION, self._of_list(place, value)
        elif found := find(value) or find_titled(value):
            form, conversations = found[0], list(map(self._conversation, found[1]))
        else:
            self._leave_out(place, value)
            return
        if self._form not in ("", form):
            raise ValueError(f"this is {form}, but {self._form_place} is {self._form}; all lines must be of one form")
        if not self._form:
            self._form, self._form_place = form, place
        if form == MESSAGE and self._reading.conversations:
            self._reading.conversations[0].put_messages(conversations[0])
        else:
            self._reading.conversations += conversations

    def _of_list(self, place: str, values: list[Any]) -> list[Conversation]:
        if not values:
            return [self._new()]
        inner = _Reader(self._new, skip_invalid=self._skip_invalid)
        for index, value in enumerate(values):
            inner.take(f"[{index}]", value)
        reading = inner.reading()
        self._reading.left_out += reading.left_out
        self._reading.skipped += reading.skipped
        if reading.skipped and not self._reading.first_skipped:
            self._reading.first_skipped = f"{place}: {reading.first_skipped}"
        return reading.conversations

    def _conversation(self, history: History) -> Conversation:
        conversation = self._new()
        for place, message in history:
            _put(conversation, place, message)
        return conversation

    def _leave_out(self, place: str, value: Any) -> None:
        """Leave out an event of a log, or what comes before the first message."""
        keys = f"its keys: {_some_keys(value)}" if isinstance(value, dict) else f"it is {shown(value)}"
        reason = f'neither a message with a role nor a conversation, {{"messages": [...]}}; {keys}'
        name = _event(value) if isinstance(value, dict) else None
        if name is None:
            if not isinstance(value, dict) or self._form or not value.keys().isdisjoint(_MEANT):
                raise ValueError(reason)
            name = "header"
        self._reading.left_out[name] += 1
        self._first_left_out = self._first_left_out or f"{place}: {reason}"


def _put(conversation: Conversation, place: str, message: Message) -> None:
    try:
        conversation.put(message)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}" if place else str(error)) from error


def _event(value: Message) -> str | None:
    names = (value.get("type"), value.get("record_type"), "hidden message" if "mes" in value else None)
    return next((name for name in names if isinstance(name, str)), None)


def _some_keys(value: Message) -> str:
    keys = [shown(key) for key in list(value)[:_NAMED_KEYS]]
    return ", ".join(keys + ["..."] * (len(value) > _NAMED_KEYS)) or "none"
