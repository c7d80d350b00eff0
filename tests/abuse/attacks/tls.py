"""Attacks on TLS, where the proxy has a certificate: handshakes begun, repeated, and renewed."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress

from abuse.crowd import Crowd
from abuse.scene import Attack, Scene
from legacy_email_proxy.admin.connections import MOST_PER_ADDRESS
from realservers.certificates import Certificates
from realservers.processes import require

ADDRESS = "127.0.0.11"
HELLO = bytes.fromhex("16030100f5010000f10303") + bytes(20)
"""The first octets of a ClientHello, which says that 200 more follow."""


def certified(scene: Scene) -> None:
    """The proxy gets a certificate and the listeners with TLS."""
    folder = scene.folder / "certificates"
    folder.mkdir()
    good = Certificates.write(folder).good
    scene.settings |= {"TLS_CERT_FILE": str(good.certificate_file), "TLS_KEY_FILE": str(good.key_file)}
    scene.settings |= {f"{leg}_BIND_{what}": value for leg in ("POP3S", "SMTPS") for what, value in BIND.items()}


BIND = {"ADDR": "127.0.0.1", "PORT": "0"}


def half_open(scene: Scene) -> None:
    """190 connections to each listener with TLS that begin a handshake and say nothing more.

    What a broken handshake leaves is freed by Python's next full collection, and the allocator keeps its share: after
    the same attack again and again, memory stays at the height of the third, and no object is left over.
    """
    with Crowd() as crowd:
        for leg in ("smtps", "pop3s"):
            crowd.connect(scene.ports[leg], ADDRESS, 190)
        crowd.say(HELLO)
        crowd.pump(scene.size(8, 3))


def admin_half_open(scene: Scene) -> None:
    """300 connections of one address to the operator's page that begin a handshake, and 300 that say nothing."""
    with Crowd() as crowd:
        for said in (HELLO, b""):
            crowd.say(said, crowd.connect(scene.ports["admin"], ADDRESS, 300))
        crowd.pump(scene.size(8, 3))
        if len(crowd.open) > MOST_PER_ADDRESS:
            scene.bad(f"{len(crowd.open)} of {len(crowd.peers)} stayed connected")


ADMIN = {
    # Any loopback address would speak plain HTTP.
    "ADMIN_BIND_ADDR": "0.0.0.0",
    "ADMIN_BIND_PORT": "0",
    "ADMIN_PASSWORD": "no matter",
}


def handshakes(scene: Scene) -> None:
    """As many full handshakes as four threads manage, each of which costs the server more than the client."""
    ended = threading.Event()
    made: list[int] = []

    def repeat(port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        while not ended.is_set():
            with suppress(OSError), _connected(port) as plain, context.wrap_socket(plain):
                made.append(1)

    threads = [threading.Thread(target=repeat, args=(scene.ports[leg],)) for leg in ("smtps", "pop3s") * 2]
    for thread in threads:
        thread.start()
    time.sleep(scene.size(8, 3))
    ended.set()
    for thread in threads:
        thread.join()
    scene.note(f"{len(made)} handshakes")


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5, (ADDRESS, 0))


def renewed(scene: Scene) -> None:
    """Sessions that do nothing but renegotiate (TLS 1.2) or update their keys (TLS 1.3), as fast as they can."""
    program = require("openssl", "renegotiates")
    processes = []
    for version, command in (("-tls1_2", b"R\n"), ("-tls1_3", b"K\n")) * 2:
        words = [program, "s_client", "-connect", f"127.0.0.1:{scene.ports['smtps']}", version, "-bind", f"{ADDRESS}:0"]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        processes.append((process, command))
    deadline = time.monotonic() + scene.size(8, 3)
    try:
        while time.monotonic() < deadline:
            for process, command in processes:
                if process.poll() is None and process.stdin is not None:
                    with suppress(OSError):
                        process.stdin.write(command)
                        process.stdin.flush()
            time.sleep(0.001)
    finally:
        left = [command.decode().strip() for process, command in processes if process.poll() is None]
        scene.note(f"still connected at the end: {', '.join(left) or 'none'} (R renegotiates, K updates keys)")
        for process, _ in processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()


ATTACKS = (
    Attack("tls-half-open", half_open, prepare=certified),
    Attack("admin-half-open", admin_half_open, ADMIN, prepare=certified, legs=("smtp", "pop3", "admin")),
    Attack("tls-handshakes", handshakes, prepare=certified),
    Attack("tls-renewed", renewed, prepare=certified),
)
