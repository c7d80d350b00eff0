"""What the sessions of one account share: the folder's listing, prefetched messages, and one SELECT for many sessions.

A :class:`Shelf` holds these for one user and proven password, in memory only. So nobody sees another user's mail.

Fifty clients that come at the same time need only one SELECT. They share it only if the password is the one in the
settings. A client that brings its own password must log in with it first.
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
"""How many octets of prefetched messages all accounts together may hold."""

LISTED_MESSAGES = 4_000_000
"""How many messages the kept listings of accounts without a session may have in all; each takes 12 octets."""

MAX_SHELVES = 1000

Key = tuple[int, int, str]
"""UIDVALIDITY, UID and the item of FETCH. The octets under one key never change (RFC 9051 §2.3.1.1)."""

Open = Callable[["Opening"], Awaitable[Index]]


@dataclass(frozen=True, slots=True)
class Listed:
    """A complete listing of a folder: ``index`` has every message with a UID below ``uidnext``."""

    uidnext: int
    index: Index


class Messages:
    """Prefetched messages, up to ``max_octets``, and which are being fetched now. For the event loop only."""

    def __init__(self, max_octets: int = MESSAGES_OCTETS) -> None:
        self._max_octets = max_octets
        self._octets = 0
        self._kept: OrderedDict[tuple[Shelf, Key], bytes] = OrderedDict()
        self._coming: dict[tuple[Shelf, Key], asyncio.Event] = {}

    @property
    def octets(self) -> int:
        """How many octets are kept."""
        return self._octets

    def get(self, shelf: Shelf, key: Key) -> bytes | None:
        """The message, if it is kept here."""
        octets = self._kept.get((shelf, key))
        if octets is not None:
            self._kept.move_to_end((shelf, key))
        return octets

    def coming(self, shelf: Shelf, key: Key) -> asyncio.Event | None:
        """An event if this message is being fetched; it is set when the message has come or the fetch has failed."""
        return self._coming.get((shelf, key))

    @contextmanager
    def fetching(self, shelf: Shelf, keys: list[Key]) -> Iterator[dict[Key, bytes]]:
        """While the block runs, other sessions wait for ``keys`` instead of fetching them too. What the block puts into
        the dict is kept.
        """
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
        """Drop the messages of this shelf."""
        for each in [each for each in self._kept if each[0] is shelf]:
            self._octets -= len(self._kept.pop(each))


class Shelf:
    """What is kept for one account. ``listed`` may be set from any thread."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages
        self.listed: Listed | None = None
        self.users = 0


class Shelves:
    """The shelves of all accounts. If there are too many shelves without a session, or their listings are too long, the
    oldest are dropped.
    """

    def __init__(self) -> None:
        self._messages = Messages()
        self._shelves: OrderedDict[Hashable, Shelf] = OrderedDict()

    @contextmanager
    def lent(self, key: Hashable) -> Iterator[Shelf]:
        """The shelf of this account, for the time of a session."""
        shelf = self._shelves.pop(key, None) or Shelf(self._messages)
        self._shelves[key] = shelf
        shelf.users += 1
        try:
            yield shelf
        finally:
            shelf.users -= 1
            if not shelf.users:
                # Prefetched messages are for the sessions that are open. Without one, nobody will ask for them.
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
    """The opening of a folder by one SELECT. Other sessions may join it until it has :meth:`begun`."""

    def __init__(self, work: Open) -> None:
        self.joinable = True
        self._waiting = 0
        self._task = asyncio.ensure_future(work(self))
        # If all that waited have gone, nobody reads the exception, and asyncio would log it as never retrieved.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def begun(self) -> None:
        """To be called, in any thread, before the server is asked. A session that comes later must not join: its client
        may know of a message that has arrived since.
        """
        self.joinable = False

    async def result(self) -> Index:
        """The listing. The opening is cancelled when nobody waits for it any more."""
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.joinable = False
                self._task.cancel()


class Openings:
    """The openings of one account. For the event loop only."""

    def __init__(self) -> None:
        self._latest: Opening | None = None

    async def join(self, work: Open) -> Index:
        """The result of an opening that has not begun yet; if there is none, of a new one that calls ``work``."""
        opening = self._latest
        if opening is None or not opening.joinable:
            opening = self._latest = Opening(work)
        try:
            return await opening.result()
        finally:
            if self._latest is opening and not opening.joinable:
                self._latest = None
