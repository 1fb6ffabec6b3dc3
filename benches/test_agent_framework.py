"""Agent Framework: what compaction costs before each model call, what a run loads of its session, and a whole run.

The framework's `TruncationStrategy` adds up all messages again for each group that it leaves out. Its window is not
ours: it is checked for being valid and within the limit by its own count.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("agent_framework.exceptions", reason="Agent Framework is not installed: agent-framework-core")

from agent_framework import (
    Agent,
    BaseChatClient,
    CharacterEstimatorTokenizer,
    ChatMiddlewareLayer,
    ChatResponse,
    FileHistoryProvider,
    FunctionInvocationLayer,
    InMemoryHistoryProvider,
    Message,
    TruncationStrategy,
    apply_compaction,
    included_token_count,
)
from chatring import MessageRing, trim_messages
from chatring.agent_framework import ChatringHistoryProvider, RingStrategy, Tokenizer
from chatring.agent_framework.step import answers_of, calls_of
from chatring.stores import open_store
from pytest_benchmark.fixture import BenchmarkFixture

from benches.agent_framework_contenders import FORMAT, PlainProvider, PlainStrategy, count, history, loaded, noted
from benches.conftest import Label
from benches.conversation import Histories
from benches.framework_names import STRATEGY

LIMIT = 3_000
THEIRS = STRATEGY.theirs
THEIRS_EXACT = "agent-framework TruncationStrategy, exact tokens"
PLAIN, PLAIN_ROWS = "pure Python, counting once", "pure Python over sqlite3"
OURS, OURS_RATIO = STRATEGY.ours, f"{STRATEGY.ours}, retention_ratio=0.7"
IN_MEMORY, FILE = "agent-framework InMemoryHistoryProvider", "agent-framework FileHistoryProvider"
OUR_HISTORY = "chatring ChatringHistoryProvider"

# The tokenizers that note tokens in messages, and the strategies.
_CHARACTERS = CharacterEstimatorTokenizer()
STRATEGIES: dict[str, tuple[Any, Callable[[], Any]]] = {
    THEIRS: (_CHARACTERS, lambda: TruncationStrategy(max_n=LIMIT, compact_to=LIMIT, tokenizer=_CHARACTERS)),
    THEIRS_EXACT: (Tokenizer(), lambda: TruncationStrategy(max_n=LIMIT, compact_to=LIMIT, tokenizer=Tokenizer())),
    PLAIN: (None, lambda: PlainStrategy(LIMIT)),
    OURS: (None, lambda: RingStrategy(LIMIT)),
    OURS_RATIO: (None, lambda: RingStrategy(LIMIT, retention_ratio=0.7)),
}


@pytest.mark.parametrize("size", [1_000, 2_000, 5_000])
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("part", ["strategy", "all"])
def test_compaction_before_a_model_call(
    benchmark: BenchmarkFixture, histories: Histories, label: Label, loop: Any, part: str, name: str, size: int
) -> None:
    """The strategy alone, and with what the framework does before and after any."""
    if size == 5_000 and name in (THEIRS, THEIRS_EXACT):
        pytest.skip("quadratic")
    tokenizer, make = STRATEGIES[name]
    messages = history(histories, size)
    assert size - 50 < len(messages) <= size
    noted(messages, tokenizer)
    strategy = make()

    def apply(given: list[Message]) -> list[Message]:
        return loop.run_until_complete(apply_compaction(given, strategy=strategy))  # type: ignore[no-any-return]

    sent = apply(given := loaded(messages))
    assert _is_valid(sent)
    assert 5 < len(sent) < size / 4
    if name in (THEIRS, THEIRS_EXACT):
        assert included_token_count(given) <= LIMIT
    else:
        ring: MessageRing[Message] = MessageRing(format=FORMAT)
        assert all(ring.count(message) == count(message) for message in messages)
        ratio = 0.7 if name == OURS_RATIO else 1.0
        window = trim_messages(messages, LIMIT, format=FORMAT, retention_ratio=ratio)
        assert [message.to_dict()["contents"] for message in sent] == [each.to_dict()["contents"] for each in window]
        assert sum(map(count, sent)) <= LIMIT
    workload = STRATEGY.name if part == "strategy" else "agent-framework: compaction before a model call"
    label(workload, name, messages=size, limit=LIMIT)
    rounds = 3 if name in (THEIRS, THEIRS_EXACT) else 15
    timed = (lambda given: loop.run_until_complete(strategy(given))) if part == "strategy" else apply
    benchmark.pedantic(timed, setup=lambda: ((loaded(messages),), {}), rounds=rounds)


def _is_valid(messages: list[Message]) -> bool:
    waiting: Counter[str] = Counter()
    for message in messages:
        if not answers_of(message) <= waiting:
            return False
        waiting = waiting - answers_of(message) + calls_of(message)
    return not waiting


class Providers:
    """The history in each contender's provider, and the state of its session."""

    def __init__(self, folder: Path, messages: list[Message], loop: asyncio.AbstractEventLoop) -> None:
        self.window = trim_messages(messages, LIMIT, format=FORMAT)
        self.store = open_store(f"sqlite:///{folder / 'ours.db'}?synchronous=NORMAL", format=FORMAT)
        self.plain = PlainProvider(folder, LIMIT)
        self.all: dict[str, Any] = {
            IN_MEMORY: InMemoryHistoryProvider(),
            FILE: FileHistoryProvider(folder / "files"),
            PLAIN_ROWS: self.plain,
            OUR_HISTORY: ChatringHistoryProvider(self.store, LIMIT),
        }
        self.states: dict[str, dict[str, Any]] = {name: {} for name in self.all}
        for name, provider in self.all.items():
            loop.run_until_complete(provider.save_messages("ada", loaded(messages), state=self.states[name]))

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(self.store.aclose())
        self.store.close()
        self.plain.close()


@pytest.fixture(scope="module", params=[1_000, 5_000])
def providers(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    histories: Histories,
    loop: asyncio.AbstractEventLoop,
) -> Iterator[tuple[int, Providers]]:
    made = Providers(tmp_path_factory.mktemp("sessions"), history(histories, request.param)[:-1], loop)
    yield request.param, made
    made.close(loop)


pytestmark = pytest.mark.filterwarnings("ignore:.*FileHistoryProvider is experimental")
NAMES = [IN_MEMORY, FILE, PLAIN_ROWS, OUR_HISTORY]


@pytest.mark.parametrize("name", NAMES)
def test_read(benchmark: BenchmarkFixture, providers: Any, loop: Any, label: Label, name: str) -> None:
    size, made = providers

    def read() -> list[Message]:
        return loop.run_until_complete(  # type: ignore[no-any-return]
            made.all[name].get_messages("ada", state=made.states[name])
        )

    messages = read()
    if name in (PLAIN_ROWS, OUR_HISTORY):
        assert [each.to_dict()["contents"] for each in messages] == [each.to_dict()["contents"] for each in made.window]
    else:
        assert size - 50 < len(messages) < size
    label("agent-framework: what a run reads", name, messages=size, limit=LIMIT)
    benchmark(read)


class Client(FunctionInvocationLayer[Any], ChatMiddlewareLayer[Any], BaseChatClient[Any]):
    """Says one word."""

    def _inner_get_response(self, **_: Any) -> Awaitable[ChatResponse]:
        async def respond() -> ChatResponse:
            return ChatResponse(messages=[Message("assistant", ["Yes."])])

        return respond()


@pytest.mark.parametrize("name", NAMES)
def test_run(benchmark: BenchmarkFixture, providers: Any, loop: Any, label: Label, name: str) -> None:
    """One question and one answer, trimmed: by the framework's strategy what its own providers load, by ours the rest.

    Each adds two messages to the history.
    """
    size, made = providers
    if size == 5_000 and name in (IN_MEMORY, FILE):
        pytest.skip("quadratic")
    strategy = STRATEGIES[THEIRS if name in (IN_MEMORY, FILE) else OURS][1]()
    provider = made.all[name]
    agent = Agent(Client(), "Be brief.", context_providers=[provider], compaction_strategy=strategy)
    session = agent.create_session(session_id="ada")
    session.state[provider.source_id] = made.states[name]

    def run() -> Any:
        return loop.run_until_complete(agent.run("Is it solved?", session=session))

    assert run().text == "Yes."
    label("agent-framework: a run of one model call", name, messages=size, limit=LIMIT)
    benchmark.pedantic(run, rounds=3 if name in (IN_MEMORY, FILE) else 15)
