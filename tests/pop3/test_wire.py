"""Lines from octets in any chunking, and messages to octets that a client turns back into the same message."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.pop3.wire import MAX_LINE_OCTETS, ContentEncoder, LineReader, TooLong, encode_line

LONG = MAX_LINE_OCTETS

LINES = [
    (b"", []),
    (b"NOOP\r\n", [b"NOOP"]),
    (b"NOOP\n", [b"NOOP"]),
    # A last line without its end is no line.
    (b"NOOP\r\nQUIT", [b"NOOP"]),
    (b"NOOP\r", []),
    (b"\r\n\n", [b"", b""]),
    # Only the CR of the line end is taken off.
    (b"A\r\r\n", [b"A\r"]),
    (b"A\rB\nC", [b"A\rB"]),
    (b"\x00\xff\r\n", [b"\x00\xff"]),
    # 255 octets must be taken (RFC 2449 §4).
    (b"PASS " + b"x" * 248 + b"\r\n", [b"PASS " + b"x" * 248]),
    # The limit counts the line end.
    (b"x" * (LONG - 2) + b"\r\n", [b"x" * (LONG - 2)]),
    (b"x" * (LONG - 1) + b"\n", [b"x" * (LONG - 1)]),
    (b"x" * (LONG - 1) + b"\r\nNOOP\r\n", [TooLong(), b"NOOP"]),
    (b"x" * LONG, [TooLong()]),
    # One line, however long, is one mistake, and its rest is no command.
    (b"x" * LONG * 9 + b"\nNOOP\n", [TooLong(), b"NOOP"]),
    (b"x" * LONG + b"\n" + b"y" * LONG + b"\n\n", [TooLong(), TooLong(), b""]),
]


def read(chunks: list[bytes]) -> list[bytes | TooLong]:
    reader = LineReader()
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        while (line := reader.next_line()) is not None:
            found.append(line)
        assert reader.held() < MAX_LINE_OCTETS
    return found


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize(("octets", "lines"), LINES)
def test_lines(octets: bytes, lines: list[bytes | TooLong]) -> None:
    assert read([octets]) == lines
    assert read([octets[i : i + 1] for i in range(len(octets))]) == lines


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"A", b"x" * 400, b"\x00"])).map(b"".join), st.lists(st.integers(0, 9999))
)
def test_chunks_do_not_matter_to_lines(octets: bytes, cuts: list[int]) -> None:
    assert read(split(octets, cuts)) == read([octets])


def test_peek_leaves_the_octets() -> None:
    reader = LineReader()
    reader.feed(b"GET / HTTP/1.1\r\n")
    assert reader.peek(4) == b"GET "
    assert reader.next_line() == b"GET / HTTP/1.1"


def test_a_reply_is_one_line_of_ascii() -> None:
    assert encode_line("+OK é") == b"+OK ?\r\n"
    for text in ("+OK\r\n-ERR", "+OK\n", "\r"):
        with pytest.raises(ValueError, match="line break"):
            encode_line(text)


# What a mailbox holds → what a client must read in the end.
CONTENT = [
    (b"", b""),
    (b"A: b\r\n\r\nbody\r\n", b"A: b\r\n\r\nbody\r\n"),
    (b"A: b\n\nbody\n", b"A: b\r\n\r\nbody\r\n"),
    (b"no end", b"no end\r\n"),
    (b"\n", b"\r\n"),
    # A bare CR is content: the backend counted it as one octet.
    (b"a\rb\r\n", b"a\rb\r\n"),
    (b"a\r\r\n", b"a\r\r\n"),
    (b"a\r", b"a\r\r\n"),
    (b"\r\n\r", b"\r\n\r\r\n"),
    (b".", b".\r\n"),
    (b".\r\n", b".\r\n"),
    (b"..\r\n.\r\n", b"..\r\n.\r\n"),
    (b"a\n.\n..\n.x", b"a\r\n.\r\n..\r\n.x\r\n"),
    # Not a line of its own for a client that knows lines by CRLF, so not stuffed.
    (b"a\r.\r\n", b"a\r.\r\n"),
    (b"\x00\xff\x80\r\n", b"\x00\xff\x80\r\n"),
    (b"x" * 70000 + b"\r\n", b"x" * 70000 + b"\r\n"),
]


def encode(chunks: list[bytes], body_lines: int | None = None) -> bytes:
    encoder = ContentEncoder(body_lines)
    return b"".join([*map(encoder.encode, chunks), encoder.finish()])


def decode(octets: bytes) -> bytes:
    """Read as RFC 1939 §3 tells a client to; nothing may be left behind the final dot."""
    content = b""
    while not octets.startswith(b".\r\n"):
        line, end, octets = octets.partition(b"\r\n")
        assert end
        content += line.removeprefix(b".") + end
    assert octets == b".\r\n"
    return content


def normalised(content: bytes) -> bytes:
    lines = re.sub(rb"(?<!\r)\n", b"\r\n", content)
    return lines if not lines or lines.endswith(b"\r\n") else lines + b"\r\n"


@pytest.mark.parametrize(("content", "expected"), CONTENT)
def test_content(content: bytes, expected: bytes) -> None:
    assert decode(encode([content])) == expected
    assert normalised(content) == expected
    assert encode([content[i : i + 1] for i in range(len(content))]) == encode([content])


def test_dots_are_stuffed_on_the_wire() -> None:
    assert encode([b".a\r\n.\r\nb.\r\n"]) == b"..a\r\n..\r\nb.\r\n.\r\n"


@pytest.mark.fault("C16")
@pytest.mark.parametrize("border", [1, 4096, 8192, 65536, 131072])
@pytest.mark.parametrize("around", [b"\r\n.\r\n", b"\r\n..", b"\n.\n", b"\r\r\n.", b".\r\n"])
def test_dots_at_the_borders_of_chunks(border: int, around: bytes) -> None:
    for cut in range(len(around) + 1):
        content = (b"x" * border)[cut:] + around + b"tail\r\n"
        assert decode(encode([content[:border], content[border:]])) == normalised(content)


RAW = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\x00", b"H: v\r\n"]), max_size=40).map(
    b"".join
)


@pytest.mark.fault("C16")
@given(RAW | st.binary(max_size=200), st.lists(st.integers(0, 9999), max_size=12))
def test_content_comes_back(content: bytes, cuts: list[int]) -> None:
    assert decode(encode(split(content, cuts))) == normalised(content)


@given(
    RAW,
    st.sampled_from([b"\r\n", b"\r", b"x" * 70 + b".\r\n", b"\xff\x0a\x0d"]),
    st.integers(0, 60),
    st.integers(0, 9999),
)
def test_one_odd_place_in_much_that_is_ordinary(odd: bytes, ordinary: bytes, times: int, cut: int) -> None:
    content = ordinary * times + odd + ordinary * times
    assert decode(encode(split(content, [cut]))) == normalised(content)


@given(RAW, st.lists(st.integers(0, 9999), max_size=12), st.integers(0, 6))
def test_top_is_header_blank_line_and_lines(content: bytes, cuts: list[int], lines: int) -> None:
    assert decode(encode(split(content, cuts), lines)) == top_of(normalised(content), lines)


def top_of(content: bytes, lines: int) -> bytes:
    kept = []
    body = -1
    for line in content.split(b"\r\n")[:-1]:
        # A bare LF can't be here any more, so a line is what stands between two CRLF.
        if body == lines:
            break
        kept.append(line + b"\r\n")
        if body >= 0:
            body += 1
        elif not line.strip(b"\r"):
            body = 0
    return b"".join(kept)


TOP = [
    (b"A: b\r\n\r\n1\r\n2\r\n3\r\n", 0, b"A: b\r\n\r\n"),
    (b"A: b\r\n\r\n1\r\n2\r\n3\r\n", 2, b"A: b\r\n\r\n1\r\n2\r\n"),
    (b"A: b\r\n\r\n1\r\n2\r\n3\r\n", 3, b"A: b\r\n\r\n1\r\n2\r\n3\r\n"),
    (b"A: b\r\n\r\n1\r\n2\r\n3", 2**32 - 1, b"A: b\r\n\r\n1\r\n2\r\n3\r\n"),
    # Without a blank line all is header.
    (b"A: b\nC: d\n", 0, b"A: b\r\nC: d\r\n"),
    # Without a header the message begins with its blank line.
    (b"\r\n1\r\n2\r\n", 1, b"\r\n1\r\n"),
    (b"A: b\n\n.1\n2", 1, b"A: b\r\n\r\n.1\r\n"),
    # Written by a program that made CRLF of LF twice.
    (b"A: b\r\r\nC: d\r\r\n\r\r\n1\r\r\n2\r\r\n", 0, b"A: b\r\r\nC: d\r\r\n\r\r\n"),
    (b"A: b\r\r\nC: d\r\r\n\r\r\n1\r\r\n2\r\r\n", 1, b"A: b\r\r\nC: d\r\r\n\r\r\n1\r\r\n"),
    (b"A: b\r\n\r\r\r\r\r\n1\r\n", 0, b"A: b\r\n\r\r\r\r\r\n"),
    (b"\r\r\n1\r\n2\r\n", 1, b"\r\r\n1\r\n"),
    (b"A: b\r\n\r \r\nC: d\r\n\r\n1\r\n", 0, b"A: b\r\n\r \r\nC: d\r\n\r\n"),
    (b"A: b\r\nC\r\r\nD: e\r\n\r\n1\r\n", 0, b"A: b\r\nC\r\r\nD: e\r\n\r\n"),
    (b"", 5, b""),
]


@pytest.mark.parametrize(("content", "lines", "expected"), TOP)
def test_top(content: bytes, lines: int, expected: bytes) -> None:
    for octets in (1, 2, 3, 1000):
        chunks = [content[i : i + octets] for i in range(0, len(content), octets)]
        assert decode(encode(chunks, lines)) == expected


def test_top_tells_when_it_has_enough() -> None:
    encoder = ContentEncoder(1)
    assert encoder.encode(b"A: b\r\n\r\n1") == b"A: b\r\n\r\n1"
    assert not encoder.enough
    assert encoder.encode(b"\r\n2\r\n") == b"\r\n"
    assert encoder.enough
    assert encoder.encode(b"3\r\n\r") == b""
    assert encoder.finish() == b".\r\n"


# Octets that only a setting changes


def encode_with(chunks: list[bytes], *, replace_nul: bool = False, add_blank_line: bool = False) -> bytes:
    encoder = ContentEncoder(replace_nul=replace_nul, add_blank_line=add_blank_line)
    return b"".join([*map(encoder.encode, chunks), encoder.finish()])


HEADERS = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"A", b".", b"\x00"]), max_size=12).map(b"".join)


@given(HEADERS, st.lists(st.integers(0, 99)))
def test_a_replaced_nul_changes_no_other_octet(content: bytes, cuts: list[int]) -> None:
    plain = encode_with(split(content, cuts))
    assert encode_with(split(content, cuts), replace_nul=True) == plain.replace(b"\x00", b"\x80")


@given(HEADERS, st.lists(st.integers(0, 99)))
def test_a_blank_line_is_added_where_there_is_none(content: bytes, cuts: list[int]) -> None:
    plain = decode(encode_with([content]))
    has_one = re.search(rb"(?:\A|\n)\r+\n", plain) is not None
    assert decode(encode_with(split(content, cuts), add_blank_line=True)) == plain + (b"" if has_one else b"\r\n")
