"""The folder as one session sees it: UIDs with their octets, the unique-ids made of them, and UID sets for commands.

The unique-id is Dovecot's unless a setting says otherwise: UID and UIDVALIDITY in eight hexadecimal digits each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

from legacy_email_proxy.contracts import Entry

from .listing import Sizes
from .unique_ids import DOVECOT, UniqueIds

__all__ = ("Index", "Mailbox", "uid_sets")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """What SELECT said."""

    uidvalidity: int
    exists: int
    read_only: bool
    uidnext: int = 0
    """0 where the server does not say."""


_make_entry: Callable[[Iterable[object]], Entry] = partial(tuple.__new__, Entry)


class Index(Sequence[Entry]):
    """All messages in the order of their UIDs. It costs 12 octets a message: the entries are made when asked for."""

    def __init__(self, uidvalidity: int, octets_by_uid: Mapping[int, int], unique_ids: UniqueIds = DOVECOT) -> None:
        self.uidvalidity = uidvalidity
        self._unique_ids = unique_ids
        self.unique_id: Callable[[int], str] = unique_ids.maker(uidvalidity)
        """The unique-id of a UID."""
        self.sizes = Sizes.of(octets_by_uid)
        self._uids, self._octets = self.sizes.uids, self.sizes.octets

    def __len__(self) -> int:
        return len(self._uids)

    @property
    def octets(self) -> Sequence[int]:
        """Of all messages; see :class:`~legacy_email_proxy.contracts.Columns`."""
        return self._octets

    def unique_ids(self, start: int, stop: int) -> Sequence[str]:
        """Of the messages from index ``start`` up to, without, ``stop``."""
        return list(map(self.unique_id, self._uids[start:stop]))

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        if isinstance(position, slice):
            return list(self._entries(self._uids[position], self._octets[position]))
        return Entry(self.unique_id(self._uids[position]), self._octets[position])

    def __iter__(self) -> Iterator[Entry]:
        return self._entries(self._uids, self._octets)

    def _entries(self, uids: Iterable[int], octets: Iterable[int]) -> Iterator[Entry]:
        # What Entry(…) does, without a line of Python for each of a hundred thousand.
        return map(_make_entry, zip(map(self.unique_id, uids), octets, strict=True))

    def position(self, uid: int) -> int:
        """Where ``uid``, which must be one of these, stands among them; from 0."""
        return bisect_left(self._uids, uid)

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
