"""Clients that leave in the middle of a TLS handshake, for both legs."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from contextlib import suppress

SECONDS = 50.0
_CLOSE_NOTIFY = b"\x15\x03\x03\x00\x02\x01\x00"


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
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
