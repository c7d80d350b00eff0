"""The operator's page over a real socket, and a browser without scripts that reads it and sends its forms."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2

from legacy_email_proxy.admin.http import AdminServer
from legacy_email_proxy.admin.outcomes import Outcomes
from legacy_email_proxy.admin.probes import Probes
from legacy_email_proxy.admin.readiness import Readiness
from legacy_email_proxy.build import Composition, compose
from legacy_email_proxy.listeners import bind
from legacy_email_proxy.relays.wrapper import start
from legacy_email_proxy.reloading import Current

CSRF = re.compile(r'name="csrf" value="([0-9a-f]+)"')


class Browser:
    """Keeps its cookie, and the token of the page that it saw last."""

    def __init__(self, client: httpx2.AsyncClient, current: Current, outcomes: Outcomes) -> None:
        self.client = client
        self.current = current
        self.outcomes = outcomes
        self.seen: list[str] = []
        """All pages that it was shown."""

    @property
    def page(self) -> str:
        """The page that is shown, as it stands in the source."""
        return self.seen[-1]

    @property
    def text(self) -> str:
        """What a reader sees of it."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.page)).split())

    async def get(self, path: str, status: int = 200) -> str:
        """Open a page; what a reader sees of it."""
        return self._shown(await self.client.get(path), status)

    async def post(self, path: str, status: int = 200, *, csrf: str | None = None, **fields: Any) -> str:
        """Send a form with the token of the page that is shown."""
        token = csrf if csrf is not None else CSRF.findall(self.page)[0]
        return self._shown(await self.client.post(path, data={"csrf": token, **fields}), status)

    def _shown(self, answer: httpx2.Response, status: int) -> str:
        self.seen.append(answer.text)
        assert answer.status_code == status, self.text
        return self.text


async def composed(**environ: str) -> Composition:
    """What the service would run with these variables, started."""
    composition = await anyio.to_thread.run_sync(partial(compose, environ))
    for plugin in (*composition.credentials, composition.relay):
        if plugin is not None:
            await start(plugin)
    return composition


async def closed(composition: Composition) -> None:
    for plugin in (composition.maildrop, composition.relay, *composition.credentials):
        if plugin is not None:
            await plugin.aclose()


@asynccontextmanager
async def browsing(
    composition: Composition,
    reload: Callable[[], Awaitable[Sequence[str]]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Browser]:
    """Serve the page of this composition, which is closed by the caller."""
    current = Current(composition, lambda _: None)
    outcomes = Outcomes()
    probes = Probes(outcomes)
    readiness = Readiness(lambda: current.composition, outcomes, probes)
    server = AdminServer(current, readiness, outcomes, reload=reload)
    sockets = await asyncio.to_thread(bind, "ADMIN", ["127.0.0.1"], 0)
    server.start(sockets)
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    try:
        async with httpx2.AsyncClient(base_url=url, follow_redirects=True, timeout=50, headers=headers) as client:
            yield Browser(client, current, outcomes)
    finally:
        await server.aclose()
        await probes.aclose()


@asynccontextmanager
async def browsing_with(**environ: str) -> AsyncIterator[Browser]:
    """The same with a composition of these variables."""
    composition = await composed(**environ)
    try:
        async with browsing(composition) as browser:
            yield browser
    finally:
        await closed(composition)
