"""The store of ``sqlite:///…``: one file for records and small contents, and a folder for large bodies."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio

from legacy_email_proxy.contracts import Failure, SettingsMistake, StorageFull, unwritable

from ..files import leave_to_service
from ..threads import Threads
from . import sql_records
from .backup import copy_out, restore, snapshot, trouble
from .group_commit import Connection
from .incoming import ANSWER_SECONDS, Answering
from .message import Outcome, SpooledMessage
from .schema import VERSION, aside_name, connect, is_damage, set_aside, set_aside_remains, storage_failure
from .sql_store import SUSPECT, RelationalStore
from .sqlite_files import RESERVED_OCTETS, BodyFiles, Journal, Locked, ReservedSpace, SpoolLock
from .store import ANNOUNCED, LOOK_AT, Copied, InUse, Room, TooNewError

__all__ = ("SQLiteStore",)

_FREE_SECONDS = 1.0
_AMPLE = 16
"""The space is reserved again when this many times as much is free."""


class SQLiteStore(RelationalStore):
    """See :class:`~.store.Store`."""

    version = VERSION
    warnings: Sequence[str] = ()

    def __init__(self, path: Path, logger: logging.Logger, look_at: str = LOOK_AT) -> None:
        threads = Threads(look_at)
        self._files = BodyFiles(path.with_name(f"{path.name}.bodies"), threads)
        super().__init__(
            self._files, threads, logger, begin="BEGIN IMMEDIATE", failure=lambda error: storage_failure(error, look_at)
        )
        self.path = path
        self._look_at = look_at
        self._lock = SpoolLock(path)
        self._free: tuple[float, int | None] = (float("-inf"), None)
        self._journal = Journal(path.with_name(f"{path.name}.trying"))
        self._reserved = ReservedSpace(path.with_name(f"{path.name}.reserve"))
        self._snapshot = path.with_name(f"{path.name}.backup")
        self._copying = asyncio.Lock()
        self._last = 0

    async def open(self, wake: Callable[[], None]) -> None:
        """See :meth:`.store.Store.open`."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.take()
            await self._writer.open(self._connect)
            await self._threads.run(self._files.prepare)
            self._snapshot.unlink(missing_ok=True)
            marked = self._journal.open()
            names, mark = await self._writer.run(lambda connection: self._recover(connection, marked))
            for number in marked:
                self._journal.remove(number)
            await self._threads.run(self._reserved.allocate)
            await self._sweep(names, ours=mark == self._files.mark)
            await self._threads.run(self._leave_to_service)
            await self._mark_anew()
        except Locked as locked:
            words = f"{locked} has the spool {str(self.path)!r} open; stop it, or give this one another spool"
            raise InUse(f"{self._look_at}: {words}", by=str(locked)) from None
        except (OSError, sqlite3.Error, TooNewError, Failure) as error:
            await self.aclose()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if obstacle := unwritable(self.path.parent):
                reason = "; ".join(obstacle)
            raise SettingsMistake(f"{self._look_at}: can not use {str(self.path)!r}: {reason}") from error

    def _connect(self) -> sqlite3.Connection:
        if missed := set_aside_remains(self.path):
            self._logger.error(
                "the spool %s is missing, but what belongs to it is there: that is kept beside it as %s and the like,"
                " and a new spool begun; nothing of it is delivered before it is put back with its file",
                self.path, missed.name,
            )  # fmt: skip
        try:
            return self._checked()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            aside = set_aside(self.path, "unreadable")
            self._logger.error(
                "the spool %s can not be read (%s): it is kept as %s, and a new one begun", self.path, error, aside
            )
            return self._checked()

    def _checked(self) -> sqlite3.Connection:
        connection = connect(self.path)
        try:
            # The tables are those we know, and the one of which every page is read at the start can be read.
            connection.execute(f"SELECT {sql_records.COLUMNS} FROM message LIMIT 0")  # noqa: S608
            connection.execute("SELECT message, number, fate, notice FROM recipient LIMIT 0")
            connection.execute("SELECT message, octets FROM content LIMIT 0")
            connection.execute("SELECT count(*), sum(octets) FROM message").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _recover(self, connection: sqlite3.Connection, marked: Sequence[int]) -> tuple[set[str], str]:
        """Process what the last process left. Returns the bodies that are needed, and the mark of the last start."""
        crashed = [number for number in marked if number > 0]
        connection.executemany(
            "UPDATE message SET unfinished = unfinished + 1 WHERE number = ?", [(number,) for number in crashed]
        )
        sql_records.apply(connection, (), [-number for number in marked if number < 0])
        (self._last,) = connection.execute(
            "SELECT max(coalesce(max(seq), 0), (SELECT coalesce(max(number), 0) FROM message)) FROM sqlite_sequence"
        ).fetchone()
        self._usage = sql_records.total_usage(connection)
        names = {name for (name,) in connection.execute("SELECT body FROM message WHERE body IS NOT NULL")}
        return names, _mark(connection)

    def _leave_to_service(self) -> None:
        """Make the service's user the owner of all files. The command may have created them as root."""
        for ending in ("", "-wal", ".lock", ".trying", ".reserve", ".bodies"):
            with suppress(OSError):
                leave_to_service(self.path.with_name(self.path.name + ending), self.path.parent)

    async def _mark_anew(self) -> None:
        """Write a new random text into the database and beside the bodies, to show that they belong together."""
        mark = secrets.token_hex(16)
        with suppress(Failure):  # on a full disk both keep the old one
            await self._writer.run(lambda connection: _set_mark(connection, mark))
            await self._threads.run(self._files.set_mark, mark)

    async def _sweep(self, names: set[str], *, ours: bool) -> None:
        """Remove the bodies that no record names.

        If the records do not belong to these bodies, because somebody put an older copy of the file there, such bodies
        may be messages. Then they are kept in another folder.
        """
        aside = None if ours else aside_name(self._files.folder, "without-records")
        removed, foreign = await self._threads.run(self._files.sweep, names, aside)
        if removed and aside is not None:
            self._logger.error(
                "the spool %s is another one than that to which the bodies beside it belong:"
                " %d of them are in no record, and are kept in %s",
                self.path, removed, aside,
            )  # fmt: skip
        elif removed:
            self._logger.info("the spool: %d bodies that no message needs any more were removed", removed)
        if foreign:
            self._logger.warning("the spool: %s: not ours, and left alone: %s", self._files.folder, foreign[:10])

    def _number(self, connection: sqlite3.Connection) -> int:
        self._last += 1
        return self._last

    def _note_withdrawn(self, number: int) -> None:
        self._journal.add(-number)

    def _note_taken_back(self, numbers: Collection[int]) -> None:
        for number in numbers:
            self._journal.remove(-number)

    # Out.

    def _lease(
        self, connection: sqlite3.Connection, account: str, now: float, limit: int, but: frozenset[int]
    ) -> tuple[list[SpooledMessage], int | None]:
        due = connection.execute(
            "SELECT number FROM message WHERE state = 'queued' AND account = ? AND due <= ? AND unfinished < ?"
            " ORDER BY due, number LIMIT ?",
            (account, now, SUSPECT, limit + len(but)),
        )
        numbers = [number for (number,) in due if number not in but][:limit]
        suspect = self._suspect
        if suspect is None and len(numbers) < limit:
            found = connection.execute(
                "SELECT number FROM message WHERE state = 'queued' AND account = ? AND due <= ? AND unfinished >= ?"
                " ORDER BY unfinished, due, number LIMIT ?",
                (account, now, SUSPECT, 1 + len(but)),
            )
            suspect = next((number for (number,) in found if number not in but), None)
            numbers += [] if suspect is None else [suspect]
        return self._readable(connection, numbers), suspect

    async def next_due(self, account: str, but: Collection[int]) -> float | None:
        """See :meth:`.store.Store.next_due`."""
        but = frozenset(but)
        found = await self._writer.run(
            lambda connection: connection.execute(
                "SELECT number, due FROM message WHERE state = 'queued' AND account = ? AND unfinished < ?"
                " ORDER BY due, number LIMIT ?",
                (account, self._leasable(but), 1 + len(but)),
            ).fetchall()
        )
        return next((due for number, due in found if number not in but), None)

    def begin(self, number: int) -> None:
        """See :meth:`.store.Store.begin`."""
        self._journal.add(number)

    def give_back(self, number: int) -> None:
        """See :meth:`.store.Store.give_back`."""
        self._journal.remove(number)

    async def record(self, outcome: Outcome) -> None:
        """See :meth:`.store.Store.record`."""
        try:
            await super().record(outcome)
        except StorageFull:
            if not self._reserved.allocated:
                raise
            await self._threads.run(self._reserved.release)
            await super().record(outcome)
        self._journal.remove(outcome.message.number)

    async def room(self) -> Room:
        """See :meth:`.store.Store.room`. The file system is asked at most once a second."""
        asked, free = self._free
        now = asyncio.get_running_loop().time()
        if now - asked >= _FREE_SECONDS:
            async with Answering(ANSWER_SECONDS):
                free = await self._ask_free()
            self._free = (now, free)
        return Room(self._usage.messages, self._usage.octets, free)

    async def _ask_free(self) -> int:
        found = await self._threads.run(os.statvfs, self.path.parent)
        free = found.f_bavail * found.f_frsize
        if not self._reserved.allocated and free > _AMPLE * RESERVED_OCTETS:
            await self._threads.run(self._reserved.allocate)
        return free

    async def announce(self, facts: Mapping[str, str | int]) -> None:
        """See :meth:`.store.Store.announce`."""
        self._logger.info(ANNOUNCED, extra={"facts": facts})

    async def back_up(self, folder: Path) -> Copied:
        """See :meth:`.store.Store.back_up`."""
        given_up = threading.Event()
        async with self._copying:
            self._files.keep()
            try:
                await self._writer.run_outside(
                    lambda connection, between: snapshot(connection, self._snapshot, between)
                )
                return await anyio.to_thread.run_sync(
                    copy_out, self._snapshot, self._files.folder, folder, given_up, abandon_on_cancel=True
                )
            except (OSError, sqlite3.Error) as error:
                raise trouble(error) from error
            finally:
                given_up.set()
                self._snapshot.unlink(missing_ok=True)
                with anyio.CancelScope(shield=True), suppress(Failure):  # the next start removes what is left
                    await self._threads.run(self._files.let_go)

    async def restore(self, folder: Path) -> Copied:
        """See :meth:`.store.Store.restore`."""
        try:
            return await anyio.to_thread.run_sync(restore, folder, self.path)
        except (OSError, sqlite3.Error) as error:
            raise trouble(error) from error

    def last_number(self, connection: Connection) -> int:
        """See :meth:`.movable.Movable.last_number`."""
        return self._last

    def continue_from(self, connection: Connection, last: int) -> None:
        """See :meth:`.movable.Movable.continue_from`."""
        connection.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'message'", (last,))

    async def aclose(self) -> None:
        """See :meth:`.store.Store.aclose`."""
        await self._writer.aclose()
        self._threads.close()
        self._journal.close()
        self._lock.release()


def _mark(connection: sqlite3.Connection) -> str:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'start'").fetchone():
        return ""
    (mark,) = connection.execute("SELECT coalesce(max(mark), '') FROM start").fetchone()
    return str(mark)


def _set_mark(connection: sqlite3.Connection, mark: str) -> None:
    # Earlier versions of this program ignore this table.
    connection.execute("CREATE TABLE IF NOT EXISTS start (mark TEXT NOT NULL)")
    connection.execute("DELETE FROM start")
    connection.execute("INSERT INTO start VALUES (?)", (mark,))
