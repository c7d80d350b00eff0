"""Accepting: without descriptors, from strangers, and with more clients than there is room for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import subprocess
from collections.abc import Iterator

import pytest

from interop.proxy import clean_environment, command
from legacy_email_proxy import descriptors, listeners
from legacy_email_proxy.access import Admission, Refusal
from legacy_email_proxy.listeners import accept
from legacy_email_proxy.settings import read

logger = logging.getLogger("legacy_email_proxy.test")
LEGS = {
    "BACKEND_IMAP_HOST": "localhost", "BACKEND_IMAP_USER": "u", "BACKEND_IMAP_PASS": "p",
    "BACKEND_SMTP_HOST": "localhost", "POP3_BIND_ADDR": "127.0.0.1", "SMTP_BIND_ADDR": "127.0.0.1",
    "POP3_BIND_PORT": "0", "SMTP_BIND_PORT": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "legs", "each"), [(256, 2, 80), (1024, 2, 384), (1024, 1, 768), (100, 2, 2), (10, 2, 1)]
)  # fmt: skip
def test_clients_leave_room_for_all_else(limit: int, legs: int, each: int) -> None:
    assert descriptors.clients_of_each(limit, legs) == each


def test_one_address_gets_a_quarter_where_there_is_little() -> None:
    admission = Admission.from_settings(read({}), most=40)
    assert [admission.admit("10.0.0.1") for _ in range(11)] == [None] * 10 + [Refusal.TOO_MANY_FROM_ADDRESS]
    # An IPv6 listener sees the same client so.
    assert admission.admit("::ffff:10.0.0.1") is Refusal.TOO_MANY_FROM_ADDRESS
    assert [admission.admit(f"fd00:0:0:{number:x}::1") for number in range(31)] == [None] * 30 + [Refusal.TOO_MANY]


def test_the_settings_hold_where_there_is_enough() -> None:
    admission = Admission.from_settings(read({"MAX_CONNECTIONS_PER_ADDRESS": "3"}), most=2000)
    assert [admission.admit("10.0.0.1") for _ in range(4)] == [None] * 3 + [Refusal.TOO_MANY_FROM_ADDRESS]


def test_the_limit_is_raised_as_far_as_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    try:
        descriptors.raised()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _free(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {address}")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_who_is_refused_reads_why_and_costs_no_task(address: str) -> None:
    listener = _free(address)
    seen: list[str] = []

    def take(_: socket.socket, peer: str) -> bytes:
        seen.append(peer)
        return b"554 no\r\n"

    task = asyncio.create_task(accept(listener, take, logger, "smtp"))
    tasks = len(asyncio.all_tasks())
    for _ in range(50):
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        # Octets that nobody reads: a socket closed at once would reset the connection, and the reply be lost.
        writer.write(b"EHLO x\r\n")
        async with asyncio.timeout(20):
            assert await reader.read() == b"554 no\r\n"
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert len(asyncio.all_tasks()) == tasks
    assert seen == [address] * 50
    task.cancel()
    await asyncio.wait([task])
    listener.close()


@pytest.mark.fault("A28")
async def test_a_flood_of_connections_is_taken_and_who_is_there_has_a_turn_meanwhile() -> None:
    (listener,) = await asyncio.to_thread(listeners.bind, "SMTP", ["127.0.0.1"], 0)
    flood, turns = 500, 0
    with contextlib.ExitStack() as stack:
        # Nobody accepts meanwhile: all of them wait in the backlog, and none is refused there.
        for _ in range(flood):
            stack.enter_context(socket.create_connection(listener.getsockname(), 20))
        taken: list[socket.socket] = []

        def take(accepted: socket.socket, _: str) -> None:
            taken.append(stack.enter_context(accepted))

        task = asyncio.create_task(accept(listener, take, logger, "smtp"))
        while len(taken) < flood:
            turns += 1
            await asyncio.sleep(0)
        assert turns > flood / 32
        task.cancel()
        await asyncio.wait([task])
    listener.close()


class _Full(socket.socket):
    failures = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(24, "Too many open files")
        return super().accept()


@pytest.mark.fault("D10")
async def test_a_connection_that_can_not_be_taken_is_closed_and_the_next_one_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listeners, "ACCEPT_PAUSE_SECONDS", 0.01)
    listener = _Full()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.failures = 5
    taken = 0

    def take(accepted: socket.socket, _: str) -> bytes:
        nonlocal taken
        taken += 1
        if taken == 1:
            raise ValueError("a fault of ours")
        return b"421 later\r\n"

    task = asyncio.create_task(accept(listener, take, logger, "smtp"))
    for expected in (b"", b"421 later\r\n"):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        async with asyncio.timeout(20):
            assert await reader.read() == expected
        writer.close()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["smtp accept failed", "smtp connection lost"]
    task.cancel()
    await asyncio.wait([task])
    listener.close()


@contextlib.contextmanager
def _with_few_descriptors() -> Iterator[tuple[dict[str, int], list[str], subprocess.Popen[str]]]:
    """The command with 256 descriptors: its ports, what it logs, and its process."""
    limited = ["/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *command()]
    with subprocess.Popen(limited, env=clean_environment(**LEGS), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        try:
            for line in process.stderr:
                lines.append(line)
                if "fewer connections" in line:
                    break
            started = next(line for line in lines if " started " in line)
            ports = {
                word.partition("=")[0]: int(word.rpartition(":")[2])
                for word in started.split()
                if word.startswith(("pop3=", "smtp="))
            }
            yield ports, lines, process
        finally:
            process.terminate()
            lines.extend(process.stderr)


@pytest.mark.fault("D10")
@pytest.mark.parametrize("leg", ["smtp", "pop3"])
def test_three_addresses_can_not_use_up_the_descriptors(leg: str) -> None:
    """390 idle connections of three clients where the process may have 256; another client is served at once."""
    with _with_few_descriptors() as (ports, lines, process), contextlib.ExitStack() as held:
        for number in range(390):
            source = f"127.0.0.{1 + number % 3}", 0
            held.enter_context(socket.create_connection(("127.0.0.1", ports[leg]), 20, source))
        for other, greeting in (("smtp", b"220 "), ("pop3", b"+OK")):
            honest = held.enter_context(socket.create_connection(("127.0.0.1", ports[other]), 20, ("127.0.0.4", 0)))
            assert honest.recv(100).startswith(greeting)
        process.terminate()
        assert process.stderr is not None
        lines.extend(process.stderr)
        assert process.wait(50) == 0
    said = [line for line in lines if "fewer connections than MAX_CONNECTIONS" in line]
    assert len(said) == 1
    assert said[0].rstrip().endswith(' descriptors=256 connections=80 wanted=2000 see="ulimit -n"')
    assert not any("Traceback" in line or "accept failed" in line for line in lines)
    assert len(lines) < 200
