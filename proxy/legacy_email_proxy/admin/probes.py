"""Asks a backend whether it works: connect, TLS and login.

Readiness and the alerts both ask. They do it here, so that a backend is never asked by both at the same time, and so
that what the one has found is an outcome for the other.
"""

from __future__ import annotations

import asyncio

from ..contracts import Level, Maildrop, Relay
from .outcomes import Backend, Outcomes

__all__ = ("Probes",)

_PROBE_SECONDS = 60.0
_PROBES_AT_ONCE = 10


class Probes:
    """Those that are under way."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._running: dict[Backend, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_PROBES_AT_ONCE)

    async def probe(self, backend: Backend, plugin: Maildrop | Relay, wait_seconds: float | None = None) -> None:
        """Probe, unless that is being done already; wait until it is over, or for so long: it goes on after that."""
        task = self._running.get(backend)
        if task is None:
            task = self._running[backend] = asyncio.create_task(self._probing(backend, plugin))
            task.add_done_callback(lambda _: self._running.pop(backend, None))
        await asyncio.wait({task}, timeout=wait_seconds)

    async def _probing(self, backend: Backend, plugin: Maildrop | Relay) -> None:
        trouble = f"no answer within {_PROBE_SECONDS:g} s"
        try:
            async with self._turns, asyncio.timeout(_PROBE_SECONDS):
                found = await plugin.probe()
            trouble = next((finding.text for finding in found if finding.level is Level.BAD), "")
        except TimeoutError:
            pass
        except Exception as error:
            trouble = f"unexpected: {type(error).__name__}"
        self._outcomes.probed(backend, trouble)

    async def aclose(self) -> None:
        """End them."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
