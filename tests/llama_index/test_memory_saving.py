"""`Memory` saved, pickled and copied; its memory blocks; and in agents and chat engines, compared with LlamaIndex's."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chatring.llama_index import Memory, RingMemoryStore, store_chat_store
from chatring.llama_index.database_memory_store import DatabaseMemoryStore
from chatring.llama_index.tokenizer import encoding_of
from llama_index.core import MockEmbedding
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ImageBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.llms import ChatMessage, MockLLM, TextBlock
from llama_index.core.memory import (
    BaseMemoryBlock,
    FactExtractionMemoryBlock,
    InsertMethod,
    VectorMemoryBlock,
)
from llama_index.core.memory import Memory as LlamaIndexMemory
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.schema import BaseNode
from llama_index.core.storage.chat_store.base_db import MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.core.workflow import Context
from profiles import LONG, slow
from pydantic import Field, PrivateAttr
from scripted_llm import ScriptedLLM, Transcript, says
from stores.conftest import postgres_server, postgres_url, sqlite_url, valkey_server, valkey_url
from stores.servers import PASSWORD
from test_integration import (
    AGENT_WARNINGS,
    HANDOFF_SCRIPT,
    REUSED_CONTEXT_WARNINGS,
    RUNNING_WARNINGS,
    SERIALIZERS,
    OneDocument,
    Outcome,
    achat,
    add,
    astream_chat,
    chat,
    condense_engine,
    confirmed,
    context_engine,
    conversation,
    dumped,
    function_agent,
    look_up,
    simple_engine,
    stream_chat,
    through_json,
)
from test_memory_concurrency import (
    ACTIVE,
    ARCHIVED,
    DATABASES,
    OURS,
    THEIRS,
    Noting,
    awaited,
    calls_of,
    new_memory,
    on_all,
    on_ours,
    static_block,
    store,
    texts,
    url_of,
)
from workflows.context import JsonSerializer, PickleSerializer
from workflows.context.state_store import UnserializableKeyWarning

FIXTURES = (postgres_server, postgres_url, sqlite_url, store, url_of, valkey_server, valkey_url)

on_databases = pytest.mark.parametrize("store", DATABASES, indirect=True)
on_theirs = pytest.mark.parametrize("store", THEIRS, indirect=True)

# What must never be found in what is saved.
SECRET = "what another session says"


class Notebook(BaseMemoryBlock[str]):
    """A memory block that can be made again from its own fields."""

    name: str = "notebook"
    notes: list[str] = Field(default_factory=list)

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        return f"{len(self.notes)} notes"

    async def _aput(self, messages: list[ChatMessage]) -> None:
        self.notes += texts(messages)


class Drawer:
    class Notes(Notebook):
        """Its class is found within another one."""


TEMPLATE = RichPromptTemplate(
    "{% for name, blocks in memory_blocks %}<{{ name }} of={{ owner }}>{% for block in blocks %}"
    "{{ block.text }}{% endfor %}{% endfor %}",
    owner="ann",
)


def new_blocks() -> list[BaseMemoryBlock[Any]]:
    return [
        static_block("What is known. 世界", priority=2, description="d"),
        static_block([TextBlock(text="one part"), TextBlock(text="another")], name="parts"),
        Notebook(notes=["a note"], priority=1, accept_short_term_memory=True),
        Drawer.Notes(name="drawer"),
    ]


def rich_messages() -> list[ChatMessage]:
    """Messages of many kinds, some of them archived."""
    image = ImageBlock(image=b"GIF89a\x01\x00\x01\x00", image_mimetype="image/gif")
    call = ToolCallBlock(tool_call_id="c", tool_name="add", tool_kwargs={"a": 1, "b": [2, None]})
    return [
        ChatMessage("Be brief.", role="system"),
        ChatMessage(
            "naïve 世界 \x00 👩‍👩‍👧 " * 5, role="user", additional_kwargs={"n": 1.5, "deep": {"k": [True, None]}}
        ),
        ChatMessage(role="assistant", blocks=[ThinkingBlock(content="hm"), TextBlock(text="I add."), call]),
        ChatMessage("3", role="tool", additional_kwargs={"tool_call_id": "c"}),
        ChatMessage(role="user", blocks=[TextBlock(text="and this? " * 10), image]),
        ChatMessage(role="assistant", content=None),
        ChatMessage("", role="user"),
        ChatMessage("an answer " * 10, role="assistant"),
        ChatMessage("thanks " * 30, role="user"),
        ChatMessage("you are welcome", role="assistant"),
    ]


def filled(store: Any, **fields: Any) -> Memory:
    """Return a memory with archived and active messages, beside another session in its store."""
    values: dict[str, Any] = {
        "session_id": "ann/世界 %",
        "insert_method": InsertMethod.USER,
        "image_token_size_estimate": 20,
        "memory_blocks_template": TEMPLATE,
    }
    new_memory(store, session_id="other").put(ChatMessage(SECRET))
    memory = new_memory(store, *fields.pop("memory_blocks", new_blocks()), **(values | fields))
    memory.put_messages(rich_messages())
    assert memory.get_all(ARCHIVED)
    assert len(memory.get_all(ACTIVE)) > 1
    return memory


def named(tokenizer: Any) -> Any:
    """Return a value that is equal for equal tokenizers: a tiktoken encoding equals only itself."""
    encoding = encoding_of(tokenizer)
    return tokenizer if encoding is None else (encoding.name, tokenizer.keywords)


def state(memory: Memory) -> dict[str, Any]:
    """Return everything that can be seen of a memory."""
    fields = {name: getattr(memory, name) for name in Memory.model_fields}
    template, blocks = fields.pop("memory_blocks_template"), fields.pop("memory_blocks")
    del fields["sql_store"]
    return {
        **fields,
        "tokenizer_fn": named(memory.tokenizer_fn),
        "blocks": [(type(block), block.model_dump()) for block in blocks],
        "template": template.format(memory_blocks=[("a", [TextBlock(text="b")])]),
        "archived": dumped(memory.get_all(ARCHIVED)),
        "active": dumped(memory.get_all(ACTIVE)),
        "window": dumped(memory.get("what?")),
        "awindow": dumped(awaited(memory.sql_store, memory.aget())),
    }


SAVED: dict[str, Callable[[Memory], Any]] = {
    "to_dict": lambda memory: type(memory).from_dict(memory.to_dict()),
    "to_json": lambda memory: type(memory).from_json(memory.to_json()),
    "json.dumps": lambda memory: type(memory).from_dict(json.loads(json.dumps(memory.to_dict()))),
    "model_dump": lambda memory: type(memory).model_validate(memory.model_dump()),
    "model_dump of JSON": lambda memory: type(memory).model_validate(memory.model_dump(mode="json")),
    "model_dump_json": lambda memory: type(memory).model_validate_json(memory.model_dump_json()),
    "constructor": lambda memory: type(memory)(**memory.model_dump()),
    "JsonSerializer": lambda memory: JsonSerializer().deserialize(JsonSerializer().serialize(memory)),
}
PICKLED: dict[str, Callable[[Memory], Any]] = {
    **{
        f"pickle {protocol}": lambda memory, protocol=protocol: pickle.loads(pickle.dumps(memory, protocol))  # type: ignore[misc]
        for protocol in (2, pickle.HIGHEST_PROTOCOL)
    },
    "PickleSerializer": lambda memory: PickleSerializer().deserialize(PickleSerializer().serialize(memory)),
}
COPIED: dict[str, Callable[[Memory], Any]] = {
    "copy": copy.copy,
    "model_copy": lambda memory: memory.model_copy(),
}
COPIED_DEEPLY: dict[str, Callable[[Memory], Any]] = {
    "deepcopy": copy.deepcopy,
    "model_copy(deep=True)": lambda memory: memory.model_copy(deep=True),
    "deepcopy in a list": lambda memory: copy.deepcopy([memory, memory])[1],
}
WRITTEN: dict[str, Callable[[Memory], str]] = {
    "to_dict": lambda memory: json.dumps(memory.to_dict(), ensure_ascii=False),
    "to_json": lambda memory: memory.to_json(),
    "model_dump": lambda memory: repr(memory.model_dump()),
    "model_dump_json": lambda memory: memory.model_dump_json(),
    "JsonSerializer": lambda memory: JsonSerializer().serialize(memory),
    "pickle": lambda memory: pickle.dumps(memory).decode("latin-1"),
    "pickle 0": lambda memory: pickle.dumps(memory, 0).decode("latin-1"),
    "PickleSerializer": lambda memory: pickle.dumps(memory).decode("latin-1"),
}


def ways(*tables: dict[str, Callable[[Memory], Any]]) -> pytest.MarkDecorator:
    merged = {name: way for table in tables for name, way in table.items()}
    return pytest.mark.parametrize("through", merged.values(), ids=list(merged))


# The others run the same code on a database as one of these.
SOME = ("to_dict", "model_dump_json", "JsonSerializer", f"pickle {pickle.HIGHEST_PROTOCOL}", "copy", "deepcopy")
EVERY_WAY = {**SAVED, **PICKLED, **COPIED, **COPIED_DEEPLY}
on_ours_by_every_way = pytest.mark.parametrize(
    ("store", "through"),
    [
        pytest.param(kind, through, id=f"{kind}-{name}")
        for kind in OURS
        for name, through in EVERY_WAY.items()
        if LONG or kind == "ring" or name in SOME
    ],
    indirect=["store"],
)


# --- saving and copying -----------------------------------------------------------------------------------------------


@on_ours_by_every_way
def test_what_comes_back(store: Any, through: Callable[[Memory], Any]) -> None:
    memory = filled(store)
    before = state(memory)
    back = through(memory)
    assert type(back) is Memory
    assert back is not memory
    assert isinstance(back.insert_method, InsertMethod)
    if not isinstance(store, RingMemoryStore):  # nothing is opened for a database that is open
        assert isinstance(back.sql_store, DatabaseMemoryStore)
        own: Any = back.sql_store
        assert own.chat_store.store is store.store
    assert state(back) == before
    assert state(memory) == before


@on_ours_by_every_way
def test_both_go_on(store: Any, through: Callable[[Memory], Any]) -> None:
    """A copy of a ring goes on separately, with the same windows, unless it is just another memory on the store."""
    memory = filled(store)
    back = through(memory)
    stored = dumped(memory.get_all())
    expected = new_memory(RingMemoryStore(), image_token_size_estimate=20)
    expected.put_messages(rich_messages())
    for messages in calls_of("ann", 7):
        back.put_messages(messages)
        expected.put_messages(messages)
        assert dumped(back.get_all(ACTIVE)) == dumped(expected.get_all(ACTIVE))
        assert dumped(back.get_all(ARCHIVED)) == dumped(expected.get_all(ARCHIVED))
    is_its_own = isinstance(store, RingMemoryStore) and through not in COPIED.values()
    assert dumped(memory.get_all()) == (stored if is_its_own else dumped(back.get_all()))
    memory.put(ChatMessage("only here, or there too"))
    assert len(memory.get_all()) == len(stored) + 1 if is_its_own else len(back.get_all())
    back.reset()
    assert (memory.get_all() == []) == (not is_its_own)
    assert texts(new_memory(store, session_id="other").get_all()) == [SECRET]


@on_ours
@pytest.mark.parametrize("written", WRITTEN.values(), ids=list(WRITTEN))
def test_nothing_of_other_sessions_is_saved(store: Any, written: Callable[[Memory], str]) -> None:
    memory = filled(store)
    text = written(memory)
    assert SECRET not in text
    assert PASSWORD not in text
    assert ("you are welcome" in text) == isinstance(store, RingMemoryStore)
    # Also not of what was read from it.
    new_memory(store, session_id="other").get()
    assert SECRET not in written(memory)


@pytest.mark.parametrize("session_id", ["other", "new"])
@ways(SAVED, PICKLED)
def test_the_other_sessions_do_not_come_back(session_id: str, through: Callable[[Memory], Any]) -> None:
    memory = filled(RingMemoryStore())
    back = through(memory)
    assert back.model_copy(update={"session_id": session_id}).get_all() == []
    assert asyncio.run(back.sql_store.get_keys()) == [memory.session_id]


@ways(SAVED, PICKLED, COPIED, COPIED_DEEPLY)
def test_an_empty_memory(through: Callable[[Memory], Any]) -> None:
    memory = Memory(token_limit=10)
    back = through(memory)
    assert back
    assert back.session_id == memory.session_id
    assert back.get() == back.get_all() == []
    assert asyncio.run(back.sql_store.get_keys()) == []
    back.put(ChatMessage("a"))
    assert texts(back.get()) == ["a"]


@ways(SAVED, PICKLED, COPIED_DEEPLY)
def test_bounds_of_the_store(through: Callable[[Memory], Any]) -> None:
    memory = new_memory(RingMemoryStore(max_sessions=2), session_id="a")
    memory.put(ChatMessage("a"))
    back = through(memory)
    assert back.sql_store.max_sessions == 2
    for key in "bc":
        back.model_copy(update={"session_id": key}).put(ChatMessage(key))
    assert asyncio.run(back.sql_store.get_keys()) == ["b", "c"]


@ways(SAVED)
def test_surrogates_and_long_numbers(through: Callable[[Memory], Any]) -> None:
    memory = new_memory(RingMemoryStore())
    surrogate = "" if through is SAVED["model_dump_json"] else "\ud800"  # pydantic's own JSON has none
    memory.put(ChatMessage(f"x {surrogate}", additional_kwargs={"n": 10**30, "f": 0.1}))
    assert dumped(through(memory).get_all()) == dumped(memory.get_all())


def test_what_is_described_is_json_and_left_alone() -> None:
    memory = filled(RingMemoryStore())
    data = memory.to_dict()
    assert data["class_name"] == "Memory"
    assert data["insert_method"] == "user"
    text = json.dumps(data)
    for _ in range(2):
        assert state(Memory.from_dict(data)) == state(memory)
        assert json.dumps(data) == text
    other = Memory.from_dict(data, token_limit=7, session_id="new")
    assert (other.token_limit, other.session_id, other.get_all()) == (7, "new", [])


class Noted(Memory):
    """A subclass with fields and an attribute of its own."""

    notes: list[str] = Field(default_factory=list)
    _drafts: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Noted"


@on_ours_by_every_way
def test_a_subclass_with_fields(store: Any, through: Callable[[Memory], Any]) -> None:
    memory = Noted(token_limit=100, sql_store=store, notes=["a"])
    memory.put(ChatMessage("a message"))
    back = through(memory)
    assert type(back) is Noted
    assert (back.notes, texts(back.get_all())) == (["a"], ["a message"])
    back.notes.append("b")
    back._drafts.append("c")
    is_shared = through in COPIED.values()
    assert memory.notes == (["a", "b"] if is_shared else ["a"])
    assert memory._drafts == (["c"] if is_shared else [])


@ways(PICKLED, COPIED, COPIED_DEEPLY)
@pytest.mark.parametrize("tokenizer", [str.split, list, None], ids=["split", "list", "default"])
def test_a_tokenizer_with_a_name(tokenizer: Any, through: Callable[[Memory], Any]) -> None:
    memory = new_memory(RingMemoryStore(), tokenizer_fn=tokenizer)
    back = through(memory)
    # That serialiser writes JSON, where it can: it has no functions.
    expected = Memory(token_limit=1) if through is PICKLED["PickleSerializer"] else memory
    assert named(back.tokenizer_fn) == named(expected.tokenizer_fn)


def test_a_tokenizer_without_a_name_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    memory = new_memory(RingMemoryStore(), tokenizer_fn=lambda text: text.split())
    memory.put(ChatMessage("a"))
    back = pickle.loads(pickle.dumps(memory))
    assert "Leaving out tokenizer_fn" in caplog.text
    assert back.tokenizer_fn == Memory(token_limit=1).tokenizer_fn
    assert texts(back.get_all()) == ["a"]
    with_its_own = Memory.from_dict(memory.to_dict(), tokenizer_fn=memory.tokenizer_fn)
    assert with_its_own.tokenizer_fn is memory.tokenizer_fn


@on_databases
def test_a_password_is_not_saved(store: Any, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["store"]
    memory = filled(store)
    data, pickled, expected = memory.to_dict(), pickle.dumps(memory), dumped(memory.get_all())
    # As in another process: nothing is open.
    known = dict(store_chat_store._OPEN)
    store_chat_store._OPEN.clear()
    try:
        for load in (lambda: Memory.from_dict(json.loads(json.dumps(data))), lambda: pickle.loads(pickled)):
            if kind == "sqlite":
                back = load()
                assert dumped(back.get_all()) == expected
                back.sql_store.chat_store.store.close()  # type: ignore[union-attr]
                continue
            with pytest.raises(ValueError, match=r"the password of .* was not saved: open a"):
                load()
    finally:
        store_chat_store._OPEN.update(known)


# --- memory blocks, and what cannot be saved --------------------------------------------------------------------------


def test_a_memory_block_with_an_llm_is_refused() -> None:
    block = FactExtractionMemoryBlock(name="facts", llm=MockLLM(), facts=["a fact"])
    memory = new_memory(RingMemoryStore(), block)
    memory.put(ChatMessage("a"))
    words = r"the memory block 'facts' \(FactExtractionMemoryBlock\) cannot be made again from its fields"
    for save in (memory.to_dict, memory.to_json, memory.model_dump, memory.model_dump_json):
        with pytest.raises(ValueError, match=words):
            save()
    assert copy.deepcopy(memory).memory_blocks[0].facts == ["a fact"]  # type: ignore[attr-defined]
    assert texts(memory.get_all()) == ["a"]


def test_a_memory_block_of_a_class_that_is_not_found_is_refused() -> None:
    class Local(Notebook):
        pass

    memory = new_memory(RingMemoryStore(), Local(name="local"))
    with pytest.raises(ValueError, match=r"the memory block 'local' \(Local\) cannot be made again .* is not found"):
        memory.to_dict()


class Forgetful(Notebook):
    """What it knows is not in its fields."""

    _known: list[str] = PrivateAttr(default_factory=list)


def test_a_memory_block_that_would_come_back_without_what_it_knows_is_refused() -> None:
    block = Forgetful(name="forgetful")
    block._known.append("something")
    with pytest.raises(ValueError, match=r"the memory block 'forgetful' \(Forgetful\) cannot be made again"):
        new_memory(RingMemoryStore(), block).to_dict()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"class": "no.such.module:Block", "fields": {}}, "the class 'no.such.module:Block' of a memory block"),
        ({"class": "json:JSONDecoder", "fields": {}}, "'json:JSONDecoder' is not the class of a memory block"),
        ({"fields": {}}, "the class None of a memory block is not found"),
    ],
)
def test_what_describes_no_memory_block(data: dict[str, Any], words: str) -> None:
    saved = Memory(token_limit=10).to_dict()
    with pytest.raises(ValueError, match=words):
        Memory.from_dict({**saved, "memory_blocks": [data]})


@pytest.mark.parametrize(
    "store", [{}, {"class_name": "SQLAlchemyChatStore"}, {"class_name": "chatring.RingMemoryStore"}]
)
def test_what_describes_no_store(store: dict[str, Any]) -> None:
    saved = Memory(token_limit=10).to_dict()
    with pytest.raises(ValueError, match=r"a store of Memory is named by class_name|is described by its sessions"):
        Memory.from_dict({**saved, "sql_store": store})


def test_a_template_with_functions_is_refused() -> None:
    template = RichPromptTemplate("{{ memory_blocks }}", function_mappings={"a": str})
    memory = new_memory(RingMemoryStore(), memory_blocks_template=template)
    for save in (memory.to_dict, memory.to_json, memory.model_dump_json):
        with pytest.raises(ValueError, match="a memory_blocks_template with functions or an output parser"):
            save()


def test_the_default_template_is_not_saved() -> None:
    """So that a later version's comes with it."""
    assert "memory_blocks_template" not in Memory(token_limit=10).to_dict()


@slow
@on_theirs
def test_a_store_of_somebody_elses(store: Any) -> None:
    """Copies share it. Where it would have to be saved, the error says why it cannot be."""
    memory = filled(store)
    before = state(memory)
    name = type(store).__name__
    for save in (memory.to_dict, memory.to_json, memory.model_dump, memory.model_dump_json):
        with pytest.raises(
            ValueError, match=f"a memory whose messages are in a {name} cannot be saved: give it a SQLC"
        ):
            save()
    with pytest.raises(TypeError, match=f"a memory whose messages are in a {name} cannot be pickled"):
        pickle.dumps(memory)
    for copied in (*COPIED.values(), *COPIED_DEEPLY.values()):
        back = copied(memory)
        assert back.sql_store is store
        assert state(back) == before
    memory.put(ChatMessage("the original goes on"))
    assert texts(memory.get_all())[-1] == "the original goes on"


class ByText(BasePydanticVectorStore):
    """A vector store in memory that keeps texts and honours filters. What is newest is nearest."""

    stores_text: bool = True
    nodes: list[Any] = Field(default_factory=list)
    queries: list[Any] = Field(default_factory=list)

    @property
    def client(self) -> None:
        return None

    def add(self, nodes: list[BaseNode], **add_kwargs: Any) -> list[str]:  # type: ignore[override]
        self.nodes += nodes
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        raise NotImplementedError

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        self.queries.append(copy.deepcopy(query.filters))
        filters = [] if query.filters is None else query.filters.filters
        found = [
            node
            for node in reversed(self.nodes)
            if all(isinstance(one, MetadataFilter) and node.metadata.get(one.key) == one.value for one in filters)
        ][: query.similarity_top_k]
        return VectorStoreQueryResult(nodes=found, similarities=[1.0] * len(found), ids=[n.node_id for n in found])


def vector_block(**fields: Any) -> VectorMemoryBlock:
    return VectorMemoryBlock(vector_store=ByText(), embed_model=MockEmbedding(embed_dim=3), **fields)


@on_all
@pytest.mark.parametrize("is_sync", [True, False])
def test_a_vector_memory_block_of_two_sessions(store: Any, is_sync: bool) -> None:
    block = vector_block(similarity_top_k=50)
    memories = [new_memory(store, block, session_id=key) for key in ("ann", "bob")]
    for memory in memories:
        for messages in calls_of(memory.session_id, 20):
            memory.put_messages(messages)

    def check(memory: Memory, window: list[ChatMessage]) -> None:
        retrieved = str(window[0].content)
        other = {"ann": "bob", "bob": "ann"}[memory.session_id]
        assert f"{memory.session_id} 0 0" in retrieved
        assert other not in str(window)
        assert block.query_kwargs == {}

    async def ask() -> None:
        for _ in range(2):
            for memory in memories:
                check(memory, await memory.aget())
        both = memories * 5
        for memory, window in zip(both, await asyncio.gather(*(memory.aget() for memory in both)), strict=True):
            check(memory, window)

    if is_sync:
        for memory in memories * 3:
            check(memory, memory.get())
    else:
        awaited(store, ask())


@pytest.mark.parametrize(
    "filters",
    [
        MetadataFilters(filters=[MetadataFilter(key="tenant", value="a")]),
        MetadataFilters(filters=[MetadataFilter(key="tenant", value="a")], condition=FilterCondition.OR),
        MetadataFilters(filters=[]),
    ],
)
def test_filters_of_a_vector_memory_block_are_kept(filters: MetadataFilters) -> None:
    before = copy.deepcopy(filters)
    block = vector_block(query_kwargs={"filters": filters, "alpha": 0.5})
    vectors: ByText = block.vector_store  # type: ignore[assignment]
    for key in ("ann", "bob", "ann"):
        memory = new_memory(RingMemoryStore(), block, session_id=key)
        memory.put(ChatMessage("a question"))
        memory.get()
        session = MetadataFilter(key="session_id", value=key)
        assert vectors.queries[-1].filters == [*before.filters, session]
        assert vectors.queries[-1].condition == before.condition
        assert block.query_kwargs == {"filters": before, "alpha": 0.5}
        assert block.query_kwargs["filters"] is filters


def test_a_filter_of_ones_own_by_session_is_kept() -> None:
    """LlamaIndex adds none then: the block is meant to answer from one session."""
    filters = MetadataFilters(filters=[MetadataFilter(key="session_id", value="knowledge")])
    block = vector_block(query_kwargs={"filters": filters})
    vectors: ByText = block.vector_store  # type: ignore[assignment]
    for key in ("ann", "bob"):
        memory = new_memory(RingMemoryStore(), block, session_id=key)
        memory.put(ChatMessage("a question"))
        asyncio.run(memory.aget())
        assert vectors.queries[-1] == filters


class TenantVectors(VectorMemoryBlock):
    """A subclass that remembers something of each call."""

    asked: list[str] = Field(default_factory=list)
    _count: int = PrivateAttr(default=0)

    async def _aget(self, messages: Any = None, session_id: str | None = None, **block_kwargs: Any) -> str:
        self.asked.append(str(session_id))
        self._count += 1
        return await super()._aget(messages, session_id=session_id, **block_kwargs)


def test_a_subclass_of_a_vector_memory_block_keeps_what_it_notes() -> None:
    block = TenantVectors(vector_store=ByText(), embed_model=MockEmbedding(embed_dim=3))
    memory = new_memory(RingMemoryStore(), block, session_id="ann")
    memory.put(ChatMessage("a question"))
    for _ in range(3):
        memory.get()
    assert block.asked == ["ann"] * 3
    assert block._count == 3
    assert block.query_kwargs == {}


class Prepared(BaseMemoryBlock[list[ChatMessage]]):
    """Answers with messages of its own."""

    name: str = "prepared"
    messages: list[ChatMessage]

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        return self.messages

    async def _aput(self, messages: list[ChatMessage]) -> None: ...


@on_all
@pytest.mark.parametrize("insert_method", list(InsertMethod))
def test_messages_of_a_memory_block_are_not_changed(store: Any, insert_method: InsertMethod) -> None:
    own = [ChatMessage("a rule", role="system"), ChatMessage("an example", role="user")]
    before = copy.deepcopy(own)
    static = static_block("known")
    memory = new_memory(store, static, Prepared(messages=own), insert_method=insert_method)
    memory.put(ChatMessage("an answer", role="assistant"))
    for _ in range(3):
        for window in (memory.get(), awaited(store, memory.aget())):
            assert [message.role.value for message in window] == ["system", "user", "assistant"]
            changed = window[0 if insert_method is InsertMethod.SYSTEM else 1]
            assert str(changed.content).count("known") == 1
            changed.additional_kwargs["edited"] = True
            window[2].blocks.append(TextBlock(text="edited"))
            assert [message.blocks for message in own] == [message.blocks for message in before]
            assert texts(memory.get_all()) == ["an answer"]


@on_ours
def test_what_a_memory_returns_are_copies(store: Any) -> None:
    memory = new_memory(store, Noting())
    given = ChatMessage("as it was put", additional_kwargs={"k": [1]})
    memory.put(given)
    given.content = "edited"
    given.additional_kwargs["k"].append(2)
    for messages in (memory.get(), memory.get_all(), awaited(store, memory.aget())):
        messages[0].content = "edited"
        messages[0].additional_kwargs["k"].append(2)
    (message,) = memory.get_all()
    assert (message.content, message.additional_kwargs) == ("as it was put", {"k": [1]})


# --- contexts ---------------------------------------------------------------------------------------------------------


def in_session(store: Any, *blocks: BaseMemoryBlock[Any]) -> Callable[[int], Memory]:
    """Return what makes memories of one session, all with the same memory blocks."""
    return lambda limit: Memory(
        token_limit=limit, token_flush_size=1, sql_store=store, memory_blocks=list(blocks), session_id="ann"
    )


@contextlib.contextmanager
def theirs(*, with_blocks: bool = False) -> Iterator[Any]:
    """Return what makes memories of LlamaIndex's own class; close their connections afterwards."""
    made: list[Any] = []

    def new(limit: int) -> LlamaIndexMemory:
        blocks = agent_blocks() if with_blocks else []
        made.append(LlamaIndexMemory.from_defaults(token_limit=limit, token_flush_size=1, memory_blocks=blocks))
        return made[-1]  # type: ignore[no-any-return]

    try:
        yield new
    finally:
        for memory in made:
            close(memory.sql_store)


def close(store: Any) -> None:
    if store._async_engine is not None:
        asyncio.run(store._async_engine.dispose())


def agent_blocks() -> list[BaseMemoryBlock[Any]]:
    return [static_block("What is known."), Notebook()]


# What runs LlamaIndex's agents takes long: in the everyday profile most of it runs on rings alone.
SERIALIZER = {"json": JsonSerializer(), "pickle": PickleSerializer()}


@slow
@pytest.mark.parametrize(
    ("store", "serializer", "with_blocks", "token_limit"),
    [
        (kind, serializer, with_blocks, token_limit)
        for kind in OURS
        for serializer in SERIALIZER
        for with_blocks in (True, False)
        for token_limit in (40, 3000)
        if LONG or (token_limit == 40 and (kind == "ring" or (with_blocks and serializer == "json")))
    ],
    indirect=["store"],
)
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
def test_contexts_saved_while_waiting_for_the_user(
    store: Any, serializer: str, with_blocks: bool, token_limit: int
) -> None:
    """An agent that is saved and loaded, during its run and after every turn, behaves like one that was not."""
    with theirs(with_blocks=with_blocks) as new:
        expected = asyncio.run(confirmed(new, token_limit, None))
    blocks = agent_blocks() if with_blocks else []
    outcome = awaited(store, confirmed(in_session(store, *blocks), token_limit, SERIALIZER[serializer]))  # type: ignore[arg-type]
    assert outcome == expected


@on_ours
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@pytest.mark.parametrize("again", [True, False])
def test_a_context_used_again(store: Any, again: bool) -> None:
    """The LLM sees the first run in the second one, whether or not the memory is given again."""

    async def run() -> tuple[Transcript, list[str]]:
        llm = ScriptedLLM(script=[says("Hello, Ann."), says("Ann."), says("Bye.")])
        agent = FunctionAgent(llm=llm, tools=[add])
        context = Context(agent)
        memory = in_session(store)(3000)
        await agent.run("I am Ann.", ctx=context, memory=memory)
        for question in ("Who am I?", "Bye."):
            await agent.run(question, ctx=context, memory=memory if again else None)
        held = await context.store.get("memory")
        assert type(held) is Memory
        return llm.transcript, texts(await held.aget_all())

    transcript, history = awaited(store, run())
    assert [len(messages) for messages in transcript] == [1, 3, 5]
    assert history == ["I am Ann.", "Hello, Ann.", "Who am I?", "Ann.", "Bye.", "Bye."]


@pytest.mark.filterwarnings(*AGENT_WARNINGS)
def test_a_context_with_a_memory_that_cannot_be_saved() -> None:
    """The workflow says that it is left out, as it does of theirs."""

    async def run() -> None:
        agent = FunctionAgent(llm=ScriptedLLM(script=[says("Hello.")]))
        context = Context(agent)
        memory = Memory(token_limit=100, memory_blocks=[FactExtractionMemoryBlock(llm=MockLLM())])
        await agent.run("I am Ann.", ctx=context, memory=memory)
        with pytest.warns(UnserializableKeyWarning, match="memory"):
            context.to_dict(serializer=JsonSerializer())

    asyncio.run(run())


@on_ours
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@SERIALIZERS
def test_what_a_loaded_context_holds(store: Any, serializer: JsonSerializer) -> None:
    async def loaded() -> tuple[Memory, Memory]:
        agent = FunctionAgent(llm=ScriptedLLM(script=[says("Hello.")]))
        memory = filled(store)
        context = Context(agent)
        await agent.run("Hello?", ctx=context, memory=memory)
        found: Memory = await through_json(context, agent, serializer).store.get("memory")
        return memory, found

    memory, found = awaited(store, loaded())
    assert found is not memory
    assert state(found) == state(memory)


# --- agents and chat engines ------------------------------------------------------------------------------------------


@slow
@pytest.mark.filterwarnings(*AGENT_WARNINGS)
@pytest.mark.parametrize(
    ("store", "with_blocks", "token_limit"),
    [
        (kind, with_blocks, token_limit)
        for kind in (*OURS, *THEIRS)
        for with_blocks in (True, False)
        for token_limit in (60, 3000)
        if LONG or kind == "ring" or (with_blocks and token_limit == 60)
    ],
    indirect=["store"],
)
def test_function_agents(store: Any, with_blocks: bool, token_limit: int) -> None:
    expected = their_function_agent(token_limit, with_blocks)
    assert token_limit == 3000 or expected.cuts() > 0
    session: Any = in_session(store, *agent_blocks() * with_blocks)
    assert awaited(store, function_agent(session, token_limit)) == expected


@functools.cache
def their_function_agent(token_limit: int, with_blocks: bool) -> Outcome:
    with theirs(with_blocks=with_blocks) as new:
        return asyncio.run(function_agent(new, token_limit))


@slow
@on_ours
@pytest.mark.filterwarnings(*AGENT_WARNINGS, *RUNNING_WARNINGS, *REUSED_CONTEXT_WARNINGS)
@pytest.mark.parametrize("token_limit", [60, 3000])
def test_handoffs_between_agents(store: Any, token_limit: int) -> None:
    async def run(memory: LlamaIndexMemory) -> tuple[Transcript, Transcript]:
        llm = ScriptedLLM(script=HANDOFF_SCRIPT)
        counter = FunctionAgent(name="counter", description="Counts.", llm=llm, tools=[add], system_prompt="Count.")
        reader = FunctionAgent(name="reader", description="Reads.", llm=llm, tools=[look_up], system_prompt="Read.")
        workflow = AgentWorkflow(agents=[counter, reader], root_agent="counter")
        histories = []
        for question in ("What is 1 + 2, and a prefix?", "Where does it come?", "And 2 + 2?"):
            await workflow.run(question, memory=memory)
            histories.append(dumped(await memory.aget_all()))
        return llm.transcript, histories

    with theirs() as new:
        expected = asyncio.run(run(new(token_limit)))
    assert awaited(store, run(in_session(store)(token_limit))) == expected


ASKED = {"chat": chat, "stream_chat": stream_chat, "achat": achat, "astream_chat": astream_chat}
ENGINES = {"simple": simple_engine, "context": context_engine, "condense": condense_engine}
OFTEN = (("simple", "stream_chat"), ("context", "chat"), ("condense", "astream_chat"))


@slow
@pytest.mark.parametrize(
    ("store", "engine", "ask", "token_limit", "with_blocks"),
    [
        (kind, engine, ask, *memory)
        for kind in (*OURS, *THEIRS)
        for engine in ENGINES
        for ask in ASKED
        for memory in ((60, False), (80, True), (3000, False))
        if LONG or ((kind == "ring" and memory[0] == 60) or (memory[1] and (engine, ask) in OFTEN))
    ],
    indirect=["store"],
)
def test_chat_engines(store: Any, engine: str, ask: str, token_limit: int, with_blocks: bool) -> None:
    expected = their_conversation(engine, ask, token_limit, with_blocks)
    assert token_limit == 3000 or expected.cuts() > 0
    memory = in_session(store, *agent_blocks() * with_blocks)(token_limit)
    assert awaited(store, conversation(memory, ENGINES[engine], ASKED[ask])) == expected


@functools.cache
def their_conversation(engine: str, ask: str, token_limit: int, with_blocks: bool) -> Outcome:
    with theirs(with_blocks=with_blocks) as new:
        return asyncio.run(conversation(new(token_limit), ENGINES[engine], ASKED[ask]))


@on_ours
def test_histories_given_to_chat_engines(store: Any) -> None:
    """They replace what is there, without a limit until the next put."""
    given = [message for messages in calls_of("ann", 30) for message in messages]

    def run(memory: LlamaIndexMemory) -> list[Any]:
        llm = ScriptedLLM(script=[says("One."), says("Two.")])
        engine = ContextChatEngine.from_defaults(OneDocument(), memory=memory, llm=llm)
        memory.put(ChatMessage("forgotten"))
        engine.chat("Who?", chat_history=given)
        seen = [dumped(memory.get_all())]
        asyncio.run(engine.achat("Why?"))
        seen += [dumped(memory.get_all()), dumped(memory.get())]
        engine.reset()
        assert engine.chat_history == []
        return [llm.transcript, *seen]

    with theirs() as new:
        expected = run(new(60))
    assert run(in_session(store)(60)) == expected


def test_an_empty_memory_is_true() -> None:
    """Agents and engines ask `memory or default`."""
    for memory in (Memory(token_limit=10), Memory.from_defaults(), Memory.from_defaults(chat_history=[])):
        assert bool(memory) is True
        engine = simple_engine(memory, ScriptedLLM(script=[says("Hello.")]))
        assert engine._memory is memory
        engine.chat("Hello?")
        assert texts(memory.get_all()) == ["Hello?", "Hello."]


# --- subclasses -------------------------------------------------------------------------------------------------------


class Counting:
    """Every message is one token."""

    def _estimate_token_count(self, message_or_blocks: Any) -> int:
        if isinstance(message_or_blocks, ChatMessage):
            return 1
        return int(super()._estimate_token_count(message_or_blocks))  # type: ignore[misc]


class Lazy:
    """Nothing leaves, unless the number of all messages is a multiple of five."""

    async def _manage_queue(self) -> None:
        if len(await self.aget_all()) % 5 == 0:  # type: ignore[attr-defined]
            await super()._manage_queue()  # type: ignore[misc]


class Shouting:
    async def aput(self, message: ChatMessage) -> None:
        await super().aput(ChatMessage(f"{message.content}!", role=message.role))  # type: ignore[misc]

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        shouted = [ChatMessage(f"{message.content}!!", role=message.role) for message in messages]
        await super().aput_messages(shouted)  # type: ignore[misc]


class Short:
    async def aget(self, input: Any = None, **block_kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        messages: list[ChatMessage] = await super().aget(input, **block_kwargs)  # type: ignore[misc]
        return messages[-2:]


class Secretive:
    async def _get_memory_blocks_content(self, chat_history: Any, input: Any = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        content = await super()._get_memory_blocks_content(chat_history, input=input, **kwargs)  # type: ignore[misc]
        return {name: f"{len(chat_history)} messages, {input}, {text}" for name, text in content.items()}


class Whole:
    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        messages: list[ChatMessage] = await super().aget_all(status)  # type: ignore[misc]
        return [ChatMessage("all that follows"), *messages]

    async def aset(self, messages: list[ChatMessage]) -> None:
        await super().aset(messages[1:])  # type: ignore[misc]

    async def areset(self, status: MessageStatus | None = None) -> None:
        await super().areset(ACTIVE)  # type: ignore[misc]


MIXINS = (Counting, Lazy, Shouting, Short, Secretive, Whole)


async def used(memory: LlamaIndexMemory, is_sync: bool) -> list[list[str]]:
    """Return what is seen of a memory that is used by sync calls, or by async ones."""

    async def do(method: str, *arguments: Any) -> Any:
        if is_sync:
            return await asyncio.to_thread(getattr(memory, method), *arguments)
        return await getattr(memory, f"a{method}")(*arguments)

    seen = []
    for messages in calls_of("ann", 8):
        await (do("put", messages[0]) if len(messages) == 1 else do("put_messages", messages))
        seen += [texts(await do("get", "what?")), texts(await do("get_all", ARCHIVED))]
    await do("set", [ChatMessage("a"), ChatMessage("b")])
    seen += [texts(await do("get")), texts(await do("get_all"))]
    await do("reset")
    seen += [texts(await do("get")), texts(await do("get_all"))]
    return seen


@pytest.mark.parametrize(
    ("store", "mixin", "is_sync", "with_blocks"),
    [
        (kind, mixin, is_sync, with_blocks)
        for kind in (*OURS, *THEIRS)
        for mixin in MIXINS
        for is_sync in (True, False)
        for with_blocks in (True, False)
        if LONG or kind == "ring" or (kind in ("sqlite", "list") and is_sync and with_blocks)
    ],
    indirect=["store"],
)
def test_subclasses_that_override_something(store: Any, mixin: Any, is_sync: bool, with_blocks: bool) -> None:
    """As with LlamaIndex's class, by sync and async calls."""
    is_counting = mixin is Counting
    expected = seen_of_theirs(mixin, is_sync, with_blocks, is_counting)
    plain = seen_of_theirs(None, is_sync, with_blocks, is_counting)
    assert expected != plain or (mixin is Secretive and not with_blocks)
    memory = subclass_of(mixin, Memory)(**settings_of(is_counting, with_blocks), sql_store=store)
    assert awaited(store, used(memory, is_sync)) == expected


def subclass_of(mixin: Any, base: Any) -> Any:
    return type(f"{mixin.__name__}Memory", (mixin, base), {})


def settings_of(is_counting: bool, with_blocks: bool) -> dict[str, Any]:
    limits = {"token_limit": 6, "token_flush_size": 1} if is_counting else {"token_limit": 40, "token_flush_size": 5}
    return {**limits, "session_id": "ann", "memory_blocks": [static_block(), Notebook()] * with_blocks}


@functools.cache
def seen_of_theirs(mixin: Any, is_sync: bool, with_blocks: bool, is_counting: bool) -> list[list[str]]:
    """Return what is seen of LlamaIndex's own class, with a mixin or without."""
    sql_store = SQLAlchemyChatStore("messages")
    cls = subclass_of(mixin, LlamaIndexMemory) if mixin else LlamaIndexMemory
    try:
        return asyncio.run(used(cls(**settings_of(is_counting, with_blocks), sql_store=sql_store), is_sync))
    finally:
        close(sql_store)


def test_methods_that_are_replaced_in_an_object() -> None:
    """As tests do it: `patch.object(memory, "aput")`."""
    memory = new_memory(RingMemoryStore())
    seen = []

    async def aput(message: ChatMessage) -> None:
        seen.append(message.content)

    memory.__dict__["aput"] = aput
    memory.put(ChatMessage("a"))
    assert seen == ["a"]
    assert memory.get_all() == []


def test_sqlalchemy_stores_that_were_not_used_are_pickled() -> None:
    """As theirs is: there is nothing in it yet."""
    memory = Memory(token_limit=10, sql_store=SQLAlchemyChatStore("messages"))
    back = pickle.loads(pickle.dumps(memory))
    assert isinstance(back.sql_store, SQLAlchemyChatStore)
    assert back.session_id == memory.session_id
