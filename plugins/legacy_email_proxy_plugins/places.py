"""The places at a backend: how many connections may be in use at once, and which waiting client gets the next one.

No client address gets all places: at least a quarter of them, and at least one, stay for others. Otherwise one device
that leaves its transactions open, or one that reads its mail an octet at a time, would lock out all other clients.
Waiting clients are served in the order in which they came; an address that has its full share is passed over. The
address ``""`` has no limit: a caller that uses it (such as the spool) shares its places out among its clients itself.

Many addresses together could still take all places and be slow. Two things help against that:

* A caller can say that it will keep a place for *long*: until a client has read a large message. All such callers
  together leave a quarter of the places to those that need one for a moment only.
* Where places are short, the slowest client goes first. A caller whose client decides how long it takes shows itself
  with :meth:`Places.watch`. When somebody has waited for ``WAIT_SECONDS``, the slowest :class:`Holder` has to give up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Protocol

from legacy_email_proxy.contracts import Figure

__all__ = ("Holder", "Places", "connection_figures")

WAIT_SECONDS = 3.0
"""So long a client waits for a place before a slow one has to give its place up, and so long again for the next one."""

FAIR_SECONDS = 10.0
FAIR_OCTETS_PER_SECOND = 16_384
"""Nobody has to give up within the first of these, or while its octets per second are on average this many or more."""


def connection_figures(in_use: int, idle: int, waiting: int) -> list[Figure]:
    """Figures of a pool: its connections, and how many wait for one."""
    states = {"in_use": in_use, "idle": idle, "waiting": waiting}
    return [Figure("backend_connections", count, {"state": state}) for state, count in states.items()]


class Holder(Protocol):
    """Somebody who has a place for as long as its client takes to read or to send."""

    @property
    def octets(self) -> int:
        """How many octets the client has read or sent so far; not fewer than it really has."""

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client that takes the time now, and not the backend."""

    def give_up(self, reason: str) -> None:
        """End what is going on, so that the place gets free; ``reason`` is for the log."""


class Places:
    """``most`` places, for one event loop. After a change of ``most``, call :meth:`serve`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: dict[asyncio.Future[None], tuple[str, bool]] = {}
        """Address and ``long`` of those that wait, in order of arrival. Each stays here until its task has noticed its
        turn."""
        self._taken: Counter[str] = Counter()
        """Taken places by address; a place counts as taken as soon as it is given to a waiting task."""
        self.taken = 0
        """How many places are taken, by all addresses together."""
        self._long = 0
        """How many of them are taken for long."""
        self._watched: dict[Holder, tuple[str, float]] = {}
        """The address of each, and since when it has been watched."""

    @property
    def waiting(self) -> int:
        """How many tasks wait for a place."""
        return len(self._waiting)

    @property
    def _share(self) -> int:
        """How many places one address may have, and all those that keep theirs for long."""
        return max(1, self.most - max(1, -(-self.most // 4)))

    def has_room(self, address: str, *, long: bool = False) -> bool:
        """Whether this address would get a place at once."""
        return self.taken < self.most and self._may_take(address, long)

    def may_have_more(self, address: str) -> bool:
        """Whether this address has less than its share."""
        return not address or self._taken[address] < self._share

    def _may_take(self, address: str, long: bool) -> bool:
        return self.may_have_more(address) and not (long and self._long >= self._share)

    def words(self, address: str, *, long: bool = False) -> str:
        """For a log: how many places are in use, and which share is full, if one is."""
        words = f"{self.taken} of {self.most} are in use"
        if not self.may_have_more(address):
            words += f", and {address} has {self._taken[address]} of them, which is its share"
        elif not self._may_take(address, long):
            words += f", and {self._long} of them for large messages, which is their share"
        return words

    async def take(self, address: str, deadline: float, *, first: bool = False, long: bool = False) -> None:
        """Take a place; :meth:`give` gives it back. ``first``: before all that wait.

        Raises :class:`TimeoutError` if no place gets free before the loop's clock shows ``deadline``.
        """
        if self.has_room(address, long=long):
            self._take(address, long)
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        if first:
            self._waiting = {turn: (address, long), **self._waiting}
        else:
            self._waiting[turn] = address, long
        try:
            while not turn.done():
                left = deadline - loop.time()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait([turn], timeout=min(left, WAIT_SECONDS))
                if not turn.done():
                    self._end_slowest(address)
        except BaseException:
            if turn.done():
                self.give(address, long=long)
            raise
        finally:
            del self._waiting[turn]

    def give(self, address: str, *, long: bool = False) -> None:
        """Give back a place of this address."""
        self.taken -= 1
        self._long -= long
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]
        self.serve()

    def serve(self) -> None:
        """Give the free places to the waiting tasks."""
        for turn, (address, long) in self._waiting.items():
            if self.taken >= self.most:
                break
            if not turn.done() and self._may_take(address, long):
                self._take(address, long)
                turn.set_result(None)

    def _take(self, address: str, long: bool) -> None:
        self.taken += 1
        self._long += long
        self._taken[address] += 1

    # Slow clients

    def watch(self, holder: Holder, address: str) -> None:
        """Note a holder of a place: from now on, until :meth:`forget`, it may have to give up. Its time begins now."""
        self._watched[holder] = address, asyncio.get_running_loop().time()

    def forget(self, holder: Holder) -> None:
        """It has no place any more; again does nothing."""
        self._watched.pop(holder, None)

    def _end_slowest(self, address: str) -> None:
        """Let the slowest holder give up, for a client of ``address`` that waits."""
        now = asyncio.get_running_loop().time()
        # An address that has its full share gets a place only from a client of its own.
        only = "" if self.may_have_more(address) else address
        rates = {
            holder: holder.octets / seconds
            for holder, (of, since) in self._watched.items()
            if (seconds := now - since) >= FAIR_SECONDS and (of == only or not only) and holder.waits_for_client
        }
        if not rates:
            return
        slowest = min(rates, key=rates.__getitem__)
        if (rate := rates[slowest]) < FAIR_OCTETS_PER_SECOND:
            seconds = now - self._watched.pop(slowest)[1]
            slowest.give_up(
                f"others wait for a connection ({self.words(address)}), and this client was the slowest: "
                f"at most {rate:.0f} octets a second for {seconds:.0f} s"
            )
