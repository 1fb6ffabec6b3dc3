"""What the tests hold the ring against, written from the design's words and not from the implementation.

`joined_total` and `window_start` are the window rule over joined counts, as LlamaIndex counts. `summed_total` is the
accounting rule, which is what is promised for a callable whose counts do not add up to those of the joined text.
"""

import functools
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import tiktoken
from hypothesis import strategies as st

Content: TypeAlias = Any  # str, None, or a list of parts
Count: TypeAlias = Callable[[str], int]
Total: TypeAlias = Callable[[Sequence[str]], int]

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
    # Python's isspace() has four characters more: these separators are no whitespace for Unicode and for encodings.
    return any(not character.isspace() or character in "\x1c\x1d\x1e\x1f" for character in text)


def may_start(role: str) -> bool:
    return role not in ("assistant", "tool")


def window_start(totals: Sequence[int], roles: Sequence[str], limit: int, initial: int = 0) -> int:
    """Return where the window starts, by the window rule: the first legal start that fits, or the last message.

    `totals[i]` is T(i): the tokens of the messages from `i` on.
    """
    last = len(roles) - 1
    for i, role in enumerate(roles):
        if (i in (0, last) or may_start(role)) and totals[i] + initial <= limit:
            return i
    return last


def window_of(messages: Sequence[Message], total: Total, limit: int, initial: int = 0) -> list[Message]:
    """Return the window of `messages`, with no more totals than the search from the oldest on needs."""
    texts = [text_of(message.content) for message in messages]
    last = len(messages) - 1
    for i, message in enumerate(messages):
        if (i in (0, last) or may_start(message.role)) and total(texts[i:]) + initial <= limit:
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
