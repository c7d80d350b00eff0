"""Reading from a server that misbehaves: the right octets or a failure, never another's or an empty message."""

from __future__ import annotations

import asyncio
import gc
import re
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
import psutil
import pytest

from fakes.imap import Action, Connection, Cut, Drip, Drop, Hang, Mailbox, Message, Reset
from imap.support import CLIENT, SHORT, collect, pair, read, read_top
from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone, MessageUnavailable
from legacy_email_proxy_plugins.imap import responses
from realservers.certificates import Certificates

ONE = b"Subject: one\r\n\r\nfirst\r\n"
LARGE = b"Subject: large\r\n\r\n" + bytes(range(256)) * 4096
IMPATIENT = {"read": SHORT, "command": 2.0}


def row(text: bytes) -> bytes:
    return b"* 1 FETCH (" + text + b")\r\nTAG OK done\r\n"


GOOD: list[tuple[bytes, bytes]] = [
    (row(b"UID 1 BODY[] {5}\r\nhello"), b"hello"),
    (row(b"BODY[] {5}\r\nhello UID 1"), b"hello"),
    (row(b"FLAGS (\\Seen) UID 1 BODY[] {5}\r\nhello"), b"hello"),
    (row(b"BODY[] {5}\r\nhello FLAGS () UID 1 MODSEQ (7)"), b"hello"),
    (row(b"uid 1 body[] {5}\r\nhello"), b"hello"),
    (row(b"UID 1 BODY[]  {5}\r\nhello"), b"hello"),
    (row(b"UID 1 BODY[]\t{5}\r\nhello"), b"hello"),
    (row(b"UID\t1\tBODY[] {5}\r\nhello "), b"hello"),
    (row(b" UID  1 BODY[] ~{5}\r\nhello"), b"hello"),
    (row(b"BODY[] ~{5}\r\nhello UID 1"), b"hello"),
    (row(b"UID 1 BODY[]{5}\r\nhello"), b"hello"),
    (row(b'UID 1 BODY[]  "1234"'), b"1234"),
    (row(b"UID 1 BODY[] {5}\r\nhello X-MORE 1"), b"hello"),
    (row(b"RFC822.SIZE 28 UID 1 BODY[] {5}\r\nhello"), b"hello"),
    (row(b'UID 1 BODY[] {5}\r\nhello INTERNALDATE " 1-Feb-2024 03:04:05 +0000" FLAGS (\\Seen a]b)'), b"hello"),
    (row(b'X-GM-LABELS ("\\\\Inbox" \\Sent "a \\"b\\" (c" [x] d"e) UID 1 BODY[] {5}\r\nhello X-GM-MSGID 12'), b"hello"),
    (row(b"EMAILID (M6d99) THREADID NIL SAVEDATE NIL UID 1 BODY[] {5}\r\nhello"), b"hello"),
    (row(b'X {3}\r\n)\r\n UID 1 Y ({1}\r\n( {0}\r\n) BODY[] {5}\r\nhello Z {1}\r\n"'), b"hello"),
    (row(b'BODYSTRUCTURE ("TEXT" "PLAIN" NIL NIL NIL "7BIT" 28 1) UID 1 BODY[] {5}\r\nhello'), b"hello"),
    (row(b"FLAGS () UID 1 FLAGS (\\Seen) BODY[] {5}\r\nhello"), b"hello"),
    (b"* 1 Fetch (UID 1 BODY[] {5}\r\nhello)\r\nTAG ok done\r\n", b"hello"),
    (b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\r\nTAG OK\r\n", b"hello"),
    (b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\nTAG OK done\n", b"hello"),
    (b"* OK text {5}\r\n* NO (\r\n* 3 Recent\r\n" + row(b"UID 1 BODY[] {5}\r\nhello"), b"hello"),
    (row(b'UID 1 BODY[] "a \\"quoted\\" \\\\ string"'), b'a "quoted" \\ string'),
    (row(b'BODY[] "1234" UID 1'), b"1234"),
    (row(b'UID 1 BODY[] "NIL"'), b"NIL"),
    (
        b"* 3 FETCH (FLAGS (\\Seen))\r\n* 1 FETCH (UID 9 FLAGS ())\r\n* 9 EXISTS\r\n" + row(b"UID 1 BODY[] {2}\r\nhi"),
        b"hi",
    ),
    (b"* 3 EXPUNGE\r\n" + row(b"UID 1 BODY[] {2}\r\nhi").replace(b"TAG", b"* 4 FETCH (FLAGS ())\r\nTAG"), b"hi"),
    (row(b"UID 1 BODY[] {29}\r\n* 1 FETCH (UID 2 BODY[] {3}\r\n"), b"* 1 FETCH (UID 2 BODY[] {3}\r\n"),
]


@pytest.mark.fault("C12")
@pytest.mark.parametrize(("answer", "message"), GOOD)
async def test_answers_of_all_kinds(certificates: Certificates, answer: bytes, message: bytes) -> None:
    async with pair(certificates.good, ONE, script={("BODY", 1): answer}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == message
            assert await read(session, 0) == ONE
    assert len(server.connections) == 1, "the connection was of use for the next"


NOTHING = [b"{0}\r\n", b'""', b" {0}\r\n", b"~{0}\r\n", b"NIL", b"nil"]


@pytest.mark.parametrize("nothing", NOTHING)
async def test_nothing_is_no_message_where_there_is_one(certificates: Certificates, nothing: bytes) -> None:
    """Also not as a header, or as the beginning that TOP asks for."""

    def answer(_: Connection, command: str) -> bytes:
        section = command.split("BODY.PEEK")[1].strip(")").replace(".65536>", ">").encode()
        return row(b"UID 1 BODY%b %b" % (section, nothing))

    async with pair(certificates.good, ONE, b"", script={"BODY": answer}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            for asked in (read(session, 0), read_top(session, 0, 0), read_top(session, 0, 3)):
                with pytest.raises(MessageUnavailable):
                    await asked
            server.script.clear()
            assert await read(session, 0) == ONE
            assert [await read(session, 1), await read_top(session, 1, 0), await read_top(session, 1, 3)] == [b""] * 3
    assert len(server.connections) == 1


BAD: list[tuple[Action, type[Failure]]] = [
    (b"TAG OK nothing\r\n", MessageGone),
    (b"* 1 FETCH (FLAGS (\\Seen))\r\nTAG OK flags only\r\n", MessageGone),
    (b"* 1 FETCH (UID 1 FLAGS (\\Seen))\r\nTAG OK flags only\r\n", MessageGone),
    (b"* 1 EXPUNGE\r\nTAG OK gone\r\n", MessageGone),
    (row(b"UID 1 BODY[] NIL"), MessageUnavailable),
    (row(b"UID 1 BODY[] nil"), MessageUnavailable),
    (row(b"BODY[] NIL UID 1"), MessageUnavailable),
    ("NO [SERVERBUG] broken message", MessageUnavailable),
    ("NO [EXPUNGEISSUED] gone", MessageGone),
    (b"* 1 FETCH (UID 1 BODY[] NIL)\r\n* 1 EXPUNGE\r\nTAG OK [EXPUNGEISSUED] gone\r\n", MessageGone),
    (b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\r\nTAG NO but no\r\n", MessageUnavailable),
    ("BAD what?", Disconnected),
    (row(b"UID 2 BODY[] {5}\r\nhello"), Disconnected),
    (row(b"BODY[] {5}\r\nhello UID 2"), Disconnected),
    (row(b'UID 2 BODY[] "hello"'), Disconnected),
    (row(b"BODY[] {5}\r\nhello"), Disconnected),
    (row(b"UID 1 UID 2 BODY[] {5}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {5}\r\nhello UID 2"), Disconnected),
    (row(b'UID 1 BODY[] {5}\r\nhello BODY[] "hello"'), Disconnected),
    (row(b"X (UID 1) BODY[] {5}\r\nhello"), Disconnected),
    (row(b'X "UID 1" BODY[] {5}\r\nhello'), Disconnected),
    (row(b"UID 1 X (BODY[] {5}\r\nhello)"), MessageGone),
    (row(b"UID 1 BINARY[] {5}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {5}\r\nhello BODY[HEADER] {2}\r\nhi"), Disconnected),
    (row(b'UID 1 BODY[] "hello'), Disconnected),
    (row(b"UID 1 " + b"X {0}\r\n " * 1000 + b"BODY[] {5}\r\nhello"), Disconnected),
    (b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\r\nTAG YES\r\n", Disconnected),
    (b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\r\nTAG\r\n", Disconnected),
    (Drop(b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\r\nTAG OK"), Disconnected),
    (row(b"UID 1 BODY[] hello"), Disconnected),
    (row(b"UID 1 BODY[] 12345"), Disconnected),
    (row(b"UID 1 BODY[] (hello)"), Disconnected),
    (row(b"UID 1 BODY[HEADER] {5}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[]<0> {5}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[TEXT] {5}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {5}\r\nhello BODY[] {5}\r\nworld"), Disconnected),
    (row(b"UID 1 BODY[] {5}\r\nhello")[:-13] + row(b"UID 1 BODY[] {5}\r\nworld"), Disconnected),
    (b"* 2 FETCH (UID 2 BODY[] {5}\r\nother)\r\n" + row(b"UID 1 BODY[] {5}\r\nhello"), Disconnected),
    (b'* 2 FETCH (UID 2 BODY[] "other")\r\n' + row(b"UID 1 BODY[] {5}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {4}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {5}\r\nhello world"), Disconnected),
    (row(b"UID 1 BODY[] {5}\r\nhello X-MORE"), Disconnected),
    (row(b"UID 1 BODY[] {6}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {1000}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {-1}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {4294967296}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {1000000000000000}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {99999999999999999999999999}\r\nhello"), Disconnected),
    (row(b"UID 1 BODY[] {4294967295}\r\nhello"), Disconnected),
    (row(b"UID 1 X {4000000000}\r\nhello"), Disconnected),
    (b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\r\n* BYE bye\r\n", Disconnected),
    (Drop(b"* BYE bye\r\n"), Disconnected),
    (Drop(), Disconnected),
    (Reset(), Disconnected),
    (Hang(), Disconnected),
    (Hang(b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\r\n"), Disconnected),
    (Drip(octets=b"* 1 FETCH (FLAGS ())\r\n"), Disconnected),
    (b"* 1 FETCH (FLAGS ())\r\n" * 50_000, Disconnected),
]


async def test_a_message_that_is_announced_far_beyond_its_listing_is_cut_off(certificates: Certificates) -> None:
    """Before an octet of it has gone to the client, which reads -ERR and keeps its connection."""
    announced = Hang(b"* 1 FETCH (UID 1 BODY[] {4294967295}\r\n" + b"x" * 100_000)
    async with pair(certificates.good, ONE, b"other", script={"BODY": announced}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            got = bytearray()
            with pytest.raises(Disconnected, match=f"listed with {len(ONE)} octets, the server announces 4294967295"):
                await collect(session, 0, got)
            assert got == b""
            server.script.clear()
            assert await read(session, 1) == b"other"


@pytest.mark.fault("C14")
@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize(("beyond", "whole"), [(0, True), (1, False)])
async def test_how_far_a_message_may_be_beyond_its_listing(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, others: int, beyond: int, *, whole: bool
) -> None:
    """Also where another session is open, so that the message is read ahead first, with less allowance."""
    monkeypatch.setattr(responses, "BEYOND_LISTING_OCTETS", 1 << 20)
    large = Message(b"x" * (2 * 100 + (1 << 20) + beyond), size=100)
    async with pair(certificates.good, mailbox=Mailbox({1: large})) as (maildrop, _), AsyncExitStack() as stack:
        for _ in range(others):
            await stack.enter_async_context(maildrop.open(CLIENT, None))
        async with maildrop.open(CLIENT, None) as session:
            if whole:
                assert await read(session, 0) == large.octets
            else:
                with pytest.raises(Disconnected, match="is listed with 100 octets"):
                    await read(session, 0)


@pytest.mark.quirk("imap-B2")
@pytest.mark.fault("C12", "C14")
@pytest.mark.parametrize(("answer", "kind"), BAD)
async def test_no_wrong_message_is_ever_handed_on(
    certificates: Certificates, answer: Action, kind: type[Failure]
) -> None:
    before = psutil.Process().memory_info().rss
    async with pair(certificates.good, ONE, b"other", script={"BODY": answer}, seconds=IMPATIENT) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            got = bytearray()
            with pytest.raises(Failure) as raised:
                await collect(session, 0, got)
            assert type(raised.value) is kind, raised.value.detail
            assert got == b"", "the last piece is held back until all is proven"
            server.script.clear()
            assert await read(session, 1) == b"other", "the rest of the maildrop is unaffected"
    assert psutil.Process().memory_info().rss - before < 64 << 20


@pytest.mark.parametrize("top", [row(b"UID 1 BODY[]<0> NIL"), row(b"UID 2 BODY[]<0> {2}\r\nhi"), b"TAG OK nothing\r\n"])
async def test_top_is_as_careful(certificates: Certificates, top: bytes) -> None:
    async with pair(certificates.good, ONE, script={"BODY": top}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            with pytest.raises(Failure):
                await read_top(session, 0, 3)


HEADED = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 8000


@pytest.mark.parametrize("lines", [1, 3000, 7000, 9000])
async def test_top_where_the_origin_is_told_with_the_size(certificates: Certificates, lines: int) -> None:
    def cyrus(octets: bytes) -> bytes:
        return re.sub(rb"(BODY\[\]<\d+)> ", rb"\1.65536> ", octets)

    async with pair(certificates.good, HEADED) as (maildrop, server):
        server.shape = cyrus
        async with maildrop.open(CLIENT, None) as session:
            top = await read_top(session, 0, lines)
    assert HEADED.startswith(top)
    assert top.count(b"\r\n") >= min(lines + 2, 8002)


@pytest.mark.parametrize("lines", [1, 3000, 7000, 9000])
@pytest.mark.parametrize("always", [True, False])
async def test_top_where_the_server_sends_the_message_whole(
    certificates: Certificates, lines: int, always: bool
) -> None:
    """Exchange may do so, whatever part was asked for; each window would be the message's beginning again."""

    def exchange(_: Connection, command: str) -> bytes | None:
        offset = re.search(r"<(\d+)\.", command)
        if offset is None or not (always or int(offset[1])):
            return None
        return row(b"UID 1 BODY[]<%b> {%d}\r\n%b" % (offset[1].encode(), len(HEADED), HEADED))

    got = bytearray()
    async with pair(certificates.good, HEADED, script={"BODY": exchange}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            try:
                async for piece in session.top(session.entries[0].unique_id, lines):
                    got += piece
            except Disconnected:
                assert not always
                assert lines > 3000
            else:
                assert got.count(b"\r\n") >= min(lines + 2, 8002)
    assert HEADED.startswith(got)


@pytest.mark.parametrize("behind", [b"NIL", b'""', b"{0}\r\n"])
@pytest.mark.parametrize("octets", [ONE, HEADED, HEADED[:65_536]], ids=["small", "large", "a window"])
async def test_top_where_the_listing_says_too_much(certificates: Certificates, octets: bytes, behind: bytes) -> None:
    """What a server says behind the end is the end, and no reason to close the connection on the client."""
    windows = [octets[start : start + 65_536] for start in range(0, len(octets), 65_536)]

    def answer(_: Connection, command: str) -> bytes:
        number, offset = divmod(int(command.split("<")[1].split(".")[0]), 65_536)
        if offset == 0 and number < len(windows):
            part = b"{%d}\r\n%b" % (len(windows[number]), windows[number])
        else:
            part = behind
        return row(b"UID 1 BODY[]<%d> %b" % (number * 65_536 + offset, part))

    box = Mailbox({1: Message(octets, size=len(octets) + (100 if len(octets) % 65_536 else 0))})
    async with pair(certificates.good, mailbox=box, script={"BODY": answer}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await read_top(session, 0, 100_000) == octets
    assert len(server.connections) == 1


# A large literal that ends too early.

HEAD = len(f"* 1 FETCH (UID 1 BODY[] {{{len(LARGE)}}}\r\n")
POINTS = [0, 10, HEAD, HEAD + 1, HEAD + len(LARGE) // 2, HEAD + len(LARGE) - 1, HEAD + len(LARGE), -1]


@pytest.mark.fault("C13")
@pytest.mark.parametrize("after", POINTS)
async def test_a_connection_that_ends_in_the_message(certificates: Certificates, after: int) -> None:
    async with pair(certificates.good, LARGE, ONE, script={("BODY", 1): Cut(after)}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            server.disconnect_all()  # So that the connection is a new one, which is not replaced.
            await server.until(lambda server: server.open_connections == 0)
            got = bytearray()
            with pytest.raises(Disconnected):
                await collect(session, 0, got)
            assert LARGE.startswith(got)
            assert len(got) < len(LARGE)
            assert (len(got) > 0) == (after > len(LARGE) // 3 or after < 0)
            assert await read(session, 1) == ONE


async def test_a_large_message_with_the_wrong_uid_behind_it(certificates: Certificates) -> None:
    answer = b"* 1 FETCH (BODY[] {%d}\r\n%b UID 2)\r\nTAG OK done\r\n" % (len(LARGE), LARGE)
    async with pair(certificates.good, LARGE, script={"BODY": answer}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            got = bytearray()
            with pytest.raises(Disconnected):
                await collect(session, 0, got)
            assert LARGE.startswith(got)
            assert len(got) < len(LARGE), "the reader must not take it for whole"


async def test_a_large_message_with_the_wrong_uid_before_it(certificates: Certificates) -> None:
    answer = b"* 1 FETCH (UID 2 BODY[] {%d}\r\n%b)\r\nTAG OK done\r\n" % (len(LARGE), LARGE)
    async with pair(certificates.good, LARGE, script={"BODY": answer}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            got = bytearray()
            with pytest.raises(Disconnected, match="UID 2"):
                await collect(session, 0, got)
            assert got == b""


TOO_MUCH = [
    (b"* 1 FETCH (FLAGS ())\r\n" * 50_000, "more than any answer"),
    (b"* 1 FETCH (UID 1 BODY[] {4294967296}\r\n", "literal of 4294967296 octets"),
    (b"* 1 FETCH (UID 1 BODY[] {1000000000000000}\r\n", "literal of 1000000000000000 octets"),
    (b"* 1 FETCH (UID 1 X {300000}\r\n", "literal of 300000 octets where none"),
    (b"* 1 FETCH (" + b"x" * 70_000, "line of more than"),
]


@pytest.mark.fault("C14")
@pytest.mark.parametrize(("octets", "words"), TOO_MUCH)
async def test_too_much_is_not_waited_for(certificates: Certificates, octets: bytes, words: str) -> None:
    async with pair(certificates.good, ONE, script={"BODY": Hang(octets)}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            with anyio.fail_after(50), pytest.raises(Disconnected, match=words):
                await read(session, 0)


@pytest.mark.quirk("imap-B35")
@pytest.mark.fault("C13")
async def test_a_stall_inside_a_message(certificates: Certificates) -> None:
    hang = Hang(b"* 1 FETCH (UID 1 BODY[] {%d}\r\n%b" % (len(LARGE), LARGE[:300_000]))
    async with pair(certificates.good, LARGE, script={"BODY": hang}, seconds=IMPATIENT) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            got = bytearray()
            with anyio.fail_after(50), pytest.raises(Disconnected, match="timed out"):
                await collect(session, 0, got)
            assert 0 < len(got) <= 300_000
        await server.until(lambda server: server.open_connections == 0)


@pytest.mark.fault("C25")
async def test_a_message_that_drips(certificates: Certificates) -> None:
    drip = Drip(interval=0.1, octets=b"x")
    async with pair(certificates.good, LARGE, script={"BODY": drip}, seconds=IMPATIENT) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            with anyio.fail_after(50), pytest.raises(Disconnected):
                await read(session, 0)


# Kept connections that have died.


@pytest.mark.fault("C17")
@pytest.mark.parametrize("bye", [b"", b"* BYE autologout; idle for too long, try again later\r\n"])
async def test_a_dead_kept_connection_is_replaced_once(certificates: Certificates, bye: bytes) -> None:
    async with pair(certificates.good, LARGE, script={("BODY", 1): Drop(bye)}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == LARGE
        assert len(server.connections) == 2
        server.script = {"BODY": Drop(bye)}
        async with maildrop.open(CLIENT, None) as session:
            with pytest.raises(Disconnected):
                await read(session, 0)
        assert len(server.connections) == 3, "once, not again and again"


async def test_a_connection_that_dies_after_the_first_piece_is_not_replaced(certificates: Certificates) -> None:
    async with pair(certificates.good, LARGE, script={"BODY": Cut(HEAD + 500_000)}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            got = bytearray()
            with pytest.raises(Disconnected):
                await collect(session, 0, got)
            assert LARGE.startswith(got), "a second try from the start would have repeated the first half"
        assert len(server.connections) == 1


# Readers that stop.


@pytest.mark.fault("C26")
async def test_a_reader_that_stops_early(certificates: Certificates) -> None:
    async with pair(certificates.good, b"x" * 20_000_000, ONE, BACKEND_IMAP_MAX_CONNECTIONS=1) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            for _ in range(3):
                pieces = session.retrieve(session.entries[0].unique_id)
                await anext(pieces)
                await pieces.aclose()
                assert await read(session, 1) == ONE, "the slot is free again"
        assert len(server.connections) == 4
        # Some MB wait in the system's buffers.
        assert server.sent_octets < 45_000_000, "the rest was not read"


async def test_a_reader_that_is_cancelled(certificates: Certificates) -> None:
    async with pair(certificates.good, b"x" * 5_000_000, ONE, BACKEND_IMAP_MAX_CONNECTIONS=1) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            with anyio.move_on_after(5) as scope:
                async for _ in session.retrieve(session.entries[0].unique_id):
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            assert await read(session, 1) == ONE


@pytest.mark.quirk("imap-B35")
@pytest.mark.fault("C26")
async def test_memory_does_not_grow_with_the_message(certificates: Certificates) -> None:
    octets = 100 << 20
    mailbox = Mailbox({1: Message(bytes(octets))})
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            gc.collect()
            process = psutil.Process()
            before = process.memory_info().rss
            highest, got = before, 0
            pieces = session.retrieve(session.entries[0].unique_id)
            got += len(await anext(pieces))
            sent = -1
            while sent != server.sent_octets:  # until the server can't get rid of any more
                sent = server.sent_octets
                await asyncio.sleep(0.1)
            assert sent < 24 << 20, "a slow reader slows the server down"
            async for piece in pieces:
                got += len(piece)
                highest = max(highest, process.memory_info().rss)
    assert got == octets
    assert highest - before < 16 << 20
