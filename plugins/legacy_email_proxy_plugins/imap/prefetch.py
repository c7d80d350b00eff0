"""Reads messages before a session asks for them, because most clients ask for one message after the other.

One FETCH of many small messages takes little longer than a FETCH of one. Prefetching begins when a session has asked
for two messages in a row, so a device that takes one message a day causes no extra work. The number of prefetched
messages grows each time the session asks for the next one. The session may go up or down: phones, and clients that list
headers, begin with the newest. When the session has taken half of what was fetched, the next messages are fetched while
the client takes the rest. When it has taken many, that begins at once: the server needs about as long for them as the
client, and neither should wait for the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone, MessageUnavailable

from .connection import Connection
from .imapclient_adapter import InThread
from .listing import Index
from .pool import Pool

__all__ = ("ReadAhead",)

MAX_MESSAGES = 64
MAX_OCTETS = 1 << 20
"""The most that one FETCH may ask for, by the sizes in the listing."""

LARGE_OCTETS = 256 << 10
"""A message of this size or more is streamed, and never prefetched."""

_GROWTH = 8
_SLACK_OCTETS = 64 << 10
_HEADER_OCTETS = 8 << 10
"""The assumed size of a header, until a longer one was seen."""


class ReadAhead:
    """For one session and one ``item`` of FETCH: ``BODY.PEEK[]`` or ``BODY.PEEK[HEADER]``.

    A kept message was fetched whole and under its UID while a session of this account was open. It may be handed out
    even after another client has expunged it, since UID and UIDVALIDITY never name another message. If a session asks
    for a message out of turn, or again, the server is asked. The first message that a session asks for is kept for the
    other sessions of the account, if some are open.
    """

    __slots__ = (
        "_alone",
        "_count",
        "_exchange",
        "_has_room",
        "_header_octets",
        "_in_a_row",
        "_index",
        "_last",
        "_logger",
        "_looked_until",
        "_margin",
        "_messages",
        "_read_until",
        "_running",
        "_same_folder",
        "_shelf",
        "_step",
        "item",
    )

    def __init__(
        self,
        pool: Pool,
        index: Index,
        item: str,
        same_folder: Callable[[Connection, int], None],
        log: logging.Logger,
        address: str = "",
    ) -> None:
        self._exchange = partial(pool.exchange, address=address)
        self._shelf = pool.shelf
        self._messages = pool.shelf.messages
        self._index = index
        self.item = item
        self._same_folder = same_folder
        self._logger = log
        self._last: int | None = None
        self._in_a_row = False
        self._step = 1  # -1 where the session goes from the newest to the oldest.
        # The next position after what was fetched; and the next one after what is being fetched now.
        self._read_until = 0
        self._looked_until = 0
        self._margin = 0
        self._has_room = True
        self._count = 1
        self._alone = 0  # How many of the next messages are to be asked for one by one, after a fetch that failed.
        self._header_octets = _HEADER_OCTETS
        self._running: asyncio.Task[None] | None = None

    def at_hand(self, unique_id: str, is_odd: Callable[[bytes], bool]) -> bytes | None:
        """The octets of ``item`` if the session goes on in a row to this message, and they are kept and not odd.
        Otherwise nothing is noted, and :meth:`get` is to be called.
        """
        if not self._in_a_row or self._last is None:
            return None
        index, position = self._index, self._last + self._step
        uids = index.uids
        # The name of the message that comes next is made faster than the place of any message is found.
        if not 0 <= position < len(uids) or index.unique_id(uid := uids[position]) != unique_id:
            return None
        octets = self._messages.get(self._shelf, (index.uidvalidity, uid, self.item))
        if octets is None or is_odd(octets):
            return None
        self._last = position
        self._look_ahead(position)
        return octets

    async def get(self, uid: int) -> bytes | None:
        """The octets of ``item``; ``None`` if the caller should ask for this message alone. Then a failure is surely
        about this message.
        """
        position = self._index.position(uid)
        first = self._last is None and self._shelf.users > 1
        in_a_row = self._follow(position)
        if not _is_small(self._index.sizes.octets[position]):
            return None
        if not (in_a_row or first):
            self._count = 1
            return None
        key = (self._index.uidvalidity, uid, self.item)
        octets = self._messages.get(self._shelf, key)
        if octets is not None:
            self._look_ahead(position)
            return octets
        coming = self._messages.coming(self._shelf, key)
        if coming is not None:
            await coming.wait()
            return self._messages.get(self._shelf, key)
        if self._alone:
            self._alone -= 1
            return None
        if self._step * (self._read_until - position) > 0:
            # It was fetched, but dropped before the session asked for it: there is too little room for all sessions.
            self._count = max(1, self._count // _GROWTH)
            self._has_room = False
        elif in_a_row:
            self._count = min(MAX_MESSAGES, self._count * _GROWTH)
        planned = self._plan(position)
        return await self._fetch(planned, uid) if len(planned) > in_a_row else None

    def saw_header(self, octets: int) -> None:
        """Remember how long a header was. If an answer is longer than planned, the connection has to be closed."""
        self._header_octets = max(self._header_octets, octets)

    def _follow(self, position: int) -> bool:
        """Note that the session asks for the message at ``position``. Returns whether that is next to the last one."""
        step = 0 if self._last is None else position - self._last
        # One step back does not change the direction; two steps back do.
        in_a_row = step == self._step if self._in_a_row else abs(step) == 1
        if in_a_row and step != self._step:
            self._step = step
            self._read_until = self._looked_until = position
        self._last, self._in_a_row = position, in_a_row
        return in_a_row

    def _look_ahead(self, position: int) -> None:
        """Begin to fetch the next messages, if the session has taken enough of what was fetched."""
        if self._running is not None or self._alone or not self._has_room:
            return
        distance = max(self._step * (self._looked_until - position), 1)
        if distance > self._margin:
            return
        self._count = min(MAX_MESSAGES, self._count * _GROWTH)
        start = position + self._step * distance
        self._looked_until = start + self._step * self._count
        # It goes on when the session ends: to cancel it would close a connection that others could use.
        self._running = asyncio.create_task(self._fetch_meanwhile(start))

    async def _fetch_meanwhile(self, start: int) -> None:
        try:
            # Planned only now that the task runs: before, another session may have begun to fetch the same messages.
            if planned := self._plan(start):
                await self._fetch(planned)
        except Failure as failure:
            # If it concerns the client, the client is told when it asks for the message.
            self._note(failure)
        finally:
            self._running = None

    def _note(self, failure: Failure) -> None:
        self._logger.info("reading ahead failed", extra={"facts": {"cause": str(failure)}})
        self._count = 1

    def _plan(self, position: int) -> dict[int, int]:
        """What to fetch now, as UID → octets: the message at ``position`` and some of the next ones, or nothing."""
        planned: dict[int, int] = {}
        total = 0
        sizes = self._index.sizes
        end = position + self._step * self._count
        for place in range(position, max(-1, min(end, len(sizes.uids))), self._step):
            uid, octets = sizes.uids[place], sizes.octets[place]
            key = (self._index.uidvalidity, uid, self.item)
            known = self._messages.get(self._shelf, key) is not None or self._messages.coming(self._shelf, key)
            if _is_small(octets) and not known:
                room = octets if self.item == "BODY.PEEK[]" else min(octets, self._header_octets)
                if total + room > MAX_OCTETS:
                    break
                total += room
                planned[uid] = room
            elif not planned:
                break
        return planned

    async def _fetch(self, planned: dict[int, int], wanted: int = 0) -> bytes | None:
        """Fetch them, keep them, and return the octets of ``wanted``."""
        uidvalidity, step = self._index.uidvalidity, self._step
        keys = {uid: (uidvalidity, uid, self.item) for uid in planned}
        room = 2 * sum(planned.values()) + _SLACK_OCTETS
        with self._messages.fetching(self._shelf, list(keys.values())) as fetched:
            try:
                uids = list(planned)
                got = await self._exchange(
                    partial(self._fetch_in_thread, uids, room), in_loop=partial(self._fetch_in_loop, uids, room)
                )
            except (Disconnected, MessageGone, MessageUnavailable) as failure:
                # The server may have a problem with one of them. The others must still be read: each is asked for
                # alone if the connection broke. Asked for together, the one message would break it again.
                self._note(failure)
                self._alone = len(planned) if isinstance(failure, Disconnected) else 0
                return None
            self.saw_header(max(map(len, got.values()), default=0))
            for uid, octets in got.items():
                # Empty, although the listing has a size: the session asks for it alone, and then it is a failure.
                if octets:
                    fetched[keys[uid]] = octets
        if step == self._step:
            self._margin = len(planned) if len(planned) > _GROWTH else len(planned) // 2
            self._read_until = self._looked_until = self._index.position(next(reversed(planned))) + step
        return fetched.get(keys[wanted]) if wanted else None

    def _fetch_in_thread(self, uids: list[int], room: int, connection: Connection) -> dict[int, bytes]:
        self._same_folder(connection, self._index.uidvalidity)
        return connection.fetch_batch(uids, self.item, room)

    async def _fetch_in_loop(
        self, uids: list[int], room: int, connection: Connection, in_thread: InThread
    ) -> dict[int, bytes]:
        self._same_folder(connection, self._index.uidvalidity)  # Without a SELECT, since the folder is open.
        return await connection.fetch_batch_in_loop(uids, self.item, room, in_thread)


def _is_small(octets: int) -> bool:
    """Whether a message of this listed size may be fetched with others. 0 may mean that the size is unknown."""
    return 0 < octets < LARGE_OCTETS
