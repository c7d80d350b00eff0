"""A spool that this process has open: one store, one lock, and a delivery per account.

All accounts with the same ``SPOOL_URL`` share it. With a file for each account, messages of different accounts could
not share a disk sync, no account would know how much space the others need, and the operator would have to look into
each file.

At a reload, an account's new relay joins before the old one leaves. So the store stays open and locked. Then the
account has several deliveries: the last one begins new tries, the others only finish theirs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import ClassVar
from weakref import WeakValueDictionary

import anyio

from legacy_email_proxy.contracts import Failure, Relay

from ..backoff import JITTER
from .admin import Administration
from .delivery import Delivery
from .settings import Options, Place
from .store import Counted, Store

__all__ = ("Spool",)

_SETTLED_SECONDS = 1.0
"""At a start or a reload all accounts join within this time. After that, mail without an account is reported."""
_CLOSING_SECONDS = 4.0
_COUNTED_SECONDS = 10.0
"""So long a count of the messages is good for whoever asks for it again."""


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970, by a clock that never jumps. If it were set back by a day, all mail would wait a day."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


class Spool:
    """See above. The store is open from when the first account joins until the last one leaves."""

    _of_this_process: ClassVar[WeakValueDictionary[Place, Spool]] = WeakValueDictionary()

    def __init__(self, place: Place, logger: logging.Logger) -> None:
        self.place = place
        self.clock = steady_clock()
        self._under_way: set[int] = set()
        self._logger = logger
        self._store: Store | None = None
        self._users = 0
        self._turn = asyncio.Lock()
        self._counting = asyncio.Lock()
        self._deliveries: dict[str, list[Delivery]] = {}
        self._ending: dict[asyncio.Task[None], Delivery] = {}
        self._reporting: asyncio.Task[None] | None = None
        self._told: dict[str, int] = {}
        self._counted: tuple[float, Sequence[Counted]] = (-math.inf, ())
        self.warnings: Sequence[str] = ()
        """What an operator should know about the store; empty before it was opened."""

    @classmethod
    def at(cls, place: Place, logger: logging.Logger) -> Spool:
        """The spool of this process at that place. ``logger`` is for messages that concern all accounts."""
        found = cls._of_this_process.get(place)
        if found is None:
            found = cls._of_this_process[place] = cls(place, logger)
        return found

    @property
    def store(self) -> Store:
        """The store. Raises :class:`Failure` while it is not open."""
        if self._store is None:
            raise Failure("the spool is not open")
        return self._store

    async def counts(self, account: str) -> Sequence[Counted]:
        """The account's messages, counted a moment ago. Raises :class:`Failure` while the store is not open."""
        # Whoever looks at all accounts asks for all at once; a count is of all and reads every message.
        async with self._counting:
            store, now = self.store, self.clock()
            if now - self._counted[0] >= _COUNTED_SECONDS:
                self._counted = (now, await store.counts())
        return [one for one in self._counted[1] if one.account == account]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Administration]:
        """Open the store for the operator's command. Raises :class:`SettingsMistake` when another process has it."""
        async with self._turn:
            await self._enter()
        try:
            yield Administration(self.store, self.clock, self._wake)
        finally:
            async with self._turn:
                await self._leave()

    async def join(self, account: str, relay: Relay, options: Options, logger: logging.Logger) -> Delivery:
        """Deliver an account's mail through ``relay`` from now on. Raises :class:`SettingsMistake` as above."""
        async with self._turn:
            await self._enter()
            try:
                longest = max(options.retry_seconds) * (1 + JITTER)
                messages = await self.store.adopt(account, due_before=self.clock() + longest)
            except BaseException:
                await self._leave()
                raise
            delivery = Delivery(
                account, self.store, relay, options, logger, under_way=self._under_way, clock=self.clock
            )
            self._deliveries.setdefault(account, []).append(delivery)
            self._told.pop(account, None)
            self._set_successors(account)
            delivery.start()
            self._report_soon()
            if messages is not None:
                facts = {"spool": self.place.name, "messages": messages, **({"account": account} if account else {})}
                logger.info("the spool is open", extra={"facts": facts})
            return delivery

    async def part(self, delivery: Delivery, relay: Relay, grace_seconds: float) -> None:
        """End a delivery, and then close its ``relay``.

        While other accounts keep the spool open, its tries may go on to their end. If nobody does, they have
        ``grace_seconds``.
        """
        async with self._turn:
            theirs = self._deliveries[delivery.account]
            theirs.remove(delivery)
            delivery.successor = None
            if theirs:
                self._set_successors(delivery.account)
            else:
                del self._deliveries[delivery.account]
            task = asyncio.get_running_loop().create_task(self._end(delivery, relay))
            self._ending[task] = delivery
            if self._deliveries:
                task.add_done_callback(self._ended)
                self._report_soon()
            else:
                await self._stop(grace_seconds)
            await self._leave()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.pop(task, None)

    async def _end(self, delivery: Delivery, relay: Relay) -> None:
        await delivery.stop()
        try:
            await relay.aclose()
        except Exception:
            self._logger.exception("the relay behind the spool was not closed cleanly")

    async def _stop(self, grace_seconds: float) -> None:
        """After the last delivery: let the tries that run end in that time, and call off the rest."""
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = None
        ending, self._ending = self._ending, {}
        await asyncio.gather(*(delivery.hurry(grace_seconds) for delivery in ending.values()))
        await asyncio.gather(*ending)

    def _set_successors(self, account: str) -> None:
        theirs = self._deliveries[account]
        for earlier, later in pairwise(theirs):
            earlier.successor = later
        theirs[-1].successor = None

    def _wake(self) -> None:
        for theirs in self._deliveries.values():
            theirs[-1].wake()

    async def _enter(self) -> None:
        if self._store is None:
            store = self.place.store(self._logger)
            try:
                await store.open(self._wake)
                self.warnings = store.warnings
            except BaseException:
                await _close(store)
                raise
            self._store = store
        self._users += 1

    async def _leave(self) -> None:
        self._users -= 1
        if not self._users and self._store is not None:
            store, self._store = self._store, None
            await _close(store)

    # Mail of an account that was removed, or that does not use this spool any more.

    def _report_soon(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
        self._reporting = asyncio.get_running_loop().create_task(self._report())

    async def _report(self) -> None:
        await asyncio.sleep(_SETTLED_SECONDS)
        with suppress(Failure):
            for account, messages in (await self.store.accounts()).items():
                if account not in self._deliveries and self._told.get(account) != messages:
                    self._told[account] = messages
                    facts = {"account": account or "(none)", "messages": messages, "spool": self.place.name}
                    words = "mail stays in the spool: there is no account of this name that delivers it"
                    self._logger.warning(words, extra={"facts": facts})


async def _close(store: Store) -> None:
    # Shielded: without it, a cancelled task would leave the file locked, and this process could not open it again.
    with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
        await store.aclose()
