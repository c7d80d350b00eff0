"""The way to a backend: a dead name server or address costs its own provider little, and nobody else anything."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from aiohappyeyeballs import start_connection

from legacy_email_proxy.contracts import Disconnected, Unreachable
from legacy_email_proxy_plugins import dial as dial_module
from legacy_email_proxy_plugins.dial import dial, host_mistake
from legacy_email_proxy_plugins.imap.settings import Patience
from legacy_email_proxy_plugins.imap.transport import Wire

pytestmark = pytest.mark.anyio

Rows = list[tuple[Any, ...]]


def row(address: tuple[Any, ...]) -> tuple[Any, ...]:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    return (family, socket.SOCK_STREAM, 0, "", address)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Rows]]:
    """What each name is answered with."""
    answers: dict[str, Callable[[], Rows]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *given: Any, **named: Any) -> Any:
        return answers[host]() if host in answers else real(host, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    # A failed look-up of another test would stand there too.
    monkeypatch.setattr(dial_module, "_asked", {})
    return answers


@contextmanager
def listening(address: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        yield server.getsockname()


@contextmanager
def swallowing(address: str) -> Iterator[tuple[str, int]]:
    """An address that answers no SYN: a queue that is full."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server((address, 0), family=family, backlog=0))
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(family))
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.fault("B1")
@pytest.mark.parametrize("dead", ["::1", "127.0.0.2"])
async def test_an_address_that_swallows_everything_costs_a_moment_and_only_once(
    dead: str, names: dict[str, Callable[[], Rows]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if dead == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    tried = []

    async def recorded(rows: Rows, **given: Any) -> socket.socket:
        tried.append(rows[0][4])
        return await start_connection(rows, **given)

    monkeypatch.setattr(dial_module, "start_connection", recorded)
    with swallowing(dead) as black_hole, listening() as alive:
        names[f"{dead}.mail.test"] = lambda: [row(black_hole), row(alive)]
        began = time.monotonic()
        for _ in range(3):
            with await dial(f"{dead}.mail.test", 1, 60, "BACKEND_SMTP") as connected:
                assert connected.getpeername() == alive
        assert time.monotonic() - began < 15  # and not half of the 60 s
        assert tried == [black_hole, alive, alive]


async def test_what_worked_and_works_no_more_is_not_clung_to(names: dict[str, Callable[[], Rows]]) -> None:
    with listening() as second:
        with listening() as first:
            names["move.test"] = lambda: [row(first), row(second)]
            with await dial("move.test", 1, 30, "BACKEND_SMTP") as connected:
                assert connected.getpeername() == first
        with await dial("move.test", 1, 30, "BACKEND_SMTP") as connected:
            assert connected.getpeername() == second


@pytest.mark.fault("B1")
async def test_what_fails_is_told_with_every_address(names: dict[str, Callable[[], Rows]]) -> None:
    with listening() as one, listening("127.0.0.2") as two:
        pass
    names["gone.test"] = lambda: [row(one), row(two)]
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1, 127\.0\.0\.2: Connection refused") as failure:
        await dial("gone.test", 1, 30, "BACKEND_IMAP")
    assert failure.value.look_at == "BACKEND_IMAP_HOST, BACKEND_IMAP_PORT"
    with swallowing("127.0.0.1") as black_hole:
        names["silent.test"] = lambda: [row(black_hole)]
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1: no answer"):
            await dial("silent.test", 1, 0.3, "BACKEND_SMTP")


@pytest.mark.fault("B2", "D12")
async def test_a_dead_name_server_holds_up_nobody_else(names: dict[str, Callable[[], Rows]]) -> None:
    go_on = threading.Event()

    def dead() -> Rows:
        go_on.wait(20)
        return []

    before = threading.active_count()
    with listening() as alive:
        names["alive.test"] = lambda: [row(alive)]
        for number in range(3):
            names[f"dead{number}.test"] = dead
        stuck = [asyncio.ensure_future(dial(f"dead{number % 3}.test", 1, 5, "BACKEND_SMTP")) for number in range(60)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(2):
                (await dial("alive.test", 1, 30, "BACKEND_SMTP")).close()
            # One look-up for each name, however many wait for it.
            assert threading.active_count() <= before + 3 + 1
            stuck[0].cancel()
            with pytest.raises(Unreachable, match=r"was not resolved within 0\.05 s"):
                await dial("dead0.test", 1, 0.05, "BACKEND_SMTP")
        finally:
            go_on.set()
        told = await asyncio.gather(*stuck, return_exceptions=True)
        assert {type(each) for each in told} <= {Unreachable, asyncio.CancelledError}
        assert not dial_module._asked


async def test_who_asks_when_a_look_up_has_just_failed_does_not_wait_again(
    names: dict[str, Callable[[], Rows]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def failing() -> Rows:
        asked.append(1)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    now = 1000.0
    monkeypatch.setattr(dial_module, "monotonic", lambda: now)
    names["fails.test"] = failing
    for seconds, look_ups in ((0, 1), (1, 1), (0.9, 1), (0.2, 2)):
        now += seconds
        with pytest.raises(Unreachable, match="Temporary failure"):
            await dial("fails.test", 1, 30, "BACKEND_SMTP")
        assert len(asked) == look_ups
    now += 2.1
    with listening() as alive:
        names["fails.test"] = lambda: [row(alive)]
        (await dial("fails.test", 1, 30, "BACKEND_SMTP")).close()


async def test_nobody_waits_for_a_look_up_that_takes_too_long_already(
    names: dict[str, Callable[[], Rows]], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def hanging() -> Rows:
        go_on.wait(60)
        return []

    names["hangs.test"] = hanging
    first = asyncio.create_task(dial("hangs.test", 1, 30, "BACKEND_SMTP"))
    try:
        await asyncio.sleep(0)
        monkeypatch.setattr(dial_module, "monotonic", lambda: time.monotonic() + 15.1)
        async with asyncio.timeout(10):
            with pytest.raises(Unreachable, match=r"was not resolved within 15 s"):
                await dial("hangs.test", 1, 30, "BACKEND_SMTP")
    finally:
        go_on.set()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_name_that_is_none_and_one_without_addresses(names: dict[str, Callable[[], Rows]]) -> None:
    names["empty.test"] = list
    for host in ("nowhere.invalid", "a" * 70 + ".invalid", "empty.test"):
        with pytest.raises(Unreachable, match="can not be resolved"):
            await dial(host, 1, 30, "BACKEND_SMTP")


async def test_the_imap_leg_dials_in_its_thread_and_gives_up_at_once() -> None:
    with swallowing("127.0.0.1") as black_hole, listening() as alive:
        wire = Wire(Patience())
        wire.allow(30, 1000)
        dialling = asyncio.create_task(asyncio.to_thread(wire.connect, *black_hole))
        await asyncio.sleep(0.05)
        wire.abort()
        with pytest.raises(Disconnected, match="given up"):
            async with asyncio.timeout(5):
                await dialling
        with pytest.raises(Disconnected, match="given up"):
            await asyncio.to_thread(wire.connect, *alive)
        wire = Wire(Patience())
        wire.allow(30, 1000)
        await asyncio.to_thread(wire.connect, *alive)
        assert wire.socket.getpeername() == alive
        wire.close()


@pytest.mark.parametrize(
    "host",
    ["imap.example", "imap_1.example.", "localhost", "192.0.2.1", "2001:db8::1", "fe80::1%eth0", "straße.example"],
)
def test_names_and_addresses_of_servers(host: str) -> None:
    assert host_mistake("BACKEND_IMAP", host) is None


_QUOTES = "without quotes: in an env file"
_OTHERS = "without quotes or blanks, one name only"


@pytest.mark.parametrize(
    ("host", "how"),
    [
        ("imap.example:993", "without the port, which is set with BACKEND_IMAP_PORT=993"),
        ("https://imap.example", "without https:// and without a path"),
        ("imaps://imap.example:993/", "without imaps:// and without a path"),
        ("ann@imap.example", "as your provider gives it for mail programs; a mail address is none"),
        ('"imap.example"', _QUOTES), ("'imap.example'", _QUOTES), ("'imap.example:993'", _QUOTES),
        ("imap.example/", _OTHERS), ("[::1]", _OTHERS), ("imap.example, smtp.example", _OTHERS),
        ("imap example", _OTHERS), ("12:30:", _OTHERS),
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_server(host: str, how: str) -> None:
    mistake = host_mistake("BACKEND_IMAP", host)
    assert mistake
    before = "BACKEND_IMAP_HOST: that is no name of a server; write it alone, like mail.firm.example, "
    assert mistake.startswith(before + how)
