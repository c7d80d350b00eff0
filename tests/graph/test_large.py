"""Messages that Graph does not take in one piece: taken apart, sent another way, or refused; memory stays flat."""

from __future__ import annotations

import base64
import hashlib
import io
import quopri
import tracemalloc
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import pytest

from fakes.graph import Broken, Drop, Sent, Status
from fakes.smtp import FakeSMTPServer
from graph.support import CLIENT, SENDER, relaying, send, server_tls
from legacy_email_proxy.contracts import Disconnected, Overloaded, Receipt, Refused, Relay
from legacy_email_proxy_plugins.graph.draft import SESSION_OCTETS
from legacy_email_proxy_plugins.graph.mime import decode, parts
from legacy_email_proxy_plugins.graph.relay import WHOLE_OCTETS
from realservers.certificates import Certificates

PICTURE = bytes(range(256)) * 40
LARGE = hashlib.sha256(b"seed").digest() * 200_000  # 6.4 MB: four parts of an upload
RECIPIENTS = ("one@x.example", "two@x.example", "three@x.example")


def nested() -> bytes:
    """Text and HTML with a picture in it, a message, a small and a large file."""
    message = EmailMessage(SMTP)
    message["From"] = f"Der Scänner <{SENDER}>"
    message["To"] = '"One, 1" <one@x.example>'
    message["Cc"] = "two@x.example, elsewhere@x.example"
    message["Reply-To"] = "office@firm.example"
    message["Subject"] = "Zähler, und noch mehr Wörter, so daß die Zeile gefaltet wird " * 2
    message["Message-ID"] = "<m1@device>"
    message["In-Reply-To"] = "<m0@device>"
    message["References"] = "<m0@device>"
    message["X-Priority"] = "1"
    for number in range(7):
        message[f"X-Device-{number}"] = f"value {number}"
    message.set_content("Grüße\nals Text\n")
    message.add_alternative('<p>Grüße <img src="cid:pic">\n', subtype="html")
    html: Any = list(message.iter_parts())[1]
    html.add_related(PICTURE, "image", "png", cid="<pic>", filename="Bild ä.png")
    inner = EmailMessage(SMTP)
    inner["Subject"] = "inner"
    inner.set_content("--not a boundary\n")
    message.add_attachment(inner)
    message.add_attachment("a;b\n1;ü\n", subtype="csv", filename="a.csv", cte="quoted-printable")
    message.add_attachment(LARGE, "application", "pdf", filename="scan.pdf")
    return message.as_bytes()


NESTED = nested()


def emails(sent: Sent, name: str) -> list[str]:
    return [each["emailAddress"]["address"] for each in sent.message.get(name, [])]


async def test_a_large_message_is_taken_apart(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        receipt = await send(relay, NESTED, *RECIPIENTS)
        (sent,) = fake.mailbox.sent
        assert fake.times("upload") == 4
    assert receipt.detail == "202 Accepted as a draft"
    message = dict(sent.message)
    assert message["body"] == {"contentType": "html", "content": '<p>Grüße <img src="cid:pic">\r\n'}
    assert message["subject"] == ("Zähler, und noch mehr Wörter, so daß die Zeile gefaltet wird " * 2)
    assert message["from"] == {"emailAddress": {"address": SENDER, "name": "Der Scänner"}}
    assert message["toRecipients"] == [{"emailAddress": {"address": "one@x.example", "name": "One, 1"}}]
    assert [emails(sent, "ccRecipients"), emails(sent, "bccRecipients")] == [["two@x.example"], ["three@x.example"]]
    assert emails(sent, "replyTo") == ["office@firm.example"]
    assert message["internetMessageId"] == "<m1@device>"
    assert message["importance"] == "high"
    assert {each["value"] for each in message["singleValueExtendedProperties"]} == {"<m0@device>"}
    assert len(message["internetMessageHeaders"]) == 5
    text, picture, inner, table, scan = sent.attachments
    assert [text.octets.decode(), text.properties["contentType"]] == ["Grüße\r\nals Text\r\n", "text/plain"]
    assert [picture.name, picture.octets, picture.properties["contentId"]] == ["Bild ä.png", PICTURE, "pic"]
    assert picture.properties["isInline"] is True
    assert inner.octets.endswith(b"\r\n\r\n--not a boundary\r\n")
    assert [inner.name, inner.properties["contentType"]] == ["attachment-3.eml", "message/rfc822"]
    assert [table.name, table.octets.decode()] == ["a.csv", "a;b\r\n1;ü\r\n"]
    assert [scan.name, scan.octets == LARGE] == ["scan.pdf", True]
    assert "large message taken apart" in caplog.text
    assert "authtoken" not in caplog.text


@pytest.mark.parametrize("octets", [2000, 100_000, 2_900_000, 3_100_000, 12_000_000])
async def test_every_size_arrives(certificates: Certificates, tmp_path: Path, octets: int) -> None:
    payload = base64.b64encode(bytes(octets * 3 // 4 - 900)).replace(b"A" * 76, b"A" * 76 + b"\r\n")
    head = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
    content = head + b"\r\n" + payload + b"\r\n"
    async with relaying(certificates, tmp_path) as (relay, fake):
        await send(relay, content)
        (sent,) = fake.mailbox.sent
        if len(content) < WHOLE_OCTETS - 100:
            assert sent.delivered == content
        else:
            (attachment,) = sent.attachments
            assert attachment.octets == bytes(octets * 3 // 4 - 900)
            session = attachment.length >= 3 * 1024 * 1024
            assert bool(fake.times("upload")) is session
            assert fake.times("session") == (attachment.length >= SESSION_OCTETS)


BREAKS: dict[str, Any] = {
    "before it arrived": {("upload", 2): Drop()},
    "after it arrived": {("upload", 1): Drop(done=True)},
    "in the answer": {("upload", 1): Broken(3)},
    "throttled": {("upload", 1): Status(429, "x", retry_after=0), ("upload", 3): Status(503, "x", retry_after=0)},
}


@pytest.mark.fault("E5")
@pytest.mark.parametrize("case", BREAKS)
async def test_an_upload_goes_on_after_a_break(certificates: Certificates, tmp_path: Path, case: str) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        fake.script = BREAKS[case]
        await send(relay, NESTED, *RECIPIENTS)
        (sent,) = fake.mailbox.sent
        assert sent.attachments[-1].octets == LARGE
        assert fake.times("upload_status") >= 1


@pytest.mark.fault("E5")
@pytest.mark.parametrize("step", ["attach", "session", "upload", "send"])
async def test_what_fails_on_the_way_leaves_no_draft(certificates: Certificates, tmp_path: Path, step: str) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        fake.script = {step: Status(413, "ErrorMessageSizeExceeded")}
        with pytest.raises(Refused, match="ErrorMessageSizeExceeded"):
            await send(relay, NESTED, *RECIPIENTS)
        fake.script = {step: Drop()}
        relay_module_waits = "legacy_email_proxy_plugins.graph.relay._SETTLING_SECONDS"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relay_module_waits, (0.0,))
            with pytest.raises(Disconnected):
                await send(relay, NESTED, *RECIPIENTS)
        assert not fake.mailbox.items
        assert not fake.mailbox.sent


async def test_the_mailboxs_own_limit_is_a_verdict(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path, server={"message_octets": 5_000_000}) as (relay, fake):
        with pytest.raises(Refused, match="ErrorMessageSizeExceeded"):
            await send(relay, NESTED, *RECIPIENTS)
        assert not fake.mailbox.items


async def test_refuse_says_so_and_announces_it(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path, GRAPH_LARGE="refuse") as (relay, fake):
        announced = relay.capabilities().max_octets
        assert announced is not None
        content = b"Subject: x\r\n\r\n" + b"x" * (announced - 20) + b"\r\n"
        await send(relay, content)
        with pytest.raises(Refused, match="more than 3000000 octets"):
            await send(relay, content * 2)
        assert len(fake.mailbox.sent) == 1


async def test_smtp_takes_it_as_it_is(certificates: Certificates, tmp_path: Path) -> None:
    async with FakeSMTPServer(tls=server_tls(certificates.good)) as smtp:
        given: dict[str, Any] = {
            "BACKEND_SMTP_HOST": "localhost", "BACKEND_SMTP_PORT": str(smtp.port),
            "BACKEND_SMTP_CA_FILE": str(certificates.ca_file), "GRAPH_LARGE": "smtp",
        }  # fmt: skip
        async with relaying(certificates, tmp_path, **given) as (relay, fake):
            await send(relay, b"Subject: small\r\n\r\n", "one@x.example")
            await send(relay, NESTED, *RECIPIENTS)
            assert len(fake.mailbox.sent) == 1
        (message,) = smtp.messages
        assert bytes(message.content) == NESTED


async def streamed(relay: Relay, head: bytes, block: bytes, blocks: int, tail: bytes) -> Receipt:
    async def content() -> AsyncIterator[bytes]:
        yield head
        for _ in range(blocks):
            yield block
        yield tail

    async with relay.transaction(CLIENT, SENDER, {}) as transaction:
        await transaction.add_recipient("one@x.example", {})
        return await transaction.send(content())


@pytest.mark.long
@pytest.mark.computes
async def test_100_megabytes_cost_a_few(certificates: Certificates, tmp_path: Path) -> None:
    line = base64.b64encode(bytes(57)) + b"\r\n"
    block, blocks = line * 1000, 1280
    head = b"Subject: large\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nsee\r\n--b\r\n"
    head += b"Content-Type: application/pdf; name=a.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    server = {"message_octets": 200 * 1024 * 1024, "keep": 1 << 20}
    async with relaying(certificates, tmp_path, server=server) as (relay, fake):
        await send(relay, NESTED, *RECIPIENTS)
        tracemalloc.start()
        try:
            await streamed(relay, head, block, blocks, b"--b--\r\n")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (attachment,) = fake.mailbox.sent[-1].attachments
    assert attachment.length == 57 * 1000 * blocks
    assert peak < 8 << 20


async def test_over_the_window_of_uploads_it_waits(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        relay.graph.pace.upload(149_999_000)
        with pytest.raises(Overloaded, match="150 MB"):
            await send(relay, NESTED, *RECIPIENTS)
        assert not fake.mailbox.items


ODD: dict[str, tuple[bytes, list[bytes]]] = {
    "no parts": (b"Content-Type: text/plain\r\n\r\na\r\n", [b"a\r\n"]),
    "no boundary": (b"Content-Type: multipart/mixed\r\n\r\na\r\n", [b"a\r\n"]),
    "never closed": (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\na\r\n", [b"a\r\n"]),
    "preamble and epilogue": (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\nno\r\n--b\r\n\r\na\r\n--b--\r\nno\r\n--b\r\n", [b"a"],
    ),
    "the outer one ends the inner": (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/mixed; boundary=bb\r\n\r\n"
        b"--bb\r\n\r\na\r\n--b\r\n\r\nc\r\n--b--\r\n", [b"a", b"c"],
    ),
    "base64 with rubbish": (b"Content-Transfer-Encoding: base64\r\n\r\nYW Jj\r\n!ZGU\r\n", [b"abcde"]),
    "a boundary in a long line": (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n" + b"x" * 65536 + b"--b\r\n--b--\r\n",
        [b"x" * 65536 + b"--b"],
    ),
    "quoted-printable": (
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + quopri.encodestring("ü".encode() * 60_000),
        ["ü".encode() * 60_000],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_parts(case: str) -> None:
    content, wanted = ODD[case]
    header, _, _ = content.partition(b"\r\n\r\n")
    file = io.BytesIO(content)
    found = parts(file, header + b"\r\n\r\n", len(header) + 4, len(content))
    decoded = []
    for part in found:
        into = io.BytesIO()
        assert decode(file, part, into) == len(into.getvalue())
        decoded.append(into.getvalue())
    assert decoded == wanted


async def test_a_signature_is_told_as_lost(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n"
    async with relaying(certificates, tmp_path) as (relay, _):
        await send(relay, head + b"x\r\n" * 1_100_000 + b"--b--\r\n")
    facts = [vars(record).get("facts", {}) for record in caplog.records if "taken apart" in record.message]
    assert ["signature" in each["lost"] for each in facts] == [True]
