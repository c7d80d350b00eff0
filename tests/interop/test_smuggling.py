"""SMTP smuggling through the real command: what is on the wire, and what an easily fooled Postfix makes of it."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Self

import pytest

from fakes.smtp import FakeSMTPServer
from interop.proxy import backends, running
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from smuggling import BARE, SEQUENCES, second

KEYWORDS = {"data": "SIZE", "chunks": "CHUNKING"}


class Device:
    """A client that sends octets as they are."""

    def __init__(self, connection: socket.socket, replies: BinaryIO) -> None:
        self._connection = connection
        self._replies = replies

    @classmethod
    @contextmanager
    def on(cls, connection: socket.socket) -> Iterator[Self]:
        with connection, connection.makefile("rb") as replies:
            device = cls(connection, replies)
            device.expect(b"220")
            device.say(b"EHLO device\r\n")
            yield device
            device.say(b"QUIT\r\n", b"221")

    @classmethod
    def connected(cls, address: tuple[str, int]) -> AbstractContextManager[Self]:
        return cls.on(socket.create_connection(address, timeout=50))

    def expect(self, code: bytes) -> None:
        while (line := self._replies.readline())[3:4] == b"-":
            pass
        assert line.startswith(code), line

    def say(self, octets: bytes, code: bytes = b"250") -> None:
        self._connection.sendall(octets)
        self.expect(code)

    def envelope(self, reverse_path: str, forward_path: str) -> None:
        self.say(f"MAIL FROM:<{reverse_path}>\r\n".encode())
        self.say(f"RCPT TO:<{forward_path}>\r\n".encode())


def by_data(device: Device, octets: bytes) -> None:
    device.say(b"DATA\r\n", b"354")
    device.say(octets)


def by_chunks(device: Device, octets: bytes) -> None:
    cut = octets.index(b".") + 1
    device.say(b"BDAT %d\r\n%b" % (cut, octets[:cut]))
    device.say(b"BDAT %d LAST\r\n%b" % (len(octets) - cut, octets[cut:]))


Way = Callable[[Device, bytes], None]
MESSAGES = [(way, sequence) for way in (by_data, by_chunks) for sequence in SEQUENCES]


def play(address: tuple[str, int], forward_path: str, victim: str) -> None:
    """Every sequence by each way, in a message of its own, all in one session."""
    with Device.connected(address) as device:
        for way, sequence in MESSAGES:
            device.envelope("a@example.com", forward_path)
            way(device, b"one" + sequence + second(victim))


def content(way: Way, sequence: bytes) -> bytes:
    """The one message that it is, in lines that end with CRLF; several CRs before an LF are one line end."""
    octets = b"one" + sequence + second()
    if way is by_data:
        octets = octets.removesuffix(b".\r\n").replace(b"\r\n.", b"\r\n")
    return re.sub(rb"\r+\n|\r|\n", b"\r\n", octets)


@pytest.mark.fault("A8")
@pytest.mark.parametrize("backend", KEYWORDS)
async def test_the_wire_to_the_backend(backend: str, server_tls: ssl.SSLContext, certificates: Certificates) -> None:
    async with FakeSMTPServer(tls=server_tls, keywords=("PIPELINING", KEYWORDS[backend])) as server:
        variables = {
            "MAILDROP_PLUGIN": "none",
            "BACKEND_SMTP_HOST": "localhost",
            "BACKEND_SMTP_PORT": str(server.port),
            "BACKEND_SMTP_CA_FILE": str(certificates.ca_file),
        }

        def send() -> None:
            with running(variables) as proxy:
                play(proxy.smtp, "b@example.com", "victim@example.com")

        await asyncio.to_thread(send)
    assert not BARE.search(server.octets)
    assert "evil" not in "".join(command for each in server.connections for command in each.commands)
    for message, (way, sequence) in zip(server.messages, MESSAGES, strict=True):
        assert (message.mail.split()[1], message.rcpt) == ("FROM:<a@example.com>", ("RCPT TO:<b@example.com>",))
        assert message.content.endswith(b"\r\n" + content(way, sequence)), (way, sequence)
    if backend == "data":
        assert server.octets.count(b"\r\n.\r\n") == len(MESSAGES), "no end-of-data but ours"
        assert not re.search(rb"\r\n\.(?!\.|\r\n)", server.octets), "every dot that begins a line is doubled"
    else:
        assert "BDAT" in server.verbs
        assert "DATA" not in server.verbs


@pytest.fixture(scope="module", params=KEYWORDS)
def gullible(request: pytest.FixtureRequest, certificates: Certificates, dovecot: Dovecot) -> Iterator[Postfix]:
    """A Postfix as it was by default before 3.9: a line may end with a bare LF, and commands may come at any time."""
    settings = {"smtpd_forbid_bare_newline": "no", "smtpd_forbid_unauth_pipelining": "no"}
    if request.param == "data":
        settings["smtpd_discard_ehlo_keywords"] = "chunking"
    with Postfix.start(certificates.good, dovecot, settings=settings) as server:
        yield server


@pytest.mark.fault("A8")
def test_one_message_each_in_postfix(gullible: Postfix, dovecot: Dovecot, account: Account) -> None:
    victim = dovecot.add_account()
    with running(backends(dovecot, gullible, account)) as proxy:
        play(proxy.smtp, account.address, victim.address)
        with Device.connected(proxy.smtp) as device:
            device.envelope("a@example.com", victim.address)
            by_data(device, b"Subject: last\r\n\r\n.\r\n")
    (last,) = dovecot.wait_for_messages(victim.name, 1)
    assert b"Subject: last" in last
    arrived = dovecot.wait_for_messages(account.name, len(MESSAGES))
    assert len(arrived) == len(MESSAGES)
    assert all(b"MAIL FROM:<evil@example.com>\r\n" in message for message in arrived)
    taken = gullible.logged(rf"sasl_username={account.name}\b", times=len(MESSAGES) + 1)
    assert len(taken) == len(MESSAGES) + 1
    assert "from=<evil@" not in gullible.log


def test_postfix_alone_would_have_taken_two(
    gullible: Postfix, dovecot: Dovecot, account: Account, client_tls: ssl.SSLContext
) -> None:
    victim = dovecot.add_account()
    login = base64.b64encode(f"\0{account.name}\0{account.password}".encode())
    plain = socket.create_connection(("127.0.0.1", gullible.smtps_port), timeout=50)
    with Device.on(client_tls.wrap_socket(plain, server_hostname="localhost")) as device:
        device.say(b"AUTH PLAIN " + login + b"\r\n", b"235")
        device.envelope("a@example.com", account.address)
        by_data(device, b"one\n.\n" + second(victim.address))
        for code in (b"250", b"250", b"354", b"250"):
            device.expect(code)
    assert len(dovecot.wait_for_messages(account.name, 1)) == 1
    assert b"spoof" in dovecot.wait_for_messages(victim.name, 1)[0]
