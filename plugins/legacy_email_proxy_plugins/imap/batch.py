"""Several messages out of one FETCH: those that came whole and under their own UID, and nothing that is doubtful.

What is left out here is asked for alone when its turn comes, and that (:mod:`.body`) says what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from legacy_email_proxy.contracts import Disconnected

from .body import Parts

__all__ = ("Batch",)


class Batch:
    """Collects ``section`` (such as ``BODY[]``) of the messages ``uids``, of not more than ``room`` octets together."""

    def __init__(self, uids: Collection[int], section: bytes, room: int) -> None:
        self.messages: dict[int, bytes] = {}
        self._left = set(uids)
        self._section = section
        self._room = room
        row = rb"\* \d{1,10} FETCH \(UID (\d{1,10}) %b \{(\d{1,10})\}\r\n"
        self._usual = re.compile(row % re.escape(section), re.IGNORECASE)

    def announced(self, line: bytes) -> tuple[int, int] | None:
        """The UID and the octets of the message that follows ``line``; ``None`` for all but the usual line."""
        match = self._usual.fullmatch(line)
        return (int(match[1]), int(match[2])) if match else None

    def expect(self, octets: int) -> None:
        """A literal of that size follows. Raises :class:`Disconnected` if it is too much to be read."""
        self._room -= octets
        if self._room < 0:
            raise Disconnected("the server sends much more than the messages' sizes")

    def put(self, uid: int, octets: bytes) -> None:
        """A message came whole. Raises :class:`Disconnected` if nobody asked for it."""
        if uid not in self._left:
            raise Disconnected(f"the server sent UID {uid}, which was not asked for or came already")
        self._left.discard(uid)
        self.messages[uid] = octets

    def finish(self, rows: Iterable[Parts], parse: Callable[[Parts], Mapping[bytes, Any]]) -> None:
        """Judge the responses that were not usual. Raises :class:`Disconnected`, ``ValueError``."""
        for row in rows:
            attributes = parse(row)
            bodies = [name for name in attributes if name.startswith(b"BODY")]
            if not bodies:
                continue
            if bodies != [self._section]:
                raise Disconnected(f"asked for {self._section!r}, the server sent {bodies!r}")
            first = row[0]
            # NIL and quoted strings are not for a batch.
            if isinstance(first, tuple) and len(row) == 2 and attributes[self._section] == first[1]:
                self.put(attributes.get(b"UID", 0), first[1])
