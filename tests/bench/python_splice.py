"""The smallest relay in Python: plain in, TLS out, and not an octet looked at. What any relay in Python costs at least.

It takes and gives the same octets as the proxy, in as many pieces, with the same event loop and the same way to do TLS.

    python python_splice.py PORT BACKEND
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from typing import cast

import anyio

from legacy_email_proxy.event_loop import loop_options

_RECORD_OCTETS = 16_384


class _End(asyncio.Protocol):
    """One side of a connection."""

    other: _End
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        # Who only looks whether the port is open has left before there is a connection to the backend.
        if hasattr(self.other, "transport"):
            self.other.transport.close()

    def give(self, octets: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(octets)


class _Backend(_End):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing)
        self.agreed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self.agreed.set_result(None)
        self.transport.write(self._outgoing.read())

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self.agreed.done():
            self._shake_hands()
        if self.agreed.done():
            while self._incoming.pending or self._object.pending():
                try:
                    self.other.give(self._object.read(_RECORD_OCTETS))
                except ssl.SSLWantReadError:
                    break

    def give(self, octets: bytes) -> None:
        self._object.write(octets)
        super().give(self._outgoing.read())


class _Device(_End):
    def __init__(self, backend: int, context: ssl.SSLContext) -> None:
        self._place = backend, context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        port, context = self._place
        loop = asyncio.get_running_loop()
        backend = _Backend(context)
        # Before the greeting comes, which may be together with the end of the handshake.
        self.other, backend.other = backend, self
        await loop.create_connection(lambda: backend, "127.0.0.1", port)
        await backend.agreed
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.other.give(data)


async def _serve(port: int, backend: int) -> None:
    # The certificate of the bench's own sink needs no look: nothing is looked at here.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Device(backend, context), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    options = loop_options(os.environ.get("EVENT_LOOP", "auto"))
    anyio.run(_serve, int(sys.argv[1]), int(sys.argv[2]), backend_options=options)
