"""A provider at an address of this machine: it refuses what the real one does, bills what it gets, and calls tools.

How far a turn is, it sees from the request alone, so any number of them may come at once.
"""

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, NamedTuple

from chatring import MessageRing
from providers import (
    RefusedError,
    refuse_if,
    validate_anthropic,
    validate_gemini,
    validate_openai_chat,
    validate_openai_responses,
)

Json = dict[str, Any]

SYSTEM = "You are the support of a shop."
TOOLS_TOKENS = 1500
# What it calls in each step of a turn, before it answers: the second of the first step is a tool that there is not.
CALLS: list[list[tuple[str, Json]]] = [
    [("find_order", {"number": 17}), ("no_such_tool", {}), ("find_order", {"order": "17"})],
    [("find_order", {"number": 18})],
]
RESULTS = [
    "Order 17 has left the warehouse.",
    "error: KeyError('no_such_tool')",
    "error: TypeError",
    "Order 18 has left the warehouse.",
]
ANSWER = "It has left the warehouse, and will be with you in the course of the day after tomorrow." * 10
ids = count()


class Wire(NamedTuple):
    """How one interface says it."""

    messages: Callable[[Json], list[Json]]  # without the head
    system: Callable[[Json], Any]
    validate: Callable[[Sequence[Json]], None]
    reply: Callable[[Sequence[tuple[str, Json]], str, int], Json]
    keys: frozenset[str] = frozenset()  # that a message may have; empty if they are not looked at


def chat_reply(calls: Sequence[tuple[str, Json]], text: str, tokens: int) -> Json:
    message: Json = {"role": "assistant", "content": text or None, "refusal": None, "annotations": []}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{next(ids)}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for name, arguments in calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    made = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-5.5"}
    return {**made, "choices": [choice], "usage": usage}


def responses_reply(calls: Sequence[tuple[str, Json]], text: str, tokens: int) -> Json:
    output: list[Json] = []
    if calls or text:
        output.append({"type": "reasoning", "id": f"rs_{next(ids)}", "summary": [], "encrypted_content": "opaque"})
    for name, arguments in calls:
        call = {"type": "function_call", "id": f"fc_{next(ids)}", "call_id": f"call_{next(ids)}", "name": name}
        output.append({**call, "arguments": json.dumps(arguments), "status": "completed"})
    if text:
        part = {"type": "output_text", "text": text, "annotations": []}
        message = {"type": "message", "id": f"msg_{next(ids)}", "role": "assistant", "status": "completed"}
        output.append({**message, "content": [part]})
    made = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5.5", "status": "completed"}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    usage = {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1, **details}
    options = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {**made, **options, "output": output, "usage": usage}


def anthropic_reply(calls: Sequence[tuple[str, Json]], text: str, tokens: int) -> Json:
    content: list[Json] = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}] if calls else []
    content += [
        {"type": "tool_use", "id": f"toolu_{next(ids)}", "name": name, "input": arguments} for name, arguments in calls
    ]
    content += [{"type": "text", "text": text}] if text else []
    # What is cached is billed apart.
    usage = {"input_tokens": 5, "cache_read_input_tokens": tokens - 12, "cache_creation_input_tokens": 7}
    made = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "stop_sequence": None}
    reason = "tool_use" if calls else "end_turn"
    return {**made, "content": content, "stop_reason": reason, "usage": {**usage, "output_tokens": 1}}


def gemini_reply(calls: Sequence[tuple[str, Json]], text: str, tokens: int) -> Json:
    parts: list[Json] = [{"functionCall": {"name": name, "args": arguments}} for name, arguments in calls]
    if calls:
        parts[0]["thoughtSignature"] = "/+8="  # bytes that are not text, in the alphabet that differs
    parts += [{"text": text}] if text else []
    usage = {"promptTokenCount": tokens, "candidatesTokenCount": 1, "totalTokenCount": tokens + 1}
    content = {"role": "model", **({"parts": parts} if parts else {})}
    return {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}


def check_responses(items: Sequence[Json]) -> None:
    validate_openai_responses(items)
    for item in items:
        refuse_if(
            item.get("type") == "reasoning" and not item.get("encrypted_content"), "Item not found: store is false"
        )


def check_anthropic(messages: Sequence[Json]) -> None:
    validate_anthropic(messages)
    refuse_if(messages[-1]["role"] != "user", "This model does not support assistant message prefill")
    for message in messages:
        refuse_if(not message["content"], "all messages must have non-empty content")


def check_gemini(contents: Sequence[Json]) -> None:
    validate_gemini(contents)
    for content in contents:
        refuse_if(not content.get("parts"), "contents.parts must not be empty")
        for part in content["parts"]:
            # The bytes that it gave, whatever the alphabet.
            signature = part.get("thoughtSignature", "/+8=").replace("-", "+").replace("_", "/")
            refuse_if(signature != "/+8=", "Corrupted thought signature")


def check_chat(messages: Sequence[Json]) -> None:
    validate_openai_chat(messages)
    for message in messages:
        missing = message.get("content") is None and not message.get("tool_calls")
        refuse_if(missing, "Invalid value for 'content': expected a string, got null")


WIRES = {
    "/chat/completions": Wire(
        lambda body: [message for message in body["messages"] if message["role"] != "system"],
        lambda body: [message["content"] for message in body["messages"] if message["role"] == "system"],
        check_chat,
        chat_reply,
        frozenset({"role", "content", "refusal", "annotations", "tool_calls", "tool_call_id"}),
    ),
    "/responses": Wire(
        lambda body: [item for item in body["input"] if item.get("role") != "system"],
        lambda body: [item["content"] for item in body["input"] if item.get("role") == "system"],
        check_responses,
        responses_reply,
    ),
    "/messages": Wire(
        lambda body: body["messages"],
        lambda body: [body["system"] if isinstance(body["system"], str) else body["system"][0]["text"]],
        check_anthropic,
        anthropic_reply,
        frozenset({"role", "content"}),
    ),
    ":generateContent": Wire(
        lambda body: body["contents"],
        lambda body: [part["text"] for part in body["systemInstruction"]["parts"]],
        check_gemini,
        gemini_reply,
        frozenset({"role", "parts"}),
    ),
}


def question(message: Json) -> str | None:
    """Return what a user says in a message; None if it is another one, or results of calls."""
    if message.get("role") != "user":
        return None
    content: Any = message.get("content", message.get("parts"))
    if isinstance(content, str):
        return content
    texts = [block["text"] for block in content if "text" in block]
    return texts[-1] if texts else None  # LiteLLM makes one message of two that follow each other


def has_results(message: Json) -> bool:
    """Return whether a message has results of calls."""
    content = message.get("content", message.get("parts"))
    blocks = content if isinstance(content, list) else []
    return (
        message.get("role") == "tool"
        or message.get("type") == "function_call_output"
        or any(block.get("type") == "tool_result" or "functionResponse" in block for block in blocks)
    )


class Request(NamedTuple):
    """What came."""

    wire: Wire
    body: Json
    messages: list[Json]  # without the head
    tokens: int  # as billed

    @property
    def asked(self) -> str:
        """The newest question."""
        return next(said for message in reversed(self.messages) if (said := question(message)) is not None)


class Provider:
    """All interfaces at one address, until `close`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []  # that were answered
        self.refused: list[str] = []
        # May answer otherwise: a status and a body. None: as usual.
        self.intervene: Callable[[Request], tuple[int, Json] | None] = lambda request: None
        self._lock = threading.Lock()
        self._ring: MessageRing[Json] = MessageRing()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = provider.answer(self.path.partition("?")[0], body, dict(self.headers))
                sent = json.dumps(answer).encode()
                with suppress(ConnectionError):  # who asked was killed
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(sent)))
                    self.send_header("x-should-retry", "false")
                    self.end_headers()
                    self.wfile.write(sent)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: Json, headers: dict[str, str]) -> tuple[int, Json]:
        if "wrong" in str(headers):
            return error(401, "Incorrect API key provided")
        wire = next(wire for end, wire in WIRES.items() if path.endswith(end))
        messages = wire.messages(body)
        try:
            wire.validate(messages)
            refuse_if(wire.system(body) != [SYSTEM], f"another system prompt: {wire.system(body)}")
            refuse_if("find_order" not in str(body["tools"]), "no tools")
            unknown = {key for message in messages for key in message} - wire.keys
            refuse_if(bool(wire.keys and unknown), f"unknown keys {unknown}")
        except RefusedError as refusal:
            with self._lock:
                self.refused.append(f"{refusal} in {messages}")
            return error(400, str(refusal))
        with self._lock:
            tokens = sum(map(self._ring.count, [{"role": "system", "content": SYSTEM}, *messages])) + TOOLS_TOKENS
        request = Request(wire, body, messages, tokens)
        other = self.intervene(request)
        if other is not None:
            return other
        with self._lock:
            self.requests.append(request)
        steps = 0
        in_results = False
        for message in reversed(messages):
            if question(message) is not None:
                break
            steps += has_results(message) and not in_results
            in_results = has_results(message)
        calls = CALLS[steps] if steps < len(CALLS) else []
        reply = wire.reply(calls, "" if calls else f"{request.asked[:20]}: {ANSWER}", tokens)
        if "reasoning.encrypted_content" not in body.get("include", ()):
            for item in reply.get("output", ()):
                item.pop("encrypted_content", None)
        return 200, reply


def error(status: int, message: str) -> tuple[int, Json]:
    """Return an error as all of them have it, more or less."""
    return status, {"type": "error", "error": {"type": "error", "message": message, "code": status, "status": "ERROR"}}
