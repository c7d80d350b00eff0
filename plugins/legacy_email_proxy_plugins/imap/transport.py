"""One TCP connection to the IMAP server, with or without TLS, with limits on time and on octets.

A read timeout alone is not enough: it never ends a server that sends one octet at a time, or untagged lines without
end. So every command has a deadline and a number of octets that the server may send, and every piece of a literal has a
deadline of its own.

TLS does not use ``ssl.SSLSocket``: it makes two system calls for each TLS record, and servers write records of 4 KiB.
With a large message, these calls would take more time than the message itself.
"""

from __future__ import annotations

import asyncio
import io
import math
import re
import socket as sockets
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from legacy_email_proxy.contracts import Disconnected, Unreachable, Unverified

from ..backend_settings import IMAP
from ..dial import dial
from ..tls_trouble import begins_in_the_clear, does_not_verify
from .arrival import arrival
from .responses import Fetched
from .settings import Patience

__all__ = ("HANGS_UP", "MAX_LINE_OCTETS", "PIECE_OCTETS", "TLS", "InTheClear", "Wire")

PIECE_OCTETS = 131_072
"""A literal is handed on in pieces of this size. Servers write TLS records of 4 to 16 KiB, and to change between the
threads for each record would halve the speed."""

MAX_LINE_OCTETS = 65_536
HANGS_UP = ", as servers do that have reached their limit of connections"
_BUFFER_OCTETS = 65_536
_SHOWN_OCTETS = 200
_BLOCK_OCTETS = 65_536
_RECORD_OCTETS = 16_384  # RFC 8446 §5.1: the most that a TLS record holds.
_FIRST_OCTETS = 1024
_WORDS = re.compile(rb"[ -~]{3}")


class InTheClear(Unverified):
    """The server ``said`` something without TLS where a handshake was due."""

    def __init__(self, host: str, said: bytes) -> None:
        self.said = said.partition(b"\n")[0].strip()
        shown = self.said[:_SHOWN_OCTETS].decode("ascii", "backslashreplace")
        look_at = "BACKEND_IMAP_USE_SSL, BACKEND_IMAP_USE_STARTTLS, BACKEND_IMAP_PORT"
        detail = f"no TLS with {host}: it says, in the clear: {shown}"
        super().__init__(detail, look_at=look_at, advice=begins_in_the_clear(IMAP))


class Wire:
    """One connection to the server. Only the thread that uses it may call its methods, or in its place the event loop,
    in :meth:`in_loop`; except :meth:`abort`.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._socket: sockets.socket | None = None
        self._tls: TLS | None = None
        self._reader: io.BufferedReader | None = None
        self._deadline = math.inf
        self._budget = 0
        self._timeout = 0.0
        self._received = 0
        self._consumed = 0
        self.first_line = b""
        """The first line that came: the greeting, if it is an IMAP server."""
        self._give_up: Callable[[], object] | None = None
        self._in_loop = False
        self._ahead = io.BytesIO()
        """What :meth:`take_into` has read, and the reader has not yet taken."""
        self.aborted = False

    @property
    def socket(self) -> sockets.socket:
        """The TCP connection, also when TLS is spoken over it."""
        assert self._socket is not None, "not connected"  # noqa: S101 (an order of calls that is ours to keep)
        return self._socket

    @property
    def tls_version(self) -> str:
        """Such as ``TLSv1.3``; empty without TLS."""
        return self._tls.version if self._tls is not None else ""

    # Opening

    def connect(self, host: str, port: int) -> None:
        """Connect to the first address that answers. Raises :class:`Unreachable`, or :class:`Disconnected` after
        :meth:`abort`.
        """
        # ``dial`` is asynchronous because the SMTP leg uses it too. Here it runs in an event loop of this thread.
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            dialling = loop.create_task(dial(host, port, self._left(), "BACKEND_IMAP"))
            self._give_up = lambda: loop.call_soon_threadsafe(dialling.cancel)
            # ``abort`` may have run before the line above, when there was nothing to cancel yet. So it is checked here.
            if self.aborted:
                dialling.cancel()
            try:
                connected = loop.run_until_complete(dialling)
            except asyncio.CancelledError:
                raise Disconnected("the connection was given up") from None
        self._take(connected)
        self.socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        self._read_from_socket()

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Begin TLS. Raises :class:`Unverified`, or :class:`Unreachable` if the peer hung up."""
        if self._received != self._consumed:
            # An attacker on the way could have sent them, to be taken for the server's words under TLS.
            raise Unverified("octets in the clear came behind the server's answer to STARTTLS")
        try:
            tls = TLS(self._receive, self._sendall, context, host)
            tls.do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise does_not_verify(host, error, IMAP.prefix) from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError) as error:
            detail = f"{host} hung up during the TLS handshake{HANGS_UP}"
            raise Unreachable(detail, look_at="BACKEND_IMAP_PORT, BACKEND_IMAP_MAX_CONNECTIONS") from error
        except ssl.SSLError as error:
            if said := tls.said_in_the_clear:
                raise InTheClear(host, said) from error
            detail = f"no TLS with {host}: {error.reason or error}"
            raise Unverified(detail, look_at="BACKEND_IMAP_USE_SSL, BACKEND_IMAP_PORT") from error
        except OSError as error:
            detail = f"the TLS handshake with {host} failed: {_reason(error)}"
            raise Unreachable(detail, look_at="BACKEND_IMAP_PORT") from error
        self._tls = tls
        self._read_from_socket()

    def _take(self, sock: sockets.socket) -> None:
        self._socket = sock
        # ``abort`` may have run before the line above, when there was no socket to shut down. So it is checked here.
        self._refuse_if_aborted()

    def _read_from_socket(self) -> None:
        self._timeout = 0.0
        self._reader = io.BufferedReader(_Raw(self), _BUFFER_OCTETS)

    # Limits

    def allow(self, seconds: float, octets: int) -> None:
        """Begin a command: how long it may take, and how many octets may be read outside of literals."""
        self._deadline = time.monotonic() + seconds
        self._budget = octets

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _wait_at_most(self, seconds: float) -> None:
        if self._in_loop:
            return
        # settimeout is a system call, and there are many small records: so not for a difference of less than a tenth.
        if not 0.9 * self._timeout <= seconds <= 1.1 * self._timeout:
            self._timeout = seconds
            self.socket.settimeout(seconds)

    def _refuse_if_aborted(self) -> None:
        if self.aborted:
            raise Disconnected("the connection was given up")

    # Reading and writing

    def readline(self) -> bytes:
        """One line with its line end; empty at the end of the connection. Raises :class:`Disconnected`."""
        assert self._reader is not None, "not connected"  # noqa: S101
        line = self._reader.readline(MAX_LINE_OCTETS + 1)
        if not self.first_line:
            self.first_line = line
        self._consumed += len(line)
        if len(line) > MAX_LINE_OCTETS:
            raise Disconnected(f"the server sent a line of more than {MAX_LINE_OCTETS} octets")
        self.spend(len(line))
        return line

    def skip(self, take: Callable[[bytes], int]) -> None:
        """Call ``take`` with what has arrived, as often as it returns how many octets of it to skip; 0 ends it.

        Raises :class:`Disconnected`.
        """
        assert self._reader is not None, "not connected"  # noqa: S101
        while taken := take(self._reader.peek()):
            self._reader.read(taken)
            self._consumed += taken
            self.spend(taken)

    def spend(self, octets: int) -> None:
        """Count octets that the server has sent. Raises :class:`Disconnected` if they are more than allowed."""
        self._budget -= octets
        if self._budget < 0:
            raise Disconnected("the server sends more than any answer to this command needs")

    def pieces(self, octets: int) -> Iterator[bytes]:
        """Exactly ``octets`` octets, in pieces of at most ``PIECE_OCTETS``. Raises :class:`Disconnected`."""
        assert self._reader is not None, "not connected"  # noqa: S101
        left, command_seconds = octets, self._left()
        while left:
            self._deadline = time.monotonic() + self._patience.read
            wanted = min(left, PIECE_OCTETS)
            piece = self._reader.read(wanted)
            self._consumed += len(piece)
            left -= len(piece)
            if len(piece) < wanted:
                raise Disconnected(f"the server hung up inside a literal, {left} of {octets} octets before its end")
            yield piece
        # The time for the literal, and for the client to read it, does not count as the command's.
        self._deadline = time.monotonic() + command_seconds

    def send(self, octets: bytes) -> None:
        """Send all of ``octets``. Raises :class:`Disconnected`."""
        self._refuse_if_aborted()
        try:
            self._wait_at_most(max(0.001, min(self._left(), self._patience.read)))
            (self._tls or self.socket).sendall(octets)
        except OSError as error:
            raise Disconnected(f"the connection broke while sending: {_reason(error)}") from error

    def _sendall(self, octets: bytes) -> None:
        try:
            self.socket.sendall(octets)
        except BlockingIOError as error:
            # In the event loop. It must not be taken for a read that has to wait: a part of a TLS record is gone.
            raise Disconnected("the connection takes nothing") from error

    # In the event loop

    @contextmanager
    def in_loop(self) -> Iterator[None]:
        """In this block nothing waits but :meth:`take_into`. What can not be sent or read at once is a failure: so
        little is sent that a healthy connection takes it.
        """
        self._in_loop, self._timeout = True, 0.0
        self.socket.setblocking(False)
        try:
            yield
        finally:
            self._in_loop = False

    async def take_into(self, fetched: Fetched, octets: int) -> bytes:
        """Read an answer, see :func:`.arrival.arrival`. What is returned is there for the other methods too.

        Raises :class:`Disconnected`.
        """

        def receive() -> bytes:
            self._refuse_if_aborted()
            return self.socket.recv(_BLOCK_OCTETS) if self._tls is None else self._tls.recv()

        try:
            rest = await arrival(
                self.socket, receive, fetched, octets, seconds=self._left(), silent_seconds=self._patience.read
            )
        except OSError as error:
            self._refuse_if_aborted()
            raise Disconnected(f"no answer from the server: {_reason(error)}") from error
        self._ahead = io.BytesIO(self._ahead.read() + rest)
        return rest

    def receive_into(self, buffer: Any) -> int:
        """Read what has arrived into ``buffer``; returns 0 at the end. Only for the reader. Raises
        :class:`Disconnected`.
        """
        if ahead := self._ahead.readinto(buffer):
            self._received += ahead
            return ahead
        try:
            octets = self._receive(buffer) if self._tls is None else self._tls.recv_into(buffer)
        except OSError as error:
            self._refuse_if_aborted()
            raise Disconnected(f"no answer from the server: {_reason(error)}") from error
        self._received += octets
        return octets

    def _receive(self, buffer: Any) -> int:
        # Checked before each read: a server could also send a single TLS record octet by octet.
        self._refuse_if_aborted()
        left = self._left()
        if left <= 0:
            raise Disconnected("the server's answer took too long")
        self._wait_at_most(min(left, self._patience.read))
        return self.socket.recv_into(buffer)

    # The end

    def abort(self) -> None:
        """End the connection from any thread. The thread that waits for the server fails at once."""
        self.aborted = True
        if self._give_up is not None:
            with suppress(RuntimeError):  # The loop is closed: the connection was made before.
                self._give_up()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(sockets.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. It may be called again."""
        if self._socket is not None:
            self._socket.close()


class _Raw(io.RawIOBase):
    """What :class:`io.BufferedReader` reads from. That class has fast ``readline`` and exact reads, written in C."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive_into(buffer)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class TLS:
    """The client side of TLS over two functions. ``receive`` reads into a buffer and returns the number of octets, 0 at
    the end; ``send`` sends all. All waiting is done in them: they keep the deadlines. Their exceptions pass through.
    """

    def __init__(
        self,
        receive: Callable[[memoryview], int],
        send: Callable[[bytes], None],
        context: ssl.SSLContext,
        host: str,
    ) -> None:
        self._receive = receive
        self._send = send
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._block = memoryview(bytearray(_BLOCK_OCTETS))
        self._first = b""

    @property
    def version(self) -> str:
        """Such as ``TLSv1.3``."""
        return self._object.version() or ""

    @property
    def said_in_the_clear(self) -> bytes:
        """What the server sent in place of a handshake, if that is text."""
        return self._first if _WORDS.match(self._first) else b""

    def do_handshake(self) -> None:
        """Agree with the server and verify its certificate. Raises :class:`ssl.SSLError`."""
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                if not self._fill():
                    raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer hung up") from None
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush()  # The TLS alert: it tells the server why, for its log.
                raise
            else:
                self._flush()
                return

    def recv_into(self, buffer: Any) -> int:
        """Read into ``buffer`` what has arrived; waits for at least one octet. Returns 0 at the end.

        Raises :class:`ssl.SSLError` for octets that the server's TLS did not send.
        """
        view, filled = memoryview(buffer), 0
        while filled < len(view):
            try:
                octets = cast("int", self._object.read(len(view) - filled, cast("bytearray", view[filled:])))
            except ssl.SSLWantReadError:
                if filled or not self._fill():
                    break
                continue
            if not octets:
                break
            filled += octets
        return filled

    def recv(self) -> bytes:
        """All that has arrived; ``b""`` at the end. Raises :class:`ssl.SSLWantReadError` if that is less than a record,
        and what ``receive`` raises if it can not wait.
        """
        arrived: list[bytes] = []
        open_ = self._fill()
        try:
            while octets := self._object.read(_RECORD_OCTETS):
                arrived.append(octets)
        except ssl.SSLWantReadError:
            if open_ and not arrived:
                raise
        return b"".join(arrived)

    def sendall(self, octets: bytes) -> None:
        """Send all of it."""
        self._object.write(octets)
        self._flush()

    def _fill(self) -> bool:
        # The server may have asked for new keys or another handshake step, and wait for our answer.
        self._flush()
        octets = self._receive(self._block)
        self._incoming.write(self._block[:octets])
        if not self._first:
            self._first = bytes(self._block[:_FIRST_OCTETS][:octets])
        return octets > 0

    def _flush(self) -> None:
        if octets := self._outgoing.read():
            self._send(octets)
