"""Finds the messages in what providers take and return, in data sets, and in the logs of agents."""

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
# Messages, each with its path in the value: `messages[3]`, or nothing if it is the value.
History: TypeAlias = list[tuple[str, Message]]
# What a value is, and the histories in it: a single one if it is a message.
Found: TypeAlias = tuple[str, list[History]]

MESSAGE = "a message"
CONVERSATION = "a conversation"

# The keys of an object that messages may be under. The first that is present counts, separately for what was said and
# for what was answered.
_SAID = (
    "messages",  # OpenAI's chat and fine-tuning, Anthropic, Bedrock
    "contents",  # Gemini
    "conversations",  # ShareGPT
    "conversation",
    "chat",  # Open WebUI
    "request",  # Gemini's batches
    "params",  # Anthropic's batches
    "body",  # OpenAI's batches; for a result it is in the response
    "input",  # OpenAI's Responses; fine-tuning by preference
    "prompt",  # TRL's data sets
)
_ANSWERED_TO_A_REQUEST = ("preferred_output", "completion", "chosen", "response", "result")
_ANSWERED = (
    "output",  # Responses, Bedrock
    "choices",  # chat completions
    "candidates",  # Gemini
    "message",  # Claude Code, pi, Ollama; a choice
    "content",  # a candidate
    "payload",  # Codex
    "data",  # LangChain's messages_to_dict
    "kwargs",  # LangChain's dumps
)
# The first of these is what was answered.
_ALTERNATIVES = ("choices", "candidates")
LISTS = ("messages", "contents", "conversations", "conversation")
_MAYBE_LISTS = ("input", "prompt", "preferred_output", "completion", "chosen", "output")
# A text under one of these is what a user says.
_TEXTS = ("input", "contents")
# Under these is a message, and never an object that contains one: Claude Code's `data` quotes other agents' messages.
_MESSAGES = ("message", "content", "payload", "data", "kwargs")
_SYSTEM = ("system", "systemInstruction", "system_instruction", "instructions")

_LANGCHAIN = ("human", "ai", "system", "tool", "function", "chat", "HumanMessageChunk", "AIMessageChunk")
_RESPONSES = ("reasoning", "item_reference", "compaction", "mcp_list_tools")
# There are many: function_call, function_call_output, mcp_approval_request.
_RESPONSES_ENDS = ("_call", "_output", "_approval_request", "_approval_response")
_SHOWN = 40
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


def find(value: Any, path: str = "") -> Found | None:
    """Find the messages in an object."""
    if not isinstance(value, dict):
        return None
    if _is_message(value) and not any(isinstance(value[key], list) for key in LISTS if key in value):
        return MESSAGE, [[(path, _as_message(value))]]
    said = _first(value, _SAID, path)
    answered_to_a_request = _first(value, _ANSWERED_TO_A_REQUEST, path)
    answered = answered_to_a_request or _first(value, _ANSWERED, path)
    if said is None:
        form = CONVERSATION if answered_to_a_request else MESSAGE
        return (form, answered) if answered else None
    if answered and len(said) == 1:
        said[0] += answered[0]
    if system := _system(value):
        for history in said:
            history.insert(0, (path, system))
    return CONVERSATION, said


def _first(value: Message, keys: Iterable[str], path: str) -> list[History] | None:
    for key in keys:
        if key in value and (histories := _under(key, value, f"{path}.{key}".lstrip("."))) is not None:
            return histories
    return None


def _under(key: str, value: Message, path: str) -> list[History] | None:
    """Find the messages under a key of an object."""
    inner = value[key]
    if key in _ALTERNATIVES and isinstance(inner, list):
        inner, path = inner[0] if inner else None, f"{path}[0]"
    if isinstance(inner, list):
        is_known = key in LISTS or (key in _MAYBE_LISTS and _are_messages(inner))
        return _histories(inner, path) if is_known else None
    if isinstance(inner, str):
        return [[(path, {"role": "user", "content": inner})]] if key in _TEXTS and _is_request(value) else None
    if key in _MESSAGES and not (isinstance(inner, dict) and _is_message(inner)):
        return None
    if key == "payload" and value.get("type") == "event_msg":  # it repeats the response items
        return None
    found = find(inner, path)
    return found and found[1]


def _is_request(value: Message) -> bool:
    """Return whether a text in it is a message: not in a log's item, or in a data set of instructions and outputs."""
    return value.keys().isdisjoint(("type", "instruction")) and not isinstance(value.get("output"), str)


def _histories(values: list[Any], path: str) -> list[History]:
    """Return the histories in a list of messages or of conversations."""
    history: History = []
    histories: list[History] = []
    for index, value in enumerate(values):
        place = f"{path}[{index}]"
        if isinstance(value, list):
            histories += _histories(value, place)
        elif not isinstance(value, dict):
            raise ValueError(f"{place}: a message must be an object, got {shown(value)}")
        elif (found := find(value, place)) and found[0] == CONVERSATION:
            histories += found[1]
        else:
            # A value that is unknown here may be known to the ring, which says what it cannot read.
            history += found[1][0] if found else [(place, value)]
    return [*histories, history] if history or not histories else histories


def find_titled(value: Any, path: str = "") -> Found | None:
    """Find conversations under keys that are their titles."""
    if not isinstance(value, dict) or "type" in value:
        return None
    histories: list[History] = []
    for key, inner in value.items():
        if isinstance(inner, list) and _are_messages(inner):
            histories += _histories(inner, f"{path}{key}")
        elif isinstance(inner, dict):
            found = find(inner, f"{path}{key}") or (None if path else find_titled(inner, f"{key}."))
            histories += found[1] if found and found[0] == CONVERSATION else []
    return (CONVERSATION, histories) if histories else None


def _are_messages(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values) and any(
        found[0] == MESSAGE for found in map(find, values) if found
    )


def _is_message(value: Message) -> bool:
    if "role" in value or isinstance(value.get("parts"), list) or ("from" in value and "value" in value):
        return True
    if "mes" in value:
        return not value.get("is_system")  # SillyTavern shows these and does not send them
    kind = value.get("type")
    if not isinstance(kind, str):
        return False
    if kind in _LANGCHAIN:
        return "content" in value and "sessionId" not in value  # Claude Code's notices to its user
    return kind in _RESPONSES or kind.endswith(_RESPONSES_ENDS)


def _as_message(value: Message) -> Message:
    """Return what the ring reads: the object itself, except for two forms that only data sets and logs have."""
    if "role" not in value:
        if "from" in value and "value" in value:
            return {"role": _SHAREGPT_ROLES.get(str(value["from"]).lower(), value["from"]), "content": value["value"]}
        if "mes" in value:
            return {"role": "user" if value.get("is_user") else "assistant", "content": value["mes"]}
    return value


def _system(value: Message) -> Message | None:
    """Return the instructions that are sent beside the messages, as a message."""
    for key in _SYSTEM:
        match value.get(key):
            case {"parts": content} | {"content": content}:
                pass
            case content:
                pass
        if content and isinstance(content, str | list):
            return {"role": "system", "content": content}
    return None


def shown(value: Any) -> str:
    """Return the beginning of a value, for an error."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
