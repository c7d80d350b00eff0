"""What sending devices are known to do and to need, each replayed by the tests with the quirk's mark.

The numbers are those of the table of devices' habits in proxy/docs/smtp.md.
"""

from __future__ import annotations

import base64
import re

import pytest

import matrix
from legacy_email_proxy.smtp.authentication import anybody
from pages import rows
from smtp.conftest import Leg, StartLeg
from smtp.test_session import ENVELOPE
from waiting import until

DONE = b"250 2.0.0 OK, the message is taken over as 42\r\n"

QUIRKS = {
    "smtp-C1": "Xerox hangs up at any prompt but Username: and Password:",
    "smtp-C2": "AUTH LOGIN with the user in the command",
    "smtp-C3": "AUTH=<>, RET, ENVID, NOTIFY, ORCPT unasked",
    "smtp-C4": "paths without brackets, with blanks",
    "smtp-C5": "odd senders, names in front, dots behind",
    "smtp-C6": "the null sender",
    "smtp-C7": "HELO only, yet a login",
    "smtp-C8": "any name in HELO, or none",
    "smtp-C9": "a second EHLO",
    "smtp-C10": "AUTH=LOGIN in the reply to EHLO",
    "smtp-C11": "AUTH without TLS",
    "smtp-C12": "Ricoh takes CRAM-MD5 and gives up",
    "smtp-C13": "TLS, or HTTP, to the plain port",
    "smtp-C14": "never ends the message",
    "smtp-C15": "bare LFs, at the end too",
    "smtp-C16": "smuggling",
    "smtp-C17": "lines of more than 1000 octets",
    "smtp-C18": "8-bit octets",
    "smtp-C19": "no Date, no Message-ID, no To",
    "smtp-C20": "one Message-ID twice",
    "smtp-C21": "the reply to QUIT",
    "smtp-C22": "fields too short for a real login",
    "smtp-C23": "chatter and unknown verbs",
    "smtp-C24": "POP before SMTP",
    "smtp-C25": "gives up fast, tries again at once",
    "smtp-C26": "mechanisms in lower case",
}


def test_every_quirk_is_replayed() -> None:
    claims = [claim for claim in matrix.claims("quirk") if claim.row.startswith("smtp-")]
    assert matrix.mistakes(claims, QUIRKS) == []


def test_the_page_tells_every_quirk() -> None:
    told = [number for row in rows("devices") for number in re.findall(r"C\d+", row.split("|")[1])]
    assert told == [f"C{number}" for number in range(1, 27)]


@pytest.mark.quirk("aiosmtpd-14", "smtp-C17")
@pytest.mark.fault("A10")
@pytest.mark.parametrize("octets", [998, 999, 1000, 1001, 2048, 65536, 1 << 20])
async def test_c17_long_lines_pass_unchanged(start_leg: StartLeg, octets: int) -> None:
    leg = await start_leg(max_octets=4 << 20)
    line = bytes(range(33, 127)) * (octets // 94 + 1)
    content = b"Subject: x\r\n\r\n" + line[: octets - 2] + b"\r\n.." + line[: octets - 4] + b"\r\n"
    assert DONE in await leg.exchange(ENVELOPE + content + b".\r\nQUIT\r\n")
    assert leg.relay.delivered[0].content == content.replace(b"\r\n..", b"\r\n.")


@pytest.mark.quirk("smtp-C22")
async def test_c22_any_short_login_will_do(start_leg: StartLeg) -> None:
    leg = await start_leg(verifier=anybody)
    login = base64.b64encode(b"\x001\x00")
    assert b"235 2.7.0 " in await leg.exchange(b"HELO x\r\nAUTH PLAIN " + login + b"\r\n")


@pytest.mark.quirk("smtp-C25")
async def test_c25_a_stuck_backend_holds_nobody_else(leg: Leg) -> None:
    async with leg.connected() as (_, stuck):
        stuck.write(b"HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<stuck@example.com>\r\n")
        await leg.relay.holding.wait()
        for _ in range(3):
            assert DONE in await leg.exchange(ENVELOPE + b"x\r\n.\r\nQUIT\r\n")
    assert len(leg.relay.delivered) == 3


@pytest.mark.quirk("smtp-C25")
async def test_c25_the_next_try_is_a_fresh_one(leg: Leg) -> None:
    # In the same session and in a new one, without a pause, also where the last one was just left.
    failing = ENVELOPE + b"X-Verdict: down@\r\n.\r\n"
    replies = await leg.exchange(failing + ENVELOPE + b"x\r\n.\r\n")
    envelope = [b"250", b"250", b"250", b"354"]
    assert [line[:3] for line in replies.splitlines()[1:]] == [*envelope, b"451", *envelope, b"250"]
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"354 ")
    assert DONE in await leg.exchange(ENVELOPE + b"x\r\n.\r\n")
    await until(lambda: leg.relay.left == leg.relay.entered)
    assert len(leg.relay.delivered) == 2
