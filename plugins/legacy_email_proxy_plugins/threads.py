"""A plugin's own worker threads, so that a slow disk blocks neither the event loop nor the threads of other plugins."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

import anyio

from legacy_email_proxy.contracts import Failure, StorageFull

__all__ = ("ANSWER_SECONDS", "WORKERS", "Threads", "given_up")

WORKERS = 8
"""Threads of one plugin. With several, the file system can write several messages to disk together."""

ANSWER_SECONDS = 60.0
"""How long a session waits for a thread and the disk, before its client is told to try again later."""

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


class Threads:
    """Runs blocking file work. ``variable`` is the setting to look at when it fails."""

    def __init__(self, variable: str) -> None:
        self._variable = variable
        # Not anyio's threads: an abandoned one gives its place in the limiter back while it still hangs, so that with
        # a dead network disk there would be more and more threads.
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix=variable)
        # A call waits here, not in the executor's queue: that queue keeps an abandoned call, with the octets to write,
        # in memory until a thread is free, and with a dead disk no thread ever gets free.
        self._free = asyncio.Semaphore(WORKERS)

    async def run(self, function: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        """Call ``function`` in a thread and wait.

        When the waiting task is cancelled, or :data:`ANSWER_SECONDS` pass, a call that has begun goes on alone. Raises
        :class:`StorageFull` when the disk or the quota is full, :class:`Failure` for any other ``OSError`` and after
        :meth:`close`.
        """
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                await self._free.acquire()
                return await asyncio.wrap_future(self._submit(function, *args))
        except OSError as error:
            raise self._failure(error) from error

    def begin(self, function: Callable[[*_Args], _Result], *args: *_Args) -> asyncio.Task[_Result]:
        """As :meth:`run`, without waiting: the caller goes on, and waits for the task later, or gives it up with
        :func:`given_up`.
        """
        return asyncio.get_running_loop().create_task(self.run(function, *args))

    def _submit(self, function: Callable[[*_Args], _Result], *args: *_Args) -> Future[_Result]:
        loop = asyncio.get_running_loop()

        def ended(_: Future[_Result]) -> None:
            # The event loop may be closed before the thread ends.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._free.release)

        try:
            future = self._executor.submit(function, *args)
        except RuntimeError as error:
            self._free.release()
            raise Failure(f"no thread for the file system: {error}", look_at=self._variable) from error
        future.add_done_callback(ended)
        return future

    def _failure(self, error: OSError) -> Failure:
        if error.errno is None:
            return Failure(f"no answer from the file system within {ANSWER_SECONDS:g} s", look_at=self._variable)
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else Failure
        return kind(f"{error.strerror}: {error.filename or 'a file'}", look_at=self._variable)

    def close(self) -> None:
        """Let the threads end, without waiting for threads that hang."""
        self._executor.shutdown(wait=False)


async def given_up(task: asyncio.Task[Any]) -> None:
    """Wait no longer for what :meth:`Threads.begin` began; what became of it does not matter."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()
