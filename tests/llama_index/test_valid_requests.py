"""An agent that runs long on `measure="message"`: LlamaIndex's own loop sends requests that providers accept."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from chatring.llama_index import ChatMemoryBuffer, RingChatStore, SQLChatStore
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store import BaseChatStore, SimpleChatStore
from profiles import slow
from providers import RefusedError, validate_openai_chat
from scripted_llm import ScriptedLLM, calls, says
from test_integration import AGENT_WARNINGS, add, look_up

TURNS = 60
LIMIT = 1_800
QUESTIONS = [f"Question {turn}: what is {turn} + {turn}, and what is a ledger?" for turn in range(TURNS)]


def script() -> list[ChatMessage]:
    """Each turn has up to three rounds of one or two calls, and then an answer."""
    replies: list[ChatMessage] = []
    ids = itertools.count()
    for turn in range(TURNS):
        for step in range(turn % 4):
            tools: list[tuple[str, dict[str, Any]]] = [("add", {"a": turn, "b": step}), ("look_up", {"word": "ledger"})]
            reply = calls(*tools[: 1 + (turn + step) % 2], text="I look." if step else None)
            reply.additional_kwargs = {}
            for block in reply.blocks:
                if block.block_type == "tool_call":
                    block.tool_call_id = f"call-{next(ids)}"
            replies.append(reply)
        replies.append(says(f"Answer {turn}: it is {2 * turn}."))
    return replies


def as_openai_chat(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of the transcript as it is sent."""
    sent: dict[str, Any] = {"role": str(getattr(message["role"], "value", message["role"]))}
    found = [block["tool_call_id"] for block in message["blocks"] if block["block_type"] == "tool_call"]
    if found:
        sent["tool_calls"] = [{"id": call} for call in found]
    if sent["role"] == "tool":
        sent["tool_call_id"] = message["additional_kwargs"]["tool_call_id"]
    sent["content"] = " ".join(block["text"] for block in message["blocks"] if block["block_type"] == "text")
    return sent


async def requests(memory: ChatMemoryBuffer) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return each request of a long run, with the question that was asked."""
    llm = ScriptedLLM(script=script())
    agent = FunctionAgent(llm=llm, tools=[add, look_up], system_prompt="Use the tools.")
    memory.put(ChatMessage("The user is Ada.", role="system"))
    sent: list[tuple[str, list[dict[str, Any]]]] = []
    for question in QUESTIONS:
        await agent.run(question, memory=memory)
        new = llm.transcript[len(sent) :]
        sent += [(question, [as_openai_chat(message) for message in request]) for request in new]
    assert len(sent) == len(llm.script)
    assert len(await memory.aget()) < len(await memory.aget_all()) / 2, "the limit was never reached"
    return sent


def validate(question: str, request: list[dict[str, Any]]) -> None:
    """Raise RefusedError if a provider would refuse a request, or the question is missing."""
    behind = list(itertools.dropwhile(lambda message: message["role"] == "system", request))
    if not behind or behind[0]["role"] != "user":
        raise RefusedError("the first message is not a user's")
    if question not in [message["content"] for message in behind if message["role"] == "user"]:
        raise RefusedError("the question is missing")
    validate_openai_chat(behind)


def chat_store(name: str, folder: Path) -> BaseChatStore:
    if name == "sql":
        return SQLChatStore(f"sqlite:///{folder / 'chat.db'}", measure="message")
    return RingChatStore() if name == "ring" else SimpleChatStore()


@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@pytest.mark.parametrize("retention_ratio", [1.0, 0.7])
@pytest.mark.parametrize("store", ["ring", "simple", "sql"])
def test_every_request_of_a_long_run_is_valid(store: str, retention_ratio: float, tmp_path: Path) -> None:
    memory = ChatMemoryBuffer.from_defaults(
        token_limit=LIMIT,
        chat_store=chat_store(store, tmp_path),
        measure="message",
        start_on="user",
        retention_ratio=retention_ratio,
    )
    for question, request in asyncio.run(requests(memory)):
        validate(question, request)
        assert [message["content"] for message in request[:2]] == ["Use the tools.", "The user is Ada."]
    if isinstance(memory.chat_store, SQLChatStore):
        memory.chat_store.store.close()


def beginnings(sent: list[tuple[str, list[dict[str, Any]]]]) -> list[str]:
    return [next(message["content"] for message in request if message["role"] == "user") for _, request in sent]


@slow
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
def test_with_a_retention_ratio_the_beginning_stays_for_several_calls() -> None:
    moves = {}
    for ratio in (1.0, 0.7):
        memory = ChatMemoryBuffer(token_limit=LIMIT, measure="message", retention_ratio=ratio)
        found = beginnings(asyncio.run(requests(memory)))
        moves[ratio] = sum(one != other for one, other in itertools.pairwise(found))
        runs = [len(list(run)) for _, run in itertools.groupby(found)]
    assert moves[0.7] <= moves[1.0] / 2
    # The ratio's, except the first and the last.
    assert min(runs[1:-1]) >= 3


@slow
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
def test_with_llama_indexs_rule_the_head_is_lost() -> None:
    """The tests above can fail: without the options, what the memory begins with is cut off."""
    sent = asyncio.run(requests(ChatMemoryBuffer(token_limit=LIMIT // 2)))
    heads = [request[1]["content"] == "The user is Ada." for _, request in sent]
    assert heads[0]
    assert not heads[-1]
