"""No more messages in a minute than a provider takes: ``BACKEND_SMTP_MESSAGES_PER_MINUTE``, in front of any relay.

A device that comes too early waits at MAIL, for a while; then it is told to come again. What a relay has stored, and
hands on by itself, waits as long as it takes. Over its limit a provider would refuse the message, or block the account.
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
from .wrapper import RelayLayer

__all__ = ("PATIENCE_SECONDS", "PacedRelay", "Turns", "paced")

PATIENCE_SECONDS = 30.0
"""How long MAIL may wait for its turn: devices give up sooner than the five minutes of RFC 5321 §4.5.3.2.2."""

_MINUTE = 60.0

Turns = deque[float]
"""When the last messages went out or will, in their order, by the monotonic clock: as many as go in a minute."""


def paced(
    relay: Relay,
    settings: Mapping[str, Any],
    patience_seconds: float = PATIENCE_SECONDS,
    former: Turns | None = None,
) -> Relay:
    """``relay``, slowed down where the setting asks for it; nobody waits longer than ``patience_seconds``.

    ``former`` are the turns that the relay before it gave, which was replaced when the settings were read anew: the
    provider has counted those messages too.
    """
    per_minute = settings["BACKEND_SMTP_MESSAGES_PER_MINUTE"]
    return relay if per_minute is None else PacedRelay(relay, per_minute, patience_seconds, former=former)


class PacedRelay(RelayLayer):
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
        """Wait for a turn. What ends without a message counts too: the provider may have counted it."""
        await self._turn()
        async with self._relay.transaction(client, reverse_path, parameters) as transaction:
            yield transaction

    async def _turn(self) -> None:
        """Raises :class:`Overloaded` to who would wait too long."""
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
                self._hand_over(turn)
                raise

    def _hand_over(self, turn: float) -> None:
        """Nobody took it, so it is for whoever comes next. A device that comes again and again would use up all."""
        if turn in self.turns:
            self.turns.remove(turn)
            self.turns.appendleft(turn - _MINUTE)
