"""Replays a recorded conversation call by call: what the model would have been sent, and what that would have cost."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from chatring._core import _outline
from chatring.formats.links import Links, links_of
from chatring.recordings.conversation import Conversation, NewConversation
from chatring.recordings.validity import fault

KINDS = ("system", "user", "assistant", "tool")
# Providers cache a prefix in whole blocks of this many tokens.
_CACHE_BLOCK = 128


class Policy(NamedTuple):
    """How the windows of a replay are chosen."""

    token_limit: int
    retention_ratio: float | None
    """None is the plain sliding window."""


@dataclass(frozen=True)
class Pricing:
    """The prices of input, relative to the full price of a token, and what a cache requires."""

    cached_price: float = 0.1
    write_price: float = 1.0
    cache_minimum: int = 1024
    """The fewest tokens of a prefix that is cached."""


class Request(NamedTuple):
    """The messages of one call, by position: the first `head`, the question, and those from `start` up to `end`.

    Without `include_system`, `head` is 0, whatever these messages are.
    """

    head: int
    question: int | None
    start: int
    end: int

    def ranges(self) -> list[tuple[int, int]]:
        """Return the positions as ascending ranges with gaps between them."""
        ranges: list[tuple[int, int]] = []
        question = [] if self.question is None else [(self.question, self.question + 1)]
        for start, end in [(0, self.head), *question, (self.start, self.end)]:
            if ranges and ranges[-1][1] == start:
                ranges[-1] = ranges[-1][0], end
            elif start < end:
                ranges.append((start, end))
        return ranges

    def __contains__(self, position: object) -> bool:
        return any(isinstance(position, int) and start <= position < end for start, end in self.ranges())


class Call(NamedTuple):
    """One call under one policy. Tokens include what is sent beside the messages."""

    request: Request
    sent: int
    cached: int
    is_cut: bool
    """Whether the messages behind the head begin elsewhere than in the call before."""


class Recording:
    """A recorded conversation, as far as a replay needs it.

    Each response of a model is a call. An assistant's message, and those that follow one with calls or reasoning,
    belong to the same response. If only system messages are before an assistant's message, it is a greeting that no
    model was asked for.

    Attributes:
        kinds: the kind of each message: one of `KINDS`.
        tokens: the tokens of each message.
        sums: the tokens of the first 0, 1, 2, ... messages.
        head: the number of leading system messages.
        calls: the positions of the messages that answered a call.
    """

    def __init__(self, ring: Conversation) -> None:
        """Read the messages of a ring that measures each by itself."""
        self.messages = ring.get_all()
        outlines = list(map(_outline, self.messages))
        self.kinds = [kind for kind, _, _ in outlines]
        self.tokens = list(map(ring.count, self.messages))
        self.sums = list(accumulate(self.tokens, initial=0))
        self.head = next((i for i, kind in enumerate(self.kinds) if kind != "system"), len(self.kinds))
        self.calls = [
            i
            for i in range(self.head + 1, len(self.kinds))
            if self.kinds[i] == "assistant" and not (self.kinds[i - 1] == "assistant" and outlines[i - 1][1])
        ]
        # The newest user message before each position; -1 if there is none.
        users = (i if kind == "user" else -1 for i, kind in enumerate(self.kinds))
        self._question = list(accumulate(users, max, initial=-1))

    @cached_property
    def _links(self) -> list[Links]:
        return list(map(links_of, self.messages))

    def tokens_of(self, request: Request) -> int:
        """Return the tokens of a request's messages."""
        return sum(self.sums[end] - self.sums[start] for start, end in request.ranges())

    def tokens_in_common(self, one: Request, other: Request) -> int:
        """Return the tokens of the longest common prefix of two requests, in whole messages."""
        tokens = 0
        for (start, end), (other_start, other_end) in zip(one.ranges(), other.ranges(), strict=False):
            if start != other_start:
                break
            tokens += self.sums[min(end, other_end)] - self.sums[start]
            if end != other_end:
                break
        return tokens

    def fault(self, request: Request) -> str | None:
        """Return why providers would refuse a request, or None."""
        positions = [position for start, end in request.ranges() for position in range(start, end)]
        first = next((position for position in positions if self.kinds[position] != "system"), -1)
        return fault(
            ((self.kinds[position], self._links[position]) for position in positions),
            may_begin_with_reply=first == self.head,
        )

    def has_lost_question(self, request: Request) -> bool:
        """Return whether the newest user message is not in the request."""
        question = self._question[request.end]
        return question >= 0 and question not in request

    def has_lost_prompt(self, request: Request) -> bool:
        """Return whether a leading system message is not in the request."""
        return any(position not in request for position in range(self.head))

    def slide(self, call: int, token_limit: int, *, include_system: bool) -> Request:
        """Return a plain sliding window: the head and the newest messages that fit, but at least one."""
        head = self.head if include_system else 0
        allowance = token_limit - self.sums[head]
        start = bisect_left(self.sums, self.sums[call] - allowance)
        return Request(head, None, max(head, min(start, call - 1)), call)


class Replay:
    """All calls of some recordings under one policy. Sums are over all calls; the cache of each recording begins empty.

    Attributes:
        policy: how the windows were chosen.
        recordings: what was replayed.
        calls: for each recording, its calls.
    """

    def __init__(
        self,
        policy: Policy,
        pricing: Pricing,
        initial_token_count: int,
        requests: Sequence[tuple[Recording, Sequence[Request]]],
    ) -> None:
        self.policy = policy
        self._pricing = pricing
        self._initial_token_count = initial_token_count
        self.recordings = [recording for recording, _ in requests]
        self.calls = [list(self._charge(*requests_of_one)) for requests_of_one in requests]

    def _charge(self, recording: Recording, requests: Iterable[Request]) -> Iterator[Call]:
        beside = self._initial_token_count
        last: Request | None = None
        for request in requests:
            cached = 0 if last is None else beside + recording.tokens_in_common(last, request)
            cached = 0 if cached < self._pricing.cache_minimum else cached // _CACHE_BLOCK * _CACHE_BLOCK
            is_cut = last is not None and (request.question, request.start) != (last.question, last.start)
            yield Call(request, beside + recording.tokens_of(request), cached, is_cut)
            last = request

    def cost_of(self, call: Call) -> float:
        """Return what a call's input costs, in tokens at the full price."""
        return (call.sent - call.cached) * self._pricing.write_price + call.cached * self._pricing.cached_price

    @cached_property
    def number_of_calls(self) -> int:
        """How many calls there are."""
        return sum(map(len, self.calls))

    @cached_property
    def sent(self) -> int:
        """Tokens sent."""
        return sum(call.sent for calls in self.calls for call in calls)

    @cached_property
    def cached(self) -> int:
        """The tokens of these that were read from the provider's cache."""
        return sum(call.cached for calls in self.calls for call in calls)

    @property
    def cached_share(self) -> float:
        """The share of the tokens that were cached, from 0 to 1."""
        return self.cached / max(self.sent, 1)

    @cached_property
    def cost(self) -> float:
        """What the input costs, in tokens at the full price."""
        return sum(self.cost_of(call) for calls in self.calls for call in calls)

    @cached_property
    def cuts(self) -> int:
        """Calls whose messages behind the head begin elsewhere than in the call before."""
        return sum(call.is_cut for calls in self.calls for call in calls)

    @cached_property
    def over_limit(self) -> int:
        """Calls that exceed the limit because nothing smaller is valid."""
        return sum(call.sent > self.policy.token_limit for calls in self.calls for call in calls)

    @cached_property
    def invalid(self) -> Counter[str]:
        """Requests that a provider would refuse, by reason."""
        return Counter(reason for recording, call in self._pairs() if (reason := recording.fault(call.request)))

    @cached_property
    def lost_question(self) -> int:
        """Requests without the newest user message."""
        return sum(recording.has_lost_question(call.request) for recording, call in self._pairs())

    @cached_property
    def lost_prompt(self) -> int:
        """Requests without a leading system message that the history has."""
        return sum(recording.has_lost_prompt(call.request) for recording, call in self._pairs())

    def _pairs(self) -> Iterator[tuple[Recording, Call]]:
        for recording, calls in zip(self.recordings, self.calls, strict=True):
            for call in calls:
                yield recording, call


def replay(
    recordings: Sequence[Recording],
    new: NewConversation,
    policies: Iterable[Policy],
    *,
    pricing: Pricing | None = None,
    initial_token_count: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> list[Replay]:
    """Ask for the window before each call of the recordings, under each policy.

    Args:
        recordings: each has its own history.
        new: makes an empty ring, with the counter, the start rule and the head option of the replay.
        policies: the limits and ratios.
        pricing: the prices of input.
        initial_token_count: tokens of what is sent before the messages of every call.
        advance: called after each call.

    Raises:
        ValueError: if the head and what is sent beside the messages exceed a limit, or a limit or ratio is invalid.
    """
    pricing = pricing or Pricing()
    requests: dict[Policy, list[tuple[Recording, list[Request]]]] = {policy: [] for policy in policies}
    for recording in recordings:
        found: dict[Policy, list[Request]] = {policy: [] for policy in requests}
        ring = new()
        for call in recording.calls:
            ring.put_messages(recording.messages[len(ring) : call])
            for policy in requests:
                found[policy].append(_request(ring, recording, call, policy, initial_token_count))
            advance()
        for policy in requests:
            requests[policy].append((recording, found[policy]))
    return [Replay(policy, pricing, initial_token_count, requests[policy]) for policy in requests]


def _request(ring: Conversation, recording: Recording, call: int, policy: Policy, initial_token_count: int) -> Request:
    if policy.retention_ratio is None:
        allowance = policy.token_limit - initial_token_count
        return recording.slide(call, allowance, include_system=ring.include_system)
    window = ring.window(
        token_limit=policy.token_limit,
        retention_ratio=policy.retention_ratio,
        initial_token_count=initial_token_count,
        verify=False,  # nobody changes the messages
    )
    if not ring.include_system:  # the part of the head in the window is just before its start
        return Request(0, window.question, window.start - window.head, call)
    return Request(window.head, window.question, window.start, call)
