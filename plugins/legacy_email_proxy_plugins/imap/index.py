"""The folder as one session sees it: UIDs with their octets, the unique-ids made of them, and UID sets for commands.

The unique-id is Dovecot's unless a setting says otherwise: UID and UIDVALIDITY in eight hexadecimal digits each.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from legacy_email_proxy.contracts import Entry

from .unique_ids import DOVECOT, UniqueIds

__all__ = ("MAX_UID", "Index", "Listing", "Mailbox", "uid_sets")

MAX_UID = 0xFFFF_FFFF
_MAX_OCTETS = (1 << 63) - 1

_ROW = re.compile(rb"\* \d+ FETCH \(UID (\d{1,19}) RFC822\.SIZE (\d{1,19})\)\r\n", re.IGNORECASE)
_ROW_TURNED = re.compile(rb"\* \d+ FETCH \(RFC822\.SIZE (\d{1,19}) UID (\d{1,19})\)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """What SELECT said."""

    uidvalidity: int
    exists: int
    read_only: bool


class Listing:
    """Collects the answer to ``UID FETCH 1:* (UID RFC822.SIZE)``."""

    def __init__(self) -> None:
        self.octets_by_uid: dict[int, int] = {}

    def take(self, line: bytes) -> bool:
        """Take the line if it is one of the usual ones."""
        if match := _ROW.fullmatch(line):
            self._put(int(match[1]), int(match[2]))
        elif match := _ROW_TURNED.fullmatch(line):
            self._put(int(match[2]), int(match[1]))
        else:
            return False
        return True

    def add(self, attributes: Mapping[bytes, Any]) -> None:
        """Take a parsed response. One that names no UID, as an unsolicited one may, says nothing of use."""
        uid, octets = attributes.get(b"UID"), attributes.get(b"RFC822.SIZE")
        if uid is not None:
            self._put(uid, octets if isinstance(octets, int) else self.octets_by_uid.get(uid, 0))

    def _put(self, uid: int, octets: int) -> None:
        if not (0 < uid <= MAX_UID and octets <= _MAX_OCTETS):
            raise ValueError(f"UID {uid} with {octets} octets is out of range")
        self.octets_by_uid[uid] = octets


class Index(Sequence[Entry]):
    """All messages in the order of their UIDs. It costs 12 octets a message: the entries are made when asked for."""

    def __init__(self, uidvalidity: int, octets_by_uid: Mapping[int, int], unique_ids: UniqueIds = DOVECOT) -> None:
        self.uidvalidity = uidvalidity
        self._unique_ids = unique_ids
        self.unique_id: Callable[[int], str] = unique_ids.maker(uidvalidity)
        """The unique-id of a UID."""
        self._uids = array("I", sorted(octets_by_uid))
        self._octets = array("Q", (octets_by_uid[uid] for uid in self._uids))

    def __len__(self) -> int:
        return len(self._uids)

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        if isinstance(position, slice):
            return [self[index] for index in range(len(self))[position]]
        return Entry(self.unique_id(self._uids[position]), self._octets[position])

    def __iter__(self) -> Iterator[Entry]:
        for uid, octets in zip(self._uids, self._octets, strict=True):
            yield Entry(self.unique_id(uid), octets)

    @property
    def uids(self) -> Sequence[int]:
        """All UIDs, ascending."""
        return self._uids

    def only(self, uids: Collection[int], unique_ids: UniqueIds) -> Index:
        """The same for these messages alone."""
        chosen = uids if isinstance(uids, (set, frozenset)) else set(uids)
        octets_by_uid = {uid: octets for uid, octets in zip(self._uids, self._octets, strict=True) if uid in chosen}
        return Index(self.uidvalidity, octets_by_uid, unique_ids)

    def uid(self, unique_id: str) -> int:
        """The UID behind ``unique_id``. Raises :class:`KeyError` if this listing has no such message."""
        uid = self._unique_ids.uid(unique_id)
        position = bisect_left(self._uids, uid)
        if position == len(self._uids) or self._uids[position] != uid or self.unique_id(uid) != unique_id:
            raise KeyError(unique_id)
        return uid


def uid_sets(uids: Collection[int], max_octets: int = 900) -> Iterator[str]:
    """``uids`` as IMAP sequence-sets such as ``1:3,7``, each of at most ``max_octets`` (RFC 2683 §3.2.1.5).

    Only neighbours make a range: one over a gap would also name a message that the server left out of its listing.
    """
    line = ""
    for first, last in _ranges(sorted(set(uids))):
        item = str(first) if first == last else f"{first}:{last}"
        if line and len(line) + 1 + len(item) > max_octets:
            yield line
            line = ""
        line = f"{line},{item}" if line else item
    if line:
        yield line


def _ranges(uids: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = last = 0
    for uid in uids:
        if first and uid == last + 1:
            last = uid
            continue
        if first:
            yield first, last
        first = last = uid
    if first:
        yield first, last
