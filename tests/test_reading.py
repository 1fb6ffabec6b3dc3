"""What is read of a message, by its shape: kinds, texts, calls, results and media."""

import copy
import re
import sqlite3
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass, replace
from datetime import date
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock, Mock

import pytest
import reading
import tiktoken
from chatring import _core
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_to_dict,
)
from llama_index.core.base.llms import types as llama_index
from reading import Extras, Reading


def read(message: Any) -> Reading:
    """Read a message in Rust, as the literal reading in Python does."""
    kind, continues, may_start, provider, extras, texts, _ = _core._read(message)
    got = Reading(kind, continues, may_start, provider, Extras(*extras), texts)
    assert got == reading.read(message)
    assert _core._outline(message) == (kind, continues, may_start)
    return got


def overhead(message: Any) -> int:
    return _core._read(message)[-1]


def test_every_message_of_requests_is_read(source: str, requests: list[dict[str, Any]]) -> None:
    assert len(requests) == {"shipped": 26, "recorded": 574}[source]
    for request in requests:
        for message in request["messages"]:
            assert read(message).kind in ("system", "user", "assistant", "tool")


PROVIDERS = {
    "openai-chat": {"openai-chat"},
    "openai-responses": {"openai-responses", "openai-chat"},
    "anthropic": {"anthropic", "openai-chat"},
    "bedrock": {"bedrock"},
    "gemini": {"gemini"},
}


def test_messages_of_requests_are_recognised(requests: list[dict[str, Any]]) -> None:
    for request in requests:
        for message in request["messages"]:
            got = read(message)
            assert got.provider in PROVIDERS[request["format"]], message
            # A plain role and content looks the same for every provider.
            if got.provider != request["format"]:
                content = message["content"]
                assert isinstance(content, str) or all(block["type"] == "text" for block in content)


# Written down independently of the reader: which strings of a request are not sent as text.
ARGUMENTS = {"arguments", "args", "input", "response", "json", "tools", "action"}
NOT_TEXT = {
    *("id", "type", "role", "tool_call_id", "tool_use_id", "call_id", "toolUseId", "file_id", "container_id"),
    *("signature", "thoughtSignature", "thought_signature", "encrypted_content", "redactedContent", "format"),
    *("status", "is_error", "phase", "execution", "outcome", "ttl", "mode", "detail", "tool_type"),
    *("media_type", "mime_type", "mimeType"),
}
OF_MEDIA = {"data", "bytes", "url", "uri", "image_url", "document_url", "file_url", "file_data", "file_uri", "fileUri"}


def sent(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every text, argument and result."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from sent(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from sent(item, (*path, i))
    elif isinstance(value, str):
        keys = [key for key in path if isinstance(key, str)]
        if ARGUMENTS & set(keys[:-1]) or keys[-1] in ARGUMENTS:
            yield path
        elif keys[-1] in OF_MEDIA:
            # A document whose source says that it is text; where a web search's result was found.
            if keys[-1] == "data" and "DUMMY" in value.upper():
                yield path
        elif keys[-1] not in NOT_TEXT:
            yield path


def with_more(message: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(message)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] += " and ten more words that have to be paid for"
    return changed


def test_whatever_is_sent_counts(requests: list[dict[str, Any]], o200k: tiktoken.Encoding) -> None:
    def tokens(message: Any) -> int:
        return sum(len(encoded) for encoded in o200k.encode_ordinary_batch(read(message).texts, num_threads=1))

    seen = set()
    for request in requests:
        for message in request["messages"]:
            before = tokens(message)
            for path in sent(message):
                assert tokens(with_more(message, path)) >= before + 8, (path, message)
                seen.add(path[-1])
    assert {"content", "text", "thinking", "arguments", "name", "output", "stdout", "code", "reasoning"} <= seen


def test_ids_marks_and_media_do_not_count(requests: list[dict[str, Any]]) -> None:
    for request in requests:
        for message in request["messages"]:
            texts = read(message).texts
            for name in ("id", "call_id", "tool_call_id", "tool_use_id", "toolUseId", "signature", "thoughtSignature"):
                for value in strings_of(message, name):
                    assert value not in texts


def strings_of(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == name and isinstance(item, str):
                yield item
            elif key not in ARGUMENTS:
                yield from strings_of(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item, name)


def as_object(value: Any) -> Any:
    """Return the same as an SDK has it: objects with attributes. Arguments and data stay what they are."""
    if isinstance(value, dict) and not value.keys() <= {"a", "temperature"}:
        return SimpleNamespace(**{key: item if key in ARGUMENTS else as_object(item) for key, item in value.items()})
    return [as_object(item) for item in value] if isinstance(value, list) else value


def test_objects_read_as_dicts_do(requests: list[dict[str, Any]]) -> None:
    for request in requests:
        for message in request["messages"]:
            got = read(message)
            assert read(UserDict(message)) == got
            if got.provider == "bedrock":  # whose SDK gives dicts; blocks of frameworks look like that
                got = replace(got, provider="openai-chat")
            assert read(as_object(message)) == got


# Kinds

KINDS = {
    "system": ("system", "developer", "SYSTEM", "Developer", "MessageRole.SYSTEM"),
    "user": ("user", "human", "User", "customer", "critic", "", "tool_user", "assistants"),
    "assistant": (
        *("assistant", "model", "ai", "bot", "chatbot", "CHATBOT", "gpt", "Assistant", "ASSISTANT"),
        *("tool-call", "tool_call", "TOOL_CALL", "function_call"),
    ),
    "tool": (
        *("tool", "function", "TOOL", "tool-response", "tool_response", "observation", "ipython", "Observation"),
        *("tool_result", "toolResult", "tool-result", "function_response", "TOOL_RESPONSE"),
    ),
}


@pytest.mark.parametrize(("kind", "role"), [(kind, role) for kind, roles in KINDS.items() for role in roles])
def test_roles(kind: str, role: str) -> None:
    got = read({"role": role, "content": "hi"})
    assert got.kind == kind
    assert got.may_start == (role not in ("assistant", "tool"))
    assert got.continues == ("call" in role.lower())
    as_enum = Enum("Role", {"MEMBER": role}).MEMBER  # type: ignore[attr-defined]
    assert read(SimpleNamespace(role=as_enum, content="hi")) == got


# Shapes: what is read of one message of each

CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q": "tea"}'}}
ASSISTANT, TOOL, USER = ("assistant", True), ("tool", False), ("user", False)

SHAPES: dict[str, tuple[Any, tuple[str, bool], str, Extras, list[str]]] = {
    "calls without content": (
        {"role": "assistant", "tool_calls": [CALL]},
        *(ASSISTANT, "openai-chat", Extras(calls=1), ["search", '{"q": "tea"}']),
    ),
    "refusal": (
        {"role": "assistant", "content": None, "refusal": "No."},
        *(("assistant", False), "openai-chat", Extras(), ["No."]),
    ),
    "function_call": (
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        *(ASSISTANT, "openai-chat", Extras(calls=1), ["f", "{}"]),
    ),
    "custom tool": (
        {"role": "assistant", "tool_calls": [{"type": "custom", "id": "1", "custom": {"name": "sh", "input": "ls"}}]},
        *(ASSISTANT, "openai-chat", Extras(calls=1), ["sh", "ls"]),
    ),
    "name": (
        {"role": "user", "name": "Ann", "content": "hi"},
        *(USER, "openai-chat", Extras(named=True), ["Ann", "hi"]),
    ),
    "what stands beside a message": (
        {
            "role": "user",
            "content": "hi",
            "timestamp": "2026",
            "uuid": "u",
            "metadata": {"a": "b"},
            "usage": {"n": "m"},
        },
        *(USER, "openai-chat", Extras(), ["hi"]),
    ),
    "reasoning under two names": (
        {
            "role": "assistant",
            "content": "5",
            "reasoning": "2+3",
            "reasoning_content": "2+3",
            "reasoning_details": [{"type": "reasoning.text", "text": "2+"}, {"type": "reasoning.text", "text": "3"}],
        },
        *(("assistant", False), "openai-chat", Extras(), ["2+3", "5"]),
    ),
    "parts": (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}},
            ],
        },
        *(USER, "openai-chat", Extras(images=1, audio=1, files=1), ["look", "a.pdf"]),
    ),
    "audio": ({"role": "assistant", "audio": {"id": "a"}}, *(("assistant", False), "openai-chat", Extras(audio=1), [])),
    "Ollama": (
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
        },
        *(ASSISTANT, "openai-chat", Extras(calls=1), ["f", '{"a":1}', "hm"]),
    ),
    "hosted call": (
        {"type": "web_search_call", "id": "1", "status": "completed", "action": {"type": "search", "query": "tea"}},
        *(ASSISTANT, "openai-responses", Extras(calls=1), ['{"type":"search","query":"tea"}']),
    ),
    "code interpreter": (
        {"type": "code_interpreter_call", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        *(ASSISTANT, "openai-responses", Extras(calls=1), ["1+1", "2"]),
    ),
    "picture made": (
        {"type": "image_generation_call", "id": "1", "result": "AAAA", "revised_prompt": "a cat"},
        *(ASSISTANT, "openai-responses", Extras(calls=1, images=1), ["a cat"]),
    ),
    "output of parts": (
        {
            "type": "function_call_output",
            "call_id": "1",
            "output": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "data:"}],
        },
        *(TOOL, "openai-responses", Extras(results=1, images=1), ["a"]),
    ),
    "custom output": (
        {"type": "custom_tool_call_output", "call_id": "1", "output": "ok"},
        *(TOOL, "openai-responses", Extras(results=1), ["ok"]),
    ),
    "shell output": (
        {
            "type": "shell_call_output",
            "call_id": "1",
            "output": [{"stdout": "a", "stderr": "b", "outcome": {"type": "x"}}],
        },
        *(TOOL, "openai-responses", Extras(results=1), ["a", "b"]),
    ),
    "reasoning item": (
        {"type": "reasoning", "id": "1", "summary": [{"type": "summary_text", "text": "a"}], "encrypted_content": "zz"},
        *(ASSISTANT, "openai-responses", Extras(), ["a"]),
    ),
    "Anthropic": (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "zz"},
                {
                    "type": "text",
                    "text": "a",
                    "citations": [{"cited_text": "c"}],
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": "é"}},
            ],
        },
        *(ASSISTANT, "anthropic", Extras(calls=1), ["hm", "a", "f", '{"a":"é"}']),
    ),
    "Anthropic's nested result": (
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "1",
                    "content": [
                        {"type": "text", "text": "a"},
                        {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
                        {"type": "document", "title": "t", "source": {"type": "text", "data": "d"}},
                        {
                            "type": "search_result",
                            "source": "s",
                            "title": "t",
                            "content": [{"type": "text", "text": "r"}],
                        },
                    ],
                },
                {"type": "text", "text": "b"},
            ],
        },
        *(TOOL, "anthropic", Extras(results=1, images=1), ["a", "d", "t", "s", "t", "r", "b"]),
    ),
    "Gemini's call": (
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"type": "all"}}, "thoughtSignature": "s"}]},
        *(ASSISTANT, "gemini", Extras(calls=1), ["f", '{"type":"all"}']),
    ),
    "Gemini's result": (
        {
            "role": "user",
            "parts": [
                {"function_response": {"id": "1", "name": "f", "response": {"n": 1}}},
                {"inline_data": {"mime_type": "image/png", "data": "AAAA"}},
                {"fileData": {"fileUri": "gs://a", "mimeType": "video/mp4"}},
                {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
            ],
        },
        *(TOOL, "gemini", Extras(results=1, images=1, audio=1, files=1), ["f", '{"n":1}']),
    ),
    "Gemini's code": (
        {"role": "model", "parts": [{"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "2"}}]},
        *(ASSISTANT, "gemini", Extras(calls=1, results=1), ["1", "2"]),
    ),
    "Gemini without a role": ({"parts": [{"text": "a", "thought": True}]}, *(USER, "gemini", Extras(), ["a"])),
    "Bedrock's call": (
        {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                {"toolUse": {"toolUseId": "1", "name": "f", "input": {}}},
                {"cachePoint": {"type": "default"}},
            ],
        },
        *(ASSISTANT, "bedrock", Extras(calls=1), ["hm", "f", "{}"]),
    ),
    "Bedrock's result": (
        {
            "role": "user",
            "content": [
                {
                    "toolResult": {
                        "toolUseId": "1",
                        "status": "success",
                        "content": [
                            {"json": {"n": 1}},
                            {"text": "a"},
                            {"document": {"name": "d", "format": "txt", "source": {"text": "b"}}},
                            {"document": {"name": "e", "format": "pdf", "source": {"bytes": b"a"}}},
                            {"image": {"format": "png", "source": {"bytes": b"a"}}},
                        ],
                    }
                }
            ],
        },
        *(TOOL, "bedrock", Extras(results=1, images=1, files=1), ['{"n":1}', "a", "b", "d", "e"]),
    ),
    "ShareGPT": ({"from": "gpt", "value": "a"}, *(("assistant", False), "openai-chat", Extras(), ["a"])),
    "unknown block": (
        {"role": "user", "content": [{"type": "note", "id": "1", "title": "t", "deep": [{"type": "x", "words": "w"}]}]},
        *(USER, "openai-chat", Extras(), ["t", "w"]),
    ),
    "data among blocks": (
        {"role": "tool", "content": [{"temperature": 3}]},
        *(TOOL, "openai-chat", Extras(results=1), ['{"temperature":3}']),
    ),
    "MCP's prompt": (
        {"role": "user", "content": {"type": "text", "text": "a"}},
        *(USER, "openai-chat", Extras(), ["a"]),
    ),
    "Pydantic AI's response": (
        {
            "kind": "response",
            "parts": [
                {"part_kind": "thinking", "content": "hm", "signature": "s"},
                {"part_kind": "tool-call", "tool_name": "f", "args": {"a": 1}, "tool_call_id": "1"},
            ],
        },
        *(ASSISTANT, "openai-chat", Extras(calls=1), ["hm", "f", '{"a":1}']),
    ),
    "Pydantic AI's request": (
        {
            "kind": "request",
            "instructions": "sent beside the messages",
            "parts": [{"part_kind": "tool-return", "tool_name": "f", "content": {"a": 1}, "tool_call_id": "1"}],
        },
        *(TOOL, "openai-chat", Extras(results=1), ["f", '{"a":1}']),
    ),
    "Agent Framework": (
        SimpleNamespace(
            role="assistant",
            contents=[
                SimpleNamespace(type="text", text="a", raw_representation="r"),
                SimpleNamespace(type="function_call", call_id="1", name="f", arguments="{}", exception=None),
            ],
            author_name="planner",
        ),
        *(ASSISTANT, "openai-chat", Extras(calls=1), ["a", "f", "{}"]),
    ),
    "Agent Framework's result": (
        SimpleNamespace(
            role="tool",
            contents=[
                SimpleNamespace(type="function_result", result="a", items=[SimpleNamespace(type="text", text="a")])
            ],
        ),
        *(TOOL, "openai-chat", Extras(results=1), ["a"]),
    ),
    "Haystack": (
        SimpleNamespace(
            _role=Enum("ChatRole", {"TOOL": "tool"}).TOOL,  # type: ignore[attr-defined]
            _content=[SimpleNamespace(result="a", origin=SimpleNamespace(tool_name="f", arguments={}), error=False)],
            _name=None,
            _meta={},
        ),
        *(TOOL, "openai-chat", Extras(results=1), ["a"]),
    ),
    "AutoGen": (
        SimpleNamespace(
            type="AssistantMessage",
            source="planner",
            thought="hm",
            content=[SimpleNamespace(id="1", arguments="{}", name="f")],
        ),
        *(ASSISTANT, "openai-chat", Extras(calls=1), ["hm", "{}", "f"]),
    ),
    "LlamaIndex": (
        llama_index.ChatMessage(
            role="assistant",
            blocks=[
                llama_index.ThinkingBlock(content="hm", num_tokens=9),
                llama_index.TextBlock(text="a"),
                llama_index.ToolCallBlock(tool_call_id="call_1", tool_name="search", tool_kwargs={"q": "tea"}),
            ],
            additional_kwargs={"tool_calls": [CALL]},
        ),
        *(ASSISTANT, "openai-chat", Extras(calls=1), ["search", '{"q": "tea"}', "hm", "a"]),
    ),
    "LangChain": (
        AIMessage(
            content=[
                {"type": "text", "text": "a"},
                {"type": "tool_use", "id": "call_1", "name": "search", "input": {"q": "tea"}},
            ],
            tool_calls=[{"name": "search", "args": {"q": "tea"}, "id": "call_1"}],
            additional_kwargs={"tool_calls": [CALL]},
            response_metadata={"model": "m"},
        ),
        *(ASSISTANT, "anthropic", Extras(calls=1), ["search", '{"q":"tea"}', "a"]),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    message, (kind, continues), provider, extras, texts = SHAPES[shape]
    got = read(message)
    assert (got.kind, got.continues, got.provider, got.extras, got.texts) == (kind, continues, provider, extras, texts)
    if isinstance(message, dict) and provider != "bedrock":
        assert read(as_object(message)) == got


LANGCHAIN = {
    "system": SystemMessage("a"),
    "user": HumanMessage("a", name="Ann"),
    "assistant": AIMessage("a", tool_calls=[{"name": "f", "args": {"q": "tea"}, "id": "1"}]),
    "tool": ToolMessage("a", tool_call_id="1"),
}


@pytest.mark.parametrize("kind", LANGCHAIN)
def test_langchain_objects_and_their_dumps(kind: str) -> None:
    message = LANGCHAIN[kind]
    got = read(message)
    assert got.kind == kind
    assert got.may_start == (kind in ("system", "user"))
    for dump in (messages_to_dict([message])[0], message.model_dump(), dumpd(message)):
        assert read(dump) == got


def test_other_classes_of_langchain() -> None:
    assert read(AIMessageChunk(content="a")).kind == "assistant"
    assert read(FunctionMessage(content="a", name="f")).kind == "tool"
    assert read(ChatMessage(content="a", role="developer")).kind == "system"


def test_rows_and_classes() -> None:
    plain = read({"role": "user", "content": "hi"})
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    assert read(database.execute("select 'user' as role, 'hi' as content, 7 as seq").fetchone()) == plain
    database.close()

    class Slots:
        __slots__ = ("content", "role")

        def __init__(self) -> None:
            self.role, self.content = "user", "hi"

    class Computed:
        role = "user"

        @property
        def content(self) -> str:
            return "hi"

    data = make_dataclass("data", ["role", "content"])
    for message in (Slots(), Computed(), data("user", "hi"), Mock(role="user", content="hi", tool_calls=None)):
        assert read(message) == plain


def nested(depth: int) -> Any:
    content: Any = "hi"
    for _ in range(depth):
        content = [content]
    return content


class Anything:
    """Has an attribute of any name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


class Endless:
    def __init__(self) -> None:
        self.left = self.right = self


class Broken:
    role = "user"

    @property
    def content(self) -> str:
        raise RuntimeError("the property's own")


UNREADABLE: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no role": (lambda: {"text": "hi", "author": "me"}, TypeError, "this dict has the keys 'text', 'author'"),
    "no content": (lambda: {"role": "user", "text": "hi"}, TypeError, "this dict has the keys 'role', 'text'"),
    "no one's": (
        lambda: {"role": None, "content": "hi"},
        TypeError,
        r"this dict has the keys 'role' \(None\), 'content'",
    ),
    "empty": (dict, TypeError, "this dict has no keys"),
    "number as role": (lambda: {"role": 1, "content": "hi"}, TypeError, "a message's role must be a string, got int"),
    "number as content": (lambda: {"role": "user", "content": 1}, TypeError, "a list of parts, got int"),
    "bytes": (lambda: {"role": "user", "content": b"hi"}, TypeError, "a list of parts, got bytes"),
    "text": (lambda: "hi", TypeError, "such as function_call; got str"),
    "None": (lambda: None, TypeError, "such as function_call; got NoneType"),
    "list": (lambda: [{"role": "user"}], TypeError, "such as function_call; got list"),
    "envelope": (lambda: {"type": "event", "payload": {}}, TypeError, "has the keys 'type', 'payload'"),
    "mock": (MagicMock, TypeError, "a message's role must be a string, got MagicMock"),
    "any name": (Anything, TypeError, "a message's role must be a string, got Anything"),
    "any name as content": (lambda: {"role": "user", "content": Anything()}, TypeError, "got Anything"),
    "deep": (lambda: {"role": "user", "content": nested(100)}, ValueError, "more than 64 levels deep"),
    "endless": (lambda: {"role": "user", "content": [Endless()]}, ValueError, "a message "),
    "broken": (Broken, RuntimeError, "the property's own"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_named(case: str) -> None:
    make, error, words = UNREADABLE[case]
    for reader in (reading.read, _core._read, _core._outline):
        with pytest.raises(error, match=words):
            reader(make())


# Anything at all

WORDS = ("", "user", "assistant", "tool", "model", "Developer", "ai", "request", "response", "a text", "é", "server")
KEYS = sorted(
    {"role", "content", "parts", "blocks", "type", "name", "note", "kwargs", "from", "value", "additional_kwargs"}
    | {*reading.MESSAGE_FIELDS, *reading.KNOWN_KEYS, *reading.MEDIUM_TEXTS, *reading.MIMES, *reading.BEDROCK_KEYS}
)
TYPES = sorted(
    {*reading.TEXT_TYPES, *reading.IMAGE_TYPES, *reading.AUDIO_TYPES, *reading.FILE_TYPES, *reading.MIME_TYPES}
    | {*reading.REASONING_ITEMS, *reading.SYSTEM_ITEMS, *reading.RESPONSES_TYPES, *reading.ANTHROPIC_TYPES}
    | {"function_call", "function_call_output", "tool-call", "tool-return", "web_search_tool_result", "message"}
    | {"image_generation_call", "constructor", "human", "AIMessageChunk", "ToolMessage", "unknown", "retry-prompt"}
    | {"system-prompt", "user-prompt", "image/png", "audio/wav", "application/pdf"}
)


class Pair(NamedTuple):
    type: str
    text: Any


class Speaker(str, Enum):
    HUMAN = "human"


ODD = (
    b"x",
    2.5,
    {1},
    range(2),
    date(2026, 1, 1),
    Path("a"),
    Speaker.HUMAN,
    Pair("text", "a"),
    Pair("tool_use", 1),
    len,
)
scalars = (
    st.none()
    | st.sampled_from(ODD)
    | st.sampled_from(WORDS)
    | st.sampled_from(TYPES)
    | st.booleans()
    | st.integers(-9, 9)
)


def records(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(KEYS)
    typed = st.fixed_dictionaries(
        {"type": st.sampled_from(TYPES)}, optional=dict.fromkeys(("text", "name", "content", "source"), values)
    )
    return st.dictionaries(keys, values, max_size=4) | typed


values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | records(inner) | records(inner).map(lambda fields: SimpleNamespace(**fields))
    ),
    max_leaves=8,
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(WORDS),
        "type": st.sampled_from(TYPES),
        "kind": st.sampled_from(("request", "response")),
        "content": values,
        "parts": values,
        "data": values,
        "kwargs": values,
        **dict.fromkeys(reading.MESSAGE_FIELDS, values),
        "name": st.sampled_from(WORDS),
        "additional_kwargs": values,
    },
)


@given(messages | records(values), st.booleans())
@settings(max_examples=max(500, settings().max_examples))
@example(
    {"role": "user", "content": [{"type": "tool_result", "content": ({"document": {"source": {"text": "a"}}},)}]}, False
)
def test_any_message_reads_as_the_literal_reading_does(message: dict[str, Any], as_attributes: bool) -> None:
    if as_attributes:
        message = SimpleNamespace(**message)  # type: ignore[assignment]
    try:
        reading.read(message)
    except (TypeError, ValueError) as error:
        for reader in (_core._read, _core._outline):
            with pytest.raises(type(error), match=re.escape(str(error))):
                reader(message)
    else:
        read(message)


# What it costs beside the texts

COOKBOOK = [
    (
        "system",
        None,
        "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    ),
    ("system", "example_user", "New synergies will help drive top-line growth."),
    ("system", "example_assistant", "Things working well together will increase revenue."),
    (
        *("system", "example_user"),
        "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    ),
    ("system", "example_assistant", "Let's talk later when we're less busy about how to do better."),
    ("user", None, "This late pivot means we don't have time to boil the ocean for the client deliverable."),
]


def tokens(message: Any, encoding: tiktoken.Encoding) -> int:
    return overhead(message) + sum(len(encoding.encode_ordinary(text)) for text in read(message).texts)


def test_openai_s_own_example_counts_as_published(o200k: tiktoken.Encoding, cl100k: tiktoken.Encoding) -> None:
    """As in "How to count tokens with tiktoken" of OpenAI's cookbook, less the 3 tokens that prime the reply."""
    messages = [
        {"role": role, "content": content} | ({"name": name} if name else {}) for role, name, content in COOKBOOK
    ]
    assert sum(tokens(message, o200k) for message in messages) == 124 - 3  # gpt-4o, gpt-4o-mini
    assert sum(tokens(message, cl100k) for message in messages) == 129 - 3  # gpt-4, gpt-3.5-turbo


TEXT_BLOCK = {"type": "text", "text": "hi"}
CHAT_CALL = {"function": {"name": "f", "arguments": "{}"}}
CLAUDE_CALL = {"type": "tool_use", "name": "f", "input": {}}
BEDROCK_CALL = {"toolUse": {"name": "f", "input": {}}}
GEMINI_CALL = {"functionCall": {"name": "f", "args": {}}}
# One message, or item, for each column of the table in docs/counting.md; a plain one comes first.
COLUMNS = ("message", "name", "call", "several calls", "result", "image", "audio, video", "file")
PRICED: dict[str, list[Any]] = {
    "OpenAI chat, and any plain role and content": [
        {"role": "user", "content": "hi"},
        {"role": "user", "content": "hi", "name": "Ann"},
        {"role": "assistant", "tool_calls": [CHAT_CALL]},
        {"role": "assistant", "tool_calls": [CHAT_CALL, CHAT_CALL]},
        {"role": "tool", "content": "hi"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "1"}}]},
    ],
    "OpenAI Responses": [
        {"type": "message", "role": "user", "content": "hi"},
        {"type": "message", "role": "user", "content": "hi", "name": "Ann"},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        None,
        {"type": "function_call_output", "output": "hi"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]},
        None,
        {"role": "user", "content": [{"type": "input_file", "file_id": "1"}]},
    ],
    "Anthropic": [
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
        None,
        {"role": "assistant", "content": [CLAUDE_CALL]},
        {"role": "assistant", "content": [CLAUDE_CALL, CLAUDE_CALL]},
        {"role": "user", "content": [{"type": "tool_result", "content": "hi"}]},
        {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a.example"}}]},
        None,
        {"role": "user", "content": [{"type": "document", "source": {"type": "base64", "data": "AAAA"}}]},
    ],
    "Bedrock": [
        {"role": "user", "content": [{"text": "hi"}]},
        None,
        {"role": "assistant", "content": [BEDROCK_CALL]},
        {"role": "assistant", "content": [BEDROCK_CALL, BEDROCK_CALL]},
        {"role": "user", "content": [{"toolResult": {"content": [{"text": "hi"}]}}]},
        {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"a"}}}]},
        {"role": "user", "content": [{"video": {"format": "mp4", "source": {"bytes": b"a"}}}]},
        {"role": "user", "content": [{"document": {"format": "pdf", "source": {"bytes": b"a"}}}]},
    ],
    "Gemini": [
        {"role": "user", "parts": [{"text": "hi"}]},
        None,
        {"role": "model", "parts": [GEMINI_CALL]},
        {"role": "model", "parts": [GEMINI_CALL, GEMINI_CALL]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]},
        {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]},
        {"role": "user", "parts": [{"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}]},
        {"role": "user", "parts": [{"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}}]},
    ],
}


@pytest.mark.parametrize("provider", PRICED)
def test_constants_are_as_documented(provider: str) -> None:
    table = (Path(__file__).parents[1] / "docs" / "counting.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if line.startswith(f"| {provider} |"))
    documented = [int(cell.replace(",", "")) for cell in row.strip("| ").split("|")[1:]]
    constants = dict(zip(COLUMNS, documented, strict=True))
    for column, message in zip(COLUMNS, PRICED[provider], strict=True):
        if message is not None:
            want = constants["message"]
            if column == "several calls":
                want += 2 * constants["call"]
            if column != "message":
                want += constants[column]
            assert overhead(message) == want, column


def test_a_format_in_python() -> None:
    class Event:
        def __init__(self, author: str, words: str) -> None:
            self.author, self.words = author, words

    class EventFormat:
        def read(self, message: Event) -> dict[str, str]:
            return {"role": message.author, "content": message.words}

    with pytest.raises(TypeError, match="this Event has the attributes 'author', 'words'"):
        _core._read(Event("agent", "hi"))
    assert _core._read(Event("agent", "hi"), EventFormat())[:3] == ("assistant", False, True)
    assert _core._outline(Event("agent", "hi"), EventFormat()) == ("assistant", False, True)
    with pytest.raises(TypeError, match=r"or have a method read\(message\) .* got object"):
        _core._read(Event("agent", "hi"), object())


def test_a_format_by_name_is_that_of_plain_messages() -> None:
    plain = {"role": "user", "content": "hi"}
    item = {"type": "function_call", "name": "f", "arguments": "{}"}
    for provider in PROVIDERS:
        assert _core._read(plain, provider)[3] == provider
        assert _core._read(item, provider)[3] == "openai-responses"
    with pytest.raises(
        ValueError, match="unknown format 'openai': choose one of openai-chat, openai-responses, anthropic"
    ):
        _core._read(plain, "openai")


def test_a_batch_has_a_byte_for_each_outline() -> None:
    batch = _core._StorePolicy("o200k_base", "message", "user", None).read([{"role": "user", "content": "Hi"}] * 2)
    kinds: bytes = batch.kinds
    assert (kinds, batch.tokens) == (b"\x09\x09", [])
