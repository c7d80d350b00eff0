"""The answer to ``UID FETCH … (UID RFC822.SIZE)``: read in blocks, kept in 12 octets a message.

A folder of 100 000 messages is 4 MB of lines that all look alike. They are found by one pattern, a block at a time;
what looks any different goes through :mod:`.responses`, which costs ten times as much for each.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from itertools import islice

from .responses import Attributes, Fetched, number

__all__ = ("MAX_UID", "Listing", "Sizes")

MAX_UID = 0xFFFF_FFFF
_MAX_OCTETS = (1 << 63) - 1

_ROW = rb"\* \d{1,10} FETCH \(UID (\d{1,19}) RFC822\.SIZE (\d{1,19})\)\r\n"
_ROW_TURNED = rb"\* \d{1,10} FETCH \(RFC822\.SIZE (\d{1,19}) UID (\d{1,19})\)\r\n"
# Groups in a repetition would make the run of rows cost as much as taking them apart.
_KINDS = tuple(
    (re.compile(b"(?:%b)+" % row.replace(b"(\\d", b"(?:\\d"), re.IGNORECASE), re.compile(row, re.IGNORECASE), turned)
    for row, turned in ((_ROW, False), (_ROW_TURNED, True))
)


class Sizes(Mapping[int, int]):
    """UID → octets, in the order of the UIDs, on two arrays that nobody changes any more."""

    __slots__ = ("octets", "uids")

    def __init__(self, uids: array[int], octets: array[int]) -> None:
        self.uids = uids
        self.octets = octets

    @classmethod
    def of(cls, octets_by_uid: Mapping[int, int]) -> Sizes:
        """The same as ``octets_by_uid``; itself, if it is one already."""
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
        """Those of higher UIDs only."""
        start = bisect_right(self.uids, uid)
        return Sizes(self.uids[start:], self.octets[start:]) if start else self

    def below(self, uid: int) -> int:
        """How many have a lower UID."""
        return bisect_left(self.uids, uid)

    def with_later(self, later: Sizes) -> Sizes:
        """These, and behind them ``later``, which must have higher UIDs only."""
        return Sizes(self.uids + later.uids, self.octets + later.octets) if later else self


class Listing(Fetched):
    """Collects the rows, of UIDs from ``first`` on, as they come."""

    in_blocks = True

    def __init__(self, first: int = 1) -> None:
        super().__init__()
        self._first = first
        self.undisturbed = True
        """Whether the server spoke of no message that was removed meanwhile."""
        self._uids = array("I")
        self._octets = array("Q")
        self._named: set[int] = set()

    def take(self, block: bytes) -> int:
        """Take the usual rows that ``block`` begins with; how many octets of it they are."""
        taken = 0
        for run, row, turned in _KINDS:
            if match := run.match(block, taken):
                pairs = row.findall(match[0])
                first, second = [int(pair[0]) for pair in pairs], [int(pair[1]) for pair in pairs]
                self._put(*((second, first) if turned else (first, second)))
                taken = match.end()
        return taken

    def add(self, attributes: Attributes) -> None:
        """Take any other row. One that names no UID, as an unsolicited one may, says nothing of use."""
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
        """All that came; 0 octets where the server did not say how many."""
        uids = self._uids
        if not self._named and all(map(int.__lt__, uids, islice(uids, 1, None))):
            sizes = Sizes(uids, self._octets)
        else:
            sizes = Sizes.of(dict.fromkeys(self._named, 0) | dict(zip(uids, self._octets, strict=True)))
        return sizes.later_than(self._first - 1)
