"""What messages hold: header, body, and what is made of them on their way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection

from fuzz.target import Target, cut
from legacy_email_proxy.contracts import Client, Envelope, Failure, Header, normalised
from legacy_email_proxy.pop3.header_line import HeaderLine
from legacy_email_proxy.pop3.wire import ContentEncoder
from legacy_email_proxy.smtp.headers import HeaderOptions, HeaderReader
from legacy_email_proxy.smtp.long_lines import LineShortener
from legacy_email_proxy.smtp.mending import mended
from legacy_email_proxy.smtp.rewriting import Rewriting
from legacy_email_proxy.smtp.signatures import Signatures
from legacy_email_proxy_plugins.filters.mailboxes import mailboxes
from legacy_email_proxy_plugins.filters.sender import rewrite_header
from legacy_email_proxy_plugins.smtps.protocol import ContentEncoder as SMTPContentEncoder
from legacy_email_proxy_plugins.spool.notification import _quoted, _thread

__all__ = ("TARGETS",)

_FIELD = re.compile(rb"[ \t]|[!-9;-~]+[ \t]*:")


def header(octets: bytes, cuts: Collection[int]) -> None:
    octets = normalised(octets)
    pieces = cut(octets, cuts)
    for for_bcc in (False, True):
        block, rest = _split([octets], for_bcc)
        assert _split(pieces, for_bcc) == (block, rest)
        assert block + rest == octets
        clean = mended(block)
        assert all(_FIELD.match(line) for line in re.findall(rb"[^\n]+", clean))
        signatures = Signatures.of(clean)
        changed = Header(clean)
        rewrite_header(changed, "own@x.example", "given@x.example", reply_to=True)
        assert all(_FIELD.match(line) for line in re.findall(rb"[^\n]+", changed.octets))
        if signatures is not None:
            signatures.compare(changed.octets, "sender")
        for name, value in changed.items():
            assert "\n" not in name + value
            mailboxes(value)
    _quoted(octets)
    _thread(octets)


def _split(pieces: list[bytes], for_bcc: bool) -> tuple[bytes, bytes]:
    reader = HeaderReader(for_bcc=for_bcc)
    for at, piece in enumerate(pieces):
        if (done := reader.feed(piece)) is not None:
            return done[0], done[1] + b"".join(pieces[at + 1 :])
    return reader.end()


def long_lines(octets: bytes, cuts: Collection[int]) -> None:
    octets = b"Content-Type: multipart/mixed; boundary=s\r\n\r\n" + normalised(octets)
    assert _shortened(cut(octets, cuts)) == _shortened([octets])


def _shortened(pieces: list[bytes]) -> bytes:
    reader, shortener, done = HeaderReader(), LineShortener(), b""
    for at, piece in enumerate(pieces):
        if (found := reader.feed(piece)) is not None:
            done = shortener.begin(*found)
            done += b"".join(map(shortener.feed, pieces[at + 1 :]))
            break
    else:
        done = shortener.begin(*reader.end())
    return done + shortener.end()


_ENVELOPE = Envelope(Client("192.0.2.7", "s1", "scanner"), "a@x", "a@x", ("b@y",))
_OPTIONS = HeaderOptions("proxy.example", remove_bcc=True, shorten_lines=True)


async def _rewritten(pieces: list[bytes]) -> bytes | type[Exception]:
    async def content() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    try:
        return b"".join([piece async for piece in Rewriting(_OPTIONS).content(_ENVELOPE, ("b@y",), "SMTP", content())])
    except Failure as failure:
        return type(failure)


def rewriting(octets: bytes, cuts: Collection[int]) -> None:
    octets = normalised(octets)
    whole = asyncio.run(_rewritten([octets]))
    assert asyncio.run(_rewritten(cut(octets, cuts))) == whole


def outgoing(octets: bytes, cuts: Collection[int]) -> None:
    """Content on its way to the backend ends where it ends, whatever the server takes for a line end."""
    for content in (octets, normalised(octets)):
        pieces = cut(content, cuts)
        encoder = SMTPContentEncoder(dots=True)
        sent = b"".join([*map(encoder.encode, pieces), encoder.end()])
        ends = [found.end() for found in re.finditer(rb"(?<![^\r\n])\.(?=[\r\n])", sent)]
        assert ends == [len(sent) - 2]
    lines = sent.split(b"\r\n")[:-2]
    # An empty message stays empty; any other ends with a line end.
    whole = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    assert b"".join(line.removeprefix(b".") + b"\r\n" for line in lines) == whole


def incoming(octets: bytes, cuts: Collection[int]) -> None:
    """Content on its way to the device: line ends are mended, and dots come off again."""
    pieces = cut(octets, cuts)
    whole = re.sub(rb"(?<!\r)\n", b"\r\n", octets)
    encoder = ContentEncoder()
    lines = b"".join([*map(encoder.encode, pieces), encoder.finish()]).split(b"\r\n")
    assert lines[-2:] == [b".", b""]
    assert b"." not in lines[:-2]
    got = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:-2])
    assert got in (whole, whole + b"\r\n")
    for body_lines in (0, 1, 3):
        top = [ContentEncoder(body_lines, replace_nul=True, add_blank_line=True) for _ in range(2)]
        said = [
            b"".join([*map(one.encode, given), one.finish()])
            for one, given in zip(top, ([octets], pieces), strict=True)
        ]
        assert said[0] == said[1]
    found = []
    for given in ([octets], pieces):
        line = HeaderLine(1, "Subject")
        for piece in given:
            line.encode(piece)
        found.append(line.finish())
    assert found[0] == found[1]
    assert found[0].count(b"\n") <= 1


_LINE_ENDS = (b"\r", b"\n", b"\r\n", b"\r\n\r\n")
_FIELDS = (
    *(
        b"From: ",
        b"Subject: x",
        b"To: a@x",
        b"Bcc: b@y",
        b"Resent-Bcc: c@z",
        b"DKIM-Signature: v=1; h=from:to; d=x; b=a",
    ),
    *(
        b"Content-Type: multipart/mixed; boundary=t",
        b"Content-Transfer-Encoding: base64",
        b"Received: x",
        b"Message-ID: <a@b>",
    ),
    *(b"Content-Transfer-Encoding: quoted-printable", b"References: <a@b>", b"MIME-Version: 1.0", b"Date: x"),
)
_PARTS = (
    b" ",
    b"\t",
    b":",
    b"a",
    b"From x",
    b">From ",
    b"--s",
    b"--s--",
    b"--t",
    b"=",
    b"=41",
    b"x" * 1000,
    b"\xff",
    b"\0",
)
_ADDRESSES = (
    b'"',
    b"<",
    b">",
    b"@",
    b",",
    b";",
    b"(",
    b")",
    b"\\",
    b"<a@b>",
    b"=?utf-8?q?x?=",
    b"\xef\xbb\xbf",
    b".",
    b"..",
)
TARGETS = {
    "header": Target(header, (*_LINE_ENDS, *_FIELDS, *_PARTS, *_ADDRESSES)),
    "long_lines": Target(long_lines, (*_LINE_ENDS, *_FIELDS, *_PARTS)),
    "rewriting": Target(rewriting, (*_LINE_ENDS, *_FIELDS, *_PARTS, *_ADDRESSES)),
    "outgoing": Target(outgoing, (*_LINE_ENDS, b".", b"..", b"a", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\0")),
    "incoming": Target(incoming, (*_LINE_ENDS, b".", b"..", b"a", b"\r\n.\r\n", b"Subject: x", b" ", b"\0", b"\r\r\n")),
}
