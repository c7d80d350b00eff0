"""The smallest SMTP relay in Python that leads both dialogues: a task for each device, kept connections to the backend.

What a relay costs before it has a deadline, a rule, a log or a second kind of backend. Like the proxy it sends MAIL
and RCPT in one piece, asks for 354 in advance, passes the backend's verdicts on, and gives a connection to the next
message. It takes only what a good client sends, so it is of no use but to be measured.

With `parsing`, every line and octet goes through the proxy's own parsers and encoders as well. What the proxy costs
beyond that is what makes it a service: deadlines, limits, the sharing of the backend's connections, the contracts with
plugins, the history, and what it does when something goes wrong.

    python python_relay.py PORT BACKEND [parsing]
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from typing import cast

import anyio

from legacy_email_proxy.contracts import Client
from legacy_email_proxy.event_loop import loop_options
from legacy_email_proxy.replies import SMTP
from legacy_email_proxy.smtp.arguments import forward_path, parted, reverse_path
from legacy_email_proxy.smtp.content import DataDecoder
from legacy_email_proxy.smtp.headers import HeaderOptions, HeaderReader, loops, own_lines
from legacy_email_proxy.smtp.signatures import Signatures
from legacy_email_proxy_plugins.smtps.protocol import (
    ContentEncoder,
    Extensions,
    Reply,
    ReplyReader,
    command,
    mail_command,
    rcpt_command,
)

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

    async def some(self) -> bytes:
        """What has arrived, at least one octet."""
        while not self._buffer:
            if self.ended:
                raise ConnectionError("it left in the middle of a message")
            self._waiter = self._loop.create_future()
            await self._waiter
        taken, self._buffer = self._buffer, b""
        return taken

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
                self.taken(self._object.read(_RECORD_OCTETS))
            except ssl.SSLWantReadError:
                break

    def taken(self, data: bytes) -> None:
        """What came inside TLS."""
        super().data_received(data)

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
    backend = _Backend

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
        _, backend = await loop.create_connection(lambda: self.backend(self._context), "127.0.0.1", self._port)
        await backend.reply()
        backend.send(b"EHLO relay\r\n")
        await backend.reply()
        return backend


class _ReadBackend(_Backend):
    """One whose replies are read by the proxy's reader."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context)
        self._reader = ReplyReader()

    def taken(self, data: bytes) -> None:
        self._reader.feed(data)
        self._wake()

    async def reply(self) -> bytes:
        self._reader.ask(1)
        return str((await self.next()).code).encode()

    async def next(self) -> Reply:
        while (reply := self._reader.next()) is None:
            self._waiter = self._loop.create_future()
            await self._waiter
        return reply

    def ask(self, octets: bytes, replies: int) -> None:
        self._reader.ask(replies)
        self.send(octets)


class _ParsingRelay(_Relay):
    """The same dialogues, in which nothing is passed on that was not read and written anew."""

    backend = _ReadBackend
    _OFFERED = Extensions({"SIZE": (), "8BITMIME": (), "SMTPUTF8": (), "PIPELINING": ()})
    _OPTIONS = HeaderOptions("localhost", received=True, add_missing=True)

    async def _serve(self, device: _Peer) -> None:
        await asyncio.sleep(0)  # until it is connected
        device.send(b"220 relay\r\n")
        client = Client("127.0.0.1", "session", "scanner")
        sender, held = "", b""
        backend: _ReadBackend | None = None
        while line := await device.until(b"\r\n"):
            verb, argument = parted(line.removesuffix(b"\r\n").decode())
            if verb == "MAIL":
                sender, options = reverse_path(argument)
                held = mail_command(sender, dict.fromkeys(options), self._OFFERED)
                backend = cast(_ReadBackend, self._idle.pop() if self._idle else await self._connect())
                self._answer(device, str(SMTP.SENDER_OK))
            elif verb == "RCPT" and backend is not None:
                path, options = forward_path(argument)
                backend.ask(held + rcpt_command(path, dict.fromkeys(options), {}, self._OFFERED), 2)
                mail, rcpt = await backend.next(), await backend.next()
                self._answer(device, str(SMTP.RECIPIENT_OK if mail.positive and rcpt.positive else SMTP.BAD_SEQUENCE))
            elif verb == "DATA" and backend is not None:
                backend.ask(command("DATA"), 1)
                self._answer(device, str(SMTP.GO_AHEAD))
                content = await self._content(device, client, sender)
                if (await backend.next()).code == 354:
                    backend.ask(content, 1)
                    await backend.next()
                    self._answer(device, f"{SMTP.ACCEPTED} as {client.session}")
                self._idle.append(backend)
                backend = None
            else:
                self._answer(device, str(SMTP.OK))
        device.transport.close()

    def _answer(self, device: _Peer, reply: str) -> None:
        device.send(f"{reply}\r\n".encode("ascii", "replace"))

    async def _content(self, device: _Peer, client: Client, sender: str) -> bytes:
        decoder, reader, encoder = DataDecoder(), HeaderReader(), ContentEncoder(dots=True)
        pieces: list[bytes] = []
        begun = False
        while not decoder.ended:
            piece = decoder.feed(await device.some())
            if not begun:
                if (cut := reader.feed(piece)) is None:
                    continue  # the reader holds it; in the bench every header has an end
                block, rest = cut
                if loops(block) or Signatures.of(block) is not None:
                    raise ValueError("not in this bench")
                piece = own_lines(self._OPTIONS, client, "ESMTP", sender, block) + block + rest
                begun = True
            pieces.append(encoder.encode(piece))
        pieces.append(encoder.end())
        return b"".join(pieces)


async def _serve(port: int, backend: int, parsing: bool) -> None:
    relay = (_ParsingRelay if parsing else _Relay)(backend)
    server = await asyncio.get_running_loop().create_server(relay.accept, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    options = loop_options(os.environ.get("EVENT_LOOP", "auto"))
    anyio.run(_serve, int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["parsing"], backend_options=options)
