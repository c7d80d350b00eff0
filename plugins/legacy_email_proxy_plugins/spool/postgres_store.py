"""The store of ``postgresql://…``: a database that several proxies share, and that may be unreachable for a while.

A proxy leases a message before it delivers it, and renews the lease while it works on it. When a proxy dies, its leases
end by the database's clock, and another proxy takes the messages over. A proxy that can not renew a lease stops before
the end of the content, so that two proxies never deliver the same message.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from legacy_email_proxy.contracts import Failure, SettingsMistake

from ..threads import Threads
from . import sql_records
from .group_commit import Connection
from .leases import Leases
from .message import Fate, Outcome, SpooledMessage, Submission
from .migrations import MIGRATIONS, SCHEMA, migrate
from .postgres_bodies import PostgresBodies
from .postgres_connection import (
    CHANNEL,
    InstanceId,
    PostgresConnection,
    conninfo,
    end_other_connections,
    listen,
    listeners,
    server_name,
)
from .sql_store import ENDLESS, SUSPECT, RelationalStore
from .store import ANNOUNCED, LOOK_AT, Copied, Interrupted, Room, TooNewError

__all__ = ("LEASE_SECONDS", "PostgresStore")

LEASE_SECONDS = 60.0
_RENEWALS = 3
"""Renewals in the time of a lease, so that two may fail."""
_NUMBERS = 100
"""Message numbers that are taken from the sequence at a time."""
_SWEEP_TURNS = 180
"""Unused bodies are removed once in so many renewals, which is an hour."""
_ORPHAN = "1 day"
"""A body of this age without a record is removed. No device takes that long to send a message."""

# Leases of other proxies are taken over only if this connection is at least as old as a lease is long. After a time
# when the database was unreachable, the others then had the time to record what they delivered meanwhile.
_OPEN_TO_US = "(owner IS NULL OR owner = ? OR (? AND leased_until < clock_timestamp()))"
_LEASE = f"""
WITH found AS (
    SELECT number, owner FROM message
    WHERE state = 'queued' AND account = ? AND due <= ? AND unfinished >= ? AND unfinished < ?
        AND number <> ALL (?::bigint[]) AND {_OPEN_TO_US}
    ORDER BY due, number LIMIT ? FOR UPDATE SKIP LOCKED)
UPDATE message SET owner = ?, leased_until = clock_timestamp() + current_setting('spool.lease')::interval,
    unfinished = unfinished + 1
FROM found WHERE message.number = found.number RETURNING message.due, message.number, found.owner
"""  # noqa: S608
_NEXT_DUE = (
    "SELECT due FROM message WHERE state = 'queued' AND account = ? AND unfinished < ? AND number <> ALL (?::bigint[])"  # noqa: S608
    f" AND {_OPEN_TO_US} ORDER BY due, number LIMIT 1"
)
_BACKUP = f"the spool is in PostgreSQL: back it up with `pg_dump --schema={SCHEMA}`, and put it back with `psql`"
_FREE = "owner = NULL, leased_until = NULL"


class PostgresStore(RelationalStore):
    """See :class:`~.store.Store`."""

    version = len(MIGRATIONS)
    _cut_short = "unfinished > 0 AND owner IS NULL"

    def __init__(self, url: str, state_dir: Path, logger: logging.Logger) -> None:
        """Raises ``ValueError`` for a URL that is none."""
        self._info = conninfo(url)
        self._name = server_name(self._info)
        self.warnings: Sequence[str] = ()
        self._instance = InstanceId(state_dir / f"spool.{hashlib.sha256(self._name.encode()).hexdigest()[:12]}.owner")
        self._leases = Leases(LEASE_SECONDS)
        threads = Threads(LOOK_AT)
        self._postgres_bodies = PostgresBodies(
            lambda: PostgresConnection(self._info, self._prepare_for_bodies, LOOK_AT), threads, self._instance.name
        )
        super().__init__(self._postgres_bodies, threads, logger, begin="BEGIN", failure=lambda error: error)
        self._connection: PostgresConnection
        self._wake: Callable[[], None]
        self._waiting: dict[str, float] = {}
        self._recovered = False
        self._known = {self._instance.name}
        self._numbers: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, wake: Callable[[], None]) -> None:
        """See :meth:`.store.Store.open`. While no server is there, or none that takes us, that is no obstacle."""
        self._wake = wake
        try:
            await self._writer.open(self._connect)
        except Failure as failure:
            raise SettingsMistake(f"{LOOK_AT}: can not use {self._name}: {failure.detail}") from None

    async def adopt(self, account: str, *, due_before: float) -> int | None:
        """See :meth:`.store.Store.adopt`."""
        if not self._tasks:
            for warning in self.warnings:
                self._logger.warning("the spool %s: %s", self._name, warning)
            self._instance.take()
            self._start(self._renew_leases())
            self._start(listen(self._info, self._notified))
        self._waiting[account] = due_before
        try:
            return await self._adopt_waiting(account)
        except Interrupted:
            return None

    async def _adopt_waiting(self, account: str) -> int | None:
        """Adopt the account. It stays in ``_waiting`` until that is committed, so it is repeated after a failure."""
        count = await super().adopt(account, due_before=self._waiting[account])
        self._recovered = True
        for number in self._instance.left_withdrawn:
            self._instance.withdrawn.remove(number)
        self._instance.left_withdrawn = ()
        self._waiting.pop(account, None)
        return count

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    # In the writer's thread.

    def _connect(self) -> PostgresConnection:
        self._connection = PostgresConnection(self._info, self._prepare, LOOK_AT)
        try:
            self._connection.connect()
        except Interrupted as failure:
            if self._connection.needs_somebody:
                raise
            self._logger.warning("%s; devices are told to come back later, until there is one", failure)
        return self._connection

    def _prepare(self, connection: PostgresConnection) -> None:
        self.warnings = _set_up(connection, self._instance.name, self._leases.seconds)
        try:
            migrate(connection)
        except TooNewError as error:
            raise Failure(str(error), look_at=LOOK_AT) from None
        # Otherwise that process could commit a message after this proxy has tried to remove it.
        end_other_connections(connection, self._instance.name)

    def _adopt(
        self, connection: PostgresConnection, account: str, due_before: float
    ) -> tuple[int, list[int], sql_records.Usage]:
        self._recover(connection)
        return super()._adopt(connection, account, due_before)

    def _recover(self, connection: PostgresConnection) -> None:
        """Process what earlier processes left, after the first connect."""
        if self._recovered:
            return
        previous = self._instance.previous
        if previous is not None:
            end_other_connections(connection, previous)
        sql_records.apply(connection, (), [-number for number in self._instance.left_withdrawn])
        # A message that is tried at once after reception has no lease that counted the try.
        connection.execute(
            f"UPDATE message SET {_FREE}, unfinished = greatest(unfinished, 1) WHERE owner = ?",  # noqa: S608
            (previous,),
        )
        self._sweep(connection)
        self._usage = sql_records.total_usage(connection)

    def _sweep(self, connection: PostgresConnection) -> None:
        """Remove bodies without a record: those of the previous process, and old ones of any process."""
        connection.execute(
            "DELETE FROM piece WHERE body IN (SELECT body FROM piece WHERE number = 0"  # noqa: S608
            f" AND (owner = ? OR written < now() - interval '{_ORPHAN}'))"
            " AND NOT EXISTS (SELECT FROM message WHERE message.body = piece.body)",
            (self._instance.previous,),
        )

    def _prepare_for_bodies(self, connection: PostgresConnection) -> None:
        _set_up(connection, self._instance.name, self._leases.seconds)
        # The commit of the record syncs everything before it, so the rows of a body need no sync of their own.
        connection.execute("SET synchronous_commit = off")

    def _may_take_over(self) -> bool:
        return time.monotonic() - self._connection.since >= self._leases.seconds

    def _number(self, connection: PostgresConnection) -> int:
        if not self._numbers:
            taken = connection.execute(
                "SELECT nextval('message_number') FROM generate_series(1, ?) ORDER BY 1 DESC", (_NUMBERS,)
            )
            self._numbers = [number for (number,) in taken]
        return self._numbers.pop()

    # In.

    async def put(self, submission: Submission, content: bytes | None, body: str | None, octets: int) -> SpooledMessage:
        """See :meth:`.sql_store.RelationalStore.put`."""
        asked = self._leases.clock()
        message = await super().put(submission, content, body, octets)
        self._leases.add(message.number, asked, counted=False)
        return message

    def _note_withdrawn(self, number: int) -> None:
        self._instance.withdrawn.add(-number)

    def _note_taken_back(self, numbers: Collection[int]) -> None:
        for number in numbers:
            self._instance.withdrawn.remove(-number)

    # Out.

    async def lease(self, account: str, now: float, limit: int, but: Collection[int]) -> list[SpooledMessage]:
        """See :meth:`.store.Store.lease`."""
        if account in self._waiting:
            await self._adopt_waiting(account)
        asked = self._leases.clock()
        leased = await super().lease(account, now, limit, but)
        for message in leased:
            self._leases.add(message.number, asked, counted=True)
        return leased

    def _lease(
        self, connection: PostgresConnection, account: str, now: float, limit: int, but: frozenset[int]
    ) -> tuple[list[SpooledMessage], int | None]:
        found = self._found(connection, account, now, 0, SUSPECT, but, limit)
        suspect = self._suspect
        if suspect is None and len(found) < limit:
            busy = but.union(number for _, number, _ in found)
            alone = self._found(connection, account, now, SUSPECT, ENDLESS, busy, 1)
            suspect = alone[0][1] if alone else None
            found += alone
        self._log_takeover({owner for _, _, owner in found if owner is not None})
        messages = self._readable(connection, [number for _, number, _ in found])
        for message in messages:
            message.unfinished -= 1  # the database has counted the try that begins now
        return messages, suspect

    def _log_takeover(self, owners: set[str]) -> None:
        new = owners - self._known
        self._known |= owners
        if new:
            self._logger.warning(
                "messages of a proxy that is gone are taken over, as their leases have ended (%s); what it had sent"
                " without writing that down arrives twice",
                ", ".join(sorted(owner.rpartition("/")[0] for owner in new)),
            )

    def _found(
        self,
        connection: PostgresConnection,
        account: str,
        now: float,
        least: int,
        below: int,
        but: Collection[int],
        limit: int,
    ) -> list[tuple[float, int, str | None]]:
        ours = self._instance.name
        found = connection.execute(
            _LEASE, (account, now, least, below, list(but), ours, self._may_take_over(), limit, ours)
        )
        return sorted(found.fetchall())

    async def next_due(self, account: str, but: Collection[int]) -> float | None:
        """See :meth:`.store.Store.next_due`."""
        asked = (account, self._leasable(but), list(but), self._instance.name)
        found = await self._writer.run(
            lambda connection: connection.execute(_NEXT_DUE, (*asked, self._may_take_over())).fetchone()
        )
        return None if found is None else float(found[0])

    def begin(self, number: int) -> None:
        """See :meth:`.store.Store.begin`. The lease has counted the try."""

    def give_back(self, number: int) -> None:
        """See :meth:`.store.Store.give_back`."""
        if self._leases.drop(number):
            self._writer.begin(lambda connection: self._give_back(connection, number))

    def _give_back(self, connection: PostgresConnection, number: int) -> None:
        connection.execute(
            f"UPDATE message SET {_FREE}, unfinished = greatest(unfinished - 1, 0)"  # noqa: S608
            " WHERE number = ? AND owner = ?",
            (number, self._instance.name),
        )

    async def record(self, outcome: Outcome) -> None:
        """See :meth:`.store.Store.record`."""
        await super().record(outcome)
        self._leases.drop(outcome.message.number)

    def _record(self, connection: PostgresConnection, outcome: Outcome) -> tuple[sql_records.Usage, list[str | None]]:
        number = outcome.message.number
        ours = connection.execute(
            f"UPDATE message SET {_FREE} WHERE number = ? AND owner = ?",  # noqa: S608
            (number, self._instance.name),
        )
        if ours.rowcount:
            return super()._record(connection, outcome)
        # It was recorded by a commit whose answer was lost, or another proxy has the lease now. Deliveries are recorded
        # in any case.
        delivered = [each for each in outcome.changed if each.fate is Fate.DELIVERED]
        sql_records.update_recipients(connection, number, delivered)
        # The next renewal counts the usage again.
        return sql_records.Usage(), self._settled(connection, number, outcome.due) if delivered else []

    async def content(self, message: SpooledMessage) -> AsyncGenerator[bytes, None]:
        """See :meth:`.store.Store.content`. Fails before its end when the lease has ended."""
        async with aclosing(super().content(message)) as pieces:
            async for piece in pieces:
                self._check_lease(message.number)
                yield piece
        self._check_lease(message.number)

    def _check_lease(self, number: int) -> None:
        if self._leases.lapsed(number):
            raise Failure("its lease has ended, and another proxy may be trying it", look_at=LOOK_AT)

    async def _renew_leases(self) -> None:
        """Renew the leases, and look for ended leases of other proxies. Never returns."""
        for turn in itertools.count(1):
            await asyncio.sleep(self._leases.seconds / _RENEWALS)
            asked = self._leases.clock()
            try:
                renewed, left = await self._writer.run(partial(self._renew, numbers=self._leases.numbers))
                if turn % _SWEEP_TURNS == 0:
                    await self._writer.run(self._sweep)
            except Failure as failure:
                self._logger.warning("the spool's leases can not be renewed: %s", failure)
                continue
            self._leases.renewed(renewed, asked)
            if left:
                self._wake()

    def _renew(self, connection: PostgresConnection, numbers: list[int]) -> tuple[list[int], bool]:
        """Returns the numbers that are leased by this proxy, and whether leases of others have ended."""
        renewed = connection.execute(
            "UPDATE message SET leased_until = clock_timestamp() + current_setting('spool.lease')::interval"
            " WHERE number = ANY (?::bigint[]) AND owner = ? RETURNING number",
            (numbers, self._instance.name),
        ).fetchall()
        self._usage = sql_records.total_usage(connection)
        left = connection.execute(
            "SELECT FROM message WHERE state = 'queued' AND leased_until < clock_timestamp() AND owner <> ? LIMIT 1",
            (self._instance.name,),
        )
        return [number for (number,) in renewed], left.rowcount > 0 and self._may_take_over()

    # For the operator.

    async def announce(self, facts: Mapping[str, str | int]) -> None:
        """See :meth:`.store.Store.announce`. By a notification, as the ``spool`` command is another process."""
        told = json.dumps(facts)
        await self._writer.run(lambda connection: connection.execute("SELECT pg_notify(?, ?)", (CHANNEL, told)))

    def _notified(self, told: str) -> None:
        self._wake()
        if told:
            with suppress(ValueError, TypeError):  # a notification that is not ours
                self._logger.info(ANNOUNCED, extra={"facts": dict(json.loads(told))})

    async def back_up(self, folder: Path) -> Copied:
        """See :meth:`.store.Store.back_up`."""
        raise Failure(_BACKUP)

    async def restore(self, folder: Path) -> Copied:
        """See :meth:`.store.Store.restore`."""
        raise Failure(_BACKUP)

    def check_unused(self, connection: Connection) -> None:
        """See :meth:`.movable.Movable.check_unused`."""
        if found := listeners(connection):
            raise Failure(f"{self._name}: services have it open ({', '.join(found)}); stop them first", look_at=LOOK_AT)

    def last_number(self, connection: Connection) -> int:
        """See :meth:`.movable.Movable.last_number`."""
        (last,) = connection.execute("SELECT last_value FROM message_number").fetchone()
        return int(last)

    def continue_from(self, connection: Connection, last: int) -> None:
        """See :meth:`.movable.Movable.continue_from`."""
        connection.execute("SELECT setval('message_number', greatest(?, last_value)) FROM message_number", (last,))
        connection.execute(f"UPDATE message SET {_FREE} WHERE owner = ?", (self._instance.name,))  # noqa: S608
        connection.execute(f"NOTIFY {CHANNEL}")

    async def room(self) -> Room:
        """See :meth:`.store.Store.room`: the usage at the last renewal, with the changes by this process since then."""
        return Room(self._usage.messages, self._usage.octets, None)

    async def aclose(self) -> None:
        """See :meth:`.store.Store.aclose`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks and self._connection.connected:
            try:
                await self._writer.run(self._leave)
            except Failure as failure:
                self._logger.warning("the spool: what waits here can not be left to others: %s", failure)
        self._tasks = []
        await self._writer.aclose()
        self._threads.close()
        self._postgres_bodies.close()
        self._instance.release()

    def _leave(self, connection: PostgresConnection) -> None:
        connection.execute(f"UPDATE message SET {_FREE} WHERE owner = ?", (self._instance.name,))  # noqa: S608
        connection.execute(f"NOTIFY {CHANNEL}")


def _set_up(connection: PostgresConnection, owner: str, lease_seconds: float) -> list[str]:
    """Set up a new connection. Returns what an operator should know about the server."""
    connection.execute(
        "SELECT set_config('search_path', ?, false), set_config('spool.owner', ?, false),"
        " set_config('spool.lease', ?, false),"
        # A statement_timeout would end the wait for a replica, and the server would report the commit as successful.
        " set_config('statement_timeout', '0', false),"
        " set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply'"
        " THEN 'remote_apply' ELSE 'on' END, false)",
        (SCHEMA, owner, f"{lease_seconds} seconds"),
    )
    found = connection.execute(
        "SELECT current_setting('server_encoding'), current_setting('synchronous_commit'), current_setting('fsync'),"
        " current_setting('full_page_writes')"
    ).fetchone()
    assert found is not None  # noqa: S101 (for the type checker)
    encoding, synchronous, fsync, full_pages = found
    if encoding != "UTF8":
        raise Failure(f"the database has the encoding {encoding}; make one with UTF8", look_at=LOOK_AT)
    if synchronous not in ("on", "remote_apply"):
        raise Failure(f"synchronous_commit remains {synchronous}", look_at=LOOK_AT)
    switched_off = {"fsync": fsync, "full_page_writes": full_pages}
    return [
        f"the server runs with {name}=off, and a power cut there loses mail"
        for name, value in switched_off.items()
        if value == "off"
    ]
