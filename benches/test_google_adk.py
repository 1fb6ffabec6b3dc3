"""Google ADK: what a plugin costs at each model call, and a whole run.

Histories are the conversation's as contents, with calls and responses. ADK has no trimming by tokens: alone it sends
everything, and its `ContextFilterPlugin` keeps so many turns; here, as many as our window has. The pure Python is what
one would write.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiktoken

pytest.importorskip("google.adk.plugins", reason="google-adk is not installed: pip install 'chatring[google-adk]'")

from chatring import MessageRing
from chatring.google_adk import TrimPlugin
from google.adk.agents import LlmAgent
from google.adk.apps.app import App
from google.adk.events.event import Event
from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.plugins.context_filter_plugin import ContextFilterPlugin
from google.adk.runners import Runner
from google.adk.sessions import InMemorySessionService
from google.genai.types import Content, FunctionCall, FunctionResponse, GenerateContentConfig, Part
from pytest_benchmark.fixture import BenchmarkFixture

from benches.conftest import Label
from benches.conversation import Histories, Line
from benches.plain_session import window_of

LENGTHS, LIMIT = (1_000, 5_000), 3_000
INSTRUCTION = "You are the support of a shop."

ALONE, THEIRS = "google-adk alone", "google-adk ContextFilterPlugin, as many turns as the window has"
PLAIN, OURS, OURS_RATIO = "pure Python, counting", "chatring TrimPlugin", "chatring TrimPlugin, retention_ratio=0.7"

ENCODE = tiktoken.get_encoding("o200k_base").encode_ordinary


def as_contents(lines: list[Line]) -> list[Content]:
    """Return messages as contents: results that follow each other are one."""
    contents: list[Content] = []
    calls: list[str] = []
    for line in lines:
        if line.role == "tool":
            part = Part(function_response=FunctionResponse(name=calls.pop(0), response={"result": line.text or ""}))
            if contents[-1].role == "user":
                contents[-1].parts = [*(contents[-1].parts or ()), part]
            else:
                contents.append(Content(role="user", parts=[part]))
            continue
        parts = [Part(text=line.text)] if line.text else []
        for name, arguments in line.calls:
            calls.append(name)
            parts.append(Part(function_call=FunctionCall(name=name, args=json.loads(arguments))))
        contents.append(Content(role="model" if line.role == "assistant" else "user", parts=parts))
    return contents


def kind_of(content: Content) -> str:
    parts = content.parts or ()
    if content.role == "user":
        return "function_call_output" if any(part.function_response for part in parts) else "user"
    return "function_call" if any(part.function_call for part in parts) else "assistant"


def tokens_of(content: Content) -> int:
    tokens = 1
    for part in content.parts or ():
        if part.text:
            tokens += len(ENCODE(part.text))
        said: list[tuple[str | None, Any]] = []
        if part.function_call:
            said.append((part.function_call.name, part.function_call.args))
        if part.function_response:
            said.append((part.function_response.name, part.function_response.response))
        for name, value in said:
            tokens += len(ENCODE(name or ""))
            tokens += len(ENCODE(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))
    return tokens


class PlainPlugin(BasePlugin):
    """Counts from the newest content backwards, until there is enough."""

    async def before_model_callback(self, *, callback_context: Any, llm_request: LlmRequest) -> None:
        room = LIMIT - tokens_of(Content(parts=[Part(text=str(llm_request.config.system_instruction))]))
        newest = ((kind_of(content), tokens_of(content), content) for content in reversed(llm_request.contents))
        llm_request.contents = window_of(newest, room)


def plugin_of(name: str, turns: int) -> BasePlugin:
    made: dict[str, Callable[[], BasePlugin]] = {
        THEIRS: lambda: ContextFilterPlugin(turns),
        PLAIN: lambda: PlainPlugin("plain"),
        OURS: lambda: TrimPlugin(LIMIT),
        OURS_RATIO: lambda: TrimPlugin(LIMIT, retention_ratio=0.7),
    }
    return made[name]()


@pytest.fixture(scope="module")
def history(histories: Histories) -> Callable[[int], list[Content]]:
    """Return the function that returns a history of so many contents: it begins with a user's, and ends with one."""
    lines = [line for line in histories.newest(8_000) if line.role != "system"]
    first = next(place for place, line in enumerate(lines) if line.role == "user")
    contents = as_contents(lines[first:])
    starts = [place for place, content in enumerate(contents) if kind_of(content) == "user"]

    def last(length: int) -> list[Content]:
        return contents[max(place for place in starts if place <= starts[-1] + 1 - length) : starts[-1] + 1]

    return last


def window(plugin: BasePlugin, contents: list[Content], loop: asyncio.AbstractEventLoop) -> list[Content]:
    request = LlmRequest(config=GenerateContentConfig(system_instruction=INSTRUCTION))
    request.contents = contents
    context: Any = SimpleNamespace(user_content=contents[-1], session=SimpleNamespace(events=[]))
    loop.run_until_complete(plugin.before_model_callback(callback_context=context, llm_request=request))
    return request.contents


def turns_of(contents: list[Content]) -> int:
    return sum(kind_of(content) == "user" for content in contents)


@pytest.mark.parametrize("name", [THEIRS, PLAIN, OURS, OURS_RATIO])
@pytest.mark.parametrize("length", LENGTHS)
def test_trim(
    benchmark: BenchmarkFixture,
    history: Callable[[int], list[Content]],
    loop: Any,
    label: Label,
    name: str,
    length: int,
) -> None:
    contents = history(length)
    count = MessageRing[Content]().count
    assert all(count(content) == tokens_of(content) for content in contents)
    ours = window(TrimPlugin(LIMIT), contents, loop)
    plugin = plugin_of(name, turns_of(ours))
    trimmed = window(plugin, contents, loop)
    assert 10 < len(trimmed) < length
    if name in (PLAIN, OURS):
        assert trimmed == ours
    elif name == OURS_RATIO:
        assert trimmed[1:] == contents[1 - len(trimmed) :]  # behind its question
        assert len(trimmed) <= len(ours)
    label("google-adk: trimming a model call", name, messages=length, limit=LIMIT)
    benchmark(lambda: window(plugin, contents, loop))


class Answering(BaseLlm):
    """Says one word."""

    model: str = "answering"

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        yield LlmResponse(content=Content(role="model", parts=[Part(text="Yes.")]))


@pytest.mark.parametrize("name", [ALONE, THEIRS, PLAIN, OURS])
@pytest.mark.parametrize("length", LENGTHS)
def test_run(
    benchmark: BenchmarkFixture,
    history: Callable[[int], list[Content]],
    loop: Any,
    label: Label,
    name: str,
    length: int,
) -> None:
    """One question and one answer, ADK's own work with a session in memory included. Each adds two events."""
    contents = history(length)[:-1]
    turns = turns_of(window(TrimPlugin(LIMIT), contents, loop))
    agent = LlmAgent(name="support", model=Answering(), instruction=INSTRUCTION)
    app = App(name="shop", root_agent=agent, plugins=[] if name == ALONE else [plugin_of(name, turns)])
    runner = Runner(app=app, session_service=InMemorySessionService())

    async def load() -> None:
        session = await runner.session_service.create_session(app_name="shop", user_id="ada", session_id="s")
        for place, content in enumerate(contents):
            author = "user" if kind_of(content) == "user" else "support"
            # Each turn's calls have ids of their own, by which ADK pairs them.
            copied = content.model_copy(deep=True)
            for number, part in enumerate(copied.parts or ()):
                if part.function_call:
                    part.function_call.id = f"{place}-{number}"
                if part.function_response:
                    earlier = [p.function_call.id for p in events[-1].content.parts if p.function_call]
                    part.function_response.id = earlier[number]
            events.append(Event(author=author, content=copied, invocation_id=f"e{place}"))
            await runner.session_service.append_event(session, events[-1])

    async def run() -> str:
        question = Content(role="user", parts=[Part(text="Is it?")])
        made: list[Any] = [e async for e in runner.run_async(user_id="ada", session_id="s", new_message=question)]
        return str(made[-1].content.parts[0].text)

    events: list[Any] = []
    loop.run_until_complete(load())
    assert loop.run_until_complete(run()) == "Yes."
    label("google-adk: a run of one model call", name, messages=length, limit=LIMIT)
    benchmark.pedantic(lambda: loop.run_until_complete(run()), rounds=9)
