"""`positions_of`: where a window's messages are in the history."""

from random import Random
from typing import Any

import pytest
from chatring import trim_messages
from chatring.stores import open_store
from chatring.window import positions_of

ROLES = ["user", "user", "assistant", "assistant", "system", "call", "tool"]


def history(random: Random) -> list[dict[str, Any]]:
    roles = ["system"] * random.randrange(4) + random.choices(ROLES, k=random.randrange(12))
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]}
        if role == "call"
        else {"role": role, "content": "word " * random.randrange(9), "tool_call_id": "1"}
        for role in roles
    ]


@pytest.mark.parametrize("include_system", [True, False])
@pytest.mark.parametrize("start_on", ["user", None])
def test_they_are_where_the_windows_messages_are(include_system: bool, start_on: Any) -> None:
    random = Random(17)
    kinds = set()
    for _ in range(2_000):
        messages = history(random)
        limit = random.randrange(60, 120)
        rule: dict[str, Any] = {"start_on": start_on, "include_system": include_system}
        rule["retention_ratio"] = random.choice((1.0, 0.5))
        window = trim_messages(messages, limit, **rule)
        positions = positions_of(window, include_system=include_system)
        assert [id(messages[position]) for position in positions] == list(map(id, window))
        assert positions == sorted(set(positions))
        kinds.add((window.head > 0, window.question is not None, len(window) < len(messages)))
    # A head, a question, messages that are left out. A system message alone is a start of LlamaIndex's rule only.
    expected = {(True, False, include_system or start_on is None), (False, False, True)}
    if start_on == "user":
        expected |= {(False, True, True), *([(True, True, True)] if include_system else [])}
    assert kinds >= expected


def test_what_stays_of_a_trimmed_session_keeps_its_positions() -> None:
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(6) for role in ("user", "assistant")]
    messages = [{"role": "system", "content": "Be kind."}, *turns]
    store = open_store("memory://")
    store.append("ada", messages)
    assert store.trim("ada", 7) == 6
    window = store.window("ada", 1_000)
    assert positions_of(window) == [0, *range(7, 13)]
    assert window == [messages[position] for position in positions_of(window)]
    store.close()
