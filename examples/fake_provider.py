"""Importing it runs the other examples without a network and without a key.

A provider without a key or an address in the environment is replaced by a server in this process. It answers as OpenAI,
Anthropic and Gemini do: it calls `find_order` if the user's question has a number, and repeats what the tool says.
"""

import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any

Json = dict[str, Any]
KEYS = {
    "OPENAI_BASE_URL": ("/v1", ["OPENAI_API_KEY"]),
    "ANTHROPIC_BASE_URL": ("", ["ANTHROPIC_API_KEY"]),
    "GOOGLE_GEMINI_BASE_URL": ("", ["GEMINI_API_KEY", "GOOGLE_API_KEY"]),
}
numbers = count()


def said(text: str, result: str | None) -> tuple[str, Json | None]:
    """Return a text, and the arguments of a call if there is to be one."""
    if result is not None:
        return result, None
    order = re.search(r"\d+", text)
    return ("", {"number": int(order[0])}) if order else ("You are welcome.", None)


def chat(body: Json, tokens: int) -> Json:
    """Answer as OpenAI's chat completions."""
    last = body["messages"][-1]
    text, arguments = said(last["content"], last["content"] if last["role"] == "tool" else None)
    message: Json = {"role": "assistant", "content": text or None, "refusal": None, "annotations": []}
    if arguments is not None:
        function = {"name": "find_order", "arguments": json.dumps(arguments)}
        message["tool_calls"] = [{"id": f"call_{next(numbers)}", "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "stop" if arguments is None else "tool_calls"}
    usage = {"prompt_tokens": tokens, "completion_tokens": 10, "total_tokens": tokens + 10}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
    return {**answer, "choices": [choice], "usage": usage}


def responses(body: Json, tokens: int) -> Json:
    """Answer as OpenAI's Responses."""
    last, number = body["input"][-1], next(numbers)
    text, arguments = said(last.get("content", ""), last.get("output"))
    output: list[Json] = [{"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": "opaque"}]
    if arguments is None:
        part = {"type": "output_text", "text": text, "annotations": []}
        message = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed"}
        output.append({**message, "content": [part]})
    else:
        call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "status": "completed"}
        output.append({**call, "name": "find_order", "arguments": json.dumps(arguments)})
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 5}}
    usage = {"input_tokens": tokens, "output_tokens": 10, "total_tokens": tokens + 10, **details}
    answer = {"id": "resp_1", "object": "response", "created_at": 1, "model": body["model"], "status": "completed"}
    options = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": body.get("tools", [])}
    return {**answer, **options, "output": output, "usage": usage}


def messages(body: Json, tokens: int) -> Json:
    """Answer as Anthropic's messages."""
    content = body["messages"][-1]["content"]
    # A client that marks what is cached makes blocks of a text.
    block = {"type": "text", "text": content} if isinstance(content, str) else content[0]
    result = block.get("content")
    result = result[0]["text"] if isinstance(result, list) else result
    text, arguments = said(block.get("text", ""), result)
    call = {"type": "tool_use", "id": f"toolu_{next(numbers)}", "name": "find_order", "input": arguments}
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None}
    usage = {"input_tokens": 0, "cache_read_input_tokens": tokens, "cache_creation_input_tokens": 0}
    return {
        **answer,
        "content": [{"type": "text", "text": text}] if arguments is None else [call],
        "stop_reason": "end_turn" if arguments is None else "tool_use",
        "usage": {**usage, "output_tokens": 10},
    }


def generate_content(body: Json, tokens: int) -> Json:
    """Answer as Gemini."""
    part = body["contents"][-1]["parts"][0]
    result = part["functionResponse"]["response"] if "functionResponse" in part else None
    text, arguments = said(part.get("text", ""), None if result is None else str(next(iter(result.values()))))
    call = {"functionCall": {"name": "find_order", "args": arguments}, "thoughtSignature": "b3BhcXVl"}
    content = {"role": "model", "parts": [{"text": text} if arguments is None else call]}
    usage = {"promptTokenCount": tokens, "candidatesTokenCount": 10, "totalTokenCount": tokens + 10}
    return {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}


ANSWERS = {
    "/chat/completions": chat,
    "/responses": responses,
    "/messages": messages,
    ":generateContent": generate_content,
}


class Provider(BaseHTTPRequestHandler):
    """All providers at one address."""

    def do_POST(self) -> None:
        """Answer a request; four bytes of it are billed as a token."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        answer = next(answer for end, answer in ANSWERS.items() if path.endswith(end))
        body = json.dumps(answer(json.loads(sent), len(sent) // 4)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


missing = {name: of for name, of in KEYS.items() if not any(os.environ.get(each) for each in (name, *of[1]))}
if missing:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    Thread(target=server.serve_forever, daemon=True).start()
    for name, (path, keys) in missing.items():
        os.environ.update({keys[0]: "none", name: f"http://127.0.0.1:{server.server_port}{path}"})
    # Not through a proxy.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = f"127.0.0.1,{os.environ.get('NO_PROXY', '')}"
    none_of = " or ".join(keys[0] for _, keys in missing.values())
    print(f"no {none_of} in the environment: fake_provider.py answers", file=sys.stderr)
