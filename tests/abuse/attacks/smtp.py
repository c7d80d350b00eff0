"""Attacks by SMTP commands: pipelined without end, junk, or the same message over and over."""

from __future__ import annotations

import socket
import time

from abuse.crowd import Crowd, Peer
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


STORM = tuple(f"127.0.1.{number}" for number in range(1, 13))
MESSAGE = b"EHLO x\r\nMAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"


def retry_storm(scene: Scene) -> None:
    """Devices of twelve addresses read 451 and begin again at once, over and over."""
    tries = 0

    def begin(source: str) -> Peer:
        (peer,) = crowd.connect(scene.ports["smtp"], source)
        crowd.say(MESSAGE, [peer])
        return peer

    with Crowd() as crowd:
        devices = {begin(source): source for source in STORM for _ in range(scene.size(8, 3))}
        deadline = time.monotonic() + scene.size(20, 5)
        while time.monotonic() < deadline:
            crowd.pump(0.02)
            for peer in [peer for peer in devices if peer.closed or b"\r\n451 " in peer.tail]:
                tries += b"\r\n451 " in peer.tail
                peer.close()
                crowd.peers.remove(peer)
                source = devices.pop(peer)
                devices[begin(source)] = source
    scene.note(f"{tries} tries read 451")
    if tries < len(STORM):
        scene.bad("nobody read 451, so nothing is shown")


def storm_account(scene: Scene, port: int) -> None:
    """The storm's addresses get an account of their own, with its SMTP server on that port."""
    file = scene.folder / "accounts.toml"
    file.write_text(
        f'[accounts.storm]\nBACKEND_SMTP_PORT = {port}\nBACKEND_SMTP_HOST = "127.0.0.1"\n'
        "[accounts.calm]\n"
        '[[rules]]\nnetwork = "127.0.1.0/24"\naccount = "storm"\n[[rules]]\naccount = "calm"\n'
    )
    file.chmod(0o600)
    scene.settings["ACCOUNTS_FILE"] = str(file)


def dead_backend(scene: Scene) -> None:
    """Nobody listens there."""
    closed = scene.undo.enter_context(socket.socket())
    closed.bind(("127.0.0.1", 0))
    storm_account(scene, closed.getsockname()[1])


def slow_backend(scene: Scene) -> None:
    """It refuses every message for now, a second after its end."""
    storm_account(scene, scene.backend_ports["refusing"])


ATTACKS = (
    Attack("retry-storm-dead", retry_storm, prepare=dead_backend),
    Attack("retry-storm-slow", retry_storm, backend={"refusing_seconds": 1.0}, prepare=slow_backend),
    Attack("smtp-noop", noop, rival="smtp"),
    Attack("smtp-junk", junk, rival="smtp"),
)
