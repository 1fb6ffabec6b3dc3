"""The parts of a `Memory`, to and from JSON dicts: memory blocks, the template, the store."""

from __future__ import annotations

import importlib
from typing import Any

from llama_index.core.memory.memory import BaseMemoryBlock
from llama_index.core.prompts import RichPromptTemplate

from chatring.llama_index.database_memory_store import DatabaseMemoryStore
from chatring.llama_index.memory_store import MemoryStore
from chatring.llama_index.ring_memory_store import RingMemoryStore

_TEMPLATE = ("template_str", "metadata", "template_vars", "template_var_mappings", "kwargs")


def dump_block(block: BaseMemoryBlock[Any]) -> dict[str, Any]:
    """Describe a memory block by its class and its own fields.

    Raises:
        ValueError: if the block cannot be made again from them, such as one that has an LLM.
    """
    cls = type(block)
    try:
        data = {"class": f"{cls.__module__}:{cls.__qualname__}", "fields": block.model_dump(mode="json")}
        if load_block(data) != block:
            raise ValueError("loading it gives a different block")
    except Exception as error:
        raise ValueError(
            f"the memory block {block.name!r} ({cls.__name__}) cannot be made again from its fields, so a memory with "
            f"it cannot be saved: {error}"
        ) from error
    return data


def load_block(data: dict[str, Any]) -> BaseMemoryBlock[Any]:
    """Return the memory block that `dump_block` described. This imports the class's module: load only what you trust.

    Raises:
        ValueError: if the class is not a memory block's, or is not found.
    """
    module, _, name = str(data.get("class")).partition(":")
    try:
        cls: Any = importlib.import_module(module)
        for part in name.split("."):
            cls = getattr(cls, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the class {data.get('class')!r} of a memory block is not found: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, BaseMemoryBlock)):
        raise ValueError(f"{data.get('class')!r} is not the class of a memory block")
    block: BaseMemoryBlock[Any] = cls.model_validate(data.get("fields"))
    return block


def dump_template(template: RichPromptTemplate) -> dict[str, Any]:
    """Describe a template.

    Raises:
        ValueError: if it has functions or an output parser.
    """
    if template.function_mappings or template.output_parser is not None:
        raise ValueError("a memory_blocks_template with functions or an output parser cannot be saved")
    return {name: getattr(template, name) for name in _TEMPLATE}


def load_template(data: dict[str, Any]) -> RichPromptTemplate:
    """Return the template that `dump_template` described.

    Raises:
        ValueError: if its text is not a str.
    """
    if not isinstance(data.get("template_str"), str):
        raise ValueError(f"a template is described by its template_str, got {sorted(data)}")
    fields = {name: data.get(name) for name in _TEMPLATE}
    return RichPromptTemplate(**{**(fields.pop("kwargs") or {}), **fields})


def load_store(data: dict[str, Any]) -> MemoryStore:
    """Return the store that `model_dump` of one of our stores described.

    Raises:
        ValueError: if it is not one of these. Also whenever their `from_dict` raises it.
    """
    classes: tuple[Any, ...] = (RingMemoryStore, DatabaseMemoryStore)
    for cls in classes:
        if data.get("class_name") == cls.class_name():
            store: MemoryStore = cls.from_dict(data)
            return store
    raise ValueError(f"a store of Memory is named by class_name, got {data.get('class_name')!r}")
