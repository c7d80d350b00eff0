"""The file names of a Maildir: ``<time>.<unique>.<host>,S=<octets>:2,<flags>``. No I/O here.

What stands before the first ``,`` or ``:`` is the unique part. It stays the same for the life of a message, while other
programs change the flags behind it, move the file from ``new`` to ``cur`` or correct the size in its name.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import secrets
import socket
import time

__all__ = ("delivery_order", "octets_with_crlf", "unique_id", "unique_name")

_counter = itertools.count(1)
_UNIQUE_ID = re.compile(r"[\x21-\x7e]{1,70}")
_TIME = re.compile(r"(\d{1,18})\.(?:M(\d{1,6}))?")
_WIRE_OCTETS = re.compile(r"[^:]*?,W=(\d{1,18})(?=[,:]|$)")


def unique_name() -> str:
    """A name that no other process gives, on this host or another one that shares the folder.

    The random part is there for containers: they all have process id 1, and with the host's network all one host name.
    """
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:64] or "localhost"
    unique = f"M{nanoseconds // 1000:06}P{os.getpid()}Q{next(_counter)}R{secrets.token_hex(4)}"
    return f"{seconds}.{unique}.{host}"


def unique_id(name: str) -> str:
    """The POP3 unique-id (RFC 1939 §7): the unique part, or its hash where that is too long or has other characters."""
    unique = re.split("[,:]", name, maxsplit=1)[0] or name
    if _UNIQUE_ID.fullmatch(unique):
        return unique
    return hashlib.sha256(os.fsencode(unique)).hexdigest()[:32]


def octets_with_crlf(name: str) -> int | None:
    """``,W=``: the message's octets with CRLF line ends, if the delivering program counted them."""
    found = _WIRE_OCTETS.match(name)
    return int(found[1]) if found else None


def delivery_order(name: str) -> tuple[int, int, str]:
    """Sort key: the time of delivery that the name tells, then the unique part, which no change of flags moves."""
    found = _TIME.match(name)
    seconds, microseconds = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    return seconds, microseconds, unique_id(name)
