"""Attacks with nothing but connections: many, refused, idle, slow, torn down."""

from __future__ import annotations

import time

from abuse.crowd import Crowd, strangers
from abuse.scene import HONEST, Attack, Scene

STRANGER = "127.0.0.11"


def smtp_idle(scene: Scene) -> None:
    """400 idle connections where 256 descriptors are allowed: an accept loop without descriptors logs and spins."""
    with Crowd() as crowd:
        for source in ("127.0.0.11", "127.0.0.12"):
            crowd.connect(scene.ports["smtp"], source, 200)
        crowd.pump(scene.size(9, 3))


def two_legs(scene: Scene) -> None:
    """Three addresses, each within its limit on both legs, hold more than the usual 1024 descriptors."""
    with Crowd() as crowd:
        for source in ("127.0.0.11", "127.0.0.12", "127.0.0.13"):
            for leg in ("smtp", "pop3"):
                crowd.connect(scene.ports[leg], source, 195)
        crowd.pump(scene.size(8, 3))
        scene.note(f"{len(crowd.open)} of {len(crowd.peers)} stayed connected")


def outside(scene: Scene) -> None:
    """720 connects a second from outside ALLOWED_NETWORKS: refusing them must not wait, or everybody waits."""
    made = strangers([scene.ports["smtp"], scene.ports["pop3"]], STRANGER, 720, scene.size(8, 3))
    scene.note(f"{made} connections")


def over_limit(scene: Scene) -> None:
    """One address has its 200 connections and goes on connecting, 300 times a second."""
    with Crowd() as crowd:
        crowd.connect(scene.ports["smtp"], STRANGER, 200)
        crowd.connect(scene.ports["pop3"], STRANGER, 200)
        crowd.pump(1)
        made = strangers([scene.ports["smtp"], scene.ports["pop3"]], STRANGER, 300, scene.size(8, 3))
        scene.note(f"{made} connections")


def resets(scene: Scene) -> None:
    """Connections that say half a command and are torn down with RST, 300 a second."""
    ports = [scene.ports["smtp"], scene.ports["pop3"]]
    strangers(ports, STRANGER, 300, scene.size(6, 3), b"EHLO half", reset=True)


def byte_by_byte(scene: Scene) -> None:
    """Slowloris: 190 connections on each leg send a command without end, one octet after the other."""
    with Crowd() as crowd:
        for leg in ("smtp", "pop3"):
            crowd.connect(scene.ports[leg], STRANGER, 190)
        deadline = time.monotonic() + scene.size(8, 3)
        while time.monotonic() < deadline:
            crowd.say(b"N")
            crowd.pump(0.1)


def long_lines(scene: Scene) -> None:
    """50 clients on each leg send a line of two megabytes: it must neither be kept nor searched again and again."""
    with Crowd() as crowd:
        for leg in ("smtp", "pop3"):
            crowd.connect(scene.ports[leg], STRANGER, 50)
        crowd.pump(0.5)
        crowd.say(b"x" * scene.size(2_000_000, 500_000) + b"\r\n")
        crowd.pump(scene.size(10, 4), lambda: not any(peer.out for peer in crowd.open))


ATTACKS = (
    Attack("smtp-idle", smtp_idle, ulimit="ulimit -n 256", rival="smtp"),
    Attack("two-legs", two_legs, ulimit="ulimit -Sn 1024"),
    Attack("outside", outside, {"ALLOWED_NETWORKS": f"127.0.0.1/32,{HONEST}/32"}),
    Attack("over-limit", over_limit),
    Attack("resets", resets, rival="both"),
    Attack("byte-by-byte", byte_by_byte, rival="both"),
    Attack("long-lines", long_lines, rival="both"),
)
