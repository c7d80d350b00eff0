"""Calls of a disk that may hang, as one on the network can.

Nothing ends a thread that waits for such a disk. Whoever asked it anew every few seconds would soon have all of the
event loop's threads there, and a login or a name's address would wait for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

__all__ = ("DISK_SECONDS", "Disk")

DISK_SECONDS = 5.0

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")


class Disk:
    """One call at a time, so one thread at most."""

    def __init__(self, seconds: float = DISK_SECONDS) -> None:
        self._seconds = seconds
        self._running: asyncio.Task[Any] | None = None

    async def call(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """What ``function`` returns. Raises what it raises, and ``TimeoutError`` when it hangs or a former one does."""
        async with asyncio.timeout(self._seconds):
            while self._running is not None and not self._running.done():
                await asyncio.wait({self._running})
            task = asyncio.create_task(asyncio.to_thread(function, *arguments))
            self._running = task
            # If nobody waits for it any more, nobody wants to know how it failed.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait({task})
        return task.result()
