"""Devices that send: small, large, pipelined and slow ones, some that hang up, and some that speak no SMTP at all."""

from __future__ import annotations

import random
import smtplib
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from clients import reset_when_closed
from soak.ledger import Ledger, Outcome, Sent
from soak.mail import message

SECONDS = 150.0
"""A device's patience: longer than any deadline of the proxy's, so that an answer that is late is still read."""
LEAVING = ("EHLO", "MAIL", "RCPT", "DATA", "content", "end")
GARBAGE = (
    b"GET / HTTP/1.1\r\nHost: mail\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    b"EHLO x\r\n" + b"A" * 100_000,
    b"EHLO x\r\nDATA\r\nRCPT TO:<>\r\nMAIL\r\nBDAT x\r\n" * 5,
    b"USER\r\nPASS\r\nRETR 1\r\nUSER a\r\nUSER b\r\n\r\n",
    b"\r\n" * 500,
    b"NOOP\r\n" * 300,
    bytes(range(256)) * 40,
)


class Broken(Exception):
    """The device was told to come back later, or the connection is gone; what is known of the message is noted."""


@dataclass
class Road:
    """Where a device sends to, and what is known of it."""

    smtp_port: int
    pop3_port: int
    address: str
    ledger: Ledger
    ended: threading.Event


class Device(smtplib.SMTP):
    """One SMTP session, and the note of what the proxy said to each message."""

    def __init__(self, road: Road, source: str) -> None:
        self.road = road
        super().__init__("", 0, "device.example.test", SECONDS, (source, 0))
        self._say(lambda: self.connect("127.0.0.1", road.smtp_port), 220)
        self._say(self.ehlo, 250)

    def leave(self, *, reset: bool) -> None:
        if self.sock and reset:
            reset_when_closed(self.sock)
        self.close()

    def _say(self, ask: Callable[[], tuple[int, bytes]], wanted: int, sent: Sent | None = None) -> None:
        outcome: Outcome = "broken off"
        try:
            code, text = ask()
            if code == wanted:
                return
            outcome, said = "refused", f"{code} {text.decode('latin-1')}"
        except (OSError, smtplib.SMTPException) as error:
            said = f"{type(error).__name__} {error}"
        self.close()
        if sent is not None:
            self.road.ledger.settle(sent, outcome, said, time.time())
        elif said[:1] == "5":
            self.road.ledger.fault(f"{self.road.ledger.road}: a good device was answered {said}")
        raise Broken(said)

    def envelope(self, sent: Sent) -> None:
        self._say(lambda: self.docmd(f"MAIL FROM:<{self.road.address}>"), 250, sent)
        self._say(lambda: self.docmd(f"RCPT TO:<{self.road.address}>"), 250, sent)

    def begin_data(self, sent: Sent) -> None:
        self._say(lambda: self.docmd("DATA"), 354, sent)

    def pipelined(self, sent: Sent) -> None:
        """MAIL, RCPT and DATA in one write."""
        commands = f"MAIL FROM:<{self.road.address}>\r\nRCPT TO:<{self.road.address}>\r\nDATA\r\n"
        self.content(sent, [commands.encode()])
        self._say(self.getreply, 250, sent)
        self._say(self.getreply, 250, sent)
        self._say(self.getreply, 354, sent)

    def chunked(self, sent: Sent, content: bytes) -> None:
        """All of it in one write, the last chunk included, and only then the replies."""
        half = len(content) // 2
        octets = b"MAIL FROM:<%b>\r\nRCPT TO:<%b>\r\n" % ((self.road.address.encode(),) * 2)
        octets += b"BDAT %d\r\n%b" % (half, content[:half])
        self.content(sent, [octets])
        self._finish(sent, b"BDAT %d LAST\r\n%b" % (len(content) - half, content[half:]), replies=4)

    def content(self, sent: Sent, pieces: list[bytes], pause: float = 0.0) -> None:
        try:
            for piece in pieces:
                self.send(piece)
                if pause:
                    time.sleep(pause)
        except (OSError, smtplib.SMTPException) as error:
            self._lost(sent, "broken off", error)

    def end(self, sent: Sent) -> None:
        self._finish(sent, b".\r\n", replies=1)

    def end_unread(self, sent: Sent) -> None:
        """Send the end of the message, and do not wait for the answer."""
        self.content(sent, [b".\r\n"])
        self.road.ledger.settle(sent, "unanswered", "", time.time())

    def _finish(self, sent: Sent, last: bytes, *, replies: int) -> None:
        self.content(sent, [last])
        try:
            code, text = 0, b""
            for _ in range(replies):
                code, text = self.getreply()
                if code != 250:
                    break
        except (OSError, smtplib.SMTPException) as error:
            self._lost(sent, "unanswered", error)
        said = f"{code} {text.decode('latin-1')}"
        self.road.ledger.settle(sent, "accepted" if code == 250 else "refused", said, time.time())
        if code != 250:
            self.close()
            raise Broken(said)

    def _lost(self, sent: Sent, outcome: Outcome, error: Exception) -> None:
        self.close()
        self.road.ledger.settle(sent, outcome, f"{type(error).__name__} {error}", time.time())
        raise Broken(str(error)) from error


def _new(device: Device, kind: str, octets: int, chance: random.Random) -> tuple[Sent, bytes]:
    sent = device.road.ledger.new(kind, time.time())
    return sent, message(sent.name, device.road.address, octets, chance)


def _stuffed(content: bytes) -> bytes:
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]


def small(device: Device, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        sent, content = _new(device, "small", chance.randint(200, 6000), chance)
        device.envelope(sent)
        device.begin_data(sent)
        device.content(sent, [_stuffed(content)])
        device.end(sent)
    device.quit()


def pipelined(device: Device, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 6)):
        sent, content = _new(device, "pipelined", chance.randint(200, 20_000), chance)
        if chance.random() < 0.5:
            device.chunked(sent, content)
        else:
            device.pipelined(sent)
            device.content(sent, [_stuffed(content)])
            device.end(sent)
    device.quit()


def large(device: Device, chance: random.Random) -> None:
    sent, content = _new(device, "large", chance.randint(300_000, 4_000_000), chance)
    device.envelope(sent)
    device.begin_data(sent)
    device.content(sent, [_stuffed(content)])
    device.end(sent)
    device.quit()
    device.road.ended.wait(chance.uniform(2, 6))


def slow(device: Device, chance: random.Random) -> None:
    sent, content = _new(device, "slow", chance.randint(4000, 12_000), chance)
    device.envelope(sent)
    device.begin_data(sent)
    stuffed = _stuffed(content)
    step = len(stuffed) // chance.randint(5, 12) + 1
    pieces = [stuffed[start : start + step] for start in range(0, len(stuffed), step)]
    device.content(sent, pieces, pause=0.5)
    device.end(sent)
    device.quit()


def hangup(device: Device, chance: random.Random) -> None:
    """Leave at any step, by an ordinary end or by a reset."""
    where = LEAVING.index(chance.choice(LEAVING))
    if where:
        sent, content = _new(device, "hangup", chance.choice((1000, 200_000)), chance)
        if where >= LEAVING.index("RCPT"):
            device.envelope(sent)
        if where >= LEAVING.index("DATA"):
            device.begin_data(sent)
        stuffed = _stuffed(content)
        if where == LEAVING.index("end"):
            device.content(sent, [stuffed])
            device.end_unread(sent)
        else:
            if where == LEAVING.index("content"):
                device.content(sent, [stuffed[: chance.randrange(len(stuffed))]])
            device.road.ledger.settle(sent, "broken off", "", time.time())
    device.leave(reset=chance.random() < 0.5)


def garbage(road: Road, source: str, chance: random.Random) -> None:
    """Neither SMTP nor POP3, to one of the two ports; read a little, and go."""
    port = chance.choice((road.smtp_port, road.pop3_port))
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as peer:
        peer.sendall(chance.choice(GARBAGE))
        peer.settimeout(2)
        for _ in range(chance.randint(0, 20)):
            if not peer.recv(4096):
                break
        if chance.random() < 0.5:
            reset_when_closed(peer)


SESSIONS: dict[str, Callable[[Device, random.Random], None]] = {
    "small": small, "pipelined": pipelined, "large": large, "slow": slow, "hangup": hangup,
}  # fmt: skip


def sending(road: Road, kind: str, source: str, chance: random.Random) -> None:
    """One session after the other, until the end."""
    while not road.ended.wait(chance.uniform(0.2, 1.2)):
        if kind == "garbage":
            garbage(road, source, chance)
            continue
        with suppress(Broken, smtplib.SMTPException, OSError):
            device = Device(road, source)
            try:
                SESSIONS[kind](device, chance)
            finally:
                device.close()
