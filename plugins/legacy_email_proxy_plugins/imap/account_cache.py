"""What the sessions of one account share: the folder's listing, prefetched messages, and one SELECT for many sessions.

A :class:`Shelf` holds these. It belongs to one user and proven password, so nobody sees another user's mail, and it is
kept in memory only.

Fifty clients that come at once need one SELECT. It is shared only where the password is that of the settings. A client
that brings its own password has to prove it by a login of its own.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .listing import Index

__all__ = ("Listed", "Messages", "Opening", "Openings", "Shelf", "Shelves")

MESSAGES_OCTETS = 16 << 20
"""What all accounts together may have of messages that were read ahead."""

LISTED_MESSAGES = 4_000_000
"""How many messages the listings of accounts without a session may have together; each takes 12 octets."""

MAX_SHELVES = 1000

Key = tuple[int, int, str]
"""UIDVALIDITY, UID and the item of FETCH: for ever the same octets (RFC 9051 §2.3.1.1)."""

Open = Callable[["Opening"], Awaitable[Index]]


@dataclass(frozen=True, slots=True)
class Listed:
    """A folder that was listed completely: there was no other message with a UID below ``uidnext``."""

    uidnext: int
    index: Index


class Messages:
    """The octets of messages, up to so many, and which are on their way. For the event loop only."""

    def __init__(self, max_octets: int = MESSAGES_OCTETS) -> None:
        self._max_octets = max_octets
        self._octets = 0
        self._kept: OrderedDict[tuple[Shelf, Key], bytes] = OrderedDict()
        self._coming: dict[tuple[Shelf, Key], asyncio.Event] = {}

    @property
    def octets(self) -> int:
        """What they take together."""
        return self._octets

    def get(self, shelf: Shelf, key: Key) -> bytes | None:
        """The message, if it is here."""
        octets = self._kept.get((shelf, key))
        if octets is not None:
            self._kept.move_to_end((shelf, key))
        return octets

    def coming(self, shelf: Shelf, key: Key) -> asyncio.Event | None:
        """Set when the message has come or will not come."""
        return self._coming.get((shelf, key))

    @contextmanager
    def fetching(self, shelf: Shelf, keys: list[Key]) -> Iterator[dict[Key, bytes]]:
        """Within the block others wait for ``keys`` instead of fetching them too; what is put into the dict is kept."""
        ended = asyncio.Event()
        self._coming.update(dict.fromkeys(((shelf, key) for key in keys), ended))
        fetched: dict[Key, bytes] = {}
        try:
            yield fetched
        finally:
            for key in keys:
                del self._coming[shelf, key]
            if shelf.users:
                for key, octets in fetched.items():
                    self._put(shelf, key, octets)
            ended.set()

    def _put(self, shelf: Shelf, key: Key, octets: bytes) -> None:
        self._octets += len(octets) - len(self._kept.pop((shelf, key), b""))
        self._kept[shelf, key] = octets
        while self._octets > self._max_octets:
            self._octets -= len(self._kept.popitem(last=False)[1])

    def forget(self, shelf: Shelf) -> None:
        """Let go of what is on this shelf."""
        for each in [each for each in self._kept if each[0] is shelf]:
            self._octets -= len(self._kept.pop(each))


class Shelf:
    """One account's. ``listed`` may be set from any thread."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages
        self.listed: Listed | None = None
        self.users = 0


class Shelves:
    """All of them; those without users are thrown away when they are too many or too full, the oldest first."""

    def __init__(self) -> None:
        self._messages = Messages()
        self._shelves: OrderedDict[Hashable, Shelf] = OrderedDict()

    @contextmanager
    def lent(self, key: Hashable) -> Iterator[Shelf]:
        """The shelf of this account."""
        shelf = self._shelves.pop(key, None) or Shelf(self._messages)
        self._shelves[key] = shelf
        shelf.users += 1
        try:
            yield shelf
        finally:
            shelf.users -= 1
            if not shelf.users:
                # A message is read ahead for the sessions that are open; what they left is of use to nobody.
                self._messages.forget(shelf)
                self._trim()

    def _trim(self) -> None:
        left, messages = 0, 0
        for key, shelf in reversed(list(self._shelves.items())):
            if shelf.listed is not None:
                messages += len(shelf.listed.index)
                left += 1
            if not shelf.users and (shelf.listed is None or messages > LISTED_MESSAGES or left > MAX_SHELVES):
                del self._shelves[key]


class Opening:
    """One that others may join until it has :meth:`begun`."""

    def __init__(self, work: Open) -> None:
        self.joinable = True
        self._waiting = 0
        self._task = asyncio.ensure_future(work(self))
        # Whoever waited may have gone; then nobody else looks at how it failed.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def begun(self) -> None:
        """To be called, in any thread, before the server is asked: who comes later may know of a later message."""
        self.joinable = False

    async def result(self) -> Index:
        """What it gave. When nobody waits for it any more, it is given up."""
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.joinable = False
                self._task.cancel()


class Openings:
    """Those of one account; for the event loop."""

    def __init__(self) -> None:
        self._latest: Opening | None = None

    async def join(self, work: Open) -> Index:
        """The result of one that has not begun, or of ``work``, which is given its :class:`Opening`."""
        opening = self._latest
        if opening is None or not opening.joinable:
            opening = self._latest = Opening(work)
        try:
            return await opening.result()
        finally:
            if self._latest is opening and not opening.joinable:
                self._latest = None
