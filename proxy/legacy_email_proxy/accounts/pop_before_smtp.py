"""Remembers which address has logged in by POP3, and to which account, for rules with POP-before-SMTP."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..access import Address, canonical

__all__ = ("MAX_ADDRESSES", "RecentLogins")

MAX_ADDRESSES = 10_000
"""With more addresses, the one whose last login is the oldest is forgotten."""


class RecentLogins:
    """The last login of each address to each account. It is kept at a reload."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Address, dict[str, float]] = {}

    def note(self, address: str, account: str) -> None:
        """``address`` has opened the maildrop of ``account``."""
        peer = canonical(address)
        if peer is None:
            return
        # Taken out and put in again, so that the dictionary is in the order of the last login.
        accounts = self._seen.pop(peer, {})
        accounts.pop(account, None)
        self._seen[peer] = accounts | {account: self._clock()}
        if len(self._seen) > MAX_ADDRESSES:
            del self._seen[next(iter(self._seen))]

    def of(self, address: str) -> tuple[tuple[str, float], ...]:
        """The accounts of this address, each with the seconds since its login, the latest first."""
        peer, now = canonical(address), self._clock()
        accounts = self._seen.get(peer, {}) if peer is not None else {}
        return tuple((account, now - when) for account, when in reversed(accounts.items()))
