"""Headers that a program has spoilt: told from text, and readable for every server behind our own lines."""

from __future__ import annotations

import re
import time
from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.smtp.headers import MAX_HEADER_OCTETS, HeaderOptions, HeaderReader
from legacy_email_proxy.smtp.mending import mended
from legacy_email_proxy.smtp.rewriting import Rewriting
from smtp.test_headers import cut
from smtp.test_rewriting import ALL, Scripted, tag, through

MIME = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n'
BODY = b'\r\n--b\r\nContent-Disposition: attachment; filename="scan.pdf"\r\n\r\nPDF\r\n--b--\r\n'
BOM = b"\xef\xbb\xbf"

# What the device sends above the body → the header that every server can read.
SPOILT = {
    "mbox": (
        b"From me@x Sun Nov 22 18:00:00 2026\r\nSubject: s\r\n" + MIME,
        b"X-Mailbox-Line: From me@x Sun Nov 22 18:00:00 2026\r\nSubject: s\r\n" + MIME,
    ),
    "quoted mbox": (b">From me@x\r\nSubject: s\r\n" + MIME, b"X-Mailbox-Line: >From me@x\r\nSubject: s\r\n" + MIME),
    "mbox twice": (
        b"From me@x\r\n>>From you@x\r\n" + MIME,
        b"X-Mailbox-Line: From me@x\r\nX-Mailbox-Line: >>From you@x\r\n" + MIME,
    ),
    "byte order mark": (BOM + b"Subject: s\r\n" + MIME, b"Subject: s\r\n" + MIME),
    "byte order mark and mbox": (BOM + b"From me@x\r\nX: 1\r\n", b"X-Mailbox-Line: From me@x\r\nX: 1\r\n"),
    "a leading empty line": (b"\r\nSubject: s\r\n" + MIME, b"Subject: s\r\n" + MIME),
    "two of them, a byte order mark and a blank": (BOM + b"\r\n\r\n Subject: s\r\n" + MIME, b"Subject: s\r\n" + MIME),
    "a leading blank": (b" Subject: s\r\n\tgoes on\r\n" + MIME, b"Subject: s\r\n\tgoes on\r\n" + MIME),
    "8-bit name first": (b"Gr\xf6\xdfe: 1\r\n" + MIME, b"X-Header-Line: Gr\xf6\xdfe: 1\r\n" + MIME),
    "8-bit name": (
        b"Subject: s\r\nGr\xc3\xb6\xc3\x9fe: 1\r\n 2\r\n" + MIME,
        b"Subject: s\r\nX-Header-Line: Gr\xc3\xb6\xc3\x9fe: 1\r\n 2\r\n" + MIME,
    ),
    "lines that go on without a blank": (
        b"To: a@x,\r\nb@x,\r\nc@x\r\nSubject: s\r\n" + MIME,
        b"To: a@x,\r\n b@x,\r\n c@x\r\nSubject: s\r\n" + MIME,
    ),
    "a parameter": (
        b'Subject: s\r\nContent-Type: multipart/mixed;\r\nboundary="b"\r\n',
        b'Subject: s\r\nContent-Type: multipart/mixed;\r\n boundary="b"\r\n',
    ),
    "addresses, and nothing else behind them": (
        b"Subject: s\r\nTo: a@x,\r\n\tb@x,\r\nC <c@x>,\r\nd@x\r\n",
        b"Subject: s\r\nTo: a@x,\r\n\tb@x,\r\n C <c@x>,\r\n d@x\r\n",
    ),
    "two likely fields": (
        b"To: a@x,\r\nb@x\r\nSubject: s\r\nFrom: d@x\r\n",
        b"To: a@x,\r\n b@x\r\nSubject: s\r\nFrom: d@x\r\n",
    ),
    "a date": (
        b"Subject: a\r\nb\r\nDate: Mon, 30 Nov 2026 12:00:00 +0100\r\n",
        b"Subject: a\r\n b\r\nDate: Mon, 30 Nov 2026 12:00:00 +0100\r\n",
    ),
}

# What may be text, so that it must be read as text: where the header ends, and what follows.
TEXT = {
    "no blank line in front of it": (b"Subject: Alarm\r\n", b"Zone 1 open\r\nDate: 1.2.2026 12:00\r\n\r\nBye\r\n"),
    "a forwarded message": (
        b"Subject: Fwd\r\nFrom: a@x\r\n",
        b"-- forwarded --\r\nFrom: b@x\r\nSubject: x\r\nDate: Mon, 30 Nov 2026 12:00 GMT\r\n\r\ntext\r\n",
    ),
    "a report": (b"", b"\r\nFrom: 1.11.\r\nTo: 30.11.\r\nPages: 12\r\n\r\n"),
    "UTF-8 with its mark": (b"", BOM + b"Zone: 1\r\n\r\n"),
    "an umlaut": (b"", b"Z\xe4hler: 5\r\nStand: 7\r\n\r\n"),
    "a sentence, then a header": (b"", b"This came:\r\n" + MIME + b"\r\n"),
    "a blank line, then a sentence": (b"", b"\r\nThis came:\r\n" + MIME + b"\r\n"),
    "From, and a sentence": (b"", b"From here on\r\nit is text\r\nSubject: x\r\n\r\n"),
    "From, and a time": (b"", b"From here on\r\n12:30 text\r\n\r\n"),
    "an empty line, and From": (b"", b"\r\nFrom here on\r\nNote: text\r\n\r\n"),
    "mbox, and then text": (b"From me@x\r\nSubject: s\r\n", b"Hello,\r\nDate: today\r\n\r\n"),
    "too many empty lines": (b"", b"\r\n" * 9 + MIME + b"\r\n"),
    "nothing behind": (b"To: a@x\r\n", b"b@x\r\n\r\n"),
    "a list of addresses, and then text": (b"To: a@x,\r\nb@x\r\n", b"Hello\r\n\r\n"),
    "a paragraph, then a header": (b"A: 1\r\n", b"one\r\ntwo\r\nthree\r\nfour\r\n" + MIME + b"\r\n"),
    "a header, then a paragraph": (b"A: 1\r\n", b"one\r\n" + MIME + b"two\r\nthree\r\nfour\r\nfive\r\n\r\n"),
    "a sentence with an address": (b"Subject: Dear Bob,\r\n", b"write to me@x\r\n\r\n"),
    "an equation": (b"Subject: x;\r\n", b"a b=c\r\n\r\n"),
    "a body like a header": (b"A: 1\r\n", b"\r\n" + MIME),
}


@pytest.mark.parametrize("name", SPOILT)
async def test_a_spoilt_header_is_read_by_every_server(name: str) -> None:
    given, expected = SPOILT[name]
    passed = b"".join(await through(Rewriting(ALL), given + BODY))
    assert passed.endswith(expected + BODY)
    own = passed.removesuffix(expected + BODY)
    assert re.fullmatch(rb"((Received|From|Date|Message-ID): [^\n]*\r\n(\t[^\n]*\r\n)*)+", own)
    message = message_from_bytes(passed)
    assert not message.defects
    assert all(len(message.get_all(field, [])) <= 1 for field in ("From", "Date", "Message-ID"))
    if b"multipart" in given:
        assert [part.get_filename() for part in message.walk()] == [None, "scan.pdf"]
    # Where nothing is done to headers it goes on octet for octet.
    assert b"".join(await through(Rewriting(), given + BODY)) == given + BODY
    assert mended(expected) == expected


@pytest.mark.parametrize("name", SPOILT)
def test_it_makes_no_difference_how_it_is_cut(name: str) -> None:
    given, _ = SPOILT[name]
    content = given + BODY
    assert cut([content]) == (given, BODY)
    assert cut([content[at : at + 1] for at in range(len(content))]) == (given, BODY)
    # All header, and not even an empty line.
    assert cut([given]) == (given, b"")


@pytest.mark.parametrize("name", TEXT)
async def test_text_is_not_taken_for_a_header(name: str) -> None:
    block, text = TEXT[name]
    content = block + text
    assert cut([content]) == (block, text)
    assert cut([content[at : at + 1] for at in range(len(content))]) == (block, text)
    passed = b"".join(await through(Rewriting(ALL), content))
    assert passed.endswith((b"" if block else b"\r\n" * (not text.startswith(b"\r\n"))) + text)


@given(
    st.lists(
        st.sampled_from(
            [
                b"A: 1",
                b" f",
                b"text",
                b"From x",
                b">From ",
                b"\r\n",
                b"\r\n\r\n",
                b"Subject: x",
                b"To: a@x",
                BOM,
                b"\xff:",
            ]
        )
    ).map(b"".join),
    st.lists(st.integers(0, 100)),
)
def test_any_content_however_it_is_cut(content: bytes, places: list[int]) -> None:
    ends = sorted(min(place, len(content)) for place in places)
    pieces = [content[a:b] for a, b in zip([0, *ends], [*ends, len(content)], strict=True)]
    assert cut(pieces) == cut([content])
    block, rest = cut([content])
    assert block + rest == content
    assert all(re.match(rb"[ \t]|[!-9;-~]+[ \t]*:", line) for line in re.findall(rb"[^\n]+", mended(block)))


@pytest.mark.parametrize("field", [b"Bcc", b"BCC ", b"Resent-Bcc", b"resent-bcc"])
@pytest.mark.parametrize(
    "above",
    [
        b"To: a@x,\r\nb@x\r\n",
        b"Subject: s\r\nGr\xf6\xdfe: 1\r\n",
        b"\r\nSubject: s\r\n",
        BOM,
        b"From me@x\r\nA: 1\r\n",
        b"A: 1\r\n",
    ],
)
async def test_no_bcc_passes(field: bytes, above: bytes) -> None:
    content = above + field + b": secret@x,\r\n\tsecret2@x\r\n" + b"X: 1\r\n\r\nbody\r\n"
    passed = b"".join(await through(Rewriting(HeaderOptions(remove_bcc=True)), content))
    assert b"secret" not in passed
    assert passed.endswith(b"X: 1\r\n\r\nbody\r\n")
    assert b"".join(await through(Rewriting(), content)) == content


async def test_a_bcc_that_goes_on_without_a_blank() -> None:
    content = b"To: a@x\r\nBcc: b@x,\r\nsecret@x\r\nMIME-Version: 1.0\r\n\r\nbody\r\n"
    passed = b"".join(await through(Rewriting(HeaderOptions(remove_bcc=True)), content))
    assert passed == b"To: a@x\r\nMIME-Version: 1.0\r\n\r\nbody\r\n"


async def test_a_filter_sees_a_whole_header() -> None:
    seen = Scripted(header=tag("X-Seen"))
    content = b"To: a@x,\r\nb@x\r\nSubject: s\r\n" + MIME + BODY
    passed = b"".join(await through(Rewriting(filters={"one": seen}), content))
    assert passed == b"To: a@x,\r\n b@x\r\nSubject: s\r\n" + MIME + b"X-Seen: 1\r\n" + BODY


@pytest.mark.parametrize(
    "content",
    [
        b"A: 1\r\ntext\r\n" + b"B: 2\r\n" * (MAX_HEADER_OCTETS // 6 - 4),
        b"\r\n" + b"x" * (MAX_HEADER_OCTETS - 10),
        b"From x\r\n" * 3 + b"A: 1\r\n" * (MAX_HEADER_OCTETS // 6 - 5),
        b"A: 1\r\n" + b"x" * 100_000 + b"\r\n" + b"b,\r\n" * 30_000,
        b" " * (MAX_HEADER_OCTETS - 1),
    ],
    ids=["fields", "text", "mbox", "list", "blanks"],
)
def test_looking_for_the_end_is_no_more_work_octet_by_octet(content: bytes) -> None:
    reader = HeaderReader()
    began = time.process_time()
    for at in range(len(content)):
        assert reader.feed(content[at : at + 1]) is None
    assert time.process_time() - began < 20


def test_a_paragraph_is_not_held() -> None:
    reader = HeaderReader()
    assert reader.feed(b"A: 1\r\none\r\ntwo\r\nthree\r\nfour") is None
    assert reader.feed(b"\r\nfive") == (b"A: 1\r\n", b"one\r\ntwo\r\nthree\r\nfour\r\nfive")


def test_what_is_held_is_bounded() -> None:
    reader = HeaderReader()
    assert reader.feed(b"A: 1\r\ntext\r\n") is None
    fed = 0
    while (done := reader.feed(b"Message-ID: <x>\r\n")) is None:
        fed += 1
    assert fed * 17 < MAX_HEADER_OCTETS
    assert done[0] == b"A: 1\r\n"
    assert not reader.too_long
    assert not reader.spoilt


@pytest.mark.parametrize(
    "line", [b"date: " + b"11:11 " * 40_000, b"from:" * 50_000, b"\xff" * 250_000, b"date:" * 50_000, b"b@x,"]
)
def test_no_line_takes_long_to_judge(line: bytes) -> None:
    began = time.process_time()
    cut([b"A: 1\r\nb\r\n" + line + b"\r\n\r\n"])
    cut([b"\r\n" + line + b"\r\n\r\n"])
    cut([b"To: a@x,\r\n" + line + b"\r\n" + b"b@x,\r\n" * 40_000 + b"\r\n"])
    mended(b"A: 1\r\n" + line)
    assert time.process_time() - began < 2
