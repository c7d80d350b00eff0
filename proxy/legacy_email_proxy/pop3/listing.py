"""The maildrop as one session sees it: message-numbers, entries, and which are marked as deleted.

message-number = 1..n, fixed in this session; index = 0..n-1 in ``entries``; unique-id = the maildrop's own name for it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from itertools import compress
from typing import TypeVar

from ..contracts import Columns, Entry

__all__ = ("CHUNK_ENTRIES", "SHARED_CHUNKS", "Listing", "NoSuchMessage")

_T = TypeVar("_T")

CHUNK_ENTRIES = 1000
"""How many lines of a listing are made at a time: that of 100 000 messages must not stand in memory whole."""

SHARED_CHUNKS = 32
"""How many chunks are kept for the next session with the same entries: at most 2.5 MB, mostly a tenth of that."""

_UNIQUE_ID_LINES = re.compile(rb"(?:[0-9]+ [\x21-\x7e]{1,70}\r\n)*")


class NoSuchMessage(Exception):
    """The message-number is out of range or marked as deleted; the text may be told to the client."""


class Listing:
    """Fixed when the maildrop is opened; only the marks change. Raises ``ValueError`` for columns of another length."""

    __slots__ = ("_columns", "_count", "_entries", "_marked", "_octets", "_total")

    def __init__(self, entries: Sequence[Entry]) -> None:
        # Not copied: a maildrop may share one sequence among the sessions of an account.
        self._entries = entries
        self._columns = entries if isinstance(entries, Columns) else None
        self._marked: set[int] = set()
        self._count = len(entries)
        self._total = self._octets = sum(self._octets_of(0, self._count))

    @property
    def count(self) -> int:
        """Messages that are not marked as deleted."""
        return self._count - len(self._marked)

    @property
    def octets(self) -> int:
        """The sum of their octets."""
        return self._octets

    def entry(self, message_number: int) -> Entry:
        """The entry of a message that is there and not marked. Raises :class:`NoSuchMessage`."""
        if not 1 <= message_number <= self._count:
            raise NoSuchMessage("no such message")
        if message_number in self._marked:
            raise NoSuchMessage("the message is marked as deleted")
        return self._entries[message_number - 1]

    def following(self, message_number: int) -> Entry | None:
        """The entry behind that one, if it is there and not marked."""
        number = message_number + 1
        return None if number > self._count or number in self._marked else self._entries[message_number]

    def mark(self, message_number: int) -> None:
        """Mark as deleted. Raises :class:`NoSuchMessage`."""
        self._octets -= self.entry(message_number).octets
        self._marked.add(message_number)

    def unmark_all(self) -> None:
        """Take all marks back (RSET)."""
        self._marked.clear()
        self._octets = self._total

    def marked_unique_ids(self, but: Container[int] = ()) -> tuple[str, ...]:
        """The messages that are marked, in the order of the listing, but not those with the message-numbers ``but``."""
        return tuple(self._entries[number - 1].unique_id for number in sorted(self._marked) if number not in but)

    def numbers(self) -> Iterator[int]:
        """The message-numbers that are not marked."""
        return (number for number in range(1, self._count + 1) if number not in self._marked)

    def scan_lines(self) -> Iterator[bytes]:
        """The lines of LIST, in chunks."""
        return self._listed("LIST", self._scan_lines)

    def unique_id_lines(self) -> Iterator[bytes]:
        """The lines of UIDL, in chunks. Raises ``ValueError`` when the maildrop broke its contract."""
        return self._listed("UIDL", self._unique_id_lines)

    def _listed(self, command: str, make: Callable[[int, int], bytes]) -> Iterator[bytes]:
        for start, stop in self._chunks():
            if self._columns is None or self._marked:
                yield make(start, stop)
            else:
                yield _shared.chunk(self._entries, command, start, partial(make, start, stop))

    def _scan_lines(self, start: int, stop: int) -> bytes:
        return self._lines("%d", start, self._octets_of(start, stop))[0].encode()

    def _unique_id_lines(self, start: int, stop: int) -> bytes:
        return _checked(*self._lines("%s", start, self._unique_ids_of(start, stop)))

    def unique_id_line(self, message_number: int) -> bytes:
        """One line of UIDL. Raises :class:`NoSuchMessage`, and ``ValueError`` as above."""
        return _checked(f"{message_number} {self.entry(message_number).unique_id}\r\n", 1)

    def _chunks(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self._count, CHUNK_ENTRIES):
            yield start, min(start + CHUNK_ENTRIES, self._count)

    def _octets_of(self, start: int, stop: int) -> Sequence[int]:
        if self._columns is None:
            return [entry.octets for entry in self._entries[start:stop]]
        return _as_many(self._columns.octets[start:stop], stop - start)

    def _unique_ids_of(self, start: int, stop: int) -> Sequence[str]:
        if self._columns is None:
            return [entry.unique_id for entry in self._entries[start:stop]]
        return _as_many(self._columns.unique_ids(start, stop), stop - start)

    def _lines(self, form: str, start: int, values: Sequence[object]) -> tuple[str, int]:
        """A line for each entry that isn't marked, ``values`` being those from ``start`` on; how many lines."""
        numbers: Sequence[int] = range(start + 1, start + 1 + len(values))
        if self._marked:
            shown = [number not in self._marked for number in numbers]
            numbers, values = list(compress(numbers, shown)), list(compress(values, shown))
        # One format string for all lines: formatting each line alone would take twice as long.
        parts: list[object] = [None] * (2 * len(values))
        parts[::2] = numbers
        parts[1::2] = values
        return f"%d {form}\r\n" * len(values) % tuple(parts), len(values)


class _Shared:
    """The last chunks of listings without marks, by the sequence of entries. When fifty clients open a maildrop
    together, the plugin gives them one sequence, and the listing that all of them ask for first is made once.
    """

    def __init__(self) -> None:
        # The sequence is kept beside its lines, so that no other sequence can get its id() meanwhile.
        self._kept: OrderedDict[tuple[int, str, int], tuple[Sequence[Entry], bytes]] = OrderedDict()

    def chunk(self, entries: Sequence[Entry], command: str, start: int, make: Callable[[], bytes]) -> bytes:
        """The chunk of ``command`` for ``entries`` from index ``start`` on."""
        key = (id(entries), command, start)
        kept = self._kept.pop(key, None) or (entries, make())
        self._kept[key] = kept
        if len(self._kept) > SHARED_CHUNKS:
            self._kept.popitem(last=False)
        return kept[1]


_shared = _Shared()


def _as_many(values: Sequence[_T], count: int) -> Sequence[_T]:
    if len(values) != count:
        # Otherwise a number would mean another message in LIST than in UIDL.
        raise ValueError("the columns of a maildrop's entries are not as long as the entries")
    return values


def _checked(lines: str, count: int) -> bytes:
    # A blank or a line break in a unique-id would forge lines of the listing, and so get the wrong message deleted.
    octets = lines.encode("ascii")
    if not _UNIQUE_ID_LINES.fullmatch(octets) or octets.count(b"\n") != count:
        raise ValueError("a unique-id is not 1 to 70 characters from 0x21 to 0x7E")
    return octets
