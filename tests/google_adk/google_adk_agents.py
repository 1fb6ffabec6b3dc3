"""A model that needs no network: it says what a script tells it, and refuses what Gemini refuses."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeAlias

from chatring import MessageRing
from google.adk.agents import BaseAgent, LlmAgent
from google.adk.agents.run_config import RunConfig
from google.adk.apps.app import App
from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.adk.sessions import BaseSessionService, InMemorySessionService
from google.genai.types import Content, FunctionCall, FunctionResponse, Part
from providers import validate_gemini
from pydantic import PrivateAttr

PROMPT = "You are the support of a shop."
NAME = "shop"

Script: TypeAlias = Callable[[LlmRequest], Content]


class ScriptedModel(BaseLlm):
    """Answers with what `script` returns of the request. `requests` are those that it accepted.

    `unchecked` is how many contents in front it takes as they are.
    """

    model: str = "scripted"
    unchecked: int = 0
    _script: Any = PrivateAttr()
    _requests: list[LlmRequest] = PrivateAttr(default_factory=list)

    def __init__(self, script: Script, **options: Any) -> None:
        super().__init__(**options)
        self._script = script

    @property
    def requests(self) -> list[LlmRequest]:
        return self._requests

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        validate_gemini(sent(llm_request.contents[self.unchecked :]))
        self._requests.append(llm_request.model_copy(update={"contents": copy.deepcopy(llm_request.contents)}))
        answer = self._script(llm_request)
        await asyncio.sleep(0)
        if stream:
            for part in answer.parts or ():
                yield LlmResponse(content=Content(role="model", parts=[part]), partial=True)
        yield LlmResponse(content=answer)


def sent(contents: Sequence[Content]) -> list[dict[str, Any]]:
    """Return the contents as they are sent."""
    return [content.model_dump(mode="json", by_alias=True, exclude_none=True) for content in contents]


def said(text: str, role: str = "model") -> Content:
    return Content(role=role, parts=[Part(text=text)])


def called(*calls: tuple[str, dict[str, Any]]) -> Content:
    """Return a content with calls in parallel, signed as Gemini's are."""
    parts = [Part(function_call=FunctionCall(name=name, args=args)) for name, args in calls]
    parts[0].thought_signature = b"s"
    return Content(role="model", parts=parts)


def returned(name: str, response: dict[str, Any]) -> Content:
    return Content(role="user", parts=[Part(function_response=FunctionResponse(name=name, response=response))])


def find_order(number: int) -> dict[str, str]:
    """Find an order."""
    return {"status": f"Order {number} left the warehouse this morning. " * 5}


def questions(contents: Sequence[Content]) -> list[str]:
    """Return what the user has said, in a request."""
    own = (c for c in contents if c.role == "user" and not any(p.function_response for p in c.parts or ()))
    return [(c.parts or [Part()])[0].text or "" for c in own]


def turns(count: int) -> Script:
    """Return a script that looks for orders, one or two a turn, and answers in the last of so many turns."""
    done = 0

    def script(request: LlmRequest) -> Content:
        nonlocal done
        done += 1
        if done % count == 0:
            return said(f"They left: {questions(request.contents)[-1]}")
        return called(*[("find_order", {"number": done})] * (1 + done % 2))

    return script


def agent_of(model: BaseLlm, **options: Any) -> LlmAgent:
    options = {"name": "support", "instruction": PROMPT, "tools": [find_order], **options}
    return LlmAgent(model=model, **options)


def runner_of(
    agent: BaseAgent, plugins: Sequence[BasePlugin], service: BaseSessionService | None = None, **options: Any
) -> Runner:
    app = App(name=NAME, root_agent=agent, plugins=list(plugins), **options)
    return Runner(app=app, session_service=service or InMemorySessionService(), auto_create_session=True)


async def ask(runner: Runner, text: str | Content, session_id: str = "s", config: RunConfig | None = None) -> list[Any]:
    """Run one turn, and return its events."""
    message = said(text, "user") if isinstance(text, str) else text
    events = runner.run_async(user_id="ada", session_id=session_id, new_message=message, run_config=config)
    return [event async for event in events]


async def events_of(runner: Runner, session_id: str = "s") -> list[Any]:
    session = await runner.session_service.get_session(app_name=NAME, user_id="ada", session_id=session_id)
    assert session is not None
    return session.events


def tokens_of(request: LlmRequest) -> int:
    """Return what a request costs, counted one by one."""
    ring: MessageRing[Any] = MessageRing()
    system = request.config.system_instruction
    beside = [Content(role="system", parts=[Part(text=str(system))])] if system else []
    return sum(map(ring.count, [*beside, *request.contents]))
