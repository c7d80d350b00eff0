"""The connections of an account: how many, lent to whom, and what becomes of them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anyio
import pytest

from fakes.imap import Action, Connection, Hang, Mailbox, Message
from imap.support import CLIENT, SHORT, collect, login, pair, read
from legacy_email_proxy.contracts import Client, Disconnected, Failure, LoginRefused, Overloaded
from legacy_email_proxy_plugins import places
from legacy_email_proxy_plugins.imap.session import Pipe
from realservers.certificates import Certificates
from waiting import until

ONE = b"Subject: one\r\n\r\nfirst\r\n"
LARGE = b"x" * 4_000_000


def threads() -> int:
    return sum(thread.name.startswith("imap") for thread in threading.enumerate())


async def _drain(pieces: AsyncIterator[bytes], into: bytearray) -> None:
    async for piece in pieces:
        into += piece


@pytest.mark.quirk("imap-B15", "imap-B28", "imap-B29")
async def test_never_more_connections_than_allowed(certificates: Certificates) -> None:
    most = 0

    async def use() -> None:
        nonlocal most
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == ONE
            most = max(most, server.open_connections)

    async with pair(certificates.good, ONE, BACKEND_IMAP_MAX_CONNECTIONS=3) as (maildrop, server):
        async with anyio.create_task_group() as clients:
            for _ in range(30):
                clients.start_soon(use)
        assert most <= 3
        assert len(server.connections) <= 3, "and they are used again"
        assert threads() <= 3


async def test_open_sessions_hold_no_connection(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE, BACKEND_IMAP_MAX_CONNECTIONS=1) as (maildrop, server):
        async with AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(maildrop.open(CLIENT, None)) for _ in range(5)]
            for session in sessions:
                assert await read(session, 0) == ONE
        assert len(server.connections) == 1


async def test_waiting_for_a_connection_ends(certificates: Certificates) -> None:
    async with pair(
        certificates.good, LARGE, seconds={"slot": SHORT}, BACKEND_IMAP_MAX_CONNECTIONS=1
    ) as (maildrop, _):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            pieces = session.retrieve(session.entries[0].unique_id)
            await anext(pieces)
            with pytest.raises(Overloaded) as raised:
                async with maildrop.open(CLIENT, None):
                    pass
            assert raised.value.look_at == "BACKEND_IMAP_MAX_CONNECTIONS"
            await pieces.aclose()
            async with maildrop.open(CLIENT, None):
                pass


async def test_slow_readers_of_large_messages_leave_connections_to_others(certificates: Certificates) -> None:
    async with pair(
        certificates.good, LARGE, ONE, seconds={"slot": SHORT}, BACKEND_IMAP_MAX_CONNECTIONS=4
    ) as (maildrop, _), AsyncExitStack() as stack:  # fmt: skip
        sessions = [
            await stack.enter_async_context(maildrop.open(Client(f"192.0.2.{number}", "s"), None))
            for number in range(4)
        ]
        reading = [session.retrieve(session.entries[0].unique_id) for session in sessions]
        for pieces in reading[:3]:
            await anext(pieces)
        with pytest.raises(Overloaded, match="3 of them for large messages"):
            await anext(reading[3])
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 1) == ONE
        for pieces in reading:
            await pieces.aclose()


@pytest.mark.parametrize("size", [None, 0])
async def test_the_slowest_reader_loses_its_connection_to_one_that_waits(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: int | None
) -> None:
    """Also where the server told no size. Whoever is cut off reads a failure, never a short message."""
    monkeypatch.setattr(places, "SOON_SECONDS", 0.01)
    monkeypatch.setattr(places, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(places, "FAIR_SECONDS", 0.0)
    monkeypatch.setattr(Pipe, "fair_octets_per_second", 1 << 40)
    mailbox = Mailbox({1: Message(LARGE, size=size)})
    async with pair(certificates.good, mailbox=mailbox, BACKEND_IMAP_MAX_CONNECTIONS=1) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as slow, maildrop.open(Client("192.0.2.9", "s9"), None) as other:
            pieces, got = slow.retrieve(slow.entries[0].unique_id), bytearray()
            got += await anext(pieces)
            assert await read(other, 0) == LARGE
            with pytest.raises(Overloaded, match="this client was the slowest"):
                await _drain(pieces, got)
            assert 0 < len(got) < len(LARGE)
            assert await read(slow, 0) == LARGE, "the session goes on"
        assert len(server.connections) == 2
    (facts,) = [
        vars(each)["facts"] for each in caplog.records if each.getMessage() == "connection taken from a slow device"
    ]
    assert facts["client"] == CLIENT.address
    assert "this client was the slowest" in facts["reason"]


@pytest.mark.parametrize("step", ["TLS", "GREETING", "PLAIN", "SELECT", "LISTING"])
async def test_a_cancelled_opening_frees_its_slot_and_its_thread(certificates: Certificates, step: str) -> None:
    async with pair(
        certificates.good, ONE, script={(step, 1): Hang()}, BACKEND_IMAP_MAX_CONNECTIONS=1
    ) as (maildrop, server):  # fmt: skip
        with anyio.move_on_after(20) as scope:
            async with anyio.create_task_group() as group:

                async def cancel() -> None:
                    await server.until(lambda server: server.times(step) == 1)
                    scope.cancel()

                group.start_soon(cancel)
                async with maildrop.open(CLIENT, None):
                    pass
        assert scope.cancelled_caught
        with anyio.fail_after(50):
            async with maildrop.open(CLIENT, None) as session:
                assert await read(session, 0) == ONE


async def test_who_gives_up_a_look_up_that_hangs_leaves_no_slot_taken_and_one_thread(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving, go_on = threading.Event(), threading.Event()
    getaddrinfo = socket.getaddrinfo

    def hang(*arguments: Any, **named: Any) -> Any:
        resolving.set()
        go_on.wait(20)
        return getaddrinfo(*arguments, **named)

    async with pair(
        certificates.good, ONE, seconds={"slot": SHORT}, BACKEND_IMAP_MAX_CONNECTIONS=1
    ) as (maildrop, server):  # fmt: skip
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        asking = []
        for _ in range(3):
            async with anyio.create_task_group() as group:

                async def open_it() -> None:
                    async with maildrop.open(CLIENT, None):
                        pass

                group.start_soon(open_it)
                await until(resolving.is_set)
                group.cancel_scope.cancel()
            asking.append([each for each in threading.enumerate() if each.name.startswith("look up")])
        # They all wait for the one look-up that is under way; more of them would pile up.
        assert len({*map(tuple, asking)}) == len(asking[0]) == 1
        await until(lambda: threads() <= 1)
        go_on.set()
        monkeypatch.undo()
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == ONE
        assert len(server.connections) == 1


@pytest.mark.fault("D12")
async def test_a_stuck_account_holds_up_no_other(certificates: Certificates) -> None:
    def stuck(connection: Connection, _: str) -> Action:
        return Hang() if connection.user == "stuck" else None

    accounts = {("stuck", "p"): Mailbox.of(ONE), ("alice", "p"): Mailbox.of(ONE)}
    async with pair(
        certificates.good,
        accounts=accounts,
        script={"SELECT": stuck},  # type: ignore[dict-item]
        POP3_LOGIN="backend",
        BACKEND_IMAP_MAX_CONNECTIONS=2,
    ) as (maildrop, server):
        async with anyio.create_task_group() as group:

            async def open_stuck(number: int) -> None:
                client = replace(CLIENT, address=f"192.0.2.{number}")
                async with maildrop.open(client, login("stuck", "p")):
                    pass

            for number in range(12):
                group.start_soon(open_stuck, number)
            await server.until(lambda server: server.times("SELECT") == 2)
            started = time.monotonic()
            for _ in range(3):
                async with maildrop.open(CLIENT, login("alice", "p")) as session:
                    assert await read(session, 0) == ONE
            assert time.monotonic() - started < 5
            assert threads() <= 2 + 2
            group.cancel_scope.cancel()
        await until(lambda: threads() <= 2)


async def test_readers_of_one_address_that_stop_leave_connections_to_others(certificates: Certificates) -> None:
    async with pair(certificates.good, LARGE, ONE, BACKEND_IMAP_MAX_CONNECTIONS=4) as (maildrop, _):
        async with AsyncExitStack() as stack:
            greedy = []
            for _ in range(4):
                session = await stack.enter_async_context(maildrop.open(CLIENT, None))
                greedy.append(session.retrieve(session.entries[0].unique_id))
            # A piece, and then nothing more is taken: the connection waits with it.
            for reading in greedy[:3]:
                assert await anext(reading)
            fourth = asyncio.create_task(anext(greedy[3]))
            other = await stack.enter_async_context(maildrop.open(replace(CLIENT, address="192.0.2.7"), None))
            async with asyncio.timeout(10):
                assert await read(other, 1) == ONE
            assert not fourth.done(), "an address has three quarters of them at most"
            await greedy[0].aclose()
            assert await fourth
            for reading in greedy:
                await reading.aclose()


async def test_same_name_with_another_password_shares_nothing(certificates: Certificates) -> None:
    accounts = {("alice", "one"): Mailbox.of(b"of one"), ("alice", "two"): Mailbox.of(b"of two")}
    async with pair(certificates.good, accounts=accounts, POP3_LOGIN="backend") as (maildrop, server):
        for _ in range(3):
            for password in ("one", "two"):
                async with maildrop.open(CLIENT, login("alice", password)) as session:
                    assert await read(session, 0) == f"of {password}".encode()
        for connection in server.connections:
            assert connection.mailbox is accounts["alice", str(connection.password)]
        with pytest.raises(LoginRefused):
            async with maildrop.open(CLIENT, login("alice", "three")):
                pass


async def test_every_client_login_is_proven_anew(certificates: Certificates) -> None:
    accounts = {("alice", "one"): Mailbox.of(ONE)}
    async with pair(certificates.good, accounts=accounts, POP3_LOGIN="backend") as (maildrop, server):
        for times in range(1, 6):
            async with maildrop.open(CLIENT, login("alice", "one")) as session:
                assert await read(session, 0) == ONE
            assert server.times("PLAIN") == times
        await server.until(lambda server: server.open_connections <= 1)
        server.accounts.clear()
        with pytest.raises(LoginRefused):
            async with maildrop.open(CLIENT, login("alice", "one")):
                pass


async def test_a_refused_client_login_leaves_nothing_behind(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE, POP3_LOGIN="backend") as (maildrop, server):
        for number in range(20):
            with pytest.raises(LoginRefused):
                async with maildrop.open(CLIENT, login("mallory", f"guess {number}")):
                    pass
        await server.until(lambda server: server.open_connections == 0)
        await until(lambda: threads() == 0)
        assert maildrop._accounts._pools == {}


@pytest.mark.fault("C18")
async def test_unused_connections_are_closed(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE, seconds={"idle": 0.1}, POP3_LOGIN="backend") as (maildrop, server):
        async with maildrop.open(CLIENT, login()) as session:
            await server.until(lambda server: server.open_connections == 0)
            assert server.commands[-1] == "LOGOUT"
            assert await read(session, 0) == ONE, "the session goes on over another one"
        await server.until(lambda server: server.open_connections == 0)
        await until(lambda: maildrop._accounts._pools == {})
        await until(lambda: threads() == 0)


@pytest.mark.parametrize("logout", [None, Hang()])
async def test_closing_the_maildrop(certificates: Certificates, logout: Action) -> None:
    async with pair(certificates.good, LARGE, script={"LOGOUT": logout}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            got = bytearray()
            pieces = session.retrieve(session.entries[0].unique_id)
            got += await anext(pieces)
            async with maildrop.open(CLIENT, None):
                started = time.monotonic()
                await maildrop.aclose()
                assert time.monotonic() - started < 2
            with pytest.raises(Disconnected):
                await _drain(pieces, got)
            assert len(got) < len(LARGE)
            with pytest.raises(Failure):
                await collect(session, 0, got)
        await server.until(lambda server: server.open_connections == 0)
        await until(lambda: threads() == 0)
    assert "LOGOUT" in server.commands
