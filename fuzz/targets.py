"""What decodes files, rows and URLs, on generated input: `python fuzz/targets.py NAME [options of libFuzzer]`.

Each target gets bytes. It may raise what its documents say, and nothing else; a panic of the extension, a crash and a
hang are found too. `make fuzz` runs them all.
"""

import atexit
import contextlib
import io
import json
import os
import pathlib
import pickle
import shutil
import sqlite3
import struct
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import atheris

with (
    contextlib.redirect_stderr(io.StringIO()),
    atheris.instrument_imports(include=["chatring"]),
):  # it names each module
    from chatring import MessageRing, TokenCounter, trim_messages
    from chatring.formats.json_format import JsonFormat
    from chatring.formats.record import Record
    from chatring.migration.layouts.files import ConversationFile, open_llama_index_file
    from chatring.migration.layouts.messages import json_messages, object_of
    from chatring.migration.source import SourceError
    from chatring.recordings.conversation import ConversationError, read_conversations
    from chatring.stores import StoreError, open_store
    from chatring.stores.redaction import without_secrets

# In memory where that is a folder: a store waits for its disk at every change.
FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="chatring-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
FORMATS: tuple[Any, ...] = (None, "openai-chat", "openai-responses", "anthropic", "gemini", "bedrock")
WORDS = TokenCounter(str.split)

# What the inputs begin with, and what they are made of.
MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "data:"}}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "4"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}]}],
    },
    {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}, {"text": "x", "thought": True}]},
    {"role": "user", "content": [{"toolResult": {"toolUseId": "a", "content": [{"json": {"x": 1.5}}]}}]},
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "x"},
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "x"}]},
    {"role": "user", "blocks": [{"block_type": "text", "text": "x"}], "additional_kwargs": {}},
    {"type": "human", "data": {"content": "x", "type": "human"}},
    {"from": "gpt", "value": "x"},
    {"is_user": True, "mes": "x", "name": "Ada"},
]


def seeds_of_files() -> list[bytes]:
    lines = "\n".join(map(json.dumps, MESSAGES[:4])).encode()
    documents = [
        {"messages": MESSAGES[:4]},
        MESSAGES,
        {"system": "x", "contents": MESSAGES[6:8]},
        {"input": MESSAGES[8:11]},
    ]
    documents += [
        {"conversations": MESSAGES[13:14]},
        {"store": {"ada": MESSAGES[11:12]}},
        {"chat_history": MESSAGES[11:12]},
    ]
    shapes = [json.dumps(document, indent=1).encode() for document in documents]
    return [lines, lines.decode().encode("utf-16"), *shapes, *(json.dumps(message).encode() for message in MESSAGES)]


def of_bytes(data: bytes) -> tuple[atheris.FuzzedDataProvider, str]:
    source = atheris.FuzzedDataProvider(data)
    return source, source.ConsumeUnicode(sys.maxsize)


def parsed(data: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(data)
    return None


def conversation_file(data: bytes) -> None:
    """`chatring window FILE`."""
    for skip_invalid in (False, True):
        # ValueError: leading system messages that are longer than the limit.
        with contextlib.suppress(ConversationError, ValueError):
            reading = read_conversations(io.BytesIO(data), lambda: MessageRing(100, WORDS), skip_invalid=skip_invalid)
            for conversation in reading.conversations:
                conversation.window()


def migrated_file(data: bytes) -> None:
    """`chatring migrate FILE`."""
    path = FOLDER / "file.json"
    path.write_bytes(data)
    with contextlib.suppress(SourceError, ValueError):
        source = open_llama_index_file(str(path)) or ConversationFile(str(path))
        if isinstance(source, ConversationFile):  # the other wants LlamaIndex
            for key in source.keys():  # noqa: SIM118 (not a mapping)
                source.messages(key)


def messages(data: bytes) -> None:
    """A message of any shape, read by the extension: what it counts once, it counts again, in a ring or without."""
    value = parsed(data)
    given = value if isinstance(value, list) else [value]
    for name in FORMATS:
        ring: MessageRing[Any] = MessageRing(50, WORDS, format=name)
        with contextlib.suppress(TypeError, ValueError):
            ring.put_messages(given)
            assert len(ring) == len(given)
            assert ring.token_count() == ring.token_count()
            window = ring.window(retention_ratio=0.5)
            assert list(window) == list(trim_messages(given, 50, counter=WORDS, format=name, retention_ratio=0.5))
            copy = pickle.loads(pickle.dumps(MessageRing(50, format=name)))
            copy.put_messages(given)
        ring = MessageRing(50, WORDS, max_messages=2, format=name)
        with contextlib.suppress(TypeError, ValueError):
            ring.put_messages(given)
            adds_up_and_recounts(ring, 50)


def adds_up_and_recounts(ring: MessageRing[Any], limit: int) -> None:
    """Assert that a window has the tokens of its messages, and that a recount changes neither messages nor window."""
    kept = ring.get_all()
    windows = []
    for _ in range(2):
        with contextlib.suppress(ValueError):  # a head longer than the limit
            window = ring.window(token_limit=limit)
            assert window.tokens == sum(map(ring.count, window)), (kept, limit)
            windows.append(list(map(id, window)))
        ring.recount()
        assert list(map(id, ring)) == list(map(id, kept))
    assert windows[1:] == windows[:-1]


def bounded(data: bytes) -> None:
    """A ring with a bound, changed in any way."""
    source = atheris.FuzzedDataProvider(data)
    bound, include_system = source.ConsumeIntInRange(1, 4), source.ConsumeBool()
    ring: MessageRing[Any] = MessageRing(
        50,
        WORDS,
        max_messages=bound,
        include_system=include_system,
        start_on=source.PickValueInList(["user", None]),
    )
    for _ in range(source.ConsumeIntInRange(0, 40)):
        change = source.ConsumeIntInRange(0, 9)
        if change == 0:
            ring.set_head(MESSAGES[:1] * source.ConsumeIntInRange(0, 5))
        elif change == 1 and len(ring):
            ring.delete(source.ConsumeIntInRange(0, len(ring) - 1))
        elif change == 2:
            ring = pickle.loads(pickle.dumps(ring))
        elif change == 3:
            ring.window(token_limit=1_000, retention_ratio=0.5)
        else:
            ring.put(source.PickValueInList(MESSAGES[:13]))  # the others are of files
        adds_up_and_recounts(ring, source.ConsumeIntInRange(1, 60))
        leading = next((i for i, message in enumerate(ring) if message.get("role") != "system"), len(ring))
        assert len(ring) - leading * include_system <= bound + 1  # a question is kept beside them


def rows(data: bytes) -> None:
    """The bodies of a store's messages, and those of other libraries: what is loaded, dumps to what loads equal."""
    text = data.decode("utf-8", "replace")
    object_of(data)
    with contextlib.suppress(ValueError):
        json_messages([text])
    codec = JsonFormat()
    value = parsed(data)
    if isinstance(value, dict):
        with contextlib.suppress(ValueError, TypeError):
            body = codec.dump(value)
            assert codec.load(body) == value or "NaN" in text
            assert codec.load_all([body, body]) == [codec.load(body)] * 2
    record = Record("user", text, data)
    assert codec.load(codec.dump(record)) == record


def state(data: bytes) -> None:
    """A ring's pickled state, damaged."""
    source = atheris.FuzzedDataProvider(data)
    ring: MessageRing[Any] = MessageRing(50, WORDS)
    whole = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    ring.put_messages(whole * source.ConsumeIntInRange(0, 2))
    version, held, outlines, place, attributes, slots = ring.__reduce__()[2]

    def number() -> Any:
        return source.PickValueInList([None, 0, 1, 2, 3, 7, 2**31, 2**63 - 1, 2**64 - 1])

    place = tuple(number() if source.ConsumeBool() else part for part in place)
    outlines = bytes(source.ConsumeBytes(len(outlines))) if source.ConsumeBool() else outlines
    other: MessageRing[Any] = MessageRing(50, WORDS, max_messages=source.PickValueInList([None, 1, 2]))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        other.__setstate__((version, held, outlines, place, attributes, slots))
        other.put_messages(whole)
        other.window(retention_ratio=0.5)
        other.get_all()
        other.pop()
        other.recount()


def urls(data: bytes) -> None:
    """A store's URL with a password, of any form: no error shows it."""
    source, text = of_bytes(data)
    del source
    secret = "s3cr3t"
    before, _, after = text.partition("\0")
    for url in (
        text,
        f"{before}://ada:{secret}@{after}",
        f"postgresql://{before}:{secret}@{after}",
        f"redis://:{secret}@{text}",
    ):
        shown = without_secrets(url)
        if "@" in url.partition(secret)[2] and secret in url and url.count(secret) == 1:
            assert secret not in shown, (url, shown)
        try:
            open_store(url, counter=WORDS, counter_name="words").close()
        except (ValueError, TypeError, StoreError, ModuleNotFoundError) as error:
            if url.startswith(("postgresql://", "redis://")) and secret in url and text.count(secret) == 0:
                assert secret not in str(error), (url, str(error))  # noqa: PT017


def template() -> bytes:
    path = FOLDER / "template.db"
    store = open_store(f"sqlite:///{path}", counter=WORDS, counter_name="words")
    store.append("ada", MESSAGES[:6])
    store.append("bob", MESSAGES[:2])
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    return path.read_bytes()


def store(data: bytes) -> None:
    """A SQLite store whose rows, or file, somebody has changed: any error will do, but no crash, panic or hang."""
    global TEMPLATE
    TEMPLATE = TEMPLATE or template()
    source = atheris.FuzzedDataProvider(data)
    path = FOLDER / "chat.db"
    for beside in FOLDER.glob("chat.db*"):
        beside.unlink()
    content = bytearray(TEMPLATE)
    if source.ConsumeBool():
        for _ in range(source.ConsumeIntInRange(1, 8)):
            place = source.ConsumeIntInRange(0, len(content) - 1)
            content[place] = source.ConsumeIntInRange(0, 255)
        path.write_bytes(content)
    else:
        path.write_bytes(content)
        connection = sqlite3.connect(path)
        for _ in range(source.ConsumeIntInRange(1, 3)):
            table, column = source.PickValueInList(COLUMNS)
            value: Any = source.PickValueInList([None, 0, 1, 2, -1, 10**6, 2**63 - 1, -(2**63)])
            if source.ConsumeBool():
                value = source.ConsumeUnicodeNoSurrogates(20)
            with contextlib.suppress(sqlite3.Error):
                connection.execute(f'UPDATE {table} SET "{column}" = ?', (value,))
        connection.commit()
        connection.close()
    opened = open_store(f"sqlite:///{path}", counter=WORDS, counter_name="words", timeout=1.0)
    calls: list[Callable[[], object]] = [
        lambda: opened.window("ada", 50, retention_ratio=0.5),
        lambda: opened.all("ada"),
        lambda: opened.last("ada", 2),
        lambda: opened.token_count("ada"),
        lambda: opened.keys(),
        lambda: opened.append("ada", MESSAGES[:2]),
        lambda: opened.pop("ada"),
        lambda: opened.recount("ada"),
        lambda: opened.window("ada", 50),
    ]
    for call in calls:
        with contextlib.suppress(Exception):
            call()
    opened.close()


TEMPLATE = b""
COLUMNS = [
    ("chatring_session", name)
    for name in (
        *(
            "key",
            "policy",
            "epoch",
            "updated_at",
            "head",
            "head_tokens",
            "behind",
            "first",
            "base",
            "lead",
            "lead_total",
        ),
        *("end", "total", "last", "question", "question_tokens", "reach", "word", "is_closed", "has_runs"),
    )
] + [("chatring_message", name) for name in ("seq", "kind", "tokens", "before", "question", "body")]
COLUMNS.append(("chatring_schema", "version"))

NUMBERS = [struct.pack("<8q", *range(n, n + 8)) for n in (0, 100, 10**9)]
TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "conversation_file": (conversation_file, seeds_of_files),
    "migrated_file": (migrated_file, seeds_of_files),
    "messages": (
        messages,
        lambda: [json.dumps(one).encode() for one in [*MESSAGES, MESSAGES, MESSAGES[:4], MESSAGES[4:6]]],
    ),
    "bounded": (bounded, lambda: NUMBERS),
    "rows": (rows, seeds_of_files),
    "state": (state, lambda: NUMBERS),
    "urls": (
        urls,
        lambda: [b"host/db", b"sqlite:///chat.db?mode=ro", b"user%40\0host:5432/db?sslmode=require&password=x"],
    ),
    "store": (store, lambda: NUMBERS),
}


def main() -> None:
    function, _ = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], function)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
