"""What aiosmtpd as it is would get wrong, and what a hostile or dying client may not do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import smtplib
import socket
import tracemalloc
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import aiosmtpd
import pytest
from aiosmtpd.smtp import SMTP as StockSMTP

from clients import reset_when_closed
from legacy_email_proxy.access import Admission, Refusal
from legacy_email_proxy.contracts import Receipt
from legacy_email_proxy.replies import Reply
from legacy_email_proxy.smtp import aiosmtpd_adapter
from legacy_email_proxy.smtp import connection as connection_module
from legacy_email_proxy.smtp import session as session_module
from legacy_email_proxy.smtp.connection import Connection, SessionOptions
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.reading import Patience
from smtp.conftest import Leg, StartLeg
from smtp.relays import MemoryRelay
from waiting import until

ENVELOPE = b"HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
MESSAGE = ENVELOPE + b"hello\r\n.\r\n"


def reset(writer: asyncio.StreamWriter) -> None:
    """Leave without a word: the other side gets RST, and not the FIN that could be a half-close."""
    reset_when_closed(writer.get_extra_info("socket"))
    writer.transport.abort()


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def facts(caplog: pytest.LogCaptureFixture, words: str) -> list[dict[str, object]]:
    return [record.__dict__["facts"] for record in caplog.records if record.getMessage() == words]


@pytest.mark.quirk("aiosmtpd-33")
async def test_the_aiosmtpd_that_we_know() -> None:
    assert aiosmtpd.__version__.startswith("1.4."), "read its changes against smtp/aiosmtpd_adapter.py"
    overridden = vars(aiosmtpd_adapter.SMTPProtocol)
    for name in ("_create_session", "_reset_timeout", "_handle_client", "connection_lost", "eof_received"):
        assert callable(getattr(StockSMTP, name)), name
        assert name in overridden
    assert callable(StockSMTP._call_handler_hook)
    assert callable(StockSMTP._create_envelope)
    handler = RelayHandler(MemoryRelay(), 1 << 20)
    stock = StockSMTP(handler, hostname="x", loop=asyncio.get_running_loop())
    options = SessionOptions("x", 1 << 20, Patience(1, 1), Admission((), 1, 1))
    ours = session_module.SMTPSession(handler, options).protocol
    assert ours._handle_hooks == stock._handle_hooks
    assert set(session_module.COMMANDS) == set(stock._smtp_methods) | {"BDAT"}
    assert set(vars(stock)) - set(vars(ours)) == {
        # Set at connection_made, or a class attribute of ours.
        *("session", "envelope"),
        # Of what is replaced: its own command loop, DATA, AUTH, STARTTLS, PROXY and timer.
        *("_decode_data", "enable_SMTPUTF8", "_ehlo_hook_ver", "_enforce_call_limit", "_smtp_methods"),
        *("_auth_callback", "_auth_methods", "_auth_require_tls", "_auth_required", "_authenticator"),
        *("require_starttls", "tls_context", "_tls_handshake_okay", "_tls_protocol"),
        *("_proxy_timeout", "_timeout_duration", "_timeout_handle"),
    }


@pytest.mark.quirk("aiosmtpd-1")
@pytest.mark.fault("A23")
async def test_half_close_behind_the_message_is_answered(leg: Leg) -> None:
    replies = await leg.exchange(MESSAGE, half_close=True)
    assert replies.endswith(b"250 2.0.0 OK, the message is taken over as 42\r\n")
    assert len(leg.relay.delivered) == 1


@pytest.mark.parametrize(
    ("queue_id", "told"),
    [
        ("", r"s[a-z2-9]{5}-\d+"),
        ("17", "17"),
        ("a\r\n250 forged \u00e4", "a 250 forged"),
        ("x" * 100, "x" * 64),
    ],
)
async def test_the_250_says_what_the_message_is_found_by(
    leg: Leg, caplog: pytest.LogCaptureFixture, queue_id: str, told: str
) -> None:
    """Many programs print that line."""
    leg.relay.receipt = Receipt("250 backend", queue_id)
    replies = await leg.exchange(MESSAGE)
    found = re.fullmatch(rf"250 2\.0\.0 OK, the message is taken over as ({told})", replies.decode().splitlines()[-1])
    assert found
    if not queue_id:
        assert [each["session"] for each in facts(caplog, "message relayed")] == [found[1]]


@pytest.mark.fault("A21")
async def test_client_that_leaves_before_the_end_delivers_nothing(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    for cut in (len(MESSAGE) - 1, len(MESSAGE) - 3, len(ENVELOPE), len(ENVELOPE) - 1, 40):
        await leg.exchange(MESSAGE[:cut])
    await until(lambda: len(facts(caplog, "smtp session ended")) == 5)
    assert leg.relay.delivered == []
    assert leg.relay.left == leg.relay.entered == 5


@pytest.mark.fault("A21")
async def test_client_that_resets_before_the_end_delivers_nothing(leg: Leg) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(MESSAGE[:-1])
        await reader.readuntil(b"354 ")
        reset(writer)
    await until(lambda: leg.relay.left == 1)
    assert leg.relay.delivered == []


@pytest.mark.quirk("aiosmtpd-2")
@pytest.mark.fault("A22", "B18")
async def test_client_that_vanishes_behind_the_end_gets_exactly_one_delivery(
    leg: Leg, caplog: pytest.LogCaptureFixture
) -> None:
    leg.relay.hold = asyncio.Event()
    async with leg.connected() as (_, writer):
        writer.write(MESSAGE)
        await leg.relay.holding.wait()
        reset(writer)
    await asyncio.sleep(0.05)
    leg.relay.hold.set()
    await until(lambda: facts(caplog, "smtp session ended"))
    assert len(leg.relay.delivered) == 1
    assert "before it was told the outcome" in str(facts(caplog, "smtp session ended")[0]["verdict"])
    # What became of it can be found, by the backend's own name for it.
    assert [each["backend"] for each in facts(caplog, "message relayed")] == ["250 2.0.0 queued as 42"]


@pytest.mark.parametrize("sent_before", [False, True])
async def test_client_that_leaves_while_the_backend_thinks_about_a_recipient_frees_it(
    leg: Leg, sent_before: bool
) -> None:
    async with leg.connected() as (reader, writer):
        if sent_before:
            writer.write(MESSAGE.removesuffix(b"QUIT\r\n"))
            await reader.readuntil(b"taken over as 42")
            leg.relay.holding.clear()
        writer.write(b"HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<stuck@example.com>\r\n")
        await leg.relay.holding.wait()
        reset(writer)
    await until(lambda: leg.relay.left == 1 + sent_before)


@pytest.mark.fault("D13")
@pytest.mark.quirk("aiosmtpd-7")
async def test_exception_text_stays_here(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    replies = await leg.exchange(b"HELO x\r\nMAIL FROM:<bug@example.com>\r\nNOOP\r\n")
    assert replies.splitlines()[2:] == [b"451 4.3.0 Local error, try again later", b"250 2.0.0 OK"]
    assert "secret detail" in caplog.text
    assert any(record.exc_info for record in caplog.records)


async def test_relay_that_did_not_read_the_message_is_not_believed(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    leg.relay.read_content = False
    replies = await leg.exchange(MESSAGE + b"NOOP\r\n")
    assert replies.splitlines()[-2:] == [b"451 4.3.0 Local error, try again later", b"250 2.0.0 OK"]
    assert "before it had read the whole message" in str(facts(caplog, "message refused")[0]["cause"])


@pytest.mark.fault("A11")
async def test_too_big_is_refused_and_the_rest_is_no_command(start_leg: StartLeg) -> None:
    leg = await start_leg(max_octets=65536)
    big = b"x" * 998 + b"\r\n"
    replies = await leg.exchange(ENVELOPE + big * 70 + b"RSET\r\n.\r\nNOOP\r\n")
    assert replies.splitlines()[-2:] == [b"552 5.3.4 Message is larger than this server takes", b"250 2.0.0 OK"]
    assert leg.relay.delivered == []


@pytest.mark.fault("A11")
async def test_exactly_the_limit_is_taken(start_leg: StartLeg) -> None:
    leg = await start_leg(max_octets=65536)
    await leg.exchange(ENVELOPE + b"x" * 65534 + b"\r\n.\r\n")
    assert [len(message.content) for message in leg.relay.delivered] == [65536]
    replies = await leg.exchange(ENVELOPE + b"x" * 65535 + b"\r\n.\r\n")
    assert b"552 5.3.4" in replies


async def test_message_without_end_is_cut_off(start_leg: StartLeg) -> None:
    leg = await start_leg(max_octets=65536)
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE + b"x" * 200_000)
        replies = await reader.read()
    assert replies.splitlines()[-1].startswith(b"552 5.3.4")


@pytest.mark.fault("A11")
async def test_size_is_lowered_to_the_relays_own(leg: Leg) -> None:
    leg.relay.max_octets = 2000
    mails = b"".join(b"MAIL FROM:<a@example.com> SIZE=%d\r\n" % octets for octets in (2001, 2000))
    replies = await leg.exchange(b"EHLO x\r\n" + mails)
    assert b"250-SIZE 2000\r\n" in replies
    assert [line[:3] for line in replies.splitlines()[-2:]] == [b"552", b"250"]


@pytest.mark.quirk("aiosmtpd-11")
async def test_large_message_streams(start_leg: StartLeg) -> None:
    leg = await start_leg(max_octets=100 << 20)
    leg.relay.keep_content = False
    line = b"x" * 998 + b"\r\n"
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"354 ")
        await reader.readline()
        tracemalloc.start()
        try:
            for _ in range(320):
                writer.write(line * 100)
                await writer.drain()
            writer.write(b".\r\nQUIT\r\n")
            assert b"250 2.0.0 OK, the" in await reader.readline()
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
    assert leg.relay.octets == 32_000_000


@pytest.mark.quirk("aiosmtpd-13")
@pytest.mark.fault("A6")
async def test_endless_command_line_costs_no_memory(leg: Leg) -> None:
    block = b"x" * 65536
    async with leg.connected() as (reader, writer):
        await reader.readline()
        tracemalloc.start()
        try:
            for _ in range(300):
                writer.write(block)
                await writer.drain()
            writer.write(b"\r\nNOOP\r\nQUIT\r\n")
            assert (await reader.read()).splitlines()[:2] == [b"500 5.5.2 Line too long", b"250 2.0.0 OK"]
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.fault("A6")
@pytest.mark.parametrize(("octets", "code"), [(512, b"250"), (2048, b"250"), (2049, b"500"), (100_000, b"500")])
async def test_long_command_lines(leg: Leg, octets: int, code: bytes) -> None:
    line = b"NOOP " + b"x" * (octets - 6) + b"\n"
    assert len(line) == octets
    assert [reply[:3] for reply in (await leg.exchange(line + b"NOOP\n")).splitlines()] == [b"220", code, b"250"]


@pytest.mark.quirk("aiosmtpd-18")
@pytest.mark.fault("A5")
@pytest.mark.parametrize("mistake", [b"", b"XYZZY", b"RCPT TO:<x@y>", b"NOOP \xff", b"NO\rOP", b"NOOP\0", b"x" * 3000])
async def test_every_kind_of_mistake_is_counted(leg: Leg, mistake: bytes) -> None:
    replies = (await leg.exchange((mistake + b"\r\n") * 25)).splitlines()
    assert len(replies) == 1 + connection_module.MAX_ERRORS
    assert replies[-1] == b"421 4.7.0 Too many errors, goodbye"
    assert all(reply.startswith(b"50") for reply in replies[1:-1])


async def test_refusals_of_the_backend_are_no_mistakes_of_the_device(leg: Leg) -> None:
    flood = b"RCPT TO:<refuse-550@example.com>\r\n" * 30
    replies = (await leg.exchange(ENVELOPE[:-6] + flood + b"NOOP\r\n")).splitlines()
    assert replies[-1] == b"250 2.0.0 OK"


@pytest.mark.quirk("aiosmtpd-17")
@pytest.mark.fault("A13")
async def test_recipients_beyond_the_limit_come_in_another_message(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_RECIPIENTS", 3)
    many = b"".join(b"RCPT TO:<r%d@example.com>\r\n" % number for number in range(4))
    replies = (await leg.exchange(b"HELO x\r\nMAIL FROM:<>\r\n" + many + b"DATA\r\n.\r\n")).splitlines()
    assert replies[6].startswith(b"452 4.5.3 ")
    assert leg.relay.delivered[0].forward_paths == ["r0@example.com", "r1@example.com", "r2@example.com"]


@pytest.mark.quirk("smtp-C13")
@pytest.mark.fault("A29")
@pytest.mark.parametrize(
    ("octets", "what"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nHELO x\r\nMAIL FROM:<a@b>\r\n", "HTTP"),
        (b"POST / HTTP/1.1\r\n\r\n" + MESSAGE, "HTTP"),
    ],
)
async def test_other_protocols_are_told_once_and_closed(
    leg: Leg, octets: bytes, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    replies = (await leg.exchange(octets, half_close=False)).splitlines()
    assert replies[1:] == [b"421 4.7.0 This is a plain SMTP server, goodbye"]
    assert leg.relay.entered == 0
    await until(lambda: facts(caplog, "smtp session ended"))
    assert facts(caplog, "smtp session ended")[0]["verdict"] == f"spoke {what} to the plain SMTP port"


@pytest.mark.quirk("smtp-C13")
async def test_http_is_noticed_behind_an_overlong_request_line(leg: Leg) -> None:
    request = b"POST /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n" + MESSAGE
    replies = (await leg.exchange(request, half_close=False)).splitlines()
    assert replies[1:] == [b"421 4.7.0 This is a plain SMTP server, goodbye"]
    assert leg.relay.entered == 0


async def test_a_flood_of_commands_leaves_others_their_turn(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, reply = 0, Connection.reply

    def counted(self: Connection, text: Reply | str) -> None:
        nonlocal answered
        answered += 1
        reply(self, text)

    monkeypatch.setattr(Connection, "reply", counted)
    meanwhile = []
    async with leg.connected() as (_, flooding), leg.connected() as (reader, writer), asyncio.timeout(20):
        await reader.readline()
        flooding.write(b"HELO x\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<b@example.com>\r\n" * 20_000)
        await flooding.drain()
        for _ in range(20):
            before = answered
            writer.write(b"NOOP\r\n")
            assert await reader.readline() == b"250 2.0.0 OK\r\n"
            meanwhile.append(answered - before)
    assert max(meanwhile) < 1000, meanwhile


@pytest.mark.quirk("aiosmtpd-8")
async def test_a_relay_that_stumbles_at_data_leaves_no_content_behind(leg: Leg) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE[:-6])
        for _ in range(4):
            await reader.readline()
        leg.relay.max_octets = "many"  # type: ignore[assignment]
        writer.write(b"DATA\r\nNOOP\r\nVRFY x\r\n.\r\nQUIT\r\n")
        replies = (await reader.read()).splitlines()
    assert [reply[:3] for reply in replies] == [b"354", b"451", b"221"]


@pytest.mark.fault("D13")
async def test_a_relay_without_a_receipt_is_not_believed(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    leg.relay.receipt = None
    assert b"451 4.3.0 " in await leg.exchange(MESSAGE)
    assert "no Receipt" in str(facts(caplog, "message refused")[0]["cause"])


async def test_a_plugin_that_cancels_on_its_way_out_leaves_no_socket_open(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.asynccontextmanager
    async def transaction(*_: object) -> AsyncIterator[object]:
        try:
            yield object()
        finally:
            raise asyncio.CancelledError

    monkeypatch.setattr(leg.relay, "transaction", transaction)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            await leg.exchange(ENVELOPE.partition(b"RCPT")[0])


@pytest.mark.fault("D13")
async def test_a_cancellation_that_is_the_plugins_own_is_told_as_temporary(leg: Leg) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(b"HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<stuck@example.com>\r\n")
        await leg.relay.holding.wait()
        (session,) = leg.server._connections
        assert session.protocol._handler_coroutine is not None
        session.protocol._handler_coroutine.cancel()
        assert (await reader.read()).splitlines()[-1] == b"451 4.3.0 Local error, try again later"


async def test_a_reset_is_no_unretrieved_exception(leg: Leg) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with leg.wire() as wire:
        lost = wire.protocol._closed  # type: ignore[attr-defined]
        wire.protocol.connection_lost(ConnectionResetError())
        lost.__del__()  # as the garbage collector may do, before it finalises the protocol
    assert not complaints


@pytest.mark.fault("D13")
async def test_a_stuck_relay_does_not_hold_the_drain(leg: Leg) -> None:
    leg.relay.leaving = asyncio.Event()
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"354 ")
        async with asyncio.timeout(5):
            await leg.server.drain(0.05)
    leg.relay.leaving.set()
    await until(lambda: leg.relay.left == 1)


async def test_drain_while_connections_arrive(start_leg: StartLeg) -> None:
    for _ in range(20):
        leg = await start_leg(max_connections=10_000, max_per_address=10_000)
        stopping = asyncio.Event()

        async def knock(leg: Leg = leg, stopping: asyncio.Event = stopping) -> None:
            while not stopping.is_set():
                with contextlib.suppress(OSError):
                    async with leg.connected():
                        await asyncio.sleep(0)

        knocking = [asyncio.create_task(knock()) for _ in range(5)]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await leg.server.drain(1)
        stopping.set()
        await asyncio.gather(*knocking)


@pytest.mark.fault("A1", "A21")
async def test_idle_session_is_told_and_closed(start_leg: StartLeg) -> None:
    leg = await start_leg(idle_seconds=0.1)
    for started in (b"", b"HELO x\r\n", b"HELO x\r\nNO", MESSAGE[:-5]):
        replies = (await leg.exchange(started, half_close=False)).splitlines()
        assert replies[0].startswith(b"220 ")
        assert replies[-1].startswith(b"421 4.4.2 ")
    assert leg.relay.delivered == []


@pytest.mark.quirk("aiosmtpd-5")
@pytest.mark.fault("A3")
async def test_dripping_octets_do_not_keep_a_session_alive(start_leg: StartLeg) -> None:
    leg = await start_leg(idle_seconds=0.3)
    async with leg.connected() as (reader, writer):

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        replies = await reader.read()
        dripping.cancel()
    assert replies.splitlines()[-1].startswith(b"421 4.4.2 ")


@pytest.mark.quirk("aiosmtpd-3")
@pytest.mark.fault("A26")
async def test_slow_data_is_kept_alive_while_it_makes_progress(start_leg: StartLeg) -> None:
    leg = await start_leg(idle_seconds=0.4)
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        for _ in range(12):
            writer.write(b"line\r\n")
            await asyncio.sleep(0.06)
        writer.write(b".\r\nQUIT\r\n")
        assert b"250 2.0.0 OK, the message" in await reader.read()


@pytest.mark.quirk("aiosmtpd-15")
@pytest.mark.fault("A25")
async def test_client_that_never_reads_is_cut_off(start_leg: StartLeg, caplog: pytest.LogCaptureFixture) -> None:
    leg = await start_leg(idle_seconds=0.3)
    flood_of_recipients = b"HELO x\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<b@example.com>\r\n" * 100_000
    async with leg.connected() as (reader, _):
        await reader.readline()  # with it the event loop opens what it keeps open
    await until(lambda: not leg.server._connections)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        before = descriptors()
        await loop.sock_connect(client, leg.address)
        flood = asyncio.create_task(loop.sock_sendall(client, flood_of_recipients))
        await until(lambda: len(facts(caplog, "smtp session ended")) == 2)
        # The client's own end is still open, ours is not.
        await until(lambda: not leg.server._connections and descriptors() <= before)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)


@pytest.mark.quirk("aiosmtpd-16")
@pytest.mark.fault("A27", "A36")
@pytest.mark.parametrize(
    ("options", "reply"),
    [
        ({"networks": (ip_network("10.0.0.0/8"),)}, b"554 5.7.1 "),
        ({"networks": ()}, b"554 5.7.1 "),
        ({"max_connections": 0}, b"421 4.3.2 "),
        ({"max_per_address": 0}, b"421 4.3.2 "),
    ],
)
async def test_who_is_not_admitted(
    start_leg: StartLeg, options: dict[str, object], reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    leg = await start_leg(**options)
    replies = (await leg.exchange(MESSAGE)).splitlines()
    assert len(replies) == 1
    assert replies[0].startswith(reply)
    assert leg.relay.entered == 0
    (refused,) = facts(caplog, "smtp connection refused")
    assert refused["reason"] in [each.value for each in Refusal]
    assert not facts(caplog, "smtp session ended")


@pytest.mark.fault("A27")
async def test_places_are_given_back(start_leg: StartLeg) -> None:
    leg = await start_leg(max_connections=1, max_per_address=1)
    async with leg.connected() as (reader, _):
        assert (await reader.readline()).startswith(b"220")
        assert (await leg.exchange(b"")).startswith(b"421")
    for _ in range(3):
        # The place is free once the session before it has ended, which its client can not see.
        while (await leg.exchange(b"QUIT\r\n")).startswith(b"421"):
            pass


@pytest.mark.fault("D8")
async def test_drain_tells_idle_sessions_and_lets_a_transaction_finish(leg: Leg) -> None:
    async with leg.connected() as (idle, _), leg.connected() as (busy, writer):
        await idle.readline()
        writer.write(ENVELOPE)
        await busy.readuntil(b"354 ")
        draining = asyncio.create_task(leg.server.drain(10))
        assert (await idle.read()).startswith(b"421 4.3.2 ")
        assert not draining.done()
        writer.write(b"hello\r\n.\r\n")
        await busy.readline()
        assert (await busy.readline()).startswith(b"250 ")
        assert (await busy.read()).startswith(b"421 4.3.2 ")
        await draining
    assert len(leg.relay.delivered) == 1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*leg.address)


@pytest.mark.fault("D8")
async def test_drain_ends_what_does_not_finish(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"354 ")
        await leg.server.drain(0.05)
    assert leg.relay.delivered == []
    assert leg.relay.left == 1
    # "dropped" would make the device the culprit.
    assert facts(caplog, "smtp session ended")[0]["verdict"] == "stopped in the middle of a message (see DRAIN_SECONDS)"


async def test_log_line_of_a_message_and_of_a_session(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await leg.exchange(MESSAGE + b"QUIT\r\n")
    message = facts(caplog, "message relayed")[0]
    assert message["sender"] == "a@example.com"
    assert message["recipients"] == ["b@example.com"]
    assert message["octets"] == 7
    assert message["backend"] == "250 2.0.0 queued as 42"
    await until(lambda: facts(caplog, "smtp session ended"))
    ended = facts(caplog, "smtp session ended")[0]
    assert (ended["helo"], ended["messages"], ended["octets"], ended["verdict"]) == ("x", 1, 7, "quit")
    assert ended["session"] == message["session"]


async def test_a_look_is_no_news_and_a_wrong_protocol_a_warning(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    cases = (
        (b"", logging.DEBUG),
        (b"HELO x\r\n", logging.INFO),
        (b"x\r\n", logging.INFO),
        (b"GET / HTTP/1.1\r\n", logging.WARNING),
    )
    for said, level in cases:
        caplog.clear()
        await leg.exchange(said)
        await until(lambda: facts(caplog, "smtp session ended"))
        assert [record.levelno for record in caplog.records if "session ended" in record.getMessage()] == [level]


@pytest.mark.parametrize("verdict", [None, "refuse-550"])
async def test_the_handler_is_an_ordinary_aiosmtpd_handler(verdict: str | None) -> None:
    relay = MemoryRelay()
    handler = RelayHandler(relay, 1 << 20)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: StockSMTP(handler, hostname="stock.test"), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()

    def client() -> None:
        with smtplib.SMTP(address[0], address[1], timeout=50) as smtp:
            smtp.sendmail("", ["b@example.com", "refuse-550@example.com"], b"one\r\n.two\r\n")
            expected = smtplib.SMTPDataError if verdict else smtplib.SMTPSenderRefused
            with pytest.raises(expected) as refused:
                smtp.sendmail("a@example.com" if verdict else "down@x", "b@c", f"X-Verdict: {verdict}\n")
            assert refused.value.smtp_code == (550 if verdict else 451)
            # Left in the middle: the transaction must be left too.
            smtp.mail("a@example.com")
            assert smtp.sock is not None
            smtp.sock.close()
            smtp.close()

    await asyncio.to_thread(client)
    server.close()
    await until(lambda: relay.left == relay.entered)
    await handler.aclose()
    assert [(one.reverse_path, one.forward_paths, one.content) for one in relay.delivered] == [
        ("", ["b@example.com"], b"one\r\n.two\r\n")
    ]


async def test_the_relay_knows_the_listener(leg: Leg) -> None:
    await leg.exchange(MESSAGE)
    assert leg.relay.delivered[0].client.port == leg.address[1]


async def test_the_log_shows_the_address_that_is_none(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    """README sends the operator there; the device shows a number at most."""
    mail = b"EHLO d\r\nMAIL FROM:<a@b c>\r\nMAIL FROM:<a@b.test>\r\n"
    await leg.exchange(mail + b"RCPT TO:<c@d.test>\r\nRCPT TO:<>\r\nQUIT\r\n")
    await until(lambda: bool(facts(caplog, "smtp session ended")))
    assert [(each["command"], each["reply"]) for each in facts(caplog, "smtp command refused")] == [
        ("MAIL FROM:<a@b c>", "553 5.1.7 That is no address"),
        ("RCPT TO:<>", "553 5.1.3 That is no address"),
    ]
