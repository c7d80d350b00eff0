"""The store of ``sqlite:///…``: one file, one writer, small contents in it and large ones beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio

from legacy_email_proxy.contracts import Failure, SettingsMistake, StorageFull

from ..threads import Threads
from . import rows
from .arriving import Arriving
from .bodies import Bodies
from .lock import Locked, SpoolLock
from .marks import Marks
from .message import Fate, Outcome, SpooledMessage, State, Submission
from .reserve import RESERVE_OCTETS, Reserve
from .schema import TooNewError, connect, is_damage, set_aside
from .store import Room, Unreadable
from .writer import Writer

__all__ = ("LOOK_AT", "SQLiteStore")

LOOK_AT = "SPOOL_URL"

_FREE_SECONDS = 1.0
_AMPLE = 16
"""So many times the reserve must be free before it is kept back again."""
_SUSPECT = 2
"""Tries without an orderly end after which a message is only tried alone. One crash takes along all its neighbours."""


_Given = tuple[Submission, bytes | None, str | None, int]


class SQLiteStore:
    """See :class:`~.store.Store`."""

    def __init__(self, path: Path, logger: logging.Logger) -> None:
        self.path = path
        self._logger = logger
        self._lock = SpoolLock(path)
        self._writer = Writer(self._apply, LOOK_AT)
        self._threads = Threads(LOOK_AT)
        self._bodies = Bodies(path.with_name(f"{path.name}.bodies"), self._threads)
        self._messages = self._octets = 0
        self._free: tuple[float, int | None] = (float("-inf"), None)
        self._suspect: int | None = None
        self._leasing = asyncio.Lock()
        self._marks = Marks(path.with_name(f"{path.name}.trying"))
        self._reserve = Reserve(path.with_name(f"{path.name}.reserve"))
        self._last = 0

    async def open(self) -> None:
        """See :meth:`.store.Store.open`."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.take()
            await self._writer.open(self._connect)
            await self._threads.run(self._bodies.prepare)
            crashed = self._marks.open()
            names = await self._writer.run(lambda connection: self._take_stock(connection, crashed))
            self._marks.wipe()
            await self._threads.run(self._reserve.keep)
            await self._sweep(names)
        except Locked as locked:
            raise SettingsMistake(
                f"{LOOK_AT}: {locked} has the spool {str(self.path)!r} open; stop it, or give this one another spool"
            ) from None
        except (OSError, sqlite3.Error, TooNewError, Failure) as error:
            await self.aclose()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise SettingsMistake(f"{LOOK_AT}: can not use {str(self.path)!r}: {reason}") from error

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._checked()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            aside = set_aside(self.path)
            self._logger.error(
                "the spool %s can not be read (%s): it is kept as %s, and a new one begun", self.path, error, aside
            )
            return self._checked()

    def _checked(self) -> sqlite3.Connection:
        connection = connect(self.path)
        try:
            # The tables are those we know, and the one of which every page is read at the start can be read.
            connection.execute(f"SELECT {rows.COLUMNS} FROM message LIMIT 0")  # noqa: S608
            connection.execute("SELECT message, number, fate, notice FROM recipient LIMIT 0")
            connection.execute("SELECT message, octets FROM content LIMIT 0")
            connection.execute("SELECT count(*), sum(octets) FROM message").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _take_stock(self, connection: sqlite3.Connection, crashed: Sequence[int]) -> set[str]:
        connection.executemany(
            "UPDATE message SET unfinished = unfinished + 1 WHERE number = ?", [(number,) for number in crashed]
        )
        (self._last,) = connection.execute(
            "SELECT max(coalesce(max(seq), 0), (SELECT coalesce(max(number), 0) FROM message)) FROM sqlite_sequence"
        ).fetchone()
        self._messages, self._octets = connection.execute(
            "SELECT count(*), coalesce(sum(octets), 0) FROM message"
        ).fetchone()
        return {name for (name,) in connection.execute("SELECT body FROM message WHERE body IS NOT NULL")}

    async def _sweep(self, names: set[str]) -> None:
        removed, foreign = await self._threads.run(self._bodies.sweep, names)
        if removed:
            self._logger.info("the spool: %d bodies that no message needs any more were removed", removed)
        if foreign:
            self._logger.warning("the spool: %s: not ours, and left alone: %s", self._bodies.folder, foreign[:10])

    async def adopt(self, account: str, *, due_before: float) -> int:
        """See :meth:`.store.Store.adopt`."""

        def work(connection: sqlite3.Connection) -> tuple[int, list[int]]:
            connection.execute(
                "UPDATE message SET due = ? WHERE state = 'queued' AND account = ? AND due > ?",
                (due_before, account, due_before),
            )
            (count,) = connection.execute("SELECT count(*) FROM message WHERE account = ?", (account,)).fetchone()
            unfinished = connection.execute(
                "SELECT number FROM message WHERE state = 'queued' AND account = ? AND unfinished > 0", (account,)
            )
            return count, [number for (number,) in unfinished]

        count, unfinished = await self._writer.run(work)
        if unfinished:
            self._logger.warning(
                "messages may have been delivered: their last try was cut short, and they may arrive twice",
                extra={"facts": {"account": account, "messages": ",".join(map(str, unfinished))}},
            )
        return count

    async def accounts(self) -> Mapping[str, int]:
        """See :meth:`.store.Store.accounts`."""
        return await self._writer.run(
            lambda connection: dict(
                connection.execute("SELECT account, count(*) FROM message GROUP BY account ORDER BY account").fetchall()
            )
        )

    # In.

    def receive(self) -> Arriving:
        """See :meth:`.store.Store.receive`."""
        return Arriving(self.put, self._bodies, self._threads)

    async def put(self, submission: Submission, content: bytes | None, body: str | None, octets: int) -> SpooledMessage:
        """Write the record of a message of which the body, if it has one, is on disk."""
        number = await self._writer.together((submission, content, body, octets))
        self._messages += 1
        self._octets += octets
        return rows.spooled(rows.Row(number, submission, octets, content, body))

    def _apply(self, connection: sqlite3.Connection, given: list[_Given | int]) -> list[int]:
        """What is put gets its number, which is the result; a number is a message that is done."""
        added, removed, numbers = [], [], []
        for each in given:
            if isinstance(each, int):
                removed.append(each)
                numbers.append(each)
            else:
                submission, content, body, octets = each
                added.append(rows.Row(self._number(), submission, octets, content, body))
                numbers.append(self._last)
        rows.apply(connection, added, removed)
        return numbers

    def _number(self) -> int:
        self._last += 1
        return self._last

    # Out.

    async def lease(self, account: str, now: float, limit: int, but: Collection[int]) -> list[SpooledMessage]:
        """See :meth:`.store.Store.lease`."""
        async with self._leasing:
            busy = frozenset(but)
            if self._suspect not in busy:
                self._suspect = None
            leased, self._suspect, unreadable = await self._writer.run(
                lambda connection: self._lease(connection, account, now, limit, busy)
            )
        for number, reason in unreadable:
            self._logger.error("message %d is set aside: %s", number, reason)
        return leased

    def _lease(
        self, connection: sqlite3.Connection, account: str, now: float, limit: int, but: frozenset[int]
    ) -> tuple[list[SpooledMessage], int | None, list[tuple[int, str]]]:
        due = connection.execute(
            "SELECT number FROM message WHERE state = 'queued' AND account = ? AND due <= ? AND unfinished < ?"
            " ORDER BY due, number LIMIT ?",
            (account, now, _SUSPECT, limit + len(but)),
        )
        numbers = [number for (number,) in due if number not in but][:limit]
        suspect = self._suspect
        if suspect is None and len(numbers) < limit:
            found = connection.execute(
                "SELECT number FROM message WHERE state = 'queued' AND account = ? AND due <= ? AND unfinished >= ?"
                " ORDER BY unfinished, due, number LIMIT ?",
                (account, now, _SUSPECT, 1 + len(but)),
            )
            suspect = next((number for (number,) in found if number not in but), None)
            numbers += [] if suspect is None else [suspect]
        leased: list[SpooledMessage] = []
        unreadable: list[tuple[int, str]] = []
        readable = rows.fetch_all(connection, numbers)
        for number in numbers:
            message = readable.get(number)
            if isinstance(message, Unreadable):
                unreadable.append((number, str(message)))
                _move(connection, number, State.SET_ASIDE, str(message))
            elif message is not None:
                leased.append(message)
        return leased, suspect, unreadable

    async def next_due(self, account: str, but: Collection[int]) -> float | None:
        """See :meth:`.store.Store.next_due`."""
        but = frozenset(but)
        found = await self._writer.run(
            lambda connection: connection.execute(
                "SELECT number, due FROM message WHERE state = 'queued' AND account = ? ORDER BY due, number LIMIT ?",
                (account, 1 + len(but)),
            ).fetchall()
        )
        return next((due for number, due in found if number not in but), None)

    def begin(self, number: int) -> None:
        """See :meth:`.store.Store.begin`."""
        self._marks.set(number)

    def give_back(self, number: int) -> None:
        """See :meth:`.store.Store.give_back`."""
        self._marks.clear(number)

    async def record(self, outcome: Outcome) -> None:
        """See :meth:`.store.Store.record`."""
        message = outcome.message
        try:
            added, removed = await self._written(outcome)
        except StorageFull:
            if not self._reserve.kept:
                raise
            await self._threads.run(self._reserve.spend)
            added, removed = await self._written(outcome)
        self._marks.clear(message.number)
        self._messages += len(outcome.notices) - len(removed)
        self._octets += added - sum(octets for octets, _ in removed)
        await self._remove(body for _, body in removed)

    async def _written(self, outcome: Outcome) -> tuple[int, list[tuple[int, str | None]]]:
        """See :meth:`_record`."""
        message = outcome.message
        if outcome.last_of_it:
            await self._writer.together(message.number, patient=True)
            return 0, [(message.octets, message.body)]
        return await self._writer.run(lambda connection: self._record(connection, outcome))

    def _record(self, connection: sqlite3.Connection, outcome: Outcome) -> tuple[int, list[tuple[int, str | None]]]:
        """Returns the octets that the notices add, and of each message that is removed its octets and its body."""
        number = outcome.message.number
        rows.update_recipients(connection, number, outcome.changed)
        for notice in outcome.notices:
            written = self._number()
            row = rows.Row(written, notice.submission, len(notice.content), notice.content, None, notice=True)
            rows.apply(connection, [row], ())
            connection.executemany(
                "UPDATE recipient SET notice = ? WHERE message = ? AND number = ?",
                [(written, number, place) for place in notice.about],
            )
        connection.execute(
            "UPDATE message SET due = ?, tries = tries + 1, warned = max(warned, ?), reason = ?,"
            " unfinished = CASE WHEN ? THEN 0 ELSE unfinished + 1 END,"
            " state = CASE WHEN state = 'held' AND ? = 'queued' THEN 'held' ELSE ? END WHERE number = ?",
            (
                outcome.due, outcome.warned, outcome.reason, outcome.orderly, outcome.state.value, outcome.state.value,
                number,
            ),
        )  # fmt: skip
        removed = [*rows.settle_notice(connection, number, outcome.due)]
        if gone := rows.settle(connection, number, outcome.due):
            removed.append(gone)
        return sum(len(notice.content) for notice in outcome.notices), removed

    async def _remove(self, bodies: Iterable[str | None]) -> None:
        names = [body for body in bodies if body is not None]
        if names:
            await self._threads.run(self._bodies.remove, names)

    async def content(self, message: SpooledMessage) -> AsyncGenerator[bytes, None]:
        """See :meth:`.store.Store.content`."""
        if message.body is not None:
            async with aclosing(self._bodies.read(message.body, message.octets)) as pieces:
                async for piece in pieces:
                    yield piece
        elif message.content is not None:
            yield message.content
        else:
            found = await self._writer.run(lambda connection: _content(connection, message.number))
            if isinstance(found, Unreadable):
                raise found
            yield found

    # For the operator.

    async def numbers(self) -> Sequence[int]:
        """See :meth:`.store.Store.numbers`."""
        found = await self._writer.run(
            lambda connection: connection.execute("SELECT number FROM message ORDER BY number").fetchall()
        )
        return [number for (number,) in found]

    async def get(self, number: int) -> SpooledMessage | None:
        """See :meth:`.store.Store.get`."""
        return await self._writer.run(lambda connection: rows.fetch(connection, number))

    async def move(self, number: int, state: State, now: float) -> bool:
        """See :meth:`.store.Store.move`."""

        def work(connection: sqlite3.Connection) -> bool:
            revived = (Fate.WAITING.value, number, Fate.DEAD.value, Fate.FAILED.value)
            if state is State.QUEUED:
                connection.execute(
                    "UPDATE recipient SET fate = ?, notice = NULL WHERE message = ? AND fate IN (?, ?)", revived
                )
                connection.execute(
                    "UPDATE message SET due = ?, unfinished = 0, reason = '',"
                    " since = CASE WHEN state IN ('queued', 'held') THEN since ELSE ? END WHERE number = ?",
                    (now, now, number),
                )
            return _move(connection, number, state)

        return await self._writer.run(work)

    async def drop(self, number: int) -> bool:
        """See :meth:`.store.Store.drop`."""
        removed = await self._writer.run(lambda connection: rows.delete(connection, number))
        if removed is None:
            return False
        self._messages -= 1
        self._octets -= removed[0]
        await self._remove([removed[1]])
        return True

    async def room(self) -> Room:
        """See :meth:`.store.Store.room`. The disk is asked once a second."""
        asked, free = self._free
        now = anyio.current_time()
        if now - asked >= _FREE_SECONDS:
            found = await self._threads.run(os.statvfs, self.path.parent)
            free = found.f_bavail * found.f_frsize
            if not self._reserve.kept and free > _AMPLE * RESERVE_OCTETS:
                await self._threads.run(self._reserve.keep)
            self._free = (now, free)
        return Room(self._messages, self._octets, free)

    async def aclose(self) -> None:
        """See :meth:`.store.Store.aclose`."""
        await self._writer.aclose()
        self._threads.close()
        self._marks.close()
        self._lock.release()


def _move(connection: sqlite3.Connection, number: int, state: State, reason: str = "") -> bool:
    changed = connection.execute(
        "UPDATE message SET state = ?, reason = CASE WHEN ? = '' THEN reason ELSE ? END WHERE number = ?",
        (state.value, reason, reason, number),
    )
    return changed.rowcount == 1


def _content(connection: sqlite3.Connection, number: int) -> bytes | Unreadable:
    try:
        message = rows.fetch(connection, number, with_content=True)
    except Unreadable as error:
        return error
    if message is None or message.content is None:
        return Unreadable("it is gone")
    return message.content
