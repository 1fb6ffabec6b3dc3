"""The native part of chatring. Counts are in tokens.

What a message counts as is its ring's measure: see `MessageRing`, and `docs/counting.md`.
"""

import builtins
from collections.abc import Callable, Iterable, Iterator, Sized
from types import GenericAlias
from typing import Any, Generic, Literal, Protocol, SupportsIndex, TypeAlias, TypeVar, final, overload

from typing_extensions import disjoint_base

from chatring.window import Window

__all__ = [
    "MessageRing",
    "TokenCounter",
    "_Batch",
    "_StorePolicy",
    "_outline",
    "_read",
    "_read_blocks",
    "trim_messages",
]

_M = TypeVar("_M")

class _TiktokenEncoding(Protocol):
    # A `tiktoken.Encoding`, as far as a type checker needs to tell it from other objects.
    @property
    def name(self) -> str: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def special_tokens_set(self) -> set[str]: ...

_CounterSource: TypeAlias = TokenCounter | str | _TiktokenEncoding | Callable[[str], Sized | SupportsIndex]
_Provider: TypeAlias = Literal["openai-chat", "openai-responses", "anthropic", "gemini", "bedrock"]

class _Format(Protocol):
    def read(self, message: Any, /) -> object: ...

def _read(
    message: object,
    /,
    format: object = None,  # noqa: A002 (as in MessageRing)
) -> tuple[str, bool, bool, str, tuple[bool, int, int, int, int, int], list[str], int]:
    """Read a message, for tests: kind, continues, may start, provider, extras, texts, tokens beside the texts."""

def _outline(
    message: object,
    /,
    format: object = None,  # noqa: A002
) -> tuple[str, bool, bool]:
    """Read what a message is to the rules: its kind, whether what follows belongs to the same response, may start."""

def _read_blocks(message: type, text_block: type, /) -> None:
    """Have messages of exactly the class `message` read by their `blocks`, not their computed `content`.

    For the adapter of LlamaIndex, whose `ChatMessage.content` joins the `text` of the blocks that are a `text_block`.
    """

_Numbers: TypeAlias = tuple[Any, ...] | list[int | None]
_Row: TypeAlias = tuple[int, int, int | None, int | None]

@final
class _Batch:
    """Messages that a `_StorePolicy` has read. Holds no Python object."""

    def __len__(self) -> int: ...
    @property
    def bytes_to_count(self) -> int:
        """Bytes of the texts that are not counted yet."""

    @property
    def tokens(self) -> list[int]:
        """The tokens of each, once they are counted; empty where texts are joined."""

    @property
    def kinds(self) -> list[int]:
        """What each is to the rules, as a number below 16."""

@final
class _StorePolicy:
    """What is fixed with the sessions of a store: reads and counts messages, and tells what they add to a session.

    A session's numbers are those of `Ending` in `src/core/append.rs`; methods take them with whatever follows them.

    Args:
        counter: as in `MessageRing`.
        measure: as in `MessageRing`.
        start_on: as in `MessageRing`.
        format: None or a provider's name.

    Raises: as `MessageRing`.
    """

    def __new__(
        cls,
        counter: _CounterSource,
        measure: Any,
        start_on: Literal["user"] | None,
        format: str | None,  # noqa: A002
        /,
    ) -> _StorePolicy: ...
    @property
    def is_joined(self) -> bool:
        """Whether texts are joined: `measure="text"`."""

    @property
    def calls_python(self) -> bool:
        """Whether counting is Python's, which may take any time."""

    def read(self, messages: list[Any], /) -> _Batch:
        """Read messages, without counting them.

        Raises: as `MessageRing.put`.
        """

    @staticmethod
    def known(rows: list[Any], /) -> _Batch:
        """Return messages that were counted before; of each, a tuple that begins with its kind and its tokens."""

    def count(self, batch: _Batch, /) -> None:
        """Count what was read, where tokens add up; on all cores, and without the GIL if it is much.

        Raises:
            Exception: whatever a callable counter raises, unchanged.
        """

    def append(
        self, ending: _Numbers, earlier: _Batch | None, batch: _Batch, /
    ) -> tuple[list[int | None], int, list[_Row], list[tuple[int, int]], bool]:
        """Return what messages add to a session.

        Args:
            ending: the numbers of the session.
            earlier: where texts are joined, the messages from the position `unread_from` on.
            batch: what is appended.

        Returns:
            The session's numbers afterwards; how many of the messages join its head; of each other, its kind, tokens,
            `before` and question; of earlier messages with which a window may now begin, position and `before`; whether
            no window may begin any more with an earlier message.

        Raises:
            ValueError: if the numbers are not a session's.
            Exception: whatever a callable counter raises, unchanged.
        """

    def tail(self, ending: _Numbers, earlier: _Batch, /) -> int:
        """Return the tokens of the blank messages at a session's end, which no sum has; `earlier` as in `append`."""

    def head_starts(self, rows: list[Any], /) -> list[int | None]:
        """Return the `before` of each message of a head; of each, a tuple that begins with its kind and its tokens."""

    @staticmethod
    def empty() -> list[int | None]:
        """Return the numbers of a session without messages."""

    def unread_from(self, ending: _Numbers, /) -> int:
        """Return the position from which on messages must be read before others are appended; the end if none."""

    def may_be_last(self, kind: int, before: int | None, text: _Batch | None, /) -> bool:
        """Return whether a session can be cut behind a message: nothing else must be known of it to append more.

        Args:
            kind: the message's.
            before: the message's.
            text: where texts are joined, the message.
        """

    def cut(self, ending: _Numbers, kept: tuple[int, Any, _Batch | None] | None, removed: int, /) -> list[int | None]:
        """Return a session's numbers without its last messages.

        Args:
            ending: the numbers of the session.
            kept: the last message that stays: its position, row, and text if texts are joined. None: only the head
                stays.
            removed: the tokens of those that go.
        """

    @staticmethod
    def trimmed(ending: _Numbers, position: int, before: int, /) -> list[int | None]:
        """Return a session's numbers without its first messages; a start without a question is at `position`."""

    def limits(
        self,
        token_limit: int,
        initial_token_count: int,
        include_system: bool | None,
        retention_ratio: float,
        /,
    ) -> tuple[int, bool, list[int], list[int]]:
        """Return what a window may have, as databases take it: see `Limits` in `chatring.stores.session`.

        Raises: as `MessageRing.window`.
        """

    @staticmethod
    def head_too_long(head: int, initial: int, limit: int, /) -> ValueError:
        """Return the error of a head that does not fit."""

def trim_messages(
    messages: Iterable[_M],
    token_limit: int,
    *,
    counter: _CounterSource = "o200k_base",
    measure: Literal["message", "text"] | Callable[[_M], SupportsIndex] = "message",
    start_on: Literal["user"] | None = ...,
    include_system: bool = ...,
    retention_ratio: float = 1.0,
    initial_token_count: int = 0,
    format: _Provider | _Format | None = None,  # noqa: A002 (the word for it)
) -> Window[_M]:
    """Return the window of a list of messages: what a `MessageRing` of them returns, without keeping anything.

    Counts no more than it must. With a `retention_ratio` below 1 that is every message, at every call: for a history
    that grows, a ring or a store is the better place.

    Args:
        messages: of any provider or framework, oldest first.
        token_limit: tokens that the window and what is sent beside it may have, at least 1.
        counter: as in `MessageRing`, like all that follow.
        measure: what a message's tokens are.
        start_on: what the window may begin with.
        include_system: whether the leading system messages are in it.
        retention_ratio: the share of the limit to go down to, when something must go.
        initial_token_count: tokens of what is sent beside the window.
        format: how messages are read.

    Raises: as `MessageRing` and its `window`.
    """

@final
class TokenCounter:
    """Turns a text into a number of tokens. Immutable; copies are the object itself.

    Args:
        source: one of

            - the name of an embedded encoding (see `encodings()`): counted in Rust, without files or network;
            - a `tiktoken.Encoding`: counted in Rust if it equals an embedded one, else by its own `encode`;
            - any callable that takes a str and returns its tokens, as a list or anything else with their length, or
              their number;
            - another counter.

    Counts equal tiktoken's `len(encoding.encode(text, allowed_special="all"))`: a special token of the encoding, such
    as `<|endoftext|>`, counts as one token wherever it is typed. In a ring the measure decides: under
    `measure="message"` it counts as the ordinary text that providers make of it, under `"text"` as one token. A
    callable other than a `tiktoken.Encoding` decides itself. Surrogates without a partner count as U+FFFD, as in
    tiktoken; a callable gets them as U+FFFD.

    What a callable returns is checked at every call: a mapping, a set, a nested list, an array of several dimensions
    or a str has another length than a text has tokens. A tokenizer of Hugging Face's that is set up to pad or
    truncate is refused when the counter is made. Others are found by their counts: where a text has more than 4
    tokens and more than one for two bytes, or less than one for six, the callable is called once more, with a longer
    text, which must have more tokens. Otherwise each text costs one call.

    Exact means, for a callable: `count` returns what it returned; `measure="message"` sums that over a message's texts;
    `measure="text"` equals its count of the joined window if its counts add up at a space that follows a word, once
    what it has for `""` is taken off. `docs/tokenizers.md` says which tokenizers do.

    Raises:
        ValueError: for an unknown name, with the known ones; for a tokenizer that is set up to pad or truncate.
        TypeError: if `source` is none of these.
    """

    def __new__(cls, source: _CounterSource, /) -> TokenCounter: ...
    @staticmethod
    def for_model(model: str, /) -> TokenCounter:
        """Return the counter of a model, such as `"gpt-4o"`.

        Raises:
            ValueError: if the model's encoding is not known or not embedded: give `TokenCounter` the model's own
                tokenizer, or the name of an encoding that comes close.
        """

    @staticmethod
    def encodings() -> list[str]:
        """Return the names of the embedded encodings."""

    @property
    def name(self) -> str:
        """The encoding's name, or the callable's."""

    @property
    def is_native(self) -> bool:
        """Whether texts are counted in Rust."""

    def count(self, text: str, /, *, special: Literal["token", "text"] = "token") -> int:
        """Return the number of tokens of `text` on its own.

        Args:
            text: what is counted.
            special: what a special token typed in the text counts as: one token, or the ordinary text that providers
                make of it. No difference for a callable other than a `tiktoken.Encoding`.

        Raises:
            TypeError: if `text` is not a str, or the callable returns neither tokens nor their number.
            ValueError: if the callable's number is negative or above 2**40, or does not grow with the text: it pads,
                truncates, or has one answer for all. Also for another value of `special`.
            Exception: whatever the callable raises, unchanged.
        """

    def count_batch(self, texts: Iterable[str], /, *, special: Literal["token", "text"] = "token") -> list[int]:
        """Return the number of tokens of each text; an embedded encoding uses all cores and releases the GIL.

        Args:
            texts: what is counted.
            special: as in `count`.

        Raises: as `count`.
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __copy__(self) -> TokenCounter: ...
    def __deepcopy__(self, _memo: Any, /) -> TokenCounter: ...
    def __reduce__(self) -> tuple[type[TokenCounter], tuple[Any]]: ...

@disjoint_base
class MessageRing(Generic[_M]):
    """A chat history that answers which of its last messages fit a token limit, exactly and in logarithmic time.

    A message is whatever providers and frameworks have: a dict, another mapping or row, or an SDK's own object, of
    OpenAI's chat and Responses, Anthropic, Gemini, Bedrock, LangChain, LlamaIndex and more. Its shape says which it
    is; messages of several kinds may be mixed. `docs/counting.md` lists them, and what counts of each. The ring keeps
    references: messages are never copied, and putting one counts nothing.

    Safe to use from many threads, and from counters and messages that call back into the ring. Before Python 3.14, a
    daemon thread that runs a Python counter or property while the interpreter exits can abort the process: end such
    threads first.

    Args:
        token_limit: tokens that a window may have, at least 1.
        counter: what counts a text's tokens: anything `TokenCounter` takes.
        measure: what a message's tokens are.

            - `"message"`: all that is sent of it. Its texts, names, tool calls and results, each counted by itself, and
              constants for the message, calls, results and media, fitted to what providers bill. Special tokens in a
              text count as ordinary text.
            - `"text"`: LlamaIndex's. A message has a role and a content: a str, None (which counts as the text
              `"None"`), or a list of parts, where those with a str `text` count, joined by newlines. The texts of a
              window are joined by one space. Nothing else counts. A special token in a text is one token.
            - a callable from a message to its tokens, an integer of at least 0; `counter` is not asked then.
        start_on: what a window may begin with behind the leading system messages.

            - `"user"`: a user message, or a step (an assistant message and the results of its calls) with its question,
              the last user message before it, in front. Every provider accepts such a window, if it accepts the
              history.
            - None: LlamaIndex's rule: the first message, the last, and every one that is not assistant or tool by its
              role.
        include_system: whether the leading system and developer messages are in every window.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1,
            the windows of the next calls have the same beginning, which a provider's prompt cache knows; 0.7 is a good
            choice. Then all messages are counted.
        max_messages: keep at most so many messages, the oldest leave; None keeps all. With `include_system` the leading
            system messages stay and are not among those; with `start_on="user"` so does the question of the oldest
            step. The results of a call leave with it.
        format: how messages are read.

            - None: each by its shape. A plain role and content is taken for OpenAI's chat.
            - a provider's name: the same, but a plain role and content costs what this provider adds: `"openai-chat"`,
              `"openai-responses"`, `"anthropic"`, `"gemini"` or `"bedrock"`.
            - an object with a method `read(message)`, for classes of your own: it returns the same in one of the known
              shapes, such as `{"role": "user", "content": "Hi"}`. That is counted, while the ring keeps `message`.

    Raises:
        ValueError: for a limit or bound below 1, or a ratio outside 0 to 1; for an unknown encoding, measure or format;
            for `measure="text"` with a format or one of the options: it is LlamaIndex's rule, which goes with
            `start_on=None` and `include_system=False` (then the defaults).
        TypeError: for a limit or bound that is not an integer (a bool is not), or something that cannot count, measure
            or read.
    """

    def __new__(
        cls,
        token_limit: int = 3000,
        counter: _CounterSource = "o200k_base",
        *,
        measure: Literal["message", "text"] | Callable[[_M], SupportsIndex] = "message",
        start_on: Literal["user"] | None = ...,
        include_system: bool = ...,
        retention_ratio: float = 1.0,
        max_messages: int | None = None,
        format: _Provider | _Format | None = None,  # noqa: A002 (the word for it)
    ) -> MessageRing[_M]: ...
    @property
    def token_limit(self) -> int:
        """Tokens that a window may have."""

    @property
    def start_on(self) -> Literal["user"] | None:
        """What a window may begin with: `"user"`, or None for LlamaIndex's rule."""

    @property
    def include_system(self) -> bool:
        """Whether the leading system messages are in every window."""

    @property
    def retention_ratio(self) -> float:
        """The share of the limit to go down to, when something must go."""

    @property
    def counter(self) -> TokenCounter:
        """What counts a text's tokens."""

    @property
    def measure(self) -> str | Callable[[_M], SupportsIndex]:
        """What a message's tokens are: `"message"`, `"text"` or a callable."""

    @property
    def format(self) -> str | _Format | None:
        """How messages are read: None is by their shape."""

    @property
    def max_messages(self) -> int | None:
        """The most messages that are kept; None keeps all."""

    def put(self, message: _M, /) -> None:
        """Add the newest message.

        Raises:
            TypeError: if it has none of the known shapes, or a part of another type; the error names what is there.
            ValueError: if it is nested too deeply, or contains itself.
            Exception: whatever its properties, or a format's `read`, raise, unchanged.

        Nothing is stored then.
        """

    def put_messages(self, messages: Iterable[_M], /) -> None:
        """Add messages, oldest first: all of them, or none if one is refused.

        Raises: as `put`.
        """

    def _put_messages(self, messages: Iterable[_M], /) -> list[_M]:
        """As `put_messages`; return the messages that left a bounded ring for them, oldest first."""

    def set(self, messages: Iterable[_M], /) -> None:
        """Replace all messages with `messages`, oldest first. The iterable itself is not kept.

        Counts are kept of messages that come back where they were with the same content.

        Raises: as `put`; then the ring is unchanged.
        """

    def get(
        self,
        *,
        initial_token_count: int | None = None,
        token_limit: int | None = None,
        counter: _CounterSource | None = None,
        include_system: bool | None = None,
        retention_ratio: float | None = None,
        verify: bool = True,
    ) -> list[_M]:
        """Return the window: a new list of the messages that go into the next call, oldest first.

        It has the leading system messages (with `include_system`), the question if the window begins with one of its
        steps, and the messages from the earliest start on from which all of it and `initial_token_count` have at most
        `token_limit` tokens, by the ring's measure. If none fits, it begins with the newest start, and exceeds the
        limit (with `start_on=None`: it is the last message). `docs/windows.md` has the rule.

        Only messages not counted before are counted, the newest first and no further back than the window can reach.

        Args:
            initial_token_count: tokens of what is sent beside the window, such as tools; None is 0.
            token_limit: for this call, instead of the ring's own.
            counter: for this call, instead of the ring's own. Counts under the last four counters used are kept.
            include_system: for this call, instead of the ring's own.
            retention_ratio: for this call, instead of the ring's own.
            verify: whether to check that the window's messages still have what was counted, and to count again what
                changed. False is faster, for callers who never change a message. Not seen: changes outside the window,
                inside structured arguments, and whatever a callable measure or a format's `read` looks at; `recount`
                sees them.

        Raises:
            ValueError: if `initial_token_count`, or it and the leading system messages, exceed the limit.
            Exception: whatever the counter, the measure, the format or a message's property raises, unchanged. The
                history stays as it was.
        """

    def window(
        self,
        *,
        initial_token_count: int | None = None,
        token_limit: int | None = None,
        counter: _CounterSource | None = None,
        include_system: bool | None = None,
        retention_ratio: float | None = None,
        verify: bool = True,
    ) -> Window[_M]:
        """Return what `get` returns as a `Window`, which knows its tokens and where it begins. Arguments as there."""

    def slice(self, start: int, stop: int, /) -> list[_M]:
        """Return the messages at the positions from `start` to the one before `stop`, as far as there are any.

        Positions are counted from the first message ever put. So `ring.slice(done, window.start)` is what has left the
        window since `done`, the `start` of an earlier one: to be summarised, once.

        Raises:
            IndexError: if one of them has left the ring for others (`max_messages`).
            ValueError: if a position is negative.
        """

    def set_head(self, messages: Iterable[_M], /) -> None:
        """Replace the leading system messages with `messages`, and leave the others alone.

        Raises:
            ValueError: if one is not a system or developer message, or with `measure="text"`; nothing is changed then.
            TypeError: as `put`.
        """

    @overload
    def _window(self, allowance: int, counter: TokenCounter, most: None = None, /) -> list[_M]: ...
    @overload
    def _window(self, allowance: int, counter: TokenCounter, most: int, /) -> list[_M] | None:
        """As `get` with the token limit `allowance`, which may be 0.

        None if more than `most` characters would have to be counted, a message being 64 of them beside its own; or any
        at all, if the counter is a callable.

        Raises:
            ValueError: if `allowance` is negative.
        """

    def get_all(self) -> list[_M]:
        """Return a new list of all messages, oldest first."""

    def reset(self) -> None:
        """Remove all messages."""

    def pop(self) -> _M:
        """Remove and return the newest message.

        Raises:
            IndexError: if there is none.
        """

    def delete(self, index: SupportsIndex, /) -> _M:
        """Remove and return the message at `index`; a negative one counts from the newest.

        Raises:
            IndexError: if there is no such message.
        """

    def token_count(self, *, counter: _CounterSource | None = None) -> int:
        """Return the tokens of the whole history; 0 if there is no message.

        Counts what is not counted yet, and checks every message as `get` does: time grows with the history.

        Args:
            counter: for this call, instead of the ring's own.
        """

    def count(self, message: _M, /) -> int:
        """Return the tokens of one message alone, by the ring's measure; it need not be in the ring.

        With `measure="message"` or a callable, a window's tokens are the sum of its messages'. With `"text"` they need
        not be: there, texts are joined.

        Raises: as `put`; whatever the counter or the measure raises, unchanged.
        """

    def recount(self) -> None:
        """Forget all counts, and read again what each message is to the rules.

        For changes in place that `get` does not see.
        """

    def __len__(self) -> int: ...
    def __bool__(self) -> bool:
        """Always true: an empty ring is a ring, so `ring or MessageRing()` keeps it."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> _M: ...
    @overload
    def __getitem__(self, index: builtins.slice, /) -> list[_M]: ...
    def __iter__(self) -> Iterator[_M]:
        """Iterate over the messages that are there now, oldest first."""

    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    def __copy__(self) -> MessageRing[_M]:
        """Return a ring of the same messages that starts with the same counts."""

    def __getnewargs_ex__(self) -> tuple[tuple[int, TokenCounter], dict[str, Any]]:
        """Return the arguments of `__new__` for a copy, by position and by name.

        A subclass whose `__new__` takes others returns those here: copies and pickles are made with them.
        """

    def __reduce__(self) -> tuple[Any, tuple[type[MessageRing[_M]], tuple[Any, ...], dict[str, Any]], Any]: ...
    def __getstate__(self) -> tuple[int, list[_M], bytes, tuple[Any, ...], dict[str, Any] | None, dict[str, Any]]:
        """Return the state that is pickled.

        That is its version, the messages, a byte for what each is to the rules, and the attributes that a subclass
        keeps in its dict and in its `__slots__`.
        """

    def __setstate__(
        self, state: tuple[int, list[_M], bytes, tuple[Any, ...], dict[str, Any] | None, dict[str, Any]], /
    ) -> None:
        """Take over the messages and attributes of `state`.

        Raises:
            ValueError: if its version is not this release's, or if it does not have a valid byte for each message. Then
                nothing is changed.
            TypeError: if it has another shape; likewise.
        """
