"""Sessions of frameworks' messages: the command shows and copies them, and they come back equal."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from chatring.migration.policy import format_named
from chatring.stores import open_store
from test_cli import output, python


def of_langchain() -> list[Any]:
    from langchain_core.messages import AIMessage, HumanMessage, ToolCall, ToolMessage

    call = ToolCall(id="1", name="find", args={"order": 7}, type="tool_call")
    result = ToolMessage("It left.", tool_call_id="1")
    return [HumanMessage("Where is it?"), AIMessage("", tool_calls=[call]), result, AIMessage("On its way.")]


def of_pydantic_ai() -> list[Any]:
    from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart

    return [
        ModelRequest(parts=[UserPromptPart("Where is it?")]),
        ModelResponse(parts=[ToolCallPart("find", {"order": 7}, "1")]),
        ModelRequest(parts=[ToolReturnPart("find", "It left.", "1")]),
        ModelResponse(parts=[TextPart("On its way.")]),
    ]


def of_agent_framework() -> list[Any]:
    from agent_framework import Content, Message

    return [
        Message("user", ["Where is it?"]),
        Message("assistant", [Content.from_function_call("1", "find", arguments='{"order": 7}')]),
        Message("tool", [Content.from_function_result("1", result="It left.")]),
        Message("assistant", ["On its way."]),
    ]


# A module of each framework: the package's own name would be that of a folder of tests where it is not installed.
FORMATS: dict[str, tuple[str, Callable[[], list[Any]]]] = {
    "agent-framework": ("agent_framework.exceptions", of_agent_framework),
    "langchain": ("langchain.agents", of_langchain),
    "pydantic-ai": ("pydantic_ai.messages", of_pydantic_ai),
}


@pytest.mark.parametrize("name", FORMATS)
def test_sessions_of_a_framework(name: str, tmp_path: Path) -> None:
    module, messages_of = FORMATS[name]
    pytest.importorskip(module, reason=f"{name} is not installed")
    messages = messages_of()
    source, target = (f"sqlite:///{tmp_path}/{file}.db" for file in ("source", "target"))
    with closing(open_store(source, format=format_named(name))) as store:
        store.append("ada", messages)
    copied = output("migrate", source, target)
    assert "messages and tokens of 1 session are the same in both" in copied
    assert f"counted by: o200k_base, message, user, {name}" in copied
    window = output("window", target, "ada", "--token-limit", 300)
    assert all(said in window for said in ("Where is it?", 'find({"order": 7})', "It left.", "On its way."))
    with closing(open_store(target, format=format_named(name))) as store:
        assert list(map(_values, store.all("ada"))) == list(map(_values, messages))


def _values(message: Any) -> Any:
    return message.to_dict() if hasattr(message, "to_dict") else message


@pytest.mark.parametrize("name", FORMATS)
def test_without_the_framework(name: str, tmp_path: Path) -> None:
    module, messages_of = FORMATS[name]
    pytest.importorskip(module, reason=f"{name} is not installed: no session of it can be made")
    url = f"sqlite:///{tmp_path}/chat.db"
    with closing(open_store(url, format=format_named(name))) as store:
        store.append("ada", messages_of())
    package = module.partition(".")[0]
    program = f"import sys; sys.modules[{package!r}] = None; from chatring.__main__ import main; main()"
    done = python("-c", program, "window", url, "ada", "--token-limit", "300")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"Error: this needs {package}: pip install 'chatring[{name}]'\n"
