"""LangChain: what is sent with one model call, and one run of an agent on a thread that has a history.

Histories repeat the recorded conversation, with calls and their results. All exact contenders count alike: the texts
by tiktoken's cl100k_base or the same natively, and OpenAI's constants.

A run is a question and an answer, in LangChain's own agent with a model that answers at once. With a checkpointer the
whole history is loaded, and written again; `StoredHistory` loads the window and appends two messages. All requests are
trimmed by `TrimMessages`, so that they are equal, but for the row that names LangChain's `trim_messages`: that is what
users have today.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("langchain.agents", reason="langchain is not installed: pip install 'chatring[langchain]'")

from chatring import MessageRing
from chatring.langchain import MessageFormat, StoredHistory, TrimMessages, trim_messages
from chatring.stores import open_store
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolCall, ToolMessage
from langchain_core.messages import trim_messages as langchains
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import Field
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.contenders import ENCODING
from benches.conversation import Histories, Line, as_langchain
from benches.framework_names import LANGCHAIN_CALL

TRIM, RUN = "LangChain: trim_messages", "LangChain: a run"
EXACT = LANGCHAIN_CALL.theirs
OUR_COUNTS = "langchain trim_messages, chatring's counts summed"
APPROXIMATE = "langchain trim_messages, approximate"
BACKWARDS = "pure Python, from the newest back"
OURS = "chatring trim_messages"
MIDDLEWARE, MIDDLEWARE_RATIO = LANGCHAIN_CALL.ours, f"{LANGCHAIN_CALL.ours}, retention_ratio=0.7"
SQLITE_TODAY = "langgraph SqliteSaver, langchain trim_messages"
SQLITE_SAVER, MEMORY_SAVER = "langgraph SqliteSaver, chatring TrimMessages", "langgraph InMemorySaver, the same"
STORED = "chatring StoredHistory on SQLite, the same"

LIMIT, ENCODING_NAME = 3_000, "cl100k_base"
SIZES = (1_000, 5_000)
ROUNDS = 7
QUESTION = "And when does it come?"
SYSTEM = "You are the support of a shop."
# OpenAI's, as in `honest_twin.py`.
MESSAGE, NAME, CALLED, PARALLEL, RESULT = 4, 1, 4, 19, 4

Messages = list[BaseMessage]


def history_of(lines: Sequence[Line]) -> Messages:
    """Return LangChain's messages, from the first user's on, each result with the id of its call."""
    ids = (f"call_{number}" for number in itertools.count())
    waiting: list[str] = []
    history: Messages = []
    for line in itertools.dropwhile(lambda line: line.role != "user", lines):
        message: BaseMessage = as_langchain(line)
        if isinstance(message, ToolMessage):
            message.tool_call_id = waiting.pop(0)
        elif isinstance(message, AIMessage):
            waiting += [next(ids) for _ in line.calls]
            message.tool_calls = [
                ToolCall(name=name, args=json.loads(arguments), id=id_, type="tool_call")
                for (name, arguments), id_ in zip(line.calls, waiting[-len(line.calls) :], strict=True)
            ]
        history.append(message)
    return history


def exact(message: Any) -> int:
    """Return what OpenAI bills for a message: pure Python and tiktoken."""
    encode = ENCODING.encode_ordinary
    tokens = MESSAGE + len(encode(message.content)) + (RESULT if message.type == "tool" else 0)
    calls = message.tool_calls if message.type == "ai" else ()
    for call in calls:
        arguments = json.dumps(call["args"], ensure_ascii=False, separators=(",", ":"))
        tokens += CALLED + len(encode(call["name"])) + len(encode(arguments))
    return tokens + PARALLEL if len(calls) > 1 else tokens


def exact_sum(messages: Messages) -> int:
    return sum(map(exact, messages))


def backwards(history: Messages, max_tokens: int) -> Messages:
    """Return what LangChain does with `start_on="human"`: what a good engineer would write in ten minutes."""
    total, start = 0, len(history)
    for index in range(len(history) - 1, -1, -1):
        total += exact(history[index])
        if total > max_tokens:
            break
        if history[index].type == "human":
            start = index
    return history[start:]


def theirs(token_counter: Any) -> Callable[[Messages], Messages]:
    def trim(history: Messages) -> Messages:
        trimmed: Messages = langchains(
            history, max_tokens=LIMIT, token_counter=token_counter, strategy="last", start_on="human"
        )
        return trimmed

    return trim


RING: MessageRing[BaseMessage] = MessageRing(LIMIT, ENCODING_NAME)

TRIMMERS: dict[str, Callable[[Messages], Messages]] = {
    EXACT: theirs(exact_sum),
    OUR_COUNTS: theirs(lambda messages: sum(map(RING.count, messages))),
    APPROXIMATE: theirs("approximate"),
    BACKWARDS: lambda history: backwards(history, LIMIT),
    OURS: lambda history: trim_messages(history, max_tokens=LIMIT, token_counter=ENCODING_NAME, start_on="human"),
}


@pytest.mark.parametrize("name", TRIMMERS)
@pytest.mark.parametrize("size", SIZES)
def test_trim_messages(benchmark: BenchmarkFixture, histories: Histories, label: Label, size: int, name: str) -> None:
    history = history_of(histories.newest(size))
    trim = TRIMMERS[name]
    window = trim(history)
    assert exact_sum(history) == sum(map(RING.count, history))
    if name == APPROXIMATE:  # another number of tokens, so another window
        assert window == history[-len(window) :]
    else:
        assert [id(message) for message in window] == [id(message) for message in backwards(history, LIMIT)]
        assert window[0].type == "human"
        assert exact_sum(window) <= LIMIT
    label(TRIM, name, messages=size, limit=LIMIT, window=len(window))
    benchmark.pedantic(trim, (history,), rounds=5 if name == EXACT else 31)


class Request(NamedTuple):
    """As far as middleware looks at one."""

    messages: Messages
    system_message: SystemMessage | None = None
    tools: tuple[()] = ()

    def override(self, messages: Messages) -> "Request":
        return Request(messages)


class TrimExactly(AgentMiddleware):
    """What one writes today: LangChain's function in a middleware."""

    def wrap_model_call(self, request: ModelRequest, handler: Any) -> Any:
        messages: Any = request.messages
        trimmed: Any = TRIMMERS[EXACT](messages)
        return handler(request.override(messages=trimmed))


CALLS: dict[str, Any] = {
    EXACT: TrimExactly(),
    MIDDLEWARE: TrimMessages(LIMIT, counter=ENCODING_NAME),
    MIDDLEWARE_RATIO: TrimMessages(LIMIT, counter=ENCODING_NAME, retention_ratio=0.7),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("size", SIZES)
def test_a_model_call(benchmark: BenchmarkFixture, histories: Histories, label: Label, size: int, name: str) -> None:
    history = history_of(histories.newest(size))
    middleware = CALLS[name]
    sent = middleware.wrap_model_call(Request(history), lambda request: request.messages)
    if name == EXACT:
        assert sent == backwards(history, LIMIT)
    else:
        ratio = 0.7 if name == MIDDLEWARE_RATIO else 1.0
        ring = MessageRing[BaseMessage](LIMIT, ENCODING_NAME, retention_ratio=ratio)
        ring.put_messages(history)
        assert sent == ring.window()
    label(LANGCHAIN_CALL.name, name, messages=size, limit=LIMIT, window=len(sent))
    benchmark.pedantic(
        middleware.wrap_model_call, (Request(history), lambda request: None), rounds=5 if name == EXACT else 31
    )


class Answering(BaseChatModel):
    """Answers at once, and keeps what it was sent."""

    requests: list[Messages] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "answering"

    def _generate(self, messages: Messages, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.requests.append(list(messages))
        return ChatResult(generations=[ChatGeneration(message=AIMessage("On Friday."))])


class Session:
    """An agent on a thread that has a history, in a folder."""

    def __init__(self, name: str, history: Messages, folder: Path) -> None:
        self.model = Answering()
        self.folder = folder
        self.thread: Any = {"configurable": {"thread_id": "ada"}}
        self._close: Callable[[], Any] = lambda: None
        trim: Any = TrimExactly() if name == SQLITE_TODAY else CALLS[MIDDLEWARE]
        options: dict[str, Any] = {"middleware": [trim]}
        if name == STORED:
            store = open_store(f"sqlite:///{folder / 'ours.db'}", counter=ENCODING_NAME, format=MessageFormat())
            store.append("ada", history)
            self._close = store.close
            options["middleware"] = [StoredHistory(store, LIMIT), trim]
        else:
            options["checkpointer"] = self._saver(name)
        agent: Any = create_agent(self.model, [], system_prompt=SYSTEM, **options)
        self.agent = agent
        if name != STORED:
            agent.update_state(self.thread, {"messages": history})

    def _saver(self, name: str) -> Any:
        if name == MEMORY_SAVER:
            return InMemorySaver()
        sqlite = pytest.importorskip("langgraph.checkpoint.sqlite", reason="langgraph-checkpoint-sqlite is missing")
        manager = sqlite.SqliteSaver.from_conn_string(str(self.folder / "theirs.db"))
        self._close = lambda: manager.__exit__(None, None, None)
        return manager.__enter__()

    def run(self) -> None:
        self.agent.invoke({"messages": [HumanMessage(QUESTION)]}, self.thread)

    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def close(self) -> None:
        self._close()


@pytest.fixture
def session(request: pytest.FixtureRequest, histories: Histories, tmp_path: Path) -> Iterator[tuple[str, int, Session]]:
    name, size = request.param
    session = Session(name, history_of(histories.newest(size)), tmp_path)
    yield name, size, session
    session.close()


@pytest.mark.parametrize(
    "session",
    list(itertools.product((SQLITE_TODAY, SQLITE_SAVER, MEMORY_SAVER, STORED), SIZES)),
    ids=lambda case: f"{case[0]}-{case[1]}",
    indirect=True,
)
def test_a_run(
    benchmark: BenchmarkFixture, histories: Histories, label: Label, session: tuple[str, int, Session]
) -> None:
    name, size, agent = session
    agent.run()
    (sent,) = agent.model.requests
    asked = [*history_of(histories.newest(size)), HumanMessage(QUESTION)]
    trimmer = CALLS[EXACT if name == SQLITE_TODAY else MIDDLEWARE]
    request = Request(asked, None if name == SQLITE_TODAY else SystemMessage(SYSTEM))
    expected = trimmer.wrap_model_call(request, lambda request: request.messages)
    assert [message.content for message in sent[1:]] == [message.content for message in expected]
    before = agent.bytes_on_disk()
    benchmark.pedantic(agent.run, rounds=ROUNDS)
    written = (agent.bytes_on_disk() - before) // ROUNDS
    label(RUN, name, messages=size, limit=LIMIT, window=len(expected), bytes_a_run=written)
