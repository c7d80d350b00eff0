"""The first message after a start: the backend was not asked anything yet, and what is unknown is no refusal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from legacy_email_proxy.access import Admission
from legacy_email_proxy.contracts import Relay
from legacy_email_proxy.smtp.connection import SessionOptions
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.reading import Patience
from legacy_email_proxy.smtp.server import SMTPServer
from realservers.certificates import Certificates
from smtps.support import PIPELINED, PLAIN, Dialogue, relay_to, relaying
from spool.support import spooling, until_states

EHLO = b"EHLO postfix\r\n"
INTERNATIONAL = (
    "MAIL FROM:<\u00e4@example.test> SIZE=60 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+3D1\r\n"
    "RCPT TO:<b\u00f6b@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=utf-8;b\\x{F6}b@example.test\r\n"
    "DATA\r\nSubject: \u00e4\r\n\r\nx\r\n.\r\nQUIT\r\n"
).encode()


@asynccontextmanager
async def listening(relay: Relay) -> AsyncIterator[tuple[str, int]]:
    handler = RelayHandler(relay, 1 << 20)
    admission = Admission((ip_network("127.0.0.0/8"),), 100, 100)
    server = SMTPServer(handler, SessionOptions("proxy.test", 1 << 20, Patience(20, 20), admission))
    sock = socket.create_server(("127.0.0.1", 0))
    await server.start([sock])
    try:
        yield sock.getsockname()
    finally:
        await server.drain(5)
        await handler.aclose()


async def replies(relay: Relay, octets: bytes) -> list[str]:
    """All that a device reads from a fresh proxy."""
    async with listening(relay) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(octets)
        said = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()
    return said.decode().splitlines()


@pytest.mark.parametrize("dialogue", [PLAIN, PIPELINED], ids=str)
async def test_what_the_backend_may_take_is_offered_and_handed_on(
    dialogue: Dialogue, certificates: Certificates
) -> None:
    async with relaying(certificates.good, keywords=(*dialogue.keywords, "DSN")) as (server, relay):
        said = await replies(relay, EHLO + INTERNATIONAL)
        assert {"250-SIZE 1048576", "250-SMTPUTF8", "250-DSN"} <= set(said)
        (message,) = server.messages
        assert message.mail == "MAIL FROM:<\u00e4@example.test> SIZE=60 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+3D1"
        orcpt = "ORCPT=utf-8;b\\x{F6}b@example.test"
        assert message.rcpt == (f"RCPT TO:<b\u00f6b@example.test> NOTIFY=SUCCESS,FAILURE {orcpt}",)


async def test_a_backend_that_turns_out_not_to_take_it(certificates: Certificates) -> None:
    async with relaying(certificates.good, keywords=("SIZE 1000", "AUTH PLAIN")) as (server, relay):
        said = await replies(relay, EHLO + INTERNATIONAL)
        assert next(line for line in said if line[0] == "5").startswith("550 5.6.7 ")
        said = await replies(relay, EHLO + b"MAIL FROM:<a@example.test> SIZE=1001\r\nQUIT\r\n")
        assert "250-SIZE 1000" in said
        assert not {"250-SMTPUTF8", "250-DSN"} & set(said)
        assert said[-2].startswith("552 5.3.4 ")
        assert server.messages == []


async def test_its_size_counts_for_the_first_message_too(certificates: Certificates) -> None:
    """Old devices don't announce theirs."""
    async with relaying(certificates.good, keywords=("SIZE 1000", "AUTH PLAIN")) as (server, relay):
        message = b"MAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n" + b"x" * 2000 + b"\r\n.\r\n"
        said = await replies(relay, b"HELO scanner\r\n" + message + b"QUIT\r\n")
        assert said[-2].startswith("552 5.3.4 ")
        assert server.messages == []


async def test_the_spool_takes_it_and_tells_the_sender_later(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates.good, keywords=("AUTH PLAIN",)) as (server, relay):
        async with spooling(relay, tmp_path) as spool:
            said = await replies(spool, EHLO + INTERNATIONAL.replace("<\u00e4@".encode(), b"<a@"))
            assert "250-SMTPUTF8" in said
            assert said[-2].startswith("250 2.0.0 ")
            await until_states(spool)
            assert "250-SMTPUTF8" not in await replies(spool, EHLO + b"QUIT\r\n")
        (notification,) = server.messages
        assert (notification.mail, notification.rcpt) == ("MAIL FROM:<>", ("RCPT TO:<a@example.test>",))
        assert b"SMTPUTF8" in notification.content


async def test_a_backend_that_can_not_be_asked(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    relay = relay_to(port, certificates.good.ca_file)
    try:
        said = await replies(relay, EHLO + INTERNATIONAL)
        assert "250-SMTPUTF8" in said
        assert "451 4.4.1 The backend can not be reached, try again later" in said
    finally:
        await relay.aclose()
