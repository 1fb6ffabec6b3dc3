"""The command: its output is compared with tiktoken, the measures and the window rule."""

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import IO, Any, ClassVar, TypeAlias

import pytest
import tiktoken
from chatring import MessageRing, TokenCounter
from chatring.cli import chatring
from chatring.cli.terminal import amount, duration, headline, one_line, role_of
from chatring.stores import Record as Stored
from chatring.stores import open_store
from chatring.stores.sql import SQLStore
from click.testing import CliRunner, Result
from reading import read
from reference import text_of, tiktoken_count, window_start

Record: TypeAlias = dict[str, Any]

EXAMPLE = Path(__file__).parents[1] / "examples" / "support-conversation.jsonl"
# Whatever the tests run in: output 100 columns wide and without colours.
ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": None, "FORCE_COLOR": None, "TTY_COMPATIBLE": None, "TERM": "xterm"}

TALK: list[Record] = [
    {"role": "system", "content": "You sell tea."},
    {"role": "user", "content": "Is there any Assam left?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "stock", "arguments": '{"tea": "Assam"}'}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": '{"grams": 1250, "warehouse": "north"}'},
    {"role": "assistant", "content": "Yes, 1,250 grams."},
    {"role": "user", "content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "This one? 🍵"}]},
]
OTHER: list[Record] = [{"role": "user", "content": "Good evening."}, {"role": "assistant", "content": "Good evening!"}]


# Before 8.2 click's runner has to be told to keep standard error apart.
SEPARATE: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}


def run(*arguments: object, stdin: bytes | None = None, **environment: str) -> Result:
    runner = CliRunner(env={**ENVIRONMENT, **environment}, **SEPARATE)
    return runner.invoke(chatring, [str(a) for a in arguments], input=stdin)


def output(*arguments: object, stdin: bytes | None = None, **environment: str) -> str:
    """Run the command, which must succeed and say nothing on standard error."""
    result = run(*arguments, stdin=stdin, **environment)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refusal(*arguments: object, stdin: bytes | None = None) -> str:
    """Run the command, which must fail with one line on standard error and nothing else."""
    result = run(*arguments, stdin=stdin)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    return result.stderr


def records(*arguments: object, stdin: bytes | None = None) -> list[Record]:
    return [json.loads(line) for line in output(*arguments, "--json", stdin=stdin).splitlines()]


def record(*arguments: object, stdin: bytes | None = None) -> Record:
    (only,) = records(*arguments, stdin=stdin)
    return only


def lines(values: Sequence[object]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def cells(text: str) -> list[list[str]]:
    """Return the words of each line."""
    return [line.split() for line in text.splitlines()]


def tokens_of(messages: Sequence[Record], encoding: tiktoken.Encoding, measure: str = "message") -> int:
    """Return the tokens of successive messages of OpenAI's chat, by a measure."""
    if measure == "text":
        return tiktoken_count(encoding)(" ".join(text_of(message["content"]) for message in messages))
    return sum(sent_tokens(message, encoding) for message in messages)


def sent_tokens(message: Record, encoding: tiktoken.Encoding) -> int:
    sent = read(message)
    assert sent.provider == "openai-chat"
    extras = sent.extras
    constants = 4 + extras.named + 4 * (extras.calls + extras.results) + 19 * (extras.calls > 1) + 765 * extras.images
    return constants + sum(len(encoding.encode(text, disallowed_special=())) for text in sent.texts)


def expected_window(
    messages: Sequence[Record],
    encoding: tiktoken.Encoding,
    limit: int,
    initial: int = 0,
    *,
    measure: str = "message",
    **rule: Any,
) -> Record:
    """Return what the command must say of a window: LlamaIndex's with the measure text, otherwise a ring's."""
    if measure == "text":
        totals = [tokens_of(messages[index:], encoding, measure) for index in range(len(messages))]
        head, question, start = 0, None, window_start(totals, [message["role"] for message in messages], limit, initial)
        rule = {"start_on": None, "include_system": False}
    else:
        ring: MessageRing[Record] = MessageRing(limit, encoding.name, **rule)
        ring.put_messages(messages)
        window = ring.window(initial_token_count=initial)
        head, question, start = window.head, window.question, window.start
    leading = messages[:head] if rule.get("include_system", True) else messages[start - head : start]
    sent = [*leading, *([] if question is None else [messages[question]]), *messages[start:]]
    return {
        "token_limit": limit,
        "initial_token_count": initial,
        "encoding": encoding.name,
        "measure": measure,
        "start_on": "user",
        "include_system": True,
        "retention_ratio": 1.0,
        **rule,
        "messages": sent,
        "window": {
            "head": head,
            "question": question,
            "start": start,
            "messages": len(sent),
            "tokens": tokens_of(sent, encoding, measure),
        },
        "history": {"messages": len(messages), "tokens": tokens_of(messages, encoding, measure)},
    }


def without_times(text: str) -> str:
    return re.sub("\ntime: .*", "", text)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    path.write_bytes(lines(TALK))
    return path


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    path = tmp_path / "talks.jsonl"
    path.write_bytes(lines([{"id": 7, "messages": TALK}, {"messages": OTHER}]))
    return path


@pytest.fixture(scope="module")
def example() -> list[Record]:
    with EXAMPLE.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class TestWindow:
    @pytest.mark.parametrize(
        ("options", "rule"),
        [
            ((), {}),
            (("--measure", "message"), {}),
            (("--measure", "text"), {"measure": "text"}),
            (("--retention-ratio", 0.5), {"retention_ratio": 0.5}),
            (("--start-on", "none"), {"start_on": None}),
            (("--start-on", "user", "--no-include-system"), {"include_system": False}),
            (
                ("--start-on", "none", "--no-include-system", "--retention-ratio", 0.7),
                {"start_on": None, "include_system": False, "retention_ratio": 0.7},
            ),
        ],
        ids=str,
    )
    @pytest.mark.parametrize(("limit", "initial"), [(240, 0), (1500, 0), (3000, 0), (3000, 1500), (100_000, 0)])
    def test_json_is_the_window_rule(
        self,
        limit: int,
        initial: int,
        options: tuple[object, ...],
        rule: Record,
        example: list[Record],
        o200k: tiktoken.Encoding,
    ) -> None:
        found = record("window", EXAMPLE, "--token-limit", limit, "--initial-token-count", initial, *options)
        assert found == expected_window(example, o200k, limit, initial, **rule)

    def test_options_are_refused_with_a_sentence(self, talk: Path, stored: str) -> None:
        told = 'Error: measure="text" is LlamaIndex\'s rule: it goes with start_on=None, include_system=False and '
        for option in (("--start-on", "user"), ("--include-system",), ("--retention-ratio", 0.7)):
            assert refusal("window", talk, "--token-limit", 99, "--measure", "text", *option).startswith(told)
        assert record("window", talk, "--token-limit", 99, "--measure", "text", "--start-on", "none")
        assert "retention_ratio must be" in refusal("window", talk, "--token-limit", 99, "--retention-ratio", "nan")
        options = ("--start-on", "none", "--retention-ratio", 1)
        assert "was counted by" in refusal("window", stored, "ada", "--token-limit", 99, *options)

    @pytest.mark.parametrize("command", ["window", "replay"])
    def test_a_head_that_is_too_long(self, command: str, talk: Path, o200k: tiktoken.Encoding) -> None:
        head = tokens_of(TALK[:1], o200k)
        told = f"Error: the {head} tokens of the system messages and the initial token count of 0 exceed token_limit "
        assert refusal(command, talk, "--token-limit", head - 1).startswith(f"{told}{head - 1}; ")
        assert output(command, talk, "--token-limit", head - 1, "--no-include-system")

    @pytest.mark.parametrize("choice", [("--encoding", "cl100k_base"), ("--model", "gpt-4")])
    def test_encoding_and_model(
        self, choice: tuple[str, str], example: list[Record], cl100k: tiktoken.Encoding
    ) -> None:
        found = record("window", EXAMPLE, "--token-limit", 2000, *choice)
        assert found == expected_window(example, cl100k, 2000)

    def test_json_is_what_a_ring_gives(self, example: list[Record]) -> None:
        ring: MessageRing[Record] = MessageRing(2000)
        ring.put_messages(example)
        found = record("window", EXAMPLE, "--token-limit", 2000)
        assert found["messages"] == ring.get()
        assert found["history"] == {"messages": len(ring), "tokens": ring.token_count()}
        assert (found["encoding"], found["measure"]) == (ring.counter.name, ring.measure)

    def test_messages_one_a_line(self, talk: Path, o200k: tiktoken.Encoding) -> None:
        shown = output("window", talk, "--token-limit", tokens_of(TALK[1:], o200k), "--no-include-system")
        rows = cells(shown)
        assert rows[0] == ["index", "role", "tokens", "content"]
        assert rows[1] == ["1", "user", "10", "Is", "there", "any", "Assam", "left?"]
        assert [row[0] for row in rows[1:6]] == ["1", "2", "3", "4", "5"]
        assert 'stock({"tea": "Assam"})' in shown
        assert "[image_url] This one? 🍵" in shown

    def test_head_and_question_are_marked(self, o200k: tiktoken.Encoding) -> None:
        talk = TALK[:5]
        limit = tokens_of([*talk[:2], talk[4]], o200k)
        rows = cells(output("window", "-", "--token-limit", limit, stdin=lines(talk)))
        assert rows[0] == ["index", "role", "tokens", "content"]
        assert [row[:3] for row in rows[1:4]] == [
            ["0", "head", "system"],
            ["1", "question", "user"],
            ["4", "assistant", "12"],
        ]
        assert rows[6] == ["window", "3", str(limit), "4"]
        assert " ".join(rows[-2]) == "start on: user; leading system messages: always in it; retention ratio: 1"
        options = ("--start-on", "none", "--no-include-system", "--retention-ratio", 0.75)
        rows = cells(output("window", "-", "--token-limit", limit, *options, stdin=lines(talk)))
        assert " ".join(rows[-2]) == "start on: none; leading system messages: as others; retention ratio: 0.75"

    @pytest.mark.parametrize("measure", ["message", "text"])
    def test_each_message_has_its_own_tokens(self, measure: str, talk: Path, o200k: tiktoken.Encoding) -> None:
        rows = cells(output("window", talk, "--token-limit", 1000, "--measure", measure))[1 : len(TALK) + 1]
        rows[0] = [cell for cell in rows[0] if cell != "head"]
        assert [row[1] for row in rows] == [message["role"] for message in TALK]
        assert [int(row[2]) for row in rows] == [tokens_of([message], o200k, measure) for message in TALK]

    def test_what_messages_cost_adds_up(self, example: list[Record]) -> None:
        found = record("window", EXAMPLE, "--token-limit", 3000)
        rows = cells(output("window", EXAMPLE, "--token-limit", 3000))
        size = len(found["messages"])
        assert size > 3
        costs = [int(row[3 if row[1] == "head" else 2]) for row in rows[1 : size + 1]]
        history = found["history"]["tokens"]
        assert rows[-7] == ["window", str(size), f"{sum(costs):,}", str(found["window"]["start"])]
        assert rows[-6] == ["left", "out", str(len(example) - size), f"{history - sum(costs):,}"]
        assert rows[-5] == ["history", str(len(example)), f"{history:,}"]

    @pytest.mark.parametrize("measure", ["message", "text"])
    def test_summary(self, measure: str, talk: Path, o200k: tiktoken.Encoding) -> None:
        history, window = tokens_of(TALK, o200k, measure), tokens_of(TALK[5:], o200k, measure)
        options = ("--initial-token-count", 1, "--measure", measure, "--no-include-system")
        rows = cells(output("window", talk, "--token-limit", window + 1, *options))
        assert rows[-7] == ["window", "1", str(window), "5"]
        assert rows[-6] == ["left", "out", "5", str(history - window)]
        assert rows[-5] == ["history", "6", str(history)]
        limit = f"limit: {window + 1} tokens of o200k_base, 1 of them already spent; measure: {measure}"
        assert " ".join(rows[-3]) == limit
        time = r"time: (\S+ [µm]?s) to count and find, (\S+ [µm]?s) again; encoding loaded in (\S+ [µm]?s)"
        assert (found := re.fullmatch(time, " ".join(rows[-1])))
        assert all(float(duration.split()[0]) > 0 for duration in found.groups())

    def test_note_on_what_does_not_count(self, talk: Path) -> None:
        note = "note: tool calls do not count; a message without content counts as the text None\n"
        assert output("window", talk, "--token-limit", 1000, "--measure", "text").endswith(note)
        assert note not in output("window", talk, "--token-limit", 10, "--measure", "text")
        assert note not in output("window", talk, "--token-limit", 1000)

    def test_an_unknown_measure(self, talk: Path) -> None:
        result = run("window", talk, "--token-limit", 9, "--measure", "words")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "'words' is not one of 'message', 'text'" in result.stderr

    def test_smallest_window_that_does_not_fit(self, talk: Path) -> None:
        told = "\nthe smallest window exceeds the limit; it is the window all the same\n"
        options = ("--no-include-system", "--token-limit")
        assert told in output("window", talk, *options, 2)
        # It is the sum with the initial count that must fit.
        tokens = record("window", talk, *options, 2)["window"]["tokens"]
        assert told not in output("window", talk, *options, tokens)
        assert told in output("window", talk, *options, tokens, "--initial-token-count", 1)

    def test_standard_input(self, o200k: tiktoken.Encoding) -> None:
        found = record("window", "-", "--token-limit", 20, stdin=lines(TALK))
        assert found == expected_window(TALK, o200k, 20)

    def test_blank_lines_byte_order_mark_and_carriage_returns(self, o200k: tiktoken.Encoding) -> None:
        text = b"\xef\xbb\xbf" + lines(TALK).replace(b"\n", b"\r\n \r\n")
        assert record("window", "-", "--token-limit", 20, stdin=text) == expected_window(TALK, o200k, 20)

    def test_no_newline_at_the_end(self, o200k: tiktoken.Encoding) -> None:
        text = lines(TALK).rstrip(b"\n")
        assert record("window", "-", "--token-limit", 20, stdin=text) == expected_window(TALK, o200k, 20)

    def test_messages_without_content_are_handed_on_as_they_are(self) -> None:
        call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
        item = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
        gemini = {"role": "model", "parts": [{"text": "Yes."}]}
        for message, role, said in (
            (call, "assistant", "f({})"),
            (item, "function_call", "f({})"),
            (gemini, "model", "Yes."),
        ):
            found = record("window", "-", "--token-limit", 99, stdin=lines([TALK[1], message]))
            assert found["messages"] == [TALK[1], message]
            assert list(record("stats", "-", stdin=lines([TALK[1], message]))["roles"]) == ["user", role]
            assert f" {said}" in output("window", "-", "--token-limit", 99, stdin=lines([TALK[1], message]))

    def test_conversation_without_messages(self) -> None:
        found = record("window", "-", "--token-limit", 9, stdin=b'{"messages": []}')
        assert found["messages"] == []
        assert found["window"] == {"head": 0, "question": None, "start": 0, "messages": 0, "tokens": 0}
        assert found["history"] == {"messages": 0, "tokens": 0}
        assert ["history", "0", "0"] in cells(output("window", "-", "--token-limit", 9, stdin=b'{"messages": []}'))


class TestForms:
    """That the command reads files by their bytes; `test_conversation.py` has the forms."""

    @pytest.mark.parametrize(
        "data",
        [
            json.dumps(TALK).encode(),
            json.dumps({"model": "gpt-4o", "messages": TALK}, indent=2).encode(),
            lines(TALK).decode().encode("utf-16"),
            gzip.compress(lines(TALK)),
            gzip.compress(json.dumps([TALK], indent=2).encode("utf-16")),
        ],
        ids=["an array", "a request", "utf-16", "gzip", "all at once"],
    )
    def test_file_and_standard_input(self, data: bytes, tmp_path: Path, o200k: tiktoken.Encoding) -> None:
        path = tmp_path / "talk"
        path.write_bytes(data)
        assert record("window", path, "--token-limit", 20) == expected_window(TALK, o200k, 20)
        assert record("window", "-", "--token-limit", 20, stdin=data) == expected_window(TALK, o200k, 20)
        assert record("stats", path)["history"]["messages"] == len(TALK)

    @pytest.mark.parametrize("command", [("window", "--token-limit", "1000"), ("stats",)])
    @pytest.mark.parametrize("as_json", [[], ["--json"]])
    def test_what_is_left_out_is_told(self, command: tuple[str, ...], as_json: list[str]) -> None:
        events = [{"type": "summary"}, {"type": "summary"}, {"type": "\x1b[2J", "content": "a"}]
        envelopes = [{"type": message["role"], "message": message} for message in TALK]
        result = run(*command, "-", *as_json, stdin=lines([{"title": "Tea"}, *events, *envelopes]))
        told = "Left out because they are not messages: header (1), summary (2), \\x1b[2J (1)\n"
        assert (result.exit_code, result.stderr) == (0, told)
        plain = output(*command, "-", *as_json, stdin=lines(TALK))
        assert without_times(result.stdout) == without_times(plain)

    @pytest.mark.parametrize("command", [("window", "--token-limit", "1000"), ("stats",)])
    def test_damaged_lines_are_skipped_and_counted(self, command: tuple[str, ...], stored: str) -> None:
        plain = output(*command, "-", "--skip-invalid", stdin=lines(TALK))
        for damaged, number in ((b'{"role": "us', "1 damaged line"), (b"\xff\n" * 1234, "1,234 damaged lines")):
            data = lines(TALK) + damaged
            reason = refusal(*command, "-", stdin=data).removeprefix("Error: standard input: ")
            result = run(*command, "-", "--skip-invalid", stdin=data)
            assert (result.exit_code, result.stderr) == (0, f"Skipped {number}: {reason}")
            assert without_times(result.stdout) == without_times(plain)
        told = "Error: --skip-invalid is for files; a store has no damaged lines\n"
        assert refusal(*command, stored, "ada", "--skip-invalid") == told


class TestSeveralConversations:
    def test_one_row_for_each(self, talks: Path, o200k: tiktoken.Encoding) -> None:
        rows = cells(output("window", talks, "--token-limit", 20))
        assert " ".join(rows[0]) == "conversation messages tokens window messages window tokens left out"
        for row, number, talk in ((rows[1], 1, TALK), (rows[2], 2, OTHER)):
            expected = expected_window(talk, o200k, 20)
            history, window = expected["history"], expected["window"]
            left_out = history["messages"] - window["messages"]
            numbers = (history["messages"], history["tokens"], window["messages"], window["tokens"], left_out)
            assert [int(cell.replace(",", "")) for cell in row] == [number, *numbers]
        assert " ".join(rows[4]) == "limit: 20 tokens of o200k_base; measure: message"

    def test_how_many_exceed_the_limit(self, talks: Path) -> None:
        told = "in 2 conversations the smallest window exceeds the limit; it is the window all the same"
        assert told in output("window", talks, "--token-limit", 1, "--no-include-system")

    def test_json_has_a_line_for_each(self, talks: Path, o200k: tiktoken.Encoding) -> None:
        expected = [
            {"conversation": 1, **expected_window(TALK, o200k, 20)},
            {"conversation": 2, **expected_window(OTHER, o200k, 20)},
        ]
        assert records("window", talks, "--token-limit", 20) == expected

    def test_one_is_picked(self, talks: Path, o200k: tiktoken.Encoding) -> None:
        found = record("window", talks, "--token-limit", 20, "--conversation", 2)
        assert found == {"conversation": 2, **expected_window(OTHER, o200k, 20)}
        rows = cells(output("window", talks, "--token-limit", 20, "--conversation", 2))
        assert rows[0] == ["conversation", "2"]
        assert rows[2][:3] == ["0", "user", "7"]

    def test_concatenated_they_are_one_history(self, talks: Path, o200k: tiktoken.Encoding) -> None:
        found = record("window", talks, "--token-limit", 20, "--concatenate")
        assert found == expected_window([*TALK, *OTHER], o200k, 20)

    def test_a_single_one_is_shown_like_messages(self, talk: Path) -> None:
        found = record("window", "-", "--token-limit", 20, stdin=lines([{"messages": TALK}]))
        assert found == record("window", talk, "--token-limit", 20)
        assert record("window", talk, "--token-limit", 20, "--conversation", 1) == found
        assert record("window", talk, "--token-limit", 20, "--concatenate") == found

    def test_whole_conversations_concatenated(
        self, source: str, conversations_file: Path, history: list[Record], o200k: tiktoken.Encoding
    ) -> None:
        found = record("window", conversations_file, "--concatenate", "--token-limit", 3000)
        assert found == expected_window(history, o200k, 3000)
        assert found["history"]["messages"] == len(history) == {"shipped": 402, "recorded": 2658}[source]
        window = found["window"]
        assert window["tokens"] <= 3000 < tokens_of(history[:1] + history[window["start"] - 10 :], o200k)

        rows = cells(output("window", conversations_file, "--concatenate", "--token-limit", 3000))
        assert ["history", f"{len(history):,}", f"{found['history']['tokens']:,}"] in rows
        totals = ["window", str(len(found["messages"])), f"{window['tokens']:,}", f"{window['start']:,}"]
        assert totals in rows


class TestReplay:
    def test_table(self, example: list[Record]) -> None:
        shown = output("replay", EXAMPLE, "--token-limit", 2000, "--token-limit", 3000, "--retention-ratio", 0.7)
        rows = cells(shown)
        tokens = MessageRing[Record]().count
        total = sum(map(tokens, example))
        assert shown.startswith(f"{EXAMPLE.name}, 88 messages, {total:,} tokens of o200k_base, 39 calls\n")
        assert [row[0] for row in rows[4:10]] == ["2,000", "sliding", "ratio", "3,000", "sliding", "ratio"]
        found = {(r["token_limit"], r["window"]): r for r in self.rows("--token-limit", 2000, "--token-limit", 3000)}
        of = found[3000, "ratio 0.7"]
        cost, share = f"{of['cost'] / 39:,.0f}", f"{of['cost_of_sliding']:.0%}"
        cached = f"{of['cached_share']:.0%}"
        assert rows[9] == [
            "ratio",
            "0.7",
            f"{of['tokens_sent']:,}",
            cached,
            cost,
            share,
            str(of["cuts"]),
            "0",
            "0",
            "0",
        ]
        assert shown.endswith("cost: input tokens at the full price; a cached one is 0.1, from 1,024 tokens on\n")

    def rows(self, *options: object) -> list[Record]:
        return records("replay", EXAMPLE, "--retention-ratio", 0.7, *options)

    def test_json_has_the_messages_of_each_call(self, example: list[Record], o200k: tiktoken.Encoding) -> None:
        sliding, of = self.rows("--token-limit", 2000, "--initial-token-count", 100)
        assert (sliding["retention_ratio"], of["retention_ratio"]) == (None, 0.7)
        assert of["calls"] == len(of["requests"]) == 39
        for request in of["requests"]:
            end = request["answer"]
            assert example[end]["role"] == "assistant"
            expected = expected_window(example[:end], o200k, 2000, 100, retention_ratio=0.7)["window"]
            assert [request[key] for key in ("head", "question", "start")] == [
                expected[key] for key in ("head", "question", "start")
            ]
            assert request["tokens"] == expected["tokens"] + 100
        assert of["tokens_sent"] == sum(request["tokens"] for request in of["requests"])
        assert of["tokens_cached"] == sum(request["cached"] for request in of["requests"])
        assert of["cost"] == pytest.approx(of["tokens_sent"] - 0.9 * of["tokens_cached"], abs=0.1)
        assert (of["invalid"], of["lost_question"], of["lost_prompt"]) == (0, 0, 0)
        assert sliding["invalid"] == sum(sliding["invalid_by_reason"].values()) > 0
        dear = self.rows("--token-limit", 2000, "--cached-price", 0.5, "--write-price", 1.25, "--cache-minimum", 0)[1]
        assert dear["cost"] == pytest.approx(1.25 * dear["tokens_sent"] - 0.75 * dear["tokens_cached"], abs=0.1)
        assert dear["tokens_cached"] > self.rows("--token-limit", 2000)[1]["tokens_cached"]

    def test_several_conversations(self, talks: Path) -> None:
        # The picture on the last message of the first is not a call; two calls and one.
        assert [found["calls"] for found in records("replay", talks, "--token-limit", 999)] == [3] * 4
        found = records("replay", talks, "--token-limit", 999, "--retention-ratio", 1)[1]
        assert [(request["conversation"], request["answer"]) for request in found["requests"]] == [
            (1, 2),
            (1, 4),
            (2, 1),
        ]
        found = records("replay", talks, "--token-limit", 999, "--conversation", 2)[0]
        assert [request["answer"] for request in found["requests"]] == [1]
        found = records("replay", talks, "--token-limit", 999, "--concatenate")[0]
        assert [request["answer"] for request in found["requests"]] == [2, 4, 7]

    def test_concatenated_they_have_one_prompt(self) -> None:
        talk = [{"role": "system", "content": "You sell tea."}, *OTHER]
        other = [{"role": "system", "content": "You sell coffee."}, *OTHER]
        data = lines([{"messages": talk}, {"messages": talk}, {"messages": other}])
        found = records("replay", "-", "--token-limit", 999, "--concatenate", stdin=data)[0]
        assert [request["answer"] for request in found["requests"]] == [2, 4, 7]

    def test_page(self, tmp_path: Path) -> None:
        path = tmp_path / "page.html"
        shown = output("replay", EXAMPLE, "--token-limit", 3000, "--html", path)
        assert shown == output("replay", EXAMPLE, "--token-limit", 3000)
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<!DOCTYPE html>\n")
        assert text.endswith("</html>\n")
        assert f"<h1>What each model call would have been sent: {EXAMPLE.name}</h1>" in text
        assert "Lindenkorb" not in text  # of the system prompt
        told = refusal("replay", EXAMPLE, "--token-limit", 3000, "--html", tmp_path / "no" / "page.html")
        assert told == f"Error: {tmp_path / 'no' / 'page.html'}: No such file or directory\n"

    def test_refusals(self, talks: Path, stored: str) -> None:
        options = ("--token-limit", 999)
        told = "Error: no model call in it: no assistant's message follows a message that is not the system's\n"
        assert refusal("replay", "-", *options, stdin=lines(TALK[:2])) == told
        assert refusal("replay", stored, *options).startswith("Error: chatring replay is for files; ")
        told = "Error: --conversation and --concatenate exclude each other\n"
        assert refusal("replay", talks, *options, "--conversation", 1, "--concatenate") == told
        told = "Error: no conversation 3: the file has 2, numbered from 1\n"
        assert refusal("replay", talks, *options, "--conversation", 3) == told
        assert refusal("replay", talks, *options, "--write-price", "inf") == "Error: a price must be a finite number\n"
        assert refusal("replay", "no such file", "--token-limit", 0) == "Error: token_limit must be at least 1, got 0\n"
        assert "retention_ratio must be" in refusal("replay", talks, *options, "--retention-ratio", "nan")
        assert run("replay", talks).stderr.endswith("Missing option '--token-limit'.\n")


class TestStats:
    @pytest.mark.parametrize("measure", ["message", "text"])
    def test_json(self, measure: str, example: list[Record], o200k: tiktoken.Encoding) -> None:
        found = record("stats", EXAMPLE, "--measure", measure)
        tokens = [tokens_of([message], o200k, measure) for message in example]
        roles: dict[str, dict[str, int]] = {}
        for message, count in zip(example, tokens, strict=True):
            role = roles.setdefault(message["role"], {"messages": 0, "tokens": 0})
            role["messages"] += 1
            role["tokens"] += count
        assert (found["encoding"], found["measure"]) == ("o200k_base", measure)
        assert found["conversations"] == 1
        assert found["history"] == {"messages": len(example), "tokens": tokens_of(example, o200k, measure)}
        if measure == "message":
            assert sum(tokens) == found["history"]["tokens"]
        assert found["roles"] == roles
        longest = sorted(range(len(example)), key=lambda index: (-tokens[index], index))[:5]
        assert [row["index"] for row in found["longest"]] == longest
        assert [row["tokens"] for row in found["longest"]] == [tokens[index] for index in longest]
        assert [row["role"] for row in found["longest"]] == [example[index]["role"] for index in longest]
        for row in found["longest"]:
            content = example[row["index"]]["content"]
            if isinstance(content, str):  # tool calls are shown after it
                assert row["beginning"].startswith(" ".join(content.split())[:200])

    @pytest.mark.parametrize("measure", ["message", "text"])
    def test_growth_is_that_of_the_first_messages(
        self, measure: str, example: list[Record], o200k: tiktoken.Encoding
    ) -> None:
        growth = record("stats", EXAMPLE, "--measure", measure)["growth"]
        assert len(growth) == 12
        assert growth[-1]["messages"] == len(example)
        for row in growth:
            assert row["tokens"] == tokens_of(example[: row["messages"]], o200k, measure)

    def test_several_conversations_are_taken_together(self, talks: Path, o200k: tiktoken.Encoding) -> None:
        found = record("stats", talks)
        assert found["conversations"] == 2
        assert found["history"] == {"messages": 8, "tokens": tokens_of([*TALK, *OTHER], o200k)}
        assert found["roles"]["user"]["messages"] == 3
        # The messages of the same length come in their order.
        places = [(row["conversation"], row["index"]) for row in found["longest"]]
        every = [(number, i, m) for number, talk in enumerate((TALK, OTHER), 1) for i, m in enumerate(talk)]
        every.sort(key=lambda place: -tokens_of([place[2]], o200k))
        assert places == [(number, index) for number, index, _ in every[:5]]

    def test_tables_and_chart(self, talks: Path) -> None:
        found = record("stats", talks)
        shown = output("stats", talks)
        rows = cells(shown)
        assert shown.startswith(
            f"2 conversations, 8 messages, {found['history']['tokens']} tokens of o200k_base; measure: message\n"
        )
        assert ["role", "messages", "tokens", "tokens/message"] in rows
        tokens = found["roles"]["user"]["tokens"]
        assert ["user", "3", str(tokens), f"{tokens / 3:.1f}"] in rows
        longest = rows.index(["longest", "messages"])
        assert rows[longest + 1] == ["conversation", "index", "role", "tokens", "content"]
        assert rows[longest + 2][:3] == ["1", "5", "user"]  # with an image
        chart = rows[rows.index(["tokens", "over", "the", "conversation"]) + 2 :]
        assert [[int(row[0]), int(row[1])] for row in chart] == [[g["messages"], g["tokens"]] for g in found["growth"]]
        total = found["history"]["tokens"]
        assert ["".join(row[2:]) for row in chart] == ["█" * round(40 * g["tokens"] / total) for g in found["growth"]]

    def test_one_conversation_has_no_number(self, talk: Path) -> None:
        shown = output("stats", talk, "--model", "gpt-4", "--measure", "text")
        assert shown.startswith("6 messages, ")
        assert shown.splitlines()[0].endswith(" tokens of cl100k_base; measure: text")
        assert "conversation " not in shown

    def test_conversation_without_messages(self) -> None:
        assert output("stats", "-", stdin=b'{"messages": []}').startswith(
            "0 messages, 0 tokens of o200k_base; measure: message\n"
        )
        found = record("stats", "-", stdin=b'{"messages": []}')
        assert (found["roles"], found["longest"], found["growth"]) == ({}, [], [])


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """The URL of a store with the sessions "ada" and, counted as LlamaIndex does, "texts"."""
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    with contextlib.closing(open_store(url)) as store:
        store.append("ada", TALK)
        store.replace("nobody", [])
    with contextlib.closing(open_store(url, counter="cl100k_base", measure="text")) as store:
        store.append("texts", [Stored(message["role"], text_of(message["content"])) for message in TALK])
    return url


class TestSessionOfAStore:
    TEXTS: ClassVar = [{"role": message["role"], "content": text_of(message["content"])} for message in TALK]

    @pytest.mark.parametrize(
        ("options", "rule"),
        [
            ((), {}),
            (("--retention-ratio", 0.5), {"retention_ratio": 0.5}),
            (("--no-include-system",), {"include_system": False}),
            (("--measure", "message", "--encoding", "o200k_base", "--start-on", "user"), {}),
        ],
        ids=str,
    )
    @pytest.mark.parametrize(("limit", "initial"), [(60, 0), (60, 15), (850, 0), (2000, 0)])
    def test_window(
        self, stored: str, limit: int, initial: int, options: tuple[object, ...], rule: Record, o200k: tiktoken.Encoding
    ) -> None:
        found = record("window", stored, "ada", "--token-limit", limit, "--initial-token-count", initial, *options)
        assert found == {"session": "ada", **expected_window(TALK, o200k, limit, initial, **rule)}

    @pytest.mark.parametrize(("limit", "initial"), [(1, 0), (20, 0), (20, 15), (1000, 0)])
    def test_window_of_texts(self, stored: str, limit: int, initial: int, cl100k: tiktoken.Encoding) -> None:
        expected = {"session": "texts", **expected_window(self.TEXTS, cl100k, limit, initial, measure="text")}
        for options in ((), ("--measure", "text"), ("--counter", "cl100k_base")):
            found = record(
                "window", stored, "texts", "--token-limit", limit, "--initial-token-count", initial, *options
            )
            assert found == expected

    def test_only_the_window_is_read(self, stored: str) -> None:
        path = stored.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            # Reading one of these rows fails.
            connection.execute("UPDATE chatring_message SET body = 'nothing' WHERE seq BETWEEN 0 AND 4")
        assert record("window", stored, "ada", "--token-limit", 790)["messages"] == [TALK[0], TALK[5]]
        assert refusal("stats", stored, "ada")

    def test_summary(self, stored: str, o200k: tiktoken.Encoding) -> None:
        rows = cells(output("window", stored, "ada", "--token-limit", 850, "--initial-token-count", 1))
        assert rows[0] == ["index", "role", "tokens", "content"]
        assert rows[1][:4] == ["0", "head", "system", str(tokens_of(TALK[:1], o200k))]
        assert rows[-5] == ["history", "6", str(tokens_of(TALK, o200k))]
        assert rows[-2][:3] == ["start", "on:", "user;"]
        assert re.fullmatch(r"time: \S+ [µm]?s to connect and read, \S+ [µm]?s to read again", " ".join(rows[-1]))

    def test_stats(self, stored: str, talk: Path) -> None:
        assert record("stats", stored, "ada") == record("stats", talk)
        assert output("stats", stored, "ada").startswith("6 messages, ")
        as_stored = ("--measure", "text", "--encoding", "cl100k_base")
        for found, of_file in (
            (record("stats", stored, "ada", *as_stored), record("stats", talk, *as_stored)),
            (record("stats", stored, "texts"), record("stats", talk, *as_stored)),
        ):
            for longest in (found["longest"], of_file["longest"]):  # which shows tool calls, and other parts
                for message in longest:
                    del message["beginning"]
            assert found == of_file

    def test_session_without_messages(self, stored: str) -> None:
        found = record("window", stored, "nobody", "--token-limit", 9)
        assert (found["messages"], found["history"]) == ([], {"messages": 0, "tokens": 0})
        assert output("stats", stored, "nobody").startswith("0 messages, ")

    def test_session_of_a_counter_that_only_its_program_has(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'words.db'}"
        with contextlib.closing(open_store(url, counter=lambda text: text.split(), counter_name="words")) as store:
            store.append("ada", TALK)
        told = "Error: session 'ada' was counted by 'words, message, user', which only the program that wrote it has"
        assert refusal("window", url, "ada", "--token-limit", 9, "--encoding", "o200k_base") == f"{told}\n"
        assert refusal("stats", url, "ada") == f"{told}; say how to count it: --encoding NAME\n"
        assert record("stats", url, "ada", "--encoding", "o200k_base")["history"]["messages"] == 6
        assert records("sessions", url)[0]["policy"] == "words, message, user"
        pruned = record("prune", url, "--max-messages", 1)
        assert pruned["not_trimmed"] == {"words, message, user": 1}

    def test_refusals(self, stored: str, talk: Path, tmp_path: Path) -> None:
        sessions = "it has 3: 'ada', 'nobody', 'texts'\n"
        for command in (("window", "--token-limit", 9), ("stats",)):
            assert refusal(*command, stored) == f"Error: {stored}: which session? {sessions}"
            assert refusal(*command, stored, "eve") == f"Error: {stored}: no session 'eve'; {sessions}"
            nothing = f"sqlite:///{tmp_path / 'no.db'}"
            assert refusal(*command, nothing, "ada") == f"Error: {nothing}: no such file\n"
            assert not (tmp_path / "no.db").exists()
            told = "Error: a session, 'ada', needs the URL of a store, such as sqlite:///chat.db; a file has none\n"
            assert refusal(*command, talk, "ada") == told
            assert refusal(*command, "http://u:hunter2@h", "ada").startswith(
                "Error: 'http://u:***@h' is not a store's URL; one begins with "
            )
        for option in (("--model", "gpt-4"), ("--measure", "text"), ("--start-on", "none"), ("--format", "anthropic")):
            assert refusal("window", "--token-limit", 9, stored, "ada", *option) == (
                "Error: session 'ada' was counted by 'o200k_base, message, user': "
                "give --encoding o200k_base --measure message --start-on user, or none of these options\n"
            )
        assert record("stats", stored, "ada", "--model", "gpt-4")["encoding"] == "cl100k_base"
        assert "counted by" in refusal("stats", stored, "ada", "--format", "llama-index")
        (tmp_path / "text.db").write_text("no database " * 100)
        assert "not a database" in refusal("stats", f"sqlite:///{tmp_path / 'text.db'}", "ada")
        for alone in (("--conversation", 1), ("--concatenate",)):
            assert refusal("window", stored, "ada", "--token-limit", 9, *alone) == (
                "Error: --conversation and --concatenate are for files; a store has sessions\n"
            )
        assert refusal("window", stored, "ada", "--token-limit", 0) == "Error: token_limit must be at least 1, got 0\n"


class TestLookingAfterAStore:
    def test_sessions(self, stored: str, o200k: tiktoken.Encoding, cl100k: tiktoken.Encoding) -> None:
        found = records("sessions", stored)
        moments = [session.pop("updated_at") for session in found]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment) for moment in moments)
        policy, texts = "o200k_base, message, user", "cl100k_base, text, any"
        assert found == [
            {"key": "ada", "messages": 6, "tokens": tokens_of(TALK, o200k), "policy": policy},
            {"key": "nobody", "messages": 0, "tokens": 0, "policy": policy},
            {"key": "texts", "messages": 6, "tokens": tokens_of(TALK, cl100k, "text"), "policy": texts},
        ]
        rows = cells(output("sessions", stored))
        assert rows[0] == ["session", "messages", "tokens", "last", "change", "counted", "by"]
        assert [row[:2] for row in rows[1:]] == [["ada", "6"], ["nobody", "0"], ["texts", "6"]]

    def test_sessions_by_page_and_prefix(self, stored: str) -> None:
        def keys(*options: object) -> list[str]:
            return [session["key"] for session in records("sessions", stored, *options)]

        assert keys("--prefix", "n") == ["nobody"]
        assert keys("--limit", 2) == ["ada", "nobody"]
        assert keys("--limit", 2, "--after", "nobody") == ["texts"]
        assert output("sessions", stored, "--limit", 2).endswith("\nmore: --after 'nobody'\n")
        assert "more" not in output("sessions", stored, "--limit", 3)

    def test_prune(self, stored: str) -> None:
        with contextlib.closing(sqlite3.connect(stored.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(
                "UPDATE chatring_session SET updated_at = updated_at - 10 * 86400000 WHERE key = 'nobody'"
            )
        nothing = {"removed_sessions": 0, "trimmed_sessions": 0, "trimmed_messages": 0, "not_trimmed": {}}
        assert record("prune", stored, "--unused-for", 11) == nothing
        assert record("prune", stored, "--unused-for", 9, "--prefix", "a") == nothing
        assert record("prune", stored, "--unused-for", 9.5) == {**nothing, "removed_sessions": 1}
        # Of each policy; what stays begins with a user message, or whatever else a window may begin with.
        assert record("prune", stored, "--max-messages", 1, "--prefix", "a") == {
            **nothing,
            "trimmed_sessions": 1,
            "trimmed_messages": 4,
        }
        assert output("prune", stored, "--max-messages", 2) == "removed: 0 sessions\ntrimmed: 1 session by 1 message\n"
        with contextlib.closing(open_store(stored)) as store:
            assert store.all("ada") == [TALK[0], TALK[5]]

    def test_prune_by_tokens(self, stored: str) -> None:
        before = record("window", stored, "ada", "--token-limit", 790)["messages"]
        pruned = record("prune", stored, "--max-tokens", 780, "--prefix", "ada")
        assert (pruned["trimmed_sessions"], pruned["trimmed_messages"]) == (1, 4)
        assert record("window", stored, "ada", "--token-limit", 790)["messages"] == before

    def test_refusals(self, stored: str, tmp_path: Path, talk: Path) -> None:
        assert refusal("prune", stored) == ("Error: say what to prune: --unused-for, --max-messages or --max-tokens\n")
        nothing = f"sqlite:///{tmp_path / 'no.db'}"
        for command in (("sessions",), ("prune", "--max-tokens", 1)):
            assert refusal(*command, nothing) == f"Error: {nothing}: no such file\n"
            assert refusal(*command, talk) == (
                f"Error: this needs the URL of a store, such as sqlite:///chat.db; got {talk}\n"
            )
        assert not (tmp_path / "no.db").exists()

    def test_backup(self, stored: str, tmp_path: Path) -> None:
        file = tmp_path / "backup.db"
        with contextlib.closing(open_store(stored)) as store:  # whose changes are still in the log
            store.append("ada", OTHER)
            shown = output("backup", stored, file)
            store.append("ada", OTHER)
        assert shown == f"{stored} is in {file}, {file.stat().st_size:,} bytes\n"
        with contextlib.closing(open_store(f"sqlite:///{file}")) as copy:
            assert copy.all("ada") == [*TALK, *OTHER]
        assert refusal("backup", stored, file) == f"Error: {file} is there already; give a new name\n"
        assert refusal("backup", f"sqlite:///{tmp_path / 'no.db'}", tmp_path / "new").endswith(": no such file\n")
        assert "pg_dump" in refusal("backup", "postgresql://u:hunter2@h/d", tmp_path / "new")
        assert "BGSAVE" in refusal("backup", "redis://h", tmp_path / "new")
        assert "No such file" in refusal("backup", stored, tmp_path / "no folder" / "new")
        assert not list(tmp_path.glob("new*")), "nothing is left behind"

    def test_backup_in_python(self, stored: str, tmp_path: Path) -> None:
        file = tmp_path / "backup.db"
        with contextlib.closing(SQLStore[Record](stored)) as store:
            store.backup(str(file))
            before = file.read_bytes()
            with pytest.raises(FileExistsError):
                store.backup(str(file))
        assert file.read_bytes() == before
        assert sorted(path.name for path in tmp_path.glob("backup*")) == ["backup.db"]


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"postgresql://u:hunter2@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2"
        told = refusal("stats", url, "ada")
        assert "cannot be reached" in told
        assert "hunter2" not in told


MESSAGE = b'{"role": "user", "content": "a"}\n'
UNREADABLE = (
    "a message needs a role and a content (or tool_calls, blocks or parts), "
    "or the type of an item such as function_call"
)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"", "no messages: the file is empty"),
            (b"\n \n", "no messages: the file is empty"),
            (MESSAGE + b'{"role": ', "line 2: not JSON: Expecting value at column 9"),
            (
                MESSAGE + b"\n{'role'}\n",
                "line 3: not JSON: Expecting property name enclosed in double quotes at column 2",
            ),
            (MESSAGE + MESSAGE.strip() + MESSAGE, "line 2: not JSON: Extra data at column 33"),
            (MESSAGE + b'{"role": "\xff"}\n', "line 2: not UTF-8: invalid start byte at byte 11"),
            (b'{"role": "user", "content": NaN}', "line 1: not JSON: NaN is not a JSON number"),
            (b"[" * 200_000, "line 1: not a message: nested too deeply"),
            (
                b'{"messages": 1, "id": 2}',
                'line 1: neither a message with a role nor a conversation, {"messages": [...]}; '
                'its keys: "messages", "id"',
            ),
            (
                b'{"role": "user"}',
                f"line 1: {UNREADABLE}; this dict has the keys 'role'",
            ),
            (
                b'{"content": "a"}',
                'line 1: neither a message with a role nor a conversation, {"messages": [...]}; its keys: "content"',
            ),
            (b'{"role": 1, "content": "a"}', "line 1: a message's role must be a string, got int"),
            (
                b'{"role": "user", "content": 1}',
                "line 1: a message's content must be a string, None or a list of parts, got int",
            ),
            (
                b'{"role": "assistant", "tool_calls": []}',
                f"line 1: {UNREADABLE}; this dict has the keys 'role', 'tool_calls'",
            ),
            (
                b'{"messages": []}\n{"messages": [' + MESSAGE.strip() + b', "a"]}',
                'line 2: messages[1]: a message must be an object, got "a"',
            ),
            (
                MESSAGE + b'{"messages": []}',
                "line 2: this is a conversation, but line 1 is a message; all lines must be of one form",
            ),
            (
                b'\n{"messages": []}\n' + MESSAGE,
                "line 3: this is a message, but line 2 is a conversation; all lines must be of one form",
            ),
        ],
        ids=range(17),
    )
    @pytest.mark.parametrize("command", [("window", "--token-limit", "9"), ("stats",), ("stats", "--json")])
    def test_lines(self, text: bytes, reason: str, command: tuple[str, ...], tmp_path: Path) -> None:
        path = tmp_path / "bad.jsonl"
        path.write_bytes(text)
        assert refusal(*command, path) == f"Error: {path}: {reason}\n"

    def test_standard_input_has_no_path(self) -> None:
        assert refusal("stats", "-", stdin=b"") == "Error: standard input: no messages: the file is empty\n"
        assert refusal("stats", "-", stdin=b"{").startswith("Error: standard input: line 1: not JSON: ")

    def test_files(self, tmp_path: Path) -> None:
        assert refusal("stats", tmp_path / "no") == f"Error: {tmp_path / 'no'}: No such file or directory\n"
        assert refusal("stats", tmp_path) == f"Error: {tmp_path}: Is a directory\n"

    def test_a_file_name_does_not_control_the_terminal(self) -> None:
        assert refusal("stats", "no\n\x1b[31m") == "Error: no \\x1b[31m: No such file or directory\n"

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (("--token-limit", 0), "token_limit must be at least 1, got 0"),
            (("--token-limit", -3), "token_limit must be at least 1, got -3"),
            (("--token-limit", 2**63), "token_limit must be between -2**63 and 2**63 - 1, got 9223372036854775808"),
            (
                ("--token-limit", 5, "--initial-token-count", 6),
                "initial token count exceeds token limit: 6 > 5; "
                "raise token_limit or shorten what comes before the history",
            ),
            (
                ("--token-limit", 5, "--initial-token-count", -1),
                "initial_token_count must be at least 0, got -1",
            ),
            (
                ("--token-limit", 5, "--encoding", "gpt-4o", "--model", "gpt-4o"),
                "--encoding and --model exclude each other",
            ),
            (
                ("--token-limit", 5, "--encoding", "no"),
                f'unknown encoding "no"; known: {", ".join(TokenCounter.encodings())}',
            ),
            (
                ("--token-limit", 5, "--encoding", ""),
                f'unknown encoding ""; known: {", ".join(TokenCounter.encodings())}',
            ),
            (
                ("--token-limit", 5, "--model", "no"),
                'no encoding known for model "no"; give TokenCounter the model\'s own tokenizer, a callable from str '
                f"to its tokens, or an encoding that comes close, one of: {', '.join(TokenCounter.encodings())}",
            ),
            (
                ("--token-limit", 5, "--conversation", 1, "--concatenate"),
                "--conversation and --concatenate exclude each other",
            ),
            (("--token-limit", 5, "--conversation", 3), "no conversation 3: the file has 2, numbered from 1"),
            (("--token-limit", 5, "--conversation", 0), "no conversation 0: the file has 2, numbered from 1"),
        ],
    )
    def test_options(self, options: tuple[object, ...], reason: str, talks: Path) -> None:
        assert refusal("window", talks, *options) == f"Error: {reason}\n"

    def test_token_limit_is_required_and_an_integer(self, talk: Path) -> None:
        for options, reason in (
            ((), "Missing option '--token-limit'."),
            (("--token-limit", "x"), "'x' is not a valid integer."),
        ):
            result = run("window", talk, *options)
            assert (result.exit_code, result.stdout) == (2, "")
            assert result.stderr.endswith(f"{reason}\n")

    def test_limits_are_refused_before_the_file_is_read(self) -> None:
        assert refusal("window", "no such file", "--token-limit", 0) == "Error: token_limit must be at least 1, got 0\n"


class TestTerminalText:
    HOSTILE = "a\x1b[31mred \x1b]0;title\x07\x9b2J \x00\u202eevil\u2066 \ud800 \x7f\r\nnext [bold]b[/bold] [/] :smile:"
    SHOWN = r"a\x1b[31mred \x1b]0;title\x07\x9b2J \x00\u202eevil\u2066 \ud800 \x7f next [bold]b[/bold] [/] :smile:"

    @pytest.mark.parametrize("command", [("window", "--token-limit", "1000"), ("stats",)])
    def test_contents_roles_and_tools_do_not_control_it(self, command: tuple[str, ...]) -> None:
        call = {"function": {"name": "f\x1b[2J", "arguments": "\x1b[31m[red]"}}
        history = [
            {"role": "user", "content": self.HOSTILE},
            {"role": "tool\x1b[1m[b]", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        text = "".join(json.dumps(message) + "\n" for message in history).encode()
        shown = output(*command, "-", stdin=text, COLUMNS="200")
        assert self.SHOWN in shown
        assert r"tool\x1b[1m[b]" in shown
        assert r"f\x1b[2J(\x1b[31m[red])" in shown
        assert all(line.isprintable() for line in shown.splitlines())

    def test_json_gives_contents_unchanged_and_in_ascii(self) -> None:
        text = json.dumps({"role": "user", "content": self.HOSTILE}).encode()
        shown = output("window", "-", "--token-limit", 1000, "--json", stdin=text)
        assert shown.isascii()
        assert "\x1b" not in shown
        assert json.loads(shown)["messages"] == [{"role": "user", "content": self.HOSTILE}]

    def test_long_contents_are_cut_to_the_width(self) -> None:
        text = json.dumps({"role": "user", "content": "word " * 1_000_000}).encode()
        shown = output("window", "-", "--token-limit", 5, stdin=text, COLUMNS="60")
        row = shown.splitlines()[1]
        assert len(row) == 60
        assert row.endswith("…")
        assert max(map(len, shown.splitlines()[:5])) == 60

    def test_one_line(self) -> None:
        assert one_line(self.HOSTILE) == self.SHOWN
        assert one_line(" a \n\n\t b\u2028c\xa0d ") == "a b c d"
        assert one_line("abc", characters=3) == "abc"
        assert one_line("abcd", characters=3) == "abc…"
        # Joiners make one emoji of four, and the words of Persian.
        assert one_line("👩‍👩‍👧‍👦 می‌خواهم\x07") == "👩‍👩‍👧‍👦 می‌خواهم\\x07"

    def test_headline(self) -> None:
        def said(**message: Any) -> str:
            return headline({"role": "assistant", **message})

        function = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        custom = {"type": "custom", "custom": {"name": "g", "input": "x\ny"}}
        assert said(content="a\nb") == "a b"
        assert said(content=None) == ""
        assert said(content="Wait.", tool_calls=[function, custom]) == 'Wait. f({"a": 1}) g(x y)'
        assert said(content=None, tool_calls=["?", {}, {"function": {}}]) == "[tool call] [tool call] [function]"
        assert said(content="a", tool_calls="none") == "a"
        assert said() == said(content={}, tool_calls=None) == ""
        assert said(content=["a", {"text": "b"}, {"type": "input_audio"}, {}, 3]) == "a b [input_audio]"

    @pytest.mark.parametrize(
        ("message", "said", "role"),
        [
            (
                {"role": "model", "parts": [{"text": "Wait."}, {"functionCall": {"name": "f", "args": {"é": 1}}}]},
                'Wait. f({"é": 1})',
                "model",
            ),
            (
                {
                    "parts": [
                        {"functionResponse": {"name": "f", "response": {"result": "4"}}},
                        {"inlineData": {"data": ""}},
                    ]
                },
                "4 [inlineData]",
                "",
            ),
            ({"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"}, "f({})", "function_call"),
            ({"type": "function_call_output", "output": "4"}, "4", "function_call_output"),
            (
                {"type": "function_call_output", "output": [{"type": "input_text", "text": "4"}]},
                "4",
                "function_call_output",
            ),
            ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}, "Hm.", "reasoning"),
            ({"type": "reasoning", "summary": [], "encrypted_content": "x"}, "[reasoning]", "reasoning"),
            ({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, "f({})", "assistant"),
            ({"role": "assistant", "refusal": "No."}, "No.", "assistant"),
            (
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm."},
                        {"type": "tool_use", "name": "f", "input": {}},
                    ],
                },
                "Hm. f({})",
                "assistant",
            ),
            (
                {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "4"}]}]},
                "4",
                "user",
            ),
            ({"role": "assistant", "content": [{"toolUse": {"name": "f", "input": {}}}]}, "f({})", "assistant"),
            (
                {"role": "user", "content": [{"toolResult": {"content": [{"text": "4"}]}}, {"image": {}}]},
                "4 [image]",
                "user",
            ),
            ({"type": "ai", "content": "", "tool_calls": [{"name": "f", "args": {}, "id": "1"}]}, "f({})", "ai"),
            ({"type": "human", "data": {"content": "Hi", "type": "human"}}, "Hi", "human"),
            (
                {"kind": "response", "parts": [{"part_kind": "tool-call", "tool_name": "f", "args": {}}]},
                "f({})",
                "response",
            ),
            ({"role": "user", "contents": [{"type": "text", "text": "Hi"}]}, "Hi", "user"),
            ({"role": ["user"], "content": 3}, "", ""),
        ],
    )
    def test_headline_and_role_of_every_provider(self, message: Record, said: str, role: str) -> None:
        assert headline(message) == said
        assert role_of(message) == role

    def test_duration_and_amount(self) -> None:
        assert [duration(s) for s in (7.34e-6, 0.00041, 0.0123, 2.5)] == ["7.3 µs", "410.0 µs", "12.3 ms", "2.5 s"]
        assert [amount(n, "token") for n in (0, 1, 2658)] == ["0 tokens", "1 token", "2,658 tokens"]


def python(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    unset = {name for name, value in ENVIRONMENT.items() if value is None}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    environment = {**inherited, "COLUMNS": "100", "PYTHONUTF8": "1", **environment}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False
    )


class TestProcess:
    def test_module_prints_without_colours(self, talk: Path) -> None:
        done = python("-m", "chatring", "window", talk, "--token-limit", 1000)
        assert (done.returncode, done.stderr) == (0, b"")
        shown = done.stdout.decode()
        assert re.match("index +role ", shown)
        assert "This one? 🍵" in shown
        assert "\x1b" not in shown

    def test_module_refuses_with_status_2(self, tmp_path: Path) -> None:
        done = python("-m", "chatring", "stats", tmp_path / "no")
        told = f"Error: {tmp_path / 'no'}: No such file or directory\n"
        assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", told)

    def test_output_that_cannot_show_every_character(self, talk: Path) -> None:
        done = python("-m", "chatring", "stats", talk, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, b"")
        shown = done.stdout.decode("ascii")
        assert "This one? \\U0001f375" in shown
        assert "#" * 40 in shown

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_without_the_extra(self, missing: str) -> None:
        program = f"import sys; sys.modules[{missing!r}] = None; from chatring.__main__ import main; main()"
        done = python("-c", program)
        told = b"the command needs click and rich: pip install 'chatring[cli]'\n"
        assert (done.returncode, done.stdout, done.stderr.replace(b"\r\n", b"\n")) == (2, b"", told)

    def test_a_fault_of_another_module_is_not_hidden(self) -> None:
        program = (
            "import sys; sys.modules['chatring.cli.window_report'] = None; from chatring.__main__ import main; main()"
        )
        done = python("-c", program)
        assert done.returncode == 1
        assert b"ModuleNotFoundError: import of chatring.cli.window_report halted" in done.stderr

    def test_importing_the_package_imports_neither(self) -> None:
        done = python("-c", "import sys, chatring; print({'click', 'rich', 'chatring.cli'} & set(sys.modules))")
        assert done.stdout.split() == [b"set()"]

    @pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
    @pytest.mark.parametrize("as_json", [[], ["--json"]])
    def test_closed_pipe(self, as_json: list[str], tmp_path: Path) -> None:
        path = tmp_path / "long.jsonl"
        path.write_bytes(lines(TALK) * 500)
        command = [sys.executable, "-m", "chatring", "window", str(path), "--token-limit", "1000000", *as_json]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 1

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
    @pytest.mark.parametrize(
        "arguments",
        [
            ("window", EXAMPLE, "--token-limit", 300),
            ("window", EXAMPLE, "--token-limit", 300, "--json"),
            ("stats", EXAMPLE),
            ("--help",),
        ],
    )
    def test_output_that_nobody_takes(self, arguments: tuple[object, ...]) -> None:
        with open("/dev/full", "wb") as full:
            command = [sys.executable, "-m", "chatring", *map(str, arguments)]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (2, b"Error: standard output: No space left on device\n")

    @pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
    @pytest.mark.usefixtures("interruptible")
    def test_interrupt(self, tmp_path: Path) -> None:
        program = (
            "import chatring.cli as c, sys; print('ready', file=sys.stderr, flush=True); c.chatring(prog_name='c')"
        )
        command = [sys.executable, "-c", program, "stats", "-"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stderr.readline() == b"ready\n"
            # It has taken the beginning of a line, and waits for the rest, which never comes.
            process.stdin.write(b"{")
            process.stdin.flush()
            while unread_bytes(process.stdin):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert (process.stdout.read(), process.stderr.read().strip()) == (b"", b"Aborted!")
        assert process.returncode == 1


def unread_bytes(pipe: IO[bytes]) -> int:
    """Return how many bytes of a pipe its reader has not taken."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def run_on_terminal(arguments: list[str]) -> tuple[str, bytes]:
    """Run Python; return standard output, and what a terminal gets on standard error."""
    import pty

    controller, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONUTF8": "1"},
        timeout=300,
        check=True,
    )
    # Something to read in any case: on some systems reading from an empty terminal would wait or fail.
    os.write(terminal, b"END")
    seen = b""
    while not seen.endswith(b"END"):
        seen += os.read(controller, 65536)
    os.close(controller)
    os.close(terminal)
    return done.stdout.decode(), seen.removesuffix(b"END")


class TestProgress:
    """On a terminal only, and for large files only: standard error is a pseudo-terminal here."""

    pytestmark = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")

    @staticmethod
    def told(path: Path, *, large_file: int) -> tuple[str, bytes]:
        program = f"import chatring.cli.progress as p, chatring.cli as c; p._LARGE_FILE = {large_file}; c.chatring()"
        return run_on_terminal(["-c", program, "stats", str(path), "--json"])

    def test_of_a_large_file(self, talks: Path) -> None:
        shown, told = self.told(talks, large_file=1)
        assert json.loads(shown) == record("stats", talks)
        assert b"reading" in told
        assert b"counting" in told

    def test_none_of_a_small_file(self, talks: Path) -> None:
        shown, told = self.told(talks, large_file=1_000_000)
        assert json.loads(shown) == record("stats", talks)
        assert told == b""

    def test_none_without_a_terminal(self, talks: Path) -> None:
        program = "import chatring.cli.progress as p, chatring.cli as c; p._LARGE_FILE = 1; c.chatring()"
        done = python("-c", program, "stats", talks)
        assert (done.returncode, done.stderr) == (0, b"")


def test_help_tells_how_things_are_numbered() -> None:
    assert "Conversations are numbered from 1, messages have an index from 0." in " ".join(output("--help").split())
    assert "Take only conversation N; the first is 1." in " ".join(output("window", "--help").split())


def test_version() -> None:
    from importlib.metadata import version

    assert output("--version") == f"chatring, version {version('chatring')}\n"
