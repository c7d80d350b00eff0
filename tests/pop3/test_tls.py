"""STLS and the port with TLS from the first octet: what is announced, injected, refused, and how failures are told."""

from __future__ import annotations

import asyncio
import logging
import poplib
import socket
import ssl
from collections.abc import Callable

import pytest

from announced import POP3_GREETING
from clients import LEAVING, leave_in_the_handshake, reset_when_closed
from legacy_email_proxy.pop3 import connection
from legacy_email_proxy.pop3.options import Options
from legacy_email_proxy.pop3.requests import Reply, StartTLS
from legacy_email_proxy.pop3.session import Session
from pop3.conftest import Leg, StartLeg
from pop3.maildrops import MemoryMaildrop, Play
from realservers.certificates import Certificates
from waiting import until

Ends = Callable[[], list[dict[str, object]]]

BIG = b"S: big\r\n\r\n" + (b"y" * 998 + b"\r\n") * 5000


def mailbox() -> MemoryMaildrop:
    return MemoryMaildrop({"a": b"S: 1\r\n\r\n.one\r\n", "b": BIG}, piece_octets=100_000)


def with_stls() -> Play:
    play = Play(mailbox(), Session(Options("test", stls=True)))
    play.greet()
    return play


# Without I/O


def test_stls_is_announced_where_it_can_be_used() -> None:
    play = with_stls()
    assert b"\r\nSTLS\r\n" in play.feed(b"CAPA\r\n")
    play.feed(b"STLS\r\n")
    assert b"STLS" not in play.feed(b"CAPA\r\n")
    assert play.feed(b"STLS\r\n") == b"-ERR TLS is active already\r\n"
    play.feed(b"USER u\r\nPASS p\r\n")
    assert b"STLS" not in play.feed(b"CAPA\r\n")


def test_stls_is_for_before_the_login() -> None:
    play = with_stls()
    play.feed(b"USER u\r\nPASS p\r\n")
    assert b"STLS" not in play.feed(b"CAPA\r\n")
    assert play.feed(b"STLS\r\n") == b"-ERR STLS is not valid in the TRANSACTION state\r\n"


def test_what_was_sent_in_the_clear_is_forgotten() -> None:
    play = with_stls()
    # The user named before TLS may have been put there by somebody on the way, and so may the commands behind STLS.
    assert play.feed(b"USER evil\r\nSTLS\r\nUSER evil\r\nPASS evil\r\nDELE 1\r\nQUI") == (
        b"+OK send PASS\r\n+OK begin TLS\r\n"
    )
    assert play.feed(b"PASS p\r\n") == b"-ERR send USER first\r\n"
    assert play.opens == []


def test_stls_in_an_exchange_is_no_command() -> None:
    play = with_stls()
    # It happens to be base64, so it is taken for a user name.
    assert play.feed(b"AUTH LOGIN\r\nSTLS\r\n") == b"+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n"


def test_the_handshake_is_asked_for_after_the_reply() -> None:
    session = Session(Options("test", stls=True))
    session.receive_data(b"NOOP\r\nSTLS\r\n")
    events = [session.next_event() for _ in range(3)]
    assert [type(event) for event in events] == [Reply, Reply, StartTLS]
    with pytest.raises(RuntimeError, match="not answered"):
        session.next_event()


# Over sockets


def secured(leg: Leg, context: ssl.SSLContext) -> poplib.POP3_SSL:
    assert leg.tls_address
    return poplib.POP3_SSL("127.0.0.1", leg.tls_address[1], context=context, timeout=50)


def upgraded(leg: Leg, context: ssl.SSLContext) -> poplib.POP3:
    client = poplib.POP3(*leg.address, timeout=50)
    assert "STLS" in client.capa()
    client.stls(context=context)
    assert "STLS" not in client.capa()
    return client


@pytest.mark.parametrize("connect", [secured, upgraded])
async def test_a_whole_session(
    start_leg: StartLeg,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    ends: Ends,
    connect: Callable[[Leg, ssl.SSLContext], poplib.POP3],
) -> None:
    leg = await start_leg(mailbox(), tls=server_tls)

    def session() -> None:
        client = connect(leg, client_tls)
        client.user("u")
        client.pass_("p")
        assert client.uidl()[1] == [b"1 a", b"2 b"]
        assert client.retr(1)[1] == [b"S: 1", b"", b".one"]
        assert b"".join(line + b"\r\n" for line in client.retr(2)[1]) == BIG
        client.dele(1)
        client.quit()

    await asyncio.to_thread(session)
    await leg.ended()
    assert leg.maildrop.commits == [("a",)]
    assert (ends()[-1]["tls"], ends()[-1]["verdict"]) == ("TLSv1.3", "quit")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("receive_octets", [connection.RECEIVE_OCTETS, 100])
async def test_any_octets_in_any_records(
    start_leg: StartLeg,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    version: ssl.TLSVersion,
    receive_octets: int,
) -> None:
    monkeypatch.setattr(connection, "RECEIVE_OCTETS", receive_octets)
    # Many commands in one record, one command in many, and the end of TLS behind QUIT: each must be read.
    leg = await start_leg(mailbox(), tls=server_tls)
    assert leg.tls_address
    client_tls.maximum_version = version
    try:
        async with asyncio.timeout(20):
            place = leg.tls_address
            reader, writer = await asyncio.open_connection(*place, ssl=client_tls, server_hostname="localhost")
            for octet in b"USER u\r\nPASS p\r\n":
                writer.write(bytes([octet]))
                await writer.drain()
            writer.write(b"NOOP\r\n" * 20_000 + b"RETR 2\r\nDELE 2\r\nQUIT\r\n")
            out = await reader.read()
            writer.close()
            await writer.wait_closed()
    finally:
        client_tls.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    assert out.count(b"+OK\r\n") == 20_000
    assert BIG in out
    assert out.endswith(b"+OK goodbye\r\n")
    await leg.ended()
    assert leg.maildrop.commits == [("b",)]


async def test_records_octet_by_octet(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    leg = await start_leg(mailbox(), tls=server_tls)
    assert leg.tls_address
    heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_tls.wrap_bio(heard, said, server_hostname="localhost")
    reader, writer = await asyncio.open_connection(*leg.tls_address)

    def shaken() -> bool:
        client.do_handshake()
        return True

    async def pump(step: Callable[[], object]) -> object:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                done = None
            for octet in said.read():
                writer.write(bytes([octet]))
                # Give the server the time to read it alone.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            if done is not None:
                return done
            heard.write(await reader.read(4096))

    async with asyncio.timeout(20):
        await pump(shaken)
        assert await pump(lambda: client.read(1000)) == POP3_GREETING.encode() + b"\r\n"
        await pump(lambda: client.write(b"USER u\r\n"))
        assert await pump(lambda: client.read(1000)) == b"+OK send PASS\r\n"
    writer.close()
    await writer.wait_closed()


async def test_the_end_of_tls_is_said(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    # An end without close_notify is what an attacker makes who cuts a session off; careful clients raise then.
    leg = await start_leg(mailbox(), tls=server_tls)

    def session() -> bytes:
        assert leg.tls_address
        with (
            socket.create_connection(leg.tls_address, timeout=50) as plain,
            client_tls.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client,
        ):
            client.sendall(b"QUIT\r\n")
            return b"".join(iter(lambda: client.recv(1000), b""))

    assert (await asyncio.to_thread(session)).endswith(b"+OK goodbye\r\n")


async def test_commands_injected_behind_stls(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    leg = await start_leg(mailbox(), tls=server_tls)

    def attack() -> bytes:
        with socket.create_connection(leg.address, timeout=50) as plain:
            plain.sendall(b"STLS\r\nUSER evil\r\nPASS evil\r\nDELE 1\r\nQUIT\r\n")
            greeting = b""
            while greeting.count(b"\n") < 2:
                greeting += plain.recv(1000)
            assert greeting.endswith(b"+OK begin TLS\r\n")
            with client_tls.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(b"NOOP\r\n")
                return client.recv(1000)

    assert await asyncio.to_thread(attack) == b"-ERR NOOP is not valid in the AUTHORIZATION state\r\n"
    await leg.ended()
    assert leg.maildrop.logins == []


def old_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.ca_file)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@pytest.mark.parametrize(
    ("octets", "verdict", "reason"),
    [
        (b"USER u\r\nPASS p\r\n", "refused", "no TLS: the client did not speak TLS"),
        (b"GET / HTTP/1.0\r\n\r\n", "refused", "no TLS: the client spoke HTTP"),
        (b"", "dropped", "no TLS: the client hung up"),
    ],
)
async def test_clients_without_tls_are_named(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends, octets: bytes, verdict: str, reason: str
) -> None:
    leg = await start_leg(mailbox(), tls=server_tls)
    assert leg.tls_address
    with socket.create_connection(leg.tls_address, timeout=50) as client:
        client.sendall(octets)
        client.shutdown(socket.SHUT_WR)
        await until(lambda: bool(ends()))
    assert (ends()[-1]["verdict"], ends()[-1]["reason"]) == (verdict, reason)
    assert leg.maildrop.logins == []


async def test_a_client_that_refuses_our_certificate_is_named(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends, certificates: Certificates
) -> None:
    leg = await start_leg(mailbox(), tls=server_tls)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=certificates.other_ca_file)
        context.maximum_version = version

        def refuse(context: ssl.SSLContext = context) -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                secured(leg, context)

        await asyncio.to_thread(refuse)
        await leg.ended()
        assert "the client does not know the CA of our certificate" in str(ends()[-1]["reason"])


async def test_an_old_client_is_named(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends, certificates: Certificates
) -> None:
    leg = await start_leg(mailbox(), tls=server_tls)
    context = old_context(certificates)

    def connect() -> None:
        with pytest.raises((ssl.SSLError, OSError)):
            secured(leg, context)

    await asyncio.to_thread(connect)
    await leg.ended()
    assert ends()[-1]["reason"] == "no TLS: the client speaks no version of TLS that is allowed here, see TLS_LEGACY"


@pytest.mark.parametrize("stls", [False, True])
async def test_a_handshake_has_a_deadline(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends, monkeypatch: pytest.MonkeyPatch, *, stls: bool
) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 0.2)
    leg = await start_leg(mailbox(), tls=server_tls)
    assert leg.tls_address
    with socket.create_connection(leg.address if stls else leg.tls_address, timeout=50) as client:
        client.sendall(b"STLS\r\n" if stls else b"\x16\x03\x01")
        await until(lambda: bool(ends()))
    assert ends()[-1]["reason"] == "no TLS: the client did not finish the handshake in time"


@pytest.mark.parametrize("stls", [False, True])
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
    stls: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    leg = await start_leg(mailbox(), tls=server_tls)
    assert leg.tls_address
    if stls:
        words = {"command": b"STLS\r\n", "answer": b"+OK begin"}
        await leave_in_the_handshake(leg.address, client_tls, sent=sent, how=how, **words)
    else:
        await leave_in_the_handshake(leg.tls_address, client_tls, sent=sent, how=how)
    await until(lambda: bool(ends()))
    (ended,) = (record for record in caplog.records if record.getMessage() == "pop3 session ended")
    assert (ended.levelno, ends()[-1]["reason"]) == (logging.DEBUG, "no TLS: the client hung up")


@pytest.mark.parametrize("octets", [b"STLS\r\n", b"STLS\r\n\x16\x03\x01\x00\x05hello"])
async def test_who_resets_behind_stls_is_no_news(
    start_leg: StartLeg, server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture, ends: Ends, octets: bytes
) -> None:
    """Gone before the handshake begins, with something that was never read."""
    caplog.set_level(logging.DEBUG)
    leg = await start_leg(mailbox(), tls=server_tls)
    with socket.create_connection(leg.address, timeout=50) as client:
        client.sendall(octets)
        reset_when_closed(client)
    await until(lambda: bool(ends()))
    (ended,) = (record for record in caplog.records if record.getMessage() == "pop3 session ended")
    assert (ended.levelno, ends()[-1]["verdict"]) == (logging.DEBUG, "dropped")


async def test_a_drain_does_not_wait_for_a_handshake(
    start_leg: StartLeg, server_tls: ssl.SSLContext, ends: Ends
) -> None:
    leg = await start_leg(mailbox(), tls=server_tls)
    assert leg.tls_address
    with socket.create_connection(leg.tls_address):
        await until(lambda: leg.server.sessions == 1)
        async with asyncio.timeout(50):
            await leg.server.drain(30)
    assert ends()[-1]["verdict"] == "drained"


@pytest.mark.fault("C19")
@pytest.mark.parametrize("reset", [False, True])
async def test_a_drop_under_tls_deletes_nothing(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, ends: Ends, *, reset: bool
) -> None:
    leg = await start_leg(mailbox(), tls=server_tls)

    def drop() -> None:
        client = secured(leg, client_tls)
        client.user("u")
        client.pass_("p")
        client.dele(1)
        if reset:
            reset_when_closed(client.sock)
        client.sock.close()
        client.file.close()

    await asyncio.to_thread(drop)
    await leg.ended()
    assert leg.maildrop.commits == []
    assert ends()[-1]["verdict"] == "dropped"


async def test_a_reader_that_stopped_is_cut_off_under_tls(
    start_leg: StartLeg, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, ends: Ends
) -> None:
    leg = await start_leg(MemoryMaildrop({"b": BIG * 10}, piece_octets=1_000_000), tls=server_tls, progress_seconds=0.3)
    assert leg.tls_address
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(leg.tls_address)
    client = await asyncio.to_thread(client_tls.wrap_socket, plain, server_hostname="localhost")
    try:
        client.sendall(b"USER u\r\nPASS p\r\nRETR 1\r\n")
        await until(lambda: bool(ends()))
        assert ends()[-1]["reason"] == "the client reads too slowly or not at all"
    finally:
        client.close()


async def test_strangers_are_refused_on_the_tls_port_too(start_leg: StartLeg, server_tls: ssl.SSLContext) -> None:
    leg = await start_leg(mailbox(), tls=server_tls, networks="10.0.0.0/8")
    assert leg.tls_address
    reader, writer = await asyncio.open_connection(*leg.tls_address)
    assert await reader.read() == b"-ERR [SYS/PERM] your address may not use this server\r\n"
    writer.close()
    await writer.wait_closed()
