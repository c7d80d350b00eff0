"""The wait for what no event tells: for another task, a thread, the disk or a peer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 50.0) -> None:
    """Return as soon as the condition holds; TimeoutError if it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (nothing here sets an event)
            await asyncio.sleep(0.005)
