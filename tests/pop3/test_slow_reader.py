"""The deadline of a reader: whoever takes something, however slowly, goes on; whoever takes nothing is cut off."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import anyio
import pytest

from legacy_email_proxy.pop3.connection import Connection, Stalled


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, and that of a client with the small buffer of an old device."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            yield ours, theirs


async def test_a_slow_reader_is_not_a_stuck_one(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system is late to call a socket writable, here for ever: what counts is what the client took meanwhile."""
    ours, theirs = ends
    takes = [25_000, 25_000, 25_000]
    waited = 0

    async def never_writable(_: socket.socket) -> None:
        nonlocal waited
        wanted = takes[waited] if waited < len(takes) else 0
        waited += 1
        while wanted > 0:
            wanted -= len(theirs.recv(wanted))
        await anyio.sleep_forever()

    monkeypatch.setattr(anyio, "wait_writable", never_writable)
    with pytest.raises(Stalled):
        await Connection(ours, 0.05).send(bytes(16 << 20))
    assert waited > len(takes)


async def test_a_trickle_is_no_progress(ends: tuple[socket.socket, socket.socket]) -> None:
    """Something now and then would hold a connection to the backend for as long as the client likes."""
    ours, theirs = ends
    sending = asyncio.create_task(Connection(ours, 0.2).send(bytes(16 << 20)))
    while not sending.done():
        await asyncio.sleep(0.01)
        theirs.recv(1)
    with pytest.raises(Stalled):
        await sending


async def test_the_time_of_a_client_that_keeps_on_is_not_counted(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    connection = Connection(ours, 0.2)
    for _ in range(10):
        await connection.send(bytes(100))
        assert len(theirs.recv(1000)) == 100
        # What the backend needs for the next piece.
        await asyncio.sleep(0.05)


async def test_what_a_client_does_not_read_stays_with_us(ends: tuple[socket.socket, socket.socket]) -> None:
    """The system takes only a little of it: else it would fill its memory, and a slow reader would look like a fast."""
    ours, theirs = ends
    sending = asyncio.create_task(Connection(ours, 0.2).send(bytes(16 << 20)))
    with pytest.raises(Stalled):
        await sending
    ours.close()
    taken = 0
    while octets := theirs.recv(65536):
        taken += len(octets)
    assert 0 < taken < 512 << 10
