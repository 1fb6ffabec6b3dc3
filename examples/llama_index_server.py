"""A server with many users: one store, and a memory for every request.

The counts live with the histories in the store, so a memory costs next to nothing to make. The store keeps the sessions
that were used last; what leaves goes to `on_evict`, where a server would write it to its database.
"""

import asyncio

from chatring.llama_index import ChatMemoryBuffer, RingChatStore
from llama_index.core.llms import ChatMessage, MockLLM

archive: dict[str, list[ChatMessage]] = {}


def keep(session: str, messages: list[ChatMessage]) -> None:
    """Take what the store lets go. It must not block: a server would put it into a queue."""
    archive.setdefault(session, []).extend(messages)


store = RingChatStore(max_sessions=2, on_evict=keep)
llm = MockLLM(max_tokens=6)


async def handle(session: str, text: str) -> str:
    """Answer one request."""
    if session in archive:  # back after a while: what left comes before what has come since
        store.set_messages(session, archive.pop(session) + store.get_messages(session))
    memory = ChatMemoryBuffer(token_limit=40, chat_store=store, chat_store_key=session)
    await memory.aput(ChatMessage(role="user", content=text))
    window = await memory.aget()
    response = await llm.achat(window)
    await memory.aput(response.message)
    return f"{session}: {len(window)} of {len(memory.get_all()) - 1} messages sent to the LLM"


async def main() -> None:
    """Serve requests of different users at the same time, and of the same user one after the other."""
    for n in range(4):
        texts = [f"This is request {n + 1}, and it is about my order.", f"Question {n + 1}: when do you open?"]
        for line in await asyncio.gather(handle("ann", texts[0]), handle("bob", texts[1])):
            print(line)
    print(await handle("cem", "Hello?"))
    print(f"in the store: {store.get_keys()}, archived: {list(archive)}")
    print(await handle("ann", "Do you still know me?"))
    print(f"in the store: {store.get_keys()}, archived: {list(archive)}")


asyncio.run(main())
