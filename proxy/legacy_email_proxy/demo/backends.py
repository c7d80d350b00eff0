"""Starts both embedded servers with certificates of a new CA, and gives the settings with which the proxy uses them."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trustme

from .mailbox import Mailbox
from .samples import MESSAGES
from .submission import SubmissionSession

__all__ = ("HOST", "Backends", "running")

HOST = "127.0.0.1"
"""The embedded servers listen here and nowhere else; their certificate names it."""

_USER = "demo@example.org"
_CLOSING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Backends:
    """Where the embedded servers listen, and the one account that both know."""

    imap_port: int
    smtp_port: int
    user: str
    password: str
    ca_file: Path

    def variables(self) -> dict[str, str]:
        """The settings with which the proxy uses them, as a user would write them for a provider."""
        common = {"HOST": HOST, "USER": self.user, "PASS": self.password, "CA_FILE": str(self.ca_file)}
        ports = {"IMAP": self.imap_port, "SMTP": self.smtp_port}
        return {
            f"BACKEND_{leg}_{name}": value
            for leg, port in ports.items()
            for name, value in {**common, "PORT": str(port)}.items()
        }


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Backends]:
    """Both servers, with the samples in the mailbox. The CA's certificate is written into ``folder``."""
    ca = trustme.CA(organization_name="legacy-email-proxy demo")
    ca_file = folder / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    ca.issue_cert(HOST).configure_cert(tls)
    password = secrets.token_urlsafe()
    mailbox = Mailbox(_USER, password, tls)
    await mailbox.create()
    for message in MESSAGES:
        await mailbox.deliver(message)
    async with _imaps(mailbox, tls) as imap_port, _smtps(mailbox, password, tls) as smtp_port:
        yield Backends(imap_port, smtp_port, _USER, password, ca_file)


@asynccontextmanager
async def _imaps(mailbox: Mailbox, tls: ssl.SSLContext) -> AsyncIterator[int]:
    connections: set[asyncio.WriteTransport] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer.transport)
        try:
            await mailbox.serve(reader, writer)
        finally:
            connections.discard(writer.transport)

    server = await asyncio.start_server(serve, HOST, 0, ssl=tls)
    async with _open(server, connections) as port:
        yield port


@asynccontextmanager
async def _smtps(mailbox: Mailbox, password: str, tls: ssl.SSLContext) -> AsyncIterator[int]:
    connections: set[asyncio.WriteTransport] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: SubmissionSession(_USER, password, mailbox.deliver, connections), HOST, 0, ssl=tls
    )
    async with _open(server, connections) as port:
        yield port


@asynccontextmanager
async def _open(server: asyncio.Server, connections: set[asyncio.WriteTransport]) -> AsyncIterator[int]:
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in tuple(connections):
            transport.abort()
        # Not forever: a peer in the middle of its TLS handshake is not among the connections that were aborted.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await server.wait_closed()
