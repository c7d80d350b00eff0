"""Reads messages before a session asks for them, because clients ask for one after the other.

Many small messages in one FETCH cost little more than one of them. It begins when a session has asked for two in a row,
so that a device which takes one message a day costs nothing more, and it grows with each time it was right. It goes
where the session goes: phones, and lists of headers, begin with the newest. When half of what was read has been taken,
the next is read while the client takes the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone, MessageUnavailable

from .connection import Connection
from .listing import Index
from .pool import Pool

__all__ = ("ReadAhead",)

MAX_MESSAGES = 64
MAX_OCTETS = 1 << 20
"""Of one FETCH, as the listing has it."""

LARGE_OCTETS = 256 << 10
"""A message of this size and more is streamed, and never kept."""

_GROWTH = 8
_SLACK_OCTETS = 64 << 10
_HEADER_OCTETS = 8 << 10
"""What a header is taken for, until there was a longer one."""


class ReadAhead:
    """For one session and one ``item`` of FETCH: ``BODY.PEEK[]`` or ``BODY.PEEK[HEADER]``.

    What is here was fetched while a session of this account was open, complete and under its UID. It may be handed
    out once another client has expunged the message: under this UID and UIDVALIDITY it never was another. A session
    that asks out of turn, or again, is told what the server says now. The first message that a session asks for is
    shared if other sessions of the account are open.
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
        # Where it would go on behind what was read, and behind what is being read as well.
        self._read_until = 0
        self._looked_until = 0
        self._margin = 0
        self._has_room = True
        self._count = 1
        self._alone = 0  # So many are to be asked for alone.
        self._header_octets = _HEADER_OCTETS
        self._running: asyncio.Task[None] | None = None

    async def get(self, uid: int) -> bytes | None:
        """The octets of ``item``; ``None`` if it should be asked for alone, whose failure then is the right one."""
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
            # It was here, and was thrown out before its turn: there are too many sessions for the room there is.
            self._count = max(1, self._count // _GROWTH)
            self._has_room = False
        elif in_a_row:
            self._count = min(MAX_MESSAGES, self._count * _GROWTH)
        planned = self._plan(position)
        return await self._fetch(planned, uid) if len(planned) > in_a_row else None

    def saw_header(self, octets: int) -> None:
        """Take note of how long a header was: an answer with more than was planned for costs the connection."""
        self._header_octets = max(self._header_octets, octets)

    def _follow(self, position: int) -> bool:
        """Note that the session asks for the message at ``position``, and whether that is next to the last one."""
        step = 0 if self._last is None else position - self._last
        # One step back is out of turn; two of them are a turn.
        in_a_row = step == self._step if self._in_a_row else abs(step) == 1
        if in_a_row and step != self._step:
            self._step = step
            self._read_until = self._looked_until = position
        self._last, self._in_a_row = position, in_a_row
        return in_a_row

    def _look_ahead(self, position: int) -> None:
        """Begin to read what comes next, if the message at ``position`` is behind the half of what there is."""
        distance = max(self._step * (self._looked_until - position), 1)
        if distance > self._margin or self._running is not None or self._alone or not self._has_room:
            return
        self._count = min(MAX_MESSAGES, self._count * _GROWTH)
        start = position + self._step * distance
        self._looked_until = start + self._step * self._count
        # It may outlive the session: ended early, it would end a connection that others could use.
        self._running = asyncio.create_task(self._fetch_meanwhile(start))

    async def _fetch_meanwhile(self, start: int) -> None:
        try:
            # Not before the task runs: until then another may begin to fetch the same.
            if planned := self._plan(start):
                await self._fetch(planned)
        except Failure as failure:
            # If it concerns the client, the client will hear it when it asks for the message.
            self._note(failure)
        finally:
            self._running = None

    def _note(self, failure: Failure) -> None:
        self._logger.info("reading ahead failed", extra={"facts": {"cause": str(failure)}})
        self._count = 1

    def _plan(self, position: int) -> dict[int, int]:
        """UID → octets of what to fetch now: nothing, or the message at ``position`` and some that come next."""
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
                got = await self._exchange(partial(self._fetch_in_thread, list(planned), room))
            except (Disconnected, MessageGone, MessageUnavailable) as failure:
                # One of them may be what the server stumbles over. Those before it must not suffer. Where it cost the
                # connection, it must not be asked for again together with each of them.
                self._note(failure)
                self._alone = len(planned) if isinstance(failure, Disconnected) else 0
                return None
            self.saw_header(max(map(len, got.values()), default=0))
            for uid, octets in got.items():
                # An empty answer for a message that has a size is a matter for one question, not for sixty-four.
                if octets:
                    fetched[keys[uid]] = octets
        if step == self._step:
            self._margin = len(planned) // 2
            self._read_until = self._looked_until = self._index.position(next(reversed(planned))) + step
        return fetched.get(keys[wanted]) if wanted else None

    def _fetch_in_thread(self, uids: list[int], room: int, connection: Connection) -> dict[int, bytes]:
        self._same_folder(connection, self._index.uidvalidity)
        return connection.fetch_batch(uids, self.item, room)


def _is_small(octets: int) -> bool:
    """Whether a message that is listed so may be read with others. 0 is also there where the server told no size."""
    return 0 < octets < LARGE_OCTETS
