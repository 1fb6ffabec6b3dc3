"""A memory on its own: put messages one by one, and see which ones an LLM would get after each."""

from chatring.llama_index import ChatMemoryBuffer
from llama_index.core.llms import ChatMessage

chat_history = [
    ChatMessage(role="user", content="Hello, how are you?"),
    ChatMessage(role="assistant", content="I am fine, thank you."),
    ChatMessage(role="user", content="What is a ring buffer?"),
    ChatMessage(role="assistant", content="A list that forgets its oldest item when it is full."),
    ChatMessage(role="user", content="Thank you!"),
]

memory = ChatMemoryBuffer.from_defaults(token_limit=25)

for message in chat_history:
    memory.put(message)  # or memory.put_message(message)
    window = memory.get()
    print(f"{len(memory.get_all())} put, {len(window)} in the window, from: {window[0].content}")
