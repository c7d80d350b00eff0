"""Hears what other proxies, and the ``spool`` command, have made due. Nothing depends on it but how soon that is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg

__all__ = ("CHANNEL", "listen")

CHANNEL = "legacy_email_proxy"
_PAUSE_SECONDS = 5.0


async def listen(info: str, wake: Callable[[], None]) -> None:
    """Call ``wake`` whenever somebody notified, and after each interruption. Never returns."""
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(info, autocommit=True) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                wake()
                async for _ in connection.notifies():
                    wake()
        except (psycopg.Error, OSError):
            # The writer meets the same trouble, and tells.
            pass
        await asyncio.sleep(_PAUSE_SECONDS)
