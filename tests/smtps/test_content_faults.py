"""What may happen while the content is on its way, and what must then be true (matrix B13 to B18)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fakes.server import Step
from fakes.smtp import Action, Drop, FakeSMTPServer, Raw, Reset, Say
from legacy_email_proxy.contracts import Disconnected, Failure, Refused
from realservers.certificates import Certificates
from smtps.support import (
    BLOCKS,
    CHUNKED,
    CLIENT,
    CONTENT,
    PIPELINED,
    PLAIN,
    RECIPIENT,
    SENDER,
    SHORT,
    TOGETHER,
    Dialogue,
    deliver,
    pieces,
    relaying,
)

EARLY = [b"354 go\r\n250 early\r\n", b"354 go\r\n552 early\r\n", b"354 go\r\n2"]


@pytest.mark.fault("B13")
@pytest.mark.parametrize("octets", EARLY)
@pytest.mark.parametrize("content", [(), (CONTENT,), (CONTENT, BLOCKS)], ids=["empty", "one piece", "two pieces"])
@pytest.mark.parametrize("dialogue", [PLAIN, PIPELINED, TOGETHER], ids=lambda each: each.name)
async def test_a_reply_before_the_final_dot_is_no_reply_to_it(
    octets: bytes, content: tuple[bytes, ...], dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {("DATA", 1): Raw(octets)}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        with pytest.raises(Disconnected, match=r"(DATA|MAIL|RCPT|before the final dot): it sent, unasked") as failure:
            await deliver(relay, content=pieces(*content), dialogue=dialogue)
        assert "may have been delivered" not in failure.value.detail
        assert not server.messages
        assert "." not in server.connections[0].verbs


@pytest.mark.fault("B13")
async def test_a_reply_before_the_last_chunk_is_no_reply_to_it(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("BDAT", 3): Raw(b"250 1\r\n250 early\r\n")}
    async with relaying(certificates.good, script, dialogue=CHUNKED) as (server, relay):
        with pytest.raises(Disconnected, match="before the last chunk: it sent, unasked: 250 early"):
            await deliver(relay, content=BLOCKS + CONTENT)
        assert not server.messages
        assert b"LAST" not in server.octets


@pytest.mark.quirk("aiosmtplib-5")
async def test_a_reply_in_the_middle_of_the_content_is_no_reply_to_the_final_dot(certificates: Certificates) -> None:
    said = asyncio.Event()

    def speak(_: object, __: str) -> str:
        said.set()
        return "250 2.0.0 early"

    async def content() -> AsyncIterator[bytes]:
        yield BLOCKS
        await said.wait()
        # Until it has come all the way to the relay.
        for _ in range(50):
            await asyncio.sleep(0.002)
        yield CONTENT

    async with relaying(certificates.good, {("BODY", 1): speak}) as (server, relay):
        with pytest.raises(Disconnected, match=r"(DATA|before the final dot): it sent, unasked: 250"):
            await deliver(relay, content=content())
        assert not server.messages


async def until_lost(server: FakeSMTPServer) -> None:
    await server.until(lambda server: server.connections[0].ended)
    await asyncio.sleep(0.05)


@pytest.mark.fault("B14")
@pytest.mark.parametrize("how", [Drop, Reset])
@pytest.mark.parametrize("share", [0, 50, 100], ids=["at once", "half way", "all but the end"])
async def test_the_backend_drops_the_connection_in_the_content(
    how: type[Drop | Reset], share: int, dialogue: Dialogue, certificates: Certificates
) -> None:
    # BODY is each chunk by itself, and the whole of what follows DATA.
    octets = len(BLOCKS) // 2 - 1 if dialogue.chunking else len(BLOCKS)
    # The first chunk is of one octet, as a question.
    script: dict[Step, Action] = {("BODY", 1 + dialogue.chunking): how(after=octets * share // 100)}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):

        async def content() -> AsyncIterator[bytes]:
            yield BLOCKS
            await until_lost(server)

        with pytest.raises(Disconnected, match=r"before the (final dot|last chunk)") as failure:
            await deliver(relay, content=content(), dialogue=dialogue)
        assert "may have been delivered" not in failure.value.detail
        assert not server.messages
        assert "." not in server.connections[0].verbs
        await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 1


@pytest.mark.fault("B14")
async def test_the_backend_drops_the_connection_within_the_last_chunk(certificates: Certificates) -> None:
    """Nobody but the backend knows whether it had all of it."""
    async with relaying(certificates.good, {("BODY", 2): Drop(after=5)}, dialogue=CHUNKED) as (server, relay):
        with pytest.raises(Disconnected, match=r"after the last chunk.*may have been delivered"):
            await deliver(relay)
        assert not server.messages


@pytest.mark.parametrize(
    "exception", [RuntimeError("the device vanished"), Refused(552, "5.3.4", "too big"), Failure("x")]
)
@pytest.mark.parametrize("given", [(), (CONTENT,), (b"a" * 300000,)], ids=["at once", "later", "much later"])
async def test_content_that_raises_is_never_delivered(
    exception: Exception, given: tuple[bytes, ...], dialogue: Dialogue, certificates: Certificates
) -> None:
    async def content() -> AsyncIterator[bytes]:
        for piece in given:
            yield piece
        raise exception

    async with relaying(certificates.good, dialogue=dialogue) as (server, relay):
        with pytest.raises(type(exception)) as raised:
            await deliver(relay, content=content(), dialogue=dialogue)
        assert raised.value is exception
        await server.until(lambda server: server.connections[0].ended or "RSET" in server.verbs)
        assert not server.messages
        assert "." not in server.verbs
        assert b"LAST" not in server.octets
        await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 1


async def test_replies_to_chunks_of_a_message_that_broke_off_are_nobody_elses(certificates: Certificates) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield BLOCKS
        raise LookupError

    script: dict[Step, Action] = {"BDAT": Say("250 taken", 0.05), ("RCPT", 2): "550 5.1.1 no"}
    async with relaying(certificates.good, script, dialogue=CHUNKED) as (server, relay):
        with pytest.raises(LookupError):
            await deliver(relay, content=content())
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            with pytest.raises(Refused, match="no"):
                await transaction.add_recipient(RECIPIENT, {})
        assert not server.messages


@pytest.mark.fault("B17")
async def test_a_patient_backend_is_waited_for(certificates: Certificates) -> None:
    slow = Say("250 2.0.0 queued at last", SHORT)
    async with relaying(certificates.good, {".": slow}) as (_, relay):
        assert (await deliver(relay)).detail == slow.text
