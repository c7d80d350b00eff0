"""A browser without a screen: it asks the admin listener's application, keeps cookies, and reads what stands there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any

import httpx2

from admin.support import ProbedRelay, composition
from history.support import written
from legacy_email_proxy.admin.http import AdminServer
from legacy_email_proxy.admin.outcomes import Outcomes
from legacy_email_proxy.admin.probes import Probes
from legacy_email_proxy.admin.readiness import Readiness
from legacy_email_proxy.history.database import FILE_NAME
from legacy_email_proxy.history.facts import Event
from legacy_email_proxy.reloading import Current

PASSWORD = "correct horse"
HOST = "http://localhost:9425"
LISTENING = {"SMTP": (("192.168.1.10", 25),), "POP3": (("192.168.1.10", 110),), "SMTPS": (), "POP3S": ()}


class Browser:
    """``app`` is what a server would run; ``relay`` is behind the SMTP leg."""

    def __init__(self, client: httpx2.AsyncClient, relay: ProbedRelay, current: Current) -> None:
        self.client = client
        self.relay = relay
        self.current = current

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.client.get(path, headers=headers)

    async def post(self, path: str, fields: Mapping[str, str | Sequence[str]], **headers: str) -> httpx2.Response:
        return await self.client.post(path, data=dict(fields), headers=headers)

    async def token(self, path: str = "signin") -> str:
        """The CSRF token of a form on that page."""
        return token_in((await self.get(path)).text)

    async def sign_in(self, password: str = PASSWORD, user: str = "ann", wish: str = "") -> httpx2.Response:
        fields = {"csrf": await self.token(), "password": password, "user": user, "next": wish}
        return await self.post("signin", fields)


def token_in(html: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', html)
    assert found, html
    return found[1]


def words(html: str) -> str:
    """What a person reads."""
    body = html.partition("<main")[2].partition(">")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def history(folder: Path, events: Iterable[Event]) -> None:
    """Write the events into the history of this ``STATE_DIR``."""
    written(folder / FILE_NAME, events)


async def recorded(folder: Path, events: Iterable[Event]) -> None:
    """The same from a coroutine."""
    await asyncio.to_thread(history, folder, list(events))


@asynccontextmanager
async def browsing(
    folder: Path,
    *,
    troubles: Sequence[Mapping[str, Any]] = (),
    advice: Mapping[str, str] | None = None,
    host: str = HOST,
    queue: bool = False,
    **environ: str,
) -> AsyncIterator[Browser]:
    relay = ProbedRelay()
    current = Current(composition(folder, relay, queue=queue, environ=environ), lambda _: None)
    outcomes = Outcomes()
    probes = Probes(outcomes)
    readiness = Readiness(lambda: current.composition, outcomes, probes)
    server = AdminServer(
        current, readiness, outcomes, troubles=lambda: troubles, advice=advice or {}, listening=LISTENING
    )
    await asyncio.to_thread(server.prepare)
    transport = httpx2.ASGITransport(app=server.app, client=("192.168.1.5", 50000))
    async with httpx2.AsyncClient(transport=transport, base_url=host) as client:
        try:
            yield Browser(client, relay, current)
        finally:
            await probes.aclose()
