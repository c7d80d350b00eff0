"""The one connection that writes records, in the one thread that ever has it, with many callers' work in one commit.

With SQLite, one connection is a rule and not a habit: before 3.51.3 it can lose commits when two connections of which
one is checkpointing meet in WAL mode (the "WAL-reset bug"), and most Pythons are linked with older ones.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from legacy_email_proxy.contracts import Failure

from .store import Interrupted

__all__ = ("Bulk", "Connection", "Writer")

_BATCH = 256
"""Callers whose work is committed together, at most."""

_LINGER_SECONDS = 0.01
"""How long what nobody waits for may lie, so that it comes into a commit that is made anyhow."""

_Result = TypeVar("_Result")
Connection = Any
"""What a store works on: ``execute``, ``executemany``, ``in_transaction`` and ``close``, as :mod:`sqlite3` has them."""

Bulk = Callable[[Connection, list[Any]], Sequence[Any]]


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any] | None
    argument: Any
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _OutsideTransaction:
    work: Callable[[Connection, Callable[[], None]], Any]
    job: _Job


class Writer:
    """Runs work on the connection. While one commit waits for the disk, the work for the next one gathers."""

    def __init__(self, bulk: Bulk, begin: str, failure: Callable[[BaseException], BaseException], look_at: str) -> None:
        """``begin`` begins a transaction, ``failure`` tells what an error means for the device."""
        self._bulk = bulk
        self._begin = begin
        self._failure = failure
        self._look_at = look_at
        self._waiting_jobs: list[_Job] = []
        self._committing = self._urgent = False
        self._linger: asyncio.TimerHandle | None = None
        self._jobs: queue.SimpleQueue[list[_Job] | _OutsideTransaction | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._closed = False

    async def open(self, connect: Callable[[], Connection]) -> None:
        """Start the thread, and in it the connection. Raises what ``connect`` raises."""
        self._loop = asyncio.get_running_loop()
        opened = _Job(None, None, self._loop.create_future())
        # A daemon, because a dead disk may never let it end.
        self._thread = threading.Thread(target=self._main, args=(connect, opened), name="spool-writer", daemon=True)
        self._thread.start()
        await opened.future

    async def run(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do ``work`` in a transaction; on return it is committed, and on disk.

        ``work`` may be done again from the start when a neighbour in the commit has failed. When the waiting task is
        cancelled, it goes on alone. Raises :class:`StorageFull` or :class:`Failure` when it was not done, and
        :class:`Interrupted` when nobody knows.
        """
        return cast(_Result, await self._done(work, None))

    def begin(self, work: Callable[[Connection], _Result], then: Callable[[_Result], None] = lambda _: None) -> None:
        """As :meth:`run`, behind what was asked for before. Nobody waits and nobody hears of a failure; ``then`` is
        called with the result of what was committed.
        """

        def ended(done: asyncio.Future[_Result]) -> None:
            if not done.cancelled() and done.exception() is None:
                then(done.result())

        if self._thread is not None and not self._closed:
            self._done(work, None).add_done_callback(ended)

    async def run_outside(self, work: Callable[[Connection, Callable[[], None]], _Result]) -> _Result:
        """Do ``work`` outside of any transaction, for as long as it takes. Whenever it calls what it is given beside
        the connection, all commits that wait are made. One at a time. Raises what ``work`` raises.
        """
        if self._thread is None or self._closed:
            raise Failure("the spool is closed", look_at=self._look_at)
        job = _Job(None, None, self._loop.create_future())
        self._jobs.put(_OutsideTransaction(work, job))
        return cast(_Result, await job.future)

    async def together(self, argument: Any, *, can_wait: bool = False) -> Any:
        """As :meth:`run`, for what many callers want at once: ``bulk`` gets a list of arguments, and gives the results.

        What is ``can_wait`` waits up to :data:`_LINGER_SECONDS` for a commit that somebody else needs.

        ``bulk`` does it in one statement. After each statement the thread has to get the interpreter's lock back from a
        busy event loop, so it is the number of statements, and not of rows, that counts.
        """
        return await self._done(None, argument, can_wait=can_wait)

    def _done(
        self, work: Callable[[Connection], Any] | None, argument: Any, *, can_wait: bool = False
    ) -> asyncio.Future[Any]:
        if self._thread is None or self._closed:
            raise Failure("the spool is closed", look_at=self._look_at)
        job = _Job(work, argument, self._loop.create_future())
        self._waiting_jobs.append(job)
        self._urgent = self._urgent or not can_wait
        self._plan_commit()
        return job.future

    def _plan_commit(self) -> None:
        if self._committing or not self._waiting_jobs:
            return
        if self._urgent:
            # After all that this turn of the loop has still to do: some of it may be work for the same commit.
            self._loop.call_soon(self._start_commit)
        elif self._linger is None:
            self._linger = self._loop.call_later(_LINGER_SECONDS, self._start_commit)

    def _start_commit(self) -> None:
        """Commit what has gathered, unless a commit is under way: that one's end begins the next."""
        if self._committing or not self._waiting_jobs:
            return
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        jobs, self._waiting_jobs = self._waiting_jobs[:_BATCH], self._waiting_jobs[_BATCH:]
        self._urgent = bool(self._waiting_jobs)
        self._committing = True
        self._jobs.put(jobs)

    def _ended(self, jobs: list[_Job]) -> None:
        self._committing = False
        self._plan_commit()
        _resolve(jobs)

    async def aclose(self) -> None:
        """Finish what was asked for, and close the connection."""
        if self._thread is None or self._closed:
            return
        self._closed = True
        while self._thread.is_alive() and (self._waiting_jobs or self._committing):
            self._start_commit()
            await asyncio.sleep(0.005)
        self._jobs.put(None)
        while self._thread.is_alive():  # noqa: ASYNC110 (a thread sets no event of the loop when it has ended)
            await asyncio.sleep(0.005)

    # In the thread.

    def _main(self, connect: Callable[[], Connection], opened: _Job) -> None:
        try:
            connection = connect()
        except BaseException as error:
            opened.error = error
            self._call(_resolve, [opened])
            return
        self._call(_resolve, [opened])
        del opened
        try:
            while (asked := self._jobs.get()) is not None:
                if isinstance(asked, _OutsideTransaction):
                    self._do_outside(connection, asked)
                else:
                    self._commit(connection, asked)
                    self._call(self._ended, asked)
        finally:
            connection.close()

    def _do_outside(self, connection: Connection, aside: _OutsideTransaction) -> None:
        def commit_waiting() -> None:
            while not self._jobs.empty():
                asked = self._jobs.get()
                if asked is None or isinstance(asked, _OutsideTransaction):
                    self._jobs.put(asked)
                    raise Failure("the spool is being closed", look_at=self._look_at)
                self._commit(connection, asked)
                self._call(self._ended, asked)
            if aside.job.future.cancelled():
                raise Failure("nobody waits for it any more")

        try:
            aside.job.result = aside.work(connection, commit_waiting)
        except BaseException as error:
            aside.job.error = error
        self._call(_resolve, [aside.job])

    def _commit(self, connection: Connection, jobs: list[_Job]) -> None:
        try:
            _transaction(connection, jobs, self._bulk, self._begin)
        except Exception as error:
            failure = self._failure(error)
            # What may have been done is not done again here: nobody but the callers know what that would mean.
            if len(jobs) == 1 or isinstance(failure, Interrupted):
                for job in jobs:
                    job.error = failure
                return
            # Which of them it was, nobody knows: each for itself, so that none suffers from another one's record.
            for job in jobs:
                self._commit(connection, [job])

    def _call(self, function: Callable[[list[_Job]], None], jobs: list[_Job]) -> None:
        # Without its loop, nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, jobs)


def _transaction(connection: Connection, jobs: list[_Job], bulk: Bulk, begin: str) -> None:
    together = [job for job in jobs if job.work is None]
    if len(together) == len(jobs):
        # One statement is a transaction of its own.
        _do_together(connection, together, bulk)
        return
    connection.execute(begin)
    try:
        if together:
            _do_together(connection, together, bulk)
        for job in jobs:
            if job.work is not None:
                job.result = job.work(connection)
        connection.execute("COMMIT")
    except BaseException:
        # Some errors of the disk have rolled it back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _do_together(connection: Connection, jobs: list[_Job], bulk: Bulk) -> None:
    for job, result in zip(jobs, bulk(connection, [each.argument for each in jobs]), strict=True):
        job.result = result


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
