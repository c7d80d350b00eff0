"""Message-numbers that never move, and marks that come and go."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import overload

import pytest

from legacy_email_proxy.contracts import Entry
from legacy_email_proxy.pop3.listing import CHUNK_ENTRIES, SHARED_CHUNKS, Listing, NoSuchMessage

THREE = (Entry("a", 10), Entry("b", 200), Entry("c", 3000))


class Columnar(Sequence[Entry]):
    """Entries that are kept as two columns; ``lost`` are missing in the second one."""

    def __init__(self, entries: Sequence[Entry], *, lost: int = 0) -> None:
        self._entries = entries
        self._lost = lost
        self.octets = [entry.octets for entry in entries]

    def unique_ids(self, start: int, stop: int) -> list[str]:
        return [entry.unique_id for entry in self._entries[start : stop - self._lost]]

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | Sequence[Entry]:
        assert isinstance(position, int), "a listing makes no entries where there are columns"
        return self._entries[position]


def test_empty() -> None:
    listing = Listing(())
    assert (listing.count, listing.octets, listing.marked_unique_ids()) == (0, 0, ())
    assert b"".join(listing.scan_lines()) == b"".join(listing.unique_id_lines()) == b""


@pytest.mark.parametrize("number", [-1, 0, 4, 2**32])
def test_numbers_out_of_range(number: int) -> None:
    for method in (Listing(THREE).entry, Listing(THREE).mark, Listing(THREE).unique_id_line):
        with pytest.raises(NoSuchMessage):
            method(number)


def test_marks_do_not_move_numbers() -> None:
    listing = Listing(THREE)
    listing.mark(2)
    assert (listing.count, listing.octets) == (2, 3010)
    assert b"".join(listing.scan_lines()) == b"1 10\r\n3 3000\r\n"
    assert b"".join(listing.unique_id_lines()) == b"1 a\r\n3 c\r\n"
    assert listing.entry(3) == THREE[2]
    for method in (listing.entry, listing.mark, listing.unique_id_line):
        with pytest.raises(NoSuchMessage):
            method(2)
    assert listing.octets == 3010


def test_marked_unique_ids_are_in_the_order_of_the_listing() -> None:
    listing = Listing(THREE)
    listing.mark(3)
    listing.mark(1)
    assert listing.marked_unique_ids() == ("a", "c")


def test_all_marks_are_taken_back() -> None:
    listing = Listing(THREE)
    listing.mark(1)
    listing.mark(2)
    listing.unmark_all()
    assert (listing.count, listing.octets, listing.marked_unique_ids()) == (3, 3210, ())
    assert listing.entry(1) == THREE[0]


def test_long_listings_come_in_chunks() -> None:
    count = 2 * CHUNK_ENTRIES + 1
    listing = Listing([Entry(f"u{n}", n) for n in range(1, count + 1)])
    listing.mark(CHUNK_ENTRIES)
    chunks = list(listing.scan_lines())
    assert len(chunks) == 3
    numbers = [int(line.split()[0]) for line in b"".join(chunks).splitlines()]
    assert numbers == [n for n in range(1, count + 1) if n != CHUNK_ENTRIES]
    assert b"".join(listing.unique_id_lines()).splitlines()[-1] == b"%d u%d" % (count, count)


@pytest.mark.parametrize("marked", [(), (1,), (1000, 1001, 2002), range(1, 2003)])
def test_columns_list_the_same_as_entries(marked: Sequence[int]) -> None:
    entries = [Entry(f"u{n}", 7 * n) for n in range(1, 2003)]
    plain, columnar = Listing(entries), Listing(Columnar(entries))
    for listing in (plain, columnar):
        for number in marked:
            listing.mark(number)
    assert plain.octets == columnar.octets == 7 * (sum(range(1, 2003)) - sum(marked))
    assert b"".join(columnar.scan_lines()) == b"".join(plain.scan_lines())
    assert b"".join(columnar.unique_id_lines()) == b"".join(plain.unique_id_lines())
    assert columnar.marked_unique_ids() == plain.marked_unique_ids()


def test_sessions_with_the_same_columns_share_what_is_listed() -> None:
    columns = Columnar([Entry(f"u{n}", 7 * n) for n in range(1, CHUNK_ENTRIES + 2)])
    one, other, marked = Listing(columns), Listing(columns), Listing(columns)
    marked.mark(1)
    for lines in (Listing.scan_lines, Listing.unique_id_lines):
        whole = list(lines(one))
        assert all(map(operator.is_, lines(other), whole))
        assert b"".join(lines(marked)) == b"".join(whole).partition(b"\r\n")[2]
        assert all(map(operator.is_, lines(one), whole)), "one session's marks are no other's"
        one.mark(2)
        assert b"\n2 " not in b"".join(lines(one))
        one.unmark_all()
    for n in range(SHARED_CHUNKS + 1):
        another = Columnar([Entry(f"v{n}", n)])
        assert list(Listing(another).scan_lines()) == [b"1 %d\r\n" % n], "in the place of one that is gone"
        del another
    assert list(one.scan_lines()) == list(other.scan_lines())
    assert next(one.unique_id_lines()).startswith(b"1 u1\r\n")


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="not as long"):
        list(Listing(Columnar(THREE, lost=1)).unique_id_lines())
    entries = Columnar(THREE)
    entries.octets.pop()
    with pytest.raises(ValueError, match="not as long"):
        Listing(entries)


@pytest.mark.parametrize("of", [tuple, Columnar])
@pytest.mark.parametrize("unique_id", ["", " ", "a b", "a\r\n2 b", "a\n", "é", "x" * 71, "\x7f", "\x00"])
def test_a_unique_id_can_not_forge_lines(unique_id: str, of: Callable[[Sequence[Entry]], Sequence[Entry]]) -> None:
    listing = Listing(of((Entry("good", 1), Entry(unique_id, 1))))
    with pytest.raises(ValueError, match=r"unique-id|ascii"):
        list(listing.unique_id_lines())
    with pytest.raises(ValueError, match=r"unique-id|ascii"):
        listing.unique_id_line(2)


def test_the_longest_unique_id_passes() -> None:
    longest = "!~" * 35
    assert Listing((Entry(longest, 1),)).unique_id_line(1) == f"1 {longest}\r\n".encode()
