"""The HTTPS client: no step at which somebody gives up, and no failure, leaves a connection open or a place taken."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import httpx2
import pytest

from clients import reset_when_closed
from fakes.oauth2 import FakeAuthorizationServer
from legacy_email_proxy.contracts import Unreachable
from legacy_email_proxy_plugins import https
from legacy_email_proxy_plugins.dial import connect
from oauth2.support import server_tls
from realservers.certificates import Certificates

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def listening(answer: Any) -> AsyncIterator[int]:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("before", [(), ("127.0.0.77",)], ids=["one address", "the second address"])
@pytest.mark.parametrize("by_scope", [False, True], ids=["by the task", "by a scope"])
async def test_given_up_at_every_pass_of_the_event_loop(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, before: tuple[str, ...], by_scope: bool
) -> None:
    async def at_once(_: str, port: int) -> list[Any]:
        # Looked up in a thread, the same step would come in another pass each time.
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in (*before, "127.0.0.1")]

    made: list[socket.socket] = []

    async def noted(found: list[Any]) -> socket.socket:
        made.append(await connect(found))
        return made[-1]

    monkeypatch.setattr(https, "look_up", at_once)
    monkeypatch.setattr(https, "connect", noted)
    tls = ssl.create_default_context(cafile=str(certificates.ca_file))
    given_up = 0
    async with FakeAuthorizationServer(tls=server_tls(certificates.good)) as fake, https.client(tls, 5.0) as client:
        pool = client._transport._pool  # type: ignore[attr-defined]

        async def ask() -> bool:
            with scope:
                return (await client.get(fake.url("introspect"))).status_code == 200
            return False

        for passes in range(1000):
            scope = anyio.CancelScope()
            task = asyncio.create_task(ask())
            for _ in range(passes):
                await asyncio.sleep(0)
            (scope if by_scope else task).cancel()
            with suppress(asyncio.CancelledError):
                if await task:
                    break
            given_up += 1
            for _ in range(5):
                await asyncio.sleep(0)
            assert [each for each in made if each.fileno() >= 0] == [], passes
            assert [each for each in pool.connections if not each.is_closed()] == [], passes
        else:
            raise AssertionError("it never came to its end")
    assert given_up > 5
    assert made


async def test_closed_as_soon_as_it_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a balancer does that has nobody behind it."""

    async def over(_: Any) -> socket.socket:
        ours, theirs = await asyncio.to_thread(_pair)
        reset_when_closed(theirs)
        theirs.close()
        made.append(ours)
        return ours

    made: list[socket.socket] = []
    monkeypatch.setattr(https, "connect", over)
    async with https.client(ssl.create_default_context(), 5.0) as client:
        with pytest.raises(httpx2.ConnectError, match=r"127\.0\.0\.1 port 9: it closed the connection at once"):
            await client.get("https://127.0.0.1:9/")
    assert made[0].fileno() < 0


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    return ours, theirs


async def test_nobody_at_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(_: str, port: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 9)) for each in ("127.0.0.1", "127.0.0.77")]

    monkeypatch.setattr(https, "look_up", two)
    async with https.client(ssl.create_default_context(), 5.0) as client:
        with pytest.raises(httpx2.ConnectError, match=r"\Aidp\.example port 443: Connection refused\Z"):
            await client.get("https://idp.example/")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 go on\r\n\r\n", b"HTTP/1.1 502 no\r\n\r\n", b""])
async def test_a_proxy_that_fails_takes_no_place_for_good(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with listening(tunnel) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        async with https.client(ssl.create_default_context(), 5.0, connections=2) as client:
            for _ in range(5):
                with anyio.fail_after(20), pytest.raises(httpx2.TransportError):
                    await client.get("https://idp.example/")


@pytest.mark.parametrize("reset", [False, True])
async def test_closed_in_the_handshake(reset: bool) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        if reset:
            reset_when_closed(writer.get_extra_info("socket"))
        writer.close()

    async with listening(answer) as port, https.client(ssl.create_default_context(), 5.0) as client:
        with pytest.raises(
            Unreachable, match=r"idp\.example: it was closed in the TLS handshake .see OAUTH2_TOKEN_URL"
        ):
            with https.failures("idp.example", 5.0, "OAUTH2_TOKEN_URL", "OAUTH2_CA_FILE"):
                await client.get(f"https://127.0.0.1:{port}/")
