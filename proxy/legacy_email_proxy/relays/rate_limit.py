"""Limits the messages per minute (``BACKEND_SMTP_MESSAGES_PER_MINUTE``), in front of any relay.

Over its limit a provider refuses messages, or blocks the account. A device that comes too early waits at MAIL for up to
30 seconds, and then reads a temporary refusal. A message from the spool waits as long as necessary.

Where several proxies share a database, they take their turns there, so that all of them together keep the limit. While
it is away each keeps the limit for itself.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from ..contracts import Client, Failure, Overloaded, Parameters, Relay, SharedState, Transaction
from .wrapper import RelayWrapper

__all__ = ("PATIENCE_SECONDS", "RateLimitedRelay", "SharedTurns", "Turns", "rate_limited")

PATIENCE_SECONDS = 30.0
"""How long MAIL may wait for its turn: devices give up sooner than the five minutes of RFC 5321 §4.5.3.2.2."""

_MINUTE = 60.0
_KIND = "message turns"

Turns = deque[float]
"""When the last messages went out or will go out, in order, by the monotonic clock: as many as a minute allows."""


def rate_limited(
    relay: Relay,
    settings: Mapping[str, Any],
    patience_seconds: float = PATIENCE_SECONDS,
    former: Turns | None = None,
    shared: SharedTurns | None = None,
) -> Relay:
    """``relay``, limited where the setting asks for it; nobody waits longer than ``patience_seconds``.

    ``former`` are the turns of the relay that this one replaces at a reload: the provider has counted those messages
    too.
    """
    per_minute = settings["BACKEND_SMTP_MESSAGES_PER_MINUTE"]
    if per_minute is None:
        return relay
    return RateLimitedRelay(relay, per_minute, patience_seconds, former=former, shared=shared)


class SharedTurns:
    """The turns of one account at all proxies, by the clocks of their machines, which have to agree within seconds."""

    def __init__(self, state: SharedState, account: str, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._account = account
        self._clock = clock

    async def take(self, per_minute: int, patience_seconds: float) -> float | None:
        """Take the next turn; ``None`` if it is too far away. Raises :class:`Failure` without the database."""
        now = self._clock()
        found: float | None = None

        def taken(octets: bytes | None) -> bytes:
            nonlocal found
            turns = json.loads(octets or b"[]")[-per_minute:]
            turn = max(now, turns[0] + _MINUTE) if len(turns) == per_minute else now
            if turn - now <= patience_seconds:
                found = turn
                turns = [*turns, turn][-per_minute:]
            return json.dumps(turns).encode()

        await self._state.change(_KIND, self._account, taken)
        return found

    def left(self, turn: float) -> float:
        """In how many seconds it is."""
        return turn - self._clock()

    async def give_up(self, turn: float) -> None:
        """Free a turn that was not used."""

        def freed(octets: bytes | None) -> bytes:
            turns = json.loads(octets or b"[]")
            if turn in turns:
                turns.remove(turn)
                turns.insert(0, turn - _MINUTE)
            return json.dumps(turns).encode()

        with suppress(Failure):
            await self._state.change(_KIND, self._account, freed)


class _Away(Exception):
    """The database does not answer."""


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
        shared: SharedTurns | None = None,
    ) -> None:
        super().__init__(relay)
        self._shared = shared
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
        if self._shared is not None:
            with suppress(_Away):
                await self._shared_turn(self._shared)
                return
        now = self._clock()
        turn = max(now, self.turns[0] + _MINUTE)
        if turn - now > self._patience_seconds:
            raise self._overloaded()
        self.turns.append(turn)
        if turn > now:
            try:
                await self._sleep(turn - now)
            except BaseException:
                self._give_up(turn)
                raise

    async def _shared_turn(self, shared: SharedTurns) -> None:
        """As :meth:`_turn`. Raises :class:`_Away` without the database."""
        try:
            turn = await shared.take(len(self.turns), self._patience_seconds)
        except Failure:
            raise _Away from None
        if turn is None:
            raise self._overloaded()
        left = shared.left(turn)
        # If the database goes away, what was sent until then counts here too.
        self.turns.append(max(self.turns[-1], self._clock() + left))
        if left > 0:
            try:
                await self._sleep(left)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await shared.give_up(turn)
                raise

    def _overloaded(self) -> Overloaded:
        detail = f"{len(self.turns)} messages went out within a minute"
        return Overloaded(detail, look_at="BACKEND_SMTP_MESSAGES_PER_MINUTE")

    def _give_up(self, turn: float) -> None:
        """Free a turn that was not used. Otherwise a device that leaves and comes back would use up all turns."""
        if turn in self.turns:
            self.turns.remove(turn)
            self.turns.appendleft(turn - _MINUTE)
