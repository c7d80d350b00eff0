"""Long lines become short ones, and a reader sees the same message."""

from __future__ import annotations

import base64
import quopri
import re
from email import message_from_bytes
from email.message import Message
from email.policy import compat32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.smtp.headers import HeaderOptions
from legacy_email_proxy.smtp.long_lines import MAX_LINE_OCTETS, LineShortener
from legacy_email_proxy.smtp.rewriting import Rewriting
from smtp.test_rewriting import through

LONG = b"word " * 1000 + b"\t \r\n" + b"x" * 998 + b"\r\n" + b"y" * 9000 + b"=\r\n.\r\nFrom \xe4\xff=41 \r\n\r\n"
DIGITS = base64.b64encode(bytes(range(256)) * 100)
QUOTED = b"=E4" * 3000 + b"=\r\nshort =\r\nx" + b"z" * 5000 + b"\r\n"
MULTIPART = b"""\
MIME-Version: 1.0
Content-Type: multipart/mixed;
 boundary="a b"

preamble
--a b
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 8bit

<HTML>
--a b
Content-Type: multipart/alternative; boundary=inner

--inner

<TEXT>
--inner
Content-Transfer-Encoding: base64

<DIGITS>
--inner--
--a b
Content-Transfer-Encoding: quoted-printable

<QUOTED>
--a b--
epilogue
""".replace(b"\n", b"\r\n")


def multipart(**parts: bytes) -> bytes:
    whole = MULTIPART
    for name, content in parts.items():
        whole = whole.replace(b"<%s>" % name.encode(), content)
    return whole


def shortened(content: bytes, octets: int = 1 << 30) -> bytes:
    block, _, body = content.partition(b"\r\n\r\n")
    shortener = LineShortener()
    # What comes with the header is its empty line at least.
    done = [shortener.begin(block + b"\r\n", b"\r\n" + body[:octets])]
    done += [shortener.feed(body[at : at + octets]) for at in range(octets, len(body), octets)]
    return b"".join([*done, shortener.end()])


def longest(content: bytes) -> int:
    return max(map(len, content.split(b"\r\n")))


def leaves(content: bytes) -> list[bytes]:
    found: list[bytes] = []
    for part in message_from_bytes(content, policy=compat32).walk():
        if not part.is_multipart():
            found.append(_payload(part))
    return found


def _payload(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


@pytest.mark.parametrize(
    "header", [b"", b"Content-Transfer-Encoding: 8bit\r\n", b"MIME-Version: 1.0\r\nContent-Type: text/html\r\n"]
)
@pytest.mark.parametrize(
    "text",
    [
        *(LONG, LONG.removesuffix(b"\r\n\r\n"), b"x" * 5000, b"y" * 4096 + b"\r\n", b"z" * 999, b"z" * 999 + b"\r\n"),
        b"short\r\n" * 1000 + b"x" * 999 + b"\r\n",
    ],
)
def test_text_becomes_quoted_printable(header: bytes, text: bytes) -> None:
    done = shortened(b"Subject: x\r\n" + header + b"\r\n" + text)
    assert longest(done) <= 76
    assert leaves(done) == [text]
    message = message_from_bytes(done)
    assert message["Content-Transfer-Encoding"] == "quoted-printable"
    assert message["MIME-Version"] == "1.0"


@pytest.mark.parametrize("digits", [DIGITS, DIGITS[:4096], DIGITS[:998], DIGITS[:1000] + b"\r\n" + DIGITS[1000:]])
def test_base64_is_broken(digits: bytes) -> None:
    done = shortened(b"Content-Transfer-Encoding: BASE64\r\n\r\n" + digits + b"\r\n")
    assert longest(done) <= MAX_LINE_OCTETS
    body = done.partition(b"\r\n\r\n")[2]
    assert body.replace(b"\r\n", b"") == digits.replace(b"\r\n", b"")
    assert b"\r\n\r\n" not in body
    assert longest(body) > 76 or len(digits) > 998


@pytest.mark.parametrize("octets", [998, 999, 1799, 1800, 1801, 2699, 4094, 4095, 4096, 4097, 4995, 5895, 9091])
def test_no_cut_is_between_cr_and_lf(octets: int) -> None:
    """Such a line would lose its LF, and the reader would see two lines in one."""
    for around in range(octets - 3, octets + 4):
        for line in (b"x" * around, (b"=E4" * around)[:around].rstrip(b"=").removesuffix(b"=E")):
            text = line + b"\r\n" + line + b"=\r\n" + b"short\r\n"
            done = shortened(b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + text)
            assert longest(done) <= MAX_LINE_OCTETS
            assert not re.search(rb"\r(?!\n)|(?<!\r)\n", done)
            assert leaves(done) == [quopri.decodestring(text)]


def test_quoted_printable_is_broken_softly() -> None:
    done = shortened(b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + QUOTED)
    assert longest(done) <= MAX_LINE_OCTETS
    assert leaves(done) == [quopri.decodestring(QUOTED)]


def nested(levels: int, text: bytes) -> bytes:
    """So many multiparts, one in the other; the text is a part of the innermost, and of the outermost behind it."""
    opened = [
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(levels)
    ]
    closed = [b"\r\n--b%d--\r\n" % level for level in reversed(range(1, levels))]
    part = b"Content-Type: text/plain\r\n\r\n" + text
    return b"".join([*opened, part, *closed, b"--b0\r\n", part, b"\r\n--b0--\r\n"])


@pytest.mark.parametrize("octets", [1 << 30, 7])
def test_what_is_deeper_than_a_hundred_multiparts_passes_as_it_is(octets: int) -> None:
    text = b"x" * 5000 + b"\r\n--b99x\r\n" + LONG
    content = nested(100, text)
    assert longest(shortened(content, octets)) <= MAX_LINE_OCTETS
    content = nested(101, text)
    done = shortened(content, octets)
    deep, outer = content.split(b"--b0\r\n")[1:]
    # All of it, as far as the boundary of the outermost: what comes behind that is looked at again.
    assert deep in done
    assert outer not in done
    assert longest(done.partition(deep)[2]) <= MAX_LINE_OCTETS


def test_only_the_part_with_a_long_line_is_changed() -> None:
    content = multipart(HTML=b"<p>short</p>", TEXT=b"w" * 999, DIGITS=DIGITS[:76], QUOTED=b"=E4")
    done = shortened(content)
    text = b"w" * 75 + b"=\r\n"
    # Its header was empty.
    assert done == content.replace(
        b"--inner\r\n\r\nwww", b"--inner\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nwww"
    ).replace(b"w" * 999, text * 13 + b"w" * 24)


HELD = 1 << 18


@pytest.mark.parametrize("signed", [False, True])
def test_a_part_too_large_to_be_held(signed: bool) -> None:
    """Nobody knows what is still to come: without a signature nothing is lost by encoding it."""
    header = b"DKIM-Signature: v=1; d=x\r\n" * signed + b"Subject: x\r\n\r\n"
    text = b"short line\r\n" * (HELD // 12 + 1)
    shortener = LineShortener()
    block, rest = header[:-2], header[-2:]
    assert shortener.begin(block, rest + text[:-12]) == b""
    assert len(shortener.feed(text[-12:])) > HELD
    assert shortener.changed == (not signed)
    assert (b"=\r\n" in shortener.feed(b"x" * 5000)) == (not signed)
    assert shortened(header + text) == (header + text if signed else shortened(header + text, 100))


def test_each_part_is_judged_for_itself() -> None:
    content = multipart(HTML=b"<p>" + LONG, TEXT=LONG, DIGITS=DIGITS, QUOTED=QUOTED)
    done = shortened(content)
    assert longest(done) <= MAX_LINE_OCTETS
    assert leaves(done) == leaves(content)
    assert done.startswith(
        b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary="a b"\r\n\r\npreamble\r\n'
    )
    assert done.endswith(b"--a b--\r\nepilogue\r\n")


UNTOUCHED = {
    "signed": b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\n" + LONG + b"--s--\r\n",
    "encrypted": b"Content-Type: multipart/encrypted; boundary=s\r\n\r\n--s\r\n\r\n" + LONG + b"--s--\r\n",
    "a message": b"Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\n" + LONG,
    "unknown encoding": b"Content-Transfer-Encoding: x-uuencode\r\n\r\n" + LONG,
    "no boundary": b"Content-Type: multipart/mixed\r\n\r\n" + LONG,
    "a part's endless header": (
        b"Content-Type: multipart/mixed; boundary=s\r\n\r\n--s\r\n" + b"A: 1\r\n" * 20_000 + b"\r\n" + LONG
    ),
    "a part without an empty line": b"Content-Type: multipart/mixed; boundary=s\r\n\r\n--s\r\nA: 1\r\n--s--\r\n",
    "short text": b"Subject: x\r\n\r\nshort\r\n",
    "text of the greatest length": b"Subject: x\r\n\r\n" + b"x" * 998 + b"\r\n" + b"y" * 998,
    "8-bit text": b"Content-Type: text/plain; charset=latin1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xff\r\n",
    "nothing": b"Subject: x\r\n\r\n",
    "short base64": b"Content-Transfer-Encoding: base64\r\n\r\nYWJj\r\n\r\nZGVm\r\n",
    "short quoted-printable": b"Content-Transfer-Encoding: quoted-printable\r\n\r\na =\r\n" + b"x" * 998 + b"\r\n",
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_stays_as_it_is(name: str) -> None:
    assert shortened(UNTOUCHED[name]) == UNTOUCHED[name]
    inside = multipart(HTML=b"", TEXT=b"", DIGITS=b"", QUOTED=b"")
    inside = inside.replace(b"\r\n--inner\r\n\r\n\r\n", b"\r\n--inner\r\n" + UNTOUCHED[name] + b"\r\n")
    if not name.startswith("a part's"):
        assert UNTOUCHED[name] in shortened(inside)


def test_long_header_lines_are_folded() -> None:
    content = b"A: 1\r\nReferences:" + b" <%s@x>" % (b"x" * 50) * 100 + b"\r\nB: " + b"y" * 2000 + b"\r\n\r\ntext\r\n"
    done = shortened(content)
    lines = done.split(b"\r\n")
    assert [len(line) for line in lines if len(line) > MAX_LINE_OCTETS] == [2001]  # no blank in it
    message, before = message_from_bytes(done), message_from_bytes(content)
    assert " ".join(message["References"].split()) == " ".join(before["References"].split())


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"--s\r\n", b"--s--\r\n", b"\r\n", b"=", b"=41", b"x" * 900, b"Y" * 4095, b" ", b"\xff", b"."),
                *(b"Content-Transfer-Encoding: base64\r\n", b"Content-Transfer-Encoding: quoted-printable\r\n"),
                *(b"Content-Type: multipart/mixed; boundary=t\r\n", b"--t\r\n", b"--t--"),
            ]
        )
    ).map(b"".join),
    st.sampled_from([1, 2, 3, 7, 100, 5000]),
)
def test_however_it_is_cut(body: bytes, octets: int) -> None:
    content = b"Content-Type: multipart/mixed; boundary=s\r\n\r\n--s\r\n\r\n" + body
    assert shortened(content, octets) == shortened(content)


@pytest.mark.fault("A10")
@given(
    st.binary(max_size=3000).map(lambda octets: octets.replace(b"\r", b"").replace(b"\n", b"\r\n")), st.integers(1, 50)
)
def test_any_text_comes_back(text: bytes, times: int) -> None:
    content = b"A: 1\r\n\r\n" + text * times
    done = shortened(content)
    if longest(content) <= MAX_LINE_OCTETS:
        assert done == content
        return
    assert longest(done) <= 76
    assert quopri.decodestring(done.partition(b"\r\n\r\n")[2]) == text * times


@pytest.mark.quirk("smtp-C17")
async def test_it_streams_where_that_is_asked_for() -> None:
    pieces = [b"Subject: x\r\n\r\nab", b"x" * 5000, b"", b"cd"]
    content = b"".join(pieces)
    (passed,) = await through(Rewriting(HeaderOptions()), content)
    assert passed == content
    encoding = Rewriting(HeaderOptions(shorten_lines=True))
    done = await through(encoding, *pieces)
    assert all(done)
    assert b"".join(done) == shortened(content)
    small = b"Subject: x\r\n\r\nabc\r\n"
    assert await through(encoding, small) == [shortened(small)]
