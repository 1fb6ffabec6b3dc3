"""`TrimMessages`: middleware that keeps each request to the model within a token limit."""

from __future__ import annotations

import json
import operator
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from typing_extensions import override

from chatring.langchain.message_format import without_unanswered
from chatring.trimmer import Measure, Trimmer

if TYPE_CHECKING:
    from langchain.agents.middleware import ModelRequest, ModelResponse
    from langchain.agents.middleware.types import ModelCallResult

_Tool = BaseTool | dict[str, Any]


class TrimMessages(AgentMiddleware[Any, Any]):
    """Sends the model the window of the state's messages, and leaves the state alone.

    Each request has the system message, the question, and the newest steps that fit, each with all its results; see
    `docs/windows.md`. Calls that nobody has answered, as a cancelled run leaves them, and results without a call are
    left out, since providers refuse them. One object serves any number of runs at once.

    Args:
        token_limit: tokens that a request may have, at least 1: the agent's system message and tools, which count as
            the JSON that is sent, `initial_token_count`, and the window.
        counter: what counts a text's tokens: anything `TokenCounter` takes.
        measure: what a message's tokens are: `"message"`, all that is sent of it, or a callable.
        retention_ratio: from 0 to 1: when something must be left out, the share of the limit to go down to. Below 1 the
            next requests begin the same, which a provider's prompt cache knows; then all messages of the state are
            counted for each.
        initial_token_count: tokens of what else is sent, such as a response format.
        format: the provider whose constants count: None is OpenAI's chat.

    Raises:
        TypeError, ValueError: as `MessageRing`, and for a negative `initial_token_count`. A request raises ValueError,
            with the numbers, if the system message, the tools and `initial_token_count` exceed the limit, and whatever
            a callable counter or measure raises.
    """

    def __init__(
        self,
        token_limit: int,
        *,
        counter: Any = "o200k_base",
        measure: Measure[Any] = "message",
        retention_ratio: float = 1.0,
        initial_token_count: int = 0,
        format: Any = None,  # noqa: A002 (as in MessageRing)
    ) -> None:
        super().__init__()
        self._trimmer: Trimmer[Any] = Trimmer(
            token_limit,
            counter=counter,
            measure=measure,
            retention_ratio=retention_ratio,
            initial_token_count=initial_token_count,
            format=format,
        )
        self._counted_tools: tuple[list[_Tool], int] = ([], 0)

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelCallResult[Any]:
        return handler(self._trimmed(request))

    @override
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelCallResult[Any]:
        return await handler(self._trimmed(request))

    def _trimmed(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        prompt = request.system_message
        window = self._trimmer.window(
            request.messages,
            system_message=0 if prompt is None else self._trimmer.count(prompt),
            tools=self._count_tools(request.tools),
        )
        return request.override(messages=without_unanswered(window))

    def _count_tools(self, tools: list[_Tool]) -> int:
        # LangChain takes 0.1 ms and more to make the JSON of a tool, and an agent has the same ones at each call.
        counted, tokens = self._counted_tools
        if len(counted) != len(tools) or any(map(operator.is_not, counted, tools)):
            tokens = sum(map(self._count_tool, tools))
            self._counted_tools = (list(tools), tokens)
        return tokens

    def _count_tool(self, tool: _Tool) -> int:
        sent = tool if isinstance(tool, dict) else convert_to_openai_tool(tool)
        text = json.dumps(sent, ensure_ascii=False, separators=(",", ":"), default=str)
        return self._trimmer.counter.count(text, special="text")
