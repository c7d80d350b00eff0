"""What only a socket, or a transport, in the test's own hands can show."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from legacy_email_proxy.contracts import Disconnected
from legacy_email_proxy_plugins.smtps import Timeouts
from legacy_email_proxy_plugins.smtps.connection import Connection, State
from legacy_email_proxy_plugins.smtps.endpoint import Encryption, Endpoint
from legacy_email_proxy_plugins.smtps.wire import Broken, Wire
from smtps.support import CONTENT, LOGGER, SHORT


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=ours)
        try:
            yield wire, theirs
        finally:
            wire.abort()
            await wire.closed()


async def test_a_reply_that_lies_unread_in_the_socket_is_seen_before_the_final_dot() -> None:
    endpoint = Endpoint("fake.test", 25, Encryption.NONE, None, None, None, 1)
    async with wired() as (wire, peer):
        connection = Connection(wire, endpoint, Timeouts(), logging.getLogger(LOGGER))
        connection.state = State.ENVELOPE

        async def content() -> AsyncIterator[bytes]:
            yield CONTENT
            # Nobody has run the event loop between this and the end of the content.
            peer.send(b"250 2.0.0 early\r\n")

        # It waits in the socket: the event loop does not run before DATA is sent.
        peer.send(b"354 go ahead\r\n")
        with pytest.raises(Disconnected, match="before the final dot: it sent, unasked, 250"):
            await connection.data(content())
        assert not peer.recv(65536).endswith(b"\r\n.\r\n")


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


async def test_a_trickle_is_progress_and_its_end_is_not() -> None:
    wire = Wire()
    transport = Trickling(12)
    wire.connection_made(transport)
    wire.pause_writing()
    start = asyncio.get_running_loop().time()
    with pytest.raises(Broken, match="it took nothing") as broken:
        await wire.drain(SHORT / 10)
    assert broken.value.timed_out
    assert transport.octets == 0
    assert asyncio.get_running_loop().time() - start > SHORT / 2
    wire.abort()
