"""The server's end of one TCP connection for a fake: reads when asked to only, can start TLS at any time, can reset."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from clients import reset_when_closed

__all__ = ("Gone", "Stream")


class Gone(Exception):
    """The peer, or the connection, is gone."""


class Stream(asyncio.Protocol):
    """Nothing is read unless somebody waits in `read`, so that the peer feels it and a handshake stays whole."""

    def __init__(self, connected: Callable[[Stream], None]) -> None:
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._ended = False
        self._starting_tls = False
        self._arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()
        self._connected(self)

    def data_received(self, data: bytes) -> None:
        self._held += data
        self._arrived.set()
        # The first octets inside TLS may come before start_tls has told us its transport.
        if not self._starting_tls:
            self.transport.pause_reading()

    def eof_received(self) -> None:
        self._ended = True
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof_received()

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    async def read(self) -> bytes:
        """What has arrived, at least one octet. Raises `Gone` at the end."""
        while not self._held:
            if self._ended:
                raise Gone
            self._arrived.clear()
            self.transport.resume_reading()
            await self._arrived.wait()
        octets = bytes(self._held)
        self._held.clear()
        return octets

    def write(self, octets: bytes) -> None:
        if self._ended or self.transport.is_closing():
            raise Gone
        self.transport.write(octets)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Raises `Gone` when the handshake fails, as it does when the client doesn't trust us."""
        self._starting_tls = True
        # uvloop reads although it was told in connection_made not to.
        early = bytes(self._held)
        self._held.clear()
        self._loop.call_soon(self._feed, self.transport, early)
        try:
            transport = await self._loop.start_tls(self.transport, self, context, server_side=True)
        except OSError:  # ssl.SSLError is one
            self.connection_lost(None)
            raise Gone from None
        if transport is None:
            raise Gone
        self._transport = transport
        self._starting_tls = False

    @staticmethod
    def _feed(transport: asyncio.Transport, octets: bytes) -> None:
        protocol = cast(asyncio.BufferedProtocol, transport.get_protocol())
        if octets and hasattr(protocol, "get_buffer"):
            memoryview(protocol.get_buffer(len(octets)))[: len(octets)] = octets
            protocol.buffer_updated(len(octets))

    async def gone(self) -> None:
        """Wait until the peer is gone; what it sends is thrown away."""
        with suppress(Gone):
            while True:
                await self.read()

    def drop(self) -> None:
        """Close at once, after trying to send what was written."""
        self.transport.abort()

    def reset(self) -> None:
        """Close with a TCP reset."""
        tcp = self.transport.get_extra_info("socket")
        reset_when_closed(tcp)
        self.transport.abort()
