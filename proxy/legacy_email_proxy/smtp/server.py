"""The SMTP listener: accepts on given sockets, keeps track of its sessions, drains them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .aiosmtpd_adapter import SMTPProtocol
from .connection import Connection, SessionOptions
from .session import SMTPSession

__all__ = ("SMTPServer",)

_ABORT_SECONDS = 2.0


class SMTPServer:
    """Serves ``handler`` on bound sockets, in the running loop, until drained."""

    def __init__(self, handler: Any, options: SessionOptions) -> None:
        self._handler = handler
        self._options = options
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._draining = False

    async def start(self, sockets: Sequence[socket.socket], tls_sockets: Sequence[socket.socket] = ()) -> None:
        """Begin to accept, with TLS from the first octet on ``tls_sockets``.

        The sockets are bound; they are closed by :meth:`drain`.
        """
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(self._session, sock=sock, backlog=1024))
        for sock in tls_sockets:
            # Not with create_server(ssl=…): a handshake would be counted, limited and logged by nobody.
            self._servers.append(await loop.create_server(self._secured_session, sock=sock, backlog=1024))

    async def drain(self, grace_seconds: float) -> None:
        """Stop accepting; idle sessions get 421, sessions in a transaction may finish it; then the rest is aborted."""
        self._draining = True
        for server in self._servers:
            server.close()
        for connection in set(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._no_sessions()
        except TimeoutError:
            for connection in set(self._connections):
                connection.abort()
            # A plugin that does not let itself be cancelled must not hold the stop.
            with suppress(TimeoutError):
                async with asyncio.timeout(_ABORT_SECONDS):
                    await self._no_sessions()

    def _session(self) -> SMTPProtocol:
        return SMTPSession(self._handler, self._options, self._began, self._ended).protocol

    def _secured_session(self) -> SMTPProtocol:
        return SMTPSession(self._handler, self._options, self._began, self._ended, secured=True).protocol

    def _began(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._draining:
            # Accepted in the same turn of the loop in which the listener closed.
            connection.drain()

    def _ended(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._empty.set()

    async def _no_sessions(self) -> None:
        while self._connections:
            self._empty.clear()
            await self._empty.wait()
