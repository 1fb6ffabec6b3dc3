"""Messages of Pydantic AI: how they are stored, read, and taken apart for a window."""

import contextlib
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("pydantic_ai.messages", reason="Pydantic AI is not installed: pip install pydantic-ai-slim")

from adapter_stores import check_stores
from chatring import MessageRing
from chatring._core import _outline
from chatring.pydantic_ai import ModelMessageFormat, StoredHistory, TrimMessages, messages_to_store
from chatring.pydantic_ai.authors import UNKNOWN, Authors
from chatring.pydantic_ai.requests import Pieces
from chatring.stores import ForeignDataError, open_store
from hypothesis import given
from hypothesis import strategies as st
from providers import RefusedError, validate_openai_chat
from pydantic_ai import messages as theirs
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai_agents import as_openai, questions
from trimmer_options import check_refusals

FORMAT = ModelMessageFormat()
SYSTEM = SystemPromptPart("You are the support of a shop.")
RESULT = ToolReturnPart("find_order", {"status": "left", "at": [1, None]}, "1")
PROMPT = UserPromptPart("Where is it?")

MESSAGES: list[ModelMessage] = [
    ModelRequest(parts=[SYSTEM, PROMPT], instructions="Be nice.", run_id="r", conversation_id="c"),
    ModelRequest(parts=[RESULT, PROMPT], metadata={"page": 1}),
    ModelRequest(parts=[UserPromptPart(["Look:", "here"])]),
    ModelResponse(parts=[ThinkingPart("Hm.", signature="s"), TextPart("Yes\0, \u2603")], model_name="m"),
    ModelResponse(parts=[ToolCallPart("find_order", {"number": 1}, "1"), ToolCallPart("f", '{"a": 2}', "2")]),
    ModelRequest(parts=[]),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_comes_back_equal(message: ModelMessage) -> None:
    body = FORMAT.dump(message)
    assert "\0" not in body
    assert FORMAT.load(body) == message
    assert FORMAT.load_all([body, FORMAT.dump(MESSAGES[0])]) == [message, MESSAGES[0]]


def test_media_come_back() -> None:
    content: list[theirs.UserContent] = [
        "Look:",
        ImageUrl("https://x.y/z.png"),
        BinaryContent(b"\0\xff", media_type="image/png"),
    ]
    message = ModelRequest(parts=[UserPromptPart(content)])
    body = FORMAT.dump(message)
    assert FORMAT.dump(FORMAT.load(body)) == body
    part = FORMAT.load(body).parts[0]
    assert isinstance(part, UserPromptPart)
    assert [getattr(each, "url", getattr(each, "data", each)) for each in part.content] == [
        "Look:", "https://x.y/z.png", b"\0\xff"
    ]  # fmt: skip


def test_surrogates_without_a_partner_come_back() -> None:
    message = ModelResponse(parts=[TextPart("cut off: \ud83d")])
    body = FORMAT.dump(message)
    assert body.isascii()
    assert FORMAT.load_all([body, FORMAT.dump(MESSAGES[0])]) == [message, MESSAGES[0]]


def test_what_has_no_json_form_is_refused() -> None:
    message = ModelRequest(parts=[ToolReturnPart("f", object(), "1")])
    with pytest.raises(ValueError, match=r"cannot be stored, as something in it has no JSON form: .* Let tools return"):
        FORMAT.dump(message)


@pytest.mark.parametrize("value", [{"role": "user", "content": "Hi"}, "Hi", None, SYSTEM])
def test_what_is_not_a_message_is_refused(value: Any) -> None:
    for method in (FORMAT.read, FORMAT.dump):
        with pytest.raises(TypeError, match="must be a ModelRequest or ModelResponse of Pydantic AI, got"):
            method(value)


@pytest.mark.parametrize("body", ["", "nothing", "1", '{"role": "user"}', '{"kind": "request"},{"kind": "request"}'])
def test_what_is_not_the_json_of_a_message_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match=r"not (a message|messages) of Pydantic AI"):
        FORMAT.load(body)


def test_a_store_says_when_it_was_written_in_another_format() -> None:
    class Other(ModelMessageFormat):
        def dump(self, message: ModelMessage) -> str:
            return "{}"

    store = open_store("memory://", format=Other())
    store.append("ada", [MESSAGES[0]])
    with pytest.raises(ForeignDataError, match="not written in this store's format: not a message of Pydantic AI"):
        store.all("ada")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (ModelRequest(parts=[SYSTEM]), "system"),
        (ModelRequest(parts=[SYSTEM, PROMPT]), "user"),
        (ModelRequest(parts=[PROMPT]), "user"),
        (ModelRequest(parts=[RESULT]), "tool"),
        (ModelRequest(parts=[RESULT, PROMPT]), "tool"),
        (ModelRequest(parts=[]), "tool"),
        (MESSAGES[3], "assistant"),
        (MESSAGES[4], "assistant"),
    ],
)
def test_what_a_message_is_to_the_rules(message: ModelMessage, kind: str) -> None:
    assert _outline(message, FORMAT)[0] == kind


@pytest.mark.skipif(not hasattr(theirs, "RetryFeedbackPart"), reason="this Pydantic AI has no RetryFeedbackPart")
def test_feedback_is_neither_a_question_nor_free() -> None:
    retry: Any = theirs.RetryInfo(cause="model_retry")
    feedback = ModelRequest(parts=[theirs.RetryFeedbackPart("Say it in fewer words, please.", retry=retry)])
    assert _outline(feedback, FORMAT)[0] == "tool"
    ring: MessageRing[Any] = MessageRing(format=FORMAT)
    assert ring.count(feedback) > 6


def test_all_that_is_sent_counts() -> None:
    ring: MessageRing[Any] = MessageRing(format=FORMAT)
    same: MessageRing[Any] = MessageRing()
    assert ring.count(ModelRequest(parts=[PROMPT])) == same.count({"role": "user", "content": "Where is it?"})
    ids = ModelRequest(parts=[PROMPT], run_id="1" * 99, instructions="2" * 99, metadata={"a": "3" * 99})
    assert ring.count(ids) == ring.count(ModelRequest(parts=[PROMPT]))
    assert ring.count(MESSAGES[4]) > ring.count(ModelResponse(parts=[ToolCallPart("find_order", {}, "1")]))


@pytest.mark.parametrize(
    ("args", "options", "error", "text"),
    [
        ((0,), {}, ValueError, "token_limit must be at least 1, got 0"),
        ((None,), {}, TypeError, "token_limit must be an integer, got None"),
        ((80,), {"retention_ratio": 7}, ValueError, "retention_ratio must be between 0 and 1, got 7"),
        ((80,), {"initial_token_count": 100}, ValueError, "initial token count exceeds token limit: 100 > 80"),
        ((80,), {"initial_token_count": None}, TypeError, "initial_token_count must be an integer, got None"),
    ],
)
def test_a_bad_limit_is_refused(args: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        StoredHistory(open_store("memory://", format=FORMAT), *args, **options)


def test_other_stores_are_refused() -> None:
    needs = "StoredHistory needs a store of Pydantic AI's messages: open_store(url, format=ModelMessageFormat())"
    check_stores(lambda store: StoredHistory[None](store, 100), ModelMessageFormat, needs)


def test_bad_options_are_refused() -> None:
    check_refusals(TrimMessages)


def test_a_measure_of_ones_own_gets_the_messages() -> None:
    seen: list[Any] = []

    def measure(message: ModelMessage) -> int:
        seen.append(message)
        return 1

    capability: TrimMessages[Any] = TrimMessages(9, measure=measure)
    assert capability._ring.count(MESSAGES[0]) == 1
    assert seen == [MESSAGES[0]]


# Pieces

_PARTS: dict[str, Any] = {
    "s": SYSTEM,
    "r": RESULT,
    "p": PROMPT,
    "t": UserPromptPart("A picture of it"),
}


@given(st.lists(st.one_of(st.none(), st.tuples(st.text("srpt", max_size=5), st.booleans())), max_size=6), st.data())
def test_pieces_are_the_same_parts_in_the_same_order(
    shapes: list[tuple[str, bool] | None], data: st.DataObject
) -> None:
    messages: list[ModelMessage] = [
        ModelRequest(parts=[_PARTS[part] for part in shape[0]], run_id="run" if shape[1] else None)
        if shape
        else MESSAGES[4]
        for shape in shapes
    ]
    pieces = Pieces(messages, Authors("Where is it?", "run"))
    assert [id(part) for piece in pieces.all for part in piece.parts] == [
        id(part) for message in messages for part in message.parts
    ]
    everything = pieces.joined(range(len(pieces.all)))
    assert len(everything) == len(messages)
    assert all(one is other for one, other in zip(everything, messages, strict=True))
    kept = data.draw(
        st.lists(st.sampled_from(range(len(pieces.all))), unique=True).map(sorted) if pieces.all else st.just([])
    )
    assert [part for message in pieces.joined(kept) for part in message.parts] == [
        part for position in kept for part in pieces.all[position].parts
    ]
    for piece in pieces.all[1:]:
        if isinstance(piece, ModelRequest) and piece.run_id is None and RESULT in piece.parts:
            after = list(piece.parts)[len(piece.parts) - list(piece.parts)[::-1].index(RESULT) :]
            assert not any(isinstance(part, UserPromptPart) for part in after)


_RUNS = [None, "run", "other"]


@given(*2 * [st.lists(st.tuples(st.sampled_from(range(6)), st.sampled_from(_RUNS)), max_size=8)], st.booleans())
def test_pieces_that_are_updated_are_those_of_new_ones(
    before: list[tuple[int, str | None]], after: list[tuple[int, str | None]], knows: bool
) -> None:
    made: dict[tuple[int, str | None], ModelMessage] = {
        (index, run): ModelRequest(parts=[_PARTS[part] for part in parts], run_id=run)
        if parts
        else ModelResponse(parts=[ToolCallPart("find_order", {}, "1")], run_id=run)
        for index, parts in enumerate(("sp", "rp", "rt", "p", "ssr", ""))
        for run in _RUNS
    }
    first, then = ([made[each] for each in chosen] for chosen in (before, after))
    authors = Authors("Where is it?" if knows else UNKNOWN, "run")
    pieces = Pieces(first, authors)
    old = pieces.all[:]
    kept = pieces.update(then)
    assert all(one is other for one, other in zip(pieces.all[:kept], old[:kept], strict=True))
    new = Pieces(then, authors)
    assert pieces.all == new.all
    assert pieces.joined(range(1, len(new.all))) == new.joined(range(1, len(new.all)))
    for piece in range(len(new.all)):
        assert pieces.questions_before(piece) == new.questions_before(piece)


_NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
_LATER = _NOON + timedelta(minutes=1)
_AT_LATER = str(UUID(int=int(_LATER.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62))  # of a run that began then


@pytest.mark.parametrize(
    ("request_run", "before_run", "after_run", "written", "prompt", "expected"),
    [
        # Within a run, tools return content.
        ("a", "a", "a", _LATER, UNKNOWN, None),
        ("a", "a", None, _LATER, "Where is it?", None),
        # The current run is known to ask, or not to.
        ("run", "a", None, _LATER, "Where is it?", (1, True)),
        ("run", "a", None, _LATER, None, None),
        ("run", "a", None, _LATER, "Somebody has changed it", (1, False)),
        # A run began with results. They may be its own.
        ("a", "b", "a", _LATER, UNKNOWN, (1, False)),
        (_AT_LATER, "b", _AT_LATER, _NOON, UNKNOWN, (1, False)),
        # Requests were merged.
        (None, "b", "a", _LATER, UNKNOWN, (1, False)),
        (None, "b", _AT_LATER, _NOON, UNKNOWN, (1, False)),
        (None, "b", _AT_LATER, _LATER, UNKNOWN, (1, True)),
        (None, "b", str(UUID(int=UUID(_AT_LATER).int ^ 3 << 76)), _LATER, UNKNOWN, (1, False)),  # no such time in it
        (None, None, None, _LATER, UNKNOWN, (1, False)),
    ],
)
def test_who_wrote_a_prompt_beside_a_result(
    request_run: str | None, before_run: str, after_run: str | None, written: datetime, prompt: Any, expected: Any
) -> None:
    result = ToolReturnPart("find_order", "found", "1", timestamp=_NOON)
    messages: list[ModelMessage] = [
        ModelRequest(parts=[SYSTEM, PROMPT]),
        ModelResponse(parts=[ToolCallPart("find_order", {}, "1")], run_id=before_run),
        ModelRequest(parts=[result, UserPromptPart("Where is it?", timestamp=written)], run_id=request_run),
    ]
    if after_run is not None:
        messages.append(ModelResponse(parts=[TextPart("Here")], run_id=after_run))
    authors = Authors(prompt, "run")
    assert authors.question(messages, 2) == expected
    pieces = Pieces(messages, authors)
    assert len(pieces.all) == len(messages) + 1 + (expected is not None)  # with the system prompt
    if expected is not None:
        assert pieces.questions_before(4) == ([] if expected[1] else [1])


def test_who_wrote_a_prompt_is_still_known_when_it_was_merged() -> None:
    result, page, asked = ToolReturnPart("read", "read", "1"), UserPromptPart("Page 1"), UserPromptPart("Who?")
    call = ModelResponse(parts=[ToolCallPart("read", {}, "1")], run_id="a")
    authors = Authors()
    authors.note([call, ModelRequest(parts=[result, page], run_id="a"), ModelRequest(parts=[asked])])
    assert authors.question([call, ModelRequest(parts=[result, page, asked])], 1) == (2, True)
    assert authors.question([call, ModelRequest(parts=[result, page])], 1) is None
    assert authors.question([call, ModelRequest(parts=[result, UserPromptPart("Page 1")])], 1) == (1, False)


@given(st.lists(st.sampled_from("ucCrRa"), max_size=14))
def test_what_is_stored_is_valid(shapes: list[str]) -> None:
    """Users, calls of one and two tools, results of the first and of both, and answers, in any order."""
    number, made = 0, 0
    messages: list[ModelMessage] = []
    for shape in shapes:
        if shape == "u":
            messages.append(ModelRequest(parts=[UserPromptPart(f"question {len(messages)}")]))
        elif shape == "a":
            messages.append(ModelResponse(parts=[TextPart("answer")]))
        elif shape in "cC":
            number, made = number + 1, 2 if shape == "C" else 1
            messages.append(ModelResponse(parts=[ToolCallPart("f", {}, f"{number}.{each}") for each in range(made)]))
        elif shape == "r" or made != 1:
            results = [ToolReturnPart("f", "found", f"{number}.{each}") for each in range(2 if shape == "R" else 1)]
            messages.append(ModelRequest(parts=results))
    stored = messages_to_store(messages)
    assert questions(stored) == questions(messages)
    calls = {part.tool_call_id for message in stored for part in message.parts if isinstance(part, ToolCallPart)}
    found = {part.tool_call_id for message in stored for part in message.parts if isinstance(part, ToolReturnPart)}
    assert found == calls
    with contextlib.suppress(RefusedError):
        validate_openai_chat(as_openai(messages))
        assert stored == messages
