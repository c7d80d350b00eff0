"""What only a socket, or a transport, in the test's own hands can show."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from legacy_email_proxy.contracts import Disconnected
from legacy_email_proxy_plugins.backend_settings import Encryption
from legacy_email_proxy_plugins.smtps import Timeouts
from legacy_email_proxy_plugins.smtps.connection import Connection, State
from legacy_email_proxy_plugins.smtps.settings import Chunking, Endpoint
from legacy_email_proxy_plugins.smtps.transaction import Pace, Replayable, send_chunks, send_data
from legacy_email_proxy_plugins.smtps.transport import Broken, Wire
from smtps.support import BLOCKS, CONTENT, LOGGER, SHORT


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=ours)
        theirs.send(b"220 hello\r\n")
        await wire.reply(SHORT)
        try:
            yield wire, theirs
        finally:
            wire.abort()
            await wire.closed()


@pytest.mark.fault("B13")
@pytest.mark.parametrize("chunks", [False, True])
async def test_a_reply_that_lies_unread_in_the_socket_is_seen_before_the_end_is_sent(chunks: bool) -> None:
    endpoint = Endpoint("fake.test", 25, Encryption.NONE, None, None, None, 1, None, Chunking(True, proven=True))
    async with wired() as (wire, peer):
        connection = Connection(wire, endpoint, Timeouts(), logging.getLogger(LOGGER))
        connection.state = State.ENVELOPE

        async def content() -> AsyncIterator[bytes]:
            yield CONTENT if chunks else BLOCKS
            # Nobody has run the event loop between this and the end of the content.
            peer.send(b"250 2.0.0 early\r\n")

        if not chunks:
            # It waits in the socket: the event loop does not run before DATA is sent.
            peer.send(b"354 go ahead\r\n")
        given = Replayable(content())
        with pytest.raises(Disconnected, match=r"before the (final dot|last chunk): it sent, unasked: 250"):
            await (send_chunks(connection, given) if chunks else send_data(connection, given, None))
        await connection.closed()
        came = b""
        with suppress(ConnectionResetError):  # it was closed with something left to read
            while octets := peer.recv(65536):
                came += octets
        assert not came.endswith(b"\r\n.\r\n")
        assert b"LAST" not in came


class Trickling(asyncio.Transport):
    """Takes an octet now and then, and so never gets below the mark at which asyncio says that it is writable again."""

    def __init__(self, octets: int) -> None:
        super().__init__()
        self.octets = octets

    def get_write_buffer_size(self) -> int:
        self.octets = max(0, self.octets - 1)
        return self.octets

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        pass


@pytest.mark.fault("B15")
async def test_a_trickle_is_given_up_when_it_takes_too_long() -> None:
    wire = Wire()
    transport = Trickling(1_000_000)
    wire.connection_made(transport)
    wire.pause_writing()
    with pytest.raises(Broken, match="too slowly") as broken:
        await wire.drain(SHORT / 10, SHORT)
    assert broken.value.timed_out
    wire.abort()


async def test_what_was_sent_buys_time_and_waiting_spends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[float] = []

    async def drain(_: Wire, seconds: float, at_most: float) -> float:
        assert seconds == 180
        granted.append(at_most)
        return 70.0

    monkeypatch.setattr(Wire, "drain", drain)
    endpoint = Endpoint("fake.test", 25, Encryption.NONE, None, None, None, 1, None, Chunking(True))
    async with wired() as (wire, _):
        connection = Connection(wire, endpoint, Timeouts(), logging.getLogger(LOGGER))
        pace = Pace(connection)
        for _ in range(3):
            await pace.write(b"x" * 50_000, 0, "")
    assert granted == [180 + 50, 180 + 100 - 70, 180 + 150 - 140]


async def test_one_alarm_keeps_all_deadlines() -> None:
    async with wired() as (wire, peer):
        for seconds in (30, 20, 0.05, 30):
            wire.write(b"NOOP\r\n", 1)
            if seconds < 1:
                peer.send(b"250-not the end of it\r\n")
                with pytest.raises(Broken, match=r"no whole reply within 0\.05 s") as broken:
                    await wire.reply(seconds)
                assert broken.value.timed_out
                peer.send(b"250 at last\r\n")
            else:
                peer.send(b"250 OK\r\n")
            if seconds > 1:
                assert (await wire.reply(seconds)).code == 250


async def test_a_trickle_is_progress_and_its_end_is_not() -> None:
    wire = Wire()
    transport = Trickling(12)
    wire.connection_made(transport)
    wire.pause_writing()
    start = asyncio.get_running_loop().time()
    with pytest.raises(Broken, match="it took nothing") as broken:
        await wire.drain(SHORT / 10, 60)
    assert broken.value.timed_out
    assert transport.octets == 0
    assert asyncio.get_running_loop().time() - start > SHORT / 2
    wire.abort()


@pytest.mark.parametrize("said", [b"220 hello\r\n", b"220-hello\r\n", b"2"])
async def test_what_came_in_the_clear_is_no_beginning_of_what_comes_in_tls(said: bytes) -> None:
    """It may be read before we get to start TLS; somebody on the way could put words in front of the backend's."""
    ours, theirs = socket.socketpair()
    with theirs:
        _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=ours)
        wire.data_received(said)
        with pytest.raises(ssl.SSLError, match="in the clear"):
            await wire.start_tls(ssl.create_default_context(), "localhost", 5)
        wire.abort()
        await wire.closed()
        assert theirs.recv(1) == b"", "nothing was sent"


@pytest.mark.parametrize("said", [b"421 too many connections\r\n", b"421 too"])
async def test_what_was_said_in_the_clear_before_tls_is_known_even_when_it_came_first(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=ours)
        theirs.send(said)
    await wire.closed()
    with pytest.raises(ssl.SSLError):
        await wire.start_tls(ssl.create_default_context(), "fake.test", 1)
    assert wire.said_in_clear.startswith("421 too")
