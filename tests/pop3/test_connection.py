"""One connection: who waits how long, and what a client that sends ahead or takes everything may cost others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from clients import reset_when_closed
from legacy_email_proxy.pop3.connection import TURN_OCTETS, Connection

SOON, LATE = 0.05, 60.0


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Connection, socket.socket]]:
    """A connection, and its client."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours, 20)
    with theirs:
        yield connection, theirs
    connection.close()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_receive_ends_in_time(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.send(b"one")
    assert await connection.receive(now() + LATE) == b"one"
    # The alarm for the one before is still set, for later; and one that rings too early ends nothing.
    for seconds in (SOON, 2 * SOON, SOON):
        until = now() + seconds
        with pytest.raises(TimeoutError):
            await connection.receive(until)
        assert until <= now() < until + 10
    client.send(b"two")
    assert await connection.receive(now() + LATE) == b"two"


async def test_an_early_alarm_ends_no_later_wait(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.send(b"one")
    assert await connection.receive(now() + SOON) == b"one"
    waiting = asyncio.create_task(connection.receive(now() + LATE))
    await asyncio.sleep(3 * SOON)
    assert not waiting.done()
    connection.hurry(now() + SOON)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 10)


async def test_an_alarm_that_rang_too_early_is_set_again(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.send(b"one")
    assert await connection.receive(now() + SOON) == b"one"
    waiting = asyncio.create_task(connection.receive(now() + 3 * SOON))
    assert await asyncio.wait([waiting], timeout=50) == ({waiting}, set())
    assert isinstance(waiting.exception(), TimeoutError)


async def test_a_client_that_drips_does_not_get_more_time(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.send(b"x")
    with pytest.raises(TimeoutError):
        await connection.receive(now() - SOON)


async def test_what_is_sent_ahead_does_not_keep_the_loop_awake(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = 0
    on_readable = Connection._on_readable

    def counting(self: Connection) -> None:
        nonlocal woken
        woken += 1
        on_readable(self)

    monkeypatch.setattr(Connection, "_on_readable", counting)
    connection, client = pair
    client.send(b"one")
    assert await connection.receive() == b"one"
    client.send(b"two")
    for _ in range(20):
        await asyncio.sleep(0)
    assert woken <= 2
    assert await connection.receive() == b"two"


async def test_a_client_that_takes_everything_leaves_others_their_turn(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, client = pair
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    for _ in range(10):
        before = turns
        for _ in range(4):
            await connection.send(b"x" * (TURN_OCTETS // 4))
            client.recv(TURN_OCTETS)
        assert turns > before
    task.cancel()


async def test_a_closed_connection_leaves_nothing_in_the_loop(pair: tuple[Connection, socket.socket]) -> None:
    connection, client = pair
    client.send(b"one")
    assert await connection.receive(now() + LATE) == b"one"
    number = connection._socket.fileno()
    connection.close()
    assert not asyncio.get_running_loop().remove_reader(number)
    connection.close()


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_who_resets_behind_a_command_is_seen_to_be_gone(pause: float) -> None:
    """uvloop tells of a reset once only, and that may be while nobody waits for octets."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        client = socket.create_connection(listener.getsockname())
        accepted, _ = await loop.sock_accept(listener)
        connection = Connection(accepted, 10.0)
        await connection.send(b"+OK\r\n")
        client.sendall(b"DELE 1\r\n")
        reset_when_closed(client)
        client.close()
        await asyncio.sleep(pause)
        async with asyncio.timeout(20):
            octets = await connection.receive()
            await connection.send(b"+OK\r\n")
            await asyncio.sleep(pause)
            while octets:
                octets = await connection.receive()
        connection.close()
        assert accepted.fileno() == -1
