"""`trim_input` by itself, and in a run without a session that grows beyond the limit."""

import copy
from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("agents", reason="openai-agents is not installed")

from agents import Runner
from agents.run import ModelInputData
from chatring import TokenCounter, trim_messages
from chatring.openai_agents import trim_input
from openai_scripted_model import PROMPT, Item, ScriptedModel, agent_of, called, config, said, thought, tokens_of, turns
from profiles import examples
from providers import PROVIDERS, validate_openai_responses
from trimmer_options import check_refusals


def trimmed(given: list[Any], instructions: str | None = None, *args: Any, **options: Any) -> ModelInputData:
    data: Any = SimpleNamespace(model_data=ModelInputData(input=given, instructions=instructions))
    return trim_input(*args, **options)(data)


async def test_one_question_and_more_steps_than_fit() -> None:
    """The only user message that a window can begin with is the question: it is in front of the newest steps."""
    model = ScriptedModel(turns(30))
    filtered = config(call_model_input_filter=trim_input(500))
    result = await Runner.run(agent_of(model), "Where are they?", max_turns=40, run_config=filtered)
    assert len(result.to_input_list()) == 1 + 29 + 2 * (15 * 2 + 14) + 1  # the run keeps everything
    for request in model.requests:
        assert tokens_of(request, PROMPT) <= 500
        assert request[0] == {"role": "user", "content": "Where are they?"}
    assert len(model.requests[-1]) > 3


async def test_with_a_ratio_the_beginning_stays() -> None:
    moves = {}
    for ratio in (1.0, 0.7):
        model = ScriptedModel(turns(30))
        filtered = config(call_model_input_filter=trim_input(1_500, retention_ratio=ratio))
        await Runner.run(agent_of(model), "Where are they?", max_turns=40, run_config=filtered)
        pairs = zip(model.requests, model.requests[1:], strict=False)
        moves[ratio] = sum(after[: len(before)] != before for before, after in pairs)
    assert moves[1.0] > 10
    assert moves[0.7] <= 5


async def test_instructions_that_grow_take_room() -> None:
    def instructions(context: Any, agent: Any) -> str:
        return "Be kind. " * 10 * len(model.requests)

    model = ScriptedModel(turns(12))
    agent = agent_of(model).clone(instructions=instructions)
    await Runner.run(agent, "Where?", max_turns=40, run_config=config(call_model_input_filter=trim_input(700)))
    for request, prompt in zip(model.requests, model.instructions, strict=True):
        assert tokens_of(request, prompt) <= 700


async def test_instructions_that_are_over_the_limit_end_the_run_in_words() -> None:
    model = ScriptedModel(lambda given: [said("Hi")])
    agent = agent_of(model).clone(instructions="Be kind. " * 100)
    with pytest.raises(ValueError, match=r"exceeds token_limit 100: instructions 30\d, initial_token_count 0; "):
        await Runner.run(agent, "Where?", run_config=config(call_model_input_filter=trim_input(100)))
    assert model.requests == []


async def test_a_newest_step_that_is_over_the_limit_is_sent_with_its_question() -> None:
    calls = [called("find_order", number=number) for number in range(2)]
    answers: Iterator[list[Any]] = iter([[thought(), *calls], [said("It left.")]])
    model = ScriptedModel(lambda given: next(answers))
    await Runner.run(agent_of(model), "Where?", run_config=config(call_model_input_filter=trim_input(60)))
    kinds = [item.get("type", item.get("role")) for item in model.requests[-1]]
    assert kinds == ["user", "reasoning", *["function_call"] * 2, *["function_call_output"] * 2]


def test_it_is_the_window_and_changes_nothing() -> None:
    given: list[Any] = [{"role": "developer", "content": "Be short."}]
    for number in range(50):
        given += [{"role": "user", "content": f"Number {number}?"}, {"role": "assistant", "content": "Here it is."}]
    before = copy.deepcopy(given)
    beside = tokens_of([], PROMPT)
    choices: list[dict[str, Any]] = [
        {},
        {"retention_ratio": 0.7},
        {"initial_token_count": 70},
        {"counter": "cl100k_base"},
    ]
    for options in choices:
        got = trimmed(given, PROMPT, 200, **options)
        asked = {**options}
        asked["initial_token_count"] = asked.get("initial_token_count", 0) + beside
        assert got.input == trim_messages(given, 200, **asked)
        assert type(got.input) is list
        assert got.instructions == PROMPT
        assert all(any(item is each for each in given) for item in got.input)
    assert given == before
    assert trimmed([], None, 10).input == []


def test_a_measure_is_asked_about_the_instructions_too() -> None:
    given: list[Any] = [{"role": "user", "content": "Hi"} for _ in range(9)]
    assert len(trimmed(given, PROMPT, 5, measure=lambda item: 1).input) == 4
    assert len(trimmed(given, None, 5, measure=lambda item: 1).input) == 5


def test_every_request_of_random_histories_is_valid() -> None:
    for seed in range(examples(200, long=5_000)):
        random = Random(seed)
        given: list[Item] = []
        for part in PROVIDERS["openai-responses"].history(random):
            given += part
            got: Any = trimmed(
                list(given),
                PROMPT if random.random() < 0.5 else None,
                random.randrange(120, 500),
                retention_ratio=random.choice((1.0, 0.7, 0.2)),
                initial_token_count=random.randrange(20),
            ).input
            validate_openai_responses(got)


def test_bad_arguments_are_named() -> None:
    check_refusals(trim_input)


def test_a_counter_is_taken_as_it_is() -> None:
    given: list[Item] = [{"role": "user", "content": "one two three"} for _ in range(20)]
    native = trimmed(given, PROMPT, 100, counter=TokenCounter("o200k_base"))
    assert native == trimmed(given, PROMPT, 100)
