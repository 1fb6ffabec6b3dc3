"""A memory on its own: put a list of messages, and get the last ones that fit the token limit."""

from chatring.llama_index import ChatMemoryBuffer
from llama_index.core.llms import ChatMessage

chat_history = [
    ChatMessage(role="user", content="Hello, I would like to return my bicycle."),
    ChatMessage(role="assistant", content="I am sorry to hear that. Which order is it from?"),
    ChatMessage(role="user", content="The order is from last week."),
    ChatMessage(role="assistant", content="I have found it. Shall I send you a label?"),
    ChatMessage(role="user", content="Yes, please."),
]

memory = ChatMemoryBuffer.from_defaults(token_limit=30)
memory.put_messages(chat_history)

print(f"{len(memory.get_all())} messages, {memory.token_count()} tokens. The last ones that fit 30 tokens:")
for message in memory.get():
    print(message)
