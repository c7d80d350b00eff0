"""The HTTPS client: whoever gives up, at whatever step, leaves no connection open."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from typing import Any

import pytest

from fakes.oauth2 import FakeAuthorizationServer
from legacy_email_proxy_plugins import https
from oauth2.support import server_tls
from realservers.certificates import Certificates

pytestmark = pytest.mark.anyio


async def test_given_up_at_every_step(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python tells of a connection that is freed and was not closed, and the test fails by that."""

    async def at_once(_: str, port: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(https, "look_up", at_once)  # in a thread, it takes another number of passes each time
    tls = ssl.create_default_context(cafile=str(certificates.ca_file))
    statuses: list[int] = []

    async def ask(url: str) -> None:
        async with https.client(tls, 5.0) as client:
            statuses.append((await client.get(url)).status_code)

    async with FakeAuthorizationServer(tls=server_tls(certificates.good)) as fake:
        passes = 0
        while not statuses:
            task = asyncio.create_task(ask(fake.url("introspect")))
            for _ in range(passes):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del task
            gc.collect()
            passes += 1
    assert statuses == [200]
    assert passes > 10
