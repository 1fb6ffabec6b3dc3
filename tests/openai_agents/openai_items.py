"""Items of OpenAI's Responses, as the SDK adds them to a session."""

from typing import Any


def user(text: str = "Where is it?") -> Any:
    return {"role": "user", "content": text}


def answer(text: str = "It left.") -> Any:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": text, "role": "assistant", "content": [part], "status": "completed"}


def reasoning(identity: str = "r") -> Any:
    return {"type": "reasoning", "id": identity, "summary": []}


def call(call_id: str) -> Any:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str) -> Any:
    return {"type": "function_call_output", "call_id": call_id, "output": "ok"}
