"""Batches that are read in the event loop: whatever comes in whatever pieces, and what is left to a thread."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from fakes.imap import Hang
from imap.support import CLIENT, SHORT, pair, read
from legacy_email_proxy.contracts import Disconnected
from legacy_email_proxy_plugins.imap.arrival import arrival
from legacy_email_proxy_plugins.imap.connection import Connection
from legacy_email_proxy_plugins.imap.pool import Pool
from legacy_email_proxy_plugins.imap.responses import Batch
from legacy_email_proxy_plugins.imap.settings import Patience
from legacy_email_proxy_plugins.imap.transport import Wire
from realservers.certificates import Certificates

ROWS = b"* 1 FETCH (UID 7 BODY[] {6}\r\na\r\n)\r\n)\r\n* 2 fetch (uid 9 body[] {0}\r\n)\r\n"
TAGGED = b"A1 OK done\r\n"
MAIL = [b"Subject: %d\r\n\r\n" % number for number in range(30)]


async def rest_of(
    socket_pair: tuple[socket.socket, socket.socket], pieces: list[bytes], *, octets: int = 1000, close: bool = False
) -> tuple[bytes, dict[int, bytes]]:
    """What is left of an answer that comes in these pieces, and the messages that were in it."""
    ours, theirs = socket_pair
    batch = Batch([7, 9], "BODY[]", 1000)
    left = iter(pieces)

    def send() -> None:
        # One after the other: the next piece is sent when the last one was taken.
        if piece := next(left, b""):
            theirs.sendall(piece)

    def receive() -> bytes:
        came = ours.recv(1000)
        send()
        return came

    send()
    if close:
        theirs.shutdown(socket.SHUT_WR)
    rest = await arrival(ours, receive, batch, octets, seconds=60, silent_seconds=SHORT)
    return rest, batch.messages


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1000])
async def test_an_answer_in_any_pieces(socket_pair: tuple[socket.socket, socket.socket], size: int) -> None:
    answer = ROWS + TAGGED
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    assert await rest_of(socket_pair, pieces) == (TAGGED, {7: b"a\r\n)\r\n", 9: b""})


@pytest.mark.parametrize(
    "other",
    [
        b"* 3 EXISTS\r\n",
        b"* BYE\r\n",
        b"* 2 FETCH (FLAGS () UID 9 BODY[] {0}\r\n",
        b"* 2 FETCH (UID 9 BODY[] {1}\r\nx FLAGS ())\r\n",
        b"A1\tOK\r\n",
        b"nonsense\n",
    ],
)
async def test_what_has_another_form_is_left_to_a_thread(
    socket_pair: tuple[socket.socket, socket.socket], other: bytes
) -> None:
    first = ROWS[: ROWS.index(b"* 2")]
    assert await rest_of(socket_pair, [first + other]) == (other, {7: b"a\r\n)\r\n"})


async def test_a_server_that_sends_single_octets_costs_little(socket_pair: tuple[socket.socket, socket.socket]) -> None:
    looked_at = 0

    class Counted(Batch):
        def take(self, block: bytes) -> int:
            nonlocal looked_at
            looked_at += len(block)
            return super().take(block)

    ours, theirs = socket_pair
    theirs.sendall(b"* 1 FETCH (UID 7 BODY[] {2000}\r\n%b)\r\nA" % (b"x" * 2000))
    theirs.shutdown(socket.SHUT_WR)
    batch = Counted([7], "BODY[]", 3000)
    assert await arrival(ours, lambda: ours.recv(1), batch, 3000, seconds=60, silent_seconds=60) == b"A"
    assert len(batch.messages[7]) == 2000
    assert looked_at < 3000


async def test_it_ends_with_the_connection_or_where_too_much_has_come(
    socket_pair: tuple[socket.socket, socket.socket],
) -> None:
    first = ROWS.index(b"* 2")
    assert (await rest_of(socket_pair, [ROWS[: first + 2]], octets=first))[0] == b"* "
    assert (await rest_of(socket_pair, [ROWS[:10]], close=True))[0] == ROWS[:10]


async def test_a_silent_server_is_given_up(socket_pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        await rest_of(socket_pair, [ROWS[:10], ROWS[10:20]])


async def test_a_batch_needs_no_thread(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    in_thread = []
    run = Pool._in_thread

    async def counted(self: Pool, lease: Any, function: Any) -> Any:
        in_thread.append(function)
        return await run(self, lease, function)

    async with pair(certificates.good, *MAIL) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == MAIL[0]
            monkeypatch.setattr(Pool, "_in_thread", counted)
            assert [await read(session, position) for position in range(1, 30)] == MAIL[1:]
    assert len(in_thread) == 0


async def test_a_batch_may_take_as_long_as_its_messages_one_by_one_and_is_not_kept_by_the_connection(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []
    kept: list[bool] = []
    allow, in_loop = Wire.allow, Connection.fetch_batch_in_loop

    def noted(self: Wire, seconds: float, octets: int) -> None:
        allowed.append(seconds)
        allow(self, seconds, octets)

    async def looked_at(self: Connection, uids: Any, *given: Any) -> dict[int, bytes]:
        allowed.clear()
        found = await in_loop(self, uids, *given)
        assert len(found) == len(uids)
        assert allowed == [Patience().command + len(uids) * Patience().read]
        kept.append(isinstance(self._imap.fetched, Batch))
        return found

    monkeypatch.setattr(Wire, "allow", noted)
    monkeypatch.setattr(Connection, "fetch_batch_in_loop", looked_at)
    async with pair(certificates.good, *MAIL) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert [await read(session, position) for position in range(30)] == MAIL
    assert kept
    assert not any(kept)


@pytest.mark.parametrize("close", [True, False])
async def test_who_gives_up_while_a_batch_comes(certificates: Certificates, close: bool) -> None:
    async with pair(certificates.good, *MAIL, script={("BODY", 2): Hang()}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == MAIL[0]
            reading = asyncio.create_task(read(session, 1))
            await server.until(lambda server: server.times("BODY") == 2)
            if close:
                await maildrop.aclose()
            else:
                reading.cancel()
            with pytest.raises((Disconnected, asyncio.CancelledError)):
                await reading
            assert not close or not reading.cancelled()
