"""One TCP connection, in the clear or after a TLS handshake, read only when somebody waits for it.

Not an anyio ``SocketStream``: that one reads ahead without limit while data keep coming (so a client could fill the
memory during a RETR), and stops reading as soon as a write fails (so a QUIT that has arrived already would be lost).
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import socket
import ssl
import struct
import sys
import termios
from contextlib import suppress

import anyio

from ..access import MIN_OCTETS_PER_SECOND
from ..tls import HANDSHAKE_SECONDS, failed

__all__ = (
    "HANDSHAKE_SECONDS",
    "LINGER_SECONDS",
    "RECEIVE_OCTETS",
    "TURN_OCTETS",
    "Connection",
    "Stalled",
    "handshake",
)

RECEIVE_OCTETS = 16384
"""Octets taken at a time. Commands are short, and this much of them is what a session may hold."""

TURN_OCTETS = 65536
"""After so many octets to one client other clients get their turn, also if it could take more at once."""

UNSENT_OCTETS = 65536
"""How much the system takes from us before it has sent it. Its own limit is megabytes: they would be memory for every
slow client, and look like octets that the client has read."""

LINGER_SECONDS = 1.0
"""How long a connection that we close is still read from, so that the last reply arrives."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Stalled(Exception):
    """The client took too little of what it asked for."""


class Connection:
    """Wraps an accepted socket; used by one task."""

    __slots__ = (
        *("_alarm", "_alarm_at", "_loop", "_progress_seconds", "send_failed", "_sent", "_socket", "_until", "_waiter"),
        *("_given", "_seconds_left", "_taken", "_watched"),
    )

    def __init__(self, accepted: socket.socket, progress_seconds: float) -> None:
        self._socket = accepted
        self._progress_seconds = progress_seconds
        self.send_failed = False
        """Nothing can be sent to the client any more. What it sent before may still be received."""
        self._loop = asyncio.get_running_loop()
        self._watched = False
        self._waiter: asyncio.Future[bytes] | None = None
        self._until = self._alarm_at = math.inf
        self._alarm: asyncio.TimerHandle | None = None
        self._sent = 0
        # What is left of the client's progress time; the octets handed to the system so far; and how many of them the
        # client had taken when the progress time began.
        self._seconds_left = progress_seconds
        self._given = self._taken = 0
        accepted.setblocking(False)
        with suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_OCTETS)

    async def start_tls(self, context: ssl.SSLContext) -> str:
        """Do the handshake and return the version. Raises :class:`HandshakeFailed`; the connection is closed then."""
        self._unwatch()
        secured = await handshake(self._socket, context)
        self._socket = secured
        return secured.version() or ""

    async def receive(self, until: float = math.inf) -> bytes:
        """The next octets, ``b""`` when the client has sent its last; other tasks get their turn before.

        Raises :class:`TimeoutError` when the loop's clock has passed ``until``.
        """
        self._sent = 0
        if self._loop.time() >= until:
            # A client that sends single octets without end would otherwise always be ready before the alarm.
            raise TimeoutError
        # Octets that TLS has decrypted already do not make the socket readable. And uvloop does not tell that a client
        # has reset the connection, if it was told before and the socket was not watched since then.
        if not self._watched or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            await asyncio.sleep(0)
            octets = self._take()
            if octets is not None:
                return octets
        if not self._watched:
            self._loop.add_reader(self._socket, self._on_readable)
            self._watched = True
        self._waiter = self._loop.create_future()
        self._until = until
        if until < self._alarm_at:
            self._set_alarm()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def hurry(self, until: float) -> None:
        """End a :meth:`receive` that is waiting no later than that."""
        self._until = min(self._until, until)
        if self._until < self._alarm_at:
            self._set_alarm()

    def _set_alarm(self) -> None:
        # An alarm that comes too early is set again. So one timer serves many commands, instead of one for each.
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = self._until
        self._alarm = self._loop.call_at(self._until, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() >= self._until:
            self._waiter.set_exception(TimeoutError())
        elif self._until < math.inf:
            self._set_alarm()

    def _on_readable(self) -> None:
        if self._waiter is None or self._waiter.done():
            # Commands that were sent ahead. They stay in the system's buffer, and must not wake the loop until then.
            self._unwatch()
            return
        octets = self._take()
        if octets is not None:
            self._waiter.set_result(octets)

    def _unwatch(self) -> None:
        # Not done after each command, since it costs time: most clients send the next one while we wait for it.
        if self._watched:
            self._loop.remove_reader(self._socket)
            self._watched = False

    def _take(self) -> bytes | None:
        try:
            return self._socket.recv(RECEIVE_OCTETS)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return None
        except OSError:
            return b""

    async def send(self, octets: bytes) -> None:
        """Send all, or set :attr:`send_failed`. Raises :class:`Stalled` when the client has no room and takes less than
        :data:`~legacy_email_proxy.access.MIN_OCTETS_PER_SECOND` on average over ``progress_seconds``.
        """
        rest: bytes | memoryview = octets
        while rest and not self.send_failed:
            try:
                given = self._socket.send(rest)
                self._given += given
                rest = memoryview(rest)[given:] if given < len(rest) else b""
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
                await self._writable()
            except OSError:
                self.send_failed = True
        self._sent += len(octets)
        if self._sent >= TURN_OCTETS:
            self._sent = 0
            await asyncio.sleep(0)

    async def _writable(self) -> None:
        writable = False
        while not writable:
            began = self._loop.time()
            with anyio.move_on_after(self._seconds_left):
                await anyio.wait_writable(self._socket)
                writable = True
            self._seconds_left -= self._loop.time() - began
            if self._seconds_left <= 0:
                # The system says "writable" when a third of its buffer is free, for which a slow line may need
                # minutes. What counts is what the client's system has acknowledged.
                taken = self._given - self._untaken()
                if taken - self._taken < MIN_OCTETS_PER_SECOND * self._progress_seconds:
                    raise Stalled
                self._seconds_left, self._taken = self._progress_seconds, taken

    def _untaken(self) -> int:
        """The octets sent that the client's system has not acknowledged; 0 where our own system can't tell."""
        try:
            answer = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(answer, sys.byteorder)

    async def close_gently(self) -> None:
        """Say that nothing more will come, wait a moment for the client to close, then close.

        Closing at once while octets of the client are unread would reset the connection, and the client's system would
        throw away the last reply.
        """
        with suppress(OSError, ValueError):
            if isinstance(self._socket, ssl.SSLSocket):
                # TLS's own end. Without it a client takes the close for an attack that cut the last reply off.
                self._socket.unwrap()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            until = self._loop.time() + LINGER_SECONDS
            with suppress(TimeoutError):
                while await self.receive(until):
                    pass
        self.close()

    def reset(self) -> None:
        """Close at once: what was not delivered is thrown away, here and in the system."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.close()

    def close(self) -> None:
        """Close. It may be called again."""
        self._unwatch()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm, self._alarm_at = None, math.inf
        self._socket.close()


async def handshake(accepted: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Speak TLS on ``accepted``, which must not be used any more, within a deadline.

    Raises :class:`HandshakeFailed`; the socket is closed then.
    """
    try:
        # Raises if the client has gone already. wrap_socket() would too, and leave a socket that nobody closes.
        accepted.getpeername()
        secured = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
    except OSError as error:
        accepted.close()
        raise failed(error, context) from None
    try:
        with anyio.fail_after(HANDSHAKE_SECONDS):
            await _shake(secured)
    except OSError as error:
        secured.close()
        raise failed(error, context) from None
    except BaseException:
        secured.close()
        raise
    return secured


async def _shake(secured: ssl.SSLSocket) -> None:
    while True:
        try:
            return secured.do_handshake()
        except ssl.SSLWantReadError:
            await anyio.wait_readable(secured)
        except ssl.SSLWantWriteError:
            await anyio.wait_writable(secured)
