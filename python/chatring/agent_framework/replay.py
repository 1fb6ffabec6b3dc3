"""`unsaved`: what of the messages that a run hands over is new."""

from __future__ import annotations

from collections.abc import Container, Sequence, Set

from agent_framework import Message

from chatring.agent_framework.message_format import message_id
from chatring.agent_framework.step import answers_of, calls_of, settled


def unsaved(
    messages: Sequence[Message], stored: Sequence[Message], asked: Set[str], saved: Container[Message]
) -> Sequence[Message]:
    """Return the messages without those at their beginning that are the last ones stored.

    They are if they have the same roles and contents and no other ids, and if it is not just somebody who says the same
    again. That is known if the last of them has the same id, is a call or a result, or is the very object that was
    saved; or if there is an answer among them and a user's message behind them. A result that is waited for is new.

    Args:
        messages: what is handed over, oldest first.
        stored: as many of the last stored messages, or all if there are fewer. Then what is in front of all of them is
            known, too.
        asked: the calls that wait for a result.
        saved: the very objects that were saved before.
    """
    # Requests for approval and responses are not stored.
    said = [(place, bare) for place, message in enumerate(messages) if (bare := settled(message)).contents]
    keys, ids = [_key(bare) for _, bare in said], [message_id(bare) for _, bare in said]
    known = [(_key(message), message_id(message)) for message in map(settled, stored)]

    def is_stored(begin: int, length: int) -> bool:
        for index, (key, known_id) in enumerate(known[len(known) - length :], begin):
            has_other_id = None not in (known_id, ids[index]) and known_id != ids[index]
            if keys[index] != key or has_other_id:
                return False
        return is_certain(begin, begin + length)

    def is_certain(begin: int, end: int) -> bool:
        if any(not asked.isdisjoint(answers_of(bare)) for _, bare in said[begin:end]):
            return False
        place, last = said[end - 1]
        has_same_id = ids[end - 1] is not None and ids[end - 1] == known[-1][1]
        if has_same_id or calls_of(last) or answers_of(last) or messages[place] in saved:
            return True
        has_answer = any(bare.role not in ("user", "system") for _, bare in said[begin:end])
        return has_answer and any(message.role == "user" for message in messages[place + 1 :])

    for length in range(min(len(known), len(said)), 0, -1):
        if is_stored(0, length):
            return messages[said[length - 1][0] + 1 :]
    if 0 < len(known) < len(messages):
        for begin in range(1, len(said) - len(known) + 1):
            if is_stored(begin, len(known)):
                return messages[said[begin + len(known) - 1][0] + 1 :]
    return messages


def _key(message: Message) -> tuple[object, ...]:
    """Return what of a message is compared: what is sent, without ids that a client may drop on the way."""
    return message.role, *(
        (each.type, each.text, each.uri, each.call_id, each.name, str(each.arguments), str(each.result))
        for each in message.contents
    )
