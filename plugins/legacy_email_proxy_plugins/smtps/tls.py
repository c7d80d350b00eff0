"""TLS between the octets of a connection and those of its dialogue, without I/O.

Not asyncio's: that one takes three times as long for a reply or a command, which are what a small message consists of.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

__all__ = ("TLS",)

_RECORD_OCTETS = 16384


class TLS:
    """The client's side. What :attr:`outgoing` returns has to be sent after each call, also after one that raised."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.agreed = False
        """Whether the handshake is over, and the peer proven to be ``host``."""
        self.closed = False
        """Whether the peer has said that it will say no more."""

    @property
    def version(self) -> str:
        """Such as ``TLSv1.3``."""
        return self._object.version() or ""

    @property
    def outgoing(self) -> bytes:
        """What is to be sent; it is returned once."""
        return self._outgoing.read()

    def shake_hands(self, octets: bytes = b"") -> None:
        """Go on with the handshake, with what came. Raises :class:`ssl.SSLError`, also where it doesn't verify."""
        self._incoming.write(octets)
        with suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
            self.agreed = True

    def decrypted(self, octets: bytes = b"") -> bytes:
        """What the peer says; it may be nothing. Raises :class:`ssl.SSLError` for what isn't the peer's."""
        self._incoming.write(octets)
        pieces = []
        with suppress(ssl.SSLWantReadError):
            while self._incoming.pending or self._object.pending():
                piece = self._object.read(_RECORD_OCTETS)
                if not piece:
                    self.closed = True
                    break
                pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encrypted(self, octets: bytes) -> bytes:
        """What is to be sent, so that the peer reads ``octets``. Raises :class:`ssl.SSLError`."""
        self._object.write(octets)
        return self._outgoing.read()

    def farewell(self) -> bytes:
        """What is to be sent last: without it the peer could think that somebody has cut the connection."""
        with suppress(ssl.SSLError):
            self._object.unwrap()
        return self._outgoing.read()
