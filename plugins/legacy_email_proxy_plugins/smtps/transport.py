"""Octets to and from one backend: TLS, whole replies before a deadline, and writing with backpressure.

This module knows no commands. Every fault is raised as :class:`Broken`; ``connection`` adds in which step it happened.

Commands may be sent before the replies to earlier ones arrive, so only counting tells which reply answers which
command. Four rules keep the count right; if one is broken, the connection ends and no reply counts as a verdict:

1. Every write says how many replies it asks for.
2. Before a write, nothing may have come beyond the replies asked for until then, not even half a line.
3. When a reply is taken, no further reply may have come beyond those that are owed, except a 421.
4. What makes the backend deliver a message, an end-of-data or a last chunk, is written only while no reply is owed, and
   after :meth:`Wire.settle` has read what had arrived. The next reply is then the verdict on the message.

TLS is done here without I/O, between the octets of the connection and those of the dialogue. It is not asyncio's TLS,
which takes three times as long for a reply or a command, and a small message is mostly replies and commands.
"""

from __future__ import annotations

import asyncio
import math
import select
import ssl
from contextlib import suppress
from typing import Any, cast

from .protocol import UNASKED, Malformed, Reply, ReplyReader

__all__ = ("TLS", "Broken", "Wire")

_WRITE_BUFFER_OCTETS = 65536
_SAID_OCTETS = 512
_RECORD_OCTETS = 16384


class Broken(Exception):
    """The connection can not be used any more. ``timed_out``: the backend was silent or too slow.

    ``said`` is what the backend sent instead, whole and unchanged: it may hold a secret, so it must not be logged
    before that is removed.
    """

    def __init__(self, reason: str, said: str = "", *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.said = said
        self.timed_out = timed_out


class TLS:
    """The client's side of TLS. After each call, also one that raised, send what :attr:`outgoing` returns."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.agreed = False
        """Whether the handshake is over, and the peer proven to be ``host``."""
        self.closed = False
        """Whether the peer has announced that it sends nothing more."""

    @property
    def version(self) -> str:
        """Such as ``TLSv1.3``."""
        return self._object.version() or ""

    @property
    def outgoing(self) -> bytes:
        """The octets to send; they are returned only once."""
        return self._outgoing.read()

    def shake_hands(self, octets: bytes = b"") -> None:
        """Go on with the handshake. Raises :class:`ssl.SSLError`, also if the certificate doesn't verify."""
        self._incoming.write(octets)
        with suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
            self.agreed = True

    def decrypted(self, octets: bytes = b"") -> bytes:
        """What the peer sent, decrypted; may be empty. Raises :class:`ssl.SSLError` for octets not from the peer."""
        self._incoming.write(octets)
        pieces = []
        try:
            while self._incoming.pending or self._object.pending():
                piece = self._object.read(_RECORD_OCTETS)
                if not piece:
                    self.closed = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # The rest of a record is still to come.
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encrypted(self, octets: bytes) -> bytes:
        """``octets`` encrypted, to be sent. Raises :class:`ssl.SSLError`."""
        self._object.write(octets)
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """The octets to send last: without them the peer could think that an attacker has cut the connection."""
        with suppress(ssl.SSLError):
            self._object.unwrap()
        return self._outgoing.read()


class Wire(asyncio.Protocol):
    """One TCP connection; its first reply is the greeting. After :class:`Broken`, only :meth:`abort` may be called."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._tls: TLS | None = None
        self._agreed: asyncio.Future[None] | None = None
        self._hello = b""
        self._reader = ReplyReader()
        self._reader.ask(1)
        self._ended = ""
        self._said = ""
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._arrived: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._leaving: asyncio.TimerHandle | None = None
        # One timer for the whole connection, set again when it fires: a timer for each reply costs more than the reply.
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._deadline = math.inf
        self._overdue = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_WRITE_BUFFER_OCTETS)
        if (peer := transport.get_extra_info("socket")) is not None:
            self._poll = select.poll()
            self._poll.register(peer.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        tls = self._tls
        if tls is None:
            self._take(data)
            return
        if tls.agreed:
            self._take(self._decrypted(tls, data))
        else:
            self._shake_hands(tls, data)
        if tls.closed:
            self.eof_received()
            self._close()

    def _take(self, data: bytes) -> None:
        """Read replies, unless the connection has ended: after an invalid reply none can be matched to a command."""
        if not data:
            return
        if self._leaving is not None:
            self._close()
        elif not self._ended:
            try:
                self._reader.feed(data)
            except Malformed as error:
                self._nonsense(error)
            self._wake()

    def eof_received(self) -> None:
        """The peer sends nothing more; returning ``None`` closes the transport."""
        self._end("it closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._end(f"the connection was lost: {exc}" if exc else "it closed the connection")
        for timer in (self._leaving, self._alarm):
            if timer is not None:
                timer.cancel()
        if self._agreed is not None and not self._agreed.done():
            self._agreed.set_exception(Broken(self._ended))
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

    def _transport_(self) -> asyncio.Transport:
        if self._transport is None:
            raise Broken("it is not connected")
        return self._transport

    def _end(self, reason: str, said: str = "") -> None:
        if not self._ended:
            self._ended, self._said = reason, said
        self._wake()
        self.resume_writing()

    def _nonsense(self, error: Malformed) -> None:
        # Earlier replies are dropped as well: it is unknown which commands they answer.
        self._reader = ReplyReader()
        self._end(str(error), error.said)
        self.abort()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _ring(self) -> None:
        self._rings_at = math.inf
        if self._deadline <= self._loop.time():
            self._overdue = True
            self._wake()
        elif self._deadline < math.inf:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = self._deadline
        self._alarm = self._loop.call_at(self._deadline, self._ring)

    # What the connection calls.

    @property
    def owed(self) -> int:
        """How many replies were asked for and not taken yet."""
        return self._reader.owed

    @property
    def arrived(self) -> bool:
        """Whether :meth:`reply` would not have to wait."""
        return self._reader.arrived

    @property
    def fault(self) -> Broken | None:
        """Why the connection can not be used: something came unasked, or it has ended; ``None`` if all is well."""
        if said := self._reader.unasked:
            return Broken(UNASKED, said)
        if self._ended:
            return Broken(self._ended, self._said)
        return None

    @property
    def address(self) -> tuple[Any, ...]:
        """Our own address: host, port, …"""
        name: tuple[Any, ...] = self._transport_().get_extra_info("sockname")
        return name

    @property
    def tls_version(self) -> str:
        """Such as ``TLSv1.3``; ``""`` without TLS."""
        return self._tls.version if self._tls is not None else ""

    @property
    def said_in_clear(self) -> str:
        """What came first in place of the handshake; if the handshake failed, it may be readable text."""
        return self._hello.decode("utf-8", "replace")

    async def reply(self, seconds: float) -> Reply:
        """The reply to the oldest command. Raises :class:`Broken` if it is not complete before the deadline."""
        reply = self._next()
        if reply is not None:
            return reply
        self._deadline = self._loop.time() + seconds
        if self._rings_at > self._deadline:
            self._set_alarm()
        try:
            while reply is None:
                if self._ended:
                    if part := self._reader.part:
                        raise Broken(f"{self._ended} in the middle of a reply", part)
                    raise Broken(self._ended, self._said)
                if self._overdue:
                    raise Broken(f"no whole reply within {seconds:g} s", self._reader.part, timed_out=True)
                self._arrived = self._loop.create_future()
                await self._arrived
                reply = self._next()
        finally:
            self._deadline, self._overdue = math.inf, False
        return reply

    def _next(self) -> Reply | None:
        try:
            return self._reader.next()
        except Malformed as error:
            self._nonsense(error)
            return None

    async def settle(self) -> None:
        """Let the event loop read what has arrived already."""
        if self._poll is None or self._poll.poll(0):
            # Twice: the first pass only finds the readable sockets, and this task goes on before they are read.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def write(self, octets: bytes, replies: int) -> None:
        """Send commands that ask for so many replies, or content that asks for none. Raises :class:`Broken`."""
        if fault := self.fault:
            raise fault
        self._reader.ask(replies)
        self._send(octets)

    def _send(self, octets: bytes) -> None:
        if self._tls is not None:
            try:
                octets = self._tls.encrypted(octets)
            except ssl.SSLError as error:
                self._end(f"the connection was lost: {error}")
                self.abort()
                raise Broken(self._ended) from None
        self._transport_().write(octets)

    async def drain(self, seconds: float, at_most: float) -> float:
        """Wait until little is left to be sent; returns for how many seconds it waited.

        Raises :class:`Broken` after ``seconds`` without any progress, or after ``at_most`` seconds in all.
        """
        # The loop runs other tasks after each block: one huge piece must not keep every other session waiting.
        await asyncio.sleep(0)
        if self._writable is None and not self._ended:
            return 0.0
        began = self._loop.time()
        until = began + at_most
        while (writable := self._writable) is not None:
            left = self._unsent()
            # wait, not timeout: a timeout would cancel the future, on which resume_writing relies.
            await asyncio.wait((writable,), timeout=min(seconds, max(0.0, until - self._loop.time())))
            if writable.done():
                continue
            if self._loop.time() >= until:
                raise Broken("it takes the content too slowly", timed_out=True)
            if self._unsent() >= left:
                raise Broken(f"it took nothing for {seconds:g} s", timed_out=True)
        if self._ended:
            raise Broken(self._ended, self._said)
        return self._loop.time() - began

    def _unsent(self) -> int:
        return self._transport_().get_write_buffer_size()

    async def start_tls(self, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Switch to TLS and verify. Raises :class:`ssl.SSLError` or :class:`Broken`; then nothing else was sent."""
        if self._reader.arrived or self._reader.part:
            # Some event loops read before the connecting task goes on. These octets would mix with those of TLS.
            reply = self._next()
            self._hello = (reply.whole if reply is not None else self._reader.part).encode()
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "it spoke in the clear before TLS")
        if fault := self.fault:
            raise fault
        # From here on what arrives belongs to the handshake: clear octets after the 220 make it fail, and never count
        # as replies.
        self._tls = tls = TLS(context, host)
        self._agreed = self._loop.create_future()
        self._shake_hands(tls, b"")
        try:
            async with asyncio.timeout(seconds):
                await self._agreed
        except BaseException as error:
            self.abort()
            if isinstance(error, TimeoutError):
                raise Broken(f"it is taking longer than {seconds:g} s", timed_out=True) from None
            raise

    def _shake_hands(self, tls: TLS, octets: bytes) -> None:
        assert self._agreed is not None  # noqa: S101 (for the type checker)
        error = None
        self._hello = self._hello or octets[:_SAID_OCTETS]
        try:
            tls.shake_hands(octets)
        except ssl.SSLError as failed:
            error = failed
        # Sent also after an error: it then holds the alert that tells the peer's operator the reason.
        self._transport_().write(tls.outgoing)
        if self._agreed.done():
            return
        if error is not None:
            self._agreed.set_exception(error)
        elif tls.agreed:
            self._agreed.set_result(None)
            self._take(self._decrypted(tls, b""))

    def _decrypted(self, tls: TLS, octets: bytes) -> bytes:
        try:
            said = tls.decrypted(octets)
        except ssl.SSLError as error:
            self._end(f"the connection was lost: {error}")
            self.abort()
            return b""
        if answer := tls.outgoing:  # it asked for new keys
            self._transport_().write(answer)
        return said

    def abort(self) -> None:
        """Close now; what was not sent yet is dropped."""
        self._end("we closed the connection")
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        """Close after everything has been sent."""
        transport = self._transport_()
        if self._tls is not None and not transport.is_closing():
            transport.write(self._tls.farewell())
        transport.close()

    def leave(self, octets: bytes, seconds: float) -> None:
        """Send a last command; close when any reply comes, or after ``seconds``. Does not wait for that."""
        if self._ended or self._leaving is not None:
            self.abort()
            return
        try:
            self._send(octets)
        except Broken:
            return
        self._leaving = self._loop.call_later(seconds, self._transport_().abort)

    @property
    def gone(self) -> bool:
        """Whether the socket is closed."""
        return self._lost.done()

    async def closed(self) -> None:
        """Wait until the socket is closed."""
        await asyncio.wait((self._lost,))
