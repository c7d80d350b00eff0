"""The SMTP server: admits connections, keeps track of its sessions, drains them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from .. import log
from ..access import Refusal
from ..listeners import accept
from ..replies import SMTP
from .aiosmtpd_adapter import SMTPProtocol
from .connection import Connection, SessionOptions
from .session import SMTPSession

__all__ = ("SMTPServer",)

_ABORT_SECONDS = 2.0

_log = logging.getLogger("legacy_email_proxy.smtp")


class SMTPServer:
    """Serves ``handler`` on bound sockets, in the running loop, until drained."""

    def __init__(self, handler: Any, options: SessionOptions) -> None:
        self._handler = handler
        self._options = options
        self._sockets: tuple[socket.socket, ...] = ()
        self._accepting: list[asyncio.Task[None]] = []
        self._arriving: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._draining = False

    async def start(self, sockets: Sequence[socket.socket], tls_sockets: Sequence[socket.socket] = ()) -> None:
        """Begin to accept, with TLS from the first octet on ``tls_sockets``.

        The sockets are bound; they are closed by :meth:`drain`.
        """
        self._sockets = (*sockets, *tls_sockets)
        for sock in self._sockets:
            take = partial(self._take, secured=sock in tls_sockets)
            accepting = accept(sock, take, _log, "smtp", self._options.admission.balancers)
            self._accepting.append(asyncio.create_task(accepting))

    @property
    def accepting(self) -> bool:
        """Whether all listeners take connections."""
        return not any(task.done() for task in self._accepting)

    async def drain(self, grace_seconds: float) -> None:
        """Stop accepting; idle sessions get 421, sessions in a transaction may finish it; then the rest is aborted."""
        self._draining = True
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        # An open listener would go on taking connections that nobody serves.
        for sock in self._sockets:
            sock.close()
        await asyncio.gather(*self._arriving)
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

    def _take(self, accepted: socket.socket, address: str, *, secured: bool) -> bytes | None:
        refusal = self._options.admission.admit(address)
        if refusal is not None:
            log.event(_log, logging.WARNING, "smtp connection refused", client=address, reason=refusal.value)
            reply = SMTP.NOT_ALLOWED if refusal is Refusal.NOT_ALLOWED else SMTP.TOO_MANY_CONNECTIONS
            return f"{reply}\r\n".encode()
        arriving = asyncio.create_task(self._connect(accepted, address, secured=secured))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)
        return None

    async def _connect(self, accepted: socket.socket, address: str, *, secured: bool) -> None:
        """Give the connection its session. With TLS, too, not by asyncio: nobody would limit and log the handshake."""
        try:
            protocol = self._session(address, secured=secured)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, accepted)
        except Exception as error:
            accepted.close()
            self._options.admission.release(address)
            log.failure(_log, "smtp connection lost", error, client=address)

    def _session(self, address: str, *, secured: bool = False) -> SMTPProtocol:
        ended = partial(self._ended, address)
        protocol = SMTPSession(self._handler, self._options, self._began, ended, secured=secured).protocol
        protocol.device = address
        return protocol

    def _began(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._draining:
            # Accepted in the same turn of the loop in which the listener closed.
            connection.drain()

    def _ended(self, address: str, connection: Connection) -> None:
        self._options.admission.release(address)
        self._connections.discard(connection)
        self._empty.set()

    async def _no_sessions(self) -> None:
        while self._connections:
            self._empty.clear()
            await self._empty.wait()
