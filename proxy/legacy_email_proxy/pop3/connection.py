"""One TCP connection, read only when somebody waits for it.

Not an anyio ``SocketStream``: that one reads ahead without bound while data keep coming (so a client could fill the
memory during a RETR), and gives up reading as soon as a write fails (so a QUIT that is already here would be lost).
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import sys
import termios
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint

from . import handshake

__all__ = ("LINGER_SECONDS", "RECEIVE_OCTETS", "Connection", "Stalled")

RECEIVE_OCTETS = 16384
"""Octets taken at a time. Commands are short, and this much of them is what a session may hold."""

LINGER_SECONDS = 1.0
"""How long a connection that we close is still read from, so that the last reply arrives."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Stalled(Exception):
    """The client did not take a single octet within the deadline."""


class Connection:
    """Wraps an accepted socket; used by one task."""

    __slots__ = ("_deaf", "_progress_seconds", "_socket")

    def __init__(self, accepted: socket.socket, progress_seconds: float) -> None:
        self._socket = accepted
        self._progress_seconds = progress_seconds
        self._deaf = False
        accepted.setblocking(False)
        with suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def deaf(self) -> bool:
        """The client can't be sent anything any more. What it sent before may still be received."""
        return self._deaf

    async def start_tls(self, context: ssl.SSLContext) -> str:
        """Do the handshake and return the version. Raises :class:`HandshakeFailed`; the connection is closed then."""
        secured = await handshake.handshake(self._socket, context)
        self._socket = secured
        return secured.version() or ""

    async def receive(self) -> bytes:
        """The next octets, ``b""`` when the client has sent its last."""
        while True:
            # What TLS has decrypted already doesn't make the socket readable.
            if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
                await checkpoint()
            else:
                await anyio.wait_readable(self._socket)
            try:
                return self._socket.recv(RECEIVE_OCTETS)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                continue
            except OSError:
                return b""

    async def send(self, octets: bytes) -> None:
        """Send all, or become deaf. Raises :class:`Stalled` when there is no progress for ``progress_seconds``."""
        rest = memoryview(octets)
        while rest and not self._deaf:
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
                await self._writable()
            except OSError:
                self._deaf = True
        # A client that always has room, and commands for more, would otherwise keep the loop to itself.
        await checkpoint()

    async def _writable(self) -> None:
        untaken = self._untaken()
        while True:
            with anyio.move_on_after(self._progress_seconds):
                return await anyio.wait_writable(self._socket)
            # The system says "writable" when a third of its buffer is free. A slow line may need minutes for that.
            before, untaken = untaken, self._untaken()
            if untaken >= before:
                raise Stalled

    def _untaken(self) -> int:
        """The octets that we have sent and the client's system hasn't acknowledged; 0 where ours can't tell."""
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
                # Without this farewell a TLS client takes the end for an attack that cut the last reply off.
                self._socket.unwrap()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            with anyio.move_on_after(LINGER_SECONDS):
                while await self.receive():
                    pass
        self.close()

    def reset(self) -> None:
        """Close hard: what was not delivered is thrown away, here and in the system."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.close()

    def close(self) -> None:
        """Close. It may be called again."""
        self._socket.close()
