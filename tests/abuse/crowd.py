"""Many clients in one loop, for attackers: they connect, send what they are given, and read what comes, or don't."""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Self

BLOCK = 65536


class Peer:
    """One connection: what is still to be sent, how much has come, and its last octets."""

    def __init__(self, source: str, port: int, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((source, 0))
        self.socket.setblocking(False)
        self.closed = False
        self.out = b""
        self.octets = 0
        self.lines = 0
        self.tail = b""
        if self.socket.connect_ex(("127.0.0.1", port)) not in (0, errno.EINPROGRESS):
            self.close()

    def close(self, *, reset: bool = False) -> None:
        if reset and not self.closed:
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.closed = True
        self.socket.close()

    def write(self) -> None:
        try:
            sent = self.socket.send(self.out)
            self.out = self.out[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def read(self, octets: int = BLOCK) -> None:
        try:
            came = self.socket.recv(octets)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not came:
            self.close()
        self.octets += len(came)
        self.lines += came.count(b"\n")
        self.tail = (self.tail + came)[-400:]


class Crowd:
    """The connections of an attack; leaving its `with` block closes them all."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()

    @property
    def open(self) -> list[Peer]:
        return [peer for peer in self.peers if not peer.closed]

    def connect(self, port: int, source: str, count: int = 1, *, receive_buffer: int = 0) -> list[Peer]:
        """That many more, from that address."""
        new = [Peer(source, port, receive_buffer) for _ in range(count)]
        self.peers += new
        return new

    def pump(
        self, seconds: float, until: Callable[[], bool] = lambda: False, *, peers: Iterable[Peer] | None = None
    ) -> bool:
        """Send and read for so long, or until the condition holds; whether it did."""
        deadline = time.monotonic() + seconds
        chosen = self.peers if peers is None else list(peers)
        while time.monotonic() < deadline:
            with selectors.DefaultSelector() as selector:
                for peer in chosen:
                    if not peer.closed:
                        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.out else 0)
                        selector.register(peer.socket, wanted, peer)
                for key, events in selector.select(0.05) if selector.get_map() else ():
                    if events & selectors.EVENT_READ:
                        key.data.read()
                    if events & selectors.EVENT_WRITE and not key.data.closed:
                        key.data.write()
            if until():
                return True
            if not any(not peer.closed for peer in chosen):
                return until()
            time.sleep(0.005)
        return False

    def say(self, octets: bytes, peers: Iterable[Peer] | None = None) -> None:
        for peer in self.open if peers is None else peers:
            peer.out += octets

    def talk(self, peers: Iterable[Peer], *steps: tuple[bytes, int], seconds: float = 10.0) -> bool:
        """Each step is what to send and after how many further lines to go on; whether all of them got so far."""
        chosen = list(peers)
        for octets, lines in steps:
            before = {peer: peer.lines for peer in chosen}
            self.say(octets, [peer for peer in chosen if not peer.closed])
            if not self.pump(
                seconds,
                lambda wanted=lines, seen=before: all(p.closed or p.lines >= seen[p] + wanted for p in chosen),  # type: ignore[misc]
                peers=chosen,
            ):
                return False
        return all(not peer.closed for peer in chosen)


def strangers(
    ports: list[int], source: str, a_second: int, seconds: float, payload: bytes = b"", *, reset: bool = False
) -> int:
    """Connect so often a second, for so long, say something, and leave; the number of connections that were made."""
    made = 0
    began = time.monotonic()
    held: list[Peer] = []
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * a_second) - made
        for _ in range(due):
            held.append(Peer(source, ports[made % len(ports)]))
            made += 1
        while len(held) > 300:  # each had the time of 300 others to be answered
            peer = held.pop(0)
            if payload and not peer.closed:
                peer.out = payload
                peer.write()
            peer.close(reset=reset)
        time.sleep(0.002)
    for peer in held:
        peer.close(reset=reset)
    return made
