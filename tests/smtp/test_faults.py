"""What devices and others do to the listener, by accident or on purpose."""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
from contextlib import AsyncExitStack
from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from legacy_email_proxy.access import Admission
from legacy_email_proxy.smtp import connection, session
from legacy_email_proxy.smtp.connection import SessionOptions
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.reading import Patience
from legacy_email_proxy.smtp.server import SMTPServer
from legacy_email_proxy.smtp.session import MAX_RECIPIENTS
from smtp.conftest import LOOPBACK, Leg, StartLeg
from smtp.relays import MemoryRelay
from smtp.test_session import ENVELOPE, MESSAGE, descriptors, reset
from waiting import until


@pytest.mark.fault("A2", "A28")
async def test_a_thousand_resets_leave_nothing(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    async with leg.connected() as (reader, writer):
        await reader.readline()
        # With what the loop opens at its first connection, and with both ends of this one.
        before = descriptors()
        for count in range(1000):
            _, other = await asyncio.open_connection(*leg.address)
            reset(other)
            if count % 100 == 0:
                writer.write(b"NOOP\r\n")
                async with asyncio.timeout(5):
                    assert (await reader.readline()).startswith(b"250")
    await until(lambda: not leg.server._connections)
    # What the loop itself still has to close.
    await until(lambda: descriptors() <= before)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.quirk("aiosmtpd-6")
@pytest.mark.fault("A4", "A33")
@pytest.mark.parametrize(
    "chatter",
    [b"NOOP\r\n", b"RSET\r\n", b"EHLO x\r\n", b"HELP\r\n", b"VRFY x\r\n", b"MAIL FROM:<a@example.com>\r\nRSET\r\n"],
)
async def test_chatter_ends_the_session(leg: Leg, chatter: bytes) -> None:
    replies = await leg.exchange(b"HELO x\r\n" + chatter * 300)
    assert replies.endswith(b"\r\n421 4.7.0 Too many commands without a message, goodbye\r\n")
    assert leg.relay.entered in (0, (session.MAX_CHATTER - 1) // 2 + 1)


async def test_messages_are_no_chatter(leg: Leg) -> None:
    many = session.MAX_CHATTER // 2
    replies = await leg.exchange(MESSAGE * many + b"QUIT\r\n")
    assert replies.endswith(b"221 2.0.0 Bye\r\n")
    assert len(leg.relay.delivered) == many


async def test_chunks_are_no_chatter(leg: Leg) -> None:
    chunks = b"BDAT 3\r\nabc" * (session.MAX_CHATTER + 1) + b"BDAT 0 LAST\r\n"
    replies = await leg.exchange(ENVELOPE.removesuffix(b"DATA\r\n") + chunks + b"QUIT\r\n")
    assert replies.endswith(b"221 2.0.0 Bye\r\n")
    assert leg.relay.delivered[0].content.startswith(b"abc" * (session.MAX_CHATTER + 1))


@pytest.mark.quirk("aiosmtpd-12")
@pytest.mark.fault("A9")
async def test_an_endless_line_of_content_costs_no_memory(start_leg: StartLeg) -> None:
    leg = await start_leg(max_octets=4 << 20)
    leg.relay.keep_content = False
    block = b"x" * 65536
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"354 ")
        await reader.readline()
        tracemalloc.start()
        try:
            for _ in range(300):
                writer.write(block)
                async with asyncio.timeout(5):
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 4 << 20
        with_reply = await reader.read()
    assert with_reply in (b"552 5.3.4 Message is larger than this server takes\r\n", b"")
    await until(lambda: not leg.server._connections)
    assert leg.relay.delivered == []


@pytest.mark.fault("A13")
async def test_as_many_recipients_as_anybody_has(leg: Leg) -> None:
    recipients = b"".join(b"RCPT TO:<r%d@example.com>\r\n" % number for number in range(20_000))
    async with leg.connected() as (reader, writer):
        writer.write(b"HELO x\r\nMAIL FROM:<>\r\n")
        feeding = asyncio.create_task(_feed(writer, recipients + b"DATA\r\n.\r\nQUIT\r\n"))
        replies = (await reader.read()).splitlines()[3:]
        await feeding
    assert [line[:9] for line in replies] == (
        [b"250 2.1.5"] * MAX_RECIPIENTS + [b"452 4.5.3"] * (20_000 - MAX_RECIPIENTS)
        + [b"354 End d", b"250 2.0.0", b"221 2.0.0"]
    )  # fmt: skip
    assert leg.relay.delivered[0].forward_paths == [f"r{number}@example.com" for number in range(MAX_RECIPIENTS)]


async def _feed(writer: asyncio.StreamWriter, octets: bytes) -> None:
    writer.write(octets)
    await writer.drain()


@pytest.mark.fault("A24")
@pytest.mark.parametrize(
    "said",
    [b"QUIT\r\n", b"HELO x\r\nNOO", b"HELO x\r\nNOOP\r", b"HELO x\r\nMAIL FROM:<a@example.com>\r\n", ENVELOPE, b"\x16"],
)
async def test_a_half_close_anywhere(leg: Leg, said: bytes) -> None:
    # Every whole line is answered, then the connection ends.
    replies = (await leg.exchange(said)).splitlines()
    assert len(replies) == 1 + (said.count(b"\n") or 1 if said == b"\x16" else said.count(b"\n"))
    await until(lambda: not leg.server._connections)
    assert leg.relay.delivered == []


@pytest.mark.fault("A27")
async def test_idle_connections_are_cheap(start_leg: StartLeg) -> None:
    leg = await start_leg(max_connections=1000, max_per_address=1000)
    count = 300
    async with AsyncExitStack() as stack:
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(count):
                reader, _ = await stack.enter_async_context(leg.connected())
                assert (await reader.readline()).startswith(b"220 ")
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    # Both ends are in this process.
    assert held / count < 50 * 1024


@pytest.mark.fault("A29")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(octets=st.one_of(st.binary(max_size=4000), st.lists(st.binary(max_size=30), max_size=60).map(b"\r\n".join)))
def test_any_octets_are_answered_briefly(octets: bytes) -> None:
    async def talk() -> bytes:
        async with _Served() as (reader, writer):
            writer.write(octets)
            writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read()

    replies = asyncio.run(talk()).splitlines()
    known = {
        b"214",
        b"220",
        b"221",
        b"250",
        b"252",
        b"354",
        b"421",
        b"451",
        b"452",
        b"500",
        b"501",
        b"502",
        b"503",
        b"553",
        b"554",
        b"555",
    }
    assert {line[:3] for line in replies} <= known
    assert sum(line[:2] in (b"50", b"55") for line in replies) < connection.MAX_ERRORS


class _Served:
    """A leg and a connection to it, in the running loop."""

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.relay = MemoryRelay()
        options = SessionOptions("proxy.test", 1 << 20, Patience(20, 20), Admission(LOOPBACK, 10, 10))
        self.server = SMTPServer(RelayHandler(self.relay, 1 << 20), options)
        sock = socket.create_server(("127.0.0.1", 0))
        await self.server.start([sock])
        reader, self._writer = await asyncio.open_connection(*sock.getsockname())
        return reader, self._writer

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        await self.server.drain(0)
        assert self.relay.entered == self.relay.left


@pytest.mark.fault("A30")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"x" * 1000, "x" * 255),
        (b"[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        (b"a  b\tc", "a b c"),
        (b"B\xc3\xbcro", "Bro"),
        (b"x id=1 for=<a@b>; Mon", "x id=1 for=<a@b>; Mon"),
        (b"", ""),
    ],
)
async def test_a_name_can_forge_nothing(leg: Leg, name: bytes, shown: str) -> None:
    for hello in (b"HELO ", b"EHLO "):
        await leg.exchange(hello + name + b"\r\n" + MESSAGE.partition(b"\r\n")[2])
    assert [message.client.helo for message in leg.relay.delivered] == [shown] * 2


@pytest.mark.fault("A32")
@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.6 127.0.0.1 1 25\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY TCP4 6.6.6.6\r\n" * 2,
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x06\x7f\x00\x00\x01\x00\x01\x00\x19",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + b"x" * 65535,
    ],
)
async def test_nobody_may_say_that_he_is_another(leg: Leg, header: bytes) -> None:
    replies = await leg.exchange(header + MESSAGE)
    assert replies.splitlines()[1].startswith(b"500 5.5.")
    # The second form holds a QUIT, and ends there.
    assert [message.client.address for message in leg.relay.delivered] == ["127.0.0.1"] * (b"QUIT" not in header)


@pytest.mark.fault("A34")
@pytest.mark.parametrize(
    "header",
    [
        b"X: " + b"y" * 100_000 + b"\r\n",
        b"X: y\r\n" * 20_000,
        b"X:" + b"\r\n y" * 20_000 + b"\r\n",
        b"no header at all\r\n",
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n"
        + b"--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n" * 1000,
    ],
)
async def test_a_header_of_any_shape_passes(leg: Leg, header: bytes) -> None:
    content = header + b"\r\nbody\r\n"
    assert b"\r\n250 2.0.0 OK, the" in await leg.exchange(ENVELOPE + content + b".\r\nQUIT\r\n")
    assert leg.relay.delivered[0].content == content


@pytest.mark.fault("A36")
async def test_one_address_is_let_in_and_its_neighbour_is_not(start_leg: StartLeg) -> None:
    leg = await start_leg(networks=(ip_network("127.0.0.1/32"),))
    for address, greeting in (("127.0.0.1", b"220 "), ("127.0.0.2", b"554 5.7.1 ")):
        reader, writer = await asyncio.open_connection(*leg.address, local_addr=(address, 0))
        writer.write(MESSAGE)
        writer.write_eof()
        assert (await reader.read()).startswith(greeting)
        writer.close()
        await writer.wait_closed()
    assert [message.client.address for message in leg.relay.delivered] == ["127.0.0.1"]


TWO_MESSAGES = (
    b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<refuse-550@example.com>\r\n"
    b"DATA\r\nSubject: x\r\n\r\n..\r\n.x\r\n.\r\nNONSENSE\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<c@example.com>\r\n"
    b"BDAT 3\r\nabcBDAT 2 LAST\r\n\r\nVRFY x\r\n"
)


@pytest.mark.fault("A19")
async def test_a_session_cut_anywhere_gets_the_same_replies(leg: Leg) -> None:
    said = []
    for cut in range(len(TWO_MESSAGES)):
        async with asyncio.timeout(50), leg.wire() as wire:
            for part in (TWO_MESSAGES[:cut], TWO_MESSAGES[cut:]):
                if part:
                    await wire.send(part)
            said.append(wire.said)
    assert said == said[:1] * len(TWO_MESSAGES)
    codes = [line[:3] for line in said[0].splitlines() if line[3:4] == b" "]
    assert codes == b"220 250 250 250 550 354 250 500 250 250 250 250 250 252".split()
    delivered = [(message.forward_paths, message.content) for message in leg.relay.delivered]
    both = [(["b@example.com"], b"Subject: x\r\n\r\n.\r\nx\r\n"), (["c@example.com"], b"abc\r\n")]
    assert delivered == both * len(TWO_MESSAGES)


@pytest.mark.fault("D9")
async def test_a_verdict_that_comes_while_the_service_stops_is_told(leg: Leg) -> None:
    leg.relay.hold = asyncio.Event()
    async with leg.connected() as (reader, writer):
        writer.write(MESSAGE)
        await leg.relay.holding.wait()
        draining = asyncio.create_task(leg.server.drain(20))
        await until(lambda: leg.server._draining)
        leg.relay.hold.set()
        replies = (await reader.read()).splitlines()
        await draining
    assert [line[:9] for line in replies[-2:]] == [b"250 2.0.0", b"421 4.3.2"]
    assert len(leg.relay.delivered) == 1


class AnyOrder(RuleBasedStateMachine):
    """Commands in any order, against a model of what RFC 5321 §4.1.4 says of each."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.served = _Served()
        self.reader, self.writer = self.loop.run_until_complete(self.served.__aenter__())
        assert self.reply() == 220
        self.greeted = self.sender = self.data_refused = False
        self.recipients = self.refused = self.messages = self.errors = 0

    def teardown(self) -> None:
        self.loop.run_until_complete(self.served.__aexit__())
        # The transport closes in the turn after.
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        assert len(self.served.relay.delivered) == self.messages

    def reply(self) -> int:
        async def read() -> int:
            async with asyncio.timeout(10):
                while (line := await self.reader.readline())[3:4] == b"-":
                    pass
                return int(line[:3])

        return self.loop.run_until_complete(read())

    def say(self, line: bytes, expected: int) -> None:
        self.errors += expected in (500, 501, 502, 503, 553, 555)
        self.writer.write(line + b"\r\n")
        assert self.reply() == expected, line

    def begin_afresh(self) -> None:
        self.sender, self.recipients, self.refused, self.data_refused = False, 0, 0, False

    # One error less than ends the session.
    def may_err(self) -> bool:
        return self.errors < connection.MAX_ERRORS - 1

    @rule(line=st.sampled_from([b"HELO x", b"EHLO x"]))
    def hello(self, line: bytes) -> None:
        self.say(line, 250)
        self.greeted = True
        self.begin_afresh()

    @precondition(may_err)
    @rule()
    def mail(self) -> None:
        good = self.greeted and not self.sender
        self.say(b"MAIL FROM:<a@example.com>", 250 if good else 503)
        if good:
            self.begin_afresh()
            self.sender = True

    @rule()
    def mail_refused(self) -> None:
        if self.greeted and not self.sender:
            self.say(b"MAIL FROM:<refuse-550@example.com>", 550)

    @precondition(may_err)
    @rule(refused=st.booleans())
    def rcpt(self, refused: bool) -> None:
        if not self.sender:
            self.say(b"RCPT TO:<b@example.com>", 503)
        elif refused:
            self.say(b"RCPT TO:<refuse-550@example.com>", 550)
            self.refused += 1
        else:
            self.say(b"RCPT TO:<b@example.com>", 250)
            self.recipients += 1

    @precondition(may_err)
    @rule(verdict=st.sampled_from([b"", b"X-Verdict: refuse-554\r\n", b"X-Verdict: down@\r\n"]))
    def data(self, verdict: bytes) -> None:
        if not self.recipients:
            self.say(b"DATA", 554 if self.sender and self.refused else 503)
            self.data_refused = True
            return
        self.say(b"DATA", 354)
        self.say(verdict + b"x\r\n.", {b"": 250}.get(verdict, 554 if b"554" in verdict else 451))
        self.messages += not verdict
        self.begin_afresh()

    @precondition(may_err)
    @rule(line=st.sampled_from([b"", b"XYZZY", b"EXPN x", b"MAIL", b"RCPT", b"DATA x", b"AUTH PLAIN", b"STARTTLS"]))
    def mistake(self, line: bytes) -> None:
        expected = {b"": 500, b"XYZZY": 500, b"EXPN x": 502, b"AUTH PLAIN": 502, b"STARTTLS": 502}.get(line, 501)
        if (line == b"MAIL" and (not self.greeted or self.sender)) or (line == b"RCPT" and not self.sender):
            expected = 503
        if self.data_refused and expected == 500:
            # It would be taken for the content of that message, and end the session.
            return
        self.data_refused |= line == b"DATA x"
        self.say(line, expected)

    @rule(line=st.sampled_from([b"RSET", b"NOOP x", b"VRFY x", b"HELP"]))
    def anytime(self, line: bytes) -> None:
        self.say(line, {b"RSET": 250, b"NOOP x": 250, b"VRFY x": 252, b"HELP": 214}[line])
        if line == b"RSET":
            self.begin_afresh()


@pytest.mark.fault("A35")
def test_any_order() -> None:
    run_state_machine_as_test(AnyOrder, settings=settings(max_examples=25, stateful_step_count=30))
