"""XTND XLST's line of one message: found in any chunking, never more than a line, and bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Entry
from legacy_email_proxy.pop3.header_line import MAX_HEADER_OCTETS, MAX_VALUE_OCTETS, HeaderLine
from legacy_email_proxy.pop3.requests import Reply
from legacy_email_proxy.pop3.session import MAX_XLST_MESSAGES, Session
from pop3.maildrops import OPTIONS, MemoryMaildrop, Play

CONTENT = [
    (b"", b""),
    (b"Id: 1\r\n\r\n", b"7 Id: 1\r\n"),
    (b"id:1", b"7 id: 1\r\n"),
    (b"ID:\r\n\r\n", b"7 ID: \r\n"),
    (b"A: b\nId: 1\n\n", b"7 Id: 1\r\n"),
    (b"A: Id: 0\r\nId: 1\r\nId: 2\r\n\r\n", b"7 Id: 1\r\n"),
    (b"Id: 1\r\n two\r\n\tthree\r\nB: 4\r\n\r\n", b"7 Id: 1 two three\r\n"),
    (b"Idx: 1\r\n\r\nId: body\r\n", b""),
    (b"\r\nId: body\r\n", b""),
    (b"A: b\r\n\r\nId: body\r\n", b""),
    (b"A: b\r\r\nId: 1\r\r\n\r\r\nId: body\r\r\n", b"7 Id: 1\r\n"),
    (b"A: b\r\r\n\r\r\nId: body\r\r\n", b""),
    (b"\r\r\r\r\r\r\r\r\r\nId: body\r\n", b""),
    (b"Id: a\x00b\rc\x7fd\r\n\r\n", b"7 Id: a b c d\r\n"),
    (b"Id: \xe9\r\n\r\n", b"7 Id: \xe9\r\n"),
    (b"Id: " + b"x" * 2000 + b"\r\n\r\n", b"7 Id: " + b"x" * MAX_VALUE_OCTETS + b"\r\n"),
    # What nobody looks through is not there.
    (b"A: " + b"x" * MAX_HEADER_OCTETS + b"\r\nId: 1\r\n\r\n", b""),
]


def line(chunks: list[bytes], name: str = "Id") -> bytes:
    header = HeaderLine(7, name)
    for chunk in chunks:
        assert header.encode(chunk) == b""
        if header.enough:
            break
    assert len(header._header) <= 2 * MAX_HEADER_OCTETS
    return header.finish()


@pytest.mark.parametrize(("content", "expected"), CONTENT)
def test_lines(content: bytes, expected: bytes) -> None:
    assert line([content]) == expected
    assert line([content[i : i + 1] for i in range(min(len(content), 3000))]) == expected
    assert line([content[i : i + 7] for i in range(0, len(content), 7)]) == expected


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"Id:", b" ", b"1", b"\x00"])).map(b"".join), st.data())
def test_it_is_one_line_in_any_chunking(content: bytes, data: st.DataObject) -> None:
    cuts = sorted({0, len(content), *data.draw(st.lists(st.integers(0, len(content))))})
    whole = line([content])
    assert line([content[a:b] for a, b in pairwise(cuts)]) == whole
    assert whole == b"" or (whole.startswith(b"7 Id: ") and whole.endswith(b"\r\n") and len(whole.splitlines()) == 1)


def test_a_name_is_no_pattern() -> None:
    assert line([b"Id: 1\r\n\r\n"], ".d") == b""


def test_nothing_is_read_behind_the_header() -> None:
    maildrop = MemoryMaildrop({"a": b"Id: 1\r\n\r\n" + b"x" * 10_000})
    play = Play(maildrop)
    play.log_in()
    assert play.feed(b"XTND XLST Id\r\n") == b"+OK headers follow\r\n1 Id: 1\r\n.\r\n"
    assert maildrop.steps.count("break a") < 5


@pytest.mark.parametrize("more", [0, 1])
def test_a_large_maildrop_is_not_looked_through(more: int) -> None:
    session = Session(OPTIONS)
    session.receive_data(b"USER u\r\nPASS p\r\n")
    while isinstance(session.next_event(), Reply):
        pass
    session.opened([Entry(f"u{number}", 1) for number in range(MAX_XLST_MESSAGES + more)])
    session.next_event()
    session.receive_data(b"XTND XLST Id\r\n")
    reply = session.next_event()
    assert isinstance(reply, Reply)
    assert reply.octets.startswith(b"-ERR" if more else b"+OK")
    if more:
        # One message of it may still be asked for.
        session.receive_data(b"XTND XLST Id 1\r\n")
        assert session.next_event() == Reply(b"+OK headers follow\r\n")
