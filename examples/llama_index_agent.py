"""A memory with an agent. The LLM is a stand-in, so that this runs without a network."""

import asyncio
from collections.abc import Sequence
from typing import Any

from chatring.llama_index import ChatMemoryBuffer
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM


def order_status(order: int) -> str:
    """Look up the status of an order."""
    return f"Order {order} is on its way."


def answer(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
    """Call the tool for a question about an order, and repeat what the tool says."""
    print(f"The LLM gets {len(messages)} messages, the first is: {messages[0].content}")
    last = messages[-1]
    if last.role == "user" and "order" in str(last.content):
        call = ToolCallBlock(tool_call_id="1", tool_name="order_status", tool_kwargs={"order": 17})
        return ChatMessage(role="assistant", blocks=[call])
    return ChatMessage(role="assistant", content=last.content if last.role == "tool" else "You are welcome.")


async def main() -> None:
    """Ask three times, with one memory."""
    memory = ChatMemoryBuffer.from_defaults(token_limit=25)
    agent = FunctionAgent(llm=MockFunctionCallingLLM(response_generator=answer), tools=[order_status])
    for question in ["Where is my order?", "Thank you!", "And is my order late?"]:
        response = await agent.run(question, memory=memory)
        print(f"user: {question}\nassistant: {response}")
    print(f"{len(memory.get_all())} messages are remembered, {len(memory.get())} of them fit the token limit.")


asyncio.run(main())
