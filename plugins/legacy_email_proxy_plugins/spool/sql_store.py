"""The common half of both stores: records are rows of SQL tables, and large bodies are kept beside them.

The statements are in SQLite's dialect; ``postgres_connection`` translates them. Both stores use blocking connections in
the thread of ``group_commit``. An asynchronous driver for PostgreSQL would need a second version of each statement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from legacy_email_proxy.contracts import QueueFilter

from ..threads import Threads
from . import sql_records, sql_search
from .group_commit import Connection, Writer
from .incoming import Bodies, IncomingMessage
from .message import Fate, Outcome, SpooledMessage, State, Submission
from .movable import Movable
from .store import LOOK_AT, Counted, Damaged, Interrupted, Unreadable

__all__ = ("ENDLESS", "SUSPECT", "RelationalStore", "move")

SUSPECT = 2
"""After so many cut-off tries a message is only tried alone. One crash cuts off all tries that run at that time."""

ENDLESS = 2**31 - 1
"""More cut-off tries than any message has."""

_TOLD = 100
"""Message numbers in one log line, at most."""


@dataclass(slots=True, eq=False)
class _NewMessage:
    """A message that is being stored. The writer's thread sets ``number``, the event loop sets ``withdrawn``."""

    submission: Submission
    content: bytes | None
    body: str | None
    octets: int
    number: int | None = None
    withdrawn: bool = False


_Written = tuple[sql_records.Usage, list[str | None]]
"""The change of the usage, and the bodies that are not needed any more."""


class RelationalStore(Movable):
    """See :class:`~.store.Store`. A subclass opens the store, leases messages and gives numbers to new ones."""

    _cut_short = "unfinished > 0"
    """The SQL condition for messages whose last try was cut off."""

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
        self._usage = sql_records.Usage()
        self._set_aside_now = sql_records.Usage()
        """Usage of the messages that the current lease has set aside."""
        self._dropped: set[int] = set()
        """Messages that the operator has dropped. A try of one may still end after that."""
        self._withdrawn: set[int] = set()
        """Messages that must not be delivered, because their device was told that they were not stored. They are
        removed as soon as the store can be written.
        """
        self._suspect: int | None = None
        self._leasing = asyncio.Lock()

    def _number(self, connection: Connection) -> int:
        """The number of a new message."""
        raise NotImplementedError

    def _lease(
        self, connection: Connection, account: str, now: float, limit: int, but: frozenset[int]
    ) -> tuple[list[SpooledMessage], int | None]:
        """The leased messages, and the number of the suspect among those that are being tried."""
        raise NotImplementedError

    async def adopt(self, account: str, *, due_before: float) -> int | None:
        """See :meth:`.store.Store.adopt`."""
        count, cut_short, change = await self._writer.run(
            lambda connection: self._adopt(connection, account, due_before)
        )
        self._usage += change
        if cut_short:
            numbers = ",".join(map(str, cut_short[:_TOLD])) + ("…" if len(cut_short) > _TOLD else "")
            self._logger.warning(
                "messages may have been delivered: their last try was cut short, and they may arrive twice",
                extra={"facts": {**({"account": account} if account else {}), "messages": numbers}},
            )
        return count

    def _adopt(
        self, connection: Connection, account: str, due_before: float
    ) -> tuple[int, list[int], sql_records.Usage]:
        """Returns the number of messages, those whose last try was cut off, and the change of the usage."""
        change = sql_records.Usage()
        for notice in sql_records.lost_notices(connection, account):
            # An earlier version of this program dropped notifications without that, and the originals stayed for ever.
            about = sql_records.originals(connection, notice)
            before = sql_records.usage(connection, about)
            sql_records.abandon_notice(connection, notice, due_before)
            change += sql_records.usage(connection, about) - before
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

    def receive(self) -> IncomingMessage:
        """See :meth:`.store.Store.receive`."""
        return self.arriving(self.put)

    async def put(self, submission: Submission, content: bytes | None, body: str | None, octets: int) -> SpooledMessage:
        """Write the record of a message. If it has a body, that is on disk already.

        When the caller does not get the number, because it has waited too long or the connection broke, the record may
        have been written, or may be written later. Such a record is removed.
        """
        new = _NewMessage(submission, content, body, octets)
        try:
            number = await self._writer.together(new)
        except (Interrupted, asyncio.CancelledError):
            self._withdraw(new)
            raise
        self._usage += sql_records.Usage(1, octets)
        return sql_records.spooled(sql_records.Row(number, submission, octets, content, body))

    def _withdraw(self, new: _NewMessage) -> None:
        # The order counts: either the thread sees ``withdrawn`` and writes nothing, or the number is seen here.
        new.withdrawn = True
        number = new.number
        new.content = None  # while the disk hangs, many of these wait for the thread
        if number is not None:
            self._withdrawn.add(number)
            self._note_withdrawn(number)
            self._writer.begin(self._take_back, self._taken_back)

    def _take_back(self, connection: Connection) -> Collection[int]:
        numbers = list(self._withdrawn)
        sql_records.apply(connection, (), numbers)
        return numbers

    def _taken_back(self, numbers: Collection[int]) -> None:
        self._withdrawn.difference_update(numbers)
        self._note_taken_back(numbers)

    def _note_withdrawn(self, number: int) -> None:
        """Write the number down for the next start, in case this process ends before the message is removed."""
        raise NotImplementedError

    def _note_taken_back(self, numbers: Collection[int]) -> None:
        raise NotImplementedError

    def _apply(self, connection: Connection, given: list[_NewMessage | int]) -> list[int | None]:
        """Store new messages and remove delivered ones, which are given as numbers.

        The result of a new message is its number. The result of a delivered one is its number, or ``None`` if the
        operator had dropped it.
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
                content = each.content
                if not each.withdrawn:
                    each.number = self._number(connection)
                if each.withdrawn:
                    numbers.append(None)
                    continue
                assert each.number is not None  # noqa: S101 (for the type checker)
                added.append(sql_records.Row(each.number, each.submission, each.octets, content, each.body))
                numbers.append(each.number)
        sql_records.apply(connection, added, removed)
        return numbers

    # Out.

    async def lease(self, account: str, now: float, limit: int, but: Collection[int]) -> list[SpooledMessage]:
        """See :meth:`.store.Store.lease`."""
        async with self._leasing:
            if self._withdrawn:  # removing them has failed before
                self._writer.begin(self._take_back, self._taken_back)
            busy = frozenset(but) | self._withdrawn
            if self._suspect not in busy:
                self._suspect = None
            while True:
                try:
                    leased, self._suspect = await self._writer.run(
                        lambda connection: self._lease_anew(connection, account, now, limit, busy)
                    )
                except Damaged as damaged:
                    self._usage -= await self._writer.run(
                        partial(self._set_aside, number=damaged.number, reason=damaged)
                    )
                else:
                    self._usage -= self._set_aside_now
                    # One may have been withdrawn after the statement was prepared.
                    return [message for message in leased if message.number not in self._withdrawn]

    def _lease_anew(
        self, connection: Connection, account: str, now: float, limit: int, but: frozenset[int]
    ) -> tuple[list[SpooledMessage], int | None]:
        self._set_aside_now = sql_records.Usage()
        return self._lease(connection, account, now, limit, but)

    def _leasable(self, but: Collection[int]) -> int:
        """A message can be leased now if it has fewer cut-off tries than this."""
        return SUSPECT if self._suspect in but else ENDLESS

    def _readable(self, connection: Connection, numbers: Sequence[int]) -> list[SpooledMessage]:
        """Read leased messages. Those that can not be read are set aside. Raises :class:`Damaged`."""
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

    def _set_aside(self, connection: Connection, number: int, reason: Unreadable) -> sql_records.Usage:
        self._logger.error("message %d is set aside: %s", number, reason)
        before = sql_records.usage(connection, [number])
        move(connection, number, State.SET_ASIDE, str(reason))
        return before

    async def record(self, outcome: Outcome) -> None:
        """See :meth:`.store.Store.record`."""
        change, bodies = await self._written(outcome)
        self._usage += change
        await self._remove(bodies)

    async def _written(self, outcome: Outcome) -> _Written:
        message = outcome.message
        if outcome.last_of_it:
            if await self._writer.together(message.number, can_wait=True) is None:
                return sql_records.Usage(), []
            return sql_records.Usage(-1, -message.octets), [message.body]
        return await self._writer.run(lambda connection: self._record(connection, outcome))

    def _record(self, connection: Connection, outcome: Outcome) -> _Written:
        number = outcome.message.number
        if not sql_records.existing(connection, [number]):
            # The operator has dropped it meanwhile, so no sender is notified.
            return sql_records.Usage(), []
        about = [number, *sql_records.originals(connection, number)]
        before = sql_records.usage(connection, about)
        bodies = self._close(connection, outcome, about)
        return sql_records.usage(connection, about) - before, bodies

    def _close(self, connection: Connection, outcome: Outcome, about: list[int]) -> list[str | None]:
        """Returns the bodies that are not needed any more. Numbers of new notifications are added to ``about``."""
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
        """Remove what is finished after some recipients' fates have changed. Returns the bodies of what was removed."""
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

    async def search(self, wanted: QueueFilter, after: int) -> tuple[Sequence[int], int | None]:
        """See :meth:`.store.Store.search`."""
        return await self._writer.run(lambda connection: sql_search.search(connection, wanted, after))

    async def read(self, numbers: Sequence[int]) -> Mapping[int, SpooledMessage | Unreadable]:
        """See :meth:`.store.Store.read`."""
        try:
            return await self._writer.run(lambda connection: sql_search.read(connection, numbers))
        except Damaged:
            return await self._read_one_by_one(numbers)

    async def _read_one_by_one(self, numbers: Sequence[int]) -> Mapping[int, SpooledMessage | Unreadable]:
        found: dict[int, SpooledMessage | Unreadable] = {}
        for number in numbers:
            try:
                message = await self.get(number)
            except Unreadable as error:
                found[number] = error
            else:
                if message is not None:
                    found[number] = message
        return found

    async def get(self, number: int) -> SpooledMessage | None:
        """See :meth:`.store.Store.get`."""
        return await self._writer.run(lambda connection: sql_records.fetch(connection, number))

    async def move(self, number: int, state: State, now: float) -> bool:
        """See :meth:`.store.Store.move`."""

        def work(connection: Connection) -> tuple[bool, sql_records.Usage]:
            before = sql_records.usage(connection, [number])
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
            return moved, sql_records.usage(connection, [number]) - before

        moved, change = await self._writer.run(work)
        self._usage += change
        return moved

    async def drop(self, number: int, now: float) -> bool:
        """See :meth:`.store.Store.drop`."""

        def work(connection: Connection) -> _Written | None:
            about = [number, *sql_records.originals(connection, number)]
            before = sql_records.usage(connection, about)
            removed = sql_records.delete(connection, number)
            if removed is None:
                return None
            # Nobody will be notified of the failed recipients of the original: it is kept as dead, for the operator.
            removed_too = sql_records.abandon_notice(connection, number, now)
            return sql_records.usage(connection, about) - before, [body for _, body in (removed, *removed_too)]

        self._dropped.add(number)
        done = await self._writer.run(work)
        if done is None:
            return False
        self._usage += done[0]
        await self._remove(done[1])
        return True


def move(connection: Connection, number: int, state: State, reason: str = "") -> bool:
    """Change a message's state. Returns whether the message exists."""
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
