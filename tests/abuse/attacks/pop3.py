"""Attacks by POP3 commands, before and after the login, and by an IMAP server that sends without end."""

from __future__ import annotations

import time

from abuse.crowd import Crowd
from abuse.scene import Attack, Scene

ADDRESS = "127.0.0.11"
CLIENTS = 50


def logged_in(scene: Scene, crowd: Crowd, count: int, source: str = ADDRESS, receive_buffer: int = 0) -> None:
    """That many sessions that have logged in, or tried to."""
    peers = crowd.connect(scene.ports["pop3"], source, count, receive_buffer=receive_buffer)
    user, password = scene.user.encode(), scene.password.encode()
    crowd.talk(peers, (b"", 1), (b"USER %b\r\n" % user, 1), (b"PASS %b\r\n" % password, 1))


def noop_before(scene: Scene) -> None:
    """50 clients pipeline 5000 NOOPs each before the login, where each is an error."""
    with Crowd() as crowd:
        crowd.connect(scene.ports["pop3"], ADDRESS, CLIENTS)
        crowd.say(b"NOOP\r\n" * scene.size(5000, 1000))
        crowd.pump(scene.size(15, 4), lambda: not crowd.open)


def noop_after(scene: Scene) -> None:
    """50 clients pipeline 5000 NOOPs each after the login."""
    with Crowd() as crowd:
        logged_in(scene, crowd, CLIENTS)
        crowd.say(b"NOOP\r\n" * scene.size(5000, 1500))
        crowd.pump(scene.size(15, 4), lambda: not crowd.open)


def capa(scene: Scene) -> None:
    """50 clients pipeline 5000 CAPAs each: an answer of many lines, and allowed before the login."""
    with Crowd() as crowd:
        crowd.connect(scene.ports["pop3"], ADDRESS, CLIENTS)
        crowd.say(b"CAPA\r\n" * scene.size(5000, 1000))
        crowd.pump(scene.size(15, 4), lambda: not crowd.open)


def unread(scene: Scene) -> None:
    """Eight clients ask for a large message again and again and read nothing of it."""
    with Crowd() as crowd:
        logged_in(scene, crowd, 8, receive_buffer=4096)
        crowd.say(b"RETR 2\r\n" * 200)
        for _ in range(scene.size(60, 20)):
            for peer in crowd.open:
                peer.write()
            time.sleep(0.1)


def endless(scene: Scene) -> None:
    """The IMAP server lists a message with 100 octets, and sends a literal of 4 GiB when it is asked for."""
    with Crowd() as crowd:
        logged_in(scene, crowd, 1)
        (peer,) = crowd.peers
        before = scene.counted()["imap_octets"]
        crowd.say(b"RETR 2\r\n")
        # Cut off before its first octet, the message is a refusal, and the session goes on.
        crowd.pump(scene.size(10, 5), lambda: peer.closed or b"\r\n-ERR" in peer.tail)
        refused = b"\r\n-ERR" in peer.tail
        sent = scene.counted()["imap_octets"] - before
        state = "was refused the message" if refused else "is cut off" if peer.closed else "still waits"
        scene.note(f"the client got {peer.octets} octets and {state}")
        if max(peer.octets, sent) > 100 << 20 or not (refused or peer.closed):
            scene.bad("nobody cuts it off")
        if peer.tail.endswith(b"\r\n.\r\n"):
            scene.bad("the message looks complete")


ATTACKS = (
    Attack("pop3-noop-before", noop_before, rival="pop3"),
    Attack("pop3-noop-after", noop_after, rival="pop3"),
    Attack("pop3-capa", capa, rival="pop3"),
    Attack("pop3-unread", unread, backend={"large": 4 << 20}),
    Attack("imap-literal", endless, backend={"endless": True}),
)
