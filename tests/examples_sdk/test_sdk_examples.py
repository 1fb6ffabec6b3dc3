"""The examples for the providers' SDKs, as their users run them, with a provider that refuses what is invalid."""

import importlib.util
import itertools
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chatring.stores import Store, open_store
from profiles import slow
from sdk_provider import (
    ANSWER,
    CALLS,
    RESULTS,
    SYSTEM,
    TOOLS_TOKENS,
    Json,
    Provider,
    Request,
    error,
    has_results,
    question,
)
from sdk_server import EXAMPLES as FOLDER
from sdk_server import Server, copy_of, environment, running

pytestmark = slow

LIMIT = 8000
TURNS = 30


class Example(NamedTuple):
    """An example, and the SDK that it needs."""

    file: str
    module: str
    model: str | None = None

    @property
    def database(self) -> str:
        """The file of its store: each example has its own, since a session has the messages of one SDK."""
        return self.file.replace("_", "-").replace(".py", ".db")


EXAMPLES = {
    "openai-chat": Example("openai_chat.py", "openai"),
    "openai-responses": Example("openai_responses.py", "openai"),
    "anthropic": Example("anthropic_messages.py", "anthropic"),
    "google-genai": Example("google_genai.py", "google.genai"),
    "litellm": Example("litellm_completion.py", "litellm"),
    "litellm-anthropic": Example("litellm_completion.py", "litellm", "anthropic/claude-sonnet-5-5"),
}


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(params=list(EXAMPLES), scope="module")
def example(request: pytest.FixtureRequest) -> Example:
    chosen = EXAMPLES[request.param]
    if not is_installed(chosen.module):
        pytest.skip(f"the SDK {chosen.module} is not installed")
    return chosen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, example: Example) -> Path:
    return tmp_path_factory.mktemp("example")


@pytest.fixture(scope="module")
def script(example: Example, folder: Path) -> Path:
    return copy_of(example.file, folder, example.model)


@pytest.fixture(scope="module")
def one_provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def provider(one_provider: Provider) -> Iterator[Provider]:
    one_provider.requests.clear()
    yield one_provider
    one_provider.intervene = lambda request: None
    refused = [*one_provider.refused]
    one_provider.refused.clear()
    assert refused == []


@pytest.fixture(scope="module")
def server(script: Path, one_provider: Provider, folder: Path) -> Iterator[Server]:
    """One process for the tests that do not kill it; each has a session of its own."""
    with running(script, folder, environment(one_provider.url)) as server:
        yield server


@pytest.fixture(scope="module")
def store(example: Example, folder: Path) -> Iterator[Store[Json]]:
    opened: Store[Json] = open_store(f"sqlite:///{folder}/{example.database}")
    yield opened
    opened.close()


def text_of(number: int) -> str:
    return f"Question {number:>3}: " + "Where is what I have ordered, and when will it be here? " * 12


def reply_to(said: str) -> tuple[int, str]:
    return 200, f"{said[:20]}: {ANSWER}".strip() + "\n"


def shared(first: list[Any], second: list[Any]) -> int:
    """Return how many messages two requests have in common at the beginning."""
    return next(
        (n for n, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )


def test_thirty_turns_beyond_the_limit(script: Path, provider: Provider, folder: Path, store: Store[Json]) -> None:
    variables = environment(provider.url)
    firsts = []  # the first request of each process, which does not know yet what the tools cost
    for half in range(2):  # the second one goes on where the first was killed
        firsts.append(len(provider.requests))
        with running(script, folder, variables) as server:
            for number in range(half * TURNS // 2, (half + 1) * TURNS // 2):
                before = len(provider.requests)
                assert server.post("thirty", text_of(number)) == reply_to(text_of(number)), (folder / "log").read_text()
                sent = provider.requests[before:]
                assert [request.asked for request in sent] == [text_of(number).strip()] * (len(CALLS) + 1)
                # The results of this turn are what the tool returned, or what went wrong, in the order of the calls.
                results = json.dumps(sent[-1].messages[-6:])
                places = [results.find(json.dumps(result)[1:-1]) for result in RESULTS]
                assert -1 not in places
                assert places == sorted(places)
    assert all(request.tokens <= LIMIT for n, request in enumerate(provider.requests) if n not in firsts)
    assert all(request.tokens <= LIMIT + TOOLS_TOKENS for request in provider.requests)
    assert store.token_count("/thirty") > 1.5 * LIMIT
    assert max(request.tokens for request in provider.requests) > LIMIT * 0.9
    # Where the cut stays, a request begins with all of the one before it; it moves seldom.
    pairs = list(itertools.pairwise(provider.requests))
    moved = [later for earlier, later in pairs if shared(earlier.messages, later.messages) < len(earlier.messages)]
    assert 2 <= len(moved) <= 10
    # What is sent beside the messages is always the same.
    rest = [{**request.body, "messages": 0, "input": 0, "contents": 0} for request in provider.requests]
    assert all(body == rest[0] for body in rest)
    # All of it is in the store, the head once.
    kept = store.all("/thirty")
    assert [message.get("role") for message in kept].count("system") == 1
    assert kept[0] == {"role": "system", "content": SYSTEM}
    said = [asked for message in kept if (asked := question(message)) is not None]
    assert said == [text_of(number).strip() for number in range(TURNS)]


def test_requests_at_once_to_one_session(server: Server, provider: Provider, store: Store[Json]) -> None:
    together = threading.Barrier(8)

    def ask(number: int) -> tuple[int, str]:
        together.wait()
        return server.post("once" if number % 4 else "bob", text_of(number))

    with ThreadPoolExecutor(8) as pool:
        for done in range(0, 16, 8):
            asked = range(done, done + 8)
            assert list(pool.map(ask, asked)) == [reply_to(text_of(number)) for number in asked]
    sessions = {"/once": [n for n in range(16) if n % 4], "/bob": [n for n in range(16) if not n % 4]}
    for session, numbers in sessions.items():
        kept = store.all(session)
        places = [place for place, message in enumerate(kept) if question(message) is not None]
        assert sorted(str(question(kept[place])) for place in places) == [text_of(n).strip() for n in numbers]
        for begin, end in itertools.pairwise([*places, len(kept)]):  # one turn after the other
            turn = json.dumps(kept[begin:end])
            assert all(json.dumps(result)[1:-1] in turn for result in RESULTS)
            assert turn.count(ANSWER) == 1


@pytest.mark.parametrize("step", range(len(CALLS) + 1))
def test_an_error_of_the_provider_in_mid_turn(
    step: int, server: Server, provider: Provider, store: Store[Json], folder: Path
) -> None:
    session = f"error-{step}"
    if step:
        assert server.post(session, "Hello")[0] == 200
    good = store.all(f"/{session}")
    for status in (500, 400):
        left = [step]

        def fail(request: Request, status: int = status, left: list[int] = left) -> tuple[int, Json] | None:
            left[0] -= 1
            return error(status, "secret") if left[0] < 0 else None

        provider.intervene = fail
        assert server.post(session, f"Is it {status}?") == (502, "There is no answer. Please ask again.\n")
        assert "secret" in (folder / "log").read_text()
        provider.intervene = lambda request: None
        if not step:  # as if it had not been said
            assert [message for message in store.all(f"/{session}") if message.get("role") != "system"] == good
    assert server.post(session, "And now?") == reply_to("And now?")
    said = [asked for message in store.all(f"/{session}") if (asked := question(message)) is not None]
    assert said == (["Hello", "Is it 500?", "Is it 400?", "And now?"] if step else ["And now?"])


def test_an_answer_without_anything(server: Server, provider: Provider) -> None:
    for step in range(2):
        left = [step]

        def say_nothing(request: Request, left: list[int] = left) -> tuple[int, Json] | None:
            left[0] -= 1
            return (200, request.wire.reply([], "", request.tokens)) if left[0] == -1 else None

        provider.intervene = say_nothing
        status, said = server.post("nothing", "Say nothing")
        assert (status, said) in ((502, "There is no answer. Please ask again.\n"), (200, "\n"))
        provider.intervene = lambda request: None
        assert server.post("nothing", "And now?") == reply_to("And now?")


def test_an_answer_that_was_cut_off(example: Example, server: Server, provider: Provider) -> None:
    """What the model could not finish, or may not say, does no harm to what follows."""

    def cut(request: Request) -> tuple[int, Json]:
        reply = request.wire.reply([("find_order", {"number": 1})], "", request.tokens)
        if "output" in reply:
            del reply["output"][1:]  # the reasoning alone
            reply |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        elif "candidates" in reply:
            reply = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": reply["usageMetadata"]}
        elif "choices" in reply:
            reply["choices"][0] |= {"message": {"role": "assistant", "content": None}, "finish_reason": "length"}
        else:
            reply |= {"content": [], "stop_reason": "refusal"}
        return 200, reply

    provider.intervene = cut
    status, said = server.post("cut", "Say all of it")
    assert (status, said) == (502, "There is no answer. Please ask again.\n")
    provider.intervene = lambda request: None
    assert server.post("cut", "And now?") == reply_to("And now?")


def test_a_model_that_only_calls_tools(server: Server, provider: Provider) -> None:
    provider.intervene = lambda request: (200, request.wire.reply(CALLS[1], "", request.tokens))
    assert server.post("calls", "Go on and on")[0] == 502
    provider.intervene = lambda request: None
    assert server.post("calls", "And now?") == reply_to("And now?")
    assert len(provider.requests) == 3  # and the ten that were intervened
    assert sum(map(has_results, provider.requests[0].messages)) >= 10


def test_a_bill_far_above_the_count_leaves_room(server: Server, provider: Provider) -> None:
    provider.intervene = lambda request: (200, request.wire.reply([], "Yes.", 50 * LIMIT))
    assert server.post("bill", "Is it much?") == (200, "Yes.\n")
    provider.intervene = lambda request: None
    assert server.post("bill", "And now?") == reply_to("And now?")


class Hanging:
    """Lets the provider answer some requests, and then none."""

    def __init__(self, answered: int) -> None:
        self.left = answered
        self.reached, self.over = threading.Event(), threading.Event()

    def __call__(self, request: Request) -> tuple[int, Json] | None:
        self.left -= 1
        if self.left >= 0:
            return None
        self.reached.set()
        self.over.wait(60)
        return error(500, "late")


def test_a_process_that_is_killed_in_mid_turn(
    script: Path, provider: Provider, folder: Path, store: Store[Json]
) -> None:
    variables = environment(provider.url)
    for step in range(len(CALLS) + 1):  # while the model is asked for its first answer, its second, its third
        with running(script, folder, variables) as server, ThreadPoolExecutor(1) as pool:
            assert server.post("killed", f"Hello {step}") == reply_to(f"Hello {step}")
            hanging = provider.intervene = Hanging(step)
            asked = pool.submit(server.post, "killed", f"Shall we {step}?")
            assert hanging.reached.wait(60)
            server.process.kill()
            with pytest.raises(ConnectionError):
                asked.result()
        hanging.over.set()
        provider.intervene = lambda request: None
        *_, after = json.dumps(store.all("/killed")).rpartition(f"Shall we {step}?")
        assert [json.dumps(result)[1:-1] in after for result in RESULTS] == [step > 0] * 3 + [step > 1]
    # While a tool runs. What the user said is there, the call is not.
    killing = folder / "killing.py"
    text = script.read_text(encoding="utf-8")
    assert "    return f" in text
    killing.write_text(
        text.replace("    return f", '    __import__("os").kill(__import__("os").getpid(), 9)\n    return f')
    )
    with running(killing, folder, variables) as server, pytest.raises(ConnectionError):
        server.post("killed", "Shall we call?")
    assert question(store.last("/killed", 1)[0]) == "Shall we call?"
    with running(script, folder, variables) as server:
        assert server.post("killed", "Again") == reply_to("Again")


def test_what_is_said_wrongly(server: Server, provider: Provider, store: Store[Json]) -> None:
    assert server.post("wrongly", "") == (400, "Say something, in UTF-8.\n")
    assert server.post("wrongly", " \n\t") == (400, "Say something, in UTF-8.\n")
    assert server.post("wrongly", b"\xff\xfe") == (400, "Say something, in UTF-8.\n")
    assert server.post("a" * 2000, "Hello")[0] == 502  # a key that is too long
    assert store.keys("/wrongly") == []
    assert store.keys("/aaa") == []
    odd = "\N{PILE OF POO} \N{NULL} <|endoftext|> ' \" \\ {} %s"
    assert server.post("wrongly?x=1", odd) == reply_to(odd)
    assert question(store.all("/wrongly?x=1")[1]) == odd


def test_a_wrong_key(script: Path, provider: Provider, folder: Path, store: Store[Json]) -> None:
    with running(script, folder, environment(provider.url, key="wrong")) as server:
        assert server.post("key", "Hello") == (502, "There is no answer. Please ask again.\n")
    assert "Incorrect API key" in (folder / "log").read_text()
    assert [message["role"] for message in store.all("/key")] == ["system"]


def test_a_prompt_that_was_changed(server: Server, provider: Provider, store: Store[Json]) -> None:
    store.append("/prompt", [{"role": "system", "content": "You are a parrot."}])
    assert server.post("prompt", "Hello") == reply_to("Hello")  # the provider looks at the prompt


def pairs_of(message: Json) -> tuple[list[str], list[str]]:
    """Return the calls and the results of a stored message, by what is the same of both."""
    text = json.dumps(message)
    calls = re.findall(r'"(?:id|call_id)": "((?:call|toolu)_\d+)"', text) + re.findall(
        r'"function_call": \{.*?"name": "(\w+)"', text
    )
    results = re.findall(r'"(?:tool_call_id|tool_use_id|call_id)": "((?:call|toolu)_\d+)"', text)
    results += re.findall(r'"function_response": \{.*?"name": "(\w+)"', text)
    return ([], results) if has_results(message) or "function_response" in text else (calls, [])


def test_two_processes_at_once_with_one_session(
    example: Example, script: Path, one_provider: Provider, folder: Path, store: Store[Json]
) -> None:
    """Turns mix, as the page says, but nothing is lost, and results follow their calls at once."""
    variables = environment(one_provider.url)
    with running(script, folder, variables) as one, running(script, folder, variables) as other:
        together = threading.Barrier(4)

        def ask(number: int) -> int:
            together.wait()
            return (one, other)[number % 2].post("processes", f"Question {number}")[0]

        with ThreadPoolExecutor(4) as pool:
            statuses = [status for done in range(0, 16, 4) for status in pool.map(ask, range(done, done + 4))]
        kept = store.all("/processes")
        said = {asked for message in kept if (asked := question(message)) is not None}
        assert said >= {f"Question {number}" for number, status in enumerate(statuses) if status == 200}
        waiting: list[str] = []
        made = 0
        for message in kept:
            calls, results = pairs_of(message)
            for result in results:
                waiting.remove(result)
            assert not (calls and waiting and message.get("type") != "function_call")
            waiting += calls
            made += len(calls)
        assert waiting == []
        assert made > len(CALLS)
        if example.module != "google.genai":
            assert one.post("processes", "And now?") == reply_to("And now?")
    one_provider.refused.clear()


@pytest.mark.parametrize("file", sorted({example.file for example in EXAMPLES.values()}))
def test_it_runs_as_it_stands_without_a_key(file: str, tmp_path: Path) -> None:
    chosen = next(example for example in EXAMPLES.values() if example.file == file)
    if not is_installed(chosen.module):
        pytest.skip(f"the SDK {chosen.module} is not installed")
    for time in range(2):
        with running(FOLDER / file, tmp_path, environment(None)) as server:
            assert server.post("ada", "Where is order 17?") == (200, "Order 17 has left the warehouse.\n")
            assert server.post("ada", "Thank you!") == (200, "You are welcome.\n")
        assert len(open_store(f"sqlite:///{tmp_path}/{chosen.database}").all("/ada")) >= 1 + (time + 1) * 6
    assert "in the environment: fake_provider.py answers" in (tmp_path / "log").read_text()
