"""A plugin's own few worker threads: a slow disk neither stalls the event loop nor takes threads from anybody else."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

import anyio

from legacy_email_proxy.contracts import Failure, StorageFull

__all__ = ("ANSWER_SECONDS", "WORKERS", "Threads")

WORKERS = 8
"""Threads of one plugin. Some at once let the file system write several messages out together."""

ANSWER_SECONDS = 60.0
"""How long a session waits for a thread and the disk, before its client is told to try again later."""

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


class Threads:
    """Runs blocking file work. ``variable`` is the setting to look at when it fails."""

    def __init__(self, variable: str) -> None:
        self._variable = variable
        # anyio's threads won't do: an abandoned one gives its place in the limiter back while it still hangs, so that
        # a dead network disk would collect threads without end.
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix=variable)

    async def run(self, function: Callable[[*_Args], _Result], *args: *_Args) -> _Result:
        """Call ``function`` in a thread and wait.

        When the waiting task is cancelled, or :data:`ANSWER_SECONDS` pass, a call that has begun goes on alone. Raises
        :class:`StorageFull` when the disk or the quota is full, :class:`Failure` for any other ``OSError``.
        """
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> Failure:
        if error.errno is None:
            return Failure(f"no answer from the file system within {ANSWER_SECONDS:g} s", look_at=self._variable)
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else Failure
        return kind(f"{error.strerror}: {error.filename or 'the Maildir'}", look_at=self._variable)

    def close(self) -> None:
        """Let the threads end. Those that hang are not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
