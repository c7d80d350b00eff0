"""Exactly the envelope's recipients get a message: Graph delivers to the header, so that is made to say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from graph.support import CLIENT, SENDER, relaying, send
from legacy_email_proxy.contracts import Header, Refused
from legacy_email_proxy_plugins.graph.recipients import MOST_RECIPIENTS, address_header, same_address
from realservers.certificates import Certificates

A, B, C = "a@x.example", "b@x.example", "c@x.example"

# header, envelope → header
TABLE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "as it is": (f"To: {A}\r\nCc: {B}\r\n", (A, B), f"To: {A}\r\nCc: {B}\r\n"),
    "odd, but right": (f'To:  "A, a"\t<{A}> ,{B}\r\n', (B, A), f'To:  "A, a"\t<{A}> ,{B}\r\n'),
    "in other letters": ("To: A@X.Example\r\n", (A,), "To: A@X.Example\r\n"),
    "a quoted local part": ('To: "a"@x.example\r\n', (A,), 'To: "a"@x.example\r\n'),
    "IDNA": ("To: a@xn--bcher-kva.example\r\n", ("a@bücher.example",), "To: a@xn--bcher-kva.example\r\n"),
    "only in the envelope": (f"To: {A}\r\n", (A, B, C), f"To: {A}\r\nBcc: {B}, {C}\r\n"),
    "no field at all": ("Subject: x\r\n", (A,), f"Subject: x\r\nBcc: {A}\r\n"),
    "redirected": (f"To: {A}\r\n", (B,), f"Bcc: {B}\r\n"),
    "partly redirected": (f"To: Anna <{A}>, {B}\r\nCc: {C}\r\n", (B,), f"To: {B}\r\n"),
    "names stay": (f'To: =?utf-8?q?=C3=84?= <{A}>, "B, b" <{B}>, {C}\r\n', (A, B),
                   f'To: =?utf-8?q?=C3=84?= <{A}>, "B, b" <{B}>\r\n'),
    "no address": (f"To: scanner\r\nCc: {A}\r\n", (A,), f"Cc: {A}\r\n"),
    "Bcc in the header": (f"To: {A}\r\nBcc: {B}, {C}\r\n", (A, B), f"To: {A}\r\nBcc: {B}\r\n"),
    "twice in a field": (f"To: {A}, {A.upper()}\r\n", (A,), f"To: {A}\r\n"),
    "in To and Cc": (f"To: {A}\r\nCc: {A}, {B}\r\n", (A, B), f"To: {A}\r\nCc: {B}\r\n"),
    "twice in the envelope": (f"To: {B}\r\n", (A, A.upper(), B), f"To: {B}\r\nBcc: {A.upper()}\r\n"),
    "two fields": (f"To: {A}\r\nSubject: x\r\nTo: {B}\r\n", (A, B), f"To: {A}, {B}\r\nSubject: x\r\n"),
    "undisclosed": ("To: undisclosed-recipients:;\r\n", (A,), f"Bcc: {A}\r\n"),
    "a group": (f"To: Team: Anna <{A}>, {B};, {C}\r\n", (A, C), f"To: Anna <{A}>, {C}\r\n"),
    "a group, all of it": (f"To: Team: {A}, {B};\r\n", (A, B), f"To: {A}, {B}\r\n"),
    "an address in a name": (f'To: "{B}" <{A}>\r\n', (A,), f'To: "{B}" <{A}>\r\n'),
    "an address in a comment": (f"To: {A} ({B})\r\n", (A,), f"To: {A} ({B})\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_the_header_says_what_the_envelope_says(case: str) -> None:
    given, envelope, wanted = TABLE[case]
    header = Header(given.encode())
    address_header(header, envelope)
    assert header.octets.decode() == wanted


@pytest.mark.fault("E1")
@pytest.mark.parametrize("case", [name for name in TABLE if name not in ("IDNA",)])
async def test_exactly_these_get_it(certificates: Certificates, tmp_path: Path, case: str) -> None:
    given, envelope, _ = TABLE[case]
    async with relaying(certificates, tmp_path) as (relay, fake):
        await send(relay, f"From: {SENDER}\r\n{given}\r\nbody\r\n".encode(), *envelope)
        (sent,) = fake.mailbox.sent
    assert sorted(map(same_address, sent.recipients)) == sorted({same_address(each) for each in envelope})
    assert sent.delivered.endswith(b"\r\n\r\nbody\r\n")


async def test_what_graph_never_takes_is_refused_at_rcpt(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, _):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            with pytest.raises(Refused, match=r"550 5\.1\.3"):
                await transaction.add_recipient("postmaster", {})
            for number in range(MOST_RECIPIENTS):
                await transaction.add_recipient(f"u{number}@x.example", {})
            with pytest.raises(Refused, match=r"452 4\.5\.3"):
                await transaction.add_recipient("one-more@x.example", {})


async def test_a_notification_is_not_to_be_answered(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        await send(relay, f"To: {A}\r\n\r\nfailed\r\n".encode(), A, reverse_path="")
        (sent,) = fake.mailbox.sent
    assert b"\r\nX-Auto-Response-Suppress: All\r\n" in sent.delivered
