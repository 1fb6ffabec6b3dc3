"""What thirty honest lines of Python would do, grown to what the comparison needs: the same windows as chatring.

`MessageTwin` does it for `measure="message"`, the others for `measure="text"`, LlamaIndex's. The others'
accounting rule is in `docs/design.md`: a message's *step* is what `" " + text` adds to the texts before it, a start's
*opening* the tokens of the window's head, a window's total its opening and the steps after it. As in chatring

- prefix sums of the steps are kept in a list, counted from the newest message backwards and no further than a window
  reaches, so that a long history costs no more than its window;
- starts are in a separate list, beside the running maximum of what each saves, so that `bisect` finds the earliest one
  that fits even where totals are not monotone;
- the content is kept beside each sum, and every message of a window is checked, by identity, for still having it.

Left out: bounds, several counters, removal, threads, and all checks of arguments.
"""

import operator
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import tiktoken
from llama_index.core.llms import ChatMessage

_M = TypeVar("_M")

# Putting a message in front can make a window's total fall, by a token or two: see `SLACK` in `src/core/joined.rs`.
_SLACK = 8
_CONTENT = operator.itemgetter("content")
_SPACE_AFTER_WORD = re.compile(r"(?<=\S) ")


class HonestTwin(Generic[_M]):
    """The history of a `MessageRing` in pure Python, for messages that are dicts."""

    def __init__(self, token_limit: int, encoding: tiktoken.Encoding) -> None:
        self._limit = token_limit
        self._encode = encoding.encode
        self._special = encoding.special_tokens_set
        self._messages: list[_M] = []
        self._forget()

    def put(self, message: _M) -> None:
        self._messages.append(message)

    def put_messages(self, messages: Iterable[_M]) -> None:
        self._messages.extend(messages)

    def get(self, verify: bool = True) -> list[_M]:
        if not self._messages:
            return []
        while True:
            if self._end < len(self._messages):
                self._count_newer()
            start = self._start()
            window = self._messages[start:]
            if not verify or self._unchanged(window, start):
                return window
            self._forget()

    def _content(self, message: Any) -> str | None:
        content: str | None = message["content"]
        return content

    def _may_start(self, message: Any) -> bool:
        return message["role"] not in ("assistant", "tool")

    def _unchanged(self, window: Sequence[Any], start: int) -> bool:
        """Whether these messages, which begin at `start`, have what was counted."""
        return all(map(operator.is_, map(_CONTENT, window), self._contents[start - self._first :]))

    def _start(self) -> int:
        """Return where the window starts."""
        index = bisect_left(self._saved, self._sums[-1] - self._limit)
        if index < len(self._starts):
            return self._starts[index]
        for start in self._blank_starts:
            if self._count(" ".join(self._texts(start, self._end))) <= self._limit:
                return start
        return self._end - 1

    def _forget(self) -> None:
        # The counted messages are those from `first` to `end`.
        self._first = self._end = 0
        self._sums: list[int] = []  # of steps, up to and with each counted message
        self._contents: list[str | None] = []  # what was counted
        self._starts: list[int] = []  # legal starts, and for each the most that it or one before it saves:
        self._saved: list[int] = []  # a window costs the last sum less what its start saves
        self._blank_starts: list[int] = []  # legal starts with nothing but blank messages after them

    def _count_newer(self) -> None:
        """Count what was put since, or the window alone if that has nothing from before in it."""
        end = len(self._messages)
        steps = self._steps(self._end, end)
        if len(steps) < end - self._end:
            self._forget()
            self._first = end - len(steps)
        self._extend(end, steps)

    def _steps(self, first: int, end: int) -> list[int]:
        """Return the steps of the messages before `end`, oldest first, back to `first` or where no window reaches."""
        steps: list[int] = []
        budget = self._limit + _SLACK
        while end > first and budget >= 0:
            end -= 1
            steps.append(self._step(end))
            budget -= steps[-1]
        return steps[::-1]

    def _step(self, index: int) -> int:
        if index == 0:
            return 0
        text, before = self._text(index), self._text(index - 1)
        if before and not before[-1].isspace():
            return self._count(" " + text)
        start = index - 1
        while start > 0 and _is_blank(self._text(start)):
            start -= 1
        context = " ".join(self._texts(start, index))
        return self._count(context + " " + text) - self._count(context)

    def _extend(self, end: int, steps: list[int]) -> None:
        """Add the messages before `end` with their `steps` after those that are counted."""
        for index, step in zip(range(end - len(steps), end), steps, strict=True):
            message = self._messages[index]
            text = self._text(index)
            total = (self._sums[-1] if self._sums else 0) + step
            self._sums.append(total)
            self._contents.append(self._content(message))
            legal = index == 0 or self._may_start(message)
            if not _is_blank(text):
                self._add_blank_starts(index, total)
                if legal:
                    self._add_start(index, total - self._opening(text, step, index))
            elif legal:
                self._blank_starts.append(index)
        self._end = end

    def _opening(self, text: str, step: int, index: int) -> int:
        """Return the tokens of `text` alone. Only its head differs from `step`: the rest is not counted again."""
        before = self._text(index - 1) if index else ""
        if not before or before[-1].isspace():
            return self._count(text)
        space = _SPACE_AFTER_WORD.search(text)
        head = text[: space.start()] if space else text
        return step - self._count(" " + head) + self._count(head)

    def _add_blank_starts(self, head: int, total: int) -> None:
        for start in self._blank_starts:
            self._add_start(start, total - self._count(" ".join(self._texts(start, head + 1))))
        self._blank_starts.clear()

    def _add_start(self, index: int, saved: int) -> None:
        self._starts.append(index)
        self._saved.append(max(saved, self._saved[-1]) if self._saved else saved)

    def _text(self, index: int) -> str:
        return str(self._content(self._messages[index]))

    def _texts(self, start: int, end: int) -> list[str]:
        return [self._text(index) for index in range(start, end)]

    def _count(self, text: str) -> int:
        # Naming the special tokens spares tiktoken a search of the text for forbidden ones.
        return len(self._encode(text, allowed_special=self._special, disallowed_special=()))


class ChatMessageTwin(HonestTwin[ChatMessage]):
    """The same for LlamaIndex's messages, whose `content` is computed from their `blocks` at each access."""

    def _content(self, message: Any) -> str | None:
        blocks = message.blocks
        content: str | None = blocks[0].text if len(blocks) == 1 else message.content
        return content

    def _may_start(self, message: Any) -> bool:
        return message.role not in ("assistant", "tool")

    def _unchanged(self, window: Sequence[Any], start: int) -> bool:
        # The fastest of eight forms tried. None means no block, or several: those are compared by value.
        blocks = map(operator.attrgetter("blocks"), window)
        texts = [block[0].text if len(block) == 1 else None for block in blocks]
        contents = self._contents[start - self._first :]
        if all(map(operator.is_, texts, contents)):
            return True
        return all(map(operator.eq, map(self._content, window), contents))


# What a message, a name, a call and a result add to the texts, and several calls in one message: the numbers of
# OpenAI's chat in `src/core/measure.rs`.
_MESSAGE, _NAME, _CALL, _PARALLEL, _RESULT = 4, 1, 4, 19, 4


class MessageTwin(HonestTwin[dict[str, Any]]):
    """The same for `measure="message"` and OpenAI's dicts: everything that is sent, each message by itself.

    Counts add up, so there is less to do: a window costs the sum of its messages, and starts need no companion.
    """

    def __init__(self, token_limit: int, encoding: tiktoken.Encoding) -> None:
        super().__init__(token_limit, encoding)
        self._ordinary = encoding.encode_ordinary

    def _unchanged(self, window: Sequence[Any], start: int) -> bool:
        # Beside the content: as many fields, and the same parts of calls.
        since = start - self._first
        if not super()._unchanged(window, start):
            return False
        if not all(map(operator.eq, map(len, window), self._lengths[since:])):
            return False
        for index in range(bisect_left(self._with_parts, start), len(self._with_parts)):
            now, parts = _parts(self._messages[self._with_parts[index]]), self._parts[index]
            if len(now) != len(parts) or not all(map(operator.is_, now, parts)):
                return False
        return True

    def _start(self) -> int:
        index = bisect_left(self._saved, self._sums[-1] - self._limit)
        return self._starts[index] if index < len(self._starts) else self._end - 1

    def _forget(self) -> None:
        super()._forget()
        self._lengths: list[int] = []  # of each counted message's dict
        self._with_parts: list[int] = []  # the counted messages with calls or a name, and what was counted of them
        self._parts: list[list[str]] = []

    def _step(self, index: int) -> int:
        return message_tokens(self._messages[index], self._ordinary)

    def _extend(self, end: int, steps: list[int]) -> None:
        for index, step in zip(range(end - len(steps), end), steps, strict=True):
            message = self._messages[index]
            before = self._sums[-1] if self._sums else 0
            self._sums.append(before + step)
            self._contents.append(message["content"])
            self._lengths.append(len(message))
            if parts := _parts(message):
                self._with_parts.append(index)
                self._parts.append(parts)
            if index == 0 or self._may_start(message):
                self._starts.append(index)
                self._saved.append(before)
        self._end = end


def message_tokens(message: dict[str, Any], encode: Callable[[str], list[int]]) -> int:
    """Return the tokens of everything that is sent of a message."""
    content, parts = message["content"], _parts(message)
    tokens = _MESSAGE + sum(len(encode(text)) for text in parts)
    if content:
        tokens += len(encode(content))
    if calls := len(message.get("tool_calls") or ()):
        tokens += calls * _CALL + (calls > 1) * _PARALLEL
    if message["role"] == "tool":
        tokens += _RESULT
    return tokens + _NAME if message.get("name") else tokens


def _parts(message: dict[str, Any]) -> list[str]:
    """Return what counts of a message beside its content: its name, and the names and arguments of its calls."""
    parts: list[str] = []
    if name := message.get("name"):
        parts.append(name)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        parts.append(function["name"])
        parts.append(function["arguments"])
    return parts


def _is_blank(text: str) -> bool:
    return not text or text.isspace()
