"""The command as a process of its own: what many sessions with faults leave behind, little memory, and its end."""

from __future__ import annotations

import poplib
import resource
import signal
import smtplib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from clients import reset_when_closed
from interop.proxy import Proxy, running
from realservers.processes import wait_until

MIB = 1 << 20
LINE = b"y" * 98 + b"\r\n"
ENVELOPE = b"HELO x\r\nMAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n"


@contextmanager
def on_a_maildir(folder: Path, **variables: str) -> Iterator[Proxy]:
    """Both legs on one Maildir: no server but ours."""
    variables |= {
        "RELAY_PLUGIN": "maildir",
        "MAILDROP_PLUGIN": "maildir",
        "RELAY_MAILDIR_PATH": str(folder / "mail"),
        "MAILDROP_MAILDIR_PATH": str(folder / "mail"),
    }
    with running(variables) as proxy:
        yield proxy


def delivers(proxy: Proxy) -> None:
    with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
        assert smtp.sendmail("a@example.test", ["b@example.test"], b"Subject: x\r\n\r\n" + LINE * 200) == {}


def fetches_and_deletes(proxy: Proxy) -> None:
    client = poplib.POP3(*proxy.pop3, timeout=50)
    client.user("u")
    client.pass_("p")
    for number in range(1, client.stat()[0] + 1):
        client.retr(number)
        client.dele(number)
    assert client.quit().startswith(b"+OK")


def says(leg: str, octets: bytes, *, reset: bool = False) -> Callable[[Proxy], None]:
    """A client that says this, reads a reply, and leaves without a farewell."""

    def leave(proxy: Proxy) -> None:
        with socket.create_connection(getattr(proxy, leg), 50) as client, suppress(ConnectionError):
            client.sendall(octets)
            assert client.recv(1000)
            if reset:
                reset_when_closed(client)

    return leave


SESSIONS = [
    delivers,
    says("smtp", ENVELOPE + b"Subject: it breaks off\r\n"),
    says("smtp", ENVELOPE + b"x" * 10_000, reset=True),
    says("smtp", b"NONSENSE\r\n" * 30),
    says("smtp", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    says("pop3", b"USER u\r\nPASS p\r\nDELE 1\r\n", reset=True),
    says("pop3", b"USER u\r\nPASS p\r\nRETR 1\r\nRE"),
    says("pop3", b"GET / HTTP/1.1\r\n\r\n"),
    fetches_and_deletes,
]


@pytest.mark.long
@pytest.mark.fault("D18")
def test_what_many_sessions_leave_behind(tmp_path: Path) -> None:
    with on_a_maildir(tmp_path) as proxy:
        process = psutil.Process(proxy.process.pid)
        # The history's files, and what else is opened when it is first needed, come on top.
        at_rest = process.num_fds() + 6
        memory = []
        # The first rounds fill what is kept on purpose: threads, caches, and the allocator's arenas.
        for number in range(4):
            for _ in range(40):
                for session in SESSIONS:
                    session(proxy)
            if number == 0:
                wait_until(lambda: process.num_fds() <= at_rest + 2, "the descriptors come back", 50)
                threads = process.num_threads()
            memory.append(process.memory_info().rss)
        wait_until(lambda: process.num_fds() <= at_rest + 2, "the descriptors come back", 50)
        # Some are made when they are first needed, as for the history and for a look at the disk.
        assert process.num_threads() <= threads + 8
        assert memory[-1] - memory[-2] < 4 * MIB, memory
        delivers(proxy)
        fetches_and_deletes(proxy)


@pytest.mark.long
@pytest.mark.fault("D11")
def test_attacks_where_there_is_little_memory(tmp_path: Path) -> None:
    with on_a_maildir(tmp_path, SMTP_MAX_OCTETS=str(30 * MIB)) as proxy, ExitStack() as stack:
        with smtplib.SMTP(*proxy.smtp, timeout=50) as smtp:
            smtp.sendmail("a@example.test", ["b@example.test"], LINE * (20 * MIB // 100))
        resource.prlimit(proxy.process.pid, resource.RLIMIT_DATA, (256 * MIB, 256 * MIB))
        for _ in range(40):
            reader = stack.enter_context(socket.create_connection(proxy.pop3, 50))
            reader.sendall(b"USER u\r\nPASS p\r\nRETR 1\r\n")
        # A line without end: of a command, of content, and behind commands whose replies are not read.
        recipients = b"HELO x\r\n" + b"RCPT TO:<b@example.test>\r\n" * 1000
        for attack, clients, octets in ((b"NOOP ", 20, 16 * MIB), (ENVELOPE, 8, 16 * MIB), (recipients, 20, 4 * MIB)):
            for _ in range(clients):
                client = stack.enter_context(socket.create_connection(proxy.smtp, 50))
                with suppress(ConnectionError):
                    client.sendall(attack + b"x" * octets)
        delivers(proxy)
        honest = poplib.POP3(*proxy.pop3, timeout=50)
        honest.user("u")
        honest.pass_("p")
        assert honest.stat()[0] == 2
        honest.quit()
        assert "MemoryError" not in proxy.log


@pytest.mark.fault("D8")
def test_a_second_signal_ends_the_wait_for_transactions(tmp_path: Path) -> None:
    # Far longer than the test may take.
    with on_a_maildir(tmp_path, DRAIN_SECONDS="1000") as proxy:
        with socket.create_connection(proxy.smtp, 50) as client:
            client.sendall(ENVELOPE)
            replies = b""
            while b"354 " not in replies:
                replies += client.recv(1000)
            proxy.send(signal.SIGTERM)
            proxy.wait_for(" stopping ")
            assert proxy.process.poll() is None
            proxy.process.send_signal(signal.SIGTERM)
            assert proxy.process.wait(50) == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
