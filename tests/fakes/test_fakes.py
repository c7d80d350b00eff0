"""The fake servers themselves: what a test leaves behind is found by a later test, which is then blamed for it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fakes.graph.server import FakeGraph
from fakes.imap import FakeIMAPServer
from fakes.oauth2 import FakeAuthorizationServer
from fakes.server import FakeServer
from fakes.smtp import FakeSMTPServer

FAKES: dict[str, Callable[[], FakeServer[Any]]] = {
    "smtp": lambda: FakeSMTPServer(),
    "imap": lambda: FakeIMAPServer(),
    "oauth2": lambda: FakeAuthorizationServer(tls=None),  # type: ignore[arg-type]
    "graph": lambda: FakeGraph(tls=None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("fake", FAKES.values(), ids=FAKES)
async def test_a_connection_is_closed_whose_task_never_ran(
    fake: Callable[[], FakeServer[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake() as server:
        start = server.start

        def stopped_at_once(serving: Coroutine[Any, Any, object], close: Callable[[], None]) -> None:
            start(serving, close)
            server.disconnect_all()

        monkeypatch.setattr(server, "start", stopped_at_once)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    gc.collect()  # a coroutine that was never awaited is told then
