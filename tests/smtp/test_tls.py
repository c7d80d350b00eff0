"""STARTTLS and the port with TLS from the first octet: what is announced, injected, refused, and told of failures."""

from __future__ import annotations

import asyncio
import logging
import os
import smtplib
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from clients import LEAVING, leave_in_the_handshake, reset_when_closed
from legacy_email_proxy.smtp import tls_handshake
from legacy_email_proxy.smtp.authentication import anybody
from legacy_email_proxy.smtp.buffer import Incoming
from legacy_email_proxy.smtp.connection import Connection
from realservers.certificates import Certificates
from smtp.conftest import Leg, StartLeg
from waiting import until

counted_by_tracemalloc = pytest.mark.skipif(
    os.environ["EVENT_LOOP"] == "uvloop", reason="uvloop reserves 256 KiB and uses none of it; that is counted here"
)

Ends = Callable[[], list[dict[str, object]]]
ENVELOPE = b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
MESSAGE = ENVELOPE + b"hello\r\n.\r\n"


@pytest.fixture
def ends(caplog: pytest.LogCaptureFixture) -> Ends:
    return lambda: [vars(record)["facts"] for record in caplog.records if record.getMessage() == "smtp session ended"]


def secured(leg: Leg, context: ssl.SSLContext) -> smtplib.SMTP:
    assert leg.tls_address
    client = smtplib.SMTP_SSL(timeout=50, context=context)
    client._host = "localhost"  # type: ignore[attr-defined]
    client.connect(*leg.tls_address)
    return client


def upgraded(leg: Leg, context: ssl.SSLContext) -> smtplib.SMTP:
    client = smtplib.SMTP(*leg.address, timeout=50)
    client._host = "localhost"  # type: ignore[attr-defined]
    client.ehlo()
    assert client.has_extn("starttls")
    client.starttls(context=context)
    return client


@asynccontextmanager
async def spoken(
    leg: Leg, context: ssl.SSLContext, receive_octets: int = 1 << 16
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    assert leg.tls_address
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_octets)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, leg.tls_address)
    reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="localhost")
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


WAYS = pytest.mark.parametrize("connect", [secured, upgraded])


@WAYS
async def test_a_whole_session(
    start_leg: StartLeg,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    ends: Ends,
    caplog: pytest.LogCaptureFixture,
    connect: Callable[[Leg, ssl.SSLContext], smtplib.SMTP],
) -> None:
    leg = await start_leg(tls=server_tls, verifier=anybody, max_octets=8 << 20)
    big = b"Subject: big\r\n\r\n" + (b"y" * 998 + b"\r\n") * 5000

    def session() -> None:
        with connect(leg, client_tls) as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            client.login("scanner", "secret")
            client.sendmail("a@example.com", ["b@example.com"], b"Subject: small\r\n\r\n.dot\r\n")
            client.sendmail("a@example.com", ["b@example.com"], big)

    await asyncio.to_thread(session)
    await until(ends)
    # asyncio's own complaints, for instance of an eof_received() that treats TLS like a plain connection.
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    assert [message.content for message in leg.relay.delivered] == [b"Subject: small\r\n\r\n.dot\r\n", big]
    facts = ends()[-1]
    assert (facts["tls"], facts["user"], facts["messages"], facts["verdict"]) == ("TLSv1.3", "scanner", 2, "quit")


@pytest.mark.fault("A31")
async def test_starttls_only_where_it_can_be_used(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    leg = await start_leg()
    assert b"STARTTLS" not in await leg.exchange(b"EHLO x\r\nQUIT\r\n")
    assert (await leg.exchange(b"STARTTLS\r\nQUIT\r\n")).splitlines()[1] == b"502 5.5.1 Command not implemented"
    leg = await start_leg(tls=server_tls)
    replies = await leg.exchange(b"EHLO x\r\nSTARTTLS now\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\nQUIT\r\n")
    assert b"250-STARTTLS\r\n" in replies
    assert [line[:3] for line in replies.splitlines()[-4:]] == [b"501", b"250", b"503", b"221"]
    async with spoken(leg, client_tls) as (reader, writer):
        writer.write(b"EHLO x\r\nSTARTTLS\r\nQUIT\r\n")
        replies = await reader.read()
        assert b"250-STARTTLS" not in replies
        assert replies.splitlines()[-2] == b"503 5.5.1 Bad sequence of commands"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("octetwise", [False, True])
async def test_any_octets_in_any_records(
    start_leg: StartLeg,
    server_tls: ssl.SSLContext,
    certificates: Certificates,
    version: ssl.TLSVersion,
    octetwise: bool,
) -> None:
    client_tls = ssl.create_default_context(cafile=certificates.ca_file)
    client_tls.maximum_version = version
    leg = await start_leg(tls=server_tls)
    async with asyncio.timeout(20), spoken(leg, client_tls) as (reader, writer):
        octets = MESSAGE + b"NOOP\r\n" * 20 + b"QUIT\r\n"
        for piece in [octets[n : n + 1] for n in range(len(octets))] if octetwise else [octets]:
            writer.write(piece)
            await writer.drain()
        replies = (await reader.read()).splitlines()
    assert [line[:3] for line in replies[-25:]] == [b"250"] * 2 + [b"354"] + [b"250"] * 21 + [b"221"]
    assert leg.relay.delivered[0].content == b"hello\r\n"


async def test_what_comes_with_the_end_of_the_handshake_is_obeyed_at_once(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    leg = await start_leg(tls=server_tls)
    assert leg.tls_address
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await asyncio.open_connection(*leg.tls_address)

    async def until_it_can(step: Callable[[], bytes | None]) -> bytes:
        while True:
            try:
                return step() or b""
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(1 << 16))

    async with asyncio.timeout(50):
        await until_it_can(tls.do_handshake)
        # One write: the client's Finished, and all that it has to say.
        tls.write(MESSAGE + b"QUIT\r\n")
        writer.write(outgoing.read())
        said = b""
        while b"221 " not in said:
            said += await until_it_can(lambda: tls.read(1 << 16))
    writer.close()
    await writer.wait_closed()
    assert said.startswith(b"220 ")
    assert leg.relay.delivered[0].content == b"hello\r\n"


@pytest.mark.fault("A31")
@pytest.mark.parametrize("pipelined", [MESSAGE + b"QUIT\r\n", b"EHLO evil\r\nMAIL FROM:<ev", b"NOOP\r\n" * 2000])
async def test_commands_injected_behind_starttls(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, pipelined: bytes
) -> None:
    leg = await start_leg(tls=server_tls, verifier=anybody)
    before = b"EHLO evil\r\nAUTH PLAIN AGV2aWwAZXZpbA==\r\n"

    def attack() -> bytes:
        with socket.create_connection(leg.address, timeout=50) as plain:
            plain.sendall(before + b"STARTTLS\r\n" + pipelined)
            greeting = b""
            while b"220 2.0.0 Begin TLS\r\n" not in greeting:
                greeting += plain.recv(1000)
            assert greeting.endswith(b"220 2.0.0 Begin TLS\r\n")
            with client_tls.wrap_socket(plain, server_hostname="localhost") as client:
                # The EHLO and the login of before are forgotten too.
                client.sendall(b"MAIL FROM:<x@y>\r\nRCPT TO:<x@y>\r\nHELO x\r\nAUTH PLAIN AHUAcA==\r\nQUIT\r\n")
                return b"".join(iter(lambda: client.recv(1000), b""))

    replies = await asyncio.to_thread(attack)
    assert [line[:3] for line in replies.splitlines()] == [b"503", b"503", b"250", b"235", b"221"]
    assert leg.relay.delivered == []
    assert leg.relay.entered == 0


@pytest.mark.fault("A31")
async def test_who_logged_in_before_starttls_is_nobody_behind_it(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    leg = await start_leg(tls=server_tls, verifier=anybody, logins_proven=True)

    def session() -> None:
        with smtplib.SMTP(*leg.address, timeout=50) as client:
            client._host = "localhost"  # type: ignore[attr-defined]
            client.login("evil", "secret")
            client.starttls(context=client_tls)
            client.sendmail("a@example.com", ["b@example.com"], b"Subject: x\r\n\r\n")

    await asyncio.to_thread(session)
    assert [message.client.login for message in leg.relay.delivered] == [""]


@pytest.mark.fault("A31")
async def test_what_is_still_on_its_way_is_no_command_either(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends
) -> None:
    # More than is read at a time: the rest reaches the handshake, and is no TLS.
    leg = await start_leg(tls=server_tls)
    with suppress(ConnectionError):
        await leg.exchange(b"STARTTLS\r\n" + b"NOOP\r\n" * 100_000, half_close=False)
    await until(ends)
    assert ends()[-1]["verdict"] == "no TLS: the client did not speak TLS"


@WAYS
async def test_a_handler_can_tell(
    start_leg: StartLeg,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    connect: Callable[[Leg, ssl.SSLContext], smtplib.SMTP],
) -> None:
    # By the attributes that aiosmtpd has for it.
    leg = await start_leg(tls=server_tls, verifier=anybody)
    seen: list[tuple[bool, bool, bool]] = []

    def look() -> None:
        (connection,) = leg.server._connections
        session = connection.session
        seen.append((session.ssl is not None, bool(session.extended_smtp), bool(session.authenticated)))

    def session() -> None:
        with connect(leg, client_tls) as client:
            # Answered means that the server's side of the handshake is over too.
            client.noop()
            look()
            client.login("scanner", "secret")
            look()

    await asyncio.to_thread(session)
    assert seen == [(True, False, False), (True, True, True)]


@WAYS
async def test_the_end_of_tls_is_said(
    start_leg: StartLeg,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    connect: Callable[[Leg, ssl.SSLContext], smtplib.SMTP],
) -> None:
    # An end without close_notify is what an attacker makes who cuts a session off; careful clients raise then.
    leg = await start_leg(tls=server_tls)

    def session() -> bytes:
        client = connect(leg, client_tls)
        assert isinstance(client.sock, ssl.SSLSocket)
        with client.sock as sock:
            sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
            sock.sendall(b"QUIT\r\n")
            return b"".join(iter(lambda: sock.recv(1000), b""))

    assert await asyncio.to_thread(session) == b"221 2.0.0 Bye\r\n"


@pytest.mark.quirk("aiosmtpd-32")
@pytest.mark.parametrize(
    ("octets", "verdict"),
    [
        (b"EHLO x\r\nQUIT\r\n", "no TLS: the client did not speak TLS"),
        (b"GET / HTTP/1.0\r\n\r\n", "no TLS: the client spoke HTTP"),
        (b"", "dropped: the client hung up"),
    ],
)
async def test_clients_without_tls_are_named(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends, octets: bytes, verdict: str
) -> None:
    leg = await start_leg(tls=server_tls)
    assert leg.tls_address
    with socket.create_connection(leg.tls_address, timeout=50) as client:
        client.sendall(octets)
        client.shutdown(socket.SHUT_WR)
        await until(ends)
    assert ends()[-1]["verdict"] == verdict
    assert leg.relay.entered == 0


async def test_a_client_that_refuses_our_certificate_is_named(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends, certificates: Certificates
) -> None:
    leg = await start_leg(tls=server_tls)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=certificates.other_ca_file)
        context.maximum_version = version

        def refuse(context: ssl.SSLContext = context) -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                secured(leg, context)

        before = len(ends())
        await asyncio.to_thread(refuse)
        await until(lambda count=before + 1: len(ends()) == count)  # type: ignore[misc]
        assert ends()[-1]["verdict"] == "no TLS: the client does not know the CA of our certificate"


@pytest.mark.parametrize("starttls", [False, True])
async def test_a_handshake_has_a_deadline(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends, monkeypatch: pytest.MonkeyPatch, *, starttls: bool
) -> None:
    monkeypatch.setattr(tls_handshake, "HANDSHAKE_SECONDS", 0.2)
    leg = await start_leg(tls=server_tls)
    assert leg.tls_address
    with socket.create_connection(leg.address if starttls else leg.tls_address, timeout=50) as client:
        client.sendall(b"STARTTLS\r\n" if starttls else b"\x16\x03\x01")
        await until(ends)
    assert ends()[-1]["verdict"] == "no TLS: the client did not finish the handshake in time"


@pytest.mark.parametrize("starttls", [False, True])
async def test_a_drain_does_not_wait_for_a_handshake(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends, *, starttls: bool
) -> None:
    leg = await start_leg(tls=server_tls)
    assert leg.tls_address
    with socket.create_connection(leg.address if starttls else leg.tls_address) as client:
        client.sendall(b"STARTTLS\r\n" if starttls else b"\x16")
        await until(lambda: any(session._handshaking for session in leg.server._connections))
        async with asyncio.timeout(50):
            await leg.server.drain(30)
    assert ends()[-1]["verdict"] == "drained"


async def test_a_client_that_resets_in_the_handshake(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends
) -> None:
    leg = await start_leg(tls=server_tls)
    assert leg.tls_address
    for octets in (b"", b"\x16\x03\x01"):
        with socket.create_connection(leg.tls_address) as client:
            client.sendall(octets)
            await until(lambda: any(session._handshaking for session in leg.server._connections))
            reset_when_closed(client)
        await until(lambda: not leg.server._connections)
    assert [facts["verdict"] for facts in ends()] == ["dropped: the client hung up"] * 2


@pytest.mark.parametrize("starttls", [False, True])
@pytest.mark.parametrize(("sent", "how"), LEAVING)
async def test_who_hangs_up_in_the_handshake_is_no_news(
    start_leg: StartLeg,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    ends: Ends,
    *,
    sent: str,
    how: str,
    starttls: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    leg = await start_leg(tls=server_tls)
    assert leg.tls_address
    if starttls:
        words = {"command": b"STARTTLS\r\n", "answer": b"220 2.0.0 "}
        await leave_in_the_handshake(leg.address, client_tls, sent=sent, how=how, **words)
    else:
        await leave_in_the_handshake(leg.tls_address, client_tls, sent=sent, how=how)
    await until(ends)
    (ended,) = (record for record in caplog.records if record.getMessage() == "smtp session ended")
    assert ended.levelno == logging.DEBUG
    # The shorter one where the client was gone before the session had begun.
    assert ends()[-1]["verdict"] in ("dropped: the client hung up", *(["dropped"] if sent == "nothing" else ()))


@pytest.mark.parametrize("starttls", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_farewell_that_comes_with_the_end_of_the_handshake(
    start_leg: StartLeg,
    server_tls: ssl.SSLContext,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
    ends: Ends,
    *,
    version: ssl.TLSVersion,
    starttls: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    leg = await start_leg(tls=server_tls)
    assert leg.tls_address
    context = ssl.create_default_context(cafile=certificates.ca_file)
    context.maximum_version = version
    heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(heard, said, server_hostname="localhost")
    reader, writer = await asyncio.open_connection(*(leg.address if starttls else leg.tls_address))
    try:
        async with asyncio.timeout(20):
            if starttls:
                writer.write(b"STARTTLS\r\n")
                await reader.readuntil(b"220 2.0.0 ")
                await reader.readline()
            while True:
                with suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                    break
                writer.write(said.read())
                heard.write(await reader.read(1 << 16))
            # It is said at once; what raises is that the answer isn't there, or a greeting is, which in TLS 1.2 may be.
            with suppress(ssl.SSLError):
                client.unwrap()
            writer.write(said.read())
            await until(ends)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.fault("A21")
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_leaves_before_its_message_ended(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, ends: Ends, *, reset: bool
) -> None:
    leg = await start_leg(tls=server_tls)
    async with spoken(leg, client_tls) as (reader, writer):
        writer.write(MESSAGE[:-3])
        await reader.readuntil(b"354 ")
        if reset:
            sock = writer.get_extra_info("socket")
            reset_when_closed(sock)
            writer.transport.abort()
    await until(ends)
    assert leg.relay.delivered == []
    assert leg.relay.left == 1


@pytest.mark.fault("A22")
async def test_a_client_that_leaves_behind_its_message_gets_one_delivery(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, ends: Ends
) -> None:
    leg = await start_leg(tls=server_tls)
    leg.relay.hold = asyncio.Event()
    async with spoken(leg, client_tls) as (_, writer):
        writer.write(MESSAGE)
        await leg.relay.holding.wait()
    leg.relay.hold.set()
    await until(ends)
    assert len(leg.relay.delivered) == 1
    assert "before it was told the outcome" in str(ends()[-1]["verdict"])


@pytest.mark.quirk("aiosmtpd-15")
@pytest.mark.fault("A25")
async def test_a_client_that_never_reads_is_cut_off(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, ends: Ends
) -> None:
    leg = await start_leg(tls=server_tls, idle_seconds=0.3)
    async with spoken(leg, client_tls, 4096) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"HELO x\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<b@example.com>\r\n" * 100_000)
        await until(ends)
        writer.transport.abort()
    await until(lambda: not leg.server._connections)


async def test_a_hello_that_was_read_before_the_handshake_is_not_lost(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    # uvloop may read before the session's task runs for the first time.
    leg = await start_leg(tls=server_tls)
    live, early = Connection._live, []

    async def lives_later(connection: Connection) -> str:
        await until(lambda: len(connection.incoming))
        early.append(connection.incoming.first_octet)
        return await live(connection)

    monkeypatch.setattr(Connection, "_connected", lambda connection: connection._on_begin(connection))
    monkeypatch.setattr(Connection, "_live", lives_later)
    async with spoken(leg, client_tls) as (reader, _):
        assert (await reader.readline()).startswith(b"220 ")
    assert early == [0x16]


async def test_who_has_left_before_the_handshake_is_not_waited_for(
    start_leg: StartLeg, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, ends: Ends
) -> None:
    leg = await start_leg(tls=server_tls)
    live = Connection._live

    async def lives_later(connection: Connection) -> str:
        await until(lambda: connection.incoming.ended)
        return await live(connection)

    monkeypatch.setattr(Connection, "_connected", lambda connection: connection._on_begin(connection))
    monkeypatch.setattr(Connection, "_live", lives_later)
    assert leg.tls_address
    _, writer = await asyncio.open_connection(*leg.tls_address)
    writer.close()
    await until(ends)
    assert ends()[-1]["verdict"] == "dropped: the client hung up"


async def test_what_comes_with_the_end_of_the_handshake_is_kept_and_bounded() -> None:
    class Transport(asyncio.ReadTransport):
        paused = 0

        def pause_reading(self) -> None:
            self.paused += 1

        def resume_reading(self) -> None:
            self.paused -= 1

    plain, secured = Transport(), Transport()
    incoming = Incoming(plain, lambda: None)
    incoming.feed(b"injected\r\n")
    incoming.leave()
    incoming.feed(b"NOOP\r\n" * 20_000)
    incoming.settle(secured)
    assert (plain.paused, secured.paused) == (0, 1)
    assert incoming.take() == b"NOOP\r\n" * 20_000
    with pytest.raises(TimeoutError):
        await incoming.more(asyncio.get_running_loop().time())
    assert (plain.paused, secured.paused) == (0, 0)


@counted_by_tracemalloc
async def test_idle_sessions_are_cheap(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    leg = await start_leg(tls=server_tls)
    clients: list[ssl.SSLSocket] = []

    def connect() -> None:
        for _ in range(20):
            assert leg.tls_address
            plain = socket.create_connection(leg.tls_address, timeout=50)
            clients.append(client_tls.wrap_socket(plain, server_hostname="localhost"))
            assert clients[-1].recv(1000).startswith(b"220 ")

    tracemalloc.start()
    try:
        await asyncio.to_thread(connect)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        for client in clients:
            client.close()
    # OpenSSL's own memory is not counted. With asyncio's full buffer it would be more than 256 KiB.
    assert held / len(clients) < 80 * 1024


@counted_by_tracemalloc
async def test_handshakes_that_have_only_begun_are_cheap(start_leg: StartLeg, server_tls: ssl.SSLContext) -> None:
    leg = await start_leg(tls=server_tls)
    assert leg.tls_address
    clients: list[asyncio.StreamWriter] = []
    tracemalloc.start()
    try:
        for _ in range(20):
            clients.append((await asyncio.open_connection(*leg.tls_address))[1])
            clients[-1].write(bytes.fromhex("16030100f5010000f10303"))
        await until(lambda: len(leg.server._connections) == len(clients))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        for client in clients:
            client.close()
    # Both ends are in this process. With asyncio's full buffer it would be more than 256 KiB.
    assert held / len(clients) < 120 * 1024


@pytest.mark.quirk("aiosmtpd-32")
async def test_who_is_not_admitted_costs_no_handshake(start_leg: StartLeg, server_tls: ssl.SSLContext) -> None:
    leg = await start_leg(tls=server_tls, networks=())
    assert leg.tls_address
    reader, writer = await asyncio.open_connection(*leg.tls_address)
    async with asyncio.timeout(50):
        writer.write(b"\x16\x03\x01")
        writer.write_eof()
        assert (await reader.read()).startswith(b"554 5.7.1 ")
    writer.close()
    await writer.wait_closed()


@pytest.mark.quirk("smtp-C13")
async def test_tls_on_the_plain_port_is_not_answered_with_tls(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, ends: Ends
) -> None:
    leg = await start_leg(tls=server_tls)

    def session() -> None:
        with socket.create_connection(leg.address, timeout=50) as plain:
            assert plain.recv(1000).startswith(b"220 ")
            with pytest.raises(ssl.SSLError):
                client_tls.wrap_socket(plain, server_hostname="localhost")

    await asyncio.to_thread(session)
    await until(ends)
    assert ends()[-1]["verdict"] == "spoke TLS to the plain SMTP port"
