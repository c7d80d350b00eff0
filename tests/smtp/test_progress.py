"""A device that stops holds nothing at the backend for long; one that ends its message with bare LF is told so."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_network

import pytest

from legacy_email_proxy.smtp import connection, reading
from smtp.conftest import Leg, StartLeg
from smtp.test_session import ENVELOPE, MESSAGE, facts
from waiting import until

OPEN = ENVELOPE.removesuffix(b"DATA\r\n")
AGAIN = b"MAIL FROM:<c@example.com>\r\nRCPT TO:<d@example.com>\r\nDATA\r\nagain\r\n.\r\nQUIT\r\n"
SLOW = b"451 4.4.2 Too slow, the message was given up, try again later\r\n"


@pytest.fixture
async def leg(start_leg: StartLeg) -> Leg:
    return await start_leg(progress_seconds=0.2)


@pytest.mark.parametrize("stopped", [OPEN, OPEN + b"BDAT 3\r\nx\r\n", OPEN + b"BDAT 9\r\nx\r\n", ENVELOPE + b"x\r\n"])
async def test_twelve_devices_that_stopped_do_not_keep_the_thirteenth_from_delivering(leg: Leg, stopped: bytes) -> None:
    leg.relay.places = asyncio.Semaphore(10)
    stuck = [await asyncio.open_connection(*leg.address) for _ in range(12)]
    for _, writer in stuck:
        writer.write(stopped)
    await until(lambda: leg.relay.entered == 10)
    assert b"the message is taken over" in await leg.exchange(MESSAGE)
    assert [message.content for message in leg.relay.delivered] == [b"hello\r\n"]
    for _, writer in stuck:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("command", "answers"),
    [
        (b"RCPT TO:<d@example.com>\r\nRSET\r\n", [SLOW, b"250 2.0.0 OK\r\n"]),
        (b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\n", [SLOW, SLOW]),
        (b"DATA\r\nx\r\n.\r\n", [b"354 End data with <CR><LF>.<CR><LF>\r\n", SLOW]),
        (b"RSET\r\n", [b"250 2.0.0 OK\r\n"]),
        (b"EHLO x\r\n", []),
    ],
)
async def test_a_stopped_transaction_is_left_and_the_session_goes_on(
    leg: Leg, command: bytes, answers: list[bytes]
) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(OPEN)
        await reader.readuntil(b"2.1.5 OK\r\n")
        await until(lambda: leg.relay.left == 1)
        writer.write(command)
        assert [await reader.readline() for _ in answers] == answers
        writer.write(AGAIN)
        assert b"the message is taken over" in await reader.read()
    assert [message.content for message in leg.relay.delivered] == [b"again\r\n"]


@pytest.mark.parametrize(
    ("chunk", "command", "answers"),
    [
        (b"BDAT 3\r\nx\r\n", b"BDAT 3\r\ny\r\nBDAT 0 LAST\r\n", [SLOW, SLOW]),
        (b"BDAT 3\r\nx\r\n", b"RSET\r\n", [b"250 2.0.0 OK\r\n"]),
        (b"BDAT 9\r\nx\r\n", b"y\r\nz\r\nBDAT 0 LAST\r\n", [SLOW, SLOW]),
    ],
)
async def test_a_device_that_stops_between_chunks_or_within_one(
    leg: Leg, chunk: bytes, command: bytes, answers: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(OPEN + chunk)
        await until(lambda: leg.relay.left == 1)
        await reader.readuntil(b"2.1.5 OK\r\n")
        if chunk.startswith(b"BDAT 3"):
            await reader.readuntil(b"chunk please\r\n")
        writer.write(command)
        assert [await reader.readline() for _ in answers] == answers
        writer.write(AGAIN)
        assert b"the message is taken over" in await reader.read()
    assert [message.content for message in leg.relay.delivered] == [b"again\r\n"]
    assert "SMTP_PROGRESS_SECONDS" in str(facts(caplog, "message refused")[0]["cause"])


@pytest.mark.parametrize("command", [b"NOOP", b"RCPT TO:<d@example.com>", b"VRFY x"])
async def test_commands_that_lead_nowhere_do_not_keep_the_place(start_leg: StartLeg, command: bytes) -> None:
    """Each comes in time, but the content never does."""
    leg = await start_leg(progress_seconds=0.5)
    async with leg.connected() as (reader, writer), asyncio.timeout(30):
        writer.write(OPEN)
        await reader.readuntil(b"2.1.5 OK\r\n")
        began = asyncio.get_running_loop().time()
        while not leg.relay.left:
            writer.write(command + b"\r\n")
            reply = await reader.readline()
            # The place may be freed while this command is on its way.
            assert reply[:1] == b"2" or (leg.relay.left and reply.startswith(b"451 4.4.2"))
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - began > reading.MAX_PAUSES * 0.5 - 0.2
        writer.write(b"RSET\r\n" + AGAIN)
        assert b"the message is taken over" in await reader.read()


async def test_a_session_without_a_message_has_an_end(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "SESSION_SECONDS", 0.6)
    leg = await start_leg(idle_seconds=0.5, progress_seconds=0.5)
    async with leg.connected() as (reader, writer), asyncio.timeout(20):
        writer.write(MESSAGE)
        await reader.readuntil(b"the message is taken over")
        ends: list[bytes] = []
        while not reader.at_eof():
            writer.write(b"RCPT\r\n" if len(ends) % 2 else b"RSET\r\n")
            ends.append(await reader.readline())
            await asyncio.sleep(0.1)
    assert b"421 4.4.2" in b"".join(ends)
    await until(lambda: bool(facts(caplog, "smtp session ended")))
    assert facts(caplog, "smtp session ended")[0]["verdict"] == "idle: no message ended within 0.6 s"


@pytest.mark.fault("A26")
async def test_content_below_the_rate_is_given_up_and_its_rest_is_no_command(leg: Leg) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"354 ")
        await reader.readline()
        while not leg.relay.left:
            writer.write(b"x")
            await asyncio.sleep(0.01)
        writer.write(b"\r\nRSET\r\n.\r\n")
        assert await reader.readline() == SLOW
        writer.write(AGAIN)
        assert b"the message is taken over" in await reader.read()


async def test_chunks_below_the_rate_are_given_up_and_none_of_them_is_a_command(leg: Leg) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(OPEN)
        await reader.readuntil(b"2.1.5 OK\r\n")
        line = b""
        for _ in range(100):
            writer.write(b"BDAT 6\r\nQUIT\r\n")
            line = await reader.readline()
            if line == SLOW:
                break
            await asyncio.sleep(0.02)
        assert line == SLOW
        assert leg.relay.left == 1
        writer.write(AGAIN)
        assert b"the message is taken over" in await reader.read()
    assert [message.content for message in leg.relay.delivered] == [b"again\r\n"]


@pytest.mark.fault("A26")
async def test_a_device_above_the_rate_may_take_its_time(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MIN_OCTETS_PER_SECOND", 20)
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        for _ in range(25):
            writer.write(b"line\r\n")
            await asyncio.sleep(0.02)
        writer.write(b".\r\nQUIT\r\n")
        assert b"the message is taken over" in await reader.read()


async def test_what_the_backend_takes_its_time_for_does_not_count(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    leg.relay.hold = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, leg.relay.hold.set)
    assert b"the message is taken over" in await leg.exchange(MESSAGE)


@pytest.mark.quirk("smtp-C14")
async def test_a_device_that_stays_silent_is_closed_in_the_end(start_leg: StartLeg) -> None:
    leg = await start_leg(progress_seconds=0.05, idle_seconds=0.3)
    for stopped in (OPEN, ENVELOPE + b"x", OPEN + b"BDAT 9\r\nx\r\n", OPEN + b"BDAT 3\r\nx\r\n"):
        assert (await leg.exchange(stopped, half_close=False)).splitlines()[-1].startswith(b"421 4.4.2 ")
    assert leg.relay.delivered == []


ENDS = [b"x\n.\n", b"x\r\n.\n", b"x\n.\r\n", b".\n", b"one\ntwo\n.\n"]


@pytest.mark.quirk("smtp-C14")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("half_close", [True, False])
async def test_a_message_that_stops_behind_a_bare_end_is_refused(
    leg: Leg, end: bytes, half_close: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(reading, "BARE_END_SECONDS", 0.05)
    replies = (await leg.exchange(ENVELOPE + end, half_close=half_close)).splitlines()
    assert replies[-1] == b"554 5.5.2 The message must end with <CR><LF>.<CR><LF>, not with a bare <LF>"
    assert leg.relay.delivered == []
    await until(lambda: facts(caplog, "smtp session ended"))
    assert "SMTP_LF_END_NETWORKS" in str(facts(caplog, "smtp session ended")[0]["verdict"])


async def test_a_message_that_goes_on_behind_a_bare_end_is_one_message(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BARE_END_SECONDS", 5)
    leg = await start_leg()
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE + b"one\n.\n")
        await reader.readuntil(b"354 ")
        await until(lambda: leg.relay.content)
        writer.write(b"two\r\n.\r\nQUIT\r\n")
        await reader.read()
    assert [message.content for message in leg.relay.delivered] == [b"one\r\n.\r\ntwo\r\n"]


@pytest.mark.quirk("smtp-C15")
@pytest.mark.parametrize("end", ENDS)
async def test_where_a_bare_end_is_trusted_it_ends_the_message(start_leg: StartLeg, end: bytes) -> None:
    leg = await start_leg(lf_end_networks=(ip_network("127.0.0.0/8"),))
    lump = ENVELOPE + b"..stuffed\n..\r\n...\n" + end + AGAIN
    assert (await leg.exchange(lump)).count(b"the message is taken over") == 2
    body = end.partition(b".")[0].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert [message.content for message in leg.relay.delivered] == [b".stuffed\r\n.\r\n..\r\n" + body, b"again\r\n"]


@pytest.mark.quirk("smtp-C15")
async def test_elsewhere_a_bare_end_is_not_trusted(start_leg: StartLeg) -> None:
    leg = await start_leg(lf_end_networks=(ip_network("192.0.2.0/24"),))
    await leg.exchange(ENVELOPE + b"x\n.\n" + AGAIN)
    assert len(leg.relay.delivered) == 1
