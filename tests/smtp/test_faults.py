"""What devices and others do to the listener, by accident or on purpose; :data:`ROWS` says where each is injected."""

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
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from legacy_email_proxy.access import Admission
from legacy_email_proxy.smtp import connection, session
from legacy_email_proxy.smtp.connection import SessionOptions
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.reading import Patience
from legacy_email_proxy.smtp.server import SMTPServer
from legacy_email_proxy.smtp.session import MAX_RECIPIENTS
from places import missing
from smtp.conftest import LOOPBACK, Leg, StartLeg
from smtp.relays import MemoryRelay
from smtp.test_session import ENVELOPE, MESSAGE, descriptors, reset
from waiting import until

ROWS = {
    "A1 connects and says nothing": ["smtp/test_session.py::test_idle_session_is_told_and_closed"],
    "A2 connects and resets, often": ["smtp/test_faults.py::test_a_thousand_resets_leave_nothing"],
    "A3 one octet now and then": ["smtp/test_session.py::test_dripping_octets_do_not_keep_a_session_alive"],
    "A4 NOOP for ever": ["smtp/test_faults.py::test_chatter_ends_the_session"],
    "A5 mistakes of each kind": ["smtp/test_session.py::test_every_kind_of_mistake_is_counted"],
    "A6 long command lines": [
        "smtp/test_session.py::test_long_command_lines",
        "smtp/test_session.py::test_endless_command_line_costs_no_memory",
    ],
    "A7 bare LF, bare CR, NUL in commands": ["transcripts/smtp/control_characters.txt"],
    "A8 smuggling": [
        "smtp/test_smuggling.py::test_by_data",
        "smtp/test_smuggling.py::test_by_chunks",
        "transcripts/smtp/smuggling_gives_one_message.txt",
    ],
    "A9 an endless line behind 354": ["smtp/test_faults.py::test_an_endless_line_of_content_costs_no_memory"],
    "A10 long lines in content": ["smtp/test_client_quirks.py::test_c17_long_lines_pass_unchanged"],
    "A11 sizes, true and false": [
        "transcripts/smtp/size_lies.txt",
        "smtp/test_session.py::test_exactly_the_limit_is_taken",
        "smtp/test_session.py::test_too_big_is_refused_and_the_rest_is_no_command",
        "smtp/test_session.py::test_size_is_lowered_to_the_relays_own",
    ],
    "A12 dots": ["smtp/test_content.py::test_what_a_correct_client_stuffed_comes_back"],
    "A13 many recipients": [
        "smtp/test_faults.py::test_as_many_recipients_as_anybody_has",
        "smtp/test_session.py::test_recipients_beyond_the_limit_come_in_another_message",
    ],
    "A14 a recipient twice, and in another case": ["transcripts/smtp/recipient_twice.txt"],
    "A15 the null sender, and no recipient": ["transcripts/smtp/null_sender.txt"],
    "A16 addresses that are odd": ["transcripts/smtp/odd_senders.txt", "smtp/test_paths.py::test_never_rewritten"],
    "A17 addresses that are commands": [
        "smtp/test_paths.py::test_bad_path",
        "transcripts/smtp/control_characters.txt",
        "transcripts/smtp/bad_arguments.txt",
    ],
    "A18 parameters unknown and unasked": [
        "transcripts/smtp/bad_arguments.txt",
        "transcripts/smtp/vcenter_parameters.txt",
        "smtp/test_parameters.py::test_parameters_of_mail",
        "smtp/test_parameters.py::test_parameters_of_rcpt",
    ],
    "A19 pipelined, octet by octet": [
        "smtp/test_transcripts.py::test_pipelined",
        "smtp/test_transcripts.py::test_octet_by_octet",
    ],
    "A20 content before 354": ["smtp/test_transcripts.py::test_pipelined"],
    "A21 leaves in DATA": [
        "smtp/test_session.py::test_client_that_leaves_before_the_end_delivers_nothing",
        "smtp/test_session.py::test_client_that_resets_before_the_end_delivers_nothing",
        "smtp/test_session.py::test_idle_session_is_told_and_closed",
        "smtp/test_tls.py::test_a_client_that_leaves_before_its_message_ended",
    ],
    "A22 vanishes behind the dot": [
        "smtp/test_session.py::test_client_that_vanishes_behind_the_end_gets_exactly_one_delivery",
        "smtp/test_tls.py::test_a_client_that_leaves_behind_its_message_gets_one_delivery",
    ],
    "A23 half-closes behind the dot": ["smtp/test_session.py::test_half_close_behind_the_message_is_answered"],
    "A24 half-closes elsewhere": ["smtp/test_faults.py::test_a_half_close_anywhere"],
    "A25 never reads": [
        "smtp/test_session.py::test_client_that_never_reads_is_cut_off",
        "smtp/test_tls.py::test_a_client_that_never_reads_is_cut_off",
    ],
    "A26 slow DATA": [
        "smtp/test_session.py::test_slow_data_is_kept_alive_while_it_makes_progress",
        "smtp/test_progress.py::test_a_device_above_the_rate_may_take_its_time",
        "smtp/test_progress.py::test_content_below_the_rate_is_given_up_and_its_rest_is_no_command",
    ],
    "A27 many at once": [
        "smtp/test_faults.py::test_idle_connections_are_cheap",
        "smtp/test_session.py::test_who_is_not_admitted",
        "smtp/test_session.py::test_places_are_given_back",
    ],
    "A28 a flood of connections": ["smtp/test_faults.py::test_a_thousand_resets_leave_nothing"],
    "A29 other protocols": [
        "smtp/test_session.py::test_other_protocols_are_told_once_and_closed",
        "smtp/test_faults.py::test_any_octets_are_answered_briefly",
    ],
    "A30 names in EHLO": ["transcripts/smtp/helo_names.txt", "smtp/test_faults.py::test_a_name_can_forge_nothing"],
    "A31 STARTTLS": [
        "smtp/test_tls.py::test_starttls_only_where_it_can_be_used",
        "smtp/test_tls.py::test_commands_injected_behind_starttls",
        "smtp/test_tls.py::test_what_is_still_on_its_way_is_no_command_either",
    ],
    "A32 PROXY protocol": ["smtp/test_faults.py::test_nobody_may_say_that_he_is_another"],
    "A33 EHLO, RSET, MAIL and RSET, for ever": ["smtp/test_faults.py::test_chatter_ends_the_session"],
    "A34 headers": [
        "smtp/test_faults.py::test_a_header_of_any_shape_passes",
        "smtp/test_rewriting.py::test_a_message_in_circles_is_refused",
    ],
    "A35 any order": ["smtp/test_faults.py::TestAnyOrder"],
    "A36 outside of the networks": [
        "smtp/test_session.py::test_who_is_not_admitted",
        "smtp/test_faults.py::test_one_address_is_let_in_and_its_neighbour_is_not",
    ],
}


def test_every_row_has_its_test() -> None:
    assert [name.split()[0] for name in ROWS] == [f"A{number}" for number in range(1, 37)]
    assert missing(place for places in ROWS.values() for place in places if "::Test" not in place) == []


async def test_a_thousand_resets_leave_nothing(leg: Leg, caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    async with leg.connected() as (reader, writer):
        await reader.readline()
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


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=25, stateful_step_count=30)
