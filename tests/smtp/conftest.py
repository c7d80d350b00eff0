"""A listening SMTP leg in front of a relay in memory, and a raw connection to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from legacy_email_proxy.access import Admission
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.rewriting import Rewriting
from legacy_email_proxy.smtp.server import SMTPServer
from legacy_email_proxy.smtp.session import SessionOptions
from smtp.relays import MemoryRelay

LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass
class Leg:
    """The listener, its address, and what stands behind it."""

    server: SMTPServer
    handler: RelayHandler
    relay: MemoryRelay
    address: tuple[str, int]

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def exchange(self, octets: bytes, *, half_close: bool = True) -> bytes:
        """Send everything at once and return all that comes back until the server closes."""
        async with self.connected() as (reader, writer):
            writer.write(octets)
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(20):
                return await reader.read()


StartLeg = Callable[..., Awaitable[Leg]]


@pytest.fixture
async def start_leg() -> AsyncIterator[StartLeg]:
    """A function that starts a leg; every one is drained at the end, and must have left every transaction by then."""
    async with AsyncExitStack() as stack:

        async def start(
            relay: MemoryRelay | None = None,
            *,
            max_octets: int = 1 << 20,
            idle_seconds: float = 20,
            networks: tuple[object, ...] = LOOPBACK,
            max_connections: int = 100,
            max_per_address: int = 100,
            hostname: str = "proxy.test",
            rewriting: Rewriting | None = None,
        ) -> Leg:
            relay = relay or MemoryRelay()
            handler = RelayHandler(relay, max_octets, rewriting)
            admission = Admission(networks, max_connections, max_per_address)  # type: ignore[arg-type]
            server = SMTPServer(handler, SessionOptions(hostname, max_octets, idle_seconds, admission))
            sock = socket.create_server(("127.0.0.1", 0))
            await server.start([sock])

            async def stop() -> None:
                await server.drain(0)
                assert relay.entered == relay.left

            stack.push_async_callback(stop)
            return Leg(server, handler, relay, sock.getsockname())

        yield start


@pytest.fixture
async def leg(start_leg: StartLeg) -> Leg:
    """A leg with ordinary settings."""
    return await start_leg()
