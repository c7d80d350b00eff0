"""What blocks on a file, where the disk may be dead: one thread at a time, and nobody waits for it without limit.

A thread that hangs in the kernel can not be ended. So there is never a second one beside it, and what was asked for is
done in the order in which it was asked for, also when the disk comes back after everybody has stopped waiting.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import anyio
from anyio.to_thread import run_sync

__all__ = ("Disk",)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_SECONDS = 10.0
"""A network file system whose server starts anew takes a few."""


class Disk:
    """Use it in one event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        # A limiter of its own: fifty that hang must not take all the threads that others need.
        self._limiter = anyio.CapacityLimiter(1)
        self._pending: set[asyncio.Task[Any]] = set()
        self._hangs = False

    async def run(
        self, function: Callable[[*Arguments], T], *args: *Arguments, undo: Callable[[T], object] | None = None
    ) -> T:
        """Call it in a thread. Raises :class:`TimeoutError` if it takes too long.

        Whoever waits may be cancelled: what was begun is finished all the same. ``undo`` gets what it returns if nobody
        waits for that any more.
        """
        if self._hangs:
            raise _dead()
        task = self._submitted(partial(function, *args))
        done: set[asyncio.Task[T]] = set()
        try:
            done, _ = await asyncio.wait({task}, timeout=_SECONDS)
        finally:
            if undo is not None and not done:
                task.add_done_callback(partial(_undone, undo))
        if not done:
            self._hangs = True
            raise _dead()
        return task.result()

    async def give_back(self, function: Callable[[*Arguments], object], *args: *Arguments) -> None:
        """Call it in its turn, also while the disk does not answer; then nobody waits for it."""
        task = self._submitted(partial(function, *args))
        if not self._hangs:
            await asyncio.wait({task}, timeout=_SECONDS)

    def _submitted(self, call: Callable[[], T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(self._in_turn(call))
        self._pending.add(task)
        task.add_done_callback(self._finished)
        return task

    async def _in_turn(self, call: Callable[[], T]) -> T:
        async with self._turn:
            return await run_sync(call, limiter=self._limiter)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._hangs = False
        self._pending.discard(task)
        if not task.cancelled():
            # Looked at, so that asyncio does not complain of a failure that nobody waited for.
            task.exception()


def _undone(undo: Callable[[T], object], task: asyncio.Task[T]) -> None:
    if not task.cancelled() and task.exception() is None:
        undo(task.result())


def _dead() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, "the disk does not answer")
