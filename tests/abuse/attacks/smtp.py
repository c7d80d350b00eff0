"""Attacks by SMTP commands: pipelined without end, or junk."""

from __future__ import annotations

from abuse.crowd import Crowd
from abuse.scene import Attack, Scene

ADDRESS = "127.0.0.11"


def noop(scene: Scene) -> None:
    """50 clients pipeline 5000 NOOPs each: who has much to say must not hold the others up."""
    with Crowd() as crowd:
        crowd.connect(scene.ports["smtp"], ADDRESS, 50)
        crowd.pump(1, lambda: all(peer.lines for peer in crowd.open))
        crowd.say(b"NOOP\r\n" * scene.size(5000, 1000))
        crowd.pump(scene.size(15, 4), lambda: not crowd.open)


def junk(scene: Scene) -> None:
    """Wrong commands, again and again from new connections: a line in the log for each would fill the disk."""
    with Crowd() as crowd:
        for _ in range(scene.size(10, 4)):
            peers = crowd.connect(scene.ports["smtp"], ADDRESS, 40)
            crowd.say(b"GET\0 \xff\r\nMAIL FROM:<\r\n" * 30, peers)
            crowd.pump(0.6, peers=peers)
            for peer in peers:
                peer.close()


ATTACKS = (
    Attack("smtp-noop", noop, rival="smtp"),
    Attack("smtp-junk", junk, rival="smtp"),
)
