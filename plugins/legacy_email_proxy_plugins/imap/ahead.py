"""Reads messages before a session asks for them, because clients ask for one after the other.

Many small messages in one FETCH cost little more than one of them. It begins when a session has asked for two in a row,
so that a device which takes one message a day costs nothing more, and it grows with each time it was right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from legacy_email_proxy.contracts import Disconnected, MessageGone, MessageUnavailable

from .connection import Connection
from .index import Index
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
"""What a header is taken for, before it is there."""


class ReadAhead:
    """For one session and one ``item`` of FETCH: ``BODY.PEEK[]`` or ``BODY.PEEK[HEADER]``.

    What is here was fetched while a session of this account was open, complete and under its UID. It may be handed
    out once another client has expunged the message: under this UID and UIDVALIDITY it never was another. A session
    that asks out of turn, or again, is told what the server says now.
    """

    __slots__ = (
        "_count",
        "_expected",
        "_index",
        "_logger",
        "_messages",
        "_pool",
        "_read_until",
        "_same_folder",
        "_shelf",
        "item",
    )

    def __init__(
        self, pool: Pool, index: Index, item: str, same_folder: Callable[[Connection, int], None], log: logging.Logger
    ) -> None:
        self._pool = pool
        self._shelf = pool.shelf
        self._messages = pool.shelf.messages
        self._index = index
        self.item = item
        self._same_folder = same_folder
        self._logger = log
        self._expected = -1
        self._read_until = 0
        self._count = 1

    async def get(self, uid: int) -> bytes | None:
        """The octets of ``item``; ``None`` if it should be asked for alone, whose failure then is the right one."""
        position = self._index.position(uid)
        in_a_row, self._expected = position == self._expected, position + 1
        if not in_a_row:
            self._count = 1
            return None
        key = (self._index.uidvalidity, uid, self.item)
        octets = self._messages.get(self._shelf, key)
        if octets is not None:
            return octets
        coming = self._messages.coming(self._shelf, key)
        if coming is not None:
            await coming.wait()
            return self._messages.get(self._shelf, key)
        if position < self._read_until:
            # It was here, and was thrown out before its turn: there are too many sessions for the room there is.
            self._count = max(1, self._count // _GROWTH)
        else:
            self._count = min(MAX_MESSAGES, self._count * _GROWTH)
        planned = self._plan(position)
        return await self._fetch(planned, uid) if len(planned) > 1 else None

    def _plan(self, position: int) -> dict[int, int]:
        """UID → octets of what to fetch now: nothing, or the message at ``position`` and some behind it."""
        planned: dict[int, int] = {}
        total = 0
        sizes = self._index.sizes
        for uid, octets in zip(
            sizes.uids[position : position + self._count], sizes.octets[position : position + self._count], strict=True
        ):
            key = (self._index.uidvalidity, uid, self.item)
            known = self._messages.get(self._shelf, key) is not None or self._messages.coming(self._shelf, key)
            if octets < LARGE_OCTETS and not known:
                room = octets if self.item == "BODY.PEEK[]" else min(octets, _HEADER_OCTETS)
                if total + room > MAX_OCTETS:
                    break
                total += room
                planned[uid] = room
            elif not planned:
                break
        return planned

    async def _fetch(self, planned: dict[int, int], wanted: int) -> bytes | None:
        uidvalidity = self._index.uidvalidity
        keys = {uid: (uidvalidity, uid, self.item) for uid in planned}
        room = 2 * sum(planned.values()) + _SLACK_OCTETS
        with self._messages.fetching(self._shelf, list(keys.values())) as fetched:
            try:
                got = await self._pool.exchange(partial(self._fetch_in_thread, list(planned), room))
            except (Disconnected, MessageGone, MessageUnavailable) as failure:
                # One of them may be what the server stumbles over. Those before it must not suffer.
                self._logger.info("reading ahead failed", extra={"facts": {"cause": str(failure)}})
                self._count = 1
                return None
            for uid, octets in got.items():
                # An empty answer for a message that has a size is a matter for one question, not for sixty-four.
                if octets or not planned[uid]:
                    fetched[keys[uid]] = octets
        self._read_until = self._index.position(next(reversed(planned))) + 1
        return fetched.get(keys[wanted])

    def _fetch_in_thread(self, uids: list[int], room: int, connection: Connection) -> dict[int, bytes]:
        self._same_folder(connection, self._index.uidvalidity)
        return connection.fetch_batch(uids, self.item, room)
