"""The connections of the admin listener: how many there may be, and how long each may take.

uvicorn speaks HTTP on them, but accepts any number, and waits for ever for the rest of a request. So it is given
connections that were accepted and counted here: each from its first moment on, before its TLS handshake.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..access import Admission
from ..listeners import accept

__all__ = ("HTTPServer",)

MOST_CONNECTIONS = 32
MOST_PER_ADDRESS = 16
"""A browser has six at once and a reverse proxy as many as are asked for; the other half is for other addresses."""
HANDSHAKE_SECONDS = 30.0
REQUEST_SECONDS = 30.0
"""A connection without a request, or with half of one, is closed after this time."""
_ANSWER_SECONDS = 60.0
"""A client that has not read its answer by then is cut off."""
STREAM_SECONDS = 1800.0
"""The same for an answer that comes bit by bit while something happens."""
_KEEP_ALIVE_SECONDS = 5
_REQUEST_OCTETS = 16_384
_LEAVING_SECONDS = 2

_ANY = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
)

_log = logging.getLogger("legacy_email_proxy.admin")


class HTTPServer(uvicorn.Server):
    """Serves ``app`` on listening sockets, each with TLS or without, and closes them when it ends."""

    def __init__(self, app: ASGIApp, listeners: Sequence[tuple[socket.socket, ssl.SSLContext | None]]) -> None:
        super().__init__(_config(app))
        self._listeners = listeners
        self._admission = Admission(_ANY, MOST_CONNECTIONS, MOST_PER_ADDRESS)
        self._clients: set[asyncio.Task[None]] = set()

    def lasts(self, client: tuple[str, int]) -> None:
        """The answer that this client waits for may take long."""
        for connection in self.server_state.connections:
            if isinstance(connection, _Protocol) and connection.client == client:
                connection.lasts()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open nothing: uvicorn would accept here, without a limit."""
        self.servers = []
        self.started = True

    async def main_loop(self) -> None:
        """Accept until told to end."""
        try:
            async with asyncio.TaskGroup() as group:
                accepting = [
                    group.create_task(accept(listener, partial(self._take, tls), _log, "admin"))
                    for listener, tls in self._listeners
                ]
                await super().main_loop()
                for task in accepting:
                    task.cancel()
        finally:
            for listener, _ in self._listeners:
                listener.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers that are under way have a moment; what is left then is cut off, unfinished handshakes too."""
        await super().shutdown(sockets)
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the service."""
        yield

    def _take(self, tls: ssl.SSLContext | None, accepted: socket.socket, address: str) -> bytes | None:
        if self._admission.admit(address) is not None:
            # Before a handshake nothing can be said.
            return _BUSY if tls is None else b""
        client = asyncio.create_task(self._serve_client(tls, accepted))
        self._clients.add(client)
        client.add_done_callback(partial(self._left, address))
        return None

    def _left(self, address: str, client: asyncio.Task[None]) -> None:
        self._clients.discard(client)
        self._admission.release(address)

    async def _serve_client(self, tls: ssl.SSLContext | None, accepted: socket.socket) -> None:
        protocol = _Protocol(self.config, self.server_state, {})
        # What a client does wrong is no line of our log.
        with suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None
            )
            await protocol.lost.wait()


class _Protocol(H11Protocol):
    """One connection, and its deadlines."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.lost = asyncio.Event()
        self._timers = [
            self.loop.call_later(REQUEST_SECONDS, self._finish),
            self.loop.call_later(_ANSWER_SECONDS, transport.abort),
        ]

    def lasts(self) -> None:
        """The answer that is under way may take longer."""
        self._timers.pop().cancel()
        self._timers.append(self.loop.call_later(STREAM_SECONDS, self.transport.abort))

    def _finish(self) -> None:
        if not self.transport.is_closing():
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)
        self.lost.set()


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        # What a client does wrong is no line of our log.
        log_level="error",
        access_log=False,
        # Otherwise a header could name another address than the client's own.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LEAVING_SECONDS,
        h11_max_incomplete_event_size=_REQUEST_OCTETS,
    )
