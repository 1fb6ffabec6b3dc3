"""`sent`: a message of AutoGen's as its client of OpenAI sends it, which is what counts."""

from __future__ import annotations

from typing import Any

from autogen_core.models import AssistantMessage, FunctionExecutionResultMessage, LLMMessage, SystemMessage, UserMessage


def sent(message: LLMMessage) -> list[dict[str, Any]]:
    """Return the messages of OpenAI's chat that become of it: each result is one.

    A user's `source` is sent as the name. The `thought` of an assistant is sent beside calls, and not beside a text.

    Raises:
        TypeError: if it is not a message of AutoGen's.
    """
    match message:
        case SystemMessage():
            return [{"role": "system", "content": message.content}]
        case UserMessage():
            return [{"role": "user", "name": message.source, "content": message.content}]
        case AssistantMessage(content=str(text)):
            return [{"role": "assistant", "content": text}]
        case AssistantMessage(content=list(calls)):
            functions = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
            return [{"role": "assistant", "content": message.thought, "tool_calls": functions}]
        case FunctionExecutionResultMessage():
            return [{"role": "tool", "content": result.content} for result in message.content]
    raise TypeError(
        f"a message must be one of AutoGen's, such as UserMessage; got {type(message).__name__}: agentchat's messages "
        "have a method to_model_message"
    )
