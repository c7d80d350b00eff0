"""Remembers which address has logged in by POP3, and to which account, for rules with POP-before-SMTP.

Where several proxies share a database, a device may log in at one of them and send through another one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress

from ..access import Address, canonical
from ..contracts import Failure, SharedState

__all__ = ("MAX_ADDRESSES", "RecentLogins")

MAX_ADDRESSES = 10_000
"""With more addresses, the one whose last login is the oldest is forgotten."""
_KIND = "pop3 login"


class RecentLogins:
    """The last login of each address to each account. It is kept at a reload."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, shared: SharedState | None = None) -> None:
        self._clock = clock
        self._shared = shared
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

    async def tell(self, address: str, account: str) -> None:
        """Tell the other proxies what was noted; while the database is away they do not learn it."""
        peer, now = canonical(address), time.time()
        if self._shared is None or peer is None:
            return

        def noted(octets: bytes | None) -> bytes:
            return json.dumps({**json.loads(octets or b"{}"), account: now}).encode()

        with suppress(Failure):
            await self._shared.change(_KIND, str(peer), noted)

    async def of_all(self, address: str) -> tuple[tuple[str, float], ...]:
        """As :meth:`of`, with the logins at the other proxies."""
        ages = dict(self.of(address))
        peer, now = canonical(address), time.time()
        if self._shared is not None and peer is not None:
            with suppress(Failure):
                octets = await self._shared.read(_KIND, str(peer))
                for account, when in json.loads(octets or b"{}").items():
                    ages[account] = min(ages.get(account, float("inf")), max(0.0, now - when))
        return tuple(sorted(ages.items(), key=lambda item: item[1]))
