"""Messages and commands made to cost a parser far more time than they have octets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from abuse.crowd import Crowd
from abuse.scene import Attack, Scene

ADDRESS = "127.0.0.11"
ENVELOPE = b"EHLO x\r\nMAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n"
LONG = b"\r\n\r\n" + b"y" * 1200 + b"\r\n"
"""A body with a line that has to be encoded."""
REWRITTEN = {"SMTP_SENDER": "office@example.test", "SMTP_SENDER_REPLY_TO": "true", "SMTP_REMOVE_BCC": "true"}
ENCODED = {"SMTP_LONG_LINES": "encode"}


def nested(depth: int, lines: int) -> bytes:
    """Multiparts within multiparts, and then lines that might end any of them."""
    parts = (
        b"Content-Type: multipart/mixed; boundary=x%d\r\n\r\n--x%d\r\n" % (number, number) for number in range(depth)
    )
    return b"".join(parts) + b"\r\n" + b"--x\r\n" * lines + b"y" * 1200 + b"\r\n"


BOMBS: Mapping[str, Callable[[int], bytes]] = {
    "address list of commas": lambda n: b"From: " + b"," * n + LONG,
    "comments in comments": lambda n: b"From: " + b"(" * n + LONG,
    "quotes": lambda n: b"From: " + b'"' * n + b"<a@b>" + LONG,
    "angle brackets": lambda n: b"From: " + b"<" * n + LONG,
    "escaped characters": lambda n: b'From: "' + b"\\" * n + LONG,
    "folded header": lambda n: b"Subject: x" + b"\r\n x" * (n // 4) + LONG,
    "many fields": lambda n: b"X: y\r\n" * (n // 6) + b"From: a@b" + LONG,
    "8-bit header": lambda n: b"Subject: " + b"\xc3\xa4" * (n // 2) + LONG,
    "parameters": lambda n: b"Content-Type: text/plain" + b"; a=b" * (n // 5) + LONG,
    "continued parameters": lambda n: b"Content-Type: text/plain"
    + b"".join(b"; a*%d*=x" % number for number in range(n // 12)) + LONG,
    "parameters unended": lambda n: b'Content-Type: text/plain; a="' + b'\\"' * (n // 2) + LONG,
    "encoded words": lambda n: b"Subject: " + b"=?utf-8?q?" * (n // 10) + LONG,
    "blanks": lambda n: b"Subject: " + b" " * n + b"x" + LONG,
    "lines that are no fields": lambda n: b"no field\r\n" * (n // 10) + LONG,
}  # fmt: skip


def send(scene: Scene, name: str, content: bytes) -> None:
    """One message; says where its answer took long."""
    with Crowd() as crowd:
        peers = crowd.connect(scene.ports["smtp"], ADDRESS)
        crowd.talk(peers, (b"", 1))
        crowd.say(ENVELOPE)
        crowd.pump(5, lambda: b"354" in peers[0].tail)
        began = time.monotonic()
        crowd.say(content + b".\r\n")
        crowd.pump(20, lambda: peers[0].tail.rpartition(b"354")[2].count(b"\n") > 1)
        took = time.monotonic() - began
        if took > 0.7:
            scene.note(f"{name}: answered after {took:.1f} s")


def sender(scene: Scene) -> None:
    """A `From` of 80 000 at signs with SMTP_SENDER: a parser that looks at each from each takes seconds."""
    for _ in range(2):
        send(scene, "From", b"From: <" + b"@" * 80_000 + b">\r\n\r\nx\r\n")


def multiparts(scene: Scene) -> None:
    """4000 nested multiparts and 10 000 lines, each compared with every boundary, with SMTP_LONG_LINES=encode."""
    send(scene, "multiparts", nested(4000, 10_000))


def bombs(scene: Scene) -> None:
    """Every other part of a header that nests, repeats, is folded or doesn't end."""
    for name, bomb in BOMBS.items():
        send(scene, name, bomb(scene.size(90_000, 60_000)))


def commands(scene: Scene) -> None:
    """Paths and parameters as long as a command may be, a thousand times."""
    with Crowd() as crowd:
        peers = crowd.connect(scene.ports["smtp"], ADDRESS, 20)
        hostile = (b"MAIL FROM:<" + b"@a," * 120 + b">", b"MAIL FROM:<" + b'"' * 400 + b">", b"RCPT TO:<" + b"\\" * 400)
        crowd.say(b"EHLO x\r\n" + b"\r\n".join(hostile * scene.size(300, 60)) + b"\r\n")
        crowd.pump(scene.size(8, 3), lambda: not crowd.open, peers=peers)


ATTACKS = (
    Attack("sender-bomb", sender, REWRITTEN),
    Attack("multipart-bomb", multiparts, ENCODED, rival="smtp"),
    Attack("parser-bombs", bombs, {**REWRITTEN, **ENCODED}, rival="smtp"),
    Attack("command-bombs", commands, rival="smtp"),
)
