"""The SDK's session that has OpenAI compact a conversation, around a `ChatringSession`."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents import Runner, memory
from chatring.openai_agents import ChatringSession, trim_input
from chatring.stores import open_store
from openai_scripted_model import VERSION, ScriptedModel, agent_of, config, turns

COMPACTED = {"type": "compaction", "id": "cmp", "encrypted_content": "..."}


class Client:
    """Compacts everything to one item, and knows what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.responses = SimpleNamespace(compact=self.compact)

    async def compact(self, **request: Any) -> Any:
        self.given.append(request.get("input"))
        return SimpleNamespace(output=[COMPACTED], usage=None)


def wrapped(session: ChatringSession) -> tuple[Any, Client]:
    client = Client()
    return (
        memory.OpenAIResponsesCompactionSession(
            "ada",
            session,
            client=cast(Any, client),
            compaction_mode="input",
            should_trigger_compaction=lambda context: len(context["compaction_candidate_items"]) > 3,
        ),
        client,
    )


async def test_a_whole_history_is_compacted() -> None:
    store = open_store("memory://")
    session, client = wrapped(ChatringSession("ada", store))
    model = ScriptedModel(turns(4))
    await Runner.run(agent_of(model), "Where is it?", session=session, run_config=config())
    assert client.given
    assert store.all("ada")[0] == COMPACTED
    await Runner.run(agent_of(model), "And now?", session=session, run_config=config())
    assert COMPACTED in model.requests[4]
    store.close()


@pytest.mark.skipif(VERSION < (0, 23), reason="before 0.23 the SDK compacts away what the model has not seen")
async def test_what_the_model_has_not_seen_is_not_compacted_away() -> None:
    store = open_store("memory://")
    session, client = wrapped(ChatringSession("ada", store, 300))
    questions = [f"Where is it, {number}?" for number in range(4)]
    for question in questions:
        filtered = config(call_model_input_filter=trim_input(300))
        await Runner.run(agent_of(ScriptedModel(turns(5))), question, session=session, run_config=filtered)
    assert [item["content"] for item in store.all("ada") if item.get("role") == "user"] == questions
    assert client.given == []
    store.close()
