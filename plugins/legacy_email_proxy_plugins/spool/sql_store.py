"""What the stores have in common: records in SQL, written by the group, and bodies that are kept beside them.

The statements are written in SQLite's words; ``postgres_connection`` knows what PostgreSQL says instead. For that the
driver there is psycopg, whose blocking connections look like ``sqlite3``'s and live in the writer's thread: with an
asynchronous driver every statement would have to be written twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

from ..threads import Threads
from . import sql_records
from .group_commit import Connection, Writer
from .incoming import Arriving, Bodies
from .message import Fate, Outcome, SpooledMessage, State, Submission
from .store import Counted, Damaged, Unreadable

__all__ = ("ENDLESS", "LOOK_AT", "SUSPECT", "RelationalStore", "move")

LOOK_AT = "SPOOL_URL"

SUSPECT = 2
"""Tries without an orderly end after which a message is only tried alone. One crash takes along all its neighbours."""

ENDLESS = 2**31 - 1
"""More than any of them has."""

_TOLD = 100
"""Messages that one line of the log names, at most."""

_Given = tuple[Submission, bytes | None, str | None, int]
_Written = tuple[sql_records.Weight, list[str | None]]
"""By how much there is more, and the bodies that are needed no more."""


class RelationalStore:
    """See :class:`~.store.Store`. A subclass opens it, leases from it and hands out numbers."""

    _cut_short = "unfinished > 0"
    """Of which messages the last try came to no end, as a condition."""

    def __init__(
        self,
        bodies: Bodies,
        threads: Threads,
        logger: logging.Logger,
        *,
        begin: str,
        failure: Callable[[BaseException], BaseException],
    ) -> None:
        self._bodies = bodies
        self._threads = threads
        self._logger = logger
        self._writer = Writer(self._apply, begin, failure, LOOK_AT)
        self._weight = sql_records.Weight()
        self._set_aside_now = sql_records.Weight()
        """What the lease that is being taken has set aside."""
        self._dropped: set[int] = set()
        """What the operator has asked to drop: its try may come to its end after that."""
        self._suspect: int | None = None
        self._leasing = asyncio.Lock()

    def _number(self, connection: Connection) -> int:
        """The number of a new message."""
        raise NotImplementedError

    def _lease(
        self, connection: Connection, account: str, now: float, limit: int, but: frozenset[int]
    ) -> tuple[list[SpooledMessage], int | None]:
        """What is leased, and which message of those that are on their way is only tried alone."""
        raise NotImplementedError

    async def adopt(self, account: str, *, due_before: float) -> int | None:
        """See :meth:`.store.Store.adopt`."""
        count, cut_short, change = await self._writer.run(
            lambda connection: self._adopt(connection, account, due_before)
        )
        self._weight += change
        if cut_short:
            numbers = ",".join(map(str, cut_short[:_TOLD])) + ("…" if len(cut_short) > _TOLD else "")
            self._logger.warning(
                "messages may have been delivered: their last try was cut short, and they may arrive twice",
                extra={"facts": {**({"account": account} if account else {}), "messages": numbers}},
            )
        return count

    def _adopt(
        self, connection: Connection, account: str, due_before: float
    ) -> tuple[int, list[int], sql_records.Weight]:
        """Returns how many messages there are, those of which the last try came to no end, and what that changed."""
        change = sql_records.Weight()
        for notice in sql_records.lost_notices(connection, account):
            # Dropped by an earlier version of this program, which let them wait for it for ever.
            about = sql_records.originals(connection, notice)
            before = sql_records.weigh(connection, about)
            sql_records.abandon_notice(connection, notice, due_before)
            change += sql_records.weigh(connection, about) - before
        connection.execute(
            "UPDATE message SET due = ? WHERE state = 'queued' AND account = ? AND due > ?",
            (due_before, account, due_before),
        )
        (count,) = connection.execute("SELECT count(*) FROM message WHERE account = ?", (account,)).fetchone()
        cut_short = connection.execute(
            f"SELECT number FROM message WHERE state = 'queued' AND account = ? AND {self._cut_short}",  # noqa: S608
            (account,),
        )
        return count, [number for (number,) in cut_short], change

    async def accounts(self) -> Mapping[str, int]:
        """See :meth:`.store.Store.accounts`."""
        return await self._writer.run(
            lambda connection: dict(
                connection.execute("SELECT account, count(*) FROM message GROUP BY account ORDER BY account").fetchall()
            )
        )

    async def counts(self) -> Sequence[Counted]:
        """See :meth:`.store.Store.counts`."""
        found = await self._writer.run(
            lambda connection: connection.execute(
                "SELECT account, state, count(*), min(since) FROM message GROUP BY account, state"
            ).fetchall()
        )
        return [Counted(account, State(state), messages, oldest) for account, state, messages, oldest in found]

    # In.

    def receive(self) -> Arriving:
        """See :meth:`.store.Store.receive`."""
        return Arriving(self.put, self._bodies, self._threads)

    async def put(self, submission: Submission, content: bytes | None, body: str | None, octets: int) -> SpooledMessage:
        """Write the record of a message of which the body, if it has one, is on disk."""
        number = await self._writer.together((submission, content, body, octets))
        self._weight += sql_records.Weight(1, octets)
        return sql_records.spooled(sql_records.Row(number, submission, octets, content, body))

    def _apply(self, connection: Connection, given: list[_Given | int]) -> list[int | None]:
        """What is put gets its number, which is the result; a number is a message that is done, ``None`` if it was
        gone before.
        """
        added, removed = [], []
        numbers: list[int | None] = []
        dropped = {each for each in given if isinstance(each, int) and each in self._dropped}
        gone = dropped - sql_records.existing(connection, dropped) if dropped else dropped
        for each in given:
            if isinstance(each, int):
                removed.append(each)
                numbers.append(None if each in gone else each)
            else:
                submission, content, body, octets = each
                number = self._number(connection)
                added.append(sql_records.Row(number, submission, octets, content, body))
                numbers.append(number)
        sql_records.apply(connection, added, removed)
        return numbers

    # Out.

    async def lease(self, account: str, now: float, limit: int, but: Collection[int]) -> list[SpooledMessage]:
        """See :meth:`.store.Store.lease`."""
        async with self._leasing:
            busy = frozenset(but)
            if self._suspect not in busy:
                self._suspect = None
            while True:
                try:
                    leased, self._suspect = await self._writer.run(
                        lambda connection: self._lease_anew(connection, account, now, limit, busy)
                    )
                except Damaged as damaged:
                    self._weight -= await self._writer.run(
                        partial(self._set_aside, number=damaged.number, reason=damaged)
                    )
                else:
                    self._weight -= self._set_aside_now
                    return leased

    def _lease_anew(
        self, connection: Connection, account: str, now: float, limit: int, but: frozenset[int]
    ) -> tuple[list[SpooledMessage], int | None]:
        self._set_aside_now = sql_records.Weight()
        return self._lease(connection, account, now, limit, but)

    def _leasable(self, but: Collection[int]) -> int:
        """How many tries without an orderly end those have not reached that could be leased now."""
        return SUSPECT if self._suspect in but else ENDLESS

    def _readable(self, connection: Connection, numbers: Sequence[int]) -> list[SpooledMessage]:
        """Of messages that are leased, those that can be read; the others are set aside. Raises :class:`Damaged`."""
        leased: list[SpooledMessage] = []
        found = sql_records.fetch_all(connection, numbers)
        for number in numbers:
            message = found.get(number)
            if isinstance(message, Damaged):
                raise message
            if isinstance(message, Unreadable):
                self._set_aside_now += self._set_aside(connection, number, message)
            elif message is not None:
                leased.append(message)
        return leased

    def _set_aside(self, connection: Connection, number: int, reason: Unreadable) -> sql_records.Weight:
        self._logger.error("message %d is set aside: %s", number, reason)
        before = sql_records.weigh(connection, [number])
        move(connection, number, State.SET_ASIDE, str(reason))
        return before

    async def record(self, outcome: Outcome) -> None:
        """See :meth:`.store.Store.record`."""
        change, bodies = await self._written(outcome)
        self._weight += change
        await self._remove(bodies)

    async def _written(self, outcome: Outcome) -> _Written:
        message = outcome.message
        if outcome.last_of_it:
            if await self._writer.together(message.number, patient=True) is None:
                return sql_records.Weight(), []
            return sql_records.Weight(-1, -message.octets), [message.body]
        return await self._writer.run(lambda connection: self._record(connection, outcome))

    def _record(self, connection: Connection, outcome: Outcome) -> _Written:
        number = outcome.message.number
        if not sql_records.existing(connection, [number]):
            # The operator has dropped it meanwhile: away with it, and nobody is told.
            return sql_records.Weight(), []
        about = [number, *sql_records.originals(connection, number)]
        before = sql_records.weigh(connection, about)
        bodies = self._close(connection, outcome, about)
        return sql_records.weigh(connection, about) - before, bodies

    def _close(self, connection: Connection, outcome: Outcome, about: list[int]) -> list[str | None]:
        """Returns the bodies that are needed no more; what is new is added to ``about``."""
        number = outcome.message.number
        sql_records.update_recipients(connection, number, outcome.changed)
        for notice in outcome.notices:
            written = self._number(connection)
            row = sql_records.Row(written, notice.submission, len(notice.content), notice.content, None, notice=True)
            sql_records.apply(connection, [row], ())
            about.append(written)
            connection.executemany(
                "UPDATE recipient SET notice = ? WHERE message = ? AND number = ?",
                [(written, number, place) for place in notice.about],
            )
        connection.execute(
            "UPDATE message SET due = ?, since = ?, tries = tries + 1, warned = CASE WHEN ? THEN 1 ELSE warned END,"
            " reason = ?, unfinished = CASE WHEN ? THEN 0 ELSE ? END,"
            " state = CASE WHEN state = 'held' AND ? = 'queued' THEN 'held' ELSE ? END WHERE number = ?",
            (
                outcome.due, outcome.message.since, outcome.warned, outcome.reason, outcome.orderly,
                outcome.message.unfinished + 1, outcome.state.value, outcome.state.value, number,
            ),
        )  # fmt: skip
        return self._settled(connection, number, outcome.due)

    def _settled(self, connection: Connection, number: int, now: float) -> list[str | None]:
        """The bodies of what is removed, now that some recipients' fates have changed."""
        removed = [*sql_records.settle_notice(connection, number, now)]
        if gone := sql_records.settle(connection, number, now):
            removed.append(gone)
        return [body for _, body in removed]

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
        return await self._writer.run(lambda connection: sql_records.fetch(connection, number))

    async def move(self, number: int, state: State, now: float) -> bool:
        """See :meth:`.store.Store.move`."""

        def work(connection: Connection) -> tuple[bool, sql_records.Weight]:
            before = sql_records.weigh(connection, [number])
            revived = (Fate.WAITING.value, number, Fate.DEAD.value, Fate.FAILED.value)
            if state is State.QUEUED:
                connection.execute(
                    "UPDATE recipient SET fate = ?, notice = NULL WHERE message = ? AND fate IN (?, ?)", revived
                )
                connection.execute(
                    "UPDATE message SET due = ?, unfinished = 0, reason = '',"
                    " since = CASE WHEN state = 'queued' THEN since ELSE ? END WHERE number = ?",
                    (now, now, number),
                )
            moved = move(connection, number, state)
            return moved, sql_records.weigh(connection, [number]) - before

        moved, change = await self._writer.run(work)
        self._weight += change
        return moved

    async def drop(self, number: int, now: float) -> bool:
        """See :meth:`.store.Store.drop`."""

        def work(connection: Connection) -> _Written | None:
            about = [number, *sql_records.originals(connection, number)]
            before = sql_records.weigh(connection, about)
            removed = sql_records.delete(connection, number)
            if removed is None:
                return None
            # Those whom it was about have not been told, and won't be: they are kept, for the operator.
            removed_too = sql_records.abandon_notice(connection, number, now)
            return sql_records.weigh(connection, about) - before, [body for _, body in (removed, *removed_too)]

        self._dropped.add(number)
        done = await self._writer.run(work)
        if done is None:
            return False
        self._weight += done[0]
        await self._remove(done[1])
        return True


def move(connection: Connection, number: int, state: State, reason: str = "") -> bool:
    """Change a message's state; returns whether there is such a message."""
    changed = connection.execute(
        "UPDATE message SET state = ?, reason = CASE WHEN ? = '' THEN reason ELSE ? END WHERE number = ?",
        (state.value, reason, reason, number),
    )
    return bool(changed.rowcount == 1)


def _content(connection: Connection, number: int) -> bytes | Unreadable:
    try:
        message = sql_records.fetch(connection, number, with_content=True)
    except Damaged:
        raise
    except Unreadable as error:
        return error
    if message is None or message.content is None:
        return Unreadable("it is gone")
    return message.content
