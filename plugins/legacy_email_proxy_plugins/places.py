"""The places at a backend: how many connections may be in use at once, and which waiting client gets the next one.

No client address gets all places: at least a quarter of them, and at least one, stay for others. Otherwise one device
that leaves its transactions open, or one that reads its mail an octet at a time, would lock out all other clients.
Waiting clients are served in the order in which they came; an address that has its full share is passed over. The
address ``""`` has no limit: a caller that uses it (such as the spool) shares its places out among its clients itself.

Many addresses together could still take all places and be slow. Two things help against that:

* A caller can say that it will keep a place for *long*: until a client has read a large message. All such callers
  together leave a quarter of the places to those that need one for a moment only.
* Where places are short, the slowest client goes first. A caller whose client decides how long it takes is a
  :class:`Holder`, and shows itself with :meth:`Places.watch`. When somebody has waited for ``SOON_SECONDS``, the
  slowest holder that loses nothing by it steps aside: it gets a place again when its client goes on. If there is none,
  the slowest holder has to give up, and its client reads a temporary error. It has time before that: see
  ``FAIR_SECONDS``. An address whose client was slow comes after all others that wait, for ten seconds.

So a client that comes while others trickle gets a place within about a second, as long as their messages have hardly
begun or they have trickled for half a minute already. Otherwise it has to wait, because nobody can tell these from
honest slow devices:

* Clients that trickle in the middle of large messages, for less than half a minute: until the first of them has been
  slow for ten seconds, and three seconds at least.
* Clients that sent or read much at once and trickle since then: until their average is slow, or the deadline of their
  session ends them.
* Clients of more addresses than there are places, none of which was slow before: they came first.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from contextvars import copy_context
from functools import cache
from time import monotonic
from typing import ClassVar

from legacy_email_proxy.contracts import Figure

__all__ = ("Holder", "Places", "connection_figures")

SOON_SECONDS = 0.5
"""So long a client waits for a place before a holder whose client has let us wait as long steps aside for it, and so
long again before the next one does."""

WAIT_SECONDS = 3.0
"""So long a client waits for a place before a slow one has to give its place up."""

FAIR_SECONDS = 10.0
"""Nobody has to give up before we have waited for its client so long in all. A scanner may scan while it sends."""

LONG_SECONDS = 30.0
"""Whoever has let us wait for so long has to give up without ``WAIT_SECONDS``."""

SET_BACK_SECONDS = 10.0
"""So long an address whose client was slow comes after the others that wait."""


def connection_figures(in_use: int, idle: int, waiting: int) -> list[Figure]:
    """Figures of a pool: its connections, and how many wait for one."""
    states = {"in_use": in_use, "idle": idle, "waiting": waiting}
    return [Figure("backend_connections", count, {"state": state}) for state, count in states.items()]


class Holder(ABC):
    """Somebody who has a place for as long as its client takes to read or to send.

    It counts the client's octets, and the seconds in which we waited for the client. What the backend needs is not
    counted: the client could not go on meanwhile.
    """

    fair_octets_per_second: ClassVar[float]
    """A client that is as fast as this, on average, never has to give up."""

    def __init__(self) -> None:
        self.octets = 0
        """How many octets the client has read or sent so far; not fewer than it really has."""
        self.context = copy_context()
        """The task's context: what is logged about this client belongs to its session."""
        self._seconds = 0.0
        self._waiting_since: float | None = None

    def wait_for_client(self) -> None:
        """From now on it is the client's turn."""
        if self._waiting_since is None:
            self._waiting_since = monotonic()

    def client_went_on(self) -> None:
        """The client has read or sent something: it is our turn, or the backend's."""
        if self._waiting_since is not None:
            self._seconds += monotonic() - self._waiting_since
            self._waiting_since = None

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client that takes the time now, and not the backend."""
        return self._waiting_since is not None

    @property
    def seconds(self) -> float:
        """For how long we have waited for the client, in all."""
        since = self._waiting_since
        return self._seconds + (0.0 if since is None else monotonic() - since)

    @property
    def rate(self) -> float:
        """The client's octets per second."""
        return self.octets / max(self.seconds, 0.001)

    @property
    def may_step_aside(self) -> bool:
        """Whether :meth:`step_aside` can be called: the client would lose nothing."""
        return False

    def step_aside(self) -> None:
        """Give the place back, and take one again when the client goes on."""
        raise NotImplementedError

    @abstractmethod
    def give_up(self, reason: str) -> None:
        """End what is going on, so that the place gets free; ``reason`` is for the log."""


@cache
def _share(most: int) -> int:
    """Of so many places, how many one address may have, and all those that keep theirs for long."""
    return max(1, most - max(1, -(-most // 4)))


class Places:
    """``most`` places, for one event loop. After a change of ``most``, call :meth:`serve`."""

    def __init__(self, most: int, logger: logging.Logger) -> None:
        self.most = most
        self._logger = logger
        self._waiting: dict[asyncio.Future[None], tuple[str, bool]] = {}
        """Address and ``long`` of those that wait, in order of arrival. Each stays here until its task has noticed its
        turn."""
        self._taken: dict[str, int] = {}
        """Taken places by address; a place counts as taken as soon as it is given to a waiting task."""
        self.taken = 0
        """How many places are taken, by all addresses together."""
        self._long = 0
        """How many of them are taken for long."""
        self._watched: dict[Holder, str] = {}
        """The address of each."""
        self._set_back: dict[str, float] = {}
        """Addresses whose client was slow, and until when they come after the others."""

    @property
    def waiting(self) -> int:
        """How many tasks wait for a place."""
        return len(self._waiting)

    def may_have_more(self, address: str) -> bool:
        """Whether this address has less than its share."""
        return not address or self._taken.get(address, 0) < _share(self.most)

    def _may_take(self, address: str, long: bool) -> bool:
        return self.may_have_more(address) and not (long and self._long >= _share(self.most))

    def words(self, address: str, *, long: bool = False) -> str:
        """For a log: how many places are in use, and which share is full, if one is."""
        words = f"{self.taken} of {self.most} are in use"
        if not self.may_have_more(address):
            words += f", and {address} has {self._taken[address]} of them, which is its share"
        elif not self._may_take(address, long):
            words += f", and {self._long} of them for large messages, which is their share"
        return words

    def take_at_once(self, address: str, *, long: bool = False) -> bool:
        """Take a place if this address can have one without waiting; :meth:`give` gives it back."""
        if self.taken >= self.most or not self._may_take(address, long):
            return False
        self._take(address, long)
        return True

    async def take(self, address: str, deadline: float, *, first: bool = False, long: bool = False) -> None:
        """Take a place; :meth:`give` gives it back. ``first``: before all that wait.

        Raises :class:`TimeoutError` if no place gets free before the loop's clock shows ``deadline``.
        """
        if self.take_at_once(address, long=long):
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
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
                await asyncio.wait([turn], timeout=min(left, SOON_SECONDS))
                if not turn.done():
                    self._end_slowest(address, loop.time() - began)
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
        left = self._taken[address] - 1
        if left:
            self._taken[address] = left
        else:
            del self._taken[address]
        if self._waiting:
            self.serve()

    def serve(self) -> None:
        """Give the free places to the waiting tasks, those of addresses that were slow last."""
        now = monotonic()
        self._set_back = {address: until for address, until in self._set_back.items() if until > now}
        for late in (False, True) if self._set_back else (False,):
            for turn, (address, long) in self._waiting.items():
                if self.taken >= self.most:
                    return
                if (address in self._set_back) == late and not turn.done() and self._may_take(address, long):
                    self._take(address, long)
                    turn.set_result(None)

    def _take(self, address: str, long: bool) -> None:
        self.taken += 1
        self._long += long
        self._taken[address] = self._taken.get(address, 0) + 1

    # Slow clients

    def watch(self, holder: Holder, address: str) -> None:
        """Note a holder of a place: from now on, until :meth:`forget`, it may have to give up."""
        self._watched[holder] = address

    def forget(self, holder: Holder) -> None:
        """It has no place any more; again does nothing."""
        self._watched.pop(holder, None)

    def _end_slowest(self, address: str, waited: float) -> None:
        """Get a place from the slowest holder, for a client of ``address`` that has ``waited`` so long."""
        # An address that has its full share gets a place only from a client of its own.
        only = "" if self.may_have_more(address) else address
        slow = [
            holder
            for holder, of in self._watched.items()
            if holder.waits_for_client
            and holder.seconds >= SOON_SECONDS
            and holder.rate < holder.fair_octets_per_second
            and (of == only or not only)
        ]
        harmless = [holder for holder in slow if holder.may_step_aside]
        least = FAIR_SECONDS if waited >= WAIT_SECONDS else LONG_SECONDS
        ending = harmless or [holder for holder in slow if holder.seconds >= least]
        if not ending:
            return
        slowest = min(ending, key=lambda holder: (holder.rate, -holder.seconds))
        client = self._watched.pop(slowest)
        self._set_back[client] = monotonic() + SET_BACK_SECONDS
        if harmless:
            slowest.context.run(self._logger.debug, "others wait: the connection of this slow device is lent to them")
            slowest.step_aside()
            return
        reason = (
            f"others wait for a connection ({self.words(address)}), and this client was the slowest: "
            f"{slowest.octets} octets in {slowest.seconds:.0f} s"
        )
        slowest.give_up(reason)
        facts = {"client": client, "reason": reason}
        slowest.context.run(self._logger.warning, "connection taken from a slow device", extra={"facts": facts})
