"""Limits the messages per minute (``BACKEND_SMTP_MESSAGES_PER_MINUTE``), in front of any relay.

Over its limit a provider refuses messages, or blocks the account. A device that comes too early waits at MAIL for up to
30 seconds, and then reads a temporary refusal. A message from the spool waits as long as necessary.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from ..contracts import Client, Overloaded, Parameters, Relay, Transaction
from .wrapper import RelayWrapper

__all__ = ("PATIENCE_SECONDS", "RateLimitedRelay", "Turns", "rate_limited")

PATIENCE_SECONDS = 30.0
"""How long MAIL may wait for its turn: devices give up sooner than the five minutes of RFC 5321 §4.5.3.2.2."""

_MINUTE = 60.0

Turns = deque[float]
"""When the last messages went out or will go out, in order, by the monotonic clock: as many as a minute allows."""


def rate_limited(
    relay: Relay,
    settings: Mapping[str, Any],
    patience_seconds: float = PATIENCE_SECONDS,
    former: Turns | None = None,
) -> Relay:
    """``relay``, limited where the setting asks for it; nobody waits longer than ``patience_seconds``.

    ``former`` are the turns of the relay that this one replaces at a reload: the provider has counted those messages
    too.
    """
    per_minute = settings["BACKEND_SMTP_MESSAGES_PER_MINUTE"]
    return relay if per_minute is None else RateLimitedRelay(relay, per_minute, patience_seconds, former=former)


class RateLimitedRelay(RelayWrapper):
    """See :class:`~legacy_email_proxy.contracts.Relay`."""

    def __init__(
        self,
        relay: Relay,
        per_minute: int,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        former: Turns | None = None,
    ) -> None:
        super().__init__(relay)
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._sleep = sleep
        if former is None or former.maxlen != per_minute:
            former = deque([*[-math.inf] * per_minute, *(former or ())], per_minute)
        self.turns: Turns = former

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """Wait for a turn. A transaction without a message counts too: the provider may have counted it."""
        await self._turn()
        async with self._relay.transaction(client, reverse_path, parameters) as transaction:
            yield transaction

    async def _turn(self) -> None:
        """Wait for the next turn. Raises :class:`Overloaded` where that would take too long."""
        now = self._clock()
        turn = max(now, self.turns[0] + _MINUTE)
        if turn - now > self._patience_seconds:
            detail = f"{len(self.turns)} messages went out within a minute"
            raise Overloaded(detail, look_at="BACKEND_SMTP_MESSAGES_PER_MINUTE")
        self.turns.append(turn)
        if turn > now:
            try:
                await self._sleep(turn - now)
            except BaseException:
                self._give_up(turn)
                raise

    def _give_up(self, turn: float) -> None:
        """Free a turn that was not used. Otherwise a device that leaves and comes back would use up all turns."""
        if turn in self.turns:
            self.turns.remove(turn)
            self.turns.appendleft(turn - _MINUTE)
