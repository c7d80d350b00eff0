"""Attacks on the few connections to the providers: whoever holds one for little work keeps it from the others."""

from __future__ import annotations

import time

from abuse.attacks.pop3 import logged_in
from abuse.crowd import Crowd, Peer
from abuse.scene import Attack, Scene

LARGE = 4 << 20
ADDRESSES = ("127.0.0.11", "127.0.0.12")
MAIL = b"EHLO x\r\nMAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\n"


def trickling_readers(scene: Scene) -> None:
    """Twelve readers of two addresses take 3000 octets of a large message every two seconds, as slow lines do."""
    with Crowd() as crowd:
        for source in ADDRESSES:
            logged_in(scene, crowd, 6, source, receive_buffer=4096)
        crowd.say(b"RETR 2\r\n")
        for peer in crowd.open:
            peer.write()
        deadline = time.monotonic() + scene.size(30, 5)
        while time.monotonic() < deadline:
            time.sleep(2)
            for peer in crowd.open:
                peer.read(3000)
        crowd.pump(3, lambda: not crowd.open)
        ended = [peer for peer in crowd.peers if peer.tail.endswith(b"\r\n.\r\n")]
        scene.note(f"{len(ended)} of {len(crowd.peers)} got the message, {len(crowd.open)} are connected")
        if any(peer.octets < LARGE for peer in ended):
            scene.bad("a message that was cut off looks complete")


def senders(scene: Scene, crowd: Crowd, opening: bytes, lines: int) -> list[Peer]:
    """Twelve of two addresses that have begun a message."""
    for source in ADDRESSES:
        peers = crowd.connect(scene.ports["smtp"], source, 6)
        crowd.talk(peers, (b"", 1))
        crowd.say(opening, peers)
        crowd.pump(2, lambda these=peers: all(peer.lines > lines for peer in these if not peer.closed))  # type: ignore[misc]
    return crowd.peers


def trickle(scene: Scene, opening: bytes, lines: int, piece: bytes, every_seconds: float) -> None:
    with Crowd() as crowd:
        senders(scene, crowd, opening, lines)
        deadline = time.monotonic() + scene.size(30, 18)
        while time.monotonic() < deadline and crowd.open:
            crowd.say(piece)
            crowd.pump(every_seconds)
        scene.note(f"{len(crowd.open)} of {len(crowd.peers)} still connected")


def keepalive(scene: Scene) -> None:
    """Twelve devices of two addresses have begun a message, and only say NOOP from then on."""
    trickle(scene, MAIL, 9, b"NOOP\r\n", 1.0)


def one_octet(scene: Scene) -> None:
    """Twelve devices of two addresses send their message one octet at a time."""
    trickle(scene, MAIL + b"DATA\r\n", 10, b"x", 0.2)


def one_octet_chunks(scene: Scene) -> None:
    """The same in chunks: each BDAT is a command that is obeyed, with one octet in it."""
    trickle(scene, MAIL, 9, b"BDAT 1\r\nx", 0.2)


ATTACKS = (
    Attack("pop3-trickle", trickling_readers, backend={"large": LARGE}),
    Attack("smtp-keepalive", keepalive),
    Attack("one-octet-data", one_octet),
    Attack("one-octet-bdat", one_octet_chunks),
)
