"""A message that can be recognised, and checked octet for octet, wherever it turns up."""

from __future__ import annotations

import hashlib
import random
import re
from email.utils import parsedate_to_datetime

LINE_OCTETS = 76
_MARK = re.compile(rb"^X-Soak: (\S+) (\S+)\r?$", re.MULTILINE)
_RECEIVED = re.compile(
    rb"^\tby mail\.\S+ \(Postfix\) with \S+ id (\S+)\r?\n(?:\s.*\n)*?\s[^;\n]*; (.*?)\r?$", re.MULTILINE
)


def digest(content: bytes) -> str:
    """Of the body. Line ends don't count: Dovecot stores LF."""
    body = content.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
    return hashlib.sha256(body).hexdigest()[:32]


def message(name: str, address: str, octets: int, chance: random.Random) -> bytes:
    """About so many octets, with lines that begin with dots, and octets that are not ASCII."""
    block = [
        (b"." * (number % 7 == 0)) + chance.randbytes(LINE_OCTETS // 2).hex().encode() + b"\xe4" * (number % 11 == 0)
        for number in range(min(800, octets // LINE_OCTETS + 1))
    ]
    lines = [block[number % len(block)] for number in range(octets // LINE_OCTETS + 1)]
    body = b"".join(b"%d %b\r\n" % each for each in enumerate(lines))
    head = (
        f"From: <{address}>\r\nTo: <{address}>\r\nSubject: {name}\r\nDate: Mon, 30 Nov 2026 08:00:00 +0000\r\n"
        f"Message-ID: <{name}@soak.example.test>\r\nX-Soak: {name} "
    )
    return head.encode() + digest(b"\n\n" + body).encode() + b"\r\n\r\n" + body


def mark(content: bytes) -> tuple[str, bool]:
    """The id of a message, and whether its body is whole; the id is empty if the message is none of ours."""
    found = _MARK.search(content)
    if found is None:
        return "", False
    return found[1].decode("latin-1"), found[2].decode("latin-1") == digest(content)


def receipt(content: bytes) -> tuple[str, float]:
    """Postfix's own number for the message and when it came: the proxy that sends it twice is given two numbers."""
    found = _RECEIVED.search(content)
    if found is None:
        return "", 0.0
    return found[1].decode("latin-1"), parsedate_to_datetime(found[2].decode("latin-1")).timestamp()
