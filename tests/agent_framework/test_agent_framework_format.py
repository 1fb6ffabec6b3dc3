"""Messages of Agent Framework: how they are read and stored."""

from typing import Any

import pytest

pytest.importorskip("agent_framework.exceptions", reason="Agent Framework is not installed: agent-framework-core")

from agent_framework import Content, Message, annotate_message_groups
from chatring import MessageRing
from chatring._core import _outline
from chatring.agent_framework import MessageFormat, Tokenizer
from chatring.stores import ForeignDataError, open_store

FORMAT = MessageFormat()
CALL = Content.from_function_call("c1", "find", arguments='{"number": 1}')
THOUGHT = Content.from_text_reasoning(text="hmm", protected_data="signature")

MESSAGES = [
    Message("system", ["Be brief."]),
    Message("user", ["Yes\0, ☃", "and \ud800"], message_id="m1", author_name="Ada"),
    Message(
        "user",
        ["Look:", Content.from_data(b"\x00\xff", "image/png"), Content.from_uri("https://x.y/z", media_type="a/b")],
    ),
    Message("assistant", [THOUGHT, Content.from_text("Let me look."), CALL], additional_properties={"mine": [1, None]}),
    Message("assistant", [Content.from_function_call("c1", "find", arguments={"deep": {"er": [1.5, None, "x"]}})]),
    Message(
        "tool", [Content.from_function_result("c1", result={"status": "left"}), Content.from_function_result("c2")]
    ),
    Message("tool", [Content.from_function_result("c1", result="no", exception="ValueError: secret")]),
    Message("assistant", [Content.from_function_approval_request("c1", CALL)]),
    Message("user", [Content.from_function_approval_response(True, "c1", CALL)]),
    Message("assistant", [Content("text", text="It is.", annotations=[{"type": "citation", "title": "t"}])]),
    Message("user", []),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_comes_back_equal(message: Message) -> None:
    body = FORMAT.dump(message)
    assert "\0" not in body
    assert FORMAT.load(body).to_dict() == message.to_dict()
    assert [each.to_dict() for each in FORMAT.load_all([body, body])] == 2 * [message.to_dict()]


def test_they_come_back_from_a_store() -> None:
    store = open_store("memory://", format=FORMAT)
    store.append("ada", MESSAGES)
    assert [message.to_dict() for message in store.all("ada")] == [message.to_dict() for message in MESSAGES]
    ring: MessageRing[Message] = MessageRing(format=FORMAT)
    assert store.token_count("ada") == sum(map(ring.count, MESSAGES))
    store.close()


def test_what_compaction_notes_is_not_stored() -> None:
    messages = [
        Message("user", ["q"]),
        Message("user", ["q"], message_id="msg_7"),
        Message("user", ["q"], message_id="x"),
    ]
    messages[0].additional_properties["mine"] = 1
    annotate_message_groups(messages)
    messages[0].additional_properties |= {"_excluded": True, "_exclude_reason": "truncation"}
    assert messages[0].message_id == "msg_0"
    loaded = [FORMAT.load(FORMAT.dump(message)) for message in messages]
    assert [message.message_id for message in loaded] == [None, None, "x"]
    assert [message.additional_properties for message in loaded] == [{"mine": 1}, {}, {}]
    assert messages[0].message_id == "msg_0"  # nothing has changed
    assert messages[0].additional_properties["_excluded"] is True


def test_an_id_of_your_own_stays() -> None:
    assert FORMAT.load(FORMAT.dump(Message("user", ["q"], message_id="msg_7"))).message_id == "msg_7"


def test_what_a_message_is_to_the_window() -> None:
    kinds = [_outline(message, FORMAT)[:2] for message in MESSAGES]
    assert [kind for kind, _ in kinds] == [
        "system", "user", "user", "assistant", "assistant", "tool", "tool", "assistant", "tool", "assistant", "user"
    ]  # fmt: skip
    assert [place for place, (_, goes_on) in enumerate(kinds) if goes_on] == [3, 4, 7]
    # Reasoning belongs to what follows.
    assert _outline(Message("assistant", [THOUGHT]), FORMAT)[:2] == ("assistant", True)


def test_reasoning_of_its_own_counts_as_it_does_beside_a_text() -> None:
    ring: MessageRing[Any] = MessageRing(format=FORMAT)
    thought, text = Message("assistant", [THOUGHT]), Message("assistant", ["It is."])
    beside = Message("assistant", [THOUGHT, Content.from_text("It is.")])
    assert ring.count(thought) + ring.count(text) == ring.count(beside) + ring.count(Message("assistant", []))


def test_errors_say_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"must be an agent_framework\.Message, got str: make one of JSON with"):
        MessageRing[Any](format=FORMAT).put("q")
    with pytest.raises(ValueError, match="the user message 'm1' cannot be stored: a message that is stored must be"):
        FORMAT.dump(Message("user", ["q"], message_id="m1", additional_properties={"x": float("inf")}))
    for body in ('{"role": "user", "contents": [{}]}', "[]", "1", '{"contents": ["x"]}', "{"):
        with pytest.raises(ForeignDataError, match=r"what is stored is not a message of Agent Framework's \(\w+\)$"):
            FORMAT.load(body)


def test_the_tokenizer_counts_exactly() -> None:
    assert Tokenizer().count_tokens("Hello, world") == 3
    assert Tokenizer(len).count_tokens("Hello") == 5
    assert Tokenizer().count_tokens("<|endoftext|>") > 1
    with pytest.raises(ValueError, match="unknown encoding"):
        Tokenizer("gpt-99")
