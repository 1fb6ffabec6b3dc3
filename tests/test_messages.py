"""What can be a message, what it counts as, and which roles may start a window."""

import enum
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from chatring import MessageRing, TokenCounter
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from pydantic import BaseModel
from reference import IMAGE, ROLES, Message, TextPart, same_objects, text_of


class Role(str, enum.Enum):
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class PlainRole(enum.Enum):
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass
class Data:
    role: Any
    content: Any


@dataclass(frozen=True)
class Slots:
    __slots__ = ("content", "role")
    role: Any
    content: Any


class Named(NamedTuple):
    role: Any
    content: Any


class Model(BaseModel):
    role: Any
    content: Any


class ClassLevel:
    """Attributes found by __getattr__ are attributes."""

    def __init__(self, role: Any, content: Any) -> None:
        self.fields = {"role": role, "content": content}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None


def keyed(role: Any, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "tool_calls": None}


KINDS: dict[str, Callable[[Any, Any], Any]] = {
    "dict": keyed,
    "OrderedDict": lambda role, content: OrderedDict(keyed(role, content)),
    "defaultdict": lambda role, content: defaultdict(str, keyed(role, content)),
    "UserDict": lambda role, content: UserDict(keyed(role, content)),
    "ChainMap": lambda role, content: ChainMap({"role": role}, {"content": content}),
    "MappingProxyType": lambda role, content: MappingProxyType(keyed(role, content)),
    "dataclass": Data,
    "slots": Slots,
    "namedtuple": Named,
    "pydantic": lambda role, content: Model(role=role, content=content),
    "namespace": lambda role, content: SimpleNamespace(role=role, content=content),
    "__getattr__": ClassLevel,
}

CONTENTS: list[tuple[Any, str]] = [
    ("one two three", "one two three"),
    ("", ""),
    (None, "None"),
    ([], ""),
    ((), ""),
    (["one", "two"], "one\ntwo"),
    (("one", "two"), "one\ntwo"),
    ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
    ([{"type": "text", "text": "one"}, IMAGE, "two", TextPart("three")], "one\ntwo\nthree"),
    ([IMAGE], ""),
    ([IMAGE, ""], ""),
    ([{"type": "text", "text": None}, TextPart(None), TextPart(5), 5, None, b"x"], ""),
    ([{"type": "text", "text": ""}, {"text": ""}], "\n"),
    (["", " ", "x"], "\n \nx"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("content", "text"), CONTENTS)
def test_what_a_content_counts_as(kind: str, content: Any, text: str) -> None:
    assert text_of(content) == text
    message = KINDS[kind]("user", content)
    seen: list[str] = []
    ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    ring.put(message)
    assert ring.token_count() == TokenCounter("cl100k_base").count(text)
    ring.get(counter=lambda text: seen.append(text) or text.split())  # type: ignore[func-returns-value]
    assert set(seen) == {text}
    (window,) = ring.get()
    assert window is message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("roles", [lambda role: role, Role, PlainRole, MessageRole])
def test_which_roles_may_start(kind: str, roles: Callable[[str], Any]) -> None:
    for role, starts in (("user", True), ("assistant", False), ("tool", False)):
        ring: MessageRing[Any] = MessageRing(3, str.split, measure="text")
        messages = [KINDS[kind](roles(name), "word") for name in ("user", role, "assistant", "tool", "user")]
        ring.put_messages(messages)
        assert same_objects(ring.get(), messages[4:])
        assert same_objects(ring.get(token_limit=4), messages[1:] if starts else messages[4:])


@pytest.mark.parametrize(
    ("role", "starts"),
    [
        *((role, role not in ("assistant", "tool")) for role in ROLES),
        *((role, role.value not in ("assistant", "tool")) for role in MessageRole),
        ("", True),
        ("Assistant", True),
        ("TOOL", True),
        (" tool", True),
        ("assistant\ud800", True),
    ],
)
def test_all_roles(role: Any, starts: bool) -> None:
    messages = [Message("user", "word"), Message(role, "word"), Message("assistant", "word")]
    ring: MessageRing[Message] = MessageRing(2, str.split, measure="text")
    ring.put_messages(messages)
    assert same_objects(ring.get(), messages[1:] if starts else messages[2:])
    # First and last may start whatever they are.
    ring.set(messages[1:])
    assert same_objects(ring.get(), messages[1:])
    ring.set([messages[0], messages[0], messages[1]])
    assert same_objects(ring.get(token_limit=1), [messages[1]])


def test_the_first_message_may_start_after_the_older_ones_were_deleted() -> None:
    messages = [Message("user", "old")] + [Message("assistant", "word") for _ in range(3)]
    ring: MessageRing[Message] = MessageRing(3, str.split, measure="text")
    ring.put_messages(messages)
    assert same_objects(ring.get(), messages[3:])
    ring.delete(0)
    assert same_objects(ring.get(), messages[1:])

    # Not so where the older ones have left a bounded ring: what they left behind is nobody's answer.
    bounded: MessageRing[Message] = MessageRing(3, str.split, max_messages=3, measure="text")
    bounded.put_messages(messages)
    assert same_objects(bounded.get_all(), messages[1:])
    assert same_objects(bounded.get(), messages[3:])


def test_a_role_is_read_when_it_is_put_and_by_recount() -> None:
    messages = [Message("user", "word"), Message("user", "word"), Message("user", "word")]
    ring: MessageRing[Message] = MessageRing(2, str.split, measure="text")
    ring.put_messages(messages)
    messages[1].role = "assistant"
    ring.recount()
    assert same_objects(ring.get(), messages[2:])
    messages[1].role = "user"
    ring.recount()
    assert same_objects(ring.get(), messages[1:])


class Computed:
    """A message whose content is a new string at each access."""

    role = "user"

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.reads = 0

    @property
    def content(self) -> str:
        self.reads += 1
        return " ".join(self.words)


def test_a_computed_content_is_compared_by_value() -> None:
    calls: list[str] = []

    def counter(text: str) -> list[str]:
        calls.append(text)
        return text.split()

    message = Computed("one", "two")
    ring: MessageRing[Computed] = MessageRing(3, counter, measure="text")
    ring.put_messages([Computed("zero", "and more"), message])
    assert ring.get() == [message]
    calls.clear()
    reads = message.reads
    assert ring.get() == [message]
    assert calls == []
    assert message.reads == reads + 1
    assert ring.get(verify=False) == [message]
    assert message.reads == reads + 1
    message.words.append("three")
    assert ring.token_count() == 6
    assert "one two three" in calls


def test_changes_of_parts_in_place_are_seen() -> None:
    part, object_part = {"type": "text", "text": "two"}, TextPart("three")
    content: list[Any] = ["one", part, object_part]
    ring: MessageRing[Any] = MessageRing(counter=str.split, measure="text")
    ring.put_messages([{"role": "user", "content": "zero"}, {"role": "user", "content": content}])
    assert ring.token_count() == 4
    part["text"] = "two 2"
    assert ring.token_count() == 5
    object_part.text = "three 3"
    assert ring.token_count() == 6
    content[0] = "one 1 i"
    assert ring.token_count() == 8
    content.pop()
    assert ring.token_count() == 6
    content.clear()
    assert ring.token_count() == 1
    ring[1]["content"] = None
    assert ring.token_count() == 2


@pytest.mark.parametrize(
    "changes",
    [("hello", ""), ("", "hello"), ("", None), (" ", "two words"), ("\n", ["part"]), ("x ", "x"), ("x", "x \n")],
)
@pytest.mark.parametrize("before", [[], ["words before"], ["words before ", ""], ["", ""]])
@pytest.mark.parametrize("after", [[], ["words after"], ["", "after"], [""]])
def test_changes_of_a_message_are_seen(changes: tuple[Any, Any], before: list[str], after: list[str]) -> None:
    for counter in ("cl100k_base", str.split, list):
        old, new = changes
        message = Message("user", old)
        messages = [*(Message("user", text) for text in before), message, *(Message("user", text) for text in after)]
        ring: MessageRing[Message] = MessageRing(counter=counter, measure="text")
        ring.put_messages(messages)
        for content in (old, new, old):
            message.content = content
            fresh: MessageRing[Message] = MessageRing(counter=counter, measure="text")
            fresh.put_messages(messages)
            assert ring.token_count() == fresh.token_count(), content
            assert same_objects(ring.get(), messages)


def test_a_str_of_a_subclass_is_its_characters() -> None:
    class Loud(str):
        def __str__(self) -> str:
            raise AssertionError

        __len__ = __iter__ = __eq__ = encode = __str__  # type: ignore[assignment]
        __hash__ = str.__hash__

    ring: MessageRing[Any] = MessageRing(counter=str.split, measure="text")
    ring.put_messages([Message(Loud("user"), Loud("one two")), Message("user", [Loud("three")])])
    assert ring.token_count() == 3
    assert len(ring.get(token_limit=1)) == 1
    assert len(ring.get(token_limit=3)) == 2


def test_a_mapping_with_attributes_of_these_names_goes_by_its_attributes() -> None:
    class Both(UserDict[str, Any]):
        role = "user"
        content = "attribute"

    ring: MessageRing[Any] = MessageRing(counter=list, measure="text")
    ring.put(Both(role="tool", content="key"))
    assert ring.token_count() == len("attribute")


def test_llama_index_messages() -> None:
    messages = [
        ChatMessage(role="system", content="be kind"),
        ChatMessage(role=MessageRole.USER, content="one two"),
        ChatMessage(role=MessageRole.ASSISTANT, content=None, additional_kwargs={"tool_calls": []}),
        ChatMessage(role="tool", content=""),
        ChatMessage(
            role="user", blocks=[TextBlock(text="three"), ImageBlock(url="https://x.org/i.png"), TextBlock(text="4")]
        ),
    ]
    ring: MessageRing[ChatMessage] = MessageRing(100, counter="cl100k_base", measure="text")
    ring.put_messages(messages)
    count = TokenCounter("cl100k_base").count
    joined: str | None = " ".join(str(message.content) for message in messages)
    assert joined is not None
    assert ring.token_count() == count(joined)
    assert same_objects(ring.get(), messages)
    messages[1].content = "one two three four"
    assert ring.token_count() == count(" ".join(str(message.content) for message in messages))
    assert same_objects(ring.get(token_limit=5), messages[4:])


def test_an_attribute_error_within_a_property_is_its_own() -> None:
    class Broken:
        role = "user"

        @property
        def content(self) -> str:
            raise AttributeError("no attribute 'inner'")

    ring: MessageRing[Any] = MessageRing(counter="cl100k_base", measure="text")
    with pytest.raises(AttributeError, match="inner"):
        ring.put(Broken())
    assert ring.get_all() == []
