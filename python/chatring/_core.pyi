"""The native part of chatring. Counts are in tokens.

What a message counts as is its ring's measure: see `MessageRing`, and `docs/counting.md`.
"""

import builtins
from collections.abc import Callable, Iterable, Iterator
from types import GenericAlias
from typing import Any, Final, Generic, Literal, Protocol, SupportsIndex, TypeAlias, TypeVar, final, overload

from typing_extensions import disjoint_base

from chatring.counter_source import CounterSource
from chatring.window import Window

__all__ = [
    "MessageRing",
    "TokenCounter",
    "_Batch",
    "_BlockMeasure",
    "_MessageQueue",
    "_StorePolicy",
    "__version__",
    "_copied",
    "_is_plain",
    "_made",
    "_outline",
    "_read",
    "_read_blocks",
    "trim_messages",
]

__version__: Final[str]

_M = TypeVar("_M")

_Provider: TypeAlias = Literal["openai-chat", "openai-responses", "anthropic", "gemini", "bedrock"]

class _Format(Protocol):
    def read(self, message: Any, /) -> object: ...

def _read(
    message: object,
    /,
    format: object = None,  # noqa: A002 (as in MessageRing)
) -> tuple[str, bool, bool, str, tuple[bool, int, int, int, int, int], list[str], int]:
    """Read a message, for tests: kind, continues, may start, provider, extras, texts, tokens other than the texts'."""

def _outline(
    message: object,
    /,
    format: object = None,  # noqa: A002
) -> tuple[str, bool, bool]:
    """Read a message's outline: its kind, whether what follows belongs to the same response, may start."""

def _read_blocks(message: type, text_block: type, /) -> None:
    """Read messages of exactly the class `message` by their `blocks` instead of their computed `content`.

    For the adapter of LlamaIndex, whose `ChatMessage.content` joins the `text` of the blocks that are a `text_block`.
    """

def _copied(messages: list[_M], other: Callable[[_M], _M], /) -> list[_M]:
    """Copy LlamaIndex's messages: natively if they are plain, the others by calling `other`.

    A copy shares no object with its message that can be changed. All its fields are set.
    """

def _made(values: list[Any], /) -> list[Any]:
    """Make LlamaIndex messages from parsed JSON, which is consumed; None for those that are not plain."""

def _is_plain(message: object, /) -> bool:
    """Return whether a LlamaIndex message has only texts, tool calls and JSON: its JSON gives an equal one back."""

@final
class _BlockMeasure:
    """The estimate of LlamaIndex's `Memory`: a measure for a `_StorePolicy` whose sessions are queues.

    Each text block counts by itself, a special token as one token, and the message adds nothing.

    Args:
        name: identifies it: two of one name measure alike.
        others: measures messages that have more than text blocks.
    """

    def __new__(cls, name: str, others: Callable[[Any], int], /) -> _BlockMeasure: ...
    @property
    def name(self) -> str:
        """Identifies it."""

@final
class _MessageQueue:
    """A session of LlamaIndex's `Memory`: archived messages and, behind them, a queue.

    Safe to use from many threads. Messages are kept by reference. They are read and counted before they are put, so
    an error there changes nothing.
    """

    def __new__(cls) -> _MessageQueue: ...
    def __len__(self) -> int: ...
    @property
    def archived_count(self) -> int:
        """How many messages are archived."""

    def is_counted_by(self, policy: _StorePolicy, /) -> bool:
        """Return whether `policy` counted all messages."""

    def recount(self, policy: _StorePolicy, /) -> None:
        """Count all messages by `policy`, which has a `_BlockMeasure`. Returns at once if it has counted them.

        Raises:
            Exception: whatever a callable counter raises, unchanged.
        """

    def put(
        self, policy: _StorePolicy, messages: list[Any], batch: _Batch, flush: tuple[int, int] | None = None, /
    ) -> list[list[Any]] | None:
        """Add messages to the queue's end. If it then has too many tokens, archive the oldest.

        Args:
            policy: has counted the messages.
            messages: to add; if there are none, the oldest may still leave.
            batch: the same messages, read and counted by the policy.
            flush: the most tokens that the queue may have, and the fewest that a round archives. None: all stay.

        Returns:
            What was archived: a list for each round, oldest first. None if another policy counted the session: then
            nothing was done.
        """

    def set(self, policy: _StorePolicy, messages: list[Any], batch: _Batch, archived: int = 0, /) -> None:
        """Replace all messages. The first `archived` of them are archived. `batch`: see `put`."""

    def get_all(self) -> list[Any]:
        """Return all messages, the archived ones first."""

    def active(self) -> list[Any]:
        """Return the queue's messages."""

    def archived(self) -> list[Any]:
        """Return the archived messages."""

    def archive(self, count: int, /) -> list[Any]:
        """Archive `count` of the queue's oldest messages, or all if it has fewer, and return them."""

    def remove_oldest(self, count: int, /) -> list[Any]:
        """Remove `count` of the queue's oldest messages, or all if it has fewer, and return them."""

    def clear_active(self) -> None:
        """Remove the queue's messages."""

    def clear_archived(self) -> None:
        """Remove the archived messages."""

    def __copy__(self) -> _MessageQueue: ...

_Numbers: TypeAlias = tuple[Any, ...] | list[int | None]
_Row: TypeAlias = tuple[int, int, int | None, int | None]

@final
class _Batch:
    """Messages that a `_StorePolicy` has read. Holds no Python objects."""

    def __len__(self) -> int: ...
    @property
    def bytes_to_count(self) -> int:
        """Bytes of the texts that are not counted yet."""

    @property
    def tokens(self) -> list[int]:
        """The tokens of each message, once they are counted; empty where texts are joined."""

    @property
    def kinds(self) -> bytes:
        """The outline of each message, as a byte below 16."""

@final
class _StorePolicy:
    """What is fixed with the sessions of a store. Reads and counts messages, and tells what they add to a session.

    A session's numbers are those of `Ending` in `src/core/ending`. Methods ignore whatever follows them.

    Args:
        counter: see `MessageRing`.
        measure: see `MessageRing`.
        start_on: see `MessageRing`.
        format: None or a provider's name.

    Raises the same as `MessageRing`.
    """

    def __new__(
        cls,
        counter: CounterSource,
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
        """Whether counting calls Python, which may take any time."""

    def read(self, messages: list[Any], /) -> _Batch:
        """Read messages, without counting them.

        Raises the same as `MessageRing.put`.
        """

    @staticmethod
    def known(rows: list[Any], /) -> _Batch:
        """Return a batch of messages that were counted before. Each row begins with a message's kind and tokens."""

    def count(self, batch: _Batch, /) -> None:
        """Count a batch, where tokens add up: on all cores, and without the GIL if it is large.

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
            batch: the messages to append.

        Returns:
            The session's numbers afterwards; how many of the messages join its head; for each of the others, its kind,
            tokens, `before` and question; for each earlier message that may now begin a window, its position and
            `before`; whether earlier messages can no longer begin a window.

        Raises:
            ValueError: if the numbers are not a session's.
            Exception: whatever a callable counter raises, unchanged.
        """

    def tail(self, ending: _Numbers, earlier: _Batch, /) -> int:
        """Return the tokens of the blank messages at a session's end, which no sum includes. See `append`."""

    def head_starts(self, rows: list[Any], /) -> list[int | None]:
        """Return the `before` of each message of a head. Each row begins with a message's kind and tokens."""

    @staticmethod
    def empty() -> list[int | None]:
        """Return the numbers of a session without messages."""

    def unread_from(self, ending: _Numbers, /) -> int:
        """Return the position from which messages must be read before others are appended; the end if none must."""

    def may_be_last(self, kind: int, before: int | None, text: _Batch | None, /) -> bool:
        """Return whether a session can be cut behind a message: the message tells enough to append more.

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
            removed: the sum of the tokens of the messages that go.
        """

    @staticmethod
    def trimmed(ending: _Numbers, position: int, before: int, /) -> list[int | None]:
        """Return a session's numbers without the messages before `position`, a start that carries no question."""

    @staticmethod
    def rounds(
        ending: _Numbers, users: list[tuple[int, int]], known_to: int, high: int, size: int, /
    ) -> list[tuple[int, int]] | None:
        """For a queue: return position and `before` of its cut after each round of a flush.

        Args:
            ending: the numbers of the session.
            users: position and `before` of the user messages from the cut on, as far as they are known.
            known_to: the position up to which they are known.
            high: the most tokens that the queue may have.
            size: the fewest tokens that leave in a round.

        Returns:
            None if more user messages must be known.
        """

    @staticmethod
    def with_cut(ending: _Numbers, position: int, before: int, /) -> list[int | None]:
        """For a queue: return a session's numbers with another cut, which has `before` tokens before it."""

    @staticmethod
    def without_queue(ending: _Numbers, /) -> list[int | None]:
        """For a queue: return a session's numbers without the messages from the cut on."""

    def limits(
        self,
        token_limit: int,
        initial_token_count: int,
        include_system: bool | None,
        retention_ratio: float,
        /,
    ) -> tuple[int, bool, list[int], list[int]]:
        """Return the limits of a window as databases take them: see `Limits` in `chatring.stores.session`.

        Raises the same as `MessageRing.window`.
        """

    @staticmethod
    def head_too_long(head: int, initial: int, limit: int, /) -> ValueError:
        """Return the error for a head that does not fit."""

def trim_messages(
    messages: Iterable[_M],
    token_limit: SupportsIndex,
    *,
    counter: CounterSource = "o200k_base",
    measure: Literal["message", "text"] | Callable[[_M], SupportsIndex] = "message",
    start_on: Literal["user"] | None = ...,
    include_system: bool = ...,
    retention_ratio: float = 1.0,
    initial_token_count: SupportsIndex = 0,
    format: _Provider | _Format | None = None,  # noqa: A002 (the word for it)
) -> Window[_M]:
    """Return the window of a list of messages: what a `MessageRing` of them returns, without keeping anything.

    Reads the leading system messages, and the newest messages, as many as it must, whatever the length of the list.
    Older ones are not checked. With a `retention_ratio` below 1 or another `start_on` it reads every message, at every
    call: for a history that grows, a ring or a store is the better place.

    Args:
        messages: of any provider or framework, oldest first.
        token_limit: the most tokens that the window and what is sent beside it may have; at least 1.
        counter: this and all that follow: see `MessageRing`.
        measure: what a message's tokens are.
        start_on: what the window may begin with.
        include_system: whether the leading system messages are in it.
        retention_ratio: the share of the limit that is kept when something must be left out.
        initial_token_count: tokens of what is sent beside the window; see `MessageRing.get`.
        format: how messages are read.

    Raises the same as `MessageRing` and its `window`.
    """

@final
class TokenCounter:
    """Turns a text into a number of tokens. Immutable; copies are the object itself.

    Args:
        source: one of

            - the name of an embedded encoding (see `encodings()`): counted in Rust, without files or network;
            - a `tiktoken.Encoding`: counted in Rust if it equals an embedded one, else by its own `encode`;
            - a callable that takes a str and returns its tokens (a list, or anything else with their length) or the
              number of them;
            - another counter.

    Counts equal tiktoken's `len(encoding.encode(text, allowed_special="all"))`: a special token of the encoding, such
    as `<|endoftext|>`, counts as one token wherever it is typed. In a ring the measure decides: under
    `measure="message"` it counts as the ordinary text that providers make of it, under `"text"` as one token. A
    callable other than a `tiktoken.Encoding` decides itself. Lone surrogates count as U+FFFD, as in tiktoken; a
    callable gets them as U+FFFD.

    What a callable returns is checked at every call. A mapping, a set, a nested list, an array of several dimensions, a
    str and bytes are refused: their lengths are not the number of tokens. A Hugging Face tokenizer that is set to pad
    or truncate is refused when the counter is made. Others are found by their counts. If a text has more than 4 tokens
    and more than one for two bytes, or fewer than one for six, the callable is called once more with a longer text,
    which must have more tokens. Otherwise each text costs one call.

    For a callable, exact means: `count` returns what it returned, and `measure="message"` sums that over a message's
    texts. `measure="text"` equals its count of the joined window if its counts, less its count of `""`, add up at a
    space that follows a word. `docs/tokenizers.md` says which tokenizers do this.

    Raises:
        ValueError: for an unknown name, with the known ones; for a tokenizer that is set to pad or truncate.
        TypeError: if `source` is none of these.
    """

    def __new__(cls, source: CounterSource, /) -> TokenCounter: ...
    @staticmethod
    def for_model(model: str, /) -> TokenCounter:
        """Return the counter of a model, such as `"gpt-4o"`.

        Raises:
            ValueError: if the model's encoding is not known or not embedded. Then give `TokenCounter` the model's own
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
                make of it. It makes no difference for a callable other than a `tiktoken.Encoding`.

        Raises:
            TypeError: if `text` is not a str, or the callable returns neither tokens nor their number.
            ValueError: if the callable's number is negative or above 2**40, or does not grow with the text, because
                the callable pads, truncates, or always answers the same. Also for another value of `special`.
            Exception: whatever the callable raises, unchanged.
        """

    def count_batch(self, texts: Iterable[str], /, *, special: Literal["token", "text"] = "token") -> list[int]:
        """Return the number of tokens of each text; an embedded encoding uses all cores and releases the GIL.

        Args:
            texts: what is counted; one str is not a list of texts.
            special: see `count`.

        Raises the same as `count`.
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

    A message is a dict, another mapping or row, or an SDK's own object: from OpenAI's chat and Responses, Anthropic,
    Gemini, Bedrock, LangChain, LlamaIndex and more. Its shape says which kind it is, and kinds may be mixed.
    `docs/counting.md` lists them, and what counts in each. The ring keeps references: messages are never copied, and
    putting one counts nothing.

    Safe to use from many threads, and from counters and messages that call back into the ring. Before Python 3.14, a
    daemon thread that runs a Python counter or property while the interpreter exits can abort the process: end such
    threads first.

    Args:
        token_limit: the most tokens that a window may have; at least 1.
        counter: counts the tokens of a text: anything that `TokenCounter` takes.
        measure: what a message's tokens are.

            - `"message"`: all that is sent. Its texts, names, tool calls and results, each counted by itself, and
              constants for the message, calls, results and media, fitted to what providers bill. Special tokens in a
              text count as ordinary text.
            - `"text"`: LlamaIndex's rule. A message has a role and a content: a str, None (which counts as the text
              `"None"`), or a list of parts. Parts with a str `text` count, joined by newlines. The texts of a window
              are joined by one space. Nothing else counts. A special token in a text is one token.
            - a callable from a message to its tokens, an integer of at least 0. `counter` is not used then.
        start_on: what a window may begin with behind the leading system messages.

            - `"user"`: a user message; or a step (an assistant message and the results of its calls) with its question,
              the last user message before it, in front. Every provider that accepts the history accepts such a window.
            - None: LlamaIndex's rule: the first message, the last, and every message whose role is not assistant or
              tool.
        include_system: whether the leading system and developer messages are in every window.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit that is kept. Below 1,
            the windows of the next calls begin with the same messages, which are in the provider's prompt cache; 0.7 is
            a good choice. All messages are counted then.
        max_messages: the most messages to keep; the oldest leave. None keeps all. With `include_system` the leading
            system messages stay; with `start_on="user"`, so does the question of the oldest step. Neither counts. The
            results of a call leave with it.
        format: how messages are read.

            - None: each by its shape. A plain role and content counts as OpenAI's chat.
            - a provider's name: the same, but a plain role and content costs what this provider adds: `"openai-chat"`,
              `"openai-responses"`, `"anthropic"`, `"gemini"` or `"bedrock"`.
            - an object with a method `read(message)`, for classes of your own. It returns the message in one of the
              known shapes, such as `{"role": "user", "content": "Hi"}`. That is counted; the ring keeps `message`.

    Raises:
        ValueError: for a limit or bound below 1, or a ratio outside 0 to 1; for an unknown encoding, measure or format;
            for `measure="text"` with a format or another option: LlamaIndex's rule needs `start_on=None` and
            `include_system=False`, which are then the defaults.
        TypeError: for a limit or bound that is not an integer (a bool is not one, NumPy's are), or something that
            cannot count, measure or read.
    """

    def __new__(
        cls,
        token_limit: SupportsIndex = 3000,
        counter: CounterSource = "o200k_base",
        *,
        measure: Literal["message", "text"] | Callable[[_M], SupportsIndex] = "message",
        start_on: Literal["user"] | None = ...,
        include_system: bool = ...,
        retention_ratio: float = 1.0,
        max_messages: SupportsIndex | None = None,
        format: _Provider | _Format | None = None,  # noqa: A002 (the word for it)
    ) -> MessageRing[_M]: ...
    @property
    def token_limit(self) -> int:
        """The most tokens that a window may have."""

    @property
    def start_on(self) -> Literal["user"] | None:
        """What a window may begin with: `"user"`, or None for LlamaIndex's rule."""

    @property
    def include_system(self) -> bool:
        """Whether the leading system messages are in every window."""

    @property
    def retention_ratio(self) -> float:
        """The share of the limit that is kept when something must be left out."""

    @property
    def counter(self) -> TokenCounter:
        """Counts the tokens of a text."""

    @property
    def measure(self) -> str | Callable[[_M], SupportsIndex]:
        """What a message's tokens are: `"message"`, `"text"` or a callable."""

    @property
    def format(self) -> str | _Format | None:
        """How messages are read; None: by their shape."""

    @property
    def max_messages(self) -> int | None:
        """The most messages that are kept; None keeps all."""

    def _new_like(self) -> MessageRing[_M]:
        """Return a ring without messages, with the same arguments. Both share the counter and the measure.

        Not for a counter or a measure that refers to its ring: the collector does not see what is shared.
        """

    def put(self, message: _M, /) -> None:
        """Add the newest message.

        Raises:
            TypeError: if it has none of the known shapes, or a part has a wrong type; the error names what is there.
            ValueError: if it is nested too deeply, or contains itself.
            Exception: whatever its properties or a format's `read` raise, unchanged.

        If it raises, nothing is stored.
        """

    def put_messages(self, messages: Iterable[_M], /) -> None:
        """Add messages, oldest first: all of them, or none if one is refused.

        Raises the same as `put`.
        """

    def _put_messages(self, messages: Iterable[_M], /) -> list[_M]:
        """Like `put_messages`. Return the messages that left a bounded ring to make room, oldest first."""

    def set(self, messages: Iterable[_M], /) -> None:
        """Replace all messages with `messages`, oldest first. The iterable itself is not kept.

        Messages that come back at the same position with the same content keep their counts. Positions stay if all
        messages that were there come back in order, but for the oldest. Otherwise those of `messages` begin behind
        them, as after `reset`.

        Raises the same as `put`; then the ring is unchanged.
        """

    def get(
        self,
        *,
        initial_token_count: SupportsIndex | None = None,
        token_limit: SupportsIndex | None = None,
        counter: CounterSource | None = None,
        include_system: bool | None = None,
        retention_ratio: float | None = None,
        verify: bool = True,
    ) -> list[_M]:
        """Return the window: a new list of the messages that go into the next call, oldest first.

        It has the leading system messages (with `include_system`), the question if the window begins with one of its
        steps, and all messages from a start on. The start is the earliest one where the window and
        `initial_token_count` have at most `token_limit` tokens, by the ring's measure. If no start fits, the window
        begins with the newest start and exceeds the limit (with `start_on=None`, it is the last message).
        `docs/windows.md` has the rule.

        Only messages not counted before are counted: the newest first, and no further back than the window can reach.

        Args:
            initial_token_count: tokens of what is sent beside the window, such as tools; None is 0. A negative number
                is room beyond the limit.
            token_limit: for this call, instead of the ring's own.
            counter: for this call, instead of the ring's own. Counts under the last four counters used are kept.
            include_system: for this call, instead of the ring's own.
            retention_ratio: for this call, instead of the ring's own.
            verify: whether to check that the window's messages are still what was counted, and to count changed ones
                again. False is faster, for callers who never change a message. The check does not see changes outside
                the window, inside structured arguments, or in what a callable measure or a format's `read` looks at;
                `recount` does.

        Raises:
            ValueError: if `initial_token_count` and the leading system messages exceed the limit.
            Exception: whatever the counter, the measure, the format or a message's property raises, unchanged. The
                history stays as it was.
        """

    def window(
        self,
        *,
        initial_token_count: SupportsIndex | None = None,
        token_limit: SupportsIndex | None = None,
        counter: CounterSource | None = None,
        include_system: bool | None = None,
        retention_ratio: float | None = None,
        verify: bool = True,
    ) -> Window[_M]:
        """Return what `get` returns as a `Window`: a list that knows its tokens and its start. See `get`."""

    def slice(self, start: SupportsIndex, stop: SupportsIndex, /) -> list[_M]:
        """Return the messages at the positions from `start` to the one before `stop`, as far as they exist.

        Positions are counted from the first message ever put. `reset` and `set` do not give them to other messages;
        `pop` and `delete` move them. If `done` is the `start` of an earlier window, `ring.slice(done, window.start)` is
        what has left the window since: what is new to summarise.

        Raises:
            IndexError: if one of them has left the ring to make room (`max_messages`).
            ValueError: if a position is negative.
        """

    def set_head(self, messages: Iterable[_M], /) -> None:
        """Replace the leading system messages with `messages`, and leave the others alone.

        Raises:
            ValueError: if one is not a system or developer message, or with `measure="text"`; nothing is changed then.
            TypeError: see `put`.
        """

    @overload
    def _window(self, allowance: int, counter: TokenCounter, most: None = None, /) -> list[_M]: ...
    @overload
    def _window(self, allowance: int, counter: TokenCounter, most: int, /) -> list[_M] | None:
        """Like `get` with the token limit `allowance`, which may be 0.

        None if more than `most` characters would have to be counted, where each message adds 64 to its own. With a
        callable counter, None if any would have to be counted.

        Raises:
            ValueError: if `allowance` is negative.
        """

    def _limited_window(
        self,
        token_limit: int,
        initial_token_count: int,
        include_system: bool,
        retention_ratio: float,
        counter: TokenCounter,
        most: int | None = None,
        /,
    ) -> list[_M] | None:
        """Like `get`, with arguments by position; None in the same cases as `_window`. Raises the same as `get`."""

    def get_all(self) -> list[_M]:
        """Return a new list of all messages, oldest first."""

    def reset(self) -> None:
        """Remove all messages. The next one's position follows the last one's."""

    def pop(self) -> _M:
        """Remove and return the newest message.

        Raises:
            IndexError: if the ring is empty.
        """

    def delete(self, index: SupportsIndex, /) -> _M:
        """Remove and return the message at `index`; a negative one counts from the newest.

        Raises:
            IndexError: if there is no such message.
        """

    def token_count(self, *, counter: CounterSource | None = None) -> int:
        """Return the tokens of the whole history; 0 if it is empty.

        Counts what is not counted yet, and checks every message like `get`, so its time grows with the history.

        Args:
            counter: for this call, instead of the ring's own.
        """

    def count(self, message: _M, /) -> int:
        """Return the tokens of one message alone, by the ring's measure; it need not be in the ring.

        With `measure="message"` or a callable, a window's tokens are the sum of its messages' tokens. With `"text"`
        they need not be, because texts are joined.

        Raises the same as `put`, and whatever the counter or the measure raises, unchanged.
        """

    def recount(self) -> None:
        """Forget all counts, and read every message again.

        For changes in place that `get` does not see.
        """

    def __len__(self) -> int: ...
    def __bool__(self) -> bool:
        """Always true, so that `ring or MessageRing()` keeps an empty ring."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> _M: ...
    @overload
    def __getitem__(self, index: builtins.slice, /) -> list[_M]: ...
    def __iter__(self) -> Iterator[_M]:
        """Iterate over the messages that are in the ring now, oldest first."""

    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    def __copy__(self) -> MessageRing[_M]:
        """Return a ring with the same messages and counts."""

    def __getnewargs_ex__(self) -> tuple[tuple[int, TokenCounter], dict[str, Any]]:
        """Return the arguments of `__new__` for a copy, by position and by name.

        A subclass whose `__new__` takes other arguments returns those here. Copies and pickles are made with them.
        """

    def __reduce__(self) -> tuple[Any, tuple[type[MessageRing[_M]], tuple[Any, ...], dict[str, Any]], Any]: ...
    def __getstate__(self) -> tuple[int, list[_M], bytes, tuple[Any, ...], dict[str, Any] | None, dict[str, Any]]:
        """Return the state that is pickled.

        It is: its version, the messages, a byte for the outline of each, where the messages are, and the attributes
        that a subclass keeps in its dict and in its `__slots__`.
        """

    def __setstate__(
        self, state: tuple[int, list[_M], bytes, tuple[Any, ...], dict[str, Any] | None, dict[str, Any]], /
    ) -> None:
        """Take over the messages and attributes of `state`.

        Raises:
            ValueError: if its version is not this release's, or if it does not have a valid byte for each message.
            TypeError: if it has another shape.

        If it raises, nothing is changed.
        """
