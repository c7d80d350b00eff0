"""Where a header ends, and what is put above it."""

from __future__ import annotations

import re
import time
from email import message_from_bytes
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Client
from legacy_email_proxy.smtp import headers
from legacy_email_proxy.smtp.headers import (
    MAX_HEADER_OCTETS,
    MAX_RECEIVED,
    HeaderOptions,
    HeaderReader,
    loops,
    own_lines,
    protocol,
)

CLIENT = Client("192.168.1.7", "s12", "scanner")
OPTIONS = HeaderOptions("proxy.example", received=True, add_missing=True)

CUTS = {
    "ordinary": (b"A: 1\r\nB: 2\r\n", b"\r\nbody\r\n"),
    "folded": (b"A: 1\r\n\tx\r\n y: z\r\n", b"\r\n"),
    "blank before the colon": (b"A : 1\r\n", b"\r\nbody"),
    "8-bit values": (b"A: \xff\xfe\r\n", b"\r\n\xff"),
    "empty values": (b"A:\r\nB:\r\n", b"\r\n"),
    "a line of blanks is no empty line": (b"A: 1\r\n \t\r\nB: 2\r\n", b"\r\n"),
    "no empty line": (b"A: 1\r\n", b"text\r\n"),
    "no empty line, the last cut": (b"A: 1\r\n", b"text"),
    "text that looks like a field": (b"A: 1\r\n12:30 on\r\n", b"now 12:30\r\n"),
    "header only": (b"A: 1\r\n", b""),
    "header only, cut": (b"A: 1\r\nB: 2", b""),
    "cut in a name": (b"A: 1\r\n", b"B"),
    "nothing": (b"", b""),
    "body only": (b"", b"\r\ntext\r\n"),
    "text only": (b"", b"Zone 1 is open\r\nA: 1\r\n\r\n"),
    "text only, one line": (b"", b"hello"),
    "text that begins with a blank": (b"", b" hello\r\nA: 1\r\n"),
    "mbox": (b"From me@example.test Sun Nov 22\r\nA: 1\r\n", b"\r\n"),
    "text that begins like mbox": (b"", b"From now on\r\nit rains\r\n\r\n"),
    "8-bit name": (b"", b"\xc3\x84: 1\r\n\r\n"),
    "a colon first": (b"", b": 1\r\n\r\n"),
}


def cut(pieces: list[bytes]) -> tuple[bytes, bytes]:
    reader = HeaderReader()
    for number, piece in enumerate(pieces):
        if (done := reader.feed(piece)) is not None:
            return done[0], done[1] + b"".join(pieces[number + 1 :])
    return reader.end()


@pytest.mark.parametrize("name", CUTS)
def test_the_header_ends_here(name: str) -> None:
    content = b"".join(CUTS[name])
    assert cut([content]) == CUTS[name]
    assert cut([content[at : at + 1] for at in range(len(content))]) == CUTS[name]


@given(
    st.lists(st.sampled_from([b"A: 1", b" f", b"\t", b"text", b"\r\n", b"\r", b"\n", b":", b"x", b""])).map(b"".join),
    st.lists(st.integers(0, 60)),
)
def test_however_it_is_cut(content: bytes, places: list[int]) -> None:
    ends = sorted(min(place, len(content)) for place in places)
    pieces = [content[a:b] for a, b in zip([0, *ends], [*ends, len(content)], strict=True)]
    assert cut(pieces) == cut([content])
    assert b"".join(cut(pieces)) == content


def test_a_header_without_end_is_cut() -> None:
    reader = HeaderReader()
    line = b"A: " + b"x" * 997 + b"\r\n"
    fed = 0
    while (done := reader.feed(line)) is None:
        fed += len(line)
        assert fed <= MAX_HEADER_OCTETS
    assert reader.too_long
    assert b"".join(done) == line * (fed // len(line) + 1)


def test_one_long_line_of_text_is_no_header() -> None:
    reader = HeaderReader()
    text = b"x" * (MAX_HEADER_OCTETS + 1)
    assert reader.feed(text) == (b"", text)
    assert not reader.too_long


@pytest.mark.parametrize(
    "content",
    [b"A: " + b"x" * (MAX_HEADER_OCTETS - 10), b"A:\r\n" * (MAX_HEADER_OCTETS // 4), b"x" * MAX_HEADER_OCTETS],
    ids=["one line", "many lines", "text"],
)
def test_octet_by_octet_is_no_more_work_for_a_long_one(content: bytes) -> None:
    reader = HeaderReader()
    began = time.process_time()
    for at in range(len(content)):
        assert reader.feed(content[at : at + 1]) is None
    # Quadratic, this takes minutes.
    assert time.process_time() - began < 20


def received(options: HeaderOptions = OPTIONS, client: Client = CLIENT, word: str = "ESMTP") -> bytes:
    block = b"From: a\r\nDate: b\r\nMessage-ID: c\r\n"
    return own_lines(options, client, word, "a@b", block)


def test_received(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_date", lambda: "Sun, 22 Nov 2026 18:00:00 +0100")
    assert received() == (
        b"Received: from scanner ([192.168.1.7]) by proxy.example (Legacy Email Proxy)\r\n"
        b"\twith ESMTP\r\n"
        b"\tid s12; Sun, 22 Nov 2026 18:00:00 +0100\r\n"
    )


@pytest.mark.fault("A30")
@pytest.mark.parametrize(
    ("helo", "shown"),
    [
        ("", b"unknown"),
        ("[192.168.1.7]", b"[192.168.1.7]"),
        ("my scanner", b"my_scanner"),
        ("x) by evil (y; z", b"x_by_evil_y_z"),
        ("a\rX-Evil: 1", b"a_X-Evil:_1"),
        ("Büro", b"B_ro"),
        ("x" * 1000, b"x" * 60),
    ],
)
def test_a_name_in_helo_stays_a_name(helo: str, shown: bytes) -> None:
    line = received(client=Client("192.168.1.7", "s12", helo))
    assert re.sub(rb"\r\n\t", b" ", line).startswith(b"Received: from " + shown + b" ([192.168.1.7]) by ")
    assert all(len(part.expandtabs(8)) <= 78 for part in line.split(b"\r\n"))
    assert line.count(b"\r") == line.count(b"\n")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("::1", b"([IPv6:::1])"),
        ("fe80::1%eth0", b"([IPv6:fe80::1])"),
        ("::ffff:10.0.0.1", b"([10.0.0.1])"),
        ("", b"([unknown])"),
    ],
)
def test_the_address_is_a_literal(address: str, shown: bytes) -> None:
    assert b" " + shown + b" by " in received(client=Client(address, "s1", "x"))


@pytest.mark.parametrize(
    ("extended", "secured", "authenticated", "word"),
    [(False, False, False, "SMTP"), (True, False, False, "ESMTP"), (True, True, False, "ESMTPS"),
     (True, False, True, "ESMTPA"), (True, True, True, "ESMTPSA")],
)  # fmt: skip
def test_protocol(extended: bool, secured: bool, authenticated: bool, word: str) -> None:
    assert protocol(extended=extended, secured=secured, authenticated=authenticated) == word


MISSING = {
    b"": {"From", "Date", "Message-ID"},
    b"Subject: x\r\n": {"From", "Date", "Message-ID"},
    b"from: a\r\n": {"Date", "Message-ID"},
    b"X: 1\r\nDATE : x\r\nMessage-Id:\r\n": {"From"},
    b"X-Date: 1\r\nSubject: Date:\r\n Date: folded\r\n": {"From", "Date", "Message-ID"},
}


@pytest.mark.quirk("smtp-C19")
@pytest.mark.parametrize("block", MISSING)
def test_what_is_missing_is_added(block: bytes) -> None:
    added = own_lines(HeaderOptions("proxy.example", add_missing=True), CLIENT, "SMTP", "dev@firm.example", block)
    message = message_from_bytes(added)
    assert set(message.keys()) == MISSING[block]
    if "From" in message:
        assert message["From"] == "dev@firm.example"
    if "Date" in message:
        assert abs(parsedate_to_datetime(message["Date"]).timestamp() - time.time()) < 60
        assert re.fullmatch(r"<[0-9a-f.]+@firm\.example>", message["Message-ID"])


def test_nobody_is_no_author() -> None:
    assert b"From" not in own_lines(OPTIONS, CLIENT, "SMTP", "", b"")


@pytest.mark.parametrize("path", ["", "scanner", "a@[10.0.0.1]", "a@b_c", "a@-x"])
def test_a_message_id_has_a_domain(path: str) -> None:
    found = own_lines(HeaderOptions("proxy.example", add_missing=True), CLIENT, "SMTP", path, b"From: x\r\nDate: x\r\n")
    assert found.endswith(b"@proxy.example>\r\n")


def test_message_ids_differ() -> None:
    def new() -> bytes:
        return own_lines(HeaderOptions(add_missing=True), CLIENT, "SMTP", "a@b", b"From: x\r\nDate: x\r\n")

    assert len({new() for _ in range(1000)}) == 1000


def test_nothing_is_added_unless_asked_for() -> None:
    assert own_lines(HeaderOptions(), CLIENT, "SMTP", "a@b", b"") == b""


@pytest.mark.parametrize("name", [b"Received", b"RECEIVED", b"received "])
def test_loops(name: bytes) -> None:
    assert not loops((name + b": from x\r\n\tby y\r\n") * MAX_RECEIVED + b"X-Received: 1\r\n" * 200)
    assert loops((name + b": from x\r\n\tby y\r\n") * (MAX_RECEIVED + 1))
