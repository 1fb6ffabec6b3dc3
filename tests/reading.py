"""Reading a message, literally: what `measure="message"` counts of it, and what it is to the rules.

The tests hold the reader in Rust against this. A message is read by its shape: its fields (the keys of a
mapping, the attributes of an object), the role they name, and the texts, calls, results and media in them.

Of a message's own fields only those count that are known to be sent: people keep timestamps, uuids and metadata beside
them. Inside blocks and items every string counts, except under the keys in `SKIPPED`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

MAX_DEPTH = 64
MAX_BLOCKS = 100_000

SYSTEM_ROLES = {"system", "developer", "systemprompt"}
USER_ROLES = {"user", "human"}
ASSISTANT_ROLES = {"assistant", "model", "ai", "bot", "chatbot", "gpt", "chatgpt", "agent", "llm"}
CALL_ROLES = {"toolcall", "toolcalls", "tooluse", "functioncall", "functioncalls"}
REASONING_ROLES = {"reasoning", "thinking", "thought"}
TOOL_ROLES = {
    *("tool", "tools", "function", "observation", "ipython", "functionexecutionresult", "codeexecutionresult"),
    *("toolresponse", "toolresponses", "toolresult", "toolresults", "tooloutput", "tooloutputs", "toolreturn"),
    *("functionresponse", "functionresult", "functionoutput", "functionreturn", "functioncalloutput"),
    *("functioncallresult", "toolcallresult", "toolcalloutput", "toolcallresponse"),
}
ROLES = SYSTEM_ROLES | USER_ROLES | ASSISTANT_ROLES | CALL_ROLES | REASONING_ROLES | TOOL_ROLES

# What the type of a call or a result ends in, with "_" for "-". An item has no role, so it needs one of these types.
CALL_ENDS = ("tool_use", "program", "_call", "tool_calls", "_call_chunk", "approval_request", "list_tools")
RESULT_ENDS = (
    *("tool_result", "call_output", "call_result", "function_result", "tool_return", "tool_response"),
    *("function_response", "search_output", "program_output", "approval_response", "retry_prompt"),
)
REASONING_ITEMS = {"reasoning", "compaction", "compaction_summary", "compaction_trigger", "item_reference"}
SYSTEM_ITEMS = {"additional_tools", "configuration_update"}

TEXT_TYPES = {"text", "input_text", "output_text", "summary_text", "reasoning_text"}
IMAGE_TYPES = {"image", "image_url", "input_image", "output_image", "image_file", "computer_screenshot"}
AUDIO_TYPES = {"audio", "input_audio", "audio_url", "video", "input_video", "video_url"}
FILE_TYPES = {"file", "input_file", "file_url", "document", "document_url", "container_upload", "hosted_file"}
MIME_TYPES = {"media", "data", "uri", "binary"}  # its MIME type says which medium it is

# Blocks without a type, as in Bedrock and Gemini: a key says what they are.
CALL_KEYS = {"toolUse", "functionCall", "function_call", "toolCall", "tool_call", "executableCode", "executable_code"}
RESULT_KEYS = {
    *("toolResult", "functionResponse", "function_response", "toolResponse", "tool_response"),
    *("codeExecutionResult", "code_execution_result", "tool_call_result"),
}
IMAGE_KEYS = {"image", "image_url", "base64_image"}
AUDIO_KEYS = {"audio", "audio_url", "input_audio", "video", "video_url"}
FILE_KEYS = {"document", "file"}
MIME_KEYS = {"inlineData", "inline_data", "fileData", "file_data", "base64_data"}
# What a medium says of itself in words.
MEDIUM_TEXTS = {"text", "title", "context", "name", "filename", "caption", "displayName", "display_name"}

# Sent as JSON unless they are strings.
VALUE_KEYS = {
    *("arguments", "args", "input", "tool_kwargs", "response", "json", "action", "actions", "operation", "tools"),
    *("parameters", "partial_json"),
}
# Texts, or more blocks. So are the values of any other key, but a dict without a type and any of these keys is data.
TEXT_KEYS = {
    *("text", "content", "contents", "parts", "output", "outputs", "result", "results", "summary", "thinking"),
    *("reasoning", "refusal", "value", "name", "title", "source", "stdout", "stderr", "code", "function", "custom"),
    *("reasoningContent", "reasoningText", "guardContent", "citationsContent", "searchResult", "tool_name"),
}
# Ids, types and marks; what is opaque; and citations, which Anthropic says it does not bill.
SKIPPED = {
    *("id", "call_id", "tool_call_id", "tool_use_id", "toolUseId", "toolCallId", "tool_id", "item_id", "file_id"),
    *("container_id", "approval_request_id", "type", "block_type", "part_kind", "content_type", "kind", "role"),
    *("tool_type", "tool_kind", "index", "status", "outcome", "phase", "execution", "is_error", "isError", "ttl"),
    *("signature", "thoughtSignature", "thought_signature", "thinking_signature", "fingerprint"),
    *("redactedContent", "redacted_content", "protected_data", "data", "bytes", "base64", "blob"),
    *("encrypted_content", "encrypted_index", "encrypted_stdout", "encryptedContent"),
    *("cache_control", "cachePoint", "cache_point", "prompt_cache_breakpoint", "caller", "created_by"),
    *("annotations", "citations", "logprobs", "qualifiers", "detail", "format"),
    *("mime_type", "mimeType", "media_type", "mediaType", "videoMetadata", "video_metadata"),
    *("timestamp", "metadata", "extras", "usage", "num_tokens", "dynamic_ref", "additional_information"),
    *(
        "origin",
        "meta",
        "extra",
        "provider_name",
        "provider_details",
        "provider_url",
        "providerOptions",
        "providerMetadata",
    ),
    *("additional_properties", "additional_kwargs", "raw_representation", "inner_content", "ai_model_id"),
    *("function_name", "plugin_name", "part_metadata", "media_resolution", "additional_location_info"),
    *("scope", "context_id", "base_hash", "on_change", "vendor_metadata"),
}
KNOWN_KEYS = (
    CALL_KEYS | RESULT_KEYS | IMAGE_KEYS | AUDIO_KEYS | FILE_KEYS | MIME_KEYS | VALUE_KEYS | TEXT_KEYS | SKIPPED
)

# Whose blocks they are.
RESPONSES_TYPES = {"input_text", "output_text", "input_image", "input_file", "summary_text", "reasoning_text"}
ANTHROPIC_TYPES = {
    *("tool_use", "thinking", "redacted_thinking", "server_tool_use", "mcp_tool_use", "mcp_tool_listing"),
    *("search_result", "document", "container_upload", "tool_addition", "tool_removal"),
}
BEDROCK_KEYS = {
    *("text", "toolUse", "toolResult", "reasoningContent", "image", "document", "video", "audio", "guardContent"),
    *("cachePoint", "citationsContent", "searchResult"),
}

# The fields of a message that are sent, in the order in which they are read.
BODIES = ("content", "contents", "blocks", "parts", "items")
CALL_FIELDS = ("tool_calls", "invalid_tool_calls")
REASONING_FIELDS = ("reasoning_content", "reasoning")
OTHER_FIELDS = ("refusal", "thinking", "thought", "tool_plan", "tool_name")
MESSAGE_FIELDS = (
    *BODIES, *CALL_FIELDS, "function_call", *REASONING_FIELDS, "reasoning_details", *OTHER_FIELDS, "audio", "images",
    "tools",
)  # fmt: skip
# What is asked of an object whose own dict does not have its fields: a class with slots, properties or __getattr__.
PROBED = (*MESSAGE_FIELDS, "name", "role", "type", "kind", "additional_kwargs")
PROBED_IN_BLOCKS = (
    *("type", "text", "content", "thinking", "name", "input", "arguments", "args"),
    *("function", "function_call", "function_response", "inline_data", "file_data"),
)

Fields: TypeAlias = Mapping[str, Any]


@dataclass
class Extras:
    named: bool = False
    calls: int = 0
    results: int = 0
    images: int = 0
    audio: int = 0
    files: int = 0


@dataclass
class Reading:
    kind: str
    continues: bool
    may_start: bool
    provider: str
    extras: Extras = field(default_factory=Extras)
    texts: list[str] = field(default_factory=list)


def read(message: Any) -> Reading:
    """Return what `message` is to the rules and what counts of it.

    Raises:
        TypeError: The message has none of the known shapes.
        ValueError: It is nested deeper than `MAX_DEPTH`.
    """
    fields = message_fields(message)
    if fields.get("type") == "constructor" and is_record(fields.get("kwargs")):
        # LangChain's dumpd: the class's name is the last part of the id.
        name = fields.get("id")
        name = name[-1] if isinstance(name, (list, tuple)) and name else None
        fields = {**({"type": name} if is_class(name) else {}), **fields_of(fields["kwargs"])}
    elif is_class(fields.get("type")) and is_record(fields.get("data")):
        fields = {"type": fields["type"], **fields_of(fields["data"])}  # LangChain's messages_to_dict

    role = fields.get("role")
    kind_of_type = type_of(fields)
    if role is not None:
        text = role if isinstance(role, str) else getattr(role, "value", None)
        if not isinstance(text, str):
            raise TypeError(f"a message's role must be a string, got {type(role).__name__}")
        return read_message(message, fields, text)
    if fields.get("kind") in ("request", "response") and is_list(fields.get("parts")):
        return read_pydantic_ai(fields)
    if kind_of_type is not None:
        if is_call(kind_of_type) or is_result(kind_of_type) or kind_of_type in REASONING_ITEMS | SYSTEM_ITEMS:
            return read_item(fields, kind_of_type)
        if is_role(fields.get("type")) and any(key in fields for key in BODIES):
            return read_message(message, fields, fields["type"], has_role=False)
    if is_list(fields.get("parts")):
        return read_message(message, fields, None)
    if isinstance(fields.get("from"), str) and "value" in fields:  # ShareGPT
        return read_message(message, {"content": fields["value"]}, fields["from"])
    raise unreadable(message)


def read_message(message: Any, fields: Fields, role: str | None, has_role: bool = True) -> Reading:
    """Read a message that names who speaks; only Gemini's contents may leave that out."""
    has_body = any(key in fields for key in BODIES)
    if not has_body and all(is_empty(fields.get(key)) for key in MESSAGE_FIELDS):
        raise unreadable(message)
    more = fields.get("additional_kwargs")  # LangChain's and LlamaIndex's: what they have no field for
    more = fields_of(more) if is_record(more) else {}

    def given(key: str) -> Any:
        value = fields.get(key)
        return more.get(key) if is_empty(value) else value

    reader = Reader()
    name = fields.get("name")
    if isinstance(name, str) and name:
        reader.extras.named = True
        reader.texts.append(name)
    for key in CALL_FIELDS:
        if is_list(calls := given(key)):
            for call in calls:
                reader.call(call)
    if not reader.extras.calls and is_record(call := given("function_call")):
        reader.call(call)
    reader.reasoning([given(key) for key in REASONING_FIELDS], given("reasoning_details"))
    for key in OTHER_FIELDS:
        if isinstance(text := given(key), str):
            reader.texts.append(text)
    if is_record(given("audio")):
        reader.extras.audio += 1
    if is_list(images := given("images")):
        reader.extras.images += len(images)
    if (tools := given("tools")) is not None and (is_list(tools)):
        reader.value(tools)

    body = next((key for key in BODIES if not is_empty(fields.get(key))), None)
    if body is not None:
        content = fields[body]
        if not (isinstance(content, str) or is_list(content) or is_record(content)):
            raise TypeError(
                f"a message's {body} must be a string, None or a list of parts, got {type(content).__name__}"
            )
        reader.content(content, in_call=False)

    extras = reader.extras
    kind = kind_of(role)
    if role is None and extras.calls:
        kind = "assistant"
    elif kind == "user" and extras.results:
        kind = "tool"
    name_of_role = normal(role or "")
    if name_of_role in CALL_ROLES:
        extras.calls = max(extras.calls, 1)
    if kind == "tool":
        extras.results = max(extras.results, 1)
    continues = kind == "assistant" and (extras.calls > 0 or name_of_role in REASONING_ROLES)
    may_start = role not in ("assistant", "tool") if has_role and role is not None else kind in ("system", "user")
    if body == "parts":
        provider = "gemini"
    else:
        provider = reader.provider or ("openai-responses" if is_of_responses(fields) else "")
    return Reading(kind, continues, may_start, provider or "openai-chat", extras, reader.texts)


def is_of_responses(fields: Fields) -> bool:
    kind = fields.get("type")
    return isinstance(kind, str) and (kind in SYSTEM_ITEMS or (kind == "message" and "content" in fields))


def read_item(fields: Fields, kind_of_type: str) -> Reading:
    """Read an item that says by its type what it is, as OpenAI's Responses has them."""
    reader = Reader()
    reader.block(fields, in_call=False)
    # What the provider's own tool found is a part of its reply.
    by_server = fields.get("execution") == "server"
    if is_result(kind_of_type) and not by_server:
        kind = "tool"
    elif kind_of_type in SYSTEM_ITEMS:
        kind = "system"
    else:
        kind = "assistant"
    provider = reader.provider or "openai-responses"
    return Reading(kind, kind == "assistant", kind == "system", provider, reader.extras, reader.texts)


def read_pydantic_ai(fields: Fields) -> Reading:
    """Read a request or a response of Pydantic AI, whose parts say who speaks."""
    reader = Reader()
    reader.content(fields["parts"], in_call=False)
    kinds = [type_of(fields_of(part)) for part in fields["parts"] if is_record(part)]
    if fields["kind"] == "response":
        kind = "assistant"
    elif reader.extras.results:
        kind = "tool"
    elif kinds and all(kind == "system_prompt" for kind in kinds):
        kind = "system"
    else:
        kind = "user"
    continues = kind == "assistant" and reader.extras.calls > 0
    may_start = kind in ("system", "user")
    return Reading(kind, continues, may_start, "openai-chat", reader.extras, reader.texts)


class Reader:
    """What has been found in a message."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.extras = Extras()
        self.provider: str | None = None
        self.calls_read: set[str] = set()
        self.depth = 0
        self.blocks = 0

    def content(self, content: Any, in_call: bool) -> None:
        """Read texts and blocks. Calls inside a call are that call."""
        if isinstance(content, str):
            self.texts.append(content)
            return
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"a message is nested more than {MAX_DEPTH} levels deep")
        if is_list(content):
            for part in content:
                if isinstance(part, (int, float)):
                    self.value(part)
                else:
                    self.content(part, in_call)
        elif is_record(content):
            fields = fields_of(content)
            if isinstance(content, dict) and type_of(fields) is None and not KNOWN_KEYS & fields.keys():
                self.value(content)  # data: numbers count, too
            else:
                self.block(fields, in_call, isinstance(content, dict))
        self.depth -= 1

    def block(self, fields: Fields, in_call: bool, is_dict: bool = False) -> None:
        """Read one block or item."""
        self.blocks += 1
        if self.blocks > MAX_BLOCKS:
            raise ValueError(f"a message has more than {MAX_BLOCKS} blocks")
        kind = type_of(fields)
        self.recognise(fields, kind, is_dict)
        if kind is None:
            if ("name" in fields or "tool_name" in fields) and ("arguments" in fields or "args" in fields):
                self.call_block(fields, in_call)
            else:
                self.walk(fields, in_call)
        elif kind in TEXT_TYPES:
            for key, value in fields.items():
                if key in ("text", "content"):
                    self.content(value, in_call)
        elif kind in IMAGE_TYPES:
            self.medium("images", fields)
        elif kind in AUDIO_TYPES:
            self.medium("audio", fields)
        elif kind in FILE_TYPES | MIME_TYPES:
            self.medium("files", fields)
        elif is_call(kind):
            self.call_block(fields, in_call, makes_image=kind == "image_generation_call")
        else:
            if is_result(kind):
                self.extras.results += 1
                if fields.get("result") is not None:  # Agent Framework's, which has the same as items
                    fields = {key: value for key, value in fields.items() if key != "items"}
            self.walk(fields, in_call)

    def call_block(self, fields: Fields, in_call: bool, makes_image: bool = False) -> None:
        if not in_call:
            if any(isinstance(fields.get(key), str) and fields[key] in self.calls_read for key in CALL_IDS):
                return  # a block that is also among the message's tool_calls
            self.extras.calls += 1
        if makes_image:
            self.extras.images += 1
            fields = {key: value for key, value in fields.items() if key != "result"}  # the picture
        self.walk(fields, in_call=True)

    def call(self, call: Any) -> None:
        """Read one of a message's own calls."""
        self.extras.calls += 1
        if is_record(call):
            fields = fields_of(call)
            self.calls_read.update(fields[key] for key in CALL_IDS if isinstance(fields.get(key), str))
            self.walk(fields, in_call=True)

    def walk(self, fields: Fields, in_call: bool) -> None:
        for key, value in fields.items():
            if value is None or key in SKIPPED:
                continue
            if key in VALUE_KEYS:
                self.value(value)
            elif key in CALL_KEYS and is_record(value):
                self.call_block(fields_of(value), in_call)
            elif key in RESULT_KEYS and is_record(value):
                self.extras.results += 1
                self.walk(fields_of(value), in_call)
            elif key in IMAGE_KEYS and (is_record(value) or isinstance(value, str)):
                self.medium("images", fields_of(value) if is_record(value) else {})
            elif key in AUDIO_KEYS and (is_record(value) or isinstance(value, str)):
                self.medium("audio", fields_of(value) if is_record(value) else {})
            elif (key in FILE_KEYS | MIME_KEYS and is_record(value)) or (key in MIME_KEYS and isinstance(value, str)):
                self.medium("files", fields_of(value) if is_record(value) else {})
            else:
                self.content(value, in_call)

    def medium(self, kind: str, fields: Fields) -> None:
        """Count a medium once; a document whose text is in the message counts as that text."""
        source, document = fields.get("source"), fields.get("document")
        data = fields_of(document).get("data") if is_record(document) else None
        source = fields_of(source) if is_record(source) else {}
        if kind == "files" and isinstance(source.get("text"), str):
            self.texts.append(source["text"])
        elif kind == "files" and source.get("type") == "text" and isinstance(source.get("data"), str):
            self.texts.append(source["data"])
        elif kind == "files" and source.get("content") is not None:
            self.content(source["content"], in_call=False)
        elif kind == "files" and isinstance(data, dict):  # Cohere's
            self.value(data)
        else:
            mime = next((fields[key] for key in MIMES if isinstance(fields.get(key), str)), "")
            if kind == "files" and mime.startswith("image/"):
                kind = "images"
            elif kind == "files" and mime.startswith(("audio/", "video/")):
                kind = "audio"
            setattr(self.extras, kind, getattr(self.extras, kind) + 1)
        for key, value in fields.items():
            if key in MEDIUM_TEXTS and isinstance(value, str):
                self.texts.append(value)
            elif key in FILE_KEYS and is_record(value):
                inner = fields_of(value)
                self.texts += [inner[key] for key in inner if key in MEDIUM_TEXTS and isinstance(inner[key], str)]

    def reasoning(self, texts: list[Any], details: Any) -> None:
        """Read what compatible providers name differently, and some send under two names, once."""
        read: list[str] = []
        for text in texts:
            if isinstance(text, str) and text not in read:
                read.append(text)
                self.texts.append(text)
        if is_list(details):
            before = len(self.texts)
            self.content(details, in_call=False)
            if "".join(self.texts[before:]) in read:
                del self.texts[before:]

    def value(self, value: Any) -> None:
        """Read a structured value as the JSON that is sent."""
        if value is not None:
            self.texts.append(
                value
                if isinstance(value, str)
                else json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
            )

    def recognise(self, fields: Fields, kind: str | None, is_dict: bool) -> None:
        """Note whose block it is. The first one that says so decides."""
        if self.provider is not None:
            return
        if kind is None:
            if is_dict and BEDROCK_KEYS & fields.keys():  # blocks of frameworks look like that, too, but are objects
                self.provider = "bedrock"
        elif isinstance(fields.get("type"), str):
            if kind in RESPONSES_TYPES:
                self.provider = "openai-responses"
            elif kind in ANTHROPIC_TYPES or kind.endswith("tool_result") or (kind == "image" and "source" in fields):
                self.provider = "anthropic"


CALL_IDS = ("id", "call_id", "tool_call_id", "toolUseId")
MIMES = ("mimeType", "mime_type", "media_type", "mediaType")


def normal(role: str) -> str:
    """Return a role, or the name of a message's class, as the sets above have it: `TOOL_RESPONSE`, `AIMessage`."""
    name = "".join(char for char in role.rpartition(".")[2] if char.isascii() and char.isalnum()).lower()
    return name.removesuffix("chunk").removesuffix("message")


def kind_of(role: str | None) -> str:
    name = normal(role or "")
    if name in SYSTEM_ROLES:
        return "system"
    if name in ASSISTANT_ROLES | CALL_ROLES | REASONING_ROLES:
        return "assistant"
    return "tool" if name in TOOL_ROLES else "user"


def is_role(value: Any) -> bool:
    return isinstance(value, str) and normal(value) in ROLES


def is_class(value: Any) -> bool:
    """Say whether it names a class of messages, and not a type of items."""
    if not is_role(value) or is_call(kind := value.replace("-", "_")) or is_result(kind):
        return False
    return normal(value) not in CALL_ROLES | REASONING_ROLES


def type_of(fields: Fields) -> str | None:
    """Return what a block says it is, under the key that its framework has for it."""
    for key in ("type", "block_type", "part_kind", "content_type", "kind"):
        if isinstance(fields.get(key), str):
            kind: str = fields[key]
            return kind.replace("-", "_")
    return None


def is_call(kind: str) -> bool:
    return kind.endswith(CALL_ENDS)


def is_result(kind: str) -> bool:
    return kind.endswith(RESULT_ENDS)


def is_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, tuple) and not hasattr(value, "_fields"))


def is_empty(value: Any) -> bool:
    return value is None or ((isinstance(value, str) or is_list(value)) and not value)


def is_mapping(value: Any) -> bool:
    """Say whether it has keys: a mapping, or a row of a database (`sqlite3.Row`)."""
    return isinstance(value, Mapping) or (hasattr(type(value), "keys") and hasattr(type(value), "__getitem__"))


def is_record(value: Any) -> bool:
    """Say whether it has fields that can be read."""
    if value is None or isinstance(value, (str, bytes, bytearray, int, float, Enum, type)) or is_list(value):
        return False
    return is_mapping(value) or bool(fields_of(value))


def fields_of(value: Any) -> Fields:
    """Return the keys or public attributes of a block."""
    if isinstance(value, dict):
        return value
    fields = attributes(value)
    if is_mapping(value) and not (KNOWN_KEYS - SKIPPED) & fields.keys():
        return {key: value[key] for key in value.keys()}  # noqa: SIM118 (a row's iterator gives its values)
    if fields:
        return fields
    fields = {key: found for key in PROBED_IN_BLOCKS if (found := getattr(value, key, None)) is not None}
    # If an object has an attribute of every name, none of them means anything.
    return fields if any(isinstance(found, (str, list, dict)) for found in fields.values()) else {}


def message_fields(message: Any) -> Fields:
    """Return the keys or attributes of a message; those that a class computes are asked for by name."""
    if isinstance(message, dict):
        return message
    fields = attributes(message)
    says_who = any(key in fields for key in ("role", "type", "kind", "parts"))
    if says_who and any(key in fields for key in MESSAGE_FIELDS):
        return fields
    if is_mapping(message):
        return {key: message[key] for key in message.keys()}  # noqa: SIM118
    own = getattr(message, "__dict__", None)
    if isinstance(own, dict) and "_role" in own and "_content" in own:  # Haystack's
        return {"role": own["_role"], "content": own["_content"], "name": own.get("_name")}
    for key in PROBED:
        if key not in fields and (found := getattr(message, key, MISSING)) is not MISSING:
            fields[key] = found
    return fields


MISSING = object()


def attributes(value: Any) -> dict[str, Any]:
    own = getattr(value, "__dict__", None)
    fields = {key: item for key, item in own.items() if public(key)} if isinstance(own, dict) else {}
    extra = getattr(value, "__pydantic_extra__", None)  # what a model of an SDK has no field for
    if isinstance(extra, dict):
        fields |= extra
    return fields


def public(key: Any) -> bool:
    return isinstance(key, str) and not key.startswith("_")


def unreadable(message: Any) -> TypeError:
    fields = list(message_fields(message).items())[:12]
    keys = ", ".join(repr(key) + (" (None)" if value is None else "") for key, value in fields)
    kind, name = "keys" if is_mapping(message) else "attributes", type(message).__name__
    nothing = f"this {name} has no keys" if is_mapping(message) else f"got {name}"
    return TypeError(
        "a message needs a role and a content (or tool_calls, blocks or parts), or the type of an item such as"
        f" function_call; {f'this {name} has the {kind} {keys}' if fields else nothing}"
    )


class Envelope:
    """A message that only a format in Python can read."""

    def __init__(self, message: Any) -> None:
        self.message = message


class Envelopes:
    """The format that reads them."""

    def read(self, envelope: Envelope) -> Any:
        return envelope.message
