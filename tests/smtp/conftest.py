"""A listening SMTP leg in front of a relay in memory, and a raw connection to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import pytest

from clients import connected
from legacy_email_proxy.access import Admission
from legacy_email_proxy.smtp.authentication import Verifier
from legacy_email_proxy.smtp.connection import SessionOptions
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.reading import Patience
from legacy_email_proxy.smtp.rewriting import Rewriting
from legacy_email_proxy.smtp.server import SMTPServer
from smtp.relays import MemoryRelay
from smtp.wire import Wire

LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass
class Leg:
    """The listener, its address, and what stands behind it."""

    server: SMTPServer
    handler: RelayHandler
    relay: MemoryRelay
    address: tuple[str, int]
    tls_address: tuple[str, int] | None = None

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        assert self.server._options.admission.admit("127.0.0.1") is None
        wire = Wire(self.server._session("127.0.0.1"))
        try:
            yield wire
        finally:
            wire.close()
            await self.server._no_sessions()

    def connected(self) -> AbstractAsyncContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return connected(self.address)

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
            progress_seconds: float = 20,
            lf_end_networks: tuple[Any, ...] = (),
            networks: tuple[object, ...] = LOOPBACK,
            max_connections: int = 100,
            max_per_address: int = 100,
            hostname: str = "proxy.test",
            rewriting: Rewriting | None = None,
            tls: ssl.SSLContext | None = None,
            verifier: Verifier | None = None,
            login_delay_seconds: float = 0,
            logins_proven: bool = False,
        ) -> Leg:
            relay = relay or MemoryRelay()
            handler = RelayHandler(relay, max_octets, rewriting, logins_proven=logins_proven)
            admission = Admission(networks, max_connections, max_per_address)  # type: ignore[arg-type]
            options = SessionOptions(
                hostname, max_octets, Patience(progress_seconds, idle_seconds), admission, lf_end_networks,
                (lambda: tls) if tls else None, verifier, login_delay_seconds,
            )  # fmt: skip
            server = SMTPServer(handler, options)
            sock = socket.create_server(("127.0.0.1", 0))
            secured = [socket.create_server(("127.0.0.1", 0))] if tls else []
            address, tls_address = sock.getsockname(), secured[0].getsockname() if secured else None
            await server.start([sock], secured)

            async def stop() -> None:
                await server.drain(0)
                assert relay.entered == relay.left

            stack.push_async_callback(stop)
            return Leg(server, handler, relay, address, tls_address)

        yield start


@pytest.fixture
async def leg(start_leg: StartLeg) -> Leg:
    """A leg with ordinary settings."""
    return await start_leg()
