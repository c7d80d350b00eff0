"""DKIM signatures of mail that passes: they hold with the defaults, and where a setting breaks one the log says so."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from legacy_email_proxy.contracts import Filter, Header
from legacy_email_proxy.smtp.headers import HeaderOptions
from legacy_email_proxy.smtp.rewriting import Rewriting
from legacy_email_proxy.smtp.signatures import Signatures
from legacy_email_proxy_plugins.filters.sender import rewrite_header
from smtp.test_rewriting import ALL, ENVELOPE, Scripted, through

DOMAIN = b"firm.example"
ENCODE = HeaderOptions("proxy.example", received=True, add_missing=True, shorten_lines=True)
BCC = HeaderOptions("proxy.example", received=True, add_missing=True, remove_bcc=True)


@pytest.fixture(scope="session")
def dkim() -> ModuleType:
    """The signer and verifier that we did not write."""
    module: ModuleType = pytest.importorskip("dkim", reason="comes with the extra `test`")
    return module


@cache
def key() -> tuple[bytes, bytes]:
    """A private key, and what the DNS has of it."""
    import base64

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    der = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem, b"v=DKIM1; k=rsa; p=" + base64.b64encode(der)


def signed(
    dkim: ModuleType, content: bytes, *, names: list[bytes] | None = None, how: str = "relaxed/relaxed"
) -> bytes:
    canonicalize = tuple(word.encode() for word in how.split("/"))
    signer = dkim.DKIM(content)
    # It won't sign a Bcc unless it is forced to; some programs do.
    signer.should_not_sign = set()
    signature: bytes = signer.sign(b"s1", DOMAIN, key()[0], canonicalize=canonicalize, include_headers=names)
    return signature + content


def holds(dkim: ModuleType, content: bytes) -> bool:
    return bool(dkim.verify(content, dnsfunc=lambda name, timeout=50: key()[1]))


MESSAGE = (
    b"From: A <a@firm.example>\r\nTo: b@x,\r\n\tc@x\r\nBcc: d@x\r\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=  two\r\n"
    b"Date: Mon, 30 Nov 2026 12:00:00 +0100\r\nMessage-ID: <1@firm.example>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n.\r\n..two\r\n\r\nFrom me \t\r\n\r\n\r\n"
)


def corpus() -> Iterator[bytes]:
    """Messages such as programs sign, put together at random but the same in every run."""
    dice = random.Random(6376)
    for _ in range(50):
        fields = [
            b"From: A <a@firm.example>",
            b"To: " + b",\r\n ".join(b"%d@x" % number for number in range(dice.randint(1, 9))),
            b"Subject: " + bytes(dice.choice(b"abc \t=?\xc3\xa4:;") for _ in range(dice.randint(0, 70))).strip(),
            *dice.sample(
                [
                    b"Date: Mon, 30 Nov 2026 12:00:00 +0100",
                    b"Message-ID: <1@firm.example>",
                    b"Cc: c@x",
                    b"Reply-To:\r\n  r@x",
                    b"X-Mailer:  odd \t one ",
                    b"Received: from a\r\n\tby b; now",
                    b"MIME-Version: 1.0",
                    b"Content-Type: text/plain",
                    b"Bcc: d@x",
                ],
                dice.randint(0, 9),
            ),
        ]
        lines = [
            bytes(dice.choice(b"abc .\t=-\xff\xc3>") for _ in range(dice.choice([0, 0, 1, 5, 70, 998, 2000])))
            for _ in range(dice.randint(0, 12))
        ]
        dice.shuffle(fields)
        yield b"".join(line + b"\r\n" for line in [*fields, b"", *lines])


@pytest.mark.computes
@pytest.mark.parametrize("how", ["relaxed/relaxed", "simple/simple", "relaxed/simple"])
async def test_signed_messages_pass_unchanged(dkim: ModuleType, how: str, caplog: pytest.LogCaptureFixture) -> None:
    for content in corpus():
        sent = signed(dkim, content, how=how)
        assert holds(dkim, sent)
        cut = len(sent) // 3
        passed = b"".join(await through(Rewriting(ALL), sent[:cut], sent[cut:]))
        assert passed.endswith(sent)
        assert holds(dkim, passed)
    assert "signature broken" not in caplog.text


@pytest.mark.computes
@pytest.mark.parametrize("how", ["relaxed/relaxed", "simple/simple"])
async def test_what_has_no_long_line_keeps_its_signature(
    dkim: ModuleType, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = 0
    for content in corpus():
        sent = signed(dkim, content, how=how)
        caplog.clear()
        passed = b"".join(await through(Rewriting(ENCODE), sent))
        long = max(map(len, sent.split(b"\r\n"))) > 998
        assert holds(dkim, passed) == (not long)
        assert passed.endswith(sent) == (not long)
        assert ("signature broken" in caplog.text) == long
        kept += not long
    assert 5 < kept < 45


def sender(header: Header) -> None:
    rewrite_header(header, "scanner@firm.example", "a@firm.example", reply_to=False)


def second_to(header: Header) -> None:
    header.add("To", "e@x")


LONG = MESSAGE + b"x" * 999 + b"\r\n"
H = [b"from", b"to", b"subject", b"date", b"message-id"]
BREAKING: dict[str, tuple[bytes, list[bytes], HeaderOptions, dict[str, Filter], str | None]] = {
    "nothing": (MESSAGE, H, ALL, {}, None),
    "another sender": (MESSAGE, H, ALL, {"sender": Scripted(header=sender)}, "filter sender"),
    "the same sender": (MESSAGE.replace(b"A <a@", b"<scanner@"), H, ALL, {"sender": Scripted(header=sender)}, None),
    "a filter that only adds": (MESSAGE, H, ALL, {"x": Scripted(header=lambda header: header.add("X", "1"))}, None),
    "a filter that adds a second To": (MESSAGE, H, ALL, {"x": Scripted(header=second_to)}, "filter x"),
    "long lines": (LONG, H, ENCODE, {}, "SMTP_LONG_LINES"),
    "a Bcc that is signed": (MESSAGE, [*H, b"bcc"], BCC, {}, "SMTP_REMOVE_BCC"),
    "a Bcc that is not": (MESSAGE, H, BCC, {}, None),
    "no date, not signed": (MESSAGE.replace(b"Date", b"X"), [b"from"], ALL, {}, None),
    "no date, and none may be added": (MESSAGE.replace(b"Date", b"X"), H, ALL, {}, "SMTP_ADD_MISSING"),
    "oversigned, but there": (MESSAGE, [*H, b"date", b"from"], ALL, {}, None),
    "two at once": (
        LONG, [*H, b"bcc"],
        HeaderOptions("proxy.example", remove_bcc=True, shorten_lines=True), {}, "SMTP_REMOVE_BCC, SMTP_LONG_LINES",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKING)
async def test_one_line_says_what_broke_it(name: str, dkim: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    content, names, options, filters, by = BREAKING[name]
    sent = signed(dkim, content, names=names)
    assert holds(dkim, sent)
    passed = b"".join(await through(Rewriting(options, filters), sent))
    assert holds(dkim, passed) == (by is None)
    lines = [record for record in caplog.records if record.getMessage() == "smtp signature broken"]
    if by is None:
        assert lines == []
        return
    (line,) = lines
    assert line.levelno == logging.INFO
    assert line.facts == {  # type: ignore[attr-defined]
        "session": ENVELOPE.client.session, "client": ENVELOPE.client.address, "domains": "firm.example", "by": by,
    }  # fmt: skip


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"v=1",
        b"h=",
        b";;;",
        b"h=from:from:;d",
        b"d=a;d=b; h = From :\r\n\tTo ; x",
        b"d=\xff\xc3\xa4; h=fr\xffom:\xc3\xa4:from",
        b"h=from; d=" + b"x" * 100_000,
    ],
)
async def test_no_signature_is_too_odd(field: bytes) -> None:
    content = b"DKIM-Signature: " + field + b"\r\nFrom: a@x\r\n\r\nx\r\n"
    passed = b"".join(await through(Rewriting(BCC, {"one": Scripted(header=sender)}), content))
    assert passed.endswith(b"From: scanner@firm.example\r\n\r\nx\r\n") or b"scanner@" in passed


def test_a_signature_over_everything_takes_no_longer_to_look_at() -> None:
    names = b":".join(b"n%d" % number for number in range(20_000))
    block = b"DKIM-Signature: d=x; h=" + names + b"\r\n" + b"A:\r\n" * 20_000
    signatures = Signatures.of(block)
    assert signatures is not None
    began = time.process_time()
    for number in range(3):
        signatures.compare(b"X: %d\r\n" % number + block, "one")
    # Field by field and name by name, this takes minutes.
    assert time.process_time() - began < 5
    assert signatures.broken_by == []


def test_messages_without_one_cost_nothing() -> None:
    assert Signatures.of(MESSAGE) is None
    assert Signatures.of(b"From: x\r\nDkim-SIGNATURE: d=x; h=from\r\n") is not None
