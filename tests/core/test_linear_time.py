"""No input, however it is made, takes time that grows much faster than its size: one would stop the whole process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from legacy_email_proxy import sasl
from legacy_email_proxy.contracts import Header, normalised
from legacy_email_proxy.replies import printable
from legacy_email_proxy.smtp.arguments import Rejected, forward_path
from legacy_email_proxy.smtp.headers import HeaderReader
from legacy_email_proxy.smtp.long_lines import LineShortener
from legacy_email_proxy.smtp.mending import extent, mended
from legacy_email_proxy.smtp.signatures import Signatures
from legacy_email_proxy_plugins.filters.mailboxes import mailboxes
from legacy_email_proxy_plugins.filters.sender import rewrite_header
from legacy_email_proxy_plugins.imap.responses import Tokens, announced, code_in, mailbox_in
from legacy_email_proxy_plugins.redaction import without_secrets
from legacy_email_proxy_plugins.sasl import decoded, explained
from legacy_email_proxy_plugins.spool.notification import _quoted, _thread

SIZE = 40_000
CERTAINLY_FAST = 1.0
"""Seconds of our own CPU. With fewer, a ratio is noise on a machine that does ten other things. What grew with the
square took several seconds for such an input."""


def _rewritten(value: str) -> None:
    rewrite_header(Header(f"From: {value}\r\n".encode()), "a@b.example", "", reply_to=True)


def _shortened(size: int) -> None:
    depth = size // 20
    shortener = LineShortener()
    header = b"Content-Type: multipart/mixed; boundary=%d\r\n"
    shortener.begin(header % 0, b"\r\n")
    shortener.feed(b"".join(b"--%d\r\n" % at + header % (at + 1) + b"\r\n" for at in range(depth)))
    shortener.feed(b"--x\r\n" * (size // 8))
    shortener.end()


def _read(text: str) -> None:
    reader = HeaderReader(for_bcc=True)
    if reader.feed(text.encode()) is None:
        reader.end()


def _tokens(text: str) -> None:
    with suppress(ValueError):
        Tokens().text(text.encode())


def _addressed(text: str) -> None:
    with suppress(Rejected):
        forward_path("TO:" + text)


def _decoded(text: str) -> None:
    with suppress(sasl.Malformed):
        sasl.decode(text.encode())


PARSERS: dict[str, Callable[[str], object]] = {
    "mailboxes": mailboxes,
    "sender": _rewritten,
    "header": lambda text: Header(text.encode()).items(),
    "header added": lambda text: Header().add("X", text.replace("\r\n", " ")),
    "normalised": lambda text: normalised(text.encode() + b"\r"),
    "header reader": _read,
    "extent": lambda text: extent(text.encode(), 0, for_bcc=True),
    "mended": lambda text: mended(text.encode()),
    "signatures": lambda text: Signatures(b"DKIM-Signature: d=x; h=" + text.encode()).compare(b"", "x"),
    "argument": _addressed,
    "tokens": _tokens,
    "code": lambda text: code_in(b"[" + text.encode()),
    "mailbox": lambda text: mailbox_in((b"() " + text.encode(),)),
    "literal": lambda text: announced(text.encode() + b"}"),
    "response": _decoded,
    "challenge": lambda text: explained(decoded(text.encode())),
    "redaction": lambda text: without_secrets(text, ["secret\\\\ \u00e4pass"]),
    "printable": printable,
    "thread": lambda text: _thread(b"Message-ID: <a@b>\r\nReferences: " + text.encode()),
    "returned header": lambda text: _quoted(text.encode()),
}
UNITS = (
    *("@", "<", "<@", "(", ")", '"', "\\", '\\"', "=?", "=?a?b?", " ", "a ", "a: ", ",", ":", "a@b,", "@a:", "@a,"),
    *("[", "{", "\t", "\r\n", "a:\r\n", "a\r\n", " \r\n", "a;", "=", "a=", "%20", '"a" ', "{1}", "e", "x"),
)


def seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
        if best < CERTAINLY_FAST:
            break
    return best


def is_linear(work: Callable[[int], object]) -> bool:
    large = seconds(lambda: work(2 * SIZE))
    return large < CERTAINLY_FAST or large < 3.5 * seconds(lambda: work(SIZE))


@pytest.mark.fault("A34", "D17")
@pytest.mark.parametrize("parser", PARSERS)
def test_twice_the_input_takes_about_twice_as_long(parser: str) -> None:
    def work(unit: str, opening: str, ending: str) -> Callable[[int], object]:
        return lambda size: PARSERS[parser](opening + unit * (size // len(unit)) + ending)

    ways = [(unit, opening, ending) for unit in UNITS for opening, ending in (("", ""), ("<", ">"), ('"', "x"))]
    assert [way for way in ways if not is_linear(work(*way))] == []


@pytest.mark.fault("D17")
def test_a_line_is_not_compared_with_every_boundary() -> None:
    assert is_linear(_shortened)
