"""Reading files of messages: every form that people have, alone, split anywhere, compressed, and damaged."""

import gzip
import io
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from chatring import MessageRing
from chatring.cli.terminal import headline, role_of
from chatring.recordings import envelope, json_file
from chatring.recordings.conversation import (
    ConversationError,
    NewConversation,
    Reading,
    concatenate,
    read_conversations,
)
from hypothesis import given
from hypothesis import strategies as st

USER = {"role": "user", "content": "Is there any Assam?"}
REPLY = {"role": "assistant", "content": "Yes, 1,250 g. 🍵"}
TALK = [USER, REPLY]
SYSTEM = {"role": "system", "content": "You sell tea."}
CALL = {"type": "function_call", "call_id": "1", "name": "stock", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "1", "output": "1250"}
GEMINI_USER = {"role": "user", "parts": [{"text": "Is there any Assam?"}]}
GEMINI_REPLY = {"role": "model", "parts": [{"functionCall": {"name": "stock", "args": {}}}]}
LANGCHAIN = {"type": "human", "content": "Is there any Assam?"}


class Everything(list[dict[str, Any]]):
    """A conversation that takes every object, so that the reader is tested and not the ring."""

    def put(self, message: dict[str, Any]) -> None:
        self.append(message)

    def put_messages(self, messages: Iterable[dict[str, Any]]) -> None:
        self.extend(messages)


def read(data: bytes, *, skip_invalid: bool = False) -> Reading:
    new = cast(NewConversation, Everything)
    return read_conversations(io.BytesIO(data), new, skip_invalid=skip_invalid)


def taken(reading: Reading) -> list[Any]:
    return list(reading.conversations)


def histories(data: bytes) -> list[Any]:
    """Return the messages of each conversation of a file that has nothing else."""
    reading = read(data)
    assert (reading.left_out, reading.skipped) == ({}, 0)
    return taken(reading)


def lines(*values: object) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def choice(message: object) -> dict[str, Any]:
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message}, {"message": "another"}]}


DOCUMENTS: dict[str, tuple[Any, list[Any]]] = {
    "messages": (TALK, [TALK]),
    "no messages": ([], [[]]),
    "one message": (USER, [[USER]]),
    "a request": ({"model": "gpt-4o", "messages": TALK, "tools": [{"type": "function"}]}, [TALK]),
    "conversations": ([{"messages": TALK}, {"messages": [USER]}], [TALK, [USER]]),
    "lists of messages": ([TALK, [USER]], [TALK, [USER]]),
    "by title": ({"Tea": TALK, "More tea": [USER]}, [TALK, [USER]]),
    "conversations by id": ({"1": {"messages": TALK}, "2": {"messages": [USER]}}, [TALK, [USER]]),
    "LlamaIndex's SimpleChatStore": ({"store": {"ada": TALK, "eve": [USER]}, "class_name": "S"}, [TALK, [USER]]),
    "a list of OpenAI's API": ({"object": "list", "data": [CALL, RESULT]}, [[CALL, RESULT]]),
    "named beside others": ({"id": 7, "history": TALK, "tags": ["tea"]}, [TALK]),
    "llama.cpp": ([{"conv": {"id": "1", "name": "Tea"}, "messages": TALK}], [TALK]),
    "Open WebUI": ([{"id": "1", "chat": {"title": "Tea", "messages": TALK}}], [TALK]),
    "Anthropic": ({"system": "You sell tea.", "messages": TALK}, [[SYSTEM, *TALK]]),
    "Anthropic, blocks": (
        {"system": [{"type": "text", "text": "You sell tea."}], "messages": TALK},
        [[{"role": "system", "content": [{"type": "text", "text": "You sell tea."}]}, *TALK]],
    ),
    "no system": ({"system": None, "messages": TALK}, [TALK]),
    "empty system": ({"system": "", "messages": TALK}, [TALK]),
    "Gemini": (
        {"systemInstruction": {"parts": [{"text": "You sell tea."}]}, "contents": [GEMINI_USER, GEMINI_REPLY]},
        [[{"role": "system", "content": [{"text": "You sell tea."}]}, GEMINI_USER, GEMINI_REPLY]],
    ),
    "Gemini, a client's": ({"system_instruction": "You sell tea.", "contents": GEMINI_USER}, [[SYSTEM, GEMINI_USER]]),
    "Gemini without roles": ({"contents": [{"parts": [{"text": "Hi"}]}]}, [[{"parts": [{"text": "Hi"}]}]]),
    "Gemini's answer": ({"candidates": [{"content": GEMINI_REPLY}], "modelVersion": "2"}, [[GEMINI_REPLY]]),
    "Responses": ({"model": "gpt-5", "input": [USER, CALL, RESULT]}, [[USER, CALL, RESULT]]),
    "Responses, a text": (
        {"model": "gpt-5", "instructions": "You sell tea.", "input": "Hi"},
        [[SYSTEM, {"role": "user", "content": "Hi"}]],
    ),
    "Responses' answer": ({"object": "response", "instructions": None, "output": [CALL]}, [[CALL]]),
    "Responses, both": ({"input": [USER], "output": [CALL, RESULT]}, [[USER, CALL, RESULT]]),
    "a chat completion": (choice(REPLY), [[REPLY]]),
    "a call that was logged": ({"request": {"messages": [USER]}, "response": choice(REPLY)}, [TALK]),
    "Bedrock's answer": ({"output": {"message": REPLY}, "usage": {}}, [[REPLY]]),
    "Ollama's answer": ({"model": "llama3", "message": REPLY, "done": True}, [[REPLY]]),
    "ShareGPT": (
        {
            "system": "You sell tea.",
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b", "weight": 1},
                {"from": "function_call", "value": "c"},
                {"from": "observation", "value": "d"},
                {"from": "Narrator", "value": "e"},
            ],
        },
        [
            [
                SYSTEM,
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "assistant", "content": "c"},
                {"role": "tool", "content": "d"},
                {"role": "Narrator", "content": "e"},
            ]
        ],
    ),
    "ShareGPT with roles": ({"conversations": TALK}, [TALK]),
    "conversations in one": ({"conversations": [{"messages": TALK}, {"messages": [USER]}]}, [TALK, [USER]]),
    "LangChain": ([{"type": "human", "data": LANGCHAIN}], [[LANGCHAIN]]),
    "LangChain's dumps": ({"messages": [{"lc": 1, "type": "constructor", "kwargs": LANGCHAIN}]}, [[LANGCHAIN]]),
}
FILES: dict[str, tuple[list[Any], list[Any]]] = {
    "messages": (TALK, [TALK]),
    "lists of messages": ([TALK, [USER]], [TALK, [USER]]),
    "fine-tuning": (
        [{"messages": TALK}, {"messages": [USER, {**REPLY, "weight": 0}]}],
        [TALK, [USER, {**REPLY, "weight": 0}]],
    ),
    "fine-tuning by preference": (
        [{"input": {"messages": [USER]}, "preferred_output": [REPLY], "non_preferred_output": [USER]}],
        [TALK],
    ),
    "TRL": (
        [{"prompt": [USER], "completion": [REPLY]}, {"prompt": [USER], "chosen": [REPLY], "rejected": []}],
        [TALK, TALK],
    ),
    "OpenAI's batch": (
        [{"custom_id": n, "method": "POST", "url": "/v1/x", "body": {"model": "m", "messages": TALK}} for n in "ab"],
        [TALK, TALK],
    ),
    "OpenAI's batch of Responses": (
        [{"custom_id": "a", "body": {"model": "m", "instructions": "You sell tea.", "input": [USER]}}],
        [[SYSTEM, USER]],
    ),
    "its results": (
        [{"custom_id": n, "error": None, "response": {"status_code": 200, "body": choice(REPLY)}} for n in "ab"],
        [[REPLY], [REPLY]],
    ),
    "its results of Responses": (
        [{"custom_id": "a", "response": {"body": {"object": "response", "output": [CALL, RESULT]}}}],
        [[CALL, RESULT]],
    ),
    "Anthropic's batch": (
        [{"custom_id": "a", "params": {"system": "You sell tea.", "messages": TALK}}],
        [[SYSTEM, *TALK]],
    ),
    "Anthropic's results": (
        [{"custom_id": n, "result": {"type": "succeeded", "message": REPLY}} for n in "ab"],
        [[REPLY], [REPLY]],
    ),
    "Gemini's batch": ([{"key": "a", "request": {"contents": [GEMINI_USER]}}], [[GEMINI_USER]]),
    "Gemini's results": (
        [{"key": "a", "response": {"candidates": [{"content": GEMINI_REPLY}]}}],
        [[GEMINI_REPLY]],
    ),
    "Responses' items": (
        [USER, CALL, RESULT, {"type": "reasoning", "summary": []}],
        [[USER, CALL, RESULT, {"type": "reasoning", "summary": []}]],
    ),
    "chat completions": ([USER, choice(REPLY)], [TALK]),
}
LOGS: dict[str, tuple[list[Any], list[Any], dict[str, int]]] = {
    "llama.cpp": ([{"type": "session", "id": "1", "name": "Tea"}, *TALK], [TALK], {"session": 1}),
    "a header": ([{"version": 2, "title": "Tea"}, *TALK], [TALK], {"header": 1}),
    "a header of conversations": ([{"version": 2}, {"messages": TALK}, {"messages": []}], [TALK, []], {"header": 1}),
    "Claude Code": (
        [
            {"type": "summary", "summary": "Tea", "leafUuid": "1"},
            {"type": "queue-operation", "operation": "enqueue", "content": "hi", "sessionId": "1"},
            {"type": "user", "message": USER, "uuid": "1", "sessionId": "1"},
            {"type": "file-history-snapshot", "snapshot": {}},
            {"type": "progress", "data": {"type": "agent_progress", "message": {"type": "user", "message": USER}}},
            {"type": "system", "subtype": "compact_boundary", "content": "Compacted", "sessionId": "1"},
            {"type": "assistant", "message": REPLY, "uuid": "2", "sessionId": "1"},
            {"type": "summary", "summary": "Tea", "leafUuid": "2"},
        ],
        [TALK],
        {"summary": 2, "queue-operation": 1, "file-history-snapshot": 1, "progress": 1, "system": 1},
    ),
    "Codex": (
        [
            {"type": "session_meta", "payload": {"id": "1", "instructions": "Be brief."}},
            {"type": "response_item", "payload": {"type": "message", **USER}},
            {"type": "event_msg", "payload": {"type": "user_message", "message": "Is there any Assam?"}},
            {"type": "event_msg", "payload": {"type": "view_image_tool_call", "call_id": "1", "path": "x"}},
            {"type": "turn_context", "payload": {"cwd": "/", "model": "gpt-5"}},
            {"type": "response_item", "payload": CALL},
            {"type": "response_item", "payload": RESULT},
            {"type": "compacted", "payload": {"message": "", "replacement_history": [USER]}},
        ],
        [[{"type": "message", **USER}, CALL, RESULT]],
        {"session_meta": 1, "event_msg": 2, "turn_context": 1, "compacted": 1},
    ),
    "Codex, once": (
        [{"id": "1", "timestamp": "t", "instructions": None}, USER, {"record_type": "state"}, CALL],
        [[USER, CALL]],
        {"header": 1, "state": 1},
    ),
    "pi": (
        [{"type": "session", "id": "1"}, {"type": "message", "id": "2", "message": USER}],
        [[USER]],
        {"session": 1},
    ),
    "SillyTavern": (
        [
            {"user_name": "U", "character_name": "C", "chat_metadata": {}},
            {"name": "U", "is_user": True, "is_system": False, "mes": "a"},
            {"name": "C", "is_user": False, "mes": "b"},
            {"name": "C", "is_user": False, "is_system": True, "mes": "hidden"},
        ],
        [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]],
        {"header": 1, "hidden message": 1},
    ),
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", DOCUMENTS)
def test_documents(form: str, indent: int | None) -> None:
    document, expected = DOCUMENTS[form]
    assert histories(json.dumps(document, indent=indent).encode()) == expected
    # Several may follow each other, as jq writes them.
    assert histories(f"\n{json.dumps(document, indent=4)}\n\n".encode() * 2) in (expected * 2, [expected[0] * 2])


@pytest.mark.parametrize("form", FILES)
def test_lines(form: str) -> None:
    values, expected = FILES[form]
    assert histories(lines(*values)) == expected
    # A list of what the lines have says the same.
    assert histories(json.dumps(values, indent=1).encode()) == expected


@pytest.mark.parametrize("form", LOGS)
def test_what_logs_have_between_their_messages_is_counted(form: str) -> None:
    values, expected, left_out = LOGS[form]
    for data in (lines(*values), json.dumps(values).encode()):
        reading = read(data)
        assert (taken(reading), reading.left_out) == (expected, left_out)


def test_messages_are_handed_on_as_they_are() -> None:
    odd = {"role": "assistant", "tool_calls": [{"function": {}}], "x": [None, 1.5], "content": {"y": "\ud800"}}
    assert histories(json.dumps([odd]).encode()) == [[odd]]
    assert histories(json.dumps({"messages": [{"anything": 1}]}).encode()) == [[{"anything": 1}]]


def test_requests_of_every_provider(requests_file: Path, requests: list[dict[str, Any]]) -> None:
    conversations = read(requests_file.read_bytes()).conversations
    for conversation, request in zip(conversations, requests, strict=True):
        messages = list(conversation)
        if request["system"]:
            assert messages.pop(0)["role"] == "system"
        assert messages == request["messages"]


ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "utf-8, marked": lambda text: text.encode("utf-8-sig"),
    "utf-16, marked": lambda text: text.encode("utf-16"),
    "utf-16-be, marked": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-16-le": lambda text: text.encode("utf-16-le"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-32, marked": lambda text: text.encode("utf-32"),
    "utf-32-be, marked": lambda text: b"\0\0\xfe\xff" + text.encode("utf-32-be"),
    "utf-32-le": lambda text: text.encode("utf-32-le"),
}


SAVE = "; save the file as UTF-8"


class TestBytes:
    TEXT = "".join(json.dumps(message, ensure_ascii=False) + "\r\n" for message in TALK)

    @pytest.mark.parametrize("block", [1, 2, 3, 5, 1024])
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_encodings_split_anywhere(
        self, encoding: str, compressed: bool, block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json_file, "_BLOCK", block)
        data = ENCODINGS[encoding](self.TEXT)
        assert histories(gzip.compress(data) if compressed else data) == [TALK]
        pretty = ENCODINGS[encoding](json.dumps(TALK, indent=2, ensure_ascii=False))
        assert histories(gzip.compress(pretty) if compressed else pretty) == [TALK]

    def test_compressed_files_joined_and_padded(self) -> None:
        data = gzip.compress(lines(USER)) + b"\0" * 3 + gzip.compress(lines(REPLY)) + b"\0" * 512
        assert histories(data) == [TALK]

    def test_lines_are_read_when_they_are_asked_for(self) -> None:
        class Counted(io.BytesIO):
            read_bytes = 0

            def read(self, size: int | None = -1, /) -> bytes:
                block = super().read(size)
                self.read_bytes += len(block)
                return block

        line = lines(USER)
        data = line * (4 * 1024 * 1024 // len(line))
        for stream in (Counted(data), Counted(gzip.compress(data, 0))):
            values = json_file.read_values(stream)
            assert next(values) == (1, USER)
            assert stream.read_bytes <= 1024 * 1024
            assert sum(1 for _ in values) == data.count(b"\n") - 1

    def test_a_block_that_grows_is_read_in_parts(self) -> None:
        blocks = list(json_file._decompress(iter([gzip.compress(b"\n" * 10_000_000)])))
        assert sum(map(len, blocks)) == 10_000_000
        assert max(map(len, blocks)) <= 1024 * 1024

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (
                lines(USER).decode().encode("utf-16")[:-1],
                "it begins like UTF-16, but is not: truncated data" + SAVE,
            ),
            (
                b"\xff\xfe\0\0" + b"\xff" * 8,
                "it begins like UTF-32, but is not: code point not in range(0x110000)" + SAVE,
            ),
            (gzip.compress(lines(USER), mtime=0)[:-9], "line 2: damaged gzip: it ends too early"),
            (gzip.compress(lines(USER), mtime=0)[:9], "damaged gzip: it ends too early"),
            (
                b"\x1f\x8b\x08 and no more of it",
                "damaged gzip: Error -3 while decompressing data: unknown header flags set",
            ),
            (gzip.compress(b"", mtime=0), "no messages: the file is empty"),
            (b"PK\x03\x04....", "this is a zip archive; unpack it first"),
            (b"\x28\xb5\x2f\xfd....", "this is compressed with zstd; decompress it first"),
            (b"SQLite format 3\0", "this is a SQLite database; give its URL, such as sqlite:///chat.db, and a session"),
        ],
    )
    def test_what_is_not_read(self, data: bytes, reason: str) -> None:
        with pytest.raises(ConversationError) as caught:
            read(data)
        assert str(caught.value) == reason


ONE_FORM = "; all lines must be of one form"
NEITHER = 'neither a message with a role nor a conversation, {"messages": [...]}; '


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b'{"a": 1, "b": 2}', f'line 1: {NEITHER}its keys: "a", "b"'),
            (b"{}", f"line 1: {NEITHER}its keys: none"),
            (b"3", f"line 1: {NEITHER}it is 3"),
            (lines(USER) + b'"' + b"x" * 99 + b'"', f'line 2: {NEITHER}it is "{"x" * 39}...'),
            (lines(USER, {"id": 1}), f'line 2: {NEITHER}its keys: "id"'),
            (lines({"rol": "user", "content": "a"}, USER), f'line 1: {NEITHER}its keys: "rol", "content"'),
            (
                lines(dict.fromkeys("abcdefghijk")),
                f"line 1: {NEITHER}its keys: {json.dumps([*'abcdefghij'])[1:-1]}, ...",
            ),
            (lines({"type": "summary"}, {"type": "other"}), f'line 1: {NEITHER}its keys: "type"'),
            (lines([USER, 3]), f"line 1: [1]: {NEITHER}it is 3"),
            (lines([[USER], {"messages": [3]}]), "line 1: [1]: messages[0]: a message must be an object, got 3"),
            (lines([USER, {"messages": []}]), "line 1: [1]: this is a conversation, but [0] is a message" + ONE_FORM),
            (lines(USER, [USER]), "line 2: this is a conversation, but line 1 is a message" + ONE_FORM),
            (
                lines({"custom_id": "a", "response": None, "error": {}}, USER, {"error": {}}),
                f'line 3: {NEITHER}its keys: "error"',
            ),
            (
                lines({"instruction": "a", "input": "b", "output": "c"}),
                f'line 1: {NEITHER}its keys: "instruction", "input", "output"',
            ),
            (lines({"prompt": "a", "completion": "b"}), f'line 1: {NEITHER}its keys: "prompt", "completion"'),
            (lines({"model": "m", "input": ["a", "b"]}), f'line 1: {NEITHER}its keys: "model", "input"'),
            # Documents.
            (b'\n[\n {"role": "user",\n  "content" "a"}\n]', "line 4: not JSON: Expecting ':' delimiter at column 13"),
            (b'[{"role": "user",\n  "content": NaN}\n]', "line 1: not JSON: NaN is not a JSON number"),
            (
                b'[\n{"role": "user", "content": "a"}\n{"role": "user", "content": "b"}\n]',
                "line 3: not JSON: Expecting ',' delimiter at column 1",
            ),
            (b'[\n"\xff"]', "line 2: not UTF-8: invalid start byte at byte 2"),
            (json.dumps([USER, 3], indent=1).encode(), f"line 1: [1]: {NEITHER}it is 3"),
            (
                json.dumps(USER, indent=1).encode() + b"\n\n" + json.dumps([3], indent=1).encode(),
                f"line 6: [0]: {NEITHER}it is 3",
            ),
            # A first line that is cut off, and others that are whole.
            (
                b'{"role": "user", "conte\n' + lines(*TALK),
                "line 1: not JSON: Unterminated string starting at at column 18",
            ),
            (b'{"role": "user"\n' + lines(*TALK), "line 1: not JSON: Expecting ',' delimiter at column 16"),
        ],
    )
    def test_what_it_cannot_read_it_names(self, data: bytes, reason: str) -> None:
        with pytest.raises(ConversationError) as caught:
            read(data)
        assert str(caught.value) == reason

    def test_what_a_conversation_refuses(self) -> None:
        new = partial(MessageRing[dict[str, Any]], 3000)
        with pytest.raises(ConversationError, match=r"^line 2: body\.messages\[1\]: a message's role must be a string"):
            read_conversations(
                io.BytesIO(
                    lines({"body": {"messages": []}}, {"body": {"messages": [USER, {"role": 1, "content": ""}]}})
                ),
                new,
            )

    @pytest.mark.parametrize("depth", [50, 400, 900, 100_000])
    @pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"request":', "}"), ('{"a":', "}")])
    def test_nesting(self, opening: str, closing: str, depth: int) -> None:
        for end in ("1", ""):
            with pytest.raises(ConversationError):
                read(f"{opening * depth}{end}{closing * depth if end else ''}".encode())


class TestSkipping:
    @pytest.mark.parametrize(
        "damaged",
        [
            b"{",
            b'{"role": "user", "content": "a',
            b"\xff\xfe",
            b"NaN",
            b"3",
            b'{"id": 7}',
            b'{"messages": []}',
            b"\0" * 9,
        ],
    )
    @pytest.mark.parametrize("before", [1, 2])
    @pytest.mark.parametrize("times", [1, 2])
    def test_lines_are_skipped_and_counted(self, damaged: bytes, before: int, times: int) -> None:
        data = lines(*TALK[:before]) + (damaged + b"\n") * times + lines(*TALK[before:])
        with pytest.raises(ConversationError, match=f"^line {before + 1}: ") as caught:
            read(data)
        reading = read(data, skip_invalid=True)
        assert (taken(reading), reading.skipped) == ([TALK], times)
        assert reading.first_skipped == str(caught.value)

    def test_a_first_line_that_is_cut_off(self) -> None:
        reading = read(b'{"role": "user", "content": \n' + lines(*TALK), skip_invalid=True)
        assert (taken(reading), reading.skipped) == ([TALK], 1)

    def test_a_file_that_ends_too_early(self) -> None:
        reading = read(gzip.compress(lines(*TALK))[:-8], skip_invalid=True)
        assert (taken(reading), reading.skipped) == ([TALK], 1)
        assert reading.first_skipped == "line 3: damaged gzip: it ends too early"

    def test_in_a_list(self) -> None:
        reading = read(json.dumps([USER, 3, REPLY, "a"], indent=1).encode(), skip_invalid=True)
        assert (taken(reading), reading.skipped) == ([TALK], 2)
        assert reading.first_skipped == f"line 1: [1]: {NEITHER}it is 3"

    def test_a_conversation_with_a_damaged_message_is_skipped_as_a_whole(self) -> None:
        reading = read(lines({"messages": [USER, 3]}, {"messages": TALK}), skip_invalid=True)
        assert (taken(reading), reading.skipped) == ([TALK], 1)

    def test_nothing_is_left(self) -> None:
        with pytest.raises(ConversationError, match=r"^no messages: nothing can be read; line 1: not JSON: "):
            read(b"x\n{\n", skip_invalid=True)


ENVELOPES = (*envelope._SAID, *envelope._ANSWERED_TO_A_REQUEST, *envelope._ANSWERED)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *ENVELOPES,
                    "role",
                    "parts",
                    "type",
                    "name",
                    "arguments",
                    "system",
                    "text",
                    "tool_calls",
                    "function_call",
                    "from",
                    "value",
                    "mes",
                ]
            ),
            values | st.sampled_from(["user", "human", "function_call", "event_msg", "reasoning"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


class TestAnything:
    @given(st.lists(JSON, min_size=1, max_size=4), st.sampled_from([None, 1]), st.booleans())
    def test_json_is_read_or_refused(self, values: list[Any], indent: int | None, skip_invalid: bool) -> None:
        data = "\n".join(json.dumps(value, indent=indent) for value in values).encode()
        conversations = self.read_or_refused(data, skip_invalid=skip_invalid)
        assert all(isinstance(message, dict) for conversation in conversations for message in conversation)

    @given(st.binary(max_size=40) | st.text('{}[]":, \n1a', max_size=30).map(str.encode), st.booleans())
    def test_bytes_are_read_or_refused(self, data: bytes, skip_invalid: bool) -> None:
        self.read_or_refused(data, skip_invalid=skip_invalid)

    @staticmethod
    def read_or_refused(data: bytes, *, skip_invalid: bool) -> list[Any]:
        try:
            reading = read(data, skip_invalid=skip_invalid)
        except ConversationError:
            return []
        assert reading.conversations
        assert skip_invalid or not reading.skipped
        return taken(reading)

    @given(st.dictionaries(st.sampled_from(["role", "type", "content", "name", "parts", "tool_calls"]), JSON))
    def test_every_message_has_a_headline(self, message: dict[str, Any]) -> None:
        assert isinstance(role_of(message), str)
        assert "\n" not in headline(message)


def test_concatenate() -> None:
    first, second = Everything(TALK), Everything([USER])
    whole: Any = concatenate(cast(Any, [first, second]), cast(NewConversation, Everything))
    assert whole == [*TALK, USER]
    assert (first, second) == (TALK, [USER])


def test_the_file_of_a_command_that_was_stopped(tmp_path: Path) -> None:
    """What was written when the program was killed is read, but for the last line."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines(*TALK) + lines(USER)[:20])
    with path.open("rb") as stream:
        reading = read_conversations(stream, MessageRing, skip_invalid=True)
    assert [len(conversation) for conversation in reading.conversations] == [2]
    assert reading.skipped == 1
