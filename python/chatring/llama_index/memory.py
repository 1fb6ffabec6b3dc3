"""`Memory`: LlamaIndex's class, whose messages are in rings or a database and are not lost."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import math
import pickle
from collections.abc import Coroutine, Iterator
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory as LlamaIndexMemory
from llama_index.core.memory import VectorMemoryBlock
from llama_index.core.memory.memory import (
    DEFAULT_FLUSH_SIZE,
    DEFAULT_MEMORY_BLOCKS_TEMPLATE,
    DEFAULT_TOKEN_LIMIT,
    BaseMemoryBlock,
    InsertMethod,
    generate_chat_store_key,
)
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from llama_index.core.utils import get_tokenizer
from llama_index.core.vector_stores.types import MetadataFilters
from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from chatring._core import _copied
from chatring.llama_index.background_loop import BLOCKS, shielded
from chatring.llama_index.database_memory_store import DatabaseMemoryStore
from chatring.llama_index.foreign_memory_store import ForeignStore
from chatring.llama_index.memory_parts import dump_block, dump_template, load_block, load_store, load_template
from chatring.llama_index.memory_policy import ESTIMATES, MemoryPolicy
from chatring.llama_index.memory_store import AnyQueues, AnyStore, MemoryStore, deep_copy, part_of
from chatring.llama_index.ring_chat_store import RingChatStore
from chatring.llama_index.ring_memory_store import RingMemoryStore
from chatring.llama_index.store_chat_store import StoreChatStore
from chatring.llama_index.tokenizer import fields_to_pickle, function_of
from chatring.llama_index.window_store import replaces
from chatring.overriding import override
from chatring.stores.operation import Operation
from chatring.stores.queues import Flush

# More tokens than any queue has.
_NO_LIMIT = 2**62
# LlamaIndex's methods that a subclass overrides to change what leaves the queue, and what `aget` returns.
_QUEUE = ("_manage_queue", "_estimate_token_count")
_READ = (
    "_get_memory_blocks_content",
    "_truncate_memory_blocks",
    "_format_memory_blocks",
    "_insert_memory_content",
    "_estimate_token_count",
)


class Memory(LlamaIndexMemory):
    """LlamaIndex's `Memory`, with the same windows after every call, and without its losses.

    It is a subclass of LlamaIndex's own. When there are too many tokens, the oldest messages are archived and given to
    the memory blocks, by the same rule. `docs/llama-index-memory.md` has the differences: no message is lost or given
    to a memory block twice; a memory can be saved, pickled and copied; and a put takes the same time at any length.

    Args:
        token_limit: the most tokens of messages and memory blocks; at least 1.
        token_flush_size: the fewest tokens that leave when some must. A tenth of the limit if it is not given, or not
            between 1 and the limit.
        chat_history_token_ratio: the share of the limit that messages may have before some leave.
        memory_blocks: receive the messages that leave. Their names must differ.
        memory_blocks_template: how their contents become text.
        insert_method: whether that text goes into the first system message or into the last user message.
        image_token_size_estimate: tokens of an image; likewise for audio, video and documents.
        tokenizer_fn: from a text to its tokens. The default is LlamaIndex's global tokenizer. The encodings of tiktoken
            are counted in Rust.
        sql_store: holds the messages: a `RingMemoryStore`, a `SQLChatStore` or `RedisChatStore`, or any other
            `AsyncDBChatStore`. The default is a new `RingMemoryStore`.
        session_id: the session's key in the store. The default is a random one.

    Raises:
        ValueError: if token_limit is missing or below 1, or two memory blocks have the same name.
    """

    sql_store: AsyncDBChatStore = Field(default_factory=RingMemoryStore, exclude=True)

    # Beside the fields in `__dict__`, as in `ChatMemoryBuffer`: `_counted_by`, the tokenizer and estimates with their
    # policy; `_foreign`, the adapter of somebody else's store.

    @model_validator(mode="before")
    @classmethod
    def validate_memory(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Check the limit and the blocks, and find tokenizer and store. The argument is not changed."""
        values = {**values, "tokenizer_fn": function_of(values.get("tokenizer_fn"))}
        store = values.get("sql_store")
        if isinstance(store, dict):
            store = values["sql_store"] = load_store(store)
        if isinstance(store, StoreChatStore):
            values["sql_store"] = DatabaseMemoryStore(store)
        elif isinstance(store, RingChatStore):
            raise ValueError(
                "a RingChatStore has the sessions of ChatMemoryBuffer: give Memory a RingMemoryStore, a SQLChatStore "
                "or a RedisChatStore"
            )
        if isinstance(values.get("memory_blocks"), list):
            values["memory_blocks"] = [
                load_block(block) if isinstance(block, dict) else block for block in values["memory_blocks"]
            ]
        if isinstance(values.get("memory_blocks_template"), dict):
            values["memory_blocks_template"] = load_template(values["memory_blocks_template"])
        checked: dict[str, Any] = LlamaIndexMemory.validate_memory.__func__(cls, values)
        return checked

    @classmethod
    def from_defaults(
        cls,
        session_id: str | None = None,
        chat_history: list[ChatMessage] | None = None,
        token_limit: int = DEFAULT_TOKEN_LIMIT,
        memory_blocks: list[BaseMemoryBlock[Any]] | None = None,
        tokenizer_fn: Any = None,
        chat_history_token_ratio: float = 0.7,
        token_flush_size: int = DEFAULT_FLUSH_SIZE,
        memory_blocks_template: RichPromptTemplate = DEFAULT_MEMORY_BLOCKS_TEMPLATE,
        insert_method: InsertMethod = InsertMethod.SYSTEM,
        image_token_size_estimate: int = 256,
        audio_token_size_estimate: int = 256,
        video_token_size_estimate: int = 256,
        chat_store: Any = None,
        table_name: str = "llama_index_memory",
        async_database_uri: str | None = None,
        async_engine: Any = None,
        db_schema: str | None = None,
        **kwargs: Any,
    ) -> Memory:
        """Return a memory.

        Args:
            session_id: see the class.
            chat_history: messages to begin with. They replace those of the session, the archived ones too.
            token_limit: see the class.
            memory_blocks: see the class.
            tokenizer_fn: see the class.
            chat_history_token_ratio: see the class.
            token_flush_size: see the class. Seven tenths of the limit if it exceeds the limit.
            memory_blocks_template: see the class.
            insert_method: see the class.
            image_token_size_estimate: see the class.
            audio_token_size_estimate: see the class.
            video_token_size_estimate: see the class.
            chat_store: the class's `sql_store`.
            table_name: if this or one of the next three is given without `chat_store`, the store is LlamaIndex's own.
            async_database_uri: the URL of its database, for SQLAlchemy.
            async_engine: an engine of SQLAlchemy, instead of the URL.
            db_schema: the schema of its table.
            **kwargs: whatever else `from_defaults` of the installed LlamaIndex takes.

        Raises:
            TypeError: for other arguments.
            ValueError: see the class.
        """
        unknown = kwargs.keys() - inspect.signature(LlamaIndexMemory.from_defaults).parameters.keys()
        if unknown:
            raise TypeError(f"Memory.from_defaults() got an unexpected keyword argument {min(unknown)!r}")
        is_sql = table_name != "llama_index_memory" or any((async_database_uri, async_engine, db_schema))
        if chat_store is None and is_sql:
            chat_store = SQLAlchemyChatStore(
                table_name=table_name,
                async_database_uri=async_database_uri,
                async_engine=async_engine,
                db_schema=db_schema,
            )
        if token_flush_size > token_limit:
            token_flush_size = int(token_limit * 0.7)
        memory = cls(
            token_limit=token_limit,
            tokenizer_fn=tokenizer_fn or get_tokenizer(),
            sql_store=RingMemoryStore() if chat_store is None else chat_store,
            session_id=session_id or generate_chat_store_key(),
            memory_blocks=memory_blocks or [],
            chat_history_token_ratio=chat_history_token_ratio,
            token_flush_size=token_flush_size,
            memory_blocks_template=memory_blocks_template,
            insert_method=insert_method,
            image_token_size_estimate=image_token_size_estimate,
            audio_token_size_estimate=audio_token_size_estimate,
            video_token_size_estimate=video_token_size_estimate,
            **kwargs,
        )
        if chat_history is not None:
            memory.set(chat_history)
        return memory

    # Each operation is a generator of steps, made by `_queues()`. A sync method runs it with `_store().run`, its async
    # version with `arun`. Where a subclass has its own async method, the sync one runs that, as in LlamaIndex.

    def put(self, message: ChatMessage) -> None:
        """Add a message. If there are too many tokens then, archive the oldest, and give them to the memory blocks.

        Raises:
            TypeError: if it is not a `ChatMessage`.
            ValueError: if it cannot be stored because it has no JSON form.
            CounterMismatchError: if the session in a database is not a `Memory`'s, or the store has another counter.
            StoreError: if a database fails.
            Exception: whatever the tokenizer raises; then nothing is stored. Whatever a memory block raises; then
                everything is stored, and the other blocks have their messages.
        """
        self._put("aput", message, [message])

    @override
    async def aput(self, message: ChatMessage) -> None:
        if replaces(self, *_QUEUE):
            await super().aput(message)
        else:
            await self._aput([message])

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """Add several messages: all of them or none; see `put`. An empty list does nothing."""
        messages = list(messages)
        if messages:
            self._put("aput_messages", messages, messages)

    @override
    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        messages = list(messages)
        if messages and replaces(self, *_QUEUE):
            await super().aput_messages(messages)
        elif messages:
            await self._aput(messages)

    def get(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        """Return copies of the active messages, with the contents of the memory blocks inserted.

        Args:
            input: shown to the memory blocks behind the messages, if it is a str.
            **block_kwargs: for the memory blocks.

        Raises:
            StoreError: if a database fails.
            Exception: whatever a memory block raises.
        """
        if replaces(self, "aget"):
            return BLOCKS.run(self.aget(input, **block_kwargs))
        history = self._store().run(self._queues().all(self.session_id, "active"))
        return BLOCKS.run(self._with_blocks(history, input, block_kwargs)) if self._asks_blocks() else history

    @override
    async def aget(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:  # noqa: A002
        history = await self._store().arun(self._queues().all(self.session_id, "active"))
        return await self._with_blocks(history, input, block_kwargs) if self._asks_blocks() else history

    def _asks_blocks(self) -> bool:
        return bool(self.memory_blocks) or replaces(self, *_READ)

    async def _with_blocks(
        self, history: list[ChatMessage], text: str | ChatMessage | None, block_kwargs: dict[str, Any]
    ) -> list[ChatMessage]:
        """Insert the contents of the memory blocks, as LlamaIndex does, by its own methods."""
        content = await self._get_memory_blocks_content(history, input=text, **block_kwargs)
        content_tokens = sum(map(self._estimate_token_count, content.values()))
        history_tokens = await asyncio.to_thread(lambda: sum(map(self._estimate_token_count, history)))
        content = await self._truncate_memory_blocks(content, content_tokens, history_tokens)
        parts, messages = await self._format_memory_blocks(content)
        rendered = self.memory_blocks_template.format_messages(memory_blocks=parts) if parts else []
        return self._insert_memory_content(history, rendered[0].blocks if rendered else [], messages)

    def get_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """Return copies of all messages, or of those with a status, oldest first."""
        if replaces(self, "aget_all"):
            return BLOCKS.run(self.aget_all(status))
        return self._store().run(self._queues().all(self.session_id, part_of(status)))

    @override
    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        return await self._store().arun(self._queues().all(self.session_id, part_of(status)))

    def set(self, messages: list[ChatMessage]) -> None:
        """Replace all messages, the archived ones too: all or none. Nothing is archived before the next put.

        Raises the same as `put`.
        """
        if replaces(self, "aset"):
            BLOCKS.run(self.aset(messages))
        else:
            self._store().run(self._queues().replace(self.session_id, list(messages)), self.session_id)

    @override
    async def aset(self, messages: list[ChatMessage]) -> None:
        await self._store().arun(self._queues().replace(self.session_id, list(messages)), self.session_id)

    def reset(self) -> None:
        """Remove all messages, the archived ones too."""
        if replaces(self, "areset"):
            BLOCKS.run(self.areset())
        else:
            self._store().run(self._queues().remove(self.session_id, None), self.session_id)

    async def areset(self, status: MessageStatus | None = None) -> None:
        """Remove all messages, or those with a status."""
        await self._store().arun(self._queues().remove(self.session_id, part_of(status)), self.session_id)

    async def _manage_queue(self) -> None:
        """Archive the oldest messages if there are too many tokens."""
        if replaces(self, "_estimate_token_count"):
            await super()._manage_queue()
        else:
            await self._aput([])

    def _put(self, method: str, argument: Any, messages: list[ChatMessage]) -> None:
        if replaces(self, method, *_QUEUE):
            BLOCKS.run(getattr(self, method)(argument))
            return
        flushed = self._store().run(self._appending(messages), self.session_id)
        if flushed and self.memory_blocks:
            BLOCKS.run(self._deliver(flushed))

    async def _aput(self, messages: list[ChatMessage]) -> None:
        adding = self._store().arun(self._appending(messages), self.session_id)
        # A caller that is cancelled must not keep the blocks from what has been archived.
        await (shielded(self._deliver_when_added(adding)) if self.memory_blocks else adding)

    def _appending(self, messages: list[ChatMessage]) -> Operation[list[list[ChatMessage]]]:
        return self._queues().append(self.session_id, messages, self._flush(), wants=bool(self.memory_blocks))

    async def _deliver_when_added(self, adding: Coroutine[Any, Any, list[list[ChatMessage]]]) -> None:
        await self._deliver(await adding)

    async def _deliver(self, flushed: list[list[ChatMessage]]) -> None:
        """Give messages to the memory blocks, all batches to all blocks. Then raise the first error, if any."""
        errors: list[BaseException] = []
        for batch in flushed:
            messages = _copied(batch, deep_copy)
            results = await asyncio.gather(*(self._give(block, messages) for block in self.memory_blocks))
            errors += [error for error in results if error is not None]
        if errors:
            raise errors[0]

    async def _give(self, block: BaseMemoryBlock[Any], messages: list[ChatMessage]) -> BaseException | None:
        # A task that ends with SystemExit would end its loop.
        try:
            await block.aput(messages, from_short_term_memory=True, session_id=self.session_id)
        except BaseException as error:
            return error
        return None

    # What LlamaIndex's own code does with memory blocks, without two mistakes.

    async def _get_memory_blocks_content(
        self,
        chat_history: list[ChatMessage],
        input: str | ChatMessage | None = None,  # noqa: A002
        **block_kwargs: Any,
    ) -> dict[str, Any]:
        # A VectorMemoryBlock keeps the first session that it is asked for as a filter, and then uses it for all
        # sessions.
        with contextlib.ExitStack() as asked:
            blocks = [asked.enter_context(_without_traces(block)) for block in self.memory_blocks]
            memory = self.model_copy(update={"memory_blocks": blocks})
            content: dict[str, Any] = await LlamaIndexMemory._get_memory_blocks_content(
                memory, chat_history, input=input, **block_kwargs
            )
            return content

    def _insert_memory_content(
        self, chat_history: list[ChatMessage], memory_content: list[Any], chat_message_data: list[ChatMessage]
    ) -> list[ChatMessage]:
        # This changes the messages that it inserts into, and a block may have returned its own.
        inserted: list[ChatMessage] = super()._insert_memory_content(
            chat_history, memory_content, [message.model_copy() for message in chat_message_data]
        )
        return inserted

    def _estimate_token_count(self, message_or_blocks: Any) -> int:
        if not isinstance(message_or_blocks, ChatMessage):
            count: int = super()._estimate_token_count(message_or_blocks)
            return count
        return self._policy().counted([message_or_blocks]).tokens[0]

    # Saving and copying.

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Describe the memory with its session's messages, or with where they are.

        Raises:
            ValueError: if a memory block, the template or the store cannot be described.
        """
        data: dict[str, Any] = handler(self)
        data["insert_method"] = InsertMethod(self.insert_method).value
        data["memory_blocks"] = [dump_block(block) for block in self.memory_blocks]
        if (template := self.memory_blocks_template) == DEFAULT_MEMORY_BLOCKS_TEMPLATE:
            data.pop("memory_blocks_template", None)
        else:
            data["memory_blocks_template"] = dump_template(template)
        data["sql_store"] = self._store_to_save().model_dump()
        data["class_name"] = self.class_name()
        return data

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the fields; of a store in this process, only this session. A tokenizer is pickled by its name."""
        fields = fields_to_pickle(self)
        if isinstance(self.sql_store, MemoryStore):
            fields["sql_store"] = self._store_to_save()
        else:
            try:
                pickle.dumps(self.sql_store)
            except Exception as error:
                name = type(self.sql_store).__name__
                raise TypeError(f"a memory whose messages are in a {name} cannot be pickled") from error
        return {"__dict__": fields}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill a memory made without its constructor. LlamaIndex's global tokenizer replaces one that was left out."""
        self.__init__(**state["__dict__"])  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a memory with a store of its own, unless the store is a database or somebody else's.

        Memory blocks are copied too. A block that cannot be copied, such as one with a connection, is shared.
        """
        memo = {} if memo is None else memo
        memo[id(self.tokenizer_fn)] = self.tokenizer_fn
        if not isinstance(self.sql_store, MemoryStore):
            memo[id(self.sql_store)] = self.sql_store
        for block in self.memory_blocks:
            memo[id(block)] = _copied_or_shared(block, memo)
        plain = self.model_copy()
        for name in ("_counted_by", "_foreign"):
            plain.__dict__.pop(name, None)
        copied: Self = super(Memory, plain).__deepcopy__(memo)
        return copied

    def _store_to_save(self) -> MemoryStore:
        """Return a store in this process with this session alone, or a database's as it is.

        Raises:
            ValueError: for somebody else's store.
        """
        store = self.sql_store
        if isinstance(store, RingMemoryStore):
            return store.only(self.session_id)
        if isinstance(store, MemoryStore):
            return store
        raise ValueError(
            f"a memory whose messages are in a {type(store).__name__} cannot be saved: give it a SQLChatStore or "
            "RedisChatStore"
        )

    # What the operations need.

    def _store(self) -> AnyStore:
        store = self.sql_store
        if isinstance(store, MemoryStore):
            return store
        foreign = self.__dict__["_foreign"] = ForeignStore.of(store)  # kept, because it has the turns
        return foreign

    def _queues(self) -> AnyQueues:
        return self._store().queues(self._policy())

    def _policy(self) -> MemoryPolicy:
        fields = self.__dict__
        tokenizer, estimates = fields["tokenizer_fn"], {name: fields[name] for name in ESTIMATES}
        known = fields.get("_counted_by")
        if known is None or known[0] is not tokenizer or known[1] != estimates:
            known = fields["_counted_by"] = tokenizer, estimates, MemoryPolicy.of(tokenizer, estimates)
        policy: MemoryPolicy = known[2]
        return policy

    def _flush(self) -> Flush | None:
        """Return when messages leave; None if never."""
        high = self.token_limit * self.chat_history_token_ratio
        if math.isnan(high):
            return None
        # Counts are integers, so rounding the limit down and the size up changes no comparison.
        size = 0 if math.isnan(self.token_flush_size) else self.token_flush_size
        return Flush(math.floor(_bounded(high)), math.ceil(_bounded(size)))


def _bounded(tokens: float) -> float:
    return min(max(tokens, -_NO_LIMIT), _NO_LIMIT)


@contextlib.contextmanager
def _without_traces(block: BaseMemoryBlock[Any]) -> Iterator[BaseMemoryBlock[Any]]:
    """Lend a copy of a block with its own `query_kwargs`. Copy every other change back."""
    if not isinstance(block, VectorMemoryBlock):
        yield block
        return
    query = dict(block.query_kwargs)
    if isinstance(filters := query.get("filters"), MetadataFilters):
        query["filters"] = filters.model_copy(update={"filters": list(filters.filters)})
    lent = block.model_copy(update={"query_kwargs": query})
    object.__setattr__(lent, "__pydantic_private__", block.__pydantic_private__)
    before = dict(lent.__dict__)
    yield lent
    changed = {name: value for name, value in lent.__dict__.items() if before.get(name) is not value}
    block.__dict__.update({name: value for name, value in changed.items() if name != "query_kwargs"})


def _copied_or_shared(block: BaseMemoryBlock[Any], memo: dict[int, Any]) -> BaseMemoryBlock[Any]:
    try:
        return copy.deepcopy(block, memo)
    except Exception:  # it cannot be copied, and raises its own kind of error
        return block
