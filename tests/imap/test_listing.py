"""Listings in blocks: the same as the ordinary parser's, however the octets arrive and whatever stands between."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Disconnected
from legacy_email_proxy_plugins.imap.imapclient_adapter import IMAP4, check
from legacy_email_proxy_plugins.imap.listing import Listing, Sizes
from legacy_email_proxy_plugins.imap.settings import Patience
from legacy_email_proxy_plugins.imap.transport import Wire

UIDS = st.integers(1, 0xFFFF_FFFF)
OCTETS = st.integers(0, (1 << 63) - 1)

LITERAL = b"* 9 FETCH (UID 900000099 RFC822.SIZE 5)\r\n"

# What may stand between the usual rows. None of it names a size of a UID that a row names otherwise.
ODD = [
    b"* 4 EXISTS\r\n",
    b"* 2 EXPUNGE\r\n",
    b"* OK still here\r\n",
    b"* OK [NOTICE] * 1 FETCH (UID 7 RFC822.SIZE 7)\r\n",
    b"* 1 FETCH (FLAGS (\\Seen))\r\n",
    b"* 3 FETCH (UID 900000001 FLAGS ())\r\n",
    b"* 3 FETCH (UID 900000002 RFC822.SIZE NIL)\r\n",
    b"* 3 FETCH (FLAGS (\\Seen) UID 900000003 RFC822.SIZE 30)\r\n",
    b"* 3 FETCH (UID 900000004 RFC822.SIZE 31 FLAGS ())\r\n",
    b"* 3 FETCH (UID 900000005  RFC822.SIZE 32)\r\n",
    # A literal may look like rows; it is none of them.
    b"* 3 FETCH (X {%d}\r\n%b UID 900000006 RFC822.SIZE 33)\r\n" % (len(LITERAL), LITERAL),
    b"* 3 FETCH (X {2}\r\nhi UID 900000007 RFC822.SIZE 34)\r\n",
]


class _Server:
    """In place of a socket: answers CAPABILITY, and UID FETCH with `answer`, cut into portions at `cuts`."""

    def __init__(self, answer: bytes, cuts: Collection[int]) -> None:
        self._answer = answer
        self._cuts = cuts
        self._portions = [b"* OK hi\r\n"]

    def settimeout(self, _: float) -> None:
        pass

    def sendall(self, octets: bytes) -> None:
        tag, _, command = octets.partition(b" ")
        answer = self._answer if b"FETCH" in command else b"* CAPABILITY IMAP4rev1\r\n"
        answer += tag + b" OK done\r\n"
        ends = sorted({0, len(answer)} | {cut for cut in self._cuts if cut < len(answer)})
        self._portions += [answer[start:end] for start, end in itertools.pairwise(ends)]

    def recv_into(self, buffer: memoryview) -> int:
        if not self._portions:
            return 0
        portion = self._portions.pop(0)
        if len(portion) > len(buffer):
            self._portions.insert(0, portion[len(buffer) :])
        octets = portion[: len(buffer)]
        buffer[: len(octets)] = octets
        return len(octets)


def listed(
    answer: bytes, cuts: Collection[int] = (), *, in_blocks: bool = True, octets: int = 1 << 20
) -> dict[int, int]:
    """The listing made of `answer`, with the shortcut or by the ordinary parser alone."""
    wire = Wire(Patience())
    wire.allow(60, octets)
    wire._socket = _Server(answer, cuts)  # type: ignore[assignment]
    wire._read_from_socket()
    imap, listing = IMAP4(wire), Listing()
    imap.debug = 0
    imap.state = "SELECTED"
    if not in_blocks:
        listing.take = lambda block: 0  # type: ignore[method-assign]
    imap.fetched = listing
    check(imap.uid("FETCH", "1:*", "(UID RFC822.SIZE)"))
    return dict(listing.sizes())


def row(number: int, uid: int, octets: int, *, turned: bool = False) -> bytes:
    if turned:
        return b"* %d FETCH (RFC822.SIZE %d UID %d)\r\n" % (number, octets, uid)
    return b"* %d FETCH (UID %d RFC822.SIZE %d)\r\n" % (number, uid, octets)


@given(
    st.dictionaries(UIDS.filter(lambda uid: not 900_000_000 <= uid < 900_001_000), OCTETS, max_size=60),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(ODD)), max_size=6),
    st.data(),
)
def test_any_chunks_with_odd_rows_between_are_the_same_to_the_ordinary_parser(
    sizes: dict[int, int], in_order: bool, odd: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    uids = sorted(sizes) if in_order else list(sizes)
    lines = [row(number, uid, sizes[uid], turned=data.draw(st.booleans())) for number, uid in enumerate(uids, 1)]
    for position, octets in odd:
        lines.insert(position, octets)
    answer = b"".join(lines)
    cuts = data.draw(st.sets(st.integers(1, len(answer) + 12), max_size=30))
    found = listed(answer, cuts)
    assert found == listed(answer, in_blocks=False)
    assert found.items() >= sizes.items()
    assert list(found) == sorted(found)


def test_a_listing_cut_at_every_place() -> None:
    answer = b"".join(
        [row(1, 5, 50), ODD[1], row(2, 7, 70), ODD[10], ODD[7], row(3, 9, 90, turned=True), row(4, 11, 0)]
    )
    expected = listed(answer, in_blocks=False)
    assert expected == {5: 50, 7: 70, 9: 90, 11: 0, 900000003: 30, 900000006: 33}
    for cut in range(1, len(answer) + 10):
        assert listed(answer, [cut]) == expected
    assert listed(answer, range(1, len(answer) + 20)) == expected, "an octet at a time"


def test_rows_across_the_borders_of_the_buffer() -> None:
    # Rows of 37 octets never end where a buffer of 65 536, or a TLS record of 4096, does.
    answer = b"".join(row(number, 1_000_000 + number, number) for number in range(10_000))
    expected = {1_000_000 + number: number for number in range(10_000)}
    assert listed(answer) == listed(answer, range(0, len(answer), 4096)) == expected


def test_only_the_ordinary_parser_sees_what_is_odd() -> None:
    listing = Listing()
    usual = row(1, 5, 50) + row(2, 6, 60)
    assert listing.take(usual + ODD[0] + row(3, 7, 70)) == len(usual)
    assert listing.take(row(3, 7, 70)[:-1]) == 0, "not before its end has come"
    assert listing.take(b"") == 0
    assert dict(listing.sizes()) == {5: 50, 6: 60}


@pytest.mark.parametrize("in_blocks", [True, False])
def test_numbers_out_of_range_hide_no_other_message(in_blocks: bool) -> None:
    answer = row(1, 1, 10) + row(2, 0, 20) + row(3, 1 << 32, 30) + row(4, 4, 1 << 63) + row(5, 5, 50)
    assert listed(answer, in_blocks=in_blocks) == {1: 10, 4: 0, 5: 50}


def test_a_listing_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(Disconnected, match="more than any answer"):
        listed(row(1, 1, 1) * 10_000, octets=100_000)


@pytest.mark.fault("C6")
def test_what_a_listing_costs() -> None:
    listing = Listing()
    for start in range(0, 100_000, 1000):
        listing.take(b"".join(row(uid, uid, uid) for uid in range(start + 1, start + 1001)))
    sizes = listing.sizes()
    assert len(sizes) == 100_000
    assert sum(len(column) * column.itemsize for column in (sizes.uids, sizes.octets)) == 12 * 100_000


@given(st.dictionaries(UIDS, OCTETS, max_size=30), UIDS)
def test_sizes_are_a_mapping(octets_by_uid: dict[int, int], uid: int) -> None:
    sizes = Sizes.of(octets_by_uid)
    assert Sizes.of(sizes) is sizes
    assert dict(sizes) == octets_by_uid
    assert sizes.get(uid) == octets_by_uid.get(uid)
    assert sizes.below(uid) == sum(other < uid for other in octets_by_uid)
    later = sizes.later_than(uid)
    assert dict(later) == {other: octets for other, octets in octets_by_uid.items() if other > uid}
    assert dict(
        Sizes.of({other: octets for other, octets in octets_by_uid.items() if other <= uid}).with_later(later)
    ) == (octets_by_uid)
