"""No more messages in a minute than a provider takes: ``BACKEND_SMTP_MESSAGES_PER_MINUTE``, in front of any relay.

A device that comes too early waits at MAIL, for a while; then it is told to come again. Over its limit a provider
would refuse the message, or block the account.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from ..contracts import Client, Finding, Overloaded, Parameters, Relay, RelayCapabilities, Transaction

__all__ = ("PATIENCE_SECONDS", "PacedRelay", "paced")

PATIENCE_SECONDS = 30.0
"""How long MAIL may wait for its turn: devices give up sooner than the five minutes of RFC 5321 §4.5.3.2.2."""

_MINUTE = 60.0


def paced(relay: Relay, settings: Mapping[str, Any]) -> Relay:
    """``relay``, slowed down where the setting asks for it."""
    per_minute = settings["BACKEND_SMTP_MESSAGES_PER_MINUTE"]
    return relay if per_minute is None else PacedRelay(relay, per_minute)


class PacedRelay:
    """See :class:`~legacy_email_proxy.contracts.Relay`."""

    def __init__(
        self,
        relay: Relay,
        per_minute: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._relay = relay
        self._per_minute = per_minute
        self._clock = clock
        self._sleep = sleep
        self._taken: deque[float] = deque()

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """Wait for a turn. What ends without a message counts too: the provider may have counted it."""
        await self._turn()
        async with self._relay.transaction(client, reverse_path, parameters) as transaction:
            yield transaction

    async def _turn(self) -> None:
        """Raises :class:`Overloaded` to who would wait too long."""
        until = self._clock() + PATIENCE_SECONDS
        while True:
            now = self._clock()
            while self._taken and self._taken[0] <= now - _MINUTE:
                self._taken.popleft()
            if len(self._taken) < self._per_minute:
                self._taken.append(now)
                return
            free = self._taken[0] + _MINUTE
            if free > until:
                detail = f"{self._per_minute} messages went out within a minute"
                raise Overloaded(detail, look_at="BACKEND_SMTP_MESSAGES_PER_MINUTE")
            await self._sleep(free - now)

    def capabilities(self) -> RelayCapabilities:
        """The relay's."""
        return self._relay.capabilities()

    async def probe(self) -> Sequence[Finding]:
        """The relay's."""
        return await self._relay.probe()

    async def aclose(self) -> None:
        """Close the relay."""
        await self._relay.aclose()
