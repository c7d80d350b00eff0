"""Hears what other proxies, and the ``spool`` command, have made due. Nothing depends on it but how soon that is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg

__all__ = ("CHANNEL", "listen")

CHANNEL = "legacy_email_proxy"
_PAUSE_SECONDS = 5.0


async def listen(info: str, hear: Callable[[str], None]) -> None:
    """Call ``hear`` with what somebody notified of, and with nothing after each interruption. Never returns."""
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(info, autocommit=True) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                hear("")
                async for notification in connection.notifies():
                    hear(notification.payload)
        except (psycopg.Error, OSError):
            # The writer meets the same trouble, and tells.
            pass
        await asyncio.sleep(_PAUSE_SECONDS)
