"""Thousands of odd messages, as devices and programs write them: with the defaults each passes octet for octet."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from legacy_email_proxy.smtp.rewriting import Rewriting
from smtp.conftest import Leg, StartLeg
from smtp.test_rewriting import ALL, through

MESSAGES = 2000
ENVELOPE = b"MAIL FROM:<dev@firm.example>\r\nRCPT TO:<b@y>\r\n"
OWN = re.compile(rb"((Received|From|Date|Message-ID): [^\n]*\r\n(\t[^\n]*\r\n)*)+(\r\n)?")

# fmt: off
FIELDS = [
    b"Subject: s", b"Subject:", b"Subject : x", b"SUBJECT: \xe4\xf6", b"Subject: " + b"x" * 1200, b"X:", b"X-1: \0",
    b"X: a\r\n b", b"X:\r\n\t\r\n y", b"From: a@x", b"from:b", b'From: "a" <>', b"To: a@x, b@y;", b"Cc:", b"Bcc: c@x",
    b"To: undisclosed-recipients:;", b"Date: today", b"Date:", b"Message-ID: <1@x>", b"Message-Id:x", b"Status: RO",
    b"Received: from a by b", b"MIME-Version: 1.0", b'Content-Type: text/plain; charset="x', b"A" * 300 + b": x",
    b"Content-Transfer-Encoding: 8bit", b"!#$%&'*+-/=?^_`{|}~: odd name", b"X: =?utf-8?q?=", b"X: a\r\n ",
    b"Return-Path: <>", b"Received-SPF: none", b"Content-Length: 5", b"X-Mailbox-Line: x", b"Resent-From: a@x",
    b"DKIM-Signature: v=1; h=from:to:date; d=x",
]
LINES = [
    b"", b"", b"", b".", b"..", b".x", b" ", b"\t", b"text", b"From me@x Sun", b">From", b"12:30 on", b"\xff\xfe\0",
    b"\xef\xbb\xbf", b"x" * 998, b"y" * 5000, b"--b", b"QUIT", b"RSET", b"MAIL FROM:<x>", b"a: b", b"=", b"=3D",
    b"begin 644 x", b"----- =_NextPart", b"\x1a", b"a\x0bb\x0cc", b"~!@#", b"Subject: x",
]
# fmt: on


def corpus(seed: int) -> Iterator[bytes]:
    """The same in every run. Nothing in it is a header that a program has spoilt, see ``test_mending``."""
    dice = random.Random(seed)
    for _ in range(MESSAGES):
        header = dice.sample(FIELDS, dice.choice([0, 1, 2, 5, 9]))
        body = [dice.choice(LINES) for _ in range(dice.choice([0, 1, 2, 5, 20]))]
        if not header and body:
            # Text without a header.
            body[0] = dice.choice([b"text", b" indented", b"Zone 1 is open", b"\xff\xfe", b": x", b"<xml>", b""])
        lines = [*header, *([b""] if dice.random() < 0.9 else [b"text"]), *body]
        yield b"".join(line + b"\r\n" for line in lines)


def stuffed(content: bytes) -> bytes:
    return re.sub(rb"(?m)^\.", b"..", content) + b".\r\n"


@pytest.mark.long
@pytest.mark.parametrize("way", ["DATA", "BDAT"])
async def test_odd_messages_pass_octet_for_octet(start_leg: StartLeg, way: str) -> None:
    leg: Leg = await start_leg(rewriting=Rewriting(ALL))
    dice = random.Random(way)
    async with leg.wire() as wire:
        await wire.send(b"EHLO x\r\n")
        for content in corpus(seed=len(way)):
            cut = dice.randint(0, len(content))
            if way == "DATA":
                octets = b"DATA\r\n" + stuffed(content)
                pieces = [octets[:cut], octets[cut:]]
            else:
                pieces = [
                    b"BDAT %d\r\n" % cut + content[:cut],
                    b"BDAT %d LAST\r\n" % (len(content) - cut) + content[cut:],
                ]
            await wire.send(ENVELOPE + pieces[0])
            await wire.send(pieces[1])
            (passed,) = leg.relay.delivered
            leg.relay.delivered.clear()
            assert passed.content.endswith(content)
            assert OWN.fullmatch(passed.content.removesuffix(content))
    assert wire.said.count(b"\r\n250 2.0.0 OK, the message") == MESSAGES


async def test_nothing_at_all_is_added_where_nothing_may_be() -> None:
    for content in corpus(seed=0):
        assert b"".join(await through(Rewriting(), content[:50], content[50:])) == content
