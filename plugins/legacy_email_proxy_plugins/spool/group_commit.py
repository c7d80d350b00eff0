"""Group commit: one thread with one connection does the work of many callers in one transaction.

A commit waits for the disk, so one commit for many messages is much faster than one for each.

SQLite must not have a second connection: in WAL mode, versions before 3.51.3 can lose commits when one connection
writes a checkpoint while another one commits (the "WAL-reset bug"), and most Pythons have an older version.
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
"""Jobs in one commit, at most."""

_LINGER_SECONDS = 0.01
"""How long a job that is not urgent waits for a commit that another job needs."""

_Result = TypeVar("_Result")
Connection = Any
"""A connection with the methods ``execute``, ``executemany``, ``in_transaction`` and ``close`` of :mod:`sqlite3`."""

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
    """Runs jobs on the connection. While one commit waits for the disk, jobs for the next one are collected."""

    def __init__(self, bulk: Bulk, begin: str, failure: Callable[[BaseException], BaseException], look_at: str) -> None:
        """``bulk`` does the work of :meth:`together`. ``begin`` is the statement that begins a transaction. ``failure``
        converts an error of the connection.
        """
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
        """Start the thread, and in it call ``connect``. Raises what that raises."""
        self._loop = asyncio.get_running_loop()
        opened = _Job(None, None, self._loop.create_future())
        # A daemon: with a dead disk it may never end, and the process could not end either.
        self._thread = threading.Thread(target=self._main, args=(connect, opened), name="spool-writer", daemon=True)
        self._thread.start()
        await opened.future

    async def run(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do ``work`` in a transaction. On return it is committed and on disk.

        ``work`` may be called a second time, if another job of the same commit has failed. When the waiting task is
        cancelled, the work is done all the same. Raises :class:`StorageFull` or :class:`Failure` when it was not done,
        and :class:`Interrupted` when that is unknown.
        """
        return cast(_Result, await self._done(work, None))

    def begin(self, work: Callable[[Connection], _Result], then: Callable[[_Result], None] = lambda _: None) -> None:
        """As :meth:`run`, but without waiting. ``then`` is called with the result after the commit. A failure is not
        reported.
        """

        def ended(done: asyncio.Future[_Result]) -> None:
            if not done.cancelled() and done.exception() is None:
                then(done.result())

        if self._thread is not None and not self._closed:
            self._done(work, None).add_done_callback(ended)

    async def run_outside(self, work: Callable[[Connection, Callable[[], None]], _Result]) -> _Result:
        """Do ``work`` outside of a transaction. It may take long, so it gets a second argument: a function that makes
        all commits that are waiting, and that it has to call often. One such work at a time. Raises what it raises.
        """
        if self._thread is None or self._closed:
            raise Failure("the spool is closed", look_at=self._look_at)
        job = _Job(None, None, self._loop.create_future())
        self._jobs.put(_OutsideTransaction(work, job))
        return cast(_Result, await job.future)

    async def together(self, argument: Any, *, can_wait: bool = False) -> Any:
        """As :meth:`run`, for work that many callers need: ``bulk`` gets a list of arguments and returns the results.

        With ``can_wait`` it waits up to :data:`_LINGER_SECONDS` for a commit that another job needs.

        ``bulk`` uses one statement for all. After each statement the thread has to get the interpreter's lock back from
        a busy event loop, so the number of statements decides how long it takes, not the number of rows.
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
            # After the other callbacks of this turn of the loop: they may add jobs to the same commit.
            self._loop.call_soon(self._start_commit)
        elif self._linger is None:
            self._linger = self._loop.call_later(_LINGER_SECONDS, self._start_commit)

    def _start_commit(self) -> None:
        """Commit the collected jobs. Does nothing during a commit, because the end of that one starts the next."""
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
        """Finish all jobs, and close the connection."""
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
            # Not repeated here if it may have been done: only the callers know whether doing it twice is harmful.
            if len(jobs) == 1 or isinstance(failure, Interrupted):
                for job in jobs:
                    job.error = failure
                return
            # One of the jobs has failed, but not known which. So each is done alone, and only that one fails.
            for job in jobs:
                self._commit(connection, [job])

    def _call(self, function: Callable[[list[_Job]], None], jobs: list[_Job]) -> None:
        # When the loop is closed, nobody waits for the result.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, jobs)


def _transaction(connection: Connection, jobs: list[_Job], bulk: Bulk, begin: str) -> None:
    together = [job for job in jobs if job.work is None]
    if len(together) == len(jobs):
        # A single statement is a transaction of its own.
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
        # After some errors SQLite has rolled back already.
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
