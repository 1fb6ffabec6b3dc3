"""Counts against tiktoken's, and what a counter is made of and how it behaves as an object."""

import array
import contextlib
import copy
import ctypes
import functools
import gc
import itertools
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import types
import weakref
from collections import ChainMap, Counter, UserDict, deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy
import pytest
import tiktoken
import tokenizers
from chatring import MessageRing, TokenCounter
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples, slow
from reference import FRAGMENTS, text_of, texts, tiktoken_count, without_surrogates
from threads import run_all, tenths_with_turns

ENCODINGS = ("cl100k_base", "o200k_base")
KNOWN = "cl100k_base, o200k_base, o200k_harmony, p50k_base, p50k_edit, r50k_base, gpt2, qwen2, mistral_v3"

NATIVE = {name: TokenCounter(name) for name in ENCODINGS}
ORACLE = {name: tiktoken_count(tiktoken.get_encoding(name)) for name in ENCODINGS}


def check(text: str) -> None:
    for name in ENCODINGS:
        assert NATIVE[name].count(text) == ORACLE[name](text), name


def check_all(texts: list[str]) -> None:
    """Compare the counts of many texts, and name the first that differs."""
    for name in ENCODINGS:
        counts = NATIVE[name].count_batch(texts)
        expected = [ORACLE[name](text) for text in texts]
        assert counts == expected, next(text for text, a, b in zip(texts, counts, expected, strict=True) if a != b)


# --- exactness

any_character = st.characters(exclude_categories=())  # surrogates too, which hypothesis leaves out by default
any_text = st.one_of(
    st.text(any_character, max_size=40),
    st.lists(st.one_of(texts, st.text(any_character, max_size=3)), max_size=8).map("".join),
)


@settings(max_examples=examples(4_000))
@given(any_text)
def test_any_text(text: str) -> None:
    check(text)


@settings(max_examples=examples(1_000))
@given(st.text(st.sampled_from(" \t\n\r\x0b\x0c\x85\xa0\u2028\u3000\x1c\u200ba1.'"), max_size=30))
def test_whitespace_in_any_order(text: str) -> None:
    check(text)


@settings(max_examples=examples(1_000))
@given(
    st.lists(
        st.sampled_from(("<|", "|>", "<", "|", ">", "endoftext", "endof", "text", "fim_", "prefix", " ", "prompt"))
    )
)
def test_special_tokens_out_of_their_pieces(pieces: list[str]) -> None:
    check("".join(pieces))


@pytest.mark.parametrize("name", ENCODINGS)
def test_special_tokens_and_their_pieces(name: str) -> None:
    for token in sorted(tiktoken.get_encoding(name).special_tokens_set):
        assert NATIVE[name].count(token) == 1
        pieces = [token[start:end] for start in range(len(token)) for end in range(start + 1, len(token) + 1)]
        doubles = [token[:cut] + token + token[cut:] for cut in range(len(token) + 1)]
        around = [f"{before}{token}{after}" for before in FRAGMENTS for after in ("", " ", "a", token)]
        check_all([*pieces, *doubles, *around, token * 1_000, token.upper(), token.replace("|", "||")])


@pytest.mark.parametrize("around", ["{}", "a{}", "{}a", "a {} b", "{}\n", "\n{} ", "1{}2"])
def test_runs_of_whitespace(around: str) -> None:
    spaces = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b"
    runs = [character * length for character in spaces for length in (1, 2, 3, 4, 7, 8, 31, 64, 127, 300)]
    runs += [first * 5 + second * 3 for first in spaces for second in spaces]
    check_all([around.format(run) for run in runs])


@slow
@pytest.mark.parametrize(("context", "sparse"), [("a {}b", 1), ("{}", 37)])
def test_every_code_point(context: str, sparse: int) -> None:
    # Most of Unicode from the fourth plane on is not assigned or private.
    codes = [code for code in range(sys.maxunicode + 1) if code < 0x32000 or code % sparse == 0]
    for first in range(0, len(codes), 50_000):
        check_all([context.format(chr(code)) for code in codes[first : first + 50_000]])


def test_lone_surrogates_count_as_tiktoken_counts_them() -> None:
    surrogates = [chr(code) for code in range(0xD800, 0xE000, 5)]
    check_all([f"a{character} b" for character in surrogates])
    check_all(
        ["\ud83d\ude00", "\ude00\ud83d", "\ud83d", "\ud83d\ud83d\ude00", "😀\ud83d", "\udcff" * 100, "\ud800\n\n"]
    )


@pytest.mark.parametrize("character", ["a", "A", " ", "\n", "1", "!", "=", "é", "世", "😀", "\xa0", "\u200d", "\t"])
@pytest.mark.parametrize("length", [1_000, pytest.param(1_000_000, marks=slow)])
def test_long_runs_of_one_character(character: str, length: int) -> None:
    text = character * length
    for name in ENCODINGS:
        count = NATIVE[name].count(text)
        # tiktoken refuses some: its regular expression overflows its stack.
        with contextlib.suppress(ValueError):
            assert count == ORACLE[name](text), name
        assert 0 < count <= length * len(character.encode())


@pytest.mark.parametrize("name", ENCODINGS)
def test_whole_conversations(name: str, history: list[dict[str, object]]) -> None:
    contents = [text_of(message["content"]) for message in history]
    contents.append(" ".join(contents))
    assert NATIVE[name].count_batch(contents) == [ORACLE[name](text) for text in contents]


@pytest.mark.parametrize("name", TokenCounter.encodings())
def test_every_encoding_counts_any_text(name: str) -> None:
    counter = TokenCounter(name)
    assert counter.name == name
    assert counter.is_native
    assert counter.count("") == 0
    for text in FRAGMENTS[1:]:
        size = len(text.encode(errors="surrogatepass"))
        assert 1 <= counter.count(text) <= size, text
    assert counter.count("hello world") in (2, 3)


def test_harmony_counts_as_o200k_but_for_its_special_tokens() -> None:
    harmony = TokenCounter("o200k_harmony")
    special = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
    for token in (*special, "<|startoftext|>", "<|endoftext|>", "<|endofprompt|>", "<|reserved_200013|>"):
        assert harmony.count(token) == 1, token
        assert harmony.count(f"a{token} b") == 3, token
    for token in ("<|reserved_200002|>", "<|reserved_201088|>", "<|im_start|>", "<|fim_prefix|>"):
        assert harmony.count(token) == NATIVE["o200k_base"].count(token) > 1, token


# --- batches


@settings(max_examples=examples(200, long=5_000))
@given(st.lists(any_text, max_size=40))
def test_a_batch_counts_each_text(batch: list[str]) -> None:
    for name in ENCODINGS:
        assert NATIVE[name].count_batch(batch) == [NATIVE[name].count(text) for text in batch]
    assert TokenCounter(str.split).count_batch(iter(batch)) == [TokenCounter(str.split).count(text) for text in batch]


def big_batch() -> tuple[list[str], list[int]]:
    # Enough text for all cores, of very different lengths.
    batch = [f"{number} " + "word " * (number * 7919 % 500) for number in range(2_000)]
    return batch, [NATIVE["o200k_base"].count(text) for text in batch]


def test_a_big_batch_keeps_its_order() -> None:
    batch, expected = big_batch()
    assert NATIVE["o200k_base"].count_batch(batch) == expected
    assert NATIVE["o200k_base"].count_batch(text for text in batch) == expected
    assert NATIVE["o200k_base"].count_batch(batch[::-1]) == expected[::-1]


@pytest.mark.parametrize("source", ["cl100k_base", str.split])
def test_an_empty_batch(source: Any) -> None:
    assert TokenCounter(source).count_batch([]) == []
    assert TokenCounter(source).count_batch(iter(())) == []


def test_batches_from_several_threads() -> None:
    batch, expected = big_batch()
    results: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: results.append(NATIVE["o200k_base"].count_batch(batch))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


FORKED_WHILE_LOADING = """
import os, signal, sys, threading, time
from chatring import MessageRing, TokenCounter
counter = TokenCounter(sys.argv[1])
ring = MessageRing(10, counter)
ring.put({"role": "user", "content": "x " * 10_000})
firsts = {
    "count": lambda: counter.count("x" * 20_000),
    "count_batch": lambda: counter.count_batch(["x" * 20_000] * 3),
    "get": ring.get,
}
thread = threading.Thread(target=firsts[sys.argv[2]])
thread.start()
time.sleep(float(sys.argv[3]))
child = os.fork()
if child == 0:
    signal.alarm(200)
    os._exit(0 if counter.count("hello") == 1 else 1)
_, status = os.waitpid(child, 0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("first", ["count", "count_batch", "get"])
@pytest.mark.parametrize("seconds", [0.005, 0.015, 0.03])
def test_a_fork_while_another_thread_loads_an_encoding(first: str, seconds: float) -> None:
    code = [sys.executable, "-W", "ignore", "-c", FORKED_WHILE_LOADING, "o200k_base", first, str(seconds)]
    assert subprocess.run(code, timeout=300).returncode == 0


def test_counting_many_short_texts_lets_others_run() -> None:
    ring: MessageRing[Any] = MessageRing(1_000, counter="cl100k_base", measure="text")
    ring.put_messages([{"role": "user", "content": f"hi {number}"} for number in range(400_000)])
    assert tenths_with_turns(lambda: ring.get(token_limit=10_000_000, verify=False)) >= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_batch_after_fork() -> None:
    batch, expected = big_batch()
    assert NATIVE["o200k_base"].count_batch(batch) == expected
    child = os.fork()
    if child == 0:
        # Whatever happens, the child must not go on as a second pytest.
        status = 1
        try:
            status = int(NATIVE["o200k_base"].count_batch(batch) != expected)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# --- tiktoken encodings


def custom(name: str, **changes: Any) -> tiktoken.Encoding:
    """Return cl100k_base with something changed."""
    original = tiktoken.get_encoding("cl100k_base")
    arguments: dict[str, Any] = {
        "pat_str": original._pat_str,
        "mergeable_ranks": original._mergeable_ranks,
        "special_tokens": original._special_tokens,
    }
    return tiktoken.Encoding(name, **{**arguments, **changes})


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_tiktoken_encoding_of_ours_is_native(name: str) -> None:
    counter = TokenCounter(tiktoken.get_encoding(name))
    assert counter.is_native
    assert counter.name == name
    assert counter == TokenCounter(name)


def test_the_encoding_that_tiktoken_has_is_native() -> None:
    encoding = tiktoken.get_encoding("cl100k_base")
    assert TokenCounter(encoding) == TokenCounter("cl100k_base")
    assert TokenCounter(pickle.loads(pickle.dumps(encoding))) == TokenCounter("cl100k_base")


TEXT = "some words<|mine|>, <|endoftext|> and some more: 12345\n\n  x"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cl100k_base", {"special_tokens": {"<|mine|>": 100_257}}),
        ("cl100k_base", {"special_tokens": {"<|endoftext|>": 100_257}}),
        ("cl100k_base", {"pat_str": r"\w+|\W+"}),
        ("mine", {}),
        ("cl100k_base", {}),
        ("o200k_base", {}),
    ],
)
def test_another_tiktoken_encoding_counts_by_its_own_encode(name: str, changes: dict[str, Any]) -> None:
    encoding = custom(name, **changes)
    counter = TokenCounter(encoding)
    assert counter.name == name
    assert counter.count(TEXT) == len(encoding.encode(TEXT, allowed_special="all"))
    assert not counter.is_native


def test_an_encoding_with_the_same_size_and_other_ranks_is_not_native() -> None:
    ranks = dict(tiktoken.get_encoding("cl100k_base")._mergeable_ranks)
    # " the" is no longer a token; a word that nobody writes is.
    ranks[b" the" + b"x" * 20] = ranks.pop(b" the")
    encoding = custom("cl100k_base", mergeable_ranks=ranks)
    counter = TokenCounter(encoding)
    assert counter.count("on the way") == len(encoding.encode("on the way")) == 4
    assert not counter.is_native


def test_one_encoding_is_one_counter() -> None:
    encoding = custom("mine")
    assert TokenCounter(encoding) == TokenCounter(encoding)
    assert hash(TokenCounter(encoding)) == hash(TokenCounter(encoding))


# --- models


@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "gpt-4o-mini-2024-07-18", "gpt-4", "gpt-4-0613", "gpt-3.5-turbo", "gpt-4.1-mini", "gpt-5", "o1",
     "o3-mini", "o4-mini", "gpt-oss-120b", "text-embedding-3-small", "text-davinci-003", "davinci",
     "code-davinci-edit-001"],
)  # fmt: skip
def test_models_have_the_encoding_that_tiktoken_gives_them(model: str) -> None:
    assert TokenCounter.for_model(model).name == tiktoken.encoding_name_for_model(model)


@pytest.mark.parametrize(("model", "name"), [("qwen2.5-72b-instruct", "qwen2"), ("open-mistral-nemo", "mistral_v3")])
def test_models_of_others(model: str, name: str) -> None:
    assert TokenCounter.for_model(model) == TokenCounter(name)


# --- callables


class Tokenizer:
    def __init__(self) -> None:
        self.calls = 0

    def encode(self, text: str) -> list[str]:
        self.calls += 1
        return text.split()

    def characters(self, text: str) -> str:
        return text

    __call__ = encode


def function(text: str) -> list[str]:
    return list(text)


@pytest.mark.parametrize(
    ("source", "name", "count"),
    [
        (function, "function", 9),
        (lambda text: text.split("e"), "<lambda>", 4),
        (Tokenizer().encode, "Tokenizer.encode", 2),
        (Tokenizer(), "Tokenizer", 2),
        (functools.partial(str.split, sep="n"), "partial", 2),
        (str.split, "str.split", 2),
        (list, "list", 9),
        (len, "len", 9),
        (re.compile(r"\w").findall, "Pattern.findall", 8),
    ],
)
def test_callables(source: Callable[[str], Any], name: str, count: int) -> None:
    counter = TokenCounter(source)
    assert counter.name == name
    assert not counter.is_native
    assert repr(counter) == f'TokenCounter("{name}")'
    assert counter.count("one three") == count
    assert counter.count_batch(["one three", ""]) == [count, source("") if source is len else len(source(""))]
    assert counter == TokenCounter(source) == TokenCounter(counter)
    assert hash(counter) == hash(TokenCounter(source))
    assert counter not in (TokenCounter("cl100k_base"), source, name, None)


def test_a_method_of_the_same_object_is_the_same_counter() -> None:
    tokenizer, other = Tokenizer(), Tokenizer()
    assert TokenCounter(tokenizer.encode) == TokenCounter(tokenizer.encode)
    assert TokenCounter(tokenizer.encode) != TokenCounter(other.encode)
    assert TokenCounter(tokenizer.encode) != TokenCounter(tokenizer.characters)
    assert TokenCounter(tokenizer.encode) != TokenCounter(tokenizer)
    find, other_find = re.compile("a"), re.compile("b")
    assert TokenCounter(find.findall) == TokenCounter(find.findall)
    assert TokenCounter(find.findall) != TokenCounter(other_find.findall)
    assert TokenCounter(find.findall) != TokenCounter(find.split)
    assert len({TokenCounter(tokenizer.encode), TokenCounter(tokenizer.encode), TokenCounter("gpt2")}) == 2


def c_function(tokens_a_word: int) -> Any:
    """Return a C function as an extension without a module of its own has it: named `count_tokens`, of no object."""

    class Definition(ctypes.Structure):
        _fields_ = (
            ("name", ctypes.c_char_p),
            ("function", ctypes.c_void_p),
            ("flags", ctypes.c_int),
            ("doc", ctypes.c_char_p),
        )

    called = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object)(
        lambda _, text: text.split() * tokens_a_word
    )
    takes_one_object = 0x0008  # METH_O
    definition = Definition(b"count_tokens", ctypes.cast(called, ctypes.c_void_p).value, takes_one_object, None)
    C_FUNCTIONS.append((called, definition))
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    return make(ctypes.addressof(definition), None, None)


# What ctypes made, which must outlive the functions.
C_FUNCTIONS: list[object] = []


def test_c_functions_of_one_name_are_different_counters() -> None:
    once, thrice = c_function(1), c_function(3)
    assert once.__self__ is thrice.__self__ is None
    assert once.__qualname__ == thrice.__qualname__
    assert TokenCounter(once) != TokenCounter(thrice)
    assert TokenCounter(once) == TokenCounter(once)
    ring: MessageRing[Any] = MessageRing(5, once, measure="text")
    ring.put_messages([{"role": "user", "content": "two words"} for _ in range(9)])
    assert len(ring.get()) == 2
    assert len(ring.get(counter=thrice)) == 1


def test_encodings_differ() -> None:
    counters = [TokenCounter(name) for name in TokenCounter.encodings()]
    assert len(set(counters)) == len(counters) == len(KNOWN.split(", "))
    assert ", ".join(TokenCounter.encodings()) == KNOWN
    assert TokenCounter("gpt2") != TokenCounter("r50k_base")


def test_a_callable_gets_whole_characters() -> None:
    seen: list[str] = []

    def tokenize(text: str) -> list[str]:
        seen.append(text)
        return list(text)

    assert TokenCounter(tokenize).count("a\ud800\ud83d\ude00") == 3
    assert seen == ["a\ufffd😀"]


class Shout(str):
    def encode(self, *_: object, **__: object) -> bytes:
        raise AssertionError("a subclass's methods are not asked")

    __str__ = __iter__ = __len__ = encode  # type: ignore[assignment]


def test_a_str_of_a_subclass_counts_as_its_characters() -> None:
    assert NATIVE["cl100k_base"].count(Shout("one two")) == 2
    assert TokenCounter(str.split).count(Shout("one two")) == 2


# --- copies


@pytest.mark.parametrize("source", ["cl100k_base", "gpt2", function, str.split, functools.partial(str.split, sep="n")])
def test_copies(source: Any) -> None:
    counter = TokenCounter(source)
    assert copy.copy(counter) is counter
    assert copy.deepcopy(counter) is counter
    assert copy.deepcopy([counter, counter])[1] is counter
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        restored = pickle.loads(pickle.dumps(counter, protocol))
        assert restored.name == counter.name
        assert restored.is_native == counter.is_native
        assert restored.count("one nun three") == counter.count("one nun three")
        if not isinstance(source, functools.partial):  # which pickle creates again
            assert restored == counter


def test_a_pickled_counter_by_tiktoken_keeps_its_name() -> None:
    counter = TokenCounter(custom("mine", special_tokens={"<|mine|>": 100_257}))
    restored = pickle.loads(pickle.dumps(counter))
    assert restored.name == "mine"
    assert restored.count(TEXT) == counter.count(TEXT)


def test_a_counter_that_cannot_be_pickled_says_so() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(TokenCounter(lambda text: text))


# --- what a callable returns


class BatchEncoding(UserDict[str, Any]):
    """As in transformers: what a tokenizer that is called as it is returns."""


class Rows:
    """Something that is a mapping by its methods alone."""

    def keys(self) -> list[str]:
        return ["input_ids"]

    def __len__(self) -> int:
        return 1


def returned(result: Any) -> TokenCounter:
    return TokenCounter(lambda text: result)


@pytest.mark.parametrize(
    "result",
    [
        ["a", "b", "c"],
        ("a", "b", "c"),
        [1, 2, 3],
        [numpy.int64(1), numpy.int64(2), numpy.int64(3)],
        [("a", 0), ("b", 1), ("c", 2)],  # tokens with their places
        [object(), object(), object()],
        range(3),
        deque("abc"),
        array.array("i", [1, 2, 3]),
        numpy.ones(3),
        memoryview(b"abc"),
        3,
        numpy.int64(3),
        numpy.uint8(3),
        numpy.array(3),
        type("Int", (int,), {})(3),
        type("List", (list,), {})("abc"),
    ],
    ids=lambda result: type(result).__name__,
)
def test_tokens_are_anything_with_their_length_or_their_number(result: Any) -> None:
    assert returned(result).count("one") == 3
    assert returned(result).count_batch(["one", "two"]) == [3, 3]


MAPPING = "a mapping's length is the number of its keys; give the tokenizer's `encode`, or return its [\"input_ids\"]"
SET = "a set has each token once; return a list"
NESTED = "return the tokens of one text, such as the first item of a batch of one"
ARRAY = "return one dimension, such as the first row of a batch of one"
NOTHING = "return a list of tokens, or an integer"
ROUND = "round it up to an integer"
CHARACTERS = "its length is the number of its characters; return a list of tokens"
BYTES = "its length is the number of its bytes; if that is what you count, return it as an integer"


@pytest.mark.parametrize(
    ("result", "got"),
    [
        ({"input_ids": [1, 2, 3]}, f"dict: {MAPPING}"),
        (BatchEncoding(input_ids=[1, 2, 3], attention_mask=[1, 1, 1]), f"BatchEncoding: {MAPPING}"),
        (Counter("abc"), f"Counter: {MAPPING}"),
        (types.MappingProxyType({"a": 1}), f"mappingproxy: {MAPPING}"),
        (ChainMap({"a": 1}), f"ChainMap: {MAPPING}"),
        (Rows(), f"Rows: {MAPPING}"),
        ({"a", "b"}, f"set: {SET}"),
        (frozenset("ab"), f"frozenset: {SET}"),
        ({"a": 1}.keys(), f"dict_keys: {SET}"),
        ([["a", "b", "c"]], f"list whose first item is a list: {NESTED}"),
        ([[]], f"list whose first item is a list: {NESTED}"),
        ((["a", "b"], [1, 1]), f"tuple whose first item is a list: {NESTED}"),
        ([{"input_ids": [1]}], f"list whose first item is a dict: {NESTED}"),
        ([BatchEncoding()], f"list whose first item is a BatchEncoding: {NESTED}"),
        ([{"a"}], f"list whose first item is a set: {NESTED}"),
        ([numpy.ones(3)], f"list whose first item is a ndarray: {NESTED}"),
        (numpy.ones((1, 3)), f"ndarray of shape (1, 3): {ARRAY}"),
        (numpy.ones((2, 3, 4)), f"ndarray of shape (2, 3, 4): {ARRAY}"),
        (None, f"NoneType: {NOTHING}"),
        (iter("abc"), f"str_ascii_iterator: {NOTHING}"),
        (2.5, f"2.5 (float): {ROUND}"),
        (numpy.float64(2.5), f"np.float64(2.5) (float64): {ROUND}"),
        (Decimal(2), f"Decimal('2') (Decimal): {ROUND}"),
        (True, f"bool: {NOTHING}"),
        ("abc", f"str: {CHARACTERS}"),
        (type("Text", (str,), {})("abc"), f"Text: {CHARACTERS}"),
        (b"abc", f"bytes: {BYTES}"),
        (bytearray(b"abc"), f"bytearray: {BYTES}"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_another_length_is_refused(result: Any, got: str) -> None:
    message = f"a counter must return the tokens of a text, or their number; got {got}"
    ring: MessageRing[Any] = MessageRing(100, lambda text: result)
    ring.put({"role": "user", "content": "one two three"})
    calls: list[Callable[[], object]] = [
        lambda: returned(result).count("one"),
        lambda: returned(result).count_batch(["", "one"]),
        ring.get,
        ring.token_count,
    ]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        assert re.sub("str_(ascii_)?iterator", "str_ascii_iterator", str(caught.value)) == message
    assert len(ring.get(counter=str.split)) == 1


@pytest.mark.parametrize("result", [-1, 2**40 + 1, 10**30, numpy.int64(-5)])
def test_a_number_of_tokens_is_between_bounds(result: Any) -> None:
    message = f"a counter must return between 0 and 2**40 tokens for a text, got {result!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        returned(result).count("one")
    with pytest.raises(ValueError, match=r"^a counter returned \d+ tokens for one text; more than 2\*\*40 cannot be"):
        returned(range(2**40 + 1)).count("one")
    assert TokenCounter(lambda text: 2**40 - 100 + len(text)).count("one") == 2**40 - 97


# --- counters whose counts do not grow


def padded(length: int) -> Callable[[str], list[str]]:
    return lambda text: [*text.split(), *["<pad>"] * (length - len(text.split()))]


def truncated(length: int) -> Callable[[str], list[str]]:
    return lambda text: text.split()[:length]


def to_blocks(text: str) -> list[str]:
    """As with pad_to_multiple_of=8."""
    return padded(-(-len(text.split()) // 8) * 8)(text)


SENTENCE = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        *itertools.product(
            (padded(16), padded(64), padded(512), lambda text: padded(512)(text)[:512]),
            ("ok", "I see.", "one two three", "", "\n"),
        ),
        *((to_blocks, text) for text in ("ok", "I see.", "one two three")),
    ],
)
def test_a_tokenizer_that_pads_is_refused(source: Callable[[str], list[str]], text: str) -> None:
    tokens = len(source(text))
    message = (
        f"a counter returned {tokens} tokens for a text of {len(text)} characters, and {tokens} for a longer one: it "
        "pads to a fixed length, or has one answer for all; turn padding off (padding=False, or a tokenizer's "
        "no_padding())"
    )
    counter = TokenCounter(source)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            counter.count(text)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        counter.count_batch([text])


@pytest.mark.parametrize("length", [1, 16, 128, 512, 8_192])
def test_a_tokenizer_that_truncates_is_refused(length: int) -> None:
    text = " ".join(["word"] * 3 * length) + " " * 40
    message = (
        f"a counter returned {length} tokens for a text of {len(text)} characters, and {length} for a longer one: it "
        "truncates at a fixed length, or has one answer for all; turn truncation off (truncation=False, or a "
        "tokenizer's no_truncation())"
    )
    counter = TokenCounter(truncated(length))
    # Odd texts that it counts as they are: they do not make it trusted.
    assert counter.count(" " * 100) == 0
    if length > 2:
        assert counter.count("x" * 1_000) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            counter.count(text)


@pytest.mark.parametrize("result", [[], [7], ((1, 2, 3),), 0, 5, range(300)])
def test_one_answer_for_all_texts_is_refused(result: Any) -> None:
    with pytest.raises(ValueError, match="or has one answer for all"):
        returned(result).count(f"{SENTENCE} {SENTENCE}")


@pytest.mark.parametrize("measure", ["message", "text"])
def test_a_ring_refuses_windows_of_a_tokenizer_that_pads_or_truncates(measure: Any) -> None:
    for source in (padded(64), truncated(64)):
        ring: MessageRing[Any] = MessageRing(10_000, source, measure=measure)
        messages = [{"role": "user", "content": text} for text in ("ok", "word " * 1_000, "fine")]
        ring.put_messages(messages)
        for call in (ring.get, ring.token_count):
            with pytest.raises(ValueError, match="fixed length"):
                call()
        assert ring.get(counter=str.split) == messages == ring.get_all()


@pytest.mark.parametrize(
    "source",
    [
        str.split,
        list,
        len,
        lambda text: len(text) // 4,
        lambda text: len(text) // 20,
        lambda text: [*text, *text],
        lambda text: ["[CLS]", *text.split(), "[SEP]"],
        lambda text: range(NATIVE["cl100k_base"].count(text) + 4),
        lambda text: ["<|im_start|>", "user", "\n", *text.split(), "<|im_end|>", "\n"],
        re.compile(r"\w").findall,
        tiktoken.get_encoding("o200k_base").encode_ordinary,
        functools.partial(tiktoken.get_encoding("o200k_base").encode_to_numpy, disallowed_special=()),
    ],
)
def test_honest_counters_are_never_refused(source: Any) -> None:
    odd = ["", " ", " " * 500, "\n" * 80, "x", "x" * 5_000, "\x00", "\u200b", "世" * 300, "=" * 200, "ok"]
    odd.append(SENTENCE * 90)
    fragments = [without_surrogates(text) for text in FRAGMENTS]
    for batch in (odd, odd[::-1], fragments, [text * 40 for text in fragments], *([text] for text in odd)):
        counts = [source(text) for text in batch]
        sizes = [count if isinstance(count, int) else len(count) for count in counts]
        assert TokenCounter(source).count_batch(batch) == sizes


def test_a_plausible_count_is_one_call_and_an_odd_one_two() -> None:
    seen: list[str] = []

    def words(text: str) -> list[str]:
        seen.append(text)
        return text.split()

    counter = TokenCounter(words)
    plausible = ["", "ok", "one two three four", SENTENCE, "word " * 10_000, " " * 30]
    counter.count_batch(plausible)
    assert seen == plausible
    seen.clear()
    for _ in range(3):
        counter.count_batch(["x" * 1_000, *plausible])
    assert seen == ["x" * 1_000, "x" * 1_000 + "\nword\n" + "x" * 1_000, *plausible, *["x" * 1_000, *plausible] * 2]


def test_a_counter_that_knows_certain_texts_only_is_taken_at_its_word() -> None:
    known: dict[str, Any] = {"ok": range(500), "two": range(300), "x" * 500: [1]}
    counter = TokenCounter(known.__getitem__)
    assert counter.count_batch(["ok", "two", "x" * 500]) == [500, 300, 1]
    with pytest.raises(KeyError, match="unknown"):
        counter.count("unknown")


def test_an_interrupt_while_a_count_is_looked_into_comes_through() -> None:
    def count(text: str) -> range:
        if text != "ok":
            raise KeyboardInterrupt
        return range(64)

    with pytest.raises(KeyboardInterrupt):
        TokenCounter(count).count("ok")


def test_a_counter_that_comes_back_while_it_is_looked_into() -> None:
    depth = [0]

    def pads(text: str) -> list[str]:
        depth[0] += 1
        if depth[0] < 20:
            with pytest.raises(ValueError, match="fixed length"):
                counter.count("yes")
        return padded(64)(text)

    counter = TokenCounter(pads)
    with pytest.raises(ValueError, match="fixed length"):
        counter.count("ok")


def test_no_thread_gets_a_padded_count() -> None:
    def pads(text: str) -> list[str]:
        time.sleep(0.001)
        return padded(64)(text)

    counter = TokenCounter(pads)
    refused: list[object] = []

    def count() -> None:
        for _ in range(20):
            with pytest.raises(ValueError, match="fixed length") as caught:
                counter.count("ok")
            refused.append(caught)

    run_all(*[count] * 6)
    assert len(refused) == 120


def test_a_c_function_that_pads_is_refused() -> None:
    function = c_function(3)
    assert TokenCounter(function).count("two words") == 6
    many = c_function(100)  # grows, however many
    assert TokenCounter(many).count("two words") == 200


def words_of_hugging_face(**settings: dict[str, int]) -> Any:
    """Return a `tokenizers.Tokenizer` of words, set up as files of embedding models are."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "one": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    for name, arguments in settings.items():
        getattr(tokenizer, f"enable_{name}")(**arguments)
    return tokenizer


def test_tokenizers_of_hugging_face() -> None:
    tokenizer = words_of_hugging_face(padding={})  # to the longest of a batch: harmless
    assert TokenCounter(tokenizer.encode).count(SENTENCE) == 10
    for tokenizer, what, advice in (
        (words_of_hugging_face(padding={"length": 128}), "padding is set to 128", "no_padding"),
        (words_of_hugging_face(truncation={"max_length": 256}), "truncation is set to 256", "no_truncation"),
    ):
        message = f"this tokenizer's {what} tokens, whatever the text has; call its {advice}() first"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            TokenCounter(tokenizer.encode)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            MessageRing(counter=tokenizer.encode)
        getattr(tokenizer, advice)()
        assert TokenCounter(tokenizer.encode).count(SENTENCE) == 10


# --- what a message costs beside its text

OK = [{"role": ("user", "assistant")[number % 2], "content": "ok"} for number in range(1_000)]


def chat_template(text: str) -> list[str]:
    return ["<|im_start|>", "user", "\n", *text.split(), "<|im_end|>", "\n"]


def test_overhead_of_messages_is_the_measures() -> None:
    ring: MessageRing[Any] = MessageRing(3_000, counter="o200k_base")
    ring.put_messages(OK)
    assert (ring.token_count(), len(ring.get())) == (5_000, 600)  # 3, the role and the word
    ring = MessageRing(3_000, measure=lambda message: len(chat_template(message["content"])))
    ring.put_messages(OK)
    assert (ring.token_count(), len(ring.get())) == (6_000, 500)


@pytest.mark.parametrize(
    ("counter", "each"), [(chat_template, 6), (lambda text: range(NATIVE["o200k_base"].count(text) + 4), 5)]
)
def test_what_a_counter_adds_to_every_text(counter: Any, each: int) -> None:
    # Nothing is taken off, so a counter with an overhead of its own has the measure's 4 tokens beside it.
    ring: MessageRing[Any] = MessageRing(3_000, counter=counter)
    ring.put_messages(OK)
    assert ring.token_count() == (each + 4) * 1_000
    assert ring.count(OK[0]) == each + 4
    # LlamaIndex counts one text, which begins and ends once.
    ring = MessageRing(3_000, counter=counter, measure="text")
    ring.put_messages(OK)
    assert ring.token_count() == TokenCounter(counter).count(" ".join(["ok"] * 1_000)) == 1_000 + each - 1


# --- special tokens typed in a text


@pytest.mark.parametrize("name", [*ENCODINGS, "o200k_harmony"])
def test_special_tokens_are_tokens_or_text(name: str) -> None:
    encoding = tiktoken.get_encoding(name)
    batch = ["<|endoftext|>", "a <|endoftext|> b", "<|endoftext", "", TEXT * 500]
    ordinary = [len(encoding.encode_ordinary(text)) for text in batch]
    tokens = [len(encoding.encode(text, allowed_special="all")) for text in batch]
    counter = TokenCounter(name)
    assert counter.count_batch(batch) == counter.count_batch(batch, special="token") == tokens
    assert counter.count_batch(batch, special="text") == ordinary
    assert [counter.count(text, special="text") for text in batch] == ordinary
    assert [counter.count(text, special="token") for text in batch] == tokens
    assert ordinary[0] > tokens[0] == 1


@pytest.mark.parametrize("changes", [{}, {"special_tokens": {"<|mine|>": 100_257, "<|endoftext|>": 100_258}}])
def test_the_measure_says_what_special_tokens_are(changes: dict[str, Any]) -> None:
    encoding = custom("mine", **changes)
    ordinary, tokens = len(encoding.encode_ordinary(TEXT)), len(encoding.encode(TEXT, allowed_special="all"))
    assert ordinary > tokens
    sources: tuple[Any, ...] = (encoding, pickle.loads(pickle.dumps(TokenCounter(encoding))), TokenCounter(encoding))
    for source in (*sources, TokenCounter(sources[2])):
        counter = TokenCounter(source)
        assert not counter.is_native
        assert counter.count(TEXT) == tokens
        assert counter.count(TEXT, special="text") == ordinary
        assert counter.count_batch([TEXT], special="text") == [ordinary]
        cases: tuple[tuple[Any, int], ...] = (("text", tokens), ("message", ordinary + 4))
        for measure, expected in cases:
            ring: MessageRing[Any] = MessageRing(counter=source, measure=measure)
            message = {"role": "user", "content": TEXT}
            ring.put(message)
            assert ring.token_count() == ring.count(message) == expected


def test_other_callables_decide_about_special_tokens_themselves() -> None:
    encode = functools.partial(tiktoken.get_encoding("o200k_base").encode, allowed_special="all")
    assert TokenCounter(encode).count(TEXT, special="text") == len(encode(TEXT))


@pytest.mark.parametrize("special", ["all", "", None, 5, "Text", "\ud800"])
def test_special_is_one_of_two(special: Any) -> None:
    for call in (NATIVE["cl100k_base"].count, TokenCounter(str.split).count):
        with pytest.raises(ValueError, match=r'^special must be "token" or "text", got ') as caught:
            call("text", special=special)
        assert str(caught.value).endswith(repr(special))


# --- garbage


def test_cycles_through_all_that_a_counter_keeps_are_collected() -> None:
    class Tokens:
        def __len__(self) -> int:
            return 2

    encoding = custom("mine")
    by_encoding, by_class = TokenCounter(encoding), TokenCounter(lambda text, kind=Tokens: kind())  # type: ignore[misc]
    assert by_class.count("two words") == 2
    encoding.counter = by_encoding  # type: ignore[attr-defined]
    Tokens.counter = by_class  # type: ignore[attr-defined]
    gone = [weakref.ref(each) for each in (encoding, by_encoding, Tokens, by_class)]
    del encoding, by_encoding, Tokens, by_class
    gc.collect()
    assert [each() for each in gone] == [None] * 4


# --- errors


class Raising:
    def __call__(self, text: str) -> list[str]:
        raise LookupError("no vocabulary")


class NoLength:
    pass


class LengthRaises:
    def __len__(self) -> int:
        raise OSError("length")


class Negative:
    def __len__(self) -> int:
        return -1


def no_length(text: str) -> Any:
    return NoLength()


def raising() -> Iterator[str]:
    yield "a"
    raise KeyError("later")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TokenCounter("nope"), ValueError, f'unknown encoding "nope"; known: {KNOWN}'),
        (lambda: TokenCounter(""), ValueError, f'unknown encoding ""; known: {KNOWN}'),
        (
            lambda: TokenCounter.for_model("claude-5"),
            ValueError,
            'no encoding known for model "claude-5"; give TokenCounter the model\'s own tokenizer, a callable from str '
            f"to its tokens, or an encoding that comes close, one of: {KNOWN}",
        ),
        *(
            (
                lambda source=source: TokenCounter(source),
                TypeError,
                "a counter is an encoding's name, a tiktoken encoding or a callable from str to its tokens or their "
                f"number; got {name}",
            )
            for source, name in (
                (None, "NoneType"),
                (5, "int"),
                (b"cl100k_base", "bytes"),
                ([str.split], "list"),
                (words_of_hugging_face(), "Tokenizer: give its `encode`"),
            )
        ),
        (
            lambda: TokenCounter(no_length).count(""),
            TypeError,
            "a counter must return the tokens of a text, or their number; got NoLength: return a list of tokens, or an "
            "integer",
        ),
        (lambda: TokenCounter(lambda text: LengthRaises()).count(""), OSError, "length"),
        (lambda: TokenCounter(lambda text: Negative()).count(""), ValueError, "__len__() should return >= 0"),
        (lambda: TokenCounter(Raising()).count(""), LookupError, "no vocabulary"),
        (lambda: TokenCounter(Raising()).count_batch(["a"]), LookupError, "no vocabulary"),
        (lambda: TokenCounter("gpt2").count_batch(raising()), KeyError, "'later'"),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
    assert type(caught.value) is error


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["list"]])
@pytest.mark.parametrize("source", ["cl100k_base", str.split])
def test_only_a_str_is_counted(source: Any, text: Any) -> None:
    counter = TokenCounter(source)
    for call in (
        lambda: counter.count(text),
        lambda: counter.count_batch([text]),
        lambda: counter.count_batch(["a", text]),
    ):
        with pytest.raises(TypeError, match="is not an instance of 'str'"):
            call()


@pytest.mark.parametrize("source", ["cl100k_base", str.split])
def test_one_text_is_not_a_batch(source: Any) -> None:
    for text in ("", "one two", type("Text", (str,), {})("one")):
        with pytest.raises(TypeError) as caught:
            TokenCounter(source).count_batch(text)
        assert str(caught.value) == "texts must be an iterable of texts, got one str; count it with `count`"


def test_a_name_with_a_lone_surrogate_is_unknown() -> None:
    with pytest.raises(ValueError, match='unknown encoding "gpt\ufffd"; known: '):
        TokenCounter("gpt\ud800")
    with pytest.raises(ValueError, match=r"surrogates not allowed|no encoding known for model"):
        TokenCounter.for_model("gpt\ud800")


def test_cannot_be_changed_or_subclassed() -> None:
    counter: Any = TokenCounter("gpt2")
    for name in ("name", "is_native", "other"):
        with pytest.raises(AttributeError):
            setattr(counter, name, "x")
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Sub", (TokenCounter,), {})
