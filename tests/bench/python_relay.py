"""The smallest SMTP relay in Python that leads both dialogues: a task for each device, kept connections to the backend.

What a relay costs before it has a deadline, a rule, a log or a second kind of backend. Like the proxy it sends MAIL
and RCPT in one piece, asks for 354 in advance, passes the backend's verdicts on, and gives a connection to the next
message. It takes only what a good client sends, so it is of no use but to be measured.

    python python_relay.py PORT BACKEND
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
_END = b"\r\n.\r\n"


class _Peer(asyncio.Protocol):
    """One side: what has arrived of it, and the waiting for more."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._wake()

    def send(self, octets: bytes) -> None:
        self.transport.write(octets)

    async def until(self, end: bytes) -> bytes:
        """What comes up to and with ``end``; nothing when the peer has left."""
        while (place := self._buffer.find(end)) < 0:
            if self.ended:
                return b""
            self._waiter = self._loop.create_future()
            await self._waiter
        place += len(end)
        taken, self._buffer = self._buffer[:place], self._buffer[place:]
        return taken

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Backend(_Peer):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing)
        self._agreed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self._agreed:
            self._shake_hands()
        while self._agreed and (self._incoming.pending or self._object.pending()):
            try:
                super().data_received(self._object.read(_RECORD_OCTETS))
            except ssl.SSLWantReadError:
                break

    def send(self, octets: bytes) -> None:
        self._object.write(octets)
        super().send(self._outgoing.read())

    async def reply(self) -> bytes:
        """The last line of the next reply."""
        while (line := await self.until(b"\r\n"))[3:4] == b"-":
            pass
        return line

    def _shake_hands(self) -> None:
        try:
            self._object.do_handshake()
            self._agreed = True
        except ssl.SSLWantReadError:
            pass
        self.transport.write(self._outgoing.read())


class _Relay:
    def __init__(self, backend: int) -> None:
        self._port = backend
        # The certificate of the bench's own sink needs no look.
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._idle: list[_Backend] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self) -> _Peer:
        device = _Peer()
        task = asyncio.ensure_future(self._serve(device))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return device

    async def _serve(self, device: _Peer) -> None:
        await asyncio.sleep(0)  # until it is connected
        device.send(b"220 relay\r\n")
        sender = b""
        backend: _Backend | None = None
        while command := await device.until(b"\r\n"):
            verb = command[:4].upper()
            if verb == b"MAIL":
                sender = command
                backend = self._idle.pop() if self._idle else await self._connect()
                device.send(b"250 OK\r\n")
            elif verb == b"RCPT" and backend is not None:
                backend.send(sender + command)
                mail, rcpt = await backend.reply(), await backend.reply()
                device.send(rcpt if mail.startswith(b"2") else mail)
            elif verb == b"DATA" and backend is not None:
                backend.send(command)
                device.send(b"354 go on\r\n")
                content = await device.until(_END)
                if (await backend.reply()).startswith(b"354"):
                    backend.send(content)
                    device.send(await backend.reply())
                self._idle.append(backend)
                backend = None
            else:
                device.send(b"250 OK\r\n")
        device.transport.close()

    async def _connect(self) -> _Backend:
        loop = asyncio.get_running_loop()
        _, backend = await loop.create_connection(lambda: _Backend(self._context), "127.0.0.1", self._port)
        await backend.reply()
        backend.send(b"EHLO relay\r\n")
        await backend.reply()
        return backend


async def _serve(port: int, backend: int) -> None:
    relay = _Relay(backend)
    server = await asyncio.get_running_loop().create_server(relay.accept, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    options = loop_options(os.environ.get("EVENT_LOOP", "auto"))
    anyio.run(_serve, int(sys.argv[1]), int(sys.argv[2]), backend_options=options)
