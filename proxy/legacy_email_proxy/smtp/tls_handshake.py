"""The TLS handshake beneath a stream protocol of asyncio, as a server, with a deadline."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from typing import cast

from ..tls import HANDSHAKE_SECONDS, failed

__all__ = ("HANDSHAKE_SECONDS", "SHUTDOWN_SECONDS", "handshake")

SHUTDOWN_SECONDS = 1.0
"""How long we wait for the client's close_notify when we close. asyncio would hold the socket for 30 seconds."""

# asyncio gives each connection 256 KiB for reading, from before its handshake on. Most connections are idle, and those
# that begin a handshake and say nothing more cost their client nothing.
SSLProtocol.max_size = 1 << 15


async def handshake(
    transport: asyncio.Transport, protocol: asyncio.StreamReaderProtocol, context: ssl.SSLContext, early: bytes = b""
) -> asyncio.Transport:
    """The transport that ``protocol`` has from now on.

    Nothing is waited for before the handshake reads: whatever the protocol has received until this call was sent in
    the clear, and whatever arrives after it is TLS. ``early`` is what came before and belongs to TLS nevertheless.
    Raises :class:`~legacy_email_proxy.tls.HandshakeFailed`; the connection is closed then.
    """
    loop = asyncio.get_running_loop()
    # start_tls() reads no more from the socket before the next turn of the loop, and there this is the first.
    loop.call_soon(_feed, transport, early)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            secured = await loop.start_tls(
                transport,
                protocol,
                context,
                server_side=True,
                ssl_handshake_timeout=2 * HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
    except OSError as error:
        raise failed(error, context) from None
    if secured is None:
        # What asyncio returns where the connection was lost without an error.
        raise failed(ConnectionResetError(), context)
    return secured


def _feed(transport: asyncio.Transport, octets: bytes) -> None:
    """Give these octets to the protocol of TLS beneath ``transport``, as the event loop does."""
    # Unless the connection was lost meanwhile; uvloop's own class has the methods, and is no subclass.
    protocol = cast(asyncio.BufferedProtocol, transport.get_protocol())
    while octets and hasattr(protocol, "get_buffer"):
        room = memoryview(protocol.get_buffer(len(octets)))
        part = octets[: len(room)]
        room[: len(part)] = part
        protocol.buffer_updated(len(part))
        octets = octets[len(part) :]
