"""Real parts of LlamaIndex, run on our memory and on LlamaIndex's own: everything that an LLM could notice is equal."""

import asyncio
import copy
import json
import pickle
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pydantic
import pytest
from chatring.llama_index import ChatMemoryBuffer, RingChatStore
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine, SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemory, SimpleComposableMemory
from llama_index.core.memory import ChatMemoryBuffer as LlamaIndexChatMemoryBuffer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.utils import get_tokenizer
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent
from profiles import slow
from pydantic import Field, PrivateAttr
from scripted_llm import ScriptedLLM, Transcript, calls, says
from workflows.context import JsonSerializer, PickleSerializer

pytestmark = slow

NewMemory = Callable[[int], LlamaIndexChatMemoryBuffer]

PYDANTIC = tuple(int(part) for part in pydantic.VERSION.split(".")[:2])


def theirs(token_limit: int) -> LlamaIndexChatMemoryBuffer:
    return LlamaIndexChatMemoryBuffer.from_defaults(token_limit=token_limit)


def on_rings(token_limit: int) -> LlamaIndexChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=token_limit)


def on_their_store(token_limit: int) -> LlamaIndexChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=token_limit, chat_store=SimpleChatStore())


OURS = pytest.mark.parametrize("ours", [on_rings, on_their_store])


# LlamaIndex's own warning. An agent is a pydantic model, and each of its attributes is searched for steps.
AGENT_WARNINGS = (
    "ignore:The `__fields__` attribute is deprecated:pydantic.warnings.PydanticDeprecatedSince20",
    "ignore:The `__fields_set__` attribute is deprecated:pydantic.warnings.PydanticDeprecatedSince20",
    "ignore:Accessing the 'model_computed_fields' attribute:pydantic.warnings.PydanticDeprecatedSince211",
    "ignore:Accessing the 'model_fields' attribute:pydantic.warnings.PydanticDeprecatedSince211",
)
RUNNING_WARNINGS = ("ignore:is_running called from within a step:DeprecationWarning",)
# A context that is used again is written and read in between. On pydantic 2.14 LlamaIndex leaves its own memory out.
REUSED_CONTEXT_WARNINGS = ("ignore:Skipping serialization of known unserializable key. memory",)


@dataclass
class Outcome:
    """All that a run leaves behind."""

    transcript: Transcript
    answers: list[str] = field(default_factory=list)
    # After every turn: the whole history, and its window.
    histories: Transcript = field(default_factory=list)
    windows: Transcript = field(default_factory=list)

    def turn(self, answer: Any, memory: BaseMemory) -> None:
        self.answers.append(str(answer))
        self.histories.append(dumped(memory.get_all()))
        self.windows.append(dumped(memory.get()))

    def cuts(self) -> int:
        """Return after how many turns the window is a true part of the history."""
        return sum(len(window) < len(history) for window, history in zip(self.windows, self.histories, strict=True))


def dumped(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    return [message.model_dump() for message in messages]


def joined_tokens(messages: list[ChatMessage]) -> int:
    return len(get_tokenizer()(" ".join(str(message.content) for message in messages)))


async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def look_up(word: str) -> str:
    """Look up a word."""
    return f"{word}: a word of {len(word)} letters, found in a dictionary with many pages that nobody has read"


def fail() -> str:
    """Fail."""
    raise RuntimeError("the tool is broken")


# --- agents -----------------------------------------------------------------------------------------------------------

QUESTIONS = ["What is 17 + 25, and what is a ring?", "And 3 + 4?", "Use the broken tool.", "Thanks! And now?", "Bye 👋"]
FUNCTION_SCRIPT = [
    calls(("add", {"a": 17, "b": 25}), ("look_up", {"word": "ring"}), text="I add and look up."),
    calls(("look_up", {"word": "ledger"})),
    says("17 + 25 is 42. A ring is a word, as is a ledger."),
    calls(("add", {"a": 3, "b": 4})),
    says("7."),
    calls(("fail", {})),
    says("It fails, as you said: it is broken."),
    says("Now you may ask me something else.  "),
    says("再见"),
]


async def function_agent(new_memory: NewMemory, token_limit: int, **options: Any) -> Outcome:
    llm = ScriptedLLM(script=FUNCTION_SCRIPT)
    agent = FunctionAgent(llm=llm, tools=[add, look_up, fail], system_prompt="Use the tools.", **options)
    memory = new_memory(token_limit)
    outcome = Outcome(llm.transcript)
    for question in QUESTIONS:
        outcome.turn(await agent.run(question, memory=memory), memory)
    assert len(llm.transcript) == len(FUNCTION_SCRIPT)
    return outcome


@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@OURS
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("token_limit", [1, 12, 30, 60, 100, 3000])
def test_function_agent(ours: NewMemory, token_limit: int, streaming: bool) -> None:
    expected = asyncio.run(function_agent(theirs, token_limit, streaming=streaming))
    assert (expected.cuts() > 0) == (token_limit < 3000)
    assert asyncio.run(function_agent(ours, token_limit, streaming=streaming)) == expected


@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@OURS
@pytest.mark.parametrize("token_limit", [40, 90, 150, 3000])
def test_function_agent_that_rewrites_the_stored_user_message(ours: NewMemory, token_limit: int) -> None:
    state = {"user": "Ann", "orders": list(range(12))}
    expected = asyncio.run(function_agent(theirs, token_limit, initial_state=state))
    assert asyncio.run(function_agent(ours, token_limit, initial_state=state)) == expected


@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@OURS
def test_counts_follow_the_rewritten_user_message(ours: NewMemory) -> None:
    async def windows(new_memory: NewMemory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        memory = new_memory(60)
        state = {"orders": list(range(15))}
        llm = ScriptedLLM(script=[says("Hello."), says("Yes.")])
        agent = FunctionAgent(llm=llm, initial_state=state)
        await agent.run("Hello?", memory=memory)
        assert "Hello?" in str(memory.get_all()[0].content)
        assert str(state) in str(memory.get_all()[0].content)
        await agent.run("Is it you?", memory=memory)
        as_asked = new_memory(60)
        for text, answer in (("Hello?", "Hello."), ("Is it you?", "Yes.")):
            as_asked.put_messages(
                [ChatMessage(role="user", content=text), ChatMessage(role="assistant", content=answer)]
            )
        if isinstance(memory, ChatMemoryBuffer):
            assert memory.token_count() == joined_tokens(memory.get_all())
        return dumped(memory.get()), dumped(as_asked.get())

    window, window_without_rewriting = asyncio.run(windows(ours))
    assert (window, window_without_rewriting) == asyncio.run(windows(theirs))
    assert len(window) < len(window_without_rewriting)


@OURS
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
def test_chat_history_given_to_an_agent(ours: NewMemory) -> None:
    async def outcome(new_memory: NewMemory) -> Outcome:
        llm = ScriptedLLM(script=[says("You are Ann."), says("Yes.")])
        agent = FunctionAgent(llm=llm, tools=[add])
        memory = new_memory(12)
        outcome = Outcome(llm.transcript)
        given = [
            ChatMessage(role="user", content="I am Ann or Anna"),
            ChatMessage(role="assistant", content="Hello."),
        ]
        outcome.turn(await agent.run("Who am I?", chat_history=given, memory=memory), memory)
        outcome.turn(await agent.run(chat_history=[*given, ChatMessage(content="Am I Ann?")], memory=memory), memory)
        return outcome

    expected = asyncio.run(outcome(theirs))
    assert expected.cuts() == 2
    assert asyncio.run(outcome(ours)) == expected


@OURS
@pytest.mark.filterwarnings(*AGENT_WARNINGS, *RUNNING_WARNINGS)
def test_agent_that_is_stopped_early(ours: NewMemory) -> None:
    async def outcome(new_memory: NewMemory) -> Outcome:
        llm = ScriptedLLM(script=[calls(("add", {"a": 1, "b": 1})), calls(("add", {"a": 2, "b": 1})), says("Enough.")])
        agent = FunctionAgent(llm=llm, tools=[add], early_stopping_method="generate")
        memory = new_memory(12)
        outcome = Outcome(llm.transcript)
        outcome.turn(await agent.run("Count up to a thousand.", memory=memory, max_iterations=2), memory)
        return outcome

    expected = asyncio.run(outcome(theirs))
    assert asyncio.run(outcome(ours)) == expected


REACT_SCRIPT = [
    says('Thought: I need a tool.\nAction: add\nAction Input: {"a": 17, "b": 25}'),
    says("Thought: I forget the form."),
    says('Thought: Now the word.\nAction: look_up\nAction Input: {"word": "ring"}'),
    says("Thought: I can answer without using any more tools.\nAnswer: 42, and a ring is a word."),
    says('Thought: Again.\nAction: add\nAction Input: {"a": 3, "b": 4}'),
    says("Thought: I can answer without using any more tools.\nAnswer: 7"),
    says("Thought: I can answer without using any more tools.\nAnswer: Nothing."),
]


async def react_agent(new_memory: NewMemory, token_limit: int, **options: Any) -> Outcome:
    llm = ScriptedLLM(script=REACT_SCRIPT, calls_functions=False)
    agent = ReActAgent(llm=llm, tools=[add, look_up], **options)
    memory = new_memory(token_limit)
    outcome = Outcome(llm.transcript)
    for question in ["What is 17 + 25, and what is a ring?", "And 3 + 4?", "What else?"]:
        outcome.turn(await agent.run(question, memory=memory), memory)
    assert len(llm.transcript) == len(REACT_SCRIPT)
    return outcome


@pytest.mark.filterwarnings(*AGENT_WARNINGS, *RUNNING_WARNINGS)
@OURS
@pytest.mark.parametrize("initial_state", [None, {"mood": "curious"}])
@pytest.mark.parametrize("token_limit", [30, 80, 3000])
def test_react_agent(ours: NewMemory, token_limit: int, initial_state: dict[str, Any] | None) -> None:
    expected = asyncio.run(react_agent(theirs, token_limit, initial_state=initial_state))
    assert (expected.cuts() > 0) == (token_limit < 3000)
    assert asyncio.run(react_agent(ours, token_limit, initial_state=initial_state)) == expected


HANDOFF_SCRIPT = [
    calls(("add", {"a": 1, "b": 2})),
    calls(("handoff", {"to_agent": "reader", "reason": "it is about words"}), text="I hand you over."),
    calls(("look_up", {"word": "prefix"})),
    says("A prefix is a word."),
    says("It comes before."),
    calls(("handoff", {"to_agent": "nobody", "reason": "none"})),
    calls(("handoff", {"to_agent": "counter", "reason": "it is about numbers"})),
    calls(("add", {"a": 2, "b": 2})),
    says("4."),
]


async def handoff(new_memory: NewMemory, token_limit: int, **options: Any) -> Outcome:
    llm = ScriptedLLM(script=HANDOFF_SCRIPT)
    counter = FunctionAgent(name="counter", description="Counts.", llm=llm, tools=[add], system_prompt="You count.")
    reader = FunctionAgent(name="reader", description="Reads.", llm=llm, tools=[look_up], system_prompt="You read.")
    workflow = AgentWorkflow(agents=[counter, reader], root_agent="counter", **options)
    memory = new_memory(token_limit)
    context = Context(workflow)
    outcome = Outcome(llm.transcript)
    for question in ["What is 1 + 2, and a prefix?", "Where does it come?", "And 2 + 2?"]:
        answer: Any = await workflow.run(question, memory=memory, ctx=context)
        outcome.turn(f"{answer.current_agent_name}: {answer}", await context.store.get("memory"))
    assert len(llm.transcript) == len(HANDOFF_SCRIPT)
    assert [answer.split(":")[0] for answer in outcome.answers] == ["reader", "reader", "counter"]
    return outcome


@pytest.mark.filterwarnings(*AGENT_WARNINGS, *REUSED_CONTEXT_WARNINGS)
@OURS
@pytest.mark.parametrize("initial_state", [None, {"topic": "words"}])
@pytest.mark.parametrize("token_limit", [20, 60, 120, 3000])
def test_handoff_between_agents(ours: NewMemory, token_limit: int, initial_state: dict[str, Any] | None) -> None:
    expected = asyncio.run(handoff(theirs, token_limit, initial_state=initial_state))
    assert (expected.cuts() > 0) == (token_limit < 3000)
    assert asyncio.run(handoff(ours, token_limit, initial_state=initial_state)) == expected


# --- chat engines -----------------------------------------------------------------------------------------------------

CHAT_QUESTIONS = [
    "Good morning! Could you tell me about rings?",
    "  ",
    "What did I ask first?",
    "Oklahoma",
    "<|endoftext|> is what?",
]
CHAT_SCRIPT = [
    says("Rings are round, and they have no beginning and no end. " * 3),
    says("You said nothing.\n"),
    says("You asked about rings, if I remember well."),
    says("A state."),
    says("A special token."),
]


class OneDocument(BaseRetriever):
    """Finds the question itself."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        node = TextNode(id_="document", text=f"What is known about {query_bundle.query_str}: nothing.")
        return [NodeWithScore(node=node, score=1.0)]


def simple_engine(memory: BaseMemory, llm: ScriptedLLM) -> Any:
    return SimpleChatEngine.from_defaults(memory=memory, llm=llm, system_prompt="Be brief.")


def context_engine(memory: BaseMemory, llm: ScriptedLLM) -> Any:
    return ContextChatEngine.from_defaults(OneDocument(), memory=memory, llm=llm, system_prompt="Be brief.")


def condense_engine(memory: BaseMemory, llm: ScriptedLLM) -> Any:
    return CondensePlusContextChatEngine.from_defaults(OneDocument(), memory=memory, llm=llm, system_prompt="Be brief.")


async def chat(engine: Any, question: str) -> str:
    return str(engine.chat(question))


async def stream_chat(engine: Any, question: str) -> str:
    response = engine.stream_chat(question)
    text = "".join(response.response_gen)
    # Releases without this thread end the stream after the answer is in the memory.
    thread = getattr(response, "write_response_to_history_thread", None)
    if thread is not None:
        thread.join()
    return text


async def achat(engine: Any, question: str) -> str:
    return str(await engine.achat(question))


async def astream_chat(engine: Any, question: str) -> str:
    response = await engine.astream_chat(question)
    text = "".join([part async for part in response.async_response_gen()])
    if response.awrite_response_to_history_task is not None:
        await response.awrite_response_to_history_task
    return text


async def conversation(
    memory: BaseMemory,
    new_engine: Callable[[BaseMemory, ScriptedLLM], Any],
    ask: Callable[[Any, str], Awaitable[str]],
) -> Outcome:
    # The condensing engine asks twice a turn from the second one on: a longer script of the same replies.
    llm = ScriptedLLM(script=CHAT_SCRIPT * 2)
    engine = new_engine(memory, llm)
    outcome = Outcome(llm.transcript)
    for question in CHAT_QUESTIONS:
        outcome.turn(await ask(engine, question), memory)
        assert dumped(engine.chat_history) == outcome.histories[-1]
    return outcome


@OURS
@pytest.mark.parametrize("ask", [chat, stream_chat, achat, astream_chat])
@pytest.mark.parametrize("new_engine", [simple_engine, context_engine, condense_engine])
@pytest.mark.parametrize("token_limit", [15, 40, 3000])
def test_chat_engines(
    ours: NewMemory,
    token_limit: int,
    new_engine: Callable[[BaseMemory, ScriptedLLM], Any],
    ask: Callable[[Any, str], Awaitable[str]],
) -> None:
    expected = asyncio.run(conversation(theirs(token_limit), new_engine, ask))
    assert (expected.cuts() > 0) == (token_limit < 3000)
    assert asyncio.run(conversation(ours(token_limit), new_engine, ask)) == expected


@OURS
def test_simple_chat_engine_whose_prefix_exceeds_the_limit(ours: NewMemory) -> None:
    for new_memory in (theirs, ours):
        engine = simple_engine(new_memory(2), ScriptedLLM(script=CHAT_SCRIPT))
        with pytest.raises(ValueError, match=r"^Initial token count exceeds token limit"):
            engine.chat("Hello?")


@OURS
def test_chat_history_given_to_a_chat_engine(ours: NewMemory) -> None:
    """Theirs makes the caller's list the history, ours copies it: what the LLM gets is the same."""
    transcripts, histories = [], []
    for new_memory in (theirs, ours):
        llm = ScriptedLLM(script=CHAT_SCRIPT)
        engine = simple_engine(new_memory(3000), llm)
        given = [ChatMessage(role="user", content="Hello?"), ChatMessage(role="assistant", content="Hello.")]
        engine.chat("Who?", chat_history=given)
        engine.chat("Why?")
        transcripts.append(llm.transcript)
        histories.append(dumped(engine.chat_history))
        engine.reset()
        assert engine.chat_history == []
    assert transcripts[0] == transcripts[1]
    assert histories[0] == histories[1]


# --- composed memories ------------------------------------------------------------------------------------------------


@OURS
@pytest.mark.parametrize("secondary", [theirs, on_rings, on_their_store])
@pytest.mark.parametrize("ask", [chat, achat])
def test_simple_composable_memory(
    ours: NewMemory, secondary: NewMemory, ask: Callable[[Any, str], Awaitable[str]]
) -> None:
    def composed(primary: NewMemory, others: NewMemory) -> BaseMemory:
        old = others(200)
        old.put_messages(
            [ChatMessage(role="user", content="I am Ann."), ChatMessage(role="assistant", content="Hello!")]
        )
        return SimpleComposableMemory.from_defaults(primary(40), [old])

    expected = asyncio.run(conversation(composed(theirs, theirs), simple_engine, ask))
    assert "I am Ann." in str(expected.transcript[-1])
    assert asyncio.run(conversation(composed(ours, secondary), simple_engine, ask)) == expected


@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@OURS
def test_function_agent_on_a_composed_memory(ours: NewMemory) -> None:
    def composed(new_memory: NewMemory) -> NewMemory:
        def new(token_limit: int) -> Any:
            return SimpleComposableMemory.from_defaults(new_memory(token_limit), [new_memory(500)])

        return new

    expected = asyncio.run(function_agent(composed(theirs), 60))
    assert "Relevant messages from memory source 1" in str(expected.transcript[-1])
    assert asyncio.run(function_agent(composed(ours), 60)) == expected


# --- contexts ---------------------------------------------------------------------------------------------------------

SERIALIZERS = pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()], ids=["json", "pickle"])


class Question(InputRequiredEvent):
    text: str


class Answer(HumanResponseEvent):
    text: str


async def confirm(ctx: Context, what: str) -> str:
    """Ask the user whether to go on."""
    answer = await ctx.wait_for_event(Answer, waiter_event=Question(text=what))
    return f"The user says {answer.text}"


CONFIRM_SCRIPT = [
    says("Hello, Ann."),
    calls(("add", {"a": 1, "b": 1})),
    says("2."),
    calls(("confirm", {"what": "Shall I cancel your order?"}), text="I ask."),
    says("Your order is cancelled."),
    says("Good bye."),
]
CONFIRM_QUESTIONS = ["I am Ann.", "1 + 1?", "Cancel my order.", "Bye."]


def through_json(context: Context, agent: Any, serializer: JsonSerializer) -> Context:
    saved = json.dumps(context.to_dict(serializer=serializer))
    return Context.from_dict(agent, json.loads(saved), serializer=serializer)


async def confirmed(
    new_memory: NewMemory, token_limit: int, serializer: JsonSerializer | None, **options: Any
) -> Outcome:
    """Run an agent that waits for the user in its third turn.

    With a serializer, its context is saved and loaded there and after every turn. The memory is given once.
    """
    llm = ScriptedLLM(script=CONFIRM_SCRIPT)
    agent = FunctionAgent(llm=llm, tools=[add, confirm], **options)
    context = Context(agent)
    memory = new_memory(token_limit)
    outcome = Outcome(llm.transcript)
    for n, question in enumerate(CONFIRM_QUESTIONS):
        if serializer is None:
            handler = agent.run(question, memory=memory)
        else:
            handler = agent.run(question, ctx=context, memory=None if n else memory)
        if question == "Cancel my order.":
            async for event in handler.stream_events():
                if isinstance(event, Question):
                    break
            if serializer is not None:
                context = through_json(handler.ctx, agent, serializer)
                await handler.cancel_run()
                handler = agent.run(ctx=context)
            handler.ctx.send_event(Answer(text="yes"))
        answer = await handler
        outcome.turn(answer, await handler.ctx.store.get("memory"))
        if serializer is not None:
            context = through_json(context, agent, serializer)
    assert len(llm.transcript) == len(CONFIRM_SCRIPT)
    return outcome


@SERIALIZERS
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@pytest.mark.parametrize("initial_state", [None, {"user": "Ann"}])
@pytest.mark.parametrize("token_limit", [10, 20, 40, 3000])
def test_context_saved_while_waiting_for_the_user(
    serializer: JsonSerializer, token_limit: int, initial_state: dict[str, Any] | None
) -> None:
    expected = asyncio.run(confirmed(theirs, token_limit, None, initial_state=initial_state))
    assert (expected.cuts() > 0) == (token_limit < 3000)
    assert asyncio.run(confirmed(on_rings, token_limit, None, initial_state=initial_state)) == expected
    assert asyncio.run(confirmed(on_rings, token_limit, serializer, initial_state=initial_state)) == expected
    # On pydantic 2.14 LlamaIndex's own memory does not get into JSON.
    if PYDANTIC < (2, 14) or isinstance(serializer, PickleSerializer):
        assert asyncio.run(confirmed(theirs, token_limit, serializer, initial_state=initial_state)) == expected


@OURS
@SERIALIZERS
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
def test_what_a_loaded_context_holds(ours: NewMemory, serializer: JsonSerializer) -> None:
    async def loaded() -> tuple[Any, Any]:
        agent = FunctionAgent(llm=ScriptedLLM(script=[says("Hello.")]))
        memory = ours(7)
        memory.chat_store_key = "Ann"
        context = Context(agent)
        await agent.run("Hello?", ctx=context, memory=memory)
        assert await context.store.get("memory") is memory
        return memory, await through_json(context, agent, serializer).store.get("memory")

    memory, found = asyncio.run(loaded())
    assert type(found) is ChatMemoryBuffer
    if ours is on_rings:
        assert type(found.chat_store) is RingChatStore
    assert (found.token_limit, found.chat_store_key, found.get_all()) == (7, "Ann", memory.get_all())
    assert found.chat_store.get_keys() == ["Ann"]
    found.put(ChatMessage(content="Only here."))
    assert len(found.get_all()) == len(memory.get_all()) + 1
    assert found.token_count() == joined_tokens(found.get_all())


@OURS
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
def test_editing_the_state_of_a_context(ours: NewMemory) -> None:
    """The state is copied for that, and with it the memory, but not the tokenizer."""

    async def edited(new_memory: NewMemory) -> tuple[bool, bool, Transcript]:
        memory = new_memory(12)
        agent = FunctionAgent(llm=ScriptedLLM(script=[says("Hello."), says("Yes.")]))
        context = Context(agent)
        await agent.run("Is anybody there?", ctx=context, memory=memory)
        async with context.store.edit_state() as state:
            state["memory"].put(ChatMessage(content="Put while the state was edited."))
            state["mood"] = "curious"
        held = await context.store.get("memory")
        assert held.tokenizer_fn is memory.tokenizer_fn
        held.put(ChatMessage(content="Put afterwards."))
        return (
            held is memory,
            held.chat_store is memory.chat_store,
            [dumped(memory.get_all()), dumped(memory.get()), dumped(held.get_all()), dumped(held.get())],
        )

    assert asyncio.run(edited(ours)) == asyncio.run(edited(theirs))


@OURS
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda memory: memory.model_copy(deep=True)])
def test_deepcopy(ours: NewMemory, copied: Callable[[Any], Any]) -> None:
    def histories(new_memory: NewMemory) -> Transcript:
        memory = new_memory(10)
        memory.put_messages(
            [ChatMessage(content="Both have this, and it is not short."), ChatMessage(content="This too.")]
        )
        other = copied(memory)
        assert other is not memory
        assert other.chat_store is not memory.chat_store
        if isinstance(memory, ChatMemoryBuffer):  # theirs copies a tokenizer of tiktoken, a second vocabulary
            assert other.tokenizer_fn is memory.tokenizer_fn
        memory.put(ChatMessage(content="Only the first has this."))
        other.put(ChatMessage(content="Only the copy has this."))
        other.token_limit = 20
        return [dumped(messages) for each in (memory, other) for messages in (each.get_all(), each.get())]

    assert histories(ours) == histories(theirs)


# --- memories of many users, and other settings -----------------------------------------------------------------------


@OURS
@pytest.mark.parametrize("copied", [copy.copy, lambda memory: memory.model_copy()])
def test_copies_for_two_users_keep_their_windows_apart(ours: NewMemory, copied: Callable[[Any], Any]) -> None:
    """Copies share the store. While one answers, its tokenizer asks the other: as another thread would."""
    template = ours(1000)
    template.get()
    ann, bob = copied(template), copied(template)
    ann.chat_store_key, bob.chat_store_key = "ann", "bob"
    ann.put(ChatMessage(content="I am Ann."))
    bob.put_messages([ChatMessage(content="I am Bob."), ChatMessage(content="This is a secret.")])
    seen: list[list[ChatMessage]] = []

    def tokenize(text: str) -> list[str]:
        seen.append(bob.get())
        return text.split()

    ann.tokenizer_fn = tokenize
    assert [message.content for message in ann.get()] == ["I am Ann."]
    assert seen
    assert all(len(window) == 2 for window in seen)


@OURS
def test_no_messages_begin_no_session(ours: NewMemory) -> None:
    """An agent that has nothing to add puts an empty list."""
    for new_memory in (theirs, ours):
        memory = new_memory(5)
        memory.put_messages([])
        asyncio.run(memory.aput_messages([]))
        assert memory.chat_store.get_keys() == []


@OURS
def test_a_token_limit_that_stands_for_no_limit(ours: NewMemory) -> None:
    for token_limit in (sys.maxsize, 10**20):
        windows = []
        for new_memory in (theirs, ours):
            memory = new_memory(token_limit)
            memory.put_messages([ChatMessage(content="Hello?"), ChatMessage(role="assistant", content="Hello.")])
            windows.append(dumped(memory.get()))
        assert windows[0] == windows[1]


@OURS
@pytest.mark.parametrize("tokenizer", [str.split, lambda text: text.split(), list])
def test_memories_with_any_tokenizer_are_pickled(
    ours: NewMemory, tokenizer: Callable[[str], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A tokenizer without a name is left out, with a warning, and the default replaces it."""
    restored = []
    for new_memory in (theirs, ours):
        memory = new_memory(5)
        memory.tokenizer_fn = tokenizer
        memory.put(ChatMessage(content="Hello?"))
        caplog.clear()
        found = pickle.loads(pickle.dumps(memory))
        restored.append((found.tokenizer_fn, found.token_limit, found.get_all(), len(caplog.records)))
    assert restored[0] == restored[1]


class NotedByThem(LlamaIndexChatMemoryBuffer):
    notes: list[str] = Field(default_factory=list)
    _drafts: list[str] = PrivateAttr(default_factory=list)


class NotedByUs(ChatMemoryBuffer):
    notes: list[str] = Field(default_factory=list)
    _drafts: list[str] = PrivateAttr(default_factory=list)


@pytest.mark.parametrize("noted", [NotedByThem, NotedByUs])
def test_deepcopy_copies_the_fields_of_a_subclass(noted: type[NotedByThem] | type[NotedByUs]) -> None:
    memory = noted(token_limit=5)
    copied = copy.deepcopy(memory)
    assert type(copied) is noted
    copied.notes.append("of the copy")
    copied._drafts.append("of the copy")
    assert (memory.notes, memory._drafts) == ([], [])
