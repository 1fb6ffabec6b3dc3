"""LangChain's messages in a store: given back equal, counted as they are."""

import json
from typing import Any

import pytest

pytest.importorskip("langchain.agents", reason="langchain is not installed: pip install 'chatring[langchain]'")

from chatring import MessageRing
from chatring.langchain import MessageFormat
from chatring.stores import open_store
from chatring.stores.errors import ForeignDataError
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)

CALL: Any = {"name": "find_order", "args": {"number": 1, "ünïcode": [None, 1.5]}, "id": "1", "type": "tool_call"}
BAD_CALL: Any = {"name": "f", "args": "{", "id": "2", "error": "no JSON", "type": "invalid_tool_call"}
USAGE: Any = {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}
MESSAGES = [
    SystemMessage("You are the support of a shop.", additional_kwargs={"__openai_role__": "developer"}),
    HumanMessage("Where is it? \ud83d \u2028 \x00", name="ada", id="h"),
    HumanMessage([{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]),
    AIMessage("", tool_calls=[CALL], invalid_tool_calls=[BAD_CALL], usage_metadata=USAGE, id="a"),
    AIMessage([{"type": "reasoning", "reasoning": "Hm."}, "text"], response_metadata={"model_name": "m"}),
    ToolMessage("It left.", tool_call_id="1", artifact={"rows": [1, 2]}, status="error", name="find_order"),
    AIMessageChunk(content="part", id="c"),
    ChatMessage(content="Hello", role="user"),
    FunctionMessage(content="old", name="f"),
]


@pytest.fixture
def store() -> Any:
    return open_store("memory://", format=MessageFormat())


def test_messages_come_back_equal(store: Any) -> None:
    store.append("ada", MESSAGES)
    back = store.all("ada")
    assert back == MESSAGES
    assert [type(message) for message in back] == [type(message) for message in MESSAGES]
    assert [message.id for message in back] == [message.id for message in MESSAGES]
    assert store.policy_name.endswith("langchain")


def test_they_count_as_in_a_ring(store: Any) -> None:
    store.append("ada", MESSAGES)
    ring: MessageRing[Any] = MessageRing(60)
    ring.put_messages(MESSAGES)
    assert store.token_count("ada") == ring.token_count()
    assert store.window("ada", 60) == ring.window()


def test_what_is_stored_is_langchains_own_json() -> None:
    message = HumanMessage("Hello", id="1")
    assert json.loads(MessageFormat().dump(message)) == message_to_dict(message)


def test_what_is_not_json_is_refused(store: Any) -> None:
    artifact = ToolMessage("found", tool_call_id="1", id="t", artifact=[object()])
    hint = (
        r"^the tool message 't' cannot be stored: .* object .*; MessageFormat\(artifacts=False\) leaves artifacts out$"
    )
    with pytest.raises(TypeError, match=hint):
        store.append("ada", [HumanMessage("Hi"), artifact])
    with pytest.raises(TypeError, match=r"^the human message None cannot be stored: .*bytes is not JSON serializable$"):
        store.append("ada", [HumanMessage("Hi", additional_kwargs={"raw": b""})])
    with pytest.raises(TypeError, match=r"^a message must be one of LangChain's.*got dict: langchain_core.messages"):
        store.append("ada", [{"role": "user", "content": "Hi"}])
    with pytest.raises(TypeError):
        store.append("ada", [RemoveMessage(id="1")])
    assert not store.exists("ada")


def test_models_within_a_message_come_back_as_dicts(store: Any) -> None:
    store.append("ada", [HumanMessage("Hi"), ToolMessage("found", tool_call_id="1", artifact=[Document("text")])])
    (found,) = store.last("ada", 1)
    assert found.artifact[0]["page_content"] == "text"


def test_artifacts_may_be_left_out() -> None:
    store: Any = open_store("memory://", format=MessageFormat(artifacts=False))
    store.append("ada", [HumanMessage("Hi"), ToolMessage("found", tool_call_id="1", artifact=[object()])])
    assert store.all("ada") == [HumanMessage("Hi"), ToolMessage("found", tool_call_id="1")]


@pytest.mark.parametrize(
    "body", ["{}", "[]", "no JSON", '"text"', '{"type": "no such", "data": {}}', '{"type": "human"}']
)
def test_what_was_not_written_by_it_is_not_read(body: str) -> None:
    with pytest.raises(ForeignDataError, match=r"^what is stored is not a message of LangChain's"):
        MessageFormat().load(body)
