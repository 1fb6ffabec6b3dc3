"""An LLM that says what it is told to say, and keeps everything that it is sent."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from pydantic import Field

Transcript = list[list[dict[str, Any]]]


class ScriptedLLM(FunctionCallingLLM):
    """Answers its n-th call with a copy of the n-th reply of the script; a call too many is an IndexError.

    `transcript` has, for every call, what the messages were at that moment: role, blocks and additional_kwargs.
    """

    script: list[ChatMessage]
    transcript: Transcript = Field(default_factory=list)
    calls_functions: bool = True

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, is_function_calling_model=self.calls_functions)

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        reply = self.script[len(self.transcript)].model_copy(deep=True)
        self.transcript.append([message.model_dump() for message in messages])
        return ChatResponse(message=reply, delta=reply.content)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._in_parts(self.chat(messages))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self.chat(messages)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        parts = self._in_parts(self.chat(messages))

        async def stream() -> ChatResponseAsyncGen:
            for part in parts:
                yield part

        return stream()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self.chat([ChatMessage(content=prompt)]).message.content or "")

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self.complete(prompt)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        raise NotImplementedError

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        return {"messages": chat_history or []}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        return [
            ToolSelection(tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=block.tool_kwargs)
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock) and isinstance(block.tool_kwargs, dict)
        ]

    def _in_parts(self, response: ChatResponse) -> ChatResponseGen:
        """Yield a text in halves, as a stream does: each part with all that came before; tool calls at once."""
        message = response.message
        text = message.content or ""
        if text and all(block.block_type == "text" for block in message.blocks):
            half = text[: len(text) // 2]
            yield ChatResponse(message=ChatMessage(role=message.role, content=half), delta=half)
            yield ChatResponse(message=message, delta=text[len(half) :])
        else:
            yield response


def says(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def calls(*tools: tuple[str, dict[str, Any]], text: str | None = None) -> ChatMessage:
    """Return a reply that calls tools, each given by its name and arguments."""
    message = ChatMessage(role="assistant", content=text, additional_kwargs={"tool_calls": [name for name, _ in tools]})
    for n, (name, arguments) in enumerate(tools):
        message.blocks.append(ToolCallBlock(tool_call_id=f"call-{n}", tool_name=name, tool_kwargs=arguments))
    return message
