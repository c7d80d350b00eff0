"""Raw clients for both legs: two streams to a server, and the ways to leave without a word."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

SECONDS = 50.0
_CLOSE_NOTIFY = b"\x15\x03\x03\x00\x02\x01\x00"

LEAVING = (
    *(("nothing", "end"), ("part", "end"), ("hello", "end")),
    *(("nothing", "reset"), ("part", "reset"), ("hello", "reset"), ("hello", "farewell")),
)
"""What `leave_in_the_handshake` can send, and how it can leave."""


@asynccontextmanager
async def connected(
    address: tuple[str, int],
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Two streams to a server, which may be gone before the block ends."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def reset_when_closed(sock: socket.socket | TransportSocket) -> None:
    """The other side will get RST, and not the FIN that could be a half-close."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def leave_in_the_handshake(
    address: tuple[str, int],
    client_tls: ssl.SSLContext,
    *,
    sent: str,
    how: str,
    command: bytes = b"",
    answer: bytes = b"",
) -> None:
    """Connect, upgrade by ``command`` if there is one, send ``nothing``, a ``part`` of the hello or the ``hello``, and
    leave: with a ``farewell`` (close_notify), a ``reset``, or an ordinary end.
    """
    said = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        client_tls.wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost").do_handshake()
    hello = said.read()
    reader, writer = await asyncio.open_connection(*address)
    async with asyncio.timeout(SECONDS):
        if command:
            writer.write(command)
            await reader.readuntil(answer)
            await reader.readline()
        if sent != "nothing":
            writer.write(hello if sent == "hello" else hello[:50])
        if sent == "hello":
            await reader.read(1)
        if how == "farewell":
            writer.write(_CLOSE_NOTIFY)
            await reader.read()
        if how == "reset":
            sock = writer.get_extra_info("socket")
            reset_when_closed(sock)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
