"""`chatring replay`: requests compared with fresh rings and sums, the page against parsers and a browser."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest
from chatring import MessageRing
from chatring.cli.chart import STYLE
from chatring.cli.replay_charts import CURVE
from chatring.cli.replay_page import page
from chatring.cli.replay_report import ReplayReport
from chatring.formats.links import Links, links_of
from chatring.recordings.replay import Policy, Pricing, Recording, Replay, Request, replay
from chatring.recordings.validity import FIRST_MESSAGE, ORPHAN_RESULT, UNANSWERED_CALL, fault

Message: TypeAlias = dict[str, Any]

EXAMPLE = Path(__file__).parents[1] / "examples" / "support-conversation.jsonl"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def system(text: str = "Be brief.") -> Message:
    return {"role": "system", "content": text}


def user(text: str = "Well?") -> Message:
    return {"role": "user", "content": text}


def reply(text: str = "Yes.") -> Message:
    return {"role": "assistant", "content": text}


def call(*ids: str) -> Message:
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(call_id: str, text: str = "3") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def ring_of(messages: Sequence[Message], **options: Any) -> MessageRing[Message]:
    ring: MessageRing[Message] = MessageRing(**options)
    ring.put_messages(messages)
    return ring


def replay_one(messages: Sequence[Message], policies: Sequence[Policy], **options: Any) -> list[Replay]:
    return replay([Recording(ring_of(messages))], MessageRing, policies, **options)


def positions(request: Request) -> list[int]:
    return [position for start, end in request.ranges() for position in range(start, end)]


@cache
def example() -> list[Message]:
    with EXAMPLE.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def session(conversations: list[list[Message]]) -> list[Message]:
    """All conversations as one, with one prompt."""
    first, *others = conversations
    return [*first, *(message for messages in others for message in messages[1:])]


class TestValidity:
    CALL_AND_RESULT: Sequence[tuple[Message, Message]] = (
        (call("1"), result("1")),
        (
            {"type": "function_call", "call_id": "1", "id": "fc", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "3"},
        ),
        (
            {"type": "custom_tool_call", "call_id": "1", "name": "f", "input": ""},
            {"type": "custom_tool_call_output", "call_id": "1", "output": "3"},
        ),
        (
            {"type": "tool_search_call", "call_id": "1", "execution": "client", "arguments": {}},
            {"type": "tool_search_output", "call_id": "1", "execution": "client", "tools": []},
        ),
        (
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "3"}]},
        ),
        (
            {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "f", "input": {}}}]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "1", "content": [{"text": "3"}]}}]},
        ),
        (
            {"role": "model", "parts": [{"functionCall": {"name": "1", "args": {}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "1", "response": {"a": 3}}}]},
        ),
        (
            {"role": "assistant", "content": None, "function_call": {"name": "1", "arguments": "{}"}},
            {"role": "function", "name": "1", "content": "3"},
        ),
        (
            {"type": "ai", "content": "", "tool_calls": [{"name": "f", "args": {}, "id": "1"}]},
            {"type": "tool", "content": "3", "tool_call_id": "1"},
        ),
        (
            {"kind": "response", "parts": [{"part_kind": "tool-call", "tool_name": "f", "tool_call_id": "1"}]},
            {"kind": "request", "parts": [{"part_kind": "tool-return", "tool_call_id": "1", "content": "3"}]},
        ),
        (
            {"role": "assistant", "blocks": [{"block_type": "tool_call", "tool_call_id": "1", "tool_name": "f"}]},
            {"role": "tool", "additional_kwargs": {"tool_call_id": "1"}, "blocks": []},
        ),
    )

    @pytest.mark.parametrize(("called", "answered"), CALL_AND_RESULT)
    def test_links_of_every_provider(self, called: Message, answered: Message) -> None:
        assert links_of(called) == Links(frozenset({"1"}), frozenset())
        assert links_of(answered) == Links(frozenset(), frozenset({"1"}))

    def test_what_has_no_links(self) -> None:
        hosted = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
        search = {"type": "tool_search_call", "call_id": "1", "execution": "server", "arguments": {}}
        text = {"role": "user", "content": [{"type": "text", "text": "a"}]}
        for message in (user(), reply(), system(), hosted, search, text):
            assert links_of(message) == Links(frozenset(), frozenset())

    @pytest.mark.parametrize(
        ("messages", "expected"),
        [
            ([], None),
            ([system()], None),
            ([system(), user(), call("1", "2"), result("2"), result("1"), reply(), user()], None),
            ([user(), result("1")], ORPHAN_RESULT),
            ([result("1"), user()], ORPHAN_RESULT),
            ([user(), result("1"), call("1")], ORPHAN_RESULT),
            ([user(), call("1", "2"), result("2")], UNANSWERED_CALL),
            ([user(), call("1")], UNANSWERED_CALL),
            ([system(), reply(), user()], FIRST_MESSAGE),
            ([{"role": "tool", "content": "a result that names no call"}], ORPHAN_RESULT),
        ],
    )
    def test_fault(self, messages: list[Message], expected: str | None) -> None:
        kinds = Recording(ring_of(messages)).kinds
        assert fault(zip(kinds, map(links_of, messages), strict=True)) == expected

    def test_a_history_may_begin_with_a_reply(self) -> None:
        pairs = [("assistant", links_of(reply())), ("user", links_of(user()))]
        assert fault(pairs) == FIRST_MESSAGE
        assert fault(pairs, may_begin_with_reply=True) is None


class TestRecording:
    @pytest.mark.parametrize(
        ("messages", "calls"),
        [
            ([], []),
            ([system(), reply(), user()], []),
            ([reply(), user(), reply()], [2]),
            ([system(), user(), call("1"), result("1"), reply(), user(), reply(), reply()], [2, 4, 6, 7]),
            (
                [
                    user(),
                    {"type": "reasoning", "id": "rs", "summary": []},
                    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                    {"type": "function_call", "call_id": "2", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "1", "output": ""},
                    {"type": "function_call_output", "call_id": "2", "output": ""},
                    reply(),
                ],
                [1, 6],
            ),
        ],
    )
    def test_a_call_is_a_response(self, messages: list[Message], calls: list[int]) -> None:
        assert Recording(ring_of(messages)).calls == calls

    def test_tokens_and_kinds_are_those_of_the_ring(self) -> None:
        ring = ring_of(example())
        recording = Recording(ring)
        assert recording.tokens == [ring.count(message) for message in example()]
        assert recording.sums[-1] == ring.token_count()
        assert recording.kinds == [message["role"] for message in example()]
        assert recording.head == 1

    def test_common_prefix(self) -> None:
        recording = Recording(ring_of(example()))
        random = Random(7)

        def some_request() -> Request:
            head, end = random.randint(0, 1), random.randint(4, 20)
            start = random.randint(max(head, end - 6), end)
            question = random.choice([None, *range(head, start)])
            return Request(head, question, start, end)

        for _ in range(2000):
            one, other = some_request(), some_request()
            tokens = 0
            for a, b in zip(positions(one), positions(other), strict=False):
                if a != b:
                    break
                tokens += recording.tokens[a]
            assert recording.tokens_in_common(one, other) == tokens
            assert recording.tokens_of(one) == sum(recording.tokens[position] for position in positions(one))
            assert all((position in one) == (position in positions(one)) for position in range(25))


class TestReplay:
    POLICIES = tuple(Policy(limit, ratio) for limit in (500, 2000, 20_000) for ratio in (None, 1.0, 0.6))

    @pytest.mark.parametrize("initial", [0, 170])
    @pytest.mark.parametrize(
        "options", [{}, {"include_system": False}, {"start_on": None}, {"start_on": None, "include_system": False}]
    )
    def test_requests_are_the_windows_of_a_ring(self, options: dict[str, Any], initial: int) -> None:
        history = [system("Second."), *example()]

        def new() -> MessageRing[Message]:
            return MessageRing(**options)

        replays = replay([Recording(ring_of(history))], new, self.POLICIES, initial_token_count=initial)
        for of in replays:
            assert of.number_of_calls == len(of.calls[0]) == sum(message["role"] == "assistant" for message in history)
            if of.policy.retention_ratio is None:
                continue
            # The cut is a function of the history and the limit alone: a ring without a past finds the same.
            ring = new()
            for made in of.calls[0]:
                ring.put_messages(history[len(ring) : made.request.end])
                window = ring.window(
                    token_limit=of.policy.token_limit,
                    retention_ratio=of.policy.retention_ratio,
                    initial_token_count=initial,
                )
                assert [history[position] for position in positions(made.request)] == window
                assert made.sent == window.tokens + initial

    @pytest.mark.parametrize("include_system", [True, False])
    def test_sliding_is_the_newest_messages_that_fit(self, include_system: bool) -> None:
        recording = Recording(ring_of(example()))
        head = 1 if include_system else 0
        replays = replay(
            *([recording], lambda: MessageRing(include_system=include_system)),
            [Policy(limit, None) for limit in (300, 2000, 20_000)],
            initial_token_count=50,
        )
        for of in replays:
            for made in of.calls[0]:
                end = made.request.end
                room = of.policy.token_limit - 50 - sum(recording.tokens[:head])
                fits = [start for start in range(head, end - 1) if sum(recording.tokens[start:end]) <= room]
                assert positions(made.request) == [*range(head), *range(min([*fits, end - 1]), end)]

    def test_cost_of_a_small_conversation(self) -> None:
        # Of 40 tokens each; the limit has room for four.
        texts = [system, user, reply, user, reply, user, reply, user, reply]
        ring: MessageRing[Message] = MessageRing(measure=lambda _: 40)
        ring.put_messages(make() for make in texts)

        def new() -> MessageRing[Message]:
            return MessageRing(measure=lambda _: 40)

        policies = [Policy(160, None), Policy(160, 1.0)]
        pricing = Pricing(cached_price=0.5, write_price=2.0, cache_minimum=0)
        sliding, ours = replay([Recording(ring)], new, policies, pricing=pricing, initial_token_count=0)
        # Head and the newest three, whatever they are; of two requests the head is the same, which is not a block.
        assert [positions(made.request) for made in sliding.calls[0]] == [
            [0, 1],
            [0, 1, 2, 3],
            [0, 3, 4, 5],
            [0, 5, 6, 7],
        ]
        assert [made.cached for made in sliding.calls[0]] == [0, 0, 0, 0]
        assert (sliding.sent, sliding.cost, sliding.cuts) == (560, 1120, 2)
        assert [positions(made.request) for made in ours.calls[0]] == [[0, 1], [0, 1, 2, 3], [0, 3, 4, 5], [0, 5, 6, 7]]
        assert (ours.lost_question, ours.lost_prompt, ours.over_limit, dict(ours.invalid)) == (0, 0, 0, {})

    def test_what_is_cached(self) -> None:
        def new() -> MessageRing[Message]:
            return MessageRing(measure=lambda _: 100)

        ring = new()
        ring.put_messages([system(), *[user(), reply()] * 4])
        for minimum, initial, expected in (
            (0, 0, [0, 128, 384, 512]),
            (300, 0, [0, 0, 384, 512]),
            (0, 60, [0, 256, 384, 640]),
        ):
            pricing = Pricing(cached_price=0.1, write_price=1.25, cache_minimum=minimum)
            (of,) = replay([Recording(ring)], new, [Policy(10_000, 1.0)], pricing=pricing, initial_token_count=initial)
            assert [made.sent for made in of.calls[0]] == [initial + tokens for tokens in (200, 400, 600, 800)]
            assert [made.cached for made in of.calls[0]] == expected
            assert of.cost == pytest.approx((of.sent - sum(expected)) * 1.25 + sum(expected) * 0.1)
            assert of.cached_share == sum(expected) / of.sent
            assert of.cuts == 0

    def test_each_conversation_begins_with_an_empty_cache(self) -> None:
        recordings = [Recording(ring_of(example())) for _ in range(2)]
        one, two = (replay(recordings[:n], MessageRing, [Policy(3000, 0.7)])[0] for n in (1, 2))
        assert two.calls == one.calls * 2
        assert two.cost == pytest.approx(2 * one.cost)

    def test_faults_of_sliding(self) -> None:
        history = [system(), user(), call("1"), result("1"), call("2"), result("2"), reply(), user(), reply()]
        ring: MessageRing[Message] = MessageRing(measure=lambda _: 1)
        ring.put_messages(history)
        sliding, ours = replay(
            *([Recording(ring)], lambda: MessageRing(measure=lambda _: 1)), [Policy(3, None), Policy(3, 1.0)]
        )
        # Its windows end with: 1 | 2 3 | 4 5 | 6 7, after the head.
        assert dict(sliding.invalid) == {FIRST_MESSAGE: 3}
        assert sliding.lost_question == 2
        # A question and a step are more than the limit, and go all the same.
        assert (dict(ours.invalid), ours.lost_question, ours.over_limit) == ({}, 0, 2)
        (narrow,) = replay([Recording(ring)], lambda: MessageRing(measure=lambda _: 1), [Policy(2, None)])
        assert dict(narrow.invalid) == {ORPHAN_RESULT: 2}
        (headless,) = replay(
            *([Recording(ring)], lambda: MessageRing(measure=lambda _: 1, include_system=False)), [Policy(2, None)]
        )
        assert headless.lost_prompt == 3

    @pytest.mark.parametrize("limit", [1500, 2000, 3000, 5000, 8000])
    def test_whole_conversations_are_valid(self, source: str, limit: int, session: list[Message]) -> None:
        sliding, *ours = replay_one(session, [Policy(limit, ratio) for ratio in (None, 1.0, 0.7, 0.5)])
        assert sum(sliding.invalid.values()) > {"shipped": 50, "recorded": 100}[source]
        for of in ours:
            assert of.number_of_calls == {"shipped": 161, "recorded": 1229}[source]
            assert (dict(of.invalid), of.lost_question, of.lost_prompt) == ({}, 0, 0)

    def test_whole_conversations_cost_at_most_30_percent(self, session: list[Message]) -> None:
        sliding, ours = replay_one(session, [Policy(8000, None), Policy(8000, 0.7)])
        assert ours.cost <= 0.3 * sliding.cost

    def test_a_head_that_is_too_long(self, source: str, session: list[Message]) -> None:
        head, limit = {"shipped": (455, 400), "recorded": (1252, 1000)}[source]
        words = f"the {head} tokens of the system messages .* exceed token_limit {limit}"
        with pytest.raises(ValueError, match=words):
            replay_one(session, [Policy(limit, 0.7)])


VOID = {"meta", "link", "br", "hr", "img", "input", "path", "rect"}


class Parser(HTMLParser):
    """Checks that elements are closed in order, and keeps what there is."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(
    conversations: Sequence[Sequence[Message]],
    limits: Sequence[int] = (3000,),
    ratios: Sequence[float] = (1.0, 0.7),
    name: str = "talk.jsonl",
) -> str:
    recordings = [Recording(ring_of(messages)) for messages in conversations]
    asked = [Policy(limit, ratio) for limit in limits for ratio in (None, *ratios)]
    curve = [policy for limit in limits for ratio in CURVE if (policy := Policy(limit, ratio)) not in asked]
    replays = replay(recordings, MessageRing, [*asked, *curve])
    report = ReplayReport(
        name=name,
        counter=MessageRing().counter,
        start_on="user",
        include_system=True,
        initial_token_count=0,
        pricing=Pricing(),
        recordings=recordings,
        replays=replays[: len(asked)],
        curve=replays,
    )
    return page(report)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, #rrggbb, as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


class TestPage:
    @pytest.mark.parametrize(
        "conversations",
        [[example()], [example(), example()[:9], [system()], []], [[user(), reply()]], [[system(), user(), reply()]]],
        ids=["example", "several", "one call", "one call with a prompt"],
    )
    def test_it_is_well_formed_and_self_contained(self, conversations: list[list[Message]]) -> None:
        text = page_of(conversations, limits=(600, 3000), ratios=(1.0, 0.25, 0.0))
        parser = Parser()
        parser.feed(text)
        parser.close()
        assert parser.open == []
        tags = [tag for tag, _ in parser.elements]
        assert not {"script", "link", "img", "iframe", "object", "a"} & set(tags)
        assert not {"src", "href"} & {name for _, attributes in parser.elements for name in attributes}
        assert "url(" not in text
        assert "http:" not in text
        assert "https:" not in text
        assert "nan" not in re.findall(r"[a-z]+", " ".join(re.findall(r'd="([^"]*)"', text)).lower())
        assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in parser.elements
        assert tags.count("h1") == tags.count("main") == 1

    def test_charts_have_a_text_alternative(self) -> None:
        parser = Parser()
        parser.feed(page_of([example()]))
        charts = [attributes for tag, attributes in parser.elements if tag == "svg"]
        assert all(attributes.get("aria-hidden") == "true" or attributes["role"] == "img" for attributes in charts)
        told = [attributes["aria-label"] or "" for attributes in charts if "aria-label" in attributes]
        # Two curves, the history, and for each of the windows its calls and where they are.
        assert len(told) == 2 + 1 + 2 * 3
        assert told[0].startswith(
            "Cost against ratio. Cost against ratio, tokens at the full price, a call. limit 3,000: "
        )
        assert told[2] == "Messages by kind and tokens. The history's tokens by kind: " + told[2].partition("kind: ")[2]

    def test_figures_are_those_of_the_replay(self) -> None:
        sliding, ours = replay_one(example(), [Policy(3000, None), Policy(3000, 0.7)])
        parser = Parser()
        parser.feed(page_of([example()], ratios=(0.7,)))
        cells = [text for text in parser.texts if text.strip()]
        row = cells[cells.index("ratio 0.7") :][:10]
        assert row[1] == f"{ours.sent:,}"
        assert row[4:7] == [f"{ours.cost:,.0f}", f"{ours.cost / sliding.cost:.0%}", f"{ours.cuts:,}"]
        assert row[7:10] == ["0", "0", "0"]
        assert cells[cells.index("sliding") :][7] == f"{sum(sliding.invalid.values())}"

    def test_no_text_of_the_conversation_and_no_markup_of_its_name(self) -> None:
        secret = "swordfish<script>"
        text = page_of(
            [[system(secret), user(secret), reply(secret), user(secret), reply(secret)]], name="<b>\x1b&.json"
        )
        assert "swordfish" not in text
        assert "<b>\\" not in text
        assert "&lt;b&gt;\\x1b&amp;.json" in text

    def test_colours_can_be_told_from_what_they_are_on(self) -> None:
        light, dark = (
            dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})\b", part))
            for part in STYLE.split("@media (prefers-color-scheme:dark)")
        )
        for palette in (light, dark):
            colours = {
                name: value if len(value) == 7 else "#" + "".join(2 * digit for digit in value[1:])
                for name, value in palette.items()
            }
            for text in ("text", "soft", "full"):
                assert contrast(colours[text], colours["back"]) >= 4.5, text
            for shape in ("system", "user", "assistant", "tool", "full", "cached", "limit"):
                assert contrast(colours[shape], colours["back"]) >= 3, shape
            # They touch each other.
            assert contrast(colours["cached"], colours["full"]) >= 2.5

    def test_size_of_a_long_history(self, session: list[Message]) -> None:
        text = page_of([session], limits=(3000, 8000, 16_000), ratios=(1.0, 0.8, 0.7, 0.5))
        assert len(text.encode()) < 600_000

    @pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to look at the page with")
    def test_in_a_browser(self, tmp_path: Path) -> None:
        (tmp_path / "page.html").write_text(page_of([example(), example()[:20]], limits=(2000, 3000)), encoding="utf-8")
        # A page around it looks into it, at the width of a phone and of a desk.
        (tmp_path / "around.html").write_text(
            """<!DOCTYPE html><title>around</title><body><script>
            for (const width of [360, 390, 1200]) {
                const frame = document.createElement("iframe");
                frame.style = `width:${width}px;height:800px;border:0`;
                frame.onload = () => {
                    const inside = frame.contentDocument, root = inside.documentElement;
                    inside.querySelectorAll("details").forEach(one => one.open = true);
                    const flat = [...inside.querySelectorAll(".plot svg")].filter(
                        one => one.getBoundingClientRect().width < 200 || one.getBoundingClientRect().height < 80);
                    console.log(`seen ${width}: ${root.scrollWidth} wide, ${flat.length} flat of ` +
                        `${inside.querySelectorAll(".plot svg").length}`);
                };
                frame.src = "page.html";
                document.body.append(frame);
            }
            </script>""",
            encoding="utf-8",
        )
        assert CHROMIUM is not None
        done = subprocess.run(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
                *("--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=5000"),
                *(f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"),
                (tmp_path / "around.html").as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = re.findall(r":CONSOLE.*?\] \"(.*)\", source", done.stderr)
        charts = 2 + 1 + 2 * 2 * 3
        assert sorted(said) == sorted(f"seen {width}: {width} wide, 0 flat of {charts}" for width in (360, 390, 1200))
        assert (tmp_path / "page.png").stat().st_size > 10_000


def test_starts_of_a_replay_never_move_back(session: list[Message]) -> None:
    for of in replay_one(session, [Policy(3000, ratio) for ratio in (1.0, 0.7)]):
        starts = [made.request.start for made in of.calls[0]]
        assert all(one <= other for one, other in pairwise(starts))


def test_requests_that_providers_accept_are_valid(source: str, requests: list[dict[str, Any]]) -> None:
    found = Counter[str | None]()
    for request in requests:
        messages = request["messages"]
        found[Recording(ring_of(messages)).fault(Request(0, None, 0, len(messages)))] += 1
    # One or two have results alone, and leave the calls to the server: `previous_response_id`.
    assert found == {"shipped": {None: 25, ORPHAN_RESULT: 1}, "recorded": {None: 572, ORPHAN_RESULT: 2}}[source]
