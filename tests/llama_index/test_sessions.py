"""`Sessions`: order, bounds, what is reported, and a shared lock. `test_ring_chat_store.py` has threads."""

import copy
import threading

import pytest
from chatring.llama_index.sessions import Sessions
from llama_index.core.llms import ChatMessage


class Texts(list[str]):
    """A session of another kind than a ring."""

    def get_all(self) -> list[ChatMessage]:
        return [ChatMessage(text) for text in self]


class Evictions:
    """An `on_evict` that keeps what it receives."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[str | None]]] = []

    def __call__(self, key: str, messages: list[ChatMessage]) -> None:
        self.seen.append((key, [message.content for message in messages]))


def opened(sessions: Sessions[Texts], *keys: str) -> None:
    for key in keys:
        with sessions.changing() as change:
            change.open(key).append(key)


def test_sessions_are_opened_once_and_kept_in_order() -> None:
    sessions = Sessions(Texts)
    assert sessions.get("b") is None
    opened(sessions, "b", "a", "b")
    assert sessions.get("b") == ["b", "b"]
    assert sessions.keys() == ["b", "a"]
    assert sessions.snapshot(len) == {"b": 2, "a": 1}
    assert sessions.delete("b") == ["b", "b"]
    assert sessions.delete("b") is None
    assert sessions.keys() == ["a"]


def test_the_least_recently_used_leaves_and_is_reported() -> None:
    evictions = Evictions()
    sessions = Sessions(Texts, max_sessions=2, on_evict=evictions)
    opened(sessions, "a", "b")
    sessions.get("a")
    sessions.snapshot(len)
    opened(sessions, "c")
    assert sessions.keys() == ["a", "c"]
    sessions.delete("c")
    sessions.max_sessions = 1
    opened(sessions, "d")
    assert evictions.seen == [("b", ["b"]), ("a", ["a"])]


def test_a_session_that_is_put_replaces_another_where_it_was() -> None:
    evictions = Evictions()
    sessions = Sessions(Texts, on_evict=evictions)
    opened(sessions, "a", "b")
    with sessions.changing() as change:
        change.set("a", Texts(["new"]))
    assert sessions.snapshot(list) == {"a": ["new"], "b": ["b"]}
    assert evictions.seen == []


def test_reports_are_made_in_order_after_the_change_and_without_the_lock() -> None:
    seen: list[tuple[str, list[str]]] = []

    def on_evict(key: str, messages: list[ChatMessage]) -> None:
        thread = threading.Thread(target=lambda: seen.append((key, sessions.keys())))
        thread.start()
        thread.join(60)
        assert not thread.is_alive()

    sessions = Sessions(Texts, max_sessions=1, on_evict=on_evict)
    opened(sessions, "a")
    with sessions.changing() as change:
        change.open("b")
        change.evicted("b", [ChatMessage("1")])
        change.evicted("b", [])  # nothing to report
        change.open("c")  # the session that leaves has no message
        assert seen == []
    assert seen == [("a", ["c"]), ("b", ["c"])]


def test_every_report_is_made_and_errors_come_out() -> None:
    seen: list[str] = []

    def fail(key: str, messages: list[ChatMessage]) -> None:
        seen.append(key)
        raise KeyError(key)

    sessions = Sessions(Texts, on_evict=fail)

    def change_two() -> None:
        with sessions.changing() as change:
            change.evicted("a", [ChatMessage("1")])
            change.evicted("b", [ChatMessage("2")])

    with pytest.raises(KeyError):
        change_two()
    assert seen == ["a", "b"]
    assert sessions.lock.acquire(blocking=False)


def test_what_has_left_is_reported_even_if_the_change_fails() -> None:
    evictions = Evictions()
    sessions = Sessions(Texts, max_sessions=1, on_evict=evictions)
    opened(sessions, "a")

    def fail() -> None:
        with sessions.changing() as change:
            change.open("b")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert evictions.seen == [("a", ["a"])]


def test_a_shallow_copy_shares_the_sessions_and_the_lock_but_not_the_bound() -> None:
    sessions = Sessions(Texts)
    opened(sessions, "a", "b")
    shared = copy.copy(sessions)
    shared.max_sessions = 1
    opened(sessions, "c")
    assert shared.keys() == ["a", "b", "c"]
    assert shared.lock is sessions.lock
    opened(shared, "d")
    assert sessions.keys() == ["d"]
    assert sessions.max_sessions is None
