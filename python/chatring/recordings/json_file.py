"""Files of JSON as people have them: lines or whole documents; UTF-8, UTF-16 or UTF-32; plain or gzip."""

import codecs
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO, Any, AnyStr

_BLOCK = 1024 * 1024
_GZIP = b"\x1f\x8b"
# By their first bytes: files that people give and that are not text.
_OTHERS = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; decompress it first",
    b"\xfd7zX": "compressed with xz; decompress it first",
    b"BZh": "compressed with bzip2; decompress it first",
    b"SQLi": "a SQLite database; give its URL, such as sqlite:///chat.db, and a session",
}
_HEAD = 4
_WHITESPACE = re.compile(r"[ \t\r\n]*")


def _refuse(constant: str) -> None:
    raise ValueError(f"not JSON: {constant} is not a JSON number")


# Made once, because json.loads would make one for each line.
_DECODER = json.JSONDecoder(parse_constant=_refuse)


class _CutOffError(ValueError):
    """A line that is only the beginning of a JSON value."""


def read_values(stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a file, each with the number of the line that it begins on, counted from 1.

    Each line is a value, read when it is asked for. But if the first line is only the beginning of a value, values may
    have any number of lines, and the whole file is read at once.

    A damaged value is yielded as the ValueError that says what is wrong with it. So is a damaged end of the file.

    Raises:
        ValueError: if no line can be read.
    """
    numbered = enumerate(_lines(stream), 1)
    number, is_first = 0, True
    try:
        for number, line in numbered:
            if not line.strip():
                continue
            value = _parse(line)
            if is_first and isinstance(value, _CutOffError):
                yield from _documents(number, [line, *(line for _, line in numbered)])
                return
            is_first = False
            yield number, value
    except ValueError as error:
        if is_first:
            raise
        yield number + 1, error


def _lines(stream: IO[bytes]) -> Iterator[str | bytes]:
    """Return the lines without their ends. UTF-8 lines are bytes, so that a damaged one does not end the reading."""
    # In blocks, because reporting progress for each line takes longer than reading it.
    head, blocks = _begin(iter(lambda: stream.read(_BLOCK), b""))
    if head.startswith(_GZIP):
        head, blocks = _begin(_decompress(blocks))
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise ValueError(f"this is {what}")
    # By its mark; or by the zeros that ASCII has in UTF-16 and UTF-32, because JSON begins with ASCII.
    encoding = json.detect_encoding(head)
    if encoding.startswith("utf-8"):
        return _split(blocks, b"\n")
    return _split(_decode(blocks, encoding), "\n")


def _begin(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes, and all blocks, including these bytes."""
    head = b""
    while len(head) < _HEAD and (block := next(blocks, b"")):
        head += block
    return head[:_HEAD], chain([head], blocks)


def _decompress(blocks: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        for block in blocks:
            while block:
                if member.eof:  # compressed files may be joined, and padded with zeros
                    if not (block := block.lstrip(b"\0")):
                        break
                    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
                # Bounded, because a block of zeros grows a thousandfold.
                if text := member.decompress(block, _BLOCK):
                    yield text
                block = member.unconsumed_tail or member.unused_data
    except zlib.error as error:
        raise ValueError(f"damaged gzip: {error}") from error
    if not member.eof:
        raise ValueError("damaged gzip: it ends too early")


def _decode(blocks: Iterator[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for block in blocks:
            yield decoder.decode(block)
        yield decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        reason = f"it begins like {encoding.upper()}, but is not: {error.reason}"
        raise ValueError(f"{reason}; save the file as UTF-8") from error


def _split(blocks: Iterable[AnyStr], newline: AnyStr) -> Iterator[AnyStr]:
    begun: list[AnyStr] = []
    for block in blocks:
        pieces = block.split(newline)
        begun.append(pieces[0])
        if len(pieces) > 1:
            yield newline[:0].join(begun)
            yield from pieces[1:-1]
            begun = pieces[-1:]
    yield newline[:0].join(begun)


def _parse(line: str | bytes) -> Any:
    """Return the value of a line, or the ValueError that says what is wrong."""
    text = _decoded(line)
    if isinstance(text, ValueError):
        return text
    text = text.rstrip()
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        fault = f"not JSON: {error.msg} at column {error.pos + 1}"
        return _CutOffError(fault) if error.pos >= len(text) else ValueError(fault)
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("not a message: nested too deeply")


def _decoded(line: str | bytes) -> str | ValueError:
    if isinstance(line, str):
        return line
    try:
        # Files written on Windows may begin with a byte order mark.
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8: {error.reason} at byte {error.start + 1}")


def _documents(number: int, lines: list[str | bytes]) -> Iterator[tuple[int, Any]]:
    """Yield the values that these lines have together. If there are none, but some lines have one, yield each."""
    whole = list(_values(number, list(map(_decoded, lines))))
    if any(isinstance(value, ValueError) for _, value in whole) and lines[0].strip() not in ("[", "{", b"[", b"{"):
        lone = [(n, _parse(line)) for n, line in enumerate(lines, number) if line.strip()]
        if any(isinstance(value, dict) and value for _, value in lone[1:]):
            whole = lone
    yield from whole


def _values(number: int, lines: list[str | ValueError]) -> Iterator[tuple[int, Any]]:
    """Yield the values in these lines, one after another, up to the first damaged one."""
    for n, line in enumerate(lines, number):
        if isinstance(line, ValueError):
            yield n, line
            return
    text = "\n".join(map(str, lines))
    begin = end = 0
    try:
        while (next_begin := _end_of_whitespace(text, end)) < len(text):
            number += text.count("\n", begin, next_begin)
            begin = next_begin
            value, end = _DECODER.raw_decode(text, begin)
            yield number, value
    except json.JSONDecodeError as error:
        number += text.count("\n", begin, error.pos)
        yield number, ValueError(f"not JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        yield number, error
    except RecursionError:
        yield number, ValueError("not a message: nested too deeply")


def _end_of_whitespace(text: str, begin: int) -> int:
    found = _WHITESPACE.match(text, begin)
    return found.end() if found else begin
