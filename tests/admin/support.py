"""A composition of plugins in memory, and the events that a service would log about them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from legacy_email_proxy import log
from legacy_email_proxy.build import Account, Composition
from legacy_email_proxy.contracts import Credentials, Figure, Finding, Queue, Relay, TokenStatus
from legacy_email_proxy.settings import read
from smtp.relays import MemoryRelay

LOGGER = logging.getLogger("legacy_email_proxy.smtp")


class Clock:
    """Stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ProbedRelay(MemoryRelay):
    """A relay that is not asked for mail but for its state."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Sequence[Finding] | Exception = ()
        self.told: Sequence[Figure] | Exception = ()
        self.probes = 0

    async def probe(self) -> Sequence[Finding]:
        self.probes += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def figures(self) -> Sequence[Figure]:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


class Token:
    """Credentials that know how their token stands."""

    def __init__(self, error: str = "") -> None:
        self.error = error

    async def status(self) -> TokenStatus:
        return TokenStatus("device_code", error=self.error)

    async def figures(self) -> Sequence[Figure]:
        return [Figure("token_expiry_timestamp_seconds", 5000.0)]


def composition(
    folder: Path,
    relay: Relay,
    name: str = "",
    *,
    token: Token | None = None,
    queue: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Composition:
    settings = read({"STATE_DIR": str(folder), **(environ or {})})
    credentials = {"oauth2": cast(Credentials, token)} if token else {}
    account = Account(name, settings, None, relay, credentials, cast(Queue, relay) if queue else None)
    return Composition(settings, None, relay, accounts=(account,))


@asynccontextmanager
async def observed(handler: logging.Handler) -> AsyncIterator[None]:
    log.observe(handler)
    try:
        yield
    finally:
        log.unobserve(handler)
