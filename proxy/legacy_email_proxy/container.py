"""Whether this process runs in a container behind a gateway that hides its clients.

Behind a NAT (Docker's userland proxy, for one) every client has the gateway's private address, and so looks trusted.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

__all__ = ("gateway",)

_MARKS = ("/run/.containerenv", "/.dockerenv")
_ROUTES = Path("/proc/net/route")


def gateway(marks: tuple[str, ...] = _MARKS, routes: Path = _ROUTES) -> IPv4Address | None:
    """The container's default gateway; ``None`` outside of a container, or where there is no such route."""
    if not any(Path(mark).exists() for mark in marks):
        return None
    try:
        rows = [line.split() for line in routes.read_text().splitlines()[1:]]
    except OSError:
        return None
    for row in rows:
        # Destination and mask 0 are the default route; addresses are hexadecimal in the machine's byte order.
        if row[1] == "00000000" and row[7] == "00000000" and row[2] != "00000000":
            return IPv4Address(bytes.fromhex(row[2])[::-1])
    return None
