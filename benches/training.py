"""What a profile-guided build is trained on: every hot path of the library on the example conversation.

Run by `maturin build --pgo` and `maturin develop --pgo` with an instrumented build in an environment that has nothing
else, so the messages of LlamaIndex are stood in for by classes that are read in the same way.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any, Literal

from chatring import MessageRing, TokenCounter, _core

CONVERSATION = pathlib.Path(__file__).parents[1] / "examples" / "support-conversation.jsonl"
ROUNDS = 300


class TextBlock:
    def __init__(self, text: str) -> None:
        self.text = text


class ChatMessage:
    def __init__(self, role: str, content: Any) -> None:
        self.role = role
        parts = [{"text": content}] if isinstance(content, str) else content or []
        self.blocks = [TextBlock(part["text"]) for part in parts if "text" in part]


def as_dict(line: dict[str, Any]) -> Any:
    return {"role": line["role"], "content": line.get("content")}


def as_chat_message(line: dict[str, Any]) -> Any:
    return ChatMessage(line["role"], line.get("content"))


def use_rings(
    lines: list[dict[str, Any]], make: Callable[[dict[str, Any]], Any], measure: Literal["message", "text"]
) -> None:
    history = [make(line) for line in lines * 50]
    for limit in (300, 3_000, 40_000):
        ring: MessageRing[Any] = MessageRing(limit, counter="cl100k_base", measure=measure)
        ring.put_messages(history)
        for _ in range(ROUNDS):
            ring.get()
            ring.get(verify=False)
            ring.get(token_limit=limit, initial_token_count=1, counter=ring.counter)
            ring._window(limit, ring.counter)
        for line in lines * 10:  # the counts grow with the conversation
            ring.put(make(line))
            ring.get()
        ring.pop()
        ring.token_count()
    for _ in range(ROUNDS // 10):  # nothing is counted yet
        ring = MessageRing(3_000, counter="cl100k_base", measure=measure)
        ring.put_messages(history)
        ring.get()


def count(lines: list[dict[str, Any]]) -> None:
    texts = [str(line.get("content")) for line in lines]
    for encoding in ("cl100k_base", "o200k_base"):
        counter = TokenCounter(encoding)
        for _ in range(ROUNDS // 10):
            for text in texts:
                counter.count(text)
                counter.count(text[:20])
        counter.count_batch(texts * 50)


def main() -> None:
    _core._read_blocks(ChatMessage, TextBlock)
    lines = [json.loads(line) for line in CONVERSATION.read_text(encoding="utf-8").splitlines()]
    use_rings(lines, as_dict, "text")
    use_rings(lines, as_dict, "message")
    use_rings(lines, dict, "message")  # with their calls
    use_rings(lines, as_chat_message, "text")
    count(lines)


if __name__ == "__main__":
    main()
