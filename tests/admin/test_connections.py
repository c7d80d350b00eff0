"""Whatever one address does to the admin listener, another address is served, and little stays open."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trustme

from legacy_email_proxy.admin import connections
from legacy_email_proxy.admin.connections import HTTPServer
from legacy_email_proxy.listeners import bind

NAME = "proxy.firm.example"
REQUEST = b"GET /livez HTTP/1.1\r\nHost: proxy.firm.example\r\nConnection: close\r\n\r\n"
HALF_A_HELLO = bytes.fromhex("16030100f5010000f10303") + bytes(20)
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class App:
    """Answers each request with ``body``, but only while ``go_on`` is set."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.body = b"ok"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.set()
        await self.go_on.wait()
        length = str(len(self.body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self.body})


class Served:
    """A listener, the connections of its clients, and what they need to trust it."""

    def __init__(self, port: int, server: HTTPServer, app: App, trusting: ssl.SSLContext) -> None:
        self.port = port
        self.server = server
        self.running = asyncio.create_task(server.serve())
        self.app = app
        self.trusting = trusting
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self, source: str = HERE, *, tls: bool = False) -> Streams:
        """Of this connection nothing has been said yet, apart from the handshake."""
        context, name = (self.trusting, NAME) if tls else (None, None)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0), ssl=context, server_hostname=name
        )
        self.writers.append(writer)
        return reader, writer

    async def answer(self, source: str = HERE, *, tls: bool = False) -> bytes:
        """To a whole request."""
        reader, writer = await self.connect(source, tls=tls)
        writer.write(REQUEST)
        async with asyncio.timeout(50):
            return await reader.read()

    async def has_room(self, *, tls: bool = False) -> None:
        """Wait until the address that had too many is served again."""
        async with asyncio.timeout(50):
            answer = b""
            while not answer.startswith(b"HTTP/1.1 200 "):
                with suppress(ConnectionError):
                    answer = await self.answer(tls=tls)


@asynccontextmanager
async def serving(*, tls: bool = False) -> AsyncIterator[Served]:
    ca = await asyncio.to_thread(trustme.CA)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (await asyncio.to_thread(ca.issue_cert, NAME)).configure_cert(context)
    app = App()
    (listener,) = await asyncio.to_thread(bind, "ADMIN", ["127.0.0.1"], 0)
    port = listener.getsockname()[1]
    server = HTTPServer(app, [(listener, context)])
    served = Served(port, server, app, trusting)
    try:
        yield served
    finally:
        server.should_exit = True
        await served.running
        for writer in served.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in served.writers), return_exceptions=True)


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What came until the server closed the connection."""
    async with asyncio.timeout(50):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def test_an_address_with_too_many_is_told_so_and_another_one_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_PER_ADDRESS", 2)
    async with serving() as served:
        first, _ = [await served.connect() for _ in range(2)]
        head, _, body = (await closed((await served.connect())[0])).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert body == b"too many connections\n"
        assert f"Content-Length: {len(body)}".encode() in head
        assert (await served.answer(ELSEWHERE)).startswith(b"HTTP/1.1 200 ")
        first[1].write(REQUEST)
        assert (await closed(first[0])).startswith(b"HTTP/1.1 200 ")
        # The connection that was answered counts no more.
        await served.has_room()


async def test_all_addresses_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    async with serving() as served:
        for number in range(3):
            await served.connect(f"127.0.0.{number + 2}")
        assert (await closed((await served.connect())[0])).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("said", [b"", HALF_A_HELLO], ids=["silent", "half a hello"])
async def test_a_connection_counts_before_its_handshake_is_done(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(connections, "MOST_PER_ADDRESS", 2)
    async with serving(tls=True) as served:
        for _ in range(2):
            (await served.connect())[1].write(said)
        assert await closed((await served.connect())[0]) == b""
        assert (await served.answer(ELSEWHERE, tls=True)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("said", [b"", HALF_A_HELLO], ids=["silent", "half a hello"])
async def test_a_handshake_has_a_deadline(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.1)
    monkeypatch.setattr(connections, "MOST_PER_ADDRESS", 1)
    async with serving(tls=True) as served:
        reader, writer = await served.connect()
        writer.write(said)
        assert await closed(reader) == b""
        monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 30.0)
        await served.has_room(tls=True)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nX-Slow: "], ids=["silent", "half a request"])
async def test_who_never_finishes_a_request_is_sent_away(
    monkeypatch: pytest.MonkeyPatch, said: bytes, *, tls: bool
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(connections, "MOST_PER_ADDRESS", 1)
    async with serving(tls=tls) as served:
        reader, writer = await served.connect(tls=tls)
        writer.write(said)
        assert await closed(reader) == b""
        writer.close()
        monkeypatch.setattr(connections, "REQUEST_SECONDS", 30.0)
        await served.has_room(tls=tls)


async def test_a_stop_ends_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LEAVING_SECONDS", 0.1)
    async with serving(tls=True) as served:
        handshake, _ = await served.connect()
        served.app.go_on.clear()
        asking = asyncio.create_task(served.answer(tls=True))
        await served.app.asked.wait()
        served.server.should_exit = True
        assert await closed(handshake) == b""
        assert not (await asking).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionRefusedError):
            await served.connect()


async def test_a_stop_does_not_wait_for_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LEAVING_SECONDS", 0.1)
    async with serving() as served:
        served.app.body = bytes(16 << 20)  # more than the system's buffers hold
        reader, writer = await served.connect()
        writer.write(REQUEST)
        await served.app.asked.wait()
        served.server.should_exit = True
        await served.running
        assert len(await closed(reader)) < len(served.app.body)
