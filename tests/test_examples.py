"""Every script under examples/ runs, without a network, and prints what a reader should see."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from profiles import slow

pytestmark = slow

EXAMPLES = Path(__file__).parents[1] / "examples"
DURABLE_SERVER = "durable_server.py"
# Tested in tests/examples_sdk, where the SDKs are installed.
FOR_SDKS = {
    "anthropic_messages.py",
    "chat_http.py",
    "fake_provider.py",
    "google_genai.py",
    "litellm_completion.py",
    "openai_chat.py",
    "openai_responses.py",
}

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
    "llama_index_server.py": """\
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
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTED, DURABLE_SERVER, *FOR_SDKS}


@pytest.mark.parametrize("name", PRINTED)
def test_example(name: str) -> None:
    # conftest.py has set TIKTOKEN_CACHE_DIR, which the process inherits.
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert (done.stdout, done.returncode) == (PRINTED[name], 0), done.stderr


@contextmanager
def _durable_server(file: Path) -> Iterator[str]:
    """Run the server until it is killed at the end, and return its URL."""
    command = [sys.executable, str(EXAMPLES / DURABLE_SERVER), str(file), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.kill()


def _request(url: str, data: str | None = None) -> str:
    with urllib.request.urlopen(url, data=None if data is None else data.encode(), timeout=60) as response:
        body: bytes = response.read()
        return body.decode()


def test_the_durable_server_remembers_when_it_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "chat.db"
    questions = [f"Question {number}: when do you open on the {number}th?" for number in range(1, 4)]
    with _durable_server(file) as url:
        answers = [_request(f"{url}/ada", question) for question in questions]
        assert answers[0] == f"assistant: I see 1 messages. The first is: {questions[0]}\n"
        assert answers[1] == f"assistant: I see 3 messages. The first is: {questions[0]}\n"
        assert answers[2] == f"assistant: I see 3 messages. The first is: {questions[1]}\n"
        history = _request(f"{url}/ada")
        assert history == "".join(f"user: {q}\n{a}" for q, a in zip(questions, answers, strict=True))
    with _durable_server(file) as url:
        assert _request(f"{url}/ada") == history
        assert _request(f"{url}/ada", "Thank you!") == f"assistant: I see 3 messages. The first is: {questions[2]}\n"
        assert _request(f"{url}/bob") == ""
