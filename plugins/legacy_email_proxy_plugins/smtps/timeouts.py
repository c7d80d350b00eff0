"""How long the backend may take: each the deadline of one whole reply, which a reply that drips in can't extend."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("LEAST_OCTETS_PER_SECOND", "Timeouts")

LEAST_OCTETS_PER_SECOND = 1000
"""A backend that takes content more slowly than this, beyond the first :attr:`Timeouts.block` seconds of waiting for
it, is given up. It is twice what Postfix asks of a sender under stress, so the device's own line may be the slower one,
and it bounds for how long a backend that takes an octet now and then can hold a connection."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, per command and never for a whole transaction (RFC 5321 §4.5.3.2)."""

    connect: float = 30  # name and TCP, all addresses together
    tls: float = 60
    greeting: float = 300  # §4.5.3.2.1
    hello: float = 60  # EHLO and STARTTLS
    auth: float = 60
    mail: float = 300  # §4.5.3.2.2
    rcpt: float = 300  # §4.5.3.2.3
    data: float = 120  # §4.5.3.2.4
    block: float = 180  # §4.5.3.2.5, without any progress
    final_dot: float = 600  # §4.5.3.2.6
    rset: float = 20
    quit: float = 2
    slot: float = 30  # for a free connection, while all are lent
    probe: float = 60  # a whole probe, with somebody waiting for it
