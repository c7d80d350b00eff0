"""The answer to ``UID FETCH … (UID RFC822.SIZE)``: read in blocks, kept in 12 octets a message.

A folder of 100 000 messages is 4 MB of lines that all look alike. They are found by one pattern, a block at a time;
what looks any different is left to the ordinary parser, which costs twenty times as much for each.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

__all__ = ("MAX_UID", "Listing", "Sizes")

MAX_UID = 0xFFFF_FFFF
_MAX_OCTETS = (1 << 63) - 1

# Possessive: a run of thousands of rows must not leave thousands of ways to go back.
_ROW = rb"\* \d{1,10} FETCH \(UID (\d{1,19}) RFC822\.SIZE (\d{1,19})\)\r\n"
_ROW_TURNED = rb"\* \d{1,10} FETCH \(RFC822\.SIZE (\d{1,19}) UID (\d{1,19})\)\r\n"
_KINDS = tuple(
    (re.compile(b"(?:%b)++" % row, re.IGNORECASE), re.compile(row, re.IGNORECASE), turned)
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


class Listing:
    """Collects the rows as they come. Raises ``ValueError`` for a number out of range."""

    def __init__(self) -> None:
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

    def add(self, attributes: Mapping[bytes, Any]) -> None:
        """Take a parsed response. One that names no UID, as an unsolicited one may, says nothing of use."""
        uid, octets = attributes.get(b"UID"), attributes.get(b"RFC822.SIZE")
        if uid is None:
            return
        if isinstance(octets, int):
            self._put([uid], [octets])
        else:
            _require([uid], 1, MAX_UID)
            self._named.add(uid)

    def _put(self, uids: list[int], octets: list[int]) -> None:
        _require(uids, 1, MAX_UID)
        _require(octets, 0, _MAX_OCTETS)
        self._uids.extend(uids)
        self._octets.extend(octets)

    def sizes(self) -> Sizes:
        """All that came; 0 octets where the server did not say how many."""
        uids = self._uids
        if not self._named and all(map(int.__lt__, uids, islice(uids, 1, None))):
            return Sizes(uids, self._octets)
        return Sizes.of(dict.fromkeys(self._named, 0) | dict(zip(uids, self._octets, strict=True)))


def _require(numbers: list[int], lowest: int, highest: int) -> None:
    if min(numbers) < lowest or max(numbers) > highest:
        raise ValueError(f"a UID or a size is not from {lowest} to {highest}")
