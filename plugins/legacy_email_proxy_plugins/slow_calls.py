"""Runs calls that block on a disk or a database that may be dead: in one thread at a time, and each wait has a limit.

A thread that hangs in the kernel can not be ended, so a second one is never started. Calls run in the order in which
they were submitted, also when it answers again after all callers have stopped waiting.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar, TypeVarTuple

import anyio
from anyio.to_thread import run_sync

__all__ = ("SlowCalls",)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class SlowCalls:
    """The thread for one store. Use it in one event loop."""

    seconds: ClassVar = 10.0
    """How long a call may take. A network file system may need several seconds while its server restarts."""
    words: ClassVar = "the disk does not answer"

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        # Its own limiter: with the shared one, fifty hanging disks would take all the threads of the process.
        self._limiter = anyio.CapacityLimiter(1)
        self._pending: set[asyncio.Task[Any]] = set()
        self._hangs = False

    async def run(
        self, function: Callable[[*Arguments], T], *args: *Arguments, undo: Callable[[T], object] | None = None
    ) -> T:
        """Call ``function`` in a thread. Raises :class:`TimeoutError` if it takes too long.

        The call is finished even if the caller is cancelled. If the caller no longer waits when it returns, ``undo`` is
        called with the result.
        """
        if self._hangs:
            raise self._dead()
        task = self._submitted(partial(function, *args))
        done: set[asyncio.Task[T]] = set()
        try:
            done, _ = await asyncio.wait({task}, timeout=self.seconds)
        finally:
            if undo is not None and not done:
                task.add_done_callback(partial(_undone, undo))
        if not done:
            self._hangs = True
            raise self._dead()
        return task.result()

    async def give_back(self, function: Callable[[*Arguments], object], *args: *Arguments) -> None:
        """Call ``function`` in its turn; while nothing answers, do not wait for that."""
        task = self._submitted(partial(function, *args))
        if not self._hangs:
            await asyncio.wait({task}, timeout=self.seconds)

    def _submitted(self, call: Callable[[], T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(self._in_turn(call))
        self._pending.add(task)
        task.add_done_callback(self._finished)
        return task

    async def _in_turn(self, call: Callable[[], T]) -> T:
        async with self._turn:
            return await run_sync(call, limiter=self._limiter)

    def _dead(self) -> TimeoutError:
        return TimeoutError(errno.ETIMEDOUT, self.words)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._hangs = False
        self._pending.discard(task)
        if not task.cancelled():
            # Reading the exception keeps asyncio from logging it when no caller waits for the task.
            task.exception()


def _undone(undo: Callable[[T], object], task: asyncio.Task[T]) -> None:
    if not task.cancelled() and task.exception() is None:
        undo(task.result())
