"""Rows of the fault matrix that are about the SMTP server behind us, and what other clients' libraries had to mend."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from dataclasses import replace

import pytest

import matrix
from fakes.server import Step
from fakes.smtp import Action, Connection, Drip, FakeSMTPServer, Hang
from legacy_email_proxy.contracts import Disconnected, Overloaded, Recipient, Refused, Unverified
from legacy_email_proxy.replies import smtp_reply
from legacy_email_proxy_plugins.smtps import Timeouts
from realservers.certificates import Certificates
from smtps.support import CLIENT, CONTENT, SENDER, SHORT, Dialogue, deliver, pieces, relay_to, relaying, server_tls

# The tests of `transaction_faults` and `content_faults` are run in every dialogue: one command at a time, pipelined by
# the proxy, pipelined by the device, and with BDAT.

# What aiosmtplib had to mend in 2026, and smtplib still has: the same must not be found here.
KNOWN_ELSEWHERE = {
    "aiosmtplib-1": "commands in addresses (GHSA-v3q9-hj7j-63hq)",
    "aiosmtplib-2": "octets behind the answer to STARTTLS",
    "aiosmtplib-3": "STARTTLS that is stripped",
    "aiosmtplib-4": "replies paired with the wrong command",
    "aiosmtplib-5": "lines that nobody asked for",
    "aiosmtplib-6": "replies without an end",
    "aiosmtplib-7": "QUIT and the end of TLS",
    "aiosmtplib-8": "passwords in what is logged",
}


def test_what_others_had_to_mend_is_tested() -> None:
    claims = [claim for claim in matrix.claims("quirk") if claim.row.startswith("aiosmtplib-")]
    assert matrix.mistakes(claims, KNOWN_ELSEWHERE) == []


@pytest.mark.fault("B4")
async def test_a_backend_that_only_speaks_old_tls(certificates: Certificates) -> None:
    tls = server_tls(certificates.good)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tls.minimum_version = ssl.TLSVersion.TLSv1
        tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    async with FakeSMTPServer(tls=tls) as server:
        relay = relay_to(server.port, certificates.ca_file)
        with pytest.raises((Unverified, Disconnected), match="TLS"):
            await deliver(relay)
        assert server.octets == b""
        await relay.aclose()


@pytest.mark.fault("B10")
@pytest.mark.parametrize(
    "judged",
    [[250, 550, 250], [550, 550, 550], [450, 450, 450], [450, 550, 450], [552, 250, 452], [250, 250, 450]],
    ids=str,
)
async def test_recipients_of_all_kinds(judged: list[int], dialogue: Dialogue, certificates: Certificates) -> None:
    twice = all(400 <= code < 500 for code in judged)
    script: dict[Step, Action] = {("RCPT", n): f"{code} x" for n, code in enumerate(judged * (1 + twice), 1)}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            recipients = [Recipient(f"r{number}@example.test") for number in range(1, 4)]
            verdicts = await transaction.add_recipients(recipients, content_follows=dialogue.together)
            assert [each.code if each else 250 for each in verdicts] == judged
            if 250 in judged:
                await transaction.send(pieces(CONTENT))
        taken = [f"RCPT TO:<{each.forward_path}>" for each, code in zip(recipients, judged, strict=True) if code == 250]
        assert [list(message.rcpt) for message in server.messages] == ([taken] if taken else [])
        assert len(server.connections) == 1 + twice


CODES = [
    *(432, 450, 451, 452, 454, 455, 500, 501, 502, 503, 504, 521),
    *(530, 534, 535, 538, 550, 551, 552, 553, 554, 555, 556),
]


@pytest.mark.fault("B19")
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "."])
async def test_every_code_at_every_step(step: str, dialogue: Dialogue, certificates: Certificates) -> None:
    """The class is kept, except where the code judges the proxy and not the mail: a login, or a command of ours."""
    step = "." if step == "DATA" and dialogue.chunking else step
    # Each 4yz before the content is asked for again on another connection, see test_pool.
    twice = step in ("MAIL", "RCPT")
    said = [code for code in CODES for _ in range(1 + (twice and code < 500))]
    script: dict[Step, Action] = {(step, number): f"{code} no" for number, code in enumerate(said, 2)}
    told = []
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        await deliver(relay, dialogue=dialogue)
        for _ in CODES:
            with pytest.raises(Refused) as refused:
                await deliver(relay, dialogue=dialogue)
            told.append(smtp_reply(refused.value).code)
        assert len(server.connections) == 1 + sum(twice for code in CODES if code < 500)
        assert len(server.messages) == 1
    ours = {530, 534, 535, 538} | (set(range(500, 505)) if step == "DATA" else set())
    assert told == [451 if code in ours else code for code in CODES]


@pytest.mark.fault("B23")
@pytest.mark.parametrize(
    ("step", "reply", "tries"),
    [("MAIL", "450 4.7.0 slow down", 2), ("RCPT", "452 4.5.3 enough", 2), (".", "432 4.7.1 no more today", 1)],
)
async def test_a_backend_that_wants_less_is_not_hammered(
    step: str, reply: str, tries: int, dialogue: Dialogue, certificates: Certificates
) -> None:
    async with relaying(certificates.good, {step: reply}, dialogue=dialogue) as (server, relay):
        for _ in range(3):
            with pytest.raises(Refused):
                await deliver(relay, dialogue=dialogue)
        # A second connection that says the same is believed, and is as good as any.
        assert server.verbs.count("MAIL") == 2 + tries
        assert server.verbs.count("AUTH") == tries


@pytest.mark.fault("B25")
async def test_a_backend_that_hangs_on_everybody(certificates: Certificates) -> None:
    timeouts = replace(Timeouts(), slot=SHORT)
    async with relaying(certificates.good, {"RCPT": Hang()}, timeouts=timeouts, BACKEND_SMTP_MAX_CONNECTIONS=4) as (
        server,
        relay,
    ):
        clients = [replace(CLIENT, address=f"10.0.0.{number}") for number in range(40)]
        stuck = [asyncio.create_task(deliver(relay, client=client)) for client in clients]
        done, pending = await asyncio.wait(stuck, timeout=50 * SHORT, return_when=asyncio.FIRST_EXCEPTION)
        while len(done) < 36:
            more, pending = await asyncio.wait(pending, timeout=50 * SHORT, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert {type(task.exception()) for task in done} == {Overloaded}
        assert len(server.connections) == 4
        assert relay.capabilities().max_octets == 50_000_000
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


@pytest.mark.fault("B26")
async def test_a_backend_that_speaks_in_crumbs(dialogue: Dialogue, certificates: Certificates) -> None:
    def drip(text: str) -> Drip:
        return Drip(text, 0.0001)

    def judge(_: Connection, line: str) -> Drip:
        return drip("550-5.1.1 no\n550 5.1.1 such" if "nobody" in line else "250 OK")

    script: dict[Step, Action] = {
        "GREETING": drip("220-a\n220 b"),
        "MAIL": drip("250 2.1.0 OK"),
        "RCPT": judge,
        ".": drip("250-2.0.0 a\n250 2.0.0 b"),
    }
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        receipt = await deliver(relay, "nobody@example.test", "a@example.test", dialogue=dialogue)
        assert receipt.detail == "250 2.0.0 a 2.0.0 b"
        await server.until(lambda server: server.messages)
        assert server.messages[0].rcpt == ("RCPT TO:<a@example.test>",)
