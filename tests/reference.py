"""What the tests compare the ring with, written from the words of the design, not from the implementation.

`first_fit` is the window rule with LlamaIndex's starts, whatever counts. `joined_total` counts joined texts, as
LlamaIndex does, and `window_start` goes with it. `summed_total` is the accounting rule, which is what is promised for a
callable whose counts do not add up to those of the joined text. `message_measure` is what `measure="message"` counts of
one message, by way of the literal reading in `reading.py`; additive measures need no more than `sums`.
"""

import copy
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import reading
import tiktoken
from hypothesis import strategies as st

Content: TypeAlias = Any  # str, None, or a list of parts
Count: TypeAlias = Callable[[str], int]
Total: TypeAlias = Callable[[Sequence[str]], int]
Measure: TypeAlias = Callable[[Any], int]

ROLES = ("system", "developer", "user", "assistant", "function", "tool", "chatbot", "model")


@dataclass(eq=False)
class Message:
    role: Any
    content: Any


def text_of(content: Content) -> str:
    """Return the text that a message counts as."""
    if content is None:
        return "None"
    if isinstance(content, str):
        return content
    texts: list[Any] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            texts.append(part.get("text"))
        else:
            texts.append(getattr(part, "text", None))
    return "\n".join(text for text in texts if isinstance(text, str))


def without_surrogates(text: str) -> str:
    """Return the text as tiktoken counts it: pairs of surrogates are one character, single ones U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tiktoken_count(encoding: tiktoken.Encoding) -> Count:
    return lambda text: len(encoding.encode(text, allowed_special="all"))


def joined_total(count: Count) -> Total:
    """Return what counts a window as LlamaIndex does: all its texts joined by one space."""
    return lambda texts: count(" ".join(texts))


def summed_total(tokenize: Callable[[str], Sized]) -> Total:
    """Return what counts a window by the accounting rule, with the counts of `tokenize`."""

    @functools.cache
    def count(text: str) -> int:
        return len(tokenize(without_surrogates(text)))

    def added(before: str | None, joined: str) -> int:
        if before is None:
            return count(joined)
        if has_word(before[-1:]):
            return count(" " + joined) - count("")
        return count(before + " " + joined) - count(before)

    def total(texts: Sequence[str]) -> int:
        tokens, before, segment = 0, None, list[str]()
        for text in texts:
            segment.append(text)
            if has_word(text):
                tokens += added(before, " ".join(segment))
                before, segment = text, []
        return tokens + (added(before, " ".join(segment)) if segment else 0)

    return total


def words_after_a_beginning(text: str) -> list[str]:
    """Tokenize with a token more for every text that has words: the sums are not the joined count."""
    return ["<s>", *text.split()] if has_word(text) else []


def has_word(text: str) -> bool:
    """Tell whether there is a character other than Unicode's White_Space."""
    # Python's isspace() has four characters more. These separators are not whitespace for Unicode and for encodings.
    return any(not character.isspace() or character in "\x1c\x1d\x1e\x1f" for character in text)


def may_start(role: str) -> bool:
    return role not in ("assistant", "tool")


def first_fit(
    totals: Sequence[int], starts: Sequence[bool], limit: int, initial: int = 0, *, is_whole: bool = True
) -> int:
    """Return where the window starts, by the window rule: the first start that fits, or the last message.

    `totals[i]` is T(i): the tokens of the messages from `i` on. `starts[i]` says whether a window may begin there; it
    may with the last message in any case, and with the first unless others have left a bounded ring before it: then the
    history is not whole.
    """
    last = len(totals) - 1
    for i, total in enumerate(totals):
        if (i == last or (i == 0 and is_whole) or starts[i]) and total + initial <= limit:
            return i
    return last


def window_start(
    totals: Sequence[int], roles: Sequence[str], limit: int, initial: int = 0, *, is_whole: bool = True
) -> int:
    """Return where the window starts, with LlamaIndex's starts: any role except two."""
    return first_fit(totals, [may_start(role) for role in roles], limit, initial, is_whole=is_whole)


# What a message costs beside its texts, under `measure="message"`: docs/counting.md says where the numbers come from.
OVERHEADS = {
    "openai-chat": {"message": 4, "named": 1, "calls": 4, "parallel": 19, "results": 4, "images": 765, "audio": 600,
                    "files": 1_500},
    "openai-responses": {"message": 4, "named": 1, "calls": 7, "parallel": 0, "results": 6, "images": 765, "audio": 600,
                         "files": 1_500},
    "anthropic": {"message": 4, "named": 0, "calls": 26, "parallel": 32, "results": 26, "images": 1_568, "audio": 0,
                  "files": 3_000},
    "bedrock": {"message": 4, "named": 0, "calls": 26, "parallel": 32, "results": 26, "images": 1_568, "audio": 2_880,
                "files": 3_000},
    "gemini": {"message": 1, "named": 0, "calls": 0, "parallel": 0, "results": 0, "images": 1_120, "audio": 1_920,
               "files": 560},
}  # fmt: skip


def overhead(read: reading.Reading, plain: str = "openai-chat") -> int:
    """Return what a message costs beside its texts; `plain` is the provider of those that look like OpenAI's chat."""
    costs = OVERHEADS[plain if read.provider == "openai-chat" else read.provider]
    parts: dict[str, int] = vars(read.extras)
    more = costs["parallel"] if read.extras.calls > 1 else 0
    return costs["message"] + more + sum(costs[part] * number for part, number in parts.items())


def message_measure(count: Count, plain: str = "openai-chat") -> Measure:
    """Return what `measure="message"` counts of a message."""

    def measure(message: Any) -> int:
        read = reading.read(message)
        return overhead(read, plain) + sum(count(without_surrogates(text)) for text in read.texts)

    return measure


def ordinary_count(encoding: tiktoken.Encoding) -> Count:
    """Return what counts a text under `measure="message"`: special tokens typed in it are ordinary text."""
    return lambda text: len(encoding.encode_ordinary(text))


def sums(tokens: Sequence[int]) -> list[int]:
    """Return T(i) for every i, under a measure where a message counts the same at every position."""
    return list(itertools.accumulate(reversed(tokens)))[::-1]


def additive_start(
    messages: Sequence[Any], measure: Measure, limit: int, initial: int = 0, *, is_whole: bool = True
) -> int:
    """Return where the window starts under an additive measure, with messages as they are now."""
    starts = [reading.read(message).may_start for message in messages]
    return first_fit(sums([measure(message) for message in messages]), starts, limit, initial, is_whole=is_whole)


def is_whole(ring: Any) -> bool:
    """Tell whether no message has left a ring for others."""
    try:
        ring.slice(0, len(ring))
    except IndexError:
        return False
    return True


def kept_of(put: Iterable[Message], bound: int) -> tuple[list[Message], bool]:
    """Return what a bounded ring under `measure="text"` keeps of messages put one by one, and whether none has left.

    The results of a call leave with it, also those that come later.
    """
    kept: list[Message] = []
    is_whole, is_left_over = True, False
    for message in put:
        if is_left_over and message.role == "tool":
            continue
        kept.append(message)
        is_left_over = False
        if len(kept) > bound:
            kept = list(itertools.dropwhile(lambda message: message.role == "tool", kept[1:]))
            is_whole, is_left_over = False, not kept
    return kept, is_whole


def window_of(
    messages: Sequence[Message], total: Total, limit: int, initial: int = 0, *, is_whole: bool = True
) -> list[Message]:
    """Return the window of `messages`, with no more totals than the search from the oldest on needs."""
    texts = [text_of(message.content) for message in messages]
    last = len(messages) - 1
    for i, message in enumerate(messages):
        is_start = i == last or (i == 0 and is_whole) or may_start(message.role)
        if is_start and total(texts[i:]) + initial <= limit:
            return list(messages[i:])
    return list(messages[-1:])


# What has been known to break tokenizers, pre-tokenisers and sums of counts.
FRAGMENTS = (
    *("", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\t", "\t \t", "\r\n", "\r", " \r\n ", "\x0b", "\x0c"),
    *("\xa0", " \xa0", "\xa0 ", "\u2002", "\u2003 ", "\u202f", "\u205f", "\u3000", "\u3000\n"),
    *("\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\u2028", "\u2029", "\u1680", "\u200b", "\u180e", "\ufeff", "\x00"),
    *("<|endoftext|>", "<|endofprompt|>", "<|fim_prefix|>", "<|fim_middle|>", "<|im_start|>", "<|start|>", "<|call|>"),
    *(
        "<|",
        "|>",
        "<",
        "|",
        ">",
        "<|endoftext",
        "endoftext|>",
        "<|endof",
        "text|>",
        "<|<|endoftext|>|>",
        "<|reserved_2",
    ),
    *(
        "世界",
        "你好，",
        "日本語のテスト",
        "한국어",
        "ไทย",
        "हिन्दी",
        "العربية",
        "שלום",
        "Ελληνικά",
        "é",
        "e\u0301",
        "ß",
        "ſ",
    ),
    *("😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "\u200d", "\ufe0f", "🇩🇪", "𝒳", "\U0010ffff"),
    *("\ud800", "\udc00", "\ud83d\ude00", "\udfff "),
    *("don't", "'s", "'ll", "'VE", "'", "I'm", "'Re", "1", "12", "123", "1234", "3.14", "1,000,000", "٣٤٥", "½", "²"),
    *(
        "a",
        "b c",
        " the",
        "the ",
        "Oklahoma",
        "HelloWorld",
        "camelCaseXML",
        "x_y",
        "None",
        "aaaaaaaa",
        "zzzzzzzzzzzzzzzz",
    ),
    *(
        "!",
        "?!",
        "...",
        " .",
        ". ",
        "\n}",
        "{\n",
        "};\n\n",
        "/",
        "//\n",
        "--",
        "=" * 20,
        "$%^",
        "“”",
        "—",
        "```\n",
        "#",
    ),
)

fragments = st.sampled_from(FRAGMENTS)
texts = st.one_of(
    fragments,
    st.lists(fragments, max_size=5).map("".join),
    st.lists(st.sampled_from("".join(sorted(set("".join(FRAGMENTS))))), max_size=6).map("".join),
)
blank_texts = st.sampled_from(("", "", " ", "\n", "  ", " \n", "\t", "\xa0", "\x85", "\u2028 ", "\u3000"))


@dataclass(eq=False)
class TextPart:
    """A part of a content as LlamaIndex and others have it."""

    text: Any


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/i.png"}}
parts = st.one_of(
    texts,
    texts.map(lambda text: {"type": "text", "text": text}),
    texts.map(TextPart),
    st.sampled_from((IMAGE, {"type": "text", "text": None}, TextPart(None))),
)
contents: st.SearchStrategy[Content] = st.one_of(
    texts, texts, texts, texts, blank_texts, st.none(), st.lists(parts, max_size=3)
)
# Half of all messages may not start a window.
roles = st.sampled_from((*ROLES, "assistant", "tool", "assistant", "tool"))
messages = st.builds(Message, roles, contents)
histories = st.lists(messages, min_size=1, max_size=7)
# Longer than what a ring reads at once, so that it stops before the oldest message.
long_histories = st.lists(messages, min_size=17, max_size=60)


def suffix_totals(messages: Sequence[Message], total: Total) -> list[int]:
    """Return T(i) for every i."""
    texts = [text_of(message.content) for message in messages]
    return [total(texts[i:]) for i in range(len(texts))]


def same_objects(left: Iterable[object], right: Iterable[object]) -> bool:
    """Tell whether both are the same objects in the same order."""
    return [id(item) for item in left] == [id(item) for item in right]


# Messages of every provider and framework, each of them editable in place: see `edited`.
names = st.sampled_from(("search", "get weather", "f"))
arguments = st.one_of(
    texts,
    st.builds(lambda text: json.dumps({"query": text}), texts),
    st.dictionaries(
        st.sampled_from(("query", "n", "id", "type")), st.one_of(texts, st.integers(), st.none()), max_size=2
    ),
)


def image_block() -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def calls_of(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


openai = st.one_of(
    st.builds(lambda role, content: {"role": role, "content": content}, roles, contents),
    st.builds(lambda name, text: {"role": "user", "name": name, "content": text}, names, texts),
    st.builds(
        lambda calls, content: {"role": "assistant", "content": content, "tool_calls": calls},
        st.lists(st.builds(calls_of, names, arguments), max_size=3),
        st.one_of(st.none(), texts),
    ),
    st.builds(lambda call: {"role": "assistant", "tool_calls": [call]}, st.builds(calls_of, names, arguments)),
    st.builds(lambda text: {"role": "tool", "tool_call_id": "call_1", "content": text}, texts),
    st.builds(lambda text: {"role": "assistant", "content": None, "refusal": text}, texts),
    st.builds(lambda text: {"role": "assistant", "content": "", "reasoning_content": text}, texts),
    st.builds(lambda name, text: {"role": "function", "name": name, "content": text}, names, texts),
    st.just({"role": "user", "content": [IMAGE]}).map(copy.deepcopy),
)
responses = st.one_of(
    st.builds(lambda n, a: {"type": "function_call", "call_id": "1", "name": n, "arguments": a}, names, arguments),
    st.builds(lambda text: {"type": "function_call_output", "call_id": "1", "output": text}, texts),
    st.builds(lambda text: {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}, texts),
    st.builds(
        lambda role, kind, text: {"type": "message", "role": role, "content": [{"type": kind, "text": text}]},
        st.sampled_from(("user", "assistant", "developer")), st.sampled_from(("input_text", "output_text")), texts,
    ),
)  # fmt: skip
anthropic_blocks = st.one_of(
    texts.map(lambda text: {"type": "text", "text": text}),
    st.builds(lambda name, value: {"type": "tool_use", "id": "1", "name": name, "input": value}, names, arguments),
    texts.map(lambda text: {"type": "tool_result", "tool_use_id": "1", "content": text}),
    texts.map(lambda text: {"type": "tool_result", "content": [{"type": "text", "text": text}, image_block()]}),
    texts.map(lambda text: {"type": "thinking", "thinking": text, "signature": "abc"}),
    st.builds(lambda: image_block()),
)  # fmt: skip
anthropic = st.builds(
    lambda role, blocks: {"role": role, "content": blocks},
    st.sampled_from(("user", "assistant")), st.lists(anthropic_blocks, max_size=3),
)  # fmt: skip
gemini_parts = st.one_of(
    texts.map(lambda text: {"text": text}),
    st.builds(lambda name, value: {"functionCall": {"name": name, "args": value}}, names, arguments),
    st.builds(lambda name, text: {"functionResponse": {"name": name, "response": {"result": text}}}, names, texts),
    st.builds(lambda: {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
)
gemini = st.one_of(
    st.builds(
        lambda role, parts: {"role": role, "parts": parts}, st.sampled_from(("user", "model")),
        st.lists(gemini_parts, max_size=3),
    ),
    st.builds(lambda parts: {"parts": parts}, st.lists(gemini_parts, max_size=2)),
)  # fmt: skip
bedrock_blocks = st.one_of(
    texts.map(lambda text: {"text": text}),
    st.builds(lambda name, value: {"toolUse": {"toolUseId": "1", "name": name, "input": value}}, names, arguments),
    texts.map(lambda text: {"toolResult": {"toolUseId": "1", "content": [{"text": text}, {"json": {"a": text}}]}}),
    texts.map(lambda text: {"reasoningContent": {"reasoningText": {"text": text, "signature": "abc"}}}),
    st.builds(lambda: {"image": {"format": "png", "source": {"bytes": b"AAAA"}}}),
)
bedrock = st.builds(
    lambda role, blocks: {"role": role, "content": blocks},
    st.sampled_from(("user", "assistant")), st.lists(bedrock_blocks, min_size=1, max_size=3),
)  # fmt: skip
others = st.one_of(
    messages,
    messages,
    st.builds(lambda role, text: {"from": role, "value": text}, st.sampled_from(("human", "gpt", "tool")), texts),
    st.builds(lambda kind, text: {"type": kind, "content": text}, st.sampled_from(("human", "ai", "tool")), texts),
    st.builds(
        lambda role, text, calls: SimpleNamespace(role=role, content=text, tool_calls=calls),
        roles, texts, st.lists(st.builds(calls_of, names, arguments), max_size=2),
    ),
    st.builds(lambda parts: SimpleNamespace(role="user", parts=parts), st.lists(gemini_parts, max_size=2)),
)  # fmt: skip
any_messages: st.SearchStrategy[Any] = st.one_of(openai, openai, responses, anthropic, gemini, bedrock, others)


# What an edit replaces: texts, and structured values as a whole. What is inside those is not verified.
_VALUES = ("arguments", "args", "input", "response", "json")
_TEXTS = ("content", "text", "name", "refusal", "thinking", "reasoning_content", "output", "value", "result")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what can be edited in a message: a container, and a key of it, or None to add to a list."""
    if isinstance(value, list):
        yield value, None
        for index, item in enumerate(value):
            if isinstance(item, str):
                yield value, index
            else:
                yield from _places(item)
        return
    fields = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    for key, item in fields.items():
        if key in _VALUES or (key in _TEXTS and (item is None or isinstance(item, str))):
            yield fields, key
        elif isinstance(item, (list, dict)) or hasattr(item, "__dict__"):
            yield from _places(item)


def edit(message: Any, which: int, new: Any) -> None:
    """Replace a text, a name, arguments or a result in `message` by `new`, or add it to a list, if that can be read."""
    places = list(_places(message))
    if not places:
        return
    container, key = places[which % len(places)]
    if key is None:
        container.append(new)
        undo = container.pop
    else:
        old, container[key] = container[key], new
        undo = functools.partial(container.__setitem__, key, old)
    try:
        reading.read(message)
    except (TypeError, ValueError):
        undo()
