"""The messages of a folder: what the server lists of them, and what a session sees of that.

The answer to ``UID FETCH … (UID RFC822.SIZE)`` is read in blocks and kept in 12 octets a message. For a folder of
100 000 messages it is 4 MB of lines of the same form. One pattern finds the usual lines, a block at a time. A line of
any other form goes through :mod:`.responses`, which takes ten times as long.

A session sees UIDs, sizes in octets, and the unique-ids made from the UIDs. A unique-id has Dovecot's form unless a
setting says otherwise: UID and UIDVALIDITY in eight hexadecimal digits each.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import overload

from legacy_email_proxy.contracts import Entry

from .responses import Attributes, Fetched, number

__all__ = ("DOVECOT", "MAX_UID", "UNIQUE_IDS", "Index", "Listing", "Mailbox", "Sizes", "UniqueIds", "uid_sets")

MAX_UID = 0xFFFF_FFFF
_MAX_OCTETS = (1 << 63) - 1

_ROW = rb"\* \d{1,10} FETCH \(UID (\d{1,19}) RFC822\.SIZE (\d{1,19})\)\r\n"
_ROW_TURNED = rb"\* \d{1,10} FETCH \(RFC822\.SIZE (\d{1,19}) UID (\d{1,19})\)\r\n"
# The pattern for a run of rows has no capturing groups: with them it would be as slow as reading each row.
_KINDS = tuple(
    (re.compile(b"(?:%b)+" % row.replace(b"(\\d", b"(?:\\d"), re.IGNORECASE), re.compile(row, re.IGNORECASE), turned)
    for row, turned in ((_ROW, False), (_ROW_TURNED, True))
)


class Sizes(Mapping[int, int]):
    """UID → octets, in the order of the UIDs, in two arrays. Nothing changes the arrays after they are given here."""

    __slots__ = ("octets", "uids")

    def __init__(self, uids: array[int], octets: array[int]) -> None:
        self.uids = uids
        self.octets = octets

    @classmethod
    def of(cls, octets_by_uid: Mapping[int, int]) -> Sizes:
        """``octets_by_uid`` as :class:`Sizes`; the same object if it is one already."""
        if isinstance(octets_by_uid, Sizes):
            return octets_by_uid
        uids = array("I", sorted(octets_by_uid))
        return cls(uids, array("Q", (octets_by_uid[uid] for uid in uids)))

    def __len__(self) -> int:
        return len(self.uids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.uids)

    def __getitem__(self, uid: int) -> int:
        position = bisect_left(self.uids, uid)
        if position == len(self.uids) or self.uids[position] != uid:
            raise KeyError(uid)
        return self.octets[position]

    def later_than(self, uid: int) -> Sizes:
        """Only the messages with higher UIDs."""
        start = bisect_right(self.uids, uid)
        return Sizes(self.uids[start:], self.octets[start:]) if start else self

    def below(self, uid: int) -> int:
        """How many have a lower UID."""
        return bisect_left(self.uids, uid)

    def with_later(self, later: Sizes) -> Sizes:
        """These messages followed by ``later``, whose UIDs must all be higher."""
        return Sizes(self.uids + later.uids, self.octets + later.octets) if later else self


class Listing(Fetched):
    """Collects the rows of a listing as they come. Only UIDs from ``first`` on count."""

    in_blocks = True

    def __init__(self, first: int = 1) -> None:
        super().__init__()
        self._first = first
        self.undisturbed = True
        """Whether no message was removed while the listing came, as far as the server said."""
        self._uids = array("I")
        self._octets = array("Q")
        self._named: set[int] = set()

    def take(self, block: bytes) -> int:
        """Take the rows of the usual form at the beginning of ``block``. Returns how many octets they are."""
        taken = 0
        for run, row, turned in _KINDS:
            if match := run.match(block, taken):
                pairs = row.findall(match[0])
                first, second = [int(pair[0]) for pair in pairs], [int(pair[1]) for pair in pairs]
                self._put(*((second, first) if turned else (first, second)))
                taken = match.end()
        return taken

    def add(self, attributes: Attributes) -> None:
        """Take any other row. A row without a UID was not asked for, and is ignored."""
        if "UID" not in attributes:
            return
        uid, octets = number(attributes["UID"]), number(attributes.get("RFC822.SIZE"))
        if uid is None or not 1 <= uid <= MAX_UID:
            self.unreadable(b"UID %b" % str(attributes["UID"]).encode(), "")
        elif octets is None or octets > _MAX_OCTETS:
            self._named.add(uid)
        else:
            self._uids.append(uid)
            self._octets.append(octets)

    def _put(self, uids: list[int], octets: list[int]) -> None:
        if min(uids) < 1 or max(uids) > MAX_UID or max(octets) > _MAX_OCTETS:
            for uid, size in zip(uids, octets, strict=True):
                self.add({"UID": str(uid), "RFC822.SIZE": str(size)})
            return
        self._uids.extend(uids)
        self._octets.extend(octets)

    def __len__(self) -> int:
        return len(self._uids) + len(self._named)

    def sizes(self) -> Sizes:
        """All messages that were listed; with 0 octets where the server gave no usable size."""
        uids = self._uids
        if not self._named and all(map(int.__lt__, uids, islice(uids, 1, None))):
            sizes = Sizes(uids, self._octets)
        else:
            sizes = Sizes.of(dict.fromkeys(self._named, 0) | dict(zip(uids, self._octets, strict=True)))
        return sizes.later_than(self._first - 1)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """What SELECT said."""

    uidvalidity: int
    exists: int
    read_only: bool
    uidnext: int = 0
    """0 where the server does not say."""


_make_entry: Callable[[Iterable[object]], Entry] = partial(tuple.__new__, Entry)


@dataclass(frozen=True, slots=True)
class UniqueIds:
    """Unique-ids (RFC 1939 §7) in the form of one POP3 server. Clients of a site that used that server before do not
    download their messages again.

    ``template`` takes the UIDVALIDITY and gives a ``%`` template for the UID. Filling it in calls no Python function,
    which matters with a hundred thousand messages. The only group of ``pattern`` is the UID, a number to ``base``.

    All forms but one hold both UID and UIDVALIDITY. This pair never names another message (RFC 9051 §2.3.1.1).
    """

    template: Callable[[int], str]
    pattern: re.Pattern[str]
    base: int = 10

    def maker(self, uidvalidity: int) -> Callable[[int], str]:
        """A function that returns the unique-id of a UID."""
        return self.template(uidvalidity).__mod__

    def uid(self, unique_id: str) -> int:
        """The UID in ``unique_id``. Raises :class:`KeyError` if it has another form."""
        match = self.pattern.fullmatch(unique_id)
        if match is None:
            raise KeyError(unique_id)
        return int(match[1], self.base)


DOVECOT = UniqueIds(lambda uidvalidity: f"%08x{uidvalidity:08x}", re.compile(r"([0-9a-f]{8})[0-9a-f]{8}"), 16)

UNIQUE_IDS = {
    "dovecot": DOVECOT,
    "uw": UniqueIds(lambda uidvalidity: f"{uidvalidity:08x}%08x", re.compile(r"[0-9a-f]{8}([0-9a-f]{8})"), 16),
    "cyrus": UniqueIds(lambda uidvalidity: f"{uidvalidity}.%d", re.compile(r"[0-9]{1,10}\.([0-9]{1,10})")),
    "courier": UniqueIds(lambda uidvalidity: f"{uidvalidity}-%d", re.compile(r"[0-9]{1,10}-([0-9]{1,10})")),
    # Old Cyrus and old Courier. After a change of UIDVALIDITY another message may have the same unique-id.
    "uidonly": UniqueIds(lambda _: "%d", re.compile(r"([0-9]{1,10})")),
}
"""The values of ``POP3_UIDL_FORMAT``."""


class Index(Sequence[Entry]):
    """All messages in the order of their UIDs, in 12 octets a message: an entry is made only when it is asked for."""

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
        """The sizes of all messages; see :class:`~legacy_email_proxy.contracts.Columns`."""
        return self._octets

    def unique_ids(self, start: int, stop: int) -> Sequence[str]:
        """The unique-ids of the messages from index ``start`` up to but not including ``stop``."""
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
        # The same as Entry(…) for each, but without calling a Python function for each of 100 000 messages.
        return map(_make_entry, zip(map(self.unique_id, uids), octets, strict=True))

    def position(self, uid: int) -> int:
        """The index of the message with this ``uid``, which must be one of these messages."""
        return bisect_left(self._uids, uid)

    @property
    def uids(self) -> Sequence[int]:
        """All UIDs, ascending."""
        return self._uids

    def only(self, uids: Collection[int], unique_ids: UniqueIds) -> Index:
        """An index of these messages only, with unique-ids of this form."""
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

    A range never spans a gap: it would also name a message that the server left out of its listing.
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
