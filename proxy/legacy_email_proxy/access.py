"""Who may connect: the networks that are trusted, and how many connections an address and everybody may hold.

Nothing authenticates a device here, so this module is the only guard between the listeners and the world. A gateway
that hides the clients behind it weakens that guard: behind a NAT (Docker's userland proxy, for one) every client has
the private address of the container's gateway, and so looks trusted. :func:`gateway` finds that address.
"""

from __future__ import annotations

import ipaddress
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from .contracts.container import MARKS, in_container

__all__ = (
    "MIN_OCTETS_PER_SECOND",
    "Address",
    "Admission",
    "Network",
    "Refusal",
    "canonical",
    "gateway",
    "is_loopback",
    "source_of",
    "within",
)

MIN_OCTETS_PER_SECOND = 500
"""The least that a client must send or take of a message, on average over its progress time: half the speed of a modem
of 9600 baud. A connection to the backend is in use meanwhile, and an account has few of those.
"""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refusal(Enum):
    """Why a client was not admitted; the value is what the log says."""

    NOT_ALLOWED = "not in ALLOWED_NETWORKS"
    TOO_MANY = "MAX_CONNECTIONS reached"
    TOO_MANY_FROM_ADDRESS = "MAX_CONNECTIONS_PER_ADDRESS reached"


def canonical(address: str) -> Address | None:
    """The address in the form in which it is judged: without a zone, and ``::ffff:a.b.c.d`` as ``a.b.c.d``."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def is_loopback(place: str) -> bool:
    """Whether only this machine reaches what is bound there; a name may mean anything but for ``localhost``."""
    address = canonical(place)
    return place == "localhost" or (address is not None and address.is_loopback)


def source_of(address: str) -> str:
    """What this address is counted as, in connections and in failed logins: itself, or the /64 of an IPv6 address.

    Whoever has one address of a /64 usually has all 2⁶⁴ of them.
    """
    peer = canonical(address)
    if isinstance(peer, ipaddress.IPv6Address):
        return f"{ipaddress.IPv6Address(int(peer) >> 64 << 64)}/64"
    return str(peer)


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address.version == network.version and address in network for network in networks)


class Admission:
    """Counts the connections of one leg and judges each new one. What comes from ``balancers`` is judged by the address
    that they name.
    """

    def __init__(
        self,
        networks: Iterable[Network],
        max_connections: int,
        max_per_address: int,
        on_admitted: Callable[[Address], None] = lambda _: None,
        balancers: Iterable[Network] = (),
    ) -> None:
        self.balancers = tuple(balancers)
        self._on_admitted = on_admitted
        self._networks = tuple(networks)
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._held: Counter[str] = Counter()
        self._total = 0

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        on_admitted: Callable[[Address], None] = lambda _: None,
        *,
        most: int = sys.maxsize,
    ) -> Admission:
        """An admission by ``ALLOWED_NETWORKS``, ``MAX_CONNECTIONS``, ``MAX_CONNECTIONS_PER_ADDRESS`` and
        ``PROXY_PROTOCOL_NETWORKS``.

        ``most`` is for how many the process has descriptors. If that is less than ``MAX_CONNECTIONS``, it is the limit,
        and one address gets a quarter of it at most.
        """
        total, each = settings["MAX_CONNECTIONS"], settings["MAX_CONNECTIONS_PER_ADDRESS"]
        if most < total:
            total, each = most, min(each, max(1, most // 4))
        balancers = settings["PROXY_PROTOCOL_NETWORKS"] or ()
        return cls(settings["ALLOWED_NETWORKS"], total, each, on_admitted, balancers)

    def admit(self, address: str) -> Refusal | None:
        """Judge a new connection. ``None`` means admitted: it is counted until :meth:`release` is called for it."""
        peer = canonical(address)
        # What is no address (a name, an empty peer) is never trusted.
        if peer is None or not within(peer, self._networks):
            return Refusal.NOT_ALLOWED
        if self._total >= self._max_connections:
            return Refusal.TOO_MANY
        source = source_of(address)
        if self._held[source] >= self._max_per_address:
            return Refusal.TOO_MANY_FROM_ADDRESS
        self._held[source] += 1
        self._total += 1
        self._on_admitted(peer)
        return None

    def release(self, address: str) -> None:
        """A connection that :meth:`admit` counted has ended."""
        source = source_of(address)
        self._total -= 1
        self._held[source] -= 1
        if not self._held[source]:
            # Otherwise the counter would keep an entry for each address ever seen.
            del self._held[source]


_ROUTES = Path("/proc/net/route")


def gateway(marks: tuple[str, ...] = MARKS, routes: Path = _ROUTES) -> ipaddress.IPv4Address | None:
    """The container's default gateway; ``None`` outside of a container, or where there is no such route."""
    if not in_container(marks):
        return None
    try:
        rows = [line.split() for line in routes.read_text().splitlines()[1:]]
    except OSError:
        return None
    for row in rows:
        # Destination and mask 0 are the default route; addresses are hexadecimal in the machine's byte order.
        if row[1] == "00000000" and row[7] == "00000000" and row[2] != "00000000":
            return ipaddress.IPv4Address(bytes.fromhex(row[2])[::-1])
    return None
