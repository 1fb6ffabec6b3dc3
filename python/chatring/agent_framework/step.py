"""`steps_of`: messages as steps, each with the results of its calls; and what a message calls and answers."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterable

from agent_framework import Content, Message

from chatring.agent_framework.message_format import is_reasoning
from chatring.formats.steps import Step, Steps

_CALLS = ("function_call", "computer_tool_call")
_RESULTS = ("function_result", "computer_tool_result")


def steps_of(messages: Iterable[Message]) -> tuple[list[Step[Message]], list[Message]]:
    """Return messages as steps, and those with results whose calls are in none of them.

    A step waits for results, and for answers to requests for a human's approval.

    Args:
        messages: oldest first.
    """
    steps: Steps[Message] = Steps()
    left: list[Message] = []
    for message in messages:
        if answers := answers_of(message):
            if steps.answer(message, answers, calls_of(message)) is None:
                left.append(message)
            continue
        leads = is_reasoning(message)
        steps.add(message, calls_of(message), joins=message.role == "assistant", leads=leads, is_open=leads)
    return steps.all, left


def calls_of(message: Message) -> Counter[str]:
    """Return the ids of what waits for an answer: calls that the framework runs, and requests for approval.

    A call may be there as itself and in a request for approval. It is one. Two calls with one id are two.
    """
    calls: Counter[str] = Counter()
    requested: Counter[str] = Counter()
    for content in message.contents:
        request = content.function_call if content.type == "function_approval_request" else None
        if request is not None and _is_hosted(request):
            calls[_approval(content)] += 1
        call = request or content
        if call.type in _CALLS and call.call_id and not (call.informational_only or _is_hosted(call)):
            (requested if request else calls)[call.call_id] += 1
    return calls | requested


def answers_of(message: Message) -> Counter[str]:
    """Return the ids of the calls and requests that a message answers.

    A human's approval answers only what the provider runs. Of other calls it begins the execution, and the result is
    the answer.
    """
    answers = Counter(content.call_id for content in message.contents if content.type in _RESULTS and content.call_id)
    for content in message.contents:
        call = content.function_call if content.type == "function_approval_response" else None
        if call is not None and _is_hosted(call):
            answers[_approval(content)] += 1
    return answers


def concerns(message: Message) -> set[str]:
    """Return what a message answers, and the calls that it lets run."""
    calls = [content.function_call for content in message.contents if content.type == "function_approval_response"]
    return {*answers_of(message), *(call.call_id for call in calls if call and call.call_id)}


def settled(message: Message) -> Message:
    """Return a message whose calls are answered without requests for approval and responses, which are not sent."""
    contents: list[Content] = []
    for content in message.contents:
        if content.type == "function_approval_request":
            call = content.function_call
            if call is None or _is_hosted(call) or call.call_id in {each.call_id for each in message.contents}:
                continue
            contents.append(call)
        elif content.type != "function_approval_response":
            contents.append(content)
    if len(contents) == len(message.contents) and all(map(operator.is_, contents, message.contents)):
        return message
    changed = copy.copy(message)
    changed.contents = contents
    return changed


def _is_hosted(call: Content) -> bool:
    """Whether the provider runs it. Before 1.22 only a property told."""
    return bool(getattr(call, "hosted", None) or call.additional_properties.get("server_label"))


def _approval(content: Content) -> str:
    return f"approval {content.id}"
