"""TLS between the octets of a connection and those of its conversation, reading what there is at once.

Not an ``ssl.SSLSocket``: that one goes to the system twice for each TLS record, and servers write records of 4 KiB. A
large message would spend more time on the way to its octets than on them.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

__all__ = ("TLS",)

_BLOCK_OCTETS = 65_536
_FIRST_OCTETS = 1024
_WORDS = re.compile(rb"[ -~]{3}")


class TLS:
    """``receive`` puts what comes from the server into a buffer and says how much that is, 0 at the end; ``send`` sends
    all. What they raise passes through, and so do deadlines: every wait is in one of them.
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
        """What the server said in place of a handshake, if that is words."""
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
                    self._flush()  # The alert, which tells the server's operator why.
                raise
            else:
                self._flush()
                return

    def recv_into(self, buffer: Any) -> int:
        """Fill ``buffer`` with what there is, at least one octet, for which it waits; 0 at the end.

        Raises :class:`ssl.SSLError` for what isn't the server's.
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

    def sendall(self, octets: bytes) -> None:
        """Send all of it."""
        self._object.write(octets)
        self._flush()

    def _fill(self) -> bool:
        # The server may have asked for a handshake or for new keys, and wait for that itself.
        self._flush()
        octets = self._receive(self._block)
        self._incoming.write(self._block[:octets])
        if not self._first:
            self._first = bytes(self._block[:_FIRST_OCTETS][:octets])
        return octets > 0

    def _flush(self) -> None:
        if octets := self._outgoing.read():
            self._send(octets)
