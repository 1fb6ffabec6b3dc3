"""Every script under examples/ runs, without a network, and prints what a reader should see."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

PRINTED = {
    "llama_index_standalone.py": """\
5 messages, 46 tokens. The last ones that fit 30 tokens:
user: The order is from last week.
assistant: I have found it. Shall I send you a label?
user: Yes, please.
""",
    "llama_index_put.py": """\
1 put, 1 in the window, from: Hello, how are you?
2 put, 2 in the window, from: Hello, how are you?
3 put, 3 in the window, from: Hello, how are you?
4 put, 2 in the window, from: What is a ring buffer?
5 put, 3 in the window, from: What is a ring buffer?
""",
    "llama_index_agent.py": """\
The LLM gets 1 messages, the first is: Where is my order?
The LLM gets 3 messages, the first is: Where is my order?
user: Where is my order?
assistant: Order 17 is on its way.
The LLM gets 5 messages, the first is: Where is my order?
user: Thank you!
assistant: You are welcome.
The LLM gets 3 messages, the first is: Thank you!
The LLM gets 5 messages, the first is: Thank you!
user: And is my order late?
assistant: Order 17 is on its way.
10 messages are remembered, 4 of them fit the token limit.
""",
    "server.py": """\
ann: 1 of 1 messages sent to the LLM
bob: 1 of 1 messages sent to the LLM
ann: 3 of 3 messages sent to the LLM
bob: 3 of 3 messages sent to the LLM
ann: 3 of 5 messages sent to the LLM
bob: 5 of 5 messages sent to the LLM
ann: 3 of 7 messages sent to the LLM
bob: 5 of 7 messages sent to the LLM
cem: 1 of 1 messages sent to the LLM
in the store: ['bob', 'cem'], archived: ['ann']
ann: 3 of 9 messages sent to the LLM
in the store: ['cem', 'ann'], archived: ['bob']
""",
}


def test_each_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_example(name: str) -> None:
    # conftest.py has set TIKTOKEN_CACHE_DIR, which the process inherits.
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == (PRINTED[name], 0), done.stderr
