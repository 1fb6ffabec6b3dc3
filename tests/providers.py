"""What each provider accepts, by its documents and errors; and random histories in its format that it accepts.

A validator gets the messages of one request as they are sent, without the leading system messages where those are sent
beside them (Anthropic, Bedrock, Gemini), and raises `RefusedError` in the provider's words.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]

TEXTS = ("no", "what is it", "a b c d e f g", "one two three four five six seven eight " * 3)


class RefusedError(Exception):
    """The provider answers with status 400."""


def refuse_if(condition: bool, reason: str) -> None:
    if condition:
        raise RefusedError(reason)


# OpenAI's chat completions; DeepSeek's are the same


def validate_openai_chat(messages: Sequence[Message]) -> None:
    refuse_if(not messages, "[] is too short - 'messages'")
    open_ids: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            reason = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'"
            refuse_if(message["tool_call_id"] not in open_ids, reason)
            open_ids.remove(message["tool_call_id"])
            continue
        # "No tool output found for tool call" at DeepSeek.
        reason = "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
        refuse_if(bool(open_ids), reason)
        open_ids = {call["id"] for call in message.get("tool_calls", ())}
    refuse_if(bool(open_ids), "An assistant message with 'tool_calls' must be followed by tool messages")


# OpenAI's Responses


def validate_openai_responses(messages: Sequence[Message]) -> None:
    refuse_if(not messages, "one of input or previous_response_id must be provided")
    calls: set[str] = set()
    answered: set[str] = set()
    for item, following in zip(messages, [*messages[1:], None], strict=True):
        kind = item.get("type", "message")
        if kind == "function_call":
            calls.add(item["call_id"])
        elif kind == "function_call_output":
            refuse_if(item["call_id"] not in calls, "No tool call found for function call output")
            answered.add(item["call_id"])
        elif kind == "reasoning":
            belongs = following is not None and (
                following.get("type") in ("function_call", "reasoning") or following.get("role") == "assistant"
            )
            refuse_if(not belongs, "Item of type 'reasoning' was provided without its required following item")
        # What the model made with its reasoning is refused without it.
        if item.get("needs") is not None:
            before = [other.get("id") for other in messages[: messages.index(item)]]
            refuse_if(item["needs"] not in before, "was provided without its required 'reasoning' item")
    refuse_if(calls != answered, "No tool output found for function call")


# Anthropic's messages


def validate_anthropic(messages: Sequence[Message]) -> None:
    refuse_if(not messages, "messages: at least one message is required")
    refuse_if(messages[0]["role"] != "user", 'messages: first message must use the "user" role')
    open_ids: set[str] = set()
    before: Message | None = None
    for message, following in zip(messages, [*messages[1:], None], strict=True):
        blocks = message["content"] if isinstance(message["content"], list) else []
        if message["role"] == "system":
            follows_user = before is not None and before["role"] == "user"
            precedes_reply = following is None or following["role"] == "assistant"
            refuse_if(not (follows_user and precedes_reply), "system must follow a user turn and precede a reply")
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        reason = "unexpected `tool_use_id` found in `tool_result` blocks"
        refuse_if(message["role"] != "user" and bool(results), reason)
        refuse_if(not set(results) <= open_ids, reason)
        unanswered = "`tool_use` ids were found without `tool_result` blocks immediately after"
        refuse_if(open_ids != set(results), unanswered)
        kinds = [block["type"] for block in blocks]
        refuse_if(
            bool(results) and kinds != sorted(kinds, key=lambda kind: kind != "tool_result"), "results come first"
        )
        open_ids = {block["id"] for block in blocks if block["type"] == "tool_use"}
        before = message
    refuse_if(bool(open_ids), "`tool_use` ids were found without `tool_result` blocks immediately after")


# Bedrock's Converse


def validate_bedrock(messages: Sequence[Message]) -> None:
    refuse_if(not messages, "messages: at least one is required")
    refuse_if(messages[0]["role"] != "user", "A conversation must start with a user message")
    open_ids: set[str] = set()
    before = None
    for message in messages:
        refuse_if(message["role"] == before, "roles must alternate between user and assistant")
        results = [block["toolResult"]["toolUseId"] for block in message["content"] if "toolResult" in block]
        reason = "The number of toolResult blocks exceeds the number of toolUse blocks of previous turn"
        refuse_if(not set(results) <= open_ids, reason)
        refuse_if(open_ids != set(results), "Expected toolResult blocks for the following Ids")
        open_ids = {block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block}
        before = message["role"]
    refuse_if(bool(open_ids), "Expected toolResult blocks for the following Ids")


# Gemini's contents


def validate_gemini(messages: Sequence[Message]) -> None:
    refuse_if(not messages, "contents is not specified")
    refuse_if(messages[0]["role"] != "user", "please ensure that multiturn requests start with a user turn")
    calls = 0
    before: Message | None = None
    for message in messages:
        responses = sum("functionResponse" in part for part in message["parts"])
        reason = "the number of function response parts is equal to the number of function call parts"
        refuse_if(responses != calls, reason)
        calls = sum("functionCall" in part for part in message["parts"])
        reason = "function call turn comes immediately after a user turn or after a function response turn"
        refuse_if(calls > 0 and (before is None or before["role"] == "model"), reason)
        # From Gemini 3 each step of the current turn keeps the signature of its first call.
        signed = [part for part in message["parts"] if "functionCall" in part][:1]
        refuse_if(any("thoughtSignature" not in part for part in signed), "missing a thought_signature")
        before = message
    refuse_if(calls > 0, "the number of function response parts is equal to the number of function call parts")


# Mistral: its own validator


def validate_mistral(messages: Sequence[Message]) -> None:
    from mistral_common.exceptions import MistralCommonException
    from mistral_common.protocol.instruct import messages as mistral
    from mistral_common.protocol.instruct.tool_calls import FunctionCall, ToolCall
    from mistral_common.protocol.instruct.validator import MistralRequestValidatorV3

    refuse_if(bool(messages) and messages[0]["role"] == "tool", "Expected first message role to be user or system")
    classes = {"system": mistral.SystemMessage, "user": mistral.UserMessage}
    made: list[Any] = []
    for message in messages:
        if message["role"] in classes:
            made.append(classes[message["role"]](content=message["content"]))
        elif message["role"] == "tool":
            made.append(mistral.ToolMessage(content=message["content"], tool_call_id=message["tool_call_id"], name="f"))
        else:
            calls = [
                ToolCall(id=call["id"], function=FunctionCall(name="f", arguments="{}"))
                for call in message.get("tool_calls", ())
            ]
            made.append(mistral.AssistantMessage(content=message["content"] or None, tool_calls=calls or None))
    try:
        MistralRequestValidatorV3().validate_messages(made)
    except MistralCommonException as error:
        raise RefusedError(str(error)) from error


# Histories. Each yields what is put between two calls of the model: the request that has all before it is valid.


class Numbers:
    """Ids that no other call has; nine characters, as Mistral wants them."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> str:
        self.last += 1
        return f"c{self.last:08}"


Step: TypeAlias = Callable[[Random, Numbers], tuple[list[Message], list[Message]]]


def openai_step(random: Random, numbers: Numbers) -> tuple[list[Message], list[Message]]:
    ids = [numbers.next() for _ in range(random.choice((1, 1, 2, 3)))]
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ids]
    # Mistral takes text or calls; the others both.
    call = {"role": "assistant", "content": None, "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": each, "content": random.choice(TEXTS)} for each in ids]
    random.shuffle(results)
    return [call], results


def responses_step(random: Random, numbers: Numbers) -> tuple[list[Message], list[Message]]:
    items: list[Message] = []
    reasoning = None
    for _ in range(random.randrange(3)):
        reasoning = numbers.next()
        summary = [{"type": "summary_text", "text": random.choice(TEXTS)}]
        items.append({"type": "reasoning", "id": reasoning, "summary": summary})
    ids = [numbers.next() for _ in range(random.choice((1, 1, 2, 3)))]
    for each in ids:
        call = {"type": "function_call", "call_id": each, "name": "f", "arguments": "{}", "needs": reasoning}
        items.append(call)
    results = [{"type": "function_call_output", "call_id": each, "output": random.choice(TEXTS)} for each in ids]
    random.shuffle(results)
    return items, results


def anthropic_step(random: Random, numbers: Numbers) -> tuple[list[Message], list[Message]]:
    ids = [numbers.next() for _ in range(random.choice((1, 1, 2, 3)))]
    blocks: list[Message] = []
    if random.random() < 0.5:
        blocks.append({"type": "thinking", "thinking": random.choice(TEXTS), "signature": "s"})
    if random.random() < 0.5:
        blocks.append({"type": "text", "text": random.choice(TEXTS)})
    blocks += [{"type": "tool_use", "id": each, "name": "f", "input": {}} for each in ids]
    results: list[Message] = [
        {"type": "tool_result", "tool_use_id": each, "content": random.choice(TEXTS)} for each in ids
    ]
    if random.random() < 0.2:
        results.append({"type": "text", "text": "and what I meant"})
    return [{"role": "assistant", "content": blocks}], [{"role": "user", "content": results}]


def bedrock_step(random: Random, numbers: Numbers) -> tuple[list[Message], list[Message]]:
    ids = [numbers.next() for _ in range(random.choice((1, 1, 2, 3)))]
    blocks: list[Message] = [{"text": random.choice(TEXTS)}] if random.random() < 0.5 else []
    blocks += [{"toolUse": {"toolUseId": each, "name": "f", "input": {}}} for each in ids]
    results = [{"toolResult": {"toolUseId": each, "content": [{"text": random.choice(TEXTS)}]}} for each in ids]
    return [{"role": "assistant", "content": blocks}], [{"role": "user", "content": results}]


def gemini_step(random: Random, _: Numbers) -> tuple[list[Message], list[Message]]:
    count = random.choice((1, 1, 2, 3))
    calls: list[Message] = [{"functionCall": {"name": "f", "args": {}}} for _ in range(count)]
    calls[0]["thoughtSignature"] = "s"
    responses = [{"functionResponse": {"name": "f", "response": {"r": random.choice(TEXTS)}}} for _ in range(count)]
    return [{"role": "model", "parts": calls}], [{"role": random.choice(("user", "function")), "parts": responses}]


@dataclass
class Provider:
    """How one provider's histories look, and what it accepts."""

    validate: Callable[[Sequence[Message]], None]
    step: Step
    say: Callable[[str, str], Message]  # a role and a text
    assistant: str = "assistant"
    has_head: bool = True  # whether system messages are sent with the others
    system_after: tuple[str, ...] = ()  # after whom a later one may come
    greets: bool = False
    repeats_users: bool = True  # whether two user messages may follow each other

    def history(self, random: Random) -> Iterator[list[Message]]:
        """Yield what comes before each call of the model, and after the last."""
        numbers = Numbers()

        def say(role: str) -> Message:
            return self.say(role, random.choice(TEXTS))

        part = [say("system") for _ in range(random.choice((0, 1, 1, 2)))]
        if self.greets and random.random() < 0.3:
            part.append(say("assistant"))
        for _ in range(random.randrange(1, 6)):
            part += [say("user") for _ in range(random.choice((1, 1, 1, 2) if self.repeats_users else (1,)))]
            if "user" in self.system_after and random.random() < 0.2:
                part.append(say("system"))
            yield part
            for _ in range(random.randrange(5)):
                calls, results = self.step(random, numbers)
                yield [*calls, *results]
            part = [say(self.assistant)]
            if "assistant" in self.system_after and random.random() < 0.2:
                part.append(say("system"))


def says_content(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def says_blocks(role: str, text: str) -> Message:
    return {"role": role, "content": [{"text": text}]}


def says_parts(role: str, text: str) -> Message:
    if role == "system":
        return {"role": role, "content": text}
    return {"role": role, "parts": [{"text": text}]}


BOTH = ("user", "assistant")
PROVIDERS = {
    "openai-chat": Provider(validate_openai_chat, openai_step, says_content, system_after=BOTH, greets=True),
    "deepseek": Provider(validate_openai_chat, openai_step, says_content, system_after=BOTH, greets=True),
    "openai-responses": Provider(
        validate_openai_responses, responses_step, says_content, system_after=BOTH, greets=True
    ),
    "anthropic": Provider(validate_anthropic, anthropic_step, says_content, has_head=False, system_after=("user",)),
    "bedrock": Provider(validate_bedrock, bedrock_step, says_blocks, has_head=False, repeats_users=False),
    "gemini": Provider(validate_gemini, gemini_step, says_parts, assistant="model", has_head=False),
    "mistral": Provider(validate_mistral, openai_step, says_content, greets=True),
}
