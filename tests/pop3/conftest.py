"""A listening POP3 leg in front of a maildrop in memory, and raw connections to it."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network

import pytest

from clients import connected
from legacy_email_proxy.access import Admission
from legacy_email_proxy.contracts import Maildrop
from legacy_email_proxy.pop3.server import Server
from pop3.maildrops import OPTIONS, MemoryMaildrop
from waiting import until


@dataclass
class Leg:
    server: Server
    maildrop: MemoryMaildrop
    address: tuple[str, int]
    task: asyncio.Task[None]
    tls_address: tuple[str, int] | None = None

    def connected(self) -> AbstractAsyncContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return connected(self.address)

    @asynccontextmanager
    async def logged_in(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with self.connected() as (reader, writer):
            writer.write(b"USER u\r\nPASS p\r\n")
            for _ in range(3):
                assert (await reader.readline()).startswith(b"+OK")
            yield reader, writer

    async def exchange(self, octets: bytes) -> bytes:
        """Send everything, say that nothing more comes, and return all that comes back until the server closes."""
        async with self.connected() as (reader, writer), asyncio.timeout(20):
            writer.write(octets)
            writer.write_eof()
            return await reader.read()

    async def ended(self) -> None:
        await until(lambda: self.server.sessions == 0)


StartLeg = Callable[..., Awaitable[Leg]]


@pytest.fixture
async def start_leg() -> AsyncIterator[StartLeg]:
    """A function that starts a leg; each is drained at the end and must have let go of everything by then."""
    legs: list[Leg] = []

    async def start(
        maildrop: Maildrop | None = None,
        *,
        max_connections: int = 1000,
        networks: str = "127.0.0.0/8",
        listener: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        **options: object,
    ) -> Leg:
        maildrop = maildrop or MemoryMaildrop()
        given = {"idle_seconds": 20, "login_delay_seconds": 0, "stls": tls is not None, **options}
        server = Server(
            maildrop,
            Admission([ip_network(networks)], max_connections, 1000),
            replace(OPTIONS, **given),  # type: ignore[arg-type]
            (lambda: tls) if tls else None,
        )
        listener = listener or socket.create_server(("127.0.0.1", 0), backlog=1000)
        secured = [socket.create_server(("127.0.0.1", 0))] if tls else []
        address, tls_address = listener.getsockname(), secured[0].getsockname() if secured else None
        task = asyncio.create_task(server.serve([listener], secured))
        leg = Leg(server, maildrop, address, task, tls_address)  # type: ignore[arg-type]
        legs.append(leg)
        # serve() has to have begun before it can be drained.
        await asyncio.sleep(0)
        return leg

    yield start
    for leg in legs:
        await leg.server.drain(0)
        await leg.task
        if isinstance(leg.maildrop, MemoryMaildrop):
            assert leg.maildrop.entered == leg.maildrop.left
            assert leg.maildrop.iterators == leg.maildrop.closed


@pytest.fixture
def ends(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, object]]]:
    """The facts of each "session ended" line so far."""

    def facts() -> list[dict[str, object]]:
        records: list[logging.LogRecord] = caplog.records
        return [vars(record)["facts"] for record in records if record.getMessage() == "pop3 session ended"]

    return facts
