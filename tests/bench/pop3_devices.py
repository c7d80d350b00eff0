"""POP3 devices that cost next to nothing: one loop for all, large blocks, and only the end of a block is looked at."""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from realservers.accounts import Account

SECONDS = 300.0
"""For one piece of work, once."""
_BLOCK_OCTETS = 262_144
_END = b"\r\n.\r\n"
_ALWAYS_LONG = (b"RETR", b"TOP")
_LONG_ALONE = (b"LIST", b"UIDL", b"CAPA")


class Device:
    """Sends the commands one after the other, each when the reply to the last one has ended.

    `took` and `octets` sum up, for each verb, the seconds until the end of the replies and what came in them; `until`
    says when the first reply to a verb had ended, in seconds since the connection was begun.
    """

    def __init__(self, port: int, commands: Sequence[bytes]) -> None:
        self.took: dict[bytes, float] = defaultdict(float)
        self.octets: dict[bytes, int] = defaultdict(int)
        self.until: dict[bytes, float] = {}
        self.done = False
        self._commands = iter(commands)
        self._verb, self._ending, self._tail = b"greeting", b"\r\n", b""
        self._begun = self._sent = time.perf_counter()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def take(self, block: memoryview) -> None:
        """A block of the reply came."""
        if not self._tail and block[0] != ord("+"):
            raise RuntimeError(f"{self._verb.decode()} was answered with {bytes(block[:100])!r}")
        self.octets[self._verb] += len(block)
        self._tail = (self._tail + bytes(block[-5:]))[-5:]
        if self._tail.endswith(self._ending):
            self._next()

    def _next(self) -> None:
        now = time.perf_counter()
        self.took[self._verb] += now - self._sent
        self.until.setdefault(self._verb, now - self._begun)
        command = next(self._commands, None)
        if command is None:
            self.done = True
            return
        verb, _, argument = command.partition(b" ")
        self._verb, self._tail = verb, b""
        self._ending = _END if verb in _ALWAYS_LONG or (verb in _LONG_ALONE and not argument) else b"\r\n"
        self._sent = now
        self.socket.sendall(command + b"\r\n")  # a few octets, which the kernel always takes


@contextmanager
def served(port: int, scripts: Sequence[Sequence[bytes]], seconds: float = SECONDS) -> Iterator[list[Device]]:
    """Devices, one for each script, that have done all that their scripts say; in the block they are still connected.

    TimeoutError if that takes longer, EOFError where the server hangs up, RuntimeError where it answers `-ERR`.
    """
    devices: list[Device] = []
    try:
        with selectors.DefaultSelector() as selector:
            for script in scripts:
                devices.append(Device(port, script))
                selector.register(devices[-1].socket, selectors.EVENT_READ, devices[-1])
            _serve(selector, seconds)
        yield devices
    finally:
        for device in devices:
            device.socket.close()


def _serve(selector: selectors.BaseSelector, seconds: float) -> None:
    block = memoryview(bytearray(_BLOCK_OCTETS))
    deadline = time.monotonic() + seconds
    while left := len(selector.get_map()):
        for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
            device: Device = key.data
            received = device.socket.recv_into(block)
            if not received:
                raise EOFError("the POP3 server hung up")
            device.take(block[:received])
            if device.done:
                selector.unregister(device.socket)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} devices have not done their work in {seconds:g} s")


def session(account: Account, *commands: bytes, leave: bool = True) -> list[bytes]:
    """A whole session: login, STAT, the commands, and QUIT unless it shall stay."""
    login = [b"USER " + account.name.encode(), b"PASS " + account.password.encode(), b"STAT"]
    return [*login, *commands, *([b"QUIT"] if leave else [])]


def retr(count: int) -> list[bytes]:
    return [b"RETR %d" % number for number in range(1, count + 1)]


def retrieved(port: int, account: Account, count: int, octets: int) -> float:
    """The seconds that one device needs to RETR messages 1 to `count`, all of that size."""
    with served(port, [session(account, *retr(count))]) as (device,):
        if device.octets[b"RETR"] < count * octets:
            raise RuntimeError(f"only {device.octets[b'RETR']} octets came")
        return device.took[b"RETR"]


def opened(port: int, account: Account) -> Sequence[float]:
    """The seconds from connecting to the reply to STAT, the first time and later; those of LIST and UIDL together."""
    with served(port, [session(account)]) as (device,):
        first = device.until[b"STAT"]
    again, listing = [], []
    for _ in range(3):
        with served(port, [session(account, b"LIST", b"UIDL")]) as (device,):
            again.append(device.until[b"STAT"])
            listing.append(device.took[b"LIST"] + device.took[b"UIDL"])
    return [first, statistics.median(again), statistics.median(listing)]
