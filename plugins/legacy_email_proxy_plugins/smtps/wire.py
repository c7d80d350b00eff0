"""Octets to and from one backend: connecting, TLS, whole replies before a deadline, and writing with backpressure.

It knows no commands. Whatever is wrong is raised as :class:`Broken`, and the connection above says during what.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any, cast

from legacy_email_proxy.contracts import Unreachable

from .dialogue import Malformed, Reply, ReplyReader

__all__ = ("Broken", "Wire", "connect")

_WRITE_BUFFER_OCTETS = 65536
_TLS_SHUTDOWN_SECONDS = 1.0


class Broken(Exception):
    """The connection is of no use any more. ``timed_out`` tells silence from a hang-up or nonsense."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class Wire(asyncio.Protocol):
    """One TCP connection. After :class:`Broken`, only :meth:`abort` makes sense."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._ended = ""
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._arrived: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._leaving: asyncio.TimerHandle | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        self._adopt(transport)

    def data_received(self, data: bytes) -> None:
        """Nothing is read after the end: what follows nonsense can't be matched to a command."""
        if self._leaving is not None:
            self._transport_().close()
        elif not self._ended:
            try:
                self._reader.feed(data)
            except Malformed as error:
                self._end(str(error))
                self.abort()
            self._wake()

    def eof_received(self) -> None:
        """The peer will say no more; the transport is closed by returning ``None``."""
        self._end("it closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._end(f"the connection was lost: {exc}" if exc else "it closed the connection")
        if self._leaving is not None:
            self._leaving.cancel()
        if not self._lost.done():
            self._lost.set_result(None)
        self.resume_writing()

    def pause_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        if self._writable is None and not self._ended:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _adopt(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_WRITE_BUFFER_OCTETS)

    def _transport_(self) -> asyncio.Transport:
        if self._transport is None:
            raise Broken("it is not connected")
        return self._transport

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason
        self._wake()
        self.resume_writing()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    # What the connection calls.

    @property
    def unexpected(self) -> str:
        """What came, or happened, although nothing was asked for; ``""`` when all is quiet."""
        if self._reader.pending:
            return f"it sent, unasked, {self._reader}"
        return self._ended

    @property
    def address(self) -> tuple[Any, ...]:
        """Our own end: host, port, …"""
        name: tuple[Any, ...] = self._transport_().get_extra_info("sockname")
        return name

    @property
    def tls_version(self) -> str:
        """Such as ``TLSv1.3``; ``""`` in the clear."""
        tls = self._transport_().get_extra_info("ssl_object")
        return (tls.version() or "") if tls is not None else ""

    async def reply(self, seconds: float) -> Reply:
        """The next whole reply. Raises :class:`Broken` when there is none before the deadline."""
        try:
            async with asyncio.timeout(seconds):
                while (reply := self._reader.next()) is None:
                    if self._ended:
                        part = f" in the middle of a reply ({self._reader})" if self._reader.pending else ""
                        raise Broken(self._ended + part)
                    self._arrived = self._loop.create_future()
                    await self._arrived
        except TimeoutError:
            raise Broken(f"no whole reply within {seconds:g} s", timed_out=True) from None
        return reply

    async def settle(self) -> None:
        """Let the event loop read what has arrived already."""
        # Twice: the first pass only finds out which sockets are readable, and resumes us before it reads them.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def write(self, octets: bytes) -> None:
        """Send. Nothing may be pending: a reply that came before its command would be taken for the command's."""
        if unexpected := self.unexpected:
            raise Broken(unexpected)
        self._transport_().write(octets)

    async def drain(self, seconds: float) -> None:
        """Wait until little is left to be sent. Raises :class:`Broken` after ``seconds`` without any progress."""
        # A pass of the loop for each block: one huge piece must not keep every other session waiting.
        await asyncio.sleep(0)
        while (writable := self._writable) is not None:
            left = self._unsent()
            # wait, not timeout: that would cancel the future, on which resume_writing relies.
            await asyncio.wait((writable,), timeout=seconds)
            if not writable.done() and self._unsent() >= left:
                raise Broken(f"it took nothing for {seconds:g} s", timed_out=True)
        if self._ended:
            raise Broken(self._ended)

    def _unsent(self) -> int:
        return self._transport_().get_write_buffer_size()

    async def start_tls(self, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Switch to TLS and verify. Raises :class:`ssl.SSLError` or :class:`Broken`; nothing else was sent by then."""
        if unexpected := self.unexpected:
            raise Broken(unexpected)
        plain = self._transport_()
        try:
            # Reading stops before the first await in there: octets that follow the 220 in the clear end up in the
            # handshake, which they break, and never among the replies.
            transport = await self._loop.start_tls(
                plain,
                self,
                context,
                server_hostname=host,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=_TLS_SHUTDOWN_SECONDS,
            )
        except BaseException as error:
            # In a handshake asyncio keeps the loss of the connection to itself.
            plain.abort()
            self.connection_lost(None)
            if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
                timed_out = "taking longer" in str(error)
                raise Broken(str(error) or "it closed the connection", timed_out=timed_out) from None
            raise
        if transport is None:
            raise Broken("it closed the connection")
        self._adopt(transport)

    def abort(self) -> None:
        """Close now; what was not sent yet never will be."""
        self._end("we closed the connection")
        if self._transport is not None:
            self._transport.abort()

    def leave(self, octets: bytes, seconds: float) -> None:
        """Send a last command and close when anything, or nothing for ``seconds``, comes back. Does not wait."""
        if self._ended or self._leaving is not None:
            self.abort()
            return
        transport = self._transport_()
        transport.write(octets)
        self._leaving = self._loop.call_later(seconds, transport.abort)

    @property
    def gone(self) -> bool:
        """Whether the socket is closed."""
        return self._lost.done()

    async def closed(self) -> None:
        """Wait until the socket is closed."""
        await asyncio.wait((self._lost,))


async def connect(host: str, port: int, seconds: float) -> Wire:
    """Connect to the first address of ``host`` that answers. Raises :class:`Unreachable`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise Unreachable(
            f"the name {host} was not resolved within {seconds:g} s", look_at="BACKEND_SMTP_HOST"
        ) from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"the name {host} can not be resolved: {error}", look_at="BACKEND_SMTP_HOST") from None
    failures = []
    for index, (family, kind, protocol, _, address) in enumerate(found):
        # Each address gets a fair share, so that a first one that swallows everything leaves time for the others.
        until = loop.time() + (deadline - loop.time()) / (len(found) - index)
        try:
            async with asyncio.timeout_at(until):
                return await _connect_to(socket.socket(family, kind, protocol), address)
        except TimeoutError:
            failures.append(f"{address[0]}: no answer")
        except OSError as error:
            failures.append(f"{address[0]}: {os.strerror(error.errno) if error.errno else error}")
    raise Unreachable(
        f"{host} port {port} does not answer ({'; '.join(failures)})", look_at="BACKEND_SMTP_HOST, BACKEND_SMTP_PORT"
    )


async def _connect_to(plain: socket.socket, address: Any) -> Wire:
    loop = asyncio.get_running_loop()
    try:
        plain.setblocking(False)
        await loop.sock_connect(plain, address)
        _, wire = await loop.create_connection(Wire, sock=plain)
    except BaseException:
        plain.close()
        raise
    return wire
