"""What an installed chatring must do, run by the Python that it is installed in: `python release/smoke.py`.

Needs nothing of the repository but the example conversation.
"""

import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile

import chatring
from chatring import MessageRing, TokenCounter, trim_messages
from chatring.stores import SQLStore, open_store

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "support-conversation.jsonl"


def main() -> None:
    own = pathlib.Path(chatring.__file__)
    assert pathlib.Path(sys.prefix).resolve() in own.resolve().parents, f"{own} is not the installed package"
    assert chatring.__version__ == importlib.metadata.version("chatring")
    notices = {path.name for path in importlib.metadata.files("chatring") or () if "licenses" in path.parts}
    assert {"LICENSE", "THIRD_PARTY.md"} <= notices, notices

    question = {"role": "user", "content": "Where is my order?"}
    ring: MessageRing[dict[str, str]] = MessageRing(token_limit=3000)
    ring.put(question)
    assert ring.get() == [question]
    assert ring.token_count() == 9
    assert trim_messages([question, question], 9) == [question]
    assert TokenCounter("cl100k_base").count("hello world") == 2

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{pathlib.Path(folder).as_posix()}/chat.db"
        for _ in range(2):  # the second one reads what the first has written
            store = open_store(url)
            assert isinstance(store, SQLStore)
            store.append("ada", [question])
            window = store.window("ada", 3000)
            store.close()
        assert window == [question, question], window

    command = [sys.executable, "-m", "chatring", "window", str(EXAMPLE), "--token-limit", "3000"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    assert "limit: 3,000 tokens" in shown, shown
    print(f"chatring {chatring.__version__} works on {sys.implementation.name} {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
