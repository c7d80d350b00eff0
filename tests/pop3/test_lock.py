"""POP3_LOCK: one session for each maildrop, no oracle for who has no password, and free again whatever happened."""

from __future__ import annotations

import asyncio
import socket

import pytest

from clients import reset_when_closed
from legacy_email_proxy.accounts.maildrop import RoutedMaildrop
from legacy_email_proxy.accounts.pop_before_smtp import RecentLogins
from legacy_email_proxy.accounts.rules import Rule
from legacy_email_proxy.accounts.users import PasswordHash, Users
from legacy_email_proxy.contracts import LoginRefused
from pop3.conftest import Leg, StartLeg
from pop3.maildrops import MemoryMaildrop
from waiting import until

IN_USE = b"-ERR [IN-USE] another session has this maildrop open\r\n"


async def greet_and_log_in(leg: Leg, user: bytes = b"u") -> bytes:
    """What a fresh connection reads to PASS; it quits afterwards."""
    return (await leg.exchange(b"USER " + user + b"\r\nPASS p\r\nQUIT\r\n")).splitlines(keepends=True)[2]


async def test_off_by_default(start_leg: StartLeg) -> None:
    leg = await start_leg()
    async with leg.logged_in():
        assert (await greet_and_log_in(leg)).startswith(b"+OK")


@pytest.mark.fault("C23")
@pytest.mark.parametrize("ask_backend", [True, False])
async def test_a_second_session_reads_in_use(start_leg: StartLeg, *, ask_backend: bool) -> None:
    leg = await start_leg(lock=True, ask_backend=ask_backend)
    async with leg.logged_in() as (reader, writer):
        assert await greet_and_log_in(leg, b"u") == IN_USE
        # Most servers take these for one user. Which user it is matters only where the backend was asked.
        assert await greet_and_log_in(leg, b"U") == IN_USE
        assert (await greet_and_log_in(leg, b"other") == IN_USE) == (not ask_backend)
        writer.write(b"QUIT\r\n")
        assert (await reader.readline()).startswith(b"+OK")
        # Already with the last reply, not when the connection has gone.
        assert (await greet_and_log_in(leg)).startswith(b"+OK")


@pytest.mark.fault("C24")
async def test_a_wrong_password_learns_nothing_of_the_lock(start_leg: StartLeg) -> None:
    maildrop = MemoryMaildrop()
    leg = await start_leg(maildrop, lock=True, ask_backend=True)
    async with leg.logged_in():
        maildrop.fail_open.append(LoginRefused("x"))
        assert (await greet_and_log_in(leg)).startswith(b"-ERR [AUTH] ")
        assert await greet_and_log_in(leg) == IN_USE


@pytest.mark.fault("C23")
@pytest.mark.parametrize("end", ["drop", "reset", "idle", "crash", "failed commit", "drain"])
async def test_it_is_free_again(start_leg: StartLeg, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maildrop = MemoryMaildrop({"a": b"x\r\n"})
    leg = await start_leg(maildrop, lock=True, idle_seconds=0.3 if end == "idle" else 20)
    if end == "crash":
        maildrop.fail["retrieve a"] = ValueError("bug")
    if end == "failed commit":
        maildrop.fail["commit"] = ValueError("bug")
    client = socket.create_connection(leg.address)
    client.sendall(b"USER u\r\nPASS p\r\nDELE 1\r\n")
    await until(lambda: maildrop.entered == 1)
    assert leg.server._locks._held == {""}
    match end:
        case "drop":
            client.close()
        case "reset":
            reset_when_closed(client)
            client.close()
        case "crash":
            client.sendall(b"RSET\r\nRETR 1\r\n")
        case "failed commit":
            client.sendall(b"QUIT\r\n")
        case "drain":
            await leg.server.drain(0)
    await leg.ended()
    client.close()
    assert leg.server._locks._held == set()
    if end != "drain":
        assert (await greet_and_log_in(leg)).startswith(b"+OK")


async def test_it_is_free_when_the_maildrop_can_not_let_go(start_leg: StartLeg) -> None:
    maildrop = MemoryMaildrop()
    leg = await start_leg(maildrop, lock=True)
    maildrop.fail["leave"] = ValueError("bug")
    assert (await greet_and_log_in(leg)).startswith(b"+OK")
    del maildrop.fail["leave"]
    assert (await greet_and_log_in(leg)).startswith(b"+OK")


@pytest.mark.fault("C23")
async def test_of_many_at_once_one_gets_it(start_leg: StartLeg) -> None:
    leg = await start_leg(lock=True)
    async with asyncio.timeout(20):
        connections = [await asyncio.open_connection(*leg.address) for _ in range(20)]
        for _, writer in connections:
            writer.write(b"USER u\r\nPASS p\r\n")
        replies = [[await reader.readline() for _ in range(3)][2] for reader, _ in connections]
        for _, writer in connections:
            writer.close()
            await writer.wait_closed()
    assert sorted(reply == IN_USE for reply in replies) == [False] + [True] * 19


async def test_one_lock_for_an_account_whoever_logs_in(start_leg: StartLeg) -> None:
    users = Users({name: PasswordHash.of("p") for name in ("u", "v", "w")})
    rules = [Rule("b", users=frozenset({"w"})), Rule("a")]
    router = RoutedMaildrop({"a": MemoryMaildrop(), "b": MemoryMaildrop()}, rules, RecentLogins(), users)
    leg = await start_leg(router, lock=True, ask_backend=True)
    async with leg.logged_in():
        for user, answer in ((b"v", b"-ERR [IN-USE] "), (b"w", b"+OK ")):
            lines = (await leg.exchange(b"USER " + user + b"\r\nPASS p\r\nQUIT\r\n")).splitlines()
            assert lines[2].startswith(answer), lines
