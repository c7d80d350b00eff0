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
    """Collects ``section`` (such as ``BODY[]``) of the messages ``uids``."""

    def __init__(self, uids: Collection[int], section: bytes) -> None:
        self.messages: dict[int, bytes] = {}
        self._left = set(uids)
        self._section = section
        self._usual = re.compile(rb"\d+ \(UID (\d{1,10}) %b \{\d+\}" % re.escape(section), re.IGNORECASE)

    def take(self, rows: Iterable[Parts], parse: Callable[[Parts], Mapping[bytes, Any]]) -> None:
        """Judge the responses to a FETCH that ended with OK. Raises :class:`Disconnected`, ``ValueError``."""
        for row in rows:
            first = row[0]
            if len(row) == 2 and isinstance(first, tuple) and row[1] == b")":
                usual = self._usual.fullmatch(first[0])
                if usual is not None:
                    self._put(int(usual[1]), first[1])
                    continue
            attributes = parse(row)
            bodies = [name for name in attributes if name.startswith(b"BODY")]
            if not bodies:
                continue
            if bodies != [self._section]:
                raise Disconnected(f"asked for {self._section!r}, the server sent {bodies!r}")
            # NIL and quoted strings are not for a batch.
            if isinstance(first, tuple) and len(row) == 2 and attributes[self._section] == first[1]:
                self._put(attributes.get(b"UID"), first[1])

    def _put(self, uid: object, octets: bytes) -> None:
        if uid not in self._left:
            raise Disconnected(f"the server sent UID {uid}, which was not asked for or came already")
        assert isinstance(uid, int)  # noqa: S101 (one of those asked for)
        self._left.discard(uid)
        self.messages[uid] = octets
