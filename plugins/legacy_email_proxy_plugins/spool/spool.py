"""A spool that this process has open: one store, one lock, one socket for the operator, and a delivery per account.

All accounts that name the same spool share it. A file of its own for each would have been as sound, but then every 250
would wait for its own account's disk sync instead of sharing one, the disk's room would be guessed at by each for
itself, and the operator would have to know an account before seeing what waits.

When the settings are read anew, each account's new relay comes before its old one goes, so the store stays open and its
lock held. Of the deliveries that an account then has, the last one delivers; the others finish what they have begun.
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
from .admin import Control, Workbench
from .delivery import Delivery
from .settings import Options, Place
from .store import Counted, Store

__all__ = ("Spool",)

_SETTLED_SECONDS = 1.0
"""Accounts come and go together, at the start and when settings are read anew; then it shows whose mail is nobody's."""
_CLOSING_SECONDS = 4.0
_COUNTED_SECONDS = 10.0
"""So long a count of the messages is good for whoever asks for it again."""


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970, by a clock that does not jump: one that is set back a day would let everything wait."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


class Spool:
    """See above. Nothing is open before the first account joins, and after the last one has left."""

    _of_this_process: ClassVar[WeakValueDictionary[Place, Spool]] = WeakValueDictionary()

    def __init__(self, place: Place, logger: logging.Logger) -> None:
        self.place = place
        self.clock = steady_clock()
        self._under_way: set[int] = set()
        self._logger = logger
        self._store: Store | None = None
        self._users = 0
        self._turn = asyncio.Lock()
        self._control: Control | None = None
        self._deliveries: dict[str, list[Delivery]] = {}
        self._ending: dict[asyncio.Task[None], Delivery] = {}
        self._looking: asyncio.Task[None] | None = None
        self._told: dict[str, int] = {}
        self._counted: tuple[float, Sequence[Counted]] = (-math.inf, ())
        self.warnings: Sequence[str] = ()
        """What an operator should know, as far as it was open until now."""

    @classmethod
    def at(cls, place: Place, logger: logging.Logger) -> Spool:
        """The one of this process at that place; ``logger`` is for what concerns all accounts."""
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
        store, now = self.store, self.clock()
        if now - self._counted[0] >= _COUNTED_SECONDS:
            self._counted = (now, await store.counts())
        return [one for one in self._counted[1] if one.account == account]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Workbench]:
        """Open for a while, to look into it. Raises :class:`SettingsMistake` when another process has it."""
        async with self._turn:
            await self._enter()
        try:
            yield Workbench(self.store, self.clock, self._wake)
        finally:
            async with self._turn:
                await self._leave()

    async def join(self, account: str, relay: Relay, options: Options, logger: logging.Logger) -> Delivery:
        """Let an account's mail be delivered through ``relay`` from now on.

        Raises :class:`SettingsMistake` as above.
        """
        async with self._turn:
            await self._enter()
            try:
                longest = max(options.retry_seconds) * (1 + JITTER)
                messages = await self.store.adopt(account, due_before=self.clock() + longest)
                if self._control is None and self.place.socket is not None:
                    workbench = Workbench(self.store, self.clock, self._wake)
                    self._control = Control(self.place.socket, workbench, self._logger)
                    await self._control.start()
            except BaseException:
                await self._leave()
                raise
            delivery = Delivery(
                account, self.store, relay, options, logger, under_way=self._under_way, clock=self.clock
            )
            self._deliveries.setdefault(account, []).append(delivery)
            self._told.pop(account, None)
            self._succeed(account)
            delivery.start()
            self._look_soon()
            if messages is not None:
                facts = {"spool": self.place.name, "messages": messages, **({"account": account} if account else {})}
                logger.info("the spool is open", extra={"facts": facts})
            return delivery

    async def part(self, delivery: Delivery, relay: Relay, grace_seconds: float) -> None:
        """The account's delivery ends, and ``relay`` is closed behind it.

        What it has begun comes to its end by itself as long as others keep the spool open, and has ``grace_seconds``
        for it when nobody does.
        """
        async with self._turn:
            theirs = self._deliveries[delivery.account]
            theirs.remove(delivery)
            delivery.successor = None
            if theirs:
                self._succeed(delivery.account)
            else:
                del self._deliveries[delivery.account]
            task = asyncio.get_running_loop().create_task(self._end(delivery, relay))
            self._ending[task] = delivery
            if self._deliveries:
                task.add_done_callback(self._ended)
                self._look_soon()
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
        """Nobody delivers any more: let all that is under way end in that time, and give the rest back."""
        if self._control is not None:
            await self._control.aclose()
            self._control = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        ending, self._ending = self._ending, {}
        await asyncio.gather(*(delivery.hurry(grace_seconds) for delivery in ending.values()))
        await asyncio.gather(*ending)

    def _succeed(self, account: str) -> None:
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
                await _let_go(store)
                raise
            self._store = store
        self._users += 1

    async def _leave(self) -> None:
        self._users -= 1
        if not self._users and self._store is not None:
            store, self._store = self._store, None
            await _let_go(store)

    # Mail of an account that is no more, or does not spool any more, or not here.

    def _look_soon(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        await asyncio.sleep(_SETTLED_SECONDS)
        with suppress(Failure):
            for account, messages in (await self.store.accounts()).items():
                if account not in self._deliveries and self._told.get(account) != messages:
                    self._told[account] = messages
                    facts = {"account": account or "(none)", "messages": messages, "spool": self.place.name}
                    words = "mail stays in the spool: there is no account of this name that delivers it"
                    self._logger.warning(words, extra={"facts": facts})


async def _let_go(store: Store) -> None:
    # Also when we are cancelled: a lock that stayed ours would keep this process itself from opening the file again.
    with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
        await store.aclose()
