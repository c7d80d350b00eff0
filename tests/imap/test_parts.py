"""The parts that need no server: UID sets, the index, TOP's counting, the pipe."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Disconnected
from legacy_email_proxy_plugins.imap.listing import Index, uid_sets
from legacy_email_proxy_plugins.imap.responses import TopCounter
from legacy_email_proxy_plugins.imap.session import Pipe

UIDS = st.integers(1, 0xFFFF_FFFF)


@pytest.mark.quirk("imap-B9")
@pytest.mark.parametrize(
    ("uids", "sets"),
    [
        ([], []),
        ([7], ["7"]),
        ([3, 1, 2], ["1:3"]),
        ([1, 3, 5, 6, 9], ["1,3,5:6,9"]),
        ([2, 2, 2], ["2"]),
        ([4294967295, 4294967294], ["4294967294:4294967295"]),
    ],
)
def test_uid_sets(uids: list[int], sets: list[str]) -> None:
    assert list(uid_sets(uids)) == sets


@given(st.sets(st.integers(1, 400) | UIDS), st.integers(21, 60))
def test_uid_sets_name_exactly_these(uids: set[int], max_octets: int) -> None:
    named: list[int] = []
    for line in uid_sets(uids, max_octets):
        assert 0 < len(line) <= max_octets
        for item in line.split(","):
            first, _, last = item.partition(":")
            named += range(int(first), int(last or first) + 1)
    assert named == sorted(uids)


@given(st.dictionaries(UIDS, st.integers(0, 1 << 40), max_size=50), UIDS)
def test_index(octets_by_uid: dict[int, int], uidvalidity: int) -> None:
    index = Index(uidvalidity, octets_by_uid)
    assert [entry.octets for entry in index] == [octets_by_uid[uid] for uid in sorted(octets_by_uid)]
    assert list(index) == [index[position] for position in range(len(index))] == index[:]
    assert len({entry.unique_id for entry in index}) == len(octets_by_uid)
    for entry, uid in zip(index, sorted(octets_by_uid), strict=True):
        assert entry.unique_id == f"{uid:08x}{uidvalidity:08x}"
        assert index.uid(entry.unique_id) == uid


@given(st.text(max_size=20))
def test_no_other_unique_id_is_found(unique_id: str) -> None:
    index = Index(0xA, {1: 0, 0xABC: 0})
    if unique_id not in ("000000010000000a", "00000abc0000000a"):
        with pytest.raises(KeyError):
            index.uid(unique_id)
    for near in (
        "000000010000000A",
        "1",
        "+0000001000000a",
        "0x0000010000000a",
        " 00000010000000a",
        "000000010000000b",
    ):
        with pytest.raises(KeyError):
            index.uid(near)


@given(st.lists(st.sampled_from([b"a", b"\r\n", b"\n", b"\r", b"a: b\r\n", b"\r\n\r\n"])), st.integers(1, 5), st.data())
def test_top_counts_the_same_however_the_octets_arrive(parts: list[bytes], lines: int, data: st.DataObject) -> None:
    message = b"".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(message)), max_size=6)) | {0, len(message)})
    counter, enough_at = TopCounter(lines), None
    for start, end in itertools.pairwise(cuts):
        if counter.is_enough(message[start:end]):
            enough_at = end
            break
    header_ends = min(
        (end for mark in (b"\n\n", b"\n\r\n") if (end := message.find(mark) + len(mark)) >= len(mark)), default=None
    )
    for blank in (b"\n", b"\r\n"):
        if message.startswith(blank):
            header_ends = len(blank)
    body_lines = 0 if header_ends is None else message[header_ends:].count(b"\n")
    assert (enough_at is not None) == (body_lines >= lines)
    if enough_at is not None:
        assert header_ends is not None
        assert message[header_ends:enough_at].count(b"\n") >= lines


async def test_the_pipe_holds_a_few_pieces_only() -> None:
    pipe = Pipe(depth=3)
    put = []

    def produce() -> None:
        for number in range(20):
            pipe.put(b"%d" % number)
            put.append(number)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    while len(put) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    got = []
    for _ in range(20):
        got.append(await anext(pipe))
        assert len(put) <= len(got) + 3 + 1
    thread.join()
    pipe.end()
    assert [piece async for piece in pipe] == []
    assert got == [b"%d" % number for number in range(20)]


async def test_a_pipe_waits_for_its_client_while_it_is_full() -> None:
    pipe = Pipe(depth=2)
    pipe.put(b"one")
    assert not pipe.waits_for_client
    pipe.put(b"two")
    assert pipe.waits_for_client
    await anext(pipe)
    assert not pipe.waits_for_client
    pipe.put(b"three")
    assert pipe.waits_for_client
    pipe.close()
    assert not pipe.waits_for_client
    assert pipe.octets == 3


async def test_a_closed_pipe_lets_its_thread_go() -> None:
    pipe, raised = Pipe(depth=1), threading.Event()

    def produce() -> None:
        try:
            while True:
                pipe.put(b"x")
        except Disconnected:
            raised.set()

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    assert await anext(pipe) == b"x"
    while len(pipe._pieces) < 1:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # It waits by now, or the test would be passed too easily, never failed wrongly.
    pipe.close()
    await asyncio.get_running_loop().run_in_executor(None, thread.join, 5)
    assert raised.is_set()


async def test_a_failure_comes_behind_the_pieces() -> None:
    pipe = Pipe()
    pipe.put(b"one")
    pipe.end(Disconnected("gone"))
    assert await anext(pipe) == b"one"
    with pytest.raises(Disconnected, match="gone"):
        await anext(pipe)
